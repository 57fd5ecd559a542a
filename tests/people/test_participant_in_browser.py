"""A scripted participant in a real browser: what is saved is what was answered, and nothing is asked for elsewhere.

The experiment is exported from films whose frames bear numbers, which the script reads in the pictures that it answers.
Needs Chromium, its driver and npm from the system's packages and selenium from the extra `dev`; skips where they are
not. With SCREENSHOTS=folder every kind of page is saved there as a picture, to look at.
"""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from chromium import BROWSER, DRIVER
from conftest import run_here
from scripted_participant import (
    GRADES,
    NAN,
    ORDER,
    Participant,
    assert_nothing_went_wrong,
    forget_log,
    responses,
    served,
    wait_for,
)
from small_experiment import PROBES, changed_copy, enlarged_copy, export_small, place_in_study, told

from recognition.people.crowd import read_crowd
from recognition.people.key import Key, read_key
from recognition.people.sessions import GRADE, read_sessions


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The experiment as it is exported."""
    if not BROWSER or not DRIVER:
        pytest.skip("needs Chromium and chromedriver: apt-get install chromium chromium-driver")
    return export_small(tmp_path_factory.mktemp("browser") / "small")


@pytest.fixture(scope="module")
def key(experiment: Path) -> Key:
    """Its key."""
    return read_key(experiment.with_name("experiment.key.json"))


@pytest.fixture
def downloads(browser, tmp_path: Path) -> Path:
    """Where the browser puts files; forgets what was logged before."""
    forget_log(browser)
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path / "got")})
    return tmp_path / "got"


@pytest.fixture(scope="module")
def seen_through(browser, experiment: Path, key: Key) -> tuple[Participant, Path]:
    """A session over http, reloaded in its midst, with a check failed and a probe let pass; and the answers' folder."""
    folder, data = changed_copy(experiment, experiment.with_name("page")), experiment.with_name("data")
    person = Participant(browser, ["x" if key.episodes["0"]["checks"][0]["key"] != "x" else "y"], reads=True)
    person.answers["check"] += [check["key"] for check in key.episodes["0"]["checks"][1:]]
    person.reload_at = 5
    forget_log(browser)
    with served(folder, data) as address:
        browser.get(f"{address}?participant=P-07&episode=0")
        assert "saved" in person.take_part()
        assert browser.execute_script("return localStorage.length") == 0
        assert_nothing_went_wrong(browser, address)
    return person, data


def rows_in(folder: Path) -> list[dict[str, Any]]:
    """The rows of the only session in a folder."""
    [path] = folder.iterdir()
    return json.loads(path.read_text())


def expected(key: Key, rows: list[dict[str, Any]], keys: dict[int, str | None]) -> list[float]:
    """What the key makes of the keys that were pressed at its probes. A clip of which the machine dropped frames takes
    its probes along."""
    lost = {row["number"] for row in rows if row["part"] == "study" and row["frames_dropped"] > 0}
    grades = GRADE[rows[0]["scale"]]
    return [
        NAN if pressed is None or key.episodes["0"]["probes"][k]["clip"] in lost else grades[int(pressed) - 1]
        for k, pressed in sorted(keys.items())
    ]


def test_what_is_read_back_is_what_was_answered_to_each_picture(seen_through, experiment: Path, key: Key):
    person, data = seen_through
    assert len(person.seen) == len(set(person.seen)) == 12
    keys = {PROBES[0].index(list(seen)): pressed for seen, pressed in zip(person.seen, GRADES, strict=True)}
    [session] = read_sessions(key, [data])
    np.testing.assert_array_equal(session.answer, expected(key, rows_in(data), keys))
    np.testing.assert_array_equal(session.place, np.argsort([PROBES[0].index(list(seen)) for seen in person.seen]))
    np.testing.assert_array_equal(session.order_answer, [GRADE["old_first"][int(pressed) - 1] for pressed in ORDER])
    assert (session.participant, session.episode) == ("P-07", 0)
    num_checks = len(key.episodes["0"]["checks"])
    assert (session.facts["num_checks"], session.facts["num_checks_failed"]) == (num_checks, 1)
    assert session.left_out == f"failed 1 of {num_checks} attention checks"
    pictures = [[cv2.imread(str(experiment / side))[..., ::-1] for side in sides] for sides in person.sides]
    is_left = [place_in_study(left) < place_in_study(right) for left, right in pictures]
    assert is_left == [pair["earlier"] == "left" for pair in key.episodes["0"]["pairs"]]


