"""The command that scores captions, as its user sees it."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from conftest import refusal, run_here, write_features

from captioning.captions import Caption, write_captions
from captioning.metrics import score_corpus
from captioning.said import Said, write_said

CAPTIONS = ["a red ball moves left.", "a blue ball grows.", "the dog sleeps.", "a man jumps over it."]


def clips(said: list[str]) -> list[Said]:
    """Two films of two clips."""
    return [
        Said(f"film_{k // 2}", k % 2, k % 2, k % 2 + 0.9, text, [due])
        for k, (text, due) in enumerate(zip(said, CAPTIONS, strict=True))
    ]


@pytest.fixture
def score(tmp_path: Path) -> Callable[..., CompletedProcess[str]]:
    return lambda *words: run_here("captioning.score", *words, cwd=tmp_path)


def told(result: CompletedProcess[str], path: Path) -> dict[str, Any]:
    assert result.returncode == 0, result.stderr
    return json.loads(path.read_text())


def cells(result: CompletedProcess[str], name: str) -> list[str]:
    """The numbers of a row of the table."""
    [line] = [line for line in result.stdout.splitlines() if line.startswith(f"{name} ")]
    return line[24:].split()


def test_captions_are_scored_with_intervals_and_written(tmp_path: Path, score: Callable):
    said = [CAPTIONS[0], "a red ball grows.", "", "a man is here."]
    write_said(tmp_path / "captions.json", clips(said))
    result = score("captions.json")
    found = told(result, tmp_path / "scores.json")
    due = score_corpus(said, [[text] for text in CAPTIONS])
    assert found["scores"] == pytest.approx(due)
    assert (found["clips"], found["films"], found["empty"]) == (4, 2, 1)
    low, high = found["intervals"]["cider_d"]
    assert low < due["cider_d"] < high
    assert cells(result, "captions.json")[:6] == [f"{100 * due[name]:.2f}" for name in list(due)[:6]]
    assert "1 of 4 captions are empty, and score 0" in result.stdout
    assert due["meteor"] is not None or "METEOR: not computed: needs" in result.stdout


def test_a_run_is_scored_beside_its_floors_and_another_run(tmp_path: Path, score: Callable):
    features = write_features(tmp_path / "features", [60] * 4)
    table = [
        Caption(f"film_{k // 2}", k % 2, k % 2, k % 2 + 0.9, text, split, "")
        for k, (text, split) in enumerate(
            [(text, "test") for text in CAPTIONS] + [(text, "train") for text in CAPTIONS]
        )
    ]
    write_captions(tmp_path / "captions.csv", table)
    for name, said in {"exact": CAPTIONS, "worse": ["a ball.", *CAPTIONS[1:3], "nothing."]}.items():
        (tmp_path / "runs" / name).mkdir(parents=True)
        write_said(tmp_path / "runs" / name / "captions.json", clips(said)[:: 1 if name == "exact" else -1])
    (tmp_path / "runs/exact/config.yaml").write_text(f"name: exact\ndata: {{video_path: {features}}}\n")
    (tmp_path / "lags.csv").write_text("film,clip,lag_clips,colour\nfilm_0,1,1,red\nfilm_1,1,1,red\nfilm_1,0,0,red\n")
    result = score("runs/exact", "runs/worse", "--lags=lags.csv")
    found = told(result, tmp_path / "runs/exact/scores.json")
    assert found["scores"]["cider_d"] == pytest.approx(9.375)  # one caption is of three words, and has none of four
    names = ("shuffled over clips", "commonest caption", "best constant caption", "nearest training clip")
    assert tuple(found["floors"]) == names
    assert found["floors"]["commonest caption"]["caption"] in CAPTIONS
    assert all(row["scores"]["cider_d"] < 9 for row in found["floors"].values())
    worse = told(result, tmp_path / "runs/worse/scores.json")["scores"]
    for name, difference in found["differences"]["worse"].items():
        assert difference["by"] == pytest.approx(found["scores"][name] - worse[name])
        assert difference["interval"][0] <= difference["by"] <= difference["interval"][1]
    assert [(row["lag"], row["num_clips"], row["exact"]) for row in found["retention"]["by_lag"]] == [
        (0, 1, 1),
        (1, 2, 1),
    ]
    page = (tmp_path / "runs/exact/report.html").read_text()
    assert str(tmp_path / "runs/exact/report.html") in result.stdout
    for part in (
        "nearest training clip",
        "exact less",
        "figure-scores",
        "figure-lag_exact",
        "failures first",
        "frames_per_clip",
    ):
        assert part in page
    assert cells(result, "exact less worse")[:4] == [
        f"{100 * found['differences']['worse'][f'bleu_{n}']['by']:.2f}" for n in (1, 2, 3, 4)
    ]


def test_pairs_of_running_numbers_are_scored_by_their_numbers(tmp_path: Path, score: Callable):
    (tmp_path / "said.json").write_text(json.dumps({"1": CAPTIONS[1], "0": CAPTIONS[0]}))
    (tmp_path / "due.json").write_text(json.dumps({"0": CAPTIONS[0], "1": CAPTIONS[1]}))
    result = score("said.json", "--reference_file=due.json")
    assert told(result, tmp_path / "said-scores.json")["scores"]["rouge_l"] == pytest.approx(1)


def test_several_reference_files_take_the_place_of_the_captions_own(tmp_path: Path, score: Callable):
    write_said(tmp_path / "captions.json", clips(["x.", "y.", "z.", "v."]))
    for number, texts in enumerate((["x.", "no.", "z.", "v."], ["no.", "y.", "no.", "no."])):
        rows = [
            Caption(row.film, row.clip, row.start_s, row.end_s, text, "test", "")
            for row, text in zip(clips(CAPTIONS), texts, strict=True)
        ]
        write_captions(tmp_path / f"{number}.csv", rows)
    result = score("captions.json", "--reference_file=0.csv", "--reference_file=1.csv")
    assert told(result, tmp_path / "scores.json")["scores"]["bleu_1"] == pytest.approx(1)


def test_means_over_clips_are_given_where_asked_for(tmp_path: Path, score: Callable):
    said = [*CAPTIONS[:2], "the cat.", ""]
    write_said(tmp_path / "captions.json", clips(said))
    found = told(score("captions.json", "--average=clips"), tmp_path / "scores.json")
    assert found["scores"] == pytest.approx(score_corpus(said, [[text] for text in CAPTIONS], "clips"))
    assert found["average"] == "clips"


def test_captions_of_one_film_are_scored_without_intervals(tmp_path: Path, score: Callable):
    write_said(tmp_path / "captions.json", clips(CAPTIONS)[:2])
    result = score("captions.json")
    assert set(told(result, tmp_path / "scores.json")["intervals"].values()) == {None}
    assert "intervals: not computed: need two films or more" in result.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("none",), "none: no such file"),
        (("empty",), "empty: has no captions.json; python -m captioning.generate makes one"),
        (("numbers.json",), "numbers.json: has captions by running numbers and no references"),
        (
            ("numbers.json", "--reference_file=others.json"),
            "others.json: '0' is not in both this file and numbers.json",
        ),
        (("captions.json", "--lags=test.csv"), "test.csv: has no column lag_clips"),
        (("captions.json", "fewer.json"), "fewer.json: clip 1 of 'film_1' is not in both"),
        (("captions.json", "--captions=test.csv"), "test.csv: has no training captions"),
        (("captions.json", "--reference_file=test.csv"), "test.csv: has no caption for clip 0 of 'film_0'"),
    ],
)
def test_bad_input_is_told_in_one_line(tmp_path: Path, score: Callable, words: tuple[str, ...], said: str):
    (tmp_path / "empty").mkdir()
    write_said(tmp_path / "captions.json", clips(CAPTIONS))
    write_said(tmp_path / "fewer.json", clips(CAPTIONS)[:3])
    (tmp_path / "numbers.json").write_text('{"0": "a ball."}')
    (tmp_path / "others.json").write_text('{"1": "a ball."}')
    write_captions(tmp_path / "test.csv", [Caption("a", 0, 0.0, 1.0, "x.", "test", "")])
    assert said in refusal(score(*words))
