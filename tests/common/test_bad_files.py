"""Index, feature and memorability files with wrong contents or damaged bytes: read rightly or refused in one line.

Contents are wrong in what HDF5, NumPy and torch can store; bytes are damaged anywhere in a file. Every file is then
used as the scripts use it: its episodes are gathered, its features looked up. Features that are changed cannot be told
from right ones, so only what is around them is checked.

Left out are files that lead libhdf5 into an endless loop (see `is_endless`): nothing outside of the library can tell in
time, and a time limit for reading would be wrong for some disk. A few damaged files in ten thousand make libhdf5 read
outside its memory, which ends the process; nothing is half written then, as nothing is written before all is read.
"""

import pickle
import re
import signal
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from conftest import write_features
from generated import damaged, numbers, outcomes, refused, texts, values
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as generated_arrays

import generate_dataset
from recognition.common.command_line import InputError
from recognition.episodes.drawing import draw_episodes, study_frames
from recognition.episodes.episode_spec import EpisodeSpec
from recognition.episodes.index_file import EpisodeIndex, read_index, write_index
from recognition.evaluation.memorability_file import Scores, read_probe_scores, read_scores, write_scores
from recognition.features.feature_bank import FeatureBank, read_all_shots
from recognition.features.feature_file import DamagedFile, feature_files
from recognition.films.alterations import ALTERATIONS
from recognition.training.config import DatasetConfig
from recognition.training.data import open_split

LENGTHS = np.array([50, 61, 72])
IDS = [f"film_{k}" for k in range(len(LENGTHS))]
SPEC = EpisodeSpec(3, 8, 4, 4, 2, new_probes="far,mirrored", alter_every=4)
EPISODES = draw_episodes(LENGTHS, SPEC, 4, (0,))
DTYPES = ("u1", "i1", "i4", "u8", "i8", "f2", "f4", "f8", "?", ">i4", ">f2", "c8", "S4")
SETTINGS = {"weights": "random:0", "weights_sha256": "0", "fit": "squeeze", "pictures": "", "layer": ""}


class Exploit:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whole files: features of four films, the index and the scores of their memorability, ours and the published
    data set's."""
    folder = tmp_path_factory.mktemp("whole")
    write_features(folder, LENGTHS, 6, alter_every=4, shot_length=10)
    write_index(EpisodeIndex(folder / "test_indices.h5", EPISODES, IDS, LENGTHS, SPEC), {"seed": 0, "split": "test"})
    frame = np.arange(40)
    scores = Scores(frame, np.zeros(40, np.uint8), np.linspace(0, 1, 40, dtype=np.float32), np.zeros((40, 2), "f4"))
    (folder / "memorability").mkdir()
    write_scores(folder / "memorability" / "film_1.h5", "film_1", scores, SETTINGS)
    published = folder / "published"
    published.mkdir()
    for k, length in enumerate(LENGTHS):
        torch.save(torch.randn(length, 6), published / f"film_{k}.pt")
    np.savez(published / "test_indices.npz", clips=clips(), titles=np.array([f"{name}.mp4" for name in IDS]))
    np.savez_compressed(published / "packed.npz", clips=clips(), titles=np.array([f"{name}.mp4" for name in IDS]))
    return folder


def clips() -> np.ndarray:
    """The episodes with far probes alone, as the published data set has them: rows [start, end, video, label]."""
    study, probes, is_old, _ = draw_episodes(LENGTHS, EpisodeSpec(3, 8, 4, 4, 2), 4, (0,))
    shown = np.concatenate([study[..., [1, 2, 0]], np.full((*study.shape[:2], 1), -1)], 2)
    asked = np.stack([probes[..., 1], probes[..., 1] + 1, probes[..., 0], is_old.astype(np.int64)], 2)
    return np.concatenate([shown, asked], 1).astype(np.int64)


