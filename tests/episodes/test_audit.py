"""The leakage audit: what is planted is found and counted, and nothing is found where nothing is."""

import itertools
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import h5py
import numpy as np
import pytest
import torch
from conftest import write_features

from recognition.common.command_line import InputError
from recognition.episodes.audit import (
    COMMON_FILMS,
    DENSER,
    _highest_cosines,
    audit,
    audit_episodes,
    audit_films,
    audit_lines,
    films_of,
)
from recognition.episodes.dataset import EpisodeDataset
from recognition.episodes.drawing import Episodes, draw_episodes
from recognition.episodes.episode_spec import PROBE_KINDS, EpisodeSpec
from recognition.episodes.index_file import EpisodeIndex, read_index, write_index
from recognition.features.backbone import Backbone
from recognition.features.extraction import Storage, extract
from recognition.features.feature_bank import FeatureBank
from recognition.features.feature_file import FeatureHeader, FeatureSpool
from recognition.films.synthetic import write_films
from recognition.films.video import decode
from recognition.training.config import DatasetConfig
from recognition.training.data import open_split

LENGTHS = np.array([160, 167, 180, 190])
NONE_FOUND = {"count": 0, "entries": []}


def write_film(folder: Path, name: str, features: np.ndarray, video_sha256: str = "") -> None:
    """A feature file of given features (frames, D), of a video file of its own unless its hash is given."""
    folder.mkdir(exist_ok=True)
    rest = (30.0, 64, 48, "resnet18", "random:0", "0" * 64, "pyav", "float32", "float32")
    with FeatureSpool(folder / f"{name}.h5", np.dtype("float32")) as spool:
        spool.append(features, np.arange(len(features)) / 30)
        spool.finish(FeatureHeader(name, video_sha256 or name, len(features), *rest))


def made_up(seed: int, num_frames: int = 160) -> np.ndarray:
    """Features of a film that resembles no other."""
    return np.random.default_rng((3, seed)).normal(1, 1, (num_frames, 24)).astype(np.float32)


def evenly(num_frames: int, num: int) -> list[int]:
    """Places of `num` frames in the middle of equal parts of a film."""
    return [int((k + 0.5) * num_frames / num) for k in range(num)]


def entries_of(finding: dict) -> list[tuple]:
    return [(tuple(entry["films"]), tuple(entry["splits"]), entry["reason"]) for entry in finding["entries"]]


def test_nothing_is_found_between_films_that_share_nothing(tmp_path):
    write_features(tmp_path, [60 + 7 * k for k in range(12)])
    films = {
        "train": [f"film_{k}" for k in range(7)],
        "validation": ["film_7", "film_8"],
        "test": ["film_9", "film_11"],
    }
    found = audit_films(tmp_path, films)
    assert found["num_films"] == {"train": 7, "validation": 2, "test": 2}
    assert found["shared_films"] == found["common_frames"] == NONE_FOUND
    assert found["shared_files"] == {**NONE_FOUND, "num_without_hash": 0}
    assert found["near_duplicates"] == {**NONE_FOUND, "num_copies": 0}
    assert found["highest_cosine"] < 0.98
    no_film, no_file, no_frame = audit_lines({"films": found})
    assert no_film == "no film is in two splits (7 train, 2 validation, 2 test)"
    assert no_file == "no video file is in two splits under two names"
    assert no_frame.startswith("no two films of two splits have frames alike")


def test_films_in_two_splits_are_named(tmp_path):
    write_features(tmp_path, [60] * 4)
    films = {"train": ["film_0", "film_1", "film_2"], "validation": ["film_1"], "test": ["film_3", "film_2", "film_1"]}
    found = audit_films(tmp_path, films)
    assert found["shared_films"]["count"] == 4
    assert [(entry["films"], entry["splits"]) for entry in found["shared_films"]["entries"]] == [
        (["film_1"], ["train", "validation"]),
        (["film_1"], ["train", "test"]),
        (["film_2"], ["train", "test"]),
        (["film_1"], ["validation", "test"]),
    ]
    assert found["near_duplicates"]["count"] == 0  # what is told once is not told again
    assert audit_lines({"films": found})[0] == (
        "films in two splits: 4: film_1 (train and validation; one film in both), film_1 (train and test; one film in "
        "both), film_2 (train and test; one film in both), 1 more"
    )


