"""A scripted participant in a real browser, and what is needed to look at what it did."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from chromium import requested, wait_for
from numbered_films import COLOURS

from recognition.people.server import Server

PATIENCE_S = 30
GRADES = ["1", "6", "2", "5", "3", "4", None, "1", "6", "3", "2", "5"]
ORDER = ["2", "6"]
NAN = float("nan")

# What is on the page, told once: its kind and its words.
LOOK = """
const at = (name) => document.querySelector(name);
const found = at("video, canvas, .pair, form, #jspsych-html-keyboard-response-stimulus, .jspsych-btn, .end");
if (!found || found.dataset.seen) return null;
found.dataset.seen = 1;
const text = document.body.innerText;
const kinds = {
  cross: at(".cross"), clip: at("video"), test: at("canvas"), order: at(".pair"), form: at("form"),
  check: text.includes("Press the key"), question: text.includes("one of the keys y"),
  pause: text.includes("space bar to go on"), end: /are saved|just saved/.test(text), button: at(".jspsych-btn"),
};
return [Object.keys(kinds).find((kind) => kinds[kind]) ?? "other", text];
"""
# Of the picture in view the numbers of its bits and its colour.
PICTURE = """
const canvas = document.querySelector("canvas"), { width, height } = canvas, context = canvas.getContext("2d");
const at = (x, y) => [...context.getImageData(Math.round(x * width), Math.round(y * height), 1, 1).data];
const bits = [...Array(8).keys()].map((bit) => (at((bit + 0.5) / 8, 0.25)[1] > 128) << bit);
const colour = at(0.5, 0.9);
return colour[3] ? [bits.reduce((sum, bit) => sum + bit), ...colour.slice(0, 3)] : null;
"""
SIDES = "return [...document.querySelectorAll('.pair img')].map((image) => image.getAttribute('src'));"


def forget_log(browser) -> None:
    """Forget what was logged before."""
    for kind in ("browser", "performance"):
        browser.get_log(kind)


@contextmanager
def served(folder: Path, data: Path) -> Iterator[str]:
    """Our server in a thread; yields its address."""
    with Server(("127.0.0.1", 0), folder, data) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server.address
        server.shutdown()


class Participant:
    """Takes part by the keyboard alone, and remembers what was on the page and how often each kind."""

    def __init__(self, browser: Any, check: list[str] | None = None, reads: bool = False):
        self.browser, self.reads = browser, reads
        self.answers = {"check": check or [], "question": ["y"], "order": [*ORDER], "test": [*GRADES]}
        self.pages: list[tuple[str, str]] = []
        self.seen: list[tuple[int, int]] = []  # film and frame of each picture that was asked about
        self.sides: list[list[str]] = []  # files of each pair, the left one first
        self.practice = 2  # pictures of the practice come first
        self.reload_at: int | None = None  # the probe during which the page is loaded again

    def press(self, key: str) -> None:
        from selenium.webdriver import ActionChains

        ActionChains(self.browser, duration=0).send_keys(key).perform()

    def take_part(self, until: str = "end") -> str:
        """Go on until a page of this kind; returns its words."""
        started = time.monotonic()
        while time.monotonic() < started + PATIENCE_S:
            if found := self.browser.execute_script(LOOK):
                self.pages.append(tuple(found))
                self.look(found[0])
                if found[0] == until:
                    return found[1]
                self.answer(*found)
            time.sleep(0.01)
        raise AssertionError(f"no page {until!r}; seen were {[kind for kind, _ in self.pages]}")

    def look(self, kind: str) -> None:
        if folder := os.environ.get("SCREENSHOTS"):
            time.sleep(0.15)
            self.browser.save_screenshot(str(Path(folder) / f"{kind}-{len(self.pages):03d}.png"))

    def answer(self, kind: str, text: str) -> None:
        from selenium.webdriver import Keys

        if kind == "pause":
            self.press(" ")
        elif kind == "button":
            self.press(Keys.ENTER)
        elif kind == "form":
            self.press(" ")  # the first choice
            self.press(Keys.ENTER)
        elif kind == "test" and self.practice:
            self.practice -= 1
            self.press("1")
        elif kind == "test" and self.reload_at == len(GRADES) - len(self.answers["test"]):
            self.reload_at = None
            self.browser.refresh()
        elif self.answers.get(kind):
            if self.reads and kind == "test":
                number, *colour = wait_for(lambda: self.browser.execute_script(PICTURE))
                self.seen.append((int(np.abs(COLOURS - colour).sum(1).argmin()), number))
            if kind == "order":
                self.sides.append(self.browser.execute_script(SIDES))
            key = self.answers[kind].pop(0)
            if key is not None:
                self.press(key)


def responses(rows: list[dict[str, Any]], part: str) -> list[str | None]:
    """What rows of a part say, which must come in order and once."""
    found = [row for row in rows if row.get("part") == part]
    assert [row["number"] for row in found] == list(range(len(found)))
    return [row["response"] for row in found]


def assert_nothing_went_wrong(browser, start: str) -> None:
    """No error in the console, and no request but below an address."""
    assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []
    asked = requested(browser)
    assert [url for url in asked if not url.startswith((start, "data:", f"blob:{start}", "blob:null"))] == []
    assert any(url.endswith("experiment.js") for url in asked)