def use_index(path: Path, features: Path) -> None:
    """Open the episodes of an index file and gather all of them."""
    data = open_split(DatasetConfig(test_indices_file=str(path), video_path=str(features), subsample=2), "test")
    index, num = data.index, len(data)
    assert all((features / f"{video_id}.h5").parent == features for video_id in index.video_ids)
    assert all(len(field) == num > 0 for field in index.episodes)
    batch, is_old, _ = data[np.arange(num)]
    assert batch.shape == (num, data.num_study_frames + data.num_probes, 6)
    assert set(is_old.unique().tolist()) <= {0.0, 1.0}
    if index.spec:
        assert study_frames(index.episodes.study, index.spec.subsample).shape[1] == (
            index.spec.num_clips * index.spec.rows_per_clip * len(range(0, index.spec.row_length, index.spec.subsample))
        )


def use_features(path: Path) -> None:
    """Take a feature file as generate_dataset.py does, then as train.py does, with altered frames and shots."""
    others = [other.stem for other in feature_files(path.parent) if other != path]
    generate_dataset.read_bank(path.parent)
    bank = FeatureBank(path.parent, [*others, path.stem], alterations=list(ALTERATIONS))
    read_all_shots(path.parent, [path.stem])
    use_bank(bank)


def use_published(path: Path) -> None:
    """The same with a film of the published data set."""
    use_bank(FeatureBank(path.parent, [path.stem]))


def use_bank(bank: FeatureBank) -> None:
    last = len(bank.num_frames) - 1
    frame = np.array([[0, bank.num_frames[last] - 1]])
    assert bank.gather(np.full_like(frame, last), frame).shape == (1, 2, bank.num_features)
    bank.statistics(8)


def use_scores(path: Path) -> None:
    scores, settings = read_scores(path)
    assert len(scores.frame) == len(scores.score) > 0
    assert settings.keys() == SETTINGS.keys()
    found = read_probe_scores(path.parent, EPISODES, IDS)
    assert found is None or found.score.shape == EPISODES.kind.shape


arrays = generated_arrays.arrays(
    st.sampled_from(DTYPES), generated_arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
)


@st.composite
def changed(draw: st.DrawFn, array: np.ndarray) -> np.ndarray:
    """An array with something wrong: another, or with another type, shape or number."""
    if array.dtype == object or array.ndim == 0 or array.size == 0 or draw(st.integers(0, 3)) == 0:
        return draw(arrays)
    match draw(st.integers(0, 4)):
        case 0:
            return array.astype(draw(st.sampled_from(DTYPES)))
        case 1:
            return np.moveaxis(array, 0, -1)
        case 2:
            return array[: draw(st.integers(0, len(array)))]
        case 3:
            return draw(st.sampled_from([array[None], array[..., :1], np.concatenate([array] * 2), array[..., None]]))
    array = array.copy()
    cells = st.sampled_from([-np.inf, np.inf, np.nan, 0, 1, -1])
    if array.dtype.kind in "iu":
        limits = np.iinfo(array.dtype)
        cells = st.sampled_from([int(limits.min), int(limits.max)]) | st.integers(0, 100)
    array.flat[draw(st.integers(0, array.size - 1))] = draw(cells)
    return array


def change(file: h5py.File, draw: st.DrawFn) -> None:
    """Make one thing wrong in an HDF5 file: an attribute, a dataset, or what stands where a dataset should."""
    names = [name for name in sorted(file) if isinstance(file.get(name, getlink=True), h5py.HardLink)]
    name, attribute = draw(st.sampled_from(names or ["a"])), draw(st.sampled_from(sorted(file.attrs) or ["a"]))
    action = draw(st.integers(0, 9))
    if action < 4 and attribute in file.attrs:
        if draw(st.integers(0, 5)) == 0:
            del file.attrs[attribute]
        elif isinstance(draw(st.none() | st.just(1)), int):
            file.attrs[attribute] = draw(numbers.filter(lambda x: isinstance(x, float) or abs(x) < 2**63) | arrays)
        else:
            file.attrs[attribute] = draw(texts.filter(is_storable))
    elif action == 4 and isinstance(file.get(name), h5py.Dataset) and h5py.check_string_dtype(file[name].dtype):
        ids = file[name][:]
        if ids.size:
            ids.flat[draw(st.integers(0, ids.size - 1))] = draw(texts.filter(is_storable) | st.just("film_1"))
            file[name][:] = ids
    elif isinstance(file.get(name), h5py.Dataset):
        array = file[name][()]
        del file[name]
        match action:
            case 5:
                file.create_group(name)
            case 6:
                file[name] = draw(st.sampled_from([h5py.SoftLink(name), h5py.ExternalLink("/etc/passwd", "/")]))
            case 7 if array.ndim and array.size:
                file.create_dataset(name, data=array, chunks=True, compression="gzip")
            case 8:
                pass
            case _:
                file[name] = draw(changed(np.asarray(array)))


