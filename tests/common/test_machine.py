"""What is granted: made-up control groups, affinity and SLURM's variables; the smallest of them counts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from recognition.common.machine import SPINS, granted_cores, granted_memory, share_cores

GIBIBYTE = 1 << 30
MOUNTS = {
    "v2": "25 22 0:1 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n",
    "v1": "31 23 0:2 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
    "32 31 0:3 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:4 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n",
    # A container without a namespace of its own sees its group mounted, under the name it has outside.
    "container": "32 31 0:3 /docker/a1 /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:4 /docker/a1 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
}
GROUPS = {
    "v2": "0::/slurm/job_7/step_0\n",
    "v1": "5:cpu,cpuacct:/slurm/job_7\n4:memory:/slurm/job_7\n1:name=systemd:/\n0::/\n",
    "container": "5:cpu,cpuacct:/docker/a1\n4:memory:/docker/a1\n",
}


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen cores, 64 GiB, and no scheduler."""
    for name in [name for name in os.environ if name.startswith("SLURM_") or name == "LOCAL_WORLD_SIZE"]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr("os.sysconf", {"SC_PHYS_PAGES": 64 * GIBIBYTE // 4096, "SC_PAGE_SIZE": 4096}.get)


def grant(root: Path, system: str, limits: dict[str, str]) -> Path:
    """A made-up machine below `root` with control groups, and files in their folders."""
    files = {"proc/self/mountinfo": MOUNTS[system], "proc/self/cgroup": GROUPS[system]}
    files |= {f"sys/fs/cgroup/{name}": text for name, text in limits.items()}
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("system", "limits", "cores"),
    [
        ("v2", {"slurm/job_7/step_0/cpu.max": "400000 100000\n"}, 4),
        ("v2", {"slurm/cpu.max": "350000 100000\n", "slurm/job_7/step_0/cpu.max": "max 100000\n"}, 3),
        ("v2", {"slurm/job_7/cpu.max": "50000 100000\n"}, 1),
        ("v2", {"slurm/job_8/cpu.max": "100000 100000\n"}, 16),  # of another job
        ("v2", {}, 16),
        ("v1", {"cpu,cpuacct/slurm/cpu.cfs_quota_us": "600000", "cpu,cpuacct/slurm/cpu.cfs_period_us": "100000"}, 6),
        ("v1", {"cpu,cpuacct/cpu.cfs_quota_us": "-1\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, 16),
        ("container", {"cpu,cpuacct/cpu.cfs_quota_us": "200000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 2),
    ],
)
def test_quota_of_any_control_group_around_is_the_number_of_cores(tmp_path, system, limits, cores):
    assert granted_cores(grant(tmp_path, system, limits)) == cores


@pytest.mark.parametrize(
    ("system", "limits", "gibibytes"),
    [
        ("v2", {"slurm/job_7/memory.max": f"{8 * GIBIBYTE}\n", "slurm/job_7/step_0/memory.max": "max\n"}, 8),
        ("v2", {"slurm/job_7/memory.max": f"{8 * GIBIBYTE}\n", "slurm/memory.high": f"{6 * GIBIBYTE}\n"}, 6),
        ("v2", {}, 64),
        ("v1", {"memory/slurm/job_7/memory.limit_in_bytes": f"{2 * GIBIBYTE}\n"}, 2),
        ("v1", {"memory/slurm/job_7/memory.limit_in_bytes": "9223372036854771712\n"}, 64),  # no limit
        ("container", {"memory/memory.limit_in_bytes": f"{3 * GIBIBYTE}\n"}, 3),
    ],
)
def test_limit_of_any_control_group_around_is_the_memory(tmp_path, system, limits, gibibytes):
    assert granted_memory(grant(tmp_path, system, limits)) == gibibytes * GIBIBYTE


@pytest.mark.parametrize(
    ("variables", "cores", "gibibytes"),
    [
        ({"SLURM_CPUS_PER_TASK": 6, "SLURM_CPUS_ON_NODE": 6, "SLURM_MEM_PER_CPU": 2048}, 6, 12),
        ({"SLURM_CPUS_ON_NODE": 4, "SLURM_MEM_PER_NODE": 10240}, 4, 10),
        ({"SLURM_CPUS_PER_TASK": 3, "SLURM_MEM_PER_CPU": 1024}, 3, 3),
        ({"SLURM_MEM_PER_NODE": 0}, 16, 64),  # all that there is
        ({"SLURM_CPUS_PER_TASK": 64, "SLURM_MEM_PER_NODE": 1 << 20}, 16, 64),
        ({"LOCAL_WORLD_SIZE": 4}, 4, 64),
        ({"LOCAL_WORLD_SIZE": 40}, 1, 64),
        # torchrun in one task, whose cores its processes share; and tasks of srun, each with cores of its own
        ({"SLURM_CPUS_PER_TASK": 12, "LOCAL_WORLD_SIZE": 4}, 3, 64),
        (
            {"SLURM_CPUS_PER_TASK": 3, "LOCAL_WORLD_SIZE": 4, "SLURM_STEP_NUM_TASKS": 8, "SLURM_STEP_NUM_NODES": 2},
            3,
            64,
        ),
    ],
)
def test_what_a_scheduler_grants_counts_where_nothing_enforces_it(tmp_path, monkeypatch, variables, cores, gibibytes):
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    assert granted_cores(tmp_path) == cores
    assert granted_memory(tmp_path) == gibibytes * GIBIBYTE


def test_processes_of_torchrun_share_a_quota(tmp_path, monkeypatch):
    root = grant(tmp_path, "v2", {"slurm/cpu.max": "800000 100000\n"})
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert granted_cores(root) == 2


def test_odd_files_of_control_groups_limit_nothing(tmp_path):
    root = grant(tmp_path, "v2", {"cpu.max": "", "slurm/cpu.max": "many", "slurm/memory.max": "little", "x": ""})
    assert (granted_cores(root), granted_memory(root)) == (16, 64 * GIBIBYTE)
    (root / "proc/self/cgroup").write_text("0::/../../elsewhere\n")
    assert granted_cores(root) == 16


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"GOMP_SPINCOUNT": str(SPINS)}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ({"SLURM_CPUS_PER_TASK": "3"}, {"GOMP_SPINCOUNT": str(SPINS), "OMP_NUM_THREADS": "3"}),
        (
            {"SLURM_CPUS_PER_TASK": "3", "OMP_NUM_THREADS": "5"},
            {"GOMP_SPINCOUNT": str(SPINS), "OMP_NUM_THREADS": "5"},
        ),
    ],
)
def test_threads_share_the_cores_unless_the_user_says_how(monkeypatch: pytest.MonkeyPatch, given, expected):
    names = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS"}
    monkeypatch.setattr("os.environ", given.copy())
    share_cores()
    assert {name: value for name, value in os.environ.items() if name in names} == expected


def test_threads_are_told_how_to_wait_before_torch_is_loaded():
    """Their library reads it once, when it is loaded."""
    code = (
        "import sys, recognition.common.command_line, os; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert told.stdout == f"{SPINS} False\n"
