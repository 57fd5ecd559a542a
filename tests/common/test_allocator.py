"""Memory that is kept rather than returned to the system."""

import platform
import subprocess
import sys

import pytest

# Makes 100 MB and frees them twenty times; prints how many pages the system had to clear for that.
ALLOCATE = """
import resource, sys, torch
from recognition.common.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
torch.ones(25_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(25_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only the GNU C library can be told to")
def test_freed_memory_is_kept_for_the_next_tensors():
    faults = {
        how: int(subprocess.run([sys.executable, "-c", ALLOCATE, how], capture_output=True, check=True).stdout)
        for how in ("kept", "returned")
    }
    assert faults["kept"] < faults["returned"] / 2
