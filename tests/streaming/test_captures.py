"""Captures: cameras through OpenCV, addresses through FFmpeg from a server on this machine."""

import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from remuxed import remux

from recognition.common.command_line import Failure, InputError
from recognition.films.video import decode
from recognition.streaming import captures, newest, sources
from recognition.streaming.captures import Camera
from recognition.streaming.sources import open_source

NUM_PICTURES = 30


class Answers(http.server.SimpleHTTPRequestHandler):
    """Files of a folder; /camera as an IP camera answers, with JPEG pictures until it goes away."""

    def do_GET(self) -> None:
        if self.path != "/camera":
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
        self.end_headers()
        for k in range(NUM_PICTURES):
            data = cv2.imencode(".jpg", np.full((48, 64, 3), 5 * k, np.uint8))[1].tobytes()
            self.wfile.write(b"--next\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data))
            self.wfile.write(data + b"\r\n")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, http.server.ThreadingHTTPServer]]:
    """The address of a server on this machine that serves tmp_path, and the server."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *words: Answers(*words, directory=str(tmp_path)))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", server
    server.shutdown()
    thread.join(30)
    server.server_close()


def test_film_by_an_address_gives_the_frames_and_times_of_the_file(served: tuple, tmp_path: Path, films: Path):
    # What tells of the frames comes first: this server sends files from their beginning only.
    film = remux(sorted(films.glob("*.mp4"))[0], tmp_path / "film.mp4", movflags="faststart")
    with open_source(f"{served[0]}/film.mp4") as source:
        frames = list(source)
    expected = list(decode(film))
    assert not source.is_live
    assert [frame.time_s for frame in frames] == [time_s for _, time_s in expected]
    assert all(np.array_equal(frame.picture, image) for frame, (image, _) in zip(frames, expected, strict=True))


def test_camera_by_an_address_is_live_and_asked_again_before_it_is_given_up(
    served: tuple, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(newest, "PAUSE_S", 0.05)
    monkeypatch.setattr(newest, "AGAIN_S", 0.3)
    with open_source(f"{served[0]}/camera") as source:
        assert source.is_live
        num_frames = 0
        while num_frames <= NUM_PICTURES:  # more than one answer has
            num_frames += next(source).dropped_before + 1
        served[1].RequestHandlerClass = None  # what connects from now on gets no answer
        served[1].handle_error = lambda *_: None
        with pytest.raises(Failure, match="no more pictures"):
            list(source)


def test_address_without_a_film_is_refused(served: tuple, tmp_path: Path):
    (tmp_path / "x.mp4").write_text("not a film")
    for name in ("x.mp4", "absent.mp4"):
        with pytest.raises(InputError, match=rf"/{name}: cannot be opened \(\S"):
            open_source(f"{served[0]}/{name}")


@pytest.mark.parametrize("scheme", ["http", "rtsp"])
def test_server_that_never_answers_is_not_waited_for(scheme: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sources, "WAIT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"127.0.0.1:{silent.getsockname()[1]}/camera"
        with pytest.raises(InputError, match=rf"{place}: cannot be opened \(\S"):
            open_source(f"{scheme}://{place}")


def test_playlist_by_an_address_reads_no_file_of_this_machine(served: tuple, tmp_path: Path, films: Path):
    film = sorted(films.glob("*.mp4"))[0]
    for place in (f"file://{film}", str(film), f"concat:{film}"):
        (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{place}\n#EXT-X-ENDLIST\n")
        with pytest.raises((InputError, Failure)), open_source(f"{served[0]}/list.m3u8") as source:
            next(source)


class MadeUpCamera:
    """OpenCV's VideoCapture with three blue pictures, after which it gives none."""

    is_there = True

    def __init__(self, device: int | str, _api: int):
        self.device, self.left, self.settings = device, 3, {}

    def isOpened(self) -> bool:
        return self.is_there

    def set(self, setting: int, value: float) -> None:
        self.settings[setting] = value

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.left -= 1
        return (True, np.full((4, 6, 3), (255, 0, 0), np.uint8)) if self.left >= 0 else (False, None)

    def release(self) -> None:
        self.left = 0


def test_camera_gives_its_pictures_in_red_green_and_blue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(captures.cv2, "VideoCapture", MadeUpCamera)
    (tmp_path / "video0").touch()
    camera = Camera(str(tmp_path / "video0"))
    camera.open()
    assert camera._camera.settings == {cv2.CAP_PROP_BUFFERSIZE: 1}
    assert camera.read().tolist() == [[[0, 0, 255]] * 6] * 4
    assert [camera.read() is None for _ in range(3)] == [False, False, True]
    camera.close()
    assert camera.read() is None


def test_camera_that_is_in_use_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(captures.cv2, "VideoCapture", MadeUpCamera)
    monkeypatch.setattr(MadeUpCamera, "is_there", False)
    (tmp_path / "video0").touch()
    with pytest.raises(InputError, match="video0: cannot be opened; is it in use"):
        Camera(str(tmp_path / "video0")).open()
