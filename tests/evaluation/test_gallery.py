"""The gallery: the surest answers of each outcome, with the pictures they were given to."""

import base64
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from colour_films import FILMS, NUM_FRAMES, colour_of, write_colour_films

from recognition.common.command_line import InputError
from recognition.episodes.dataset import EpisodeDataset
from recognition.episodes.drawing import draw_episodes, study_frames
from recognition.episodes.episode_spec import PROBE_KINDS, EpisodeSpec
from recognition.episodes.index_file import EpisodeIndex, read_index, write_index
from recognition.episodes.rendering import Films
from recognition.evaluation import gallery as module
from recognition.evaluation.gallery import OUTCOMES, gallery
from recognition.features.feature_bank import FeatureBank
from recognition.features.feature_file import FeatureHeader, FeatureSpool, read_header
from recognition.films.video import decode

IDS = [Path(name).stem for name, *_ in FILMS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three films whose colours tell the frame, made-up features of them and an index of 11 episodes. Read only."""
    folder = tmp_path_factory.mktemp("gallery")
    write_colour_films(folder)
    for number, (name, *_) in enumerate(FILMS):
        path = (folder / name).with_suffix(".h5")
        header = FeatureHeader(**{**vars(read_header(path)), "alter_every": 3})
        rng = np.random.default_rng(number)
        with FeatureSpool(path, np.dtype("float32")) as spool:
            times = np.array([time_s for _, time_s in decode(folder / name)])
            spool.append(rng.normal(size=(NUM_FRAMES, 8)), times, rng.normal(size=(NUM_FRAMES // 3, 3, 8)))
            spool.finish(header)
    spec = EpisodeSpec(2, 6, 2, 4, 2, "any", "far,other_film,mirrored,brightened", alter_every=3)
    lengths = np.full(3, NUM_FRAMES)
    write_index(EpisodeIndex(folder / "indices.h5", draw_episodes(lengths, spec, 11, (0,)), IDS, lengths, spec), {})
    return folder


@pytest.fixture
def dataset(folder: Path) -> EpisodeDataset:
    bank = FeatureBank(folder, IDS, alterations=("mirrored", "cropped", "brightened"))
    return EpisodeDataset(read_index(folder / "indices.h5"), bank, 2)


@pytest.fixture
def answers() -> np.ndarray:
    return np.random.default_rng(5).normal(size=(11, 8)).astype(np.float32)


def read_picture(uri: str) -> np.ndarray:
    """A data URI as (H, W, 3) RGB."""
    kind, data = uri.split(",")
    assert kind == "data:image/jpeg;base64"
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB).astype(int)


def place(words: str) -> tuple[int, int]:
    """Film and frame from the words "red, frame 12"."""
    film, _, frame = words.partition(", frame ")
    return IDS.index(film), int(frame)


@pytest.mark.parametrize("num_each", [1, 3, 20])
def test_surest_answers_of_each_outcome_are_shown_one_an_episode(folder, dataset, answers, num_each):
    found = gallery(dataset, answers, Films(IDS, folder, folder), num_each)
    assert list(found) == ["hits", "misses", "false alarms", "correct rejections"]
    for outcome, (was_old, says_old) in OUTCOMES.items():
        surest = []
        for n in range(11):
            fitting = [
                answers[n, p]
                for p in range(8)
                if (dataset.episodes.is_old[n, p] == 1) == was_old and (answers[n, p] > 0) == says_old
            ]
            if fitting:
                surest.append(max(fitting, key=abs))
        expected = sorted(surest, key=abs, reverse=True)[:num_each]
        assert [exhibit.answer for exhibit in found[outcome]] == pytest.approx(expected)
        assert all((exhibit.kind == "old") == was_old for exhibit in found[outcome])


def test_pictures_are_the_probe_and_the_studied_frame_nearest_to_it(folder, dataset, answers):
    found = gallery(dataset, answers, Films(IDS, folder, folder), 20)
    kinds = set()
    for exhibit in (exhibit for exhibits in found.values() for exhibit in exhibits):
        [(n, p)] = np.argwhere(answers == np.float32(exhibit.answer))
        features = dataset[np.array([n])].features[0].double().numpy()
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        cosines = features[dataset.num_study_frames + p] @ features[: dataset.num_study_frames].T
        assert exhibit.similarity == pytest.approx(cosines.max(), abs=1e-6)
        shown = study_frames(dataset.episodes.study[n], 2)
        assert place(exhibit.nearest_place) == tuple(shown[cosines.argmax()])
        assert place(exhibit.probe_place) == tuple(dataset.episodes.probes[n, p])
        assert exhibit.kind == PROBE_KINDS[dataset.episodes.kind[n, p]]
        kinds.add(exhibit.kind)
        for words, uri in ((exhibit.probe_place, exhibit.probe), (exhibit.nearest_place, exhibit.nearest)):
            picture, expected = read_picture(uri), colour_of(*place(words))
            if uri is exhibit.probe and exhibit.kind == "mirrored":
                picture = picture[:, ::-1]
            if uri is exhibit.probe and exhibit.kind == "brightened":
                expected = 1.5 * expected
            height, width, _ = picture.shape
            assert max(height, width) == 200
            assert width / height == pytest.approx(np.divide(*FILMS[place(words)[0]][1]), rel=0.01)
            left = picture[height // 3 : -height // 3, width // 4 : width // 2].mean((0, 1))
            np.testing.assert_allclose(left, expected, atol=14)
            assert picture[:, -width // 10 :].mean() < 20  # what is black there tells that it is not turned over
    assert {"old", "far", "other_film", "mirrored", "brightened"} == kinds


def test_all_nearest_frames_are_looked_up_at_once(folder, dataset, answers, monkeypatch):
    calls, look_up = [], module.nearest_study_frame
    monkeypatch.setattr(module, "nearest_study_frame", lambda *args: calls.append(args[1]) or look_up(*args))
    found = gallery(dataset, answers, Films(IDS, folder, folder), 2)
    [episodes] = calls
    assert len(set(episodes)) == len(episodes) <= 8
    assert [len(exhibits) for exhibits in found.values()] == [2, 2, 2, 2]


def test_only_episodes_whose_films_are_at_hand_are_shown(folder, dataset, answers, tmp_path):
    for name in ("red.mp4", "green.mkv"):
        shutil.copy(folder / name, tmp_path)
    found = gallery(dataset, answers, Films(IDS, folder, tmp_path), 20)
    shown = [exhibit for exhibits in found.values() for exhibit in exhibits]
    assert 0 < len(shown) < 30
    for exhibit in shown:
        assert "blue" not in exhibit.probe_place + exhibit.nearest_place
        [(n, _)] = np.argwhere(answers == np.float32(exhibit.answer))
        assert 2 not in dataset.episodes.study[n, :, 0]


def test_gallery_without_films_is_empty(folder, dataset, answers, tmp_path):
    shutil.copy(folder / "red.mp4", tmp_path / "another.mp4")
    assert gallery(dataset, answers, Films(IDS, folder, tmp_path)) == {outcome: [] for outcome in OUTCOMES}


def test_outcome_that_never_happened_is_empty(folder, dataset):
    found = gallery(dataset, np.full((11, 8), 3.0), Films(IDS, folder, folder))
    assert [len(exhibits) for exhibits in found.values()] == [4, 0, 4, 0]


def test_film_that_cannot_be_read_is_told(folder, dataset, answers, tmp_path):
    for name, *_ in FILMS:
        (tmp_path / name).write_text("no film")
    with pytest.raises(InputError, match=r"(red\.mp4|green\.mkv|blue\.avi): "):
        gallery(dataset, answers, Films(IDS, folder, tmp_path))


@pytest.mark.parametrize("shape", [(720, 1280, 3), (1280, 720, 3), (90, 120, 3), (3, 500, 3)])
def test_pictures_are_small_even_of_noise(shape):
    uri = module.data_uri(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    assert max(read_picture(uri).shape) == 200
    assert len(uri) < 60_000  # 32 of them are less than 2 MB
