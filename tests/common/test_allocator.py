"""Memory that is kept rather than returned to the system."""

import platform

import pytest
from conftest import ROOT, run_script

# Makes 100 MB and frees them five times; prints how many pages the system had to clear for that, before and after. Ten
# times more before, as it depends on where the heap begins how often a block must be made until one is free that fits.
ALLOCATE = """
import resource, torch
from recognition.common.allocator import keep_freed_memory
def cleared():
    for _ in range(10):
        torch.ones(25_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(25_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
returned = cleared()
keep_freed_memory()
print(returned, cleared())
"""

# Frees 100 MB that were kept below something that lives on; prints the megabytes held with it, kept, and given back.
GIVE_BACK = """
from recognition.common.allocator import give_back_freed_memory, keep_freed_memory
from benchmarks.measure import memory_of_process
keep_freed_memory()
held = [b"x" * 2**20 for _ in range(101)]  # zeros would take no memory
def megabytes(): return memory_of_process("VmRSS") // 2**20
print(megabytes())
del held[:-1]
print(megabytes())
give_back_freed_memory()
print(megabytes())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only the GNU C library can be told to")
def test_freed_memory_is_kept_for_the_next_tensors():
    result = run_script("-c", ALLOCATE, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    returned, kept = map(int, result.stdout.split())
    assert kept < returned / 2


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only the GNU C library can be told to")
def test_freed_memory_that_is_kept_can_be_given_back():
    result = run_script("-c", GIVE_BACK, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    held, kept, given_back = map(int, result.stdout.split())
    assert kept > held - 10
    assert given_back < held - 90
