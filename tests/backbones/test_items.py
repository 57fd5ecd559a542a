"""Which films train, validate and test, by a list, a folder or the films of episodes; and which films they are of."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import refusal, run_here
from labelled_films import settings

from backbones.action_films import write_action_films
from backbones.dataset import Item
from backbones.frame_store import HeldFilm
from backbones.items import Films, open_films, original_digests, split_off
from recognition.common.command_line import InputError
from recognition.common.files import sha256


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with eight films of 24 frames at 15 a second, UCF101's way of naming what was cut from one film."""
    folder = tmp_path_factory.mktemp("films")
    made = sorted(write_action_films(folder / "made", "eight", 8, 0))
    for k, path in enumerate(made):
        path.rename(folder / f"v_X_g{k // 2:02d}_c{k % 2:02d}.mp4")
    return folder


@pytest.fixture
def write_list(films: Path, tmp_path: Path) -> Callable[..., Path]:
    """A list of the films, with a label and a split each, or other lines."""

    def write(splits: str = "rrrrrree", labels: str = "abababab", lines: list[str] | None = None) -> Path:
        path = tmp_path / "list.csv"
        rows = [
            (film.name, label, {"r": "train", "v": "validation", "e": "test"}[split])
            for film, label, split in zip(sorted(films.glob("*.mp4")), labels, splits, strict=True)
        ]
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows([("video", "label", "split"), *rows, *(line.split(",") for line in lines or [])])
        return path

    return write


def opened(list_of_films: Path | None, films: Path, **data: object) -> Films:
    told = {"list": list_of_films and str(list_of_films), "videos": str(films), "segment_s": None} | data
    if list_of_films is None:
        from backbones.config import PretrainSettings

        return open_films(PretrainSettings(name="x", data=told), show_bar=False)
    return open_films(settings(data=told), show_bar=False)


def names(items: list[Item]) -> list[str]:
    return [item.path.name for item in items]


def test_list_says_class_split_and_source_of_every_film(films: Path, write_list: Callable):
    found = opened(write_list("rrrrvvee"), films)
    assert found.classes == ["a", "b"]
    assert [(item.path.name, item.label, item.source) for item in found.test] == [
        ("v_X_g03_c00.mp4", 0, "v_X_g03"),
        ("v_X_g03_c01.mp4", 1, "v_X_g03"),
    ]
    assert names(found.validation) == ["v_X_g02_c00.mp4", "v_X_g02_c01.mp4"]
    assert [(item.num_frames, item.fps, item.first, item.end) for item in found.train] == [(24, 15.0, 0, 24)] * 4
    assert found.missing == []


def test_validation_is_a_share_of_the_sources_of_each_class_the_same_every_time(films: Path, write_list: Callable):
    path = write_list()
    found, again = (opened(path, films, validation_share=0.3) for _ in range(2))
    assert found[:3] == again[:3]
    assert len(found.validation) == 2  # both films of one of three sources
    assert len({item.source for item in found.validation}) == 1
    assert not {item.source for item in found.validation} & {item.source for item in found.train}
    assert opened(path, films, validation_share=0.0).validation == []
    listed = opened(write_list("rrrrvvee"), films, validation_share=0.9)
    assert len(listed.train) == 4


@pytest.mark.parametrize("share", [0.01, 0.34, 0.5, 0.67, 1.0])
def test_validation_takes_a_source_at_least_and_never_all_of_a_class(share: int):
    items = [
        Item(Path(f"{label}{k}"), label, f"{label}-{k}", 9, 9.0, 0, 9) for label in range(3) for k in range(label + 1)
    ]
    kept, chosen = split_off(items, share)
    assert chosen
    assert {item.label for item in kept} == {0, 1, 2}
    assert sorted(names([*kept, *chosen])) == sorted(names(items))
    assert split_off(items, 0.0) == (items, [])


def test_no_source_of_one_film_can_be_spared():
    items = [Item(Path(f"{label}"), label, f"{label}", 9, 9.0, 0, 9) for label in range(3)]
    assert split_off(items, 0.5) == (items, [])


