"""Step 2: turn every frame of every film, or every 16 frames, into 512 numbers (or as many as the backbone gives).

  python preprocess_videos.py                                   videos/ -> video-features/, ImageNet's ResNet18
  python preprocess_videos.py --weights resnet18.pth            weights from a file, where downloads are blocked
  python preprocess_videos.py --weights random:0                an untrained network, for a quick try
  python preprocess_videos.py --backbone convnext_tiny          any image classifier of torchvision
  python preprocess_videos.py --backbone openai/clip-vit-base-patch32 --fps 5       CLIP's, of 5 frames a second
  python preprocess_videos.py --alter_every 30                  altered frames too, one in 30, to probe memory with
  python preprocess_videos.py --shard 2/8                       every eighth film from the second, for jobs that share
  torchrun --nproc_per_node=4 preprocess_videos.py              the same by four processes, each on a GPU of its own
  python preprocess_videos.py --backbone r3d_18 --output_dir clip-features       clips of 16 frames, not single frames
  python preprocess_videos.py --backbone r3d_18 --weights runs/films/weights.safetensors --output_dir self-features
                                                                a network that `python -m backbones.pretrain` trained

Writes one feature file a film, <output_dir>/<stem>.h5, and videos.csv, their list. A file also
says where the film's shots begin (PySceneDetect) and may hold features of frames mirrored, cropped and brightened.
Films that cannot be decoded to their end are listed in failed.csv and leave no feature file; the exit status is then 1.
Run it again after an interruption or with new films: finished films are kept. A film that was changed since stops it.
Several processes may write to one folder; a shard lists its failures in failed_<i>_of_<n>.csv.

A network for videos reads windows of 16 frames, one after the other: the file has a row for a window where it has one
for a frame otherwise, with the time of the window's middle frame, its ninth. Films shorter than a window are listed in
failed.csv. generate_dataset.py then counts windows where it says frames; 10 s of 30 frames a second are 19 of them:

  python generate_dataset.py --input_dir clip-features --output_dir clip-features \\
      --clip_length 19 --clip_margin 10 --subsample 1

A network that was trained here has weights which say how it sees: how many frames a window has, and how many of them a
second. A film of 30 frames a second then gives every fourth frame for 7.5; the stride between windows stays in frames
of the film, 64 for 16 such frames. --clip_fps does the same for torchvision's. Films from which the network has learned
are marked in their feature files: generate_dataset.py lets them train memories, never test them.

CLIP needs transformers: pip install -e '.[captioning]'. Its embeddings are those of the pictures (image_embeds), of the
length in which they come. With --fps the file has a row for each frame that is read; its name for the backbone says so.

With a --window_stride K below 16 windows overlap: a --clip_margin of 16 / K or more keeps far new probes free of frames
that were studied, but near and same_shot ones may show some. Windows of every n-th frame overlap below 16 n.
"""

import os
import sys
from argparse import ArgumentTypeError, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recognition.common.command_line import (
    ArgumentParser,
    Failure,
    InputError,
    folder_path,
    number_between,
    one_line,
    path_or_word,
    run,
    whole_number,
)
from recognition.common.machine import granted_cores

if TYPE_CHECKING:
    from recognition.features.backbone import Backbone
    from recognition.features.extraction import Outcome
    from recognition.features.feature_file import FeatureHeader


