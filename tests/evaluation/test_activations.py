"""Recording what layers give: the right numbers, and no trace of it afterwards."""

import pytest
import torch
from torch import nn

from recognition.evaluation.activations import conv_layers, filter_activations, record


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Sequential(nn.Conv2d(5, 7, 3)), nn.Flatten()
    )


IMAGES = torch.randn(3, 3, 9, 11, generator=torch.Generator().manual_seed(1))


def hooks(network: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in network.modules())


def test_several_layers_are_recorded_at_once_as_they_were_before_the_next_computed_in_place():
    ours = network().eval()
    first, last = conv_layers(ours)
    with record(first, last) as kept:
        output = ours(IMAGES)
    torch.testing.assert_close(kept[first], first(IMAGES), rtol=0, atol=0)
    torch.testing.assert_close(kept[last].flatten(1), output, rtol=0, atol=0)
    assert (kept[first] < 0).any()
    assert not kept[first].requires_grad


def test_hooks_are_removed_also_after_an_exception():
    ours = network()
    with record(*ours), record(*ours):
        assert hooks(ours) == 10
    assert hooks(ours) == 0
    with pytest.raises(RuntimeError), record(*ours):
        ours(IMAGES[:, :2])
    assert hooks(ours) == 0


def test_convolutions_come_in_order_also_from_parts_of_parts():
    assert [conv.out_channels for conv in conv_layers(network())] == [5, 7]


def test_filter_activations_are_spatial_means_without_dropout_and_leave_modes_as_they_were():
    ours = network()
    ours[3].eval()
    modes = [module.training for module in ours.modules()]
    first, last = conv_layers(ours)
    expected = last(torch.relu(first(IMAGES))).mean((2, 3))
    for _ in range(2):
        torch.testing.assert_close(filter_activations(ours, IMAGES, last), expected)
    assert [module.training for module in ours.modules()] == modes
    assert hooks(ours) == 0
    with pytest.raises(RuntimeError):
        filter_activations(ours, IMAGES[:, :2], last)
    assert [module.training for module in ours.modules()] == modes
