"""Drawing episodes: what every episode keeps to, and how clips and probes are distributed."""

import hashlib
import random
from collections import Counter
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest

from recognition.episode_spec import CLIP_KINDS, PROBE_KINDS, EpisodeSpec, TooFewFrames, check_room
from recognition.episodes import Episodes, clip_kinds, draw_episodes, study_frames, was_shown


class Drawn(NamedTuple):
    lengths: np.ndarray
    spec: EpisodeSpec
    episodes: Episodes


KINDS = {
    "roomy": ([60 + 7 * k for k in range(12)], EpisodeSpec(3, 9, 4, 4, 2)),
    "presented": ([60 + 7 * k for k in range(12)], EpisodeSpec(3, 9, 4, 4, 2, "presented")),
    "several clips of a film": ([61, 75, 90], EpisodeSpec(6, 7, 3, 5, 3)),
    "no margin": ([40, 41], EpisodeSpec(4, 5, 0, 4, 1)),
    "clips of one frame": ([50], EpisodeSpec(5, 1, 2, 3, 1)),
    "one frame of a clip shown": ([30, 31], EpisodeSpec(4, 3, 1, 4, 5, "presented")),
    "one place": ([14], EpisodeSpec(1, 9, 4, 1, 2)),  # the clip at one end, the new probe at the other
    "all frames probed": ([40], EpisodeSpec(3, 9, 0, 13, 2)),
    "more clips than a film holds": ([15, 400], EpisodeSpec(5, 9, 4, 4, 2)),
}


def draw(lengths: list[int], spec: EpisodeSpec, num: int, *seed: int) -> Drawn:
    return Drawn(np.array(lengths), spec, draw_episodes(np.array(lengths), spec, num, seed or (0,)))


@pytest.fixture(scope="module", params=KINDS)
def drawn(request: pytest.FixtureRequest) -> Drawn:
    return draw(*KINDS[request.param], 50)


def frames_within(study: np.ndarray, margin: int) -> set[tuple[int, int]]:
    """[video, frame] of all clips of an episode, and of so many frames before and after each."""
    return {(v, f) for v, start, end in study.tolist() for f in range(start - margin, end + margin)}


def split_probes(probes: np.ndarray, is_old: np.ndarray) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Old and new probes of an episode."""
    return [[(v, f) for v, f in probes[is_old == kind].tolist()] for kind in (1, 0)]


def assert_distributed(counts: np.ndarray, expected: np.ndarray) -> None:
    """Pearson's statistic lies within five deviations of its mean; the seed is fixed, so it does always or never."""
    freedom = len(counts) - 1
    assert counts.sum() == pytest.approx(expected.sum())
    assert ((counts - expected) ** 2 / expected).sum() < freedom + 5 * (2 * freedom) ** 0.5


def assert_centred(differences: np.ndarray) -> None:
    """The mean of independent differences is 0 within five standard errors."""
    assert abs(differences.mean()) < 5 * differences.std() / len(differences) ** 0.5


def test_clips_lie_in_their_films_and_never_overlap(drawn: Drawn):
    video, start, end = np.moveaxis(drawn.episodes.study, -1, 0)
    assert (end - start == drawn.spec.clip_length).all()
    assert start.min() >= 0
    assert (end <= drawn.lengths[video]).all()
    for study in drawn.episodes.study:
        assert len(frames_within(study, 0)) == drawn.spec.num_clips * drawn.spec.clip_length


def test_old_probes_were_studied_and_new_ones_were_not(drawn: Drawn):
    for study, probes, is_old, _ in zip(*drawn.episodes, strict=True):
        old, new = split_probes(probes, is_old)
        assert len(old) == len(new) == drawn.spec.num_tests
        assert set(old) <= frames_within(study, 0)
        assert not set(new) & frames_within(study, drawn.spec.clip_margin)
        assert all(0 <= frame < drawn.lengths[video] for video, frame in new)
        assert {video for video, _ in new} <= set(study[:, 0].tolist())


