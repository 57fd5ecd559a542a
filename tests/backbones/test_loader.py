"""Clips come in their order, alike for any number of workers, and a film that cannot be read is named."""

import multiprocessing
import os
import time

import pytest
import torch

from backbones.loader import made_in_order
from recognition.common.command_line import Failure, InputError
from recognition.common.stopping import Stopped


def numbered(task: int) -> torch.Tensor:
    return torch.full((1, 2, 3, 4, 4), task, dtype=torch.uint8)


def names(num: int) -> list[str]:
    return [f"film_{k}.mp4" for k in range(num)]


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_clips_come_in_the_order_of_their_tasks(num_workers: int):
    made = made_in_order(numbered, range(20), names(20), num_workers)
    assert [int(one.clips[0, 0, 0, 0, 0]) for one in made] == list(range(20))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_time_that_a_clip_took_is_told(num_workers: int):
    assert all(one.seconds > 0 for one in made_in_order(numbered, range(3), names(3), num_workers))


def test_workers_go_on_while_a_batch_is_learned_from():
    """They waited for the batch to be asked for, and the network for them."""
    num_made = multiprocessing.Value("i", 0)

    def make(task: int) -> torch.Tensor:
        with num_made:
            num_made.value += 1
        return torch.zeros(1, 100_000, dtype=torch.uint8)  # three of them fill a socket

    made, ending = made_in_order(make, range(100), names(100), 1, num_ahead=40), time.monotonic() + 30
    next(made)
    while num_made.value < 40 and time.monotonic() < ending:
        time.sleep(0.01)
    assert 40 <= num_made.value < 60
    made.close()


def test_no_task_makes_nothing():
    assert list(made_in_order(numbered, [], [], 2)) == []


@pytest.mark.parametrize("num_workers", [0, 2])
def test_film_that_cannot_be_read_is_named(num_workers: int):
    def make(task: int) -> torch.Tensor:
        if task == 3:
            raise InputError("ends after 2 frames")
        return numbered(task)

    made = made_in_order(make, range(6), names(6), num_workers)
    assert [int(next(made).clips.max()) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(Failure, match=r"^film_3\.mp4: ends after 2 frames"):
        next(made)


def test_worker_that_crashes_names_its_film():
    def make(task: int) -> torch.Tensor:
        if task == 1:
            os.abort()
        return numbered(task)

    with pytest.raises(Failure, match=r"^film_1\.mp4: a library crashed over it"):
        list(made_in_order(make, range(4), names(4), 2))


def test_stop_ends_the_wait_for_a_clip_that_does_not_come(tmp_path, monkeypatch):
    monkeypatch.setattr("recognition.common.ahead.PATIENCE_S", 0.05)
    os.mkfifo(tmp_path / "never")

    def make(task: int) -> torch.Tensor:
        if task == 1:
            (tmp_path / "never").read_text()  # nobody writes to it
        return numbered(task)

    made = made_in_order(make, range(3), names(3), 1, lambda: True)
    with pytest.raises(Stopped):
        list(made)
