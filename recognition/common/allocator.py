"""How the C library handles memory that tensors on a CPU free."""

import ctypes


def keep_freed_memory() -> None:
    """Let this process and its children keep up to 1 GiB that they free, for what they allocate next.

    Otherwise each batch's tensors go back to the system, which clears every page that it hands out again: a tenth of
    the time of a network. Only the GNU C library has these switches; with another one nothing changes.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        for option in (-1, -3):  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of its malloc.h
            mallopt(option, 2**30)


def give_back_freed_memory() -> None:
    """Return what this process has freed and kept to the system: for before a fork.

    While both live, each page of the time before costs a fault, a copy and a word to all cores when it is first written
    to again: several times what a new one costs. Only the GNU C library has this.
    """
    if malloc_trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        malloc_trim(0)
