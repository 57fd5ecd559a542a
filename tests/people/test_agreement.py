"""Agreement of people and models, item by item, on made-up crowds of which it is known."""

from itertools import combinations

import numpy as np
import pytest
from made_up_crowds import NUM_EPISODES, NUM_PROBES, PEOPLE_EACH, crowd_of, graded, make_crowd, model_of
from scipy.stats import spearmanr

from recognition.evaluation.signal_detection import resample_episodes
from recognition.people.agreement import (
    NUM_SPLITS,
    PEOPLE,
    agreement,
    ceilings,
    correlation,
    kappas,
    mean_answers,
    rank_products,
)


def test_shared_item_noise_is_found():
    crowd, is_old, item = make_crowd(0.5)
    told = agreement(crowd, is_old, {"alike": model_of(item, is_old, 0.5)})
    [model] = told["models"]
    people = row_of(told, PEOPLE, PEOPLE)
    both = row_of(told, PEOPLE, "alike")
    for kind in ("old", "new"):
        assert model[kind]["rho"] > 0.4
        assert model[kind]["rho_interval"][0] > 0.2
        assert model[kind]["share_rho"] > 0.3
        assert told["ceiling"][kind]["ceiling"] > 0.7
        for row in (people, both):
            assert row[kind]["kappa"] > 0.15
            assert row[kind]["kappa_interval"][0] > 0.05
    assert people["all"]["num_pairs"] == NUM_EPISODES * PEOPLE_EACH * (PEOPLE_EACH - 1) // 2
    assert both["all"]["num_pairs"] == NUM_EPISODES * PEOPLE_EACH


def test_no_agreement_is_found_where_noise_is_each_ones_own():
    crowd, is_old, item = make_crowd(0.0, num_episodes=20)
    told = agreement(crowd, is_old, {"other": model_of(item, is_old, 0.0)})
    [model] = told["models"]
    for kind in ("old", "new"):
        assert abs(model[kind]["rho"]) < 0.1
        low, high = model[kind]["rho_interval"]
        assert low < 0 < high
        assert abs(told["ceiling"][kind]["halves"]) < 0.1
        assert abs(row_of(told, PEOPLE, PEOPLE)[kind]["kappa"]) < 0.05
        assert abs(row_of(told, PEOPLE, "other")[kind]["kappa"]) < 0.05


def test_different_leanings_and_hard_episodes_are_not_taken_for_agreement():
    """The people of each episode lean one way, and so does the model; of the items they share nothing."""
    crowd, is_old, item = make_crowd(0.0, num_episodes=20)
    shift = np.linspace(-2, 2, 20)
    answer = graded(np.nan_to_num(crowd.answer) / 2 + shift[crowd.episode, None])
    told = agreement(
        crowd_of(answer, crowd.is_old, crowd.episode), is_old, {"m": model_of(item, is_old, 0.0) + shift[:, None]}
    )
    for kind in ("old", "new"):
        assert abs(told["models"][0][kind]["rho"]) < 0.15
        assert abs(told["ceiling"][kind]["halves"]) < 0.15


def test_ceiling_is_near_its_analytic_value():
    """Grades of equal correlation r between people: the means of n of them correlate by n r / (1 + (n - 1) r)."""
    people_each, correlation_of_two = 8, 0.2
    rng = np.random.default_rng(3)
    episode = np.repeat(np.arange(40), people_each)
    item = rng.normal(size=(40, 50))[episode]
    answer = correlation_of_two**0.5 * item + (1 - correlation_of_two) ** 0.5 * rng.normal(size=item.shape)
    told = ceilings(answer, episode, {"old": np.ones((40, 50), bool)})["old"]
    pearson = people_each * correlation_of_two / (1 + (people_each - 1) * correlation_of_two)
    expected = 6 / np.pi * np.arcsin(pearson / 2)  # Spearman's of two normal variables (Kruskal 1958)
    assert told["ceiling"] == pytest.approx(expected, abs=0.03)
    assert told["noiseless"] == pytest.approx(expected**0.5, abs=0.02)


def test_kappa_matches_a_table_counted_by_hand():
    """Of 20 probes both are right on 12, both wrong on 4, the first alone on 3 and the second alone on 1."""
    first = np.array([1] * 12 + [0] * 4 + [1] * 3 + [0] * 1, float)
    second = np.array([1] * 12 + [0] * 4 + [0] * 3 + [1] * 1, float)
    found = kappas(np.stack([first, second]))
    by_chance = 0.75 * 0.65 + 0.25 * 0.35  # 0.575
    assert found[0, 1] == pytest.approx((0.8 - by_chance) / (1 - by_chance))  # 0.5294
    assert found[0, 1] == found[1, 0]
    more = np.stack([np.append(first, [np.nan, 1]), np.append(second, [0, np.nan])])
    assert kappas(more)[0, 1] == pytest.approx(found[0, 1])
    assert np.isnan(kappas(np.ones((2, 5)))[0, 1])


def test_a_probe_of_one_person_counts_for_nothing():
    answer = np.array([[3, 1, np.nan, -2], [2, np.nan, np.nan, -3], [1, 1, 1, 1]], np.float32)
    probes = mean_answers(answer, np.array([0, 0, 4]))
    assert probes.episode.tolist() == [0, 4]
    assert probes.num_people.tolist() == [[2, 1, 0, 2], [1, 1, 1, 1]]
    np.testing.assert_equal(probes.mean_grade, [[2.5, np.nan, np.nan, -2.5], [np.nan] * 4])
    np.testing.assert_equal(probes.share_old, [[1, np.nan, np.nan, 0], [np.nan] * 4])


