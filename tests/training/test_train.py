"""Training: equal seeds, resuming, scores, refusals; in this process where that will do, else as a user runs it."""

import json
import math
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import (
    ROOT,
    assert_same_run,
    config_text,
    kill_at_random,
    metrics_of,
    refusal,
    run_here,
    run_script,
    write_features,
)
from forking import Forked
from safetensors.torch import load_file

from models import MODELS
from recognition.common.command_line import Failure, InputError
from recognition.training.optimizer import learning_rate


@pytest.mark.parametrize("model", MODELS)
def test_every_model_trains_and_leaves_a_whole_run(model: str, train_here: Callable, small_bank: Path):
    run = train_here(text=config_text(small_bank, model, "{d_embed: 32}"))
    assert [line["epoch"] for line in metrics_of(run)] == [1, 2, 3]
    assert [line["step"] for line in metrics_of(run)] == [6, 12, 18]
    assert set(metrics_of(run)[0]) == {
        *("epoch", "step", "learning_rate", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy")
    }
    assert json.loads((run / "test.json").read_text()).keys() == {"test_loss", "test_accuracy"}
    environment = json.loads((run / "environment.json").read_text())
    assert environment["packages"]["torch"] == version("torch")
    assert {"device", "git_revision", "python"} <= environment.keys()


def test_training_learns_the_task_on_films_it_has_not_seen(train_here: Callable, tmp_path: Path):
    """Old probes are shown frames of features without structure: only remembering them helps."""
    bank = write_features(tmp_path / "bank", [80] * 12)
    words = "--n_clips=2 --clip_length=6 --clip_margin=3 --n_tests=4 --subsample=1 --validation_set_fraction=0.25"
    numbers = "--n_samples_train=256 --n_samples_validation=64 --n_samples_test=64"
    folders = f"--input_dir={bank} --output_dir={bank}"
    assert run_here("generate_dataset.py", *f"{words} {numbers} {folders}".split(), cwd=tmp_path).returncode == 0
    text = config_text(bank, args="{d_embed: 32}", n_epochs=12, batch_size=16, learning_rate=5e-3)
    run = train_here(text=text)
    assert json.loads((run / "test.json").read_text())["test_accuracy"] > 0.9


def test_equal_seeds_give_identical_runs_and_other_seeds_others(train_here: Callable):
    assert_same_run(train_here(name="one"), train_here(name="two"))
    assert metrics_of(train_here("training.seed=1", name="three")) != metrics_of(train_here(name="four"))


def test_workers_that_gather_episodes_change_nothing(train_here: Callable):
    assert_same_run(train_here(name="one"), train_here("training.num_workers=2", name="two"))


def test_fresh_episodes_begin_with_the_fixed_ones(train_here: Callable):
    fresh, fixed = train_here(name="fresh"), train_here("dataset.fresh_episodes=false", name="fixed")
    assert metrics_of(fresh)[0] == metrics_of(fixed)[0]
    assert metrics_of(fresh)[1] != metrics_of(fixed)[1]


@pytest.mark.parametrize("num_lines", [1, 2])
def test_resumed_run_equals_uninterrupted_run(num_lines: int, train_here: Callable, small_bank: Path, tmp_path: Path):
    """Killed as soon as an epoch is told, so before, while or after its checkpoint is written."""
    whole = train_here(name="whole")
    (tmp_path / "killed.yaml").write_text(config_text(small_bank))
    command = ["train.py", "-f", "killed.yaml", "--resume"]
    process = Forked(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    told = tmp_path / "runs/killed/metrics.jsonl"
    while process.poll() is None and not (told.exists() and told.read_text().count("\n") >= num_lines):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "runs/killed/test.json").exists()
    assert_same_run(whole, train_here("--resume", name="killed"))


def test_kills_at_random_moments_leave_the_same_run(train_here: Callable, small_bank: Path, tmp_path: Path):
    whole = train_here(name="whole")
    (tmp_path / "killed.yaml").write_text(config_text(small_bank))
    command = "train.py", "-f", "killed.yaml", "--resume"
    kill_at_random(command, tmp_path, num_kills=3, longest_s=0.5, once_it_speaks=True)
    assert_same_run(whole, train_here("--resume", name="killed"))


def test_resuming_a_finished_run_changes_nothing(train_here: Callable, small_bank: Path, tmp_path: Path):
    text = config_text(small_bank, "lstm", "{d_embed: 8, forget_bias_range: [0, 3]}")
    run = train_here(text=text, name="one")
    shutil.copytree(run, tmp_path / "before")
    train_here("--resume", text=text, name="one")
    assert_same_run(run, tmp_path / "before")


def test_run_from_before_a_setting_existed_is_resumed_with_its_default(train_here: Callable, tmp_path: Path):
    run = train_here(name="one")
    text = (run / "config.yaml").read_text()
    assert "    key_value_slots: 0\n" in text
    (run / "config.yaml").write_text(text.replace("    key_value_slots: 0\n", ""))
    shutil.copytree(run, tmp_path / "before")
    train_here("--resume", name="one")
    assert_same_run(run, tmp_path / "before")


def test_gates_span_the_clips_of_the_episodes_and_a_number_that_contradicts_them_is_refused(
    train_here: Callable, small_bank: Path, tmp_path: Path
):
    args = "{d_embed: 8, layers: [temporal_gate, transformer], temporal_gate: {fuse: product}}"
    text = config_text(small_bank, "mixed", args, n_epochs=1)
    key = "model.args.temporal_gate.clip_frames"
    assert_same_run(train_here(text=text, name="taken"), train_here(f"{key}=5", text=text, name="given"))
    told = rf"{key}: 4, but clips of .*train_indices\.h5 show 5 frames; leave it out"
    with pytest.raises(InputError, match=told):
        train_here(f"{key}=4", text=text, name="wrong")
    alone = config_text(small_bank, "temporal_gate", "{d_embed: 8, clip_frames: 4}")
    with pytest.raises(InputError, match=r"^model\.args\.clip_frames: 4, but"):
        train_here(text=alone, name="wrong")
    assert not (tmp_path / "runs/wrong").exists()
    # A run that was started with another number, before that was refused, can still be ended.
    config = tmp_path / "runs/given/config.yaml"
    config.write_text(config.read_text().replace("clip_frames: 5", "clip_frames: 4"))
    (tmp_path / "runs/given/test.json").unlink()
    train_here(f"{key}=4", "--resume", text=text, name="given")
    assert (tmp_path / "runs/given/test.json").exists()


def moved_places(bank: Path) -> list[str]:
    files = [f"dataset.{split}_indices_file={bank / f'{split}_indices.h5'}" for split in ("train", "test")]
    return [*files, f"dataset.video_path={bank}"]


def test_run_goes_on_with_its_data_under_another_path(train_here: Callable, small_bank: Path, tmp_path: Path):
    whole = train_here(name="whole")
    bank = shutil.copytree(small_bank, tmp_path / "bank")
    run = train_here(name="moved", text=config_text(bank))
    (run / "test.json").unlink()
    shutil.rmtree(run / "checkpoints")  # as if it had been stopped before its first one
    bank.rename(tmp_path / "elsewhere")
    (tmp_path / "linked").symlink_to(tmp_path / "elsewhere")
    train_here("--resume", *moved_places(tmp_path / "linked"), name="moved", text=config_text(bank))
    assert_same_run(whole, run)
    assert f"video_path: {tmp_path}/linked\n" in (run / "config.yaml").read_text()


def test_finished_run_is_told_where_its_data_is_but_takes_no_other(
    train_here: Callable, small_bank: Path, tmp_path: Path
):
    run = train_here()
    elsewhere = shutil.copytree(small_bank, tmp_path / "elsewhere")
    train_here("--resume", *moved_places(elsewhere))
    config = (run / "config.yaml").read_text()
    assert str(small_bank) not in config
    shutil.copy(elsewhere / "train_indices.h5", elsewhere / "other_indices.h5")
    with h5py.File(elsewhere / "other_indices.h5", "r+") as file:
        file.attrs["seed"] = 77
    with pytest.raises(InputError, match=r"other_indices\.h5 has changed since .*runs/run was trained on its episodes"):
        train_here("--resume", f"dataset.train_indices_file={elsewhere}/other_indices.h5")
    with pytest.raises(InputError, match=r"test_indices_file: .*absent\.h5.*: no such file"):
        train_here("--resume", f"dataset.test_indices_file={elsewhere}/absent.h5")
    assert (run / "config.yaml").read_text() == config


def test_run_from_before_digests_were_kept_knows_its_data_by_path(
    train_here: Callable, small_bank: Path, tmp_path: Path
):
    run = train_here()
    (run / "environment.json").write_text("{}")
    elsewhere = shutil.copytree(small_bank, tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"was started with dataset\.train_indices_file = "):
        train_here("--resume", *moved_places(elsewhere))


def test_weights_to_start_from_may_move_but_not_change(train_here: Callable, tmp_path: Path):
    weights = tmp_path / "weights.pt"
    train_here("model.save=true", f"model.save_path={weights}", name="first")
    run = train_here("model.load=true", f"model.load_path={weights}", name="second")
    (run / "test.json").unlink()
    weights.rename(tmp_path / "moved.pt")
    again = "model.load=true", f"model.load_path={tmp_path}/moved.pt", "--resume"
    train_here(*again, name="second")
    assert (run / "test.json").exists()
    (tmp_path / "moved.pt").write_bytes(b"other weights")
    (run / "test.json").unlink()
    with pytest.raises(InputError, match=r"moved\.pt has changed since .*second was trained from its weights"):
        train_here(*again, name="second")


def test_best_weights_are_those_of_the_best_validation_epoch(train_here: Callable):
    run = train_here("training.learning_rate=0.5")
    best = max(metrics_of(run), key=lambda line: (line["validation_accuracy"], -line["validation_loss"]))
    state = torch.load(run / "checkpoints/last.pt", weights_only=True)
    assert state["progress"]["best"] == [best["validation_accuracy"], -best["validation_loss"]]
    is_last = best["epoch"] == 3
    weights = load_file(run / "checkpoints/best.safetensors")
    assert is_last == all(torch.equal(weights[name], state["model"][name]) for name in weights)


def test_resolved_config_gives_the_same_run_again(train_here: Callable):
    run = train_here("training.learning_rate=2e-3", name="one")
    again = train_here(text=(run / "config.yaml").read_text().replace("name: one", "name: two"), name="two")
    assert_same_run(run, again)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("cosine", [0.25, 0.5, 0.75, 1.0, 1.0, 0.8535534, 0.5, 0.1464466]),
    ],
)
def test_learning_rate_follows_the_listed_values(schedule: str, rates: list[float]):
    assert [learning_rate(step, 8, 1.0, 4, schedule) for step in range(8)] == pytest.approx(rates)


