"""Say what happens in any film, piece after piece, as a trained captioner has it.

  python -m captioning.predict runs/memory video-features/heat.h5                  pieces of 5 s
  python -m captioning.predict runs/memory films/heat.mp4 --every 10               from the film itself
  python -m captioning.predict runs/memory films/*.mp4 --segments captions.csv     the pieces of a table
  python -m captioning.predict runs/memory heat.h5 --segments 0-5,5-12.5 --output heat.json
  python -m captioning.predict runs/memory films/*.mp4 --numbered captions.json    for other programs that score

Prints a line a piece: its time, its caption, and the pieces that memory read most, by their numbers. --output writes
the same in the form of captions.json, with references where the table has them; --numbered {running number: text}.

Feature files must be by the network of the run's features. For a film they are made on the way, if that network is one
for images and can be had: its weights are those that preprocess_videos.py was given for the run. Settings of generation
may be given, as to python -m captioning.generate.
"""

import json
from argparse import ArgumentTypeError, Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from recognition.common.command_line import ArgumentParser, InputError, number_between, path, run

if TYPE_CHECKING:
    from captioning.captions import Caption
    from captioning.dataset import CaptionDataset
    from captioning.said import Said


def main() -> None:
    from captioning.captioning_task import write_captions
    from captioning.eyes import check_features
    from captioning.said import write_said
    from captioning.saying import retrieved_clips, said_of
    from captioning.session import settings_of_run, trained_captioner
    from recognition.training.devices import launch
    from recognition.training.runs import Run

    args = parse_arguments()
    args.trained = Run(args.run)
    args.config = settings_of_run(args.trained, args.settings)
    fabric = launch(args.config.training.model_copy(update={"num_devices": 1}))
    said: list[Said] = []
    model = None
    for films in opened(args):
        check_features(args.trained, films.headers)
        model = model or trained_captioner(args.trained, args.config, fabric, films.num_features)
        captions = write_captions(fabric, model, films, args.config)
        [of_film] = said_of(films, captions, retrieved_clips(fabric, model, films, args.config))
        print("\n".join([films.films[0], *map(line, of_film)]), flush=True)
        said += of_film
    if args.output:
        write_said(args.output, said)
    if args.numbered:
        write_numbered(args.numbered, said)


def line(clip: "Said") -> str:
    """What is said of a piece, for the terminal."""
    shares = ", ".join(f"{read.clip} ({read.share:.2f})" for read in clip.retrieved)
    read = f"   [read: {shares}]" if shares else ""
    return f"{clip.clip:4}  {clip.start_s:.1f}-{clip.end_s:.1f} s  {clip.caption or '(nothing)'}{read}"


def opened(args: Namespace) -> "Iterator[CaptionDataset]":
    """Each film by itself, in the order of the command line. Raises InputError."""
    from tempfile import TemporaryDirectory

    from captioning.captions import read_captions
    from captioning.dataset import CaptionDataset
    from recognition.common.files import is_there

    table = read_captions(args.segments) if isinstance(args.segments, Path) else None
    for file in args.films:
        if not is_there(file) or file.is_dir():
            raise InputError(f"{file}: no such film or feature file")
    names = [file.stem for file in args.films]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"{twice[0]}: two files have this name, and captions are kept by it; rename one")
    data = args.config.data
    for file in args.films:
        with ExitStack() as stack:
            if file.suffix != ".h5":
                file = features_of(file, Path(stack.enter_context(TemporaryDirectory())), args)
            pieces = pieces_of(file, args, table)
            yield CaptionDataset(pieces, file.parent, data.frames_per_clip, data.frames, "test")


