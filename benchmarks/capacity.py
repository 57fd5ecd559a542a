"""Memory per byte: how much of long episodes memories of fixed size keep, by theory, before and after learning.

  python -m benchmarks.capacity                 writes docs/capacity.md, .svg and .json, on the CPU
  python -m benchmarks.capacity --device cuda   with all families, on a GPU: docs/capacity-gpu.md and so on
  python -m benchmarks.capacity --redraw        the page and the figure anew, from docs/capacity.json

Episodes of the published protocol, but for the number of clips, from made-up features (docs/made_up.md) of films for
training, validation and test. All memories have their threshold from validation episodes with as many clips.

Shapes: B episodes, S study frames, P probes, T = S + P, D features, W whitened axes, U units of a code.
"""

import copy
import json
import operator
import platform
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import precision, take_turns
from models import CONFIGS, PUBLISHED_NAMES
from models.novelty_filter import NoveltyFilter
from models.recogniser import Recogniser
from recognition.common.command_line import ArgumentParser, InputError, folder_path, number_between, run
from recognition.common.files import written_whole
from recognition.common.machine import granted_cores
from recognition.episodes.dataset import Asking, EpisodeDataset
from recognition.episodes.drawing import draw_episodes, study_frames
from recognition.episodes.episode_spec import EpisodeSpec
from recognition.episodes.index_file import EpisodeIndex
from recognition.evaluation.memories import RIDGE, hebbian, novelty_filter, sum_of_frames
from recognition.evaluation.signal_detection import auc, resample_episodes, summarise_with_intervals
from recognition.features.feature_bank import FeatureBank, read_all_shots
from recognition.features.geometry import PrincipalAxes, principal_axes, whitened
from recognition.features.made_up import MadeUpFilms
from recognition.training.calibration import best_threshold
from recognition.training.config import RunConfig, check_model
from recognition.training.devices import launch
from recognition.training.episode_task import EpisodeTask
from recognition.training.loop import Loop, Progress
from recognition.training.model import build

DOCS = Path(__file__).parent.parent / "docs"
FILMS = "made-up:1072x20000"
SHARES = {"training": 0.7, "validation": 0.05, "test": 0.25}  # of the films
EPISODE: dict[str, Any] = {}  # of EpisodeSpec, but for the number of clips; the published protocol
CLIPS = {90: 5, 45: 6, 20: 8, 10: 16}  # clips of an episode, and episodes to validate and as many to test
NUM_AXES_FRAMES = 20_000  # that whitening is found by
BATCH = 4  # episodes asked at once

WIDTHS = (64, 128, 256, 512)  # K of the matrices
UNITS, UNITS_MAXIMA = (512, 4096, 32768), (512, 4096)  # U of Bloom filters of bits, and of those that keep maxima
SUM_WIDTH, COARSE_WIDTH = 64, 16  # of the sum of frames, and of frames that are kept as a few numbers
ALL = 0  # in place of a width: features as they are
BLOOM_WIDTH, NUM_WINNERS, BLOCK_FRAMES = 64, 4, 512
NUM_RANKED = 4  # episodes whose effective rank is looked at

TRAINING_CLIPS, TRAINING_PROBES, TRAINING_BATCH = 10, 60, 8
NUM_STEPS, STEPS_A_DRAW = 100, 10  # of a training, and of these with probes at the same times
TRAINING_SHARE = 0.4  # of the minutes; no training begins later
RATE = 1e-3
_MATCHED = {"match_init": True}
_LAYER = {**_MATCHED, "n_layers": 1, "familiarity": True}
LEARNED: dict[str, tuple[int, dict[str, Any]]] = {  # whitened axes and model.args, by name and size
    **{f"novelty_filter {k}": (k, {"d_embed": k, **_MATCHED}) for k in (64, 128)},
    "bloom 512": (64, {"d_embed": 64, **_MATCHED, "units": 512}),
    "delta 64": (64, {"d_embed": 64, **_MATCHED}),
    "hebbian 64": (64, {"d_embed": 64, **_MATCHED}),
    "novelty_filter 256": (256, {"d_embed": 256, **_MATCHED}),
}
LEARNED_ON_GPU: dict[str, tuple[int, dict[str, Any]]] = {
    "bloom 4096": (64, {"d_embed": 64, **_MATCHED, "units": 4096}),
    "mlstm 64": (
        64,
        {"d_embed": 64, **_LAYER, "conv1d_kernel_size": 1, "forget_bias_range": [7.0, 9.0], "tie_qk": True},
    ),
    "mamba2 64": (64, {"d_embed": 64, **_LAYER, "d_conv": 1, "A_init_range": [0.01, 0.1]}),
    "lstm 128": (128, {"d_embed": 128, **_LAYER, "residual": True, "forget_bias_range": [7.0, 7.0]}),
    "ur_lstm 128": (128, {"d_embed": 128, **_LAYER, "residual": True}),
    "transformer 64": (64, {"d_embed": 64, **_LAYER}),
}


