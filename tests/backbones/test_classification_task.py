"""Training with labels: the same run however it is read and wherever it is stopped, at the rates that were told."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from labelled_films import classifier, held_films, loop_of, one_device, settings, trained

from backbones import testing
from backbones.answers import Answers
from backbones.classification_task import count_right, score
from backbones.dataset import ClipDataset, Draw
from backbones.multigrid import num_epochs, phase_of, schedule, step_shapes
from backbones.tasks import make_task
from models.split_batch_norm import SplitBatchNorm3d
from recognition.common.command_line import InputError
from recognition.training.runs import Run

MULTIGRID = {
    "clip": {"frames": 8},
    "multigrid": {"long": True, "short": True, "epoch_factor": 1.0, "bn_clips": 2, "precise_batches": 2},
    "training": {"batch_size": 2, "schedule": "steps", "rate_steps": [2], "n_epochs": 3, "warmup_epochs": 2.0},
}  # three phases of 1, 3 and 8 steps, of forty films


def assert_equal_runs(one: tuple, other: tuple) -> None:
    assert one[0] == other[0]  # metrics
    torch.testing.assert_close(one[1:], other[1:], rtol=0, atol=0)


def test_equal_seeds_give_equal_runs_and_others_do_not(tmp_path: Path):
    films = held_films()
    one, same = (trained(settings(), films, tmp_path / name) for name in ("one", "same"))
    assert_equal_runs(one, same)
    other = trained(settings(training={"seed": 1, "n_epochs": 1}), films, tmp_path / "other")
    assert one[0][0] != other[0][0]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_run_stopped_after_any_step_and_gone_on_with_is_the_same_to_the_last_bit(num_workers: int, tmp_path: Path):
    films = held_films()
    sections = {"classifier": {"mixing": True, "dropout": 0.3, "norms": "precise"}, "multigrid": {"precise_batches": 1}}
    whole = trained(settings(**sections), films, tmp_path / "whole")
    stops = list(range(6)) if not num_workers else [1, 2, 4]
    stopped = trained(settings(**sections, data={"workers": num_workers}), films, tmp_path / "stopped", stops)
    assert [line["step"] for line in whole[0]] == [3, 6]
    assert_equal_runs(whole, stopped)


@pytest.fixture(scope="module")
def whole_multigrid(tmp_path_factory: pytest.TempPathFactory) -> tuple:
    return trained(settings(**MULTIGRID), held_films(40), tmp_path_factory.mktemp("multigrid") / "whole")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_multigrid_run_stopped_and_gone_on_with_is_the_same_to_the_last_bit(
    num_workers: int, whole_multigrid: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("backbones.tasks.try_shapes", lambda *_: None)  # what it does must not be seen
    config = settings(**MULTIGRID, data={"workers": num_workers})
    stopped = trained(config, held_films(40), tmp_path / "stopped", [0, 2, 7])
    assert_equal_runs(whole_multigrid, stopped)


def test_rates_of_a_multigrid_run_are_those_of_its_phases(whole_multigrid: tuple):
    config = settings(**MULTIGRID)
    phases = schedule(config.multigrid, config.training, config.clip)
    ends = np.cumsum([len(step_shapes(40, phase)) for phase in phases])
    assert len(phases) == 3
    assert [line["step"] for line in whole_multigrid[0]] == ends.tolist()
    rates = [phases[0].rate / ends[1], phases[1].rate, phases[2].rate]  # the second epoch ends the warm-up
    assert [line["learning_rate"] for line in whole_multigrid[0]] == pytest.approx(rates)


def test_multigrid_splits_norms_by_the_phase_and_draws_its_shapes():
    films, config = held_films(40), settings(**MULTIGRID)
    loop = loop_of(config, films)
    task = loop.task
    norms = [module for module in task.model.modules() if isinstance(module, SplitBatchNorm3d)]
    assert norms
    for epoch, phase in enumerate(task.phases):
        batches = list(task.batches(epoch, 0, lambda: False))
        wanted = [(shape.clips, shape.frames, 3, shape.side, shape.side) for shape in step_shapes(40, phase)]
        assert [tuple(batch.clips.shape) for batch in batches] == wanted
        assert {norm.num_splits for norm in norms} == {phase.clips // 2}


@pytest.mark.parametrize("sections", [{}, MULTIGRID], ids=["plain", "multigrid"])
def test_every_clip_is_seen_once_an_epoch_but_for_the_rest_that_fills_no_batch(sections: dict):
    films, config = held_films(41), settings(**sections)
    phases = schedule(config.multigrid, config.training, config.clip)
    task = loop_of(config, films).task
    drawn: list[Draw] = []
    real = task.train_set.drawn
    task.train_set.drawn = lambda draw: (drawn.append(draw), real(draw))[1]
    for epoch in range(num_epochs(phases)):
        drawn.clear()
        labels = torch.cat([batch.label for batch in task.batches(epoch, 0, lambda: False)])
        items = [draw.item for draw in drawn]
        num = sum(shape.clips for shape in step_shapes(41, phase_of(phases, epoch)))
        assert len(items) == len(set(items)) == num
        assert 41 - num < phase_of(phases, epoch).shapes[0].clips
        assert labels.tolist() == [films.train[item].label for item in items]


def test_two_processes_share_each_batch_evenly():
    class Two:
        world_size, global_rank, is_global_zero = 2, 0, True
        device = torch.device("cpu")

    films, config = held_films(), settings()
    model, loaded = classifier(config, films)
    whole = list(make_task(model, films, one_device(), config, loaded)[0].batches(1, 0, lambda: False))
    shares = []
    for rank in (0, 1):
        fabric = Two()
        fabric.global_rank = rank
        task, _ = make_task(model, films, fabric, config, loaded)
        shares.append(list(task.batches(1, 0, lambda: False)))
    for batch, one, other in zip(whole, *shares, strict=True):
        assert torch.equal(batch.clips[::2], one.clips)
        assert torch.equal(batch.clips[1::2], other.clips)
        assert torch.equal(batch.label[1::2], other.label)


def test_validation_weighs_clips_alike_whatever_the_sizes_of_its_batches():
    films, fabric = held_films(num_validation=7), one_device()
    config = settings()
    model, _ = classifier(config, films)
    torch.nn.init.normal_(model.head.weight)
    found = []
    for size in (1, 3, 7):
        sized = settings(test={"batch_size": size})
        found.append(score(fabric, model, ClipDataset(films.validation, sized, films.readers), sized))
    clips = torch.cat([ClipDataset(films.validation, config, films.readers).middle(k) for k in range(7)])
    label = torch.tensor([item.label for item in films.validation])
    with torch.no_grad():
        logits = model.eval()(clips)
    wanted = (F.cross_entropy(logits, label).item(), (logits.argmax(1) == label).double().mean().item(), 1.0)
    for scores in found:
        assert scores == pytest.approx(wanted, rel=1e-5)


def test_top_5_of_three_classes_is_1():
    logits, label = torch.randn(50, 3), torch.randint(0, 3, (50,))
    right = {name: number.item() for name, number in count_right(logits, label).items()}
    assert right == {"top1": (logits.argmax(1) == label).sum().item(), "top5": 50, "count": 50}
    many = torch.randn(50, 9)
    wanted = sum(label[k].item() in many[k].argsort(descending=True)[:5].tolist() for k in range(50))
    assert count_right(many, label)["top5"] == wanted


def test_training_tells_means_over_the_clips_that_it_has_seen():
    films, config = held_films(), settings(classifier={"label_smoothing": 0.1})
    loop = loop_of(config, films)
    losses, right = [], []
    real = loop.task.loss

    def loss(model, batch, step):
        found = real(model, batch, step)
        losses.append(found[0].item())
        right.append(found[1]["top1"].item())
        return found

    loop.task.loss = loss
    metrics = loop.train_epoch()
    assert metrics["train_loss"] == pytest.approx(np.mean(losses))
    assert metrics["train_top1"] == sum(right) / 12
    assert metrics["train_top5"] == 1


@pytest.mark.parametrize(("norms", "moves"), [("frozen", False), ("adapt", True), ("precise", True)])
def test_linear_training_leaves_all_weights_and_frozen_norms_their_statistics(norms: str, moves: bool):
    films, config = (
        held_films(),
        settings(classifier={"train": "linear", "norms": norms}, network={"weights": "random:1"}),
    )
    loop = loop_of(config, films)
    backbone = loop.task.model.backbone
    before = {name: x.clone() for name, x in backbone.state_dict().items()}
    loop.fit(lambda metrics: None)
    changed = {name for name, x in backbone.state_dict().items() if not torch.equal(x, before[name])}
    assert bool(changed) == moves
    assert all(name.rpartition(".")[2].startswith(("running_", "num_batches")) for name in changed)


def test_validation_changes_nothing_where_no_statistics_are_measured():
    films, config = held_films(), settings()
    loop = loop_of(config, films)
    loop.train_epoch()
    state = {name: x.clone() for name, x in loop.task.model.state_dict().items()}
    found = [loop.task.validate(loop.model, 0) for _ in range(2)]
    assert found[0] == found[1]
    torch.testing.assert_close(dict(loop.task.model.state_dict()), state, rtol=0, atol=0)


def test_precise_statistics_are_of_clips_of_the_full_shape_and_weights_stay():
    films, config = held_films(), settings(classifier={"norms": "precise"}, multigrid={"precise_batches": 2})
    loop = loop_of(config, films)
    loop.train_epoch()
    before = {name: x.clone() for name, x in loop.task.model.state_dict().items()}
    loop.task.validate(loop.model, 0)
    after = loop.task.model.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed
    assert all("running_" in name or "num_batches" in name for name in changed)
    stem = loop.task.model.backbone.network.stem
    draws = [Draw(int(item), 1_000_000, 4, 32) for item in np.random.default_rng((0, 0)).permutation(14)[:8]]
    clips = torch.cat([loop.task.train_set.drawn(draw) for draw in draws])
    x = (clips.transpose(1, 2).float() - loop.task.model.backbone.mean) / loop.task.model.backbone.deviation
    with torch.no_grad():
        y = stem[0](x)
    means = torch.stack([part.mean((0, 2, 3, 4)) for part in y.split(4)])
    torch.testing.assert_close(after["backbone.network.stem.1.running_mean"], means.mean(0), rtol=1e-3, atol=1e-4)


def test_without_validation_films_the_last_epoch_is_the_best(tmp_path: Path):
    films, config = held_films(num_validation=0), settings()
    metrics, state, best = trained(config, films, tmp_path / "run")
    assert not any(name.startswith("validation") for name in metrics[-1])
    torch.testing.assert_close(best, dict(state["model"]), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        (
            {"training": {"batch_size": 1}},
            r"^training\.batch_size: 1 leaves a process one clip, of which norms learn",
        ),
        (
            {"training": {"batch_size": 15}},
            r"^training\.batch_size: 15, but there are 14 items to train on; set a",
        ),
        (MULTIGRID, r"^training\.batch_size: 2, 16 times as many in the smallest shape of multigrid, but there are 14"),
    ],
)
def test_batches_that_cannot_be_are_refused(sections: dict, told: str):
    with pytest.raises(InputError, match=told) as error:
        loop_of(settings(**sections), held_films())
    assert "\n" not in str(error.value)


def test_frozen_norms_allow_batches_of_one_clip():
    loop_of(settings(training={"batch_size": 1}, classifier={"norms": "frozen"}), held_films()).train_epoch()


def test_testing_changes_nothing_of_the_network_and_gives_the_same_every_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("backbones.testing.write_report", lambda *_: None)
    films, config = held_films(), settings(network={"temporal_gates": {"fuse": "residual"}}, test={"crops": 3})
    model, _ = classifier(config, films)
    state = {name: x.clone() for name, x in model.state_dict().items()}
    told = [testing.test(one_device(), model.train(), films, config, Run(tmp_path)) for _ in range(2)]
    assert told[0] == told[1]
    torch.testing.assert_close(dict(model.state_dict()), state, rtol=0, atol=0)
    assert told[0]["gates"]
    views = torch.cat([ClipDataset(films.test, config, films.readers).views(k, 2, 3) for k in range(4)])
    with torch.no_grad():
        mean = model.eval()(views).softmax(1).unflatten(0, (4, 6)).mean(1)
    np.testing.assert_allclose(Answers.load(tmp_path / "answers.npz").probabilities, mean, rtol=1e-5)
