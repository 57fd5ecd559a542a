"""VideoBYOL against its equations written out, and the numbers that it tells."""

import math

import pytest
import torch
from torch import Tensor, nn

from backbones.byol import SlotUse, Target, VideoBYOL, entropy, mean_cosine, spread
from backbones.config import ByolConfig
from backbones.lars import LARS

B, FEATURES, WIDTH = 6, 13, 16
CONFIGS = {
    "memory": {"predictor": "memory", "slots": 12, "heads": 2},
    "perceptron": {"predictor": "perceptron"},
    "memory, no concepts": {"predictor": "memory", "slots": 12, "concepts": 0},
    "l2": {"predictor": "memory", "slots": 12, "recon": "l2"},
}
RATE, DECAY, MOMENTUM, TARGET_MOMENTUM, NUM_STEPS = 0.5, 1e-2, 0.9, 0.9, 3


def config_of(name: str) -> ByolConfig:
    sizes = {"projection": WIDTH, "hidden": 15, "concepts": 9, "alpha": 0.3, "beta": 0.2}
    return ByolConfig(**sizes | {"target_momentum": TARGET_MOMENTUM} | CONFIGS[name])


def build(name: str = "memory") -> VideoBYOL:
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv3d(1, FEATURES, 3, bias=False),
        nn.BatchNorm3d(FEATURES),
        nn.ReLU(),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
    )
    return VideoBYOL(backbone, FEATURES, config_of(name))