def is_storable(text: str) -> bool:
    """Whether HDF5 has a way to say it."""
    return "\0" not in text and text.isprintable()


def use(path: Path, reader: Callable[[Path], Any]) -> None:
    """Read a file and, where it is refused, look at the message. Nothing may come to be beside it."""
    before = sorted(path.parent.rglob("*"))
    try:
        reader(path)
    except (InputError, DamagedFile) as error:
        refused(error, path, path.parent)
    assert sorted(path.parent.rglob("*")) == before


WHOLE = {  # a file of each kind, and the whole files that it is read beside
    "index": ("test_indices.h5", "film_?.h5"),
    "features": ("film_1.h5", "film_0.h5"),
    "scores": ("memorability/film_1.h5", ""),
    "npz": ("published/test_indices.npz", "film_?.pt"),
    "packed": ("published/packed.npz", "film_?.pt"),
    "pt": ("published/film_1.pt", ""),
}


@pytest.fixture(scope="module")
def places(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Where bad files go, by kind."""
    places = {}
    for kind, (name, others) in WHOLE.items():
        places[kind] = tmp_path_factory.mktemp(kind) / Path(name).name
        for other in (folder / name).parent.glob(others) if others else ():
            (places[kind].parent / other.name).symlink_to(other)
    return places


def whole(folder: Path, kind: str) -> bytes:
    """A whole file of a kind."""
    return (folder / WHOLE[kind][0]).read_bytes()


def is_endless(data: bytes) -> bool:
    """Whether an HDF5 file has a heap of strings with an entry of no size, at which libhdf5 2.0 reads for ever.

    Zeros over the beginning of such an entry are enough. Entries are 16 bytes, an index and a size among them, and
    what they hold; index 0 is for free space, whose size counts its own 16 bytes.
    """
    for heap in re.finditer(b"GCOL", data):
        place = heap.start() + 16
        while place + 16 <= len(data):
            index, size = struct.unpack_from("<H6xQ", data, place)
            step = (size if index == 0 else 16 + (size + 7) // 8 * 8) % 2**64
            if step == 0:
                return True
            place += step
    return False


def reader(kind: str) -> Callable[[Path], None]:
    """What uses a file of this kind."""
    with_features = {kind: lambda path: use_index(path, path.parent) for kind in ("index", "npz", "packed")}
    return {**with_features, "features": use_features, "scores": use_scores, "pt": use_published}[kind]


@pytest.mark.parametrize("kind", WHOLE)
def test_whole_file_is_read(folder: Path, places: dict[str, Path], kind: str):
    places[kind].write_bytes(whole(folder, kind))
    reader(kind)(places[kind])


@pytest.mark.parametrize("kind", ["index", "features", "scores"])
@given(data=st.data())
def test_wrong_contents_are_refused_or_read_rightly(folder: Path, places: dict[str, Path], kind: str, data):
    path = places[kind]
    path.write_bytes(whole(folder, kind))
    with h5py.File(path, "r+") as file:
        for _ in range(data.draw(st.integers(1, 3))):
            change(file, data.draw)
    use(path, reader(kind))


@given(data=st.data())
def test_wrong_published_index_is_refused_or_read_rightly(places: dict[str, Path], data):
    stored = {"clips": clips(), "titles": np.array([f"{name}.mp4" for name in IDS])}
    titles = st.lists(texts.map("{}.mp4".format) | texts | st.sampled_from(stored["titles"].tolist()), max_size=5)
    match data.draw(st.integers(0, 4)):
        case 0:
            stored["titles"] = np.array(data.draw(titles), dtype=str)
        case 1:
            stored[data.draw(st.sampled_from(sorted(stored)))] = data.draw(arrays)
        case 2:
            del stored[data.draw(st.sampled_from(sorted(stored)))]
        case _:
            stored["clips"] = data.draw(changed(stored["clips"]))
    np.savez(places["npz"], **stored)
    use(places["npz"], reader("npz"))


@pytest.mark.parametrize("kind", ["npz", "pt"])
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x], lambda x: {"clips": x}])
@pytest.mark.parametrize("is_bare", [False, True])
def test_no_code_in_a_file_is_run(places: dict[str, Path], kind: str, wrap: Callable, is_bare: bool):
    path, made = places[kind], places[kind].with_name("made")
    content = wrap(Exploit(made))
    if is_bare:
        path.write_bytes(pickle.dumps(content))
    elif kind == "npz":
        np.savez(path, clips=np.array([content], dtype=object), titles=np.array(["film_0.mp4"]))
    else:
        torch.save(content, path)
    assert not made.exists()
    with pytest.raises(InputError):
        reader(kind)(path)
    assert not made.exists()
    use(path, reader(kind))


tensors = st.builds(
    lambda shape, dtype: torch.zeros(shape).to(dtype),
    st.lists(st.integers(0, 4), max_size=3),
    st.sampled_from([torch.half, torch.float, torch.double, torch.bfloat16, torch.long, torch.bool, torch.cfloat]),
)
odd_tensors = st.sampled_from(
    [
        torch.zeros(5, 6, requires_grad=True),
        torch.zeros(5, 6).to_sparse(),
        torch.zeros(1, 6).expand(10**12, 6),
        torch.zeros(6, 5).T,
        torch.zeros(5, 6, device="meta"),
        torch.nn.Parameter(torch.zeros(5, 6)),
    ]
)


@given(content=tensors | odd_tensors | values | st.lists(tensors, max_size=2) | st.dictionaries(texts, tensors))
def test_wrong_published_features_are_refused_or_read_rightly(places: dict[str, Path], content: Any):
    torch.save(content, places["pt"])
    use(places["pt"], reader("pt"))


@pytest.mark.parametrize("kind", WHOLE)
def test_damaged_file_is_refused_or_read(folder: Path, places: dict[str, Path], kind: str):
    files = [*damaged(whole(folder, kind)), *(whole(folder, other) for other in WHOLE if other != kind)]
    if kind in ("index", "features", "scores"):
        files = [data for data in files if not is_endless(data)]
    assert len(files) > 0.95 * settings.default.max_examples
    found = outcomes(reader(kind), files, places[kind])
    if kind in ("index", "features", "scores"):
        crashes = [f"killed by signal {number.value}" for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT)]
        assert sum(result in crashes for result in found) <= max(1, len(found) / 500)
        found = [result for result in found if result not in crashes]
    wrong = {k: result for k, result in enumerate(found) if result not in ("read", "refused")}
    print(kind, {result: found.count(result) for result in sorted(set(found))})
    assert not wrong, "\n".join(f"file {k}: {result}" for k, result in wrong.items())
    assert found.count("refused") > len(found) / 10


def test_index_of_damaged_files_is_refused_where_it_leads_out_of_the_folder(folder: Path, tmp_path: Path):
    path = tmp_path / "test_indices.h5"
    write_index(EpisodeIndex(path, EPISODES, ["../x", *IDS[1:]], LENGTHS, SPEC), {})
    with pytest.raises(InputError, match="cannot be the name of a file"):
        read_index(path)
