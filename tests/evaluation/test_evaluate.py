"""Scoring runs and the page that reports them."""

import csv
import io
import json
import re
import shutil
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL_SPLITS, refusal, run_here, write_features

import evaluate
import train
from recognition.common.command_line import InputError
from recognition.episodes.index_file import read_index
from recognition.evaluation.memorability_file import Scores, write_scores
from recognition.evaluation.report import render_report
from recognition.evaluation.retention import source_places
from recognition.evaluation.signal_detection import summarise
from recognition.training.config import load_config
from recognition.training.data import open_split
from recognition.training.runs import Run

OPTIONS = ("--audit", "--episodes")
SCORES = "accuracy", "hit_rate", "false_alarm_rate", "d_prime", "criterion", "auc"


KNN = """{model: mixed, args: {
  d_embed: 16, layers: [temporal_gate, knn_memory],
  temporal_gate: {gate: soft}, knn_memory: {k: 5, segment: 4}
}}"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs of one model, trained and scored by the scripts, whose old probes are any frames of the
    clips; beside their test episodes of 3 clips are others of 1 and 5."""
    folder = tmp_path_factory.mktemp("evaluated")
    bank = write_features(folder / "bank", [70] * 12)
    words = (f"--input_dir={bank}", f"--output_dir={bank}", "--clip_length=8", "--clip_margin=4", *SMALL_SPLITS)
    kinds = ("--n_tests=4", "--subsample=2", "--seed=1")
    for more in (("--n_clips", 3, 5, 1), ("--n_clips=3", "--new_probes=far,other_film", "--suffix=_lures")):
        assert run_here("generate_dataset.py", *words, *kinds, *more, cwd=folder).returncode == 0
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
        for name, seed in (("one", 0), ("two", 1)):
            words = "-f", str(folder / "run.yaml"), f"--runs_dir={folder}", f"name={name}", f"training.seed={seed}"
            patch.setattr(sys, "argv", ["train.py", *words])
            train.main()
        lures = str(folder / "bank/test_indices_lures.h5")
        patch.setattr(sys, "argv", ["evaluate.py", *(str(folder / x) for x in ("one", "two")), *OPTIONS, lures])
        evaluate.main()
    return folder


def scores_of(run: Path) -> dict:
    return json.loads((run / "evaluation.json").read_text())


def test_evaluation_agrees_with_the_test_at_the_end_of_training(runs: Path):
    for name in ("one", "two"):
        assert (
            scores_of(runs / name)["accuracy"] == json.loads((runs / name / "test.json").read_text())["test_accuracy"]
        )


