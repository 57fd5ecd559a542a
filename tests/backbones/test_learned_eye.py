"""From films to a memory that sees with an eye of its own: every command as a user runs it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import config_text, metrics_of, refusal, run_here
from safetensors.torch import load_file

from models.clip_networks import clip_network
from recognition.common.files import sha256
from recognition.episodes.index_file import read_index
from recognition.features.feature_file import map_features, read_header
from recognition.films.synthetic import write_films

NAMES = [f"film_{k:03d}" for k in range(8)]
EPISODES = ("--n_clips=2", "--clip_length=3", "--clip_margin=1", "--n_tests=2", "--subsample=1", "--n_samples_train=16")
EPISODES += ("--n_samples_validation=4", "--n_samples_test=4", "--validation_set_fraction=0.25")
YAML = """
data: {videos: small-films, split_of: video-features, segment_s: 1, workers: 0}
clip: {frames: 4, fps: 12, side: 32}
network: {name: r3d_mini}
byol: {projection: 8, hidden: 12, slots: 10, concepts: 9}
training: {batch_size: 2, n_epochs: 1, warmup_epochs: 0, device: cpu}
"""


def succeed(folder: Path, command: str, *words: object) -> str:
    result = run_here(command, *words, cwd=folder)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def films_of(folder: Path) -> dict[str, set[str]]:
    return {
        split: set(read_index(folder / f"{split}_indices.h5").video_ids) for split in ("train", "validation", "test")
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight films; episodes of them as another eye sees them; an eye that has learned from the training films of
    these, in small, and what it sees. Read only but for what tests add."""
    folder = tmp_path_factory.mktemp("eye")
    assert [path.stem for path in write_films(folder / "videos", 8, duration_s=2)] == NAMES
    succeed(folder, "preprocess_videos.py", "--backbone=shufflenet_v2_x0_5", "--weights=random:0", "--workers=0")
    succeed(folder, "generate_dataset.py", *EPISODES)
    succeed(folder, "backbones.prepare", "films", "videos", "--short_side=48", "--workers=0")
    (folder / "eye.yaml").write_text(YAML)
    assert "items: 8 training; 1 x cpu" in succeed(folder, "backbones.pretrain", "-f", "eye.yaml")
    words = ("--backbone=r3d_mini", "--weights=runs/eye/weights.safetensors", "--window_stride=1", "--workers=0")
    told = succeed(folder, "preprocess_videos.py", *words, "--output_dir=own")
    assert "The backbone has learned from 4 of them" in told
    return folder


def test_it_learns_from_the_training_films_of_the_episodes_alone_and_knows_the_originals(folder: Path):
    seen = films_of(folder / "video-features")["train"]
    assert len(seen) == 4
    told = (folder / "runs/eye/films.txt").read_text().split()
    places = [folder / kind / f"{name}.mp4" for name in seen for kind in ("videos", "small-films")]  # which it has read
    assert told == sorted(map(sha256, places))


def test_weights_have_moved_and_features_are_by_them_at_the_rate_of_the_run(folder: Path):
    torch.manual_seed(0)
    first = clip_network("r3d_mini").state_dict()
    learned = load_file(folder / "runs/eye/weights.safetensors")
    assert learned.keys() == {name for name in first if not name.startswith("fc.")}
    assert all(not torch.equal(value, first[name]) for name, value in learned.items() if value.is_floating_point())
    header = read_header(folder / "own/film_000.h5")
    assert "4 frames at 12 a second" in header.backbone
    assert "side=32" in header.backbone
    assert header.num_frames == 42  # of 48 pictures, 24 a second: windows of 0, 2, 4, 6 to 41, 43, 45, 47
    words = ("--backbone=r3d_mini", "--weights=random:0", "--workers=0", "--output_dir=random")
    (folder / "one").mkdir()
    (folder / "one/film_000.mp4").symlink_to(folder / "videos/film_000.mp4")
    succeed(folder, "preprocess_videos.py", *words, "--input_dir=one")
    assert read_header(folder / "random/film_000.h5").digest != header.digest
    features = map_features(folder / "own/film_000.h5")
    assert np.isfinite(features).all()
    assert not np.array_equal(features[0], map_features(folder / "random/film_000.h5")[0])


@pytest.mark.parametrize("seed", [0, 1])
def test_films_that_the_eye_has_learned_from_never_test_a_memory(folder: Path, seed: int):
    words = (*EPISODES, f"--seed={seed}", "--input_dir=own", f"--output_dir=own{seed}")
    told = succeed(folder, "generate_dataset.py", *words)
    assert "4 of 8 films are for training alone: the backbone has learned from them" in told
    films, seen = films_of(folder / f"own{seed}"), films_of(folder / "video-features")["train"]
    assert films["train"] == seen
    assert films["validation"] | films["test"] == set(NAMES) - seen
    marked = {path.stem for path in (folder / "own").glob("film_*.h5") if read_header(path).seen_by_backbone}
    assert marked == seen


def test_too_few_films_that_it_has_not_seen_are_told_in_one_line(folder: Path):
    words = (*EPISODES, "--input_dir=own", "--output_dir=few", "--test_set_fraction=0.5")
    line = refusal(run_here("generate_dataset.py", *words, cwd=folder))
    assert "4 films are left for validation and test, 6 are needed: from 4 others the backbone has learned" in line


def test_a_memory_learns_from_what_it_sees(folder: Path):
    succeed(folder, "generate_dataset.py", *EPISODES, "--input_dir=own", "--output_dir=own")
    (folder / "memory.yaml").write_text(config_text(folder / "own", "lstm", "{d_embed: 4}", n_epochs=1))
    succeed(folder, "train.py", "-f", "memory.yaml")
    assert np.isfinite(metrics_of(folder / "runs/memory")[0]["validation_loss"])


def test_films_of_the_episodes_that_are_not_there_are_named(folder: Path):
    words = ("-f", "eye.yaml", "name=other", "data.videos=one")
    (folder / "one").mkdir(exist_ok=True)
    for path in (folder / "one").iterdir():
        path.unlink()
    unseen = min(set(NAMES) - films_of(folder / "video-features")["train"])
    (folder / f"one/{unseen}.mp4").symlink_to(folder / f"videos/{unseen}.mp4")
    line = refusal(run_here("backbones.pretrain", *words, cwd=folder))
    assert "data.videos: 'one': has no film film_" in line
    assert line.rstrip().endswith("on which video-features trains")
