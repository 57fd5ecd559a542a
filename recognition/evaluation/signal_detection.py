"""Scores of an old/new recognition test: pure functions of answers.

An answer is a number, larger for "older"; old probes were seen, new ones were not. A probe that was not answered has
nan: it is missing, neither right nor wrong, and no score counts it.

Intervals come from the percentile bootstrap over episodes (Efron and Tibshirani 1993, An Introduction to the Bootstrap,
chapter 13): whole episodes are drawn with replacement, as many as there are, and the score is computed anew; the 2.5th
and the 97.5th percentile of 2,000 such scores bound the interval. Probes of one episode share its clips and their
films, so they are not independent, and an interval that took them for the unit would be too narrow.

Where all resamples score alike, as those of a rate that is 1 in every episode do, the bootstrap would call an estimate
certain because there were too few episodes to see it vary. Rates and the AUC then have Wilson's interval (1927, J. Am.
Stat. Assoc. 22, 209-212; at the ends see Brown, Cai and DasGupta 2001, Stat. Sci. 16, 101-133) with the episodes as
number of answers: the least that as many dependent ones can weigh (Kish 1965, Survey Sampling, section 5.4). d' and
the criterion have what the intervals of both rates leave possible, with their own correction at the ends. Other scores,
and all of a single episode, have no interval, None.

Shapes: N episodes, P probes, R resamples, L levels of answers, K bounds between confidence bins.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import ndtri, stdtrit

NUM_RESAMPLES = 2000
NUM_LEVELS = 256  # of answers, in the ROC and in the intervals of the AUC
NUM_GRADES = 3  # of confidence in each answer: sure, less sure, unsure
ROUNDING = 1e-9  # numbers that differ by less are alike
COUNTED = ("accuracy", "hit_rate", "false_alarm_rate", "d_prime", "criterion")  # follow from four counts


def answered(answer: np.ndarray, is_old: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which probes are old and which are new, of those that have an answer: bool, of the same shape each."""
    there = ~np.isnan(answer)
    return (is_old == 1) & there, (is_old == 0) & there


def hit_rate(says_old: np.ndarray, is_old: np.ndarray) -> float:
    """P("old" given old). nan if there is no old probe."""
    return _share(says_old, is_old == 1)


def false_alarm_rate(says_old: np.ndarray, is_old: np.ndarray) -> float:
    """P("old" given new). nan if there is no new probe."""
    return _share(says_old, is_old == 0)


def accuracy(says_old: np.ndarray, is_old: np.ndarray) -> float:
    """Share of right answers. nan if there is no probe."""
    return _share(says_old == (is_old == 1), np.ones(is_old.shape, bool))


def d_prime(hits: int, misses: int, false_alarms: int, correct_rejections: int) -> float:
    """Sensitivity z(hit rate) - z(false-alarm rate), in standard deviations, with the log-linear correction.

    The correction (+0.5 to hits and false alarms, +1 to old and new) keeps perfect scores finite. Source: Hautus
    (1995), Behav. Res. Methods Instrum. Comput. 27, 46-51. Raises ValueError if there are no old or no new probes.
    """
    return float(_checked_scores(hits, misses, false_alarms, correct_rejections)["d_prime"])


def criterion(hits: int, misses: int, false_alarms: int, correct_rejections: int) -> float:
    """Bias -(z(hit rate) + z(false-alarm rate)) / 2, corrected as `d_prime`; positive for reluctance to say "old"."""
    return float(_checked_scores(hits, misses, false_alarms, correct_rejections)["criterion"])


def scores_of_counts(
    hits: np.ndarray, num_old: np.ndarray, false_alarms: np.ndarray, num_new: np.ndarray
) -> dict[str, np.ndarray]:
    """The scores in COUNTED of many tests at once, all arrays of one shape; nan where they are not defined."""
    with np.errstate(invalid="ignore", divide="ignore"):
        z_hit, z_false_alarm = z_rate(hits, num_old), z_rate(false_alarms, num_new)
        return {
            "accuracy": (hits + num_new - false_alarms) / (num_old + num_new),
            "hit_rate": hits / num_old,
            "false_alarm_rate": false_alarms / num_new,
            "d_prime": z_hit - z_false_alarm,
            "criterion": -(z_hit + z_false_alarm) / 2,
        }


