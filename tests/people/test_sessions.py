"""Sessions read back: what was pressed is what is found, however it was saved; what cannot be true is refused."""

import io
import json
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import refusal, run_here
from made_up_people import as_csv, made_key, made_rows, right_grades

from recognition.common.command_line import InputError
from recognition.people.crowd import read_crowd
from recognition.people.importing import evaluate_session
from recognition.people.key import Key, write_key
from recognition.people.sessions import Session, read_sessions

NAN = float("nan")
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def key(small_bank: Path) -> Key:
    return made_key(small_bank / "test_indices.h5")


@pytest.fixture
def grades(key: Key) -> list[float]:
    return [3.0, -1.0, NAN, 2.0, -3.0, 1.0, -2.0, 3.0][: len(key.episodes["0"]["probes"])]


def read(folder: Path, key: Key, *texts: str, ending: str = "json") -> list[Session]:
    for k, text in enumerate(texts):
        (folder / f"{k}.{ending}").write_text(text, newline="")
    return read_sessions(key, [folder])


@pytest.mark.parametrize("scale", ["old_first", "new_first"])
def test_what_was_pressed_is_what_is_read(tmp_path: Path, key: Key, grades: list[float], scale: str):
    [session] = read(tmp_path, key, json.dumps(made_rows(key, "anna", grades, scale=scale, order="16")))
    np.testing.assert_array_equal(session.answer, np.array(grades, np.float32))
    np.testing.assert_array_equal(np.isnan(session.rt_ms), np.isnan(grades))
    assert session.rt_ms[1] == 1010
    assert session.order_answer is not None
    np.testing.assert_array_equal(session.order_answer, [3, -3, NAN])
    assert (session.participant, session.episode, session.facts["scale"]) == ("anna", 0, scale)
    assert session.facts["browser"] == "chrome"


def test_probes_in_another_order_are_told_apart_by_their_files(tmp_path: Path, key: Key, grades: list[float]):
    order = [5, 2, 7, 0, 1, 6, 3, 4]
    (tmp_path / "plain").mkdir()
    rows = made_rows(key, "anna", [grades[probe] for probe in order])
    for row in rows:
        if row["part"] == "test":
            row["file"] = key.episodes["0"]["probes"][order[row["number"]]]["file"]
    [session] = read(tmp_path, key, json.dumps(rows))
    np.testing.assert_array_equal(session.answer, np.array(grades, np.float32))
    np.testing.assert_array_equal(session.place, np.argsort(order))
    onset = [row["onset"] for row in rows if row["part"] == "test"]
    old = [place for place, probe in enumerate(order) if key.episodes["0"]["probes"][probe]["is_old"]]
    steps = session.lag_s[[order[place] for place in old]] + [_seen_s(key, rows, order[place]) for place in old]
    np.testing.assert_allclose(steps, [onset[place] / 1000 for place in old], atol=1e-4)
    told = evaluate_session(tmp_path, key, session, 2)
    assert told is not None
    by_order = [row["num_probes"] for row in told["retention"]["by_probe_order"]]
    answered = ~np.isnan(np.array(grades)[order])
    assert by_order == [int(answered[place]) for place in range(8) if answered[place]]
    [cut] = read(tmp_path / "plain", key, json.dumps(rows[:-3]))
    assert cut.place[order[:5]].tolist() == [0, 1, 2, 3, 4]
    assert np.isnan(cut.answer[order[5:]]).all()


def _seen_s(key: Key, rows: Rows, probe: int) -> float:
    """When the clip of a probe showed its frame."""
    told = key.episodes["0"]["probes"][probe]
    [onset] = [row["onset"] for row in rows if (row["part"], row.get("number")) == ("study", told["clip"])]
    return onset / 1000 + told["at_s"]


