"""recognition.memorability as a user calls it, and the files it writes and evaluate.py reads."""

import functools
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import refusal, run_here

from recognition import memorability as command
from recognition.common.command_line import InputError
from recognition.common.files import sha256
from recognition.episodes.drawing import Episodes
from recognition.episodes.episode_spec import PROBE_KINDS, EpisodeSpec
from recognition.episodes.index_file import EpisodeIndex, read_index, write_index
from recognition.evaluation import memorability
from recognition.evaluation.memorability import MemorabilityNet, Scorer
from recognition.evaluation.memorability_file import read_probe_scores, read_scores
from recognition.features.backbone import torchvision
from recognition.features.feature_file import FeatureHeader, FeatureSpool, feature_files
from recognition.films.synthetic import write_films
from recognition.films.video import decode

NARROW = functools.partial(
    MemorabilityNet, semantic=torchvision.models.resnet18, channels=(4, 8, 6, 6, 4), widths=(16, 16, 8, 8, 8, 8)
)
NUM_FILMS, NUM_FRAMES = 3, 20
PROBES = np.array([[[0, 3], [1, 19], [0, 3], [2, 0]], [[0, 11], [1, 19], [1, 4], [0, 3]]])
KINDS = np.array([["old", "far", "mirrored", "near"], ["far", "old", "far", "old"]])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with films, their feature files and an index of two episodes. Read only."""
    folder = tmp_path_factory.mktemp("films")
    for film in write_films(folder / "videos", NUM_FILMS, 2, NUM_FRAMES // 2):
        made_by = "resnet18", "random:0", "0" * 64, "pyav", "float32", "float32"
        with FeatureSpool(folder / f"{film.stem}.h5", np.dtype("float32")) as spool:
            spool.append(np.ones((NUM_FRAMES, 1)), np.array([time_s for _, time_s in decode(film)]))
            spool.finish(FeatureHeader(film.stem, sha256(film), NUM_FRAMES, 10.0, 320, 180, *made_by))
    write_probes(folder / "test_indices.h5", PROBES, KINDS)
    return folder


def write_probes(path: Path, probes: np.ndarray, kinds: np.ndarray, digests: list[str] | None = None) -> None:
    """An index file of N episodes with these probes."""
    codes = np.vectorize(PROBE_KINDS.index)(kinds).astype(np.uint8)
    study = np.tile(np.array([[0, 0, 6]], np.int32), (len(probes), 1, 1))
    episodes = Episodes(study, probes.astype(np.int32), (codes == 0).astype(np.uint8), codes)
    films = [f"film_{k:03d}" for k in range(NUM_FILMS)]
    spec = EpisodeSpec(num_clips=1, clip_length=6, num_tests=probes.shape[1] // 2)
    write_index(EpisodeIndex(path, episodes, films, np.full(NUM_FILMS, NUM_FRAMES), spec, None, digests), {})


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "work")


@pytest.fixture
def score(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> Callable[..., tuple[int, str]]:
    """Call the script in this process, with a network of fewer layers and channels; gives status and what it said."""
    monkeypatch.setattr(memorability, "MemorabilityNet", NARROW)

    def call(*words: object, weights: object = "random:0") -> tuple[int, str]:
        given = f"--weights={weights}", f"--videos={folder}/videos", "--device=cpu"
        words = words or (folder / "test_indices.h5",)
        monkeypatch.setattr(sys, "argv", ["memorability.py", *given, *map(str, words)])
        status = command.main()
        told = capsys.readouterr()
        return status, told.out + told.err

    return call


def test_every_probe_gets_the_score_of_its_picture(score, folder: Path):
    status, told = score()
    assert status == 0
    assert "6 frames of 3 films are probed, 0 of them have a score" in told
    index = read_index(folder / "test_indices.h5")
    found = read_probe_scores(folder / "memorability", index.episodes, index.video_ids)
    assert not np.isnan(found.score).any()
    assert (found.weights, found.fit, found.has_learned) == ("random:0", "squeeze", False)
    scorer = Scorer("random:0", torch.device("cpu"))
    for (video, frame), kind, ours in zip(PROBES.reshape(-1, 2), KINDS.ravel(), found.score.ravel(), strict=True):
        place = np.array([frame]), np.array([int(kind == "mirrored")])
        [(expected, _)] = scorer.score_film(folder / f"videos/film_{video:03d}.mp4", *place, 4)
        assert ours == pytest.approx(expected[0], abs=1e-6)
    assert len(np.unique(found.score)) == 6


def test_features_beside_the_scores_are_still_the_only_feature_files(score, folder: Path):
    before = feature_files(folder)
    score()
    assert feature_files(folder) == before
    assert not list(folder.rglob("*.part"))


def test_frames_that_have_a_score_are_kept_and_others_added(score, folder: Path):
    write_probes(folder / "first.h5", PROBES[:1], KINDS[:1])
    score(folder / "first.h5")
    kept, _ = read_scores(folder / "memorability/film_000.h5")
    modified = (folder / "memorability/film_002.h5").stat().st_mtime_ns
    _, told = score(folder / "first.h5", folder / "test_indices.h5")
    assert "6 frames of 3 films are probed, 4 of them have a score" in told
    assert (folder / "memorability/film_002.h5").stat().st_mtime_ns == modified
    scores, _ = read_scores(folder / "memorability/film_000.h5")
    assert scores.frame.tolist() == [3, 3, 11]
    assert scores.alteration.tolist() == [0, 1, 0]
    assert scores.score[:2].tolist() == kept.score.tolist()


def test_weights_that_have_learned_nothing_are_called_so_and_others_carry_their_licence(score, folder: Path):
    _, told = score()
    assert "learned nothing" in told
    assert "licence" not in told
    torch.save(memorability.load_network("random:0")[0].state_dict(), folder / "model.pt")
    _, told = score(folder / "test_indices.h5", f"--output_dir={folder}/others", weights=folder / "model.pt")
    assert "learned nothing" not in told
    assert "non-commercial research" in told
    for name in ("film_000", "film_001", "film_002"):
        ours, made = (read_scores(folder / place / f"{name}.h5") for place in ("memorability", "others"))
        assert ours[0].score.tolist() == made[0].score.tolist()
        assert ours[1]["weights_sha256"] == made[1]["weights_sha256"]


def test_scores_made_another_way_are_not_mixed(score, folder: Path):
    score()
    words = folder / "test_indices.h5", "--fit=letterbox"
    with pytest.raises(InputError, match=r"made with fit squeeze, this run has letterbox.*--overwrite"):
        score(*words)
    with pytest.raises(InputError, match="made with weights random:0, this run has random:1"):
        score(weights="random:1")
    before, _ = read_scores(folder / "memorability/film_000.h5")
    assert score(*words, "--overwrite")[0] == 0
    scores, settings = read_scores(folder / "memorability/film_000.h5")
    assert settings["fit"] == "letterbox"
    assert len(scores.score) == len(before.score)
    assert (scores.score != before.score).all()
    shutil.copy(folder / "memorability/film_001.h5", folder / "kept.h5")
    score(folder / "test_indices.h5", "--overwrite")
    shutil.copy(folder / "kept.h5", folder / "memorability/film_001.h5")
    index = read_index(folder / "test_indices.h5")
    with pytest.raises(InputError, match="made with other weights, another fit or other pictures"):
        read_probe_scores(folder / "memorability", index.episodes, index.video_ids)


def test_scores_of_pictures_made_another_way_are_not_added_to(score, folder: Path):
    score()
    path = folder / "memorability/film_000.h5"
    with h5py.File(path, "a") as file:
        del file.attrs["pictures"]  # as in files of earlier versions
    index = read_index(folder / "test_indices.h5")
    with pytest.raises(InputError, match=r"film_000\.h5 was made with pictures none, this run has pyav .*--overwrite"):
        score()
    with pytest.raises(InputError, match=r"or other pictures; run python -m recognition\.memorability"):
        read_probe_scores(folder / "memorability", index.episodes, index.video_ids)


def test_activations_of_a_layer_are_kept_beside_the_scores(score, folder: Path):
    score(folder / "test_indices.h5", "--layer=features.layer3.0.conv2", "--batch_size=2")
    scores, settings = read_scores(folder / "memorability/film_000.h5")
    assert settings["layer"] == "features.layer3.0.conv2"
    assert scores.activations.shape == (3, 256)
    scorer = Scorer("random:0", torch.device("cpu"), layer=settings["layer"])
    [(_, expected)] = scorer.score_film(folder / "videos/film_000.mp4", scores.frame, scores.alteration, 9)
    np.testing.assert_allclose(scores.activations, expected, rtol=1e-4, atol=1e-6)


def test_films_that_are_missing_damaged_or_others_are_named_and_the_rest_scored(score, folder: Path):
    (folder / "videos/film_000.mp4").unlink()
    shutil.copy(folder / "videos/film_002.mp4", folder / "videos/film_001.mp4")
    status, told = score()
    assert status == 1
    assert "film_000: no such film in" in told
    assert "film_001.mp4 is not the film that was preprocessed" in told
    assert "Without scores, named above: 2" in told
    index = read_index(folder / "test_indices.h5")
    found = read_probe_scores(folder / "memorability", index.episodes, index.video_ids)
    assert (np.isnan(found.score) == (PROBES[..., 0] < 2)).all()
    (folder / "film_002.h5").unlink()
    film = folder / "videos/film_002.mp4"
    film.write_bytes(film.read_bytes()[:4000])
    status, told = score(folder / "test_indices.h5", "--overwrite")
    assert "Without scores, named above: 3" in told


def test_films_and_scores_that_cannot_be_read_are_named_and_kept_and_the_rest_scored(score, folder: Path):
    film, kept = folder / "videos/film_000.mp4", folder / "memorability/film_001.h5"
    kept.parent.mkdir()
    film.unlink()
    for link in (film, kept):
        link.symlink_to("nowhere")
    status, told = score()
    assert status == 1
    assert f"{film}: a link that leads nowhere" in told
    assert f"{kept}: a link that leads nowhere" in told
    assert "scores of 1 films" in told
    assert kept.is_symlink()


def test_probes_without_any_score_have_none(score, folder: Path):
    index = read_index(folder / "test_indices.h5")
    assert read_probe_scores(folder / "memorability", index.episodes, index.video_ids) is None
    write_probes(folder / "other.h5", PROBES + np.array([0, 1]) * (PROBES[..., 1:] < 19), np.full((2, 4), "far"))
    score(folder / "other.h5")
    found = read_probe_scores(folder / "memorability", index.episodes, index.video_ids)
    assert (~np.isnan(found.score) == ((PROBES == [1, 19]).all(-1))).all()


def test_damaged_file_of_scores_is_refused(score, folder: Path):
    score()
    (folder / "memorability/film_001.h5").write_bytes(b"junk")
    index = read_index(folder / "test_indices.h5")
    with pytest.raises(InputError, match=r"film_001\.h5: not a file of memorability"):
        read_probe_scores(folder / "memorability", index.episodes, index.video_ids)
    with pytest.raises(InputError, match="remove it"):
        score()


def test_bad_input_is_refused_before_anything_is_written(score, folder: Path):
    assert "absent.h5: no such index file" in refusal(
        run_here("recognition.memorability", "absent.h5", "--weights=random:0", cwd=folder)
    )
    for words, weights, message in (
        ((), "absent.pt", "--weights absent.pt: no such file"),
        (("--layer=conv9",), "random:0", "--layer conv9: not a convolution"),
        (("--videos=absent",), "random:0", "absent: no such folder"),
    ):
        with pytest.raises(InputError, match=message):
            score(folder / "test_indices.h5", *words, weights=weights)
    assert not (folder / "memorability").exists()


def test_index_that_was_moved_alone_needs_to_be_told_where_its_features_are(score: Callable, folder: Path):
    (folder / "elsewhere").mkdir()
    write_probes(folder / "elsewhere/test_indices.h5", PROBES, KINDS, ["0"] * NUM_FILMS)
    with pytest.raises(InputError, match=r"--features .*elsewhere: holds no features of the films of .*; name their"):
        score(folder / "elsewhere/test_indices.h5")
    assert score(folder / "elsewhere/test_indices.h5", f"--features={folder}")[0] == 0
    assert len(list((folder / "memorability").iterdir())) == NUM_FILMS
