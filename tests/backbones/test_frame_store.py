"""One reader for films, small films, folders with frames.db and memory: the same pictures for the same numbers."""

import pickle
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import av
import cv2
import h5py
import numpy as np
import pytest
from colour_films import FILMS, write_colours

from backbones.film_index import INDEX, Shape, write_index
from backbones.frame_store import HeldFilm, PlainFilm, SmallFilm, open_film, original_sha256
from backbones.small_films import examine, update_index, write_small_film
from backbones.stored_frames import StoredFrames, write_frames
from recognition.common.command_line import InputError
from recognition.common.files import sha256
from recognition.common.workers import done_by_workers
from recognition.films.video import decode

PUBLISHED_TABLE = "CREATE TABLE Images (ObjId STRING, frames BLOB, size INT)"
PUBLISHED_ROW = "INSERT INTO Images(ObjId, frames, size) VALUES (?, ?, ?)"
PUBLISHED_LOOK_UP = "SELECT frames FROM Images WHERE ObjId = ?"
ASKED = [[0], [35], [3, 4, 5], [5, 4, 3, 4], [0, 17, 34], [20, 21, 22], [23, 24], [2, 35, 2], range(36), [1, 3, 5, 7]]


def pictures_of(path: Path) -> np.ndarray:
    """All pictures of a film, decoded from its start."""
    return np.stack([image for image, _ in decode(path)])


