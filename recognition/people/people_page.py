"""The page of a crowd."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recognition.common.files import written_whole
from recognition.evaluation.report import CLIP_KINDS, SCORES, evaluation_page
from recognition.people.crowd import Crowd
from recognition.people.people_figures import crowd_figures

REPORT_FILE = "report.html"
MEANINGS = {  # of scores, where a model's page counts its probes
    "accuracy": "share of right answers, of those given",
    "hit_rate": "“old” to old probes",
    "false_alarm_rate": "“old” to new probes",
}


def write_page(folder: Path, crowd: Crowd, told: Mapping[str, Any]) -> None:
    """Write report.html of a crowd into its folder; `told` is what `describe_crowd` tells."""
    rows = [
        {"name": name, "label": label, "digits": digits, "meaning": MEANINGS.get(name, meaning)}
        for name, label, digits, meaning in SCORES
        if name in told
    ]
    page = evaluation_page(
        "people.html",
        crowd_figures(crowd, told),
        name=crowd.name,
        told=told,
        rows=rows,
        persons=crowd.persons,
        clip_kinds=CLIP_KINDS,
    )
    with written_whole(folder / REPORT_FILE) as part:
        part.write_text(page, encoding="utf-8")
