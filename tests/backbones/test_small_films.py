"""Small films: every frame at its time, many key frames, and an index that can always be made anew."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.video.frame import PictureType
from colour_films import FILMS, write_colours
from on_disk import CLIPS

from backbones.film_index import INDEX, Shape, read_index
from backbones.frame_store import open_film
from backbones.small_films import examine, films_of, is_made_of, update_index, write_small_film
from recognition.common.command_line import InputError
from recognition.films.picture import DecodeError, small_size
from recognition.films.video import VIDEO_SUFFIXES, decode, probe

SHAPE = Shape(short_side=40, keyframes=8)
# Beside the checkout; their tests are skipped where they are absent.
REAL_FILMS = [path for path in sorted(CLIPS.glob("*")) if path.suffix in VIDEO_SUFFIXES and "corrupt" not in path.name]


def write_uneven(path: Path, times_ms: Sequence[int], with_sound: bool = False) -> Path:
    """Write a film of 64 x 48 with its frames at these times, and with a second of silence if asked."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        sound = container.add_stream("aac", rate=8000, layout="mono") if with_sound else None
        for k, time_ms in enumerate(times_ms):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 6 * k, np.uint8))
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
            silence.rate = 8000
            container.mux(sound.encode(silence))
            container.mux(sound.encode())
    return path


def times(path: Path) -> list[float]:
    return [time_s for _, time_s in decode(path)]


@pytest.fixture
def red(tmp_path: Path) -> Path:
    """A film of 36 frames."""
    write_colours(tmp_path / "red.mp4", 0, *FILMS[0][1:])
    return tmp_path / "red.mp4"


@pytest.mark.parametrize("name", [name for name, *_ in FILMS])
def test_every_frame_keeps_its_time(tmp_path: Path, name: str):
    film, [rest] = FILMS, [rest for other, *rest in FILMS if other == name]
    write_colours(tmp_path / name, [other for other, *_ in film].index(name), *rest)
    write_small_film(tmp_path / name, tmp_path / "small.mp4", SHAPE)
    np.testing.assert_allclose(times(tmp_path / "small.mp4"), times(tmp_path / name), rtol=0, atol=1e-9)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_uneven_times_and_a_late_start_are_kept(tmp_path: Path, suffix: str):
    film = write_uneven(tmp_path / f"film{suffix}", [40, 73, 106, 240, 243, 700, 1100, 4000])
    write_small_film(film, tmp_path / "small.mp4", SHAPE)
    assert times(tmp_path / "small.mp4") == times(film)
    assert examine(tmp_path / "small.mp4")[0].time_s.tolist() == times(film)


def test_key_frames_come_every_so_often_and_nothing_is_out_of_order(red: Path):
    small = red.with_name("small.mp4")
    write_small_film(red, small, SHAPE)
    with av.open(str(small)) as container:
        kinds = [PictureType(frame.pict_type).name for frame in container.decode(video=0)]
        container.seek(0)
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert kinds == ["I" if k % 8 == 0 else "P" for k in range(36)]
    assert [packet.pts for packet in packets] == [packet.dts for packet in packets]
    assert examine(small)[0].key_frame.tolist() == [0, 8, 16, 24, 32]


def test_sound_is_dropped(tmp_path: Path):
    film = write_uneven(tmp_path / "film.mp4", range(0, 1000, 40), with_sound=True)
    write_small_film(film, tmp_path / "small.mp4", SHAPE)
    with av.open(str(film)) as before, av.open(str(tmp_path / "small.mp4")) as after:
        assert [stream.type for stream in before.streams] == ["video", "audio"]
        assert [stream.type for stream in after.streams] == ["video"]


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((1280, 720), 144, (256, 144)),
        ((720, 1280), 144, (144, 256)),
        ((341, 256), 144, (192, 144)),
        ((320, 240), 145, (194, 144)),
        ((64, 48), 144, (64, 48)),  # never enlarged
        ((65, 47), 144, (64, 48)),
        ((100, 1), 144, (100, 2)),
    ],
)
def test_size_keeps_the_aspect_and_is_even(size, short_side, expected):
    assert small_size(*size, short_side) == expected


