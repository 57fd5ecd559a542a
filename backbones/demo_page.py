"""What the demo found, as a table for the terminal and as a page with figures."""

import base64
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from backbones import figures as draw
from backbones.action_films import ACTIONS, draw_action
from recognition.common.files import written_whole
from recognition.common.pages import render

FOLDER = Path(__file__).parent / "templates"
LABELS = {
    "random": ("random weights", "has learned nothing; statistics of norms fitted"),
    "memory": ("without labels", "BYOL with a key-value memory for predictor"),
    "labels": ("with labels", "the same network, told the actions"),
}
TRAINED = {
    "labels": "ten actions",
    "no-gates": "eight actions, without gates",
    "gates": "eight actions, temporal gates (residual)",
}
SHOWN = 8  # frames of a film


def table(found: dict[str, Any]) -> list[str]:
    """Lines for the terminal."""
    lines = [f"{'eye':20}{'probe':>8}{'R@1':>8}{'memory of films':>18}"]
    for row in _eyes(found):
        lines.append(f"{row['label']:20}{row['probe']:8.3f}{row['recall_at_1']:8.3f}{row['memory']:18.3f}")
    lines += ["", f"{'trained with labels':42}{'top-1':>8}{'repeated':>10}{'shuffled':>10}{'reversed':>10}"]
    for row in _trained(found):
        controls = "".join(f"{row[name]:10.3f}" for name in ("repeated", "shuffled", "reversed"))
        lines.append(f"{row['label']:42}{row['top1']:8.3f}{controls}")
    return lines


def write_page(folder: Path, found: dict[str, Any]) -> None:
    """Write demo.html into the demo's folder."""
    eyes = _eyes(found)
    bars = {
        "probe": ("linear probe, top-1", [_bar(row, "probe") for row in eyes], 0.1),
        "retrieval": ("retrieval, R@1", [_bar(row, "recall_at_1") for row in eyes], 0.1),
        "memory": ("memory of films, accuracy", [_bar(row, "memory") for row in eyes], 0.5),
    }
    page = render(
        "demo.html",
        FOLDER,
        {name: draw.score_bars(rows, chance, title) for name, (title, rows, chance) in bars.items()},
        network="r3d_10 of width 16",
        strips={f"{kind} actions": [_strip(kind, action) for action in actions] for kind, actions in ACTIONS.items()},
        eyes=eyes,
        num_films=found["eyes"]["random"]["probe"]["num_films"],
        trained=_trained(found),
    )
    with written_whole(folder / "demo.html") as part:
        part.write_text(page, encoding="utf-8")


def _eyes(found: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for eye, scores in found["eyes"].items():
        label, meaning = LABELS[eye]
        rows.append(
            {
                "eye": eye,
                "label": label,
                "meaning": meaning,
                "probe": scores["probe"]["top1"],
                "probe_interval": scores["probe"]["top1_interval"],
                "memory": scores["recall"]["calibrated_accuracy"],
                **{key: scores["retrieval"][key] for key in ("recall_at_1", "recall_at_1_interval", "recall_at_5")},
            }
        )
    return rows


def _trained(found: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for name, label in TRAINED.items():
        scores = found["trained"][name]
        controls = {key: scores["controls"][key]["top1"] for key in ("repeated", "shuffled", "reversed")}
        rows.append(
            {"name": name, "label": label, "top1": scores["top1"], "interval": scores["top1_interval"], **controls}
        )
    return rows


def _bar(row: dict[str, Any], key: str) -> dict[str, Any]:
    return {"name": row["label"], "top1": row[key], "top1_interval": row.get(f"{key}_interval")}


def _strip(kind: Any, action: str) -> dict[str, str]:
    """Frames of a film side by side, as PNG in base64."""
    film = draw_action(kind, action, np.random.default_rng(3))[:24]
    chosen = np.linspace(0, len(film) - 1, SHOWN).round().astype(int)
    picture = np.concatenate([np.pad(film[k], ((0, 0), (0, 2), (0, 0)), constant_values=255) for k in chosen], 1)
    _, png = cv2.imencode(".png", picture[..., ::-1])
    return {"action": action, "png": base64.b64encode(png.tobytes()).decode()}
