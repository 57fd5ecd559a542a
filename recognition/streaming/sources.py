"""What a user names as a source, opened: a camera, a film, a folder of pictures, an address, standard input."""

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np

from recognition.common.command_line import InputError, one_line
from recognition.films.picture import DecodeError
from recognition.films.video import VIDEO_SUFFIXES, decode, probe
from recognition.streaming.captures import Camera, Capture, Container
from recognition.streaming.frames import Recorded, Source
from recognition.streaming.newest import Live
from recognition.streaming.pipe import open_pipe

WAIT_S = 5.0  # for a connection, and for the next packet
SCHEMES = ("rtsp://", "rtsps://", "http://", "https://")
PROTOCOLS = "rtsp,rtsps,rtp,srtp,udp,tcp,tls,http,https,httpproxy,hls,crypto,data"  # none that reads a file
TEST, TEST_PICTURE = "test:", "testsrc=size=320x240:rate=25"
PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
FOLDER_FPS = 10.0
KINDS = "name a film, a folder of pictures, a camera's number, an rtsp or http address, - for standard input, or test:"


def open_source(word: str, fps: float | None = None, realtime: bool = False) -> Source:
    """Open a source by what the user calls it; `with open_source("0", fps=10) as frames: ...`.

    - a camera's number, or its device such as /dev/video0;
    - a film, whose frames and times are those of `recognition.films.video.decode`; none is dropped;
    - a folder of pictures, by name, `fps` a second (10 if it is None);
    - an address, rtsp or http(s). Where what it leads to says how long it is, it is taken for a film;
    - `-`: standard input as MPEG-TS or MJPEG. A file that the shell puts there is taken for a film;
    - `test:`: a test picture, 25 a second, for ever.

    fps: of all but a folder's pictures those nearest in time to every 1 / fps are taken; all, if it is None.
    realtime: frames of films and pictures of folders come no sooner than their times. Live sources always do so.

    Raises InputError, in one line, for what is no source. A file or folder of such a name is reached as ./name.
    """
    if fps is not None and not 0 < fps < float("inf"):
        raise InputError(f"{fps} frames a second: a number above 0 is needed")
    if word.isascii() and word.isdigit() and len(word) < 5:
        return _live(Camera(int(word)), fps)
    if word.startswith(("/dev/video", "/dev/v4l/")):
        return _live(Camera(word), fps)
    if word == TEST:
        test = Container("test picture", lambda: av.open(TEST_PICTURE, format="lavfi"), comes_back=False, pace=True)
        return _live(test, fps)
    if word == "-":
        return _standard_input(fps, realtime)
    if word.lower().startswith(SCHEMES):
        return _address(word, fps, realtime)
    return _path(word, fps, realtime)


def _address(word: str, fps: float | None, realtime: bool) -> Source:
    name = _without_password(word)
    if not (word.isascii() and word.isprintable()) or " " in word:
        raise InputError(f"{name}: is no address; write what is not ASCII in it as %XX")
    is_rtsp = word.lower().startswith("rtsp")
    options = {"protocol_whitelist": PROTOCOLS} | ({"rtsp_transport": "tcp"} if is_rtsp else {})

    def opened() -> av.container.InputContainer:
        return av.open(word, options=options, timeout=(WAIT_S, WAIT_S), metadata_errors="replace")

    address = Container(name, opened, comes_back=True)
    address.open()
    is_film = address.has_end and not is_rtsp  # that one comes at its own pace, whatever it is
    return _whole(address, fps, realtime) if is_film else Live(address, fps)


def _without_password(word: str) -> str:
    """An address as it may be shown: without a name and a password in it, nor what follows a question mark."""
    scheme, _, rest = word.partition("://")
    return one_line(f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}")


def _standard_input(fps: float | None, realtime: bool) -> Source:
    number = sys.stdin.fileno()
    if os.isatty(number):
        raise InputError("-: standard input is a terminal; pipe a stream into it, as MPEG-TS or MJPEG")
    pipe = Container("standard input", lambda: open_pipe(number), comes_back=False)
    pipe.open()
    return _whole(pipe, fps, realtime) if stat.S_ISREG(os.fstat(number).st_mode) else Live(pipe, fps)


def _live(capture: Capture, fps: float | None) -> Source:
    capture.open()
    return Live(capture, fps)


def _whole(container: Container, fps: float | None, realtime: bool) -> Source:
    return Recorded(container.name, container.pictures(), fps, realtime, container.close)


def _path(word: str, fps: float | None, realtime: bool) -> Source:
    path, name = Path(word), one_line(word)
    try:
        mode = os.stat(word).st_mode  # noqa: PTH116  # Path takes an empty name for this folder
    except (OSError, ValueError) as error:  # ValueError: a null character
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{name or repr(name)}: {why}; {KINDS}") from error
    if stat.S_ISDIR(mode):
        fps = fps or FOLDER_FPS
        return Recorded(name, _pictures(_listed(path), fps), None, realtime)
    if not stat.S_ISREG(mode):
        raise InputError(f"{name}: is neither a film nor a folder of pictures; {KINDS}")
    try:
        probe(path)
    except DecodeError as error:
        raise InputError(f"{name}: is no film that can be read ({error})") from error
    return Recorded(name, _film(path, name), fps, realtime)


def _film(path: Path, name: str) -> Iterator[tuple[np.ndarray, float]]:
    try:
        yield from decode(path)
    except DecodeError as error:
        raise InputError(f"{name}: {error}") from error


def _listed(folder: Path) -> list[Path]:
    """The pictures of a folder by name; hidden files and other kinds are passed over."""
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    pictures = [path for path in paths if path.suffix.lower() in PICTURE_SUFFIXES]
    if not pictures:
        hint = "name one of its films" if any(path.suffix.lower() in VIDEO_SUFFIXES for path in paths) else KINDS
        raise InputError(f"{folder}: holds no picture ({', '.join(sorted(PICTURE_SUFFIXES))}); {hint}")
    return pictures


def _pictures(paths: list[Path], fps: float) -> Iterator[tuple[np.ndarray, float]]:
    for k, path in enumerate(paths):
        yield read_picture(path), k / fps


def read_picture(path: Path) -> np.ndarray:
    """A picture (H, W, 3) uint8 RGB, turned as its EXIF data say. Raises InputError if it cannot be read as one."""
    try:
        # Not by its name, which OpenCV takes for UTF-8.
        picture = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # empty, or of absurd size
        picture = None
    if picture is None:
        raise InputError(f"{path}: is no picture that can be read; take it out of the folder")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
