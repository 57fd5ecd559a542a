"""How near made-up features (recognition/features/made_up.py) are to features of films.

  python -m benchmarks.made_up --features video-features [FOLDER ...]

prints a table with a column for each folder of feature files, one for as many made-up films of their median length, and
one for made-up films of full length: how the variance spreads over directions, how alike frames are within a shot,
within a film and between films, how large features are, and how well the nearest-frame control tells old probes from
new ones. The features may come from any network; recognition/features/made_up.py has the numbers to change.

Cosines are those of features less their mean, since the mean that all frames have in common makes them all alike;
in brackets those of the features themselves. The control has its threshold from other episodes on the same films.

With --batch it ends with the time and memory that a batch takes from 1,072 made-up films of 20,000 frames.
"""

import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.measure import peak_memory, take_turns
from recognition.common.command_line import ArgumentParser, InputError, path_or_word, run, whole_number
from recognition.episodes.dataset import EpisodeDataset
from recognition.episodes.drawing import Episodes, draw_episodes
from recognition.episodes.episode_spec import EpisodeSpec, TooFewFrames
from recognition.episodes.index_file import EpisodeIndex
from recognition.evaluation.controls import all_controls
from recognition.features.feature_bank import FeatureBank, find_header, read_all_shots
from recognition.features.feature_file import feature_files
from recognition.features.made_up import MadeUpFilms, is_made_up

LEAST_FRAMES = 30  # of a film; shorter ones are left out
NUM_DIRECTIONS = (1, 2, 4, 9, 16, 32)
LAGS = (1, 30, 150)  # frames
NUM_FRAMES, NUM_PAIRS = 6_000, 20_000  # that are looked at
CPU = torch.device("cpu")
# Of a folder the first of these lengths for which there is room, with the most clips for which there is.
LENGTHS = EpisodeSpec(clip_length=300, clip_margin=150), EpisodeSpec(clip_length=60, clip_margin=30)
NUMS_CLIPS = (90, 60, 40, 30, 20, 15, 10, 7, 5, 3, 2, 1)
FULL_SCALE, BATCH = "made-up:1072x20000", 16
PUBLISHED = [EpisodeSpec(num_clips=num, num_tests=num) for num in (10, 90)]


def main() -> None:
    args = parse_arguments()
    columns = {}
    for folder in args.features:
        films = Films(folder)
        specs = [spec] if (spec := films.most_clips()) else []
        columns[folder] = films.describe() | films.controls(specs, args.episodes)
        if not is_made_up(folder):
            name = f"made-up:{len(films.lengths)}x{int(np.median(films.lengths))}"
            like_it = Films(name)
            columns[name] = like_it.describe() | like_it.controls(specs, args.episodes)
    films = Films(args.made_up)
    columns[args.made_up] = films.describe() | films.controls(PUBLISHED, args.episodes)
    print("\n".join(table(columns)))
    if not args.batch:
        return
    print(f"\nA batch of {BATCH} published episodes from {FULL_SCALE}, made when it is gathered:")
    for device, num_threads in [("cpu", 1), ("cpu", 2)] + [("cuda", 1)] * torch.cuda.is_available():
        print(f"  {device}, {num_threads} thread{'s' * (num_threads > 1)}: {batch_cost(device, num_threads)}")


def parse_arguments() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument(
        "--features", nargs="*", type=path_or_word, default=[], metavar="FOLDER", help="folders with feature files"
    )
    parser.add_argument("--made_up", default="made-up:268x20000", help="the made-up films of full length")
    parser.add_argument(
        "--episodes", type=whole_number(2), default=64, help="for the control: so many to choose, as many to test"
    )
    parser.add_argument("--batch", action="store_true", help="measure time and memory of a batch at full scale, too")
    return parser.parse_args()