def test_no_frame_is_probed_twice(drawn: Drawn):
    for probes in drawn.episodes.probes.tolist():
        assert len(set(map(tuple, probes))) == 2 * drawn.spec.num_tests


@pytest.mark.parametrize("kind", ["presented", "one frame of a clip shown"])
def test_presented_probes_were_themselves_shown(kind: str):
    _, spec, (study, probes, is_old, _) = draw(*KINDS[kind], 200)
    np.testing.assert_array_equal(was_shown(study, probes, spec.subsample), is_old == 1)


def test_any_frame_of_a_clip_may_be_an_old_probe():
    _, spec, (study, probes, is_old, _) = draw(*KINDS["roomy"], 500)
    shown = was_shown(study, probes, spec.subsample)
    assert not shown[is_old == 0].any()
    assert shown[is_old == 1].mean() == pytest.approx(5 / 9, abs=0.05)  # 5 of the 9 frames of a clip


def test_new_probes_keep_the_margin_and_no_more():
    _, _, (study, probes, is_old, _) = draw([60], EpisodeSpec(1, 9, 4, 2, 2), 500)
    frame, (_, start, end) = probes[..., 1], np.moveaxis(study, -1, 0)
    before, after = (start - frame - 1)[is_old == 0], (frame - end)[is_old == 0]  # frames that lie between
    assert before[before >= 0].min() == after[after >= 0].min() == 4


def test_fields_have_the_stated_shapes_and_types(drawn: Drawn):
    num_probes = 2 * drawn.spec.num_tests
    assert [(field.shape, str(field.dtype)) for field in drawn.episodes] == [
        ((50, drawn.spec.num_clips, 3), "int32"),
        ((50, num_probes, 2), "int32"),
        ((50, num_probes), "uint8"),
        ((50, num_probes), "uint8"),
    ]


def test_equal_seeds_give_equal_episodes_and_others_do_not():
    first, again, other, longer_seed = (draw(*KINDS["roomy"], 30, *seed) for seed in [(1, 2), (1, 2), (1, 3), (2, 2)])
    for k in range(3):
        np.testing.assert_array_equal(first.episodes[k], again.episodes[k])
        assert (first.episodes[k] != other.episodes[k]).any()
        assert (first.episodes[k] != longer_seed.episodes[k]).any()


@pytest.mark.parametrize("num", [1, 3, 1024, 1030])
def test_longer_draw_begins_with_the_shorter_one(num: int):
    short, long = (draw(*KINDS["several clips of a film"], n).episodes for n in (num, 2100))
    for k in range(3):
        assert len(short[k]) == num
        np.testing.assert_array_equal(short[k], long[k][:num])


def test_episodes_of_a_draw_differ():
    study = draw(*KINDS["roomy"], 2100).episodes.study
    assert len(np.unique(study.reshape(2100, -1), axis=0)) > 2090


def test_global_random_state_is_neither_read_nor_changed():
    drawn = []
    for seed in (1, 2):
        np.random.seed(seed)
        random.seed(seed)
        before = np.random.get_state()[1].tolist(), random.getstate()
        drawn.append(draw(*KINDS["roomy"], 20).episodes)
        assert (np.random.get_state()[1].tolist(), random.getstate()) == before
    for first, second in zip(*drawn, strict=True):
        np.testing.assert_array_equal(first, second)


def test_clips_are_uniform_among_the_free_places():
    length, clip, num = 12, 4, 20_000
    study = draw([length], EpisodeSpec(2, clip, 0, 1, 1), num).episodes.study
    places = range(length - clip + 1)
    expected = {}
    for first in places:
        free = [second for second in places if abs(second - first) >= clip]
        expected |= {(first, second): num / len(places) / len(free) for second in free}
    counts = Counter(map(tuple, study[..., 1].tolist()))
    assert counts.keys() <= expected.keys()
    assert_distributed(np.array([counts[pair] for pair in expected]), np.array(list(expected.values())))