def psnr(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of pictures of 256 levels."""
    return 10 * np.log10(255**2 / np.mean((ours.astype(float) - theirs) ** 2))


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three films of 36 frames, in three containers. Read only."""
    folder = tmp_path_factory.mktemp("originals")
    for film, (name, *rest) in enumerate(FILMS):
        write_colours(folder / name, film, *rest)
    return folder


def make_small(original: Path, folder: Path) -> Path:
    """A small film with its index."""
    path, shape = folder / f"{original.stem}.mp4", Shape(short_side=40, keyframes=8)
    write_small_film(original, path, shape)
    write_index(folder, [examine(path)[0]], shape)
    return path


@pytest.fixture
def small(originals: Path, tmp_path: Path) -> Path:
    return make_small(originals / "red.mp4", tmp_path / "small")


def jpeg(grey: int, size: int = 16) -> bytes:
    return cv2.imencode(".jpg", np.full((size, size, 3), grey, np.uint8))[1].tobytes()


def store(folder: Path, rows: list[tuple[str, bytes]], count: int | None = None) -> Path:
    """A folder as dataset2database leaves it."""
    folder.mkdir(parents=True)
    with closing(sqlite3.connect(folder / "frames.db")) as connection:
        connection.execute(PUBLISHED_TABLE)
        connection.executemany(PUBLISHED_ROW, [(name, data, 16) for name, data in rows])
        connection.commit()
    if count is not None:
        (folder / "n_frames").write_text(str(count))
    return folder


def greys(film: str, numbers: range) -> list[tuple[str, bytes]]:
    """Rows of frames, counted from 1, in which frame k has grey 5 k."""
    return [(f"{film}/frame_{k:05d}", jpeg(5 * k)) for k in numbers]


@pytest.mark.parametrize("name", [name for name, *_ in FILMS])
def test_film_has_the_pictures_that_decode_counts(originals: Path, name: str):
    expected, reader = pictures_of(originals / name), open_film(originals / name)
    assert isinstance(reader, PlainFilm)
    assert (reader.num_frames, reader.fps) == (36, {name: fps for name, _, fps, _ in FILMS}[name])
    for numbers in ASKED:
        np.testing.assert_array_equal(reader.frames(numbers), expected[list(numbers)])


@pytest.mark.parametrize("name", [name for name, *_ in FILMS])
def test_small_film_has_the_pictures_that_decode_counts(originals: Path, tmp_path: Path, name: str):
    path = make_small(originals / name, tmp_path)
    expected, reader = pictures_of(path), open_film(path)
    assert isinstance(reader, SmallFilm)
    assert (reader.num_frames, reader.fps) == (36, PlainFilm(originals / name).fps)
    for numbers in ASKED:
        np.testing.assert_array_equal(reader.frames(numbers), expected[list(numbers)])


def test_every_order_of_reading_gives_a_small_films_own_pictures(small: Path):
    expected, reader, rng = pictures_of(small), open_film(small), np.random.default_rng(0)
    for _ in range(60):
        numbers = rng.integers(0, 36, rng.integers(1, 6))
        np.testing.assert_array_equal(reader.frames(numbers), expected[numbers])


def test_small_pictures_are_those_of_the_film_within_30_db(originals: Path, small: Path):
    wide = open_film(originals / "red.mp4").frames(range(36))
    expected = np.stack([cv2.resize(picture, (54, 40), interpolation=cv2.INTER_AREA) for picture in wide])
    ours = open_film(small).frames(range(36))
    assert ours.shape == expected.shape
    assert psnr(ours, expected) > 30


def test_stored_pictures_are_those_of_jpeg_files(originals: Path, tmp_path: Path):
    pictures = pictures_of(originals / "red.mp4")
    write_frames(tmp_path / "red", pictures)
    expected = []
    for k, picture in enumerate(pictures):
        cv2.imwrite(str(tmp_path / f"{k}.jpg"), picture[..., ::-1])
        expected.append(cv2.imread(str(tmp_path / f"{k}.jpg"))[..., ::-1])
    reader = open_film(tmp_path / "red", store_fps=25)
    assert isinstance(reader, StoredFrames)
    assert (reader.num_frames, reader.fps) == (36, 25)
    for numbers in ASKED:
        np.testing.assert_array_equal(reader.frames(numbers), np.stack(expected)[list(numbers)])


def test_film_is_known_by_the_bytes_of_its_original(originals: Path, small: Path, tmp_path: Path):
    write_frames(tmp_path / "stored", pictures_of(small)[:2])
    digest = sha256(originals / "red.mp4")
    assert original_sha256(originals / "red.mp4") == original_sha256(small) == digest != sha256(small)
    assert original_sha256(tmp_path / "stored") == sha256(tmp_path / "stored" / "frames.db")


def test_frames_in_memory_are_read_as_any(originals: Path):
    pictures = pictures_of(originals / "red.mp4")
    reader = HeldFilm(pictures, 25)
    for numbers in ASKED:
        np.testing.assert_array_equal(reader.frames(numbers), pictures[list(numbers)])


@pytest.mark.parametrize("kind", ["film", "small", "stored", "held"])
def test_closed_reader_can_be_asked_again_and_sent_to_another_process(originals, small, tmp_path, kind):
    write_frames(tmp_path / "stored", pictures_of(small))
    readers = {
        "film": lambda: open_film(originals / "red.mp4"),
        "small": lambda: open_film(small),
        "stored": lambda: open_film(tmp_path / "stored"),
        "held": lambda: HeldFilm(pictures_of(small), 25),
    }
    reader = readers[kind]()
    before = reader.frames([3, 30])
    reader.close()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(reader)).frames([3, 30]), before)
    np.testing.assert_array_equal(reader.frames([3, 30]), before)
    for wrong in ([36], [-1]):
        with pytest.raises(IndexError, match="36 frames count from 0"):
            reader.frames(wrong)


