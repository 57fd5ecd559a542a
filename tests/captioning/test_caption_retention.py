"""Scores by how long ago a thing was seen, by hand; the report that draws them."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from captioning import retention
from captioning.bootstrap import group_means
from captioning.config import CaptionSettings
from captioning.films import draw_film, write_slots
from captioning.report import HEADS, report_file, write_report
from captioning.retention import by_lag, by_place, read_lags
from captioning.said import Read, Said
from captioning.scored import Scored
from recognition.common.command_line import InputError

FILMS = [draw_film(number, 0) for number in range(4)]
SLOTS = [slots for film in FILMS for slots in film]
EVIL = 'a <script>alert(1)</script> & "ball" \' {{ 7 * 7 }}.'


def scored(is_right=lambda slots: slots.lag_clips < 3) -> Scored:
    """Captions that are right about what was seen a short time ago."""
    said = [
        Said(s.film, s.clip, s.clip, s.clip + 1, s.caption if is_right(s) else "a dog sits.", [s.caption], [Read(0, 1)])
        for s in SLOTS
    ]
    return Scored.of("run", Path("scores.json"), said, with_meteor=False)


def test_lags_are_those_of_the_table(tmp_path: Path):
    write_slots(tmp_path / "slots.csv", SLOTS)
    assert read_lags(tmp_path / "slots.csv") == {(s.film, s.clip): s.lag_clips for s in SLOTS}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("film,clip\na,0\n", "lags.csv: has no column lag_clips; it needs film, clip, lag_clips"),
        ("film,clip,lag_clips\na,0,soon\n", "lags.csv:2: lag_clips is to be a whole number from 0 on, not 'soon'"),
        ("film,clip,lag_clips\na,-1,1\n", "lags.csv:2: clip is to be a whole number"),
    ],
)
def test_table_of_lags_that_is_wrong_is_told_by_its_line(tmp_path: Path, text: str, told: str):
    (tmp_path / "lags.csv").write_text(text)
    with pytest.raises(InputError) as error:
        read_lags(tmp_path / "lags.csv")
    assert told in str(error.value)


def test_forgetting_shows_by_lag_and_at_no_other_place():
    lags = {(s.film, s.clip): s.lag_clips for s in SLOTS if s.clip != 7}
    rows = by_lag(scored(), lags, 0)
    counts = np.bincount(list(lags.values()))
    assert {row["lag"]: row["num_clips"] for row in rows} == {lag: n for lag, n in enumerate(counts) if n}
    for row in rows:
        assert row["exact"] == (row["lag"] < 3)
        assert (row["rouge_l"] == 1) == (row["lag"] < 3)
    [first] = [row for row in rows if row["lag"] == 0]
    assert first["exact_interval"] == pytest.approx((1, 1))
    assert by_lag(scored(), {}, 0) == []


def test_place_of_a_clip_counts_from_one_and_late_ones_are_taken_together(monkeypatch: pytest.MonkeyPatch):
    rows = by_place(scored(lambda slots: slots.clip % 2 == 0), 0)
    assert [(row["place"], row["num_clips"], row["exact"]) for row in rows] == [(k + 1, 4, 1 - k % 2) for k in range(8)]
    monkeypatch.setattr(retention, "MOST_PLACES", 3)
    rows = by_place(scored(lambda slots: slots.clip % 2 == 0), 0)
    assert [(row["place"], row["num_clips"]) for row in rows] == [(1, 4), (2, 4), (3, 24)]
    assert rows[2]["exact"] == 0.5


def test_intervals_of_a_group_are_over_its_films():
    rng = np.random.default_rng(0)
    values, groups = rng.random((60, 2)), [k % 3 for k in range(60)]
    films = [f"film {k // 6}" for k in range(60)]
    found = group_means(values, groups, films)
    for group, told in found.items():
        own = values[np.array(groups) == group]
        assert (told.num_clips, told.means) == (20, pytest.approx(own.mean(0).tolist()))
        by_film = own.reshape(10, 2, 2).mean(1)
        spread = by_film.std(0) / np.sqrt(10)
        for (low, high), mean, deviation in zip(told.intervals, told.means, spread, strict=True):
            assert low < mean < high
            assert 2 < (high - low) / deviation < 6
    assert group_means(values[:6], groups[:6], films[:6])[0].intervals == [None, None]


def told_of(scored: Scored) -> dict:
    """What scores.json has, its numbers being at hand."""
    lags = {(s.film, s.clip): s.lag_clips for s in SLOTS}
    scores = dict.fromkeys(HEADS, 0.5) | {"meteor": None, "meteor_note": "not computed: needs Java"}
    ends = {metric: (0.4, 0.6) for metric in HEADS if metric != "meteor"}
    differences = {"worse": {m: {"by": -0.1, "interval": (-0.2, 0.1)} for m in ("bleu_1", "cider_d")}}
    return {
        **{"name": scored.name, "average": "corpus", "clips": len(scored.said), "films": 4, "empty": 1},
        **{"scores": scores, "intervals": ends, "differences": differences},
        "floors": {"commonest caption": {"scores": scores, "intervals": ends, "caption": EVIL}},
        "retention": {"by_lag": by_lag(scored, lags, 0), "by_place": by_place(scored, 0)},
    }


class Tags(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, list]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, attributes))

    def handle_data(self, data):
        self.text += data


def test_report_tells_scores_floors_retention_and_films_and_quotes_text_as_text(tmp_path: Path):
    run = scored()
    told = told_of(run)
    assert json.dumps(told, allow_nan=False)
    config = CaptionSettings.model_validate({"name": "run", "data": {"captions": EVIL}})
    others = {EVIL: told_of(scored(lambda slots: not slots.lag_clips))}
    write_report(tmp_path / "scores.json", told, others, [*run.said, Said(EVIL, 0, 0, 0, EVIL, ["no"])], config, None)
    page = Tags((tmp_path / "report.html").read_text())
    ids = {dict(attributes).get("id") for tag, attributes in page.tags if tag == "figure"}
    assert ids == {"figure-scores", "figure-lag_exact", "figure-lag_rouge_l", "figure-place"}
    assert not {"script", "iframe", "img"} & {tag for tag, _ in page.tags}
    assert page.text.count(EVIL) >= 4
    words = " ".join(page.text.split())
    for part in (
        "CIDEr-D of 50.0",
        "50.0[40.0, 60.0]",
        "−10.0[−20.0, 10.0]",
        "3 clips ago",
        "METEOR not computed: needs",
    ):
        assert part in words
    assert words.index("dog sits") > words.index("failures first")


def test_report_of_captions_alone_has_no_retention(tmp_path: Path):
    said = [Said(str(k), 0, 0, 0, "a ball.", ["a ball."]) for k in range(3)]
    run = Scored.of("run", Path("said-scores.json"), said, with_meteor=False)
    told = told_of(run) | {"differences": {}, "floors": {}, "empty": 0}
    file = report_file(tmp_path / "said-scores.json")
    assert file.name == "said-report.html"
    write_report(tmp_path / "said-scores.json", told, {}, said, None, None)
    page = Tags(file.read_text())
    assert "Retention" not in page.text
    assert "Settings" not in page.text
    assert " s" not in [text.strip() for text in page.text.split("\n")]
