"""Draw the pictures of the README from a finished demo, docs/task.jpg, docs/scores.svg and docs/retention.svg, and
docs/memories.svg of docs/memories.md.

  python docs/pictures.py                                 from demo-run/, which `make demo` writes
  python docs/pictures.py --demo demo-run --run lstm      with the answers of another run to the episode of task.jpg

The task is drawn from a real episode: frames of some of its clips and some of its probes, with the run's own answers.
Unless --episode says otherwise it is the first test episode with answers of all four kinds, right and wrong, to old
and to new probes. The others are figures as the reports have them, of the runs that the demo has scored with one
budget (`make compare`), or of those in runs/ where there are none; the first seed of each. Too many curves for one
panel are those of LINES alone; memories.svg has a panel for each.
"""

import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))  # the folder of the project, as for its own scripts

from recognition.common.command_line import ArgumentParser, InputError, folder_path, run, whole_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path(__file__).parent
WIDTH, HEIGHT = 1600, 720  # pixels of task.jpg, which a page shows at half of that
FRAME, SHIFT = (210, 118), 60  # a studied frame, and how far the next one of its clip sticks out
PROBE, PROBE_GAP = (240, 135), 32
NUM_CLIPS, FRAMES_A_CLIP = 4, 3  # that are drawn
TEXT, GREY = "#222222", "#666666"
CONTROLS = {"nearest_frame": "nearest frame (control)", "chance": "chance (control)"}
LINES = ("transformer", "novelty_filter", "mlstm", "bloom", "lstm")  # one of each kind of memory
NUM_COLUMNS = 3  # of panels in memories.svg


def main() -> None:
    args = parse_arguments()
    folder = args.demo / (args.videos.resolve().name if args.videos else "synthetic")
    scored = find_runs(folder)
    names = [path.name for path in scored]
    if args.run not in names:
        raise InputError(f"--run {args.run}: the demo has scored {', '.join(names)}")
    videos = args.videos or folder / "videos"
    draw_task(folder, videos, scored[names.index(args.run)], args.episode, args.output / "task.jpg")
    draw_figures(scored, args.output)
    for name in ("task.jpg", "scores.svg", "retention.svg", "memories.svg"):
        print(f"{args.output / name}: {(args.output / name).stat().st_size / 1000:.0f} kB")


def parse_arguments() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=folder_path, default=Path("demo-run"), help="folder of a finished demo")
    parser.add_argument("--videos", type=folder_path, help="the films of your own that the demo was run on, if it was")
    parser.add_argument("--run", default="transformer", help="the run whose answers stand below the probes")
    parser.add_argument("--episode", type=whole_number(), help="which test episode is drawn, counted from 0")
    parser.add_argument("--output", type=folder_path, default=HERE, help="folder for the pictures")
    return parser.parse_args()


def find_runs(folder: Path) -> list[Path]:
    """The runs that the demo has scored, the first seed of each: those with one budget if there are some, else those in
    runs/."""
    for part in ("compare", "runs"):
        found = sorted(path.parent for path in (folder / part).glob("*/evaluation.json"))
        if found := [path for path in found if "-seed" not in path.name]:
            return found
    raise InputError(f"{folder}: holds no run that is scored; let `make demo` finish first")


