"""Memory that is kept rather than returned to the system."""

import platform

import pytest
from conftest import ROOT, run_script

# Makes 100 MB and frees them five times; prints how many pages the system had to clear for that, before and after.
ALLOCATE = """
import resource, torch
from recognition.common.allocator import keep_freed_memory
def cleared():
    torch.ones(25_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(25_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
returned = cleared()
keep_freed_memory()
print(returned, cleared())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only the GNU C library can be told to")
def test_freed_memory_is_kept_for_the_next_tensors():
    result = run_script("-c", ALLOCATE, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    returned, kept = map(int, result.stdout.split())
    assert kept < returned / 2
