"""Clips of items: alike whoever reads them and whatever was read before, as far apart as settings say, never beyond."""

from pathlib import Path

import numpy as np
import pytest
import torch
from labelled_films import held_films, settings

from backbones.config import ClipConfig
from backbones.dataset import MOST_OPEN, ClipDataset, Draw, Item, check_rates, cut, middle_step
from backbones.loader import made_in_order
from recognition.common.command_line import InputError

PLAIN = {"preset": "none", "area": None, "flip": 0.0}


class Numbered:
    """A film whose frames are all of the colour of their numbers; keeps which were asked for."""

    def __init__(self, num_frames: int, fps: float = 30.0):
        self.num_frames, self.fps, self.asked, self.closed = num_frames, fps, [], 0

    def frames(self, numbers):
        assert all(0 <= number < self.num_frames for number in numbers)
        self.asked.append(list(numbers))
        return np.broadcast_to(np.array(numbers, np.uint8)[:, None, None, None], (len(numbers), 40, 48, 3)).copy()

    def close(self):
        self.closed += 1


def numbered(num_frames: int = 60, fps: float = 30.0, first: int = 0, end: int | None = None, **sections):
    """A data set of one film, and its reader."""
    reader, path = Numbered(num_frames, fps), Path("film.mp4")
    item = Item(path, 0, "film", num_frames, fps, first, num_frames if end is None else end)
    config = settings(augmentation=PLAIN, **sections)
    return ClipDataset([item], config, {path: reader}), reader


def clips_of(data: ClipDataset, num_workers: int, order: list[int], epoch: int = 1) -> dict[int, torch.Tensor]:
    draws = [Draw(number, epoch, 4, 32) for number in order]
    made = made_in_order(lambda draw: data.drawn(draw, 2), draws, data.names(order), num_workers)
    return dict(zip(order, [one.clips for one in made], strict=True))


def test_clips_are_the_same_for_any_number_of_workers_and_whatever_was_read_before():
    films, config = held_films(), settings(augmentation={"area": [0.3, 0.8]})
    order = list(range(len(films.train)))
    here = clips_of(ClipDataset(films.train, config, films.readers), 0, order)
    torch.manual_seed(5)
    there = clips_of(ClipDataset(films.train, config, films.readers), 2, order[::-1])
    alone = clips_of(ClipDataset(films.train, config, films.readers), 0, [7])
    assert {clips.shape for clips in here.values()} == {(2, 4, 3, 32, 32)}
    assert here[3].dtype == torch.uint8
    for number in order:
        assert torch.equal(here[number], there[number])
    assert torch.equal(here[7], alone[7])
    assert not torch.equal(here[7][0], here[7][1])  # each from a place and with colours of its own


def test_clips_are_others_in_another_epoch_of_another_item_and_with_another_seed():
    films = held_films()
    films = films._replace(train=[films.train[0]] * 2)
    config = settings()
    first = ClipDataset(films.train, config, films.readers).drawn(Draw(0, 0, 4, 32))
    others = [
        ClipDataset(films.train, config, films.readers).drawn(Draw(0, 1, 4, 32)),
        ClipDataset(films.train, config, films.readers).drawn(Draw(1, 0, 4, 32)),
        ClipDataset(films.train, settings(training={"seed": 1}), films.readers).drawn(Draw(0, 0, 4, 32)),
    ]
    assert all(not torch.equal(first, other) for other in others)


def test_drawing_leaves_the_generators_of_the_process_alone():
    data, _ = numbered()
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    data.drawn(Draw(0, 0, 4, 32))
    assert torch.equal(torch.rand(2), wanted)


def test_short_film_repeats_its_last_frame():
    data, reader = numbered(5)
    clip = data.drawn(Draw(0, 0, 4, 32))
    assert reader.asked == [[0, 2, 4, 4]]
    assert clip[0, :, 0, 0, 0].tolist() == [0, 2, 4, 4]
    data.views(0, 3, 1)
    assert reader.asked[1:] == [[0, 2, 4, 4]] * 3


def test_clips_stay_within_their_piece_and_reach_both_of_its_ends():
    data, reader = numbered(60, first=20, end=32)
    for epoch in range(200):
        data.drawn(Draw(0, epoch, 4, 32))
    starts = {numbers[0] for numbers in reader.asked}
    assert starts == set(range(20, 26))
    assert max(max(numbers) for numbers in reader.asked) == 31
    reader.asked.clear()
    data.views(0, 3, 1)
    assert reader.asked == [[20, 22, 24, 26], [22, 24, 26, 28], [25, 27, 29, 31]]


