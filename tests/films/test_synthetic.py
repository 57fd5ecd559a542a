"""Synthetic films: seeded, whole, and cut into shots as films are."""

import socket
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from recognition.films import synthetic as films
from recognition.films.synthetic import HEIGHT, WIDTH, render_film, write_films
from recognition.films.video import decode, find_videos

CUT = 15  # grey levels by which a frame differs from the one before, on average over the picture; motion stays below


def contents(folder: Path, *args, **options) -> dict[str, bytes]:
    """Write films into `folder` and return all its files."""
    list(write_films(folder, *args, **options))
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def changes(fps: int, num_frames: int, seed: int) -> np.ndarray:
    """How much each frame of a film differs from the one before it, (num_frames - 1,)."""
    small = [image[::4, ::4].mean(-1) for image in render_film(num_frames, fps, np.random.default_rng((0, seed)))]
    return np.abs(np.diff(small, axis=0)).mean((1, 2))


def test_equal_seeds_write_equal_files(tmp_path):
    assert contents(tmp_path / "a", 2, 1, fps=8, seed=3) == contents(tmp_path / "b", 2, 1, fps=8, seed=3)


def test_film_does_not_depend_on_how_many_are_asked_for(tmp_path):
    few, many = contents(tmp_path / "few", 2, 1, fps=8), contents(tmp_path / "many", 3, 1, fps=8)
    assert list(many) == ["film_000.mp4", "film_001.mp4", "film_002.mp4"]
    assert few == {name: many[name] for name in few}


def test_every_film_and_every_seed_gives_another_film(tmp_path):
    one, other = (contents(tmp_path / str(seed), 2, 0.5, fps=8, seed=seed) for seed in (0, 1))
    assert len({*one.values(), *other.values()}) == 4


@pytest.mark.parametrize(("duration_s", "fps", "num_frames"), [(2, 12, 24), (1.5, 30, 45), (0.1, 24, 2), (7, 3, 21)])
def test_film_has_as_many_frames_as_its_duration_says(tmp_path, duration_s, fps, num_frames):
    [film] = write_films(tmp_path, 1, duration_s, fps)
    frames = list(decode(film))
    assert {image.shape for image, _ in frames} == {(HEIGHT, WIDTH, 3)}
    np.testing.assert_allclose([time_s for _, time_s in frames], np.arange(num_frames) / fps, atol=1e-4)


def test_films_already_there_are_kept(tmp_path):
    (tmp_path / "film_000.mp4").write_bytes(b"mine")
    assert contents(tmp_path, 2, 0.5, fps=8)["film_000.mp4"] == b"mine"


def test_interrupted_write_leaves_no_film(tmp_path, monkeypatch):
    def interrupted(num_frames: int, fps: int, rng: np.random.Generator):
        yield from render_film(2, fps, rng)
        raise KeyboardInterrupt

    monkeypatch.setattr(films, "render_film", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(write_films(tmp_path, 2, 1, fps=8))
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_write_left_is_no_film_and_is_replaced(tmp_path):
    host = socket.gethostname().replace(".", "-")
    (tmp_path / f".film_000.mp4.{host}.{2**30}.part").write_bytes(b"half")
    assert list(contents(tmp_path, 1, 0.5, fps=8)) == ["film_000.mp4"]
    assert [path.name for path in find_videos(tmp_path)] == ["film_000.mp4"]


def test_shots_last_three_and_a_half_seconds_and_their_cuts_are_visible():
    fps, lengths = 12, []
    for seed in range(3):
        change = changes(fps, 60 * fps, seed)
        cuts = np.flatnonzero(change > CUT) + 1
        assert np.median(change[cuts - 1]) > 3 * np.percentile(np.delete(change, cuts - 1), 95)
        lengths.extend(np.diff(cuts) / fps)
    assert len(lengths) > 30
    assert 2.6 < np.median(lengths) < 4.4  # 3.5 give or take two standard errors of the median of 45 shots


def test_later_shots_return_to_earlier_sets(monkeypatch):
    painted = Mock(wraps=films.paint_set)
    monkeypatch.setattr(films, "paint_set", painted)
    num_shots = 1 + np.count_nonzero(changes(12, 60 * 12, seed=0) > CUT)
    assert 3 <= painted.call_count <= num_shots / 2