def test_calibrated_run_is_also_scored_with_the_threshold_that_its_weights_have(
    runs: Path, tmp_path: Path, evaluated: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    words = "-f", str(runs / "run.yaml"), f"--runs_dir={tmp_path}", "name=one", "training.calibrate=true"
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    train.main()
    evaluated(tmp_path / "one", "--episodes", runs / "bank/test_indices_lures.h5")
    before, now = scores_of(runs / "one"), scores_of(tmp_path / "one")
    told, calibrated = json.loads((tmp_path / "one/test.json").read_text()), now["calibrated"]
    assert (calibrated["threshold"], calibrated["accuracy"]) == (told["threshold"], told["calibrated_accuracy"])
    for name in ("accuracy", "hit_rate", "false_alarm_rate", "d_prime", "criterion"):
        low, high = calibrated[f"{name}_interval"]
        assert low <= calibrated[name] <= high, name
    assert {other["calibrated"]["threshold"] for other in now["other_episodes"]} == {told["threshold"]}
    # All else is as without.
    assert {name: now[name] for name in SCORES} == {name: before[name] for name in SCORES}
    np.testing.assert_array_equal(Run(tmp_path / "one").read_answers(), Run(runs / "one").read_answers())
    assert before["calibrated"] is None
    assert f"calibrated accuracy {calibrated['accuracy']:.4f}, nearest" in capsys.readouterr().out
    text = (tmp_path / "one/report.html").read_text()
    assert f"accuracy <strong>{calibrated['accuracy']:.3f}</strong>" in text
    assert Page(text).open == []
    assert "the threshold that is best" not in (runs / "one/report.html").read_text()


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


def test_every_score_has_an_interval_around_it_for_model_and_controls(runs: Path):
    scores = scores_of(runs / "one")
    told = [scores, *scores["other_episodes"], scores["controls"]["nearest_frame"]]
    assert len(told) == 5
    for part in told:
        for name in SCORES:
            low, high = part[f"{name}_interval"]
            assert low - 1e-9 <= part[name] <= high + 1e-9, name


def intervals_in(tree: object) -> list:
    """Every interval of an evaluation, at any depth."""
    if isinstance(tree, list):
        return [ends for part in tree for ends in intervals_in(part)]
    if not isinstance(tree, dict):
        return []
    here = [value for name, value in tree.items() if name.endswith("_interval")]
    return here + [ends for part in tree.values() for ends in intervals_in(part)]


def test_no_interval_of_an_evaluation_is_a_single_point(runs: Path):
    found = intervals_in(scores_of(runs / "one"))
    assert len(found) > 50
    assert all(ends is None or ends[0] < ends[1] for ends in found)


def test_scores_of_a_single_episode_have_no_interval_and_the_report_says_so(
    runs: Path, tmp_path: Path, evaluated: Callable
):
    bank = shutil.copytree(runs / "bank", tmp_path / "bank", ignore=shutil.ignore_patterns("*_indices_*"))
    words = (f"--input_dir={bank}", f"--output_dir={bank}", "--clip_length=8", "--clip_margin=4", *SMALL_SPLITS)
    few = "--n_clips=3", "--n_tests=4", "--subsample=2", "--n_samples_test=1"
    assert run_here("generate_dataset.py", *words, *few, cwd=tmp_path).returncode == 0
    run = shutil.copytree(runs / "one", tmp_path / "one")
    (run / "environment.json").unlink()  # or the run would know that these are other episodes
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace(str(runs / "bank"), str(bank)))
    evaluated(run)
    assert {str(ends) for ends in intervals_in(scores_of(run))} == {"None"}
    page = (run / "report.html").read_text()
    assert "[no interval]" in page
    assert not re.search(r"\[[−\d.]+, [−\d.]+\]", page)


def test_answers_are_kept_and_give_the_scores_again(runs: Path):
    answers, index = Run(runs / "one").read_answers(), read_index(runs / "bank/test_indices.h5")
    assert answers.shape == index.episodes.is_old.shape
    again = summarise(answers, index.episodes.is_old)
    assert {name: scores_of(runs / "one")[name] for name in again} == pytest.approx(again)


def test_memory_is_counted_in_bytes_of_float32(runs: Path):
    scores = scores_of(runs / "one")
    assert scores["state_bytes"] == 4 * scores["state_size"]
    assert scores["controls"]["nearest_frame"]["state_bytes"] == 4 * 16 * scores["num_study_frames"]


def test_capacity_comes_from_the_files_beside_the_test_file(runs: Path):
    scores = scores_of(runs / "one")
    assert [row["num_clips"] for row in scores["capacity"]] == [1, 3, 5]
    assert scores["capacity"][1]["d_prime"] == scores["d_prime"]
    assert scores["capacity"][1]["nearest_frame_d_prime"] == scores["controls"]["nearest_frame"]["d_prime"]
    sizes = [row["state_bytes"] for row in scores["capacity"]]
    assert sizes == [sizes[0], 3 * sizes[0], 5 * sizes[0]]


def test_other_kinds_of_probes_are_told_apart_and_no_point_of_the_capacity_curve(runs: Path):
    other = {Path(other["file"]).name: other for other in scores_of(runs / "one")["other_episodes"]}
    assert list(other) == ["test_indices_1clips.h5", "test_indices_5clips.h5", "test_indices_lures.h5"]
    assert [part["is_other_length"] for part in other.values()] == [True, True, False]
    kinds = other["test_indices_lures.h5"]["retention"]["by_kind"]
    assert [(row["kind"], row["num_probes"]) for row in kinds] == [("old", 32), ("far", 16), ("other_film", 16)]
    assert "test_indices_lures.h5" in (runs / "one/report.html").read_text()


def test_audit_is_told_only_when_it_was_made(runs: Path):
    audited = scores_of(runs / "one")["audit"]
    assert audited["films"]["shared_films"]["count"] == 0
    assert audited["lines"][0] in (runs / "one/report.html").read_text()
    config, without = load_config(runs / "one/config.yaml"), {**scores_of(runs / "one"), "audit": None}
    page = render_report(config, without, [], {}, "no pictures")
    assert audited["lines"][0] not in page
    assert "evaluate.py --audit" in page


