"""When a path for GPUs is taken and when the plain one, here with the CPU standing in for the GPU."""

import logging

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from models import gpu_paths
from models.gpu_paths import GPUPath


@pytest.fixture(autouse=True)
def _cpu_for_gpu(monkeypatch):
    monkeypatch.setattr(gpu_paths, "DEVICE_TYPE", "cpu")


class Sines:
    """The sine of x, by a way that counts how often it is gone, and how wrong it is."""

    def __init__(self, factor: float = 1.0, gradient_factor: float = 1.0, error: Exception | None = None):
        self.path, self.calls = GPUPath("Sines are plain"), 0
        self.factor, self.gradient_factor, self.error = factor, gradient_factor, error

    def fast(self, x: Tensor) -> tuple[Tensor]:
        self.calls += 1
        if self.error:
            raise self.error
        y = x.sin()
        return (self.factor * (self.gradient_factor * y + (1 - self.gradient_factor) * y.detach()),)

    def __call__(self, x: Tensor) -> Tensor:
        return self.path(self.fast, lambda x: (x.sin(),), (x,))[0]


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_path_is_tried_once_for_each_kind_of_input():
    sines, x = Sines(), draw(3, 4)
    for given, calls in ((x, 2), (x + 1, 3), (x.T, 5), (x[:1], 7), (x.clone().requires_grad_(), 9), (x.half(), 11)):
        torch.testing.assert_close(sines(given), given.sin())
        assert sines.calls == calls
    with torch.no_grad():
        sines(x)
    assert sines.calls == 13


@pytest.mark.parametrize(
    ("sines", "named"),
    [
        (Sines(factor=1.1), "output 0"),
        (Sines(factor=torch.nan), "output 0"),
        (Sines(gradient_factor=0.9), "gradient 0"),
        (Sines(error=OSError("no compiler\nanywhere")), "OSError: no compiler anywhere"),
    ],
    ids=["wrong", "nan", "wrong gradient", "error"],
)
def test_path_that_does_not_work_is_left_with_one_warning(caplog, sines, named):
    with caplog.at_level(logging.WARNING):
        for shape in ((3, 4), (3, 4), (5,)):
            x = draw(*shape).requires_grad_()
            y = sines(x)
            torch.testing.assert_close(y, x.sin(), rtol=0, atol=0)
            torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], x.cos())
    assert sines.calls == 2  # one for each kind
    [record] = caplog.records
    assert record.getMessage().startswith("Sines are plain")
    assert named in record.getMessage()
    assert "\n" not in record.getMessage()


def test_nan_that_came_in_is_no_fault_of_the_path():
    sines = Sines()
    sines(torch.tensor([1.0, torch.nan]))
    assert set(sines.path.is_good.values()) == {True}


def test_path_is_shut_for_float64_and_where_it_is_turned_off(monkeypatch):
    sines, x = Sines(), draw(3)
    sines(x.double())
    with gpu_paths.using("none"):
        sines(x)
    monkeypatch.setattr(gpu_paths, "DEVICE_TYPE", "cuda")
    sines(x)
    assert sines.calls == 0


def test_levels_include_each_other():
    opt_in = GPUPath("Plain", "all")
    for level, expected in (("none", False), ("standard", False), ("all", True)):
        with gpu_paths.using(level):
            assert opt_in.is_open(draw(1)) == expected
    with pytest.raises(ValueError, match="often"), gpu_paths.using("often"):
        pass


def test_kinds_beyond_the_limit_are_computed_plainly(monkeypatch, caplog):
    monkeypatch.setattr(gpu_paths, "MAX_KINDS", 2)
    sines = Sines()
    for size in (1, 2, 3, 4, 2):
        sines(draw(size))
    assert sines.calls == 5
    assert len(caplog.records) == 1


def test_trial_within_a_checkpoint_leaves_the_checkpoint_whole():
    sines, x = Sines(), draw(3).requires_grad_()
    y = checkpoint(lambda x: sines(x.exp()).exp(), x, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], y * x.exp().cos() * x.exp())
    assert sines.calls == 3


def test_checkpoint_may_stop_in_the_midst_of_the_path(caplog):
    """Computing again, it raises as soon as it has all that it needs; here that is what the path keeps."""
    sines, x = Sines(), draw(3).requires_grad_()
    y = checkpoint(lambda x: sines(x.exp()), x, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], x.exp().cos() * x.exp())
    assert caplog.text == ""
    assert set(sines.path.is_good.values()) == {True}


def test_trial_draws_no_random_numbers():
    before = torch.get_rng_state()
    Sines()(draw(3).requires_grad_())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("value", "level"), [("none", "none"), ("", "standard"), ("often", "standard")])
def test_environment_sets_the_level_and_is_told_what_it_may_say(monkeypatch, caplog, value, level):
    monkeypatch.setenv("GPU_PATHS", value)
    assert gpu_paths._level_by_environment() == level
    assert ("none, standard, all" in caplog.text) == (value == "often")
