"""Do models and people agree, item by item? Their answers to the same probes of the same episodes.

Two questions, each of old and of new probes apart, as together the kind of a probe alone would make all who do the task
agree:

- Which probes look older than others of their episode? Rank correlation (Spearman 1904) of people's mean grade, and of
  the share of them who say "old", with a model's answers, of the probes that at least LEAST_PEOPLE answered. Ranks are
  those within episodes, so that neither easy episodes nor people of one leaning count as agreement about items.
  Beside it the ceiling, how far people agree among themselves: the correlation between the means of two random halves
  of each episode's people, averaged over NUM_SPLITS splits, and from it by Spearman and Brown (both 1910, Br. J.
  Psychol. 3, 271-295 and 296-322) what another crowd as large would reach. A model that knew what people share, without
  noise of its own, would reach the root of it.
- Are the same probes got wrong? Error consistency (Geirhos, Meding and Wichmann 2020, arXiv:2006.16736): Cohen's kappa
  of being right, for all pairs of two persons, two models, or one of each, on an episode. 0: no more than their shares
  of right answers make likely; 1: the same errors. Also of both kinds together, as there; then whoever leans to "old"
  shares errors with others who do.

Intervals: the percentile bootstrap over episodes, as in `signal_detection`. Of one episode there are none.

Shapes: N episodes, P probes, R persons; E episodes that people saw, O observers of one, S splits.
"""

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import rankdata

from recognition.evaluation.signal_detection import interval, resample_episodes
from recognition.people.crowd import Crowd

LEAST_PEOPLE = 2  # who answered a probe, for it to count
NUM_SPLITS = 100
PEOPLE = "people"
Row = dict[str, Any]


class Probes(NamedTuple):
    """What people say of each probe of the episodes that they saw, (E, P) each."""

    episode: np.ndarray  # (E,) which these are, ascending
    num_people: np.ndarray  # who answered
    mean_grade: np.ndarray  # nan where fewer than LEAST_PEOPLE did
    share_old: np.ndarray


def agreement(crowd: Crowd, is_old: np.ndarray, answers: Mapping[str, np.ndarray]) -> Row:
    """Agreement of the people who are counted, and of models' `answers` (N, P), above 0 for "old", with them.

    `is_old` is (N, P). What is not defined, as where nothing varies, is nan. Returns

    num_people, num_episodes, and num_probes {old, new} that at least LEAST_PEOPLE answered;
    ceiling: {old, new} of what `ceilings` tells;
    models: [{name, old, new}] of {rho, rho_interval} with the mean grades and {share_rho, share_rho_interval} with the
        shares who say "old";
    consistency: [{first, second, all, old, new}] of {kappa, kappa_interval, num_pairs}, `first` and `second` being
        PEOPLE or names of models.

    Raises ValueError if nobody is counted, if shapes do not fit, or if the crowd was asked about other probes.
    """
    counted = crowd.is_counted
    answer, episode = crowd.answer[counted], crowd.episode[counted]
    if not counted.any():
        raise ValueError("nobody is counted")
    if any(of_model.shape != is_old.shape for of_model in answers.values()):
        raise ValueError("models' answers and the probes differ in number")
    if answer.shape[1] != is_old.shape[1] or episode.min() < 0 or episode.max() >= len(is_old):
        raise ValueError("the people's episodes are not among those of the models")
    if (crowd.is_old[counted] != is_old[episode]).any():
        raise ValueError("people and models were asked about different probes")
    probes = mean_answers(answer, episode)
    kinds = {"old": is_old[probes.episode] == 1, "new": is_old[probes.episode] == 0}
    resamples = resample_episodes(len(probes.episode))
    known = ~np.isnan(probes.mean_grade)
    return {
        "num_people": int(counted.sum()),
        "num_episodes": int(known.any(1).sum()),
        "num_probes": {kind: int((known & chosen).sum()) for kind, chosen in kinds.items()},
        "ceiling": ceilings(answer, episode, kinds),
        "models": [
            {"name": name, **{kind: _correlated(probes, of_model, chosen, resamples) for kind, chosen in kinds.items()}}
            for name, of_model in answers.items()
        ],
        "consistency": list(
            _consistencies(list(_observed(answer, episode, is_old, answers)), kinds, list(answers), resamples)
        ),
    }


def mean_answers(answer: np.ndarray, episode: np.ndarray) -> Probes:
    """What people say of each probe, from their grades (R, P), nan for none, and the episode (R,) of each."""
    seen = np.unique(episode)
    who = seen[:, None] == episode  # (E, R)
    number = who.astype(int) @ ~np.isnan(answer)
    grade, old = (np.where(number < LEAST_PEOPLE, np.nan, _means(x, who)) for x in (answer, _says_old(answer)))
    return Probes(seen, number, grade, old)


def ceilings(answer: np.ndarray, episode: np.ndarray, kinds: Mapping[str, np.ndarray], seed: int = 0) -> Row:
    """How far people agree among themselves about the probes of each of `kinds`, masks (E, P).

    Of each: halves, the correlation of the mean grades of two halves; ceiling, that of two crowds as large as this one;
    noiseless, its root, None where it has none; share_ceiling, the ceiling of the shares who say "old". Of an odd
    number of people one half has one more, which makes the ceiling of very few a little too low.
    """
    values = {"ceiling": answer, "share_ceiling": _says_old(answer)}
    totals = {(kind, name): np.zeros((NUM_SPLITS, 3)) for kind in kinds for name in values}
    rng = np.random.default_rng(seed)
    for place, number in enumerate(np.unique(episode)):
        inside = np.flatnonzero(episode == number)
        is_first = rng.random((NUM_SPLITS, len(inside))).argsort(1) < len(inside) // 2  # (S, people of this episode)
        for name, value in values.items():
            first, second = (_means(value[inside], side) for side in (is_first, ~is_first))  # (S, P) each
            for kind, chosen in kinds.items():
                totals[kind, name] += rank_products(first, second, chosen[place])
    told: Row = {kind: {} for kind in kinds}
    for (kind, name), products in totals.items():
        rho = correlation(products)
        halves_rho = float(rho[~np.isnan(rho)].mean()) if not np.isnan(rho).all() else float("nan")
        whole = 2 * halves_rho / (1 + halves_rho) if halves_rho > 0 else halves_rho  # by chance halves may disagree
        told[kind][name] = whole
        if name == "ceiling":
            told[kind] |= {"halves": halves_rho, "noiseless": whole**0.5 if whole > 0 else None}
    return told


