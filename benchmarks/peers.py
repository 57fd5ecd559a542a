"""Packages that only the benchmarks need, to compare with: pyproject.toml's extra `bench`."""

# transformers imports torchvision, which this import mends beside a torch without CUDA.
import recognition.features.backbone  # noqa: F401
from models.optional import find_module


def is_missing(package: str) -> bool:
    """Whether a peer cannot be imported; then one line says so, and what to do."""
    found = find_module(package)
    if found.module is None:
        reason = f"is installed but fails: {found.error}" if found.error else "is not installed"
        print(f"no comparison with {package}, which {reason}; pip install -e '.[bench]' brings it")
    return found.module is None
