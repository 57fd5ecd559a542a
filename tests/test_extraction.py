"""What films become on their way to features."""

import numpy as np
import pytest

from recognition.backbone import Preprocessing
from recognition.extraction import first_windows


@pytest.mark.parametrize("stride", [1, 3, 16, 40])
def test_window_is_of_the_shot_of_its_middle_frame(stride):
    preprocessing, rng = Preprocessing("mc3_18", stride), np.random.default_rng(0)
    for num_shots in (1, 2, 5, 40):
        starts = [0, *sorted(rng.choice(np.arange(1, 300), num_shots - 1, replace=False).tolist())]
        num_windows = (300 - 16) // stride + 1
        shots = [sum(start <= window * stride + 8 for start in starts) for window in range(num_windows)]
        first = [k for k in range(num_windows) if k == 0 or shots[k] > shots[k - 1]]
        assert list(first_windows(starts, num_windows, preprocessing)) == first
    assert first_windows([0, 5, 299], 300, Preprocessing("resnet18")) == (0, 5, 299)
