"""The page about a stream in a real browser: what changes on it, hostile names, and nothing asked for elsewhere."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from chromium import DESK, PHONE, open_page, requested, wait_for

from recognition.films.video import decode
from recognition.streaming.answers import Answer
from recognition.streaming.event import Event
from recognition.streaming.page import QUIET_S, LivePage

HOSTILE = '<img src=x onerror="window.isRun = 1"></script>'
PACE_S = 0.03  # between two pictures

# The colour in the middle of the newest picture, without its bar.
COLOUR = """
const image = document.getElementById("newest"), canvas = document.createElement("canvas");
if (!image.naturalWidth) return null;
[canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
const context = canvas.getContext("2d");
context.drawImage(image, 0, 0);
return [...context.getImageData(canvas.width / 2, 180, 1, 1).data].slice(0, 3);
"""
# How many pixels of a chart are drawn.
DRAWN = """
const canvas = document.getElementById(arguments[0]);
const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
return data.filter((value, k) => k % 4 === 3 && value > 0).length;
"""


def text(browser, name: str) -> str:
    return browser.execute_script("return document.querySelector(arguments[0]).textContent;", name)


class Playing:
    """A film that plays on a page, again and again, until it is stopped; its pictures can be replaced by one colour."""

    def __init__(self, page: LivePage, film: Path):
        self.page, self.colour, self.pauses = page, None, False
        self._pictures = [picture for picture, _ in decode(film)]
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._play)
        self._thread.start()

    def _play(self) -> None:
        for k in range(10_000):
            if self._is_over.wait(PACE_S):
                return
            if self.pauses:
                continue
            picture, time_s = self._pictures[k % len(self._pictures)], 100 + k / 10
            if self.colour:
                picture = np.full_like(picture, self.colour)
            logit = 3.0 * np.sin(k / 9)
            answer = Answer(time_s, logit, logit > 1.5, 7.0 if k % 2 else None, 0.8 + 0.1 * np.cos(k / 9), 7.0)
            self.page.show(picture, answer, {"frames studied": k, HOSTILE: 0.5})

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join()
        self.page.close()


@pytest.fixture
def playing(films: Path) -> Iterator[Playing]:
    page = LivePage(0, f"run {HOSTILE}", f"{HOSTILE}.mp4", threshold=1.5, num_thumbnails=300, ring_threshold=0.85)
    page.show(np.full((90, 160, 3), 60, np.uint8), Answer(7.5, 0.0, False), {})  # what is seen again
    playing = Playing(page, sorted(films.glob("*.mp4"))[0])
    yield playing
    playing.stop()


@pytest.mark.parametrize("width", [DESK, PHONE])
def test_pictures_and_events_come_and_hostile_names_stay_text(browser, playing, width):
    page = playing.page
    open_page(browser, page.address, width)
    for colour in ((200, 40, 40), (40, 40, 200)):
        playing.colour = colour
        wait_for(lambda want=colour: np.abs(np.subtract(browser.execute_script(COLOUR) or [999] * 3, want)).max() < 12)
    assert text(browser, "#events") == ""
    event = Event(7.0, 11.0, "replay", 3.0, 7.0, 4.0, 3.0, 2.0, 40, HOSTILE)
    page.event(event, is_over=False)
    wait_for(lambda: "goes on" in text(browser, "#events"))
    page.event(event, is_over=True)
    page.event(Event(20.0, 21.0, "resemblance", None, None, None, 3.0, 2.0, 40, "other"), is_over=True)
    wait_for(lambda: text(browser, "#num-events") == "2")
    assert text(browser, "#events li:first-child") == "00:20 to 00:21resemblanceresembles what was seenother"
    assert text(browser, "#events li:last-child") == f"00:07 to 00:11replay00:03 to 00:07 again{HOSTILE}"
    assert (text(browser, "#run"), text(browser, "#source")) == (f"run {HOSTILE}", f"{HOSTILE}.mp4")
    assert browser.title == f"Seen before? {HOSTILE}.mp4"
    assert HOSTILE in text(browser, "#numbers")
    wait_for(lambda: browser.execute_script("return document.getElementById('then-picture').naturalWidth") == 160)
    assert text(browser, "#then-time") == "00:07"
    assert min(browser.execute_script(DRAWN, name) for name in ("logits", "similarities")) > 500
    assert browser.execute_script("return [window.isRun ?? null, document.querySelectorAll('img').length]") == [None, 2]
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    page.close()
    wait_for(lambda: text(browser, "#state").startswith("ended, at "))
    assert_nothing_went_wrong(browser, page.address)


def assert_nothing_went_wrong(browser, address: str) -> None:
    """No error in the console, and no request but to the page's own server."""
    assert browser.get_log("browser") == []
    requests = requested(browser)
    assert [url for url in requests if not url.startswith((address, "data:,"))] == []
    assert {f"{address}news", f"{address}chart.js", f"{address}then/7.jpg"} <= set(requests)


def test_last_picture_is_shown_though_none_follows_and_stays_when_the_stream_has_ended(browser, playing):
    page, grey = playing.page, np.full((90, 160, 3), 200, np.uint8)
    open_page(browser, page.address, DESK)
    wait_for(lambda: browser.execute_script(COLOUR))
    playing.pauses = True
    time.sleep(2 * PACE_S)
    page.show(grey, Answer(2_000.0, 0.0, False), {})
    wait_for(lambda: np.abs(np.subtract(browser.execute_script(COLOUR) or [0] * 3, 200)).max() < 5, QUIET_S / 2)
    page.show(grey // 2, Answer(2_000.1, 0.0, False), {})
    page.close()
    wait_for(lambda: text(browser, "#state") == "ended, at 33:20")
    wait_for(lambda: np.abs(np.subtract(browser.execute_script(COLOUR) or [0] * 3, 100)).max() < 5)


def test_page_that_loses_its_connection_goes_on_with_all_there_is(browser, playing):
    page = playing.page
    page.event(Event(7.0, 11.0, "replay", 3.0, 7.0, 4.0, 3.0, 2.0, 40, ""), is_over=True)
    open_page(browser, page.address, DESK)
    wait_for(lambda: text(browser, "#num-events") == "1")
    browser.execute_script("known.points = []; document.getElementById('num-events').textContent = '';")
    for reader in list(page._server._readers.values()):
        with suppress(OSError):
            reader.shutdown(socket.SHUT_RDWR)
    wait_for(lambda: text(browser, "#state") == "no connection, trying again")
    wait_for(lambda: text(browser, "#num-events") == "1")
    assert browser.execute_script("return known.points[0]")[:2] == [7.5, 0]
    playing.colour = (200, 40, 40)
    wait_for(lambda: np.abs(np.subtract(browser.execute_script(COLOUR) or [999] * 3, (200, 40, 40))).max() < 12)
