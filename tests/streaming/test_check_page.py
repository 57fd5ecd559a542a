"""The page and the tables of a check, of made-up answers and hostile names, in a real browser too."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import DESK, PHONE, open_page, requested

from recognition.streaming.checking.check_page import page, size, table, table_csv, write_check
from recognition.streaming.checking.check_scores import Answers, Repeat, chance, counted, describe

HOSTILE = "<img src=http:x onerror=alert(1)>"
FORMULA = "=1+1"


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """What a check of two runs tells."""
    lags_s = {"30 s": 30.0, "2 min": 120.0}
    kinds = [(name, change) for name in lags_s for change in ("as it was", "re-encoded")]
    repeats = [Repeat(60.0 * k, 60.0 * k + 4, lags_s[kinds[k % 4][0]], *kinds[k % 4]) for k in range(1, 9)]
    times_s = np.arange(3000) / 5
    rows = []
    for name, kind, strength in ((HOSTILE, "run", 1.5), (FORMULA, "run", 0.0), ("plain ring", "ring", 9.0)):
        logits = np.random.default_rng(0).normal(size=3000)
        for repeat in repeats:
            logits[(times_s >= repeat.start_s) & (times_s <= repeat.end_s)] += strength
        seen_s = np.full(3000, np.nan) if kind == "run" else times_s - 30
        told = {"name": name, "kind": kind, "model": HOSTILE, "stream": 0, "step_ms": 1.25, "state_bytes": 37_152_000}
        calibrated = {"threshold": 1.0, "asked_per_hour": 6.0, "false_per_hour": 5.9, "num": 8}
        calibrated |= {"recall": 0.25, "recall_interval": [0.1, 0.5]}
        told["calibrated"] = None if name == FORMULA else calibrated
        rows.append(told | describe(Answers(times_s, logits, seen_s), repeats))
    told = {"name": "chance", "kind": "chance", "model": None, "stream": 0, "step_ms": None, "state_bytes": 0}
    rows.append(told | {"calibrated": None} | chance(repeats, 1 / 6))
    stream = {"features": HOSTILE, "hours": 1 / 6, "fps": 10.0, "num_streams": 2, "num_films": 6, "num_repeats": 8}
    return {
        "index": HOSTILE,
        "seed": 0,
        "delay_s": 10.0,
        "streams": [stream | counted(repeats) | {"lags_s": lags_s}],
        "notes": [f"Note of {HOSTILE}."],
        "rows": rows,
        "left_out": [{"name": HOSTILE, "reason": HOSTILE}],
    }


@pytest.fixture(scope="module")
def written(found: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("check")
    write_check(folder / "live-check", found)
    return folder / "live-check"


def test_three_files_tell_the_same(found: dict, written: Path):
    assert sorted(path.name for path in written.iterdir()) == ["check.csv", "check.html", "check.json"]
    assert json.loads((written / "check.json").read_text()) == found
    with open(written / "check.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert {line["name"] for line in lines} == {HOSTILE, f"'{FORMULA}", "plain ring", "chance"}
    recalls = [line for line in lines if line["name"] == "plain ring" and line["measure"] == "recall"]
    assert [line["of"] for line in recalls[:5]] == ["all", "30 s", "2 min", "as it was", "re-encoded"]
    assert len(recalls) == 3 * 5
    assert float(recalls[0]["value"]) == found["rows"][2]["recall"][0]["recall"]


def test_page_has_hostile_names_as_text_alone(found: dict):
    text = page(found)
    assert "<img" not in text
    assert text.count("&lt;img src=http:x onerror=alert(1)&gt;") >= 8
    assert "37.2 MB" in text


def test_table_has_a_line_for_each_row(found: dict):
    lines = table(found["rows"]).splitlines()
    assert len(lines) == 5
    assert lines[0].split("  ")[-1] == "state"
    assert lines[3].startswith("plain ring ")
    assert "0.25, 5.9" in lines[3]
    assert lines[4].split()[0] == "chance"
    assert FORMULA in table_csv(found["rows"])


@pytest.mark.parametrize(
    ("num_bytes", "words"), [(0, "0 B"), (999, "999 B"), (2048, "2.05 kB"), (37.2e6, "37.2 MB"), (5e12, "5e+03 GB")]
)
def test_sizes_are_told_in_words(num_bytes: float, words: str):
    assert size(num_bytes) == words


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_page_in_a_browser_has_no_error_loads_nothing_and_fits(browser, written: Path, width: int):
    open_page(browser, written / "check.html", width)
    assert browser.get_log("browser") == []
    asked = requested(browser)
    assert [url for url in asked if not url.startswith("data:")] == [browser.current_url]
    found = browser.execute_script(
        "return [document.scripts.length, document.images.length, document.querySelectorAll('figure svg').length,"
        " document.documentElement.scrollWidth]"
    )
    assert found[:3] == [0, 0, 2]
    assert found[3] <= width
