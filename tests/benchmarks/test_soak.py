"""The long run's judgement: what grew is seen, what merely went up and down is not."""

import subprocess
import sys

import pytest

from benchmarks.soak import Watch, usage


@pytest.mark.parametrize(
    ("memory", "files", "is_flat"),
    [
        ([100.0 + k % 3 for k in range(90)], [9] * 90, True),
        ([50.0 * (k > 5) + 100 for k in range(90)], [9] * 90, True),  # warm-up
        ([100 + 0.2 * k for k in range(90)], [9] * 90, False),
        ([100.0] * 90, [9 + k // 40 for k in range(90)], False),
    ],
    ids=["steady", "warming_up", "memory_grows", "files_grow"],
)
def test_growth_is_told_from_ups_and_downs(memory: list[float], files: list[int], is_flat: bool):
    assert Watch("part", memory, files).verdict()[1] == is_flat


def test_usage_counts_processes_that_a_process_has_started():
    child = "import subprocess, sys; x = bytearray(b'x' * {0}); {1}; print(flush=True); sys.stdin.read()"
    inner = (
        "subprocess.Popen([sys.executable, '-c', 'import sys; x = bytearray(b\"x\" * 60_000_000); sys.stdin.read()'])"
    )
    wait = "import time; time.sleep(1)"
    alone, with_child = (
        subprocess.Popen(
            [sys.executable, "-c", child.format(30_000_000, more)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for more in ("0", f"{inner}; {wait}")
    )
    try:
        for process in (alone, with_child):
            process.stdout.readline()
        assert 30 < usage(alone.pid)[0] < 60 < 90 < usage(with_child.pid)[0] < 130
        assert usage(alone.pid)[1] >= 3
    finally:
        for process in (alone, with_child):
            process.stdin.close()
            process.kill()
            process.wait()