def rank_products(x: np.ndarray, y: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Sums xy, xx and yy over the last axis of the ranks of x and y (..., P), less their mean: (..., 3).

    Ranks are those among the chosen where both are known; equal values share the mean of their ranks.
    """
    known = chosen & ~np.isnan(x) & ~np.isnan(y)
    middle = (known.sum(-1, keepdims=True) + 1) / 2
    # what is not known goes to the end, where it leaves the ranks of the others alone
    ranks = [rankdata(np.where(known, values, np.inf), axis=-1) for values in (x, y)]
    x, y = (np.where(known, rank - middle, 0) for rank in ranks)
    return np.stack([(x * y).sum(-1), (x * x).sum(-1), (y * y).sum(-1)], -1)


def correlation(products: np.ndarray) -> np.ndarray:
    """Correlations from sums of products (..., 3) xy, xx and yy; nan where one of both does not vary."""
    xy, xx, yy = np.moveaxis(products, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where((xx > 0) & (yy > 0), xy / np.sqrt(xx * yy), np.nan)


def kappas(is_right: np.ndarray) -> np.ndarray:
    """Error consistency of all pairs of observers from who is right, (O, P) of 1, 0 and nan for no answer: (O, O).

    Of the probes that both answered. nan where both make no error, or nothing else, and where they share no probe.
    """
    right, wrong, there = (x.astype(np.float64) for x in (is_right == 1, is_right == 0, ~np.isnan(is_right)))
    with np.errstate(invalid="ignore", divide="ignore"):
        both = there @ there.T
        same = (right @ right.T + wrong @ wrong.T) / both
        share = right @ there.T / both  # [i, j]: i's right answers, of those that j answered too
        by_chance = share * share.T + (1 - share) * (1 - share.T)
        return np.where(by_chance < 1 - 1e-12, (same - by_chance) / (1 - by_chance), np.nan)


def _correlated(probes: Probes, of_model: np.ndarray, chosen: np.ndarray, resamples: np.ndarray) -> Row:
    """A model's answers (N, P) with what people say of the chosen probes (E, P)."""
    told: Row = {}
    for name, values in (("rho", probes.mean_grade), ("share_rho", probes.share_old)):
        products = rank_products(values, of_model[probes.episode], chosen)
        told[name] = float(correlation(products.sum(0)))
        told[f"{name}_interval"] = interval(correlation(resamples @ products))
    return told


def _observed(
    answer: np.ndarray, episode: np.ndarray, is_old: np.ndarray, answers: Mapping[str, np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each episode that people saw: which observer each is, 0 for a person and k for the k-th model, (O,); and who
    is right, (O, P) of 1, 0 and nan."""
    for number in np.unique(episode):
        people = answer[episode == number]
        given = np.stack([*people, *(of_model[number] for of_model in answers.values())])
        who = np.concatenate([np.zeros(len(people), int), np.arange(1, len(answers) + 1)])
        yield who, np.where(np.isnan(given), np.nan, (given > 0) == (is_old[number] == 1))


def _consistencies(
    observed: list[tuple[np.ndarray, np.ndarray]],
    kinds: Mapping[str, np.ndarray],
    models: list[str],
    resamples: np.ndarray,
) -> Iterator[Row]:
    """A row for people among themselves, and for each two of people and models: the mean over pairs of observers."""
    names = [PEOPLE, *models]
    found = {"all": [kappas(is_right) for _, is_right in observed]}
    for kind, chosen in kinds.items():
        found[kind] = [
            kappas(np.where(inside, is_right, np.nan)) for inside, (_, is_right) in zip(chosen, observed, strict=True)
        ]
    for first, second in [(0, 0), *combinations(range(len(names)), 2)]:
        row: Row = {"first": names[first], "second": names[second]}
        for kind, of_episodes in found.items():
            counted = np.zeros((len(observed), 2))  # the sum of the kappas of each episode, and their number
            for place, ((who, _), values) in enumerate(zip(observed, of_episodes, strict=True)):
                between = values[np.ix_(who == first, who == second)]
                between = between[np.triu_indices(len(between), 1)] if first == second else between
                known = between[~np.isnan(between)]
                counted[place] = known.sum(), known.size
            row[kind] = _mean_kappa(counted, resamples)
        yield row


def _mean_kappa(counted: np.ndarray, resamples: np.ndarray) -> Row:
    """From the sum of kappas of each episode and their number, (E, 2)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        kappa, resampled = np.divide(*counted.sum(0)), np.divide(*(resamples @ counted).T)
    return {"kappa": float(kappa), "kappa_interval": interval(resampled), "num_pairs": int(counted[:, 1].sum())}


def _says_old(answer: np.ndarray) -> np.ndarray:
    """1 for "old", 0 for "new", nan for no answer."""
    return np.where(np.isnan(answer), np.nan, answer > 0)


def _means(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Mean over the chosen (S, R) of values (R, P), without nan: (S, P), nan where none of them answered."""
    there = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return (chosen @ np.where(there, values, 0)) / (chosen.astype(int) @ there)
