"""The training loop by itself: tasks other than episodes, gradients that overflow, what torch is told of processes."""

import json
import warnings
from pathlib import Path

import line_task
import pytest
import torch
from conftest import run_script
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from line_task import NUM_STEPS, Line
from safetensors.torch import load_file
from torch import Tensor, nn

from models import CONFIGS, build_model
from models.recogniser import Layout
from recognition.common.command_line import Failure, InputError
from recognition.episodes.dataset import EpisodeDataset
from recognition.training.config import DatasetConfig, RunConfig, TrainingConfig
from recognition.training.data import open_split
from recognition.training.devices import _CONSTANT_BUFFERS, precision_of
from recognition.training.episode_task import EpisodeTask
from recognition.training.loop import Loop
from recognition.training.reporting import Reporter, write_table
from recognition.training.runs import Run

CONFIG = TrainingConfig(n_epochs=1, batch_size=4, num_workers=0, device="cpu", gradient_clip=1.0)


@pytest.fixture
def episodes(small_bank: Path) -> EpisodeDataset:
    paths = {f"{split}_indices_file": str(small_bank / f"{split}_indices.h5") for split in ("train", "test")}
    return open_split(DatasetConfig(**paths, video_path=str(small_bank)), "train")


def train(fabric: Fabric, model: nn.Module, episodes: EpisodeDataset) -> dict[str, Tensor]:
    """One epoch; returns by how much each parameter moved."""
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    Loop(EpisodeTask(model, episodes, episodes, fabric, CONFIG), fabric, CONFIG).train_epoch()
    return {name: (parameter.detach() - before[name]).abs().max() for name, parameter in model.named_parameters()}


def build(episodes: EpisodeDataset) -> nn.Module:
    torch.manual_seed(0)
    settings = CONFIGS["transformer"](d_embed=8)
    return build_model("transformer", settings, Layout(episodes.bank.num_features, episodes.num_probes))


@pytest.mark.parametrize(("scale", "overflows"), [(2.0**60, True), (2.0**8, False)])
def test_float16_skips_a_step_whose_scaled_gradients_overflow_instead_of_ending(scale, overflows, episodes):
    """The scaler starts high and finds its scale by such steps, of which the first may be one."""
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    fabric = Fabric(accelerator="cpu", devices=1, plugins=MixedPrecision("16-mixed", "cpu", scaler))
    moves = train(fabric, build(episodes), episodes)
    assert all(move.isfinite() for move in moves.values())
    assert any(moves.values()) is not overflows
    num_steps = len(episodes) // CONFIG.batch_size
    assert scaler.get_scale() == (scale / 2**num_steps if overflows else scale)


class Listener(nn.Module):
    """Gives zeros, and keeps what it is given."""

    def __init__(self, num_probes: int):
        super().__init__()
        self.shift, self.heard = nn.Parameter(torch.zeros(num_probes)), []

    def forward(self, features: Tensor, *_: None) -> Tensor:
        self.heard.append(features)
        return self.shift.expand(len(features), -1)


@pytest.mark.parametrize("precision", [32, "bf16"])
def test_features_come_to_the_model_as_they_are_stored(precision, episodes):
    """Fabric rounds what a model is given to bfloat16, which has 3 bits less."""
    model = Listener(episodes.num_probes)
    train(Fabric(accelerator="cpu", devices=1, plugins=precision_of(precision, "cpu")), model, episodes)
    assert {features.dtype for features in model.heard} == {episodes.bank.dtype} == {torch.float16}


class Steep(nn.Module):
    """Gives what it is given; its gradient is infinite."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.shift = model, nn.Parameter(torch.zeros(()))

    def forward(self, features: Tensor, *_: None) -> Tensor:
        return self.model(features) + self.shift.sqrt()


def test_gradients_that_are_not_finite_are_told_with_their_step_before_they_spoil_weights(episodes):
    model = Steep(build(episodes))
    with pytest.raises(Failure, match=r"step 1: the loss is 0\.\d+, but the norm of its gradients inf"):
        train(Fabric(accelerator="cpu", devices=1), model, episodes)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_torch_has_nothing_to_say_of_how_buffers_are_kept(tmp_path: Path):
    """It warned in each process of every run."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model = nn.parallel.DistributedDataParallel(nn.BatchNorm1d(3), **_CONSTANT_BUFFERS)
        assert not model.will_sync_module_buffers()
    finally:
        torch.distributed.destroy_process_group()


@pytest.fixture
def fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1)


def without_seconds(metrics: list[dict]) -> list[dict]:
    return [{name: value for name, value in line.items() if name != "seconds"} for line in metrics]


def test_any_task_is_trained_and_told_in_its_own_words(fabric: Fabric, tmp_path: Path):
    first, *_, last = metrics = line_task.train(fabric, tmp_path, [])
    names = {"train_distance", "train_pull", "validation_slope", "validation_draw"}
    assert first.keys() == {"epoch", "step", "learning_rate", "seconds", *names}
    assert [line["step"] for line in metrics] == [2, 5, 6]  # epochs of unequal length
    # The rate of the last step of each epoch, as the task has it.
    assert [line["learning_rate"] for line in metrics] == [0.1 * (1 - step / 6) for step in (1, 4, 5)]
    assert last["train_distance"] < first["train_distance"]
    assert abs(last["validation_slope"] - 3) < abs(first["validation_slope"] - 3)


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_best_weights_are_those_the_task_finds_best(epoch: int, fabric: Fabric, tmp_path: Path):
    slopes = [line["validation_slope"] for line in line_task.train(fabric, tmp_path / "any", [])]
    line_task.train(fabric, tmp_path / "run", [], wanted=slopes[epoch])
    assert load_file(Run(tmp_path / "run").best_file)["weight"].item() == slopes[epoch]


