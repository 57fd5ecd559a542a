"""Drawing episodes: what every episode keeps to, and how clips and probes are distributed."""

import random
from collections import Counter
from typing import NamedTuple

import numpy as np
import pytest

from recognition.episodes.drawing import Episodes, draw_episodes, study_frames, was_shown
from recognition.episodes.episode_spec import EpisodeSpec, TooFewFrames, check_room


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
