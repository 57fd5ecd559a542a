"""What eyes learn of ten actions that one frame cannot tell: labels, BYOL with either predictor, and nothing.

python -m benchmarks.backbones                 three seeds
python -m benchmarks.backbones --seeds 1       one seed

Films of 64 x 64 pixels, clips of 8 frames at 40 x 40, r3d_10 of width 16: the settings of config-files/backbones/demo/.
For each eye a linear probe, by logistic regression, and R@1, as means over seeds with 95 % intervals (Student's t). Two
controls are trained with labels: films in which one frame is repeated, and labels that are shuffled. What is wanted of
each is printed beside it. The last line says how much the memory is ahead of the perceptron; nothing is asked of that.
Three seeds take about 20 minutes of two cores.
"""

import csv
import json
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from scipy.stats import t

from backbones import demo
from benchmarks.linear_probe import linear_probe
from recognition.common.command_line import ArgumentParser, folder_path, run, whole_number
from recognition.common.commands import side_by_side

PREDICTORS = ("memory", "perceptron")
CHANCE = 0.1


def main() -> int:
    args = parse_arguments()
    folder: Path = args.output_dir
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    demo.make_action_films(folder, "ten")
    make_controls(folder)
    seeds = range(args.seeds)
    tasks = [partial(learn, folder, predictor, seed) for seed in seeds for predictor in PREDICTORS]
    tasks += [partial(learn_labels, folder, seed) for seed in seeds]
    tasks += [partial(learn_control, folder, name) for name in ("still", "shuffled")]
    tasks += [partial(ask_random, folder, seed) for seed in seeds]
    side_by_side(tasks)
    return tell(folder, list(seeds))


def make_controls(folder: Path) -> None:
    """Films of one frame repeated, and a list whose training labels are shuffled."""
    from backbones.action_films import ACTIONS, FPS, SIDE, draw_action
    from recognition.films.synthetic import write_frames

    with open(folder / "ten" / "list.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    (folder / "still").mkdir(exist_ok=True)
    for k, row in enumerate(rows):
        path = folder / "still" / row["video"]
        if not path.exists():
            film = draw_action("ten", ACTIONS["ten"][k % len(ACTIONS["ten"])], np.random.default_rng((0, k)))
            write_frames(path, np.repeat(film[len(film) // 4][None], len(film), 0), (SIDE, SIDE), FPS)
    labels = np.array([row["label"] for row in rows])
    is_train = np.array([row["split"] == "train" for row in rows])
    labels[is_train] = np.random.default_rng(0).permutation(labels[is_train])
    shuffled = [row | {"label": str(label)} for row, label in zip(rows, labels, strict=True)]
    for name, own in (("still", rows), ("ten", shuffled)):
        list_file = folder / name / ("list.csv" if name == "still" else "shuffled.csv")
        with open(list_file, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(own)


def learn(folder: Path, predictor: str, seed: int) -> None:
    """Learn without labels, then ask."""
    name = f"{predictor}-{seed}"
    demo.train(folder, "backbones.pretrain", predictor, name, f"training.seed={seed}")
    demo.retrieve(folder, name)


def learn_labels(folder: Path, seed: int) -> None:
    demo.train(folder, "backbones.classify", "labels", f"labels-{seed}", f"training.seed={seed}")
    demo.retrieve(folder, f"labels-{seed}")


def learn_control(folder: Path, name: str) -> None:
    """Learn with labels what cannot be learned."""
    films = folder / ("still" if name == "still" else "ten")
    words = f"data.videos={films}", f"data.list={films / ('list.csv' if name == 'still' else 'shuffled.csv')}"
    demo.train(folder, "backbones.classify", "labels", name, *words)


def ask_random(folder: Path, seed: int) -> None:
    demo.make_random_eye(folder, f"random-{seed}", seed)
    demo.retrieve(folder, f"random-{seed}")


def tell(folder: Path, seeds: Sequence[int]) -> int:
    """Print the table; 1 if something is not as wanted."""

    def scores(eye: str) -> tuple[np.ndarray, np.ndarray]:
        runs = [folder / "runs" / f"{eye}-{seed}" for seed in seeds]
        top1 = [json.loads((r / "test.json").read_text())["top1"] if eye == "labels" else linear_probe(r) for r in runs]
        recall = [json.loads((run / "retrieval.json").read_text())["recall_at_1"] for run in runs]
        return np.array(top1), np.array(recall)

    found = {eye: scores(eye) for eye in ("random", *PREDICTORS, "labels")}
    random_probe, random_recall = (values.mean() for values in found["random"])
    wants = [("labels: probe >= 0.95", found["labels"][0].mean() >= 0.95)]
    for eye in PREDICTORS:
        probe, recall = found[eye]
        wants.append((f"{eye}: mean probe >= random + 0.25", probe.mean() >= random_probe + 0.25))
        wants.append((f"{eye}: each probe >= random + 0.15", (probe >= random_probe + 0.15).all()))
        wants.append((f"{eye}: mean R@1 >= random + 0.10", recall.mean() >= random_recall + 0.10))
    for name, low, high in (("still", 0.0, 0.35), ("shuffled", CHANCE - 0.05, CHANCE + 0.05)):
        top1 = json.loads((folder / "runs" / name / "test.json").read_text())["top1"]
        wants.append((f"{name} ({top1:.3f}): {low:.2f} to {high:.2f}", low <= top1 <= high))
    print(f"\n{'eye':12}{'probe':>28}{'R@1':>28}   single seeds")
    for eye, (probe, recall) in found.items():
        singles = ", ".join(f"{one:.3f}/{other:.3f}" for one, other in zip(probe, recall, strict=True))
        print(f"{eye:12}{mean_and_interval(probe):>28}{mean_and_interval(recall):>28}   {singles}")
    print()
    for what, is_met in wants:
        print(f"{'met   ' if is_met else 'MISSED'}  {what}")
    ahead = found["memory"][0] - found["perceptron"][0]
    print(f"memory - perceptron, probe: {mean_and_interval(ahead)}")
    return 0 if all(is_met for _, is_met in wants) else 1


def mean_and_interval(values: np.ndarray) -> str:
    """Mean and 95 % interval by Student's t; of one value itself."""
    if len(values) < 2:
        return f"{values.mean():.3f}"
    reach = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return f"{values.mean():.3f} [{values.mean() - reach:.3f}, {values.mean() + reach:.3f}]"


def parse_arguments(words: Sequence[str] | None = None) -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=whole_number(1), default=3, help="train so many eyes each way")
    parser.add_argument(
        "--output_dir", type=folder_path, default=Path("demo-run/benchmark"), help="where everything is written"
    )
    return parser.parse_args(words)


if __name__ == "__main__":
    run(main)
