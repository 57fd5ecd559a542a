"""Probes of training episodes that are asked in the midst of study, in groups: when, how many, and what they may be."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from recognition.episodes.drawing import Episodes, Group, draw_episodes, draw_groups, was_shown
from recognition.episodes.episode_spec import PROBE_KINDS, EpisodeSpec, TooFewFrames

LENGTHS = np.array([60 + 7 * k for k in range(12)])
SHOTS = [np.arange(0, length, 23) for length in LENGTHS]
SPEC = EpisodeSpec(6, 9, 4, 4, 2)
SPECS = {
    "plain": (LENGTHS, SPEC),
    "presented": (LENGTHS, EpisodeSpec(6, 9, 4, 4, 2, "presented")),
    "balanced lags": (LENGTHS, EpisodeSpec(6, 9, 4, 4, 2, probe_lags="balanced")),
    "a film with room for few new probes": (np.array([15, 400]), SPEC),
    "several kinds of lures": (
        LENGTHS,
        EpisodeSpec(6, 9, 4, 8, 2, new_probes="far=2,near,other_film,mirrored", alter_every=3),
    ),
    "clips by kind": (LENGTHS, EpisodeSpec(4, 8, 4, 4, 2, new_probes="far,same_shot", study_clips="no_cut,cut=2")),
}
NUM_PROBES, AT_END = 28, 0.3


def draw(lengths: np.ndarray, spec: EpisodeSpec, seed: tuple[int, ...] = (1, 3, 0)) -> tuple[Episodes, list[Group]]:
    groups = draw_groups(spec, NUM_PROBES, AT_END, seed)
    shots = [np.arange(0, length, 23) for length in lengths]
    return draw_episodes(lengths, spec, 40, seed, shots, groups), groups


def of_group(episodes: Episodes, groups: list[Group], number: int) -> Episodes:
    """What episodes ask in one group, and what they have studied before."""
    first, stop = (2 * sum(group.spec.num_tests for group in groups[:k]) for k in (number, number + 1))
    rows = groups[number].num_clips * groups[number].spec.rows_per_clip
    return Episodes(episodes.study[:, :rows], *(field[:, first:stop] for field in episodes[1:]))


def distance(study: np.ndarray, video: int, frame: int) -> float:
    """Frames from a frame to the nearest clip (R, 3) of its film; 0 or less within one, infinite in other films."""
    of_film = study[study[:, 0] == video]
    return np.maximum(of_film[:, 1] - frame, frame - of_film[:, 2] + 1).min(initial=10**6)


@pytest.fixture(params=SPECS, name="drawn")
def _drawn(request: pytest.FixtureRequest) -> tuple[EpisodeSpec, Episodes, list[Group]]:
    lengths, spec = SPECS[request.param]
    return spec, *draw(lengths, spec)


def test_probes_are_about_the_clips_before_them_alone(drawn):
    spec, episodes, groups = drawn
    later = 0
    for number in range(len(groups)):
        for n, (study, probes, is_old, kinds) in enumerate(zip(*of_group(episodes, groups, number), strict=True)):
            for (video, frame), old, kind in zip(probes, is_old, kinds, strict=True):
                away = distance(study, video, frame)
                later += away > 0 and distance(episodes.study[n], video, frame) <= 0
                assert (PROBE_KINDS[kind] == "old") == bool(old)
                assert (away <= 0) == (PROBE_KINDS[kind] in ("old", "mirrored"))
                if PROBE_KINDS[kind] == "far":
                    assert spec.clip_margin < away < 10**6
                if PROBE_KINDS[kind] == "other_film":
                    assert video not in study[:, 0]
    assert later > 0  # studied only afterwards


def test_every_group_asks_as_many_new_probes_as_old_ones_and_none_twice(drawn):
    spec, episodes, groups = drawn
    assert episodes.probes.shape == (40, NUM_PROBES, 2)
    assert [field.dtype for field in episodes] == [np.int32, np.int32, np.uint8, np.uint8]
    for number, (_, of_this) in enumerate(groups):
        _, probes, is_old, _ = of_group(episodes, groups, number)
        assert (is_old.sum(1) == of_this.num_tests).all()
        assert all(len(set(map(tuple, row))) == 2 * of_this.num_tests for row in probes.tolist())
    lures = replace(spec, num_tests=NUM_PROBES // 2).lures
    expected = {0: 14} | {PROBE_KINDS.index(kind): count for kind, count in lures.items()}
    assert Counter(episodes.kind[0].tolist()) == expected
    assert (np.sort(episodes.kind, 1) == np.sort(episodes.kind[0])).all()


def test_presented_probes_were_shown_before_they_are_asked():
    lengths, spec = SPECS["presented"]
    episodes, groups = draw(lengths, spec)
    for number in range(len(groups)):
        study, probes, is_old, _ = of_group(episodes, groups, number)
        np.testing.assert_array_equal(was_shown(study, probes, spec.subsample), is_old == 1)


def test_old_and_new_probes_of_a_group_come_in_an_order_of_each_episode():
    episodes, groups = draw(LENGTHS, SPEC)
    is_old = of_group(episodes, groups, len(groups) - 1).is_old
    assert len({row.tobytes() for row in is_old}) > 10
    assert abs(is_old[:, 0].mean() - 0.5) < 0.4


@pytest.mark.parametrize(
    ("num_probes", "at_end", "num_last"), [(60, 0.3, 18), (20, 0.3, 6), (6, 0.3, 2), (2, 0.3, 0), (8, 0, 0), (8, 1, 8)]
)
def test_share_asked_at_the_end_is_the_nearest_that_is_even(num_probes: int, at_end: float, num_last: int):
    groups = draw_groups(SPEC, num_probes, at_end, (0,))
    sizes = {group.num_clips: 2 * group.spec.num_tests for group in groups}
    assert sum(sizes.values()) == num_probes
    assert sizes.get(SPEC.num_clips, 0) == num_last
    assert [*sizes] == sorted(sizes)
    assert set(sizes) <= set(range(1, SPEC.num_clips + 1))


def test_pairs_are_asked_after_every_clip_alike():
    asked: Counter[int] = Counter()
    for epoch in range(100):
        for group in draw_groups(SPEC, 40, 0, (0, 3, epoch)):
            asked[group.num_clips] += group.spec.num_tests
    assert asked.keys() == {1, 2, 3, 4, 5}
    assert all(abs(count - 400) < 5 * 400**0.5 for count in asked.values())


def test_equal_seeds_give_equal_episodes_and_other_epochs_others():
    (first, times), (again, same_times), (other, other_times) = (
        draw(LENGTHS, SPEC, (1, 3, epoch)) for epoch in (0, 0, 1)
    )
    assert (times, [field.tobytes() for field in first]) == (same_times, [field.tobytes() for field in again])
    assert times != other_times
    assert (first.study != other.study).any()
    longer = draw_episodes(LENGTHS, SPEC, 60, (1, 3, 0), SHOTS, times)
    assert [field[:40].tobytes() for field in longer] == [field.tobytes() for field in first]


@pytest.mark.parametrize("name", ["plain", "several kinds of lures", "clips by kind"])
def test_as_many_probes_at_the_end_are_those_that_are_asked_without_groups(name: str):
    lengths, spec = SPECS[name]
    plain = draw_episodes(lengths, spec, 30, (5,), SHOTS)
    groups = draw_groups(spec, 2 * spec.num_tests, 1.0, (5,))
    grouped = draw_episodes(lengths, spec, 30, (5,), SHOTS, groups)
    assert [field.tobytes() for field in grouped] == [field.tobytes() for field in plain]


def test_films_without_room_for_a_group_are_told_with_the_clips_before_it():
    groups = [Group(1, EpisodeSpec(6, 9, 4, 10, 2)), Group(6, SPEC)]
    with pytest.raises(TooFewFrames, match="seldom have room for 10 old and as many new probes after 1 of 6 clips"):
        draw_episodes(LENGTHS, SPEC, 5, (0,), None, groups)


def test_too_few_probes_for_the_kinds_of_lures_are_refused():
    with pytest.raises(ValueError, match="new_probes: of 1 in all, its share leaves none for near"):
        draw_groups(EpisodeSpec(6, 9, 4, 4, 2, new_probes="far,near"), 2, 0.3, (0,))