@pytest.mark.parametrize("kind", ["small", "stored"])
def test_reader_that_is_open_serves_forked_processes_too(tmp_path: Path, kind: str):
    with av.open(str(tmp_path / "noise.mp4"), "w") as container:  # much more than is read of a file at once
        stream = container.add_stream("libx264", rate=25, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for picture in np.random.default_rng(0).integers(0, 256, (36, 120, 160, 3), np.uint8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())
    small = tmp_path / "small" / "noise.mp4"
    write_small_film(tmp_path / "noise.mp4", small, Shape())
    update_index(small.parent, Shape())
    assert small.stat().st_size > 200_000
    expected = pictures_of(small)
    write_frames(tmp_path / "stored", expected)
    reader = open_film({"small": small, "stored": tmp_path / "stored"}[kind])
    expected = reader.frames(range(36))
    reader.frames([0])  # from where it would go on

    def work(task: int) -> Iterator[bool]:
        yield np.array_equal(reader.frames([35, task]), expected[[35, task]])

    assert list(done_by_workers(work, ["a", "b"], 2, "", lambda task, how: False)) == [True, True]
    np.testing.assert_array_equal(reader.frames(range(1, 36)), expected[1:])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(reader)).frames([3]), expected[[3]])


def test_damaged_film_is_refused_when_it_is_opened(originals: Path, tmp_path: Path):
    content = (originals / "red.mp4").read_bytes()
    (tmp_path / "red.mp4").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"red\.mp4: cannot be read \("):
        open_film(tmp_path / "red.mp4")
    with pytest.raises(InputError, match=r"absent\.mp4: cannot be read \(No such file"):
        open_film(tmp_path / "absent.mp4")


def test_folder_without_frames_is_no_film(tmp_path: Path):
    with pytest.raises(InputError, match=r"is a folder without frames\.db"):
        open_film(tmp_path)


def test_film_that_the_index_does_not_name_is_read_as_it_is(originals: Path, small: Path):
    other = small.with_name("green.mkv")
    other.write_bytes((originals / "green.mkv").read_bytes())
    assert isinstance(open_film(other), PlainFilm)


def test_small_film_that_changed_since_its_index_is_refused(small: Path):
    small.write_bytes(small.read_bytes() + b" ")
    with pytest.raises(InputError, match=r"red\.mp4: is not the film that .*index\.h5.* run python -m backbones"):
        open_film(small)


def test_small_film_that_has_gone_is_named(small: Path):
    small.unlink()
    with pytest.raises(InputError, match=r"red\.mp4: no such film, though .*index\.h5 names it"):
        open_film(small)


def test_small_film_with_frames_at_other_times_is_refused(small: Path):
    with h5py.File(small.with_name(INDEX), "r+") as file:
        file["time_s"][10] += 0.001
    reader = open_film(small)
    reader.frames(range(8))
    with pytest.raises(InputError, match=r"red\.mp4: is not the film .*frame 10 is damaged or at another time"):
        reader.frames([12])


@pytest.mark.parametrize("wrong", ["cut", "text", "version", "lacks"])
def test_damaged_index_is_named_with_what_to_do(small: Path, wrong: str):
    index = small.with_name(INDEX)
    if wrong == "cut":
        index.write_bytes(index.read_bytes()[:700])
    elif wrong == "text":
        index.write_text("an index\n")
    else:
        with h5py.File(index, "r+") as file:
            if wrong == "version":
                file.attrs["format_version"] = 9
            else:
                del file["key_frame"]
    with pytest.raises(
        InputError, match=r"index\.h5: is (damaged|of format 9).* run python -m backbones\.prepare films"
    ):
        open_film(small).frames([0])


def test_rows_in_any_order_are_told_by_their_names(tmp_path: Path):
    rows = greys("film", range(1, 51))
    np.random.default_rng(0).shuffle(rows)
    reader = open_film(store(tmp_path / "film", rows, 50))
    assert reader.frames(range(50))[:, 8, 8, 0].tolist() == [5 * k for k in range(1, 51)]


def test_frame_100001_comes_last_though_its_name_does_not(tmp_path: Path):
    grey = jpeg(9)
    rows = [(f"a_film_b/frame_{k:05d}", grey) for k in range(1, 100_001)] + [("a_film_b/frame_100001", jpeg(200))]
    reader = open_film(store(tmp_path / "a_film_b", rows[::-1], 100_001))
    assert reader.num_frames == 100_001
    assert reader.frames([99_999, 100_000])[:, 8, 8, 0].tolist() == [9, 200]


