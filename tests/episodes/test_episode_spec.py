"""What an episode consists of: shares of kinds, and numbers that do not fit together."""

import re

import pytest

from recognition.episodes.episode_spec import CLIP_KINDS, PROBE_KINDS, EpisodeSpec, parse_shares


@pytest.mark.parametrize(
    ("shares", "counts"),
    [("far", {"far": 6}), ("far,near", {"far": 3, "near": 3}), ("near=1,far=5", {"near": 1, "far": 5}),
     ("far=1,near=1,same_shot=1,mirrored=1", {"far": 2, "near": 2, "same_shot": 1, "mirrored": 1}),
     (" far = 2 , near=1e0 ", {"far": 4, "near": 2})],
)  # fmt: skip
def test_shares_are_rounded_to_whole_probes(shares: str, counts: dict[str, int]):
    spec = EpisodeSpec(num_tests=6, new_probes=shares)
    assert spec.lures == counts
    assert list(spec.lures) == list(counts)


def test_clips_of_any_kind_are_one_row_each_and_others_two():
    any_kind, by_kind = EpisodeSpec(), EpisodeSpec(study_clips="no_cut=2,cut=2,other_film=1")
    assert (any_kind.clip_counts, any_kind.rows_per_clip, any_kind.row_length) == ({}, 1, 300)
    assert by_kind.clip_counts == {"no_cut": 36, "cut": 36, "other_film": 18}
    assert (by_kind.rows_per_clip, by_kind.row_length, by_kind.frames_per_clip) == (2, 150, 100)


@pytest.mark.parametrize(
    ("settings", "needed"),
    [({}, False), ({"new_probes": "far,near"}, False), ({"new_probes": "far,same_shot"}, True),
     ({"study_clips": "cut"}, True)],
)  # fmt: skip
def test_shots_are_needed_where_kinds_depend_on_them(settings: dict, needed: bool):
    assert EpisodeSpec(**settings).needs_shots is needed


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "'' is no kind"), ("far,nearby", "'nearby' is no kind; there are far, near"), ("old", "'old' is no kind"),
     ("far,far=2", "far is given twice"), ("far=x", "must be a number, found 'x'"), ("far=0", "must be above 0"),
     ("far=-1", "must be above 0"), ("far=nan", "must be above 0"), ("far=inf", "must be above 0")],
)  # fmt: skip
def test_wrong_kinds_of_probes_are_named(text: str, words: str):
    with pytest.raises(ValueError, match=re.escape(f"new_probes: {words}" if "=" not in text else words)):
        parse_shares(text, "new_probes", PROBE_KINDS[1:])
    with pytest.raises(ValueError, match=re.escape(words)):
        EpisodeSpec(new_probes=text)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"study_clips": "hard"}, f"study_clips: 'hard' is no kind; there are {', '.join(CLIP_KINDS)}"),
        ({"study_clips": "any,cut"}, "study_clips: 'any' is no kind"),
        ({"study_clips": "cut", "clip_length": 303}, "study_clips: .* multiple of 6 frames, found 303"),
        ({"num_tests": 3, "new_probes": "far=9,near"}, "new_probes: of 3 in all, its share leaves none for near"),
        ({"num_clips": 2, "study_clips": "cut,no_cut,other_film"}, "study_clips: of 2 in all, .* for other_film"),
    ],
)
def test_numbers_that_do_not_fit_the_kinds_are_refused(settings: dict, words: str):
    with pytest.raises(ValueError, match=words):
        EpisodeSpec(**settings)
