"""Kinds of new probes and lags: what each is, and how they are distributed."""

import hashlib
from collections import Counter

import numpy as np
import pytest
from test_drawing import assert_centred, assert_distributed, frames_within

from recognition.episodes.drawing import Episodes, draw_episodes
from recognition.episodes.episode_spec import PROBE_KINDS, EpisodeSpec, TooFewFrames, check_room


def draw_kinds(lengths: list[int], num: int, shots: list[np.ndarray] | None = None, **settings) -> Episodes:
    spec = EpisodeSpec(4, 9, 5, 6, 2, **settings)
    return draw_episodes(np.array(lengths), spec, num, (0,), shots)


def of_kind(episodes: Episodes, kind: str) -> list[tuple[np.ndarray, list[tuple[int, int]]]]:
    """For every episode its clips and its probes of one kind."""
    code = PROBE_KINDS.index(kind)
    return [
        (study, [(v, f) for v, f in probes[kinds == code].tolist()])
        for study, probes, _, kinds in zip(*episodes, strict=True)
    ]


LONG_FILMS = [90, 120, 200, 75, 300]
EVERY_TENTH = [np.arange(0, length, 10) for length in LONG_FILMS]  # shots of ten frames
MIXED = {"new_probes": "far=2,near,same_shot,other_film,mirrored", "alter_every": 3}


def test_every_episode_has_each_kind_of_new_probes_in_its_share():
    episodes = draw_kinds(LONG_FILMS, 200, EVERY_TENTH, **MIXED)
    counts = {kind: {len(probes) for _, probes in of_kind(episodes, kind)} for kind in PROBE_KINDS}
    assert counts == {"old": {6}, "far": {2}} | {
        kind: {1} for kind in ("near", "same_shot", "other_film", "mirrored")
    } | {"cropped": {0}, "brightened": {0}}
    np.testing.assert_array_equal(episodes.is_old == 1, episodes.kind == 0)


