"""What networks say of whole films, against plain loops over their views."""

import threading
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from backbones.config import BackboneSettings
from backbones.views import Views, class_answers, film_features

NUM_FILMS, CLASSES = 5, 7


class Films:
    """A data set of films whose every view is known: film k has k, clip and crop in its pixels."""

    items = tuple(SimpleNamespace(label=k % CLASSES) for k in range(NUM_FILMS))

    def __init__(self):
        self.asked = []

    def __len__(self):
        return NUM_FILMS

    def names(self, numbers):
        return [f"film {k}" for k in numbers]

    def views(self, number, num_clips, crops, side=None):
        self.asked.append((number, num_clips, crops, side))
        views = [one_view(number, clip, crop) for clip in range(num_clips) for crop in range(crops)]
        return torch.stack(views)


def one_view(*place: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(hash(place) % 1000)
    return torch.randint(0, 256, (2, 3, 4, 4), generator=generator, dtype=torch.uint8)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Linear(2 * 3 * 4 * 4, CLASSES), nn.BatchNorm1d(CLASSES)
        self.sizes = []

    def forward(self, clips):
        self.sizes.append(len(clips))
        return self.norm(self.layer(clips.flatten(1).float() / 255))


def network() -> Network:
    torch.manual_seed(0)
    return Network()


def fabric_of(rank: int = 0, world_size: int = 1, all_reduce=None) -> SimpleNamespace:
    return SimpleNamespace(
        global_rank=rank,
        world_size=world_size,
        device=torch.device("cpu"),
        to_device=lambda x: x,
        autocast=nullcontext,
        all_reduce=all_reduce,
    )


def settings(batch_size: int = 4, workers: int = 0, side: int | None = None) -> BackboneSettings:
    data, test = {"workers": workers}, {"batch_size": batch_size, "side": side}
    return BackboneSettings.model_validate({"data": data, "test": test})


def logits_of(model: Network, film: int, views: Views) -> list[torch.Tensor]:
    places = [(film, clip, crop) for clip in range(views.clips) for crop in range(views.crops)]
    with torch.no_grad():
        return [model.eval()(one_view(*place)[None])[0].double() for place in places]


@pytest.mark.parametrize("views", [Views(1, 1), Views(3, 1), Views(2, 3)])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_probabilities_are_the_mean_of_all_views_softmaxes(views: Views, batch_size: int):
    model = network()
    said = class_answers(fabric_of(), model, Films(), settings(batch_size), views)
    assert max(model.sizes) <= batch_size
    for film in range(NUM_FILMS):
        logits = logits_of(network(), film, views)
        shares = [[float(x.exp() / one.exp().sum()) for x in one] for one in logits]
        wanted = [sum(column) / len(shares) for column in zip(*shares, strict=True)]
        assert said.probabilities[film].tolist() == pytest.approx(wanted, abs=1e-6)
        ranks = [sorted(range(CLASSES), key=one.__getitem__, reverse=True).index(film % CLASSES) for one in logits]
        right = [sum(rank < k for rank in ranks) / len(ranks) for k in (1, 5)]
        assert said.view_right[film].tolist() == pytest.approx(right)


def test_features_are_the_mean_of_all_views():
    found = film_features(fabric_of(), network(), Films(), settings(), Views(3, 1))
    for film in range(NUM_FILMS):
        wanted = sum(logits_of(network(), film, Views(3, 1))) / 3
        torch.testing.assert_close(found[film], wanted, rtol=0, atol=1e-6)


def test_asking_changes_nothing_and_answers_alike():
    model, films = network(), Films()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first, second = (class_answers(fabric_of(), model, films, settings(side=16), Views(2, 3)) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert films.asked[:NUM_FILMS] == [(k, 2, 3, 16) for k in range(NUM_FILMS)]


def test_workers_make_no_difference():
    found = [film_features(fabric_of(), network(), Films(), settings(workers=n), Views(2, 1)) for n in (0, 2)]
    assert torch.equal(*found)


@pytest.mark.parametrize("world_size", [2, 3, 6])  # of six processes one has no film
def test_processes_share_the_films_and_all_know_all(world_size: int):
    """Threads in place of processes."""
    wanted = film_features(fabric_of(), network(), Films(), settings(1), Views(2, 1))
    barrier, given, found = threading.Barrier(world_size), [None] * world_size, [None] * world_size
    models = [network() for _ in range(world_size)]

    def work(rank: int) -> None:
        def all_reduce(x, reduce_op):
            given[rank] = x
            barrier.wait(20)
            whole = torch.stack(given).sum(0) if reduce_op == "sum" else torch.stack(given).amax(0)
            barrier.wait(20)
            return whole

        fabric = fabric_of(rank, world_size, all_reduce)
        found[rank] = film_features(fabric, models[rank], Films(), settings(1), Views(2, 1))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in found:
        torch.testing.assert_close(one, wanted, rtol=0, atol=0)