def pieces_of(file: Path, args: Namespace, table: "Sequence[Caption] | None") -> "list[Caption]":
    """The pieces of a film, without captions but those of a table. Raises InputError."""
    from captioning.captions import Caption
    from recognition.features.feature_file import DamagedFile, read_header, read_times

    if table is not None:
        rows = [row for row in table if row.film == file.stem]
        if not rows:
            raise InputError(f"{args.segments}: has no segments of {file.stem}")
        return [Caption(row.film, row.clip, row.start_s, row.end_s, row.caption, "test", row.place) for row in rows]
    segments = args.segments
    if segments is None:
        try:
            fps, times = read_header(file).fps, read_times(file)
        except DamagedFile as error:
            raise InputError(str(error)) from None
        end_s = float(times[-1]) + (1 / fps if fps else 0)
        num = max(1, round(end_s / args.every))  # the last one takes a rest of less than half
        segments = [(k * args.every, (k + 1) * args.every if k < num - 1 else end_s) for k in range(num)]
    return [
        Caption(file.stem, number, start_s, end_s, "", "test", f"--segments {start_s:g}-{end_s:g}")
        for number, (start_s, end_s) in enumerate(segments)
    ]


def features_of(film: Path, folder: Path, args: Namespace) -> Path:
    """Make a film's feature file in a folder as those of the run were made. Raises InputError."""
    from captioning.eyes import read_features
    from recognition.features.backbone import choose_device
    from recognition.features.extraction import Outcome, Storage, extract
    from recognition.features.same_backbone import Network, same_backbone

    eye = read_features(args.trained)
    told = Network(eye["backbone"], eye["weights"], eye["weights_sha256"])
    device = choose_device(args.config.training.device)
    try:
        backbone = same_backbone(told, device, fast=eye["dtype"] == "float16")
    except InputError as error:
        advice = f"make its features by preprocess_videos.py as those of {args.trained.path}, and give that file"
        raise InputError(f"{film}: {error}; {advice}") from None
    for outcome in extract([film], folder, backbone, Storage(eye["dtype"]), 16, workers=0):
        if isinstance(outcome, Outcome) and outcome.failure:
            raise InputError(f"{film}: {outcome.failure}")
    return folder / f"{film.stem}.h5"


def write_numbered(file: Path, said: "Sequence[Said]") -> None:
    """Write {running number: text}."""
    from recognition.common.files import written_whole

    texts: Mapping[str, str] = {str(number): clip.caption for number, clip in enumerate(said)}
    with written_whole(file) as part:
        part.write_text(json.dumps(texts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def segments_of(text: str) -> Path | list[tuple[float, float]]:
    """An argparse type: a table, or times such as 0-5,5-12.5."""
    if text.endswith(".csv"):
        return path(text)
    try:
        pairs = [tuple(map(float, part.split("-"))) for part in text.split(",")]
        found = [(start_s, end_s) for start_s, end_s in pairs]
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is neither a table (.csv) nor times such as 0-5,5-12.5") from None
    for start_s, end_s in found:
        if not 0 <= start_s < end_s < float("inf"):
            raise ArgumentTypeError(f"{start_s:g}-{end_s:g} does not end after it starts")
    return sorted(found)


def parse_arguments(words: Sequence[str] | None = None) -> Namespace:
    usage = "%(prog)s RUN FILM_OR_FEATURE_FILE... [--every S | --segments FILE|TIMES] [key=value ...]"
    parser = ArgumentParser(description=__doc__, usage=usage)
    parser.add_argument("run", type=path, help="folder of the run")
    parser.add_argument("films", nargs="+", metavar="film", help="films or their feature files; settings, too")
    cut = parser.add_mutually_exclusive_group()
    cut.add_argument(
        "--every", type=number_between(0.01, 1e6), default=5.0, metavar="S", help="length of a piece, in s"
    )
    cut.add_argument("--segments", type=segments_of, help="a table such as captions.csv, or times such as 0-5,5-12.5")
    parser.add_argument("--output", type=path, help="write captions, in the form of captions.json")
    parser.add_argument("--numbered", type=path, help="write {running number: text}")
    args = parser.parse_intermixed_args(words)
    settings = [word for word in args.films if "=" in word and not Path(word).exists()]
    args.films = [path(word) for word in args.films if word not in settings]
    if not args.films:
        parser.error("no film is given")
    args.settings = settings
    return args


if __name__ == "__main__":
    run(main)
