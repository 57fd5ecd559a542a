"""Lists of films: every form is read, and what is wrong is named with its file and line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from backbones.films_list import FilmsList, open_listed, read_list
from backbones.list_readers import source_of
from recognition.common.command_line import InputError

OURS = "video,label,split\n"


@pytest.fixture
def touch(tmp_path: Path) -> Callable[..., None]:
    """Make files that pass for films, in videos/."""

    def make(*names: str) -> None:
        for name in names:
            path = tmp_path / "videos" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    return make


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., FilmsList]:
    """Write a list, in files by their names, and read it."""

    def write_and_read(name: str = "list.csv", missing_share: float = 0.0, **files: str) -> FilmsList:
        for stem, text in files.items():
            (tmp_path / f"{stem}.csv").write_bytes(text.encode())
        return read_list(tmp_path / name, tmp_path / "videos", missing_share)

    return write_and_read


def short(films: FilmsList, folder: Path) -> list[tuple]:
    """What is listed: path below videos/, class, split and seconds."""
    return [
        (f.path.relative_to(folder / "videos").as_posix(), f.label, f.split, f.start_s, f.end_s) for f in films.films
    ]


def test_our_list_is_read_as_it_says(tmp_path, touch, read):
    touch("a film.mp4", "b.mkv", "deep/c.avi")
    films = read(
        list="video,label,split,start_s,end_s\n"
        "videos/a film.mp4,run,train,,\n"  # paths begin where the list is
        "b.mkv,jump,validation,1.5,4\n"  # or in the films' folder
        f'{tmp_path}/videos/deep/c.avi,"run, slowly",train,,\n'
        "videos/deep/c.avi,run,train,2,\nb.mkv,jump,validation,,9\na film.mp4,jump,train,,\n"
    )
    assert films.classes == ["jump", "run", "run, slowly"]
    assert films.missing == []
    assert short(films, tmp_path)[:4] == [
        ("a film.mp4", "run", "train", None, None),
        ("b.mkv", "jump", "validation", 1.5, 4.0),
        ("deep/c.avi", "run, slowly", "train", None, None),
        ("deep/c.avi", "run", "train", 2.0, None),
    ]
    assert films.films[1].place == f"{tmp_path}/list.csv:3"


def test_byte_order_mark_and_other_ends_of_lines_change_nothing(tmp_path, touch, read):
    touch("a.mp4", "b.mp4")
    plain = "video,label,split\na.mp4,run,train\n\nb.mp4,run,test\n"
    expected = read(list=plain)
    assert read(list="\ufeff" + plain.replace("\n", "\r\n")) == expected
    assert [film.place.rpartition(":")[2] for film in expected.films] == ["2", "4"]


def test_small_film_or_stored_frames_stand_for_the_film_of_their_name(tmp_path, touch, read):
    touch("run/a.mp4", "run/b.c/frames.db", "run/a.txt")
    films = read(list=OURS + "run/a.avi,run,train\nrun/b.c,run,test\n")
    assert [row[0] for row in short(films, tmp_path)] == ["run/a.mp4", "run/b.c"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "list.csv: lists no film; its first line is to be video,label,split"),
        (OURS, "list.csv: lists no film"),
        (OURS + "a.mp4,run,train\nb.mp4,jump,test\n", "list.csv:3: no film for training is of the class 'jump'"),
        (OURS + "a.mp4,run,train\r\nno.mp4,run,test\r\n", "list.csv:3: no film no.mp4 in .* 1 of 2 films are missing"),
        (OURS + "a.mp4,run,train\na.mp4,run,test\n", "list.csv:3: .*a.mp4 is for test, and for train at .*list.csv:2"),
        (OURS + "a.mp4,run,dev\n", "list.csv:2: split 'dev' is none of train, validation, test"),
        (OURS + "a.mp4,run\n", "list.csv:2: has 2 columns, the header has 3"),
        (OURS + "a.mp4,,train\n", "list.csv:2: label is empty"),
        (OURS + ",run,train\n", "list.csv:2: video is empty"),
        (OURS + 'a.mp4,"run,train\n', "list.csv:2: has 2 columns"),
        ("video,label\na.mp4,run\n", "list.csv:1: lacks the column split"),
        ("video,label,split,start_s\na.mp4,run,train,x\n", "list.csv:2: start_s 'x' is no time in seconds"),
        ("video,label,split,start_s\na.mp4,run,train,nan\n", "list.csv:2: start_s 'nan' is no time"),
        ("video,label,split,start_s,end_s\na.mp4,run,train,3,2\n", "list.csv:2: end_s 2 does not follow start_s 3"),
        ("a.mp4,run,train\n", "list.csv:1: nothing says which split"),
    ],
)
def test_wrong_list_is_refused_by_its_line(touch, read, text: str, said: str):
    touch("a.mp4", "b.mp4")
    with pytest.raises(InputError, match=said) as refused:
        read(list=text)
    assert "\n" not in str(refused.value)


def test_list_that_is_absent_or_no_text_is_named(tmp_path, read):
    with pytest.raises(InputError, match=r"list\.csv: no such list of films"):
        read()
    (tmp_path / "list.csv").write_bytes(b"video,label,split\n\xff\xfe\n")
    with pytest.raises(InputError, match=r"list\.csv: is not text in UTF-8 \(byte 18\)"):
        read()


def test_damaged_film_is_refused_with_the_line_that_names_it(tmp_path, touch, read):
    touch("a.mp4")
    [film] = read(list=OURS + "a.mp4,run,train\n").films
    with pytest.raises(InputError, match=r"list\.csv:2: .*a\.mp4: cannot be read \("):
        open_listed(film)


# The source's lines: a path, which may have blanks, and a number behind the last of them.


def test_lines_of_path_and_number_are_cut_at_the_last_blank(tmp_path, touch, read):
    touch("jump rope/a 1.mp4", "run/b.mp4", "run/c.mp4")
    films = read(
        "train.csv", train="jump rope/a 1.mp4 1\r\nrun/b.mp4 2\r\n", val="run/c.mp4 2\n", other="never/read.mp4 1\n"
    )
    assert short(films, tmp_path) == [
        ("jump rope/a 1.mp4", "jump rope", "train", None, None),
        ("run/b.mp4", "run", "train", None, None),
        ("run/c.mp4", "run", "test", None, None),  # there is nothing else to test on
    ]
    assert films.classes == ["jump rope", "run"]


def test_labels_from_1_and_test_lists_without_labels_take_the_class_from_the_path(tmp_path, touch, read):
    touch("Archery/v_Archery_g01_c01.avi", "Bowling/v_Bowling_g01_c01.avi", "Bowling/v_Bowling_g02_c07.avi")
    (tmp_path / "trainlist01.txt").write_text("Archery/v_Archery_g01_c01.avi 1\nBowling/v_Bowling_g01_c01.avi 2\n")
    (tmp_path / "testlist01.txt").write_text("Bowling/v_Bowling_g02_c07.avi\n")
    films = read("trainlist01.txt")
    assert [(film.label, film.split, film.source) for film in films.films] == [
        ("Archery", "train", "v_Archery_g01"),
        ("Bowling", "train", "v_Bowling_g01"),
        ("Bowling", "test", "v_Bowling_g02"),
    ]


def test_numbers_are_the_classes_where_folders_are_not(tmp_path, touch, read):
    touch("a.mp4", "b.mp4", "c.mp4", "d.mp4")
    files = {"k400_train": "a.mp4 0\nb.mp4 17\n", "k400_val": "c.mp4 17\n", "k400_test": "d.mp4 0\n"}
    films = read("k400.csv", **files)
    assert [film.split for film in films.films] == ["train", "train", "validation", "test"]
    assert films.classes == ["0", "17"]


def test_line_without_a_class_is_refused(touch, read):
    touch("a.mp4", "b.mp4")
    with pytest.raises(InputError, match=r"train\.csv:2: 'b\.mp4' has no class"):
        read("train.csv", train="a.mp4 3\nb.mp4\n")


# Lists as Kinetics, HACS and others have them, and their frames in folders.

KINETICS = "label,youtube_id,time_start,time_end,split\n"


@pytest.mark.parametrize("column", ["youtube_id", "id"])
def test_data_sets_own_columns_are_read(tmp_path, touch, read, column):
    header = KINETICS.replace("youtube_id", column)
    touch("run, or walk/aaaaaaaaaaa_000010_000020.mp4", "high_jump/bbbbbbbbbbb.mkv", "c_000000_000010/frames.db")
    rows = '"run, or walk",aaaaaaaaaaa,10.9,20.0,train\r\nhigh jump,bbbbbbbbbbb,3.5,13.5,train\r\n'
    films = read("k_train.csv", k_train=header + rows + "high jump,c,0,10,val\r\n")
    assert short(films, tmp_path) == [
        ("run, or walk/aaaaaaaaaaa_000010_000020.mp4", "run, or walk", "train", None, None),  # it is the segment
        ("high_jump/bbbbbbbbbbb.mkv", "high jump", "train", 3.5, 13.5),  # the segment is cut out of it
        ("c_000000_000010", "high jump", "test", None, None),
    ]
    assert [film.source for film in films.films] == ["aaaaaaaaaaa", "bbbbbbbbbbb", "c"]


@pytest.mark.parametrize("name", ["ucf101_split1.csv", "ucf101_split1_train.csv", "ucf101_split1_val.csv"])
def test_one_file_a_split_is_one_list_whichever_is_named(tmp_path, touch, read, name):
    touch("Archery/v_Archery_g01_c01/frames.db", "Archery/v_Archery_g02_c01/frames.db")
    films = read(
        name,
        ucf101_split1_train="label,id\nArchery,v_Archery_g01_c01\n",
        ucf101_split1_val="label,id\nArchery,v_Archery_g02_c01\n",
    )
    assert [(film.source, film.split) for film in films.films] == [
        ("v_Archery_g01", "train"),
        ("v_Archery_g02", "test"),
    ]


def test_validation_stays_where_there_are_test_films(touch, read):
    touch("run/a.mp4", "run/b.mp4", "run/c.mp4")
    films = read(list="label,id,split\nrun,a,train\nrun,b,val\nrun,c,test\n")
    assert [film.split for film in films.films] == ["train", "validation", "test"]


def test_films_that_have_gone_are_listed_up_to_the_share(tmp_path, touch, read):
    touch(*(f"run/{k:02d}.mp4" for k in range(19)))
    text = "label,youtube_id,split\n" + "".join(f"run,{k:02d},{'val' if k % 4 else 'train'}\n" for k in range(20))
    films = read(list=text, missing_share=0.05)
    assert len(films.films) == 19
    assert films.missing == [(f"{tmp_path}/list.csv:21", "no film run/19")]
    with pytest.raises(
        InputError, match=r"list\.csv:21: no film run/19 .* 1 of 20 .* data\.missing_share 0\.04 allows"
    ):
        read(list=text, missing_share=0.04)


def test_film_on_youtube_in_two_splits_is_refused_though_its_segments_differ(touch, read):
    touch("run/a_000000_000010.mp4", "run/a_000020_000030.mp4")
    both = KINETICS + "run,a,0,10,train\nrun,a,20,30,val\n"
    with pytest.raises(InputError, match=r"list\.csv:3: a is for test, and for train at .*list\.csv:2; a film must"):
        read(list=both)
    assert len(read(list=both.replace("val", "train")).films) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (KINETICS + "run,a,x,10,train\n", "list.csv:2: time_start 'x' is no time"),
        (KINETICS + "run,,0,10,train\n", "list.csv:2: the id is empty"),
        (KINETICS + "run,a,0,10,dev\n", "list.csv:2: split 'dev' is none of train, val and test"),
        ("label,id\nrun,a\n", "list.csv:2: split '' is none of train, val and test; name the files"),
        ("label,split\nrun,train\n", "list.csv:1: lacks the column video"),
    ],
)
def test_wrong_row_of_a_data_set_is_named(touch, read, text, said):
    touch("run/a.mp4")
    with pytest.raises(InputError, match=said):
        read(list=text)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("Archery/v_Archery_g01_c12.avi", "v_Archery_g01"),
        ("v_HandstandPushups_g25_c01", "v_HandstandPushups_g25"),
        ("walking the dog/-abc_DEF012_000010_000020.mp4", "-abc_DEF012"),
        ("run/001.mp4", "run/001.mp4"),  # another class may have one of this name
        ("a.b", "a.b"),
    ],
)
def test_source_of_a_clip_is_told_by_its_name(name: str, source: str):
    assert source_of(name) == source
