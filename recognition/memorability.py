"""How memorable every probe frame is to people, to see whether models agree.

  python -m recognition.memorability video-features/test_indices.h5 --weights resmem/model.pt
  python -m recognition.memorability video-features/test_indices*.h5 --weights resmem/model.pt    of several files
  python -m recognition.memorability video-features/test_indices.h5 --weights random:0          an untrained network
  python -m recognition.memorability x_indices.h5 --weights resmem/model.pt --layer features.layer4.2.conv3

Needs the episodes of step 3. Writes one file a film, memorability/<video_id>.h5 beside the features, where evaluate.py
finds them. With --layer it also holds what a layer of the network gives to each frame. The network is ResMem's (Needell
and Bainbridge 2022). Its weights are published for non-commercial research alone: read the licence of the package
resmem, install it elsewhere, and give its file resmem/model.pt with --weights. Scores are kept, so it can be stopped at
any moment and run again. Films that are missing or cannot be read are named; the exit status is then 1.
"""

import sys
from argparse import Namespace
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from recognition.common.command_line import (
    ArgumentParser,
    InputError,
    as_folder,
    folder_path,
    path_or_word,
    run,
    whole_number,
)

if TYPE_CHECKING:
    import numpy as np

    from recognition.episodes.index_file import EpisodeIndex


def main() -> int:
    args = parse_arguments()
    import torch
    from tqdm import tqdm

    from recognition.episodes.index_file import read_index
    from recognition.evaluation.memorability import Scorer
    from recognition.evaluation.memorability_file import SETTINGS
    from recognition.features.backbone import choose_device
    from recognition.films.video import DecodeError, find_videos

    indices = [read_index(path) for path in args.indices]
    films = {path.stem: path for path in find_videos(args.videos)}
    features = args.features or args.indices[0].parent
    check_features(features, indices)
    output_dir = as_folder(args.output_dir or features / "memorability")
    wanted = probed_frames(indices)
    device = choose_device(args.device)
    scorer = Scorer(args.weights, device, args.fit, args.layer)
    settings = {name: getattr(scorer, name) or "" for name in SETTINGS}
    output_dir.mkdir(parents=True, exist_ok=True)
    todo, failures = without_score(wanted, output_dir, settings, args.overwrite)
    num_wanted, num_todo = (sum(map(len, group.values())) for group in (wanted, todo))
    print(
        f"{num_wanted} frames of {len(wanted)} films are probed, {num_wanted - num_todo} of them have a score; "
        f"network of ResMem with weights {scorer.weights} (sha256 {scorer.weights_sha256[:12]}) on {device}"
    )
    if args.weights.startswith("random:"):
        print("These weights have learned nothing: the scores say nothing about what people remember.")
    else:
        print("ResMem's weights and scores made with them are for non-commercial research alone, see its licence.")

    batch_size = args.batch_size or (64 if device.type == "cuda" else 8)
    try:
        with tqdm(total=num_todo, unit="frame", disable=not todo) as bar:
            for video_id, places in todo.items():
                try:
                    film, times = find_film(video_id, films, features, args.videos)
                    parts = scorer.score_film(film, places[:, 0], places[:, 1], batch_size, times)
                    keep_scores(parts, places, output_dir / f"{video_id}.h5", settings, bar.update)
                except DecodeError as error:
                    failures.append(video_id)
                    bar.write(f"{video_id}: {error}", file=sys.stderr)
    except torch.cuda.OutOfMemoryError:
        raise InputError(f"--batch_size {batch_size}: too much for the memory of {device}; try half") from None
    print(f"{output_dir}: scores of {len(wanted) - len(failures)} films")
    if failures:
        print(f"Without scores, named above: {len(failures)}", file=sys.stderr)
    return 1 if failures else 0


