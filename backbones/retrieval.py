"""Retrieval: how often the films most like a film are of its class.

R@k is the share of queries that have a film of their class among the k nearest of a gallery, by the cosine of features.
Of equally near ones the earlier in the gallery is the nearer.

Shapes: N queries, M films of the gallery, D features.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from backbones.scores import interval_over_sources
from backbones.views import Views, film_features

if TYPE_CHECKING:
    from backbones.dataset import ClipDataset

KS = (1, 5, 10, 20, 50)
MOST_COSINES = 1 << 24  # at once
NEVER = torch.iinfo(torch.int64).max


def retrieval_views(num_clips: int, is_source_protocol: bool = False) -> tuple[Views, Views]:
    """How films of the queries and of the gallery are seen: both as clips evenly in time, the middle of the picture.

    The source's code (Li et al. 2023, doi:10.1145/3581783.3612131) sees three crops of each of a query's clips and one
    middle clip of a film of the gallery; its crops are random, ours are not.
    """
    if is_source_protocol:
        return Views(num_clips, 3), Views(1, 1)
    return Views(num_clips, 1), Views(num_clips, 1)


def recall_at(
    queries: Tensor, query_labels: Tensor, gallery: Tensor, gallery_labels: Tensor, ks: Sequence[int] = KS
) -> dict[int, float]:
    """R@k for each k, of features (N, D) and (M, D), made unit length here, and labels (N,) and (M,)."""
    ranks = ranks_of_class(queries, query_labels, gallery, gallery_labels)
    return {k: (ranks < k).double().mean().item() for k in ks}


def ranks_of_class(queries: Tensor, query_labels: Tensor, gallery: Tensor, gallery_labels: Tensor) -> Tensor:
    """How many films of the gallery are nearer than the nearest of a query's class: (N,) int64, NEVER if it has none.

    Counted, not sorted: so a gallery of a million films takes no more than its cosines.
    """
    # In float64, then rounded: films with equal features are equally near, in whatever order a library adds.
    queries, gallery = (F.normalize(x.double(), dim=1) for x in (queries, gallery))
    gallery_labels, place = gallery_labels.to(gallery.device), torch.arange(len(gallery), device=gallery.device)
    rows = max(1, MOST_COSINES // len(gallery))
    ranks = []
    for part, labels in zip(queries.split(rows), query_labels.to(gallery.device).split(rows), strict=True):
        cosine = (part @ gallery.T).float()  # (n, M)
        is_right = labels[:, None] == gallery_labels
        nearest, at = cosine.masked_fill(~is_right, -torch.inf).max(1, keepdim=True)
        at = (is_right & (cosine == nearest)).int().argmax(1, keepdim=True)  # the first; max may tell of any
        is_nearer = (cosine > nearest) | ((cosine == nearest) & (place < at))
        ranks.append(torch.where(is_right.any(1), is_nearer.sum(1), NEVER))
    return torch.cat(ranks)


def score_retrieval(
    fabric: Fabric,
    backbone: nn.Module,
    queries: "ClipDataset",
    gallery: "ClipDataset",
    num_clips: int,
    is_source_protocol: bool = False,
) -> dict[int, tuple[float, list[float] | None]]:
    """R@k, by k, of the films of one data set among those of another, as a backbone sees them; each with its 95 %
    interval by the bootstrap over the queries' sources."""
    sides = zip((queries, gallery), retrieval_views(num_clips, is_source_protocol), strict=True)
    found = [film_features(fabric, backbone, dataset, dataset.config, views) for dataset, views in sides]
    labels = [torch.tensor([item.label for item in dataset.items]) for dataset in (queries, gallery)]
    ranks = ranks_of_class(found[0], labels[0], found[1], labels[1]).numpy()
    sources = np.array([item.source for item in queries.items])
    return {k: (float((ranks < k).mean()), interval_over_sources(ranks < k, sources)) for k in KS}