def draw_task(folder: Path, videos: Path, path: Path, episode: int | None, output: Path) -> None:
    """One episode as a picture: clips that were studied, an arrow of time, and probes with the run's answers."""
    from matplotlib.figure import Figure

    from recognition.common.files import written_whole
    from recognition.episodes.index_file import read_index
    from recognition.episodes.rendering import Films
    from recognition.render import read_answers

    index = read_index(folder / "video-features" / "test_indices.h5")
    answers = read_answers(path, index)
    films = Films(index.video_ids, folder / "video-features", videos)
    if episode is None:
        episode = first_with_all_outcomes(index.episodes.is_old == 1, answers > 0)
    if episode >= len(index):
        raise InputError(f"--episode {episode}: there are {len(index)}, counted from 0")
    study, probes, is_old, _ = (field[episode] for field in index.episodes)
    says_old = answers[episode] > 0
    chosen = choose_probes(is_old == 1, says_old)
    clip_of = {probe: clip_with(study, *probes[probe]) for probe in chosen if is_old[probe]}
    clips = choose_clips(len(study), set(clip_of.values()))

    figure = Figure(figsize=(WIDTH / 200, HEIGHT / 200), dpi=200)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(HEIGHT, 0))
    axes.set_axis_off()
    subsample = index.spec.subsample
    num_shown = sum(len(range(start, end, subsample)) for _, start, end in study.tolist())
    heading(axes, 40, "Study", f"{len(study)} clips of films that the model has never seen, {num_shown} frames in all")
    clip_width = FRAME[0] + (FRAMES_A_CLIP - 1) * SHIFT
    gap = (WIDTH - 40 - NUM_CLIPS * clip_width) / (NUM_CLIPS - 1)
    for place, clip in enumerate(clips):
        video, start, end = study[clip].tolist()
        asked = [probes[probe, 1] for probe, its_clip in clip_of.items() if its_clip == clip]
        shown = choose_frames(np.arange(start, end, subsample), asked)
        left = 20 + place * (clip_width + gap)
        for number, frame in enumerate(films.pictures(video, shown.tolist())):
            picture(axes, frame, left + number * SHIFT, 70 + 14 * number, FRAME, "white")
        axes.text(left, 246, f"clip {clip + 1}", color=TEXT, fontsize=9)
        if place and clip > clips[place - 1] + 1:
            axes.text(left - gap / 2, 150, "…", color=TEXT, fontsize=14, ha="center")
    axes.annotate("", (WIDTH - 20, 282), (20, 282), arrowprops={"arrowstyle": "-|>", "color": GREY, "lw": 1.2})
    axes.text(WIDTH - 20, 312, "time", color=GREY, fontsize=8.5, ha="right")

    heading(axes, 374, "Test", f"{len(probes)} frames in random order: was each of them in the clips? Six of them:")
    for place, probe in enumerate(chosen):
        video, frame = probes[probe].tolist()
        left = 20 + place * (PROBE[0] + PROBE_GAP - 8)
        is_right = says_old[probe] == is_old[probe]
        colour = "#0072b2" if is_right else "#d55e00"
        picture(axes, films.pictures(video, [frame])[0], left, 410, PROBE, colour, 2.5)
        truth = f"old: it was in clip {clip_of[probe] + 1}" if is_old[probe] else "new: it was not shown"
        axes.text(left, 586, truth, color=GREY, fontsize=8)
        answer = f"{'✓' if is_right else '✗'} model: {'old' if says_old[probe] else 'new'}"
        axes.text(left, 632, answer, color=colour, fontsize=10, weight="bold")
    num_right = np.count_nonzero(says_old == is_old)
    words = f"Of the model's {len(probes)} answers to this episode {num_right} are right."
    axes.text(20, 695, words, color=TEXT, fontsize=9)
    output.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(output) as part:
        figure.savefig(part, format="jpg", facecolor="white", pil_kwargs={"quality": 70})


def first_with_all_outcomes(is_old: np.ndarray, says_old: np.ndarray) -> int:
    """The first episode of those with the most of the four outcomes; (N, P) each."""
    outcome = 2 * is_old + says_old
    return int(np.argmax([len(np.unique(row)) for row in outcome]))


def choose_probes(is_old: np.ndarray, says_old: np.ndarray, num: int = 6) -> list[int]:
    """Probes to draw, in the order of the test: one of each wrong kind, if there is one, and others half and half."""
    hits, misses = np.flatnonzero(is_old & says_old), np.flatnonzero(is_old & ~says_old)
    false_alarms, rejections = np.flatnonzero(~is_old & says_old), np.flatnonzero(~is_old & ~says_old)
    order = [*misses[:1], *false_alarms[:1], *hits[:2], *rejections[:2], *hits[2:], *rejections[2:], *misses[1:]]
    return sorted(int(probe) for probe in order[:num])