def z_rate(count: np.ndarray, total: np.ndarray) -> np.ndarray:
    """z-score of the rate count / total with the log-linear correction of `d_prime`; nan where total is 0."""
    count, total = np.asarray(count, np.float64), np.asarray(total, np.float64)
    rate = np.where(total > 0, (count + 0.5) / (total + 1), np.nan)
    return ndtri(rate)


def auc(answer: np.ndarray, is_old: np.ndarray) -> float:
    """P(an old probe's answer exceeds a new one's), ties counting half: the area under the ROC.

    nan if there are no answers to old or none to new probes.
    """
    there = ~np.isnan(answer)
    answer, is_old = answer[there], is_old[there] == 1
    num_old, num_new = int(is_old.sum()), int((~is_old).sum())
    if not num_old or not num_new:
        return float("nan")
    _, group, size = np.unique(answer, return_inverse=True, return_counts=True)
    rank = (np.cumsum(size) - (size - 1) / 2)[group]  # from 1; equal answers share the mean of their ranks
    return float((rank[is_old].sum() - num_old * (num_old + 1) / 2) / (num_old * num_new))


def summarise(answer: np.ndarray, is_old: np.ndarray, threshold: float = 0.0) -> dict[str, float | int]:
    """All scores of a test at once; answers above `threshold` mean "old". n_old and n_new count the answered probes.

    Raises ValueError if there are no answers to old or none to new probes.
    """
    says_old, (old, new) = answer > threshold, answered(answer, is_old)
    hits, num_old = int((says_old & old).sum()), int(old.sum())
    false_alarms, num_new = int((says_old & new).sum()), int(new.sum())
    scores = _checked_scores(hits, num_old - hits, false_alarms, num_new - false_alarms)
    return {
        **{name: float(scores[name]) for name in COUNTED},
        "auc": auc(answer, is_old),
        "n_old": num_old,
        "n_new": num_new,
    }


def summarise_with_intervals(
    answer: np.ndarray, is_old: np.ndarray, resamples: np.ndarray, threshold: float = 0.0
) -> dict[str, Any]:
    """`summarise` of answers (N, P), and for every score its interval [low, high], or None, as <score>_interval."""
    says_old, kinds = answer > threshold, answered(answer, is_old)
    intervals = intervals_of_counts(count_answers(says_old, *kinds), resamples)
    # Levels stand for the answers. What falls together in one counts as a tie: at worst that moves the AUC by half a
    # level's share of the answers, commonly by a hundredth of it.
    level = np.searchsorted(_level_bounds(answer), answer, side="left")
    old, new = (resamples @ _histogram(level, NUM_LEVELS, chosen) for chosen in kinds)  # (R, L) each
    with np.errstate(invalid="ignore"):
        below = np.cumsum(new, 1) - new / 2
        resampled_auc = (old * below).sum(1) / (old.sum(1) * new.sum(1))
    scores = summarise(answer, is_old, threshold)
    num_episodes = int(np.logical_or(*kinds).any(1).sum())  # with an answer
    intervals["auc"] = interval(resampled_auc) or wilson_interval(scores["auc"], num_episodes)  # it is a share of pairs
    return {**scores, **{f"{name}_interval": ends for name, ends in intervals.items()}}


def roc(answer: np.ndarray, is_old: np.ndarray) -> dict[str, list[float]]:
    """The ROC at up to NUM_LEVELS + 1 thresholds, from (0, 0) to (1, 1): false_alarm_rate and hit_rate.

    The thresholds are quantiles of all answers; all different answers serve where there are fewer.
    """
    level = np.searchsorted(_level_bounds(answer), answer, side="left")
    hits, false_alarms = (
        np.cumsum(np.bincount(level[chosen], minlength=NUM_LEVELS)[::-1]) for chosen in answered(answer, is_old)
    )
    points = np.unique(np.stack([false_alarms / false_alarms[-1], hits / hits[-1]], 1), axis=0)
    points = np.concatenate([np.zeros((1, 2)), points[points.any(1)]])
    return {"false_alarm_rate": points[:, 0].tolist(), "hit_rate": points[:, 1].tolist()}


