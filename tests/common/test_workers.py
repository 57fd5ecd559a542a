"""Worker processes: what they make arrives whole, and whatever ends one ends the waiting for it."""

import faulthandler
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, SMALL_FEATURES, run_anew
from forking import Forked

from recognition.common.command_line import Failure
from recognition.common.workers import done_by_workers

ADVICE = "lower --workers (2)"
LARGE = torch.arange(3_000_000, dtype=torch.int32)  # more than a socket holds


def crash(task: int, how: str) -> tuple[str, int, str]:
    """What takes the place of a task's end when a worker crashed over it."""
    return "crash", task, how


@pytest.mark.parametrize("num_workers", [0, 1, 3, 9])
def test_all_that_workers_make_arrives_as_it_was_made(num_workers: int):
    def work(task: int) -> Iterator[tuple]:
        for part in range(task):
            yield task, part, LARGE + task, np.full(part, 0.5), torch.empty(0, 3)

    made = list(done_by_workers(work, "abcdef", num_workers, ADVICE, crash))
    assert sorted(item[:2] for item in made) == [(task, part) for task in range(6) for part in range(task)]
    for task in range(6):
        assert [item[1] for item in made if item[0] == task] == list(range(task))
    for task, part, large, array, empty in made:
        assert torch.equal(large, LARGE + task)
        assert (array.tolist(), empty.shape) == ([0.5] * part, (0, 3))


def test_worker_computes_with_one_thread():
    assert list(done_by_workers(lambda _: [torch.get_num_threads()], "ab", 2, "", crash)) == [1, 1]


def test_signals_are_left_to_the_parent_of_workers():
    def work(task: int) -> Iterator[int]:
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            os.kill(os.getpid(), number)
            yield task

    assert sorted(done_by_workers(work, "ab", 2, "", crash)) == [0, 0, 0, 1, 1, 1]


def fail(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


def die_of(number: signal.Signals) -> Callable[[], None]:
    def work() -> None:
        faulthandler.disable()  # pytest's, which would tell of it
        os.kill(os.getpid(), number)

    return work


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (die_of(signal.SIGKILL), "its worker was killed, most likely for want of memory; "),
        (lambda: os._exit(3), "its worker ended with status 3; "),
        (fail(MemoryError()), "a worker failed (MemoryError: ); if memory is short, "),
        (fail(SystemExit("enough")), "a worker failed (SystemExit: enough); if memory is short, "),
        (fail(BrokenPipeError(32, "gone")), "a worker failed (BrokenPipeError: [Errno 32] gone); "),
        (fail(EOFError("no more")), "a worker failed (EOFError: no more); "),
        (lambda: threading.Lock(), "a worker failed (TypeError: cannot pickle '_thread.lock' object); "),
    ],
    ids=["killed", "exited", "no_memory", "exit", "broken_pipe", "end_of_file", "cannot_be_sent"],
)
def test_fault_of_a_worker_is_told_with_its_task_and_what_to_do(
    fault: Callable, told: str, num_workers: int, capfd: pytest.CaptureFixture
):
    def work(task: int) -> Iterator:
        yield task
        if task == 1:
            yield fault()
        time.sleep(60 * (task > 1))

    with pytest.raises(Failure) as failure:
        list(done_by_workers(work, ["a.mp4", "b.mp4", "c.mp4"], num_workers, ADVICE, crash))
    assert str(failure.value).startswith(f"b.mp4: {told}")
    assert str(failure.value).endswith(ADVICE)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("num_workers", [1, 2, 5])
@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT])
def test_task_over_which_a_worker_crashes_takes_no_other_with_it(number: signal.Signals, num_workers: int):
    def work(task: int) -> Iterator:
        yield "begun", task
        if task % 2:
            die_of(number)()
        yield "done", task

    made = list(done_by_workers(work, "abcd", num_workers, ADVICE, crash))
    how = f"a library crashed over it: signal {number.value} ({signal.strsignal(number)})"
    for task in range(4):
        last = crash(task, how) if task % 2 else ("done", task)
        assert [item for item in made if item[1] == task] == [("begun", task), last]


