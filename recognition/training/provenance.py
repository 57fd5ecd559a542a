"""What every file was made from, and whether that is still so, link by link."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from recognition.common.command_line import InputError, expanded
from recognition.common.files import is_there, sha256, why

if TYPE_CHECKING:
    from recognition.training.runs import Run


class Link(NamedTuple):
    """One line of the chain."""

    depth: int  # steps back from what was asked about
    text: str
    is_intact: bool = True


def chain(path: Path, videos: Path | None = None, settings: Sequence[str] = ()) -> Iterator[Link]:
    """The lines about what `path` was made from; `settings` say where its inputs are by now.

    Raises InputError if it is none of our files.
    """
    from recognition.training.runs import Run, part_settings

    others, settings = part_settings(settings)
    if others:
        raise InputError(f"{others[0]}: is not of the form key=value, such as dataset.video_path=elsewhere")
    for folder in (path, *path.parents):
        if (folder / "config.yaml").is_file():
            yield from _of_run(Run(folder), videos, settings)
            return
    if path.suffix in (".h5", ".npz") and path.name.startswith(("train_indices", "validation_indices", "test_indices")):
        told = dict(word.split("=", 1) for word in settings)
        yield from _of_index(path, expanded(told.get("dataset.video_path", str(path.parent))), videos)
    elif path.suffix == ".h5":
        yield from _of_features(path, videos)
    else:
        raise InputError(f"{path}: neither a run nor in one, nor an index file or feature file")


def _of_run(run: "Run", videos: Path | None, settings: Sequence[str]) -> Iterator[Link]:
    import json

    from recognition.training.config import load_config
    from recognition.training.runs import INPUT_KEYS, input_files

    config = load_config(run.config_file, settings)
    files = {**input_files(config), "weights": run.best_file}
    environment = json.loads(run.environment_file.read_text()) if is_there(run.environment_file) else {}
    packages = environment.get("packages", {})
    yield Link(
        0,
        f"{run.path}: {config.model.model}, by code {environment.get('git_revision') or 'of unknown revision'}, "
        f"torch {packages.get('torch', '?')}, on {environment.get('device', '?')}",
    )
    for name, digest in run.read_evaluation().get("sha256", {}).items():
        state, is_intact = _compare(files[name], digest)
        yield Link(1, f"{run.evaluation_file.name} is of {files[name]}: {state}", is_intact)
    if not (inputs := run.read_inputs()):
        yield Link(1, "its index files are not known: it was started before they were kept")
    for name, stored in inputs.items():
        file = files[name]
        state, is_intact = _compare(file, stored["sha256"])
        advice = f"; say where it is by {INPUT_KEYS[name]}=PATH" if state == "MISSING" else ""
        what = "first weights" if name == "load" else f"{name} episodes"
        yield Link(1, f"{what} {file}: {state}{advice}", is_intact)
        if name != "load" and file.exists():
            _, *its_own = _of_index(file, config.dataset.video_path, videos)
            yield from (link._replace(depth=link.depth + 1) for link in its_own)


def _of_index(path: Path, folder: str | Path, videos: Path | None) -> Iterator[Link]:
    from recognition.episodes.index_file import read_index

    index = read_index(path)
    yield Link(0, str(path))
    how = "by the published study"
    if spec := index.spec:
        how = f"{spec.num_clips} clips of {spec.clip_length} frames, {spec.num_tests} old and as many new probes"
    yield Link(1, f"{len(index)} episodes of {len(index.video_ids)} films, drawn {how}")
    if index.video_digests is None:
        yield Link(1, "which features its films had is not known: it is older than that, or the published study's")
        return
    from recognition.features.feature_file import DamagedFile, read_header
    from recognition.features.made_up import MadeUpFilms, is_made_up
    from recognition.training.data import changed_films

    if is_made_up(folder):
        changed = changed_films(index, MadeUpFilms(folder, index.video_ids).digests)
        state = f"{len(changed)} CHANGED since the episodes were drawn" if changed else "unchanged"
        yield Link(1, f"{len(index.video_ids)} made-up films, {folder}: {state}", not changed)
        return
    if not any((Path(folder) / f"{video_id}.h5").exists() for video_id in index.video_ids):
        yield Link(1, f"films in {folder}: all MISSING; say where they are by dataset.video_path=FOLDER", False)
        return
    of_films, kinds = [], set()
    for video_id, digest in zip(index.video_ids, index.video_digests, strict=True):
        file = Path(folder) / f"{video_id}.h5"
        try:
            header = read_header(file)
        except DamagedFile as error:
            of_films.append(Link(2, f"{error}: DAMAGED", False))
            continue
        except OSError as error:
            of_films.append(Link(2, f"{file}: {_unseen(error)}", False))
            continue
        kinds.add(f"{header.backbone}, weights {header.weights} ({header.weights_sha256[:12]}), by {header.decoder}")
        if header.digest != digest:
            of_films.append(Link(2, f"{file}: CHANGED since the episodes were drawn", False))
        elif videos:
            of_films += [link._replace(depth=2) for link in _of_features(file, videos) if not link.is_intact]
    unchanged = len(index.video_ids) - len(of_films)
    yield Link(1, f"{unchanged} of {len(index.video_ids)} films in {folder} unchanged; {'; '.join(sorted(kinds))}")
    yield from of_films


def _of_features(path: Path, videos: Path | None) -> Iterator[Link]:
    from recognition.features.feature_file import DamagedFile, read_header

    try:
        header = read_header(path)
    except DamagedFile as error:
        raise InputError(str(error)) from None
    yield Link(
        0,
        f"{path}: {header.num_frames} rows by {header.backbone}, weights {header.weights} "
        f"({header.weights_sha256[:12]}), by {header.decoder}, {header.dtype}",
    )
    if not videos:
        yield Link(1, f"film {header.video_id}, sha256 {header.video_sha256[:12]}; say --videos to compare it")
        return
    films = [film for film in sorted(videos.glob(f"{header.video_id}.*")) if not film.name.startswith(".")]
    state, is_intact = _compare(films[0], header.video_sha256) if films else ("MISSING", False)
    yield Link(1, f"film {films[0] if films else videos / header.video_id}: {state}", is_intact)


def _compare(file: Path, digest: str) -> tuple[str, bool]:
    """How a file compares with what it was, in words, and whether it is the same."""
    try:
        return ("unchanged", True) if sha256(file) == digest else ("CHANGED", False)
    except OSError as error:
        return _unseen(error), False


def _unseen(error: OSError) -> str:
    """What is told of a file that could not be looked at."""
    is_missing = isinstance(error, FileNotFoundError) and not Path(error.filename).is_symlink()
    return "MISSING" if is_missing else f"NOT COMPARED ({why(error)})"
