"""Whether order in time is learned: eight actions in pairs of reversals, with temporal gates and by multigrid.

python -m benchmarks.actions                 three seeds
python -m benchmarks.actions --seeds 1       one seed

Films of 24 frames of 64 x 64 pixels, real H.264 read through small films; r3d_mini, 8 frames at 56 x 56: the settings
of config-files/backbones/demo/actions.yaml. What is wanted is printed beside the scores, means over seeds with 95 %
intervals (Student's t). After how many steps and seconds validation films are told is printed too, with multigrid and
without; on a CPU nothing is asked of that. Seconds are those of two trainings side by side.
"""

import json
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from backbones import demo
from benchmarks.backbones import mean_and_interval
from recognition.common.command_line import ArgumentParser, folder_path, run, whole_number
from recognition.common.commands import command, side_by_side

PLAIN = "network.temporal_gates=null"
# Cycles stretch the settings' epochs themselves. All rates rise over the same 18 steps. Statistics of norms, taken anew
# after each epoch, would cost a third of a training whose epochs are so short if they were of the usual 20 batches.
RUNS: dict[str, tuple[str, ...]] = {
    "no-gates": (PLAIN,),
    "gates": (),
    "long-short": (
        PLAIN,
        "multigrid={long: true, short: true, epoch_factor: 3, precise_batches: 5}",
        "training.warmup_epochs=6",
    ),
}
ONCE: dict[str, tuple[str, ...]] = {  # with one seed
    "short": (PLAIN, "multigrid={short: true, precise_batches: 5}", "training.warmup_epochs=1.2"),
    "product": ("network.temporal_gates={fuse: product}",),
}
LEAST = {"no-gates": 0.80, "gates": 0.75, "long-short": 0.55}  # of every seed
LEVEL = 0.8  # of validation, to which times are compared


def main() -> int:
    args = parse_arguments()
    folder: Path = args.output_dir
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    demo.make_action_films(folder, "eight")
    prepared = f"--output={folder / 'eight-small'}", "--short_side=64", "--keyframes=8", "--workers=1"
    command(folder, "prepare", "backbones.prepare", "films", str(folder / "eight"), *prepared)
    (folder / "eight-small" / "list.csv").write_text((folder / "eight" / "list.csv").read_text())
    shuffle_labels(folder / "eight-small")
    tasks = [
        partial(learn, folder, f"{name}-{seed}", *words, f"training.seed={seed}")
        for seed in range(args.seeds)
        for name, words in RUNS.items()
    ]
    tasks.append(partial(learn, folder, "shuffled-0", PLAIN, f"data.list={folder / 'eight-small' / 'shuffled.csv'}"))
    tasks += [partial(learn, folder, f"{name}-0", *words) for name, words in ONCE.items()]
    side_by_side(tasks)
    tell_times(folder, args.seeds)
    return tell(folder, args.seeds)


def shuffle_labels(folder: Path) -> None:
    """Write shuffled.csv beside list.csv: the same films, the labels of training dealt out anew."""
    head, *rows = [line.split(",") for line in (folder / "list.csv").read_text().splitlines()]
    train = [row for row in rows if row[2] == "train"]
    labels = np.random.default_rng(0).permutation([row[1] for row in train])
    for row, label in zip(train, labels, strict=True):
        row[1] = str(label)
    (folder / "shuffled.csv").write_text("\n".join(",".join(row) for row in [head, *rows]) + "\n")


def learn(folder: Path, name: str, *words: str) -> None:
    films = folder / "eight-small"
    demo.train(
        folder, "backbones.classify", "actions", name, f"data.list={films / 'list.csv'}", f"data.videos={films}", *words
    )


def tell(folder: Path, num_seeds: int) -> int:
    """Print the scores; 1 if something is not as wanted."""

    def test(name: str) -> dict[str, Any]:
        return json.loads((folder / "runs" / name / "test.json").read_text())

    wants, found = [], {}
    print(f"\n{'':12}{'top-1':>28}{'repeated':>10}{'shuffled':>10}   single seeds")
    for name in RUNS:
        scores = [test(f"{name}-{seed}") for seed in range(num_seeds)]
        top1 = found[name] = np.array([one["top1"] for one in scores])
        controls = {key: [one["controls"][key]["top1"] for one in scores] for key in ("repeated", "shuffled")}
        means = "".join(f"{np.mean(values):10.3f}" for values in controls.values())
        print(f"{name:12}{mean_and_interval(top1):>28}{means}   {', '.join(f'{one:.3f}' for one in top1)}")
        wants.append((f"{name}: each seed >= {LEAST[name]}", bool((top1 >= LEAST[name]).all())))
        wants.append((f"{name}: one frame repeated <= 0.20", max(controls["repeated"]) <= 0.20))
        wants.append((f"{name}: frames shuffled <= 0.55", max(controls["shuffled"]) <= 0.55))
    for name in (*ONCE, "shuffled"):
        print(f"{name:12}{test(f'{name}-0')['top1']:28.3f}")
    wants.append(("shuffled labels: 0.075 to 0.175", 0.075 <= test("shuffled-0")["top1"] <= 0.175))
    for name in ("gates", "long-short"):
        print(f"{name} - no-gates, seed by seed: {mean_and_interval(found[name] - found['no-gates'])}")
    print()
    for what, is_met in wants:
        print(f"{'met   ' if is_met else 'MISSED'}  {what}")
    return 0 if all(is_met for _, is_met in wants) else 1


def tell_times(folder: Path, num_seeds: int) -> None:
    """Print after how many steps and seconds validation has LEVEL, and how many there are in all."""
    print(f"\nsteps, and seconds of training, validation and checkpoints, until validation has {LEVEL}, and in all")
    names = [f"{name}-{seed}" for name in ("no-gates", "long-short") for seed in range(num_seeds)]
    for name in (*names, "short-0"):
        text = (folder / "runs" / name / "metrics.jsonl").read_text()
        lines = [json.loads(line) for line in text.splitlines()]
        seconds = np.cumsum([line["seconds"] for line in lines])
        ends = [(line["step"], s) for s, line in zip(seconds, lines, strict=True)]
        reached = [end for end, line in zip(ends, lines, strict=True) if line["validation_top1"] >= LEVEL]
        told = "{:8}{:8.0f}".format(*reached[0]) if reached else f"{'never':>8}{'':8}"
        print("{:14}{}{:8}{:8.0f}".format(name, told, *ends[-1]))


def parse_arguments(words: Sequence[str] | None = None) -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=whole_number(1), default=3, help="train so many networks each way")
    parser.add_argument(
        "--output_dir", type=folder_path, default=Path("demo-run/benchmark"), help="where everything is written"
    )
    return parser.parse_args(words)


if __name__ == "__main__":
    run(main)
