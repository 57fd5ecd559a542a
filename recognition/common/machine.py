"""How much of its machine a process may use: what a container, a job or an affinity grants, not what is built in.

Loads no library, so that numbers of threads can be set before those that compute are loaded.
"""

import os
from collections.abc import Iterator
from pathlib import Path

MEBIBYTE = 1 << 20
# Turns of GNU's OpenMP, 0.1 ms. With its own 300,000 training beside another is several times slower (docs/speed.md),
# with none at all, as OMP_WAIT_POLICY=PASSIVE has it, training alone by a quarter.
SPINS = 3000


def share_cores() -> None:
    """Set, where the user has not, how torch's threads wait for each other, and how many there are where fewer cores
    are granted than they would count. To be called before torch is loaded; processes started later do likewise.

    A thread that waits spins for a while before it sleeps. Where another program wants its core, those that it waits
    for do not get on meanwhile.
    """
    if (num_cores := granted_cores()) < len(os.sched_getaffinity(0)):
        os.environ.setdefault("OMP_NUM_THREADS", str(num_cores))
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))


def granted_cores(root: str | Path = "/") -> int:
    """Cores that this process may keep busy, at least 1.

    The smallest of its affinity, the quotas of its control groups (v1 and v2, nested ones too) and what SLURM says.
    Processes that were started together on this machine share them (LOCAL_WORLD_SIZE of torchrun), but each task of
    SLURM has an affinity and a SLURM_CPUS_PER_TASK of its own. `root` is where /proc and /sys are looked for.
    """
    num_processes = _number("LOCAL_WORLD_SIZE") or 1
    num_a_task = max(1, num_processes // _tasks_here())
    of_task = [len(os.sched_getaffinity(0)), _number("SLURM_CPUS_PER_TASK")]
    of_all = [_number("SLURM_CPUS_ON_NODE"), *_quotas(Path(root))]
    shares = [cores / num_a_task for cores in of_task if cores] + [cores / num_processes for cores in of_all if cores]
    return max(1, int(min(shares)))


def granted_memory(root: str | Path = "/") -> int:
    """Bytes of memory that this process and those beside it may take together: the smallest of the machine's, the
    limits of its control groups and what SLURM says. `root` as in `granted_cores`."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *_memory_limits(Path(root))]
    num_cpus = _number("SLURM_CPUS_ON_NODE") or (_number("SLURM_CPUS_PER_TASK") or 1) * _tasks_here()
    mebibytes = [_number("SLURM_MEM_PER_NODE"), (_number("SLURM_MEM_PER_CPU") or 0) * num_cpus]
    return min(limits + [MEBIBYTE * size for size in mebibytes if size])


def _number(variable: str) -> int | None:
    """A number above 0 in the environment; SLURM writes 0 for no limit."""
    text = os.environ.get(variable, "")
    return int(text) or None if text.isdecimal() else None


def _tasks_here() -> int:
    """Tasks that srun has started on this machine together with this one."""
    return max(1, (_number("SLURM_STEP_NUM_TASKS") or 1) // (_number("SLURM_STEP_NUM_NODES") or 1))


def _quotas(root: Path) -> Iterator[float]:
    """Cores' worth of time that each of the control groups grants."""
    for group in _groups(root):
        quota = _words(group / "cpu.max") or _words(group / "cpu.cfs_quota_us") + _words(group / "cpu.cfs_period_us")
        if len(quota) == 2 and all(word.isdecimal() for word in quota):  # no limit is "max", in v1 -1
            yield int(quota[0]) / int(quota[1])


def _memory_limits(root: Path) -> Iterator[int]:
    for group in _groups(root):
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
            yield from (int(word) for word in _words(group / name) if word.isdecimal())


def _groups(root: Path) -> Iterator[Path]:
    """Folders of the control groups that this process is in, and of those around them up to the mounted one."""
    mounts = [line.split(" - ", 1) for line in _lines(root / "proc/self/mountinfo") if " - cgroup" in line]
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        for mount, system in mounts:
            top, point = mount.split()[3:5]
            kind, *_, options = system.split()
            is_its_own = set(controllers.split(",")) <= set(options.split(",")) if controllers else kind == "cgroup2"
            if not is_its_own:
                continue
            folder = root / point.lstrip("/")
            within = Path(path).relative_to(top) if Path(path).is_relative_to(top) else Path()
            for group in (within, *within.parents):
                if ".." not in group.parts:
                    yield folder / group


def _lines(path: Path) -> list[str]:
    """The lines of a file, none if there is no such file."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []


def _words(path: Path) -> list[str]:
    return [word for line in _lines(path) for word in line.split()]
