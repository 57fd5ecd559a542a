"""Controls: what answers without learning reach on the same episodes."""

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from recognition.dataset import EpisodeDataset, batches
from recognition.signal_detection import best_threshold, summarise


def nearest_frame_similarity(dataset: EpisodeDataset, device: torch.device, batch_size: int = 4) -> np.ndarray:
    """Cosine similarity of every probe to the studied frame nearest to it: (N, P), from -1 to 1."""
    similarity = []
    for number in tqdm(batches(len(dataset), batch_size), "nearest studied frame", unit="batch", leave=False):
        features = F.normalize(dataset[number][0].to(device).float(), dim=2)  # (B, T, D)
        study, probes = features.split([dataset.num_study_frames, features.shape[1] - dataset.num_study_frames], 1)
        similarity.append((probes[:, :: dataset.repeat_test] @ study.transpose(1, 2)).amax(2).cpu())
    return torch.cat(similarity).numpy()


def nearest_frame(validation_set: EpisodeDataset, test_set: EpisodeDataset, device: torch.device) -> dict[str, float]:
    """Scores on test of "old if a studied frame is near enough", the threshold being the best one on validation."""
    threshold = best_threshold(nearest_frame_similarity(validation_set, device), validation_set.episodes.is_old)
    scores = summarise(nearest_frame_similarity(test_set, device), test_set.episodes.is_old, threshold)
    return {"threshold": threshold, **scores}


def chance(is_old: np.ndarray) -> dict[str, float]:
    """Accuracy of always giving the commoner answer."""
    share = float(np.mean(is_old))
    return {"accuracy": max(share, 1 - share)}
