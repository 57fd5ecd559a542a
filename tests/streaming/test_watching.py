"""A run watches sources: `python -m recognition.live`."""

import csv
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import refusal, run_here
from forking import Forked

from recognition.films.synthetic import write_frames
from recognition.films.video import decode
from recognition.streaming.answers import Answer
from recognition.streaming.event import Event
from recognition.streaming.eye import Eye
from recognition.streaming.rows import read_rows

LIVE, RUN = "recognition.live", "runs/knn"
TIMES_S = [*(k / 4 for k in range(120)), 359 / 12]  # of the answers to twice.mp4, whose last frame is its 360th


@pytest.fixture(scope="module")
def room(live_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run and twice.mp4: two films of 12 s, then the first 6 s of the first once more."""
    folder = tmp_path_factory.mktemp("watching")
    for name in ("features", "runs", "films"):
        (folder / name).symlink_to(live_run / name)
    first, second = ([image for image, _ in decode(film)] for film in sorted(live_run.glob("films/*.mp4"))[-2:])
    write_frames(folder / "twice.mp4", [*first, *second, *first[:72]], (320, 180), 12)
    return folder


def watch(room: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return run_here(LIVE, RUN, *words, cwd=room)


def said(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode in (0, None), result.stderr
    return result.stdout


def without_latency(answers: list[Answer]) -> list[tuple]:
    return [(a.time_s, a.logit, a.says_old, a.seen_s, a.ring_similarity, a.ring_seen_s) for a in answers]


@pytest.fixture(scope="module")
def at_once(room: Path) -> Path:
    """What one go makes of twice.mp4."""
    words = "--events=e.csv", "--answers=a.csv", "--video=v.mp4", "--memory=m.memory"
    told = said(watch(room, "twice.mp4", *words, "--delay=5"))
    assert "121 answers, 1 events" in told
    assert re.search(r"00:24 to 00:29: 00:00 to 00:0[56] again \(replay, after 24 s; ", told)
    assert "is not calibrated" in told
    return room


def test_what_comes_again_is_an_event_with_its_time(at_once: Path):
    [event] = read_rows(at_once / "e.csv", Event)
    assert event.kind == "replay"
    assert event.source == "twice.mp4"
    assert (event.start_s, event.end_s) == pytest.approx((24, 29.75), abs=0.5)
    assert event.offset_s == pytest.approx(24, abs=0.3)
    answers = read_rows(at_once / "a.csv", Answer)
    assert [answer.time_s for answer in answers] == pytest.approx(TIMES_S, abs=1e-3)
    assert all(answer.ring_similarity is None for answer in answers[:20])


def test_video_has_a_picture_for_each_answer(at_once: Path):
    times_s = [time_s for _, time_s in decode(at_once / "v.mp4")]
    assert times_s == pytest.approx(TIMES_S, abs=2e-3)


def test_stop_in_mid_film_loses_nothing_and_does_nothing_twice(at_once: Path, tmp_path: Path):
    words = [
        RUN,
        "twice.mp4",
        "--delay=5",
        *(f"--{name}={tmp_path / name}" for name in ("events", "answers", "memory")),
    ]
    for least in (30, 100):  # rows, when the signal is sent
        process = Forked([LIVE, *words], cwd=at_once, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while not (tmp_path / "answers").exists() or (tmp_path / "answers").read_text().count("\n") < least:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate()
        assert process.returncode == 75, errors
        assert "stopped by SIGTERM" in errors
    assert "goes on with" in said(run_here(LIVE, *words, cwd=at_once))
    assert read_rows(tmp_path / "events", Event) == read_rows(at_once / "e.csv", Event)
    parts, whole = (read_rows(path, Answer) for path in (tmp_path / "answers", at_once / "a.csv"))
    assert without_latency(parts) == without_latency(whole)


def test_tables_keep_what_was_written_of_an_earlier_source(at_once: Path, tmp_path: Path):
    for name in ("m.memory", "e.csv", "a.csv"):
        shutil.copy(at_once / name, tmp_path / name)
    film = sorted(at_once.glob("films/*.mp4"))[0]
    words = f"--memory={tmp_path / 'm.memory'}", f"--events={tmp_path / 'e.csv'}", f"--answers={tmp_path / 'a.csv'}"
    said(watch(at_once, film, "--delay=5", *words))
    for name, kind in (("e.csv", Event), ("a.csv", Answer)):
        before, after = (read_rows(folder / name, kind) for folder in (at_once, tmp_path))
        assert after[: len(before)] == before
    assert len(after) > len(before)


def test_memory_of_one_film_is_asked_about_another(at_once: Path, tmp_path: Path):
    shutil.copy(at_once / "m.memory", tmp_path / "m.memory")
    words = f"--memory={tmp_path / 'm.memory'}", f"--answers={tmp_path / 'a.csv'}", "--delay=5"
    told = said(watch(at_once, sorted(at_once.glob("films/*.mp4"))[-1], "--no_study", *words))
    assert "nothing is studied; goes on with 121 frames studied before" in told
    answers = read_rows(tmp_path / "a.csv", Answer)
    assert answers[0].time_s == pytest.approx(TIMES_S[-1] + 5, abs=0.01)  # times go on, a delay later
    assert np.mean([answer.says_old for answer in answers]) > 0.7
    assert answers[20].ring_seen_s == pytest.approx(12 + 5, abs=1)


def test_test_picture_is_answered_without_a_camera(room: Path):
    told = said(run_here(LIVE, RUN, "--fps=25", "test:", "--num_answers=50", "--no_page", "--quiet", cwd=room))
    assert "test picture: 50 answers" in told


def write_stream(file: int, num_frames: int, fps: int) -> None:
    """MPEG-TS of a test picture at a pace into a descriptor, which is closed at the end."""
    with os.fdopen(file, "wb", buffering=0) as pipe, av.open(pipe, "w", format="mpegts") as container:
        stream = container.add_stream("mpeg2video", rate=fps)
        stream.width, stream.height, stream.pix_fmt, stream.max_b_frames = 160, 120, "yuv420p", 0
        begun_s = time.monotonic()
        for number in range(num_frames):
            picture = np.full((120, 160, 3), 2 * number % 255, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            time.sleep(max(0.0, begun_s + number / fps - time.monotonic()))
        container.mux(stream.encode())


def test_slow_network_answers_the_newest_frames_and_counts_the_others(
    room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    look = Eye.now
    monkeypatch.setattr(Eye, "now", lambda eye: (time.sleep(0.2), look(eye))[1])
    reading, writing = os.pipe()
    with os.fdopen(reading) as pipe:
        monkeypatch.setattr("sys.stdin", pipe)
        writer = threading.Thread(target=write_stream, args=(writing, 125, 25))
        writer.start()
        told = said(watch(room, "-", "--fps=25", f"--answers={tmp_path / 'a.csv'}", f"--events={tmp_path / 'e.csv'}"))
        writer.join()
    answers = read_rows(tmp_path / "a.csv", Answer)
    assert 5 < len(answers) < 25
    assert sum(answer.dropped_before for answer in answers) > 50
    assert all(answer.latency_ms < 3000 for answer in answers)
    assert "of frames dropped" in told
    assert re.search(r"only [1-5][\d.]* answers a second, while the run has learned from 25", told)
    assert read_rows(tmp_path / "e.csv", Event) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((RUN,), "a run and a source are needed"),
        (("films", "twice.mp4"), "films: not a run"),
        ((RUN, "absent.mp4"), "absent.mp4: No such file"),
        ((RUN, "twice.mp4", "--video=x.avi"), "--video x.avi: must end in .mp4"),
        ((RUN, "twice.mp4", "--memory=twice.mp4"), "twice.mp4 holds no state of a stream"),
        ((RUN, "twice.mp4", "--weights=random:1"), "is not at hand as it was"),
        ((RUN, "twice.mp4", "--ring=0"), "--ring: 0 is too small"),
        ((RUN, "twice.mp4", "model.args.d_embed=3"), "no such setting that could be given anew"),
        ((RUN, "twice.mp4", "dataset.video_path=nowhere"), "nowhere"),
    ],
)
def test_bad_word_is_refused_in_a_line(room: Path, words: tuple, told: str):
    assert told in refusal(run_here(LIVE, *words, cwd=room))


def test_memory_of_other_settings_is_refused(at_once: Path, tmp_path: Path):
    shutil.copy(at_once / "m.memory", tmp_path / "m.memory")
    before = (tmp_path / "m.memory").read_bytes()
    told = refusal(watch(at_once, "twice.mp4", f"--memory={tmp_path / 'm.memory'}", "--capacity=7"))
    assert "was made with another capacity" in told
    assert (tmp_path / "m.memory").read_bytes() == before


def test_rows_are_tables_that_others_can_read(at_once: Path):
    with open(at_once / "a.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["says_old"] for row in rows} == {"0", "1"}
