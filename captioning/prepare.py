"""Make captions.csv, the table that training reads, of captions as they come.

  python -m captioning.prepare activitynet --train train.json --test val_1.json --films_list films.csv
  python -m captioning.prepare films videos --table mine.csv
  python -m captioning.prepare rows --train train.npz --test test.npz

activitynet reads the files of ActivityNet Captions, or the rows of its copy on the hub (video_id, captions_starts,
captions_ends, en_captions) as .json or .jsonl. Its films come by step 1 and become features by step 2:

  python download_videos.py --list films.csv
  python preprocess_videos.py

films reads a table of your own, in CSV or JSON: film (or video), start_s (or start), end_s (or end), caption and, if
you like, split: train, validation or test. Films without one get it by chance. JSON as ActivityNet's is read too.

rows reads features that the published captioner has computed, and writes a feature file for each film, in which its
clips follow each other. Of pickles nothing is read but arrays, numbers, text, lists and dicts; what else is in one is
named and refused. The owner of such a file can save it as .npz:

{recipe}
"""

import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from captioning.caption_sources import Segment, activitynet, as_captions, draw_splits, is_wrong, own_table
from captioning.captions import SPLITS, Caption, checked, write_captions
from captioning.row_features import read_split, write_row_features
from captioning.safe_rows import RECIPE
from recognition.common.command_line import (
    ArgumentParser,
    InputError,
    as_folder,
    folder_path,
    number_between,
    run,
    shown,
    whole_number,
)
from recognition.common.files import written_whole
from recognition.films.manifest import VIDEO_ID, Film
from recognition.films.video import VIDEO_SUFFIXES, DecodeError, find_videos, probe


def main() -> None:
    args = parse_arguments()
    as_folder(args.output.parent)
    make = {"activitynet": prepare_activitynet, "films": prepare_films, "rows": prepare_rows}[args.command]
    captions = make(args)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_captions(args.output, captions)
    films = Counter({row.film: row.split for row in captions}.values())
    clips = Counter(row.split for row in captions)
    told = ", ".join(f"{clips[split]} clips of {films[split]} films for {split}" for split in SPLITS if clips[split])
    print(f"{args.output}: {told}")


def prepare_activitynet(args: Namespace) -> list[Caption]:
    """Captions of ActivityNet's files, and the list of their films if that is asked for."""
    segments: list[Segment] = []
    for split, path in given_files(args).items():
        of_file = activitynet(path)
        first = list(dict.fromkeys(segment.film for segment in of_file))[: getattr(args, f"n_{split}")]
        segments += [segment._replace(split=split) for segment in of_file if segment.film in set(first)]
    if args.validation is None and args.train:
        trained = [segment.film for segment in segments if segment.split == "train"]
        drawn = draw_splits(trained, {"validation": args.validation_share}, args.seed)
        segments = [
            segment._replace(split=drawn[segment.film]) if segment.split == "train" else segment for segment in segments
        ]
    kept = without_wrong(segments, is_wrong, args.leave_out_wrong)
    captions = checked(as_captions(kept), args.train or args.validation or args.test)
    if args.films_list:
        write_films_list(args.films_list, kept)
    return captions


def prepare_films(args: Namespace) -> list[Caption]:
    """Captions of films of one's own."""
    films = {path.stem: path for path in find_videos(args.films)}
    segments = [segment._replace(film=stem_of(segment.film)) for segment in own_table(args.table)]
    lengths = {film: length_of(films[film]) for film in {segment.film for segment in segments} & films.keys()}
    segments = [segment._replace(duration_s=lengths.get(segment.film, segment.duration_s)) for segment in segments]

    def wrong(segment: Segment) -> str | None:
        if segment.film not in films:
            return f"{segment.place}: there is no film {shown(segment.film)} in {args.films}"
        return is_wrong(segment)

    kept = without_wrong(segments, wrong, args.leave_out_wrong)
    undecided = [segment.film for segment in kept if not segment.split]
    drawn = draw_splits(undecided, {"validation": args.validation_share, "test": args.test_share}, args.seed)
    kept = [segment if segment.split else segment._replace(split=drawn[segment.film]) for segment in kept]
    return checked(as_captions(kept), args.table)


def prepare_rows(args: Namespace) -> list[Caption]:
    """Captions of published rows, whose features become feature files."""
    rows, captions = {}, []
    for split, path in given_files(args).items():
        rows[split], of_split = read_split(path, split, args.fps, args.tokenizer)
        captions += of_split
    captions = checked(captions, next(iter(given_files(args).values())))
    args.features.mkdir(parents=True, exist_ok=True)
    for of_film in rows.values():
        write_row_features(args.features, of_film, args.fps)
    return captions