def confidence_bounds(answer: np.ndarray, threshold: float = 0.0, is_rated: bool = False) -> np.ndarray:
    """Bounds between the bins of a rating scale, ascending: three grades of "new", then three of "old".

    People rate their answers so (Macmillan and Creelman 2005, Detection Theory, chapter 3; Yonelinas and Parks 2007,
    Psychol. Bull. 133, 800-832): first old or new, which is the middle bound, then how sure. What "sure" means is left
    to them, with the request to use the whole scale; hence the terciles of a model's own "new" and "old" answers, and
    no fixed probabilities, of which a model that is always sure would use two. Equal bounds are given once, so there
    are fewer than five for a model that gives few different answers.

    Answers that were given on such a scale, `is_rated`, have its own bounds: of at most six different ones all but the
    largest, so that a grade that nobody gave makes no second point of the same.
    """
    answer = answer[~np.isnan(answer)]
    if is_rated and len(grades := np.unique(answer)) <= 2 * NUM_GRADES:
        return grades[:-1]
    shares = np.arange(1, NUM_GRADES) / NUM_GRADES
    sides = [
        np.quantile(side, shares) for side in (answer[answer <= threshold], answer[answer > threshold]) if side.size
    ]
    bounds = np.unique(np.concatenate([*sides, [threshold]]))
    return bounds[bounds < answer.max()]


def zroc(
    answer: np.ndarray, is_old: np.ndarray, resamples: np.ndarray, threshold: float = 0.0, is_rated: bool = False
) -> dict[str, Any]:
    """The ROC of a rating scale in z-scores, of answers (N, P): points at `confidence_bounds` and a line through them.

    Slope and intercept of the least-squares line z(hit rate) = intercept + slope * z(false-alarm rate). Where old and
    new answers come from two normal distributions, the slope is the deviation of the new ones over that of the old
    ones, and the intercept the distance of their means in deviations of the old ones; people's slopes are near 0.8
    (Ratcliff, Sheu and Gronlund 1992, Psychol. Rev. 99, 518-535). nan where two bounds do not differ in false alarms.

    Returns bound, false_alarm_rate, hit_rate, z_false_alarm, z_hit (K,) each, slope, intercept and their intervals; the
    bounds stay as they are in all resamples.
    """
    bounds = confidence_bounds(answer, threshold, is_rated)
    level = np.searchsorted(bounds, answer, side="left")  # an answer on a bound is not above it
    above = [
        np.cumsum(_histogram(level, len(bounds) + 1, chosen)[:, ::-1], 1)[:, ::-1]
        for chosen in answered(answer, is_old)
    ]  # (N, K + 1) probes in this bin or above it, the first in any
    (old, new), (old_again, new_again) = [part.sum(0) for part in above], [resamples @ part for part in above]
    z_hit, z_false_alarm = z_rate(old[1:], old[0]), z_rate(new[1:], new[0])
    slope, intercept = _line(z_false_alarm, z_hit)
    slopes, intercepts = _line(z_rate(new_again[:, 1:], new_again[:, :1]), z_rate(old_again[:, 1:], old_again[:, :1]))
    return {
        "bound": bounds.tolist(),
        "false_alarm_rate": (new[1:] / new[0]).tolist(),
        "hit_rate": (old[1:] / old[0]).tolist(),
        "z_false_alarm": z_false_alarm.tolist(),
        "z_hit": z_hit.tolist(),
        "slope": float(slope),
        "slope_interval": interval(slopes),
        "intercept": float(intercept),
        "intercept_interval": interval(intercepts),
    }


