"""Score captions: BLEU, ROUGE-L, CIDEr-D and METEOR, with intervals over films and floors.

  python -m captioning.score runs/memory                                  the captions of a run's test films
  python -m captioning.score runs/memory runs/none                        and how much better the first is
  python -m captioning.score captions.json --captions captions.csv --features video-features
  python -m captioning.score captions.json --reference_file val_1.json --reference_file val_2.json
  python -m captioning.score generated.json --reference_file references.json    pairs of {running number: text}
  python -m captioning.score runs/memory --average clips                  means over clips, which some papers print
  python -m captioning.score runs/memory runs/none --videos films         with frames on the page

Scores are printed times 100, CIDEr-D with them, and written to scores.json beside the captions as they are. BLEU and
METEOR are those of the corpus: means over clips are other numbers. METEOR needs Java and the package pycocoevalcap.

An interval is of 95 %: the scores when films are drawn anew. Floors are captions that look at nothing: the commonest of
the training clips, the one that fits training clips best, the nearest training clip's by features, and the run's own
captions shuffled over clips. They need the table and the features, which a run's config.yaml names.

report.html beside scores.json shows all that: scores, floors and other runs, with figures; how well is said what was
seen so many clips ago, where a table tells that (--lags); and the films that went worst, with frames (--videos).
"""

import json
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from captioning import floors
from captioning.bootstrap import Interval, intervals, paired_differences
from captioning.captions import Caption, read_captions
from captioning.config import CaptionSettings
from captioning.metrics import METRICS, summarise, tokens
from captioning.report import HEADS, report_file, write_report
from captioning.retention import by_lag, by_place, read_lags
from captioning.said import Said
from captioning.scored import Scored, in_order_of, read_file
from recognition.common.command_line import ArgumentParser, InputError, folder_path, run, shown, whole_number
from recognition.common.files import is_there, written_whole
from recognition.training.config import load_settings

LAGS = "slots.csv"  # beside the table of captions: what made-up films have
WIDTH = 15  # of a column


def main() -> None:
    args = parse_arguments()
    files = [read_file(path, args.reference_file) for path in args.captions_files]
    if len({name for name, *_ in files}) < len(files):  # runs of one name in different folders
        files = [(str(path), *file[1:]) for path, file in zip(args.captions_files, files, strict=True)]
    scored = [Scored.of(name, target, in_order_of(files[0][2], name, said)) for name, target, said in files]
    first, *others = scored
    args.clip_lags = lags_of(args)
    below = floor_captions(args, first)
    print_head(first, args.average)
    told = describe(first, args) | {"floors": {}, "differences": {}}
    told_others = {}
    for other in others:
        told_others[other.name] = describe(other, args)
        write_scores(other.target, told_others[other.name])
        told["differences"][other.name] = differences(first, other, args)
    for name, texts in below.items():
        told["floors"][name] = describe(first.saying(name, texts), args, is_floor=True)
    write_scores(first.target, told)
    write_report(first.target, told, told_others, first.said, settings_of(args), args.videos)
    tell_rest(scored)


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
    if settings := settings_of(args):
        data = settings.data
        table = table or (Path(data.captions) if is_there(data.captions) else None)
        folder = folder or (Path(data.video_path) if is_there(data.video_path) else None)
    return table, folder


def settings_of(args: Namespace) -> CaptionSettings | None:
    """Those of the first run, if it is a run."""
    config = args.captions_files[0] / "config.yaml"
    return load_settings(CaptionSettings, config) if config.is_file() else None


def lags_of(args: Namespace) -> dict[tuple[str, int], int]:
    """How many clips ago each clip's thing was seen, by film and clip; of none if nothing tells."""
    table, _ = inputs_of(args)
    if args.lags:
        return read_lags(args.lags)
    beside = table and table.with_name(LAGS)
    return read_lags(beside) if beside and is_there(beside) else {}


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
    retention = {"by_lag": by_lag(scored, args.clip_lags, args.seed), "by_place": by_place(scored, args.seed)}
    told = {"name": scored.name, "average": args.average, **counts, "scores": scores, "intervals": ends}
    return told | {"retention": retention}


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
    print(f"{'':24}" + "".join(f"{head:>{WIDTH}}" for head in HEADS.values()))


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
    print(f"page: {report_file(scored[0].target).resolve()}")


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
    add(
        "--lags",
        type=Path,
        help=f"table of film, clip, lag_clips, for retention; {LAGS} beside --captions if it is there",
    )
    add("--videos", type=folder_path, help="folder with the films, for frames on the page")
    add("--seed", type=whole_number(0), default=0, help="of what is drawn")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