@pytest.mark.parametrize("stops", [*([step] for step in range(sum(NUM_STEPS))), list(range(sum(NUM_STEPS)))])
def test_task_stopped_after_any_step_goes_on_to_the_last_bit(stops: list[int], fabric: Fabric, tmp_path: Path):
    """Also what it has beside its model: an average of its weights, a memory that grows."""
    whole, stopped = (
        line_task.train(fabric, tmp_path / name, which) for name, which in (("whole", []), ("run", stops))
    )
    assert without_seconds(whole) == without_seconds(stopped)
    one, other = (Run(tmp_path / name) for name in ("whole", "run"))
    assert one.best_file.read_bytes() == other.best_file.read_bytes()
    states = one.load_last(), other.load_last()
    assert {name for name, module in states[0]["others"][0].items() if module} == {"average", "memory"}
    torch.testing.assert_close(*states, rtol=0, atol=0)


def test_two_processes_stopped_go_on_each_with_what_it_had(tmp_path: Path):
    """The second one's memory is of its own points, and no other process has them."""
    result = run_script("tests/line_task.py", tmp_path, cwd=tmp_path, timeout=120, forks=True)
    assert result.returncode == 0, result.stderr
    told = json.loads((tmp_path / "metrics.json").read_text())
    assert without_seconds(told["whole"]) == without_seconds(told["stopped"])
    states = [Run(tmp_path / name).load_last() for name in told]
    torch.testing.assert_close(*states, rtol=0, atol=0)
    one, two = (others["memory"]["_extra_state"] for others in states[0]["others"])
    assert not torch.equal(one, two)


def test_each_process_finds_what_it_had_or_training_ends_in_a_line(fabric: Fabric, tmp_path: Path):
    line_task.train(fabric, tmp_path, [])
    run = Run(tmp_path)
    state = run.load_last()
    run.save_last(state | {"others": state["others"] * 2})
    with pytest.raises(InputError, match="was trained by 2 processes, not 1; use as many"):
        Loop(Line(fabric), fabric, line_task.CONFIG, run).restore()


def test_loss_of_any_task_that_is_not_finite_is_told_with_its_step(fabric: Fabric, tmp_path: Path):
    with pytest.raises(Failure, match="step 4: the loss is inf"):
        line_task.train(fabric, tmp_path, [], infinite_at=3)
    assert Run(tmp_path).load_last()["progress"]["epoch"] == 1


def test_task_that_gives_fewer_batches_than_it_has_said_is_wrong(fabric: Fabric, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Line, "batches", lambda self, epoch, first, is_stop_asked: iter([torch.ones(2, 1)]))
    with pytest.raises(AssertionError, match="1 batches, where the task has said 2"):
        Loop(Line(fabric), fabric, line_task.CONFIG, show_bar=False).train_epoch()


def test_checkpoint_from_before_there_were_other_tasks_is_gone_on_with(
    fabric: Fabric, episodes: EpisodeDataset, tmp_path: Path
):
    """It has the sums of an epoch under way as a list."""
    config = CONFIG.model_copy(update={"n_epochs": 2})
    (tmp_path / "checkpoints").mkdir()

    def loop() -> Loop:
        return Loop(EpisodeTask(build(episodes), episodes, episodes, fabric, config), fabric, config, run, False)

    run, whole, stopped = Run(tmp_path), [], []
    loop().fit(whole.append)
    first = loop()
    first.train_epoch()  # up to the checkpoint before validation
    state = run.load_last()
    state["progress"]["totals"] = [state["progress"]["totals"][name] for name in ("loss", "accuracy", "count")]
    run.save_last(state)
    again = loop()
    again.restore()
    again.fit(stopped.append)
    assert without_seconds(whole) == without_seconds(stopped)


EPOCHS = [
    {"epoch": 1, "step": 2, "learning_rate": 0.5, "train_a": 1.0, "validation_b": 2.0, "seconds": 3.0},
    {"epoch": 2, "step": 4, "learning_rate": 0.5, "train_a": 0.5, "train_c": 1.5, "validation_d": 2, "seconds": 3.0},
]
EPISODES = {"train_loss": 0.7, "train_accuracy": 0.5, "validation_loss": 0.6, "validation_accuracy": 0.75}


def test_logfile_has_the_columns_of_the_task_and_those_of_the_published_study_for_episodes(tmp_path: Path):
    write_table(tmp_path / "log", EPOCHS)
    assert (tmp_path / "log").read_text().splitlines() == [
        "epoch train_a train_c validation_b validation_d",
        "1 1.0 nan 2.0 nan",
        "2 0.5 1.5 nan 2",
    ]
    write_table(tmp_path / "log", [{"epoch": 1, "step": 2, "learning_rate": 0.1, **EPISODES, "seconds": 1.0}])
    assert (tmp_path / "log").read_text().splitlines() == [
        "epoch train_loss train_accuracy validation_loss validation_accuracy",
        "1 0.7 0.5 0.6 0.75",
    ]


def test_an_epoch_is_told_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = RunConfig(model={"model": "lstm"}, training={"n_epochs": 9})
    reporter = Reporter(Run(tmp_path), config, config.training.n_epochs)
    reporter.report({"epoch": 1, "step": 2, "learning_rate": 0.1, **EPISODES, "seconds": 1.25})
    reporter.report(EPOCHS[1])
    assert capsys.readouterr().out.splitlines() == [
        "epoch 1/9: training loss 0.7000, accuracy 0.5000; validation loss 0.6000, accuracy 0.7500; 1.2 s",
        "epoch 2/9: training a 0.5000, c 1.5000; validation d 2.0000; 3.0 s",
    ]
