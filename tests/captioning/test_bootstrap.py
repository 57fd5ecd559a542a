"""Intervals of scores draw films, not clips."""

import numpy as np
import pytest

from captioning.bootstrap import RESAMPLES, _draws, _resampled, intervals, paired_differences
from captioning.metrics import METRICS, clip_scores, summarise

DUE = ["a red ball moves left.", "a blue ball grows.", "the dog sleeps.", "a man jumps over it."]
SAID = ["a red ball moves left.", "a red ball grows.", "the cat sleeps.", "nobody is here."]


def scores_of(num_films: int, said: list[str] = SAID):
    """Each film has four clips."""
    return clip_scores(said * num_films, [[text] for text in DUE] * num_films, with_meteor=False)


def film_names(num_films: int) -> list[str]:
    return [f"film {k // 4}" for k in range(4 * num_films)]


def test_films_that_are_all_alike_leave_no_doubt():
    told, ends = summarise(scores_of(6)), intervals(scores_of(6), film_names(6))
    for name in METRICS[:6]:
        assert ends[name] == pytest.approx((told[name], told[name]))
    assert "meteor" not in ends


@pytest.mark.parametrize("average", ["corpus", "clips"])
def test_a_resample_equals_the_scores_of_its_films(average: str):
    said = [SAID[(k * k + k // 4) % 4] for k in range(24)]
    scores, films = clip_scores(said, [[text] for text in DUE] * 6, with_meteor=False), film_names(6)
    drawn = _draws(films, seed=3)
    resampled = _resampled(scores, drawn, average)
    for number in (0, 7, RESAMPLES - 1):
        rows = np.repeat(np.arange(24), drawn.counts[number, drawn.film].astype(int))
        parts = {name: part if isinstance(part, str) else part[rows] for name, part in vars(scores).items()}
        told = summarise(type(scores)(**parts), average)
        for name, values in resampled.items():
            assert values[number] == pytest.approx(told[name])


def test_clips_of_a_film_are_drawn_together():
    drawn = _draws(["b", "a", "b", "c"], seed=0)
    assert drawn.film.tolist() == [1, 0, 1, 2]
    np.testing.assert_array_equal(drawn.counts.sum(1), np.full(RESAMPLES, 3))
    np.testing.assert_array_equal(drawn.total(np.array([5.0, 0, 2, 0])), drawn.counts[:, 1] * 7)


def test_one_film_alone_has_no_interval():
    assert set(intervals(scores_of(1), ["film"] * 4).values()) == {None}
    assert paired_differences(scores_of(1), scores_of(1), ["film"] * 4)["cider_d"] == (0.0, None)


def test_the_difference_of_a_run_to_itself_is_nothing_and_to_a_better_one_below():
    rng = np.random.default_rng(0)
    worse = [str(rng.choice([*SAID, text])) for text in DUE * 10]
    due = [[text] for text in DUE] * 10
    scores, exact = (clip_scores(said, due, with_meteor=False) for said in (worse, DUE * 10))
    for value, ends in paired_differences(scores, scores, film_names(10)).values():
        assert (value, ends) == (0.0, (0.0, 0.0))
    for name, (value, (low, high)) in paired_differences(scores, exact, film_names(10)).items():
        assert low <= value <= high < 0, name


def test_equal_seeds_give_equal_intervals():
    said = [SAID[(k * k) % 4] for k in range(24)]
    scores = clip_scores(said, [[text] for text in DUE] * 6, with_meteor=False)
    films = [f"film {k // 5}" for k in range(24)]
    assert intervals(scores, films) == intervals(scores, films)
    assert intervals(scores, films) != intervals(scores, films, seed=1)
