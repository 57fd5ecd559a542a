import copy

import pytest
import torch
from torch import nn

from backbones.precise_norms import measure_norms
from models.split_batch_norm import set_splits, split_norms


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4), nn.ReLU(), nn.Dropout(0.5), nn.Conv3d(4, 2, 1), nn.BatchNorm3d(2)
    )


def clips(num_batches: int) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [3 + 2 * torch.randn(5, 3, 4, 6, 6) for _ in range(num_batches)]


def test_running_statistics_are_the_means_over_the_batches():
    net = network()
    measure_norms(net, iter(clips(3)))
    outputs = [net[0](batch).detach() for batch in clips(3)]  # (B, C, T, H, W) each
    means = torch.stack([output.mean((0, 2, 3, 4)) for output in outputs]).mean(0)
    variances = torch.stack([output.var((0, 2, 3, 4)) for output in outputs]).mean(0)
    torch.testing.assert_close(net[1].running_mean, means)
    torch.testing.assert_close(net[1].running_var, variances)


def test_norms_that_split_batches_are_measured_too():
    net, whole = split_norms(network()), network()
    set_splits(net, 5)
    measure_norms(net, clips(3))
    measure_norms(whole, clips(3))
    torch.testing.assert_close(net[1].running_mean, whole[1].running_mean)
    # Of parts of one clip, whose means differ less than its pixels.
    torch.testing.assert_close(net[1].running_var, whole[1].running_var, rtol=0.01, atol=0)


def test_what_the_norms_had_seen_before_does_not_count():
    net, other = network(), network()
    other(100 * clips(1)[0])
    measure_norms(net, clips(2))
    measure_norms(other, clips(2))
    # Dropout draws alike: the generator is where it was.
    torch.testing.assert_close(net[1].running_var, other[1].running_var, rtol=0, atol=0)


def test_nothing_else_changes():
    net = network()
    net.train()
    net[1].eval()  # frozen
    net[5].momentum = 0.3
    before, generator = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    batches = clips(2)
    torch.set_rng_state(generator)
    measure_norms(net, batches)
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.partition(".")[2] for name in changed} <= {"running_mean", "running_var", "num_batches_tracked"}
    assert [module.training for module in net] == [True, False, True, True, True, True]
    assert (net[1].momentum, net[5].momentum) == (0.1, 0.3)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_without_batches_statistics_stay():
    net = network()
    net(clips(1)[0])
    before = net[1].running_mean.clone()
    measure_norms(net, [])
    assert torch.equal(net[1].running_mean, before)


def test_after_a_failure_norms_learn_as_before():
    net = network()
    net.eval()
    with pytest.raises(RuntimeError):
        measure_norms(net, [clips(1)[0], torch.zeros(1, 7, 1, 1, 1)])
    assert net[1].momentum == 0.1
    assert not any(module.training for module in net.modules())
