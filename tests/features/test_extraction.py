"""What films become on their way to features, and what keeps them from it: no film takes others with it."""

import itertools
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from changing_films import write_changing_film

from recognition.features import extraction
from recognition.features.extraction import FilmEnd, FilmFrames, first_windows
from recognition.features.preprocessing import Preprocessing
from recognition.features.weights_file import Eye
from recognition.films import picture
from recognition.films.shots import ShotFinder
from recognition.films.video import VideoInfo, decode


def ends(*videos: Path, backbone: str = "resnet18") -> list[FilmEnd]:
    """How reading each of these films ends."""
    read = FilmFrames(list(videos), Preprocessing(backbone), 16)
    return [item for film in range(len(videos)) for item in read(film) if isinstance(item, FilmEnd)]


def frames(video: Path, backbone: str = "resnet18") -> list[np.ndarray]:
    """All that a network would be given of a film that is read to its end."""
    *batches, end = FilmFrames([video], Preprocessing(backbone), 16)(0)
    assert end.failure == ""
    return [frame for batch in batches for frame in batch.frames.numpy()]


def troubled(works: Callable, error: BaseException) -> Callable:
    """The same function, but from its fifth call on it raises an error."""
    calls = itertools.count(1)

    def call(*args, **options):
        if next(calls) >= 5:
            raise error
        return works(*args, **options)

    return call


PLACES = [
    (picture.PictureMaker, "picture"),
    (ShotFinder, "add"),
    (cv2, "resize"),
    (Preprocessing, "crop"),
    (extraction.torch, "from_numpy"),
]
ERRORS = [
    (cv2.error("OpenCV: a bad argument\nin line 3"), "error: OpenCV: a bad argument in line 3"),
    (AssertionError(), "AssertionError"),
    (MemoryError(), "MemoryError"),
    (RecursionError("too deep"), "RecursionError: too deep"),
    (OSError(5, "Input/output error"), "Input/output error"),
    (UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "no text"), "UnicodeDecodeError: "),
    (av.error.InvalidDataError(1, "Invalid data"), "Invalid data"),
    (RuntimeError("a bug of ours"), "RuntimeError: a bug of ours"),
]


@pytest.mark.parametrize(
    ("place", "name", "error", "told"),
    [*((*place, *ERRORS[-1]) for place in PLACES), *((*PLACES[0], *error) for error in ERRORS)],
    ids=lambda part: type(part).__name__ if isinstance(part, Exception) else getattr(part, "__name__", part),
)
def test_whatever_a_library_raises_over_a_film_is_the_failure_of_that_film(
    films, monkeypatch, place, name, error, told
):
    original = getattr(place, name)
    monkeypatch.setattr(place, name, troubled(original, error))
    [first] = ends(films / "film_000.mp4")
    assert first.failure.startswith(told)
    assert "\n" not in first.failure
    monkeypatch.setattr(place, name, original)
    assert [end.failure for end in ends(films / "film_001.mp4")] == [""]


def test_ctrl_c_is_no_failure_of_a_film(films, monkeypatch):
    monkeypatch.setattr(ShotFinder, "add", troubled(ShotFinder.add, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        ends(films / "film_000.mp4")


def test_film_that_vanishes_while_it_is_read_fails(films, tmp_path, monkeypatch):
    video = tmp_path / "film.mp4"
    video.write_bytes((films / "film_000.mp4").read_bytes())
    add = ShotFinder.add
    monkeypatch.setattr(ShotFinder, "add", lambda *args: video.unlink(missing_ok=True) or add(*args))
    assert [end.failure for end in ends(video, films / "film_001.mp4")] == ["No such file or directory", ""]


def test_film_that_is_written_to_while_it_is_read_fails(films, tmp_path, monkeypatch):
    video = tmp_path / "film.mp4"
    video.write_bytes((films / "film_000.mp4").read_bytes())
    add = ShotFinder.add
    monkeypatch.setattr(ShotFinder, "add", lambda *args: os.truncate(video, 50_000) or add(*args))
    [end] = ends(video)
    assert end.failure
    os.truncate(video, 0)
    video.write_bytes((films / "film_000.mp4").read_bytes())
    monkeypatch.setattr(ShotFinder, "add", lambda *args: os.utime(video, (0, 0)) or add(*args))
    assert [end.failure for end in ends(video)] == ["has changed while it was read"]


def test_film_whose_bytes_cannot_all_be_read_fails(films, monkeypatch):
    def unreadable(path: Path) -> str:
        raise OSError(5, os.strerror(5), str(path))

    monkeypatch.setattr(extraction, "sha256", unreadable)
    assert [end.failure for end in ends(films / "film_000.mp4")] == ["Input/output error"]


def test_links_that_lead_nowhere_folders_and_empty_files_fail_alone(films, tmp_path):
    (tmp_path / "gone.mp4").symlink_to("nowhere.mp4")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "empty.mp4").touch()
    found = ends(*(tmp_path / f"{name}.mp4" for name in ("gone", "folder", "empty")), films / "film_000.mp4")
    assert [bool(end.failure) for end in found] == [True, True, True, False]
    assert "No such file" in found[0].failure


SIZES = [(96, 64), (160, 120), (64, 96), (96, 64)]


@pytest.mark.parametrize(("backbone", "num_frames"), [("resnet18", 80), ("r3d_18", 80)])
def test_film_whose_pictures_change_their_size_is_read_whole(tmp_path, backbone, num_frames):
    parts = [(*size, Fraction(1)) for size in SIZES]
    found = frames(write_changing_film(tmp_path / "film.ts", parts, 20), backbone)
    np.testing.assert_allclose([frame.mean() for frame in found], 2 * np.arange(num_frames), atol=3)


def test_change_of_size_alone_is_no_cut():
    finder, picture = ShotFinder(), np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.uint8)
    picture = cv2.resize(picture, (320, 240), interpolation=cv2.INTER_CUBIC)
    for size in [(320, 240)] * 20 + [(640, 480)] * 20 + [(400, 300)] * 20:
        finder.add(cv2.resize(picture, size))
    assert finder.starts == [0]


