import io
import re

import pytest
import torch

from backbones import monitor as monitoring
from backbones.monitor import GREEN, MEASURED_EVERY, RED, YELLOW, Monitor, PeakMemory

SHAPE = (32, 3, 4, 80, 80)


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
            monitor.read(8, 0.08)
            yield number

    for _ in monitor.watched(batches()):
        with monitor.forward((8, *SHAPE[1:]), 0.1):
            clock.passes(forward_s)
        clock.passes(rest_s)


def told(monitor: Monitor, clock: Time, steps: int, waits_s: float) -> dict[str, float]:
    """The numbers of the one line of an epoch."""
    monitor.stream = io.StringIO()
    train(monitor, clock, steps, waits_s)
    [line] = monitor.stream.getvalue().splitlines()
    speeds = re.findall(r"\b([rfb]) ([\d,.]+) clips/s", line)
    wait = float(re.search(r"wait (\d+)%", line)[1]) / 100
    return {name: float(number.replace(",", "")) for name, number in speeds} | {"wait": wait}


def test_reading_is_measured_in_the_workers_and_the_passes_on_the_device():
    clock = Time()
    found = told(Monitor(2, clock=clock), clock, 10, waits_s=0.1)
    # A worker makes 100 a second, however long the training takes.
    assert found == {"r": 200, "f": 80, "b": 27, "wait": 0.2}


def test_a_slow_reader_is_waited_for_and_data_at_hand_are_not():
    clock = Time()
    assert told(Monitor(1, clock=clock), clock, 5, waits_s=1.0)["wait"] > 0.5
    assert told(Monitor(1, clock=clock), clock, 5, waits_s=0.001)["wait"] < 0.1


def test_what_lies_between_epochs_is_not_counted():
    clock = Time()
    monitor = Monitor(1, clock=clock)
    first = told(monitor, clock, 4, waits_s=0.1)  # the last step is measured
    clock.passes(1000)  # a validation
    assert told(monitor, clock, 4, waits_s=0.1) == first
    assert first.keys() == {"r", "f", "b", "wait"}


def test_the_device_is_waited_for_on_one_step_in_many(monkeypatch: pytest.MonkeyPatch):
    clock, times = Time(), []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: times.append(clock.now))
    monitor = Monitor(1, torch.device("cuda", 0), clock=clock, tells=False)
    train(monitor, clock, 2 * MEASURED_EVERY, waits_s=0.0)
    assert len(times) == 2 * 3  # before and after the forward pass, and at the end of the step


def test_the_first_steps_of_an_epoch_are_not_measured():
    clock = Time()
    monitor = Monitor(1, clock=clock)
    measured = ["f" in told(monitor, clock, steps, waits_s=0.0) for steps in (3, 4, 3, 4)]
    assert measured == [False, True, False, True]


def test_a_line_tells_batch_and_rate_every_minute_and_at_the_end_of_an_epoch():
    clock, stream = Time(), io.StringIO()
    monitor = Monitor(1, stream=stream, clock=clock)
    train(monitor, clock, 250, waits_s=0.1)  # half a second each
    first, _, third = stream.getvalue().splitlines()
    assert first == "r 100 clips/s, f 80 clips/s, b 27 clips/s, wait 20%, batch (8, 3, 4, 80, 80), rate 1.00e-01"
    assert third == first
    train(Monitor(1, stream=stream, clock=clock, tells=False), clock, 250, waits_s=0.1)
    assert len(stream.getvalue().splitlines()) == 3


def test_an_epoch_without_steps_has_no_line():
    clock, stream = Time(), io.StringIO()
    train(Monitor(1, stream=stream, clock=clock), clock, 0, waits_s=0.0)
    assert stream.getvalue() == ""


def test_colours_are_for_terminals_alone():
    def line(stream: io.StringIO, seconds: float) -> str:
        monitor = Monitor(1, stream=stream)
        monitor.read(1000, seconds)
        return monitor.line(SHAPE, 0.1)

    for seconds, colour in ((100, RED), (1, YELLOW), (0.1, GREEN)):
        assert f"r {colour}" in line(Terminal(), seconds)
        assert "\033" not in line(io.StringIO(), seconds)


def test_limits_may_be_others():
    monitor = Monitor(1, limits={"r": (1, 2)}, stream=Terminal())
    monitor.read(10, 1)
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