def test_probes_are_uniform_within_clips_and_among_far_frames():
    length, num = 40, 20_000
    _, _, (study, probes, is_old, _) = draw([length], EpisodeSpec(1, 9, 4, 1, 2), num)
    old, new = (probes[..., 1][is_old == kind] for kind in (1, 0))
    assert_distributed(np.bincount(old - study[:, 0, 1]), np.full(9, num / 9))
    expected = np.zeros(length)
    for start in range(length - 9 + 1):
        near = frames_within(np.array([[0, start, start + 9]]), 4)
        far = [frame for frame in range(length) if (0, frame) not in near]
        expected[far] += num / (length - 9 + 1) / len(far)
    possible = expected > 0
    assert_distributed(np.bincount(new, minlength=length)[possible], expected[possible])


def test_long_films_are_drawn_no_more_often_than_short_ones():
    video = draw([30, 60, 3000], EpisodeSpec(1, 9, 4, 1, 2), 20_000).episodes.study[:, 0, 0]
    assert_distributed(np.bincount(video), np.full(3, 20_000 / 3))


def test_film_alone_does_not_tell_old_from_new():
    _, _, (study, probes, is_old, _) = draw([80, 100, 400, 3000], EpisodeSpec(4, 9, 4, 4, 2), 4000)
    sign = np.where(is_old == 1, 1, -1)
    num_clips = (study[..., 0, None] == np.arange(4)).sum(1)  # (N, V) clips of each film
    excess = ((probes[..., 0, None] == np.arange(4)) * sign[..., None]).sum(1)  # (N, V) old less new probes
    for film in range(4):
        assert_centred(excess[:, film])
    for num in (1, 2, 3):
        assert_centred(excess[num_clips == num])


def test_position_does_not_tell_old_from_new():
    is_old = draw(*KINDS["roomy"], 10_000).episodes.is_old
    assert_distributed(is_old.sum(0), np.full(8, 5000))
    assert len(np.unique(is_old, axis=0)) == 70  # every order of four old and four new


def test_probes_come_in_no_order_of_film_or_frame():
    probes = draw(*KINDS["roomy"], 10_000).episodes.probes
    for field in (probes[..., 0], probes[..., 1]):
        assert_centred(np.sign(field[:, 1:].astype(int) - field[:, :-1]).mean(1))


@pytest.mark.parametrize(
    ("lengths", "spec", "words"),
    [
        ([], EpisodeSpec(), "there is no film"),
        (
            [20, 17],
            EpisodeSpec(8, 9, 4, 1, 2),
            "(2) hold 3 clips of 9 frames, 8 are needed: 45 frames are missing, or 3 f",
        ),
        ([8, 8], EpisodeSpec(2, 9, 4, 1, 2), "need a film of 14 frames: the longest is 6 frames too short"),
        ([13, 12], EpisodeSpec(1, 9, 4, 1, 2), "need a film of 14 frames: the longest is 1 frames too short"),
        ([50], EpisodeSpec(1, 9, 4, 10, 2), "1 clips have 9 frames to be old probes and 10 are needed: 1 frames are"),
        (
            [50],
            EpisodeSpec(1, 9, 4, 7, 2, "presented"),
            "1 clips have 5 frames to be old probes and 7 are needed: 2 fr",
        ),
    ],
)
def test_missing_frames_or_films_are_counted(lengths: list[int], spec: EpisodeSpec, words: str):
    with pytest.raises(TooFewFrames) as error:
        check_room(np.array(lengths, int), spec)
    assert words in str(error.value)
    with pytest.raises(TooFewFrames):
        draw_episodes(np.array(lengths, int), spec, 1, (0,))


