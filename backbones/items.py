"""Which films a training reads, as items of an epoch: from a list, a folder, or the training films of episodes."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from backbones.config import BackboneSettings, DataConfig
from backbones.dataset import Item, check_rates, cut
from backbones.films_list import FilmsList, ListedFilm, read_list
from backbones.frame_store import FilmReader, HeldFilm, open_film, original_sha256
from backbones.stored_frames import DATABASE
from recognition.common.command_line import InputError
from recognition.common.files import sha256
from recognition.films.video import VIDEO_SUFFIXES

SPLITS = ("train", "validation", "test")


class Films(NamedTuple):
    """The films of a training."""

    train: list[Item]
    validation: list[Item]  # none without labels
    test: list[Item]
    classes: list[str]
    missing: list[tuple[str, str]]  # where a list names a film that is not there, and why
    readers: dict[Path, FilmReader]


def open_films(config: BackboneSettings, show_bar: bool = True) -> Films:
    """Open all films that the settings name, and learn how long they are.

    A list without validation films gives `validation_share` of the sources of each class for validation. Without a list
    all films train, cut into pieces, and have no labels.

    Raises InputError for what is missing or cannot be read, by its name.
    """
    data = config.data
    readers: dict[Path, FilmReader] = {}
    if data.list is None:
        listed = [ListedFilm(path, "", "train", None, None, path.stem, str(path)) for path in _films_of_folder(data)]
        found = FilmsList(listed, [], [])
    else:
        found = read_list(Path(data.list), Path(data.videos), data.missing_share)
    chosen = [film for film in found.films if film.split == "test" or _place(film.source) < data.share]
    items: dict[str, list[Item]] = {split: [] for split in SPLITS}
    for film in tqdm(chosen, desc="films", unit="film", leave=False, disable=not show_bar or None):
        items[film.split].append(_item(film, found.classes, data, readers))
    check_rates([item for split in SPLITS for item in items[split]], config.clip)
    if not items["train"]:
        if data.share < 1:
            raise InputError(f"data.share: {data.share:g} of the films leaves none to train on; raise it")
        raise InputError(f"{data.list}: has no film to train on; give some the split train")
    if data.list is not None and not items["validation"]:
        items["train"], items["validation"] = split_off(items["train"], data.validation_share)
    train = [piece for item in items["train"] for piece in cut(item, data.segment_s)]
    return Films(train, items["validation"], items["test"], found.classes, found.missing, readers)


def split_off(items: Sequence[Item], share: float) -> tuple[list[Item], list[Item]]:
    """Items without, and those of, a share of the sources of each class, chosen by their names: (kept, split off).

    At least one source is split off if a class has two, and each class keeps one.
    """
    sources: dict[int, set[str]] = defaultdict(set)
    for item in items:
        sources[item.label].add(item.source)
    chosen: set[str] = set()
    for names in sources.values():
        chosen.update(sorted(names, key=_place)[: min(round(share * len(names)), len(names) - 1)])
    spare = [name for names in sources.values() if len(names) > 1 for name in names]
    if share and not chosen and spare:
        chosen = {min(spare, key=_place)}
    return [i for i in items if i.source not in chosen], [i for i in items if i.source in chosen]


def original_digests(items: Iterable[Item], show_bar: bool = True) -> list[str]:
    """SHA-256 of the films that items are of, each once, sorted: of a small film its own and that of the film it was
    made of; of a folder with frames.db, which does not know its film, the database's."""
    found: set[str] = set()
    paths = sorted({item.path for item in items})
    for path in tqdm(paths, desc="SHA-256 of the films", unit="film", leave=False, disable=not show_bar or None):
        found |= {original_sha256(path), sha256(path / DATABASE if path.is_dir() else path)}
    return sorted(found)


def _films_of_folder(data: DataConfig) -> list[Path]:
    """The films of data.videos and its folders by name; with data.split_of, those that its episodes train on."""
    folder = Path(data.videos)
    if not folder.is_dir():
        raise InputError(f"data.videos: {str(folder)!r}: no such folder; say where the films are")
    films = sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES and path.name[0] != ".")
    if not films:
        raise InputError(f"data.videos: {str(folder)!r}: holds no film ({', '.join(sorted(VIDEO_SUFFIXES))})")
    if data.split_of is None:
        return films
    from recognition.episodes import index_file

    by_stem = {path.stem: path for path in films}
    names = index_file.read_index(Path(data.split_of) / "train_indices.h5").video_ids
    if absent := [name for name in names if name not in by_stem]:
        raise InputError(f"data.videos: {str(folder)!r}: has no film {absent[0]}, on which {data.split_of} trains")
    return [by_stem[name] for name in names]


def _item(film: ListedFilm, classes: Sequence[str], data: DataConfig, readers: dict[Path, FilmReader]) -> Item:
    """A film of a list as one item. Raises InputError if it cannot be opened or its times lie outside of it."""
    reader = readers.get(film.path)
    if reader is None:
        try:
            reader = open_film(film.path, data.store_fps)
            if data.cache == "memory":
                reader = HeldFilm(reader.frames(range(reader.num_frames)), reader.fps)
        except InputError as error:
            raise InputError(str(error) if film.place == str(film.path) else f"{film.place}: {error}") from None
        reader.close()
        readers[film.path] = reader
    num_frames, fps = reader.num_frames, reader.fps
    if not fps and (film.start_s or film.end_s):
        raise InputError(f"{film.place}: {film.path} does not say its frame rate, to find times by; set data.store_fps")
    first = 0 if film.start_s is None else round(film.start_s * fps)
    end = num_frames if film.end_s is None else min(num_frames, round(film.end_s * fps))
    if not 0 <= first < end:
        raise InputError(
            f"{film.place}: {film.path} has no frame from {film.start_s} to {film.end_s} s, "
            f"it has {num_frames} at {fps:g} a second"
        )
    label = classes.index(film.label) if classes else -1
    return Item(film.path, label, film.source, num_frames, fps, first, end)


def _place(name: str) -> float:
    """A place from 0 to 1 that a name decides."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:12], 16) / 16**12
