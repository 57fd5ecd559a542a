"""Published rows are read as they are, and a pickle never runs anything."""

import collections
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from captioning.safe_pickle import _Reader, read_restricted
from captioning.safe_rows import RECIPE, read_rows
from recognition.common.command_line import InputError

RNG = np.random.default_rng(0)
COCO_ROW = {"image_id": 1, "caption": "x", "clip_embedding": 2}
ROWS = [
    {"video_id": "v_a", "frames": RNG.normal(size=(3, 4)).astype(np.float32), "caption": " A ball grows."},
    {"video_id": "v_b", "frames": RNG.normal(size=(1, 4)).astype(np.float32), "caption": "It stops."},
]


class Calls:
    """A pickle of this calls a function when it is read."""

    def __init__(self, function: Any, *arguments: Any):
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def write(folder: Path, content: Any, protocol: int = 4) -> Path:
    path = folder / "rows.pkl"
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
    return path


def refused(path: Path) -> str:
    with pytest.raises(InputError) as error:
        read_rows(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def assert_rows(path: Path) -> None:
    found = read_rows(path)
    assert [(row.film, row.caption) for row in found] == [(row["video_id"], row["caption"]) for row in ROWS]
    for row, due in zip(found, ROWS, strict=True):
        np.testing.assert_array_equal(row.frames, due["frames"])
        assert row.frames.dtype == np.float32


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_rows_of_a_pickle_are_read_in_every_protocol(tmp_path: Path, protocol: int):
    assert_rows(write(tmp_path, ROWS, protocol))
    columns = {name: [row[name] for row in ROWS] for name in ROWS[0]}
    assert_rows(write(tmp_path, columns, protocol))


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=">i2").reshape(2, 3),
        np.asfortranarray(RNG.normal(size=(3, 4))),
        np.array(["words", "and", "ü"]),
        np.array([True, False]),
        np.arange(3, dtype=np.float16),
    ],
)
def test_arrays_come_back_as_they_were(tmp_path: Path, array: np.ndarray, protocol: int):
    found = read_restricted(write(tmp_path, {"x": array, "again": array}, protocol))
    np.testing.assert_array_equal(found["x"], array)
    assert found["x"].dtype == array.dtype
    assert found["again"] is found["x"]


def test_arrays_of_rows_of_unequal_length_and_single_numbers_are_read(tmp_path: Path):
    ragged = np.empty(2, object)
    ragged[:] = [np.zeros((2, 3)), np.ones((1, 3))]
    found = read_restricted(write(tmp_path, (ragged, np.float32(0.5), np.int64(7), None, 1e3)))
    np.testing.assert_array_equal(found[0][1], np.ones((1, 3)))
    assert found[1:] == [0.5, 7, None, 1000.0]


def test_images_have_a_clip_of_one_frame_for_each_caption(tmp_path: Path):
    embeddings = RNG.normal(size=(3, 4)).astype(np.float32)
    captions = [{"image_id": 9, "id": k, "caption": f"x{k}.", "clip_embedding": k // 2} for k in range(3)]
    found = read_rows(write(tmp_path, {"clip_embedding": embeddings, "captions": captions}))
    assert [(row.film, row.caption) for row in found] == [("9", "x0."), ("9", "x1."), ("9", "x2.")]
    np.testing.assert_array_equal(found[2].frames, embeddings[1:2])


def test_captions_may_be_numbers_of_tokens(tmp_path: Path):
    rows = [{**ROWS[0], "caption": np.array([5, 7])}, {**ROWS[1], "caption": [3]}]
    assert [row.caption for row in read_rows(write(tmp_path, rows))] == [[5, 7], [3]]


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("made", "name"),
    [
        (lambda path: Calls(os.system, f"touch {path}"), "system"),
        (lambda path: Calls(eval, f"open({str(path)!r}, 'w')"), "builtins.*eval|__builtin__.*eval"),
        (lambda path: Calls(open, str(path), "w"), "open"),
        (lambda path: collections.OrderedDict(a=1), "collections.OrderedDict"),
        (lambda path: np.load, "numpy"),
        (lambda path: Path(path), "pathlib"),
    ],
)
def test_whatever_else_a_pickle_names_is_told_and_not_called(tmp_path: Path, protocol: int, made: Any, name: str):
    called = tmp_path / "called"
    for content in (made(called), [{**ROWS[0], "caption": made(called)}]):
        with pytest.raises(InputError, match=f"names .*({name})"):
            read_rows(write(tmp_path, content, protocol))
    assert not called.exists()


@pytest.mark.parametrize(
    "opcodes",
    [
        b"cnumpy\ndtype\n(S'x'\nS'y'\ndb.",  # sets an attribute on what stands for a function
        b"cnumpy\ndtype\n}(S'__call__'\nS'y'\nus}b.",
        b"cnumpy\nndarray\n)\x81.",  # makes an object of it without a call
        b"(S'f8'\ninumpy\ndtype\n.",
        b"\x80\x02c__main__\n__builtins__\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x0bdtype.__new__\x93.",
        b"\x80\x02\x82\x01.",  # a class by its number in the registry
        b"S'x'\nPwhere\n.",
        b"\x80\x04)",
        b"",
        b"PK\x03\x04 not whole",
    ],
)
def test_opcodes_by_hand_reach_nothing(tmp_path: Path, opcodes: bytes):
    known = dict(vars(np)), set(sys.modules)
    assert str(tmp_path) in refused(write(tmp_path, opcodes))
    assert (dict(vars(np)), set(sys.modules)) == known


def test_stand_ins_are_all_that_a_pickle_can_call():
    import io

    reader = _Reader(io.BytesIO(), Path("x.pkl"))
    for module, name in reader._known:
        found = reader.find_class(module, name)
        assert type(found).__module__ == "captioning.safe_pickle"
        assert not isinstance(found, type)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"a": 1}, "neither of rows"),
        ([], "has no rows"),
        ([3], "row 1: is to have video_id, frames and caption"),
        ([{**ROWS[0], "frames": np.zeros((0, 4))}], r"row 1: frames are to be \(frames, features\)"),
        ([{**ROWS[0], "frames": "no"}], "row 1: frames are to be"),
        ([{**ROWS[0], "frames": np.full((1, 4), np.nan)}], "row 1: features are not finite"),
        ([{**ROWS[0], "frames": np.full((1, 4), 1e300)}], "row 1: features are not finite"),
        ([{**ROWS[0], "caption": 3.5}], "row 1: the caption 3.5 is neither text"),
        ([{**ROWS[0], "video_id": "../../a"}], "row 1: film '../../a' cannot be the name of a file"),
        ([ROWS[0], {**ROWS[1], "frames": np.zeros((1, 5))}], "row 2: has 5 features a frame, the first has 4"),
        (
            {"clip_embedding": np.zeros((2, 4)), "captions": [{"image_id": 1, "caption": "x", "clip_embedding": 2}]},
            "no row",
        ),
        ({1, 2}, "set"),
        (np.zeros(2, "M8[s]"), "type 'M8'"),
        (np.zeros(2, [("a", "f4")]), "type 'V4'"),
    ],
)
def test_pickles_of_something_else_are_told(tmp_path: Path, content: Any, said: str):
    path = write(tmp_path, content)
    with pytest.raises(InputError, match=said):
        read_rows(path)