@pytest.mark.parametrize("settings", [MIXED, MIXED | {"probe_lags": "balanced"}, MIXED | {"old_probes": "presented"}])
def test_each_kind_of_new_probe_is_what_its_name_says(settings: dict):
    episodes = draw_kinds(LONG_FILMS, 300, EVERY_TENTH, **settings)
    for study, probes in of_kind(episodes, "old"):
        assert set(probes) <= frames_within(study, 0)
    for study, probes in of_kind(episodes, "near"):
        assert set(probes) <= frames_within(study, 5) - frames_within(study, 0)
    for study, probes in of_kind(episodes, "far"):
        assert not set(probes) & frames_within(study, 5)
    for study, probes in of_kind(episodes, "same_shot"):
        edges = {(v, f // 10) for v, start, end in study.tolist() for f in (start, end - 1)}
        assert {(v, f // 10) for v, f in probes} <= edges
        assert not set(probes) & frames_within(study, 0)
    for study, probes in of_kind(episodes, "other_film"):
        assert not {v for v, _ in probes} & set(study[:, 0].tolist())
        assert all(f < LONG_FILMS[v] for v, f in probes)
    for study, probes in of_kind(episodes, "mirrored"):
        assert set(probes) <= frames_within(study, 0)
        assert all(f % 3 == 0 for _, f in probes)


@pytest.mark.parametrize("lures", ["near,same_shot", "same_shot,far", "mirrored,cropped,brightened", "cropped,far"])
def test_no_frame_is_probed_twice_whatever_its_kind(lures: str):
    shots = [np.arange(0, 60, 30), np.arange(0, 70, 30)]
    episodes = draw_kinds([60, 70], 500, shots, new_probes=lures, alter_every=3)
    for probes in episodes.probes.tolist():
        assert len(set(map(tuple, probes))) == 12


def test_probes_of_the_same_shot_are_uniform_in_the_shots_in_which_a_clip_begins_or_ends():
    starts, num = np.array([0, 3, 20, 22, 51]), 20_000
    spec = EpisodeSpec(1, 9, 5, 1, 2, new_probes="same_shot")
    _, probes, is_old, _ = draw_episodes(np.array([67]), spec, num, (0,), [starts])
    shot_of = np.searchsorted(starts, np.arange(67), "right")
    possible = []
    for start in range(67 - 9 + 1):
        shots = {shot_of[start], shot_of[start + 8]}
        possible.append([f for f in range(67) if shot_of[f] in shots and not start <= f < start + 9])
    expected = np.zeros(67)
    for frames in possible:  # each start has some
        expected[frames] += num / len(possible) / len(frames)
    counts = np.bincount(probes[..., 1][is_old == 0], minlength=67)
    assert_distributed(counts[expected > 0], expected[expected > 0])


def test_film_alone_does_not_tell_old_from_any_new_probe_of_a_studied_film():
    lengths, every_other = (
        [31, 40, 60, 300],
        [np.arange(0, n, 20) for n in (31, 40, 60, 300)],
    )  # in the first few are far
    spec = EpisodeSpec(3, 9, 9, 6, 3, new_probes="far,near,same_shot")
    _, probes, _, kind = draw_episodes(np.array(lengths), spec, 4000, (0,), every_other)
    film = probes[..., 0, None] == np.arange(4)  # (N, P, V)
    old = film[kind == 0].reshape(4000, 6, 4).sum(1)
    for name in ("far", "near", "same_shot"):
        new = film[kind == PROBE_KINDS.index(name)].reshape(4000, 2, 4).sum(1)
        for k in range(4):
            assert_centred((old - 3 * new)[:, k])


@pytest.mark.parametrize(
    ("spec", "digest"),
    [(EpisodeSpec(3, 9, 4, 4, 2), "5e48de44649f709b"), (EpisodeSpec(6, 7, 3, 5, 3, "presented"), "38bc2f1b2182050b")],
)
def test_episodes_of_a_seed_stay_what_they_were_when_far_was_the_only_kind(spec: EpisodeSpec, digest: str):
    episodes = draw_episodes(np.array([61, 75, 90, 130]), spec, 1100, (3, 1))
    found = hashlib.sha256(b"".join(field.tobytes() for field in episodes[:3])).hexdigest()
    assert found.startswith(digest)


def test_near_probes_are_uniform_around_their_clips():
    num = 20_000
    episodes = draw_episodes(np.array([40]), EpisodeSpec(1, 9, 4, 1, 2, new_probes="near"), num, (0,))
    expected: Counter[int] = Counter()
    for start in range(40 - 9 + 1):
        near = [f for f in (*range(start - 4, start), *range(start + 9, start + 13)) if 0 <= f < 40]
        expected.update({f - start: num / 32 / len(near) for f in near})
    offsets = Counter((episodes.probes[..., 1][episodes.is_old == 0] - episodes.study[:, 0, 1]).tolist())
    assert offsets.keys() == expected.keys()
    assert_distributed(np.array([offsets[k] for k in expected]), np.array(list(expected.values())))


def test_probes_of_other_films_are_uniform_among_those_not_studied():
    episodes = draw_episodes(
        np.array([30, 40, 50, 60]), EpisodeSpec(1, 9, 4, 1, 2, new_probes="other_film"), 20_000, (0,)
    )
    studied, lure = episodes.study[:, 0, 0], episodes.probes[..., 0][episodes.is_old == 0]
    assert (studied != lure).all()
    assert_distributed(
        np.bincount(4 * studied + lure)[[1, 2, 3, 4, 6, 7, 8, 9, 11, 12, 13, 14]], np.full(12, 20_000 / 12)
    )


def test_balanced_lags_spread_evenly_over_their_logarithm():
    spec = EpisodeSpec(32, 5, 3, 8, 1, probe_lags="balanced")
    study, probes, is_old, _ = draw_episodes(np.full(400, 80), spec, 1500, (0,))
    to_end = []
    for clips, row, old in zip(study, probes, is_old, strict=True):
        for video, frame in row[old == 1].tolist():
            [k] = np.flatnonzero((clips[:, 0] == video) & (clips[:, 1] <= frame) & (frame < clips[:, 2]))
            to_end.append(32 - k)
    octaves = np.bincount(np.floor(np.log2(to_end)).astype(int))  # 1, 2-3, 4-7, 8-15, 16-31, 32
    assert octaves[1:5].max() / octaves[1:5].min() < 1.35  # of uniform clips it would be 8
    assert_distributed(is_old.sum(0), np.full(16, 750))


def test_balanced_lags_do_not_make_the_film_tell_old_from_new():
    spec = EpisodeSpec(4, 9, 4, 4, 2, probe_lags="balanced")
    _, probes, is_old, _ = draw_episodes(np.array([80, 100, 400, 3000]), spec, 4000, (0,))
    excess = ((probes[..., 0, None] == np.arange(4)) * np.where(is_old == 1, 1, -1)[..., None]).sum(1)
    for film in range(4):
        assert_centred(excess[:, film])


@pytest.mark.parametrize(
    ("lengths", "settings", "words"),
    [
        ([60], {"new_probes": "other_film"}, "seldom have room for 4 clips and the new probes asked for: 6 other_film"),
        (
            [45],
            {"new_probes": "near=5,far"},
            "seldom have room for 4 clips and the new probes asked for: 5 near, 1 far",
        ),
        (
            [90, 90],
            {"new_probes": "mirrored", "alter_every": 10},
            "of 9 frames in a row one must be altered, and one in",
        ),
        ([90, 90], {"new_probes": "mirrored"}, "one must be altered, and one in 0 is (0: none)"),
    ],
)
def test_films_without_room_for_a_kind_are_refused(lengths: list[int], settings: dict, words: str):
    with pytest.raises(TooFewFrames) as error:
        draw_kinds(lengths, 1, **settings)
    assert words in str(error.value)


def test_near_probes_without_a_margin_are_refused():
    with pytest.raises(TooFewFrames, match="the margin is 0"):
        check_room(np.array([90]), EpisodeSpec(2, 9, 0, 2, 1, new_probes="near"))