@pytest.mark.parametrize(
    ("lengths", "spec", "missing"),
    [
        ([27], EpisodeSpec(3, 9, 0, 1, 2), 9),  # the clips leave no frame for a new probe
        ([40], EpisodeSpec(3, 9, 0, 14, 2), 9),  # 13 frames are left for 14 new probes
        ([14] * 3, EpisodeSpec(3, 9, 4, 4, 2), 13),  # one new probe a film
    ],
)
def test_films_without_room_for_new_probes_are_refused(lengths: list[int], spec: EpisodeSpec, missing: int):
    check_room(np.array(lengths), spec)
    with pytest.raises(TooFewFrames, match=f"about {missing} frames are missing"):
        draw(lengths, spec, 1)


def test_published_protocol_is_drawn_from_films_of_its_size():
    lengths = np.random.default_rng(0).integers(15_000, 25_000, 300)
    drawn = draw(lengths, EpisodeSpec(), 64)
    test_clips_lie_in_their_films_and_never_overlap(drawn)
    test_old_probes_were_studied_and_new_ones_were_not(drawn)
    test_no_frame_is_probed_twice(drawn)
    assert study_frames(drawn.episodes.study, 3).shape == (64, 9000, 2)
    assert drawn.episodes.is_old.shape == (64, 180)


@pytest.mark.parametrize("subsample", [1, 2, 4, 9, 20])
def test_study_frames_and_was_shown_match_a_plain_loop(drawn: Drawn, subsample: int):
    study, probes = drawn.episodes[:2]
    shown = [[(v, f) for v, s, e in clips for f in range(s, e, subsample)] for clips in study.tolist()]
    np.testing.assert_array_equal(study_frames(study, subsample), shown)
    np.testing.assert_array_equal(study_frames(study[3], subsample), shown[3])
    expected = [
        [tuple(probe) in set(frames) for probe in row] for row, frames in zip(probes.tolist(), shown, strict=True)
    ]
    np.testing.assert_array_equal(was_shown(study, probes, subsample), expected)


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


CUT_FILMS = [190, 120, 260, 75, 300]
# Shots of many lengths; the third film has none as long as a clip, the last no cut.
CUT_SHOTS = [
    np.array(starts) for starts in ([0, 1, 35, 80, 81, 160, 189], [0, 60], range(0, 260, 11), [0, 30, 45], [0])
]
BY_KIND = EpisodeSpec(6, 12, 5, 7, 3, study_clips="no_cut=3,cut=2,other_film=1")


def draw_by_kind(num: int, **settings) -> Episodes:
    return draw_episodes(np.array(CUT_FILMS), replace(BY_KIND, **settings), num, (0,), CUT_SHOTS)


def kind_plainly(first: list[int], second: list[int]) -> str:
    """What kind of clip two rows [video, start, stop) are; fails if they are none."""
    cuts = [set(starts.tolist()) - {0} for starts in CUT_SHOTS]
    (video, start, middle), (video2, start2, stop2) = first, second
    inside = any(f in cuts[video] for f in range(start + 1, middle))
    inside2 = any(f in cuts[video2] for f in range(start2 + 1, stop2))
    if video != video2:
        assert not inside
        assert not inside2
        return "other_film"
    assert middle == start2
    return "cut" if inside or inside2 or middle in cuts[video] else "no_cut"