def clips(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    one, two = torch.randn(2, B, 1, 4, 5, 5, generator=generator, dtype=torch.float64)
    return one, two


# The equations, with weights by their names. Nothing of the project's code below here.


def normed(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    """A norm in training: every channel by its mean and deviation over all else."""
    rows = x.movedim(1, -1).reshape(-1, x.shape[1])
    mean = rows.sum(0) / len(rows)
    variance = ((rows - mean) ** 2).sum(0) / len(rows)
    shape = (1, -1) + (1,) * (x.ndim - 2)
    mean, variance = mean.view(shape), variance.view(shape)
    return (x - mean) / (variance + 1e-5) ** 0.5 * w[f"{name}.weight"].view(shape) + w[f"{name}.bias"].view(shape)


def two_layers(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    hidden = normed(x @ w[f"{name}.0.weight"].T + w[f"{name}.0.bias"], w, f"{name}.1")
    return hidden.clamp(min=0) @ w[f"{name}.3.weight"].T + w[f"{name}.3.bias"]


def described(x: Tensor, w: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    maps = torch.conv3d(x, w["encoder.backbone.0.weight"])
    y = normed(maps, w, "encoder.backbone.1").clamp(min=0).mean((2, 3, 4))
    return y, two_layers(y, w, "encoder.projector")


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Of each row with its fellow."""
    return (a * b).sum(1) / (a.square().sum(1).sqrt() * b.square().sum(1).sqrt())


def predicted(z: Tensor, w: dict[str, Tensor], config: ByolConfig) -> Tensor:
    if config.predictor == "perceptron":
        return two_layers(z, w, "predictor")
    queries = two_layers(z, w, "predictor.query").reshape(len(z), config.heads, -1)
    keys, values = w["predictor.memory.keys"], w["predictor.memory.values"]
    read = []
    for h in range(config.heads):
        angle = torch.stack([cosines(queries[:, h], key.expand(len(z), -1)) for key in keys[h]], 1)
        weight = torch.exp(config.scale * (WIDTH / 256) ** 0.5 * angle)
        read.append(weight / weight.sum(1, keepdim=True) @ values[h])
    return torch.cat(read, 1)


def distance(a: Tensor, b: Tensor, config: ByolConfig) -> Tensor:
    return (1 - cosines(a, b)).mean() if config.recon == "cosine" else (a - b).square().sum(1).mean()


def aligned(
    source: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor], w: dict[str, Tensor], config: ByolConfig
) -> tuple[Tensor, Tensor]:
    """Reconstruction and alignment of one direction; moves the centre."""
    (y_source, z_source), (y_target, z_target) = source, target
    q_source = z_source @ w["alignment.source_concepts.weight"].T
    q_target = z_target @ w["alignment.target_concepts.weight"].T
    reconstruction = distance(two_layers(q_source, w, "alignment.source_features"), y_source.detach(), config)
    reconstruction += distance(two_layers(q_target, w, "alignment.target_features"), y_target, config)
    teacher = torch.exp((q_target.detach() - w["alignment.centre"]) / 0.05)
    teacher = teacher / teacher.sum(1, keepdim=True)
    logits = q_source / 0.05
    logits = logits - logits.max(1, keepdim=True).values
    alignment = -(teacher * (logits - torch.exp(logits).sum(1, keepdim=True).log())).sum(1).mean()
    w["alignment.centre"] = 0.9 * w["alignment.centre"] + 0.1 * q_target.detach().mean(0)
    return reconstruction, alignment


def loss_of(x: tuple[Tensor, Tensor], w: dict[str, Tensor], xi: dict[str, Tensor], config: ByolConfig) -> Tensor:
    (_, t_1), (_, t_2) = targets = [described(one, xi) for one in x]
    (_, z_1), (_, z_2) = online = [described(one, w) for one in x]
    loss = -cosines(predicted(z_1, w, config), t_2).mean() / 2 - cosines(predicted(z_2, w, config), t_1).mean() / 2
    if config.concepts:
        rec_1, align_1 = aligned(online[0], targets[1], w, config)
        rec_2, align_2 = aligned(online[1], targets[0], w, config)
        loss = loss + config.alpha * (rec_1 + rec_2) / 2 + config.beta * (align_1 + align_2) / 2
    return loss


@pytest.mark.parametrize("name", CONFIGS)
def test_three_steps_equal_the_equations(name: str):
    """Losses, gradients, weights by LARS, target and centre, in float64 to 1e-9."""
    config, model = config_of(name), build(name).double()
    target = Target(model.encoder, config.target_momentum)
    optimizer = LARS(model.parameters(), RATE, MOMENTUM, DECAY, nesterov=True)
    learned = dict(model.named_parameters())
    w = {key: value.detach().clone().requires_grad_(key in learned) for key, value in model.state_dict().items()}
    xi = {key: value.detach().clone() for key, value in w.items() if key.startswith("encoder.")}
    velocity = {key: torch.zeros_like(w[key]) for key in learned}
    for k in range(NUM_STEPS):
        x = clips(k)
        target.follow(model.encoder, k, NUM_STEPS)
        step = model(*x, *map(target, x))
        optimizer.zero_grad()
        step.loss.backward()

        wanted = loss_of(x, w, xi, config)
        gradients = dict(zip(learned, torch.autograd.grad(wanted, [w[key] for key in learned]), strict=True))
        close = {"rtol": 0, "atol": 1e-9}
        torch.testing.assert_close(step.loss, wanted, **close)
        torch.testing.assert_close({key: value.grad for key, value in learned.items()}, gradients, **close)
        if config.concepts:
            torch.testing.assert_close(model.alignment.centre, w["alignment.centre"], **close)

        optimizer.step()
        for key, gradient in gradients.items():
            size, slope = w[key].detach().square().sum().sqrt(), gradient.square().sum().sqrt()
            if w[key].ndim > 1 and size > 0 and slope > 0:
                gradient = (gradient + DECAY * w[key].detach()) * 0.001 * size / (slope + DECAY * size + 1e-8)
            velocity[key] = MOMENTUM * velocity[key] + gradient
            w[key] = (w[key].detach() - RATE * (gradient + MOMENTUM * velocity[key])).requires_grad_()
        keep = 1 - (1 - TARGET_MOMENTUM) * (math.cos(math.pi * k / NUM_STEPS) + 1) / 2
        xi = {key: keep * old + (1 - keep) * w[key].detach() for key, old in xi.items()}
        torch.testing.assert_close({key: value.detach() for key, value in learned.items()}, w_of(w, learned), **close)
    target.follow(model.encoder, NUM_STEPS, NUM_STEPS)
    found = {f"encoder.{key}": value for key, value in target.encoder.named_parameters()}
    torch.testing.assert_close(found, w_of(xi, found), **close)


def w_of(w: dict[str, Tensor], names) -> dict[str, Tensor]:
    return {key: w[key].detach() for key in names}


def test_numbers_tell_collapse_from_a_full_space():
    z = torch.randn(4000, 16, generator=torch.Generator().manual_seed(0))
    assert spread(z) == pytest.approx(1, abs=0.02)
    assert mean_cosine(z) == pytest.approx(0, abs=0.01)
    alike = torch.ones(10, 16)
    assert spread(alike) == pytest.approx(0, abs=1e-5)
    assert mean_cosine(alike) == pytest.approx(1, abs=1e-5)


def test_mean_cosine_is_that_of_all_pairs():
    z = clips(0)[0].flatten(1)
    pairs = [torch.cosine_similarity(z[i], z[j], dim=0) for i in range(B) for j in range(B) if i != j]
    torch.testing.assert_close(mean_cosine(z), torch.stack(pairs).mean())


def test_entropy_is_that_of_the_addresses():
    even = torch.full((3, 2, 8), 1 / 8)
    sharp = torch.eye(8)[:3, None].expand(-1, 2, -1)
    assert entropy(even) == pytest.approx(math.log(8))
    assert entropy(sharp) == 0


@pytest.mark.parametrize("name", CONFIGS)
def test_a_batch_tells_its_numbers(name: str):
    model = build(name).double()
    target = Target(model.encoder, 0.9)
    x = clips(0)
    step = model(*x, *map(target, x))
    wanted = {"loss", "prediction", "spread", "cosine"}
    wanted |= {"address_entropy"} if config_of(name).predictor == "memory" else set()
    wanted |= {"reconstruction", "alignment"} if config_of(name).concepts else set()
    assert set(step.means) == wanted
    assert not any(mean.requires_grad for mean in step.means.values())
    if step.first is not None:
        addresses = torch.cat([model.predictor(model.encoder(one).z, return_addresses=True)[1] for one in x])
        assert torch.equal(step.first, addresses.argmax(2))
        assert step.means["address_entropy"] == entropy(addresses)


def test_predictions_are_the_same_with_addresses_and_without():
    predictor, z = build().predictor.double(), torch.randn(5, WIDTH, dtype=torch.float64)
    torch.testing.assert_close(predictor(z, return_addresses=True)[0], predictor(z))


def test_slots_are_counted_once_and_anew_after_each_count():
    use = SlotUse(12, heads=2)
    use.add(torch.tensor([[0, 5], [0, 4]]))
    use.add(torch.tensor([[0, 5], [3, 5]]))
    again = SlotUse(12, heads=2)
    again.load_state_dict(use.state_dict())
    assert use.count() == again.count() == 4  # 0 and 3 of the first head, 4 and 5 of the second
    assert use.count() == 0
