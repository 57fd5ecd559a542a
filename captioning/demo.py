"""Captions of small films, which need a memory of their earlier clips to be captioned well.

  python -m captioning.demo                     on two cores; everything is written below demo-run/captioning

Makes small films in which balls come back: their second clip is to say on which set they were first. Then step 2 for
features, and four captioners: with a memory of the film; and, in less than half of its steps, as more does not tell
them what was seen before, with one that is cleared after each clip, with none, and with the last frame of each clip
alone. The first is also given the memory of another film, and a memory of the last two clips alone.

Ends with a table: how often a captioner is right about what can be seen (colour, action) and about what cannot (whether
the ball was seen before, and where), beside perfect eyes without memory; and with a report of scores, of what was seen
how long ago, and of captions with frames. What is finished is not done again; remove the folder to start over. Two
commands run side by side, each with one thread.
"""

import json
import time
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from captioning.extra import check_packages
from recognition.common.command_line import PROJECT, ArgumentParser, folder_path, run
from recognition.common.commands import command, side_by_side

NUM_FILMS = (600, 60, 100)  # to train on, for validation, to test on
CONFIG = "config-files/captioning/demo.yaml"
FEWER = "training.n_epochs=24"  # what only a memory can tell is not gained with more
RUNS: dict[str, tuple[str, ...]] = {
    "memory": (),
    "cleared": ("memory.scope=clip", FEWER),
    "none": ("memory.model=none", FEWER),
    "last-frame": ("memory.model=none", "data.frames=last", FEWER),
}
OTHERWISE = {  # what the first also says
    "other": ("--memory_of_another_film",),
    "two-clips": ("memory.args.capacity=6",),  # frames, three a clip
}
LABELS = {
    "memory": "memory of the film",
    "other film": "memory of another film",
    "cleared": "memory cleared after each clip",
    "none": "no memory",
    "last-frame": "no memory, last frame alone",
    "perfect eyes": "perfect eyes without memory",
}
SLOTS = {
    "colour": "colour",
    "action": "action",
    "is_seen": "seen before",
    "earlier_set": "earlier set",
    "exact": "exact",
}
METRICS = {"bleu_4": "BLEU-4", "rouge_l": "ROUGE-L", "cider_d": "CIDEr-D"}


def main() -> None:
    args = parse_arguments()
    check_packages()
    started = time.perf_counter()
    folder: Path = args.output_dir
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    make_films(folder)
    paths = f"--input_dir={folder / 'films'}", f"--output_dir={folder / 'features'}"
    command(folder, "preprocess", "preprocess_videos.py", *paths, "--weights=random:0")
    side_by_side([partial(train_and_say_otherwise, folder), partial(train_others, folder)])
    score(folder)
    runs = folder / "runs"
    found = results(folder)
    (folder / "scores.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print("\n" + "\n".join(table(found)))
    print(f"\npage: {(runs / 'memory' / 'report.html').resolve()}\n{time.perf_counter() - started:.0f} s in all")


def make_films(folder: Path) -> None:
    """Write the films, as far as they are not there yet."""
    from tqdm import tqdm

    from captioning.films import write_caption_films

    films = write_caption_films(folder / "films", *NUM_FILMS)
    for _ in tqdm(films, desc="films", total=sum(NUM_FILMS), unit="film"):
        pass


def train_and_say_otherwise(folder: Path) -> None:
    """The captioner with a memory, and what it says with other ones."""
    train(folder, "memory")
    run = folder / "runs" / "memory"
    for name, words in OTHERWISE.items():
        command(folder, name, "captioning.generate", str(run), f"--output={run / name}.json", *words)


def train_others(folder: Path) -> None:
    for name in RUNS:
        if name != "memory":
            train(folder, name)


def train(folder: Path, name: str) -> None:
    """Run one of the trainings, from where it was left."""
    words = [
        f"data.captions={folder / 'films' / 'captions.csv'}",
        f"data.video_path={folder / 'features'}",
        *RUNS[name],
        f"name={name}",
        "resume=auto",
    ]
    paths = f"--runs_dir={folder / 'runs'}", f"--videos={folder / 'films'}"
    command(folder, name, "captioning.train", f"-f={PROJECT / CONFIG}", *paths, *words)


def score(folder: Path) -> None:
    """The report of the captioner with a memory, beside what it says with other ones and the other runs."""
    run = folder / "runs" / "memory"
    others = [f"{run / name}.json" for name in OTHERWISE] + [
        str(folder / "runs" / name) for name in ("cleared", "none")
    ]
    command(folder, "score", "captioning.score", str(run), *others, f"--videos={folder / 'films'}")


def results(folder: Path) -> dict[str, dict[str, float]]:
    """The scores of each captioner, by the names in LABELS."""
    from captioning.films import captions_without_memory, read_all_slots
    from captioning.said import read_said

    slots = {(row.film, row.clip): row for row in read_all_slots(folder / "films" / "slots.csv")}
    files = {name: folder / "runs" / name / "captions.json" for name in RUNS}
    files["other film"] = folder / "runs" / "memory" / "other.json"
    found = {}
    for name in LABELS:
        said = read_said(files.get(name, files["memory"]))
        rows = [slots[clip.film, clip.clip] for clip in said]
        texts = [clip.caption for clip in said] if name in files else captions_without_memory(rows)
        found[name] = scores_of(texts, [clip.references for clip in said], rows)
    return found


def scores_of(captions: Sequence[str], references: Sequence[list[str]], rows: Sequence[Any]) -> dict[str, float]:
    from captioning.films import slot_scores
    from captioning.metrics import score_corpus

    corpus = score_corpus(captions, references, with_meteor=False)
    return slot_scores(captions, rows) | {name: corpus[name] for name in METRICS}


def table(found: dict[str, dict[str, float]]) -> list[str]:
    """Lines for the terminal."""
    heads = [*SLOTS.values(), *METRICS.values()]
    lines = [f"{'':32}" + "".join(f"{head:>13}" for head in heads)]
    for name, label in LABELS.items():
        values = [found[name][key] for key in SLOTS] + [100 * found[name][key] for key in METRICS]
        cells = [f"{value:13.2f}" if place < len(SLOTS) else f"{value:13.1f}" for place, value in enumerate(values)]
        lines.append(f"{label:32}" + "".join(cells))
    return lines


def parse_arguments(words: Sequence[str] | None = None) -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument(
        "--output_dir", type=folder_path, default=Path("demo-run/captioning"), help="where everything is written"
    )
    return parser.parse_args(words)


if __name__ == "__main__":
    run(main)
