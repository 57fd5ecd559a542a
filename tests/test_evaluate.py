"""Scoring runs and the page that reports them."""

import json
import shutil
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from conftest import SMALL_SPLITS, refusal, run_script, write_features

import evaluate
import train
from recognition.command_line import InputError


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs, trained and scored by the scripts, whose old probes are any frames of the clips."""
    folder = tmp_path_factory.mktemp("evaluated")
    bank = write_features(folder / "bank", [70] * 12)
    words = (f"--input_dir={bank}", f"--output_dir={bank}", "--n_clips=3", "--clip_length=8", "--clip_margin=4")
    kinds = ("--n_tests=4", "--subsample=2", "--seed=1")
    assert run_script("generate_dataset.py", *words, *kinds, *SMALL_SPLITS, cwd=folder).returncode == 0
    (folder / "run.yaml").write_text(f"""
dataset:
  train_indices_file: {bank}/train_indices.h5
  test_indices_file: {bank}/test_indices.h5
  video_path: {bank}
  standardise: true
logging: {{wandb_project: "<script>alert('no')</script>"}}
model: {{model: transformer, args: {{d_embed: 8}}}}
training: {{n_epochs: 2, batch_size: 8, num_workers: 0, device: cpu}}
""")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("one", "two"):
            patch.setattr(
                sys, "argv", ["train.py", "-f", str(folder / "run.yaml"), f"--runs_dir={folder}", f"name={name}"]
            )
            train.main()
        patch.setattr(sys, "argv", ["evaluate.py", str(folder / "one"), str(folder / "two")])
        evaluate.main()
    return folder


def scores_of(run: Path) -> dict:
    return json.loads((run / "evaluation.json").read_text())


def test_evaluation_agrees_with_the_test_at_the_end_of_training(runs: Path):
    for name in ("one", "two"):
        assert (
            scores_of(runs / name)["accuracy"] == json.loads((runs / name / "test.json").read_text())["test_accuracy"]
        )


def test_scores_belong_together(runs: Path):
    scores = scores_of(runs / "one")
    assert (scores["n_old"], scores["n_new"]) == (8 * 4, 8 * 4)
    assert scores["n_shown"] + scores["n_between"] == scores["n_old"]
    assert scores["accuracy"] == pytest.approx((scores["hit_rate"] + 1 - scores["false_alarm_rate"]) / 2)
    hits = scores["n_shown"] * scores["accuracy_shown"] + scores["n_between"] * scores["accuracy_between"]
    assert hits == pytest.approx(scores["n_old"] * scores["hit_rate"])
    assert {"d_prime", "criterion", "auc", "state_size", "num_study_frames"} <= scores.keys()


def test_nearest_frame_finds_the_shown_probes_and_chance_knows_nothing(runs: Path):
    """Frames without structure: only a probe that was itself shown has a studied frame of similarity 1."""
    scores = scores_of(runs / "one")
    nearest = scores["controls"]["nearest_frame"]
    assert 0.5 < nearest["threshold"] < 1
    assert nearest["hit_rate"] >= scores["n_shown"] / scores["n_old"]
    assert nearest["accuracy"] > 0.6
    assert scores["controls"]["chance"]["accuracy"] == 0.5


def test_runs_on_the_same_episodes_share_their_controls(runs: Path):
    assert scores_of(runs / "one")["controls"] == scores_of(runs / "two")["controls"]


class Page(HTMLParser):
    """Notes the tags of a page, what they load and whether all are closed."""

    VOID = frozenset({"meta", "br", "link", "img"})

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.loads += [value for name, value in attributes if name in ("src", "href", "xlink:href") and value[0] != "#"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_report_is_one_whole_page_that_loads_nothing(runs: Path):
    page = Page((runs / "one/report.html").read_text())
    assert page.open == []
    assert page.loads == []
    assert {"svg", "table", "pre"} <= page.tags


def test_report_escapes_what_comes_from_outside(runs: Path):
    page = Page((runs / "one/report.html").read_text())
    assert "script" not in page.tags


def test_report_tells_the_scores_of_its_run(runs: Path):
    text, scores = (runs / "one/report.html").read_text(), scores_of(runs / "one")
    for name in ("accuracy", "hit_rate", "auc"):
        assert f"{scores[name]:.3f}" in text
    assert "resnet18 with weights random:0" in text
    assert f"{scores['controls']['nearest_frame']['accuracy']:.3f}" in text


def test_evaluating_again_gives_the_same_files(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    before = [(runs / "one" / name).read_bytes() for name in ("evaluation.json", "report.html")]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", str(runs / "one")])
    evaluate.main()
    assert [(runs / "one" / name).read_bytes() for name in ("evaluation.json", "report.html")] == before


def test_what_is_not_a_finished_run_is_refused(runs: Path, tmp_path: Path, evaluated: Callable):
    assert "absent: not a run" in refusal(run_script("evaluate.py", "absent", cwd=tmp_path))
    shutil.copytree(runs / "one", tmp_path / "untrained")
    (tmp_path / "untrained/checkpoints/best.safetensors").unlink()
    with pytest.raises(InputError, match="train the run first"):
        evaluated(tmp_path / "untrained")
    shutil.copytree(runs / "one", tmp_path / "damaged")
    (tmp_path / "damaged/checkpoints/best.safetensors").write_bytes(b"not weights")
    with pytest.raises(InputError, match="cannot be read"):
        evaluated(tmp_path / "damaged")


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Score a run in this process."""

    def run(path: Path) -> None:
        monkeypatch.setattr(sys, "argv", ["evaluate.py", str(path)])
        evaluate.main()

    return run
