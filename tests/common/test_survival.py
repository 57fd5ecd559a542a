"""What people rely on who come back days later: kills at any moment and full disks lose nothing and change nothing."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import assert_same_run, run_here, run_script
from forking import Forked

from recognition.films.synthetic import write_films

YAML = """
dataset: {train_indices_file: features/train_indices.h5, test_indices_file: features/test_indices.h5,
          video_path: features, fresh_episodes: true}
model: {model: transformer, args: {d_embed: 64, dropout: 0.1}}
training: {n_epochs: 5, batch_size: 8, num_workers: 1, checkpoint_minutes: 0}
"""
SMALL = "--weights random:0 --backbone shufflenet_v2_x0_5"
PREPROCESS = f"preprocess_videos.py --input_dir films --output_dir features {SMALL}"
GENERATE = (
    "generate_dataset.py --input_dir features --output_dir features --n_clips 2 --clip_length 4 --clip_margin 2 "
    "--n_tests 3 --subsample 1 --validation_set_fraction 0.25 --n_samples_train 128 --n_samples_validation 16 "
    "--n_samples_test 16"
)
TRAIN = "train.py -f small.yaml resume=auto"
EVALUATE = "evaluate.py runs/small"
# Kills of each stage, and how long it takes at most until it is killed: about as long as it takes.
KILLS = {PREPROCESS: (8, 2.0), GENERATE: (5, 0.5), TRAIN: (12, 1.5), EVALUATE: (5, 2.5)}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all stages have run without trouble. Read only."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert len(list(write_films(folder / "films", 8, duration_s=1.5, fps=12))) == 8
    (folder / "small.yaml").write_text(YAML)
    for stage in KILLS:
        script, *words = stage.split()
        result = run_here(script, *words, *(["--workers=0"] if stage == PREPROCESS else []), cwd=folder)
        assert result.returncode == 0, result.stderr
    return folder


def run_stage(stage: str, folder: Path) -> None:
    script, *words = stage.split()
    result = run_script(script, *words, cwd=folder)
    assert result.returncode == 0, result.stderr


def prepare(undisturbed: Path, folder: Path, *names: str) -> None:
    """Copy some of what lies in the folder where all went well."""
    for name in ("films", "small.yaml", *names):
        copy = shutil.copytree if (undisturbed / name).is_dir() else shutil.copy2
        copy(undisturbed / name, folder / name)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def names_in(folder: Path) -> set[Path]:
    """All files, hidden ones too; a run that was never stopped early may lack the checkpoint before the last."""
    return {path.relative_to(folder) for path in folder.rglob("*") if path.name != "previous.pt"}


@pytest.mark.parametrize(
    ("stages", "before"),
    [([PREPROCESS, GENERATE], []), ([TRAIN, EVALUATE], ["features"])],
    ids=["features_and_episodes", "training_and_evaluation"],
)
def test_thirty_kills_at_random_moments_of_all_stages_change_nothing(
    stages: list[str], before: list[str], undisturbed: Path, tmp_path: Path
):
    """Features, episodes, weights and answers are equal to the last bit, and nothing else remains."""
    prepare(undisturbed, tmp_path, *before)
    rng = random.Random(0)
    for stage in stages:
        num_kills, longest_s = KILLS[stage]
        for _ in range(num_kills):
            how = rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1])
            process = Forked(
                stage.split(),
                cwd=tmp_path,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            time.sleep(rng.uniform(0, longest_s))
            os.killpg(process.pid, how)
            told = process.communicate()[1]
            # A script that has just started has no answer of its own to a signal yet.
            assert process.returncode in (0, -how, 75), told
        run_stage(stage, tmp_path)
    assert files_of(tmp_path / "features") == files_of(undisturbed / "features")
    if EVALUATE in stages:
        run, whole = tmp_path / "runs/small", undisturbed / "runs/small"
        assert_same_run(run, whole)
        assert names_in(run) == names_in(whole)
        assert (run / "answers.npz").read_bytes() == (whole / "answers.npz").read_bytes()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system in memory, which the test makes as small as it likes by `resize`; skipped without the right to."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root may mount a small disk")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def resize(disk: Path, free_bytes: int) -> None:
    """Leave so much room, or make it ample."""
    used = os.statvfs(disk)
    size = (used.f_blocks - used.f_bfree) * used.f_bsize + free_bytes
    subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)


@pytest.mark.parametrize(
    ("stage", "before", "rooms_kb"),
    [
        (PREPROCESS, [], [4, 60]),
        (GENERATE, ["features"], [4, 24]),
        (TRAIN, ["features"], [4, 20, 700]),
        (EVALUATE, ["features", "runs"], [4, 60]),
    ],
    ids=lambda value: value.split()[0] if isinstance(value, str) else "",
)
def test_full_disk_is_told_in_a_line_and_loses_nothing(
    stage: str, before: list[str], rooms_kb: list[int], small_disk: Path, undisturbed: Path
):
    prepare(undisturbed, small_disk, *before)
    if stage == GENERATE:
        for index in (small_disk / "features").glob("*_indices.h5"):
            index.write_bytes(b"earlier episodes")
    if stage == EVALUATE:
        for made in ("evaluation.json", "answers.npz", "report.html"):
            (small_disk / "runs/small" / made).unlink()
    earlier = {path: path.read_bytes() for path in small_disk.rglob("*") if path.is_file()}
    script, *words = stage.split()
    for room in rooms_kb:
        resize(small_disk, room << 10)
        result = run_script(script, *words, cwd=small_disk)
        assert result.returncode == 1, result.stderr
        assert "Traceback" not in result.stderr
        last = result.stderr.splitlines()[-1]
        assert last.startswith(f"{script}: error: ")
        assert "No space left on device" in last or "could not be written" in last
        assert not list(small_disk.rglob("*.part"))
        for path, content in earlier.items():
            assert path.read_bytes() == content
    resize(small_disk, 64 << 20)
    run_stage(stage, small_disk)
    if stage in (PREPROCESS, GENERATE):
        made = files_of(small_disk / "features")
        assert made == {name: files_of(undisturbed / "features")[name] for name in made}
    else:
        assert_same_run(small_disk / "runs/small", undisturbed / "runs/small")