def test_of_several_strides_each_is_drawn_and_tests_take_the_middle_one():
    data, reader = numbered(200, clip={"stride": [6, 4, 5]})
    for epoch in range(60):
        data.drawn(Draw(0, epoch, 4, 32))
    steps = [numbers[1] - numbers[0] for numbers in reader.asked]
    assert set(steps) == {4, 5, 6}
    assert min(steps.count(step) for step in (4, 5, 6)) > 8
    data.middle(0)
    assert reader.asked[-1] == [92, 97, 102, 107]


def test_rate_of_clips_goes_by_the_films():
    data, reader = numbered(200, 24.0, clip={"stride": None, "fps": 7.5})
    data.middle(0)
    assert np.diff(reader.asked[0]).tolist() == [3, 3, 3]


def test_clip_of_fewer_frames_draws_how_far_they_are_apart_up_to_the_span_of_a_full_one():
    data, reader = numbered(200, clip={"frames": 16, "stride": 2})
    for epoch in range(200):
        data.drawn(Draw(0, epoch, 4, 16))
    steps = [numbers[1] - numbers[0] for numbers in reader.asked]
    assert {len(numbers) for numbers in reader.asked} == {4}
    assert set(steps) == set(range(2, 9))  # from the stride to the stride x 16 / 4
    data.drawn(Draw(0, 0, 16, 32))
    assert set(np.diff(reader.asked[-1])) == {2}


def test_shape_of_a_drawn_clip_is_what_was_asked_for():
    films = held_films(num_frames=40)
    for augmentation in ({"area": [0.3, 0.8]}, {"short_side": [34.0, 40.0]}, {"area": None}):
        data = ClipDataset(films.train, settings(clip={"frames": 8}, augmentation=augmentation), films.readers)
        assert data.drawn(Draw(0, 0, 2, 23)).shape == (1, 2, 3, 23, 23)


@pytest.mark.parametrize(("crops", "side"), [(1, None), (3, 24)])
def test_views_are_alike_on_every_call_and_the_middle_is_the_middle_one(crops: int, side: int | None):
    films = held_films(num_frames=40)
    data = ClipDataset(films.test, settings(), films.readers)
    views = data.views(1, 3, crops, side)
    assert views.shape == (3 * crops, 4, 3, side or 32, side or 32)
    torch.manual_seed(1)
    data.drawn(Draw(0, 0, 4, 32))
    assert torch.equal(views, data.views(1, 3, crops, side))
    if crops == 1:
        assert torch.equal(data.middle(1), views[1:2])


def test_only_so_many_films_stay_open_the_last_that_were_read():
    num = MOST_OPEN + 5
    paths = [Path(f"film_{k}.mp4") for k in range(num)]
    readers = {path: Numbered(20) for path in paths}
    items = [Item(path, 0, path.stem, 20, 30.0, 0, 20) for path in paths]
    data = ClipDataset(items, settings(), readers)
    for number in [*range(MOST_OPEN), 0, *range(MOST_OPEN, num)]:
        data.middle(number)
    assert [number for number, path in enumerate(paths) if readers[path].closed] == [1, 2, 3, 4, 5]


def test_pieces_of_a_film_cover_it_once():
    item = Item(Path("film.mp4"), 2, "source", 300, 30.0, 30, 280)
    pieces = cut(item, 2.0)
    assert [(piece.first, piece.end) for piece in pieces] == [(30, 90), (90, 150), (150, 210), (210, 280)]
    assert {(piece.label, piece.source, piece.num_frames) for piece in pieces} == {(2, "source", 300)}
    assert cut(item, None) == [item]


def test_film_without_a_rate_is_refused_where_one_is_needed():
    item = Item(Path("films/a"), 0, "a", 20, 0.0, 0, 20)
    with pytest.raises(InputError, match=r"^films/a: does not say its frame rate; set data\.store_fps, or clip"):
        check_rates([item], ClipConfig())
    check_rates([item], ClipConfig(stride=2))
    assert middle_step(0.0, ClipConfig(stride=[2, 9, 4])) == 4
