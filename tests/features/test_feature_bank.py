"""The feature bank: memory, memory map and plain reading agree; what does not fit together is refused."""

import resource
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import write_features
from on_disk import truncate
from torch import Tensor

from recognition.common.command_line import InputError
from recognition.features.feature_bank import FeatureBank, choose_place, read_all_shots

LENGTHS = [30, 41, 5, 63]
IDS = [f"film_{k}" for k in (3, 0, 2, 1)]  # an index numbers films in its own order


def read_plainly(folder: Path) -> list[np.ndarray]:
    films = []
    for video_id in IDS:
        with h5py.File(folder / f"{video_id}.h5") as file:
            films.append(file["features"][:])
    return films


def publish(folder: Path, films: list[np.ndarray]) -> Path:
    """The films as the published data set stores them: one float32 tensor each."""
    folder.mkdir()
    for video_id, film in zip(IDS, films, strict=True):
        torch.save(torch.from_numpy(film.astype(np.float32)), folder / f"{video_id}.pt")
    return folder


def random_frames(num_frames: np.ndarray, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    video = rng.integers(0, len(num_frames), shape)
    return video, rng.integers(0, num_frames[video])


def complaint(folder: Path, ids: list[str] = IDS, num_frames: list[int] | None = None) -> str:
    """The one line in which a bank is refused, however it would be held."""
    lines = []
    for place in ("memory", "mapped"):
        with pytest.raises(InputError) as error:
            FeatureBank(folder, ids, num_frames, place)
        lines.append(str(error.value))
    assert lines[0] == lines[1]
    assert len(lines[0].splitlines()) == 1
    return lines[0]


@pytest.fixture(params=["float16", "float32"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_features(tmp_path / "features", LENGTHS, dtype=request.param)


@pytest.mark.parametrize("place", ["memory", "mapped"])
def test_frames_are_those_of_the_files(folder, place):
    films = read_plainly(folder)
    bank = FeatureBank(folder, IDS, np.array([63, 30, 5, 41]), place)
    assert bank.place == place
    assert (bank.num_frames.tolist(), bank.num_features) == ([63, 30, 5, 41], 16)
    assert bank.num_bytes == sum(film.nbytes for film in films)
    for shape in [(7,), (4, 50), (2, 3, 5), (1, 1)]:
        video, frame = random_frames(bank.num_frames, *shape)
        features = bank.gather(video.astype(np.int32), frame.astype(np.int32))
        assert (features.shape, features.dtype) == ((*shape, 16), torch.from_numpy(films[0]).dtype)
        expected = [films[v][f] for v, f in zip(video.ravel(), frame.ravel(), strict=True)]
        np.testing.assert_array_equal(features.reshape(-1, 16).numpy(), expected)


@pytest.mark.parametrize("place", ["memory", "mapped"])
def test_first_and_last_frames_are_of_their_own_film(folder, place):
    bank, films = FeatureBank(folder, IDS, None, place), read_plainly(folder)
    for k, film in enumerate(films):
        ends = bank.gather(np.array([k, k]), np.array([0, len(film) - 1]))
        np.testing.assert_array_equal(ends.numpy(), film[[0, -1]])


@pytest.mark.parametrize("place", ["memory", "mapped"])
def test_gathered_features_are_a_copy(folder, place):
    bank, frames = FeatureBank(folder, IDS, None, place), (np.array([1, 1]), np.array([0, 3]))
    before = bank.gather(*frames).clone()
    bank.gather(*frames).zero_()
    torch.testing.assert_close(bank.gather(*frames), before, rtol=0, atol=0)


@pytest.mark.parametrize("place", ["memory", "mapped"])
def test_published_tensors_are_read_as_feature_files_are(tmp_path, folder, place):
    published = FeatureBank(publish(tmp_path / "published", read_plainly(folder)), IDS, None, place)
    ours = FeatureBank(folder, IDS, None, place)
    assert published.dtype == torch.float32
    frames = random_frames(ours.num_frames, 3, 40)
    torch.testing.assert_close(published.gather(*frames), ours.gather(*frames).float(), rtol=0, atol=0)


def test_small_bank_is_held_in_memory_unless_told_otherwise(folder):
    bank = FeatureBank(folder, IDS)
    assert (bank.place, str(bank)) == ("memory", "0.00 GB of features in memory")


def test_bank_goes_where_it_takes_at_most_half(monkeypatch):
    monkeypatch.setattr("recognition.features.feature_bank.granted_memory", lambda: 4_096_000)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (600_000, 700_000))
    places = [choose_place(n, torch.device("cuda")) for n in (300_000, 300_001, 2_048_000, 2_048_001)]
    assert places == ["gpu", "memory", "memory", "mapped"]
    assert choose_place(300_000, torch.device("cpu")) == "memory"


@pytest.mark.parametrize("is_published", [False, True])
@pytest.mark.parametrize("place", ["memory", "mapped"])
def test_bank_of_more_films_than_files_may_be_open_is_read(tmp_path, folder, place, is_published):
    if is_published:
        folder = publish(tmp_path / "published", read_plainly(folder))
    ids = [f"copy_{k}" for k in range(60)]
    for video_id in ids:
        (folder / f"{video_id}{'.pt' if is_published else '.h5'}").hardlink_to(next(folder.glob("film_0.*")))
    bank = FeatureBank(folder, IDS[:1], None, place)  # whatever libraries open once is open
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    num_open = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (num_open + 20, limits[1]))
    try:
        bank = FeatureBank(folder, ids, None, place)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    frames = np.arange(60), np.full(60, 29)
    assert (bank.gather(*frames) == bank.gather(*frames)[0]).all()


def test_threads_gather_what_one_gathers(folder):
    bank = FeatureBank(folder, IDS)
    frames = random_frames(bank.num_frames, 5, 1001)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    expected = bank.gather(*frames)
    torch.set_num_threads(3)
    gathered = bank.gather(*frames)
    torch.set_num_threads(num_threads)
    torch.testing.assert_close(gathered, expected, rtol=0, atol=0)


def test_batches_that_are_held_stay_as_they_are_while_more_are_gathered(folder):
    bank = FeatureBank(folder, IDS)
    frames = [random_frames(bank.num_frames, 7 + k % 2, 4) for k in range(12)]
    expected = [bank.gather(*at).clone() for at in frames]
    held = [bank.gather(*at)[1:, 2] for at in frames]  # a view alone holds on to its batch
    for part, whole in zip(held, expected, strict=True):
        torch.testing.assert_close(part, whole[1:, 2], rtol=0, atol=0)


def test_memory_of_a_batch_that_nobody_holds_serves_for_the_next(folder):
    bank = FeatureBank(folder, IDS)
    at = random_frames(bank.num_frames, 7, 4)
    first = bank.gather(*at)
    place = first.data_ptr()
    second = bank.gather(*at)
    assert second.data_ptr() != place
    del first
    assert bank.gather(*at).data_ptr() == place


ALTERATIONS = ("brightened", "mirrored")


def altered_frames(num_frames: np.ndarray, every: int, *shape: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random frames, about two of three of them altered; as film, frame and alteration."""
    video, frame = random_frames(num_frames, *shape)
    alteration = np.random.default_rng(1).integers(0, 3, shape)
    return video, np.where(alteration > 0, frame // every * every, frame), alteration


@pytest.mark.parametrize("place", ["memory", "mapped"])
def test_altered_frames_are_those_of_the_files(tmp_path, place):
    folder = write_features(tmp_path, LENGTHS, alter_every=4)
    bank = FeatureBank(folder, IDS, None, place, alterations=ALTERATIONS)
    plain = FeatureBank(folder, IDS, None, place)
    assert bank.alter_every == 4
    assert bank.num_bytes == plain.num_bytes + 2 * 16 * sum(2 * -(-n // 4) for n in LENGTHS)
    frames, altered = read_plainly(folder), []
    for video_id in IDS:
        with h5py.File(folder / f"{video_id}.h5") as file:
            altered.append(file["altered"][:][[2, 0]])  # as ALTERATIONS names them
    video, frame, alteration = altered_frames(bank.num_frames, 4, 3, 101)
    found = bank.gather(video, frame, alteration).numpy()
    for where in np.ndindex(3, 101):
        v, f, a = video[where], frame[where], alteration[where]
        np.testing.assert_array_equal(found[where], altered[v][a - 1, f // 4] if a else frames[v][f])
    np.testing.assert_array_equal(bank.gather(video, frame), plain.gather(video, frame))
    np.testing.assert_array_equal(bank.gather(video, frame, 0 * alteration), plain.gather(video, frame))
    torch.testing.assert_close(bank.statistics(), plain.statistics())


def test_films_without_altered_frames_or_with_more_than_others_are_named(tmp_path):
    folder = write_features(tmp_path / "features", LENGTHS, alter_every=4)
    for name, every, words in [("a", 0, "has no altered frames; make them with preprocess"), ("b", 5, "more altered")]:
        write_features(tmp_path / name, LENGTHS, alter_every=every)
        (tmp_path / name / "film_2.h5").replace(folder / "film_2.h5")
        with pytest.raises(InputError, match=words):
            FeatureBank(folder, IDS, alterations=ALTERATIONS)
        assert FeatureBank(folder, IDS).num_frames.tolist() == [63, 30, 5, 41]


def test_films_whose_shots_are_not_known_are_named(tmp_path):
    known, unknown = (write_features(tmp_path / str(k), LENGTHS, shot_length=k) for k in (7, 0))
    assert [shots.tolist() for shots in read_all_shots(known, IDS[2:])] == [[0], [0, 7, 14, 21, 28, 35]]
    with pytest.raises(InputError, match=f"{unknown / 'film_3.h5'}: does not say where shots begin"):
        read_all_shots(unknown, IDS)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_altered_frames_on_the_gpu_are_those_in_memory(tmp_path):
    folder = write_features(tmp_path, LENGTHS, alter_every=4)
    banks = [FeatureBank(folder, IDS, None, place, torch.device("cuda"), ALTERATIONS) for place in ("gpu", "memory")]
    frames = altered_frames(banks[0].num_frames, 4, 3, 101)
    torch.testing.assert_close(banks[0].gather(*frames).cpu(), banks[1].gather(*frames), rtol=0, atol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_bank_on_the_gpu_gathers_what_one_in_memory_gathers(folder):
    on_gpu, expected = FeatureBank(folder, IDS, None, "gpu", torch.device("cuda")), FeatureBank(folder, IDS)
    frames = random_frames(expected.num_frames, 5, 101)
    assert on_gpu.gather(*frames).is_cuda
    torch.testing.assert_close(on_gpu.gather(*frames).cpu(), expected.gather(*frames), rtol=0, atol=0)


def statistics_of(rows: np.ndarray) -> tuple[Tensor, Tensor]:
    rows = rows.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return torch.from_numpy(rows.mean(0)).float(), torch.from_numpy(rows.std(0, ddof=1)).float()


@pytest.mark.parametrize("place", ["memory", "mapped"])
def test_statistics_are_those_of_unit_length_features(folder, place):
    bank, rows = FeatureBank(folder, IDS, None, place), np.concatenate(read_plainly(folder))
    torch.testing.assert_close(bank.statistics(), statistics_of(rows))
    some = [int(k * (len(rows) - 1) / 19) for k in range(20)]
    torch.testing.assert_close(bank.statistics(20), statistics_of(rows[some]))


def test_missing_film_is_named(folder):
    (folder / "film_2.h5").unlink()
    assert f"{folder / 'film_2.h5'}: no such feature file" in complaint(folder)


def test_missing_folder_is_named(tmp_path):
    assert str(tmp_path / "nowhere") in complaint(tmp_path / "nowhere")


def test_film_of_another_length_than_its_index_says_is_named(folder):
    line = complaint(folder, num_frames=[63, 30, 6, 41])
    assert "film_2 has 5 frames and its index says 6" in line


@pytest.mark.parametrize("difference", [{"num_features": 8}, {"dtype": "float64"}])
def test_films_with_unlike_features_are_refused(tmp_path, folder, difference):
    write_features(tmp_path / "other", LENGTHS, **difference)
    (tmp_path / "other" / "film_2.h5").replace(folder / "film_2.h5")
    assert "differ in number or type" in complaint(folder)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_feature_file_cut_short_is_named(folder, share):
    path = folder / "film_2.h5"
    truncate(path, share)
    assert str(path) in complaint(folder)


def compress(file: h5py.File) -> None:
    features = file["features"][:]
    del file["features"]
    file.create_dataset("features", data=features, compression="gzip")


@pytest.mark.parametrize(
    "damage",
    [
        compress,
        lambda file: file.__delitem__("features"),
        lambda file: file.__delitem__("time_s"),
        lambda file: file.attrs.__delitem__("backbone"),
        lambda file: file.attrs.__setitem__("num_frames", 4),
        lambda file: file.attrs.__setitem__("format_version", 2),
    ],
    ids=["compressed", "no features", "no times", "no backbone", "another length", "later format"],
)
def test_feature_file_that_contradicts_itself_is_named(folder, damage: Callable[[h5py.File], None]):
    with h5py.File(folder / "film_2.h5", "r+") as file:
        damage(file)
    assert str(folder / "film_2.h5") in complaint(folder)


@pytest.mark.parametrize(
    "content",
    [{"features": torch.ones(5, 16)}, torch.ones(5), torch.ones(5, 4, 4), torch.tensor(1.0), None, "text"],
    ids=["dictionary", "flat", "images", "number", "nothing", "text"],
)
def test_published_file_that_is_no_table_of_features_is_named(tmp_path, content):
    torch.save(content, tmp_path / "film_0.pt")
    assert str(tmp_path / "film_0.pt") in complaint(tmp_path, ["film_0"])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_published_file_cut_short_is_named(tmp_path, share):
    path = tmp_path / "film_0.pt"
    torch.save(torch.ones(50, 16), path)
    truncate(path, share)
    assert str(path) in complaint(tmp_path, ["film_0"])


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_code_pickled_into_a_published_file_is_not_run(tmp_path):
    torch.save(Trap(tmp_path / "trapped"), tmp_path / "film_0.pt")
    assert "film_0.pt" in complaint(tmp_path, ["film_0"])
    assert not (tmp_path / "trapped").exists()
    torch.load(tmp_path / "film_0.pt", weights_only=False)
    assert (tmp_path / "trapped").exists()  # it would have been
