"""python -m backbones.pretrain: its files, what it refuses, stopped and gone on with, in two processes."""

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import metrics_of, refusal, run_here, run_script
from forking import Forked
from safetensors.torch import load_file

from backbones.action_films import write_action_films
from recognition.common.files import sha256
from recognition.features.weights_file import read_eye

COMMAND = "backbones.pretrain"
YAML = """
data: {list: list.csv, videos: ., segment_s: null, validation_share: 0, workers: 0}
clip: {frames: 4, fps: 7.5, side: 32, keep_aspect: true}
augmentation: {area: [0.5, 1.0]}
network: {name: r3d_mini, width: 4}
byol: {predictor: memory, projection: 8, hidden: 12, slots: 10, concepts: 9}
test: {clips: 2, batch_size: 8}
training: {learning_rate: 1.0, batch_size: 4, n_epochs: 2, warmup_epochs: 1, monitor_epochs: 1, device: cpu}
"""


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ten films for training and four to test, their list, and run.yaml. Read only but for runs."""
    folder = tmp_path_factory.mktemp("ten")
    assert len(list(write_action_films(folder, "ten", 10, 4))) == 14
    (folder / "run.yaml").write_text(YAML)
    return folder


def pretrain(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return run_here(COMMAND, "-f", "run.yaml", *words, cwd=folder)


@pytest.fixture(scope="module")
def whole(films: Path) -> Path:
    """The folder of an undisturbed run."""
    result = pretrain(films, "--runs_dir=whole")
    assert result.returncode == 0, result.stderr
    assert f"weights: {films / 'whole/run/weights.safetensors'}" in result.stdout
    assert "items: 10 training, 4 test of 10 classes; 1 x cpu" in result.stdout
    return films / "whole/run"


def test_weights_say_how_the_network_sees_and_which_films_it_has_seen(films: Path, whole: Path):
    eye = read_eye(whole / "weights.safetensors")
    assert (eye.name, eye.width, eye.frames, eye.fps, eye.side, eye.keep_aspect) == ("r3d_mini", 4, 4, 7.5, 32, True)
    assert eye.run == "run"
    of_training = sorted(sha256(path) for path in films.glob("*_000?.mp4"))  # the test films are 0010 to 0013
    assert (whole / "films.txt").read_text().split() == list(eye.films) == of_training
    assert len(of_training) == 10
    state, best = (load_file(whole / name) for name in ("weights.safetensors", "checkpoints/best.safetensors"))
    assert not any(name.startswith("fc.") for name in state)
    assert all(torch.equal(best[f"encoder.backbone.network.{name}"], value) for name, value in state.items())
    assert json.loads((whole / "environment.json").read_text())["inputs"]["list"]["sha256"] == sha256(
        films / "list.csv"
    )


def test_epochs_tell_recall_where_a_list_has_test_films(whole: Path):
    lines = metrics_of(whole)
    assert [line["step"] for line in lines] == [2, 4]
    for line in lines:
        assert 0 <= line["validation_recall_at_1"] <= 1
        assert line.keys() >= {"train_spread", "train_cosine", "train_address_entropy", "validation_slots_used"}


def test_validation_films_are_asked_for_before_test_films(films: Path):
    """So that looking at R@1 while settings are chosen does not choose them by the test."""
    rows = (films / "list.csv").read_text().replace("slide_0010.mp4,slide,test", "slide_0010.mp4,slide,validation")
    (films / "three.csv").write_text(rows)
    words = ("data.list=three.csv", "name=three", "training.n_epochs=1")
    result = pretrain(films, *words)
    assert "items: 10 training, 1 validation, 3 test" in result.stdout
    assert metrics_of(films / "runs/three")[0]["validation_recall_at_1"] in (0, 1)


def test_folders_of_films_are_learned_from_in_pieces_without_labels(films: Path, tmp_path: Path):
    for k, path in enumerate(sorted(films.glob("*.mp4"))[:4]):
        (tmp_path / f"videos/part {k}/deeper").mkdir(parents=True)
        shutil.copy(path, tmp_path / f"videos/part {k}/deeper")
    words = ("data.list=null", "data.segment_s=2", f"data.videos={tmp_path / 'videos'}", f"--runs_dir={tmp_path}")
    result = pretrain(films, *words, "byol.predictor=perceptron", "training.optimizer=adamw")
    assert result.returncode == 0, result.stderr
    assert "items: 8 training; 1 x cpu" in result.stdout  # 4.3 s each
    assert not any("recall" in name for line in metrics_of(tmp_path / "run") for name in line)
    assert len((tmp_path / "run/films.txt").read_text().split()) == 4


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["training.batch_size=11"], "training.batch_size: 11, but there are 10 items to train on; lower it, or set"),
        (["training.batch_size=1"], "training.batch_size: 1 must be shared evenly by 1 processes, two or more for"),
        (["data.list=none.csv"], "none.csv"),
        (["data.list=null", "data.videos=nowhere"], "data.videos: 'nowhere': no such folder"),
        (["data.list=null", "data.videos=whole"], "data.videos: 'whole': holds no film"),
        (["data.list=null", "data.split_of=nowhere"], "nowhere"),
        (["byol.slot=3"], "byol.slot"),
        (["network.name=r3d_mi"], "network.name: unknown network 'r3d_mi'"),
        (["network.weights=none.pt"], "network.weights: none.pt: no such file"),
        (["--runs_dir=whole"], "whole/run exists: go on with it by --resume, choose another name=..., or remove it"),
        (["--runs_dir=whole", "--resume", "byol.slots=12"], "byol.slots"),
        (["--resme"], "--resme"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(films: Path, whole: Path, words: list[str], told: str):
    assert told in refusal(pretrain(films, *words, *["name=refused"] * ("--runs_dir=whole" not in words)))
    assert not (films / "runs/refused").exists()


@pytest.mark.parametrize("damage", [lambda data: data[:2000], lambda data: b"no film", lambda data: b""])
def test_a_damaged_film_in_a_folder_below_is_named(films: Path, tmp_path: Path, damage):
    (tmp_path / "videos/below").mkdir(parents=True)
    for path in films.glob("s*.mp4"):
        shutil.copy(path, tmp_path / "videos/below")
    broken = tmp_path / "videos/below/slide_0000.mp4"
    broken.write_bytes(damage(broken.read_bytes()))
    line = refusal(pretrain(films, "data.list=null", f"data.videos={tmp_path / 'videos'}", "name=broken"))
    assert str(broken) in line
    assert line.count(str(broken)) == 1


def test_a_loss_that_is_not_finite_ends_in_one_line(films: Path):
    words = ("training.optimizer=sgd", "training.learning_rate=1e30", "training.warmup_epochs=0", "name=steep")
    result = pretrain(films, *words)
    assert result.returncode == 1
    lines = [line for line in result.stderr.splitlines() if "step/s" not in line and line.strip()]
    assert "the loss is nan" in lines[-1]
    assert "Traceback" not in result.stderr


def test_a_finished_run_gone_on_with_stays_as_it_is(films: Path, whole: Path):
    before = {path: path.read_bytes() for path in (whole / "weights.safetensors", whole / "metrics.jsonl")}
    result = pretrain(films, "--runs_dir=whole", "--resume")
    assert result.returncode == 0, result.stderr
    assert {path: path.read_bytes() for path in before} == before


def test_sigterm_leaves_a_checkpoint_from_which_it_goes_on_to_the_same_bits(films: Path):
    words = ["training.n_epochs=5", "training.monitor_epochs=0"]
    process = Forked(
        [COMMAND, "-f", "run.yaml", "--runs_dir=stopped", *words],
        cwd=films,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    run, ending = films / "stopped/run", time.monotonic() + 100
    while not (run / "metrics.jsonl").exists() and process.poll() is None and time.monotonic() < ending:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 75, told
    assert len(metrics_of(run)) < 5
    assert (run / "checkpoints/last.pt").exists()
    assert pretrain(films, "--runs_dir=stopped", "--resume", *words).returncode == 0
    assert pretrain(films, "--runs_dir=straight", *words).returncode == 0
    other = films / "straight/run"
    assert metrics_of(run) == metrics_of(other)
    assert (run / "weights.safetensors").read_bytes() == (other / "weights.safetensors").read_bytes()
    states = [torch.load(path / "checkpoints/last.pt", weights_only=True) for path in (run, other)]
    torch.testing.assert_close(*states, rtol=0, atol=0)


def losses_of_shares(films: Path) -> list[float]:
    """The first step's loss of each of two processes, by one."""
    from backbones.byol import Target, VideoBYOL
    from backbones.dataset import ClipDataset, Draw
    from backbones.items import open_films
    from backbones.networks import build_backbone
    from backbones.pretrain import parse_arguments

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(films)
        config = parse_arguments(["-f", "run.yaml", "training.batch_size=8"]).config
        opened = open_films(config, show_bar=False)
        dataset = ClipDataset(opened.train, config, opened.readers)
        backbone, _ = build_backbone(config)
        torch.manual_seed(0)
        model = VideoBYOL(backbone, backbone.num_features, config.byol)
        target = Target(model.encoder, 0.5)
        order = np.random.default_rng((0, 0)).permutation(10)[:8]
        found = []
        for rank in range(2):
            pairs = torch.stack([dataset.drawn(Draw(k, 0, 4, 32), 2) for k in order[rank::2].tolist()], 1)
            found.append(model(*pairs, *map(target, pairs)).loss.item())
            model.alignment.centre.zero_()  # as both processes have it in their first step
        return found


