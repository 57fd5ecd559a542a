"""Sizes at which every benchmark takes a second or so: to rehearse it. Its ratios then mean nothing."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

from recognition.episodes.episode_spec import EpisodeSpec

CONFIGS = Path(__file__).parent.parent / "config-files"
SIZES: dict[str, dict[str, object]] = {  # of modules of benchmarks/, by the names that they have there
    "busy": {"MEASURED_S": 0.1, "WARM_UP_STEPS": 1},
    "capacity": {
        **{"FILMS": "made-up:40x1500", "EPISODE": {"clip_length": 60, "clip_margin": 30}, "CLIPS": {6: 2, 2: 3}},
        **{"WIDTHS": (8, 128), "UNITS": (64, 4096), "UNITS_MAXIMA": (64,), "NUM_AXES_FRAMES": 500},
        **{"TRAINING_CLIPS": 2, "TRAINING_PROBES": 8, "TRAINING_BATCH": 2, "NUM_STEPS": 2, "STEPS_A_DRAW": 1},
    },
    "captions": {"NUM_FILMS": 2, "NUM_CLIPS": 2, "FILM_TOKENS": 200},
    "clip_training": {"NETWORK": "r3d_mini", "NUM_FRAMES": 4, "SIDE": 32, "FILM_S": 1},
    "data": {
        **{"NUM_EPISODES": 256, "NUM_DRAWN_PLAINLY": 8, "NUM_FILMS": 12, "FILM_LENGTH": 2_000},
        **{"NUM_EPOCH_EPISODES": 32, "SPEC": EpisodeSpec(num_clips=9, clip_length=60, clip_margin=30, num_tests=9)},
    },
    "films": {
        **{"NUM_BATCHES": 1, "NUM_PLAIN_FRAMES": 10, "NUM_FILMS": {"cpu": 2, "cuda": 2}, "FILM_S": 1},
        **{"BATCH_SIZE": {"cpu": 4, "cuda": 4}, "START": "fork"},
    },
    "gpu_check.correctness": {"SHIPPED": [CONFIGS / f"{name}.yaml" for name in ("transformer", "mlstm", "lstm")]},
    "gpu_check.learning": {
        **{"FILMS": "made-up:24x700", "CONFIGS": ["transformer", "mlstm"]},
        **{"EPISODE": {"num_clips": 5, "clip_length": 60, "clip_margin": 30, "num_tests": 5}},
        **{"NUM_TRAINING": 32, "NUM_VALIDATION": 16, "MOST_SCORES": 2, "D_EMBED": 64},
    },
    "growth": {"LENGTHS": [256, 512], "CONFIGS": ["transformer"]},
    "mamba2": {"NUM_FRAMES": 300},
    "measure": {"PRODUCT_SIDE": {"cpu": 256, "cuda": 2048}},
    "mlstm": {"NUM_FRAMES": 300},
    "search": {"FILMS": "made-up:6x600", "NUM_PLAIN": 2, "NUM_QUESTIONS": 3, "NUM_TOGETHER": 3},
    "steps": {"NUM_FRAMES": 200, "REPEATS": 1},
    "transformer": {"NUM_FRAMES": 300},
    "ur_lstm": {"NUM_FRAMES": 40, "NUM_FRAMES_WIDE": 20},
}
is_tiny = False


def shrink(set_one: Callable[[object, str, object], None] = setattr) -> None:
    """Give all benchmarks of this process their small sizes."""
    set_one(sys.modules[__name__], "is_tiny", True)
    for module, sizes in SIZES.items():
        try:
            of_module = importlib.import_module(f"benchmarks.{module}")
        except ModuleNotFoundError:  # without its packages it is not measured either
            continue
        for name, size in sizes.items():
            set_one(of_module, name, size)