def test_a_person_of_several_sessions_is_told(tmp_path: Path, key: Key):
    names = {name: uuid.uuid4() for name in ("one", "two", "three")}
    texts = [json.dumps(made_rows(key, "anna", right_grades(key), session=str(names[name]))) for name in ("one", "two")]
    texts.append(json.dumps(made_rows(key, "ben", right_grades(key), session=str(names["three"]))))
    assert [session.flags for session in read(tmp_path, key, *texts)] == [["one of 2 sessions of anna"]] * 2 + [[]]


def test_lags_are_measured_from_the_frame_in_its_clip(tmp_path: Path, key: Key, grades: list[float]):
    rows = made_rows(key, "anna", grades)
    [session] = read(tmp_path, key, json.dumps(rows))
    onset = {(row["part"], row["number"]): row["onset"] for row in rows if row["part"] in ("study", "test")}
    for place, probe in enumerate(key.episodes["0"]["probes"]):
        if not probe["is_old"]:
            assert np.isnan(session.lag_s[place])
            continue
        clip = key.episodes["0"]["clips"][probe["clip"]]
        seen_s = onset["study", probe["clip"]] / 1000 + (probe["frame"] - clip["rows"][0][1]) / 30
        assert session.lag_s[place] == pytest.approx(onset["test", place] / 1000 - seen_s, abs=1e-4)


@pytest.mark.parametrize("form", ["csv", "jatos", "zip", "jrzip", "nested folders"])
def test_every_form_reads_alike(tmp_path: Path, key: Key, grades: list[float], form: str):
    both = [made_rows(key, name, grades) for name in ("anna", "ben")]
    plain, folder = tmp_path / "json", tmp_path / "data"
    plain.mkdir()
    folder.mkdir()
    expected = read(plain, key, *map(json.dumps, both))
    if form == "csv":
        for name, rows in zip("ab", both, strict=True):
            (folder / f"{name}.csv").write_text(as_csv(rows), newline="")
    elif form == "jatos":
        (folder / "results.txt").write_text("\n".join(map(json.dumps, both)) + "\n")
        (folder / "data.txt").write_text("")  # who left at once
    elif form == "nested folders":
        (folder / "one" / "two").mkdir(parents=True)
        (folder / "one" / "a.json").write_text(json.dumps(both[0]))
        (folder / "one" / "two" / "b.JSON").write_text(json.dumps(both[1]))
        (folder / ".a.json").write_text("not ours")
        (folder / "experiment.key.json").write_text("{}")
        (folder / "notes.md").write_text("not ours")
    else:
        with zipfile.ZipFile(folder / f"results.{form}", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("metadata.json", "{}")
            for k, rows in enumerate(both):
                archive.writestr(f"study_result_{k}/comp-result_{k}/data.txt", json.dumps(rows))
    found = read_sessions(key, [folder])
    assert [session.id for session in found] == [session.id for session in expected]
    for mine, its in zip(found, expected, strict=True):
        for name in ("answer", "rt_ms", "lag_s"):
            np.testing.assert_array_equal(getattr(mine, name), getattr(its, name))
        assert mine.facts | {"source": ""} == its.facts | {"source": ""}


def test_of_a_session_its_longest_version_counts(tmp_path: Path, key: Key, grades: list[float]):
    rows = made_rows(key, "anna", grades)
    resumed = [row | {"resumed": int(k > 8)} for k, row in enumerate(rows)]
    [session] = read(tmp_path, key, json.dumps(rows[:10]), json.dumps(resumed), json.dumps(rows[:-3]))
    np.testing.assert_array_equal(session.answer, np.array(grades, np.float32))
    assert session.facts["num_resumed"] == 1


def test_old_probes_of_a_clip_that_lost_frames_do_not_count(tmp_path: Path, key: Key):
    rows = made_rows(key, "anna", right_grades(key))
    probes = key.episodes["0"]["probes"]
    lost = next(probe["clip"] for probe in probes if probe["is_old"])
    for row in rows:
        if row["part"] == "study" and row["number"] == lost:
            row.update(frames_dropped=6, frames_total=100)
    [session] = read(tmp_path, key, json.dumps(rows))
    np.testing.assert_array_equal(np.isnan(session.answer), [probe["clip"] == lost for probe in probes])
    assert session.facts["num_clips_dropped"] == 1
    assert session.facts["num_answered"] == len(probes)  # the person did answer
    for row in rows:
        if row["part"] == "study" and row["number"] == lost:
            row.update(frames_dropped=5)
    [session] = read(tmp_path, key, json.dumps(rows))
    assert not np.isnan(session.answer).any()


def changed(rows: Rows, part: str, number: int, **values: Any) -> Rows:
    return [row | values if (row["part"], row.get("number")) == (part, number) else row for row in rows]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda rows: rows[:-3], "unfinished: 62 % of the probes answered"),
        (lambda rows: changed(rows, "check", 0, response="z"), None),
        (lambda rows: changed(changed(rows, "check", 0, response="z"), "check", 1, response=None), "failed 2 of 3"),
        (lambda rows: [row | {"simulated": "7"} for row in rows], "a dry run"),
    ],
)
def test_who_is_left_out(tmp_path: Path, key: Key, change: Callable, reason: str | None):
    [session] = read(tmp_path, key, json.dumps(change(made_rows(key, "anna", right_grades(key)))))
    assert session.left_out == reason if reason is None else reason in str(session.left_out)


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        (lambda rows: rows, None),
        (
            lambda rows: [row | {"rt": 200} if row["part"] == "test" else row for row in rows],
            "median response time 200",
        ),
        (lambda rows: changed(rows, "test", 2, left=4), "left the window 4 times"),
        (lambda rows: changed(rows, "test", 2, response=None, rt=None), "12 % unanswered"),
        (lambda rows: [row | {"response": "2"} if row["part"] == "test" else row for row in rows], "one key in 100 %"),
    ],
)
def test_what_is_odd(tmp_path: Path, key: Key, change: Callable, flag: str | None):
    [session] = read(tmp_path, key, json.dumps(change(made_rows(key, "anna", right_grades(key)))))
    assert session.left_out is None
    assert session.flags == [] if flag is None else [flag in text for text in session.flags] == [True]


