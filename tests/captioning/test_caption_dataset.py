"""Batches of films: which frames a clip has, whose features they are, and what of a table is refused."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import write_features

from captioning.captions import Caption
from captioning.dataset import CaptionDataset
from recognition.common.command_line import InputError

LENGTHS = (90, 30, 60)  # frames of films that have 30 a second


def caption(film: int, start_s: float, end_s: float, split: str = "train") -> Caption:
    return Caption(
        f"film_{film}", int(start_s), start_s, end_s, f"{film} from {start_s:g}.", split, f"c.csv:{film + 2}"
    )


CAPTIONS = [
    *(caption(0, k, k + 1) for k in range(3)),
    caption(1, 0, 1),
    *(caption(2, k, k + 1) for k in range(2)),
    caption(9, 0, 1, split="test"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_features(tmp_path_factory.mktemp("features"), LENGTHS, dtype="float32")


def stored(folder: Path, film: int) -> torch.Tensor:
    with h5py.File(folder / f"film_{film}.h5") as file:
        return torch.from_numpy(file["features"][:])


def test_batch_has_whole_films_and_zeros_behind_their_last_clip(folder):
    dataset = CaptionDataset(CAPTIONS, folder, 4)
    assert (len(dataset), dataset.films, dataset.num_features) == (3, ["film_0", "film_1", "film_2"], 16)
    batch = dataset.batch([2, 0, 1])
    assert batch.features.shape == (3, 3, 4, 16)
    assert batch.features.dtype == torch.float32
    assert batch.has_clip.tolist() == [[True, True, False], [True] * 3, [True, False, False]]
    assert batch.texts == [["2 from 0.", "2 from 1."], ["0 from 0.", "0 from 1.", "0 from 2."], ["1 from 0."]]
    assert batch.films == [2, 0, 1]
    assert not batch.features[~batch.has_clip].any()
    for row, film in enumerate(batch.films):
        for clip in range(len(batch.texts[row])):
            frames = [30 * clip, 30 * clip + 10, 30 * clip + 19, 30 * clip + 29]  # evenly, first and last
            assert torch.equal(batch.features[row, clip], stored(folder, film)[frames])


def test_films_alone_are_as_they_are_in_any_batch(folder):
    dataset = CaptionDataset(CAPTIONS, folder, 4)
    together = dataset.batch([0, 1, 2], np.random.default_rng(3))
    for number in range(3):
        alone = dataset.batch([number], np.random.default_rng(3))
        assert torch.equal(alone.features[0], together.features[number, : alone.features.shape[1]])


@pytest.mark.parametrize(("frames", "due"), [("first", [0, 30]), ("middle", [14, 44]), ("last", [29, 59])])
def test_one_frame_of_a_clip_may_stand_for_it(folder, frames, due):
    batch = CaptionDataset(CAPTIONS, folder, 8, frames).batch([2], np.random.default_rng(0))
    assert torch.equal(batch.features[0, :, 0], stored(folder, 2)[due])
    assert batch.features.shape[2] == 1


@pytest.mark.parametrize("num_frames", [1, 2, 3, 7, 30, 41])
def test_frames_are_in_order_within_their_clip_and_jitter_leaves_the_first_and_the_last(folder, num_frames):
    dataset = CaptionDataset(CAPTIONS, folder, num_frames)
    still = dataset.frames_of(0)
    draws = np.stack([dataset.frames_of(0, np.random.default_rng(k)) for k in range(50)])
    starts = 30 * np.arange(3)[:, None]
    for frames in (still, *draws):
        assert frames.shape == (3, num_frames)
        assert ((frames >= starts) & (frames <= starts + 29)).all()
        assert (np.diff(frames, axis=1) >= 0).all()
        if num_frames > 1:
            assert (frames[:, 0] == starts[:, 0]).all()
            assert (frames[:, -1] == starts[:, 0] + 29).all()
    assert (draws != still).any() == (num_frames in (3, 7, 41))  # of 30 each one is taken as it is
    assert np.abs(draws - still).max() <= 29 / max(1, num_frames - 1) / 2 + 1


def test_batches_of_equal_generators_are_equal_and_without_one_nothing_moves(folder):
    dataset = CaptionDataset(CAPTIONS, folder, 5)
    first, again, other = (dataset.batch([0, 1], np.random.default_rng(k)).features for k in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(dataset.batch([0]).features, dataset.batch([0]).features)


def test_order_depends_on_seed_and_epoch(folder):
    dataset = CaptionDataset([caption(k % 3, 0, 1) for k in range(3)], folder, 2)
    orders = {tuple(dataset.order(seed, epoch)) for seed in range(5) for epoch in range(5)}
    assert all(sorted(order) == [0, 1, 2] for order in orders)
    assert len(orders) > 3
    assert dataset.order(3, 4).tolist() == dataset.order(3, 4).tolist()


def test_first_clips_alone_are_taken_where_that_is_asked_for(folder):
    dataset = CaptionDataset(CAPTIONS, folder, 2, clips="first")
    assert dataset.batch([0, 1, 2]).texts == [["0 from 0."], ["1 from 0."], ["2 from 0."]]


def test_segments_may_overlap_and_short_ones_have_the_nearest_frame(folder):
    clips = [caption(0, 0.5, 2), caption(0, 1.005, 1.01), caption(0, 1.5, 3.4), caption(0, 2.99, 3.0)]
    assert CaptionDataset(clips, folder, 3).frames_of(0).tolist() == [
        [15, 37, 59],
        [30, 30, 30],
        [45, 67, 89],
        [89, 89, 89],
    ]


def test_statistics_are_of_all_frames_of_the_clips_of_this_split(folder):
    clips = [caption(0, 0.5, 2), caption(0, 1, 2.5), caption(2, 0, 1), caption(1, 0, 1, split="test")]
    mean, deviation = CaptionDataset(clips, folder, 3).statistics()
    due = torch.nn.functional.normalize(torch.cat([stored(folder, 0)[15:75], stored(folder, 2)[:30]]), dim=1)
    torch.testing.assert_close(mean, due.mean(0))
    torch.testing.assert_close(deviation, due.std(0, correction=0))


def test_number_that_is_everywhere_the_same_has_deviation_one(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for path in tmp_path.glob("*.h5"):
        with h5py.File(path, "r+") as file:
            file["features"][:, 3] = 0
    mean, deviation = CaptionDataset(CAPTIONS, tmp_path, 3).statistics()
    assert (mean[3], deviation[3]) == (0, 1)
    assert deviation[4] != 1


@pytest.mark.parametrize(
    ("clips", "named"),
    [
        ([caption(0, 3, 4)], r"c\.csv:2: the segment from 3 to 4 s is outside film film_0, which ends at 3\.00 s"),
        ([caption(1, 0.5, 2.5)], r"c\.csv:3: the segment from 0\.5 to 2\.5 s is outside film film_1"),
        ([caption(7, 0, 1)], r"c\.csv:9: no features of film film_7: .*film_7\.h5 is not there; run step 2"),
        ([caption(0, 0, 1, split="test")], r"data\.captions: has no film for train"),
    ],
)
def test_table_that_does_not_fit_the_films_is_refused(folder, clips, named):
    with pytest.raises(InputError, match=named) as refused:
        CaptionDataset(clips, folder, 3)
    assert "\n" not in str(refused.value)


def test_films_with_features_of_two_backbones_are_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    assert CaptionDataset(CAPTIONS, tmp_path, 3).backbone == ("resnet18", "0" * 64)
    with h5py.File(tmp_path / "film_2.h5", "r+") as file:
        file.attrs["backbone"] = "resnet50"
    named = r"features of film_0 are by resnet18 \(random:0\), those of film_2 by resnet50 \(random:0\); preprocess all"
    with pytest.raises(InputError, match=named):
        CaptionDataset(CAPTIONS, tmp_path, 3)


def test_damaged_feature_file_is_refused(folder, tmp_path):
    (tmp_path / "film_0.h5").write_bytes((folder / "film_0.h5").read_bytes()[:2000])
    with pytest.raises(InputError, match=r"film_0\.h5.*run preprocess_videos\.py again"):
        CaptionDataset([caption(0, 0, 1)], tmp_path, 3)
