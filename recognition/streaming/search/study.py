"""Studying films for a search: their features, by the step that makes those of training, film by film."""

import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from recognition.common.allocator import keep_freed_memory
from recognition.common.command_line import InputError, as_folder, one_line
from recognition.common.machine import granted_cores
from recognition.features.extraction import Storage, extract
from recognition.features.feature_file import FeatureHeader, feature_files
from recognition.features.finished import finished
from recognition.films.video import DECODER, VIDEO_SUFFIXES, DecodeError, find_videos, probe
from recognition.streaming.eye import Eye
from recognition.streaming.search.studied import StudiedFiles, read_headers

MOST_WORKERS = 16
BATCH = {"cpu": 16, "cuda": 64}  # frames


def open_studied(folder: Path, features: Path | None, eye: Eye) -> tuple[StudiedFiles, list[str]]:
    """The films of a folder, studied where that is still to do, or of a folder of feature files; and which films could
    not be.

    Args:
        folder: with films, or with feature files.
        features: where films' feature files are or shall be; beside the films, if it is None.
        eye: of the run.

    Raises InputError if there is neither, if no film can be read, or if feature files are of another network.
    """
    if not folder.is_dir():
        raise InputError(f"--study {folder}: no such folder")
    if not any(path.suffix.lower() in VIDEO_SUFFIXES for path in folder.iterdir()):
        if not feature_files(folder):
            raise InputError(f"--study {folder}: holds neither films nor feature files of preprocess_videos.py")
        return StudiedFiles(folder, read_headers(folder, eye.backbone), eye.num_features), []
    features = as_folder(features or features_beside(folder))
    headers, failed = study(find_videos(folder), features, eye)
    if not headers:
        raise InputError(f"--study {folder}: none of its films can be read, for the reasons above")
    return StudiedFiles(features, headers, eye.num_features), failed


def features_beside(films: Path) -> Path:
    """Where features of a folder of films go unless another place is named: videos/ to videos-features/."""
    films = films.resolve() if films.name in ("", "..") else films
    return films.with_name(f"{films.name}-features")


def study(videos: Sequence[Path], features: Path, eye: Eye) -> tuple[dict[str, FeatureHeader], list[str]]:
    """Make the feature files of films that have none yet. Returns what the files say, by their names and in order of
    these, and the names of films that could not be read, which are told."""
    features.mkdir(parents=True, exist_ok=True)
    headers: dict[str, FeatureHeader] = {}
    todo: list[Path] = []
    failed: list[str] = []
    backbone = eye.backbone
    wanted = {"backbone": backbone.name, "weights_sha256": backbone.weights_sha256, "decoder": DECODER}
    for video in videos:
        if header := finished(video, features, wanted, "name another folder with --features"):
            headers[video.stem] = header
        else:
            todo.append(video)
    if not todo:
        return dict(sorted(headers.items())), failed
    print(f"{len(todo)} of {len(videos)} films to study: {backbone.name}, into {one_line(str(features))}")
    on_gpu = backbone.device.type == "cuda"
    workers = min(len(todo), MOST_WORKERS, max(1, granted_cores() - on_gpu))
    if workers == 1 and not on_gpu:
        workers = 0
    if not on_gpu:
        keep_freed_memory()
    storage, batch = Storage(str(eye.dtype)), BATCH["cuda" if on_gpu else "cpu"]
    with tqdm(total=sum(map(_claimed_frames, todo)), unit="frame", smoothing=0.05) as bar:
        for result in extract(todo, features, backbone, storage, batch, workers):
            if isinstance(result, int):
                bar.update(result)
            elif result.header:
                headers[result.video.stem] = result.header
            else:
                failed.append(result.video.name)
                bar.write(one_line(f"{result.video}: {result.failure}; passed over"), file=sys.stderr)
    return dict(sorted(headers.items())), failed


def _claimed_frames(video: Path) -> int:
    """How many frames a film says that it has, 0 if it cannot be read."""
    try:
        return probe(video).num_frames
    except DecodeError:
        return 0
