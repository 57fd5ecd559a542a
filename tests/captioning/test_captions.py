"""The table of captions: what is right is read as it is meant, what is wrong is named with file and line."""

from pathlib import Path

import pytest

from captioning.captions import Caption, clean, read_captions, write_captions
from captioning.said import Read, Said, read_said, with_references, write_said
from recognition.common.command_line import InputError

HEAD = "film,clip,start_s,end_s,caption,split"


def write(folder: Path, *rows: str, end: str = "\n", name: str = "captions.csv") -> Path:
    path = folder / name
    path.write_bytes("".join(f"{row}{end}" for row in (HEAD, *rows)).encode())
    return path


def refused(path: Path) -> str:
    with pytest.raises(InputError) as error:
        read_captions(path)
    return str(error.value).replace(f"{path.parent}/", "")


def test_rows_are_read_with_their_places(tmp_path: Path):
    [row] = read_captions(write(tmp_path, "a,3,0.5,2,a ball grows.,test"))
    assert row == Caption("a", 3, 0.5, 2.0, "a ball grows.", "test", f"{tmp_path}/captions.csv:2")


def test_clips_of_a_film_come_by_start_then_end(tmp_path: Path):
    rows = ("b,0,5,9,x.,train", "a,0,2,8,x.,test", "b,1,0,4,x.,train", "b,2,0,3,x.,train", "a,1,0,1,x.,test")
    found = [(row.film, row.clip) for row in read_captions(write(tmp_path, *rows))]
    assert found == [("b", 2), ("b", 1), ("b", 0), ("a", 1), ("a", 0)]


def test_carriage_returns_commas_quotes_and_leading_blanks_are_no_part_of_words(tmp_path: Path):
    rows = ('a,0,0,1,"  He says ""go"", then runs",train', 'a,1,1,2,"two\r\nlines.",train', "", "a,2,2,3, end ,train")
    captions = read_captions(write(tmp_path, *rows, end="\r\n"))
    assert [row.caption for row in captions] == ['He says "go", then runs.', "two lines.", "end."]
    assert [row.place.rpartition(":")[2] for row in captions] == ["2", "3", "6"]


def test_a_byte_order_mark_and_other_columns_are_passed_over(tmp_path: Path):
    path = tmp_path / "captions.csv"
    path.write_text("split,note,film,clip,start_s,end_s,caption\ntrain,x,a,0,0,1,a ball\n", encoding="utf-8-sig")
    assert [row.caption for row in read_captions(path)] == ["a ball."]


@pytest.mark.parametrize(("text", "due"), [(" a  b\n", "a b."), ("a.", "a."), ("a!", "a!."), ("set..", "set..")])
def test_a_caption_is_cleaned_to_end_in_a_full_stop(text: str, due: str):
    assert clean(text) == due


def test_what_is_written_reads_back_equal(tmp_path: Path):
    captions = read_captions(write(tmp_path, 'a,0,0.123456,7,"x, ""y"".",train', "ü b,1,1e3,1001.5,z.,test"))
    write_captions(tmp_path / "again.csv", captions)
    again = read_captions(tmp_path / "again.csv")
    assert [(*vars(row).values(),)[:6] for row in again] == [(*vars(row).values(),)[:6] for row in captions]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("a,0,3,2,x.,train", "captions.csv:3: the segment ends at 2 s, and starts at 3 s"),
        ("a,0,2,2,x.,train", "captions.csv:3: the segment ends at 2 s"),
        ("a,0,soon,2,x.,train", "captions.csv:3: start_s 'soon' is no time in seconds"),
        ("a,0,-1,2,x.,train", "captions.csv:3: start_s '-1' is no time"),
        ("a,0,0,nan,x.,train", "captions.csv:3: end_s 'nan' is no time"),
        ("a,0,0,1, ... ,train", "captions.csv:3: the caption '...' says nothing"),
        ("a,0,0,1,,train", "captions.csv:3: the caption '' says nothing"),
        ("a,0.5,0,1,x.,train", "captions.csv:3: clip '0.5' is no whole number"),
        ("a,-1,0,1,x.,train", "captions.csv:3: clip '-1' is no whole number"),
        ("a,0,0,1,x.,dev", "captions.csv:3: split 'dev' is none of train, validation, test"),
        ("../a,0,0,1,x.,train", "captions.csv:3: film '../a' cannot be the name of a file"),
        (",0,0,1,x.,train", "captions.csv:3: film '' cannot be"),
        ("first,0,5,6,x.,train", "captions.csv:3: clip 0 of 'first' has a caption at captions.csv:2 already"),
        ("first,1,5,6,x.,test", "captions.csv:3: film 'first' is for test, and for train at captions.csv:2"),
        ("a,0,0,1,x, y.,train", "captions.csv:3: has 7 columns, the header has 6"),
        ('a,0,0,1,"x.,train', "captions.csv:3: cannot be read as CSV"),
        ("a,0,0,1,x\0y.,train", "captions.csv:3: holds a character of code 0"),
    ],
)
def test_a_wrong_row_is_told_with_file_and_line(tmp_path: Path, row: str, said: str):
    assert refused(write(tmp_path, "first,0,0,1,x.,train", row)).startswith(said)


