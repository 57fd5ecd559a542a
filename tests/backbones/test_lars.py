"""LARS against its formula in a plain loop."""

import copy
import math

import pytest
import torch
from torch import nn

from backbones.lars import LARS


def layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()


def draw_gradients(module: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for w in module.parameters():
        w.grad = torch.randn(w.shape, generator=generator, dtype=w.dtype)


def step_in_loops(
    w: list[float], gradient: list[float], velocity: list[float], is_scaled: bool, **group
) -> list[float]:
    """One step of one parameter, number by number; changes the velocity."""
    g = gradient
    size, slope = (math.sqrt(sum(x * x for x in numbers)) for numbers in (w, gradient))
    if is_scaled and size > 0 and slope > 0:
        decay = group["weight_decay"]
        factor = 0.001 * size / (slope + decay * size + 1e-8)
        g = [factor * (x + decay * y) for x, y in zip(gradient, w, strict=True)]
    for i, x in enumerate(g):
        velocity[i] = group["momentum"] * velocity[i] + x
    move = [x + group["momentum"] * v if group["nesterov"] else v for x, v in zip(g, velocity, strict=True)]
    return [x - group["lr"] * y for x, y in zip(w, move, strict=True)]


@pytest.mark.parametrize("nesterov", [False, True])
def test_steps_equal_the_formula(nesterov: bool):
    module = layers()
    settings = {"momentum": 0.8, "weight_decay": 0.01, "nesterov": nesterov}
    optimizer = LARS(module.parameters(), lr=9.0, **settings)
    velocities = [[0.0] * w.numel() for w in module.parameters()]
    for step, rate in enumerate((1.2, 0.7, 0.1)):
        optimizer.param_groups[0]["lr"] = rate  # as the loop sets it
        draw_gradients(module, step)
        if step == 1:
            next(module.parameters()).grad.zero_()
        wanted = [
            step_in_loops(w.flatten().tolist(), w.grad.flatten().tolist(), v, w.ndim > 1, lr=rate, **settings)
            for w, v in zip(module.parameters(), velocities, strict=True)
        ]
        optimizer.step()
        for w, numbers in zip(module.parameters(), wanted, strict=True):
            torch.testing.assert_close(w.flatten(), torch.tensor(numbers, dtype=torch.float64), rtol=0, atol=1e-12)


def test_weights_at_zero_are_moved_by_their_gradient():
    w = nn.Parameter(torch.zeros(2, 2))
    w.grad = torch.ones(2, 2)
    LARS([w], lr=0.5, weight_decay=0.1).step()
    assert torch.equal(w, torch.full((2, 2), -0.5))


def test_a_factor_on_the_loss_moves_biases_alone():
    moved = []
    for factor in (1, 100):
        module = layers()
        before = [w.detach().clone() for w in module.parameters()]
        draw_gradients(module, 0)
        for w in module.parameters():
            w.grad *= factor
        LARS(module.parameters(), lr=1.0).step()
        moved.append([b - w.detach() for b, w in zip(before, module.parameters(), strict=True)])
    for once, more in zip(*moved, strict=True):
        torch.testing.assert_close(more, once if once.ndim > 1 else 100 * once, rtol=1e-6, atol=0)


def test_groups_have_rates_of_their_own_and_parameters_without_gradient_stay():
    module = layers()
    first, last = module[0].weight, module[2].weight
    before = last.detach().clone()
    optimizer = LARS([{"params": [first], "lr": 0.0}, {"params": [last]}, {"params": [module[0].bias]}], lr=1.0)
    module[0].bias.grad = None
    first.grad, last.grad = torch.ones_like(first), torch.ones_like(last)
    still = first.detach().clone(), module[0].bias.detach().clone()
    optimizer.step()
    assert torch.equal(first, still[0])
    assert torch.equal(module[0].bias, still[1])
    assert not torch.equal(last, before)


def test_a_resumed_optimiser_goes_on_to_the_bit():
    modules = [layers(), layers()]
    optimizers = [LARS(m.parameters(), lr=1.0, weight_decay=1e-2, nesterov=True) for m in modules]
    for step in range(4):
        if step == 2:
            modules[1].load_state_dict(modules[0].state_dict())
            optimizers[1] = LARS(modules[1].parameters(), lr=9.0)
            optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
        for module, optimizer in zip(modules, optimizers, strict=True):
            draw_gradients(module, step)
            optimizer.step()
    for one, other in zip(modules[0].parameters(), modules[1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_closure_is_called_with_gradients_on():
    w = nn.Parameter(torch.ones(2, 2))

    def closure():
        loss = w.square().sum()
        loss.backward()
        return loss

    assert LARS([w], lr=1.0).step(closure).item() == 4
