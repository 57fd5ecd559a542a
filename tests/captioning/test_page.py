"""The page of captions: nothing of what it quotes is markup, it asks for nothing, and it shows the right frames."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from captioning import page
from captioning.config import CaptionSettings
from captioning.films import COLOURS, draw_film, write_caption_films
from captioning.page import write_page
from captioning.said import Read, Said

SCORES = {f"test_{name}": 0.5 for name in page.SCORES}
EVIL = 'a <script>alert(1)</script> & "ball" \' {{ 7 * 7 }}.'


class Tags(HTMLParser):
    """The tags of a page, and the text outside of them."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def written(folder: Path, said: list[Said], videos: Path | None = None, **settings: object) -> str:
    write_page(folder, CaptionSettings.model_validate({"name": "run", **settings}), said, SCORES, videos)
    return (folder / "captions.html").read_text()


def test_what_it_quotes_is_text(tmp_path: Path):
    said = [Said(f"film {EVIL}", 0, 0, 1, EVIL, [f"not {EVIL}"]), Said("other", 0, 0, 1, EVIL, [EVIL])]
    text = written(tmp_path, said, data={"captions": EVIL})
    tags = Tags(text)
    assert not {"script", "iframe", "object", "form", "base"} & {tag for tag, _ in tags.tags}
    assert not any(name.startswith("on") for _, attributes in tags.tags for name in attributes)
    assert tags.text.count(EVIL) >= 4
    assert "49" not in tags.text


def test_it_asks_for_nothing(tmp_path: Path):
    text = written(tmp_path, [Said("film", 0, 0, 1, "a ball.", ["a ball."])])
    addresses = [
        value for _, attributes in Tags(text).tags for name, value in attributes.items() if name in ("src", "href")
    ]
    assert all(address.startswith("data:") for address in addresses)
    assert not re.search(r"url\(|@import|https?:", text)


def test_films_that_went_worst_come_first_and_the_rest_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    said = [
        Said("good", 0, 0, 1, "a red ball grows.", ["a red ball grows."]),
        Said("empty", 0, 0, 1, "", ["a red ball grows."]),
        Said("half", 0, 0, 1, "a red cat sits.", ["a red ball grows."]),
    ]
    monkeypatch.setattr(page, "MOST_FILMS", 2)
    text = written(tmp_path, said)
    assert re.findall("<h3>(.*?)</h3>", text) == ["empty", "half"]
    assert "2 of 3 are shown" in text
    assert "(nothing)" in text


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "Its memory, knn_memory, is empty at the start of each film."),
        ({"memory": {"model": "none"}}, "It has no memory."),
        (
            {"memory": {"model": "none", "scope": "clip"}, "mapper": {"kind": "memorizing"}},
            "The mapper's memory is empty at the start of each clip.",
        ),
    ],
)
def test_it_tells_of_the_memory(tmp_path: Path, settings, told: str):
    text = written(tmp_path, [Said("film", 0, 0, 1, "a ball.", ["a ball."])], **settings)
    assert told in " ".join(text.replace("&#39;", "'").split())


def test_each_clip_has_its_middle_frame(tmp_path: Path):
    [_] = write_caption_films(tmp_path, 1, 0, 0)
    film = draw_film(0, 0)
    said = [Said(clip.film, clip.clip, clip.clip, clip.clip + 1, "a ball.", [clip.caption]) for clip in film]
    text = written(tmp_path, said, tmp_path)
    pictures = re.findall(r"base64,([^\"]+)", text)
    assert len(pictures) == 8
    for clip, picture in zip(film, pictures, strict=True):
        image = cv2.imdecode(np.frombuffer(base64.b64decode(picture), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        assert image.shape == (page.HEIGHT, 128, 3)
        distances = np.abs(image.astype(int) - COLOURS[clip.colour]).max(2)
        assert (distances < 40).sum() > 150  # the ball of that clip


def test_what_memory_read_is_told_with_its_share(tmp_path: Path):
    said = [
        Said("film", 0, 0, 1, "a ball.", ["a ball."]),
        Said("film", 1, 1, 2, "a ball.", ["a ball."], [Read(0, 0.62)]),
    ]
    text = Tags(written(tmp_path, said)).text
    assert "clips read from memory" in text
    assert "0 62 %" in text
    assert "clips read from memory" not in Tags(written(tmp_path, said[:1])).text


def test_film_that_is_gone_or_damaged_leaves_its_captions_without_frames(tmp_path: Path):
    (tmp_path / "film.mp4").write_bytes(b"no film")
    for name in ("film", "gone"):
        text = written(tmp_path, [Said(name, 0, 0, 1, "a ball.", ["a cube."])], tmp_path)
        assert "<img" not in text
        assert "a cube." in text