def test_worker_killed_while_it_sends_is_not_waited_for():
    def work(task: int) -> Iterator:
        yield os.getpid()
        yield LARGE

    made = done_by_workers(work, ["a.mp4"], 1, ADVICE, crash)
    worker = next(made)
    while state_of(worker) != "S":  # it waits for room in its socket
        time.sleep(0.01)
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(Failure, match=r"^a\.mp4: its worker was killed"):
        next(made)


@pytest.mark.parametrize("number", [None, signal.SIGSTOP])
def test_workers_end_with_the_iterator_whatever_they_do(number: signal.Signals | None):
    def work(task: int) -> Iterator:
        yield os.getpid()
        time.sleep(60)

    made = done_by_workers(work, "ab", 2, ADVICE, crash)
    workers = [next(made), next(made)]
    if number:
        os.kill(workers[0], number)
    made.close()
    assert [state_of(worker) for worker in workers] == ["", ""]


def test_workers_end_when_their_parent_is_killed():
    code = (
        "import os, time\n"
        "from recognition.common.workers import done_by_workers\n"
        "def work(task):\n"
        "    while True: yield os.getpid(); time.sleep(0.1)\n"
        "for worker in done_by_workers(work, 'abc', 3, '', None): print(worker, flush=True)"
    )
    process = Forked(["-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    workers: set[int] = set()
    while len(workers) < 3:
        workers.add(int(process.stdout.readline()))
    process.kill()
    process.communicate(timeout=30)  # returns when no process holds the pipe any more
    assert process.returncode == -signal.SIGKILL


def state_of(process_id: int) -> str:
    """A letter, of which S is sleeping; nothing if the process is gone."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(") ")[2][0]
    except OSError:
        return ""


def test_films_are_preprocessed_however_long_tmpdir_is(films: Path, finished: Path, tmp_path: Path):
    """Sockets have names of 107 letters; those through which torch's workers send had theirs in TMPDIR."""
    temporary = tmp_path / ("long" * 40) / ("long" * 40)
    temporary.mkdir(parents=True)
    words = (*SMALL_FEATURES, "--workers=2", f"--input_dir={films}", "--output_dir=features")
    result = run_anew("preprocess_videos.py", *words, cwd=tmp_path, env={**os.environ, "TMPDIR": str(temporary)})
    assert result.returncode == 0, result.stderr
    assert_same_features(tmp_path / "features", finished)


def test_films_are_preprocessed_without_shared_memory_or_tmpdir(films: Path, finished: Path, tmp_path: Path):
    """Containers have 64 MB of the one, some none that can be written."""
    words = [*SMALL_FEATURES, "--workers=2", f"--input_dir={films}", "--output_dir=features"]
    script = 'mount -t tmpfs -o ro tmpfs /dev/shm || exit 99; exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, str(ROOT / "preprocess_videos.py")]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "missing")}
    result = subprocess.run([*command, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
    if result.returncode == 99 or "unshare failed" in result.stderr:
        pytest.skip("only root may mount another /dev/shm")
    assert result.returncode == 0, result.stderr
    assert_same_features(tmp_path / "features", finished)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_stop_of_a_process_group_is_told_in_a_line_and_nothing_after_it(
    number: signal.Signals, status: int, films: Path, tmp_path: Path
):
    """torch's workers, whose death its handler saw when the script itself ended them, looked like a crash."""
    words = (*SMALL_FEATURES, "--workers=2", f"--input_dir={films}", "--output_dir=features")
    process = Forked(
        ["preprocess_videos.py", *words],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    features = tmp_path / "features"
    while process.poll() is None and not (features.exists() and any(features.iterdir())):
        time.sleep(0.01)
    os.killpg(process.pid, number)
    told = process.communicate(timeout=30)[1]  # returns when no process holds the pipe any more
    assert process.returncode == status, told
    assert "Traceback" not in told
    assert told.splitlines()[-1] == f"preprocess_videos.py: stopped by {number.name}; the same command goes on"


def assert_same_features(folder: Path, other: Path) -> None:
    files = {path.name: path.read_bytes() for path in folder.glob("*.h5")}
    assert len(files) == 4
    assert files == {path.name: path.read_bytes() for path in other.glob("*.h5")}