def test_files_that_are_no_tables_are_told(tmp_path: Path):
    path = write(tmp_path)
    assert refused(path) == "captions.csv: has no captions"
    path.write_text("film,clip,start_s,end_s,split\na,0,0,1,train\n")
    assert "has no column caption" in refused(path)
    path.write_bytes(b"film,clip\na,\xff\n")
    assert refused(path) == "captions.csv:2: is not text in UTF-8"
    path.write_bytes(b"\x80\x04\x95")
    assert "is a pickle" in refused(path)
    assert refused(tmp_path / "no.csv") == "no.csv: no such file"
    assert "is a folder" in refused(tmp_path)


SAID = [Said("a", 0, 0.0, 4.0, "x.", ["y.", "z."], [Read(1, 0.25)]), Said("b", 2, 1.0, 3.5, "", ["v."])]


def test_what_was_said_reads_back_equal(tmp_path: Path):
    write_said(tmp_path / "captions.json", SAID)
    assert read_said(tmp_path / "captions.json") == SAID


def with_retrieved(text: str) -> str:
    return '{"a": [{"clip": 0, "start_s": 0, "end_s": 1, "caption": "x", "references": [], "retrieved": ' + text + "}]}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a":\n [}', "captions.json:2: is no JSON"),
        ('{"a": 3}', "is to hold {film:"),
        ("{}", "has no captions"),
        ('{"a": [3]}', "film 'a', entry 1: 3 is no clip"),
        ('{"a": [{"clip": 0, "start_s": 0, "end_s": 1, "caption": "x"}]}', "entry 1: has no references"),
        ('{"a": [{"clip": 0, "start_s": 0, "end_s": 1, "caption": 4, "references": ["x"]}]}', "4 is no text"),
        ('{"a": [{"clip": 0, "start_s": 0, "end_s": 1, "caption": "x", "references": {}}]}', "list of texts"),
        ('{"a": [], "a": []}', "'a' is there twice"),
        (with_retrieved("[1]"), "entry 1: retrieved is to be a list of {clip, share}; python -m captioning.generate"),
        (with_retrieved('[{"clip": 0, "share": 2}]'), "retrieved is to be a list of {clip, share}"),
        (with_retrieved("7"), "retrieved is to be a list of {clip, share}"),
    ],
)
def test_captions_that_are_none_are_told(tmp_path: Path, text: str, said: str):
    path = tmp_path / "captions.json"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        read_said(path)
    assert said in str(error.value)


def test_references_of_other_files_are_those_of_the_same_time(tmp_path: Path):
    first = write(tmp_path, "a,0,0,4,one.,test", "b,0,0,9,other.,test", "b,1,1,3.5,two.,test", name="1.csv")
    second = write(tmp_path, "a,0,4,9,late.,test", "a,1,1,4,three.,test", name="2.csv")
    found = with_references(SAID, [first, second])
    assert [clip.references for clip in found] == [["one.", "three."], ["two."]]
    third = tmp_path / "val_2.json"
    third.write_text('{"b": {"timestamps": [[1, 4], [3, 1]], "sentences": ["four", "never"]}}')
    assert with_references(SAID, [first, third])[1].references == ["two.", "four."]
    with pytest.raises(InputError, match=r"2\.csv: has no caption for clip 2 of 'b', 1 to 3\.5 s"):
        with_references(SAID, [second])
