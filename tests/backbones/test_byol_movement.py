"""What may move in VideoBYOL and its target, and when: in the loop too, stopped after any step."""

import math
from pathlib import Path

import pytest
import torch
from line_task import CONFIG
from test_byol import CONFIGS, FEATURES, WIDTH, B, build, clips, config_of
from torch import nn

from backbones.byol import SlotUse, Target, target_momentum
from backbones.lars import LARS
from recognition.common.stopping import Stopped
from recognition.training.devices import launch
from recognition.training.loop import Loop, Validation
from recognition.training.runs import Run

RATE = 0.5


@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_learns_and_none_of_the_target(name: str):
    model = build(name).double()
    target = Target(model.encoder, 0.9)
    x = clips(0)
    model(*x, *map(target, x)).loss.backward()
    assert all(
        w.grad is not None and w.grad.abs().sum() > 0 for key, w in model.named_parameters() if "bias" not in key
    )
    assert not any(w.requires_grad or w.grad is not None for w in target.parameters())
    assert not any(described.z.requires_grad for described in map(target, x))


def test_evaluation_changes_nothing():
    model = build().double().eval()
    target = Target(model.encoder, 0.9)
    x = clips(0)
    of_target = [described._replace() for described in map(target, x)]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    first, second = (model(*x, *of_target) for _ in range(2))
    assert torch.equal(first.loss, second.loss)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_norms_of_the_target_have_statistics_of_their_own_whatever_it_is_told():
    model = build()
    target = Target(model.encoder, 0.9)
    x = clips(0)[0].float()
    wanted = target(x)
    target.eval()
    assert torch.equal(target(x).z, wanted.z)
    norms = [m for m in target.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert all(norm.num_batches_tracked == 2 for norm in norms)
    assert all(m.num_batches_tracked == 0 for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))


def test_running_statistics_are_not_averaged():
    model = build().double()
    target = Target(model.encoder, 0.5)
    model.encoder.backbone[1].running_mean += 1
    target.follow(model.encoder, 1, 10)
    assert torch.equal(target.encoder.backbone[1].running_mean, torch.zeros(FEATURES).double())


def test_a_target_follows_each_step_once_however_often_it_is_asked():
    model = build().double()
    target = Target(model.encoder, 0.5)
    weight = model.encoder.backbone[0].weight
    before = weight.detach().clone()
    target.follow(model.encoder, 0, 10)
    weight.data += 1
    for _ in range(3):
        target.follow(model.encoder, 1, 10)
    torch.testing.assert_close(target.encoder.backbone[0].weight, before + 0.5)  # lambda is 0.5 at the first step
    again = Target(model.encoder, 0.5)
    again.load_state_dict(target.state_dict())
    again.follow(model.encoder, 1, 10)
    assert torch.equal(again.encoder.backbone[0].weight, target.encoder.backbone[0].weight)
    with pytest.raises(AssertionError, match="3 steps done, 1 followed"):
        target.follow(model.encoder, 3, 10)


def test_target_momentum_rises_to_one_on_a_cosine():
    found = [target_momentum(k, 4, 0.9) for k in range(5)]
    half = math.sqrt(0.5)
    wanted = [1 - 0.1 * (x + 1) / 2 for x in (1, half, 0, -half, -1)]
    assert found == pytest.approx(wanted, abs=1e-15)


def test_scale_is_as_sharp_at_other_widths():
    assert build().predictor.memory.scale == pytest.approx(16 * math.sqrt(WIDTH / 256))


def test_heads_norms_and_losses_stay_in_float32_where_convolutions_do_not():
    model = build()
    target = Target(model.encoder, 0.9)
    x = [one.float() for one in clips(0)]
    seen = {}
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv3d, nn.Linear, nn.BatchNorm1d)):
            module.register_forward_hook(lambda m, args, out, name=name: seen.update({name: out.dtype}))
    with torch.autocast("cpu", torch.bfloat16):
        step = model(*x, *map(target, x))
    assert seen.pop("encoder.backbone.0") == torch.bfloat16
    assert set(seen.values()) == {torch.float32}
    assert step.loss.dtype == torch.float32
    assert all(mean.dtype == torch.float32 for mean in step.means.values())


# In the loop.


class Films:
    """Learning from made-up clips as a task of the loop; asks for a stop at a step."""

    def __init__(self, stop_at: int = -1):
        torch.manual_seed(3)
        self.stop_at, config = stop_at, config_of("memory")
        self.model = build()
        self.optimizer = LARS(self.model.parameters(), RATE, nesterov=True)
        self.target, self.use = Target(self.model.encoder, 0.9), SlotUse(config.slots, config.heads)
        self.others = {"target": self.target, "slots": self.use}

    def num_steps(self, epoch):
        return 2

    def batches(self, epoch, first, is_stop_asked):
        for step in range(2 * epoch + first, 2 * epoch + 2):
            self.is_stopped = step == self.stop_at
            yield tuple(x.float() for x in clips(step))

    def learning_rate(self, step, num_steps):
        return RATE

    def loss(self, model, x, step):
        self.target.follow(self.model.encoder, step, 6)
        found = model(*x, *map(self.target, x))
        self.use.add(found.first)
        return found.loss, {k: v.double() * B for k, v in found.means.items()} | {"count": torch.tensor(float(B))}

    def validate(self, model, epoch):
        self.target.follow(self.model.encoder, 2 * (epoch + 1), 6)
        weights = sum(w.abs().sum().item() for w in self.target.parameters())
        return Validation({"slots": self.use.count(), "target": weights}, [float(epoch)])


def train(folder: Path, stops: list[int], monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    fabric, told, run = launch(CONFIG), [], Run(folder)
    run.last_file.parent.mkdir(parents=True, exist_ok=True)
    for stop_at in [*stops, -1]:
        task = Films(stop_at)
        loop = Loop(task, fabric, CONFIG, run, show_bar=False)
        loop.restore()
        step = loop._step

        def stopped(number, *args, step=step, task=task):
            numbers, stops, keeps = step(number, *args)
            return numbers, stops or task.is_stopped, keeps

        monkeypatch.setattr(loop, "_step", stopped)
        try:
            loop.fit(told.append)
        except Stopped:
            continue
    return [{key: value for key, value in line.items() if key != "seconds"} for line in told]


def test_stopped_after_any_step_and_resumed_it_ends_with_equal_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = train(tmp_path / "whole", [], monkeypatch)
    stopped = train(tmp_path / "stopped", list(range(6)), monkeypatch)
    assert whole == stopped
    assert len(whole) == 3
    states = [torch.load(Run(tmp_path / name).last_file, weights_only=True) for name in ("whole", "stopped")]
    for state in states:
        del state["progress"]
    torch.testing.assert_close(*states, rtol=0, atol=0)
    assert states[0]["others"][0]["target"]["_extra_state"] == 6
