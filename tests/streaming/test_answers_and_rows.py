"""When a frame was seen, and tables that a stream leaves: row by row, gone on with, never half a row."""

import math
from pathlib import Path

import numpy as np
import pytest
from conftest import kill_at_random
from hypothesis import given
from hypothesis import strategies as st

from recognition.common.command_line import InputError
from recognition.streaming.answers import Answer, seen_time
from recognition.streaming.event import Event
from recognition.streaming.events import EventRules, Events
from recognition.streaming.rows import RowsFile, answers_file, events_file, read_rows

NAN = math.nan
EVENT = Event(1.5, 2.5, "replay", 0.25, 1.25, 1.25, 3.5, 2.5, 11, "film.mp4")
ANSWER = Answer(1.5, -0.25, False, None, 0.75, 0.5, 12.5, 3)


@pytest.mark.parametrize(
    ("times_s", "similarities", "expected"),
    [
        ([], [], None),
        ([NAN, NAN], [1, 1], None),
        ([5.0], [0.4], 5.0),
        ([50.0, 7.0, 7.5, 8.0, 90.0], [0.9, 0.85, 0.85, 0.85, 0.8], 7.0),  # the best has no company
        ([7.0, 8.0], [0.9, 0.9], 7.0),  # 1 s is within
        ([9.0, 7.0, 7.9, 8.3], [0.9] * 4, 7.9),
        ([50.0, 7.0, 8.1, 20.0], [0.9, 0.8, 0.7, 0.6], 50.0),  # nobody agrees: the most similar
        ([1.0, 20.0, 20.1, 40.0, 60.0], [0.9] * 5, 20.0),  # no majority: most weight
        ([50.0, 7.0, 7.1], [0.9, 0.3, 0.2], 50.0),  # weights, not heads
        ([50.0, 7.0, 7.5, 8.0], [1.0, 0.984, 0.983, 0.982], 50.0),  # all frames resemble each other
        ([NAN, 7.0], [0.9, 0.3], 7.0),
        ([1.0] * 4 + [9.0] * 4 + [9.0] * 20, [0.9] * 28, 1.0),  # only the first 8 have a say
        ([3.0, 4.0], [-0.2, -0.3], 3.0),
    ],
)
def test_when_a_frame_was_seen(times_s: list, similarities: list, expected: float | None):
    assert seen_time(times_s, similarities) == expected


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        (EVENT, "start_s,end_s,kind,seen_start_s,seen_end_s,offset_s,peak,mean,num_frames,source"),
        (ANSWER, "time_s,logit,says_old,seen_s,ring_similarity,ring_seen_s,latency_ms,dropped_before"),
    ],
)
def test_rows_read_back_as_they_were_written(tmp_path: Path, row, columns: str):
    with RowsFile(tmp_path / "x.csv", type(row)) as file:
        assert (tmp_path / "x.csv").read_text() == columns + "\n"
        file.write(row)
        assert read_rows(tmp_path / "x.csv", type(row)) == [row]  # before it is closed
        file.write(row)
    assert read_rows(tmp_path / "x.csv", type(row)) == [row, row]


@given(st.text() | st.sampled_from(["a\nb", "\r", '",\n"', "\udcff.mp4", "=1+1"]))
def test_a_row_is_one_line_whatever_the_source_is_called(tmp_path_factory, name: str):
    path = tmp_path_factory.getbasetemp() / "named.csv"
    with RowsFile(path, Event) as file:
        file.write(Event(*(*EVENT.__dict__.values(),)[:-1], name))
    assert path.read_bytes().count(b"\n") == 2
    [event] = read_rows(path, Event)
    if name.isprintable():
        assert event.source == name


def test_numbers_of_numpy_are_numbers(tmp_path: Path):
    with RowsFile(tmp_path / "x.csv", Answer) as file:
        file.write(Answer(np.float64(1.5), np.float32(0.1), np.bool_(True), dropped_before=np.int64(2)))
    assert read_rows(tmp_path / "x.csv", Answer) == [Answer(1.5, 0.1, True, dropped_before=2)]


@pytest.mark.parametrize("kind", [Event, Answer])
def test_half_a_row_is_never_read_wherever_it_ends(tmp_path: Path, kind: type):
    row = EVENT if kind is Event else ANSWER
    path = tmp_path / "x.csv"
    with RowsFile(path, kind) as file:
        file.write(row)
        file.write(row)
    whole = path.read_bytes()
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        assert read_rows(path, kind) == [row] * max(0, whole[:size].count(b"\n") - 1)
        with RowsFile(path, kind, lambda _: True) as file:
            file.write(row)
        lines = max(1, whole[:size].count(b"\n"))
        assert path.read_bytes() == b"".join(whole.splitlines(True)[:lines]) + whole.splitlines(True)[1]


