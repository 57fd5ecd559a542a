"""The figures of the reports: whole SVG and PDF, equal for equal scores, and drawn whatever the scores are."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from recognition.common.plotting import svg
from recognition.evaluation import figures as draw
from recognition.evaluation.report import control_points

ROW = {
    "num_probes": 99,
    "hit_rate": 0.8,
    "hit_rate_interval": [0.7, 0.9],
    "d_prime": 1.5,
    "d_prime_interval": [1.2, 1.9],
}


def lag_rows(num: int, lag_s: float | None = None) -> list[dict]:
    return [{**ROW, "lag_frames": 2.0**k, "lag_s": lag_s and lag_s * 2**k} for k in range(num)]


def shown(figure) -> str:
    """All words of a figure."""
    axes = [axis for panel in figure.axes for axis in [panel, *panel.child_axes]]
    words = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return "\n".join(words + [label for axis in axes for label in (axis.get_xlabel(), axis.get_ylabel())])


def test_equal_figures_are_equal_files_and_whole_xml():
    first, second = (svg("x", draw.retention_curve({"model": lag_rows(5)}, "hit_rate")) for _ in range(2))
    assert first == second
    root = ElementTree.fromstring(first)
    assert root.get("aria-label") == "Retention: hit rate against lag"


def test_ids_of_two_figures_on_one_page_never_meet():
    figures = {"one": draw.retention_curve({"model": lag_rows(5)}, "d_prime"), "two": draw.zroc_line(scores())}
    ids = []
    for name, figure in figures.items():
        root = ElementTree.fromstring(svg(name, figure))
        ids += [element.get("id") for element in root.iter() if element.get("id")]
        used = {element.get("{http://www.w3.org/1999/xlink}href") for element in root.iter()} - {None}
        assert used <= {f"#{x}" for x in ids}
    assert len(ids) == len(set(ids))


def scores(**changes) -> dict:
    zroc = {"z_false_alarm": [-1.0, 0.0], "z_hit": [0.0, 1.0], "slope": 1.0, "intercept": 1.0}
    zroc |= {"false_alarm_rate": [0.2, 0.5], "hit_rate": [0.5, 0.8]}
    curve = {"false_alarm_rate": [0, 0.2, 1], "hit_rate": [0, 0.7, 1]}
    return {"roc": curve, "auc": 0.75, "false_alarm_rate": 0.2, "hit_rate": 0.7, "zroc": {**zroc, **changes}}


def test_training_is_dashed_and_validation_solid_as_in_the_published_figure():
    metrics = [{"epoch": k, "train_loss": 1 / k, "validation_loss": 1.1 / k} for k in (1, 2, 3)]
    lines = {line.get_label(): line for line in draw.training_curve(metrics, "loss").axes[0].lines}
    assert lines["training"].get_linestyle() == "--"
    assert lines["validation"].get_linestyle() == "-"
    assert lines["training"].get_color() != lines["validation"].get_color()


def test_model_that_always_answers_alike_has_a_zroc_without_a_line():
    nothing = {"z_false_alarm": [], "z_hit": [], "slope": None, "intercept": None}
    assert "slope" not in shown(draw.zroc_line(scores(**nothing)))
    assert "slope 1.00, intercept 1.00" in shown(draw.zroc_line(scores()))


def test_seconds_stand_above_lags_where_all_films_run_equally_fast():
    assert "seconds of film" in shown(draw.retention_curve({"model": lag_rows(4, lag_s=0.1)}, "hit_rate"))
    assert "seconds" not in shown(draw.retention_curve({"model": lag_rows(4)}, "hit_rate"))
    mixed = {"one": lag_rows(4, lag_s=0.1), "two": lag_rows(4, lag_s=0.2)}
    assert "seconds" not in shown(draw.retention_curve(mixed, "hit_rate"))


def test_scores_that_are_not_defined_are_left_out_of_curves():
    rows = [*lag_rows(3), {**ROW, "lag_frames": 16.0, "lag_s": None, "d_prime": None, "d_prime_interval": None}]
    [axis] = draw.retention_curve({"model": rows}, "d_prime").axes
    assert axis.lines[0].get_xdata().tolist() == [1, 2, 4]
    [axis] = draw.retention_curve({"model": rows[3:]}, "d_prime").axes
    assert axis.lines[0].get_xdata().tolist() == []


def test_row_without_an_interval_leaves_the_bands_of_the_others():
    rows = lag_rows(5)
    rows[4] = {**rows[4], "d_prime_interval": None}
    [axis] = draw.retention_curve({"model": rows}, "d_prime").axes
    assert axis.lines[0].get_xdata().tolist() == [1, 2, 4, 8, 16]
    [band] = axis.collections
    assert {float(x) for x, _ in band.get_paths()[0].vertices} == {1, 2, 4, 8}


def test_bins_of_few_probes_are_left_out_of_retention_unless_there_are_no_others():
    rows = [{**row, "num_probes": n} for row, n in zip(lag_rows(3), (19, 20, 5000), strict=True)]
    [line] = draw.retention_curve({"a": rows}, "d_prime").axes[0].lines
    assert line.get_xdata().tolist() == [2, 4]
    [line] = draw.retention_curve({"a": rows[:1]}, "d_prime").axes[0].lines
    assert line.get_xdata().tolist() == [1]


def test_curves_of_many_models_differ_in_colour_or_marker():
    curves = {f"model {k}": lag_rows(3) for k in range(20)}
    lines = draw.retention_curve(curves, "hit_rate").axes[0].lines
    assert len({(line.get_color(), line.get_marker(), str(line.get_linestyle())) for line in lines}) == 20


@pytest.mark.parametrize("name", ["_private", "a$b$c", "x" * 80, "naïve"])
def test_any_name_can_stand_in_a_legend(name: str):
    points = [{"name": name, "state_bytes": 64, "d_prime": 1.0, "d_prime_interval": [0.9, 1.2], "is_control": False}]
    figure = draw.memory_per_byte(points)
    [legend] = figure.legends
    [text] = legend.get_texts()
    assert 4 <= len(text.get_text()) <= 30
    ElementTree.fromstring(svg("x", figure))


def test_model_that_carries_nothing_is_left_out_of_memory_per_byte():
    point = {"d_prime": 1.0, "d_prime_interval": [0.9, 1.2], "is_control": False}
    figure = draw.memory_per_byte(
        [{**point, "name": "none", "state_bytes": 0}, {**point, "name": "a", "state_bytes": 9}]
    )
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a"]


def test_figures_are_written_as_pdf_and_those_of_an_earlier_report_removed(tmp_path: Path):
    (tmp_path / "old.pdf").write_bytes(b"old")
    draw.write_figures({"kinds": draw.kinds_bars([{"kind": "old", **ROW}], "hit_rate", "title", "label")}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kinds.pdf"]
    assert (tmp_path / "kinds.pdf").read_bytes().startswith(b"%PDF")


def test_controls_that_another_one_beats_with_as_few_bytes_are_not_drawn():
    found = {"small": (16, 1.0), "worse_and_larger": (32, 0.9), "of_equal_size": (64, 2.0), "best": (64, 3.0)}
    controls = {name: {"state_bytes": size, "d_prime": d_prime} for name, (size, d_prime) in found.items()}
    assert [point["name"] for point in control_points({"chance": {"accuracy": 0.5}, **controls})] == ["small", "best"]
    del controls["small"]
    assert [point["name"] for point in control_points(controls)] == ["worse and larger", "best"]