def test_correlations_and_intervals_equal_those_of_a_plain_loop():
    crowd, is_old, item = make_crowd(0.4, people_each=3)
    answer = model_of(item, is_old, 0.4).round(1)  # with ties
    told = agreement(crowd, is_old, {"m": answer})["models"][0]
    for kind, wanted in (("old", 1), ("new", 0)):
        products = []
        for episode in range(NUM_EPISODES):
            x, y = [], []
            for probe in range(NUM_PROBES):
                grades = [g for g in crowd.answer[crowd.episode == episode, probe] if not np.isnan(g)]
                if is_old[episode, probe] == wanted and len(grades) >= 2:
                    x.append(np.mean(grades))
                    y.append(answer[episode, probe])
            rank_x, rank_y = (plain_ranks(values) for values in (x, y))
            one = rank_products(np.array(x), np.array(y), np.ones(len(x), bool))
            assert correlation(one) == pytest.approx(spearmanr(x, y).statistic)
            products.append([np.dot(a, b) for a, b in ((rank_x, rank_y), (rank_x, rank_x), (rank_y, rank_y))])
        xy, xx, yy = np.sum(products, 0)
        assert told[kind]["rho"] == pytest.approx(xy / (xx * yy) ** 0.5)
        resampled = []
        for weight in resample_episodes(NUM_EPISODES):
            xy, xx, yy = np.sum([w * np.array(p) for w, p in zip(weight, products, strict=True)], 0)
            resampled.append(xy / (xx * yy) ** 0.5)
        assert told[kind]["rho_interval"] == pytest.approx(np.quantile(resampled, [0.025, 0.975]).tolist())


def plain_ranks(values: list[float]) -> list[float]:
    """Ranks less their mean; equal values share theirs."""
    ranks = [sum(other < v for other in values) + (sum(other == v for other in values) + 1) / 2 for v in values]
    return [rank - sum(ranks) / len(ranks) for rank in ranks]


def test_kappas_equal_those_of_a_plain_loop():
    crowd, is_old, item = make_crowd(0.4, people_each=4)
    models = {"a": model_of(item, is_old, 0.4), "b": model_of(item, is_old, 0.4, seed=2)}
    told = agreement(crowd, is_old, models)
    for kind, wanted in (("all", (0, 1)), ("old", (1,)), ("new", (0,))):
        found: dict[tuple[str, str], list[float]] = {}
        for episode in range(NUM_EPISODES):
            people = crowd.answer[crowd.episode == episode]
            observers = [(PEOPLE, person) for person in people] + [(k, v[episode]) for k, v in models.items()]
            for (first, x), (second, y) in combinations(observers, 2):
                pairs = [
                    ((a > 0) == is_old[episode, p], (b > 0) == is_old[episode, p])
                    for p, (a, b) in enumerate(zip(x, y, strict=True))
                    if is_old[episode, p] in wanted and not np.isnan(a) and not np.isnan(b)
                ]
                share_a, share_b = np.mean([a for a, _ in pairs]), np.mean([b for _, b in pairs])
                chance = share_a * share_b + (1 - share_a) * (1 - share_b)
                kappa = (np.mean([a == b for a, b in pairs]) - chance) / (1 - chance)
                found.setdefault((first, second), []).append(kappa)
        for (first, second), values in found.items():
            row = row_of(told, first, second)[kind]
            assert row["kappa"] == pytest.approx(np.mean(values))
            assert row["num_pairs"] == len(values)


def test_ceilings_of_two_people_are_those_of_a_plain_pair():
    crowd, is_old, _ = make_crowd(0.5, people_each=2, num_episodes=1)
    told = ceilings(crowd.answer, crowd.episode, {"old": is_old == 1})["old"]
    both = (is_old[0] == 1) & ~np.isnan(crowd.answer).any(0)
    rho = spearmanr(*crowd.answer[:, both]).statistic
    assert NUM_SPLITS == 100
    assert told["halves"] == pytest.approx(rho)
    assert told["ceiling"] == pytest.approx(2 * rho / (1 + rho))


def test_people_left_out_do_not_count():
    crowd, is_old, item = make_crowd(0.5)
    models = {"m": model_of(item, is_old, 0.5)}
    keep = np.arange(len(crowd.answer)) >= 3
    without = crowd_of(crowd.answer[keep], crowd.is_old[keep], crowd.episode[keep])
    left_out = crowd_of(crowd.answer, crowd.is_old, crowd.episode, left_out=(0, 1, 2))
    assert agreement(left_out, is_old, models) == agreement(without, is_old, models)


def test_one_episode_has_no_interval_and_one_person_no_ceiling():
    crowd, is_old, item = make_crowd(0.5, num_episodes=1)
    told = agreement(crowd, is_old, {"m": model_of(item, is_old, 0.5)})
    assert told["models"][0]["old"]["rho_interval"] is None
    assert row_of(told, PEOPLE, "m")["all"]["kappa_interval"] is None
    crowd, is_old, _ = make_crowd(0.5, people_each=1)
    told = agreement(crowd, is_old, {})
    assert told["num_probes"] == {"old": 0, "new": 0}
    assert np.isnan(told["ceiling"]["old"]["ceiling"])
    assert np.isnan(row_of(told, PEOPLE, PEOPLE)["all"]["kappa"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"is_old": 1}, "different probes"),
        ({"episode": 100}, "not among those"),
        ({"episode": -1}, "not among those"),
    ],
)
def test_people_asked_about_other_probes_are_refused(change: dict, words: str):
    crowd, is_old, _ = make_crowd(0.5)
    for name, value in change.items():
        getattr(crowd, name)[0] = value
    with pytest.raises(ValueError, match=words):
        agreement(crowd, is_old, {})


def row_of(told: dict, first: str, second: str) -> dict:
    [row] = [row for row in told["consistency"] if (row["first"], row["second"]) == (first, second)]
    return row
