"""A memory that was trained on small films, with these: what commands that watch need. Made once for all tests."""

from pathlib import Path

import pytest

TRAINING = """
dataset:
  train_indices_file: features/train_indices.h5
  test_indices_file: features/test_indices.h5
  video_path: features
  standardise: true
  fresh_episodes: true
model: {model: knn_memory, args: {d_embed: 64, familiarity: true, tie_qk: true, capacity: 1000}}
training: {n_epochs: 12, batch_size: 16, num_workers: 0, learning_rate: 2.0e-3, device: cpu, calibrate: true}
"""
EPISODES = ("--n_clips=6", "--clip_length=8", "--clip_margin=2", "--n_tests=6", "--subsample=1")
SPLITS = ("--n_samples_train=96", "--n_samples_validation=16", "--n_samples_test=16", "--validation_set_fraction=0.25")


@pytest.fixture(scope="session")
def live_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with films/ (12 of 12 s, 12 frames a second), features/ and runs/knn, trained on 4 of them a second.
    Read only, and to be the current folder."""
    from conftest import run_here

    from recognition.films.synthetic import write_films

    folder = tmp_path_factory.mktemp("live")
    (folder / "run.yaml").write_text(TRAINING)
    assert len(list(write_films(folder / "films", 12, duration_s=12, fps=12))) == 12
    for script, *words in (
        ("preprocess_videos.py", "--input_dir=films", "--output_dir=features", "--backbone=shufflenet_v2_x0_5",
         "--weights=random:0", "--workers=0", "--fps=4"),
        ("generate_dataset.py", "--input_dir=features", "--output_dir=features", *EPISODES, *SPLITS),
        ("train.py", "-f", "run.yaml", "name=knn"),
    ):  # fmt: skip
        result = run_here(script, *words, cwd=folder)
        assert result.returncode in (0, None), result.stderr
    return folder