@pytest.mark.parametrize("name", [b"caf\xe9.mp4", b"\xff\xfe.mp4", b"\xed\xa0\x80.mp4"])
def test_film_whose_name_is_no_text_fails_with_that_reason(films, tmp_path, name):
    video = tmp_path / os.fsdecode(name)
    video.write_bytes((films / "film_000.mp4").read_bytes())
    found = ends(video, films / "film_001.mp4")
    assert [end.failure for end in found] == ["its name is not UTF-8: rename it", ""]


@pytest.mark.parametrize(
    "name", ["a:b.mp4", "file:c.mp4", "%03d.mp4", "-i.mp4", "a**[1].mp4", "two\nlines.mp4", "ü.mp4"]
)
def test_odd_names_are_names(films, tmp_path, monkeypatch, name):
    (tmp_path / name).write_bytes((films / "film_000.mp4").read_bytes())
    monkeypatch.chdir(tmp_path)
    assert [end.failure for end in ends(Path(name))] == [""]


@pytest.mark.parametrize("fps", [None, 10])
@pytest.mark.parametrize("stride", [1, 3, 16, 40])
def test_window_is_of_the_shot_of_its_middle_frame(stride, fps):
    lie, rng = Preprocessing("mc3_18", stride, fps=fps).windows(30), np.random.default_rng(0)
    step = 1 if fps is None else 3
    for num_shots in (1, 2, 5, 40):
        starts = [0, *sorted(rng.choice(np.arange(1, 300), num_shots - 1, replace=False).tolist())]
        num_windows = (300 - 15 * step - 1) // stride + 1
        shots = [sum(start <= window * stride + 8 * step for start in starts) for window in range(num_windows)]
        first = [k for k in range(num_windows) if k == 0 or shots[k] > shots[k - 1]]
        middles = [window * lie.stride + lie.middle for window in range(num_windows)]
        assert list(first_windows(starts, middles)) == first
    assert first_windows([0, 5, 299], range(300)) == (0, 5, 299)


@pytest.mark.parametrize(
    ("fps", "stride"), [(4, None), (4, 7), (4, 3), (6, 1), (12, 8), (4, 30), (None, 5), (None, None)]
)
def test_windows_of_a_rate_hold_their_frames_and_the_time_of_the_middle_one(films, fps, stride):
    eye = Eye("r3d_mini", frames=3, fps=fps, side=16)
    preprocessing = Preprocessing("r3d_mini", stride, eye)
    step = 12 // fps if fps else 1
    images, times = zip(*decode(films / "film_002.mp4"), strict=True)  # 24, 12 a second
    crops = torch.stack([preprocessing.crop(torch.from_numpy(image).permute(2, 0, 1)) for image in images])
    starts = range(0, 24 - 2 * step, stride or 3 * step)
    *batches, end = FilmFrames([films / "film_002.mp4"], preprocessing, batch_size=4)(0)
    due = torch.cat([crops[start : start + 2 * step + 1 : step] for start in starts])
    assert torch.equal(torch.cat([batch.frames for batch in batches]), due)
    assert torch.cat([batch.times for batch in batches]).tolist() == [times[start + step] for start in starts]
    assert starts[-1] + 2 * step < sum(batch.num_read for batch in batches) <= 24
    assert (end.failure, end.rate) == ("", 12 / (stride or 3 * step))


def test_film_without_a_rate_fails_where_windows_have_one(films, monkeypatch):
    unknown = VideoInfo(64, 48, fps=0.0, num_frames=24)
    monkeypatch.setattr(extraction, "probe", lambda path: unknown)
    read = FilmFrames([films / "film_000.mp4"], Preprocessing("r3d_18", fps=15), 16)
    [end] = read(0)
    assert end.failure == "does not say its frame rate, which windows of 15 frames a second need"
    *_, end = FilmFrames([films / "film_000.mp4"], Preprocessing("r3d_18"), 16)(0)
    assert (end.failure, end.rate) == ("", 0)


def test_film_shorter_than_a_window_of_a_rate_fails(films):
    read = FilmFrames([films / "film_000.mp4"], Preprocessing("r3d_18", fps=6), 16)
    assert [end.failure for end in read(0)] == ["has 24 frames, too few for a window of 31"]
