"""Score captions: BLEU, ROUGE-L, CIDEr-D and METEOR, with intervals over films and floors.

  python -m captioning.score runs/memory                                  the captions of a run's test films
  python -m captioning.score runs/memory runs/none                        and how much better the first is
  python -m captioning.score captions.json --captions captions.csv --features video-features
  python -m captioning.score captions.json --reference_file val_1.json --reference_file val_2.json
  python -m captioning.score generated.json --reference_file references.json    pairs of {running number: text}
  python -m captioning.score runs/memory --average clips                  means over clips, which some papers print

Scores are printed times 100, CIDEr-D with them, and written to scores.json beside the captions as they are. BLEU and
METEOR are those of the corpus: means over clips are other numbers. METEOR needs Java and the package pycocoevalcap.

An interval is of 95 %: the scores when films are drawn anew. Floors are captions that look at nothing: the commonest of
the training clips, the one that fits training clips best, the nearest training clip's by features, and the run's own
captions shuffled over clips. They need the table and the features, which a run's config.yaml names.
"""

import json
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from captioning import floors
from captioning.bootstrap import Interval, intervals, paired_differences
from captioning.captions import Caption, read_captions
from captioning.config import CaptionSettings
from captioning.json_file import read_json
from captioning.metrics import METRICS, ClipScores, clip_scores, summarise, tokens
from captioning.said import Said, is_numbered, read_numbered, read_said, with_references
from recognition.common.command_line import ArgumentParser, InputError, run, shown, whole_number
from recognition.common.files import is_there, written_whole
from recognition.training.config import load_settings

HEADS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr-D", "METEOR")
WIDTH = 15  # of a column


@dataclass(frozen=True)
class Scored:
    """The captions of one file, and what they are worth."""

    name: str
    target: Path  # its scores.json
    said: list[Said]
    scores: ClipScores

    @property
    def films(self) -> list[str]:
        return [clip.film for clip in self.said]

    @classmethod
    def of(cls, name: str, target: Path, said: list[Said], with_meteor: bool = True) -> "Scored":
        captions, references = [clip.caption for clip in said], [clip.references for clip in said]
        return cls(name, target, said, clip_scores(captions, references, with_meteor))

    def saying(self, name: str, captions: Sequence[str]) -> "Scored":
        """The same clips with other captions."""
        said = [replace(clip, caption=text) for clip, text in zip(self.said, captions, strict=True)]
        return Scored.of(name, self.target, said, not isinstance(self.scores.meteor, str))


def main() -> None:
    args = parse_arguments()
    files = [read_file(path, args.reference_file) for path in args.captions_files]
    if len({name for name, *_ in files}) < len(files):  # runs of one name in different folders
        files = [(str(path), *file[1:]) for path, file in zip(args.captions_files, files, strict=True)]
    scored = [Scored.of(name, target, in_order_of(files[0][2], name, said)) for name, target, said in files]
    first, *others = scored
    below = floor_captions(args, first)
    print_head(first, args.average)
    told = describe(first, args) | {"floors": {}, "differences": {}}
    for other in others:
        write_scores(other.target, describe(other, args))
        told["differences"][other.name] = differences(first, other, args)
    for name, texts in below.items():
        told["floors"][name] = describe(first.saying(name, texts), args, is_floor=True)
    write_scores(first.target, told)
    tell_rest(scored)


def read_file(path: Path, reference_files: Sequence[Path]) -> tuple[str, Path, list[Said]]:
    """The name of a run's folder or a file, where its scores are to be, and its captions."""
    name, file = str(path), path
    if path.is_dir():
        name, file = path.resolve().name, path / "captions.json"
        if not is_there(file):
            raise InputError(f"{path}: has no captions.json; python -m captioning.generate makes one")
    if is_numbered(read_json(file)):
        said = read_numbered(file, reference_files)
    else:
        said = read_said(file)
        said = with_references(said, reference_files) if reference_files else said
        if bare := [clip for clip in said if not clip.references]:
            raise InputError(
                f"{file}: clip {bare[0].clip} of {shown(bare[0].film)} has no references; give --reference_file"
            )
    return name, file.with_name("scores.json" if file.name == "captions.json" else f"{file.stem}-scores.json"), said


def in_order_of(first: Sequence[Said], name: str, said: Sequence[Said]) -> list[Said]:
    """Captions in the order of the first file's. Raises InputError if clips or references are not the same."""
    by_clip = {(clip.film, clip.clip): clip for clip in said}
    keys = [(clip.film, clip.clip) for clip in first]
    if wrong := sorted(set(keys) ^ by_clip.keys()):
        film, number = wrong[0]
        raise InputError(f"{name}: clip {number} of {shown(film)} is not in both this and the first; compare equals")
    ordered = [by_clip[key] for key in keys]
    for clip, other in zip(first, ordered, strict=True):
        if clip.references != other.references:
            raise InputError(f"{name}: clip {clip.clip} of {shown(clip.film)} has other references than in the first")
    return ordered


