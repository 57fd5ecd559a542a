import itertools
import math

import numpy as np
import pytest

from backbones.config import ClipConfig, MultigridConfig, TrainingConfig
from backbones.multigrid import (
    Phase,
    Shape,
    check,
    epoch_batches,
    num_epochs,
    phase_of,
    schedule,
    step_shapes,
    table,
)
from backbones.rates import learning_rate, warmup_steps
from recognition.common.command_line import InputError

# Epochs at which the rate falls, and the last: recipes of data sets, short and long.
RECIPES = [
    ([40, 60, 75, 90], 120),
    ([40, 70, 95], 130),
    ([25, 50, 70], 110),
    ([15, 30, 40], 100),
    ([15, 30, 40], 50),
    ([20, 30, 40], 45),
    ([94, 154, 196], 239),
]
FULL = [(16, 8, 8), (8, 4, 4), (8, 4, 2), (4, 2, 1)]  # clips of short cycles over B, in the order of the long cycle
LONG = [(32, 16, 8), (16, 8, 4), (8, 4, 2), (4, 2, 1)]


def phases_of(rate_steps=(94, 154, 196), n_epochs=239, clip=(32, 224), batch_size=64, **multigrid) -> list[Phase]:
    training = TrainingConfig(
        schedule="steps", rate_steps=list(rate_steps), n_epochs=n_epochs, batch_size=batch_size, learning_rate=0.1
    )
    return schedule(MultigridConfig(**multigrid), training, ClipConfig(frames=clip[0], side=clip[1]))


def steps_a_clip(phases: list[Phase]) -> float:
    """Steps of a training over the number of its items."""
    return sum((p.end_epoch - p.first_epoch) / np.mean([shape.clips for shape in p.shapes]) for p in phases)


