"""On what everything is measured: card, driver, versions, and which kernels run or stand in for others."""

import platform
import shutil
import subprocess
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import torch

from models.optional import optional_kernels
from recognition.common.machine import granted_cores, granted_memory

PACKAGES = ["torch", "torchvision", "numpy", "lightning-fabric", "xlstm", "transformers", "av"]


def machine(device: str, seconds: float) -> Iterator[dict[str, Any]]:
    if device == "cuda":
        card = torch.cuda.get_device_properties(0)
        yield {"what": "card", "value": card.name, "GB": round(card.total_memory / 1e9, 1)}
        yield {"what": "compute capability", "value": f"{card.major}.{card.minor}"}
        yield {"what": "driver", "value": driver()}
        yield {"what": "CUDA of torch", "value": torch.version.cuda, "cuDNN": torch.backends.cudnn.version()}
    yield {"what": "processor", "value": f"{granted_cores()} cores, {granted_memory() / 1e9:.0f} GB"}
    yield {"what": "system", "value": platform.platform(), "Python": platform.python_version()}
    for package in PACKAGES:
        try:
            yield {"what": package, "value": metadata.version(package)}
        except metadata.PackageNotFoundError:
            yield {"what": package, "value": "not installed"}
    for kernel in optional_kernels():
        # A fallback is right where a package is missing, and wrong where it is there and does not work.
        yield {
            "what": f"kernel: {kernel.what}",
            "value": kernel.runs,
            "package": f"{kernel.package} {kernel.version}".strip(),
            "state": kernel.state,
            "error": kernel.error or None,
            "is_good": kernel.state != "broken",
        }


def driver() -> str:
    """Version of the driver, as its own tool tells it."""
    if shutil.which("nvidia-smi") is None:
        return "unknown: there is no nvidia-smi"
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    result = subprocess.run(words, capture_output=True, text=True, timeout=20)
    return result.stdout.splitlines()[0] if result.returncode == 0 and result.stdout else "unknown"