SCRIPT = "<script>alert(1)</script>"
BAD = {
    "of another experiment": (lambda rows: [row | {"experiment": "f" * 16} for row in rows], "another experiment"),
    "of another format": (lambda rows: [row | {"format_version": 2} for row in rows], "format 2"),
    "with a row twice": (lambda rows: [*rows, rows[-1]], "test row 7 of session .* is there twice"),
    "with a row gone": (lambda rows: rows[:-3] + rows[-2:], "test row 6 follows 4"),
    "with a script as an answer": (lambda rows: changed(rows, "test", 1, response=SCRIPT), "none of the keys 1 to 6"),
    "with a script as a name": (lambda rows: [row | {"participant": SCRIPT} for row in rows], "participant '<script>"),
    "with a path as a name": (lambda rows: [row | {"participant": "../../x"} for row in rows], "participant '../../x'"),
    "with a seventh key": (lambda rows: changed(rows, "test", 1, response="7"), "none of the keys"),
    "with a number as a key": (lambda rows: changed(rows, "test", 1, response=3), "none of the keys"),
    "with a negative time": (lambda rows: changed(rows, "test", 1, rt=-5), "rt -5 is not a number from 0 to 11000"),
    "with an endless time": (lambda rows: changed(rows, "test", 1, rt=1e9), "rt 1000000000.0 is not"),
    "with a time that is no number": (lambda rows: changed(rows, "test", 1, rt=[1]), r"rt \[1\] is not"),
    "with an answer without its time": (lambda rows: changed(rows, "test", 1, rt=None), "without its time"),
    "with times that run back": (lambda rows: changed(rows, "test", 1, onset=7), "begins before the one before"),
    "with frames beyond count": (lambda rows: changed(rows, "study", 0, frames_total=1e12), "frames_total"),
    "with a picture twice": (
        lambda rows: changed(rows, "test", 1, file=next(row["file"] for row in rows if row["part"] == "test")),
        r"test row 1 shows stimuli/0/probes/000.jpg again",
    ),
    "with a picture of another episode": (
        lambda rows: changed(rows, "test", 1, file="stimuli/1/probes/001.jpg"),
        "which the key does not have in episode 0",
    ),
    "without its pictures": (lambda rows: changed(rows, "test", 1, file=None), "test row 1 shows None"),
    "with other pictures": (lambda rows: changed(rows, "test", 1, file="stimuli/x.jpg"), "shows 'stimuli/x.jpg'"),
    "with another check": (lambda rows: changed(rows, "check", 1, expected="a"), "a check wants 'a'"),
    "of an unknown episode": (lambda rows: [row | {"episode": 7} for row in rows], "episode 7 is not in the key"),
    "with two scales": (lambda rows: changed(rows, "test", 1, scale="new_first"), "two participants, episodes or"),
    "with an unknown scale": (lambda rows: [row | {"scale": "upside"} for row in rows], "scale 'upside'"),
    "without its clips": (lambda rows: [row for row in rows if row["part"] != "study"], "3 clips are missing"),
    "without a session": (lambda rows: [row | {"session": None} for row in rows], "names no session"),
    "with too many probes": (
        lambda rows: [*rows, rows[-1] | {"number": 8, "onset": 1e6}],
        "has 9 test rows of 8",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_answers_are_refused(tmp_path: Path, key: Key, what: str):
    change, reason = BAD[what]
    good = made_rows(key, "ben", right_grades(key))
    with pytest.raises(InputError, match=reason):
        read(tmp_path, key, json.dumps(good), json.dumps(change(made_rows(key, "anna", right_grades(key)))))


def test_two_versions_that_contradict_each_other_are_refused(tmp_path: Path, key: Key):
    rows = made_rows(key, "anna", right_grades(key))
    edited = changed(rows, "test", 1, response="4")
    with pytest.raises(InputError, match=r"otherwise than .*0\.json: one was edited"):
        read(tmp_path, key, json.dumps(rows), json.dumps(edited))


def edited(text: str, bad: tuple) -> str:
    return json.dumps(bad[0](json.loads(text)))


def archive_of(name: str, text: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(name, text)
    return content.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.json", lambda text: text[: len(text) // 2], "cut off, or not JSON"),
        ("a.json", lambda text: "", "is empty"),
        ("a.json", lambda text: edited(text, BAD["of another experiment"]), "another experiment"),
        ("a.json", lambda text: edited(text, BAD["with a row twice"]), "is there twice"),
        ("a.json", lambda text: edited(text, BAD["with a script as an answer"]), "none of the keys 1 to 6"),
        ("a.json", lambda text: edited(text, BAD["with a picture twice"]), "again: it was edited"),
        ("a.json", lambda text: "{}", "an array of rows"),
        ("a.json", lambda text: "[1]", "an array of rows"),
        ("a.json", lambda text: "[" * 100_000, "cut off, or not JSON"),
        ("a.json", lambda text: text.replace('"rt": 1010', '"rt": NaN'), "NaN is no number"),
        ("a.json", lambda text: b"\xff\xfe" + text.encode("utf-16-le"), "not a text in UTF-8"),
        ("a.csv", lambda text: as_csv(json.loads(text))[:-40], "cut off"),
        ("a.csv", lambda text: "", "is empty"),
        ("a.csv", lambda text: "a,a\r\n1,2\r\n", "no columns, or one twice"),
        ("a.zip", lambda text: archive_of("../../etc/a.json", text), "which leads out of it"),
        ("a.zip", lambda text: archive_of("/a.json", text), "which leads out of it"),
        ("a.zip", lambda text: archive_of("C:\\a.json", text), "which leads out of it"),
        ("a.zip", lambda text: archive_of("a.json", text)[:200], "not an archive that can be read"),
        ("a.jrzip", lambda text: archive_of("a.json", "[{"), "a.jrzip/a.json: cut off"),
    ],
)
def test_a_damaged_file_ends_the_reading_and_leaves_nothing(
    tmp_path: Path, key: Key, name: str, content: Callable, reason: str
):
    data = tmp_path / "data"
    data.mkdir()
    write_key(tmp_path / "experiment.key.json", key)
    (data / "0.json").write_text(json.dumps(made_rows(key, "ben", right_grades(key))))
    made = content(json.dumps(made_rows(key, "anna", right_grades(key))))
    (data / name).write_bytes(made if isinstance(made, bytes) else made.encode())
    words = ("read", "experiment.key.json", "data", "--output=runs/people")
    assert reason in refusal(run_here("recognition.participants", *words, cwd=tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "experiment.key.json"]


def test_reading_writes_a_folder_a_session_and_replaces_an_earlier_reading(tmp_path: Path, key: Key):
    data = tmp_path / "data"
    data.mkdir()
    write_key(tmp_path / "experiment.key.json", key)
    rows = made_rows(key, "anna", right_grades(key), order="161")
    rows.append(rows[-1] | {"part": "survey", "number": None, "known": "yes", "which_films": f"=1+1 {SCRIPT}"})
    (data / "anna.json").write_text(json.dumps(rows))
    (data / "ben.json").write_text(json.dumps(made_rows(key, "ben", [*right_grades(key)[:7], 1.0], "1")))
    (data / "cut.json").write_text(json.dumps(made_rows(key, "cut", right_grades(key)[:3])))
    words = ("read", "experiment.key.json", "data", "--output=runs/people")
    result = run_here("recognition.participants", *words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "2 of 3 sessions count" in result.stdout
    people = tmp_path / "runs/people"
    crowd = read_crowd(people)
    assert [person["left_out"] is None for person in crowd.persons] == [True, True, False]
    for person in crowd.persons:
        assert read_crowd(people / person["id"]).persons[0]["scores"] == person["scores"]
    told = json.loads((people / "evaluation.json").read_text())
    assert told["num_persons"] == 2
    assert told["accuracy"] == np.mean([person["scores"]["accuracy"] for person in crowd.counted])
    table = (people / "participants.csv").read_text()
    assert "'=1+1" in table
    page = (people / "report.html").read_text()
    assert SCRIPT not in page
    assert "unfinished" in page
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["people"]

    (data / "cut.json").unlink()
    assert run_here("recognition.participants", *words, cwd=tmp_path).returncode == 0
    assert len(read_crowd(people).persons) == 2
    (people / "thesis.txt").write_text("mine")
    assert "holds thesis.txt" in refusal(run_here("recognition.participants", *words, cwd=tmp_path))


def test_people_are_excluded_by_name_and_kept_on_request(tmp_path: Path, key: Key):
    data = tmp_path / "data"
    data.mkdir()
    write_key(tmp_path / "experiment.key.json", key)
    for name, num in (("anna", 8), ("ben", 8), ("cut", 5)):
        (data / f"{name}.json").write_text(json.dumps(made_rows(key, name, right_grades(key)[:num])))
    (tmp_path / "no.csv").write_text("ben, fell asleep\n")
    words = ("read", "experiment.key.json", "data", "--output=people", "--exclude=no.csv", "--keep_all")
    assert run_here("recognition.participants", *words, cwd=tmp_path).returncode == 0
    anna, ben, cut = read_crowd(tmp_path / "people").persons
    assert (anna["left_out"], ben["left_out"], cut["left_out"]) == (None, "excluded: fell asleep", None)
    assert cut["flags"][0].startswith("kept though unfinished")
    (tmp_path / "no.csv").write_text("bob\n")
    assert "no session and no participant bob" in refusal(run_here("recognition.participants", *words, cwd=tmp_path))