class Films:
    """The films of a folder, or made-up ones, with every frame's film and shot.

    Raises InputError if there is no such folder, if it holds no film of LEAST_FRAMES, or if no shots are known.
    """

    def __init__(self, folder: str):
        if not is_made_up(folder) and not Path(folder).is_dir():
            raise InputError(f"--features {folder}: no such folder")
        names = MadeUpFilms(folder).video_ids if is_made_up(folder) else [p.stem for p in feature_files(folder)]
        headers = {name: find_header(folder, name) for name in names}
        self.names = [name for name, header in headers.items() if header and header.num_frames >= LEAST_FRAMES]
        if not self.names:
            raise InputError(f"--features {folder}: holds no features of a film of {LEAST_FRAMES} frames or more")
        self.bank = FeatureBank(folder, self.names, place="mapped")
        self.lengths = self.bank.num_frames
        self.film = np.repeat(np.arange(len(self.names)), self.lengths)
        self.frame = np.concatenate([np.arange(length) for length in self.lengths])
        is_first = np.zeros(len(self.film), bool)
        starts = np.cumsum(self.lengths) - self.lengths
        for start, shots in zip(starts, read_all_shots(folder, self.names), strict=True):
            is_first[start + shots] = True
        self.shot = np.cumsum(is_first)

    def describe(self) -> dict[str, str]:
        """Each measure and what it came to."""
        num = len(self.film)
        some = self.features(np.linspace(0, num - 1, min(num, NUM_FRAMES)).astype(np.int64))
        mean, norms = some.mean(0), some.norm(dim=1)
        variances = torch.linalg.eigvalsh((some - mean).T @ (some - mean)).flip(0).clamp(min=0)
        shares = (variances.cumsum(0) / variances.sum()).tolist()
        rows = {
            "films, frames a film": f"{len(self.names)}, {np.median(self.lengths):.0f}",
            "frames a shot": f"{num / self.shot[-1]:.0f}",
        }
        rows |= {f"variance in the first {k}": f"{shares[k - 1]:.3f}" for k in NUM_DIRECTIONS if k <= len(shares)}
        rng = np.random.default_rng(0)
        for lag in LAGS:
            first = np.flatnonzero(self.shot[lag:] == self.shot[:-lag])
            rows[f"cosine in a shot, {lag} frames apart"] = self.cosines(drawn(first, rng), lag, mean)
        first = rng.integers(0, num, NUM_PAIRS)
        start = np.cumsum(self.lengths) - self.lengths
        second = start[self.film[first]] + rng.integers(0, self.lengths[self.film[first]])
        is_other = self.shot[first] != self.shot[second]
        rows["cosine of shots of a film"] = self.cosines(first[is_other], (second - first)[is_other], mean)
        second = rng.integers(0, num, NUM_PAIRS)
        is_other = self.film[first] != self.film[second]
        rows["cosine of films"] = self.cosines(first[is_other], (second - first)[is_other], mean)
        rows["norm, its deviation"] = f"{norms.mean():.1f}, {norms.std():.1f}"
        rows["share of zeros"] = f"{(some == 0).double().mean():.3f}"
        return rows

    def features(self, rows: np.ndarray) -> torch.Tensor:
        """Of frames by their places among all, (n, D) float64."""
        return self.bank.gather(self.film[rows], self.frame[rows]).double()

    def cosines(self, first: np.ndarray, apart: np.ndarray | int, mean: torch.Tensor) -> str:
        """Mean cosine of pairs of frames, less the mean of all, and as they are."""
        if not len(first):
            return "–"
        pairs = self.features(first), self.features(first + apart)
        centred = F.cosine_similarity(pairs[0] - mean, pairs[1] - mean).mean()
        return f"{centred:.3f} ({F.cosine_similarity(*pairs).mean():.4f})"

    def most_clips(self) -> EpisodeSpec | None:
        """The largest episodes for which there is room."""
        for lengths in LENGTHS:
            for num in NUMS_CLIPS:
                spec = replace(lengths, num_clips=num, num_tests=num)
                if self.draw(spec, 1, 0):
                    return spec
        return None

    def draw(self, spec: EpisodeSpec, num: int, seed: int) -> Episodes | None:
        """Episodes of these films, None if there is no room for them."""
        try:
            return draw_episodes(self.lengths, spec, num, (seed,))
        except TooFewFrames:
            return None

    def controls(self, specs: Sequence[EpisodeSpec], num: int) -> dict[str, str]:
        """What the nearest-frame control reaches in such episodes."""
        rows = {}
        for spec in specs:
            row = f"nearest frame, {spec.num_clips} clips of {spec.clip_length} frames"
            sets = [
                EpisodeDataset(
                    EpisodeIndex(Path(), episodes, self.names, self.lengths, spec), self.bank, spec.subsample
                )
                for seed in (1, 2)
                if (episodes := self.draw(spec, num, seed))
            ]
            if len(sets) == 2:
                scores = all_controls(sets[0], sets[1], CPU)["nearest_frame"]
                rows[row] = f"AUC {scores['auc']:.4f}, accuracy {scores['accuracy']:.3f}"
        return rows


def prepare_batch(device: str, num_threads: int) -> Callable[[], torch.Tensor]:
    """A function that gathers a batch from films at full scale."""
    torch.set_num_threads(num_threads)
    names = MadeUpFilms(FULL_SCALE).video_ids
    bank = FeatureBank(FULL_SCALE, names, None, "mapped", torch.device(device))
    episodes = draw_episodes(bank.num_frames, EpisodeSpec(), BATCH, (0,))
    index = EpisodeIndex(Path(), episodes, names, bank.num_frames, EpisodeSpec())
    dataset = EpisodeDataset(index, bank, EpisodeSpec().subsample)
    dataset[np.arange(1)]  # what is made once is there
    return lambda: dataset[np.arange(BATCH)].features


def batch_cost(device: str, num_threads: int) -> str:
    """Seconds and memory that a batch takes, in words."""
    gather = prepare_batch(device, num_threads)
    before = time.process_time()
    [seconds] = take_turns([gather], repeats=4)
    computing = (time.process_time() - before) / 5  # take_turns runs once more, unmeasured
    memory = peak_memory(prepare_batch, device, num_threads)
    size = gather().nbytes
    return (
        f"{seconds:.2f} s (median of 4), {computing:.2f} s of computing on the CPU; memory grows by {memory / 1e6:.0f} "
        f"MB at its peak, {size / 1e6:.0f} MB of them the batch itself"
    )


def drawn(places: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Some of these places, all if they are few."""
    return places if len(places) <= NUM_PAIRS else rng.choice(places, NUM_PAIRS, replace=False)


def table(columns: dict[str, dict[str, str]]) -> list[str]:
    """The lines of a table in Markdown: a row for each measure, a column for each of the films."""
    measures = list(dict.fromkeys(measure for rows in columns.values() for measure in rows))
    cells = [
        ["", *columns],
        *([measure, *(rows.get(measure, "–") for rows in columns.values())] for measure in measures),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |" for row in cells]
    lines.insert(1, f"|{'|'.join('-' * (width + 2) for width in widths)}|")
    return lines


if __name__ == "__main__":
    run(main)