def test_the_optimiser_moves_at_the_scheduled_rate(train_here: Callable):
    run = train_here("training.schedule=cosine", "training.warmup_steps=2", "training.learning_rate=0.01")
    expected = [0.01 * 0.5 * (1 + math.cos(math.pi * (step - 2) / 16)) for step in (5, 11, 17)]
    assert [line["learning_rate"] for line in metrics_of(run)] == pytest.approx(expected)


def test_weights_move_less_when_gradients_are_clipped(train_here: Callable):
    """AdamW forgets the scale of gradients, so a clip shows in its second moments."""
    runs = train_here(name="free"), train_here("training.gradient_clip=1e-3", name="clipped")
    free, clipped = (torch.load(run / "checkpoints/last.pt", weights_only=True)["optimizer"]["state"] for run in runs)
    assert clipped[0]["exp_avg_sq"].sum() < 1e-5 < free[0]["exp_avg_sq"].sum()


def test_a_loss_that_is_not_finite_stops_with_its_step(train_here: Callable, small_bank: Path, tmp_path: Path):
    bank = tmp_path / "bank"
    shutil.copytree(small_bank, bank)
    for path in bank.glob("film_*.h5"):
        with h5py.File(path, "r+") as file:
            file["features"][:] = np.nan
    with pytest.raises(Failure, match="step 1: the loss is nan"):
        train_here(text=config_text(bank))
    assert not (tmp_path / "runs/run/checkpoints/best.safetensors").exists()


