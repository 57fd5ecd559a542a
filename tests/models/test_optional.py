"""Packages that need not be there: absent is quiet, installed but failing is told, a module inside is had alone."""

import importlib
import logging
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from models.optional import KERNELS, Kernel, find_module, load, optional_kernels

FAILURES = {
    "ImportError": 'raise ImportError("made_up.so: undefined symbol: _ZN3c104cuda")',
    "OSError": 'raise OSError("libcudart.so.11.0: cannot open shared object file")',
    "RuntimeError": 'raise RuntimeError("0 active drivers ([]).\\nThere should only be one.")',
    "ModuleNotFoundError": "import a_package_that_made_up_needs",
}


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Kernel]:
    """Write a package `made_up` where Python finds it, with this text in these files."""

    def write(**texts: str) -> Kernel:
        for place, text in texts.items():
            path = tmp_path / "made_up" / f"{place.replace('-', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return Kernel("the sum", "made-up", "made_up", "a plain loop")

    monkeypatch.syspath_prepend(tmp_path)
    yield write
    for name in [name for name in sys.modules if name.partition(".")[0] == "made_up"]:
        del sys.modules[name]
    find_module.cache_clear()
    load.cache_clear()


@pytest.mark.parametrize("kind", FAILURES)
def test_installed_package_that_fails_is_told_once_in_one_line(kind, install, caplog):
    kernel = install(__init__=FAILURES[kind])
    assert [load(kernel) for _ in range(3)] == [None] * 3
    assert find_module("made_up").state == "broken"
    [line] = caplog.messages
    assert line.startswith("made-up is installed but cannot be imported, so the sum runs as a plain loop; install it")
    assert f": {kind}: " in line
    assert "\n" not in line


def test_absent_package_is_quiet_unless_asked(caplog):
    kernel = Kernel("the sum", "made-up", "made_up_and_absent", "a plain loop")
    assert load(kernel) is None
    assert caplog.messages == []
    assert [load(kernel, tell_absent=True) for _ in range(2)] == [None, None]
    assert caplog.messages == ["the sum runs as a plain loop: made-up is not installed"]


def test_present_package_is_imported_in_silence(install, caplog):
    caplog.set_level(logging.DEBUG)
    assert load(install(__init__="answer = 42")).answer == 42
    assert find_module("made_up").state == "present"
    assert caplog.messages == []


INSIDE = {
    "__init__": "from made_up.ops.fast import total\nimport a_compiled_half_that_is_missing",
    "ops-__init__": "",
    "ops-fast": "from made_up.helpers import add\ntotal = add(40, 2)",
    "helpers": "def add(a, b): return a + b",
}


def test_module_inside_a_package_needs_nothing_that_the_package_imports(install):
    install(**INSIDE)
    assert find_module("made_up.ops.fast").module.total == 42


def test_package_of_which_a_module_was_taken_is_imported_whole_afterwards(install):
    install(**INSIDE | {"__init__": "from made_up.ops.fast import total\nfrom made_up import helpers\nwhole = True"})
    fast = find_module("made_up.ops.fast").module
    package = importlib.import_module("made_up")
    assert package.whole
    assert package.total == fast.total
    assert importlib.import_module("made_up.ops.fast") is fast


def test_module_that_an_installed_package_lacks_makes_it_broken(install):
    install(__init__="", other="")
    found = find_module("made_up.fast")
    assert (found.module, found.state) == (None, "broken")
    assert "made_up.fast" in found.error


def test_every_kernel_is_listed_with_what_runs_here():
    lines = {line.package: line for line in optional_kernels()}
    assert list(lines) == [kernel.package for kernel in KERNELS]
    for line in lines.values():
        assert (line.runs == line.package) == (line.state == "present")
        assert bool(line.error) == (line.state == "broken")
    assert lines["numba"].state == "present"
    assert lines["numba"].version == version("numba")
