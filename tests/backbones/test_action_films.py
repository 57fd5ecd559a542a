"""Synthetic films of actions: what they show, what one frame tells of it, and how they are written."""

import csv
from pathlib import Path

import numpy as np
import pytest

from backbones.action_films import ACTIONS, NUM_FRAMES, REVERSED, TAKE, draw_action, write_action_films
from recognition.films.video import decode


def place_and_size(frame: np.ndarray) -> tuple[float, float, float]:
    """x, y and area of what differs from the background, which most of the picture is."""
    is_object = np.abs(frame - np.median(frame, (0, 1))).max(2) > 35
    y, x = np.nonzero(is_object)
    return x.mean(), y.mean(), float(is_object.sum())


def track(action: str, seed: int) -> np.ndarray:
    """x, y, area in each frame of one take of "ten", (T, 3)."""
    film = draw_action("ten", action, np.random.default_rng(seed), TAKE)
    return np.array([place_and_size(frame) for frame in film])


@pytest.mark.parametrize("kind", ACTIONS)
@pytest.mark.parametrize("num_frames", [None, 5])
def test_films_are_pictures_drawn_by_a_seed(kind, num_frames: int | None):
    for action in ACTIONS[kind]:
        one, same, other = (draw_action(kind, action, np.random.default_rng(s), num_frames) for s in (0, 0, 1))
        assert one.shape == (num_frames or NUM_FRAMES[kind], 64, 64, 3)
        assert one.dtype == np.uint8
        assert np.array_equal(one, same)
        assert not np.array_equal(one, other)


@pytest.mark.parametrize("action", ACTIONS["eight"])
def test_frames_in_reverse_are_the_partner_of_an_action(action: str):
    film, partner = (draw_action("eight", name, np.random.default_rng(3)) for name in (action, REVERSED[action]))
    assert REVERSED[REVERSED[action]] == action != REVERSED[action]
    assert np.array_equal(film[::-1], partner)
    assert not np.array_equal(film, partner)


def test_the_middle_frame_of_the_eight_tells_nothing():
    for seed in range(5):
        middles = [draw_action("eight", action, np.random.default_rng(seed), 15)[7] for action in ACTIONS["eight"]]
        assert all(np.array_equal(middle, middles[0]) for middle in middles)


def test_a_mirror_makes_no_action_of_the_ten_another():
    """Both ways of those that have a side are drawn."""
    slid = [np.sign(np.diff(track("slide", seed)[[4, -4], 0])[0]) for seed in range(12)]
    assert set(slid) == {-1, 1}
    for action in ("rise", "fall", "grow", "shrink", "bounce", "pulse"):
        assert np.ptp(track(action, 0)[:, 0]) < 3
    turned = set()
    for seed in range(12):
        x, y, _ = (track("circle", seed) - track("circle", seed).mean(0)).T
        turned.add(np.sign(np.median(x[:-1] * y[1:] - x[1:] * y[:-1])))
    assert turned == {-1, 1}


@pytest.mark.parametrize(
    ("action", "column", "sign"), [("rise", 1, -1), ("fall", 1, 1), ("grow", 2, 1), ("shrink", 2, -1)]
)
def test_actions_go_where_they_say(action: str, column: int, sign: int):
    for seed in range(4):
        assert (sign * np.diff(track(action, seed)[8:24:2, column]) > 0).all()


@pytest.mark.parametrize(("action", "column"), [("shake", 0), ("bounce", 1), ("pulse", 2)])
def test_what_repeats_comes_back_within_a_clip(action: str, column: int):
    moved = np.sign(np.diff(track(action, 1)[8:24, column]))
    assert (moved > 0).any()
    assert (moved < 0).any()


def test_objects_are_brighter_than_their_plain_backgrounds():
    for seed in range(8):
        film = draw_action("ten", "spin", np.random.default_rng(seed), TAKE) / 255
        corner = film[:, :4, :4]
        assert corner.min() > 0.04
        assert corner.max() < 0.41  # 0.35 in the brightest light
        assert film.max() > 0.45


def test_both_takes_of_a_film_show_the_action_with_another_look():
    film = draw_action("ten", "rise", np.random.default_rng(0))
    assert np.abs(np.diff(film.mean((1, 2)), axis=0)).max(1).argmax() == TAKE - 1
    for take in (film[:TAKE], film[TAKE:]):
        y = [place_and_size(frame)[1] for frame in take]
        assert y[8] > y[16] > y[24]


@pytest.mark.parametrize("kind", ACTIONS)
def test_films_are_written_with_a_list(kind, tmp_path: Path):
    paths = list(write_action_films(tmp_path, kind, num_train=8, num_test=3, seed=5))
    rows = list(csv.DictReader((tmp_path / "list.csv").open(encoding="utf-8")))
    assert [row["video"] for row in rows] == [path.name for path in paths]
    assert [row["label"] for row in rows] == [(ACTIONS[kind] * 2)[k] for k in range(11)]
    assert [row["split"] for row in rows] == ["train"] * 8 + ["test"] * 3
    frames = np.stack([image for image, _ in decode(paths[9])])
    wanted = draw_action(kind, rows[9]["label"], np.random.default_rng((5, 9)))
    assert frames.shape == wanted.shape
    assert np.abs(frames.astype(float) - wanted).mean() < 4


def test_films_that_are_there_are_kept_and_others_do_not_depend_on_how_many_there_are(tmp_path: Path):
    few = list(write_action_films(tmp_path / "few", "eight", 2, 1))
    many = list(write_action_films(tmp_path / "many", "eight", 6, 2))
    assert [path.name for path in few] == [path.name for path in many[:3]]
    assert [path.read_bytes() for path in few] == [path.read_bytes() for path in many[:3]]
    few[1].write_bytes(b"kept")
    assert list(write_action_films(tmp_path / "few", "eight", 2, 1)) == few
    assert few[1].read_bytes() == b"kept"


def test_a_list_is_there_only_when_all_its_films_are(tmp_path: Path):
    films = write_action_films(tmp_path, "ten", 2, 1)
    next(films), next(films)
    assert not (tmp_path / "list.csv").exists()
    assert len(list(films)) == 1
    assert (tmp_path / "list.csv").exists()