def test_training_starts_from_given_weights(train_here: Callable, tmp_path: Path):
    weights = tmp_path / "weights.pt"
    train_here("model.save=true", f"model.save_path={weights}", name="first")
    still = ("model.load=true", f"model.load_path={weights}", "training.learning_rate=1e-30")
    run = train_here(*still, name="second")
    torch.testing.assert_close(
        load_file(run / "checkpoints/best.safetensors"), dict(torch.load(weights, weights_only=True))
    )


def test_logfile_has_a_line_for_every_epoch(train_here: Callable, tmp_path: Path):
    run = train_here(f"logging.logfile={tmp_path}/log/run.log")
    header, *lines = (tmp_path / "log/run.log").read_text().splitlines()
    assert header.split()[:2] == ["epoch", "train_loss"]
    assert [float(line.split()[1]) for line in lines] == [line["train_loss"] for line in metrics_of(run)]


@pytest.mark.parametrize("by_torchrun", [False, True])
def test_two_processes_train_like_one(by_torchrun: bool, train_here: Callable, small_bank: Path, tmp_path: Path):
    one = train_here(text=config_text(small_bank, args="{d_embed: 8}"), name="one")
    num_devices = 1 if by_torchrun else 2  # torchrun's number counts
    (tmp_path / "two.yaml").write_text(config_text(small_bank, args="{d_embed: 8}", num_devices=num_devices))
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node=2"] if by_torchrun else []
    # As in a job of SLURM that has one task: what is set for that says nothing of the processes.
    slurm = {"SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    environment = {**os.environ, **slurm, "SLURM_NODEID": "0", "PYTHONPATH": str(tmp_path)}
    # Python reads this at its start, so what it registers comes last of all.
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, sys\n"
        "atexit.register(lambda: 'torch.distributed' in sys.modules and sys.modules['torch.distributed']"
        ".is_initialized() and print('still connected'))\n"
    )
    result = run_script(*launcher, ROOT / "train.py", "-f", "two.yaml", cwd=tmp_path, env=environment, forks=True)
    assert result.returncode == 0, result.stderr
    assert "still connected" not in result.stdout  # gloo's threads would now and then abort a process that ends
    assert "features memory-mapped; 2 x cpu" in result.stdout  # so the machine has them in memory once
    for line, other in zip(metrics_of(one), metrics_of(tmp_path / "runs/two"), strict=True):
        assert line == pytest.approx(other, abs=1e-6)