def main() -> None:
    from benchmarks.capacity_page import draw, page

    args = parse_arguments()
    path = args.output_dir / ("capacity" if args.device == "cpu" else "capacity-gpu")
    if not args.redraw:
        if args.device == "cuda" and not torch.cuda.is_available():
            raise InputError("--device cuda: torch sees no GPU on this machine")
        for results in measure(args.device, 60 * args.minutes):
            with written_whole(path.with_suffix(".json")) as part:
                part.write_text(json.dumps(results, indent=1) + "\n")
    results = json.loads(path.with_suffix(".json").read_text())
    draw(results, path.with_suffix(".svg"))
    path.with_suffix(".md").write_text(page(results, path.name))
    print(f"written to {path}.md, .svg and .json")


def parse_arguments() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where memories study and learn")
    parser.add_argument(
        "--minutes",
        type=number_between(0, 10_000),
        default=15,
        help="that it should take; families whose training could not begin in 0.4 of them are left out and named",
    )
    parser.add_argument("--output_dir", type=folder_path, default=DOCS, help="folder for page, figure and results")
    parser.add_argument("--redraw", action="store_true", help="measure nothing")
    return parser.parse_args()


class Films(NamedTuple):
    """Films of one split."""

    names: list[str]
    bank: FeatureBank


class Model(NamedTuple):
    """A model, before or after its training."""

    name: str  # a key of LEARNED
    learning: str  # "before" or "after"
    recogniser: Recogniser


class Memory(NamedTuple):
    """A memory that does not learn.

    view: what it reads of frames, a key of what `views` gives.
    num_bytes: of its state, by the number of study frames.
    familiarity: study (B, S, ...) and probes (B, P, ...) of that view to how well it knows each probe, (B, P).
    """

    view: int
    num_bytes: Callable[[int], int]
    familiarity: Callable[[Tensor, Tensor], Tensor]


