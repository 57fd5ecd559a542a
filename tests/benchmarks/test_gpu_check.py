"""The one command for a GPU: rehearsed on the CPU, cut short, and with a part that fails."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, run_script

from benchmarks import tiny
from benchmarks.gpu_check import __main__ as gpu_check
from benchmarks.gpu_check import parts
from benchmarks.gpu_check.page import INTRODUCTION, page

ELSEWHERE_MISSING = ["av", "scenedetect", "wandb", "yt_dlp", "cv2", "matplotlib", "numba"]


@pytest.fixture(scope="session")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str], float]:
    """The folder of a rehearsal of all parts where every package is missing that a GPU machine may lack."""
    folder = tmp_path_factory.mktemp("gpu")
    (folder / "sitecustomize.py").write_text(
        f"""
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ELSEWHERE_MISSING}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name.partition(".")[0])

sys.meta_path.insert(0, Missing())
"""
    )
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    words = ["--device=cpu", "--tiny", f"--output={folder / 'gpu'}"]
    started = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_check", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    return folder / "gpu", result, time.monotonic() - started


def rows_of(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "results.jsonl").read_text().splitlines()]


def test_rehearsal_runs_every_part_without_the_packages_that_may_be_missing(rehearsal):
    output, result, _ = rehearsal
    assert result.returncode == 0, result.stdout + (output / "log.txt").read_text()
    rows = rows_of(output)
    ends = {row["part"]: row["value"] for row in rows if row["what"] == "how it ended"}
    assert ends == dict.fromkeys(gpu_check.PARTS, "done")
    assert all(sum(row["part"] == part for row in rows) > 1 for part in gpu_check.PARTS)
    assert [row["value"] for row in rows if row["what"] == "preprocess"] == ["not measured: av is not installed"]
    assert "no figures, matplotlib is not installed" in result.stdout


def test_page_and_figures_can_be_made_later_from_the_numbers(rehearsal):
    output = rehearsal[0]
    result = run_script("benchmarks.gpu_check", "--page", f"--output={output}", cwd=ROOT)
    assert result.returncode == 0, result.stderr
    text = output.with_name("gpu.md").read_text()
    for part, figure in (("learning", "learning.svg"), ("growth", "growth.svg")):
        assert f"]({output.name}/{figure})" in text
        assert (output / figure).read_text().count("<path") > 10, part
    for row in rows_of(output):
        assert row["what"] == "how it ended" or str(row["what"]) in text


def found(limit_s: float, output: Path, part, monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """The rows of a run of nothing but `part`, on the CPU."""
    for module in (gpu_check, parts):
        monkeypatch.setattr(module, "PARTS", {"this": (part, 1)})
    words = ["--device=cpu", f"--minutes={limit_s / 60}", f"--output={output}"]
    monkeypatch.setattr(sys, "argv", ["gpu_check", *words])
    try:
        gpu_check.main()
    except gpu_check.Failure as failure:
        return [*rows_of(output), {"what": str(failure)}]
    return rows_of(output)


def test_part_that_is_started_afresh_as_beside_cuda_runs_as_a_forked_one(tmp_path):
    """What stands in __main__.py is not found by such a process; on the CPU, where parts are forked, nobody notices."""
    code = (
        "import runpy, sys; from benchmarks.gpu_check import parts; parts.PROCESSES['cpu'] = parts.PROCESSES['cuda']; "
        "runpy.run_module('benchmarks.gpu_check', run_name='__main__', alter_sys=True)"
    )
    result = run_script("-c", code, "growth", "--device=cpu", "--tiny", f"--output={tmp_path / 'gpu'}", cwd=ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    rows = rows_of(tmp_path / "gpu")
    assert [row["value"] for row in rows if row["what"] == "how it ended"] == ["done"]
    assert [row["frames"] for row in rows if "frames" in row] == tiny.SIZES["growth"]["LENGTHS"]


def test_part_that_takes_too_long_is_cut_and_keeps_what_it_had_found(tmp_path, monkeypatch):
    def part(device, seconds):
        yield {"what": "first", "value": 1}
        subprocess.run(["sleep", "600"])  # one that it has started ends too
        yield {"what": "second", "value": 2}

    started = time.monotonic()
    first, end = found(1.5, tmp_path / "gpu", part, monkeypatch)
    assert time.monotonic() - started < 30
    assert (first["what"], first["value"], end["is_good"]) == ("first", 1, None)
    assert "cut at its limit" in end["value"]


def test_part_that_fails_is_told_and_makes_the_whole_fail(tmp_path, monkeypatch):
    def part(device, seconds):
        yield {"what": "first", "value": 1}
        raise RuntimeError("no such\nkernel")

    first, error, _, failure = found(60, tmp_path / "gpu", part, monkeypatch)
    assert first["is_good"] is None
    assert (error["value"], error["is_good"]) == (r"RuntimeError('no such\nkernel')", False)
    assert "1 findings are not as they should be" in failure["what"]


def test_page_of_the_project_shows_what_was_measured():
    output = ROOT / "docs" / "gpu"
    figures = {path.stem: path.name for path in output.glob("*.svg")}
    rows = rows_of(output) if output.exists() else []
    assert output.with_name("gpu.md").read_text() == page(rows, figures, "gpu")
    assert "make gpu-check" in INTRODUCTION


def test_no_small_size_names_what_is_not_there():
    sizes = {}
    tiny.shrink(lambda module, name, size: sizes.update({(module.__name__, name): getattr(module, name)}))
    assert len(sizes) == 1 + sum(map(len, tiny.SIZES.values()))
    assert not tiny.is_tiny


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--device=cpu"], "docs/gpu is for figures of a GPU"),
        (["--device=cpu", "--output=x", "correctnes"], "did you mean 'correctness'?"),
        (["--page", "--output=nowhere"], "holds no results.jsonl"),
    ],
)
def test_wrong_words_are_refused(words, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_check", *words])
    with pytest.raises(SystemExit) as exit_info:
        gpu_check.parse_arguments()
    assert exit_info.value.code == 2
    assert said in capsys.readouterr().err
