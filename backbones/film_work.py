"""What is done with each of many films, by workers side by side; a film that fails does not end it."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from backbones.frame_store import open_film
from backbones.stored_frames import COUNT, DATABASE, write_frames
from recognition.common.command_line import InputError, one_line
from recognition.common.files import why
from recognition.common.workers import done_by_workers
from recognition.films.picture import DecodeError
from recognition.films.video import decode


class Outcome(NamedTuple):
    """What became of one film; the failure is empty if all is well."""

    task: int
    failure: str


def make(pairs: Sequence[tuple[Path, Path]], write: Callable[[Path, Path], None], task: int) -> Iterator[Outcome]:
    """Do one film; what an earlier run made of it does not outlast a failure."""
    film, target = pairs[task]
    try:
        check_name(film)
        write(film, target)
        yield Outcome(task, "")
    except DecodeError as error:
        discard(target)
        yield Outcome(task, str(error))
    except OSError as error:
        if error.filename != str(film):
            raise
        yield Outcome(task, why(error))


def discard(target: Path) -> None:
    """Remove what was made of a film, a small film or a folder with frames.db."""
    is_folder = target.is_dir()
    for path in (target / DATABASE, target / COUNT) if is_folder else (target,):
        path.unlink(missing_ok=True)
    if is_folder:
        with suppress(OSError):  # it has more in it
            target.rmdir()


def write_stored(film: Path, folder: Path, short_side: int) -> None:
    """Write a folder with frames.db of a film."""
    write_frames(folder, (image for image, _ in decode(film, short_side=short_side)))


def check(paths: Sequence[Path], task: int) -> Iterator[Outcome]:
    """Whether a film can be read to its end. A small film was checked when it was made, with its index."""
    try:
        check_name(paths[task])
        open_film(paths[task]).close()
        yield Outcome(task, "")
    except (InputError, DecodeError) as error:
        yield Outcome(task, str(error).removeprefix(f"{paths[task]}: ").partition(";")[0])


def check_name(path: Path) -> None:
    """Raise DecodeError for a film whose name cannot stand in a list or an index."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise DecodeError("its name is not UTF-8: rename it") from None


def do_all(work: Callable[[int], Iterable[Outcome]], films: Sequence[Path], workers: int) -> dict[Path, str]:
    """Let workers do some films; returns what failed and why, which is named at once."""
    failures: dict[Path, str] = {}
    advice = f"lower --workers ({workers}), or ask for more memory"
    with tqdm(total=len(films), unit="film", disable=not films) as bar:
        for task, failure in done_by_workers(work, [str(film) for film in films], workers, advice, Outcome):
            bar.update()
            if failure:
                failures[films[task]] = failure
                bar.write(one_line(f"{films[task]}: {failure}"), file=sys.stderr)
    return failures
