"""What was found: places of films that show what was asked about, in lines, in a table."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recognition.common.command_line import one_line
from recognition.common.files import written_whole
from recognition.streaming.search.look_up import Place, find_places
from recognition.streaming.search.questions import Question
from recognition.streaming.search.store import Store, unit
from recognition.streaming.search.stretches import Stretch, find_stretches
from recognition.streaming.search.studied import Studied
from recognition.streaming.search.verdicts import Verdicts

MINUTE_S, HOUR_S = 60, 3600
COLUMNS = (
    *("asked", "rank", "film", "start_s", "end_s", "asked_start_s", "asked_end_s", "cosine", "usual_cosine"),
    *("frames_agreeing", "frames_asked", "logit", "says_old"),
)


@dataclass(frozen=True)
class Find:
    """A place of a film for a picture, a stretch of a film for a clip.

    Attributes:
        name: of the film.
        stretch: where; of a single frame for a picture.
        usual: mean cosine of what was asked about with all films.
        logit: what the model says, None if it was not asked.
    """

    name: str
    stretch: Stretch
    usual: float
    logit: float | None = None


class Answer(NamedTuple):
    """A question with its finds, the best first."""

    question: Question
    finds: list[Find]


def find_all(questions: Sequence[Question], store: Store, studied: Studied, num: int) -> list[Answer]:
    """At most `num` finds for each question. All pictures are looked up in one pass."""
    pictures = [question.features for question in questions if not question.is_clip]
    places = iter(find_places(store, studied, np.concatenate(pictures), num) if pictures else ())
    answers = []
    for question in questions:
        if question.is_clip:
            stretches = find_stretches(store, studied, question.features, question.times_s, num)
        else:
            stretches = [_stretch(place) for place in next(places)]
        usual = float((unit(question.features) @ store.usual).mean())
        finds = [Find(studied.names[stretch.film], stretch, usual) for stretch in stretches]
        answers.append(Answer(question, finds))
    return answers


def _stretch(place: Place) -> Stretch:
    """A single frame as a stretch."""
    return Stretch(
        film=place.film,
        start_s=place.time_s,
        end_s=place.time_s,
        asked_start_s=0.0,
        asked_end_s=0.0,
        similarity=place.similarity,
        num_agreeing=1,
        frame=place.frame,
        time_s=place.time_s,
        asked_frames=slice(0, 1),
    )


def judged(answer: Answer, verdicts: Verdicts, num: int) -> Answer:
    """The same, the first `num` finds with what the model says."""
    question, finds = answer
    logits = [
        verdicts.logit(find.stretch.film, find.stretch.frame, question.features[find.stretch.asked_frames])
        for find in finds[:num]
    ]
    said = [replace(find, logit=logit) for find, logit in zip(finds, logits, strict=False)]
    return Answer(question, said + finds[num:])


def moment(time_s: float) -> str:
    """A time in a film, to a tenth of a second: 02:13.4 or 1:02:13.4."""
    tenths = max(0, round(10 * time_s))
    hours, rest = divmod(tenths, 10 * HOUR_S)
    minutes, rest = divmod(rest, 10 * MINUTE_S)
    return (f"{hours}:" if hours else "") + f"{minutes:02}:{rest // 10:02}.{rest % 10}"


def verdict(find: Find, threshold: float) -> str:
    """What the model says, in words; empty if it was not asked."""
    if find.logit is None:
        return ""
    return f"model says {'old' if find.logit > threshold else 'new'} ({find.logit:.1f})"


def place(find: Find, is_clip: bool) -> str:
    """Where it is, in words."""
    name, stretch = one_line(find.name), find.stretch
    if not is_clip:
        return f"{name} at {moment(stretch.start_s)}"
    return f"{name} from {moment(stretch.start_s)} to {moment(stretch.end_s)}"


def told(answer: Answer, threshold: float) -> str:
    """The best find in a line: photo.jpg: film_012 at 02:13.4, cosine 0.9871 (usually 0.6120), model says old (3.1)."""
    question, finds = answer
    if not finds:
        return f"{question.name}: not found"
    best = finds[0]
    where, words = place(best, question.is_clip), [f"cosine {best.stretch.similarity:.4f} (usually {best.usual:.4f})"]
    if question.is_clip:
        where = f"{asked(best)} is {where}"
        words.append(f"{best.stretch.num_agreeing} of {len(question.times_s)} frames agree")
    return f"{question.name}: {', '.join(filter(None, [where, *words, verdict(best, threshold)]))}"


def asked(find: Find) -> str:
    """Which part of a clip was found, in words."""
    return f"{moment(find.stretch.asked_start_s)} to {moment(find.stretch.asked_end_s)}"


def write_finds(path: Path, answers: Sequence[Answer], threshold: float) -> None:
    """All finds of all questions as a table, whole or not at all."""
    with written_whole(path) as part, open(part, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for question, finds in answers:
            for rank, find in enumerate(finds, 1):
                stretch = find.stretch
                times = (stretch.start_s, stretch.end_s, stretch.asked_start_s, stretch.asked_end_s)
                numbers = [*(f"{time_s:.3f}" for time_s in times), f"{stretch.similarity:.5f}", f"{find.usual:.5f}"]
                said = ["", ""] if find.logit is None else [f"{find.logit:.4f}", int(find.logit > threshold)]
                frames = [stretch.num_agreeing, len(question.times_s)]
                table.writerow([question.name, rank, one_line(find.name), *numbers, *frames, *said])