def main() -> int:
    args = parse_arguments()
    from recognition.features.backbone import Backbone, choose_device

    videos = films_of_shard(args)
    device = choose_device(args.device)
    backbone = Backbone(
        args.backbone,
        args.weights,
        device,
        fast=args.dtype == "float16",
        stride=args.window_stride,
        fps=args.clip_fps,
        gates=temporal_gates(args.temporal_gates),
        frame_fps=args.fps,
    )
    args.output_dir.mkdir(parents=True, exist_ok=True)
    todo, failures = films_to_do(videos, backbone, args)
    num_finished = len(videos) - len(todo) - len(failures)
    print(
        f"{len(videos)} films, {num_finished} of them finished; {backbone.name}, with weights "
        f"{backbone.weights} on {device}, computed in {str(backbone.compute_dtype).removeprefix('torch.')}, "
        f"stored as {args.dtype}"
    )
    if args.weights.startswith("random:"):
        print("These weights have learned nothing: good for a try, not for results.")
    elif args.weights == "DEFAULT" and backbone.eye and backbone.eye.gates is not None:
        print("The temporal gates have learned nothing; give weights of a network that was trained with them.")
    new_failures = process(todo, backbone, args)
    failures += new_failures

    headers, unread = write_lists(args.output_dir, failures, args.shard)
    unit, num_rows = "frames" if backbone.preprocessing.window == 1 else "windows", sum(h.num_frames for h in headers)
    print(f"{args.output_dir}: {len(headers)} films, {num_rows} {unit}; list in {args.output_dir / 'videos.csv'}")
    if num_seen := sum(header.seen_by_backbone for header in headers):
        print(f"The backbone has learned from {num_seen} of them: generate_dataset.py puts these into training alone")
    if headers and (len(new_failures) < len(todo) or not failures):
        tell_geometry(args.output_dir, headers)
    if unread:
        print(f"Feature files that could not be read and are not in that list: {', '.join(unread)}", file=sys.stderr)
    if failures:
        print(
            f"Films without features: {len(failures)}; list in {failed_file(args.output_dir, args.shard)}",
            file=sys.stderr,
        )
    return 1 if failures or unread else 0


def parse_arguments() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--input_dir", type=folder_path, default=Path("videos"), help="folder with the films")
    parser.add_argument(
        "--output_dir", type=folder_path, default=Path("video-features"), help="folder for the feature files"
    )
    parser.add_argument(
        "--backbone",
        type=path_or_word,
        default="resnet18",
        help="name of a classifier in torchvision.models or torchvision.models.video, or of a network in "
        "models/clip_networks.py; srtg_NAME has temporal gates as published; or a CLIP of transformers, by a "
        "name with a slash or as a folder",
    )
    parser.add_argument(
        "--weights",
        type=path_or_word,
        default="DEFAULT",
        help="DEFAULT (of ImageNet or Kinetics, downloaded), random:SEED or a file, such as weights.safetensors of "
        "backbones.pretrain; films on which that was trained are marked, see generate_dataset.py",
    )
    parser.add_argument(
        "--batch_size", type=whole_number(1), help="frames the network sees at once; 64 on a GPU, 16 on a CPU"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--workers",
        type=whole_number(0),
        help="processes that decode and, on a CPU, run the network; 0 does both in this one; by the number of cores",
    )
    parser.add_argument(
        "--dtype",
        choices=["float16", "float32"],
        default="float16",
        help="of the stored features; float16 also lets the network compute in half precision where that is faster",
    )
    parser.add_argument(
        "--alter_every",
        type=whole_number(0),
        default=0,
        metavar="K",
        help="compute features of every K-th frame mirrored, cropped and brightened too, for probes of "
        "generate_dataset.py; costs 3 / K of the time; 0: of none",
    )
    parser.add_argument(
        "--window_stride",
        type=whole_number(1),
        metavar="K",
        help="frames from the start of a window to that of the next, for networks for videos; unless given, as many as "
        "let no frame be in two windows, 16 where a window has 16 consecutive frames",
    )
    parser.add_argument(
        "--fps",
        type=number_between(0.1, 1000),
        metavar="F",
        help="read the frames that come nearest to F even times a second, not all; for networks for images",
    )
    parser.add_argument(
        "--clip_fps",
        type=number_between(0.1, 1000),
        metavar="F",
        help="let windows have F frames a second, as nearly as every n-th frame of each film gives them; 15 for "
        "torchvision's networks for videos, which were trained with that; consecutive frames unless given, or what "
        "weights of this project say",
    )
    parser.add_argument(
        "--temporal_gates",
        nargs="*",
        metavar="SETTING",
        help="put squeeze-and-recursion gates into a residual network for videos; --weights PATH are those of the "
        "network with its gates, and say themselves which if they come from this project. Settings of "
        "models/temporal_gates.py, such as fuse=residual gate=cycle stages=[3,4]",
    )
    parser.add_argument(
        "--shard",
        type=parse_shard,
        default="1/1",
        metavar="I/N",
        help="do every N-th film from the I-th; torchrun's processes share the films without being told",
    )
    parser.add_argument("--overwrite", action="store_true", help="redo films that have a feature file")
    args = parser.parse_args()
    if args.shard == (1, 1) and "TORCHELASTIC_RUN_ID" in os.environ:
        args.shard = int(os.environ["RANK"]) + 1, int(os.environ["WORLD_SIZE"])
    return args


