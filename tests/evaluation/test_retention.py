"""Tables of answers by lag, place and kind: against plain loops, and on answers made to fail somewhere."""

from pathlib import Path

import numpy as np
import pytest
from conftest import write_features

from recognition.episodes.dataset import EpisodeDataset
from recognition.episodes.drawing import EpisodeSpec, draw_episodes
from recognition.episodes.index_file import EpisodeIndex, read_index, write_index
from recognition.evaluation.retention import _groups, _places, lags, retention, studied_at
from recognition.evaluation.signal_detection import d_prime, resample_episodes
from recognition.features.feature_bank import FeatureBank

LENGTHS = np.array([90, 97, 110, 131])
FPS = np.array([30.0, 24.0, 12.5, 25.0])


def dataset_of(
    folder: Path, num_clips: int = 3, subsample: int = 2, repeat_test: int = 1, new_probes: str = "far", num: int = 11
) -> EpisodeDataset:
    spec = EpisodeSpec(num_clips, 9, 4, 4, subsample, "any", new_probes)
    write_features(folder, LENGTHS)
    ids = [f"film_{k}" for k in range(len(LENGTHS))]
    write_index(EpisodeIndex(folder / "indices.h5", draw_episodes(LENGTHS, spec, num, (3,)), ids, LENGTHS, spec), {})
    return EpisodeDataset(read_index(folder / "indices.h5"), FeatureBank(folder, ids), subsample, repeat_test)


def presented(dataset: EpisodeDataset, number: int) -> list[tuple[int, int]]:
    """The frames of an episode [video, frame] one after the other, probes included, each as often as it is shown."""
    frames = [
        (video, frame)
        for video, start, end in dataset.episodes.study[number].tolist()
        for frame in range(start, end, dataset.subsample)
    ]
    for video, frame in dataset.episodes.probes[number].tolist():
        frames += [(video, frame)] * dataset.repeat_test
    return frames


@pytest.mark.parametrize("repeat_test", [1, 3])
@pytest.mark.parametrize("subsample", [1, 2, 4])
def test_lag_counts_what_is_shown_from_the_nearest_study_frame_to_the_probe(tmp_path, subsample, repeat_test):
    dataset = dataset_of(tmp_path, subsample=subsample, repeat_test=repeat_test)
    found, found_s = lags(dataset, *studied_at(dataset), FPS)
    num_study = dataset.num_study_frames
    for number in range(len(dataset)):
        frames = presented(dataset, number)
        for probe in np.flatnonzero(dataset.episodes.is_old[number]):
            video, frame = dataset.episodes.probes[number, probe]
            [end] = [e for v, s, e in dataset.episodes.study[number] if v == video and s <= frame < e]
            same = [k for k in range(num_study) if frames[k][0] == video and end - 9 <= frames[k][1] < end]
            nearest = min(same, key=lambda k: abs(frames[k][1] - frame))  # the first of equals
            place = num_study + probe * repeat_test
            assert found[number, probe] == place - nearest
            seconds = sum(subsample / FPS[video] for video, _ in frames[nearest:place])
            assert found_s[number, probe] == pytest.approx(seconds)


def test_frame_just_before_its_probe_has_lag_one(tmp_path):
    dataset = dataset_of(tmp_path)
    last = dataset.num_study_frames // 3 - 1
    lag, lag_s = lags(dataset, np.full((11, 8), 2), np.full((11, 8), last))
    assert lag[:, 0].tolist() == [1] * 11
    assert lag_s is None