def test_damaged_film_leaves_no_small_one(red: Path):
    red.write_bytes(red.read_bytes()[: red.stat().st_size // 2])
    with pytest.raises(DecodeError):
        write_small_film(red, red.with_name("small.mp4"), SHAPE)
    assert list(red.parent.iterdir()) == [red]


def test_small_film_tells_what_it_was_made_of(red: Path):
    small = red.parent / "small" / "red.mp4"
    write_small_film(red, small, SHAPE)
    row, shape = examine(small)
    assert shape == SHAPE
    assert (row.name, row.fps, row.size_bytes) == ("red.mp4", probe(red).fps, small.stat().st_size)
    assert is_made_of(red, small, row)
    assert not is_made_of(red, small, None)
    red.write_bytes(red.read_bytes() + b" ")
    assert not is_made_of(red, small, row)


def test_film_of_another_kind_is_no_small_film(red: Path):
    assert examine(red) is None
    red.with_name("text.mp4").write_text("a film\n")
    assert examine(red.with_name("text.mp4")) is None
    update_index(red.parent, SHAPE)
    assert not red.with_name(INDEX).exists()


def test_index_that_was_lost_or_damaged_is_made_anew_from_the_films(red: Path, capsys: pytest.CaptureFixture):
    folder = red.parent / "small"
    for name in ("a.mp4", "b.mp4"):
        write_small_film(red, folder / name, SHAPE)
    update_index(folder, SHAPE)
    before = read_index(folder / INDEX)
    for damage in (lambda: (folder / INDEX).unlink(), lambda: (folder / INDEX).write_bytes(b"HDF5")):
        damage()
        update_index(folder, SHAPE)
        after = read_index(folder / INDEX)
        assert after[1] == before[1] == SHAPE
        for ours, theirs in zip(after[0], before[0], strict=True):
            np.testing.assert_equal(vars(ours), vars(theirs))
    assert "index.h5: is damaged" in capsys.readouterr().err


def test_index_that_is_right_is_left_as_it_is(red: Path):
    folder = red.parent / "small"
    write_small_film(red, folder / "a.mp4", SHAPE)
    update_index(folder, SHAPE)
    before = (folder / INDEX).stat()
    update_index(folder, SHAPE)
    assert (folder / INDEX).stat() == before
    (folder / "a.mp4").unlink()
    update_index(folder, SHAPE)
    assert not (folder / INDEX).exists()


def test_small_films_of_other_shapes_do_not_mix(red: Path):
    folder = red.parent / "small"
    write_small_film(red, folder / "a.mp4", SHAPE)
    for _ in range(2):  # by the film itself, and by its index
        with pytest.raises(InputError, match=r"small: has small films of --short_side 40 --keyframes 8"):
            films_of(folder, Shape(44, 8))
        update_index(folder, SHAPE)


def area(picture: np.ndarray, like: np.ndarray) -> np.ndarray:
    """A picture as small as another, each pixel the mean of those that it stands for."""
    return cv2.resize(picture, like.shape[1::-1], interpolation=cv2.INTER_AREA).astype(float)


@pytest.mark.parametrize("film", REAL_FILMS, ids=lambda path: path.name)
def test_real_film_keeps_frames_times_and_looks(tmp_path: Path, film: Path):
    small = tmp_path / f"{film.stem}.mp4"
    write_small_film(film, small, Shape())
    update_index(tmp_path, Shape())
    decoded = list(decode(film))
    reader, rng = open_film(small), np.random.default_rng(0)
    assert reader.num_frames == len(decoded)
    np.testing.assert_allclose(times(small), [time_s for _, time_s in decoded], rtol=0, atol=1e-9)
    plain = [image for image, _ in decode(small)]
    numbers = rng.integers(0, len(decoded), 4)
    np.testing.assert_array_equal(open_film(film).frames(numbers), [decoded[number][0] for number in numbers])
    for _ in range(5):
        numbers = rng.integers(0, len(decoded), 8)
        ours = reader.frames(numbers)
        np.testing.assert_array_equal(ours, [plain[number] for number in numbers])
        original = np.stack([area(decoded[number][0], ours[0]) for number in numbers])
        assert 10 * np.log10(255**2 / np.mean((ours.mean(-1) - original.mean(-1)) ** 2)) > 30