def test_share_takes_films_for_training_by_their_names_and_all_for_testing(films: Path, write_list: Callable):
    path = write_list()
    found = [opened(path, films, share=share, validation_share=0.0) for share in (1.0, 0.7, 0.4)]
    assert [len(films.test) for films in found] == [2, 2, 2]
    trained = [set(names(one.train)) for one in found]
    assert trained[2] <= trained[1] <= trained[0]
    assert trained[2] < trained[0]
    with pytest.raises(InputError, match=r"^data\.share: 0\.001 of the films leaves none to train on; raise it$"):
        opened(path, films, share=0.001)


def test_training_films_alone_are_cut_into_pieces(films: Path, write_list: Callable):
    found = opened(write_list("rrrrvvee"), films, segment_s=0.8)  # 12 frames
    assert [(item.first, item.end) for item in found.train[:2]] == [(0, 12), (12, 24)]
    assert {(item.first, item.end) for item in [*found.validation, *found.test]} == {(0, 24)}


def test_validation_that_is_split_off_has_whole_films(films: Path, write_list: Callable):
    found = opened(write_list(), films, segment_s=0.8, validation_share=0.3)
    assert {(item.first, item.end) for item in found.validation} == {(0, 24)}
    assert len(found.train) == 8


def test_times_of_a_list_cut_a_film(films: Path, tmp_path: Path):
    film = min(films.glob("*.mp4")).name
    path = tmp_path / "list.csv"
    path.write_text(f"video,label,split,start_s,end_s\n{film},a,train,0.4,1\n{film},b,train,1,9\n{film},b,train,,\n")
    found = opened(path, films, validation_share=0.0)
    assert [(item.first, item.end) for item in found.train] == [(6, 15), (15, 24), (0, 24)]
    path.write_text(f"video,label,split,start_s,end_s\n{film},a,train,,\n{film},b,train,2,3\n")
    with pytest.raises(InputError, match=r"list\.csv:3: .*mp4 has no frame from 2\.0 to 3\.0 s, it has 24 at 15 a sec"):
        opened(path, films)


def test_films_that_are_missing_are_told(films: Path, write_list: Callable):
    path = write_list(lines=["gone.mp4,a,train"])
    found = opened(path, films, missing_share=0.2)
    assert found.missing == [(f"{path}:10", "no film gone.mp4")]
    with pytest.raises(InputError, match=r"list\.csv:10: no film gone\.mp4 in .*; 1 of 9 films are missing, more than"):
        opened(path, films)


def test_films_held_in_memory_have_the_same_frames(films: Path, write_list: Callable):
    path = write_list()
    held, read = (opened(path, films, cache=cache).readers for cache in ("memory", "none"))
    assert {type(reader) for reader in held.values()} == {HeldFilm}
    for film in read:
        assert (held[film].frames([3, 1, 23]) == read[film].frames([3, 1, 23])).all()


