"""The command that makes captions.csv, as its user sees it."""

import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import refusal, run_here

from captioning.captions import read_captions
from captioning.floors import clip_features
from recognition.features.feature_file import map_features, read_header, read_times
from recognition.films.manifest import read_films

IDS = [f"v_{number:011d}" for number in range(10)]
FILMS = {
    film: {"duration": 9, "timestamps": [[4, 9.2], [0, 5]], "sentences": ["It grows", " A ball. "]} for film in IDS
}


@pytest.fixture
def prepare(tmp_path: Path) -> Callable[..., CompletedProcess[str]]:
    return lambda *words: run_here("captioning.prepare", *words, cwd=tmp_path)


def write(folder: Path, name: str, content: Any) -> None:
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def test_activitynet_becomes_a_table_and_a_list_of_films(tmp_path: Path, prepare: Callable):
    write(tmp_path, "train.json", dict(list(FILMS.items())[:8]))
    write(tmp_path, "val_1.json", dict(list(FILMS.items())[8:]))
    words = (
        "--train=train.json",
        "--test=val_1.json",
        "--validation_share=0.25",
        "--n_train=4",
        "--films_list=films.csv",
    )
    result = prepare("activitynet", *words, "--output=made/captions.csv")
    assert result.returncode == 0, result.stderr
    assert (
        "6 clips of 3 films for train, 2 clips of 1 films for validation, 4 clips of 2 films for test" in result.stdout
    )
    captions = read_captions(tmp_path / "made" / "captions.csv")
    assert [(row.clip, row.start_s, row.end_s, row.caption) for row in captions[:2]] == [
        (0, 0.0, 5.0, "A ball."),
        (1, 4.0, 9.0, "It grows."),
    ]
    films = read_films(tmp_path / "films.csv")
    assert [film.video_id for film in films] == [film[2:] for film in (*IDS[:4], *IDS[8:])]
    assert films[0].video_url == f"https://www.youtube.com/watch?v={IDS[0][2:]}"


def test_a_film_in_two_splits_is_refused_and_nothing_written(tmp_path: Path, prepare: Callable):
    write(tmp_path, "train.json", FILMS)
    write(tmp_path, "val_1.json", {IDS[3]: FILMS[IDS[3]]})
    line = refusal(prepare("activitynet", "--train=train.json", "--validation=val_1.json"))
    assert (
        f"val_1.json:1: {IDS[3]}, segment 2: film '{IDS[3][2:]}' is for validation, and for train at train.json" in line
    )
    assert not (tmp_path / "captions.csv").exists()


def test_wrong_segments_are_refused_or_left_out_and_told(tmp_path: Path, prepare: Callable):
    wrong = {"duration": 9, "timestamps": [[0, 4], [5, 4], [9, 12], [1, 2]], "sentences": ["x", "y", "z", None]}
    write(tmp_path, "train.json", {IDS[0]: wrong, IDS[1]: FILMS[IDS[1]]})
    line = refusal(prepare("activitynet", "--train=train.json"))
    assert "segment 2: the segment ends at 4 s, and starts at 5 s (and 2 more); --leave_out_wrong" in line
    result = prepare("activitynet", "--train=train.json", "--leave_out_wrong", "--validation_share=0")
    assert result.returncode == 0
    assert result.stderr.count("; left out\n") == 3
    assert len(read_captions(tmp_path / "captions.csv")) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("activitynet",), "give one or more of --train, --validation and --test"),
        (("activitynet", "--train=no.json"), "no.json: no such file"),
        (("activitynet", "--train=named.json", "--films_list=f.csv"), "'film' is no ID of a film on YouTube"),
        (("films", "no-films", "--table=own.csv"), "no-films: no such folder"),
        (("rows", "--train=train.pkl"), "train.pkl: is a pickle that names 'builtins.print'"),
        (("rows", "--train=tokens.pkl"), "row 1: the caption is numbers of tokens"),
    ],
)
def test_bad_input_is_told_in_one_line(tmp_path: Path, prepare: Callable, words: tuple[str, ...], said: str):
    write(tmp_path, "named.json", {"film": FILMS[IDS[0]]})
    (tmp_path / "train.pkl").write_bytes(pickle.dumps(print))
    (tmp_path / "tokens.pkl").write_bytes(
        pickle.dumps([{"video_id": "a", "frames": np.ones((1, 2)), "caption": [3, 4]}])
    )
    assert said in refusal(prepare(*words))
    assert not (tmp_path / "captions.csv").exists()