def test_long_and_short_cycles_end_at_the_epochs_that_pyslowfast_prints():
    # What users of its SlowFast 8 x 8 for Kinetics report (issue 231 of facebookresearch/SlowFast), to its last phase.
    phases = phases_of(long=True, short=True)
    ends = [phase.end_epoch for phase in phases]
    assert ends == [73, 110, 142, 158, 205, 228, 248, 259, 291, 308, 322, 329, 343, 358]
    shapes = [(p.clips // 64, p.frames, p.side) for p in phases[:4]]
    assert shapes == [(8, 8, 158), (4, 16, 158), (2, 16, 224), (1, 32, 224)]
    assert num_epochs(phases) == 358


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize(("rate_steps", "n_epochs"), RECIPES)
def test_phases_follow_one_another_and_train_so_many_times_as_long(rate_steps: list, n_epochs: int, short: bool):
    phases = phases_of(rate_steps, n_epochs, long=True, short=short, epoch_factor=2.0)
    assert [p.first_epoch for p in phases] == [0, *(p.end_epoch for p in phases[:-1])]
    assert num_epochs(phases) == 2 * n_epochs
    assert len(phases) == 4 * len(rate_steps) + 2


def test_every_shape_of_a_stage_has_as_many_steps():
    phases = phases_of([1000], 1500, long=True, short=True)
    steps = [steps_a_clip([phase]) for phase in phases[:4]]
    np.testing.assert_allclose(steps, np.mean(steps), rtol=5e-3)  # epochs are whole


@pytest.mark.parametrize("batch_size", [8, 48])
@pytest.mark.parametrize(("short_of", "times", "smallest"), [("full", FULL, 112), ("long", LONG, 79)])
def test_batches_of_short_cycles_are_those_of_both_readings(short_of: str, times: list, smallest: int, batch_size: int):
    phases = phases_of(batch_size=batch_size, long=True, short=True, short_of=short_of)[:4]
    assert [tuple(shape.clips / batch_size for shape in p.shapes) for p in phases] == times
    middle = 158 if short_of == "full" else 112
    sides = [(smallest, middle, 158), (smallest, middle, 158), (112, 158, 224), (112, 158, 224)]
    assert [tuple(shape.side for shape in p.shapes) for p in phases] == sides
    assert all({shape.frames for shape in p.shapes} == {p.frames} for p in phases)


def test_rates_go_with_the_long_batch_and_fall_in_the_middle_of_the_last_stage():
    phases = phases_of(long=True, short=True)
    times = [8, 4, 2, 1, 0.8, 0.4, 0.2, 0.1, 0.08, 0.04, 0.02, 0.01, 0.01, 0.001]
    np.testing.assert_allclose([p.rate for p in phases], np.multiply(0.1, times), rtol=1e-12)
    *_, keeps, falls = phases
    assert (keeps.first_epoch, keeps.end_epoch, falls.end_epoch) == (329, 329 + (358 - 329) // 2, 358)
    assert keeps.shapes == falls.shapes == phases[3].shapes


def test_short_cycles_alone_stretch_the_steps_of_the_rate():
    phases = phases_of([25, 50, 70], 110, clip=(16, 112), batch_size=8, short=True)
    assert [p.end_epoch for p in phases] == [37, 75, 105, 165]  # cut to whole epochs
    np.testing.assert_allclose([p.rate for p in phases], [0.1, 0.01, 1e-3, 1e-4], rtol=1e-12)
    assert {p.shapes for p in phases} == {(Shape(32, 16, 56), Shape(16, 16, 79), Shape(8, 16, 112))}


def test_long_cycles_alone_have_one_shape_a_phase():
    phases = phases_of(long=True)
    assert all(len(p.shapes) == 1 for p in phases)
    assert [p.clips for p in phases[:4]] == [512, 256, 128, 64]


def test_without_cycles_all_epochs_are_one_phase_whatever_the_schedule():
    training = TrainingConfig(n_epochs=7, batch_size=4, learning_rate=0.3)
    [phase] = schedule(MultigridConfig(), training, ClipConfig(frames=5, side=20))
    assert phase == Phase(0, 7, 0.3, (Shape(4, 5, 20),))


@pytest.mark.parametrize(
    ("cycles", "saving", "smallest"),
    [({"long": True, "short": True}, 5.75, 7 / 3), ({"long": True}, 3.75, 1), ({"short": True}, 7 / 3, 7 / 3)],
)
@pytest.mark.parametrize(("rate_steps", "n_epochs"), RECIPES)
def test_multigrid_needs_so_many_of_the_steps(
    rate_steps: list, n_epochs: int, cycles: dict, saving: float, smallest: float
):
    phases = phases_of(rate_steps, n_epochs, clip=(16, 112), **cycles)
    share = steps_a_clip(phases) * 64 / n_epochs
    early = rate_steps[-1] / n_epochs if "long" in cycles else 1
    assert share == pytest.approx(1.5 / (early * saving + (1 - early) * smallest), rel=0.03)  # epochs are whole
    # A third with both, rarely more than two thirds otherwise: the more, the more epochs lie after the last step.
    assert share < (0.41 if len(cycles) == 2 else 0.72)


def test_a_short_training_leaves_out_phases_of_no_epoch():
    phases = phases_of([2], 3, long=True, short=True)
    assert all(p.end_epoch > p.first_epoch for p in phases)
    assert num_epochs(phases) == round(4.5)


def test_an_epoch_of_a_thousand_clips_is_cut_by_the_cycle_of_batch_sizes():
    first, *_, last = phases_of(batch_size=8, long=True, short=True)
    assert [shape.clips for shape in step_shapes(1000, first)] == [128, 64, 64] * 3 + [128, 64]
    assert [shape.clips for shape in step_shapes(1000, last)] == [32, 16, 8] * 17 + [32, 16]
    assert step_shapes(5, last) == []


def test_every_item_comes_once_an_epoch_but_for_the_rest():
    phase = phases_of(batch_size=8, long=True, short=True)[0]
    batches = epoch_batches(1000, phase, seed=3, epoch=5)
    items = np.concatenate([batch.items for batch in batches])
    assert len(items) == len(set(items.tolist())) == 960
    assert [(len(b.items), b.frames, b.side) for b in batches] == step_shapes(1000, phase)
    again, other = epoch_batches(1000, phase, 3, 5), epoch_batches(1000, phase, 3, 6)
    assert all((a.items == b.items).all() for a, b in zip(batches, again, strict=True))
    assert (batches[0].items != other[0].items).any()


def test_parts_of_a_norm_stay_the_same_over_a_short_cycle():
    phases = phases_of(batch_size=64, long=True, short=True)
    assert [p.num_splits(4, 8) for p in phases[:4]] == [16, 8, 4, 2]
    assert phases[3].num_splits(16, 8) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"rate_steps": (5, 10), "n_epochs": 10, "short": True},
            "training.rate_steps: .*10 of 10 epochs; set training",
        ),
        ({"epoch_factor": 0.004, "short": True}, "multigrid.epoch_factor: 0.004 of 239 epochs is none; set more"),
        ({"clip": (7, 112), "long": True}, "clip.frames: multigrid.long .* quarter of 7.*set 8 or more"),
        (
            {"clip": (8, 40), "long": True, "short": True, "short_of": "long"},
            "clip.side: multigrid shrinks 40 to 14 pixels",
        ),
        ({"clip": (8, 30), "short": True}, "clip.side: multigrid shrinks 30 to 15 pixels"),
    ],
)
def test_settings_without_a_schedule_are_refused_in_one_line(changes: dict, said: str):
    with pytest.raises(InputError, match=said):
        phases_of(**changes)