def test_folder_with_frames_needs_a_rate_where_clips_or_times_do(films: Path, tmp_path: Path):
    store = tmp_path / "store"
    result = run_here("backbones.prepare", "films", films, "--output", store, "--sqlite", "--workers=0", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    name = min(path for path in store.rglob("frames.db")).parent.relative_to(store)
    path = tmp_path / "list.csv"
    path.write_text(f"video,label,split\n{name},a,train\n")
    plain = settings(data={"list": str(path), "videos": str(store)})
    rate = settings(data={"list": str(path), "videos": str(store)}, clip={"stride": None, "fps": 5.0})
    assert open_films(plain, show_bar=False).train[0].num_frames == 24
    with pytest.raises(InputError, match=r"does not say its frame rate; set data\.store_fps"):
        open_films(rate, show_bar=False)
    path.write_text(f"video,label,split,start_s,end_s\n{name},a,train,0.2,1\n")
    with pytest.raises(
        InputError, match=r"list\.csv:2: .* does not say its frame rate, to find times by; set data\.st"
    ):
        open_films(plain, show_bar=False)
    told = {"list": str(path), "videos": str(store), "store_fps": 15.0}
    item = open_films(settings(data=told), show_bar=False).train[0]
    assert (item.fps, item.first, item.end) == (15.0, 3, 15)


def test_films_of_a_folder_train_without_labels_in_pieces(films: Path):
    found = opened(None, films, segment_s=0.8)
    assert len(found.train) == 16
    assert {item.label for item in found.train} == {-1}
    assert (found.validation, found.test, found.classes) == ([], [], [])


def test_films_of_episodes_are_those_that_they_train_on(films: Path, tmp_path: Path):
    from conftest import write_features

    features = write_features(tmp_path / "features", [60] * 8)
    for k, film in enumerate(sorted(films.glob("*.mp4"))):
        shutil.copy(film, features / f"film_{k}.mp4")
    words = ("--n_clips=2", "--clip_length=9", "--clip_margin=4", "--n_tests=2", "--n_samples_train=2")
    words += ("--n_samples_validation=2", "--n_samples_test=2", "--input_dir=.", "--output_dir=.")
    assert run_here("generate_dataset.py", *words, cwd=features).returncode == 0
    from recognition.episodes.index_file import read_index

    wanted = sorted(f"{name}.mp4" for name in read_index(features / "train_indices.h5").video_ids)
    assert 0 < len(wanted) < 8
    assert sorted(names(opened(None, features, split_of=str(features)).train)) == wanted
    (features / wanted[0]).unlink()
    with pytest.raises(InputError, match=rf"^data\.videos: .*has no film {wanted[0][:-4]}, on which .* trains$"):
        opened(None, features, split_of=str(features))


def test_empty_or_absent_folder_is_told(tmp_path: Path):
    with pytest.raises(InputError, match=r"^data\.videos: '.*none': no such folder; say where the films are$"):
        opened(None, tmp_path / "none")
    with pytest.raises(InputError, match=r"^data\.videos: '.*': holds no film \(\.3g2, "):
        opened(None, tmp_path)


def test_small_films_have_the_digests_of_those_that_they_were_made_of(films: Path, tmp_path: Path):
    small = tmp_path / "small"
    words = ("films", films, "--output", small, "--short_side=32", "--workers=0")
    result = run_here("backbones.prepare", *words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    wanted = sorted(map(sha256, films.glob("*.mp4")))
    assert original_digests(opened(None, films).train, show_bar=False) == wanted
    own = list(map(sha256, small.glob("*.mp4")))  # of what may be preprocessed, too
    assert original_digests(opened(None, small).train, show_bar=False) == sorted([*wanted, *own])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("video,label,split\n", "list.csv: lists no film"),
        ("", "list.csv: lists no film"),
        ("video,label,split\r\na.mp4,x,train\r\na.mp4,x,tset\r\n", "list.csv:3: split 'tset' is none of train"),
        ("video,label,split\n{0},x,train\n{0},x,test\n", "list.csv:3: "),
        ("video,label,split\n{0},x,train\n{1},y,test\n", "list.csv:3: no film for training is of the class 'y'"),
        ("video,label,split\n{0},x,test\n", "list.csv: has no film to train on; give some the split train"),
        ("video,label,split\n{0},x,train\nbroken.mp4,x,train\n", "list.csv:3: "),
    ],
)
def test_list_that_is_wrong_ends_in_one_line_and_nothing_is_written(
    content: str, told: str, films: Path, tmp_path: Path
):
    first, second, *_ = [str(path) for path in sorted(films.glob("*.mp4"))]
    (tmp_path / "list.csv").write_bytes(content.format(first, second).encode())
    (tmp_path / "broken.mp4").write_bytes(b"no film")
    (tmp_path / "run.yaml").write_text("data: {list: list.csv, videos: .}\ntraining: {device: cpu, optimizer: sgd}\n")
    assert told in refusal(run_here("backbones.classify", "-f", "run.yaml", cwd=tmp_path))
    assert not (tmp_path / "runs").exists()
