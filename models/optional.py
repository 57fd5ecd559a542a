"""Packages that are used where they are installed: present, absent or broken, and a broken one is told of."""

import functools
import importlib
import importlib.util
import logging
import sys
from importlib.metadata import packages_distributions, version
from types import ModuleType
from typing import Literal, NamedTuple

log = logging.getLogger(__name__)


class Kernel(NamedTuple):
    """What an optional package computes, and what does so without it."""

    what: str
    package: str  # what pip installs
    module: str  # what is imported of it
    fallback: str


MAMBA2 = Kernel("Mamba2 on a GPU", "mamba-ssm", "mamba_ssm.ops.triton.ssd_combined", "our chunked form in plain torch")
KERNELS = [
    MAMBA2,
    Kernel("FlexAttention, and UR-LSTM on a GPU", "triton", "triton", "attention by pieces, a loop of plain steps"),
    Kernel("UR-LSTM on the CPU", "numba", "numba", "a plain loop in torch"),
    Kernel("kNN memory with backend: faiss", "faiss-cpu", "faiss", "nothing; backend: exact needs no package"),
]


class Found(NamedTuple):
    """What became of an import: `module` is None where it failed, `error` says why if the package is installed."""

    module: ModuleType | None
    error: str = ""

    @property
    def state(self) -> Literal["present", "absent", "broken"]:
        return "present" if self.module else "broken" if self.error else "absent"


class KernelState(NamedTuple):
    """A line about one of KERNELS on this machine; `runs` is what computes here."""

    what: str
    package: str
    version: str  # empty where it is absent
    state: Literal["present", "absent", "broken"]
    error: str
    runs: str


def optional_kernels() -> list[KernelState]:
    """Which of KERNELS run here."""
    lines = []
    for what, package, module, fallback in KERNELS:
        found = find_module(module)
        runs = package if found.module else fallback
        number = "" if found.state == "absent" else _version(module)
        lines.append(KernelState(what, package, number, found.state, found.error, runs))
    return lines


@functools.cache
def load(kernel: Kernel, tell_absent: bool = False) -> ModuleType | None:
    """The module of a kernel, or None. Says once, in one line, if it is installed and fails; if absent, where asked."""
    found = find_module(kernel.module)
    if found.state == "broken":
        log.warning(
            "%s is installed but cannot be imported, so %s runs as %s; install it anew for this torch or remove it: %s",
            *(kernel.package, kernel.what, kernel.fallback, found.error),
        )
    elif found.state == "absent" and tell_absent:
        log.warning("%s runs as %s: %s is not installed", kernel.what, kernel.fallback, kernel.package)
    return found.module


@functools.cache
def find_module(name: str) -> Found:
    """Import a package, or a module inside one, that need not be there.

    A module inside a package is imported without what the package itself imports, of which mamba-ssm's kernel, say,
    needs nothing: a library compiled for one torch alone, and names that transformers has dropped.
    """
    package = name.partition(".")[0]
    try:
        if importlib.util.find_spec(package) is None:
            return Found(None)
        return Found(importlib.import_module(name) if name == package else _import_inside(package, name))
    except ModuleNotFoundError as error:
        return Found(None, "" if error.name == package else _told(error))
    except Exception as error:  # of any kind: a missing symbol, a library that does not load, a compiler's complaint
        return Found(None, _told(error))


def _told(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _import_inside(package: str, name: str) -> ModuleType:
    if package in sys.modules:
        return importlib.import_module(name)
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    sys.modules[package] = importlib.util.module_from_spec(spec)  # and not executed
    try:
        return importlib.import_module(name)
    finally:
        del sys.modules[package]  # whoever wants the package itself is to get all of it


def _version(module: str) -> str:
    """Of the package that a module belongs to, empty if there is none."""
    owners = packages_distributions().get(module.partition(".")[0], [])
    return version(owners[0]) if owners else ""
