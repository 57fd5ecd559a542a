import csv
from pathlib import Path

import numpy as np
import pytest

from backbones.answers import Answers, is_right
from backbones.scores import (
    NUM_RESAMPLES,
    SCORES,
    by_class,
    class_table,
    compare,
    confusion_matrix,
    describe,
    interval,
    majority_top1,
    write_class_table,
    wrong_films,
)
from recognition.common.command_line import InputError


def made_up(num=60, num_classes=7, skill=1.5, num_sources=12, seed=0) -> Answers:
    """Answers whose right class stands out by `skill`; the films of a source go wrong together."""
    rng = np.random.default_rng(seed)
    source = np.arange(num) % num_sources
    labels = source % num_classes
    logits = rng.normal(size=(num, num_classes))
    logits[np.arange(num), labels] += skill + np.random.default_rng(9).normal(size=num_sources)[source]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return Answers(
        probabilities.astype(np.float32),
        labels,
        np.array([f"film{k}.mp4" for k in range(num)]),
        np.array([f"g{k:02}" for k in source]),
        np.array([f"class {k}" for k in range(num_classes)]),
        np.column_stack([rng.random(num), np.ones(num)]).astype(np.float32),
    )


def of(probabilities, labels, sources=None, classes="abcdef") -> Answers:
    num, num_classes = np.shape(probabilities)
    videos = np.array([f"film{k}" for k in range(num)])
    return Answers(
        np.array(probabilities, np.float32),
        np.array(labels),
        videos,
        videos if sources is None else np.array(sources),
        np.array(list(classes[:num_classes])),
        np.ones((num, 2), np.float32),
    )


def test_scores_are_what_numpy_finds_in_the_file(tmp_path: Path):
    made_up().save(tmp_path / "answers.npz")
    told = describe(Answers.load(tmp_path / "answers.npz"))
    with np.load(tmp_path / "answers.npz") as file:
        probabilities, labels = file["probabilities"], file["labels"]
        assert probabilities.dtype == np.float32
        clip_top1 = file["view_right"][:, 0].mean()
    right = probabilities.argmax(1) == labels
    top5 = (np.argsort(-probabilities, 1)[:, :5] == labels[:, None]).any(1)
    assert told["top1"] == pytest.approx(right.mean(), abs=1e-12)
    assert told["top5"] == pytest.approx(top5.mean(), abs=1e-12)
    of_classes = [right[labels == k].mean() for k in range(7)]
    assert told["mean_class_accuracy"] == pytest.approx(np.mean(of_classes), abs=1e-12)
    assert told["clip_top1"] == pytest.approx(clip_top1, abs=1e-6)
    assert (told["num_films"], told["num_sources"], told["num_classes"]) == (60, 12, 7)


def test_films_weigh_alike_in_top1_and_classes_in_their_mean():
    answers = of([[0.9, 0.1]] * 4, [0, 0, 0, 1])
    told = describe(answers)
    assert told["top1"] == 0.75
    assert told["mean_class_accuracy"] == 0.5


def test_a_class_without_test_films_counts_in_no_mean():
    told = describe(of([[0.9, 0.1, 0], [0.2, 0.8, 0]], [0, 1]))
    assert told["mean_class_accuracy"] == 1
    assert told["num_classes"] == 2


def test_top5_of_three_classes_is_1():
    answers = of(np.random.default_rng(0).dirichlet([1, 1, 1], 20), np.arange(20) % 3)
    assert describe(answers)["top5"] == 1
    assert describe(answers)["top1"] < 1


def test_of_equally_probable_classes_the_first_is_the_answer():
    probabilities = np.full((3, 3), 1 / 3, np.float32)
    labels = np.array([0, 1, 2])
    for num in (1, 2, 3):
        assert is_right(probabilities, labels, num).sum() == num
    assert (is_right(probabilities, labels) == (probabilities.argmax(1) == labels)).all()


def test_sums_over_resamples_are_those_of_a_plain_loop():
    answers = made_up(num=30, num_sources=6)
    quantities = np.random.default_rng(1).random((30, 2))
    whole, resampled = by_class(answers, quantities)
    assert resampled.shape == (NUM_RESAMPLES, 3, 7)
    drawn = np.random.default_rng(0).multinomial(6, [1 / 6] * 6, NUM_RESAMPLES)
    names = sorted(set(answers.sources))
    for row in (0, 1, 777):
        expected, all_films = np.zeros((3, 7)), np.zeros((3, 7))
        for film in range(30):
            values = np.append(quantities[film], 1)
            expected[:, answers.labels[film]] += drawn[row, names.index(answers.sources[film])] * values
            all_films[:, answers.labels[film]] += values
        np.testing.assert_allclose(resampled[row], expected, rtol=1e-12)
        np.testing.assert_allclose(whole[0], all_films, rtol=1e-12)


def test_intervals_are_wider_where_few_sources_go_wrong_together():
    answers = made_up(num=240, num_sources=12)
    singly = Answers(**{**vars(answers), "sources": answers.videos})
    together, alone = (np.ptp(describe(each)["top1_interval"]) for each in (answers, singly))
    assert together > 1.5 * alone
    low, high = describe(answers)["top1_interval"]
    assert low < describe(answers)["top1"] < high