def parse_arguments() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument(
        "indices", nargs="+", type=Path, metavar="INDEX", help="index files, such as video-features/test_indices.h5"
    )
    parser.add_argument(
        "--weights", required=True, type=path_or_word, help="the file with ResMem's weights, model.pt, or random:SEED"
    )
    parser.add_argument("--videos", type=folder_path, default=Path("videos"), help="folder with the films")
    parser.add_argument(
        "--features", type=folder_path, help="folder with the feature files; that of the first index if not given"
    )
    parser.add_argument(
        "--output_dir", type=folder_path, help="folder for the scores; memorability/ beside the features"
    )
    parser.add_argument(
        "--fit",
        choices=["squeeze", "letterbox"],
        default="squeeze",
        help="make frames square by squeezing them, as the network was trained, or between black bars",
    )
    parser.add_argument("--layer", help="also keep the spatial mean of every filter of this convolution, such as conv3")
    parser.add_argument(
        "--batch_size", type=whole_number(1), help="frames the network sees at once; 64 on a GPU, 8 on a CPU"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--overwrite", action="store_true", help="score anew what has a score")
    return parser.parse_args()


def check_features(folder: Path, indices: "list[EpisodeIndex]") -> None:
    """Raise InputError if the folder holds no features of the films of an index. Those of the published data set tell
    nothing of its films, so they need not be there."""
    for index in indices:
        if index.video_digests and not any((folder / f"{film}.h5").exists() for film in index.video_ids):
            raise InputError(f"--features {folder}: holds no features of the films of {index.path}; name their folder")


def probed_frames(indices: "list[EpisodeIndex]") -> "dict[str, np.ndarray]":
    """Frames that are probed in some indices, by film: (n, 2) [frame, alteration], ascending and distinct."""
    import numpy as np

    from recognition.evaluation.memorability_file import probe_alterations

    frames: dict[str, list[np.ndarray]] = {}
    for index in indices:
        video, frame = np.moveaxis(index.episodes.probes, -1, 0)
        places = np.stack([frame, probe_alterations(index.episodes)], -1)
        for number in np.unique(video):
            frames.setdefault(index.video_ids[number], []).append(places[video == number])
    return {video_id: np.unique(np.concatenate(frames[video_id]), axis=0) for video_id in sorted(frames)}


def without_score(
    wanted: "dict[str, np.ndarray]", folder: Path, settings: dict[str, str], overwrite: bool
) -> "tuple[dict[str, np.ndarray], list[str]]":
    """The frames (n, 2) of each film that have no score in the folder, and the films whose scores cannot be read, which
    are named."""
    from recognition.common.files import why

    todo, unread = {}, []
    for video_id, places in wanted.items():
        try:
            missing = without_scored(places, folder / f"{video_id}.h5", settings, overwrite)
        except OSError as error:  # scores that are there are kept
            unread.append(video_id)
            print(f"{video_id}: {why(error)}", file=sys.stderr)
            continue
        if len(missing):
            todo[video_id] = missing
    return todo, unread


def without_scored(frames: "np.ndarray", path: Path, settings: dict[str, str], overwrite: bool) -> "np.ndarray":
    """The frames (n, 2) that have no score in a film's file. Raises InputError if it was made another way."""
    import numpy as np

    from recognition.common.files import is_there
    from recognition.evaluation.memorability_file import places, read_scores

    if overwrite or not is_there(path):
        return frames
    scores, made = read_scores(path)
    for name, ours in settings.items():
        if made[name] != ours:
            raise InputError(
                f"{path} was made with {name} {made[name] or 'none'}, this run has {ours or 'none'}: name another "
                f"--output_dir, or redo its frames with --overwrite"
            )
    return frames[~np.isin(places(*frames.T), scores.place)]


def find_film(video_id: str, films: dict[str, Path], features: Path, folder: Path) -> "tuple[Path, np.ndarray | None]":
    """Where a film is, and the times of the rows of its feature file, None if it has none.

    Raises DecodeError if the film is missing or cannot be read, or is not the one that the features were made from.
    """
    from recognition.common.files import is_there, sha256, why
    from recognition.features.feature_file import DamagedFile, read_header, read_times
    from recognition.films.video import DecodeError

    if video_id not in films:
        raise DecodeError(f"no such film in {folder}")
    film, feature_file = films[video_id], features / f"{video_id}.h5"
    if not is_there(feature_file):  # as in the published data set
        return film, None
    try:
        if read_header(feature_file).video_sha256 != sha256(film):
            raise DecodeError(f"{film} is not the film that was preprocessed")
    except DamagedFile as error:
        raise InputError(f"{error}; run preprocess_videos.py again") from None
    except OSError as error:
        raise DecodeError(why(error)) from None
    return film, read_times(feature_file)


def keep_scores(
    parts: "Iterable[tuple[np.ndarray, np.ndarray]]",
    frames: "np.ndarray",
    path: Path,
    settings: dict[str, str],
    tell: Callable[[int], object],
) -> None:
    """Collect the scores of frames (n, 2) of a film and write its file, with what it held before.

    `tell` hears of every batch.
    """
    import numpy as np

    from recognition.common.files import is_there
    from recognition.evaluation.memorability_file import Scores, places, read_scores, write_scores

    batches = []
    for score, activations in parts:
        batches.append((score, activations))
        tell(len(score))
    columns = frames[:, 0].astype(np.int64), frames[:, 1].astype(np.uint8)
    scores = Scores(*columns, *map(np.concatenate, zip(*batches, strict=True)))
    if is_there(path):
        before, made = read_scores(path)
        is_kept = ~np.isin(before.place, places(*frames.T)) & (made == settings)
        scores = Scores(*(np.concatenate([old[is_kept], new]) for old, new in zip(before, scores, strict=True)))
    write_scores(path, path.stem, scores, settings)


if __name__ == "__main__":
    run(main)
