"""The threshold gives as many false events an hour as were asked for, and is kept with what it was found with."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from recognition.common.command_line import InputError
from recognition.streaming.checking.calibration import (
    Calibration,
    calibrate,
    closing_of,
    event_level,
    read_calibration,
    write_calibration,
)
from recognition.streaming.events import EventRules, Events

WINDOW, RATE = 50, 10  # answers a window, and a second


def noise(num_windows: int, seed: int, smooth: float = 0.8) -> list[tuple[np.ndarray, np.ndarray]]:
    """Windows of logits of which each resembles the one before, as of frames of a film."""
    rng = np.random.default_rng(seed)
    draws = rng.standard_t(5, size=(num_windows, WINDOW))
    for k in range(1, WINDOW):
        draws[:, k] = smooth * draws[:, k - 1] + math.sqrt(1 - smooth**2) * draws[:, k]
    times = np.arange(WINDOW) / RATE
    return [(times, row) for row in draws]


def num_events(windows: list, rules: EventRules) -> list[int]:
    counts = []
    for window in windows:
        events = Events(rules)
        given_ = [events.add(*answer) for answer in zip(*window, strict=True)] + [events.finish()]
        counts.append(sum(event is not None for event in given_))
    return counts


def test_false_events_on_other_noise_are_within_the_binomial_interval_of_what_was_asked():
    per_hour, num_others = 60.0, 1500
    calibration = calibrate(noise(700, 0), per_hour)
    counts = num_events(noise(num_others, 1), calibration.rules())
    chance = per_hour * WINDOW / RATE / 3600
    # Both the calibration and the count are samples: the interval is that of a count of the smaller one, scaled.
    low, high = binom.interval(0.99, 700, chance)
    assert low / 700 <= np.mean(counts) <= high / 700


def test_quantiles_of_known_levels_are_exceeded_as_often_as_asked():
    found = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        # A window has one level: its logits all are that.
        windows = [(np.arange(5) / 5, np.full(5, level)) for level in rng.uniform(size=59)]
        found.append(1 - calibrate(windows, 360.0).threshold)  # an event in every tenth window
    assert np.mean(found) == pytest.approx(1 - math.exp(-0.1), abs=0.015)


@given(
    st.lists(st.integers(-5, 5), min_size=2, max_size=40),
    st.floats(-6, 6, allow_nan=False),
)
def test_level_of_a_window_is_where_its_events_end(logits: list[int], height: float):
    window = (np.arange(len(logits)) / RATE, np.array(logits, float))
    level = event_level(window, height, EventRules())
    for threshold in np.arange(-5.5, 6, 0.25):
        rules = EventRules(float(threshold), closing_of(float(threshold), height))
        if abs(threshold - level) > 1e-6:
            assert (num_events([window], rules) != [0]) == (threshold < level)
    # And at the level itself there is none.
    if level > -math.inf:
        assert num_events([window], EventRules(level, closing_of(level, height))) == [0]


def test_none_asked_for_gives_none_on_the_same_films():
    windows = noise(50, 3)
    calibration = calibrate(windows, 0.0)
    assert sum(num_events(windows, calibration.rules())) == 0
    assert sum(num_events(windows, EventRules(calibration.threshold - 1e-6, calibration.closing - 1e-6))) >= 1


def test_more_false_events_lower_the_threshold():
    thresholds = [calibrate(noise(60, 4), per_hour).threshold for per_hour in (0, 10, 60, 300, 1e9)]
    assert thresholds == sorted(thresholds, reverse=True)
    assert len(set(thresholds)) > 3


def test_too_few_films_for_what_is_asked_are_told():
    calibration = calibrate(noise(20, 5), 6.0)
    assert calibration.fewest_per_hour == pytest.approx(3600 / 5 / 20.5, rel=0.01)
    assert calibration.fewest_per_hour > calibration.false_events_per_hour
    assert calibration.threshold == calibrate(noise(20, 5), 0.0).threshold
    assert (calibration.num_windows, calibration.hours) == (20, pytest.approx(100 / 3600))


def test_closing_is_below_the_threshold_on_either_side_of_the_height():
    assert closing_of(2.0, 3.0) == pytest.approx(1.9)
    assert closing_of(3.0, 2.0) == pytest.approx(2.9)


@pytest.mark.parametrize("windows", [[], [([0.0], [1.0])], [([0.0, 0.1], [1.0, 1.0])] * 5])
def test_nothing_to_calibrate_on_is_refused(windows: list):
    with pytest.raises(ValueError, match="nothing to calibrate on"):
        calibrate(windows)


DIGESTS = {"weights": "a" * 64, "index": "b" * 64}
FOUND = Calibration(1.25, 1.125, 6.0, 60, 0.5, 1.0)


def test_a_calibration_is_read_back_with_the_same_digests_alone(tmp_path: Path):
    path = tmp_path / "live.json"
    assert read_calibration(path, DIGESTS) is None
    write_calibration(path, FOUND, DIGESTS)
    assert read_calibration(path, DIGESTS) == FOUND
    assert read_calibration(path, DIGESTS).rules() == EventRules(1.25, 1.125)
    with pytest.raises(InputError, match=r"live\.json: was calibrated with other weights; calibrate anew"):
        read_calibration(path, DIGESTS | {"weights": "c" * 64})


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"digests": 3}', "\xff", json.dumps(FOUND.__dict__ | {"digests": DIGESTS, "threshold": "x"})],
)
def test_what_is_no_calibration_is_refused(tmp_path: Path, text: str):
    (tmp_path / "live.json").write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=r"live\.json: no calibration \(.*\); calibrate anew"):
        read_calibration(tmp_path / "live.json", DIGESTS)