def test_session_over_http_is_saved_as_it_was_answered(seen_through, key: Key):
    person, data = seen_through
    rows = rows_in(data)
    assert responses(rows, "test") == GRADES
    assert responses(rows, "order") == ORDER
    assert responses(rows, "check")[0] in "xy"
    assert [row["expected"] for row in rows if row["part"] == "check"] == [
        check["key"] for check in key.episodes["0"]["checks"]
    ]
    assert responses(rows, "question") == ["y"]
    heads = {(row["participant"], row["episode"], row["scale"], row["experiment"], row["session"]) for row in rows}
    [(*head, _)] = heads
    assert head == ["P-07", 0, "old_first", key.experiment]
    assert [row["resumed"] for row in rows if row["part"] == "test"] == [0] * 5 + [1] * 7
    assert [row["known"] for row in rows if row["part"] == "survey"] == ["yes"]
    assert any("<b>somebody</b>" in text for kind, text in person.pages if kind == "question")  # words stay words
    assert_times_are_told(rows, key)


def test_people_of_a_browser_are_a_row_of_evaluation_and_comparison(seen_through, experiment: Path):
    folder = experiment.parent
    words = ("read", "experiment.key.json", "data", "--output=runs/people", "--keep_all")
    result = run_here("recognition.participants", *words, cwd=folder)
    assert "1 of 1 sessions count" in result.stdout, result.stderr
    [person] = read_crowd(folder / "runs/people").persons
    assert person["order"]["num_pairs"] == 2
    result = run_here("evaluate.py", "runs/people", cwd=folder)
    assert result.returncode == 0, result.stderr
    result = run_here("recognition.participants", "compare", "runs/people", cwd=folder)
    assert "people: 1, models: 0" in result.stdout, result.stderr


def assert_times_are_told(rows: list[dict[str, Any]], key: Key) -> None:
    """Clips were seen whole, and every row says when it was, over a reload too."""
    for row in rows:
        if row["part"] == "study":
            clip = key.episodes["0"]["clips"][row["number"]]
            assert row["file"] == clip["file"]
            assert row["frames_total"] == clip["num_frames"]
            assert row["frames_shown"] + row["frames_dropped"] >= clip["num_frames"] - 2
            assert 0.9 * clip["seconds"] < row["seconds"] < clip["seconds"] + 0.5
        if row["part"] in ("test", "order"):
            assert (row["rt"] is None) == (row["response"] is None)
    onsets = [row["onset"] for row in rows if row["part"] in ("study", "test", "order")]
    assert onsets == sorted(onsets)
    assert onsets[0] > 0


def test_session_from_a_file_is_downloaded_with_the_scale_mirrored(browser, experiment, key, downloads, tmp_path):
    text = {"consent": "Will you <i>really</i> take part?"}
    folder = changed_copy(experiment, tmp_path / "experiment", text, scale="new_first")
    browser.get((folder / "index.html").as_uri())
    person = Participant(browser, [check["key"] for check in key.episodes["0"]["checks"]])
    assert "<i>really</i>" in person.take_part("button")
    assert person.browser.execute_script("return localStorage.length") == 0
    person.answer("button", "")
    person.take_part()
    scale = next(text for kind, text in person.pages if kind == "test")
    assert scale.index("sure: new") < scale.index("sure: old")
    assert_nothing_went_wrong(browser, folder.as_uri())
    wait_for(lambda: len([*downloads.glob("*.json"), *downloads.glob("*.csv")]) == 2)
    [path] = downloads.glob("*.json")
    rows = json.loads(path.read_text())
    assert responses(rows, "test") == GRADES
    assert responses(rows, "order") == ORDER
    assert {row["scale"] for row in rows} == {"new_first"}
    [number] = {row["probe_order"] for row in rows}
    order = told(experiment)["episodes"]["0"]["orders"][number]
    for saved in downloads.iterdir():
        [session] = read_sessions(key, [saved])
        np.testing.assert_array_equal(session.answer, expected(key, rows, dict(zip(order, GRADES, strict=True))))
        assert session.left_out is None