@pytest.mark.parametrize(
    "settings", [{}, {"study_clips": "other_film"}, {"study_clips": "cut,no_cut"}, {"new_probes": "near,same_shot,far"}]
)
def test_clips_are_of_the_kinds_asked_for_and_the_rest_holds_too(settings: dict):
    episodes, spec = draw_by_kind(150, **settings), replace(BY_KIND, **settings)
    kinds = clip_kinds(episodes.study, CUT_FILMS, CUT_SHOTS)
    assert (episodes.study.shape, kinds.shape, str(kinds.dtype)) == ((150, 12, 3), (150, 6), "uint8")
    assert (spec.rows_per_clip, spec.row_length) == (2, 6)
    for study, codes in zip(episodes.study.tolist(), kinds, strict=True):
        names = [kind_plainly(*study[k : k + 2]) for k in range(0, 12, 2)]
        assert names == [CLIP_KINDS[code] for code in codes]
        assert Counter(names) == spec.clip_counts
    by_kind = Drawn(np.array(CUT_FILMS), replace(spec, num_clips=12, clip_length=6, study_clips="any"), episodes)
    test_clips_lie_in_their_films_and_never_overlap(by_kind)
    test_no_frame_is_probed_twice(by_kind)
    if spec.new_probes == "far":
        test_old_probes_were_studied_and_new_ones_were_not(by_kind)
    shown = study_frames(episodes.study, 3)
    assert shown.shape == (150, spec.num_clips * spec.frames_per_clip, 2)


def test_kinds_of_clips_come_in_every_order():
    kinds = clip_kinds(draw_by_kind(6000).study, CUT_FILMS, CUT_SHOTS)
    for code, count in enumerate((3, 2, 1)):
        assert_distributed((kinds == code).sum(0), np.full(6, 6000 * count / 6))


@pytest.mark.parametrize("kind", ["no_cut", "cut"])
def test_clips_of_a_kind_are_uniform_among_its_places(kind: str):
    lengths, starts = [50, 29], [np.array([0, 9, 30]), np.array([0, 13])]
    spec, num = EpisodeSpec(1, 8, 2, 1, 2, study_clips=kind), 20_000
    study = draw_episodes(np.array(lengths), spec, num, (0,), starts).study
    expected = {}
    for film, (length, shots) in enumerate(zip(lengths, starts, strict=True)):
        is_cut = {s: any(s < cut < s + 8 for cut in shots) for s in range(length - 8 + 1)}
        places = [s for s in is_cut if is_cut[s] == (kind == "cut")]
        expected |= {(film, s): num / 2 / len(places) for s in places}
    counts = Counter(map(tuple, study[:, 0, :2].tolist()))
    assert counts.keys() == expected.keys()
    assert_distributed(np.array([counts[place] for place in expected]), np.array(list(expected.values())))


def test_halves_of_two_films_are_drawn_from_all_pairs_of_films_alike():
    spec = EpisodeSpec(1, 12, 5, 1, 3, study_clips="other_film")
    lengths, shots = np.array([*CUT_FILMS, 40]), [*CUT_SHOTS, np.arange(0, 40, 3)]  # the last has no shot of six frames
    first, second = draw_episodes(lengths, spec, 20_000, (0,), shots).study[..., 0].T
    pairs = np.bincount(6 * first + second, minlength=36).reshape(6, 6)
    assert pairs[5].sum() == pairs[:, 5].sum() == pairs.diagonal().sum() == 0
    assert_distributed(pairs[:5, :5][~np.eye(5, dtype=bool)], np.full(20, 1000))


def test_longer_draw_by_kind_begins_with_the_shorter_one():
    short, long = (draw_by_kind(num) for num in (20, 1100))
    for k in range(4):
        np.testing.assert_array_equal(short[k], long[k][:20])


@pytest.mark.parametrize(
    ("clips", "shots", "words"),
    [
        ("no_cut", 11, "study clips no_cut need 1 films with a shot of 12 frames, and 0 have one"),
        ("cut", 300, "study clips cut need 1 films with 12 frames with a cut, and 0 have one"),
        ("other_film", 5, "study clips other_film need 2 films with a shot of 6 frames, and 0 have one"),
        ("no_cut=5,cut", 16, "seldom have room for 5 no_cut, 1 cut clips and the new probes"),
    ],
)
def test_films_without_clips_of_a_kind_are_refused(clips: str, shots: int, words: str):
    starts = [np.arange(0, length, shots) for length in (40, 50)]
    with pytest.raises(TooFewFrames, match=words):
        draw_episodes(np.array([40, 50]), replace(BY_KIND, study_clips=clips), 1, (0,), starts)