def parse_shard(text: str) -> tuple[int, int]:
    """The I and N of "I/N", 1 <= I <= N."""
    place, _, number = text.partition("/")
    if not (place.isdecimal() and number.isdecimal() and 1 <= int(place) <= int(number)):
        raise ArgumentTypeError(f"{text!r} is not of the form I/N with 1 <= I <= N, such as 2/8")
    return int(place), int(number)


def temporal_gates(words: list[str] | None) -> dict[str, Any] | None:
    """Settings of temporal gates in words such as "fuse=residual"; None for None."""
    if words is None:
        return None
    import yaml

    from models.temporal_gates import check_settings

    settings = {}
    for word in words:
        name, _, value = word.partition("=")
        try:
            check_settings([name])
        except ValueError as error:
            raise InputError(f"--temporal_gates {word}: {error}") from None
        try:
            settings[name] = yaml.safe_load(value)
        except Exception:  # yaml raises many kinds, for a date or a number that is none
            raise InputError(f"--temporal_gates {word}: cannot be read as a value") from None
    return settings


def films_of_shard(args: Namespace) -> list[Path]:
    """The films of the folder that are this shard's; says what of the folder is passed over."""
    from recognition.films.video import files_passed_over, find_videos

    videos = find_videos(args.input_dir)
    if others := files_passed_over(args.input_dir):
        endings = ", ".join(sorted({path.suffix.lower() or "none" for path in others}))
        print(f"{args.input_dir}: {len(others)} files passed over, by the endings of their names no films ({endings})")
    place, num_shards = args.shard
    return videos[place - 1 :: num_shards]


def films_to_do(videos: list[Path], backbone: "Backbone", args: Namespace) -> "tuple[list[Path], list[Outcome]]":
    """The films without features, and those that cannot be looked at, which are named. Raises InputError as
    `finished` does."""
    from recognition.common.files import why
    from recognition.features.extraction import Outcome
    from recognition.features.finished import finished
    from recognition.films.video import DECODER

    todo: list[Path] = []
    failures: list[Outcome] = []
    wanted = {
        "backbone": backbone.name,
        "weights": backbone.weights,
        "weights_sha256": backbone.weights_sha256,
        "decoder": DECODER,
        "dtype": args.dtype,
        "alter_every": args.alter_every,
    }
    otherwise = "name another --output_dir, or redo its films with --overwrite"
    for video in videos:
        try:
            if args.overwrite or not finished(video, args.output_dir, wanted, otherwise):
                video.stat()
                todo.append(video)
        except OSError as error:  # features that are there are kept: nothing is known of them or of their film
            failures.append(Outcome(video, None, why(error)))
            print(one_line(f"{video.name}: {failures[-1].failure}"), file=sys.stderr)
    return todo, failures


