"""Batch norms over parts of a batch: as so many norms on the parts, and as one norm where there is one part."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from models.clip_networks import clip_network
from models.split_batch_norm import SplitBatchNorm3d, set_splits, split_norms

C = 3


def norm(**settings: object) -> nn.BatchNorm3d:
    """A norm with weights and running statistics of its own, in float64."""
    torch.manual_seed(0)
    built = nn.BatchNorm3d(C, **settings).double()
    for value in (*built.parameters(), built.running_mean):
        nn.init.normal_(value)
    nn.init.uniform_(built.running_var, 1, 2)
    return built


def split(plain: nn.BatchNorm3d, num_splits: int) -> SplitBatchNorm3d:
    """The same, split."""
    network = split_norms(nn.Sequential(copy.deepcopy(plain)))
    set_splits(network, num_splits)
    return network[0]


def clips(num: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    each = 1 + torch.arange(num)[:, None, None, None, None]  # clips differ, so that a mix-up would show
    return each * torch.randn((num, C, 2, 4, 3), generator=generator, dtype=torch.float64) + each


def step(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """What comes out, and the gradient that comes back."""
    x = x.clone().requires_grad_()
    y = module(x)
    (y * torch.arange(y.numel()).view(y.shape)).sum().backward()
    return y.detach(), x.grad


@pytest.mark.parametrize(("num_clips", "num_splits"), [(8, 1), (7, 1), (7, 4), (5, 3)])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_one_part_equals_the_plain_norm_to_the_last_bit(num_clips, num_splits, momentum):
    plain = norm(momentum=momentum)
    ours = split(plain, num_splits)
    for seed in range(3):
        for found, due in zip(step(ours, clips(num_clips, seed)), step(plain, clips(num_clips, seed)), strict=True):
            assert torch.equal(found, due)
    assert all(torch.equal(value, plain.state_dict()[key]) for key, value in ours.state_dict().items())
    assert all(torch.equal(value.grad, getattr(plain, key).grad) for key, value in ours.named_parameters())


@pytest.mark.parametrize(
    ("num_clips", "num_splits", "parts"), [(8, 4, 4), (8, 5, 4), (12, 5, 4), (7, 9, 7), (6, 3, 3), (8, 8, 8)]
)
@pytest.mark.parametrize("momentum", [0.1, None])
def test_parts_equal_so_many_calls_of_the_plain_norm(num_clips, num_splits, parts, momentum):
    plain, x = norm(momentum=momentum), clips(num_clips)
    ours = split(plain, num_splits)
    means, variances = [], []
    expected = [torch.empty_like(x), torch.empty_like(x)]
    weights = torch.arange(x.numel()).view(x.shape)
    for r in range(parts):
        each = copy.deepcopy(plain)
        each.momentum, each.weight, each.bias = 1.0, plain.weight, plain.bias
        part = x[r::parts].clone().requires_grad_()
        y = each(part)
        (y * weights[r::parts]).sum().backward()
        expected[0][r::parts], expected[1][r::parts] = y.detach(), part.grad
        means.append(each.running_mean)
        variances.append(each.running_var)
    torch.testing.assert_close(list(step(ours, x)), expected)
    torch.testing.assert_close(ours.weight.grad, plain.weight.grad)
    torch.testing.assert_close(ours.bias.grad, plain.bias.grad)
    mean = torch.stack(means).mean(0)
    variance = torch.stack(variances).mean(0) + torch.stack([(m - mean) ** 2 for m in means]).mean(0)
    share = 1.0 if momentum is None else momentum
    torch.testing.assert_close(ours.running_mean, (1 - share) * plain.running_mean + share * mean)
    torch.testing.assert_close(ours.running_var, (1 - share) * plain.running_var + share * variance)
    assert ours.num_batches_tracked == 1


def test_split_norm_asked_without_training_is_the_plain_one():
    plain, x = norm().eval(), clips(8)
    assert torch.equal(split(plain, 4)(x), plain(x))


def test_clips_with_their_channels_last_are_split_alike_and_stay_so():
    ours, x = split(norm(), 4), clips(8)
    last = ours(x.to(memory_format=torch.channels_last_3d))
    torch.testing.assert_close(last, ours(x))
    assert last.is_contiguous(memory_format=torch.channels_last_3d)
    assert ours(x).is_contiguous()


def test_half_precision_keeps_statistics_in_that_of_the_buffers():
    ours, x = split(norm(), 4).float(), clips(8)
    assert ours(x.bfloat16()).dtype == torch.bfloat16
    assert ours.running_mean.dtype == torch.float32


def test_running_statistics_are_made_anew_over_several_batches():
    network, batches = split_norms(nn.Sequential(norm())), [clips(8, seed) for seed in range(3)]
    set_splits(network, 2)
    update_bn(batches, network)
    means = [batch.mean((0, 2, 3, 4)) for batch in batches]
    torch.testing.assert_close(network[0].running_mean, torch.stack(means).mean(0))
    assert network[0].momentum == 0.1


def test_networks_state_dict_loads_both_ways_and_its_optimiser_still_holds_its_parameters():
    torch.manual_seed(0)
    plain = clip_network("r2plus1d_10", num_classes=4, width=4)
    ours = split_norms(copy.deepcopy(plain))
    held = dict(plain.named_parameters())
    assert split_norms(plain) is plain
    assert all(value is held[key] for key, value in plain.named_parameters())
    num_norms = sum(isinstance(module, SplitBatchNorm3d) for module in ours.modules())
    assert num_norms == sum(isinstance(module, nn.BatchNorm3d) for module in ours.modules()) == 21
    other = clip_network("r2plus1d_10", num_classes=4, width=4)
    assert list(ours.state_dict()) == list(other.state_dict())
    other.load_state_dict(ours.state_dict())
    ours.load_state_dict(other.state_dict())
    x = torch.randn((4, 3, 4, 16, 16), generator=torch.Generator().manual_seed(1))
    assert torch.equal(ours.train()(x), other.train()(x))
    set_splits(ours, 2)
    assert not torch.equal(ours(x), other(x))


def test_no_part_is_no_setting():
    with pytest.raises(ValueError, match="splits: must be at least 1, found 0"):
        set_splits(norm(), 0)
