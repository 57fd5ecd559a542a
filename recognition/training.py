"""The training loop, the same for every model: epochs of shuffled episodes, scores, checkpoints."""

import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from recognition.command_line import Failure, InputError
from recognition.config import TrainingConfig
from recognition.dataset import EpisodeDataset, batches, loader
from recognition.runs import Run


def launch(config: TrainingConfig) -> Fabric:
    """Start Fabric on the configured devices, as many processes as devices. Raises InputError if there are too few."""
    has_gpu = torch.cuda.is_available()
    device = config.device if config.device != "auto" else "cuda" if has_gpu else "cpu"
    if device == "cuda":
        if not has_gpu:
            raise InputError("training.device: cuda, but torch sees no GPU on this machine; set it to cpu or auto")
        if config.num_devices > torch.cuda.device_count():
            raise InputError(
                f"training.num_devices: {config.num_devices}, but there are {torch.cuda.device_count()} GPUs"
            )
        torch.set_float32_matmul_precision("high")
    # Buffers are constants here; sending them around would also hang where ranks score unequal numbers of batches.
    strategy = DDPStrategy(broadcast_buffers=False) if config.num_devices > 1 else "auto"
    precision = _precision(config.precision, device)
    fabric = Fabric(accelerator=device, strategy=strategy, devices=config.num_devices, precision=precision)
    fabric.launch()
    return fabric


def train_epoch(
    fabric: Fabric,
    model: nn.Module,
    optimizer: Optimizer,
    dataset: EpisodeDataset,
    config: TrainingConfig,
    epoch: int,
    show_timing: bool = False,
) -> dict[str, float]:
    """One pass over the training episodes; returns its line of metrics.

    What is random in an epoch depends on (seed, epoch) alone, so a run resumed at an epoch's start goes on as if it
    had never stopped. Raises Failure, naming the step, before a loss that is not finite can spoil the weights.
    """
    torch.manual_seed(_seed(config.seed, epoch, fabric.global_rank))
    order = batches(len(dataset), config.batch_size, (config.seed, epoch), fabric.global_rank, fabric.world_size)
    num_steps = config.n_epochs * len(order)
    total_loss = num_correct = num_answers = 0.0
    waited, started = 0.0, time.perf_counter()
    model.train()
    name = f"epoch {epoch + 1}/{config.n_epochs}"
    with tqdm(total=len(order), desc=name, unit="step", leave=False, disable=not fabric.is_global_zero) as bar:
        before = time.perf_counter()
        for step, batch in enumerate(loader(dataset, order, config.num_workers, fabric.device)):
            features, is_old = fabric.to_device(batch)
            waited += time.perf_counter() - before
            step += epoch * len(order)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, num_steps, config)
            logits = model(features)
            loss = F.binary_cross_entropy_with_logits(logits.float(), is_old)
            mean_loss = fabric.all_reduce(loss.detach()).item()
            if not math.isfinite(mean_loss):
                raise Failure(
                    f"step {step + 1}: the loss is {mean_loss}; try a lower training.learning_rate, "
                    f"training.warmup_steps or training.gradient_clip"
                )
            optimizer.zero_grad()
            fabric.backward(loss)
            if config.gradient_clip:
                fabric.clip_gradients(model, optimizer, max_norm=config.gradient_clip)
            optimizer.step()
            total_loss += loss.item() * is_old.numel()
            num_correct += ((logits > 0) == (is_old > 0)).sum().item()
            num_answers += is_old.numel()
            accuracy = num_correct / num_answers
            bar.set_postfix(loss=f"{total_loss / num_answers:.4f}", accuracy=f"{accuracy:.4f}", refresh=False)
            bar.update()
            before = time.perf_counter()
    if show_timing:
        seconds = time.perf_counter() - started
        fabric.print(f"{name}: {seconds:.2f} s, of which {waited:.2f} s waiting for data")
    loss, accuracy = _means(fabric, total_loss, num_correct, num_answers)
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
    total_loss = num_correct = num_answers = 0.0
    for logits, is_old in answers(fabric, model, dataset, config):
        total_loss += F.binary_cross_entropy_with_logits(logits, is_old, reduction="sum").item()
        num_correct += ((logits > 0) == (is_old > 0)).sum().item()
        num_answers += is_old.numel()
    return _means(fabric, total_loss, num_correct, num_answers)


def learning_rate(step: int, num_steps: int, config: TrainingConfig) -> float:
    """The rate at `step` of `num_steps`, counted from 0: a linear rise over warmup_steps, then constant or cosine."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - config.warmup_steps) / max(1, num_steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def checkpoint(fabric: Fabric, model: nn.Module, optimizer: Optimizer, epoch: int, best: list[float]) -> dict[str, Any]:
    """All that `restore` needs to go on after `epoch` epochs; best is [accuracy, -loss] on validation."""
    scaler = getattr(fabric.strategy.precision, "scaler", None)  # float16 scales its losses by what it has seen
    return {
        "model": model.module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict() if scaler else None,
        "epoch": epoch,
        "best": best,
    }


def restore(run: Run, fabric: Fabric, model: nn.Module, optimizer: Optimizer) -> tuple[int, list[float] | None]:
    """Take up the last checkpoint; returns how many epochs are done and the best scores so far."""
    if (state := run.load_last()) is None:
        return 0, None
    model.module.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if state["scaler"]:
        fabric.strategy.precision.scaler.load_state_dict(state["scaler"])
    return state["epoch"], state["best"]


def _precision(precision: str | int, device: str) -> str:
    """Fabric's name for a precision; "auto" takes bfloat16 where the GPU has it, float16 on older ones."""
    if precision == "auto":
        has_bfloat16 = device == "cuda" and torch.cuda.get_device_capability() >= (8, 0)
        precision = 32 if device == "cpu" else "bf16" if has_bfloat16 else 16
    if device == "cpu" and precision == 16:
        raise InputError("training.precision: 16 needs a GPU; use 32 or bf16 on the CPU")
    return {32: "32-true", "bf16": "bf16-mixed", 16: "16-mixed"}[precision]


def _seed(*numbers: int) -> int:
    """One seed for torch from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _means(fabric: Fabric, total_loss: float, num_correct: float, num_answers: float) -> tuple[float, float]:
    """Mean loss and accuracy over the answers of all processes."""
    totals = torch.tensor([total_loss, num_correct, num_answers], dtype=torch.float64, device=fabric.device)
    total_loss, num_correct, num_answers = fabric.all_reduce(totals, reduce_op="sum").tolist()
    return total_loss / num_answers, num_correct / num_answers
