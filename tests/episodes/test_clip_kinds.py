"""Kinds of study clips, with and without cuts: what each is, and how they are distributed."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import test_drawing
from test_drawing import Drawn, assert_distributed

from recognition.episodes.drawing import Episodes, clip_kinds, draw_episodes, study_frames
from recognition.episodes.episode_spec import CLIP_KINDS, EpisodeSpec, TooFewFrames

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
    test_drawing.test_clips_lie_in_their_films_and_never_overlap(by_kind)
    test_drawing.test_no_frame_is_probed_twice(by_kind)
    if spec.new_probes == "far":
        test_drawing.test_old_probes_were_studied_and_new_ones_were_not(by_kind)
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
