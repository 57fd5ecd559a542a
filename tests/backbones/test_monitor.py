import io

import pytest
import torch

from backbones import monitor as monitoring
from backbones.monitor import GREEN, MEASURED_EVERY, RED, YELLOW, Monitor, PeakMemory
from backbones.multigrid import Shape

SHAPE = Shape(32, 4, 80)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Time:
    """A clock that goes when it is told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds


def train(monitor: Monitor, clock: Time, steps: int, waits_s: float, forward_s: float = 0.1, rest_s: float = 0.3):
    """So many steps of 8 clips, each read in 10 ms."""

    def batches():
        for number in range(steps):
            clock.passes(waits_s)
            monitor.made(8, 0.08)
            yield number

    for _ in monitor.watched(batches()):
        with monitor.forward(8):
            clock.passes(forward_s)
        clock.passes(rest_s)


def test_reading_is_measured_in_the_workers_and_the_passes_on_the_device():
    clock = Time()
    monitor = Monitor(2, clock=clock)
    train(monitor, clock, MEASURED_EVERY + 1, waits_s=0.1)
    found = monitor.rates()
    assert found["r"] == pytest.approx(200)  # 100 a worker, however long the training takes
    assert found["f"] == pytest.approx(80)
    assert found["b"] == pytest.approx(8 / 0.3)
    assert found["wait"] == pytest.approx(0.2)


def test_a_slow_reader_is_waited_for_and_data_at_hand_are_not():
    for waits_s, least, most in ((1.0, 0.5, 1.0), (0.001, 0.0, 0.1)):
        clock = Time()
        monitor = Monitor(1, clock=clock)
        train(monitor, clock, 5, waits_s)
        assert least < monitor.rates()["wait"] < most


def test_the_device_is_waited_for_on_one_step_in_many(monkeypatch: pytest.MonkeyPatch):
    clock, times = Time(), []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: times.append(clock.now))
    monitor = Monitor(1, torch.device("cuda", 0), clock=clock)
    train(monitor, clock, 2 * MEASURED_EVERY, waits_s=0.0)
    assert len(times) == 2 * 3  # before and after the forward pass, and at the end of the step


def test_steps_count_on_over_epochs(monkeypatch: pytest.MonkeyPatch):
    clock = Time()
    monitor = Monitor(1, clock=clock)
    for _ in range(3):
        train(monitor, clock, 7, waits_s=0.0)
    assert monitor._interval.clips["f"] == 2 * 8  # steps 0 and 20


def test_a_line_tells_batch_and_rate_and_begins_anew():
    clock, stream = Time(), io.StringIO()
    monitor = Monitor(1, stream=stream, clock=clock)
    train(monitor, clock, 1, waits_s=0.1)
    monitor.tell(SHAPE, 0.1)
    expected = "r 100 clips/s, f 80 clips/s, b 27 clips/s, wait 20%, batch (32, 3, 4, 80, 80), rate 1.00e-01\n"
    assert stream.getvalue() == expected
    clock.passes(1)
    assert monitor.rates() == {"wait": 0}
    assert monitor.line(SHAPE, 0.1) == "wait 0%, batch (32, 3, 4, 80, 80), rate 1.00e-01"


def test_colours_are_for_terminals_alone():
    def line(stream: io.StringIO, seconds: float) -> str:
        monitor = Monitor(1, stream=stream)
        monitor.made(1000, seconds)
        return monitor.line(SHAPE, 0.1)

    for seconds, colour in ((100, RED), (1, YELLOW), (0.1, GREEN)):
        assert f"r {colour}" in line(Terminal(), seconds)
        assert "\033" not in line(io.StringIO(), seconds)


def test_limits_may_be_others():
    monitor = Monitor(1, limits={"r": (1, 2)}, stream=Terminal())
    monitor.made(10, 1)
    assert f"r {GREEN}10" in monitor.line(SHAPE, 0.1)


def test_a_stop_while_waiting_is_passed_on():
    def batches():
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        next(Monitor(1).watched(batches()))


def test_peak_memory_of_a_process_is_what_it_took_beyond_what_it_had_had(monkeypatch: pytest.MonkeyPatch):
    assert 1e6 < monitoring._high_water() < 1e12
    told = iter([1000, 1250])
    monkeypatch.setattr(monitoring, "_high_water", lambda: next(told))
    assert PeakMemory(torch.device("cpu")).bytes() == 250


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_peak_memory_of_a_gpu_is_what_was_allocated():
    device = torch.device("cuda")
    peak = PeakMemory(device)
    torch.empty(1 << 20, device=device)
    assert peak.bytes() >= 4 << 20
