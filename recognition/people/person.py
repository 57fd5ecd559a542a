"""What is told of one person, from answers alone: scores as models have them, response times, the order task.

Shapes: P probes, Q pairs.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recognition.episodes.episode_spec import CLIP_KINDS
from recognition.evaluation.scores import without_nan
from recognition.evaluation.signal_detection import roc, scores_of_counts, summarise, zroc

ONE = np.ones((1, 1))  # the resamples of a single episode, which gives no interval


def describe_person(
    name: str,
    answer: np.ndarray,
    is_old: np.ndarray,
    rt_ms: np.ndarray,
    clip_kind: Sequence[str | None] | None = None,
    **told: Any,
) -> dict[str, Any]:
    """A person of a `Crowd` from answers (P,), nan for none. `clip_kind` (P,) has the kind of each probe's clip, None
    where it has none; `told` what else is known: left_out, flags, order and facts."""
    is_known = ~np.isnan(answer)
    old, new = is_known & (is_old == 1), is_known & (is_old == 0)
    scores = None
    if old.any() and new.any():
        graded, truth = answer[None, is_known], is_old[None, is_known]
        scores = summarise(graded, truth) | {"roc": roc(graded, truth), "zroc": zroc(graded, truth, ONE, is_rated=True)}
    return without_nan(
        {
            "id": name,
            "left_out": None if scores else "no answers to old, or none to new probes",
            "flags": [],
            "scores": scores,
            "by_clip_kind": _by_clip_kind(answer > 0, old, new, clip_kind) if scores and clip_kind is not None else [],
            "median_rt_s": float(np.median(rt_ms[is_known])) / 1000 if is_known.any() else None,
            "order": None,
            "facts": {},
            **{key: value for key, value in told.items() if value is not None},
        }
    )


def _by_clip_kind(
    says_old: np.ndarray, old: np.ndarray, new: np.ndarray, clip_kind: Sequence[str | None]
) -> list[dict[str, Any]]:
    """Scores by the kind of clip. New probes count with their own clip's kind where they have one, else for all."""
    kinds, rows = np.array([kind or "" for kind in clip_kind]), []
    has_own = bool((kinds[new] != "").any())
    for kind in CLIP_KINDS:
        its_old, its_new = old & (kinds == kind), new & (kinds == kind) if has_own else new
        if its_old.any() and its_new.any():
            counts = [np.asarray(part.sum()) for part in (says_old & its_old, its_old, says_old & its_new, its_new)]
            scores = scores_of_counts(*counts)
            told = {name: float(scores[name]) for name in ("hit_rate", "false_alarm_rate", "d_prime")}
            rows.append({"kind": kind, **told, "num_probes": int(its_old.sum() + (its_new.sum() if has_own else 0))})
    return rows


def describe_order(order_answer: np.ndarray, pairs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """How often the earlier of two pictures was found, of answers (Q,) above 0 for the left one, nan for none."""
    is_known = ~np.isnan(order_answer)
    if not is_known.any():
        return None
    is_left = np.array([pair["earlier"] == "left" for pair in pairs], bool)
    is_right, kinds = (order_answer > 0) == is_left, np.array([pair["clip_kind"] or "" for pair in pairs])
    by_kind = [
        {"kind": kind, "accuracy": float(is_right[chosen].mean()), "num_pairs": int(chosen.sum())}
        for kind in CLIP_KINDS
        if (chosen := is_known & (kinds == kind)).any()
    ]
    found = {"accuracy": float(is_right[is_known].mean()), "num_pairs": int(is_known.sum())}
    return {**found, "by_clip_kind": by_kind}