def process(videos: list[Path], backbone: "Backbone", args: Namespace) -> "list[Outcome]":
    """Make the feature files of some films; returns what failed, which is named at once."""
    import torch
    from tqdm import tqdm

    from recognition.common.allocator import keep_freed_memory
    from recognition.features.extraction import Storage, extract

    claimed = {video: claimed_frames(video) for video in videos}
    videos = sorted(videos, key=lambda video: claimed[video], reverse=True)  # no worker is left with a long film
    on_gpu = backbone.device.type == "cuda"
    if not on_gpu:
        keep_freed_memory()
    storage = Storage(args.dtype, args.alter_every)
    batch_size = args.batch_size or (64 if on_gpu else 16)  # larger ones leave a CPU's caches
    workers = choose_workers(on_gpu, len(videos)) if args.workers is None else args.workers
    failures = []
    try:
        with tqdm(total=sum(claimed.values()), unit="frame", smoothing=0.05, disable=not videos) as bar:
            for result in extract(videos, args.output_dir, backbone, storage, batch_size, workers):
                if isinstance(result, int):
                    bar.update(result)
                elif result.failure:
                    failures.append(result)
                    bar.write(one_line(f"{result.video}: {result.failure}"), file=sys.stderr)
    except torch.cuda.OutOfMemoryError:
        raise InputError(f"--batch_size {batch_size}: too much for the memory of {backbone.device}; try half") from None
    return failures


def claimed_frames(video: Path) -> int:
    """How many frames a film says that it has, 0 if it cannot be read."""
    from recognition.films.video import DecodeError, probe

    try:
        return probe(video).num_frames
    except DecodeError:
        return 0


def choose_workers(on_gpu: bool, num_films: int) -> int:
    """As many processes as this one may keep cores busy. A CPU with a single film does better with all its threads in
    one."""
    num_cores = granted_cores()
    if on_gpu:
        return max(1, min(16, num_cores - 1))
    return 0 if num_films <= 1 else min(num_cores, num_films)


def write_lists(
    output_dir: Path, failures: "list[Outcome]", shard: tuple[int, int]
) -> "tuple[list[FeatureHeader], list[str]]":
    """Write the list of failures, and videos.csv from the feature files; returns the headers of the files in it, and
    which files the system did not let be read."""
    import pandas as pd

    from recognition.common.files import why, written_whole
    from recognition.features.feature_file import DamagedFile, feature_files, read_header

    file = failed_file(output_dir, shard)
    for earlier in [file] if shard[1] > 1 else output_dir.glob("failed*.csv"):
        earlier.unlink(missing_ok=True)
    if failures:
        with written_whole(file) as part:
            reasons = [(one_line(f.video.name), f.failure) for f in sorted(failures, key=lambda f: f.video)]
            pd.DataFrame(reasons, columns=["video", "reason"]).to_csv(part, index=False)
    listed = None
    while listed != (paths := feature_files(output_dir)):  # another process may have added one meanwhile
        headers, unread = [], []
        for path in paths:
            try:
                headers.append(read_header(path))
            except DamagedFile as error:
                raise Failure(f"{error}; delete it, or run again with its film in --input_dir") from None
            except OSError as error:
                unread.append(why(error))
        rows = [(h.video_id, h.num_frames, h.fps, round(h.duration_s, 3)) for h in headers]
        with written_whole(output_dir / "videos.csv") as part:
            pd.DataFrame(rows, columns=["video_id", "num_frames", "fps", "duration_s"]).to_csv(part, index=False)
        listed = paths
    return headers, unread


def tell_geometry(output_dir: Path, headers: "list[FeatureHeader]") -> None:
    """Say how the features of the films lie in space. Nothing if there are too few frames to tell, or if files of the
    folder do not go together: that is for the steps which read them."""
    from recognition.features.feature_bank import FeatureBank
    from recognition.features.geometry import describe_geometry, geometry_lines

    try:
        bank = FeatureBank(output_dir, [header.video_id for header in headers], place="mapped")
        numbers, advice = geometry_lines(describe_geometry(bank))
    except (InputError, OSError):
        return
    print(f"Features: {numbers}\n{advice}")


def failed_file(output_dir: Path, shard: tuple[int, int]) -> Path:
    """Where the failures of a shard are listed."""
    place, num_shards = shard
    return output_dir / (f"failed_{place}_of_{num_shards}.csv" if num_shards > 1 else "failed.csv")


if __name__ == "__main__":
    run(main)