def test_a_pickle_within_itself_or_cut_off_is_told(tmp_path: Path):
    endless: list[Any] = []
    endless.append(endless)
    assert "lists within lists" in refused(write(tmp_path, endless))
    data = pickle.dumps(ROWS)
    for length in range(0, len(data) - 1, 7):
        assert "rows.pkl: " in refused(write(tmp_path, data[:length]))


def test_an_array_that_says_more_than_it_has_is_told(tmp_path: Path):
    data = pickle.dumps([{**ROWS[1], "frames": np.zeros((1, 4), np.float32)}], 2)
    assert "not whole" in refused(write(tmp_path, data.replace(b"K\x01K\x04\x86", b"K\x01K\x05\x86")))


def save(path: Path, **parts: Any) -> Path:
    whole = {
        "video_id": np.array([row["video_id"] for row in ROWS]),
        "caption": np.array([row["caption"] for row in ROWS]),
        "num_frames": np.array([3, 1]),
        "frames": np.concatenate([row["frames"] for row in ROWS]),
    }
    np.savez(path, **{name: part for name, part in (whole | parts).items() if part is not None})
    return path


def test_rows_of_an_archive_are_read(tmp_path: Path):
    assert_rows(save(tmp_path / "rows.npz"))


def test_the_recipe_makes_the_archive_that_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    transformers = type(sys)("transformers")
    tokenizer = type("Tokenizer", (), {"decode": staticmethod(lambda tokens: "".join(map(chr, tokens)))})
    transformers.GPT2TokenizerFast = type("T", (), {"from_pretrained": staticmethod(lambda name: tokenizer)})
    monkeypatch.setitem(sys.modules, "transformers", transformers)
    monkeypatch.chdir(tmp_path)
    rows = [{**row, "caption": [ord(letter) for letter in row["caption"]]} for row in ROWS]
    (tmp_path / "train.pkl").write_bytes(pickle.dumps(rows))
    lines = RECIPE.split("\n")
    exec("\n".join(line.removeprefix("  ") for line in lines), {})
    assert_rows(tmp_path / "train.npz")


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"frames": None}, "has no frames"),
        ({"caption": np.array([{"a": 1}, None], object)}, "cannot be read without unpickling"),
        ({"num_frames": np.array([2, 1])}, "num_frames says 3 frames in all, each 1 or more; there are 4"),
        ({"num_frames": np.array([4, 0])}, "each 1 or more"),
        ({"num_frames": np.array([3.0, 1.0])}, "whole numbers"),
        ({"video_id": np.array(["v_a"])}, r"are to be \(N,\)"),
        ({"caption": np.array([1, 2])}, "to be text"),
    ],
)
def test_archives_of_something_else_are_told(tmp_path: Path, parts: dict[str, Any], said: str):
    path = save(tmp_path / "rows.npz", **parts)
    with pytest.raises(InputError, match=said):
        read_rows(path)


def test_a_damaged_archive_is_told(tmp_path: Path):
    data = save(tmp_path / "rows.npz").read_bytes()
    broken = bytearray(data)
    broken[120:130] = b"\0" * 10
    assert "damaged" in refused(write(tmp_path, bytes(broken)))


def test_a_packed_pickle_and_no_file_are_told(tmp_path: Path):
    import gzip

    assert "is packed" in refused(write(tmp_path, gzip.compress(pickle.dumps(ROWS))))
    assert "no such file" in refused(tmp_path / "no.pkl")
    assert "is a folder" in refused(tmp_path)
