"""Index files: ours and the published data set's, whole and damaged."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np
import pytest
from on_disk import truncate

from recognition.common.command_line import InputError
from recognition.episodes.drawing import Episodes, clip_kinds, draw_episodes
from recognition.episodes.episode_spec import EpisodeSpec
from recognition.episodes.index_file import EpisodeIndex, read_index, write_index

SPEC = EpisodeSpec(3, 9, 4, 4, 2, "presented")
LENGTHS = np.arange(60, 95, 7)
IDS = ["film_0", "film.1", "-film 2", "фильм", "film_4"]
EPISODES = draw_episodes(LENGTHS, SPEC, 6, (0,))


def write(path: Path, episodes: Episodes = EPISODES, seed: int = 5) -> Path:
    attributes = {"seed": seed, "split": "train", "test_set_fraction": 0.25}
    write_index(EpisodeIndex(path, episodes, IDS, LENGTHS, SPEC), attributes)
    return path


def published_clips() -> np.ndarray:
    """The episodes as rows [start, end, video, label], -1 for clips, as the published data set stores them."""
    study, probes, is_old, _ = (field.astype(np.int64) for field in EPISODES)
    shown = np.concatenate([study[..., [1, 2, 0]], np.full((*study.shape[:2], 1), -1)], 2)
    asked = np.stack([probes[..., 1], probes[..., 1] + 1, probes[..., 0], is_old], 2)
    return np.concatenate([shown, asked], 1)


def write_published(path: Path, save: Callable = np.savez, **arrays: np.ndarray) -> Path:
    save(path, **({"clips": published_clips(), "titles": np.array([f"{name}.mp4" for name in IDS])} | arrays))
    return path


def complaint(path: Path) -> str:
    """The one line in which an index file is refused."""
    with pytest.raises(InputError) as error:
        read_index(path)
    assert str(error.value).startswith(f"{path}: ")
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def assert_equal(read: Episodes, expected: Episodes) -> None:
    for name, field, other in zip(Episodes._fields, read, expected, strict=True):
        assert field.dtype == other.dtype, name
        np.testing.assert_array_equal(field, other, name)


def test_what_was_written_is_read_back(tmp_path):
    index = read_index(write(tmp_path / "train_indices.h5"))
    assert_equal(index.episodes, EPISODES)
    assert (index.video_ids, index.spec, len(index)) == (IDS, SPEC, 6)
    np.testing.assert_array_equal(index.video_num_frames, LENGTHS)
    assert index.clip_kind is None


BY_KIND = EpisodeSpec(3, 8, 4, 4, 2, study_clips="no_cut,cut,other_film")


def write_by_kind(path: Path, clip_kind: np.ndarray | None = None) -> np.ndarray:
    """Write episodes with clips of several kinds, or of those given; returns their kinds."""
    shots = [np.arange(0, length, 20) for length in LENGTHS]
    episodes = draw_episodes(LENGTHS, BY_KIND, 6, (0,), shots)
    found = clip_kinds(episodes.study, LENGTHS, shots)
    kinds = found if clip_kind is None else clip_kind
    write_index(EpisodeIndex(path, episodes, IDS, LENGTHS, BY_KIND, kinds), {})
    return found


def test_kinds_of_clips_are_read_back(tmp_path):
    expected = write_by_kind(tmp_path / "train_indices.h5")
    index = read_index(tmp_path / "train_indices.h5")
    np.testing.assert_array_equal(index.clip_kind, expected)
    assert (index.clip_kind.shape, index.clip_kind.dtype, index.spec) == ((6, 3), np.uint8, BY_KIND)


@pytest.mark.parametrize("clip_kind", [np.zeros((6, 2)), np.zeros((5, 3)), np.full((6, 3), 3), np.zeros(6)])
def test_kinds_that_do_not_fit_the_clips_are_refused(tmp_path, clip_kind):
    write_by_kind(tmp_path / "train_indices.h5", clip_kind.astype(np.uint8))
    complaint(tmp_path / "train_indices.h5")


def test_missing_kinds_of_clips_are_refused(tmp_path):
    write_by_kind(tmp_path / "train_indices.h5")
    with h5py.File(tmp_path / "train_indices.h5", "r+") as file:
        del file["clip_kind"]
    complaint(tmp_path / "train_indices.h5")


def test_file_of_the_first_format_is_read_as_one_of_far_probes(tmp_path):
    with h5py.File(write(tmp_path / "train_indices.h5"), "r+") as file:
        del file["kind"]
        for name in ("new_probes", "probe_lags", "alter_every", "study_clips"):
            del file.attrs[name]
        file.attrs["format_version"] = 1
    index = read_index(tmp_path / "train_indices.h5")
    assert_equal(index.episodes, EPISODES)
    assert index.spec == SPEC


def test_every_parameter_is_stored_as_an_attribute(tmp_path):
    with h5py.File(write(tmp_path / "train_indices.h5")) as file:
        given = {"seed": 5, "split": "train", "test_set_fraction": 0.25, "format_version": 2}
        assert dict(file.attrs) == asdict(SPEC) | given


def test_equal_arguments_give_equal_bytes_and_others_do_not(tmp_path):
    first, again, other = (write(tmp_path / f"{k}.h5", seed=5 + k // 2).read_bytes() for k in range(3))
    assert first == again != other


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_published_index_is_read(tmp_path, save):
    index = read_index(write_published(tmp_path / "train_indices.npz", save))
    assert_equal(index.episodes, EPISODES)
    assert (index.video_ids, index.spec, index.video_num_frames) == (IDS, None, None)


def test_published_index_of_full_size_is_read(tmp_path):
    rng = np.random.default_rng(0)
    start = rng.integers(0, 20_000, (5, 270))
    is_clip = np.arange(270) < 90
    label = np.where(is_clip, -1, rng.permuted(np.tile(np.arange(270) % 2, (5, 1)), axis=1))
    video = rng.integers(0, 300, (5, 270))
    clips = np.stack([start, start + np.where(is_clip, 300, 1), video, label], 2)
    titles = np.array([f"{k:011d}.mp4" for k in range(300)])
    study, probes, is_old, _ = read_index(write_published(tmp_path / "i.npz", clips=clips, titles=titles)).episodes
    assert (study.shape, probes.shape, is_old.shape) == ((5, 90, 3), (5, 180, 2), (5, 180))
    for n, k in [(0, 0), (4, 89), (2, 50)]:
        assert study[n, k].tolist() == [video[n, k], start[n, k], start[n, k] + 300]
    for n, k in [(0, 90), (4, 269), (2, 150)]:
        assert probes[n, k - 90].tolist() == [video[n, k], start[n, k]]
        assert is_old[n, k - 90] == label[n, k]


def replace(name: str, change: Callable[[np.ndarray], object]) -> Callable[[h5py.File], None]:
    """A damage to an index file: put something else in place of a dataset."""

    def damage(file: h5py.File) -> None:
        array = file[name][:]
        del file[name]
        file[name] = change(array)

    return damage


def setting(array: np.ndarray, where: tuple, value: int) -> np.ndarray:
    array = array.copy()
    array[where] = value
    return array


def without_attribute(name: str) -> Callable[[h5py.File], None]:
    return lambda file: file.attrs.__delitem__(name)


def with_attribute(name: str, value: object) -> Callable[[h5py.File], None]:
    return lambda file: file.attrs.__setitem__(name, value)


DAMAGES = {
    "no study": lambda file: file.__delitem__("study"),
    "no probes": lambda file: file.__delitem__("probes"),
    "no is_old": lambda file: file.__delitem__("is_old"),
    "no video_ids": lambda file: file.__delitem__("video_ids"),
    "no video_num_frames": lambda file: file.__delitem__("video_num_frames"),
    "no format": without_attribute("format_version"),
    "no subsample": without_attribute("subsample"),
    "no old_probes": without_attribute("old_probes"),
    "no kind": lambda file: file.__delitem__("kind"),
    "no new_probes": without_attribute("new_probes"),
    "no study_clips": without_attribute("study_clips"),
    "unknown study_clips": with_attribute("study_clips", "soft"),
    "unknown new_probes": with_attribute("new_probes", "far,nearby"),
    "unknown kind": replace("kind", lambda kind: kind * 8),
    "kinds that are not old or new": replace("kind", lambda kind: kind * 0),
    "fewer kinds": replace("kind", lambda kind: kind[:, :-1]),
    "later format": with_attribute("format_version", 3),
    "subsample in words": with_attribute("subsample", "three"),
    "subsample a list": with_attribute("subsample", [1, 2]),
    "study flat": replace("study", lambda study: study[0]),
    "study without ends": replace("study", lambda study: study[..., :2]),
    "study of one number": replace("study", lambda study: 7),
    "study of fractions": replace("study", lambda study: study + 0.5),
    "study in words": replace("study", lambda study: study.astype("S")),
    "fewer studies": replace("study", lambda study: study[:-1]),
    "no clips": replace("study", lambda study: study[:, :0]),
    "no probe": replace("probes", lambda probes: probes[:, :0]),
    "probes with ends": replace("probes", lambda probes: probes[..., [0, 1, 1]]),
    "fewer answers": replace("is_old", lambda is_old: is_old[:, :-1]),
    "answer 2": replace("is_old", lambda is_old: is_old * 2),
    "unknown film studied": replace("study", lambda study: setting(study, (0, 0, 0), 5)),
    "unknown film probed": replace("probes", lambda probes: setting(probes, (0, 0, 0), 5)),
    "negative film": replace("probes", lambda probes: setting(probes, (0, 0, 0), -1)),
    "negative frame": replace("probes", lambda probes: setting(probes, (0, 0, 1), -1)),
    "clip after its film": replace("study", lambda study: setting(study, (0, 0, slice(1, 3)), [100, 109])),
    "probe after its film": replace("probes", lambda probes: setting(probes, (0, 0, 1), 88)),
    "clips of two lengths": replace("study", lambda study: setting(study, (0, 0, 2), study[0, 0, 1] + 8)),
    "clips backwards": replace("study", lambda study: study[..., [0, 2, 1]]),
    "clips of no frame": replace("study", lambda study: study[..., [0, 1, 1]]),
    "no episode": lambda file: [replace(name, lambda array: array[:0])(file) for name in Episodes._fields],
    "films without length": replace("video_num_frames", lambda lengths: lengths[:-1]),
    "lengths without film": replace("video_num_frames", lambda lengths: np.append(lengths, 60)),
    "ids as numbers": replace("video_ids", lambda ids: np.arange(5)),
    "a group": lambda file: [file.__delitem__("video_ids"), file.create_group("video_ids")],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_index_that_contradicts_itself_is_refused(tmp_path, damage):
    path = write(tmp_path / "train_indices.h5")
    with h5py.File(path, "r+") as file:
        damage(file)
    complaint(path)


PUBLISHED_DAMAGES = {
    "no clips": lambda clips: clips[:, 3:],
    "no probes": lambda clips: clips[:, :3],
    "no episodes": lambda clips: clips[:0],
    "flat": lambda clips: clips[0],
    "no labels": lambda clips: clips[..., :3],
    "probe before a clip": lambda clips: clips[:, [0, 1, 3, 2, *range(4, 11)]],
    "clips of one episode fewer": lambda clips: setting(clips, (3, 2, 3), 0),
    "answer 2": lambda clips: setting(clips, (0, 5, 3), 2),
    "answer -2": lambda clips: setting(clips, (0, 5, 3), -2),
    "unknown film": lambda clips: setting(clips, (0, 5, 2), 5),
    "negative frame": lambda clips: setting(clips, (0, 5, 0), -1),
    "two lengths": lambda clips: setting(clips, (0, 0, 1), clips[0, 0, 0] + 8),
    "words": lambda clips: clips.astype(str),
}


@pytest.mark.parametrize("damage", PUBLISHED_DAMAGES.values(), ids=PUBLISHED_DAMAGES)
def test_published_index_that_contradicts_itself_is_refused(tmp_path, damage):
    complaint(write_published(tmp_path / "train_indices.npz", clips=damage(published_clips())))


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.99])
def test_index_cut_short_anywhere_is_refused(tmp_path, suffix, share):
    path = (write if suffix == ".h5" else write_published)(tmp_path / f"train_indices{suffix}")
    truncate(path, share)
    assert "not an index file" in complaint(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_published_index_with_a_changed_byte_is_refused(tmp_path, save):
    path = write_published(tmp_path / "train_indices.npz", save)
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 3] ^= 0xFF
    path.write_bytes(whole)
    complaint(path)


@pytest.mark.parametrize("name", ["train_indices.h5", "train_indices.npz"])
def test_other_files_and_missing_ones_are_refused(tmp_path, name):
    assert "no such index file" in complaint(tmp_path / name)
    (tmp_path / name).write_text("start,end,video,label\n")
    assert "not an index file" in complaint(tmp_path / name)
    with open(tmp_path / name, "wb") as file:
        np.save(file, published_clips())
    assert "not an index file" in complaint(tmp_path / name)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    complaint(tmp_path / name)


def test_published_index_without_titles_is_refused(tmp_path):
    np.savez(tmp_path / "i.npz", clips=published_clips())
    assert "titles" in complaint(tmp_path / "i.npz")


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["clips", "titles"])
def test_code_pickled_into_a_published_index_is_not_run(tmp_path, name):
    trap = np.array([Trap(tmp_path / "trapped")], dtype=object)
    complaint(write_published(tmp_path / "train_indices.npz", **{name: trap}))
    assert not (tmp_path / "trapped").exists()
    np.load(tmp_path / "train_indices.npz", allow_pickle=True)[name]
    assert (tmp_path / "trapped").exists()  # it would have been
