"""The training loop, the same for every model: epochs of shuffled episodes, scores, checkpoints."""

import atexit
import inspect
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision, Precision
from lightning_fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from tqdm import tqdm

from recognition.common.allocator import keep_freed_memory
from recognition.common.command_line import Failure, InputError
from recognition.common.stopping import Stopped, stopping_later
from recognition.training.companions import end_with_first, watch
from recognition.training.config import TrainingConfig
from recognition.training.dataset import EpisodeDataset, batches, loader
from recognition.training.runs import Run

# Buffers are constants here; sending them around at every step would also hang where ranks score unequal numbers of
# batches. torch 2.13 has another name for it, and warns of the old one.
_SYNC_BUFFERS = (
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else "broadcast_buffers"
)


@dataclass
class Progress:
    """How far a run has come: all that a checkpoint holds beside the weights and the optimiser's state."""

    epoch: int = 0  # epochs trained and validated
    step: int = 0  # steps done of the one after them
    totals: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])  # its loss, right answers, answers so far
    seconds: float = 0.0  # that it has taken
    waited: float = 0.0  # of these, for data
    best: list[float] | None = None  # [accuracy, -loss] on validation of the best epoch


def launch(config: TrainingConfig) -> Fabric:
    """Start Fabric on the configured devices, a process for each. Raises InputError if there are too few.

    Under torchrun, which starts the processes itself, there are as many as it has started.
    """
    has_gpu = torch.cuda.is_available()
    device = config.device if config.device != "auto" else "cuda" if has_gpu else "cpu"
    num_devices, num_nodes = config.num_devices, 1
    # Named, because Fabric would else count its processes by SLURM's variables: one, in a job of one task.
    environment = LightningEnvironment()
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        end_with_first()
    else:
        environment = TorchElasticEnvironment()
        num_devices = int(os.environ["LOCAL_WORLD_SIZE"])
        num_nodes = int(os.environ["WORLD_SIZE"]) // num_devices
    if device == "cuda":
        if not has_gpu:
            raise InputError("training.device: cuda, but torch sees no GPU on this machine; set it to cpu or auto")
        if num_devices > torch.cuda.device_count():
            raise InputError(f"training.num_devices: {num_devices}, but there are {torch.cuda.device_count()} GPUs")
        torch.set_float32_matmul_precision("high")
    else:
        keep_freed_memory()
    strategy = DDPStrategy(**{_SYNC_BUFFERS: False}) if num_devices * num_nodes > 1 else "auto"
    plugins = [environment, precision_of(config.precision, device)]
    fabric = Fabric(accelerator=device, strategy=strategy, devices=num_devices, num_nodes=num_nodes, plugins=plugins)
    atexit.register(disconnect)
    if (others := getattr(fabric.strategy.launcher, "procs", None)) is not None:
        watch(others)
    fabric.launch()
    return fabric


def disconnect() -> None:
    """End the threads through which processes exchange tensors, if there are any.

    One that lets go of its last tensor while Python ends would abort a process that has done all its work.
    """
    if torch.distributed.is_initialized():
        # Before torch 2.8 (its pull request 154976) destroying held the interpreter's lock while it waited for a thread
        # that needed it to let go of that tensor; a moment without the lock is enough for the thread.
        time.sleep(0.1)
        torch.distributed.destroy_process_group()


def train_epoch(
    fabric: Fabric,
    model: nn.Module,
    optimizer: Optimizer,
    dataset: EpisodeDataset,
    config: TrainingConfig,
    progress: Progress,
    keep: Callable[[], None],
    show_timing: bool = False,
    hide_bar: bool = False,
) -> dict[str, float]:
    """One pass over the training episodes, or what is left of it; returns its line of metrics.

    `progress` is counted on, and `keep` called to make a checkpoint at the end, every `checkpoint_minutes` before, and
    when a scheduler asks for a stop, which then raises Stopped. What is random in a step depends on its number and
    the seed alone, so a run that was stopped goes on as if it had not been.

    Raises Failure, naming the step, before a loss, or gradients that are to be clipped, can spoil the weights by not
    being finite.
    """
    epoch, started = progress.epoch, time.perf_counter()
    order = batches(len(dataset), config.batch_size, (config.seed, epoch), fabric.global_rank, fabric.world_size)
    num_steps = config.n_epochs * len(order)
    kept, spent = started, progress.seconds
    # The first process has counted for all until here.
    totals = np.array(progress.totals if fabric.is_global_zero else [0.0, 0.0, 0.0])
    model.train()
    name = f"epoch {epoch + 1}/{config.n_epochs}"
    hide_bar = hide_bar or not fabric.is_global_zero

    def keep_progress() -> None:
        progress.totals = _sum(fabric, totals)
        progress.seconds = spent + time.perf_counter() - started
        keep()

    with (
        stopping_later() as is_stop_asked,
        tqdm(total=len(order), initial=progress.step, desc=name, unit="step", leave=False, disable=hide_bar) as bar,
    ):
        before = time.perf_counter()
        for batch in loader(dataset, order[progress.step :], config.num_workers, fabric.device, is_stop_asked):
            features, is_old = fabric.to_device(batch)
            progress.waited += time.perf_counter() - before
            step = epoch * len(order) + progress.step
            torch.manual_seed(_seed(config.seed, step, fabric.global_rank))
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, num_steps, config)
            logits = model(features)
            loss = F.binary_cross_entropy_with_logits(logits.float(), is_old)
            # All processes stop after the same step, whichever was asked to, and keep when the first one's clock says.
            is_due = time.perf_counter() - kept > 60 * config.checkpoint_minutes
            wishes = loss.new_tensor([is_stop_asked(), is_due and fabric.is_global_zero])
            mean_loss, stops, keeps = fabric.all_reduce(torch.stack([loss.detach(), *wishes])).tolist()
            if not math.isfinite(mean_loss):
                raise Failure(
                    f"step {step + 1}: the loss is {mean_loss}; try a lower training.learning_rate, "
                    f"training.warmup_steps or training.gradient_clip"
                )
            optimizer.zero_grad()
            fabric.backward(loss)
            if clip := config.gradient_clip:
                norm = fabric.clip_gradients(model, optimizer, max_norm=clip, error_if_nonfinite=False)
                # Gradients of a loss scaled for float16 do overflow; such a step is skipped and the scale lowered.
                if not (_scaler(fabric) or norm.isfinite()):
                    raise Failure(
                        f"step {step + 1}: the loss is {mean_loss:.4g}, but the norm of its gradients {norm}; try a "
                        f"lower training.learning_rate or training.warmup_steps"
                    )
            optimizer.step()
            num_correct = ((logits > 0) == (is_old > 0)).sum().item()
            totals += loss.item() * is_old.numel(), num_correct, is_old.numel()
            progress.step += 1
            bar.set_postfix(loss=f"{totals[0] / totals[2]:.4f}", accuracy=f"{totals[1] / totals[2]:.4f}", refresh=False)
            bar.update()
            if stops or keeps or progress.step == len(order):
                keep_progress()
                kept = time.perf_counter()
            if stops:
                raise Stopped(f"a signal after step {step + 1}")
            before = time.perf_counter()
    if show_timing and fabric.is_global_zero:
        print(f"{name}: {progress.seconds:.2f} s, of which {progress.waited:.2f} s waiting for data")
    loss, accuracy = _means(progress.totals)
    return {
        "epoch": epoch + 1,
        "step": (epoch + 1) * len(order),
        "learning_rate": optimizer.param_groups[0]["lr"],
        "train_loss": loss,
        "train_accuracy": accuracy,
    }


