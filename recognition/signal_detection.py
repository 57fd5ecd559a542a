"""Scores of an old/new recognition test: pure functions of answers.

An answer is a number, larger for "older"; old probes were seen, new ones were not.
"""

from statistics import NormalDist

import numpy as np


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
    z_hit, z_false_alarm = _z_scores(hits, misses, false_alarms, correct_rejections)
    return z_hit - z_false_alarm


def criterion(hits: int, misses: int, false_alarms: int, correct_rejections: int) -> float:
    """Bias -(z(hit rate) + z(false-alarm rate)) / 2, corrected as `d_prime`; positive for reluctance to say "old"."""
    z_hit, z_false_alarm = _z_scores(hits, misses, false_alarms, correct_rejections)
    return -(z_hit + z_false_alarm) / 2


def auc(answer: np.ndarray, is_old: np.ndarray) -> float:
    """P(an old probe's answer exceeds a new one's), ties counting half: the area under the ROC.

    nan if there are no old or no new probes.
    """
    answer, is_old = np.ravel(answer), np.ravel(is_old) == 1
    num_old, num_new = int(is_old.sum()), int((~is_old).sum())
    if not num_old or not num_new:
        return float("nan")
    _, group, size = np.unique(answer, return_inverse=True, return_counts=True)
    rank = (np.cumsum(size) - (size - 1) / 2)[group]  # from 1; equal answers share the mean of their ranks
    return float((rank[is_old].sum() - num_old * (num_old + 1) / 2) / (num_old * num_new))


def summarise(answer: np.ndarray, is_old: np.ndarray, threshold: float = 0.0) -> dict[str, float | int]:
    """All scores of a test at once; answers above `threshold` mean "old"."""
    answer, is_old = np.ravel(answer), np.ravel(is_old)
    says_old = answer > threshold
    counts = (
        int((says_old & (is_old == 1)).sum()),
        int((~says_old & (is_old == 1)).sum()),
        int((says_old & (is_old == 0)).sum()),
        int((~says_old & (is_old == 0)).sum()),
    )
    return {
        "accuracy": accuracy(says_old, is_old),
        "hit_rate": hit_rate(says_old, is_old),
        "false_alarm_rate": false_alarm_rate(says_old, is_old),
        "d_prime": d_prime(*counts),
        "criterion": criterion(*counts),
        "auc": auc(answer, is_old),
        "n_old": counts[0] + counts[1],
        "n_new": counts[2] + counts[3],
    }


def best_threshold(answer: np.ndarray, is_old: np.ndarray) -> float:
    """The threshold above which "old" is said most rightly: half-way between two answers, the lowest of equals."""
    order = np.argsort(np.ravel(answer), kind="stable")
    ordered, is_old = np.ravel(answer)[order], np.ravel(is_old)[order] == 1
    # With the k lowest answers called new: right are the new ones among them and the old ones above.
    num_right = np.concatenate([[0], np.cumsum(~is_old)]) + is_old.sum() - np.concatenate([[0], np.cumsum(is_old)])
    edges = np.concatenate([[ordered[0] - 1], (ordered[:-1] + ordered[1:]) / 2, [ordered[-1] + 1]])
    edges[:-1] = np.minimum(edges[:-1], np.nextafter(ordered, -np.inf))  # rounding may lift one to the answer above
    possible = np.concatenate([[True], ordered[1:] > ordered[:-1], [True]])  # equal answers cannot be told apart
    return float(edges[np.argmax(np.where(possible, num_right, -1))])


def _share(is_right: np.ndarray, counted: np.ndarray) -> float:
    return float(is_right[counted].mean()) if counted.any() else float("nan")


def _z_scores(hits: int, misses: int, false_alarms: int, correct_rejections: int) -> tuple[float, float]:
    num_old, num_new = hits + misses, false_alarms + correct_rejections
    if num_old == 0 or num_new == 0:
        raise ValueError("d' and criterion need old and new probes")
    z = NormalDist().inv_cdf
    return z((hits + 0.5) / (num_old + 1)), z((false_alarms + 0.5) / (num_new + 1))
