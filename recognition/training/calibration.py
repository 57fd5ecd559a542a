"""The logit from which on "old" is best said: thresholds of memories move between films, so validation finds it.

Shapes: N episodes, P probes.
"""

import numpy as np
import torch
from lightning_fabric import Fabric

from models.recogniser import Recogniser
from recognition.episodes.dataset import EpisodeDataset
from recognition.training.config import TrainingConfig
from recognition.training.data import batches
from recognition.training.episode_task import answers
from recognition.training.loop import sum_of_all


def calibrate(fabric: Fabric, model: Recogniser, validation_set: EpisodeDataset, config: TrainingConfig) -> float:
    """Keep with the model, as its `threshold`, the one that is best on the validation episodes, and return it. Logits
    stay as they are. For all processes to call, which find the same."""
    threshold = best_threshold(all_answers(fabric, model, validation_set, config), validation_set.episodes.is_old)
    model.threshold = torch.tensor(threshold, device=fabric.device)
    return threshold


def all_answers(fabric: Fabric, model: Recogniser, dataset: EpisodeDataset, config: TrainingConfig) -> np.ndarray:
    """The model's logits (N, P), float32, to all episodes in their order; the same in all processes, which share the
    work."""
    shares = batches(len(dataset), config.batch_size, None, fabric.global_rank, fabric.world_size)
    logits = np.zeros(dataset.episodes.is_old.shape)
    for numbers, (answer, _) in zip(shares, answers(fabric, model, dataset, config), strict=True):
        logits[numbers] = answer.cpu().numpy()
    # Each process has left those of the others 0.
    return np.reshape(sum_of_all(fabric, logits.ravel().tolist()), logits.shape).astype(np.float32)


def best_threshold(answer: np.ndarray, is_old: np.ndarray) -> float:
    """The threshold above which "old" is said most rightly: half-way between two answers, the lowest of equals."""
    order = np.argsort(np.ravel(answer), kind="stable")
    ordered, is_old = np.ravel(answer)[order], np.ravel(is_old)[order] == 1
    # With the k lowest answers called new: right are the new ones among them and the old ones above.
    num_right = np.concatenate([[0], np.cumsum(~is_old)]) + is_old.sum() - np.concatenate([[0], np.cumsum(is_old)])
    edges = np.concatenate([[ordered[0] - 1], (ordered[:-1] + ordered[1:]) / 2, [ordered[-1] + 1]])
    edges[:-1] = np.minimum(edges[:-1], np.nextafter(ordered, -np.inf))  # rounding may lift one to the answer above
    possible = np.concatenate([[True], ordered[1:] > ordered[:-1], [True]])  # equal answers cannot be told apart
    return float(edges[np.argmax(np.where(possible, num_right, -1))])
