import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from test_action_scores import made_up

from backbones.answers import Answers
from backbones.figures import confusion_image
from backbones.report import write_report
from backbones.scores import confusion_matrix, describe
from recognition.common.plotting import short_label, svg

EVIL = "<script>alert('1')</script> & $x^2$ _"


def page(tmp_path: Path, answers: Answers, metrics: list | None = None, **told) -> str:
    write_report(tmp_path, describe(answers) | told, answers, metrics or [])
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def text(html: str) -> str:
    """What a reader sees of a page, without its drawings."""
    words: list[str] = []
    parser = HTMLParser()
    parser.handle_data = words.append  # type: ignore[method-assign]
    parser.feed(re.sub(r"<(svg|style).*?</\1>", "", html, flags=re.S))
    return " ".join(" ".join(words).split())


def line(epoch: int) -> dict:
    return {"epoch": epoch, "train_loss": 1 / epoch, "validation_loss": 2.0, "train_top1": 0.5, "validation_top1": 0.25}


def test_page_tells_scores_controls_and_what_went_wrong(tmp_path: Path):
    answers = made_up()
    told = describe(answers)
    controls = {
        "majority": {"top1": 0.14},
        "repeated": describe(made_up(skill=0)),
        "shuffled": describe(made_up(skill=1)),
    }
    gates = [{"layer": "layer1.0", "openness": 0.25, "share_passed": 0.75}]
    html = page(
        tmp_path,
        answers,
        [line(1), line(2)],
        name="my run",
        network="r3d_18",
        views={"clips": 10, "crops": 1},
        controls=controls,
        gates=gates,
        retrieval={"R@1": 0.125},
        config="data:\n  list: x.csv\n",
    )
    seen = text(html)
    assert f"{told['top1']:.3f} of 60 test films" in seen
    low, high = told["top1_interval"]
    assert f"[{low:.3f}, {high:.3f}]" in seen
    assert "mean over 10 clips of 1 crop." in seen
    for words in ("majority class", "one frame repeated", "frames shuffled", "layer1.0", "0.750", "R@1", "list: x.csv"):
        assert words in seen
    assert "frames reversed" not in seen  # it was not measured
    assert {"controls", "confusion", "loss", "top1"} == set(re.findall(r'id="figure-(\w+)"', html))
    worst = str(answers.videos[np.flatnonzero(answers.answer != answers.labels)[0]])
    assert worst in seen


def test_page_needs_nothing_but_answers(tmp_path: Path):
    seen = text(page(tmp_path, made_up()))
    assert tmp_path.name in seen
    for heading in ("Temporal gates", "Retrieval", "Settings", "Training:"):
        assert heading not in seen


def test_names_from_outside_are_text(tmp_path: Path):
    answers = made_up()
    answers = Answers(
        **{**vars(answers), "classes": np.array([EVIL, *answers.classes[1:]]), "videos": np.array([EVIL] * 60)}
    )
    html = page(tmp_path, answers, name=EVIL, network=EVIL, config=EVIL, gates=[{"layer": EVIL, "open": 0.5}])
    assert "<script" not in html
    assert text(html).count(EVIL) >= 6


def test_page_needs_no_other_file(tmp_path: Path):
    html = page(tmp_path, made_up(), [line(1), line(2)])
    links = set(re.findall(r'(?:src|href)="([^"]*)"', html))
    assert {link for link in links if not link.startswith(("#", "data:"))} == set()


def test_equal_runs_have_equal_pages(tmp_path: Path):
    assert page(tmp_path, made_up(), [line(1)]) == page(tmp_path, made_up(), [line(1)])


@pytest.mark.parametrize("skill", [-30, 30])
def test_all_films_right_or_all_wrong_have_a_page(tmp_path: Path, skill: float):
    seen = text(page(tmp_path, made_up(skill=skill)))
    assert ("None." in seen) == (skill > 0)
    assert ("30 of 60" in seen) == (skill < 0)


@pytest.mark.parametrize("num_classes", [2, 20, 60])
def test_confusion_is_drawn_of_few_and_many_classes(num_classes: int):
    answers = made_up(num_classes=num_classes)
    drawing = svg("confusion", confusion_image(confusion_matrix(answers), answers.classes.tolist()))
    assert drawing.startswith('<svg role="img" aria-label="Confusion matrix"')


def test_long_names_are_cut_in_the_middle():
    assert short_label("a rather long name of a class", 11) == "a rat…lass"
    assert short_label("$5", 11) == r"\$5"