def test_tables_hold_what_plain_counts_give(tmp_path):
    dataset = dataset_of(tmp_path, num_clips=2)
    answer = np.random.default_rng(0).normal(size=(11, 8))
    tables = retention(dataset, answer, resample_episodes(11, 50))
    is_old, says_old = dataset.episodes.is_old == 1, answer > 0
    false_alarms, num_new = int((says_old & ~is_old).sum()), int((~is_old).sum())
    clip, frame = studied_at(dataset)
    lag, _ = lags(dataset, clip, frame)

    assert sum(row["num_probes"] for row in tables["by_lag"]) == is_old.sum()
    for row in tables["by_lag"]:
        inside = is_old & (lag >= row["lag_frames_from"]) & (lag <= row["lag_frames_to"])
        hits, num_old = int((says_old & inside).sum()), int(inside.sum())
        assert row["num_probes"] == num_old
        assert row["lag_frames_to"] == 2 * row["lag_frames_from"] - 1
        assert row["hit_rate"] == pytest.approx(hits / num_old)
        assert row["d_prime"] == pytest.approx(d_prime(hits, num_old - hits, false_alarms, num_new - false_alarms))
        assert row["lag_s"] is None
    for place, row in enumerate(tables["by_serial_position"]):
        inside = is_old & (clip == place)
        assert (row["position"], row["position_from"], row["position_to"]) == (place + 1,) * 3
        assert row["hit_rate"] == pytest.approx(says_old[inside].mean())
    for place, row in enumerate(tables["by_probe_order"]):
        assert row["position"] == place + 1
        assert row["hit_rate"] == pytest.approx(says_old[:, place][is_old[:, place]].mean())
        assert row["false_alarm_rate"] == pytest.approx(says_old[:, place][~is_old[:, place]].mean())
    assert [row["kind"] for row in tables["by_kind"]] == ["old", "far"]
    assert tables["by_kind"][0]["says_old"] == pytest.approx(says_old[is_old].mean())
    assert tables["by_kind"][0]["d_prime"] is None
    assert tables["by_kind"][1]["says_old"] == pytest.approx(says_old[~is_old].mean())


def test_lure_that_fools_the_model_stands_out_among_the_kinds(tmp_path):
    dataset = dataset_of(tmp_path, new_probes="far,near")
    kind = dataset.episodes.kind
    answer = np.where((kind == 0) | (kind == 2), 1.0, -1.0)
    rows = {row["kind"]: row for row in retention(dataset, answer, resample_episodes(11))["by_kind"]}
    assert list(rows) == ["old", "far", "near"]
    assert [rows[name]["says_old"] for name in rows] == [1, 0, 1]
    low, high = rows["near"]["says_old_interval"]
    assert low < 0.8  # eleven episodes are few
    assert high == 1
    assert rows["far"]["d_prime"] > 3
    assert abs(rows["near"]["d_prime"]) < 0.5
    assert rows["far"]["num_probes"] == rows["near"]["num_probes"] == 22


def test_forgetting_shows_in_lag_and_in_serial_position(tmp_path):
    """A model that keeps the last clip alone."""
    dataset = dataset_of(tmp_path)
    clip, _ = studied_at(dataset)
    answer = np.where((dataset.episodes.is_old == 1) & (clip == 2), 1.0, -1.0)
    tables = retention(dataset, answer, resample_episodes(11), FPS)
    assert [row["hit_rate"] for row in tables["by_serial_position"]] == [0, 0, 1]
    rates = [row["hit_rate"] for row in tables["by_lag"]]
    assert rates == sorted(rates, reverse=True)
    seconds = [row["lag_s"] for row in tables["by_lag"]]
    assert seconds == sorted(seconds)


@pytest.mark.parametrize("num_places", [1, 3, 10, 13, 90, 180])
def test_places_fall_into_at_most_ten_groups_of_nearly_one_size(num_places):
    group = _groups(np.arange(num_places), num_places)
    sizes = np.bincount(group)
    assert len(sizes) == min(num_places, 10)
    assert sizes.max() - sizes.min() <= 1
    places = [_places(number, num_places) for number in range(len(sizes))]
    assert [row["position_to"] - row["position_from"] + 1 for row in places] == sizes.tolist()
    assert places[0]["position_from"] == 1
    assert places[-1]["position_to"] == num_places


def test_blocks_of_episodes_make_no_difference(tmp_path, monkeypatch):
    dataset = dataset_of(tmp_path)
    whole = studied_at(dataset)
    monkeypatch.setattr("recognition.evaluation.retention.EPISODES_A_BLOCK", 4)
    np.testing.assert_array_equal(studied_at(dataset), whole)
