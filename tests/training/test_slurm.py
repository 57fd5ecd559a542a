"""jobs/slurm-*.sh on a SLURM cluster: what they train and make, and which of them go back into the queue."""

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, assert_same_run, config_text
from on_disk import rows
from slurm_cluster import IS_MISSING, Cluster, Job

pytestmark = pytest.mark.skipif(
    IS_MISSING, reason="SLURM IS MISSING: apt-get install slurmctld slurmd slurm-client, or the jobs go untried"
)
ENDED_WELL = ("COMPLETED", "0:0", 0)
NO_ARRAY = "sbatch: this job needs an array that starts at 1, such as --array=1-8\n"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.wait_until(cluster.is_ready, "all nodes are there")
        yield cluster
    finally:
        cluster.end()


@pytest.fixture(scope="module")
def long_job(cluster: Cluster, small_bank: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job whose time is nearly up.

    SLURM looks for such jobs half a minute after its own start, so this is submitted before the first test, but trains
    only then, for cores are few.
    """
    project = project_in(tmp_path_factory.mktemp("long"))
    (project / "long.yaml").write_text(config_text(small_bank, n_epochs=20_000))
    options = ("--begin=now+15", "--time=1", "--partition=apart")
    return Job(cluster, project, *options, "jobs/slurm-train.sh", "-f", "long.yaml")


@pytest.fixture
def sbatch(cluster: Cluster, project: Path) -> Callable[..., Job]:
    """Submit a job from the folder `project`, with words as behind sbatch, and variables."""
    return lambda *words, **variables: Job(cluster, project, *words, **variables)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return project_in(tmp_path)


def project_in(folder: Path) -> Path:
    """Make a folder look like the project's, so that what jobs write there stays out of ours."""
    for path in (*(ROOT / name for name in ("jobs", "models", "recognition")), *ROOT.glob("*.py")):
        (folder / path.name).symlink_to(path)
    return folder


def epochs_told(job: Job) -> list[int]:
    """The epochs in a log. They follow each other; one whose validation was broken off may be told twice."""
    epochs = [int(number) for number in re.findall(r"epoch (\d+)/\d+: training loss", job.log())]
    assert epochs[:1] in ([], [1])
    assert all(b - a in (0, 1) for a, b in pairwise(epochs)), job.log()
    return epochs


@pytest.mark.usefixtures("long_job")
def test_job_on_two_nodes_that_a_more_urgent_one_took_goes_on_to_the_same_weights(
    sbatch: Callable, project: Path, small_bank: Path
):
    (project / "run.yaml").write_text(config_text(small_bank, n_epochs=40))
    words = ("--nodes=2", "jobs/slurm-train.sh", "-f", "run.yaml")
    preempted = sbatch(*words, "--runs_dir=preempted")
    preempted.wait_until(lambda: epochs_told(preempted), "it tells an epoch")
    whole = sbatch("--partition=urgent", "--exclusive", *words, "--runs_dir=whole")
    assert whole.results() == [ENDED_WELL], whole.log()
    assert preempted.results() == [("COMPLETED", "0:0", 1)], preempted.log()
    assert whole.log().count("2 x cpu") == 1
    assert epochs_told(preempted)[-1] == 40
    assert_same_run(project / "preempted/run", project / "whole/run")


def test_job_whose_time_is_nearly_up_goes_on_later_and_stays_away_once_it_is_cancelled(cluster: Cluster, long_job: Job):
    long_job.wait_until(lambda: long_job.tasks()[0]["Restarts"] != "0", "it is back in the queue")
    assert re.search(
        r"train.py: stopped by (SIGUSR1|a signal after step \d+); the same command goes on", long_job.log()
    )
    so_far = len(epochs_told(long_job))
    long_job.wait_until(lambda: len(epochs_told(long_job)) > so_far + 1, "it goes on")
    cluster.command("scancel", long_job.id)
    assert [state for state, *_ in long_job.results()] == ["CANCELLED"]


def test_only_stopped_tasks_of_an_array_are_requeued(sbatch: Callable, stand_in: Callable):
    """Stopped with status 75, or by the signal itself, which the last two cannot answer yet."""
    python = stand_in(
        '[ -n "${SLURM_RESTART_COUNT:-}" ] && exit\n'
        "case $4 in 1) exit 1;; 2) exit 2;; 3) exit 75;; 4) kill -USR1 $$;; 5) kill -TERM $$;; esac"
    )
    job = sbatch("--array=1-5", "jobs/slurm-sweep.sh", "a.yaml", PYTHON=python)
    failed = [("FAILED", f"{status}:0", 0) for status in (1, 2)]
    assert job.results() == [*failed, *3 * [("COMPLETED", "0:0", 1)]], job.log()


def test_job_of_which_one_task_failed_is_not_requeued(sbatch: Callable, stand_in: Callable):
    """Were the other ended for it, as clusters may want, it would answer as one that was stopped, again and again."""
    python = stand_in(
        '[ -n "${SLURM_RESTART_COUNT:-}" ] && exit\n'
        'if [ "$RANK" = 1 ]; then sleep 1; exit 1; fi\n'
        "trap 'exit 75' TERM; sleep 3 & wait"
    )
    job = sbatch("--nodes=2", "jobs/slurm-train.sh", "-f", "a.yaml", PYTHON=python)
    assert job.results() == [("FAILED", "1:0", 0)], job.log()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("jobs/slurm-train.sh -f absent.yaml", r"train.py: error: absent.yaml: .+\nsrun: error: .+ exit code 2\n"),
        ("--chdir=.. jobs/slurm-train.sh -f a.yaml", r".* jobs/slurm.sh: No such file or directory\n"),
        ("jobs/slurm-array.sh a.yaml", NO_ARRAY),
        ("--array=0 jobs/slurm-array.sh a.yaml b.yaml", NO_ARRAY),
        ("--array=1 jobs/slurm-array.sh", r"slurm-array.sh: name the YAML files.*\n"),
        ("jobs/slurm-sweep.sh a.yaml", NO_ARRAY),
        ("jobs/slurm-preprocess.sh", NO_ARRAY),
    ],
)
def test_wrong_input_is_told_and_not_requeued(words: str, told: str, sbatch: Callable, project: Path):
    """Task 0 trained the last of the files, at the same time and in the same folder as the task that was due to."""
    job = sbatch(f"--output={project}/slurm-%x-%A.out", *words.split())
    assert job.results() == [("FAILED", "2:0", 0)], job.log()
    assert re.fullmatch(told, job.log()), job.log()


