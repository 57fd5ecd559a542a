"""Find the threshold with which a run makes so many false events an hour, and keep it with the run.

The run's validation films, in pieces no longer than the delay and in random order, are a stream in which nothing
returns. What is called old in one of them is an error.

Shapes: N frames of a piece, D features.
"""

import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recognition.common.command_line import ArgumentParser, InputError, number_between, one_line, whole_number

if TYPE_CHECKING:
    from recognition.streaming.checking.calibration import Calibration, Window
    from recognition.streaming.checking.made_streams import FilmsAtHand
    from recognition.streaming.memory import LiveMemory
    from recognition.streaming.trained import TrainedRun

LIVE_FILE = "live.json"


def add_arguments(parser: ArgumentParser) -> None:
    """The arguments of calibration; some are those of the check too."""
    group = parser.add_argument_group("find thresholds")
    group.add_argument(
        "--calibrate", action="store_true", help="find the thresholds of runs on their validation films, and keep them"
    )
    group.add_argument(
        "--false_events", type=number_between(0, 3600), default=6.0, metavar="N", help="an hour, that are put up with"
    )
    group.add_argument(
        "--hours",
        type=number_between(0.001, 1000),
        default=1.0,
        help="of stream to calibrate and to check on; less of few films",
    )
    group.add_argument("--seed", type=whole_number(), default=0, help="of the order of pieces, there and in the check")


def main(args: Namespace) -> None:
    """Calibrate all runs that can be, naming those that cannot."""
    num_done = 0
    rings: dict[str, Calibration] = {}
    for word in args.words:
        try:
            print(calibrate_run(Path(word), args, rings), flush=True)
            num_done += 1
        except InputError as error:
            if len(args.words) == 1:
                raise
            print(one_line(f"{word} is left out: {str(error).removeprefix(f'{word}: ')}"), file=sys.stderr)
    if not num_done:
        raise InputError(f"none of the {len(args.words)} runs can be calibrated, for the reasons above")


def calibrate_run(path: Path, args: Namespace, rings: dict[str, "Calibration"]) -> str:
    """Calibrate a run, keep what was found, and tell it in a line. Rings that others were found beside, by what they
    depend on, are not asked again.

    Raises InputError if there is nothing to calibrate on, or it cannot stream.
    """
    from recognition.streaming.checking.calibration import calibrate, write_calibration
    from recognition.streaming.memory import LiveMemory, MemoryRules
    from recognition.streaming.trained import open_trained
    from recognition.training.data import validation_note

    trained = open_trained(path, args.settings, args.device)
    stream = trained.stream(args.capacity, args.forget_after)
    films = validation_films(trained, args.fps)
    memory = LiveMemory(stream, trained.num_features, MemoryRules(args.delay, num_ring=args.ring))
    key = repr((films.index.video_ids, films.bank.digests, str(films.bank.folder.resolve()), films.subsample))
    drawn = pieces(films, args.delay, args.hours, args.seed)
    answers = list(answered(memory, films, drawn, asks_ring=key not in rings))
    try:
        found = calibrate([window for window, _ in answers], args.false_events)
        if key not in rings:
            rings[key] = calibrate([window for _, window in answers], args.false_events)
    except ValueError as error:
        raise InputError(f"{path}: {error}; its validation films, or --delay {args.delay:g}, are too short") from None
    digests = trained.live_digests(args.delay, args.fps or trained.fps or films.fps)
    write_calibration(path / LIVE_FILE, found, digests, rings[key])
    return "; ".join(filter(None, (told(path.name, found, rings[key]), validation_note(trained.config.dataset))))


def told(name: str, found: "Calibration", ring: "Calibration") -> str:
    """What was found, in a line."""
    return (
        f"{name}: old above {found.threshold:.4g} for {found.false_events_per_hour:g} false events an hour, the plain "
        f"ring above {ring.threshold:.6g}; found on {found.num_windows} windows in which nothing returns, "
        f"{found.hours:.2f} h, where fewer than {found.fewest_per_hour:.2g} an hour cannot be told from none"
    )


def validation_films(trained: "TrainedRun", fps: float | None) -> "FilmsAtHand":
    """The films of a run's validation episodes. Raises InputError where they are not at hand."""
    from recognition.streaming.checking.made_streams import open_films
    from recognition.training.data import open_split

    config = trained.config.dataset.model_copy(update={"bank": "mapped", "mmap": None})
    return open_films(open_split(config, "validation").index, config.video_path, fps or trained.fps)


def answered(
    memory: "LiveMemory", films: "FilmsAtHand", drawn: Iterable[tuple[int, np.ndarray]], asks_ring: bool
) -> Iterator[tuple["Window", "Window"]]:
    """What the model and what the ring answer to pieces that follow each other: a window of each."""
    from tqdm import tqdm

    from recognition.streaming.checking.asked import ask_all

    begins_s = 0.0
    for video, frames in tqdm(drawn, "calibrating", unit="piece", leave=False, disable=None):
        features = films.bank.gather(np.full(len(frames), video), frames).float().numpy()
        times_s = begins_s + np.arange(len(frames)) * films.subsample / films.rates[video]
        asked = ask_all(memory, features, times_s, asks_ring)
        yield (times_s, asked.model.logits), (times_s, asked.ring.logits)
        begins_s += len(frames) * films.subsample / films.rates[video]


def pieces(films: "FilmsAtHand", delay_s: float, hours: float, seed: int) -> list[tuple[int, np.ndarray]]:
    """Pieces of films, each with its film and its frames (N,), a delay long and, in a film, a delay apart: what lies
    closer often is one shot, which would return. In random order, as many as there are, or as `hours` hold."""
    found = []
    for video, num_frames in enumerate(films.bank.num_frames.tolist()):
        frames, rate = np.arange(0, num_frames, films.subsample), films.rates[video] / films.subsample
        size = max(1, int(delay_s * rate + 1e-6))
        starts = range(0, max(1, len(frames) - size + 1), 2 * size)
        found += [(video, frames[start : start + size]) for start in starts]
    order = np.random.default_rng((seed, 1)).permutation(len(found))
    lengths_s = np.array([len(frames) * films.subsample / films.rates[video] for video, frames in found])
    num_kept = int(np.searchsorted(np.cumsum(lengths_s[order]), 3600 * hours - 1e-6)) + 1
    return [found[number] for number in order[:num_kept].tolist()]
