"""A classifier of clips: what of it learns, at which rate, and which running statistics move."""

import pytest
import torch
from labelled_films import CLASSES, classifier, held_films, one_device, settings
from torch import nn

from backbones.classifier import ClipBackbone, ClipClassifier, groups_of
from backbones.optimizers import build_optimizer, without_decay_of_vectors
from models.clip_networks import NETWORKS, clip_network
from models.temporal_gates import SqueezeRecursion
from recognition.training.loop import Loop

MEAN, DEVIATION = (0.4, 0.3, 0.2), (0.2, 0.3, 0.4)
GATES = {"fuse": "residual"}


def built(name: str = "r3d_mini", gates: dict | None = None, **settings) -> ClipClassifier:
    torch.manual_seed(0)
    network = clip_network(name, width=4, temporal_gates=gates)
    return ClipClassifier(ClipBackbone(network, MEAN, DEVIATION), 3, **settings)


def statistics(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers() if "running" in name}


def clips(num: int = 4) -> torch.Tensor:
    return torch.randint(0, 256, (num, 4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_clips_are_normalised_as_films_hold_them():
    model = built().eval()
    network, mean, deviation = model.backbone.network, *(torch.tensor(x).view(3, 1, 1, 1) for x in (MEAN, DEVIATION))
    wanted = network((clips().transpose(1, 2).float() / 255 - mean) / deviation)
    torch.testing.assert_close(model.backbone(clips()), wanted)
    torch.testing.assert_close(model(clips()), model.head(wanted))
    assert model(clips()).shape == (4, 3)


def test_head_is_drawn_small_and_without_bias():
    head = built().head
    assert 0.005 < head.weight.std() < 0.02
    assert not head.bias.any()


@pytest.mark.parametrize("train", ["linear", "finetune", "all"])
@pytest.mark.parametrize(("norms", "moves"), [("frozen", False), ("adapt", True), ("precise", True)])
def test_running_statistics_move_unless_they_are_frozen(train: str, norms: str, moves: bool):
    model = built(train=train, norms=norms).train()
    before = statistics(model)
    weights = {name: parameter.clone() for name, parameter in model.backbone.named_parameters()}
    optimizer = build_optimizer(groups_of(model, set(), (1, 1, 1)), settings().training)
    model(clips()).square().sum().backward()
    optimizer.step()
    after = statistics(model)
    assert any(not torch.equal(before[name], after[name]) for name in before) == moves
    changed = [not torch.equal(weights[name], parameter) for name, parameter in model.backbone.named_parameters()]
    assert not any(changed) if train == "linear" else all(changed)
    assert model.head.weight.grad.abs().sum() > 0


def test_frozen_norms_are_used_as_they_are():
    model = built(norms="frozen")
    with torch.no_grad():
        torch.testing.assert_close(model.train()(clips()), model.eval()(clips()))


def test_linear_has_no_gradient_for_the_network_and_no_state_of_the_optimiser():
    model = built(train="linear").train()
    groups = groups_of(model, set(), (1, 1, 1))
    assert [parameter.shape for group in groups for parameter in group["params"]] == [(3, 32), (3,)]
    model(clips()).sum().backward()
    assert all(parameter.grad is None for parameter in model.backbone.parameters())


def test_dropout_is_before_the_head_in_training_alone():
    model = built(dropout=0.5, norms="frozen")
    with torch.no_grad():
        assert not torch.equal(model.train()(clips()), model(clips()))
        assert torch.equal(model.eval()(clips()), model(clips()))


def test_weights_have_torchvisions_names_and_come_back():
    model, other = built(), built()
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    names = set(clip_network("r3d_mini", 3, width=4).state_dict())
    assert set(other.weights()) == names
    model.load_weights(other.weights())
    torch.testing.assert_close(model.state_dict(), other.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("gates", [None, GATES], ids=["plain", "gates"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_is_in_one_group_by_where_it_came_from(name: str, gates: dict | None):
    with torch.device("meta"):
        network = clip_network(name, width=4, temporal_gates=gates)
    of_gates = {
        f"{place}.{key}"
        for place, module in network.named_modules()
        if isinstance(module, SqueezeRecursion)
        for key, _ in module.named_parameters()
    }
    assert bool(of_gates) == bool(gates)
    names = {name for name, _ in network.named_parameters() if not name.startswith("fc.")}
    with torch.device("meta"):
        model = ClipClassifier(ClipBackbone(network, MEAN, DEVIATION), 3)
    by_id = {id(parameter): name for name, parameter in network.named_parameters()}
    by_id |= {id(parameter): f"fc.{name}" for name, parameter in model.head.named_parameters()}
    for loaded in (names, names - of_gates, set()):
        groups = groups_of(model, loaded, (0.6, 0.5, 1.0))
        found = {group["rate_factor"]: [by_id[id(parameter)] for parameter in group["params"]] for group in groups}
        wanted = {0.6: loaded - of_gates, 0.5: loaded & of_gates, 1.0: (names - loaded) | {"fc.weight", "fc.bias"}}
        assert {factor: set(members) for factor, members in found.items()} == {k: v for k, v in wanted.items() if v}
        assert sum(map(len, found.values())) == len(names) + 2


@pytest.mark.parametrize("optimizer", ["sgd", "lars", "adamw"])
def test_loop_sets_the_rate_of_each_group(optimizer: str):
    films, config = held_films(), settings(training={"optimizer": optimizer})
    model, _ = classifier(config, films)
    groups = groups_of(model, {name for name in model.weights() if "layer1" in name}, (0.6, 0.5, 1.0))

    class Task:
        def __init__(self):
            self.model, self.optimizer, self.others = model, build_optimizer(groups, config.training), {}

        def num_steps(self, epoch: int) -> int:
            return 2

        def learning_rate(self, step: int, num_steps: int) -> float:
            return 0.1 / (step + 1)

        def batches(self, epoch: int, first: int, is_stop_asked):
            yield from [clips()] * 2

        def loss(self, model, batch, step):
            loss = model(batch).square().mean()
            found.append([group["lr"] for group in self.optimizer.param_groups])
            return loss, {"loss": loss.detach().double(), "count": torch.tensor(1.0).double()}

    found: list[list[float]] = []
    Loop(Task(), one_device(), config.training, show_bar=False).train_epoch()
    assert found == [pytest.approx([0.06, 0.1]), pytest.approx([0.03, 0.05])]


def test_optimiser_is_the_one_of_the_settings():
    model = built()
    groups = [{"params": list(model.parameters())}]
    sgd = build_optimizer(groups, settings(training={"weight_decay": 1e-4}).training)
    assert type(sgd) is torch.optim.SGD
    assert (sgd.defaults["nesterov"], sgd.defaults["momentum"], sgd.defaults["weight_decay"]) == (True, 0.9, 1e-4)
    plain = build_optimizer(groups, settings(training={"momentum": 0.0}).training)  # Nesterov's needs one
    assert not plain.defaults["nesterov"]
    assert type(build_optimizer(groups, settings(training={"optimizer": "adamw"}).training)) is torch.optim.AdamW


def test_vectors_do_not_decay_where_that_is_wanted():
    model = built()
    matrices, vectors = without_decay_of_vectors(list(model.parameters()))
    assert {parameter.ndim for parameter in matrices["params"]} == {2, 5}
    assert {parameter.ndim for parameter in vectors["params"]} == {1}
    assert vectors["weight_decay"] == 0
    assert len(matrices["params"]) + len(vectors["params"]) == len(list(model.parameters()))


def test_classes_of_the_films_make_the_head():
    assert classifier(settings(), held_films())[0].head.out_features == len(CLASSES)