def choose_frames(shown: np.ndarray, asked: Sequence[int], num: int = FRAMES_A_CLIP) -> np.ndarray:
    """Frames of a clip to draw, of those that are shown: spread over it, but near to those that are asked for."""
    chosen = shown[(2 * np.arange(num) + 1) * len(shown) // (2 * num)]
    for frame in asked:
        chosen[np.abs(chosen - frame).argmin()] = shown[np.abs(shown - frame).argmin()]
    return chosen


def choose_clips(num_clips: int, wanted: set[int]) -> list[int]:
    """Clips to draw, in order: those that are wanted, then the first and the last, then others."""
    order = [*sorted(wanted), 0, num_clips - 1, *range(num_clips)]
    return sorted(list(dict.fromkeys(order))[: min(NUM_CLIPS, num_clips)])


def clip_with(study: np.ndarray, video: int, frame: int) -> int:
    """The place of the clip in `study` (C, 3) that has this frame."""
    has = (study[:, 0] == video) & (study[:, 1] <= frame) & (frame < study[:, 2])
    return int(np.flatnonzero(has)[0])


def heading(axes: Any, y: float, word: str, rest: str) -> None:
    """A line of words at height y, the first of them bold."""
    axes.text(20, y, word, color=TEXT, fontsize=12, weight="bold")
    axes.text(155, y, rest, color=TEXT, fontsize=10.5)


def picture(
    axes: Any, frame: np.ndarray, left: float, top: float, size: tuple[int, int], edge: str, width: float = 1.5
) -> None:
    """A frame (H, W, 3) uint8 in a rectangle with an edge."""
    right, bottom = left + size[0], top + size[1]
    axes.imshow(frame, extent=(left, right, bottom, top), aspect="auto", interpolation="antialiased", zorder=top)
    axes.plot(
        [left, right, right, left, left], [top, top, bottom, bottom, top], color=edge, lw=width, zorder=top + 0.5,
        solid_joinstyle="miter", clip_on=False,
    )  # fmt: skip


def draw_figures(scored: list[Path], folder: Path) -> None:
    """Accuracy of all runs beside controls, and their hit rates by lag, together and each by itself, as SVG."""
    from recognition.common.files import written_whole
    from recognition.common.plotting import svg
    from recognition.evaluation import figures as draw

    evaluations = [(path.name, json.loads((path / "evaluation.json").read_text())) for path in scored]
    evaluations.sort(key=lambda told: -told[1]["accuracy"])
    controls = [(name, evaluations[0][1]["controls"][key]) for key, name in CONTROLS.items()]
    rows = [  # controls last
        {**scores, "name": name, "accuracy_values": [scores["accuracy"]]} for name, scores in evaluations + controls
    ]
    lags = {name: scores["retention"]["by_lag"] for name, scores in evaluations}
    few = {name: rows for name, rows in lags.items() if name in LINES or len(lags) <= len(LINES)} or lags
    figures = {
        "scores": draw.scores_by_model(rows, "accuracy"),
        "retention": draw.retention_curve(few, "hit_rate"),
        "memories": retention_panels(evaluations),
    }
    for name, figure in figures.items():
        with written_whole(folder / f"{name}.svg") as part:
            part.write_text(svg(name, figure), encoding="utf-8")


def retention_panels(evaluations: Sequence[tuple[str, dict[str, Any]]]) -> "Figure":
    """A panel for each run: hit rate by lag, and how often new probes were called old."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    from recognition.common.plotting import BLUE, STYLE, VERMILION, Look, band
    from recognition.evaluation.figures import MIN_PROBES

    num_rows = -(-len(evaluations) // NUM_COLUMNS)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 0.8 + 1.7 * num_rows), layout="constrained")
        grid = figure.subplots(num_rows, NUM_COLUMNS, sharex=True, sharey=True, squeeze=False)
        for axis, (name, scores) in zip(grid.flat, evaluations, strict=False):
            by_lag = scores["retention"]["by_lag"]
            rows = [row for row in by_lag if row["num_probes"] >= MIN_PROBES] or by_lag
            band(axis, rows, "lag_frames", "hit_rate", "hit rate", Look(BLUE, "o", "-"))
            axis.axhline(scores["false_alarm_rate"], color=VERMILION, ls="--", label="false-alarm rate")
            axis.set(title=name, ylim=(-0.03, 1.03), xscale="log")
            axis.xaxis.set_minor_locator(NullLocator())
            axis.xaxis.set_major_formatter("{x:g}")
            axis.grid(alpha=0.3)
            axis.spines[["top", "right"]].set_visible(False)
        for axis in grid.flat[len(evaluations) :]:
            axis.set_axis_off()
        figure.supxlabel("frames shown from study to probe", fontsize=11)
        figure.supylabel("share “old”", fontsize=11)
        handles, labels = grid.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", frameon=False, ncols=2)
    return figure


if __name__ == "__main__":
    run(main)
