"""What is told of a session beside its answers: facts, what is odd, and why it does not count."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recognition.people.session_rows import PARTS, Record

LEAST_ANSWERED = 0.8  # of the probes, or the session is left out
MOST_FAILED = 1 / 3  # of the attention checks, or it is left out
ONE_KEY, FAST_S, MOST_LEFT, MOST_UNANSWERED = 0.95, 0.3, 3, 0.1  # beyond these it is flagged


def facts_of(found: Record, given: np.ndarray, rt_ms: np.ndarray, num_lost: int) -> dict[str, float | str]:
    """What participants.csv tells of a session beside its scores."""
    known, checks = given[~np.isnan(given)], found.parts["check"]
    rows = [row for part in PARTS for row in found.parts[part]]
    ends_ms = max((row["onset"] for row in rows if row["onset"] is not None), default=0.0)
    facts: dict[str, float | str] = {
        "source": found.source,
        "scale": found.scale,
        "num_probes": float(len(given)),
        "num_answered": float(len(known)),
        "num_checks": float(len(checks)),
        "num_checks_failed": float(sum(row["response"] != row["expected"] for row in checks)),
        "num_left": sum(row["left"] or 0.0 for row in rows),
        "num_clips_dropped": float(num_lost),
        "num_resumed": float(found.resumed),
        "minutes": ends_ms / 60_000,
        **found.told,
    }
    if len(known):
        facts["commonest_key_share"] = float(np.unique(known, return_counts=True)[1].max() / len(known))
        facts["median_rt_s"] = float(np.nanmedian(rt_ms)) / 1000
    return facts


def flags_of(facts: Mapping[str, Any]) -> list[str]:
    """What is odd about a session, in words."""
    share = 1 - facts["num_answered"] / facts["num_probes"]
    odd = {
        f"one key in {100 * facts.get('commonest_key_share', 0):.0f} % of the answers": (
            facts.get("commonest_key_share", 0) >= ONE_KEY
        ),
        f"median response time {1000 * facts.get('median_rt_s', 1):.0f} ms": facts.get("median_rt_s", 1) < FAST_S,
        f"left the window {facts['num_left']:.0f} times": facts["num_left"] > MOST_LEFT,
        f"{100 * share:.0f} % unanswered": share > MOST_UNANSWERED,
    }
    return [text for text, is_so in odd.items() if is_so]


def why_left_out(
    facts: Mapping[str, Any],
    is_simulated: bool,
    given: np.ndarray,
    answer: np.ndarray,
    probes: Sequence[Mapping[str, Any]],
) -> str | None:
    """Why a session does not count, None if it does."""
    is_old, is_known = np.array([probe["is_old"] for probe in probes], bool), ~np.isnan(answer)
    if is_simulated:
        return "a dry run, not a person"
    if (share := facts["num_answered"] / len(given)) < LEAST_ANSWERED:
        return f"unfinished: {100 * share:.0f} % of the probes answered"
    if facts["num_checks_failed"] > MOST_FAILED * facts["num_checks"]:
        return f"failed {facts['num_checks_failed']:.0f} of {facts['num_checks']:.0f} attention checks"
    if not (is_known & is_old).any() or not (is_known & ~is_old).any():
        return "no answers to old, or none to new probes"
    return None