def test_films_of_ones_own_get_a_split_by_film(films: Path, tmp_path: Path, prepare: Callable):
    names = sorted(path.name for path in films.glob("*.mp4"))
    rows = [f'{name},{start},{start + 0.5},"a ball, no {start}"' for name in names for start in (1, 0.25)]
    write(tmp_path, "own.csv", "\r\n".join(["video,start,end,caption", *rows]))
    shares = ("--validation_share=0.25", "--test_share=0.25")
    result = prepare("films", films, "--table=own.csv", *shares)
    assert result.returncode == 0, result.stderr
    captions = read_captions(tmp_path / "captions.csv")
    assert {row.film for row in captions} == {Path(name).stem for name in names}
    assert sorted({row.film: row.split for row in captions}.values()) == ["test", "train", "train", "validation"]
    assert [(row.clip, row.start_s, row.caption) for row in captions[:2]] == [
        (0, 0.25, "a ball, no 0.25."),
        (1, 1.0, "a ball, no 1."),
    ]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("none.mp4,0,1,x", "own.csv:2: there is no film 'none'"),
        ("{},0,9,x", "own.csv:2: the segment, 0 to 9 s, is outside its film of 2"),
    ],
)
def test_segments_are_held_against_the_films(films: Path, tmp_path: Path, prepare: Callable, row: str, said: str):
    name = min(path.name for path in films.glob("*.mp4"))
    write(tmp_path, "own.csv", "film,start_s,end_s,caption\n" + row.format(name))
    assert said in refusal(prepare("films", films, "--table=own.csv"))


def test_published_rows_become_feature_files_whose_clips_are_the_rows(tmp_path: Path, prepare: Callable):
    rng = np.random.default_rng(0)
    lengths = {"train": [("a", 3), ("b", 1), ("a", 2)], "test": [("c", 4)]}
    frames = {}
    for split, clips in lengths.items():
        rows = [
            {
                "video_id": film,
                "frames": rng.normal(size=(length, 6)).astype(np.float32),
                "caption": f" {film} {length}",
            }
            for film, length in clips
        ]
        frames[split] = rows
        (tmp_path / f"{split}.pkl").write_bytes(pickle.dumps(rows))
    result = prepare("rows", "--train=train.pkl", "--test=test.pkl", "--features=features")
    assert result.returncode == 0, result.stderr
    captions = read_captions(tmp_path / "captions.csv")
    assert [(row.film, row.clip, row.caption) for row in captions] == [
        ("a", 0, "a 3."),
        ("a", 1, "a 2."),
        ("b", 0, "b 1."),
        ("c", 0, "c 4."),
    ]
    due = [frames["train"][0], frames["train"][2], frames["train"][1], frames["test"][0]]
    for row, rows in zip(captions, due, strict=True):
        path = tmp_path / "features" / f"{row.film}.h5"
        assert read_header(path).num_frames == len(map_features(path))
        times = read_times(path)
        np.testing.assert_array_equal(map_features(path)[(times >= row.start_s) & (times <= row.end_s)], rows["frames"])
        np.testing.assert_array_equal(map_features(path)[(times >= row.start_s) & (times < row.end_s)], rows["frames"])
    assert clip_features(captions, tmp_path / "features").shape == (4, 6)


def test_rows_of_one_film_in_two_splits_write_nothing(tmp_path: Path, prepare: Callable):
    rows = [{"video_id": "a", "frames": np.ones((2, 3)), "caption": "x"}]
    for split in ("train", "test"):
        (tmp_path / f"{split}.pkl").write_bytes(pickle.dumps(rows))
    assert "test.pkl, row 1: film 'a' is for test" in refusal(prepare("rows", "--train=train.pkl", "--test=test.pkl"))
    assert not (tmp_path / "video-features").exists()


class LetterTokenizer:
    """Stands for a tokeniser: token 0 is a, and so on."""

    @classmethod
    def from_pretrained(cls, name: str, trust_remote_code: bool) -> "LetterTokenizer":
        assert not trust_remote_code
        if name != "letters":
            raise OSError("there is none\nas a second line says")
        return cls()

    def __len__(self) -> int:
        return 26

    def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
        return "".join(chr(97 + token) for token in tokens)


@pytest.mark.parametrize(
    ("name", "tokens", "said"),
    [
        ("letters", [18, 4, 19], ""),
        ("letters", [18, 26], "tokens.pkl, row 1: token 26 is none of letters's 26"),
        ("gpt2", [18], "--tokenizer gpt2: no tokeniser (there is none); give a folder"),
    ],
)
def test_captions_that_are_tokens_become_text(
    tmp_path: Path, prepare: Callable, monkeypatch: pytest.MonkeyPatch, name: str, tokens: list[int], said: str
):
    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(AutoTokenizer=LetterTokenizer))
    rows = [{"video_id": "a", "frames": np.ones((1, 2)), "caption": np.array(tokens)}]
    (tmp_path / "tokens.pkl").write_bytes(pickle.dumps(rows))
    result = prepare("rows", "--train=tokens.pkl", f"--tokenizer={name}")
    if said:
        assert said in refusal(result)
    else:
        assert [row.caption for row in read_captions(tmp_path / "captions.csv")] == ["set."]


def test_help_has_the_recipe(prepare: Callable):
    result = prepare("rows", "--help")
    assert result.returncode == 0
    assert "np.savez(" in result.stdout
