"""Bad input by the hundred: values, names and bytes that no file of ours should hold, and what reading them came to."""

import multiprocessing
import os
import resource
import signal
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from recognition.common.command_line import LONGEST_MESSAGE, InputError, one_line
from recognition.features.feature_file import DamagedFile

NAMES = (
    *("../../x", "..", ".", "", "/tmp/x", "a/b", "~", "-f", "$HOME", "x" * 300, "a\0b", "two\nlines", "a\rb", "a b"),
    *("\x1b[31mred", "\u202egnp", "\ud800", "é", "фильм", "🎬", "<script>alert(1)</script>", "{0}", "%s", "NA", "nan"),
    *(
        "1e400",
        "-1",
        "0x10",
        "1_0",
        "٣",
        "true",
        "null",
        "~",
        "[1",
        "{a: b",
        "a: b",
        "&a",
        "*a",
        "!!int x",
        "2001-99-99",
    ),
)
texts = st.sampled_from(NAMES) | st.text(max_size=12)
numbers = (
    st.sampled_from([0, -1, 1, 2**31, -(2**31) - 1, 2**63, -(2**63) - 1, 2**64, 10**400, 1e308, -0.0, 5e-324])
    | st.integers()
    | st.floats()
)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts | st.dates() | st.binary(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts | st.integers(), inner, max_size=3),
    max_leaves=5,
)
LIMIT_S = 10  # of computing, for one file in a child process; all are read within milliseconds
MEMORY = 4 << 30  # bytes that reading one may take beside what the process has


def refused(error: InputError | DamagedFile, *names: object) -> None:
    """Check the message that a user sees: one line of a bearable length, which names the thing that is wrong."""
    line = one_line(str(error))
    assert 0 < len(line) < 2 * LONGEST_MESSAGE
    assert line.isprintable() or all(letter.isprintable() or letter.isspace() for letter in line)
    assert len(line.splitlines()) == 1
    assert any(one_line(str(name)) in line for name in names), line


def damaged(whole: bytes, num: int | None = None) -> Iterator[bytes]:
    """Damaged copies of a file, `num` or as many as the profile of hypothesis says, by its kind of seed."""
    rng = np.random.default_rng(0 if settings.default.derandomize else None)
    for _ in range(num or settings.default.max_examples):
        data = bytearray(whole)
        start, stop = sorted(rng.integers(0, len(data) + 1, 2).tolist())
        short = slice(start, min(stop, start + 64))
        match rng.integers(10):
            case 0:
                del data[start:]
            case 1:
                del data[short]
            case 2:
                data[short] = bytes(len(data[short]))
            case 3:
                data[short] = b"\xff" * len(data[short])
            case 4:
                data[start:start] = rng.bytes(int(rng.integers(1, 64)))
            case 5:
                data[start:stop] = rng.bytes(stop - start)
            case _:  # the most likely damage to go unnoticed
                for place in rng.integers(0, len(data), rng.integers(1, 9)):
                    data[place] ^= 1 << int(rng.integers(8))
        yield bytes(data)


def outcomes(read: Callable[[Path], Any], files: list[bytes], path: Path) -> list[str]:
    """What came of reading each of these contents of `path`: "read", "refused", or all about another exception.

    A child process reads them one after the other: libhdf5 is written in C and can be led into endless loops, or to
    read outside its memory, by a few bytes. Such a file is "killed by signal N", and another child goes on after it.
    """
    fork = multiprocessing.get_context("fork")
    found: list[str] = []
    while len(found) < len(files):
        receive, send = fork.Pipe(duplex=False)
        child = fork.Process(target=_read_each, args=(read, files[len(found) :], path, send))
        child.start()
        send.close()
        try:
            while True:
                found.append(receive.recv())
        except EOFError:
            child.join()
        if len(found) < len(files):
            found.append(f"killed by signal {-child.exitcode}")
    return found


def _read_each(read: Callable[[Path], Any], files: list[bytes], path: Path, send: Connection) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + MEMORY,) * 2)
    for data in files:
        path.write_bytes(data)
        signal.setitimer(signal.ITIMER_PROF, LIMIT_S)  # ends the process, whatever a library in C is doing
        try:
            read(path)
            send.send("read")
        except (InputError, DamagedFile) as error:
            refused(error, path, path.parent)
            send.send("refused")
        except Exception:
            send.send(traceback.format_exc())
    os._exit(0)
