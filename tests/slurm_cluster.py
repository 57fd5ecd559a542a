"""A SLURM cluster of three nodes on this machine: daemons that any user may start, with ports of their own."""

import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

LIMIT_S = 100  # for anything that is waited for, on a busy machine
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scancel", "scontrol", "sinfo", "squeue", "setpriv")
IS_MISSING = not all(shutil.which(program, path=PATH) for program in PROGRAMS)

# A job that was requeued may start again when the credential of its first start has expired. Partition urgent takes
# what it needs from partition usual; apart is left alone. The machine has fewer cores than the nodes say. KillOnBadExit
# ends all tasks of a step when one has failed, as some clusters do.
SLURM_CONF = """
ClusterName=small
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
KillOnBadExit=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
FirstJobId={ports[0]}
GresTypes=gpu
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=64 RealMemory=1000000 Gres=gpu:4
NodeName=two NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=64 RealMemory=1000000 Gres=gpu:4
NodeName=three NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[3]} CPUs=64 RealMemory=1000000 Gres=gpu:4
PartitionName=usual Nodes=one,two Default=YES PriorityTier=1
PartitionName=urgent Nodes=one,two PriorityTier=2
PartitionName=apart Nodes=three
"""
# SLURM counts devices and opens none of them.
GRES_CONF = "".join(f"Name=gpu File=/dev/{name}\n" for name in ("full", "null", "random", "zero"))
NODES = ("one", "two", "three")


class Cluster:
    """Starts the daemons; `end` it in any case."""

    def __init__(self, folder: Path):
        self.folder = folder
        names = {
            "host": socket.gethostname(),
            "user": getpass.getuser(),
            "folder": folder,
            "ports": free_ports(1 + len(NODES)),
        }
        (folder / "slurm.conf").write_text(SLURM_CONF.format(**names))
        (folder / "gres.conf").write_text(GRES_CONF)
        for name in ("state", *NODES):
            (folder / name).mkdir()
        own = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_", "SRUN_"))}
        self.environment = {**own, "PATH": PATH, "SLURM_CONF": str(folder / "slurm.conf")}
        commands = ["slurmctld", "-D"], *(["slurmd", "-D", "-N", name] for name in NODES)
        # They end with this process, also if it is killed.
        self.daemons = [
            subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *words],
                env=self.environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for words in commands
        ]

    def command(self, *words: object, **options) -> str:
        """Run one of SLURM's commands and return what it printed."""
        words = [str(word) for word in words]
        options = {"env": self.environment, "timeout": LIMIT_S, **options}
        result = subprocess.run(words, capture_output=True, text=True, **options)
        assert result.returncode == 0, f"{words}: status {result.returncode}: {result.stderr}"
        return result.stdout

    def wait_until(self, is_reached: Callable[[], bool], what: str, logs: Path | None = None) -> None:
        """Returns as soon as it is; fails after LIMIT_S with all that could say why."""
        deadline = time.monotonic() + LIMIT_S
        while not is_reached():
            if time.monotonic() > deadline:
                files = [*self.folder.glob("*.log"), *(logs.glob("slurm-*.out") if logs else [])]
                texts = [f"== {file}\n{file.read_text(errors='replace')[-5000:]}" for file in files]
                pytest.fail("\n".join([f"not within {LIMIT_S} s: {what}", *texts]))
            time.sleep(0.1)

    def is_ready(self) -> bool:
        """Whether all nodes wait for jobs."""
        with suppress(AssertionError):  # nobody answers yet
            return {"idle"} == set(self.command("sinfo", "--noheader", "--Node", "--format=%T").split())
        return False

    def end(self) -> None:
        """End all jobs and all daemons, those that do not answer, too."""
        with suppress(Exception, pytest.fail.Exception):
            self.command("scancel", "--user", getpass.getuser())
            self.wait_until(lambda: not self.command("squeue", "--noheader"), "end of all jobs")
        for daemon in self.daemons:
            daemon.terminate()
        for daemon in self.daemons:
            with suppress(subprocess.TimeoutExpired):
                daemon.wait(10)
        while left := self.processes():
            for process in left:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.05)

    def processes(self) -> list[int]:
        """All that runs in this cluster: its configuration is in their environment."""
        own = f"SLURM_CONF={self.environment['SLURM_CONF']}\0".encode()
        found = []
        for file in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):  # it has ended, or is another user's
                if own in file.read_bytes():
                    found.append(int(file.parent.name))
        return found


class Job:
    """A job, or an array of jobs, that was submitted from the folder of a project, where it writes its logs."""

    def __init__(self, cluster: Cluster, project: Path, *words: object, **variables: object):
        self.cluster, self.project = cluster, project
        variables = {"PYTHON": sys.executable, **variables}
        environment = {**cluster.environment, **{name: str(value) for name, value in variables.items()}}
        self.id = cluster.command("sbatch", "--parsable", *words, cwd=project, env=environment).strip()

    def wait_until(self, is_reached: Callable[[], bool], what: str) -> None:
        self.cluster.wait_until(is_reached, f"job {self.id}: {what}", self.project)

    def tasks(self) -> list[dict[str, str]]:
        """What `scontrol show job` says of each task, in their order; a job that is no array is one."""
        lines = self.cluster.command("scontrol", "show", "job", "--oneliner", self.id).splitlines()
        tasks = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in lines]
        return sorted(tasks, key=lambda task: int(re.sub(r"\D.*", "", task.get("ArrayTaskId", "0"))))

    def results(self) -> list[tuple[str, str, int]]:
        """Of each task, when all have ended: its state, exit status and how often it was requeued."""
        self.wait_until(lambda: not self.cluster.command("squeue", "--noheader", f"--jobs={self.id}"), "its end")
        return [(task["JobState"], task["ExitCode"], int(task["Restarts"])) for task in self.tasks()]

    def log(self) -> str:
        """What all tasks have printed so far, in their order."""
        files = sorted(self.project.glob(f"slurm-*-{self.id}.out")) + sorted(self.project.glob(f"slurm-*-{self.id}_*"))
        return "".join(file.read_text() for file in files)


def free_ports(number: int) -> list[int]:
    """Ports that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("", 0))
        return [one.getsockname()[1] for one in sockets]