def test_one_video_file_under_two_names_is_found_by_its_hash(tmp_path):
    for k, digest in enumerate(["same", "a", "same", "b", "same"]):
        write_film(tmp_path, f"film_{k}", made_up(0 if digest == "same" else k), digest)
    films = {"train": ["film_0", "film_1"], "test": ["film_2", "film_3", "film_4"]}
    found = audit_films(tmp_path, films)
    words = ("train", "test"), "one video file, two names"
    assert entries_of(found["shared_files"]) == [(("film_0", other), *words) for other in ("film_2", "film_4")]
    assert (found["shared_files"]["count"], found["near_duplicates"]["count"]) == (2, 0)
    assert audit_lines({"films": found})[1].startswith(
        "video files in two splits under two names: 2: film_0 and film_2"
    )


def test_films_that_the_backbone_has_learned_from_are_named_outside_of_training(tmp_path):
    write_features(tmp_path, [60] * 5)
    for k in (0, 2, 4):
        with h5py.File(tmp_path / f"film_{k}.h5", "r+") as file:
            file.attrs["seen_by_backbone"] = True
    films = {"train": ["film_0", "film_1"], "validation": ["film_2"], "test": ["film_3", "film_4"]}
    found = audit_films(tmp_path, films)
    words = "the backbone has learned from it"
    assert entries_of(found["seen_films"]) == [(("film_2",), ("validation",), words), (("film_4",), ("test",), words)]
    assert audit_lines({"films": found})[-1] == (
        "films from which the backbone has learned: 2: film_2 (validation; the backbone has learned from it), "
        "film_4 (test; the backbone has learned from it)"
    )
    del found["seen_films"]  # as older results have it
    assert "learned" not in audit_lines({"films": found})[-1]


def test_two_copies_in_one_split_are_no_leak(tmp_path):
    for k, seed in enumerate([0, 0, 1]):
        write_film(tmp_path, f"film_{k}", made_up(seed), "same" if seed == 0 else "other")
    found = audit_films(tmp_path, {"train": ["film_0", "film_1"], "test": ["film_2"]})
    assert found["shared_files"]["count"] == found["near_duplicates"]["count"] == 0


def encode_again(source: Path, path: Path, scale: float, crf: int, skipped: int = 0) -> None:
    """Copy a film without its first frames, smaller and coarser."""
    images = [image for image, _ in decode(source)][skipped:]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=2, options={"crf": str(crf)})
        stream.time_base, stream.pix_fmt = Fraction(1, 2), "yuv420p"
        stream.height, stream.width = (round(scale * size) for size in images[0].shape[:2])
        for image in images:
            small = cv2.resize(image, (stream.width, stream.height), interpolation=cv2.INTER_AREA)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(small)))
        container.mux(stream.encode())


def test_films_encoded_again_or_cut_are_found_among_others(tmp_path):
    """Real films through a real network, untrained as in the demo."""
    films = list(write_films(tmp_path, 4, duration_s=10, fps=2))
    encode_again(films[0], tmp_path / "half.mp4", 0.5, 33)
    encode_again(films[1], tmp_path / "short.mp4", 1, 28, skipped=5)
    network = Backbone("resnet18", "random:0", torch.device("cpu"))
    list(extract(sorted(tmp_path.glob("*.mp4")), tmp_path, network, Storage(), batch_size=16, workers=0))
    names = [path.stem for path in films]
    found = audit_films(tmp_path, {"train": names[:3], "test": [*names[3:], "half", "short"]})
    pairs = {tuple(entry["films"]) for entry in found["near_duplicates"]["entries"]}
    assert pairs == {(names[0], "half"), (names[1], "short")}
    assert found["near_duplicates"]["num_copies"] == 2
    assert found["shared_films"]["count"] == found["shared_files"]["count"] == 0


