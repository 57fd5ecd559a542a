"""The one training loop: epochs of seeded batches, whatever is trained, that can be stopped after any step.

What is trained is a `Task`: episodes (episode_task.py) are one. The loop knows of steps, rates, gradients, processes,
checkpoints and the best epoch, and nothing of what a batch holds.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities import move_data_to_device
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from recognition.common.command_line import Failure, InputError
from recognition.common.stopping import Stopped, stopping_later
from recognition.training.config import LoopConfig
from recognition.training.runs import Run

IsStopAsked = Callable[[], bool]


class Validation(NamedTuple):
    """What a task finds of the weights after an epoch."""

    scores: dict[str, float]  # by their names, which metrics.jsonl writes behind validation_
    merit: list[float]  # of two epochs the better one has the greater list


class Task(Protocol):
    """Something to train. Every process has one of its own, with its share of the batches.

    Attributes:
        model: what the optimiser changes. Buffers that change too must do so alike in all processes, as those of
            nn.SyncBatchNorm do: checkpoints have the first one's.
        optimizer: of its parameters; the loop sets its rates, times a group's "rate_factor" where it has one.
        others: further modules that change while training goes on, and so belong into a checkpoint, by name: an
            average of the model, a memory that lives on between batches. They are on the task's device already, and
            each process has its own.
    """

    model: nn.Module
    optimizer: Optimizer
    others: Mapping[str, nn.Module]

    def num_steps(self, epoch: int) -> int:
        """Steps of an epoch, the same in all processes."""

    def batches(self, epoch: int, first: int, is_stop_asked: IsStopAsked) -> Iterator[Any]:
        """This process's batches of an epoch from step `first` on, in an order that epoch and seed decide. Raises
        Stopped if a stop is asked for while one does not come."""

    def learning_rate(self, step: int, num_steps: int) -> float:
        """The rate at `step` of all `num_steps` of the training, counted from 0."""

    def loss(self, model: nn.Module, batch: Any, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the batch of a step, which is counted as for the rate, and numbers to log: sums in float64, with
        the "count" of what was summed over. Before it, an average takes in what the step before made of the model."""

    def validate(self, model: nn.Module, epoch: int) -> Validation:
        """How good the weights are after an epoch, the same in all processes. What is to be measured before, such as
        the statistics of norms, may be set in the model: they are kept with the weights."""


@dataclass
class Progress:
    """How far a run has come: all that a checkpoint holds beside weights and the optimiser's state."""

    epoch: int = 0  # epochs trained and validated
    step: int = 0  # steps done of the one after them
    totals: dict[str, float] = field(default_factory=dict)  # sums of its numbers so far, and "count"
    seconds: float = 0.0  # that it has taken
    waited: float = 0.0  # of these, for data
    best: list[float] | None = None  # merit of the best epoch


