"""Batches of episodes: their features, fresh episodes, the published data set, and shares of processes."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import write_features

from recognition.common.command_line import Failure, InputError
from recognition.episodes.dataset import EpisodeDataset
from recognition.episodes.drawing import Episodes, clip_kinds, draw_episodes
from recognition.episodes.episode_spec import EpisodeSpec
from recognition.episodes.index_file import EpisodeIndex, write_index
from recognition.training.config import DatasetConfig
from recognition.training.data import CPU, batches, check_asking, loader, open_split, validation_note

SPLITS = ("train", "validation", "test")
SPEC = EpisodeSpec(3, 9, 4, 4, 2)


def config_of(folder: Path, suffix: str = ".h5", **settings: object) -> DatasetConfig:
    indices = {f"{split}_indices_file": f"{folder}/{split}_indices{suffix}" for split in ("train", "test")}
    return DatasetConfig(**indices, video_path=str(folder), **settings)


def gathered_plainly(dataset: EpisodeDataset, folder: Path, subsample: int, repeat_test: int) -> np.ndarray:
    """Features of all episodes (N, T, D), sliced clip by clip out of the feature files."""
    films = []
    for video_id in dataset.index.video_ids:
        with h5py.File(folder / f"{video_id}.h5") as file:
            films.append(file["features"][:])
    stacked = []
    for study, probes, *_ in zip(*dataset.episodes, strict=True):
        rows = [films[video][start:end:subsample] for video, start, end in study]
        rows += [films[video][frame : frame + 1] for video, frame in probes for _ in range(repeat_test)]
        stacked.append(np.concatenate(rows))
    return np.stack(stacked)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(("subsample", "repeat_test"), [(None, 1), (1, 3), (4, 2)])
@pytest.mark.parametrize("mmap", [False, True])
def test_batch_holds_the_frames_of_clips_then_probes(small_bank, split, subsample, repeat_test, mmap):
    dataset = open_split(config_of(small_bank, subsample=subsample, repeat_test=repeat_test, mmap=mmap), split)
    expected = gathered_plainly(dataset, small_bank, subsample or 2, repeat_test)
    number = np.array([5, 0, 7, 5])
    features, is_old, film = dataset[number]
    np.testing.assert_array_equal(features.numpy(), expected[number])
    np.testing.assert_array_equal(is_old.numpy(), dataset.episodes.is_old[number])
    study, probes = dataset.episodes.study[number, :, 0], dataset.episodes.probes[number, :, 0]
    clip_frames = len(range(0, 9, subsample or 2))
    films = np.hstack([study.repeat(clip_frames, axis=1), probes.repeat(repeat_test, axis=1)])
    np.testing.assert_array_equal(film.numpy(), films)
    assert (features.dtype, is_old.dtype, film.dtype) == (torch.float16, torch.float32, torch.int64)
    assert dataset.num_study_frames + dataset.num_probes * repeat_test == features.shape[1]
    assert (len(dataset), dataset.num_probes) == ({"train": 24}.get(split, 8), 8)


def test_no_film_is_in_two_splits(small_bank):
    ids = [video_id for split in SPLITS for video_id in open_split(config_of(small_bank), split).index.video_ids]
    assert sorted(ids) == sorted(f"film_{k}" for k in range(12))


def test_fresh_episodes_lie_in_the_training_films(small_bank):
    dataset = open_split(config_of(small_bank, fresh_episodes=True), "train")
    stored = dataset.index.episodes
    drawn = {}
    for seed in [(1, 3, 0), (1, 3, 1), (2, 3, 0)]:
        dataset.draw_fresh(seed)
        drawn[seed] = dataset.episodes
        study, probes, *_ = dataset.episodes
        assert [field.shape for field in dataset.episodes] == [field.shape for field in stored]
        assert max(study[..., 0].max(), probes[..., 0].max()) < len(dataset.index.video_ids)
        assert (study[..., 2] <= dataset.index.video_num_frames[study[..., 0]]).all()
        expected = draw_episodes(dataset.index.video_num_frames, SPEC, 24, seed)
        assert [field.tobytes() for field in dataset.episodes] == [field.tobytes() for field in expected]
        expected = gathered_plainly(dataset, small_bank, 2, 1)
        np.testing.assert_array_equal(dataset[np.arange(24)].features.numpy(), expected)
    everything = [stored, *drawn.values()]
    assert len({episodes.study.tobytes() for episodes in everything}) == 4
    dataset.draw_fresh((1, 3, 0))
    assert dataset.episodes.probes.tobytes() == drawn[1, 3, 0].probes.tobytes()
    assert dataset.index.episodes is stored


ALL_KINDS = EpisodeSpec(
    4, 8, 4, 7, 2, new_probes="far,near,same_shot,other_film,mirrored,cropped,brightened",
    alter_every=4, study_clips="no_cut=2,cut,other_film",
)  # fmt: skip


def write_all_kinds(folder: Path, spec: EpisodeSpec = ALL_KINDS) -> None:
    """Films, and index files whose episodes have clips and probes of all kinds."""
    lengths, shots = np.array([60, 70, 65, 90]), [np.arange(0, n, 23) for n in (60, 70, 65, 90)]
    write_features(folder, lengths, alter_every=4, shot_length=23)
    for split in SPLITS:
        episodes = draw_episodes(lengths, spec, 9, (0,), shots)
        names = [f"film_{k}" for k in range(4)]
        kinds = clip_kinds(episodes.study, lengths, shots)
        write_index(EpisodeIndex(folder / f"{split}_indices.h5", episodes, names, lengths, spec, kinds), {})


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("repeat_test", [1, 2])
def test_altered_probes_have_the_features_of_their_altered_frames(tmp_path, mmap, repeat_test):
    write_all_kinds(tmp_path)
    dataset = open_split(config_of(tmp_path, mmap=mmap, repeat_test=repeat_test), "train")
    for seed in (None, (1, 2)):
        if seed:
            dataset.draw_fresh(seed)
        features = dataset[np.arange(9)].features[:, dataset.num_study_frames :: repeat_test].numpy()
        kinds = set()
        for n, (probes, codes) in enumerate(zip(dataset.episodes.probes, dataset.episodes.kind, strict=True)):
            for place, ((video, frame), code) in enumerate(zip(probes, codes, strict=True)):
                kinds.add(int(code))
                with h5py.File(tmp_path / f"film_{video}.h5") as file:
                    expected = file["altered"][code - 5, frame // 4] if code >= 5 else file["features"][frame]
                np.testing.assert_array_equal(features[n, place], expected)
        assert kinds == set(range(8))


def test_fresh_episodes_have_clips_of_the_same_kinds(tmp_path):
    write_all_kinds(tmp_path)
    dataset = open_split(config_of(tmp_path, fresh_episodes=True), "train")
    stored = dataset.episodes
    dataset.draw_fresh((3,))
    assert (dataset.episodes.study != stored.study).any()
    assert dataset.num_study_frames == 16
    shots = [np.arange(0, n, 23) for n in dataset.index.video_num_frames]
    kinds = clip_kinds(dataset.episodes.study, dataset.index.video_num_frames, shots)
    np.testing.assert_array_equal(np.sort(kinds, 1), [[0, 0, 1, 2]] * 9)
    expected = study_plainly(dataset, tmp_path)
    np.testing.assert_array_equal(dataset[np.arange(9)].features[:, :16].numpy(), expected)


def study_plainly(dataset: EpisodeDataset, folder: Path) -> np.ndarray:
    """Features of the study frames of all episodes, (N, S, D), sliced row by row out of the feature files."""
    parts = []
    for study in dataset.episodes.study:
        rows = []
        for video, start, stop in study:
            with h5py.File(folder / f"film_{video}.h5") as file:
                rows.append(file["features"][start:stop:2])
        parts.append(np.concatenate(rows))
    return np.stack(parts)


def test_altered_probes_of_features_altered_at_other_frames_are_refused(tmp_path):
    write_all_kinds(tmp_path)
    for every, words in [(3, "one in 4, and .* has one in 3; run generate_dataset.py again"), (0, "has no altered fr")]:
        write_features(tmp_path, [60, 70, 65, 90], alter_every=every, shot_length=23)
        with pytest.raises(InputError, match=words):
            open_split(config_of(tmp_path), "test")


def test_fresh_episodes_without_known_shots_are_refused(tmp_path):
    write_all_kinds(tmp_path)
    write_features(tmp_path, [60, 70, 65, 90], alter_every=4)
    with pytest.raises(InputError, match="does not say where shots begin"):
        open_split(config_of(tmp_path), "train").draw_fresh((0,))


def test_validation_kept_from_the_training_file_has_its_own_kinds_of_clips(tmp_path):
    write_all_kinds(tmp_path)
    config = config_of(tmp_path, validation_indices_file=f"{tmp_path}/train_indices.h5")
    whole = open_split(config_of(tmp_path), "train").index.clip_kind
    for split, part in (("train", whole[:8]), ("validation", whole[8:])):
        np.testing.assert_array_equal(open_split(config, split).index.clip_kind, part)


def test_presented_probes_need_the_subsample_they_were_drawn_with(tmp_path):
    lengths = np.array([60, 70])
    write_features(tmp_path, lengths)
    spec = EpisodeSpec(3, 9, 4, 4, 2, "presented")
    for split in SPLITS:
        episodes = draw_episodes(lengths, spec, 2, (0,))
        write_index(EpisodeIndex(tmp_path / f"{split}_indices.h5", episodes, ["film_0", "film_1"], lengths, spec), {})
    for split in SPLITS:
        assert open_split(config_of(tmp_path, subsample=2), split).num_study_frames == 15
        assert open_split(config_of(tmp_path), split).num_study_frames == 15
        with pytest.raises(InputError, match=r"dataset.subsample: 3, but .* shown with 2"):
            open_split(config_of(tmp_path, subsample=3), split)


ASKING = {"fresh_episodes": True, "train_probes": 12, "probe_times": "clip_ends"}


@pytest.mark.parametrize("by_kind", [False, True])
def test_groups_of_training_probes_are_told_by_the_frames_before_them(small_bank, tmp_path, by_kind):
    folder = small_bank
    if by_kind:
        folder = tmp_path
        write_all_kinds(folder, replace(ALL_KINDS, new_probes="far"))
    dataset = open_split(config_of(folder, **ASKING), "train")
    num_clips = 4 if by_kind else 3
    assert dataset.asked is None
    dataset.draw_fresh((1, 3, 0))
    batch = dataset[np.arange(9)]
    frames, sizes = zip(*dataset.asked, strict=True)
    assert sum(sizes) == batch.is_old.shape[1] == 12
    assert batch.features.shape[1] == batch.film.shape[1] == dataset.num_study_frames + 12
    assert set(frames) <= {clip * dataset.num_study_frames // num_clips for clip in range(1, num_clips + 1)}
    assert (frames[-1], sizes[-1]) == (dataset.num_study_frames, 4)  # 30 per cent of 12, to the nearest pair
    for is_old in batch.is_old.split(sizes, 1):
        assert (2 * is_old.sum(1) == is_old.shape[1]).all()
    expected = study_plainly(dataset, folder) if by_kind else gathered_plainly(dataset, folder, 2, 1)[:9]
    np.testing.assert_array_equal(batch.features[:, : expected.shape[1]].numpy(), expected)


def test_more_training_probes_may_all_be_asked_at_the_end(small_bank):
    dataset = open_split(config_of(small_bank, fresh_episodes=True, train_probes=14), "train")
    dataset.draw_fresh((1, 3, 0))
    assert dataset.asked == [(15, 14)]
    expected = draw_episodes(dataset.bank.num_frames, replace(SPEC, num_tests=7), 24, (1, 3, 0))
    assert [field.tobytes() for field in dataset.episodes] == [field.tobytes() for field in expected]


def test_only_training_episodes_ask_otherwise(small_bank):
    train, *others = (open_split(config_of(small_bank, **ASKING), split) for split in SPLITS)
    assert train.asking == (12, 0.3)
    assert [dataset.asking for dataset in others] == [None, None]
    plain = open_split(config_of(small_bank, fresh_episodes=True), "train")
    plain.draw_fresh((1, 3, 0))
    assert plain.asking is plain.asked is None


@pytest.mark.parametrize(
    ("train_probes", "words"),
    [
        (1000, r"3 clips have 27 frames to be old probes and 500 are needed: 473 frames are missing$"),
        (10**9, r"3 clips have 27 frames to be old probes"),
        (54, r"the films .* seldom have room for \d+ old and as many new probes after \d of 3 clips$"),
    ],
)
def test_training_probes_that_the_films_cannot_hold_are_refused_in_a_line(small_bank, train_probes, words):
    dataset = open_split(config_of(small_bank, **ASKING | {"train_probes": train_probes, "at_end": 0}), "train")
    with pytest.raises(InputError, match=rf"^dataset\.train_probes: cannot draw such episodes: {words}"):
        check_asking(dataset)


def test_training_probes_too_few_for_the_kinds_of_lures_are_refused(tmp_path):
    write_all_kinds(tmp_path)
    with pytest.raises(
        InputError, match=r"^dataset\.train_probes: .*: of 6 in all, its share leaves none for brighten"
    ):
        check_asking(open_split(config_of(tmp_path, **ASKING), "train"))
    check_asking(open_split(config_of(tmp_path, **ASKING | {"train_probes": 14}), "train"))


def test_episodes_of_one_clip_cannot_ask_in_between(tmp_path):
    write_features(tmp_path, [60])
    spec = EpisodeSpec(1, 9, 4, 4, 2)
    episodes = draw_episodes(np.array([60]), spec, 9, (0,))
    write_index(EpisodeIndex(tmp_path / "train_indices.h5", episodes, ["film_0"], np.array([60]), spec), {})
    with pytest.raises(InputError, match=r"^dataset\.probe_times: clip_ends, but .* have one clip; set it to end$"):
        check_asking(open_split(config_of(tmp_path, **ASKING), "train"))
    check_asking(open_split(config_of(tmp_path, fresh_episodes=True, train_probes=6), "train"))


def test_published_index_does_not_say_how_to_ask_otherwise(published):
    with pytest.raises(InputError, match=r"dataset\.fresh_episodes: .* does not say how its episodes were drawn"):
        open_split(config_of(published, ".npz", subsample=3, **ASKING), "train")


@pytest.mark.parametrize("split", SPLITS)
def test_missing_index_file_is_named(tmp_path, small_bank, split):
    for other in set(SPLITS) - {split}:
        (tmp_path / f"{other}_indices.h5").symlink_to(small_bank / f"{other}_indices.h5")
    with pytest.raises(InputError, match=f"{tmp_path}/{split}_indices.h5: no such index file"):
        open_split(config_of(tmp_path), split)


def test_validation_file_may_be_given(small_bank):
    config = config_of(small_bank, validation_indices_file=f"{small_bank}/test_indices.h5")
    validation, test = (open_split(config, split) for split in ("validation", "test"))
    assert validation.index.video_ids == test.index.video_ids
    assert validation_note(config) == validation_note(config_of(small_bank)) == ""


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """The published data set in small: four films of training, three of test, 40 and 5 episodes."""
    for split, lengths, num in [("train", [60, 70, 65, 80], 40), ("test", [75, 61, 66], 5)]:
        titles = [f"{split} {k}.mp4" for k in range(len(lengths))]
        for k, (title, length) in enumerate(zip(titles, lengths, strict=True)):
            features = np.random.default_rng((k, num)).normal(size=(length, 16)).astype(np.float32)
            torch.save(torch.from_numpy(features), tmp_path / title.replace(".mp4", ".pt"))
        write_published(tmp_path / f"{split}_indices.npz", draw_episodes(np.array(lengths), SPEC, num, (1,)), titles)
    return tmp_path


def write_published(path: Path, episodes: Episodes, titles: list[str]) -> None:
    study, probes, is_old = (field.astype(np.int64) for field in episodes[:3])
    shown = np.concatenate([study[..., [1, 2, 0]], np.full((*study.shape[:2], 1), -1)], 2)
    asked = np.stack([probes[..., 1], probes[..., 1] + 1, probes[..., 0], is_old], 2)
    np.savez(path, clips=np.concatenate([shown, asked], 1), titles=np.array(titles))


@pytest.mark.parametrize("mmap", [False, True])
def test_last_sixteenth_of_published_training_is_validation_and_not_trained_on(published, mmap):
    config = config_of(published, ".npz", subsample=3, mmap=mmap)
    train, validation, test = (open_split(config, split) for split in SPLITS)
    assert [len(part) for part in (train, validation, test)] == [38, 2, 5]
    with np.load(published / "train_indices.npz") as file:
        clips, titles = file["clips"], file["titles"]
    films = [torch.load(published / title.replace(".mp4", ".pt"), weights_only=True) for title in titles]
    for part, first in [(train, 0), (validation, 38)]:
        features, is_old, _ = part[np.arange(len(part))]
        for k, rows in enumerate(clips[first : first + len(part)]):
            expected = [films[v][start : end : 3 if label == -1 else 1] for start, end, v, label in rows]
            torch.testing.assert_close(features[k], torch.cat(expected), rtol=0, atol=0)
            np.testing.assert_array_equal(is_old[k].numpy(), rows[3:, 3])
    assert "last sixteenth" in validation_note(config)


def test_few_published_episodes_still_leave_one_for_validation(published):
    (published / "test_indices.npz").replace(published / "train_indices.npz")
    config = config_of(published, ".npz", subsample=3)
    assert [len(open_split(config, split)) for split in ("train", "validation")] == [4, 1]


def test_published_data_set_with_a_validation_file_trains_on_all(published):
    (published / "validation_indices.npz").symlink_to(published / "test_indices.npz")
    config = config_of(published, ".npz", subsample=3)
    assert [len(open_split(config, split)) for split in SPLITS] == [40, 5, 5]
    assert validation_note(config) == ""


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "dataset.subsample: must be given"),
        ({"subsample": 3, "fresh_episodes": True}, "dataset.fresh_episodes: .*train_indices.npz"),
    ],
)
def test_what_the_published_index_does_not_say_is_asked_for(published, settings, words):
    with pytest.raises(InputError, match=words):
        open_split(config_of(published, ".npz", **settings), "train")


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("film", ["test 0.pt", "test 2.pt"])  # within the bank, and its last film
def test_published_film_shorter_than_its_index_wants_is_refused(published, film, mmap):
    torch.save(torch.zeros(20, 16), published / film)
    with pytest.raises(InputError, match=r"test_indices\.npz: does not fit the films"):
        open_split(config_of(published, ".npz", subsample=3, mmap=mmap), "test")


@pytest.mark.parametrize(("num", "size"), [(24, 8), (25, 8), (3, 8), (8, 8), (1, 1)])
def test_every_episode_comes_once_in_order_without_a_seed(num, size):
    parts = batches(num, size)
    assert np.concatenate(parts).tolist() == list(range(num))
    assert {len(part) for part in parts[:-1]} <= {size}


@pytest.mark.parametrize(("num", "size"), [(24, 8), (25, 8), (63, 10), (3, 8)])
def test_shuffled_batches_are_full_and_hold_no_episode_twice(num, size):
    parts = batches(num, size, (0, 1))
    together = np.concatenate(parts).tolist()
    assert {len(part) for part in parts} == {min(num, size)}
    assert len(parts) == max(1, num // size)
    assert len(set(together)) == len(together)
    assert set(together) <= set(range(num))


def test_order_follows_the_seed():
    first, again, other = (np.concatenate(batches(64, 8, seed)).tolist() for seed in [(0, 1), (0, 1), (0, 2)])
    assert first == again
    assert len({tuple(first), tuple(other), tuple(range(64))}) == 3


@pytest.mark.parametrize("seed", [None, (0, 1)])
@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize(("num", "size"), [(24, 6), (27, 6), (63, 9), (5, 6)])
def test_processes_share_each_batch_without_overlap(num, size, world, seed):
    whole = batches(num, size, seed)
    shares = [batches(num, size, seed, rank, world) for rank in range(world)]
    for k, batch in enumerate(whole):
        parts = [share[k] for share in shares if k < len(share)]
        assert sorted(np.concatenate(parts)) == sorted(batch)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    if seed:
        assert {len(share) for share in shares} == {len(whole)}  # all take the same number of steps


@pytest.mark.parametrize("mmap", [False, True])
def test_threads_give_the_same_batches(small_bank, mmap):
    dataset = open_split(config_of(small_bank, mmap=mmap), "train")
    numbers = batches(len(dataset), 5, (0, 1))
    alone, workers = (list(loader(dataset, numbers, num_workers, CPU)) for num_workers in (0, 2))
    assert len(alone) == len(workers) == 4
    for k, number in enumerate(numbers):
        for field in range(3):
            torch.testing.assert_close(workers[k][field], alone[k][field], rtol=0, atol=0)
            torch.testing.assert_close(dataset[number][field], alone[k][field], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("settings", "place"),
    [({}, "memory"), ({"mmap": False}, "memory"), ({"mmap": True}, "mapped"), ({"bank": "mapped"}, "mapped"),
     ({"bank": "memory", "mmap": True}, "memory")],
)  # fmt: skip
def test_bank_is_held_where_the_settings_say(small_bank, settings, place):
    assert open_split(config_of(small_bank, **settings), "test").bank.place == place


def test_bank_for_a_gpu_is_refused_to_a_model_on_the_cpu(small_bank):
    with pytest.raises(InputError, match=r"^dataset\.bank: gpu, but the model runs on the cpu; set it to auto$"):
        open_split(config_of(small_bank, bank="gpu"), "test")


def test_threads_see_fresh_episodes(small_bank):
    dataset = open_split(config_of(small_bank), "train")
    dataset.draw_fresh((0, 3, 7))
    features = next(iter(loader(dataset, batches(24, 24), 1, CPU))).features
    np.testing.assert_array_equal(features.numpy(), gathered_plainly(dataset, small_bank, 2, 1))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("[enforce fail] can't allocate memory")])
def test_want_of_memory_for_batches_names_the_settings(small_bank, monkeypatch, num_workers, error):
    def gather(*_):
        raise error

    dataset = open_split(config_of(small_bank), "train")
    monkeypatch.setattr(dataset.bank, "gather", gather)
    with pytest.raises(Failure, match=rf"lower training\.num_workers \({num_workers}\).*or training\.batch_size$"):
        next(loader(dataset, batches(24, 4), num_workers, CPU))
