"""The threshold that gives so many false events an hour, from a stream in which nothing returns.

Such a stream is cut into windows of a few seconds, each a piece of another film: what is called old in one is an error.
Each window has a level, the lowest threshold with which it holds no event. Their quantile is the threshold.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from recognition.common.command_line import InputError
from recognition.common.files import is_there, read_whole, written_whole
from recognition.streaming.answers import Numbers
from recognition.streaming.events import EventRules, Events

HOUR_S = 3600
HYSTERESIS = 0.1  # of the spread between the threshold and the height
HEIGHT = 0.999  # the quantile of all logits that is called so
MARGIN = 1e-9  # more than rounding does to a level

Window = tuple[Numbers, Numbers]  # times in seconds and logits of a piece, frame by frame


@dataclass(frozen=True)
class Calibration:
    """What was found.

    Attributes:
        threshold: for EventRules, with closing.
        closing: below the threshold by a tenth of its distance from the 99.9th percentile of all logits.
        false_events_per_hour: what was asked for.
        num_windows, hours: what it was found on.
        fewest_per_hour: fewer false events an hour than this cannot be told from none on so few windows: the threshold
            is the level of the highest window where fewer were asked for.
    """

    threshold: float
    closing: float
    false_events_per_hour: float
    num_windows: int
    hours: float
    fewest_per_hour: float

    def rules(self, rules: EventRules | None = None) -> EventRules:
        """The rules, or those that are usual, with this threshold."""
        return replace(rules or EventRules(), threshold=self.threshold, closing=self.closing)


def calibrate(
    windows: Iterable[Window], false_events_per_hour: float = 6.0, rules: EventRules | None = None
) -> Calibration:
    """The threshold with which a stream like these windows is expected to hold so many events an hour.

    Of N windows' levels and one more from the same stream, each is equally likely to be the k-th largest: the chance
    that a new window exceeds the k-th largest of N is k / (N + 1). That is set to the chance of at least one event in
    a window, were they to come by chance alone. The stretch of a window is its number of frames times the usual time
    between them.

    Raises ValueError if there is no window, or none in which there could be an event.
    """
    pieces = [(np.asarray(times, float), np.asarray(logits, float)) for times, logits in windows]
    pieces = [(times, logits) for times, logits in pieces if len(times) > 1]
    if not pieces:
        raise ValueError("nothing to calibrate on: no piece has two frames")
    if not false_events_per_hour >= 0:
        raise ValueError(f"false events an hour must be at least 0, found {false_events_per_hour:g}")
    height = float(np.quantile(np.concatenate([logits for _, logits in pieces]), HEIGHT))
    levels = np.array([event_level(window, height, rules or EventRules()) for window in pieces])
    if levels.max() == -math.inf:
        raise ValueError("nothing to calibrate on: the pieces are too short for an event")
    hours = sum(len(times) * float(np.median(np.diff(times))) for times, _ in pieces) / HOUR_S
    num_windows, window_hours = len(pieces), hours / len(pieces)
    chance = -math.expm1(-false_events_per_hour * window_hours)
    threshold = _exceeded_with(levels, chance)
    fewest = -math.log1p(-1 / (num_windows + 1)) / window_hours
    closing = closing_of(threshold, height)
    return Calibration(threshold, closing, false_events_per_hour, num_windows, hours, fewest)


def closing_of(threshold: float, height: float) -> float:
    """What answers must exceed to keep an event open, `height` being the 99.9th percentile of all in calibration. It
    may lie on either side of the threshold."""
    return threshold - HYSTERESIS * abs(threshold - height)


def event_level(window: Window, height: float, rules: EventRules) -> float:
    """The lowest threshold with which a window holds no event, to within a billionth; any lower one finds one. -inf if
    none does.

    It is one of the logits, or the threshold whose closing level is one of them. Found by halving, as a lower threshold
    leaves all events that there were, or makes them longer.
    """
    logits = np.asarray(window[1], float)
    margin = MARGIN * max(1.0, float(np.abs(logits).max()))
    levels = np.unique(np.concatenate([logits, _threshold_of(logits, height) + margin]))
    low, high = 0, len(levels)  # the number of levels that are low enough for an event
    while low < high:
        middle = (low + high + 1) // 2
        threshold = float(levels[middle - 1]) - 2 * margin
        if _has_event(window, replace(rules, threshold=threshold, closing=closing_of(threshold, height))):
            low = middle
        else:
            high = middle - 1
    return float(levels[low - 1]) if low else -math.inf


def _threshold_of(closing: np.ndarray, height: float) -> np.ndarray:
    """The thresholds with these closing levels."""
    sign = np.where(closing > height, 1, -1)
    return (closing - sign * HYSTERESIS * height) / (1 - sign * HYSTERESIS)


def write_calibration(
    path: Path, calibration: Calibration, digests: Mapping[str, str], ring: Calibration | None = None
) -> None:
    """Keep what was found in live.json, with the digests of what it was found with; also of the plain ring on the same
    windows, if it was."""
    with written_whole(path) as part:
        told = {**asdict(calibration), "ring": ring and asdict(ring), "digests": dict(digests)}
        part.write_text(json.dumps(told, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_calibration(path: Path, digests: Mapping[str, str], of_ring: bool = False) -> Calibration | None:
    """What `write_calibration` kept, of the model or of the ring; None if there is nothing. Raises InputError if it was
    found with other things than those of `digests`, or is no such file."""
    if not is_there(path):
        return None
    try:
        found = json.loads(read_whole(path).read().decode("utf-8"))
        kept = found.pop("digests")
        if of_ring and (found := found.get("ring")) is None:
            return None
        calibration = Calibration(**{name: found.pop(name) for name in Calibration.__annotations__})
        calibration.rules()
        others = [name for name in digests if kept.get(name) != digests[name]]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: no calibration ({' '.join(str(error).split())}); calibrate anew") from None
    if others:
        raise InputError(f"{path}: was calibrated with other {' and '.join(others)}; calibrate anew")
    return calibration


def _exceeded_with(levels: np.ndarray, chance: float) -> float:
    """What a new level exceeds with this chance: between the two levels next to it, the highest at least."""
    falling = np.sort(levels[np.isfinite(levels)])[::-1]
    place = chance * (len(levels) + 1) - 1  # 0 for the highest
    return float(np.interp(place, np.arange(len(falling)), falling))


def _has_event(window: Window, rules: EventRules) -> bool:
    events = Events(rules)
    for time_s, logit in zip(*window, strict=True):
        if events.add(float(time_s), float(logit)):
            return True
    return events.finish() is not None