@pytest.mark.parametrize(
    ("count", "said"), [(None, ""), (3, ""), (4, "n_frames: says 4, but frames.db has 3 frames\n")]
)
def test_wrong_count_is_told_and_an_absent_one_is_not(tmp_path, capsys, count, said):
    assert open_film(store(tmp_path / "film", greys("film", range(1, 4)), count)).num_frames == 3
    told = capsys.readouterr().err
    assert told.endswith(said)
    assert bool(told) == bool(said)


@pytest.mark.parametrize("blob", [b"", b"no picture", jpeg(50)[:-20], None, "text", b"\xff\xd8\xff\xd9"])
def test_frame_that_is_no_picture_is_named_with_its_row(tmp_path: Path, blob: object):
    rows = greys("film", range(1, 4))
    rows[1] = rows[1][0], blob
    reader = open_film(store(tmp_path / "film", rows))
    assert len(reader.frames([0, 2])) == 2
    with pytest.raises(InputError, match=r"frames\.db, row 2: frame 2 is no whole JPEG"):
        reader.frames([1])


def test_pictures_of_several_sizes_are_refused(tmp_path: Path):
    reader = open_film(store(tmp_path / "film", [("film/frame_00001", jpeg(1)), ("film/frame_00002", jpeg(2, 24))]))
    with pytest.raises(InputError, match=r"frames\.db: has pictures of several sizes"):
        reader.frames([0, 1])


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "holds no frame;"),
        (["film/frame_00001", "film/frame_00003"], "frame 2 is missing"),
        (["film/frame_00001", "film/frame_1"], "names a frame twice"),
        (["film/frame_00000", "film/frame_00001"], "row 1: ObjId 'film/frame_00000' counts from 0"),
        (["film/frame_00001", "film/cover"], "row 2: ObjId 'film/cover' does not end in _ and a number"),
        ([7], "row 1: ObjId 7 does not end"),
    ],
)
def test_store_with_wrong_names_is_refused(tmp_path: Path, names: list, said: str):
    with pytest.raises(InputError, match=rf"frames\.db.*{said}"):
        open_film(store(tmp_path / "film", [(name, b"") for name in names]))


def test_file_that_is_no_such_database_is_refused(tmp_path: Path):
    for name, content in (("text", b"frames\n" * 200), ("empty", b"")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "frames.db").write_bytes(content)
        with pytest.raises(InputError, match=r"frames\.db: holds no frames that can be read \("):
            open_film(tmp_path / name)


def test_store_is_read_though_locked_and_though_nobody_may_write_there(tmp_path: Path):
    folder = store(tmp_path / "a film?mode=rw#1%20", greys("film", range(1, 4)), 3)
    with closing(sqlite3.connect(folder / "frames.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert open_film(folder).frames([2])[0, 8, 8, 0] == 15
    folder.chmod(0o500)
    try:
        assert open_film(folder).frames([2])[0, 8, 8, 0] == 15
        assert sorted(path.name for path in folder.iterdir()) == ["frames.db", "n_frames"]
    finally:
        folder.chmod(0o700)


def test_our_folders_are_read_by_the_published_statement(tmp_path: Path):
    pictures = np.stack([np.full((16, 24, 3), 5 * k, np.uint8) for k in range(1, 4)])
    write_frames(tmp_path / "class" / "v_film", pictures)
    with closing(sqlite3.connect(tmp_path / "class" / "v_film" / "frames.db")) as connection:
        [data] = connection.execute(PUBLISHED_LOOK_UP, ("v_film/frame_00002",)).fetchone()
        rows = connection.execute("SELECT * FROM Images").fetchall()
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[8, 8].tolist() == [10, 10, 10]
    assert [(name, size) for name, _, size in rows] == [(f"v_film/frame_{k:05d}", 24) for k in (1, 2, 3)]
    assert (tmp_path / "class" / "v_film" / "n_frames").read_text() == "3"