def test_dry_run_of_a_published_size_reads_back_to_every_probe(browser, experiment: Path, downloads, tmp_path: Path):
    key = enlarged_copy(experiment, tmp_path / "experiment")
    with served(tmp_path / "experiment", tmp_path / "data") as address:
        for seed in (3, 3, 4):
            browser.get(f"{address}?participant=D{seed}&simulate={seed}")
            Participant(browser).take_part()
        assert_nothing_went_wrong(browser, address)
    first, second, other = read_sessions(key, [tmp_path / "data"])
    assert [len(session.answer) for session in (first, second, other)] == [180] * 3
    assert set(first.answer.tolist()) == set(GRADE["old_first"])
    np.testing.assert_array_equal(first.answer, second.answer)
    assert (first.answer != other.answer).any()
    assert first.left_out == "a dry run, not a person"
    assert [len(session.flags) > 0 for session in (first, second, other)] == [True, True, False]  # one came twice
    assert np.nanmax(first.lag_s) > 90  # a dry run tells the times that a person would have taken


def test_probes_come_in_the_order_that_the_session_drew(browser, experiment: Path, key: Key, downloads, tmp_path: Path):
    folder, seen = changed_copy(experiment, tmp_path / "experiment"), set()
    orders = told(experiment)["episodes"]["0"]["orders"]
    with served(folder, tmp_path / "data") as address:
        for seed in range(6):
            browser.get(f"{address}?simulate={seed}")
            Participant(browser).take_part()
    for path in (tmp_path / "data").iterdir():
        rows = [row for row in json.loads(path.read_text()) if row["part"] == "test"]
        [number] = {row["probe_order"] for row in rows}
        assert [row["file"] for row in rows] == [key.episodes["0"]["probes"][k]["file"] for k in orders[number]]
        [session] = read_sessions(key, [path])
        np.testing.assert_array_equal(session.place, np.argsort(orders[number]))
        seen.add(number)
    assert seen == {0, 1}


def test_buttons_give_the_same_answers_as_keys(browser, experiment: Path, downloads: Path, tmp_path: Path):
    folder = changed_copy(experiment, tmp_path / "experiment", input="buttons")
    with served(folder, tmp_path / "data") as address:
        browser.get(f"{address}?simulate=1")
        Participant(browser).take_part()
    [path] = (tmp_path / "data").iterdir()
    rows = json.loads(path.read_text())
    assert set(responses(rows, "test")) <= set("123456")
    assert responses(rows, "check") == [row["expected"] for row in rows if row["part"] == "check"]
    assert responses(rows, "question")[0] in ("y", "n")


def test_answers_are_downloaded_when_the_server_fails_and_sent_later(browser, experiment, downloads, tmp_path):
    folder = changed_copy(experiment, tmp_path / "experiment", save="missing")
    with served(folder, tmp_path / "data") as address:
        browser.get(f"{address}?simulate=1")
        assert "could not be sent" in Participant(browser).take_part("button")
        wait_for(lambda: list(downloads.glob("*.csv")) and list(downloads.glob("*.json")))
        assert list((tmp_path / "data").iterdir()) == []
        browser.execute_script("settings.save = 'answers'; document.querySelector('button').click()")
        Participant(browser).take_part()
    [path], [copy] = (tmp_path / "data").iterdir(), downloads.glob("*.json")
    assert path.read_text() == copy.read_text()


def test_session_in_jatos_is_submitted_and_ended(browser, experiment: Path, downloads: Path, tmp_path: Path):
    folder = changed_copy(experiment, tmp_path / "publix/1")
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
def test_participant_of_forbidden_letters_gets_a_random_name(browser, experiment, downloads, tmp_path, address):
    folder = changed_copy(experiment, tmp_path / "experiment")
    browser.get((folder / "index.html").as_uri() + address)
    assert len(browser.execute_script("return session.participant")) == 8


def test_episode_that_is_not_there_is_told(browser, experiment: Path, downloads: Path, tmp_path: Path):
    folder = changed_copy(experiment, tmp_path / "experiment")
    browser.get((folder / "index.html").as_uri() + "?episode=constructor")
    assert "does not have" in browser.execute_script("return document.body.innerText")
