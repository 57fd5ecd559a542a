"""Captions as others have them are read in each of their forms."""

import json
from pathlib import Path
from typing import Any

import pytest

from captioning.caption_sources import Segment, activitynet, as_captions, bare, draw_splits, is_wrong, own_table
from recognition.common.command_line import InputError

FILM = {
    "duration": 82.7,
    "timestamps": [[0.8, 19.9], [17.4, 60.8]],
    "sentences": ["A woman walks.", " She sits, then goes."],
}
ID = "v_QOlSCBRmfWY"


def write(folder: Path, content: Any, name: str = "train.json", **options: Any) -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content, **options), encoding="utf-8")
    return path


def refused(path: Path, read: Any = activitynet) -> str:
    with pytest.raises(InputError) as error:
        read(path)
    return str(error.value).replace(f"{path.parent}/", "")


def test_the_original_form_is_read_with_lines(tmp_path: Path):
    found = activitynet(write(tmp_path, {ID: FILM, "other": FILM}, indent=0))
    assert [(row.film, row.start_s, row.end_s, row.text, row.duration_s) for row in found[:2]] == [
        ("QOlSCBRmfWY", 0.8, 19.9, "A woman walks.", 82.7),
        ("QOlSCBRmfWY", 17.4, 60.8, " She sits, then goes.", 82.7),
    ]
    lines = (tmp_path / "train.json").read_text().split("\n")
    assert found[1].place == f"{tmp_path}/train.json:{lines.index(f'{json.dumps(ID)}: {{') + 1}: {ID}, segment 2"
    line = lines.index('"other": {') + 1
    assert found[2].place.endswith(f":{line}: other, segment 1")


@pytest.mark.parametrize("form", ["list", "lines", "columns"])
def test_rows_of_the_copy_on_the_hub_are_read(tmp_path: Path, form: str):
    row = {"video_id": ID, "video_path": "https://www.youtube.com/watch?v=QOlSCBRmfWY", "duration": 82.7}
    row |= {"captions_starts": [0.8, 17.4], "captions_ends": [19.9, 60.8], "en_captions": FILM["sentences"]}
    columns = {name: [value] * 2 for name, value in row.items()}
    if form == "lines":
        found = activitynet(write(tmp_path, f"{json.dumps(row)}\n\n{json.dumps(row)}\n", "train.jsonl"))
        assert found[2].place.startswith(f"{tmp_path}/train.jsonl:3: ")
    else:
        found = activitynet(write(tmp_path, [row, row] if form == "list" else columns))
    assert [(part.film, part.start_s, part.end_s, part.text) for part in found[2:]] == [
        ("QOlSCBRmfWY", 0.8, 19.9, "A woman walks."),
        ("QOlSCBRmfWY", 17.4, 60.8, " She sits, then goes."),
    ]
    assert [part.address for part in found] == ([""] * 4 if form == "columns" else [row["video_path"]] * 4)


