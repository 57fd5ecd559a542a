"""Lists of films with their classes and splits, with the films found and everything checked before the first step."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backbones.frame_store import FilmReader, open_film
from backbones.list_readers import Entry, read_entries
from backbones.stored_frames import DATABASE
from recognition.common.command_line import InputError
from recognition.films.video import VIDEO_SUFFIXES


@dataclass(frozen=True)
class ListedFilm:
    """A film of a list, or a segment of one."""

    path: Path  # a film, or a folder with frames.db
    label: str  # the name of its class
    split: str  # train, validation or test
    start_s: float | None  # of the segment; None: from the start, to the end
    end_s: float | None
    source: str  # what it was cut from: UCF101's groups, a film on YouTube; its own name otherwise
    place: str  # file:line


@dataclass(frozen=True)
class FilmsList:
    """What a list says, with the films that are there."""

    films: list[ListedFilm]
    classes: list[str]  # sorted
    missing: list[tuple[str, str]]  # place, and why the film is left out


class FilmFinder:
    """Finds films in some folders by their names, with or without a suffix; each folder is looked through once."""

    def __init__(self, folders: Sequence[Path]):
        self._folders = folders
        self._listings: dict[Path, dict[str, Path]] = {}

    def find(self, name: str) -> Path | None:
        """The first film, or folder with frames.db, of this name: one path below the folders, or an absolute one. A
        film of the same name with another suffix comes after one of that very name."""
        path = Path(name)
        stem = path.with_suffix("") if path.suffix.lower() in VIDEO_SUFFIXES else path
        for folder in self._folders:
            for wanted in dict.fromkeys([folder / path, folder / stem]):
                found = self._listing(wanted.parent).get(wanted.name)
                if found and (found.suffix.lower() in VIDEO_SUFFIXES or (found / DATABASE).exists()):
                    return found
        return None

    def _listing(self, folder: Path) -> dict[str, Path]:
        """What has each name in a folder, and each name but for its suffix."""
        if folder not in self._listings:
            try:
                names = sorted(os.listdir(folder))  # noqa: PTH208, a hundred times faster than making paths
            except OSError:  # absent, or a file
                names = []
            films = [name for name in names if os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES]  # noqa: PTH122
            by_stem = {os.path.splitext(name)[0]: folder / name for name in reversed(films)}  # noqa: PTH122
            self._listings[folder] = by_stem | {name: folder / name for name in names}
        return self._listings[folder]


def read_list(path: Path, videos: Path, missing_share: float) -> FilmsList:
    """Read a list; see `list_readers` for its forms. Films are looked for beside the list, then in `videos`.

    A line without a film is left out and told in `missing`, as films go from YouTube.

    Raises InputError, which names the first line that is wrong: what cannot be understood, the first film that is
    missing if more than `missing_share` of all are, a film in two splits, a source in two where the list says sources,
    a class that no film for training has, and a list without a film.
    """
    entries = read_entries(path)
    if not entries:
        raise InputError(f"{path}: lists no film")
    finder = FilmFinder([path.parent, videos])
    found = [(entry, _found(entry, finder)) for entry in entries]
    films = [film for _, film in found if film]
    missing = [(entry.place, f"no film {entry.names[0][0]}") for entry, film in found if film is None]
    if len(missing) > missing_share * len(entries):
        place, why = missing[0]
        raise InputError(
            f"{place}: {why} in {path.parent} or {videos}; {len(missing)} of {len(entries)} films are missing, more "
            f"than data.missing_share {missing_share:g} allows"
        )
    _check_splits([(entry, film) for entry, film in found if film])
    return FilmsList(films, sorted({film.label for film in films}), missing)


def open_listed(film: ListedFilm, store_fps: float | None = None) -> FilmReader:
    """A reader of a listed film; see `open_film`. Raises InputError, which names the line of the list too."""
    try:
        return open_film(film.path, store_fps)
    except InputError as error:
        raise InputError(f"{film.place}: {error}") from None


def _found(entry: Entry, finder: FilmFinder) -> ListedFilm | None:
    for name, is_longer in entry.names:
        if path := finder.find(name):
            times = (entry.start_s, entry.end_s) if is_longer else (None, None)
            return ListedFilm(path, entry.label, entry.split, *times, entry.source, entry.place)
    return None


def _check_splits(found: list[tuple[Entry, ListedFilm]]) -> None:
    """Raise InputError for a film in two splits, and for a class that cannot be learned."""
    first: dict[str, ListedFilm] = {}
    for entry, film in found:
        for what in (os.path.abspath(film.path), *([film.source] if entry.is_alone else [])):  # noqa: PTH100
            other = first.setdefault(what, film)
            if other.split != film.split:
                raise InputError(
                    f"{film.place}: {what} is for {film.split}, and for {other.split} at {other.place}; a film must be "
                    f"in one split, with all that was cut from it"
                )
    learned = {film.label for _, film in found if film.split == "train"}
    for _, film in found:
        if learned and film.label not in learned:
            raise InputError(f"{film.place}: no film for training is of the class {film.label!r}")
