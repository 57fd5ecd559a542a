"""The folder of a crowd: written, read back, and refused where it is not whole."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recognition.common.command_line import InputError
from recognition.people.crowd import GRADES, Crowd, read_crowd, write_crowd


@pytest.fixture
def crowd() -> Crowd:
    rng = np.random.default_rng(0)
    answer = rng.choice([*GRADES, np.nan], (3, 8)).astype(np.float32)
    is_old = np.tile([0, 1], (3, 4)).astype(np.uint8)
    scores = dict.fromkeys(("accuracy", "hit_rate", "false_alarm_rate", "d_prime", "criterion", "auc"), 0.5)
    persons = [
        {
            "id": f"p{k}",
            "left_out": "unfinished" if k == 2 else None,
            "flags": [],
            "scores": None if k == 2 else scores,
            "by_clip_kind": [],
            "median_rt_s": None,
            "order": None,
            "facts": {"browser": "Ω"},
        }
        for k in range(3)
    ]
    times = rng.uniform(300, 3000, (2, 3, 8)).astype(np.float32)
    episode, ids = np.array([0, 1, 0], np.int32), np.array(["p0", "p1", "p2"])
    return Crowd("people", "made up", "ab" * 32, persons, answer, is_old, *times, episode, ids)


def test_a_crowd_reads_back_as_it_was_written(tmp_path: Path, crowd: Crowd):
    write_crowd(tmp_path / "people", crowd)
    again = read_crowd(tmp_path / "people")
    assert (again.name, again.source, again.index_sha256, again.persons) == (
        *(crowd.name, crowd.source, crowd.index_sha256),
        crowd.persons,
    )
    for name in ("answer", "is_old", "rt_ms", "lag_s", "episode", "id"):
        np.testing.assert_array_equal(getattr(again, name), getattr(crowd, name), name)
    assert again.is_counted.tolist() == [True, True, False]
    assert [person["id"] for person in again.counted] == ["p0", "p1"]


def test_what_contradicts_itself_is_not_written(tmp_path: Path, crowd: Crowd):
    for wrong in (
        replace(crowd, answer=crowd.answer[:, :3]),
        replace(crowd, answer=np.full_like(crowd.answer, 4)),
        replace(crowd, is_old=crowd.is_old * 2),
        replace(crowd, id=crowd.id[::-1]),
    ):
        with pytest.raises(ValueError, match=r"differ|grades|neither|rows"):
            write_crowd(tmp_path / "people", wrong)
    assert not (tmp_path / "people").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda told: told.clear(), "'format_version' is missing"),
        (lambda told: told.update(format_version=2), "format 2, this program reads 1"),
        (lambda told: told.update(persons={}), "persons is of a wrong type"),
        (lambda told: told["persons"][0].pop("facts"), "'facts' is missing"),
        (lambda told: told["persons"][0].update(scores=None), "p0 has no scores and is not left out"),
        (lambda told: told["persons"][0]["scores"].update(auc="1"), "auc of p0 is not a number"),
        (lambda told: told["persons"].reverse(), "rows are not those of the persons"),
    ],
)
def test_an_edited_crowd_is_refused(tmp_path: Path, crowd: Crowd, change, reason: str):
    write_crowd(tmp_path, crowd)
    told = json.loads((tmp_path / "people.json").read_text())
    change(told)
    (tmp_path / "people.json").write_text(json.dumps(told))
    with pytest.raises(InputError, match=reason):
        read_crowd(tmp_path)


def test_a_damaged_crowd_is_refused(tmp_path: Path, crowd: Crowd):
    with pytest.raises(InputError, match="no such file; make it with"):
        read_crowd(tmp_path)
    write_crowd(tmp_path, crowd)
    content = (tmp_path / "answers.npz").read_bytes()
    (tmp_path / "answers.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="not the answers of a crowd"):
        read_crowd(tmp_path)
    (tmp_path / "people.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="not a file of people"):
        read_crowd(tmp_path)
