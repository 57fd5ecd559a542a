"""A linear probe on features made once: each head as if it were trained alone, and the best chosen by validation."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from labelled_films import classifier, held_films, loop_of, one_device, settings, trained
from torch import Tensor, nn

from backbones.dataset import ClipDataset, Draw
from backbones.probe_task import Features, Heads, ProbeTask, folded
from backbones.testing import best_weights
from recognition.common.command_line import InputError
from recognition.training.loop import Loop
from recognition.training.runs import Run

RATES = [0.02, 0.5]
PROBE = {
    "classifier": {"train": "linear", "cached_views": 2, "rates": RATES},
    "network": {"weights": "random:1"},
    "training": {"schedule": "cosine", "n_epochs": 3, "warmup_epochs": 1.0, "weight_decay": 1e-3},
}


def features(num: int, num_views: int, seed: int) -> Features:
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(num) % 3
    y = torch.randn(num, num_views, 6, generator=generator) + 1.5 * F.one_hot(label, 6)[:, None]
    return Features(y, label)


def standardised(y: Tensor, of: Tensor) -> Tensor:
    """Features (N, V, D), with the mean and deviation of others."""
    rows = of.reshape(-1, of.shape[2])
    return (y - rows.mean(0)) / rows.std(0)


def by_hand(train: Features, first: dict[str, Tensor], rate: float) -> nn.Linear:
    """A head that is trained in a plain loop: SGD with Nesterov's momentum, warm-up over an epoch, then a cosine."""
    head = nn.Linear(6, 3)
    head.load_state_dict(first)
    optimizer = torch.optim.SGD(head.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=1e-3)
    num, step = len(train.y) // 4, 0
    y = standardised(train.y, train.y)
    for epoch in range(3):
        rng = np.random.default_rng((0, epoch))
        order = rng.permutation(len(train.y))
        view = rng.integers(train.y.shape[1], size=len(order))
        for k in range(num):
            rise = (step + 1) / num if step < num else 0.5 * (1 + np.cos(np.pi * (step - num) / (2 * num)))
            optimizer.param_groups[0]["lr"] = rate * rise
            chosen = order[4 * k : 4 * k + 4]
            optimizer.zero_grad()
            F.cross_entropy(head(y[chosen, view[chosen]]), train.label[chosen]).backward()
            optimizer.step()
            step += 1
    return head


def test_heads_learn_as_if_each_were_trained_alone_and_the_best_is_chosen():
    train, validation = features(22, 3, 0), features(9, 1, 1)
    config = settings(**PROBE).training
    torch.manual_seed(2)
    task = ProbeTask(train, validation, 3, RATES, config)
    first = {name: x.clone() for name, x in task.heads.heads[0].state_dict().items()}
    assert all(torch.equal(x, task.heads.heads[1].state_dict()[name]) for name, x in first.items())
    told: list[dict] = []
    Loop(task, one_device(), config, show_bar=False).fit(told.append)
    wanted = [by_hand(train, first, rate) for rate in RATES]
    for head, plain in zip(task.heads.heads, wanted, strict=True):
        torch.testing.assert_close(head.state_dict(), plain.state_dict(), rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        logits = [head(standardised(validation.y, train.y)[:, 0]) for head in wanted]
    found = [
        ((x.argmax(1) == validation.label).double().mean().item(), -F.cross_entropy(x, validation.label).item())
        for x in logits
    ]
    best = found.index(max(found))
    assert told[-1]["validation_head"] == best == task.heads.best
    assert told[-1]["validation_top1"] == pytest.approx(found[best][0])
    assert told[-1]["validation_loss"] == pytest.approx(-found[best][1], rel=1e-5)
    assert told[-1]["validation_top5"] == 1


def test_features_are_those_of_the_frozen_network():
    films, config = held_films(), settings(**PROBE)
    model, _ = classifier(config, films)
    state = {name: x.clone() for name, x in model.state_dict().items()}
    task = loop_of(config, films).task
    data = ClipDataset(films.train, config, films.readers)
    with torch.no_grad():
        for item, view in ((0, 0), (5, 1), (13, 1)):
            wanted = model.eval().backbone(data.drawn(Draw(item, view, 4, 32)))[0]
            torch.testing.assert_close(task.train.y[item, view], wanted, rtol=1e-4, atol=1e-5)
        middle = ClipDataset(films.validation, config, films.readers).middle(2)
        torch.testing.assert_close(task.validation.y[2, 0], model.backbone(middle)[0], rtol=1e-4, atol=1e-5)
    assert task.train.label.tolist() == [item.label for item in films.train]
    torch.testing.assert_close(dict(model.state_dict()), state, rtol=0, atol=0)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_probe_stopped_and_gone_on_with_is_the_same_to_the_last_bit(num_workers: int, tmp_path: Path):
    films = held_films()
    whole = trained(settings(**PROBE), films, tmp_path / "whole")
    stopped = trained(settings(**PROBE, data={"workers": num_workers}), films, tmp_path / "stopped", [0, 4, 5])
    assert whole[0] == stopped[0]
    torch.testing.assert_close(whole[1:], stopped[1:], rtol=0, atol=0)
    model, _ = classifier(settings(**PROBE), films)
    weights = best_weights(Run(tmp_path / "whole"), model)
    model.load_weights(weights)
    assert torch.equal(model.head.weight, folded(whole[2])["weight"])


def test_the_layer_that_is_kept_takes_features_as_they_are():
    y = features(22, 3, 0).y * torch.tensor([1.0, 50.0, 0.1, 2.0, 0.0, 1.0]) + torch.arange(6)
    torch.manual_seed(0)
    heads = Heads(2, 3, y)
    nn.init.normal_(heads.heads[1].weight)
    heads.best.fill_(1)
    head = nn.Linear(6, 3)
    head.load_state_dict(folded(heads.state_dict()))
    torch.testing.assert_close(head(y[:, 0]), heads(y[:, 0])[1], rtol=1e-4, atol=1e-4)


def test_two_processes_share_each_batch():
    train, validation = features(22, 3, 0), features(9, 1, 1)
    config = settings(**PROBE).training
    whole, *shares = (
        list(ProbeTask(train, validation, 3, RATES, config, share).batches(1, 0, lambda: False))
        for share in ((0, 1), (0, 2), (1, 2))
    )
    for batch, one, other in zip(whole, *shares, strict=True):
        assert torch.equal(batch.y[::2], one.y)
        assert torch.equal(batch.y[1::2], other.y)


def test_one_rate_is_that_of_the_training():
    config = settings(**PROBE | {"classifier": {"train": "linear", "cached_views": 1}})
    task = loop_of(config, held_films()).task
    assert [group["rate_factor"] for group in task.optimizer.param_groups] == [1.0]


@pytest.mark.parametrize(
    ("films", "told"),
    [
        ({"num_validation": 0}, r"^classifier\.cached_views: there are no validation films, by which a rate is chosen"),
        ({"num_train": 3}, r"^training\.batch_size: 4, but there are 3 items to train on"),
    ],
)
def test_probe_that_cannot_be_is_refused(films: dict, told: str):
    with pytest.raises(InputError, match=told):
        loop_of(settings(**PROBE), held_films(**films))