@pytest.mark.parametrize(
    "text", ["a,b\n1,2\n", "my notes", "time_s\n", "\xff\n", Path(__file__).read_text(), '"\n', "\n"]
)
def test_another_file_is_refused_and_left_as_it_is(tmp_path: Path, text: str):
    path = tmp_path / "x.csv"
    path.write_text(text, encoding="latin-1")
    for act in (lambda: read_rows(path, Answer), lambda: answers_file(path, last_s=1.0)):
        with pytest.raises(InputError, match=r"x\.csv: its columns are not time_s,logit"):
            act()
    assert path.read_text(encoding="latin-1") == text


def test_a_wrong_row_is_told_with_its_line(tmp_path: Path):
    with answers_file(tmp_path / "x.csv") as file:
        file.write(ANSWER)
    for line in ("1,2,3\n", "1,2,yes,,,,,0\n", "x,2,1,,,,,0\n"):
        (tmp_path / "y.csv").write_text((tmp_path / "x.csv").read_text() + line)
        with pytest.raises(InputError, match=r"y\.csv:3: no row of such a table"):
            read_rows(tmp_path / "y.csv", Answer)


def test_a_table_is_begun_anew_unless_it_is_gone_on_with(tmp_path: Path):
    for _ in range(2):
        with answers_file(tmp_path / "x.csv") as file:
            file.write(ANSWER)
    assert len(read_rows(tmp_path / "x.csv", Answer)) == 1
    with answers_file(tmp_path / "new.csv", last_s=3.0):  # nothing to go on with
        pass
    assert read_rows(tmp_path / "new.csv", Answer) == []


STREAM = [(k / 30, 2.0 if k % 150 < 25 or k % 225 in (40, 41) else -1.0, k / 30 - 60) for k in range(900)]


def answer_part(folder: Path, answers: list, events: Events, is_on: bool, num_kept: int) -> dict | None:
    """Answers into both tables; the state after `num_kept` of them, though all are written."""
    last_s = events.last_s if is_on else None
    state = None
    with (
        events_file(folder / "events.csv", events.next_start_s if is_on else None) as events_table,
        answers_file(folder / "answers.csv", last_s) as answers_table,
    ):
        for number, (time_s, logit, seen_s) in enumerate(answers, 1):
            if event := events.add(time_s, logit, seen_s):
                events_table.write(event)
            answers_table.write(Answer(time_s, logit, logit > 0, seen_s))
            if number == num_kept:
                state = events.state()
        if num_kept == 0 and (event := events.finish()):
            events_table.write(event)
    return state


@pytest.mark.parametrize("cut", [1, 13, 26, 60, 90, 170, 450, 899])
@pytest.mark.parametrize("num_beyond", [0, 1, 61, 200])
def test_tables_gone_on_with_after_a_stop_are_those_of_one_go(tmp_path: Path, cut: int, num_beyond: int):
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    parts.mkdir()
    whole.mkdir()
    answer_part(whole, STREAM, Events(EventRules(), "film"), False, 0)
    # The process was killed some answers after it had kept its state, and in the middle of a line.
    state = answer_part(parts, STREAM[: cut + num_beyond], Events(EventRules(), "film"), False, cut)
    for name in ("events.csv", "answers.csv"):
        with open(parts / name, "a") as file:
            file.write("14.0,15")
    events = Events(EventRules(), "film")
    events.go_on(state)
    answer_part(parts, STREAM[cut:], events, True, 0)
    for name in ("events.csv", "answers.csv"):
        assert (parts / name).read_text() == (whole / name).read_text()
    assert len(read_rows(whole / "events.csv", Event)) > 3


def test_a_killed_process_leaves_rows_that_can_be_read(tmp_path: Path):
    code = (
        "import sys; from pathlib import Path; from recognition.streaming.answers import Answer\n"
        "from recognition.streaming.rows import answers_file\n"
        "file = answers_file(Path('x.csv'))\nprint('begun', flush=True)\n"
        "for k in range(10**7): file.write(Answer(k / 10, 1.0, True))"
    )
    kill_at_random(["-c", code], tmp_path, num_kills=1, longest_s=0.3, once_it_speaks=True)
    rows = read_rows(tmp_path / "x.csv", Answer)
    assert [row.time_s for row in rows] == [round(k / 10, 4) for k in range(len(rows))]


def test_a_full_disk_is_told_with_the_file():
    with pytest.raises(OSError, match="/dev/full"):
        answers_file(Path("/dev/full"))
