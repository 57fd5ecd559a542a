"""R@k against sorting in plain Python."""

import math

import pytest
import torch

from backbones import retrieval
from backbones.retrieval import ranks_of_class, recall_at, retrieval_views

D = 6


def sorted_recall(queries, query_labels, gallery, gallery_labels, k: int) -> float:
    found = []
    for query, label in zip(queries.tolist(), query_labels.tolist(), strict=True):

        def cosine(one, query=query):
            inner = sum(a * b for a, b in zip(query, one, strict=True))
            return inner / math.hypot(*query) / math.hypot(*one)

        order = sorted(range(len(gallery)), key=lambda j: (-round(cosine(gallery[j].tolist()), 6), j))
        found.append(any(gallery_labels[j] == label for j in order[:k]))
    return sum(found) / len(found)


def draw(num: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, D, generator=generator), torch.randint(0, 9, (num,), generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("most", [1, 100, 1 << 24])
def test_recall_equals_sorting(dtype, most: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(retrieval, "MOST_COSINES", most)  # one query at a time, a few, all
    (queries, query_labels), (gallery, gallery_labels) = draw(23, 0), draw(37, 1)
    found = recall_at(queries.to(dtype), query_labels, gallery.to(dtype), gallery_labels, (1, 2, 5, 50))
    for k, recall in found.items():
        assert recall == pytest.approx(sorted_recall(queries, query_labels, gallery, gallery_labels, k), abs=1e-12)


def test_length_of_features_does_not_matter():
    (queries, query_labels), (gallery, gallery_labels) = draw(23, 0), draw(37, 1)
    longer = gallery * torch.arange(1, 38)[:, None]
    wanted = ranks_of_class(queries, query_labels, gallery, gallery_labels)
    assert torch.equal(ranks_of_class(7 * queries, query_labels, longer, gallery_labels), wanted)


def test_of_equally_near_films_the_earlier_is_the_nearer():
    query, other = torch.eye(D)[:1], torch.eye(D)[1:2]
    gallery = torch.cat([other, query, query, query])
    for place in range(1, 4):
        labels = torch.zeros(4, dtype=torch.long)
        labels[place] = 1
        assert ranks_of_class(query, torch.tensor([1]), gallery, labels).item() == place - 1


def test_equal_features_are_equally_near_wherever_they_lie_in_a_large_gallery():
    feature = torch.randn(1, 512, generator=torch.Generator().manual_seed(0))
    gallery = feature.repeat(1003, 1)
    labels = torch.zeros(1003, dtype=torch.long)
    labels[777] = 1
    query = torch.randn(3, 512, generator=torch.Generator().manual_seed(1))
    assert ranks_of_class(query, torch.ones(3, dtype=torch.long), gallery, labels).tolist() == [777] * 3


def test_a_class_without_films_is_never_found():
    (queries, _), (gallery, labels) = draw(3, 0), draw(5, 1)
    found = recall_at(queries, torch.tensor([99, 99, int(labels[0])]), gallery, labels, (5, 50))
    assert found == {5: pytest.approx(1 / 3), 50: pytest.approx(1 / 3)}


def test_both_sides_are_seen_alike_but_by_the_sources_protocol():
    assert retrieval_views(10) == ((10, 1), (10, 1))
    assert retrieval_views(10, is_source_protocol=True) == ((10, 3), (1, 1))