def test_cycles_without_steps_of_the_rate_are_refused():
    with pytest.raises(InputError, match=r"training\.schedule: .*set it to steps"):
        schedule(MultigridConfig(long=True), TrainingConfig(), ClipConfig())


def test_a_batch_of_more_clips_than_there_are_is_refused_at_the_start():
    phases = phases_of(batch_size=8, long=True, short=True)
    check(phases, 128)
    with pytest.raises(
        InputError, match=r"8, 16 times as many .* 127 items .* smaller training.batch_size, or .*long: f"
    ):
        check(phases, 127)
    with pytest.raises(InputError, match=r"batch_size: 8, but there are 7 items"):
        check(phases_of(batch_size=8), 7)
    with pytest.raises(InputError, match="cannot be shared evenly by 3 processes"):
        check(phases, 1000, num_processes=3)


def test_table_has_a_line_for_each_phase():
    phases = phases_of(long=True, short=True)
    lines = table(phases).splitlines()
    assert len(lines) == 1 + len(phases)
    assert lines[1].split("  ")[-1] == "1024 x 8 x 112, 512 x 8 x 158, 512 x 8 x 158"
    assert lines[-1].split()[:2] == ["344-358", "0.0001"]


def test_rates_rise_by_steps_and_then_stay_or_fall_on_a_cosine():
    ends = [5, 10, 15, 20]
    warm = TrainingConfig(learning_rate=2.0, warmup_epochs=0.8, schedule="constant", n_epochs=4)
    assert [learning_rate(k, ends, warm) for k in (0, 1, 3, 4, 19)] == [0.5, 1.0, 2.0, 2.0, 2.0]
    cosine = warm.model_copy(update={"schedule": "cosine"})
    assert learning_rate(4, ends, cosine) == 2.0
    assert learning_rate(12, ends, cosine) == pytest.approx(1.0)
    assert learning_rate(19, ends, cosine) == pytest.approx(1 + math.cos(math.pi * 15 / 16))


def test_rates_fall_after_the_epochs_that_are_named():
    ends = [3, 6, 9, 12]
    config = TrainingConfig(learning_rate=1.0, warmup_epochs=0, schedule="steps", rate_steps=[1, 3], rate_factor=0.5)
    assert [learning_rate(k, ends, config) for k in (0, 2, 3, 8, 9, 11)] == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_rates_of_multigrid_are_those_of_its_table_after_the_warmup():
    phases = phases_of([6, 9], 12, batch_size=8, long=True, short=True)
    config = TrainingConfig(schedule="steps", rate_steps=[6, 9], learning_rate=0.1, warmup_epochs=2)
    steps = [len(step_shapes(1000, phase_of(phases, epoch))) for epoch in range(num_epochs(phases))]
    ends = list(itertools.accumulate(steps))
    last = [learning_rate(end - 1, ends, config, phases) for end in ends]
    assert last == [phase_of(phases, 0).rate / 2, *(phase_of(phases, epoch).rate for epoch in range(1, len(ends)))]
    assert learning_rate(0, ends, config, phases) == phases[0].rate / ends[1]


def test_warmup_counts_the_steps_of_its_epochs_though_they_differ():
    assert [warmup_steps([10, 14, 20], epochs) for epochs in (0, 0.5, 1, 1.5, 2, 3, 9)] == [0, 5, 10, 12, 14, 20, 20]