def test_frames_alike_are_counted_as_a_plain_loop_does(tmp_path):
    rng = np.random.default_rng(0)
    films = {"train": ["a", "b", "c"], "validation": ["d", "e"], "test": ["f", "g", "h"]}
    features = {name: made_up(k, 61 + 30 * k)[np.arange(61 + 30 * k) // 9] for k, name in enumerate("abcdefgh")}
    for copy, source in (("d", "a"), ("f", "a"), ("g", "e"), ("h", "c")):  # borrowed stretches, not quite the same
        stretch = features[source][10:60]
        features[copy][20:70] = stretch + rng.normal(0, 0.15, stretch.shape)
    for name, values in features.items():
        write_film(tmp_path, name, values)
    found = audit_films(tmp_path, films, frames_per_film=7, threshold=0.95)

    unit = {name: values / np.linalg.norm(values, axis=1, keepdims=True) for name, values in features.items()}
    reference = np.concatenate([unit[name][evenly(len(unit[name]), 7)] for name in films["train"]])
    expected, highest = [], []
    for split, other_split in (("train", "validation"), ("train", "test"), ("validation", "test")):
        for name in films[split]:
            for other in films[other_split]:
                cosines = []
                for k in evenly(len(unit[name]), 7):
                    frame = (unit[name][k] - reference.mean(0)) / reference.std(0)
                    those = [unit[other][j] for j in evenly(len(unit[other]), 7 * DENSER)]
                    those = [(that - reference.mean(0)) / reference.std(0) for that in those]
                    cosines.append(max(frame @ x / np.linalg.norm(frame) / np.linalg.norm(x) for x in those))
                highest.append(max(cosines))
                if number := sum(cosine >= 0.95 for cosine in cosines):
                    reason = f"{number} of 7 frames alike, cosine up to {max(cosines):.3f}"
                    expected.append((-number, (name, other), (split, other_split), reason))
    assert len(expected) >= 4
    assert entries_of(found["near_duplicates"]) == [entry[1:] for entry in sorted(expected)]
    assert found["near_duplicates"]["num_copies"] == sum(-entry[0] >= 7 / 8 for entry in expected)
    assert found["highest_cosine"] == pytest.approx(max(highest), abs=1e-4)


def test_frames_looked_for_are_among_those_looked_through():
    for num_frames in (20, 61, 504, 15_000):
        assert evenly(num_frames, 32 * DENSER)[DENSER // 2 :: DENSER] == evenly(num_frames, 32)


def test_black_frames_of_many_films_are_told_apart_from_copies(tmp_path):
    black, card = np.random.default_rng(0).normal(1, 1, (2, 24))
    for k in range(3 + COMMON_FILMS):
        features = made_up(k)
        if k != 1:
            features[:40] = black  # a quarter of every film but one
        if k in (1, 4):
            features[-10:] = card
        write_film(tmp_path, f"film_{k}", features)
    names = [f"film_{k}" for k in range(3 + COMMON_FILMS)]
    found = audit_films(tmp_path, {"train": names[:3], "test": names[3:]})
    reason = f"8 of 32 frames are in {COMMON_FILMS} or more test films too"
    assert entries_of(found["common_frames"]) == [((name,), ("train", "test"), reason) for name in ("film_0", "film_2")]
    [(films, _, reason)] = entries_of(found["near_duplicates"])
    assert films == ("film_1", "film_4")
    assert reason.startswith("2 of 32 frames alike")
    assert found["near_duplicates"]["num_copies"] == 0
    assert any("black ones or title cards: 2: film_0" in line for line in audit_lines({"films": found}))


def test_more_findings_are_counted_than_listed(tmp_path):
    write_features(tmp_path, [20] * 105)
    names = [f"film_{k}" for k in range(105)]
    found = audit_films(tmp_path, {"train": names, "test": names[::-1]}, frames_per_film=2)
    assert (found["shared_films"]["count"], len(found["shared_films"]["entries"])) == (105, 100)
    assert "102 more" in audit_lines({"films": found})[0]


def test_published_features_are_compared_without_hashes(tmp_path):
    for k, seed in enumerate([0, 1, 0]):
        torch.save(torch.from_numpy(made_up(seed)), tmp_path / f"film_{k}.pt")
    found = audit_films(tmp_path, {"train": ["film_0", "film_1"], "test": ["film_2"]})
    assert found["shared_files"] == {**NONE_FOUND, "num_without_hash": 3}
    assert entries_of(found["near_duplicates"])[0][0] == ("film_0", "film_2")
    assert audit_lines({"films": found})[1].endswith("3 films do not say theirs")


def test_films_that_cannot_be_compared_are_refused(tmp_path):
    write_features(tmp_path, [30] * 2)
    films = {"train": ["film_0"], "test": ["film_1", "film_2"]}
    with pytest.raises(InputError, match=r"film_2\.h5: no such feature file"):
        audit_films(tmp_path, films)
    (tmp_path / "film_2.h5").write_text("no features")
    with pytest.raises(InputError, match="run preprocess_videos"):
        audit_films(tmp_path, films)
    write_film(tmp_path, "film_2", made_up(0))
    for names in (["film_1", "film_2"], ["film_2"]):
        with pytest.raises(InputError, match="differ in number"):
            audit_films(tmp_path, {"train": ["film_0"], "test": names})


def test_a_thousand_films_are_compared_within_a_minute():
    """Time grows with the pairs of films of different splits: 4,096 here, 290,051 of 1,072 films split 65 : 10 : 25."""
    frames, others = torch.randn(64, 32, 512), torch.randn(64, 32 * DENSER, 512)
    times = []
    for _ in range(3):
        begin = time.process_time()
        _highest_cosines(frames, others)
        times.append(time.process_time() - begin)
    assert min(times) * (697 * 107 + 697 * 268 + 107 * 268) / 64**2 < 60


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., EpisodeDataset]:
    """Draw 13 episodes of 6 clips of 20 frames and 14 probes from four films."""

    def make(folder: str = "bank", **spec) -> EpisodeDataset:
        spec = EpisodeSpec(6, 20, 4, 7, 2, **{"alter_every": 3, **spec})
        ids = write_features(tmp_path / folder, LENGTHS, alter_every=3) and [f"film_{k}" for k in range(4)]
        episodes = draw_episodes(LENGTHS, spec, 13, (0,))
        write_index(EpisodeIndex(tmp_path / folder / "indices.h5", episodes, ids, LENGTHS, spec), {})
        bank = FeatureBank(tmp_path / folder, ids, alterations=("mirrored", "cropped", "brightened"))
        return EpisodeDataset(read_index(tmp_path / folder / "indices.h5"), bank, 2)

    return make


KINDS = {"new_probes": "far,near,other_film,mirrored,cropped,brightened"}


@pytest.mark.parametrize("spec", [{}, {"old_probes": "presented"}, {"probe_lags": "balanced"}], ids=str)
def test_drawn_episodes_keep_their_promise(make_dataset, spec):
    found = audit_episodes(make_dataset(**spec), num_nearest=0)
    assert found["findings"] == NONE_FOUND
    assert (found["num_episodes"], found["num_probes"], found["nearest"]) == (13, 13 * 14, None)
    assert audit_lines({"episodes": {"test": found}}) == [
        "test: no clips overlap, old probes lie in studied clips and new ones do not, in 13 episodes"
    ]


def test_altered_probes_lie_in_clips_by_design(make_dataset):
    dataset = make_dataset(new_probes="mirrored,cropped,brightened")
    found = audit_episodes(dataset)
    assert found["findings"] == NONE_FOUND
    assert found["nearest"]["num_new"] == 0  # an altered frame is near to its own
    assert found["nearest"]["share_above_median"] is None
    assert len(audit_lines({"episodes": {"test": found}})) == 1


def spoilt(dataset: EpisodeDataset) -> EpisodeDataset:
    """The same with some clips shifted onto others and some probes moved."""
    rng = np.random.default_rng(1)
    study, probes, is_old, kind = (field.copy() for field in dataset.episodes)
    for n in (2, 5, 6):
        study[n, :3] = study[n, 3] + [[0, 5, 5], [0, 0, 0], [0, -7, -7]]
    study[..., 1:] -= np.minimum(study[..., 1:2], 0)
    moved = rng.random(is_old.shape) < 0.3
    probes[moved, 0] = rng.integers(0, 4, moved.sum())
    probes[moved, 1] = rng.integers(0, 160, moved.sum())
    return EpisodeDataset(replace(dataset.index, episodes=Episodes(study, probes, is_old, kind)), dataset.bank, 2)


def test_broken_promises_are_counted_as_plain_loops_do(make_dataset):
    dataset = spoilt(make_dataset(new_probes="far,mirrored,cropped"))
    found = audit_episodes(dataset, num_nearest=0)
    expected: Counter[str] = Counter()
    episodes_of: dict[str, set[int]] = {}
    for n, (study, probes, is_old, kind) in enumerate(zip(*dataset.episodes, strict=True)):
        clips = sorted(map(tuple, study))
        faults = [
            "num_overlapping_clips"
            for (film, _, end), (next_film, start, _) in itertools.pairwise(clips)
            if film == next_film and start < end
        ]
        for (film, frame), old, code in zip(probes, is_old, kind, strict=True):
            inside = any(film == other and start <= frame < end for other, start, end in study)
            if old and not inside:
                faults.append("num_old_outside")
            elif PROBE_KINDS[code] in ("mirrored", "cropped", "brightened") and not inside:
                faults.append("num_altered_outside")
            elif PROBE_KINDS[code] == "far" and inside:
                faults.append("num_new_inside")
        expected.update(faults)
        for fault in faults:
            episodes_of.setdefault(fault, set()).add(n)
    assert len(expected) == 4
    assert {fault: found[fault] for fault in expected} == expected
    assert found["findings"]["count"] == len(found["findings"]["entries"]) == sum(expected.values())
    reasons = {
        "num_overlapping_clips": "study clips that overlap another",
        "num_old_outside": "old probes in no studied clip",
        "num_altered_outside": "altered probes in no studied clip",
        "num_new_inside": "new probes in a studied clip",
    }
    for fault, reason in reasons.items():
        entries = [entry for entry in found["findings"]["entries"] if entry["reason"] == reason]
        assert len(entries) == expected[fault]
        assert {entry["episode"] for entry in entries} == episodes_of[fault]
        assert any(
            line.startswith(f"test: {reason}: {expected[fault]} in 13 episodes: {entries[0]['films'][0]} in episode ")
            for line in audit_lines({"episodes": {"test": found}})
        )


def test_nearness_of_new_probes_is_counted_as_plain_loops_do(make_dataset):
    dataset = make_dataset(**KINDS)
    found = audit_episodes(dataset, num_nearest=9)["nearest"]
    features = dataset[np.arange(9)].features.double().numpy()
    num_study, expected = dataset.num_study_frames, Counter()
    films: Counter[str] = Counter()
    for n in range(9):
        unit = features[n] / np.linalg.norm(features[n], axis=1, keepdims=True)
        nearest = (unit[num_study:] @ unit[:num_study].T).max(1)
        old = [nearest[p] for p in range(14) if dataset.episodes.is_old[n, p]]
        for p in range(14):
            if PROBE_KINDS[dataset.episodes.kind[n, p]] in ("far", "near", "other_film"):
                expected["num_new"] += 1
                expected["num_above_median"] += nearest[p] > np.median(old)
                expected["num_above_lowest"] += nearest[p] > min(old)
                if nearest[p] > np.median(old):
                    films[f"film_{dataset.episodes.probes[n, p, 0]}"] += 1
    assert expected["num_above_lowest"] > expected["num_above_median"]
    assert {name: found[name] for name in expected} == expected
    assert found["num_episodes"] == 9
    assert found["share_above_lowest"] == pytest.approx(expected["num_above_lowest"] / expected["num_new"])
    assert {entry["film"]: entry["num_above_median"] for entry in found["films"]} == films


def test_new_probes_of_a_film_that_never_changes_are_noticed(make_dataset):
    dataset = make_dataset()
    features = np.random.default_rng(0).normal(size=(LENGTHS.sum(), 16)).cumsum(0)  # every film changes slowly
    features[160 : 160 + 167] = features[160]  # but the second
    dataset.bank._flat[: LENGTHS.sum()] = torch.from_numpy(features)
    found = audit_episodes(dataset)
    films = [entry["film"] for entry in found["nearest"]["films"]]
    numbers = [entry["num_above_median"] for entry in found["nearest"]["films"]]
    assert films[0] == "film_1"
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[0] > found["nearest"]["num_above_median"] / 2
    [_, line] = audit_lines({"episodes": {"test": found}})
    assert f"of {found['nearest']['num_new']} new probes are nearer to a studied frame" in line
    assert f"most of them of film_1 ({numbers[0]})" in line


def test_audit_of_clean_splits_finds_nothing_and_can_be_kept_as_json(small_bank):
    config = DatasetConfig(
        train_indices_file=f"{small_bank}/train_indices.h5",
        test_indices_file=f"{small_bank}/test_indices.h5",
        video_path=str(small_bank),
    )
    result = audit(*(open_split(config, split) for split in ("train", "validation", "test")), small_bank)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert {split: found["findings"]["count"] for split, found in result["episodes"].items()} == {
        "train": 0,
        "validation": 0,
        "test": 0,
    }
    assert sum(result["films"]["num_films"].values()) == 12
    assert [result["episodes"][split]["nearest"] is None for split in ("train", "validation", "test")] == [1, 1, 0]
    assert len(audit_lines(result)) == 3 + 3 + 1


def test_films_of_a_published_index_are_those_that_episodes_use(make_dataset):
    dataset = make_dataset()
    assert films_of(dataset) == ["film_0", "film_1", "film_2", "film_3"]
    study, probes, is_old, kind = (field[:1].copy() for field in dataset.episodes)
    study[..., 0], probes[..., 0] = 2, 1
    index = replace(dataset.index, episodes=Episodes(study, probes, is_old, kind), spec=None)
    assert films_of(EpisodeDataset(index, dataset.bank, 2)) == ["film_1", "film_2"]