def test_two_seeds_are_one_row_of_the_comparison(runs: Path):
    [row, *controls] = list(csv.DictReader(io.StringIO((runs / "comparison.csv").read_text())))
    values = [scores_of(runs / name)["accuracy"] for name in ("one", "two")]
    assert float(row["accuracy"]) == pytest.approx(sum(values) / 2)
    assert row["num_seeds"] == "2"
    assert len(controls) == 6
    page = Page((runs / "comparison.html").read_text())
    assert (page.open, page.loads) == ([], [])
    assert r"\toprule" in (runs / "comparison.tex").read_text()


def test_what_an_earlier_comparison_left_is_no_run(runs: Path, monkeypatch: pytest.MonkeyPatch):
    (runs / "comparison-figures").mkdir()
    names = [str(path) for path in sorted(runs.iterdir()) if path.name not in ("bank", "run.yaml")]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *names])
    assert [path.name for path in evaluate.parse_arguments().runs] == ["one", "two"]


def test_report_says_why_there_are_no_pictures(runs: Path):
    assert "The films are not at hand" in (runs / "one/report.html").read_text()


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
        links = [value for name, value in attributes if name in ("src", "href", "xlink:href")]
        self.loads += [link for link in links if not link.startswith(("#", "data:"))]
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


def test_evaluating_again_gives_the_same_files_and_figures_for_papers_if_asked(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(runs / "one", tmp_path / "one", ignore=shutil.ignore_patterns("evaluation.json", "*.html", "*.npz"))
    lures = str(runs / "bank/test_indices_lures.h5")
    monkeypatch.setattr(sys, "argv", ["evaluate.py", str(tmp_path / "one"), "--figures", *OPTIONS, lures])
    evaluate.main()
    for name in ("evaluation.json", "report.html", "answers.npz"):
        assert (tmp_path / "one" / name).read_bytes() == (runs / "one" / name).read_bytes(), name
    assert {"roc", "capacity", "memory_per_byte"} <= {path.stem for path in (tmp_path / "one/figures").glob("*.pdf")}


def test_report_without_scores_of_memorability_does_not_speak_of_it(runs: Path):
    assert scores_of(runs / "one")["memorability"] is None
    assert "emorab" not in (runs / "one/report.html").read_text()


def write_memorability(folder: Path, run: Path, index_file: Path, weights: str) -> None:
    """Scores of all probed frames but those of one film: the mean of the run's answers to the frame, made positive."""
    index, answers = read_index(index_file), Run(run).read_answers()
    video, frame = np.moveaxis(index.episodes.probes, -1, 0)
    settings = {"weights": weights, "weights_sha256": "0", "fit": "squeeze", "pictures": "", "layer": ""}
    folder.mkdir()
    for number in np.unique(video)[1:]:
        frames = np.unique(frame[video == number])
        answer = np.array([answers[(video == number) & (frame == k)].mean() for k in frames])
        score = (1 / (1 + np.exp(-answer))).astype(np.float32)
        scores = Scores(frames, np.zeros(len(frames), np.uint8), score, np.empty((len(frames), 0), np.float32))
        write_scores(folder / f"{index.video_ids[number]}.h5", index.video_ids[number], scores, settings)


@pytest.mark.parametrize("weights", ["random:0", "model.pt"])
def test_report_tells_whether_the_model_remembers_what_people_remember(
    runs: Path, tmp_path: Path, evaluated: Callable, weights: str
):
    shutil.copytree(runs / "one", tmp_path / "one")
    write_memorability(tmp_path / "scores", runs / "one", runs / "bank/test_indices.h5", weights)
    evaluated(tmp_path / "one", f"--memorability={tmp_path / 'scores'}")
    scores, page = scores_of(tmp_path / "one"), (tmp_path / "one/report.html").read_text()
    probes = read_index(runs / "bank/test_indices.h5").episodes.probes
    assert scores["memorability"]["num_probes"] == (probes[..., 0] != probes[..., 0].min()).sum()
    rows = {row["of"]: row for row in scores["memorability"]["correlations"]}
    assert rows["answer_to_new"]["rho"] > 0.95
    assert f"{rows['hit_rate']['rho']:.2f}".replace("-", "−") in page
    assert ("learned nothing" in page) == (weights == "random:0")
    assert Page(page).open == Page(page).loads == []
    assert {**scores, "memorability": None} == {**scores_of(runs / "one"), "other_episodes": scores["other_episodes"],
                                                "audit": None}  # fmt: skip


def test_folder_without_scores_of_the_probes_is_refused(runs: Path, tmp_path: Path, evaluated: Callable):
    with pytest.raises(InputError, match="holds no score of the probes"):
        evaluated(runs / "one", f"--memorability={tmp_path}")
    with pytest.raises(InputError, match="--memorability absent: no such folder"):
        evaluated(runs / "one", "--memorability=absent")


def test_what_is_not_a_finished_run_is_refused(runs: Path, tmp_path: Path, evaluated: Callable):
    assert "absent: not a run" in refusal(run_here("evaluate.py", "absent", cwd=tmp_path))
    lures = refusal(run_here("evaluate.py", runs / "one", "--episodes", "absent.h5", cwd=tmp_path))
    assert "--episodes absent.h5: no such file" in lures
    films = refusal(run_here("evaluate.py", runs / "one", "--videos", "films", cwd=tmp_path))
    assert "--videos films: no such folder" in films
    shutil.copytree(runs / "one", tmp_path / "untrained")
    (tmp_path / "untrained/checkpoints/best.safetensors").unlink()
    with pytest.raises(InputError, match="train the run first"):
        evaluated(tmp_path / "untrained")
    shutil.copytree(runs / "one", tmp_path / "damaged")
    (tmp_path / "damaged/checkpoints/best.safetensors").write_bytes(b"not weights")
    with pytest.raises(InputError, match="cannot be read"):
        evaluated(tmp_path / "damaged")


@pytest.fixture
def moved(runs: Path, tmp_path: Path) -> Path:
    """A folder with the run `one`, trained in another folder that is gone, and its data under other names."""
    run = shutil.copytree(runs / "one", tmp_path / "one")
    for file in ("config.yaml", "environment.json"):
        (run / file).write_text((run / file).read_text().replace(str(runs), "/another/machine"))
    (tmp_path / "indices").mkdir()
    shutil.copytree(runs / "bank", tmp_path / "features")
    for path in tmp_path.glob("features/*_indices*"):
        path.rename(tmp_path / "indices" / path.name)
    return tmp_path


def places(folder: Path) -> list[str]:
    """The settings that say where data is by now."""
    indices = [f"dataset.{split}_indices_file={folder / f'indices/{split}_indices.h5'}" for split in ("train", "test")]
    return [*indices, f"dataset.video_path={folder / 'features'}"]


def test_run_is_scored_on_data_that_has_moved_once_it_is_told_where(runs: Path, moved: Path, evaluated: Callable):
    train, test, features = places(moved)
    told = []
    for named, word in (("test_indices_file", test), ("video_path", features), ("validation_indices_file", train)):
        with pytest.raises(InputError, match=rf"dataset\.{named}"):
            evaluated(moved / "one", *told)
        told.append(word)
    evaluated(moved / "one", *told)
    before, now = scores_of(runs / "one"), scores_of(moved / "one")
    assert {name: now[name] for name in SCORES} == {name: before[name] for name in SCORES}
    assert now["sha256"] == before["sha256"]
    assert len(now["capacity"]) == 3
    evaluated(moved / "one")  # config.yaml has it by now


def test_other_content_under_the_new_path_is_refused(runs: Path, moved: Path, evaluated: Callable):
    shutil.copy(moved / "indices/test_indices_lures.h5", moved / "indices/test_indices.h5")
    with pytest.raises(InputError, match=r"indices/test_indices\.h5 has changed since .*one was trained"):
        evaluated(moved / "one", *places(moved))
    assert "/another/machine" in (moved / "one/config.yaml").read_text()
    shutil.copy(runs / "bank/test_indices.h5", moved / "indices/test_indices.h5")
    shutil.copy(moved / "indices/train_indices_lures.h5", moved / "indices/train_indices.h5")
    with pytest.raises(InputError, match=r"train_indices\.h5 has changed since"):
        evaluated(moved / "one", *places(moved))


def test_axes_of_the_features_of_training_and_test_films_are_told(runs: Path):
    scores, page = scores_of(runs / "one"), (runs / "one/report.html").read_text()
    for split, films in (("train", "Training"), ("test", "Test")):
        assert 10 < scores["geometry"][split]["effective_rank"] <= 16
        assert f"{films} films: " in page
    assert scores["geometry"]["train"] != scores["geometry"]["test"]
    assert "Effective rank 16 of 16" in page


@pytest.mark.parametrize("is_changed", [False, True])
def test_run_is_scored_without_its_training_films_and_told_what_is_left_out(
    moved: Path, evaluated: Callable, capsys: pytest.CaptureFixture, is_changed: bool
):
    evaluated(moved / "one", *places(moved))
    before = scores_of(moved / "one")
    assert "left out" not in capsys.readouterr().err
    if is_changed:
        shutil.copy(moved / "indices/train_indices_lures.h5", moved / "indices/train_indices.h5")
        told = r"train_indices\.h5 has changed since"
    else:
        film = read_index(moved / "indices/train_indices.h5").video_ids[0]
        (moved / f"features/{film}.h5").unlink()
        told = rf"{film}\.h5: no such feature file"
    evaluated(moved / "one")
    assert re.search(f"controls on whitened features are left out: .*{told}", capsys.readouterr().err)
    assert scores_of(moved / "one") == {**before, "geometry": {**before["geometry"], "train": None}}
    assert "Training films: " not in (moved / "one/report.html").read_text()


def test_runs_of_one_data_set_under_two_paths_are_one_row(runs: Path, moved: Path, evaluated: Callable):
    shutil.copytree(runs / "two", moved / "two")
    evaluated(moved / "one", *places(moved))
    evaluated(moved / "one", str(moved / "two"))
    with open(moved / "comparison.csv") as file:
        assert [row["num_seeds"] for row in csv.DictReader(file) if row["model"]] == ["2"]
    assert "different episodes" not in (moved / "comparison.html").read_text()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("training.seed=3", "training.seed=3: there is no such run, and no such setting that could be given anew"),
        ("dataset.video_pth=x", "did you mean 'dataset.video_path'?"),
    ],
)
def test_only_places_can_be_given_anew_to_a_trained_run(runs: Path, evaluated: Callable, word: str, message: str):
    with pytest.raises(InputError, match=re.escape(message)):
        evaluated(runs / "one", word)