def resample_episodes(num_episodes: int, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each episode comes in each bootstrap resample: (R, N) float64, rows that sum to N.

    Multiplied with what the episodes count, (N, ...), it gives the counts of the resamples.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, num_episodes, (num_resamples, num_episodes))
    drawn += num_episodes * np.arange(num_resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(np.float64)


def interval(resampled: np.ndarray) -> list[float] | None:
    """The 95 % percentile interval [low, high] of a score's resamples (R,), of those in which it is defined.

    None if there is none, or if they are all alike: they then say nothing of how the score varies.
    """
    defined = resampled[~np.isnan(resampled)]
    if not defined.size:
        return None
    low, high = np.quantile(defined, [0.025, 0.975]).tolist()
    return [low, high] if high - low > ROUNDING else None


def wilson_interval(rate: float, num: int) -> list[float] | None:
    """Wilson's 95 % interval of a rate among `num` independent answers; None for fewer than two, or if it is nan."""
    if num < 2 or np.isnan(rate):
        return None
    z2 = float(ndtri(0.975)) ** 2
    middle, reach = rate + z2 / (2 * num), (z2 * (rate * (1 - rate) / num + z2 / (4 * num**2))) ** 0.5
    low, high = ((middle + sign * reach) / (1 + z2 / num) for sign in (-1, 1))
    return [max(low, 0.0), min(high, 1.0)]  # rounding may lead beyond


def rate_interval(count: np.ndarray, total: np.ndarray, resamples: np.ndarray) -> list[float] | None:
    """The interval of a rate from what each episode counts (N,), of its own total (N,), which may be 0."""
    with np.errstate(invalid="ignore"):
        resampled, rate = (resamples @ count) / (resamples @ total), np.divide(count.sum(), total.sum())
    return interval(resampled) or wilson_interval(float(rate), int((total > 0).sum()))


def count_answers(says_old: np.ndarray, old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """What each episode counts of the probes chosen as old and as new, (N, P) bool: hits, old, false alarms and new,
    (4, N)."""
    return np.stack([part.sum(1) for part in (says_old & old, old, says_old & new, new)])


def intervals_of_counts(counts: np.ndarray, resamples: np.ndarray) -> dict[str, list[float] | None]:
    """The interval of every score in COUNTED from what the episodes count, (4, N) as of `count_answers`."""
    hits, num_old, false_alarms, num_new = counts
    resampled = scores_of_counts(*(resamples @ counts.T).T)
    found = {name: interval(values) for name, values in resampled.items()}
    rates = {
        "accuracy": rate_interval(hits + num_new - false_alarms, num_old + num_new, resamples),
        "hit_rate": rate_interval(hits, num_old, resamples),
        "false_alarm_rate": rate_interval(false_alarms, num_new, resamples),
    }
    if found["hit_rate"] is None or found["false_alarm_rate"] is None:
        found |= dict.fromkeys(("d_prime", "criterion"))
        if rates["hit_rate"] and rates["false_alarm_rate"]:
            hit_low, hit_high = z_rate(np.multiply(rates["hit_rate"], num_old.sum()), num_old.sum()).tolist()
            low, high = z_rate(np.multiply(rates["false_alarm_rate"], num_new.sum()), num_new.sum()).tolist()
            found["d_prime"] = [hit_low - high, hit_high - low]
            found["criterion"] = [-(hit_high + high) / 2, -(hit_low + low) / 2]
    return {**found, **rates}


def seed_interval(values: Sequence[float]) -> tuple[float, list[float] | None]:
    """Mean over seeds and its 95 % interval by Student's t, None for a single seed and for scores that are all alike.

    The seeds are taken for a sample of all there are; their scores for normally distributed.
    """
    mean = float(np.mean(values))
    if len(values) < 2 or np.ptp(values) <= ROUNDING:
        return mean, None
    reach = float(stdtrit(len(values) - 1, 0.975)) * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return mean, [mean - reach, mean + reach]


def _share(is_right: np.ndarray, counted: np.ndarray) -> float:
    return float(is_right[counted].mean()) if counted.any() else float("nan")


def _checked_scores(hits: int, misses: int, false_alarms: int, correct_rejections: int) -> dict[str, np.ndarray]:
    num_old, num_new = hits + misses, false_alarms + correct_rejections
    if num_old == 0 or num_new == 0:
        raise ValueError("d' and criterion need old and new probes")
    return scores_of_counts(*map(np.asarray, (hits, num_old, false_alarms, num_new)))


def _level_bounds(answer: np.ndarray) -> np.ndarray:
    """Up to NUM_LEVELS - 1 different quantiles of the answers, ascending."""
    answer = answer[~np.isnan(answer)]
    distinct = np.unique(answer)
    if len(distinct) <= NUM_LEVELS:
        return distinct[:-1]
    return np.unique(np.quantile(answer, np.arange(1, NUM_LEVELS) / NUM_LEVELS))


def _histogram(level: np.ndarray, num_levels: int, chosen: np.ndarray) -> np.ndarray:
    """How many of an episode's chosen probes (N, P) have each level: (N, num_levels)."""
    cell = level + num_levels * np.arange(len(level))[:, None]
    return np.bincount(cell[chosen], minlength=num_levels * len(level)).reshape(len(level), num_levels)


def _line(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slope and intercept of least-squares lines through (..., K) points; nan where all x are equal."""
    if x.shape[-1] == 0:
        return np.full(x.shape[:-1], np.nan), np.full(x.shape[:-1], np.nan)
    mean_x, mean_y = x.mean(-1, keepdims=True), y.mean(-1, keepdims=True)
    spread = ((x - mean_x) ** 2).sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = np.where(spread > 1e-12, ((x - mean_x) * (y - mean_y)).sum(-1) / spread, np.nan)
    return slope, mean_y[..., 0] - slope * mean_x[..., 0]