def floor_captions(args: Namespace, first: Scored) -> dict[str, list[str]]:
    """The captions that any must beat, by their names; those of a table and features only where they are there."""
    said = [clip.caption for clip in first.said]
    found = {"shuffled over clips": floors.shuffled(said, args.seed)}
    table, folder = inputs_of(args)
    if table is None:
        print("floors of training captions: not computed: need --captions", file=sys.stderr)
        return found
    captions = read_captions(table)
    trained = [row for row in captions if row.split == "train"]
    if not trained:
        raise InputError(f"{table}: has no training captions, which floors need")
    texts = [row.caption for row in trained]
    found["commonest caption"] = [floors.commonest(texts)] * len(said)
    found["best constant caption"] = [floors.best_constant(texts, args.seed)] * len(said)
    if folder is None:
        print("floor of the nearest training clip: not computed: needs --features", file=sys.stderr)
        return found
    rows = rows_of(first.said, captions, table)
    features, of_trained = (floors.clip_features(part, folder) for part in (rows, trained))
    if features.shape[1] != of_trained.shape[1]:
        raise InputError(f"{folder}: features of test films are of another backbone than those of training films")
    return found | {"nearest training clip": floors.nearest_captions(features, of_trained, texts)}


def inputs_of(args: Namespace) -> tuple[Path | None, Path | None]:
    """The table of captions and the folder of features: those that are named, or those of the first run if they are
    there."""
    table, folder = args.captions, args.features
    config = args.captions_files[0] / "config.yaml"
    if config.is_file():
        data = load_settings(CaptionSettings, config).data
        table = table or (Path(data.captions) if is_there(data.captions) else None)
        folder = folder or (Path(data.video_path) if is_there(data.video_path) else None)
    return table, folder


def rows_of(said: Sequence[Said], captions: Sequence[Caption], table: Path) -> list[Caption]:
    """The rows of the table that clips are."""
    by_clip = {(row.film, row.clip): row for row in captions}
    for clip in said:
        if (clip.film, clip.clip) not in by_clip:
            raise InputError(f"{table}: has no clip {clip.clip} of {shown(clip.film)}, which was captioned")
    return [by_clip[clip.film, clip.clip] for clip in said]


def describe(scored: Scored, args: Namespace, is_floor: bool = False) -> dict[str, Any]:
    """Scores with their intervals, which are printed too."""
    scores = summarise(scored.scores, args.average)
    ends = intervals(scored.scores, scored.films, args.average, args.seed)
    print_row(scored.name, scores, ends)
    captions = {clip.caption for clip in scored.said}
    if is_floor:
        return {"scores": scores, "intervals": ends} | ({"caption": min(captions)} if len(captions) == 1 else {})
    counts = {"clips": len(scored.said), "films": len(set(scored.films)), "empty": num_empty(scored.said)}
    return {"name": scored.name, "average": args.average, **counts, "scores": scores, "intervals": ends}


def differences(first: Scored, other: Scored, args: Namespace) -> dict[str, dict[str, Any]]:
    """How much the first is better, which is printed too."""
    found = paired_differences(first.scores, other.scores, first.films, args.average, args.seed)
    by, ends = {name: pair[0] for name, pair in found.items()}, {name: pair[1] for name, pair in found.items()}
    print_row(f"{first.name} less {other.name}", by, ends)
    return {name: {"by": by[name], "interval": ends[name]} for name in found}


def num_empty(said: Sequence[Said]) -> int:
    """How many captions have no word to be compared."""
    return sum(not tokens(clip.caption) for clip in said)


def write_scores(path: Path, told: Mapping[str, Any]) -> None:
    with written_whole(path) as part:
        part.write_text(json.dumps(told, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def print_head(first: Scored, average: str) -> None:
    print(f"{len(first.said)} clips of {len(set(first.films))} films; x 100; ", end="")
    print("of the corpus" if average == "corpus" else "means over clips")
    print(f"{'':24}" + "".join(f"{head:>{WIDTH}}" for head in HEADS))


def print_row(name: str, scores: Mapping[str, float | None], ends: Mapping[str, Interval | None]) -> None:
    """Two lines of the table: scores, and below them their intervals."""
    values = [scores.get(metric) for metric in METRICS]
    print(f"{name[:24]:24}" + "".join(f"{'-' if value is None else f'{100 * value:.2f}':>{WIDTH}}" for value in values))
    pairs = [ends.get(metric) for metric in METRICS]
    if any(pairs):
        cells = ["" if pair is None else f"[{100 * pair[0]:.1f}, {100 * pair[1]:.1f}]" for pair in pairs]
        print((f"{'':24}" + "".join(f"{cell:>{WIDTH}}" for cell in cells)).rstrip())


def tell_rest(scored: Sequence[Scored]) -> None:
    """What a reader of the table must know: empty captions, METEOR that is not there, where all is."""
    for each in scored:
        if empty := num_empty(each.said):
            print(f"{each.name}: {empty} of {len(each.said)} captions are empty, and score 0")
    if isinstance(scored[0].scores.meteor, str):
        print(f"METEOR: {scored[0].scores.meteor}")
    if len(set(scored[0].films)) < 2:
        print("intervals: not computed: need two films or more")
    print("scores: " + ", ".join(str(each.target) for each in scored))


def parse_arguments() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    add = parser.add_argument
    add(
        "captions_files",
        type=Path,
        nargs="+",
        metavar="RUN|FILE",
        help="a run's folder, or a file such as captions.json",
    )
    add("--reference_file", type=Path, action="append", default=[], help="captions to compare with; may be repeated")
    add("--average", choices=("corpus", "clips"), default="corpus", help="of BLEU and METEOR")
    add("--captions", type=Path, help="table with the training captions, for floors; a run's own if it is there")
    add("--features", type=Path, help="folder of feature files, for a floor; a run's own if it is there")
    add("--seed", type=whole_number(0), default=0, help="of what is drawn")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