def test_published_data_set_trains_and_keeps_some_training_episodes_for_validation(
    train_here: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
):
    rng = np.random.default_rng(0)
    for k in range(3):
        torch.save(torch.randn(50, 12), tmp_path / f"film {k}.pt")
    for split, num in (("train", 32), ("test", 8)):
        clips = np.stack([(start := rng.integers(0, 40, (num, 2))), start + 9, rng.integers(0, 3, (num, 2))], -1)
        frames = rng.integers(0, 50, (num, 4))
        probes = np.stack([frames, frames + 1, rng.integers(0, 3, (num, 4)), np.tile([0, 1, 1, 0], (num, 1))], -1)
        rows = np.concatenate([np.insert(clips, 3, -1, axis=2), probes], 1).astype(np.int64)
        titles = np.array([f"film {k}.mp4" for k in range(3)])
        np.savez(tmp_path / f"{split}_indices.npz", clips=rows, titles=titles)
    text = config_text(tmp_path).replace(".h5", ".npz").replace("fresh_episodes: true", "subsample: 3")
    run = train_here(text=text)
    assert "30 training, 2 validation, 8 test episodes" in capsys.readouterr().out
    assert len(metrics_of(run)) == 3


def test_wandb_is_used_exactly_when_asked_for(small_bank: Path, tmp_path: Path):
    """Offline, since there is no network; a run that does not ask for it must not even import it."""
    (tmp_path / "run.yaml").write_text(config_text(small_bank))
    code = f"import sys; sys.argv = {['train.py', '-f', 'run.yaml']!r}; import train; train.main()"
    silent = run_script("-c", f"{code}; assert 'wandb' not in sys.modules", cwd=tmp_path)
    assert silent.returncode == 0, silent.stderr
    assert not (tmp_path / "wandb").exists()
    environment = {**os.environ, "WANDB_MODE": "offline", "HOME": str(tmp_path)}
    words = ("-f", "run.yaml", "logging.wandb=true", "name=told")
    told = run_script("train.py", *words, cwd=tmp_path, env=environment)
    assert told.returncode == 0, told.stderr
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert metrics_of(tmp_path / "runs/told") == metrics_of(tmp_path / "runs/run")


