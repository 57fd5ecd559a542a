"""Captions that look at nothing: each is what its name says."""

from pathlib import Path

import numpy as np
import pytest
from conftest import write_features

from captioning.captions import Caption
from captioning.floors import best_constant, clip_features, commonest, nearest_captions, shuffled
from captioning.metrics import score_corpus
from recognition.common.command_line import InputError
from recognition.features.feature_file import map_features

TRAINED = ["a man speaks.", "a man speaks.", "the red ball moves left.", "the red ball grows.", "the red ball jumps."]


def caption(film: str, start_s: float, end_s: float) -> Caption:
    return Caption(film, 0, start_s, end_s, "a ball.", "train", "captions.csv:2")


def test_the_commonest_caption_is_that_of_most_clips_and_the_first_of_equals():
    assert commonest(TRAINED) == "a man speaks."
    assert commonest(["b.", "a.", "a.", "b."]) == "b."


def test_the_best_constant_caption_beats_all_others_on_training_clips():
    references = [[text] for text in TRAINED]
    worth = {text: score_corpus([text] * 5, references, with_meteor=False)["cider_d"] for text in TRAINED}
    assert best_constant(TRAINED) == max(worth, key=worth.__getitem__)


def test_the_best_constant_caption_is_the_same_however_captions_are_ordered():
    assert best_constant(TRAINED) == best_constant(TRAINED[::-1])


def test_shuffling_gives_every_clip_the_caption_of_another():
    texts = [f"caption {k}." for k in range(9)]
    found = shuffled(texts)
    assert sorted(found) == texts
    assert all(text != other for text, other in zip(found, texts, strict=True))
    assert found == shuffled(texts)
    assert found != shuffled(texts, seed=1)


def test_the_nearest_caption_is_by_direction_not_by_length():
    trained = np.array([[1.0, 0.0], [0.0, 100.0], [1.0, 1.0]])
    clips = np.array([[50.0, 1.0], [0.1, 0.2], [0.0, 0.001], [0.0, 0.0]])
    assert nearest_captions(clips, trained, ["right", "up", "between"]) == ["right", "between", "up", "right"]


def test_the_feature_of_a_clip_is_the_mean_of_its_frames(tmp_path: Path):
    folder = write_features(tmp_path / "features", [60, 60])
    found = clip_features([caption("film_1", 0.5, 1.0), caption("film_0", 0.0, 0.01)], folder)
    frames = np.asarray(map_features(folder / "film_1.h5"), np.float64)
    np.testing.assert_allclose(found[0], frames[15:31].mean(0))
    np.testing.assert_allclose(found[1], np.asarray(map_features(folder / "film_0.h5"), np.float64)[0])


@pytest.mark.parametrize(
    ("film", "start_s", "said"),
    [("film_7", 0.0, r"captions\.csv:2: there is no feature file"), ("film_0", 9.0, r"no frame from 9 to 10 s")],
)
def test_a_clip_without_features_is_named(tmp_path: Path, film: str, start_s: float, said: str):
    folder = write_features(tmp_path / "features", [60])
    with pytest.raises(InputError, match=said):
        clip_features([caption(film, start_s, 10.0)], folder)


def test_a_damaged_feature_file_is_named(tmp_path: Path):
    folder = write_features(tmp_path / "features", [60])
    data = (folder / "film_0.h5").read_bytes()
    (folder / "film_0.h5").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"captions\.csv:2: .*film_0\.h5"):
        clip_features([caption("film_0", 0.0, 1.0)], folder)


def test_features_of_another_width_are_told(tmp_path: Path):
    folder = write_features(tmp_path / "features", [60])
    write_features(tmp_path / "others", [60, 60], num_features=8)
    (tmp_path / "others" / "film_1.h5").rename(folder / "film_1.h5")
    with pytest.raises(InputError, match="another backbone"):
        clip_features([caption("film_0", 0.0, 1.0), caption("film_1", 0.0, 1.0)], folder)