class Loop:
    """Trains a task.

    Args:
        task: what is trained.
        fabric: the devices and processes, launched.
        config: rates, epochs, clipping, seed and how often to keep checkpoints.
        run: the folder for checkpoints and the best weights; None keeps nothing.
        show_bar: whether the first process shows how far an epoch is.
    """

    def __init__(self, task: Task, fabric: Fabric, config: LoopConfig, run: Run | None = None, show_bar: bool = True):
        self.task, self.fabric, self.config, self.run = task, fabric, config, run
        self.show_bar = show_bar and fabric.is_global_zero
        self.model, self.optimizer = fabric.setup(task.model, task.optimizer)
        self.progress = Progress()
        self.num_steps = sum(map(task.num_steps, range(config.n_epochs)))

    def fit(self, report: Callable[[dict[str, Any]], None], show_timing: bool = False) -> None:
        """Train and validate for all epochs that are left; the first process reports the metrics of each.

        Raises:
            Stopped: a signal asked for it; a checkpoint has been written.
            Failure: the loss is not finite.
        """
        while self.progress.epoch < self.config.n_epochs:
            metrics = self.train_epoch()
            if show_timing and self.fabric.is_global_zero:
                taken = f"{self.progress.seconds:.2f} s, of which {self.progress.waited:.2f} s waiting for data"
                print(f"epoch {metrics['epoch']}/{self.config.n_epochs}: {taken}")
            started = time.perf_counter()
            # So that it is the same after a stop, also where something is drawn.
            torch.manual_seed(_seed(self.config.seed, self.progress.epoch, self.fabric.global_rank, 1))
            scores, merit = self.task.validate(self.model, self.progress.epoch)
            seconds = self.progress.seconds + time.perf_counter() - started
            metrics |= {f"validation_{name}": score for name, score in scores.items()} | {"seconds": seconds}
            is_best = self.progress.best is None or merit > self.progress.best
            self.progress = Progress(self.progress.epoch + 1, best=merit if is_best else self.progress.best)
            # In this order a kill at any moment leaves a checkpoint and, before it, everything that it stands for.
            if self.fabric.is_global_zero:
                if is_best and self.run:
                    self.run.save_best(self.model.module.state_dict())
                report(metrics)
            self.keep()

    def train_epoch(self) -> dict[str, float]:
        """One pass over the batches of an epoch, or what is left of it; returns its line of metrics.

        Progress is counted on, and kept at the end, every `checkpoint_minutes` before, and when a scheduler asks for a
        stop. What is random in a step depends on its number and the seed alone, so a run that was stopped goes on as
        if it had not been.
        """
        task, fabric, progress, epoch = self.task, self.fabric, self.progress, self.progress.epoch
        num_steps, before = task.num_steps(epoch), sum(map(task.num_steps, range(epoch)))
        name, spent = f"epoch {epoch + 1}/{self.config.n_epochs}", progress.seconds
        # The first process has counted for all until here.
        totals = dict(progress.totals) if fabric.is_global_zero else {}
        started = kept = waiting = time.perf_counter()
        self.model.train()
        with (
            stopping_later() as is_stop_asked,
            tqdm(
                total=num_steps,
                initial=progress.step,
                desc=name,
                unit="step",
                leave=False,
                disable=not self.show_bar,
            ) as bar,
        ):
            for batch in task.batches(epoch, progress.step, is_stop_asked):
                batch = fabric.to_device(batch)
                progress.waited += time.perf_counter() - waiting
                # All processes stop after the same step, whichever was asked to, and keep when the first's clock says.
                is_due = time.perf_counter() - kept > 60 * self.config.checkpoint_minutes
                is_due &= fabric.is_global_zero
                numbers, stops, keeps = self._step(before + progress.step, batch, is_stop_asked, is_due)
                totals = {name: totals.get(name, 0.0) + number for name, number in numbers.items()}
                progress.step += 1
                bar.set_postfix({name: f"{mean:.4f}" for name, mean in _means(totals).items()}, refresh=False)
                bar.update()
                if stops or keeps or progress.step == num_steps:
                    progress.totals = self._sum(totals)
                    progress.seconds = spent + time.perf_counter() - started
                    self.keep()
                    kept = time.perf_counter()
                if stops:
                    raise Stopped(f"a signal after step {before + progress.step}")
                waiting = time.perf_counter()
        assert progress.step == num_steps, f"{progress.step} batches, where the task has said {num_steps}"
        # Of a group at the rate itself, if there is one: after a product with a factor a division may be off by a bit.
        group = min(self.optimizer.param_groups, key=lambda group: group.get("rate_factor", 1.0) != 1)
        rate = group["lr"] / (group.get("rate_factor", 1.0) or 1.0)
        means = {f"train_{name}": mean for name, mean in _means(progress.totals).items()}
        return {"epoch": epoch + 1, "step": before + num_steps, "learning_rate": rate, **means}

    def keep(self) -> None:
        """Write a checkpoint of all that `restore` needs to go on from here; for all processes to call."""
        if not self.run:
            return
        others = self._others_of_all()
        if not self.fabric.is_global_zero:
            return
        scaler = _scaler(self.fabric)  # float16 scales its losses by what it has seen
        state = {
            "model": self.model.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler else None,
            "progress": asdict(self.progress),
        }
        if self.task.others:
            state["others"] = others
        self.run.save_last(state)

    def restore(self) -> None:
        """Take up the newest checkpoint of the run that is whole, if there is one.

        Raises InputError if each process is to have a module of its own back and there are more of them, or fewer.
        """
        assert self.run is not None
        if self.fabric.is_global_zero:
            self.run.drop_damaged_checkpoint()
        self.fabric.barrier()
        if (state := self.run.load_last()) is None:
            return
        self.model.module.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:
            scaler = _scaler(self.fabric)
            assert scaler is not None, "another precision than that of the checkpoint"
            scaler.load_state_dict(state["scaler"])
        if self.task.others and (num := len(state["others"])) != self.fabric.world_size:
            raise InputError(
                f"{self.run.path} was trained by {num} processes, not {self.fabric.world_size}; use as many"
            )
        for name, module in self.task.others.items():
            module.load_state_dict(state["others"][self.fabric.global_rank][name])
        progress = state["progress"]
        if isinstance(progress["totals"], list):  # of episodes, in checkpoints from before there were other tasks
            progress["totals"] = dict(zip(("loss", "accuracy", "count"), progress["totals"], strict=True))
        self.progress = Progress(**progress)

    def _step(
        self, step: int, batch: Any, is_stop_asked: IsStopAsked, is_due: bool
    ) -> tuple[dict[str, float], bool, bool]:
        """One step; returns the batch's numbers, and whether in any process a stop is asked for or a checkpoint due."""
        fabric, config = self.fabric, self.config
        torch.manual_seed(_seed(config.seed, step, fabric.global_rank))
        for group in self.optimizer.param_groups:
            group["lr"] = self.task.learning_rate(step, self.num_steps) * group.get("rate_factor", 1.0)
        loss, numbers = self.task.loss(self.model, batch, step)
        # Asked late, as a signal may come while the loss is computed.
        wishes = loss.new_tensor([is_stop_asked(), is_due])
        shared = _of_all(fabric, torch.stack([loss.detach(), *wishes]), "mean").double()
        # One transfer, as the processor waits for it.
        mean_loss, stops, keeps, *values = torch.cat([shared, torch.stack(list(numbers.values()))]).tolist()
        if not math.isfinite(mean_loss):
            raise Failure(
                f"step {step + 1}: the loss is {mean_loss}; try a lower training.learning_rate, "
                f"training.warmup_steps or training.gradient_clip"
            )
        self.optimizer.zero_grad()
        fabric.backward(loss)
        if config.gradient_clip:
            norm = fabric.clip_gradients(
                self.model, self.optimizer, max_norm=config.gradient_clip, error_if_nonfinite=False
            )
            assert norm is not None
            # Gradients of a loss scaled for float16 do overflow; such a step is skipped and the scale lowered.
            if not (_scaler(fabric) or norm.isfinite()):
                raise Failure(
                    f"step {step + 1}: the loss is {mean_loss:.4g}, but the norm of its gradients {norm}; try a lower "
                    f"training.learning_rate or training.warmup_steps"
                )
        self.optimizer.step()
        return dict(zip(numbers, values, strict=True)), bool(stops), bool(keeps)

    def _others_of_all(self) -> list[dict[str, Any]]:
        """The states of the task's other modules in each process, in the first process; empty in the others."""
        states = {name: module.state_dict() for name, module in self.task.others.items()}
        if not states or self.fabric.world_size == 1:
            return [states]
        states = move_data_to_device(states, "cpu")  # where each process may read what another one sends
        gathered: list[Any] | None = [None] * self.fabric.world_size if self.fabric.is_global_zero else None
        torch.distributed.gather_object(states, gathered)
        return gathered or []

    def _sum(self, totals: Mapping[str, float]) -> dict[str, float]:
        """The totals of all processes together."""
        return dict(zip(totals, sum_of_all(self.fabric, list(totals.values())), strict=True))


def sum_of_all(fabric: Fabric, numbers: Sequence[float]) -> list[float]:
    """Each number summed over all processes."""
    return _of_all(fabric, torch.tensor(numbers, dtype=torch.float64, device=fabric.device), "sum").tolist()


def _of_all(fabric: Fabric, x: Tensor, how: Literal["sum", "mean"]) -> Tensor:
    """A tensor of every process as one."""
    reduced = fabric.all_reduce(x, reduce_op=how)
    assert isinstance(reduced, Tensor)  # as x is; it may be a list of tensors
    return reduced


def _means(totals: Mapping[str, float]) -> dict[str, float]:
    return {name: total / totals["count"] for name, total in totals.items() if name != "count"}


def _scaler(fabric: Fabric) -> torch.amp.GradScaler | None:
    """What scales losses in float16, by the overflows that it has seen."""
    return getattr(fabric.strategy.precision, "scaler", None)


def _seed(*numbers: int) -> int:
    """One seed for torch from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