def test_wandb_without_a_key_says_how_to_go_on(small_bank: Path, tmp_path: Path):
    (tmp_path / "run.yaml").write_text(config_text(small_bank))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    result = run_script(
        *("train.py", "-f", "run.yaml", "logging.wandb=true"), cwd=tmp_path, env={**environment, "HOME": str(tmp_path)}
    )
    assert result.returncode == 2
    assert "WANDB_MODE=offline" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["training.learning_rat=1"], "training.learning_rat: unknown key; did you mean 'learning_rate'?"),
        (["dataset.train_indices_file=absent.h5"], "absent.h5: no such index file"),
        (["dataset.video_path=absent"], "run preprocess_videos.py or set dataset.video_path"),
        (["model.load=true", "model.load_path=absent.pt"], "model.load_path: 'absent.pt': no such file"),
        (["training.device=cuda"], "training.device"),
        (["training.precision=16"], "training.precision"),
    ],
)
def test_bad_input_ends_before_anything_is_written(
    words: list[str], message: str, train_here: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if words == ["training.device=cuda"] and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(InputError) as error:
        train_here(*words)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "runs").exists()


def test_a_run_is_never_overwritten_or_mixed_with_another(train_here: Callable, tmp_path: Path):
    run = train_here()
    before = metrics_of(run)
    with pytest.raises(InputError, match="exists: go on with it by --resume"):
        train_here()
    with pytest.raises(InputError, match=r"was started with training\.learning_rate = 0\.001, now it is 0\.1"):
        train_here("--resume", "training.learning_rate=0.1")
    assert metrics_of(run) == before


def test_mistakes_on_the_command_line_are_told_in_one_line(small_bank: Path, tmp_path: Path):
    (tmp_path / "run.yaml").write_text(config_text(small_bank) + "modle: 1\n")
    assert "modle: unknown key; did you mean 'model'?" in refusal(
        run_script("train.py", "-f", "run.yaml", cwd=tmp_path)
    )
    assert "absent.yaml" in refusal(run_script("train.py", "-f", "absent.yaml", cwd=tmp_path))
    assert "--resume" in refusal(run_script("train.py", "-f", "run.yaml", "--resum", cwd=tmp_path))
    assert "-f/--config-file" in refusal(run_script("train.py", cwd=tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.yaml"]


def test_help_teaches_the_keys(tmp_path: Path):
    result = run_script("train.py", "--help", cwd=tmp_path)
    assert result.returncode == 0
    assert "training.learning_rate" in result.stdout
    assert "config-files/transformer.yaml" in result.stdout