@torch.no_grad()
def answers(
    fabric: Fabric, model: nn.Module, dataset: EpisodeDataset, config: TrainingConfig
) -> Iterator[tuple[Tensor, Tensor]]:
    """Ask a model about this process's share of the episodes: yields logits and is_old, (B, P) each, in their order."""
    order = batches(len(dataset), config.batch_size, None, fabric.global_rank, fabric.world_size)
    model.eval()
    for batch in loader(dataset, order, config.num_workers, fabric.device):
        features, is_old = fabric.to_device(batch)
        with fabric.autocast():
            yield model(features).float(), is_old


def score(fabric: Fabric, model: nn.Module, dataset: EpisodeDataset, config: TrainingConfig) -> tuple[float, float]:
    """Mean loss and accuracy of `model` over all episodes of `dataset`."""
    totals = np.zeros(3)
    for logits, is_old in answers(fabric, model, dataset, config):
        loss = F.binary_cross_entropy_with_logits(logits, is_old, reduction="sum").item()
        totals += loss, ((logits > 0) == (is_old > 0)).sum().item(), is_old.numel()
    return _means(_sum(fabric, totals))


def learning_rate(step: int, num_steps: int, config: TrainingConfig) -> float:
    """The rate at `step` of `num_steps`, counted from 0: a linear rise over warmup_steps, then constant or cosine."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - config.warmup_steps) / max(1, num_steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def checkpoint(fabric: Fabric, model: nn.Module, optimizer: Optimizer, progress: Progress) -> dict[str, Any]:
    """All that `restore` needs to go on from here."""
    scaler = _scaler(fabric)
    return {
        "model": model.module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict() if scaler else None,
        "progress": asdict(progress),
    }


def restore(run: Run, fabric: Fabric, model: nn.Module, optimizer: Optimizer) -> Progress:
    """Take up the newest checkpoint that is whole; returns how far the run had come."""
    if fabric.is_global_zero:
        run.drop_damaged_checkpoint()
    fabric.barrier()
    if (state := run.load_last()) is None:
        return Progress()
    model.module.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if state["scaler"]:
        _scaler(fabric).load_state_dict(state["scaler"])
    return Progress(**state["progress"])


class _MixedPrecision(MixedPrecision):
    """Fabric's, but features come to the model as they are stored: Fabric would round float16's 11 bits to bfloat16's
    8 before they are standardised, which doubles the error of some gradients."""

    def convert_input(self, data: Any) -> Any:
        return data


def precision_of(precision: str | int, device: str) -> Precision:
    """What makes Fabric compute in a precision; "auto" takes bfloat16 where the GPU has it, float16 on older ones."""
    if precision == "auto":
        has_bfloat16 = device == "cuda" and torch.cuda.get_device_capability() >= (8, 0)
        precision = 32 if device == "cpu" else "bf16" if has_bfloat16 else 16
    if device == "cpu" and precision == 16:
        raise InputError("training.precision: 16 needs a GPU; use 32 or bf16 on the CPU")
    return Precision() if precision == 32 else _MixedPrecision(f"{precision}-mixed", device)


def _scaler(fabric: Fabric) -> torch.amp.GradScaler | None:
    """What scales losses in float16, by the overflows that it has seen."""
    return getattr(fabric.strategy.precision, "scaler", None)


def _seed(*numbers: int) -> int:
    """One seed for torch from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _sum(fabric: Fabric, totals: np.ndarray) -> list[float]:
    """The totals of all processes together."""
    totals = torch.tensor(totals, dtype=torch.float64, device=fabric.device)
    return fabric.all_reduce(totals, reduce_op="sum").tolist()


def _means(totals: list[float]) -> tuple[float, float]:
    """Mean loss and accuracy."""
    loss, num_correct, num_answers = totals
    return loss / num_answers, num_correct / num_answers