def test_a_perfect_score_has_an_interval_too():
    told = describe(of([[0.9, 0.1], [0.1, 0.9]] * 10, [0, 1] * 10))
    low, high = told["top1_interval"]
    assert high == 1
    assert 0.8 < low < 0.9  # Wilson's, 20 of 20
    assert describe(of([[0.9, 0.1]], [0]))["top1_interval"] is None


def test_equal_answers_gain_nothing_and_better_ones_something():
    answers = made_up(skill=0.5)
    assert compare(answers, answers)["top1_gain"] == 0
    assert compare(answers, answers)["top1_gain_interval"] is None
    better = made_up(skill=3)
    told = compare(answers, better)
    assert told["top1_gain"] == pytest.approx(describe(better)["top1"] - describe(answers)["top1"])
    assert told["top1_gain_interval"][0] > 0
    assert {f"{name}_gain" for name in SCORES} <= told.keys()


def test_pairs_tell_more_than_two_intervals():
    answers = made_up(num=240, skill=0.5)
    near = Answers(**{**vars(answers), "probabilities": made_up(num=240, skill=0.9).probabilities})
    width = np.ptp(compare(answers, near)["top1_gain_interval"])
    assert width < 0.6 * np.ptp(describe(answers)["top1_interval"])


def test_runs_are_compared_film_by_film_whatever_their_order():
    answers, other = made_up(skill=0.5), made_up(skill=1, seed=5)
    order = np.random.default_rng(2).permutation(60)
    turned = {name: value[order] for name, value in vars(other).items() if name != "classes"}
    assert compare(answers, Answers(**turned, classes=other.classes)) == compare(answers, other)


def test_runs_on_other_films_are_not_compared():
    answers = made_up()
    with pytest.raises(InputError, match="different test films"):
        compare(answers, made_up(num=59))
    with pytest.raises(InputError, match=r"film0\.mp4: is of another class or source"):
        compare(answers, Answers(**{**vars(answers), "labels": (answers.labels + 1) % 7}))


def test_confusion_counts_films_by_right_class_and_answer():
    answers = of([[0.6, 0.4, 0], [0.1, 0.2, 0.7], [0.1, 0.2, 0.7], [0.2, 0.8, 0]], [0, 0, 1, 1])
    assert confusion_matrix(answers).tolist() == [[1, 0, 1], [0, 1, 1], [0, 0, 0]]


def test_table_of_classes_names_the_commonest_mistake(tmp_path: Path):
    answers = of(
        [[0.6, 0.4, 0], [0.1, 0.2, 0.7], [0.1, 0.2, 0.7], [0.2, 0.8, 0]], [0, 0, 0, 1], classes=("a, b", "é", "c")
    )
    first, second, third = class_table(answers)
    assert first == {"class": "a, b", "films": 3, "top1": 1 / 3, "most_frequent_mistake": "c", "mistakes": 2}
    assert second["most_frequent_mistake"] is None
    assert third["top1"] is None
    write_class_table(answers, tmp_path / "classes.csv")
    with open(tmp_path / "classes.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["a, b", "é", "c"]
    assert [row["top1"] for row in rows] == [str(1 / 3), "1.0", ""]


def test_films_that_went_most_wrong_come_first():
    answers = of([[0.6, 0.4, 0], [0.1, 0.3, 0.6], [0.9, 0.1, 0], [0.2, 0.8, 0]], [0, 1, 1, 1])
    assert [film["video"] for film in wrong_films(answers, 9)] == ["film2", "film1"]
    [worst] = wrong_films(answers, 1, num_classes=2)
    assert worst["label"] == "b"
    assert worst["classes"] == [("a", pytest.approx(0.9)), ("b", pytest.approx(0.1))]


def test_majority_is_that_of_the_training_films():
    assert majority_top1([2, 2, 0, 1], np.array([0, 0, 0, 2])) == 0.25


def test_interval_of_resamples_that_are_alike_is_none():
    assert interval(np.ones(10)) is None
    assert interval(np.linspace(0, 1, 1001)) == pytest.approx([0.025, 0.975])


@pytest.mark.parametrize("damage", ["cut", "other", "labels", "pickle", "none"])
def test_a_damaged_file_of_answers_is_named_in_one_line(tmp_path: Path, damage: str):
    path = tmp_path / "answers.npz"
    answers = made_up()
    answers.save(path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "other":
        np.savez(path, answers=np.zeros(3))
    elif damage == "labels":
        np.savez(path, **{**vars(answers), "labels": answers.labels + 90})
    elif damage == "pickle":
        np.savez(path, **{**vars(answers), "videos": answers.videos.astype(object)})
    else:
        path.unlink()
    with pytest.raises(
        InputError, match=r"answers\.npz: (cannot be read .*score the run|no such file; score)"
    ) as error:
        Answers.load(path)
    assert "\n" not in str(error.value)
