"""Packages that only the benchmarks need, to compare with: pyproject.toml's extra `bench`."""

import importlib

# transformers imports torchvision, which this import mends beside a torch without CUDA.
import recognition.backbone  # noqa: F401


def is_missing(package: str) -> bool:
    """Whether a peer cannot be imported; then one line says so, and what to do."""
    try:
        importlib.import_module(package)
    except ImportError as error:
        reason = "is not installed" if isinstance(error, ModuleNotFoundError) else f"fails: {error}"
        print(f"no comparison with {package}, which {reason}; pip install -e '.[bench]' brings it")
        return True
    return False