def test_clips_are_numbered_by_start_then_end_and_cut_at_the_end_of_the_film():
    rows = [Segment("x:1", "a", start, end, " Now. ", "", 10.0) for start, end in [(5, 10.4), (0, 9), (0, 3)]]
    found = as_captions(rows, "train")
    assert [(row.clip, row.start_s, row.end_s, row.caption) for row in found] == [
        (0, 0.0, 3.0, "Now."),
        (1, 0.0, 9.0, "Now."),
        (2, 5.0, 10.0, "Now."),
    ]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((3, 2, "x"), "the segment ends at 2 s, and starts at 3 s"),
        ((2, 2, "x"), "the segment ends at 2 s"),
        (("soon", 2, "x"), "start 'soon' is no time"),
        ((0, None, "x"), "end None is no time"),
        ((True, 2, "x"), "start True is no time"),
        ((0, 2, 5), "the caption 5 is no text"),
        ((0, 2, " .. "), "the caption ' .. ' says nothing"),
        ((10, 11, "x"), "the segment, 10 to 11 s, is outside its film of 10 s"),
        ((0, 11.5, "x"), "is outside its film"),
        ((0, 10.5, "x"), None),
    ],
)
def test_what_is_wrong_with_a_segment_is_told_with_its_place(values: tuple[Any, Any, Any], said: str | None):
    told = is_wrong(Segment("t.json:4", "a", *values, "", 10.0))
    assert told is None if said is None else told is not None and told.startswith("t.json:4: ") and said in told


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"a": {\n"timestamps": [}', "train.json:2: is no JSON"),
        ("3", "is neither {film:"),
        ({ID: 3}, f"train.json:1: {ID}: has no lists timestamps and sentences"),
        ({ID: {**FILM, "sentences": ["x"]}}, "has 2 segments and 1 captions"),
        ({ID: {**FILM, "timestamps": [[1], [2, 3]]}}, "segment 1: [1] is no pair"),
        ({ID: {**FILM, "duration": "long"}}, "duration 'long' is no time"),
        ({"../a": FILM}, "film '../a' cannot be the name of a file"),
        ([{"video_id": ID}], "row 1: is to have video_id, captions_starts"),
        ("[" * 100_000, "is no JSON"),
        ('{"a": {"timestamps": [], "sentences": []}, "a": {}}', "'a' is there twice"),
    ],
)
def test_files_of_something_else_are_told(tmp_path: Path, content: Any, said: str):
    assert said in refused(write(tmp_path, content))


def test_tables_of_ones_own_are_read_by_several_names(tmp_path: Path):
    due = [("a", "A ball.", "test"), ("b", "It, grows.", "")]
    table = write(
        tmp_path, 'video,start,end,caption,split\r\na,0,1,A ball.,test\r\nb,0,2.5," It, grows.",\r\n', "t.csv"
    )
    rows = [{"film": "a", "start_s": 0, "end_s": 1, "text": "A ball.", "split": "test"}]
    rows += [{"film": "b", "start_s": 0, "end_s": 2.5, "text": "It, grows."}]
    for path in (table, write(tmp_path, rows)):
        assert [(row.film, row.text, row.split) for row in own_table(path)] == due
    assert own_table(table)[1].place == f"{tmp_path}/t.csv:3"
    assert len(own_table(write(tmp_path, {"a": FILM}))) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("film,begin,end,caption\na,0,1,x\n", "t.csv:2: there is no column start_s"),
        ("film,start,end,caption,split\na,0,1,x,dev\n", "t.csv:2: split 'dev' is none of"),
        ("film,start,end,caption\na/b,0,1,x\n", "t.csv:2: film 'a/b' cannot be"),
        ("film,film,end\n", "t.csv:1: the column 'film' is there twice"),
    ],
)
def test_a_wrong_row_of_ones_own_is_told_with_its_line(tmp_path: Path, text: str, said: str):
    path = write(tmp_path, text, "t.csv")
    assert refused(path, lambda path: list(own_table(path))).startswith(said)


def test_splits_are_drawn_by_film_and_seed_alone():
    films = [f"film {k}" for k in range(20)]
    found = draw_splits(films, {"validation": 0.1, "test": 0.25}, seed=0)
    assert sorted(found.values()) == ["test"] * 5 + ["train"] * 13 + ["validation"] * 2
    assert found == draw_splits(films[::-1] + films, {"validation": 0.1, "test": 0.25}, seed=0)
    assert found != draw_splits(films, {"validation": 0.1, "test": 0.25}, seed=1)


@pytest.mark.parametrize(
    ("film", "due"), [(ID, "QOlSCBRmfWY"), ("v_short", "v_short"), ("v_ag-_0123456", "ag-_0123456")]
)
def test_a_film_of_activitynet_is_named_as_step_1_names_its_file(film: str, due: str):
    assert bare(film) == due
