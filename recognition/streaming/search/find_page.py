"""The page of a search: what was asked about, beside pictures of what was found."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from recognition.common.command_line import InputError
from recognition.common.files import written_whole
from recognition.common.machine import granted_cores
from recognition.common.pages import render
from recognition.evaluation.gallery import data_uri
from recognition.films.video import VIDEO_SUFFIXES, DecodeError, read_frames
from recognition.streaming.search.finds import Answer, Find, asked, place, verdict
from recognition.streaming.search.questions import Question

FOLDER = Path(__file__).parent / "templates"
NUM_SHOWN = 100  # finds, of all questions together
SHORT_SIDE = 128  # pixels in which films are decoded


class Shown(NamedTuple):
    """A find on the page; `picture` is a data URI, None if the film is not at hand."""

    find: Find
    place: str
    asked: str
    verdict: str
    picture: str | None


class Row(NamedTuple):
    """A question on the page."""

    question: Question
    picture: str | None
    finds: list[Shown]


def write_page(path: Path, answers: Sequence[Answer], videos: Path | None, about: Mapping[str, Any]) -> None:
    """Write find.html: the hundred best finds, as many of each question as of any other; of more than a hundred
    questions those with the best.

    videos: folder with the films, for their pictures. about: `threshold`, and what else the template says.
    """
    best = sorted(answers, key=lambda answer: -max((find.stretch.similarity for find in answer.finds), default=-2.0))
    chosen = best[:NUM_SHOWN] if len(answers) > NUM_SHOWN else answers
    num_each = NUM_SHOWN // max(1, len(chosen))
    films = films_at_hand(videos)
    with ThreadPoolExecutor(granted_cores()) as pool:
        rows = []
        for question, finds in chosen:
            pictures = [
                pool.submit(_picture_of_film, films.get(find.name), find.stretch.time_s) for find in finds[:num_each]
            ]
            rows.append((question, finds[:num_each], pool.submit(_picture_of_question, question, finds), pictures))
        shown = [
            Row(
                question,
                own.result(),
                [
                    Shown(find, place(find, question.is_clip), asked(find), verdict(find, about["threshold"]), picture)
                    for find, picture in zip(finds, (each.result() for each in pictures), strict=True)
                ],
            )
            for question, finds, own, pictures in rows
        ]
    page = render("find.html", FOLDER, rows=shown, num_questions=len(answers), num_each=num_each, **about)
    with written_whole(path) as part:
        part.write_text(page, encoding="utf-8", errors="backslashreplace")


def films_at_hand(videos: Path | None) -> dict[str, Path]:
    """The films of a folder by the names of their feature files; none if there is no such folder."""
    if videos is None or not videos.is_dir():
        return {}
    return {path.stem: path for path in videos.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES and path.exists()}


def _picture_of_film(film: Path | None, time_s: float) -> str | None:
    if film is None:
        return None
    try:
        return data_uri(read_frames(film, [time_s], SHORT_SIDE)[0])
    except DecodeError:  # pictures are an extra: without them the page still tells all
        return None


def _picture_of_question(question: Question, finds: Sequence[Find]) -> str | None:
    """A picture, or that in the middle of what was found of a clip."""
    of_clip = finds[0].stretch.asked_frames if finds else slice(0, len(question.times_s))
    try:
        return data_uri(question.picture(float(question.times_s[(of_clip.start + of_clip.stop - 1) // 2])))
    except (InputError, OSError):
        return None