def given_files(args: Namespace) -> dict[str, Path]:
    """The files that are given, a split each. Raises InputError if none is."""
    files = {split: getattr(args, split) for split in SPLITS if getattr(args, split)}
    if not files:
        raise InputError("give one or more of --train, --validation and --test")
    return files


def without_wrong(
    segments: Sequence[Segment], wrong: Callable[[Segment], str | None], leave_out: bool
) -> list[Segment]:
    """Segments of which nothing is wrong. Raises InputError for the first other one, unless those are to be left out,
    which is told."""
    found = [(segment, wrong(segment)) for segment in segments]
    reasons = [reason for _, reason in found if reason]
    if reasons and not leave_out:
        others = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        raise InputError(f"{reasons[0]}{others}; --leave_out_wrong goes on without")
    for reason in reasons:
        print(f"{reason}; left out", file=sys.stderr)
    return [segment for segment, reason in found if reason is None]


def stem_of(film: str) -> str:
    """A film's name without the suffix of films."""
    path = Path(film)
    return path.stem if path.suffix.lower() in VIDEO_SUFFIXES else film


def length_of(path: Path) -> float | None:
    """How long a film says it is, in seconds; None where it says nothing. Raises InputError if it is no film."""
    try:
        info = probe(path)
    except DecodeError as error:
        raise InputError(f"{path}: cannot be read as a film ({error})") from None
    return info.num_frames / info.fps if info.fps and info.num_frames else None


def write_films_list(path: Path, segments: Sequence[Segment]) -> None:
    """Write the list of films that step 1 downloads."""
    import csv

    films = {}
    for segment in segments:
        if not VIDEO_ID.fullmatch(segment.film):
            raise InputError(f"{segment.place}: {shown(segment.film)} is no ID of a film on YouTube; step 1 needs one")
        address = segment.address or f"https://www.youtube.com/watch?v={segment.film}"
        films[segment.film] = Film(segment.film, address, segment.film)
    with written_whole(path) as part, open(part, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([Film._fields, *films.values()])
    print(f"{path}: {len(films)} films, for python download_videos.py --list {path}")


def parse_arguments() -> Namespace:
    parser = ArgumentParser(description=(__doc__ or "").format(recipe=RECIPE))
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, description: str = "") -> ArgumentParser:
        added = commands.add_parser(name, help=text, description=description or text, prog=f"{parser.prog} {name}")
        added.add_argument("--output", type=Path, default=Path("captions.csv"), help="the table to write")
        return added

    def splits(added: ArgumentParser) -> None:
        for split in SPLITS:
            added.add_argument(f"--{split}", type=Path, metavar="FILE", help=f"captions of the {split} films")

    def choice(added: ArgumentParser, whose: str, *names: str) -> None:
        for name in names:
            added.add_argument(
                f"--{name}_share", type=number_between(0, 0.9), default=0.1, help=f"of {whose}, for {name}"
            )
        added.add_argument("--seed", type=whole_number(0), default=0, help="of the choice of these films")
        added.add_argument(
            "--leave_out_wrong", action="store_true", help="go on without segments that are outside their film and such"
        )

    of_set = command("activitynet", "captions of ActivityNet, or files alike")
    splits(of_set)
    for split in SPLITS:
        of_set.add_argument(f"--n_{split}", type=whole_number(1), help=f"take only the first N films of --{split}")
    choice(of_set, "training films if --validation is not given", "validation")
    of_set.add_argument("--films_list", type=Path, metavar="FILE", help="write the list of films for step 1 too")
    own = command("films", "captions of a folder of films, by a table")
    own.add_argument("films", type=Path, help="folder with the films")
    own.add_argument("--table", type=Path, required=True, help="CSV or JSON file of film, start_s, end_s, caption")
    choice(own, "films without a split", "validation", "test")
    recipe = "Features and captions of the published captioner. To save such a pickle as .npz:\n\n" + RECIPE
    rows = command("rows", "features and captions of the published captioner", recipe)
    splits(rows)
    rows.add_argument("--features", type=folder_path, default=Path("video-features"), help="folder for feature files")
    rows.add_argument("--fps", type=number_between(0.001, 1000), default=5.0, help="frames a second of the rows")
    rows.add_argument("--tokenizer", help="name or folder of the tokeniser, if captions are numbers of tokens: gpt2")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
