"""A scripted participant in a real browser: what is saved is what was answered, and nothing is asked for elsewhere.

Needs Chromium, its driver and npm from the system's packages and selenium from the extra `dev`; skips where they are
not. With SCREENSHOTS=folder every kind of page is saved there as a picture, to look at.
"""

import csv
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from small_experiment import EPISODE, write_experiment, write_library

from recognition.people.server import Server

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--disable-sync"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--window-size=1000,760"),
)
PATIENCE_S = 30
GRADES = ["1", "6", "2", "5", "3", "4", None, "1", "6", "3", "2", "5"]
ORDER = ["2", "6"]
RIGHT_KEYS = {"check": ["k", "m"], "question": ["j"], "order": ORDER, "test": GRADES}

# What is on the page, told once: its kind and its words.
LOOK = """
const at = (name) => document.querySelector(name);
const found = at("video, canvas, .pair, form, #jspsych-html-keyboard-response-stimulus, .jspsych-btn, .end");
if (!found || found.dataset.seen) return null;
found.dataset.seen = 1;
const text = document.body.innerText;
const kinds = {
  cross: at(".cross"), clip: at("video"), test: at("canvas"), order: at(".pair"), form: at("form"),
  check: text.includes("Press the key"), question: text.includes("one of the keys j"),
  pause: text.includes("space bar to go on"), end: /are saved|just saved/.test(text), button: at(".jspsych-btn"),
};
return [Object.keys(kinds).find((kind) => kinds[kind]) ?? "other", text];
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of jsPsych."""
    if not BROWSER or not DRIVER:
        pytest.skip("needs Chromium and chromedriver: apt-get install chromium chromium-driver")
    return write_library(tmp_path_factory.mktemp("npm"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium, without a window."""
    selenium = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install -e '.[dev]'")
    options = selenium.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = selenium.Chrome(options, selenium.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def downloads(browser, tmp_path: Path) -> Path:
    """Where the browser puts files; forgets what was logged before."""
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path / "got")})
    return tmp_path / "got"


@contextmanager
def served(folder: Path, data: Path) -> Iterator[str]:
    """Our server in a thread; yields its address."""
    with Server(("127.0.0.1", 0), folder, data) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server.address
        server.shutdown()


class Participant:
    """Takes part by the keyboard alone, and remembers what was on the page and how often each kind."""

    def __init__(self, browser: Any, **answers: list[str | None]):
        self.browser = browser
        self.answers = {kind: list(keys) for kind, keys in (RIGHT_KEYS | answers).items()}
        self.pages: list[tuple[str, str]] = []
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
    messages = [json.loads(line["message"])["message"] for line in browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith((start, "data:", f"blob:{start}", "blob:null"))] == []
    assert any(url.endswith("experiment.js") for url in asked)


def test_session_over_http_is_saved_as_it_was_answered(browser, library: Path, downloads: Path, tmp_path: Path, capfd):
    folder = write_experiment(tmp_path / "experiment", library)
    person = Participant(browser, check=["x", "m"])
    person.reload_at = 5
    with served(folder, tmp_path / "data") as address:
        browser.get(f"{address}?participant=P-07&episode=0")
        assert "saved" in person.take_part()
        assert browser.execute_script("return localStorage.length") == 0
        assert_nothing_went_wrong(browser, address)
    [path] = (tmp_path / "data").iterdir()
    rows = json.loads(path.read_text())
    assert responses(rows, "test") == GRADES
    assert responses(rows, "order") == ORDER
    assert responses(rows, "check") == ["x", "m"]
    assert [row["expected"] for row in rows if row["part"] == "check"] == ["k", "m"]
    assert responses(rows, "question") == ["j"]
    assert {(r["participant"], r["episode"], r["scale"], r["experiment"]) for r in rows} == {
        ("P-07", 0, "old_first", "0123456789abcdef")
    }
    assert len({row["session"] for row in rows}) == 1
    assert [row["resumed"] for row in rows if row["part"] == "test"] == [0] * 5 + [1] * 7
    assert [row["known"] for row in rows if row["part"] == "survey"] == ["yes"]
    assert f"participant P-07, episode 0: {len(rows)} rows" in capfd.readouterr().out
    assert any("<b>somebody</b>" in text for kind, text in person.pages if kind == "question")  # words stay words
    assert_times_are_told(rows)


def assert_times_are_told(rows: list[dict[str, Any]]) -> None:
    """Clips were seen whole, and every row says when it was, over a reload too."""
    for row in rows:
        if row["part"] == "study":
            clip = EPISODE["clips"][row["number"]]
            assert row["file"] == clip["file"]
            assert row["frames_total"] == clip["frames_total"]
            assert row["frames_shown"] + row["frames_dropped"] >= clip["frames_total"] - 2
            assert 0.9 * clip["seconds"] < row["seconds"] < clip["seconds"] + 0.5
        if row["part"] in ("test", "order"):
            assert (row["rt"] is None) == (row["response"] is None)
    onsets = [row["onset"] for row in rows if row["part"] in ("study", "test", "order")]
    assert onsets == sorted(onsets)
    assert onsets[0] > 0


def test_session_from_a_file_is_downloaded_with_the_scale_mirrored(browser, library: Path, downloads: Path, tmp_path):
    text = {"consent": "Will you <i>really</i> take part?"}
    folder = write_experiment(tmp_path / "experiment", library, text, scale="new_first")
    browser.get((folder / "index.html").as_uri())
    person = Participant(browser)
    assert "<i>really</i>" in person.take_part("button")
    assert person.browser.execute_script("return localStorage.length") == 0
    person.answer("button", "")
    person.take_part()
    scale = next(text for kind, text in person.pages if kind == "test")
    assert scale.index("sure: new") < scale.index("sure: old")
    assert_nothing_went_wrong(browser, folder.as_uri())
    [path] = wait_for(lambda: list(downloads.glob("*.json")))
    rows = json.loads(path.read_text())
    assert responses(rows, "test") == GRADES
    assert responses(rows, "order") == ORDER
    assert {row["scale"] for row in rows} == {"new_first"}
    [path] = wait_for(lambda: list(downloads.glob("*.csv")))
    with open(path, newline="") as file:
        table = list(csv.DictReader(file))
    told = [row["response"] for row in table if row["part"] == "test"]
    assert told == [key or "null" for key in GRADES]  # as jsPsych writes it


def wait_for(look: Callable[[], Any], seconds: float = 10) -> Any:
    """What `look` finds, once it finds something."""
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.02)
    return found


def test_dry_run_of_a_published_size_answers_every_probe(browser, library: Path, downloads: Path, tmp_path: Path):
    folder = write_experiment(tmp_path / "experiment", library, break_every=30, cross_s=1, picture_s=1.5, answer_s=10)
    enlarge(folder / "timeline.js")
    with served(folder, tmp_path / "data") as address:
        for seed in (3, 3, 4):
            browser.get(f"{address}?simulate={seed}")
            Participant(browser).take_part()
        assert_nothing_went_wrong(browser, address)
    dry = [
        json.loads(path.read_text())
        for path in sorted((tmp_path / "data").iterdir(), key=lambda p: p.stat().st_mtime_ns)
    ]
    grades = [responses(rows, "test") for rows in dry]
    assert [len(keys) for keys in grades] == [180] * 3
    assert set(grades[0]) == set("123456")
    assert grades[0] == grades[1] != grades[2]
    assert {row["simulated"] for row in dry[0]} == {"3"}
    assert len(responses(dry[0], "study")) == 90
    onset = {(row["part"], row["number"]): row["onset"] for row in dry[0] if row["part"] in ("study", "test")}
    assert onset["test", 0] - onset["study", 0] > 90 * 1000  # a dry run tells the times that a person would have taken


def test_probes_come_in_the_order_that_the_session_drew(browser, library: Path, downloads: Path, tmp_path: Path):
    folder = write_experiment(tmp_path / "experiment", library)
    orders = [list(range(12)), list(range(11, -1, -1))]
    with open(folder / "timeline.js", "a") as file:
        file.write(f"EXPERIMENT.episodes[0].orders = {orders};")
    seen = set()
    with served(folder, tmp_path / "data") as address:
        for seed in range(6):
            browser.get(f"{address}?simulate={seed}")
            Participant(browser).take_part()
    for path in (tmp_path / "data").iterdir():
        rows = [row for row in json.loads(path.read_text()) if row["part"] == "test"]
        [number] = {row["probe_order"] for row in rows}
        assert [row["file"] for row in rows] == [EPISODE["probes"][k]["file"] for k in orders[number]]
        seen.add(number)
    assert seen == {0, 1}


def enlarge(path: Path) -> None:
    """Give the episode 90 clips and 180 probes, of files that are not there."""
    more = "Object.assign(EXPERIMENT.episodes[0], {clips: Array(90).fill(EXPERIMENT.episodes[0].clips[0]), "
    more += "probes: Array(180).fill(EXPERIMENT.episodes[0].probes[0])});"
    path.write_text(path.read_text() + more)


def test_buttons_give_the_same_answers_as_keys(browser, library: Path, downloads: Path, tmp_path: Path):
    folder = write_experiment(tmp_path / "experiment", library, input="buttons")
    with served(folder, tmp_path / "data") as address:
        browser.get(f"{address}?simulate=1")
        Participant(browser).take_part()
    [path] = (tmp_path / "data").iterdir()
    rows = json.loads(path.read_text())
    assert set(responses(rows, "test")) <= set("123456")
    assert responses(rows, "check") == ["k", "m"]
    assert responses(rows, "question")[0] in ("j", "n")


def test_answers_are_downloaded_when_the_server_fails_and_sent_when_it_is_back(browser, library, downloads, tmp_path):
    folder = write_experiment(tmp_path / "experiment", library, save="missing")
    with served(folder, tmp_path / "data") as address:
        browser.get(f"{address}?simulate=1")
        assert "could not be sent" in Participant(browser).take_part("button")
        wait_for(lambda: list(downloads.glob("*.csv")) and list(downloads.glob("*.json")))
        assert list((tmp_path / "data").iterdir()) == []
        browser.execute_script("settings.save = 'answers'; document.querySelector('button').click()")
        Participant(browser).take_part()
    [path], [copy] = (tmp_path / "data").iterdir(), downloads.glob("*.json")
    assert path.read_text() == copy.read_text()


def test_session_in_jatos_is_submitted_and_ended(browser, library: Path, downloads: Path, tmp_path: Path):
    folder = write_experiment(tmp_path / "publix/1", library)
    (folder / "jatos.js").write_text("""
        const submitted = [];
        const jatos = {
          urlQueryParameters: {participant: "W1", simulate: "2"},
          onLoad: (ready) => ready(),
          submitResultData: async (text) => submitted.push(text),
          endStudy: () => (document.body.innerText = "ended"),
        };""")
    browser.get((folder / "index.html").as_uri())
    wait_for(lambda: browser.execute_script("return document.body.innerText") == "ended")
    texts = browser.execute_script("return submitted")
    assert len(texts) == 2  # one on the way, and all
    rows = json.loads(texts[-1])
    assert rows[:20] == json.loads(texts[0])
    assert len(responses(rows, "test")) == 12
    assert {row["participant"] for row in rows} == {"W1"}
    assert_nothing_went_wrong(browser, folder.as_uri())


@pytest.mark.parametrize("address", ["?participant=<img src=x onerror=alert(1)>", "?participant=" + "x" * 65, ""])
def test_participant_of_forbidden_letters_gets_a_random_name(browser, library, downloads, tmp_path, address):
    folder = write_experiment(tmp_path / "experiment", library)
    browser.get((folder / "index.html").as_uri() + address)
    assert len(browser.execute_script("return session.participant")) == 8


def test_episode_that_is_not_there_is_told(browser, library: Path, downloads: Path, tmp_path: Path):
    folder = write_experiment(tmp_path / "experiment", library)
    browser.get((folder / "index.html").as_uri() + "?episode=constructor")
    assert "does not have" in browser.execute_script("return document.body.innerText")
