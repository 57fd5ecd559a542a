import pytest
import torch
from torch import nn

from backbones.multigrid import Phase, Shape
from backbones.rehearsal import Rehearsed, rehearse
from recognition.common.command_line import InputError

SMALL, LARGE = Shape(8, 2, 4), Shape(4, 2, 8)
PHASES = [Phase(0, 1, 0.1, (SMALL,)), Phase(1, 2, 0.1, (SMALL, LARGE)), Phase(2, 3, 0.1, (LARGE,))]
CPU = torch.device("cpu")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(3, 2, 1), nn.BatchNorm3d(2), nn.Dropout(0.5))


def test_every_shape_is_seen_twice_in_the_order_of_its_first_use():
    net, seen = network(), []
    found = list(rehearse(net, PHASES, lambda clips, phase: seen.append((clips.shape, phase)), CPU, num_processes=2))
    assert [one.shape for one in found] == [SMALL, LARGE]
    assert [(shape, phase.first_epoch) for shape, phase in seen] == [((4, 2, 3, 4, 4), 0)] * 2 + [
        ((2, 2, 3, 8, 8), 1)
    ] * 2


def test_the_network_and_random_numbers_are_afterwards_as_they_were():
    net = network()
    before = {name: value.clone() for name, value in net.state_dict().items()}

    def step(clips: torch.Tensor, phase: Phase) -> None:
        net(clips.float().transpose(1, 2) + torch.randn(1)).sum().backward()

    state = torch.get_rng_state()
    list(rehearse(net, PHASES, step, CPU))
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_shape_that_does_not_fit_is_named():
    def step(clips: torch.Tensor, phase: Phase) -> None:
        if len(clips) == LARGE.clips:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(InputError, match=r"batch_size: a batch of 4 clips of 2 x 8 x 8 needs more memory"):
        list(rehearse(network(), PHASES, step, CPU))


def test_a_line_says_how_fast_clips_must_be_read():
    told = str(Rehearsed(Shape(256, 4, 80), 3 * 2**30, 0.128))
    assert told == "256 x 4 x 80: 3.00 GiB, 0.128 s a step, so 2,000 clips/s must be read"
