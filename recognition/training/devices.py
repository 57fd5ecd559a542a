"""Where a training computes: one process or several, on CPUs or GPUs, and in which precision."""

import atexit
import inspect
import os
import time
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import ClusterEnvironment, MixedPrecision, Precision
from lightning_fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning_fabric.strategies import DDPStrategy
from torch.nn.parallel import DistributedDataParallel

from recognition.common.allocator import keep_freed_memory
from recognition.common.command_line import InputError
from recognition.training.companions import end_with_first, watch
from recognition.training.config import LoopConfig

# Buffers are constants here; sending them around at every step would also hang where ranks score unequal numbers of
# batches. torch 2.13 has another name for it, and warns of the old one.
_CONSTANT_BUFFERS: dict[str, Any] = {
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else "broadcast_buffers": False
}


def launch(config: LoopConfig) -> Fabric:
    """Start Fabric on the configured devices, a process for each. Raises InputError if there are too few.

    Under torchrun, which starts the processes itself, there are as many as it has started.
    """
    has_gpu = torch.cuda.is_available()
    device = config.device if config.device != "auto" else "cuda" if has_gpu else "cpu"
    num_devices, num_nodes = config.num_devices, 1
    # Named, because Fabric would else count its processes by SLURM's variables: one, in a job of one task.
    environment: ClusterEnvironment = LightningEnvironment()
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
    fabric = Fabric(
        accelerator=device,
        strategy=DDPStrategy(**_CONSTANT_BUFFERS) if num_devices * num_nodes > 1 else "auto",
        devices=num_devices,
        num_nodes=num_nodes,
        plugins=[environment, precision_of(config.precision, device)],
    )
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
    return Precision() if precision == 32 else _MixedPrecision("16-mixed" if precision == 16 else "bf16-mixed", device)
