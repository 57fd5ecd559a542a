"""The page of a search: opened in a browser, with hostile names, on a phone and on a desk; how much it shows."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from chromium import requested

from recognition.films.synthetic import write_frames
from recognition.streaming.search.find_page import NUM_SHOWN, write_page
from recognition.streaming.search.finds import Answer, Find, moment, told
from recognition.streaming.search.questions import Question
from recognition.streaming.search.stretches import Stretch

HOSTILE = "<b>photo</b><img src=x onerror=alert(1)>" + 30 * "long" + "'\">.jpg"
FILM = "<script>alert(2)</script>"
ABOUT = {
    "num_films": 1072,
    "num_rows": 718273,
    "fps": 1.0,
    "backbone": "resnet18, <i>random:0</i>",
    "ring_threshold": 0.9876,
    "run": "runs/<b>knn</b>",
    "reason": "",
    "num_verdicts": 1,
    "around_s": 10.0,
    "threshold": -0.5,
    "table": "finds.csv",
}


def question(path: Path, name: str, num: int = 1) -> Question:
    return Question(path, name, np.ones((num, 4), np.float32), np.arange(num) / 4, num > 1)


def find(name: str, similarity: float, length_s: float = 0, logit: float | None = None) -> Find:
    size = round(4 * length_s) + 1
    stretch = Stretch(0, 0.25, 0.25 + length_s, 0, length_s, similarity, size, 6, 0.25, slice(0, size))
    return Find(name, stretch, 0.5, logit)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page about a picture, a clip that is found and one that is not; only one film is at hand."""
    folder = tmp_path_factory.mktemp("found")
    images = [np.full((90, 160, 3), 8 * k, np.uint8) for k in range(24)]
    write_frames(folder / "film.mp4", images, (160, 90), 24)
    (folder / "photo.png").write_bytes(cv2.imencode(".png", images[6])[1].tobytes())
    picture, clip = question(folder / "photo.png", HOSTILE), question(folder / "film.mp4", "clip.mp4", 3)
    answers = [
        Answer(picture, [find("film", 0.99, logit=3.1), find(FILM, 0.97), *(find("film", 0.9) for _ in range(60))]),
        Answer(clip, [find(FILM, 0.98, 0.5, -1.2)]),
        Answer(question(folder / "gone.png", "gone"), []),
    ]
    write_page(folder / "find.html", answers, folder, ABOUT)
    return folder / "find.html"


def test_page_in_a_browser_shows_its_pictures_and_text_and_asks_for_nothing(opened):
    assert opened.get_log("browser") == []
    asked = requested(opened)
    assert [url for url in asked if not url.startswith("data:")] == [opened.current_url]
    scripts, bold, sizes, text = opened.execute_script(
        "return [document.scripts.length, document.querySelectorAll('b, i').length,"
        "[...document.images].map(i => i.naturalWidth), document.body.innerText]"
    )
    assert (scripts, bold) == (0, 0)
    assert len(sizes) == 2 + 32  # 33 of the picture, one of which is of a film that is not at hand
    assert min(sizes) == 200
    for words in (HOSTILE, FILM, "runs/<b>knn</b>", "<i>random:0</i>", "model says old (3.1)", "model says new (-1.2)"):
        assert words in text
    assert "Not found." in text
    assert opened.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")


def test_a_hundred_questions_are_shown_with_their_best_finds(tmp_path: Path):
    path = tmp_path / "absent.png"
    many = [Answer(question(path, f"photo {k}"), [find("film", k / 200), find("film", 0)]) for k in range(130)]
    write_page(tmp_path / "find.html", many, None, ABOUT)
    text = (tmp_path / "find.html").read_text(encoding="utf-8")
    assert text.count("<li>") == NUM_SHOWN
    assert "<h2>photo 129</h2>" in text
    assert "<h2>photo 29</h2>" not in text
    assert "130 asked about" in text


def test_answers_in_a_line(tmp_path: Path):
    picture, clip = question(tmp_path, "photo.jpg"), question(tmp_path, "clip.mp4", 3)
    line = told(Answer(picture, [find("film_1", 0.98712, logit=3.14)]), 0.0)
    assert line == "photo.jpg: film_1 at 00:00.2, cosine 0.9871 (usually 0.5000), model says old (3.1)"
    line = told(Answer(clip, [find("film\n1", 0.98712, 0.5)]), 0.0)
    assert line == (
        "clip.mp4: 00:00.0 to 00:00.5 is film 1 from 00:00.2 to 00:00.8, cosine 0.9871 (usually 0.5000), "
        "3 of 3 frames agree"
    )
    assert told(Answer(clip, []), 0.0) == "clip.mp4: not found"


@pytest.mark.parametrize(
    ("time_s", "words"),
    [(0, "00:00.0"), (59.96, "01:00.0"), (133.44, "02:13.4"), (3733.4, "1:02:13.4"), (3599.97, "1:00:00.0")],
)
def test_moments_are_rounded_to_tenths_of_a_second(time_s: float, words: str):
    assert moment(time_s) == words
