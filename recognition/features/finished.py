"""Whether the features of a film are there already, as they are wanted."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recognition.common.command_line import InputError
from recognition.common.files import is_there, sha256
from recognition.features.feature_file import DamagedFile, FeatureHeader, OtherFormat, read_header


def finished(video: Path, folder: Path, wanted: Mapping[str, Any], otherwise: str) -> FeatureHeader | None:
    """What a film's feature file says, if it has a whole one; a damaged one is told on stderr.

    Args:
        video: the film.
        folder: of feature files.
        wanted: what the file is to say of how it was made: attributes of its header.
        otherwise: what the user is to do if it says something else.

    Raises InputError if the file was made another way, or of another film, and OSError if the system does not let one
    of the two be looked at.
    """
    path = folder / f"{video.stem}.h5"
    if not is_there(path):
        return None
    try:
        header = read_header(path)
    except OtherFormat as error:
        raise InputError(f"{error}: {otherwise}") from None
    except DamagedFile as error:
        print(f"{error}; made anew", file=sys.stderr)
        return None
    for name, value in wanted.items():
        if (found := getattr(header, name)) != value:
            raise InputError(f"{path} was made with {name} {found}, this run has {value}: {otherwise}")
    if not is_same_film(video, path, header):
        raise InputError(f"{video} has changed since {path} was made of it: remove that file to have it made anew")
    return header


def is_same_film(video: Path, feature_file: Path, header: FeatureHeader) -> bool:
    """Whether a film is the one that features were made of.

    Read only where its file is younger than the features; one of another size is another film. A link that leads
    nowhere, as git-annex leaves them, stands for the film it had.
    """
    try:
        film = video.stat()
    except FileNotFoundError:
        return True
    if header.video_bytes not in (0, film.st_size):
        return False
    return film.st_mtime_ns <= feature_file.stat().st_mtime_ns or sha256(video) == header.video_sha256