def test_the_interpreter_may_be_a_container_s(sbatch: Callable, stand_in: Callable):
    container = stand_in('[ "$1 $2" = "exec --nv" ] && shift 3 && printf "%s;" "$@"')
    job = sbatch("jobs/slurm-train.sh", "-f", "a b.yaml", PYTHON=f"{container} exec --nv memory.sif python")
    assert job.results() == [ENDED_WELL], job.log()
    assert job.log() == "python;train.py;--resume;-f;a b.yaml;"


def test_tasks_of_an_array_train_files_by_seeds(sbatch: Callable, project: Path, small_bank: Path):
    for name in ("one", "two"):
        (project / f"{name}.yaml").write_text(config_text(small_bank))
    job = sbatch("--array=2-3", "jobs/slurm-array.sh", "one.yaml", "two.yaml", "training.n_epochs=1")
    assert job.results() == 2 * [ENDED_WELL], job.log()
    configs = {
        run.parent.name: yaml.safe_load((run.parent / "config.yaml").read_text())["training"]
        for run in project.glob("runs/*/test.json")
    }
    assert {name: (config["seed"], config["n_epochs"]) for name, config in configs.items()} == {
        "two-seed0": (0, 1),
        "one-seed1": (1, 1),
    }


def test_a_task_of_a_sweep_trains_the_run_of_its_number(sbatch: Callable, project: Path, small_bank: Path):
    (project / "base.yaml").write_text(config_text(small_bank, n_epochs=1))
    (project / "small.yaml").write_text("""
program: train.py
method: grid
metric: {name: validation_loss}
parameters: {training.seed: {values: [5, 6, 7]}}
command: ['${program}', --config-file=base.yaml, '${args}']
""")
    job = sbatch("--array=2", "jobs/slurm-sweep.sh", "small.yaml")
    assert job.results() == [ENDED_WELL], job.log()
    assert [path.parent.name for path in project.glob("runs/small/*/test.json")] == ["seed=6"]


def test_tasks_of_preprocessing_share_the_films(sbatch: Callable, project: Path, films: Path):
    network = ("--backbone=shufflenet_v2_x0_5", "--weights=random:0", "--device=cpu", "--workers=0")
    job = sbatch("--array=1-2", "jobs/slurm-preprocess.sh", f"--input_dir={films}", *network)
    assert job.results() == 2 * [ENDED_WELL], job.log()
    assert job.log().count("2 films, 0 of them finished") == 2
    assert len(rows(project / "video-features/videos.csv")) == 4
