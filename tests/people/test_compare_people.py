"""People beside models: which agree, what is told where they cannot be compared, and that nothing is drawn of what is
not known."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import refusal, run_here
from made_up_crowds import NUM_EPISODES, PEOPLE_EACH, crowd_of, make_crowd, model_of, write_people, write_scored_run

from recognition.evaluation.signal_detection import seed_interval
from recognition.people.compare_figure import joined_figure, panels
from recognition.people.published_figures import BASES, DIRECTIONS, published_figures, rate_pairs
from recognition.people.side_by_side import people_by_lag, people_row

COMPARE = ("recognition.participants", "compare")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """People, a model that agrees with them in two seeds, one that was tested elsewhere, and people of no index."""
    folder = tmp_path_factory.mktemp("runs")
    crowd, is_old, item = make_crowd(0.5)
    write_people(folder / "people", crowd)
    other = crowd_of(crowd.answer, crowd.is_old, crowd.episode, name="published", index_sha256=None)
    write_people(folder / "published", other)
    for seed in (0, 1):
        write_scored_run(folder / f"alike-seed{seed}", model_of(item, is_old, 0.5, 1 + seed), is_old, seed)
    write_scored_run(folder / "elsewhere", model_of(item, is_old, 0), is_old, model="mlstm", test="c" * 64)
    return folder


@pytest.fixture(scope="module")
def compared(runs: Path):
    names = ("people", "published", "alike-seed0", "alike-seed1", "elsewhere")
    result = run_here(*COMPARE, *(runs / name for name in names), "--output", "out", "--figures", cwd=runs)
    assert result.returncode == 0, result.stderr
    return result, runs / "out"


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def test_people_and_models_are_rows_of_one_table_with_persons_as_seeds(compared, runs: Path):
    rows = table(compared[1] / "compare.csv")
    assert [(row["name"], row["who"], row["num"]) for row in rows] == [
        ("people", "people", str(NUM_EPISODES * PEOPLE_EACH)),
        ("published", "people", str(NUM_EPISODES * PEOPLE_EACH)),
        ("alike", "model", "2"),
        ("elsewhere", "model", "1"),
    ]
    told = json.loads((runs / "people/people.json").read_text())
    mean, (low, high) = seed_interval([person["scores"]["d_prime"] for person in told["persons"]])
    assert float(rows[0]["d_prime"]) == pytest.approx(mean)
    assert (float(rows[0]["d_prime_low"]), float(rows[0]["d_prime_high"])) == pytest.approx((low, high))
    assert rows[3]["d_prime_low"] == ""  # a seed alone has no interval
    assert float(rows[0]["order_other_film"]) == pytest.approx(0.5)
    assert float(rows[2]["order_all"]) == pytest.approx(0.55)
    assert float(rows[2]["hit_rate_cut"]) == pytest.approx(0.8)


def test_agreement_is_told_of_the_models_that_saw_the_same_episodes_alone(compared):
    result, out = compared
    lines = table(out / "agreement.csv")
    assert {line["people"] for line in lines} == {"people"}
    models = {line["second"] for line in lines if line["measure"] == "rho"}
    assert models == {"alike-seed0", "alike-seed1"}
    assert all(float(line["value"]) > 0.4 for line in lines if line["measure"] == "rho")
    assert "No agreement with published is told: its episodes are of no index file." in result.stdout
    assert "Tested on other episodes than those of people, so that no agreement is told: elsewhere." in result.stdout
    assert "people saw, of the models’ test episodes, only these: 0, 1, 2, 3, 4, 5." in result.stdout
    page = (out / "compare.html").read_text(encoding="utf-8")
    assert "Tested on other episodes" in page
    assert "Item by item: people" in page
    assert "Item by item: published" not in page


def test_every_probe_is_listed_with_what_people_and_models_said(compared, runs: Path):
    lines = table(compared[1] / "agreement_probes.csv")
    with np.load(runs / "people/answers.npz") as file:
        answer, episode = file["answer"], file["episode"]
    with np.load(runs / "alike-seed0/answers.npz") as file:
        of_model = file["answers"]
    for line in lines[::37]:
        number, probe = int(line["episode"]), int(line["probe"])
        given = answer[episode == number, probe]
        given = given[~np.isnan(given)]
        assert float(line["mean_grade"]) == pytest.approx(given.mean())
        assert float(line["share_old"]) == pytest.approx((given > 0).mean())
        assert int(line["num_people"]) == len(given)
        assert float(line["answer of alike-seed0"]) == pytest.approx(of_model[number, probe])
    assert len(lines) == NUM_EPISODES * answer.shape[1]


def test_the_figure_is_written_in_all_its_forms(compared):
    out = compared[1]
    assert (out / "compare.pdf").read_bytes().startswith(b"%PDF")
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (out / "compare.svg").read_text(encoding="utf-8")


def test_what_an_earlier_comparison_left_is_removed_and_not_taken_for_a_run(runs: Path, tmp_path: Path):
    for name in ("compare.html", "compare.csv", "compare.pdf", "agreement.csv", "agreement_probes.csv"):
        (tmp_path / name).write_text("earlier")
    words = (runs / "published", runs / "elsewhere", tmp_path / "compare.html", tmp_path / "agreement.csv")
    result = run_here(*COMPARE, *words, "--output", tmp_path, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["compare.csv", "compare.html"]


def test_people_alone_agree_among_themselves(runs: Path, tmp_path: Path):
    assert run_here(*COMPARE, runs / "people", "--output", tmp_path, cwd=tmp_path).returncode == 0
    measures = {line["measure"] for line in table(tmp_path / "agreement.csv")}
    assert measures == {"ceiling", "halves", "noiseless", "share_ceiling", "kappa"}


def test_people_who_share_no_probe_have_no_agreement(tmp_path: Path):
    crowd, _, _ = make_crowd(0.5, people_each=1)
    write_people(tmp_path / "people", crowd)
    result = run_here(*COMPARE, "people", "--output", "out", cwd=tmp_path)
    assert "no probe was answered by two people; give several people the same episodes" in result.stdout
    assert not (tmp_path / "out/agreement.csv").exists()


def test_answers_of_another_number_of_probes_are_told_and_no_agreement_made(tmp_path: Path):
    crowd, is_old, item = make_crowd(0.5)
    write_people(tmp_path / "people", crowd)
    write_scored_run(tmp_path / "short", model_of(item, is_old, 0.5)[:, :50], is_old[:, :50])
    result = run_here(*COMPARE, "people", "short", "--output", "out", cwd=tmp_path)
    assert result.returncode == 0
    assert "the answers of short are of another number of probes" in result.stdout


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda run: (run / "config.yaml").unlink(), "neither people (no people.json there) nor a run"),
        (lambda run: (run / "evaluation.json").unlink(), "score the run with evaluate.py first"),
        (lambda run: (run / "evaluation.json").write_text("{}x"), "not valid JSON"),
        (lambda run: (run / "evaluation.json").write_text('{"accuracy": 1}'), "is missing; score the run anew"),
        (lambda run: (run / "order.json").write_text('{"accuracy": "<b>"}'), "not a file of orders"),
    ],
)
def test_a_folder_that_cannot_be_read_is_refused(tmp_path: Path, spoil, words: str):
    _, is_old, item = make_crowd(0.5, num_episodes=2)
    write_scored_run(tmp_path / "spoilt", model_of(item, is_old, 0.5), is_old)
    spoil(tmp_path / "spoilt")
    assert words in refusal(run_here(*COMPARE, "spoilt", "--output", "out", cwd=tmp_path))
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_read_is_left_out_beside_others(runs: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    result = run_here(*COMPARE, "empty", runs / "published", "--output", "out", cwd=tmp_path)
    assert result.returncode == 0
    [line] = result.stderr.splitlines()
    assert line.startswith("empty is left out: empty: neither people")
    assert len(table(tmp_path / "out/compare.csv")) == 1


def test_people_who_are_all_left_out_are_refused(tmp_path: Path):
    crowd, _, _ = make_crowd(0.5, people_each=1, num_episodes=2)
    write_people(tmp_path / "people", crowd_of(crowd.answer, crowd.is_old, crowd.episode, left_out=(0, 1)))
    assert "all 2 persons are left out" in refusal(run_here(*COMPARE, "people", cwd=tmp_path))


def test_order_of_earlier_weights_is_not_told(tmp_path: Path):
    _, is_old, item = make_crowd(0.5, num_episodes=2)
    write_scored_run(tmp_path / "run", model_of(item, is_old, 0.5), is_old)
    order = json.loads((tmp_path / "run/order.json").read_text())
    order["sha256"]["weights"] = "d" * 64
    (tmp_path / "run/order.json").write_text(json.dumps(order))
    assert run_here(*COMPARE, "run", "--output", "out", cwd=tmp_path).returncode == 0
    assert table(tmp_path / "out/compare.csv")[0]["order_all"] == ""


def test_lags_of_people_are_binned_as_a_plain_loop_bins_them():
    crowd, _, _ = make_crowd(0.5, people_each=2, num_episodes=2)
    found = people_by_lag(crowd)
    bins: dict[int, list[list[float]]] = {}
    for answer, is_old, lag in zip(crowd.answer, crowd.is_old, crowd.lag_s, strict=True):
        own: dict[int, list[float]] = {}
        for k in range(len(answer)):
            if is_old[k] and not np.isnan(answer[k]):
                own.setdefault(int(np.floor(np.log2(lag[k]))), []).append(float(answer[k] > 0))
        for number, said in own.items():
            if len(said) >= 5:
                bins.setdefault(number, []).append(said)
    assert len(found) == len(bins)
    for (lag, told), number in zip(found, sorted(bins), strict=True):
        assert 2**number <= lag < 2 ** (number + 1)
        assert told.values == pytest.approx([np.mean(said) for said in bins[number]])


def test_people_of_whom_little_is_known_are_drawn_as_far_as_it_is():
    crowd, _, _ = make_crowd(0.5, people_each=1, num_episodes=1)
    [person] = crowd.persons
    person |= {"order": None, "by_clip_kind": []}
    person["scores"]["zroc"]["slope"] = None
    crowd.lag_s[:] = np.nan
    row = people_row(crowd, "people")
    assert list(panels([row])) == ["accuracy", "d_prime", "criterion", "rates"]
    assert len(joined_figure([row]).axes) == 4


def test_published_figures_have_a_source_and_directions_have_no_number():
    figures = published_figures()
    for figure in figures:
        assert figure.source
        assert figure.basis in BASES
        assert (figure.value is None) == (figure.basis == "direction")
        assert (figure.direction in DIRECTIONS) == (figure.basis == "direction")
    assert sum(figure.basis == "direction" for figure in figures) == 5
    [film_frames] = rate_pairs()
    assert (film_frames.hit_rate, film_frames.false_alarm_rate) == (0.78, 0.18)


def test_directions_are_words_on_the_page(compared):
    page = (compared[1] / "compare.html").read_text(encoding="utf-8")
    for figure in published_figures():
        if figure.direction:
            assert f'<td class="number">{figure.direction}</td>' in page
