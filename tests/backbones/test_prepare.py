"""The command that prepares films and lists: done once, whole or not at all, what fails is listed."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from colour_films import FILMS, write_colours
from conftest import refusal, run_here
from forking import Forked
from on_disk import CLIPS, contents, rows, truncate

from backbones.data_sets import class_folders, find_films
from backbones.film_index import INDEX
from backbones.films_list import read_list
from backbones.frame_store import SmallFilm, StoredFrames, open_film
from recognition.films.synthetic import write_films
from recognition.films.video import decode

SMALL = ("--short_side=40", "--keyframes=8", "--workers=0")


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A film of 36 frames."""
    path = tmp_path_factory.mktemp("film") / "red.mp4"
    write_colours(path, 0, *FILMS[0][1:])
    return path.read_bytes()


@pytest.fixture
def put(tmp_path: Path, film: bytes) -> Callable[..., None]:
    """Put the film into videos/ under some names, or text where it is given."""

    def write(*names: str, text: str = "") -> None:
        for name in names:
            path = tmp_path / "videos" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode() or film)

    return write


@pytest.fixture
def prepare(tmp_path: Path) -> Callable[..., CompletedProcess[str]]:
    return lambda *words: run_here("backbones.prepare", *words, cwd=tmp_path)


def ended_well(result: CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stderr
    return result.stdout


def states(folder: Path) -> dict[Path, tuple[int, int]]:
    """When every file was written, and its size."""
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*") if path.is_file()}


def test_small_films_mirror_the_folders_and_are_made_once(tmp_path, put, prepare):
    put("run fast/a.mp4", "run fast/b.mkv", "jump/a.mp4", "c.avi", "notes.txt", "jump/.hidden.mp4")
    assert "4 films, 0 of them finished" in ended_well(prepare("films", "videos", *SMALL))
    small = tmp_path / "small-films"
    names = [
        "c.mp4",
        "index.h5",
        "jump/a.mp4",
        "jump/index.h5",
        "run fast/a.mp4",
        "run fast/b.mp4",
        "run fast/index.h5",
    ]
    before = states(small)
    assert sorted(path.relative_to(small).as_posix() for path in before) == names
    assert all(isinstance(open_film(path), SmallFilm) for path in before if path.suffix == ".mp4")

    assert "4 films, 4 of them finished" in ended_well(prepare("films", "videos", *SMALL))
    assert states(small) == before

    put("jump/new.mp4")
    assert "5 films, 4 of them finished" in ended_well(prepare("films", "videos", *SMALL))
    after = states(small)
    assert {path for path in after if after[path] != before.get(path)} == {
        small / "jump/new.mp4",
        small / "jump/index.h5",
    }


def test_workers_make_the_same_files(tmp_path, put, prepare):
    put("a.mp4", "jump/b.mp4", "jump/c.mp4")
    ended_well(prepare("films", "videos", *SMALL, "--output=one"))
    ended_well(prepare("films", "videos", *SMALL, "--output=two", "--workers=2"))
    for path in states(tmp_path / "one"):
        assert (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes() == path.read_bytes()


def test_film_that_has_changed_is_made_anew(tmp_path, put, prepare):
    put("a.mp4", "b.mp4")
    ended_well(prepare("films", "videos", *SMALL))
    write_colours(tmp_path / "videos" / "a.mp4", 1, *FILMS[1][1:])
    assert "2 films, 1 of them finished" in ended_well(prepare("films", "videos", *SMALL))
    assert open_film(tmp_path / "small-films" / "a.mp4").frames([0]).shape == (1, 72, 40, 3)


def test_damaged_film_is_listed_and_the_others_are_made(tmp_path, put, prepare):
    put("a.mp4", "jump/bad.mp4", "jump/c.mp4")
    truncate(tmp_path / "videos" / "jump" / "bad.mp4")
    result = prepare("films", "videos", *SMALL)
    assert result.returncode == 1
    assert "Films left out: 1; list in small-films/failed.csv" in result.stderr
    [row] = rows(tmp_path / "small-films" / "failed.csv")
    assert row["video"] == "jump/bad.mp4"
    assert row["reason"]
    assert not (tmp_path / "small-films" / "jump" / "bad.mp4").exists()
    assert isinstance(open_film(tmp_path / "small-films" / "jump" / "c.mp4"), SmallFilm)

    put("jump/bad.mp4")
    ended_well(prepare("films", "videos", *SMALL))
    assert not (tmp_path / "small-films" / "failed.csv").exists()


def test_small_film_does_not_outlast_damage_to_its_film(tmp_path, put, prepare):
    put("a.mp4")
    ended_well(prepare("films", "videos", *SMALL))
    truncate(tmp_path / "videos" / "a.mp4")
    assert prepare("films", "videos", *SMALL).returncode == 1
    assert sorted(path.name for path in (tmp_path / "small-films").iterdir()) == ["failed.csv"]


def test_link_that_leads_nowhere_is_listed_and_what_was_made_of_its_film_is_kept(tmp_path, put, prepare):
    put("a.mp4", "b.mp4")
    ended_well(prepare("films", "videos", *SMALL))
    for name in ("a.mp4", "new.mp4"):
        (tmp_path / "videos" / name).unlink(missing_ok=True)
        (tmp_path / "videos" / name).symlink_to(tmp_path / "nowhere")
    result = prepare("films", "videos", *SMALL)
    assert result.returncode == 1
    assert "3 films, 2 of them finished" in result.stdout
    [row] = rows(tmp_path / "small-films" / "failed.csv")
    assert row["video"] == "new.mp4"
    assert row["reason"].endswith("a link that leads nowhere")
    assert isinstance(open_film(tmp_path / "small-films" / "a.mp4"), SmallFilm)


def test_films_made_into_their_own_folder_are_not_made_smaller_again(tmp_path, put, prepare):
    put("a.mp4")
    for finished in (0, 1):
        words = ("films", "videos", *SMALL, "--output=videos/small")
        assert f"1 films, {finished} of them finished" in ended_well(prepare(*words))


@pytest.mark.parametrize(
    ("names", "words", "said"),
    [
        ([], ["videos"], "videos: no such folder"),
        (["a.txt"], ["videos"], "videos: holds no film"),
        (["a.mp4", "a.avi"], ["videos"], "videos/a.avi and videos/a.mp4 would both become small-films/a.mp4"),
        (["a.mp4"], ["videos", "--short_side=8"], "8 is too small, must be at least 16"),
        (["a.mp4"], ["videos", "--keyframe=8"], "did you mean '--keyframes'?"),
    ],
)
def test_wrong_words_are_refused_in_one_line(put, prepare, names, words, said):
    put(*names)
    assert said in refusal(prepare("films", *words))


def test_other_settings_in_one_folder_are_refused(put, prepare):
    put("a.mp4")
    ended_well(prepare("films", "videos", *SMALL))
    said = refusal(prepare("films", "videos", "--short_side=44", "--keyframes=8"))
    assert "small-films: has small films of --short_side 40 --keyframes 8; say so" in said


def test_folders_with_frames_are_made_once(tmp_path, put, prepare):
    put("jump/a.mp4", "jump/bad.mp4")
    truncate(tmp_path / "videos" / "jump" / "bad.mp4")
    words = ("films", "videos", "--sqlite", "--output=frames", *SMALL)
    assert prepare(*words).returncode == 1
    before = states(tmp_path / "frames" / "jump")
    assert {path.name for path in before} == {"frames.db", "n_frames"}
    assert not (tmp_path / "frames" / "jump" / "bad").exists()
    reader = open_film(tmp_path / "frames" / "jump" / "a", store_fps=25)
    assert isinstance(reader, StoredFrames)
    assert reader.frames([35]).shape == (1, 40, 54, 3)
    put("jump/bad.mp4")
    assert "2 films, 1 of them finished" in ended_well(prepare(*words))
    assert states(tmp_path / "frames" / "jump").items() >= before.items()


def test_kill_leaves_no_half_film_and_the_next_run_goes_on(tmp_path):
    list(write_films(tmp_path / "videos", 6, duration_s=4, fps=12))
    words = ["backbones.prepare", "films", "videos", "--workers=2"]
    process = Forked(words, cwd=tmp_path, stderr=subprocess.DEVNULL, start_new_session=True)
    small = tmp_path / "small-films"
    while process.poll() is None and len(list(small.glob("*.mp4"))) < 2:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    made = list(small.glob("*.mp4"))
    assert 2 <= len(made) < 6
    assert all(len(list(decode(path))) == 48 for path in made)
    assert not (small / INDEX).exists()
    result = run_here("backbones.prepare", "films", "videos", "--workers=0", cwd=tmp_path)
    assert f"6 films, {len(made)} of them finished" in ended_well(result)
    assert sorted(contents(small)) == [*(f"film_{k:03d}.mp4" for k in range(6)), INDEX]


@pytest.mark.skipif(not CLIPS.is_dir(), reason="needs the real clips beside the checkout")
def test_corrupted_real_film_is_listed(tmp_path, prepare):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "bad.mp4").symlink_to(CLIPS / "dmlc_corrupted.mp4")
    assert prepare("films", "videos", *SMALL).returncode == 1
    assert [row["video"] for row in rows(tmp_path / "small-films" / "failed.csv")] == ["bad.mp4"]


# Lists of data sets, of trees made small.


def listed(path: Path) -> list[tuple[str, str, str]]:
    return [(row["video"], row["label"], row["split"]) for row in rows(path)]


@pytest.fixture
def ucf(put) -> None:
    put("UCF-101/Archery/v_Archery_g01_c01.avi", "UCF-101/Archery/v_Archery_g08_c01.avi")
    put("UCF-101/Bowling/v_Bowling_g01_c02.avi", "UCF-101/Bowling/v_Bowling_g09_c01.avi")
    train = "Archery/v_Archery_g08_c01.avi 1\r\nBowling/v_Bowling_g09_c01.avi 2\r\n"
    put("ucfTrainTestlist/trainlist01.txt", text=train)
    put("ucfTrainTestlist/testlist01.txt", text="Archery/v_Archery_g01_c01.avi\r\nBowling/v_Bowling_g01_c02.avi\r\n")


def test_list_of_ucf101_is_made_and_read(tmp_path, ucf, prepare):
    told = ended_well(prepare("ucf101", "videos", "--workers=0"))
    assert "ucf101/split1.csv: 2 films for training and 2 to test, of 2 classes" in told
    assert listed(tmp_path / "ucf101" / "split1.csv") == [
        ("../videos/UCF-101/Archery/v_Archery_g08_c01.avi", "Archery", "train"),
        ("../videos/UCF-101/Bowling/v_Bowling_g09_c01.avi", "Bowling", "train"),
        ("../videos/UCF-101/Archery/v_Archery_g01_c01.avi", "Archery", "test"),
        ("../videos/UCF-101/Bowling/v_Bowling_g01_c02.avi", "Bowling", "test"),
    ]
    assert (tmp_path / "ucf101" / "classes.txt").read_text() == "Archery\nBowling\n"
    films = read_list(tmp_path / "ucf101" / "split1.csv", tmp_path / "nowhere", 0)
    assert [film.source for film in films.films][:2] == ["v_Archery_g08", "v_Bowling_g09"]


def test_list_of_small_films_is_made_by_the_lists_beside_the_full_size_ones(tmp_path, ucf, prepare):
    ended_well(prepare("films", "videos/UCF-101", *SMALL))
    ended_well(prepare("ucf101", "small-films", "--lists=videos/ucfTrainTestlist", "--workers=2"))
    videos = [video for video, *_ in listed(tmp_path / "ucf101" / "split1.csv")]
    assert videos[0] == "../small-films/Archery/v_Archery_g08_c01.mp4"
    assert all(isinstance(open_film(tmp_path / "ucf101" / video), SmallFilm) for video in videos)


def test_damaged_and_missing_films_are_left_out_of_the_list_and_told(tmp_path, ucf, prepare):
    truncate(tmp_path / "videos/UCF-101/Archery/v_Archery_g01_c01.avi", 0.5)
    (tmp_path / "videos/UCF-101/Bowling/v_Bowling_g09_c01.avi").unlink()
    assert prepare("ucf101", "videos", "--workers=0").returncode == 1
    found = {row["video"]: row["reason"] for row in rows(tmp_path / "ucf101" / "failed.csv")}
    assert found.pop("Bowling/v_Bowling_g09_c01.avi") == "missing"
    assert found.pop("Archery/v_Archery_g01_c01.avi").startswith("cannot be read (")
    assert not found
    assert len(listed(tmp_path / "ucf101" / "split1.csv")) == 2


def test_list_of_hmdb51_takes_flags_and_any_name(tmp_path, put, prepare):
    names = ["#1_Jump&Run_(x);_0.avi", "two  blanks_1.avi", "neither.avi", "gone.avi"]
    put(*(f"hmdb51/brush_hair/{name}" for name in names[:3]), "hmdb51/wave/w.avi")
    text = "".join(f"{name} {flag} \n" for name, flag in zip(names, (1, 2, 0, 1), strict=True))
    put("splits/brush_hair_test_split2.txt", text=text)
    put("splits/wave_test_split2.txt", text="w.avi 1 \n")
    assert prepare("hmdb51", "videos", "--split=2", "--workers=0").returncode == 1  # one has gone
    assert listed(tmp_path / "hmdb51" / "split2.csv") == [
        (f"../videos/hmdb51/brush_hair/{names[0]}", "brush_hair", "train"),
        (f"../videos/hmdb51/brush_hair/{names[1]}", "brush_hair", "test"),
        ("../videos/hmdb51/wave/w.avi", "wave", "train"),
    ]
    assert read_list(tmp_path / "hmdb51" / "split2.csv", tmp_path, 0).classes == ["brush_hair", "wave"]


def test_films_that_have_gone_from_kinetics_are_listed_and_no_failure(tmp_path, put, prepare):
    put("train/run fast/aaaaaaaaaaa_000010_000020.mp4", "val/run_fast/-bbbbbbbbbb_000000_000010.mp4")
    header = "label,youtube_id,time_start,time_end,split,is_cc\n"
    put("train.csv", text=header + "run fast,aaaaaaaaaaa,10,20,train,0\nrun fast,ccccccccccc,1,11,train,0\n")
    put("validate.csv", text=header + "run fast,-bbbbbbbbbb,0,10,validate,0\n")
    result = prepare("kinetics400", "videos", "--workers=0")
    assert "1 films for training and 1 to test, of 1 classes" in ended_well(result)
    assert rows(tmp_path / "kinetics400" / "failed.csv") == [
        {"video": "ccccccccccc_000001_000011", "reason": "missing"}
    ]
    films = read_list(tmp_path / "kinetics400" / "list.csv", tmp_path, 0).films
    assert [(film.source, film.label) for film in films] == [("aaaaaaaaaaa", "run fast"), ("-bbbbbbbbbb", "run fast")]


def test_class_folders_get_a_split_by_the_seed_that_parts_no_group(tmp_path, put, prepare):
    put(*(f"run/v_run_g{k:02d}_c{c:02d}.avi" for k in range(8) for c in (1, 2)), *(f"jump/{k}.avi" for k in range(4)))
    put("once/a.avi")
    words = ("folders", "videos", "--workers=0", "--output")
    for output, seed in (("one", 0), ("two", 0), ("other", 1)):
        ended_well(prepare(*words, output, f"--seed={seed}"))
    one, two, other = ((tmp_path / name / "list.csv").read_text() for name in ("one", "two", "other"))
    assert one == two != other
    films = read_list(tmp_path / "one" / "list.csv", tmp_path, 0).films
    tests = {
        label: [film for film in films if film.split == "test" and film.label == label]
        for label in ("run", "jump", "once")
    }
    assert [len(found) for found in tests.values()] == [4, 1, 0]  # a quarter; of a single film nothing
    assert len({film.source for film in tests["run"]}) == 2
    assert not {film.source for film in films if film.split == "train"} & {film.source for film in tests["run"]}


def test_split_of_a_class_does_not_depend_on_the_others(tmp_path, put):
    put(*(f"{label}/{k}.avi" for label in ("run", "jump") for k in range(6)))
    both = class_folders(tmp_path / "videos", 0.5, 3)
    put(*(f"aim/{k}.avi" for k in range(3)))
    assert [row for row in class_folders(tmp_path / "videos", 0.5, 3) if row.label != "aim"] == both


def test_films_are_found_through_links_to_folders_and_once(tmp_path, put):
    put("b/1.mp4", "elsewhere/deep/2.mkv", "a.txt", ".hidden/3.mp4")
    (tmp_path / "videos" / "elsewhere").rename(tmp_path / "elsewhere")
    (tmp_path / "videos" / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "videos" / "b" / "up").symlink_to(tmp_path / "videos")
    names = [path.relative_to(tmp_path / "videos").as_posix() for path in find_films(tmp_path / "videos")]
    assert names == ["a/deep/2.mkv", "b/1.mp4"]


@pytest.mark.parametrize(
    ("command", "files", "said"),
    [
        ("ucf101", {}, "videos: there must be one trainlist01.txt in it or in the folders below; found none"),
        (
            "ucf101",
            {"trainlist01.txt": "v_a.avi 1\n", "testlist01.txt": ""},
            "trainlist01.txt:1: 'v_a.avi 1' is not of",
        ),
        (
            "ucf101",
            {"trainlist01.txt": "a/b.avi 1\n", "testlist01.txt": ""},
            "none of the 1 films of the list is there",
        ),
        ("hmdb51", {}, "videos: has no <class>_test_split1.txt"),
        ("hmdb51", {"run_test_split1.txt": "a.avi 1\nb.avi 3\n"}, "run_test_split1.txt:2: 'b.avi 3' is no film with"),
        ("kinetics400", {"train.csv": "label\nrun\n", "val.csv": ""}, "train.csv:1: lacks the column time_end"),
        ("folders", {}, "videos/a.mp4: is in no class's folder"),
    ],
)
def test_wrong_tree_is_refused_in_one_line(put, prepare, command, files, said):
    put("a.mp4")
    for name, text in files.items():
        put(name, text=text or "\n")
    assert said in refusal(prepare(command, "videos", "--workers=0"))


def test_help_tells_every_command(prepare):
    told = ended_well(prepare("--help"))
    for name in ("films", "ucf101", "hmdb51", "kinetics400", "folders"):
        assert f"python -m backbones.prepare {name} " in told
        assert "--output" in ended_well(prepare(name, "--help"))