def test_two_processes_have_the_mean_loss_of_their_shares_and_end_with_equal_weights(films: Path):
    words = ("training.batch_size=8", "training.num_devices=2", "--runs_dir=two")
    result = run_script(COMMAND, "-f", "run.yaml", *words, cwd=films, timeout=110, forks=True)
    assert result.returncode == 0, result.stderr
    lines = metrics_of(films / "two/run")
    assert lines[0]["train_loss"] == pytest.approx(np.mean(losses_of_shares(films)), abs=1e-5)
    assert 0 <= lines[-1]["validation_recall_at_1"] <= 1
    state = torch.load(films / "two/run/checkpoints/last.pt", weights_only=True)
    one, other = (others["target"] for others in state["others"])
    assert one["_extra_state"] == other["_extra_state"] == 2
    for name, value in one.items():
        if name.endswith(("weight", "bias")):  # of the target, which follows the online weights
            assert torch.equal(value, other[name]), name


def test_processes_that_cannot_share_a_batch_are_told(films: Path):
    from backbones.config import PretrainSettings
    from backbones.pretrain import check_batch
    from recognition.common.command_line import InputError

    fabric = type("Fabric", (), {"world_size": 2})
    for size in (2, 3, 5):
        with pytest.raises(InputError, match=f"{size} must be shared evenly by 2 processes, two or more for each"):
            check_batch(PretrainSettings(training={"batch_size": size}), 10, fabric)
    check_batch(PretrainSettings(training={"batch_size": 4}), 10, fabric)