def measure(device: str, seconds: float) -> Iterator[dict[str, Any]]:
    """All that the page tells, after each length of episodes anew, the longest first."""
    started = time.monotonic()
    films = open_films(device)
    axes = principal_axes(films["training"].bank, NUM_AXES_FRAMES)
    models, left_out = learn(device, films["training"], axes, started + TRAINING_SHARE * seconds)
    machine = {
        "device": device if device == "cpu" else torch.cuda.get_device_name(),
        "cores": granted_cores(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "platform": platform.platform(),
    }
    results: dict[str, Any] = {
        "films": {"name": FILMS, **{name: len(part.names) for name, part in films.items()}},
        "axes": {str(k): axes.variance[k - 1].item() / axes.variance[0].item() for k in WIDTHS},
        "training": {"num_clips": TRAINING_CLIPS, "steps": NUM_STEPS, "batch": TRAINING_BATCH},
        "left_out": left_out,
        "study": study_times(device),
        "episodes": {},
        "theory": [],
        "rows": [],
    }
    for num_clips, num_episodes in CLIPS.items():
        sets = [episodes(films[name], num_clips, num_episodes) for name in ("validation", "test")]
        chosen = [model for model in models if model.learning == "after" or num_clips == max(CLIPS)]
        results["episodes"][str(num_clips)] = num_episodes
        results["theory"] += predict(sets[1], axes)
        results["rows"] += score(sets, axes, chosen)
        taken = time.monotonic() - started
        print(f"{num_clips} clips: {taken:.0f} s since the start", flush=True)
        yield {"machine": {**machine, "minutes": round(taken / 60, 1)}, **results}


def open_films(device: str) -> dict[str, Films]:
    """Films of each split, none in two of them, whose features are computed when they are asked for."""
    names = MadeUpFilms(FILMS).video_ids
    ends = np.round(len(names) * np.cumsum([0, *SHARES.values()])).astype(int)
    parts = {name: names[first:end] for name, first, end in zip(SHARES, ends[:-1], ends[1:], strict=True)}
    where = torch.device(device)
    return {name: Films(part, FeatureBank(FILMS, part, place="mapped", device=where)) for name, part in parts.items()}


def episodes(films: Films, num_clips: int, num_episodes: int, asking: Asking | None = None) -> EpisodeDataset:
    """Episodes of so many clips with two probes a clip, one old and one new."""
    spec = EpisodeSpec(**{**EPISODE, "num_clips": num_clips, "num_tests": num_clips})
    lengths = films.bank.num_frames
    drawn = draw_episodes(lengths, spec, num_episodes, (num_clips,))
    index = EpisodeIndex(Path(FILMS), drawn, films.names, lengths, spec)
    return EpisodeDataset(index, films.bank, spec.subsample, asking=asking)


def learn(device: str, films: Films, axes: PrincipalAxes, until: float) -> tuple[list[Model], list[str]]:
    """Every family before and after its training, as long as it is before `until` of time.monotonic(), and the names of
    those for which it was too late or which are for a GPU."""
    models, left_out = [], []
    for name in {**LEARNED, **LEARNED_ON_GPU}:
        if time.monotonic() > until or (device == "cpu" and name in LEARNED_ON_GPU):
            left_out.append(name)
            continue
        started = time.monotonic()
        before, after = train(name, device, films, axes)
        models += [Model(name, "before", before), Model(name, "after", after)]
        print(f"{name}: trained for {time.monotonic() - started:.0f} s", flush=True)
    return models, left_out


def train(name: str, device: str, films: Films, axes: PrincipalAxes) -> tuple[Recogniser, Recogniser]:
    """A family before and after NUM_STEPS of training on episodes of TRAINING_CLIPS, by the project's own loop."""
    config = settings(name, device)
    asking = Asking(TRAINING_PROBES, config.dataset.at_end)
    train_set = episodes(films, TRAINING_CLIPS, STEPS_A_DRAW * TRAINING_BATCH, asking)
    torch.manual_seed(config.training.seed)
    model = build(config, train_set)
    assert config.dataset.whiten is not None
    model.whiten(*axes.whitening(config.dataset.whiten))
    before = copy.deepcopy(model).to(device)
    fabric = launch(config.training)
    loop = Loop(
        EpisodeTask(model, train_set, train_set, fabric, config.training, config.dataset),
        fabric,
        config.training,
        show_bar=False,
    )
    for epoch in range(config.training.n_epochs):
        loop.progress = Progress(epoch)
        loop.train_epoch()
    return before.eval(), model.eval()


def settings(name: str, device: str) -> RunConfig:
    """What train.py would read in the configuration of a family."""
    num_axes, args = {**LEARNED, **LEARNED_ON_GPU}[name]
    family = name.split()[0]
    tree = {
        "dataset": {
            **{"fresh_episodes": True, "whiten": num_axes, "reflect_films": True},
            **{"train_probes": TRAINING_PROBES, "probe_times": "clip_ends"},
        },
        "model": {"model": family, "args": args, "probes_write": False},
        "training": {
            **{"learning_rate": RATE, "n_epochs": NUM_STEPS // STEPS_A_DRAW, "batch_size": TRAINING_BATCH},
            **{"num_workers": 0, "warmup_steps": NUM_STEPS // 10, "schedule": "cosine", "gradient_clip": 1.0},
            "device": device,
        },
    }
    return check_model(RunConfig.model_validate(tree), CONFIGS, PUBLISHED_NAMES, "benchmarks/capacity.py")


def memories() -> dict[str, Memory]:
    """What does not learn, by family and size."""

    def constant(num_bytes: float) -> Callable[[int], int]:
        return lambda num_frames: int(num_bytes)

    found = {}
    for k in WIDTHS:
        symmetric = constant(4 * k * (k + 1) / 2)
        found[f"novelty filter {k}"] = Memory(k, symmetric, novelty_filter)
        found[f"Hebbian matrix {k}"] = Memory(k, symmetric, hebbian)
    for units in UNITS:
        found[f"Bloom bits {units}"] = Memory(BLOOM_WIDTH, constant(units / 8), partial(bloom, units, False))
    for units in UNITS_MAXIMA:
        found[f"Bloom maxima {units}"] = Memory(BLOOM_WIDTH, constant(4 * units), partial(bloom, units, True))
    found[f"sum of frames {SUM_WIDTH}"] = Memory(SUM_WIDTH, constant(4 * SUM_WIDTH), sum_of_frames)
    for name, view, width in (
        ("nearest frame", ALL, MadeUpFilms(FILMS).num_features),
        (f"nearest frame {COARSE_WIDTH}", COARSE_WIDTH, COARSE_WIDTH),
    ):
        found[name] = Memory(view, partial(operator.mul, 4 * width), nearest)
    return found


def nearest(study: Tensor, probes: Tensor) -> Tensor:
    """Cosine of each probe and the study frame nearest to it."""
    return (probes @ study.mT).amax(2)


def bloom(num_units: int, keeps_maxima: bool, study: Tensor, probes: Tensor) -> Tensor:
    """Mean over the units that stand for a probe of whether they were ever on or, if maxima are kept, of the most that
    they were ever excited. Units are random directions, and the NUM_WINNERS that a frame excites most stand for it."""
    directions = np.random.default_rng(num_units).normal(size=(study.shape[2], num_units))
    units = F.normalize(torch.from_numpy(directions).float(), dim=0).to(study.device)
    state = torch.zeros(len(study), num_units, device=study.device)
    for frames in study.split(BLOCK_FRAMES, 1):
        won = (frames @ units).topk(NUM_WINNERS, 2)
        values = won.values if keeps_maxima else torch.ones_like(won.values)
        state.scatter_reduce_(1, won.indices.flatten(1), values.flatten(1), "amax")
    asked = (probes @ units).topk(NUM_WINNERS, 2).indices
    return state.take_along_dim(asked.flatten(1), 1).unflatten(1, asked.shape[1:]).mean(2)


@torch.no_grad()
def score(sets: list[EpisodeDataset], axes: PrincipalAxes, models: list[Model]) -> list[dict[str, Any]]:
    """A row for each memory: scores on the second of two data sets, with the threshold that is best on the first."""
    validation_set, test_set = sets
    on_validation, on_test = (ask(dataset, axes, models) for dataset in sets)
    num_frames, rows = test_set.num_study_frames, []
    sizes = {(name, "none"): memory.num_bytes(num_frames) for name, memory in memories().items()}
    sizes |= {(name, learning): 4 * model.state_size(num_frames) for name, learning, model in models}
    resamples = resample_episodes(len(test_set))
    for (name, learning), num_bytes in sizes.items():
        known, answer = on_validation[name, learning], on_test[name, learning]
        if auc(known, validation_set.episodes.is_old) < 0.5:
            known, answer = -known, -answer
        threshold, is_old = best_threshold(known, validation_set.episodes.is_old), test_set.episodes.is_old
        scores = summarise_with_intervals(answer, is_old, resamples, threshold)
        told = ("accuracy", "accuracy_interval", "hit_rate", "false_alarm_rate", "auc")
        rows.append(
            {
                "name": name,
                "learning": learning,
                "num_clips": test_set.num_clips,
                "num_study_frames": num_frames,
                "state_bytes": num_bytes,
                "threshold": threshold,
                **{key: scores[key] for key in told},
                "mean_of_old": float(answer[is_old == 1].mean()),
                "mean_of_new": float(answer[is_old == 0].mean()),
            }
        )
    return rows


def ask(dataset: EpisodeDataset, axes: PrincipalAxes, models: list[Model]) -> dict[tuple[str, str], np.ndarray]:
    """Answers of all memories to all probes, (N, P) each, by name and learning; episodes are gathered once."""
    answers: dict[tuple[str, str], list[Tensor]] = {}
    num_frames, asked = dataset.num_study_frames, [(dataset.num_study_frames, dataset.num_probes)]
    plain = memories()
    for first in range(0, len(dataset), BATCH):
        features = dataset[np.arange(first, min(first + BATCH, len(dataset)))].features.float()  # (B, T, D)
        seen = views(features, axes)
        for name, memory in plain.items():
            study, probes = seen[memory.view].tensor_split([num_frames], 1)
            answers.setdefault((name, "none"), []).append(memory.familiarity(study, probes).cpu())
        for name, learning, model in models:
            with precision(features.device.type):
                logits = model(features, asked)
            answers.setdefault((name, learning), []).append(logits.float().cpu())
    return {key: torch.cat(parts).numpy() for key, parts in answers.items()}


def views(features: Tensor, axes: PrincipalAxes) -> dict[int, Tensor]:
    """Frames of unit length: as they are, (B, T, D), for ALL, and whitened along the first W axes, (B, T, W) for W."""
    widths = sorted({*WIDTHS, BLOOM_WIDTH, SUM_WIDTH, COARSE_WIDTH})
    unit = F.normalize(features, dim=2)
    mean, matrix = (part.to(features.device) for part in axes.whitening(widths[-1]))
    white = whitened(unit, mean, matrix)
    return {ALL: unit, **{width: F.normalize(white[..., :width], dim=2) for width in widths}}


def predict(dataset: EpisodeDataset, axes: PrincipalAxes) -> list[dict[str, Any]]:
    """What theory needs to know of episodes, their means: how many shots they show, and for each width of a matrix the
    effective rank of what is studied."""
    shown = study_frames(dataset.episodes.study, dataset.subsample)  # (N, S, 2)
    starts = read_all_shots(FILMS, dataset.index.video_ids)
    num_shots = np.mean(
        [
            len({(film, int(np.searchsorted(starts[film], frame, "right"))) for film, frame in frames})
            for frames in shown.tolist()
        ]
    )
    ranks: dict[int, list[float]] = {width: [] for width in WIDTHS}
    for number in range(min(len(dataset), NUM_RANKED)):
        study = views(dataset[np.array([number])].features.float(), axes)
        for width in WIDTHS:
            ranks[width].append(effective_rank(study[width][0, : dataset.num_study_frames]))
    return [
        {"num_clips": dataset.num_clips, "shots": float(num_shots), "width": k, "effective_rank": float(np.mean(rank))}
        for k, rank in ranks.items()
    ]


def effective_rank(keys: Tensor) -> float:
    """tr(C (C + r)^-1) with C the sum over keys (S, K) of k k': how many axes they fill, one wholly or more in part."""
    variance = torch.linalg.eigvalsh((keys.T @ keys).double()).clamp(min=0)
    return (variance / (variance + RIDGE)).sum().item()


def study_times(device: str) -> list[dict[str, float]]:
    """Seconds that a novelty filter's layer takes to study an episode of the most clips, and that one product X'X of
    frames that are there already takes, in turns."""
    num_frames = max(CLIPS) * EpisodeSpec(**EPISODE).frames_per_clip
    return [study_time(device, num_frames, width) for width in WIDTHS[:3]]


@torch.no_grad()
def study_time(device: str, num_frames: int, width: int) -> dict[str, float]:
    layer = NoveltyFilter(NoveltyFilter.Config(d_embed=width, match_init=True)).to(device)
    frames = F.normalize(torch.randn(1, num_frames, width, device=device), dim=2)
    ours, product = take_turns(
        [lambda: layer.study(frames, [num_frames], is_read=False), lambda: frames.mT @ frames], repeats=15
    )
    return {"width": width, "study_s": ours, "product_s": product}


if __name__ == "__main__":
    run(main)
