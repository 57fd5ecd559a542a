"""What the README's picture of the task shows: clips and probes of an episode, right and wrong answers among them."""

import runpy
from pathlib import Path

import numpy as np
from conftest import ROOT, refusal, run_script

pictures = runpy.run_path(str(ROOT / "docs" / "pictures.py"))


def test_probes_show_every_outcome_that_there_is_in_the_order_of_the_test():
    is_old = np.array([1, 1, 0, 0, 1, 0, 1, 0, 1, 0], bool)
    says_old = np.array([1, 1, 0, 0, 1, 0, 1, 0, 0, 1], bool)  # the last two are a miss and a false alarm
    assert pictures["choose_probes"](is_old, says_old) == [0, 1, 2, 3, 8, 9]


def test_probes_are_as_many_where_all_answers_are_right_or_wrong():
    is_old = np.array([1, 0] * 5, bool)
    for says_old in (is_old, ~is_old):
        assert len(pictures["choose_probes"](is_old, says_old)) == 6


def test_episode_is_the_first_with_most_outcomes():
    is_old = np.array([[1, 1, 0, 0]] * 3, bool)
    says_old = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1]], bool)
    assert pictures["first_with_all_outcomes"](is_old, says_old) == 1


def test_clips_are_those_that_are_asked_for_and_then_the_ends():
    assert pictures["choose_clips"](10, {4, 6}) == [0, 4, 6, 9]
    assert pictures["choose_clips"](10, {2, 3, 4, 6, 7}) == [2, 3, 4, 6]
    assert pictures["choose_clips"](2, set()) == [0, 1]


def test_frames_of_a_clip_have_the_one_that_is_asked_for():
    shown = np.arange(100, 160, 2)
    assert pictures["choose_frames"](shown, []).tolist() == [110, 130, 150]
    assert pictures["choose_frames"](shown, [157]).tolist() == [110, 130, 156]


def test_folder_without_a_demo_is_told(tmp_path: Path):
    assert "holds no run that is scored" in refusal(run_script("docs/pictures.py", "--demo=absent", cwd=tmp_path))
