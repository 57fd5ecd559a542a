"""Films studied, pictures and clips asked about, as a user does it."""

import csv
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import refusal, run_here
from forking import Forked

from recognition.features.feature_file import read_times
from recognition.films.synthetic import write_frames
from recognition.films.video import decode
from recognition.streaming.search.finds import COLUMNS

HOSTILE = "<img src=x onerror=alert(1)> & \x1b[31m'\".jpg"


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.fixture
def room(live_run: Path, tmp_path: Path) -> Path:
    """A folder with runs/ and films/, and of their feature files a copy."""
    for name in ("runs", "films"):
        (tmp_path / name).symlink_to(live_run / name)
    shutil.copytree(live_run / "features", tmp_path / "features")
    return tmp_path


def ask(room: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return run_here("recognition.live", "runs/knn", "--device=cpu", *words, cwd=room)


def finds(room: Path, folder: str = "found") -> list[dict[str, str]]:
    with open(room / folder / "finds.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def picture_of(film: Path, number: int, path: Path) -> float:
    """Write a frame of a film as a picture; returns its time."""
    for frame, (image, time_s) in enumerate(decode(film)):
        if frame == number:
            path.write_bytes(cv2.imencode(".png", image[:, :, ::-1])[1].tobytes())
            return time_s
    raise AssertionError


def test_picture_is_found_in_its_film_at_its_time(room: Path):
    time_s = picture_of(room / "films/film_004.mp4", 78, room / "photo.png")
    result = ask(room, "--study=features", "--videos=films", "--ask", "photo.png")
    assert result.returncode in (0, None), result.stderr
    assert re.search(
        r"^photo\.png: film_004 at 00:06\.5, cosine 1\.0000 \(usually 0\.\d+\), model says old \(\S+\)$",
        result.stdout,
        re.MULTILINE,
    )
    assert "plain features of shufflenet_v2_x0_5, 4 frames a second, random:0" in result.stdout
    table = finds(room)
    assert list(table[0]) == list(COLUMNS)
    assert (table[0]["film"], float(table[0]["start_s"])) == ("film_004", pytest.approx(time_s, abs=1e-3))
    assert [int(row["rank"]) for row in table] == list(range(1, len(table) + 1))
    assert (table[0]["says_old"], table[1]["says_old"]) == ("1", "")
    page = (room / "found/find.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 1 + len(table)
    assert "http" not in page


def test_clip_is_found_with_both_ends(room: Path):
    images = [image for image, _ in decode(room / "films/film_007.mp4")][48:96]
    write_frames(room / "clip.mp4", images, (320, 180), 12)
    result = ask(room, "--study=features", "--ask", "clip.mp4", "--num_verdicts=2")
    # The clip's last frame is asked about too; of the film there are features four times a second.
    assert "clip.mp4: 00:00.0 to 00:03.9 is film_007 from 00:04.0 to 00:08.0" in result.stdout
    assert "17 of 17 frames agree" in result.stdout
    assert finds(room)[0]["film"] == "film_007"
    page = (room / "found/find.html").read_text(encoding="utf-8")
    assert "no picture" in page  # the films were not named
    assert page.count("data:image/jpeg;base64,") == 1


def test_folder_of_films_is_studied_once_and_gives_what_step_2_gave(room: Path, films: Path):
    shutil.copytree(films, room / "few", ignore=shutil.ignore_patterns("features"))
    picture_of(room / "few/film_002.mp4", 12, room / "photo.png")
    first = ask(room, "--study=few", "--ask", "photo.png")
    assert "4 of 4 films to study: shufflenet_v2_x0_5, 4 frames a second, into" in first.stdout
    assert "photo.png: film_002 at 00:01.0, cosine 1.0000" in first.stdout
    files = sorted((room / "few-features").glob("*.h5"))
    before = [path.stat().st_mtime_ns for path in files]
    assert len(files) == 4
    second = ask(room, "--study=few", "--ask", "photo.png")
    assert "to study" not in second.stdout
    assert [path.stat().st_mtime_ns for path in files] == before
    # A film that is added is studied alone, one that is gone is no longer looked in.
    shutil.copy(room / "few/film_000.mp4", room / "few/another.mp4")
    (room / "few/film_002.mp4").unlink()
    third = ask(room, "--study=few", "--ask", "photo.png")
    assert "1 of 4 films to study" in third.stdout
    assert "film_002" not in {row["film"] for row in finds(room)}
    assert "another" in {row["film"] for row in finds(room)}


def test_interrupted_study_goes_on(room: Path, films: Path):
    shutil.copytree(films, room / "few", ignore=shutil.ignore_patterns("features"))
    for number in range(4, 8):
        shutil.copy(room / "few/film_000.mp4", room / f"few/film_{number:03d}.mp4")
    words = ["recognition.live", "runs/knn", "--study=few"]
    pipe = subprocess.PIPE
    with Forked(words, cwd=room, env=dict(os.environ), stdout=pipe, stderr=pipe, text=True) as process:
        until = time.monotonic() + 60
        while not list((room / "few-features").glob("film*.h5")) and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate()
    assert process.returncode == 75, err
    assert err.splitlines()[-1].endswith("the same command goes on")
    files = sorted((room / "few-features").iterdir())
    assert 0 < len(files) < 8
    assert all(path.suffix == ".h5" for path in files)
    before = [path.stat().st_mtime_ns for path in files]
    result = ask(room, "--study=few")
    assert f"{8 - len(files)} of 8 films to study" in result.stdout
    assert [path.stat().st_mtime_ns for path in files] == before
    assert "Nothing is asked" in result.stdout


def test_film_that_cannot_be_read_is_passed_over(room: Path, films: Path):
    shutil.copytree(films, room / "few", ignore=shutil.ignore_patterns("features"))
    (room / "few/broken.mp4").write_bytes(b"no film")
    picture_of(room / "few/film_002.mp4", 12, room / "photo.png")
    result = ask(room, "--study=few", "--ask", "photo.png")
    assert result.returncode == 1
    assert "broken.mp4: " in result.stderr
    assert "passed over" in result.stderr
    assert "film_002 at 00:01.0" in result.stdout


def test_picture_that_cannot_be_read_is_passed_over_unless_it_is_the_only_one(room: Path):
    folder = room / "photos"
    folder.mkdir()
    picture_of(room / "films/film_001.mp4", 12, folder / "good.png")
    (folder / "bad.jpg").write_bytes(b"no picture")
    (folder / "bad.mp4").write_bytes(b"no film")
    (folder / "notes.txt").write_text("nor this")
    result = ask(room, "--study=features", "--ask", "photos")
    assert result.returncode == 1
    assert [line.partition(":")[0] for line in result.stderr.splitlines() if "over" in line] == [
        "photos/bad.jpg",
        "photos/bad.mp4",
    ]
    assert "photos/good.png: film_001 at 00:01.0" in result.stdout
    assert "bad.jpg: is no picture" in refusal(ask(room, "--study=features", "--ask", "photos/bad.jpg"))
    (folder / "good.png").unlink()
    result = ask(room, "--study=features", "--ask", "photos")
    assert result.returncode == 2
    assert "none of the 2 can be asked about" in result.stderr.splitlines()[-1]


def test_hostile_names_stay_text(room: Path):
    picture_of(room / "films/film_001.mp4", 12, room / HOSTILE)
    name = "<script>alert(2)<|script>"
    (room / "features/film_001.h5").rename(room / f"features/{name}.h5")
    result = ask(room, "--study=features", "--videos=films", "--ask", HOSTILE)
    assert result.returncode in (0, None), result.stderr
    assert "\x1b" not in result.stdout
    page = (room / "found/find.html").read_text(encoding="utf-8")
    assert "onerror" in page
    assert "<img src=x" not in page
    assert "<script" not in page
    assert "&lt;script&gt;alert(2)&lt;|script&gt;" in page
    assert finds(room)[0]["film"] == name


def test_page_of_many_questions_shows_a_hundred_finds(room: Path):
    (room / "photos").mkdir()
    for number in range(4):
        picture_of(room / f"films/film_{number:03d}.mp4", 24, room / f"photos/{number}.png")
    result = ask(room, "--study=features", "--videos=films", "--ask", "photos", "--output=other")
    assert result.stdout.count(" at 00:02.0, cosine 1.0000") == 4
    page = (room / "other/find.html").read_text(encoding="utf-8")
    assert 4 + 60 < page.count("data:image/jpeg;base64,") <= 4 + 100
    assert len(finds(room, "other")) > 60


def test_run_that_cannot_stream_is_not_asked(room: Path, monkeypatch: pytest.MonkeyPatch):
    from models.knn_memory import KNNMemory

    monkeypatch.setattr(KNNMemory, "cannot_stream", lambda mixer, is_last: "it is tired")
    picture_of(room / "films/film_001.mp4", 12, room / "photo.png")
    result = ask(room, "--study=features", "--ask", "photo.png")
    assert (
        "The model is not asked: runs/knn: layer 1, KNNMemory, cannot go frame by frame: it is tired" in result.stdout
    )
    assert "model says" not in result.stdout
    assert finds(room)[0]["logit"] == ""
    assert "it is tired" in (room / "found/find.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--study=nowhere",), "--study nowhere: no such folder"),
        (("--study=empty",), "--study empty: holds neither films nor feature files"),
        (("--study=features", "--ask", "nothing.jpg"), "--ask nothing.jpg: no such file or folder"),
        (("--study=features", "--ask", "empty"), "--ask empty: holds neither a picture nor a film"),
        (("--ask", "films"), "--ask: say with --study in which films to look"),
        (("runs/other", "--study=features"), "one run is wanted, found 2"),
        (("--study=strange",), "features of two networks cannot be compared"),
        (("--study=damaged",), "not a whole feature file"),
        (("--study=features", "--ask", "films", "--output=features/film_000.h5"), "is not a folder"),
    ],
)
def test_wrong_input_is_told_in_one_line(room: Path, words: tuple[str, ...], reason: str):
    from conftest import write_features

    (room / "empty").mkdir()
    write_features(room / "strange", [30])
    (room / "damaged").mkdir()
    (room / "damaged/film.h5").write_bytes((room / "features/film_000.h5").read_bytes()[:5000])
    assert reason in refusal(ask(room, *words))


