"""Streams made of films: what comes again, and what was made of it."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_features

from recognition.common.command_line import InputError
from recognition.episodes.index_file import EpisodeIndex
from recognition.episodes.streams import Stretch
from recognition.films.synthetic import write_frames
from recognition.streaming.checking.made_streams import (
    AS_IT_WAS,
    CHANGES,
    RE_ENCODED,
    FilmsAtHand,
    changed_features,
    changed_pictures,
    draw,
    make_stream,
    make_streams,
    open_films,
    re_encoded,
    stream_spec,
)

FPS = 30  # of what `write_features` writes


class Average:
    """In place of a network: the mean colour of each quarter of a picture."""

    window = 1

    def __init__(self) -> None:
        self.num_calls = 0

    def features(self, pictures: Any) -> np.ndarray:
        self.num_calls += 1
        halves = [half for picture in pictures for half in np.array_split(picture, 2, 1)]
        quarters = [quarter.mean((0, 1)) for half in halves for quarter in np.array_split(half, 2, 0)]
        return np.array(quarters, np.float32).reshape(len(pictures), -1)


def no_eye() -> Any:
    raise AssertionError("nobody looks")


def films_at_hand(folder: Path, lengths: list[int], subsample: int, num_features: int = 12) -> FilmsAtHand:
    write_features(folder, lengths, num_features, "float32")
    names = [f"film_{k}" for k in range(len(lengths))]
    index = EpisodeIndex(folder / "test_indices.h5", None, names, np.array(lengths), None)  # type: ignore[arg-type]
    return open_films(index, folder, FPS / subsample)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> FilmsAtHand:
    return films_at_hand(tmp_path_factory.mktemp("many"), [60 * FPS] * 40, 6)


@pytest.fixture(scope="module")
def shot(tmp_path_factory: pytest.TempPathFactory) -> FilmsAtHand:
    """One film of 90 frames, left half of grey that grows by 2 with each frame, right half black; in features/, beside
    videos/."""
    folder = tmp_path_factory.mktemp("shot")
    (folder / "videos").mkdir()
    pictures = np.zeros((90, 48, 64, 3), np.uint8)
    pictures[:, :, :32] = 2 * np.arange(90)[:, None, None, None]
    write_frames(folder / "videos" / "film_0.mp4", pictures, (64, 48), FPS)
    return films_at_hand(folder / "features", [90], 3)


def stretch(start: int, num: int, change: str, subsample: int = 3) -> Stretch:
    return Stretch(0, start, start + (num - 1) * subsample + 1, 0, num, 0.0, 0, 30.0, change)


def test_nothing_comes_again_but_as_a_repeat(many: FilmsAtHand, tmp_path: Path):
    [drawing] = draw(many, stream_spec(0.3, 12, 10, [AS_IT_WAS]), seed=3)
    made = make_stream(many, drawing, tmp_path, no_eye, tmp_path)
    assert len(made.features) == len(made.times_s) == pytest.approx(0.3 * 3600 * 5, abs=1)
    _, first, group = np.unique(made.features, axis=0, return_index=True, return_inverse=True)
    came_before = first[group.ravel()] != np.arange(len(made.features))
    in_repeat = np.zeros(len(made.features), bool)
    for repeat in made.repeats:
        inside = (made.times_s >= repeat.start_s - 1e-6) & (made.times_s <= repeat.end_s + 1e-6)
        in_repeat |= inside
        then_s = made.times_s[first[group.ravel()[inside]]]
        np.testing.assert_allclose(made.times_s[inside] - then_s, repeat.lag_s)
    assert (came_before == in_repeat).all()
    assert 9 <= len(made.repeats) <= 15
    assert {repeat.group for repeat in made.repeats} == {"30 s", "2 min", "10 min"}


def test_a_third_each_is_as_it_was_re_encoded_and_altered(many: FilmsAtHand):
    drawn = [
        repeat.change for drawing in draw(many, stream_spec(1, 40, 10, CHANGES), seed=0) for repeat in drawing.repeats
    ]
    counts = {change: drawn.count(change) for change in CHANGES}
    total = sum(counts.values())
    assert counts[AS_IT_WAS] == pytest.approx(total / 3, abs=3)
    assert counts[RE_ENCODED] == pytest.approx(total / 3, abs=3)
    assert all(counts[name] == pytest.approx(total / 9, abs=2) for name in ("mirrored", "cropped", "brightened"))


def test_few_films_give_several_streams_and_too_few_give_none(tmp_path: Path):
    few = films_at_hand(tmp_path / "few", [40 * FPS] * 6, 6)
    drawings = draw(few, stream_spec(0.2, 16, 10, [AS_IT_WAS]), 0)
    lengths_s = [drawing.time_s[-1] for drawing in drawings]
    assert len(drawings) == 5
    assert sum(lengths_s) == pytest.approx(0.2 * 3600, abs=60)
    assert len({drawing.frame[0] for drawing in drawings}) > 1
    made = make_streams(few, drawings, tmp_path, no_eye, tmp_path)
    for before, after in pairwise(made):
        assert after.times_s[0] == before.times_s[-1] + 60
    for one, drawing in zip(made, drawings, strict=True):
        assert all(one.times_s[0] < repeat.start_s <= repeat.end_s <= one.times_s[-1] for repeat in one.repeats)
        assert [r.end_s - r.start_s for r in one.repeats] == pytest.approx(
            [(r.num_frames - 1) / 5 for r in drawing.repeats]
        )
    one = films_at_hand(tmp_path / "one", [15 * FPS], 6)
    with pytest.raises(InputError, match="too short for a repeat after 30 s"):
        draw(one, stream_spec(1, 40, 10, CHANGES), 0)
    short = films_at_hand(tmp_path / "short", [2 * FPS], 6)
    with pytest.raises(InputError, match=r"test_indices.h5: no film is as long as the shortest piece"):
        draw(short, stream_spec(1, 40, 10, CHANGES), 0)


def test_repeats_are_a_tenth_of_a_stream_at_most():
    assert stream_spec(1, 40, 10, CHANGES).repeats_share == pytest.approx(0.05)
    assert stream_spec(0.1, 40, 10, CHANGES).repeats_share == 0.1


def test_a_delay_in_which_repeats_would_come_is_refused():
    with pytest.raises(InputError, match="--delay 40"):
        stream_spec(1, 40, 40, CHANGES)


def test_films_of_unknown_rate_are_refused(tmp_path: Path):
    from recognition.features import feature_file

    write_features(tmp_path, [50], 12)
    header = replace(feature_file.read_header(tmp_path / "film_0.h5"), fps=0.0)
    with feature_file.FeatureSpool(tmp_path / "film_0.h5", np.dtype("float16")) as spool:
        spool.append(np.zeros((50, 12)), np.arange(50.0))
        spool.finish(header)
    index = EpisodeIndex(tmp_path / "i.h5", None, ["film_0"], np.array([50]), None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="how many frames a second film_0 has"):
        open_films(index, tmp_path, None)


@pytest.mark.parametrize(("change", "quarters"), [("mirrored", (0, 1)), (RE_ENCODED, (1, 0)), ("cropped", (1, 0))])
def test_changed_features_are_those_of_the_frames_that_come_again(shot: FilmsAtHand, change: str, quarters: tuple):
    videos = shot.bank.folder.parent / "videos"
    wanted = [stretch(30, 8, change), stretch(63, 4, change)]
    found = changed_features(shot, wanted, videos, Average())  # type: ignore[arg-type]
    frames = np.concatenate([30 + 3 * np.arange(8), 63 + 3 * np.arange(4)])
    grey = 2.0 * frames[:, None]
    assert found.shape == (12, 12)
    assert found.dtype == np.float32
    expected = np.concatenate([quarters[0] * grey] * 6 + [quarters[1] * grey] * 6, 1)
    np.testing.assert_allclose(found, expected, atol=12)


def test_brightened_pictures_are_half_as_bright_again():
    [bright] = changed_pictures([np.full((8, 8, 3), 100, np.uint8)], "brightened", FPS)
    assert (bright == 150).all()


def test_re_encoded_pictures_are_as_many_half_as_large_and_worse():
    rng = np.random.default_rng(0)
    pictures = [np.kron(rng.integers(0, 255, (6, 8, 3)), np.ones((15, 20, 1))).astype(np.uint8) for _ in range(9)]
    seen = re_encoded(pictures, 29.97)
    assert [picture.shape for picture in seen] == [(44, 80, 3)] * 9  # even numbers
    small = np.array([picture[::2, ::2][:44] for picture in pictures], float)
    error = np.abs(np.array(seen, float) - small).mean()
    assert 2 < error < 40
    assert re_encoded([np.zeros((3, 3, 3), np.uint8)], 5)[0].shape == (2, 2, 3)


def test_changed_features_are_kept_whole_and_read_the_next_time(shot: FilmsAtHand, tmp_path: Path):
    videos = shot.bank.folder.parent / "videos"
    drawing = draw_of(shot, "mirrored")
    eye = Average()
    with pytest.raises(KeyboardInterrupt):
        make_stream(shot, drawing, videos, stopped, tmp_path / "kept")
    assert not list(tmp_path.rglob("*"))
    first = make_stream(shot, drawing, videos, lambda: eye, tmp_path / "kept")  # type: ignore[arg-type, return-value]
    assert eye.num_calls == 1
    again = make_stream(shot, drawing, tmp_path / "no videos", no_eye, tmp_path / "kept")
    np.testing.assert_array_equal(first.features, again.features)
    [kept] = (tmp_path / "kept").iterdir()
    other = make_stream(shot, draw_of(shot, "cropped"), videos, lambda: eye, tmp_path / "kept")  # type: ignore[arg-type, return-value]
    assert eye.num_calls == 2
    assert (other.features != first.features).any()
    kept.write_bytes(kept.read_bytes()[:100])
    with pytest.raises(InputError, match=f"{kept}: cannot be read .*; remove it"):
        make_stream(shot, drawing, videos, no_eye, tmp_path / "kept")


def test_a_network_that_reads_windows_makes_no_changed_repeats(shot: FilmsAtHand):
    eye = Average()
    eye.window = 16
    with pytest.raises(InputError, match="reads windows"):
        changed_features(shot, [stretch(0, 3, "mirrored")], shot.bank.folder.parent / "videos", eye)  # type: ignore[arg-type]


def stopped() -> Any:
    raise KeyboardInterrupt


def draw_of(films: FilmsAtHand, change: str) -> Any:
    """A stream of one film's 30 shown frames, of which eight come again."""
    from recognition.episodes.streams import StreamDrawing

    again = stretch(30, 8, change)._replace(first=30, first_s=3.0, original=10, lag_s=2.0)
    piece = Stretch(0, 0, 88, 0, 30, 0.0)
    frame = np.concatenate([3 * np.arange(30), 30 + 3 * np.arange(8)])
    seen = np.concatenate([np.full(30, -1), 10 + np.arange(8)])
    return StreamDrawing([piece, again], np.zeros(38, np.int32), frame, np.arange(38) / 10, seen)
