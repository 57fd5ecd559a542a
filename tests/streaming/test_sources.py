"""Sources: what a word names, opened; frames and times of films and folders; hostile names."""

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from remuxed import remux

from recognition.common.command_line import InputError
from recognition.films.video import decode
from recognition.streaming.sources import open_source

HOSTILE = [
    "",
    "absent.mp4",
    "concat:a.ts|b.ts",
    "lavfi:testsrc",
    "test:;movie=/etc/passwd",
    "file:///etc/passwd",
    "--help",
    "a\nb\x1b[31m",
    "<script>alert(1)</script>",
    "\0",
    "\udcff.mp4",
    "9" * 5000,
    "०",  # a digit, but no camera's number
    "/dev/null",
    "http://",
    "http://127.0.0.1:1/x y",
    "http://127.0.0.1:1/x\r\nHost: other",
    "rtsp://127.0.0.1:1/é",
    "http://127.0.0.1:1/film.mp4",
    "rtsp://127.0.0.1:1/camera",
]


@pytest.fixture(scope="module")
def film(films: Path) -> Path:
    return sorted(films.glob("*.mp4"))[0]


def write_picture(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (12, 16)) -> None:
    """A PNG of one colour, red, green and blue."""
    _, data = cv2.imencode(".png", np.full((*size, 3), colour[::-1], np.uint8))
    path.write_bytes(data.tobytes())


def test_frames_and_times_of_a_film_are_those_of_decode(film: Path):
    with open_source(str(film)) as source:
        frames = list(source)
    expected = list(decode(film))
    assert not source.is_live
    assert len(frames) == len(expected) == 24
    assert [frame.time_s for frame in frames] == [time_s for _, time_s in expected]
    assert all(np.array_equal(frame.picture, image) for frame, (image, _) in zip(frames, expected, strict=True))
    assert not any(frame.dropped_before for frame in frames)


def test_film_at_a_lower_rate_gives_the_frames_nearest_in_time(film: Path):
    times_s = np.array([time_s for _, time_s in decode(film)])
    with open_source(str(film), fps=5) as source:
        taken = [frame.time_s for frame in source]
    wanted = times_s[0] + np.arange(11) / 5  # the last of them stands in for the moment after it
    assert taken == [times_s[np.abs(times_s - time_s).argmin()] for time_s in wanted]


def test_film_at_a_higher_rate_than_its_own_gives_each_frame_once(film: Path):
    with open_source(str(film), fps=50) as source:
        assert [frame.time_s for frame in source] == [time_s for _, time_s in decode(film)]


def test_no_frame_of_a_film_comes_before_its_time_if_asked(film: Path):
    with open_source(str(film), fps=5, realtime=True) as source:
        frames = [frame for frame, _ in zip(source, range(4), strict=False)]
    assert all(frame.taken_s - frames[0].taken_s >= frame.time_s - frames[0].time_s - 1e-6 for frame in frames)


def test_pictures_of_a_folder_come_by_name_and_others_are_passed_over(tmp_path: Path):
    for k, name in enumerate(("b.png", "a.png", "<c>.PNG", ".hidden.png")):
        write_picture(tmp_path / name, (10 * k, 100, 200))
    (tmp_path / "notes.txt").write_text("not a picture")
    with open_source(str(tmp_path), fps=4) as source:
        frames = list(source)
    assert [frame.picture[0, 0].tolist() for frame in frames] == [[20, 100, 200], [10, 100, 200], [0, 100, 200]]
    assert [frame.time_s for frame in frames] == [0, 0.25, 0.5]
    assert frames[0].picture.shape == (12, 16, 3)


def test_picture_that_cannot_be_read_is_named(tmp_path: Path):
    for name, content in (("empty.png", b""), ("broken.jpg", b"\xff\xd8 no picture")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name}: is no picture"):
            list(open_source(str(tmp_path)))
        (tmp_path / name).unlink()


def test_folder_without_pictures_is_refused_and_its_films_spoken_of(tmp_path: Path, films: Path):
    with pytest.raises(InputError, match="holds no picture"):
        open_source(str(tmp_path))
    with pytest.raises(InputError, match="name one of its films"):
        open_source(str(films))


def test_file_that_is_no_film_is_refused(tmp_path: Path):
    (tmp_path / "x.mp4").write_text("not a film")
    with pytest.raises(InputError, match=r"x\.mp4: is no film that can be read"):
        open_source(str(tmp_path / "x.mp4"))


def test_film_cut_short_is_named_when_its_end_is_reached(tmp_path: Path):
    path = tmp_path / "cut.ts"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for k in range(20):
            picture = np.random.default_rng(k).integers(0, 255, (48, 64, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + b"\0" * 1000 + content[len(content) // 2 + 1000 :])
    with pytest.raises(InputError, match=r"cut\.ts: .*after \d+ frames"), open_source(str(path)) as source:
        list(source)


@pytest.mark.parametrize("word", HOSTILE, ids=range(len(HOSTILE)))
def test_word_that_names_no_source_is_refused_in_one_line(word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as refused:
        open_source(word)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 2000


def test_password_in_an_address_is_not_shown():
    for word in ("http://me:secret@127.0.0.1:1/x?key=secret", "rtsp://me:secret?/x@127.0.0.1:1/x"):
        with pytest.raises(InputError) as refused:
            open_source(word)
        assert "secret" not in str(refused.value)
        assert "127.0.0.1:1/x: cannot be opened" in str(refused.value)


@pytest.mark.parametrize("word", ["73", "/dev/video73", "/dev/v4l/by-id/absent"])
def test_camera_that_is_not_there_is_refused(word: str):
    with pytest.raises(InputError, match=r"(camera 73|/dev/\S+): (no such camera|cannot be opened)"):
        open_source(word)


def test_rate_that_is_none_is_refused(film: Path):
    for fps in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="above 0"):
            open_source(str(film), fps=fps)


def test_test_picture_gives_50_frames():
    with open_source("test:") as source:
        frames = [frame for frame, _ in zip(source, range(50), strict=False)]
    assert source.is_live
    assert len(frames) == 50
    assert frames[0].time_s == 0
    assert all(frame.picture.shape == (240, 320, 3) for frame in frames)
    assert any(not np.array_equal(frames[0].picture, frame.picture) for frame in frames)


def test_closing_ends_the_thread_of_a_source_that_nobody_reads():
    source = open_source("test:", fps=10)
    source.close()
    assert not source._thread.is_alive()


def test_file_as_standard_input_is_read_whole(tmp_path: Path, film: Path, monkeypatch: pytest.MonkeyPatch):
    path = remux(film, tmp_path / "film.ts")
    with path.open("rb") as file:
        monkeypatch.setattr("sys.stdin", file)
        with open_source("-") as source:
            frames = list(source)
    expected = list(decode(path))
    assert [frame.time_s for frame in frames] == [time_s for _, time_s in expected]
    assert all(np.array_equal(frame.picture, image) for frame, (image, _) in zip(frames, expected, strict=True))


def test_playlist_as_standard_input_is_not_followed(tmp_path: Path, film: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "list"
    path.write_text(f"#EXTM3U\n#EXTINF:1,\n{film}\n#EXT-X-ENDLIST\n")
    with path.open("rb") as file:
        monkeypatch.setattr("sys.stdin", file)
        with pytest.raises(InputError, match="standard input: cannot be opened"):
            open_source("-")