def test_features_of_another_network_are_not_added_to(room: Path, films: Path):
    from conftest import write_features

    shutil.copytree(films, room / "few", ignore=shutil.ignore_patterns("features"))
    write_features(room / "strange", [30])
    (room / "strange/film_0.h5").rename(room / "strange/film_000.h5")
    assert "name another folder with --features" in refusal(ask(room, "--study=few", "--features=strange"))


def test_times_of_finds_are_those_of_the_feature_file(room: Path):
    picture_of(room / "films/film_003.mp4", 99, room / "photo.png")
    ask(room, "--study=features", "--ask", "photo.png", "--num_finds=3")
    table = finds(room)
    assert len(table) == 3
    for row in table:
        times_s = read_times(room / f"features/{row['film']}.h5")
        assert np.abs(times_s - float(row["start_s"])).min() < 1e-3


def test_index_of_faiss_finds_the_same(room: Path):
    pytest.importorskip("faiss", reason="needs faiss-cpu: pip install -e '.[faiss]'")
    picture_of(room / "films/film_003.mp4", 99, room / "photo.png")
    ask(room, "--study=features", "--ask", "photo.png", "--output=exact")
    result = ask(room, "--study=features", "--ask", "photo.png", "--faiss", "--output=lists")
    assert result.returncode in (0, None), result.stderr
    assert finds(room, "lists") == finds(room, "exact")
    assert len(list((room / "features").glob("frames-*.faiss"))) == 1