def test_folder_of_a_run_may_have_an_equals_sign_in_its_name(runs: Path, tmp_path: Path, evaluated: Callable):
    run = shutil.copytree(runs / "one", tmp_path / "learning_rate=0.001-seed=0")
    (run / "evaluation.json").unlink()
    evaluated(run)
    assert scores_of(run)["accuracy"] == scores_of(runs / "one")["accuracy"]


def test_runs_that_are_not_trained_are_named_and_left_out_of_the_others(
    runs: Path, tmp_path: Path, evaluated: Callable, capsys: pytest.CaptureFixture
):
    for name in ("a", "z"):
        shutil.copytree(runs / {"a": "one", "z": "two"}[name], tmp_path / name)
    shutil.copytree(runs / "one", tmp_path / "queued", ignore=shutil.ignore_patterns("checkpoints", "*.json"))
    shutil.copytree(runs / "one", tmp_path / "typo")
    (tmp_path / "typo/config.yaml").write_text("model: {model: [")
    shutil.copytree(runs / "one", tmp_path / "unknown")
    text = (runs / "one/config.yaml").read_text()
    (tmp_path / "unknown/config.yaml").write_text(text.replace("model: transformer", "model: of_tomorrow"))
    shutil.copytree(runs / "one", tmp_path / "unreadable")
    (tmp_path / "unreadable/checkpoints/best.safetensors").write_bytes(b"no weights")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "comparison.html").touch()
    names = sorted(path.name for path in tmp_path.iterdir())
    evaluated(*(tmp_path / name for name in names))
    told = capsys.readouterr().err.splitlines()
    left_out = [line for line in told if "is left out: " in line]
    assert sorted(Path(line.split()[1]).name for line in left_out) == [
        *("empty", "notes.txt", "queued", "typo", "unknown", "unreadable")
    ]
    with open(tmp_path / "comparison.csv") as file:
        assert [row["num_seeds"] for row in csv.DictReader(file) if row["model"]] == ["2"]
    with pytest.raises(InputError, match="none of the 2 can be scored"):
        evaluated(tmp_path / "empty", tmp_path / "queued")


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Score a run in this process."""

    def run(*words: Path | str) -> None:
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, words)])
        evaluate.main()

    return run


@pytest.fixture(scope="module")
def knn_run(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with temporal gates and a kNN memory, whose other settings were tried."""
    folder = tmp_path_factory.mktemp("knn")
    text = (runs / "run.yaml").read_text().replace("{model: transformer, args: {d_embed: 8}}", KNN)
    (folder / "knn.yaml").write_text(text.replace("n_epochs: 2", "n_epochs: 1"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train.py", "-f", str(folder / "knn.yaml"), f"--runs_dir={folder}"])
        train.main()
        patch.setattr(sys, "argv", ["evaluate.py", str(folder / "knn"), "--try_settings"])
        evaluate.main()
    return folder / "knn"


def test_what_probes_retrieved_is_told_of_a_model_that_looks_things_up(runs: Path, knn_run: Path):
    retrieval = scores_of(knn_run)["retrieval"]
    assert [row["num_retrieved"] for row in retrieval["recall"]] == [1, 5]
    for frame, clip in zip(retrieval["recall"], retrieval["clip_recall"], strict=True):
        assert frame["num_probes"] == scores_of(knn_run)["n_old"]
        assert 0.3 < frame["recall"] <= clip["recall"] <= 1  # by chance 1 of 12
    assert sum(row["num_probes"] for row in retrieval["by_lag"]) == retrieval["recall"][0]["num_probes"]
    assert len(retrieval["gates"]) == 1
    assert "<h2>Retrieval</h2>" in (knn_run / "report.html").read_text()
    assert scores_of(runs / "one")["retrieval"] is None
    assert "<h2>Retrieval</h2>" not in (runs / "one" / "report.html").read_text()


def test_other_settings_of_a_knn_memory_are_tried_with_the_same_weights(runs: Path, knn_run: Path):
    scores, page = scores_of(knn_run), (knn_run / "report.html").read_text()
    rows = {(row["k"], row["capacity"]): row for row in scores["retrieval"]["other_settings"]}
    assert list(rows) == [(k, capacity) for k in (1, 5, 8, 32, 128) for capacity in (1, 4, 12)]
    own = rows[5, 12]  # 12 frames are studied
    assert {name: scores[name] for name in ("accuracy", "d_prime_interval", "state_bytes")}.items() <= own.items()
    assert own["by_lag"] == scores["retention"]["by_lag"]
    assert {row["state_bytes"] for key, row in rows.items() if key[1] == 4} == {own["state_bytes"] / 3}
    assert len({row["d_prime"] for row in rows.values()}) > 2
    assert page.count('<th scope="row">k = ') == 5
    assert {"figure-lookup_accuracy", "figure-lookup_retention"} <= set(re.findall(r'id="(figure-\w+)"', page))
    assert Page(page).open == []


def test_smaller_memories_forget_the_earliest_frames_and_those_alone(runs: Path, knn_run: Path):
    dataset = open_split(load_config(knn_run / "config.yaml").dataset, "test")
    place = source_places(dataset)[dataset.episodes.is_old == 1]
    for row in scores_of(knn_run)["retrieval"]["other_settings"]:
        if row["k"] >= row["capacity"]:  # all that the memory holds is retrieved
            assert row["recall"] == pytest.approx((place >= 12 - row["capacity"]).mean())
    assert 0 < (place >= 8).mean() < 1


def test_openness_of_temporal_gates_is_told_where_there_are_any(runs: Path, knn_run: Path):
    scores = scores_of(knn_run)
    [row] = scores["temporal_gates"]
    assert 0 < row["openness"] < 1
    assert row["n_open"] + row["n_shut"] == scores["n_old"]
    hits = sum(row[f"n_{part}"] * row[f"accuracy_{part}"] for part in ("open", "shut"))
    assert hits == pytest.approx(scores["n_old"] * scores["hit_rate"])
    assert "<h2>Temporal gates</h2>" in (knn_run / "report.html").read_text()
    assert scores_of(runs / "one")["temporal_gates"] == []
    assert "<h2>Temporal gates</h2>" not in (runs / "one" / "report.html").read_text()


def test_model_without_settings_to_try_is_told_so(
    runs: Path, tmp_path: Path, evaluated: Callable, capsys: pytest.CaptureFixture
):
    shutil.copytree(runs / "one", tmp_path / "one")
    evaluated(tmp_path / "one", "--knn")  # as the option was called when kNN memories alone had such settings
    assert "one: no layer has other settings to try" in capsys.readouterr().out
    assert scores_of(tmp_path / "one")["retrieval"] is None
