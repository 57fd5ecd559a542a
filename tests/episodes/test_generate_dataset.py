"""Drawing a data set as a user does: what is written, that it is the same every time, and what is refused."""

import contextlib
import re
import resource
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import (
    SMALL_EPISODES,
    SMALL_SPLITS,
    kill_at_random,
    refusal,
    run_anew,
    run_here,
    run_script,
    write_features,
)

from recognition.episodes.episode_spec import PROBE_KINDS
from recognition.episodes.index_file import read_index

SPLITS = ("train", "validation", "test")
LENGTHS = [10, *(60 + 7 * k for k in range(11)), 13]  # the first and the last are too short for a clip and a new probe


def words(bank: Path, output: Path, *more: object) -> list[object]:
    return ["--input_dir", bank, "--output_dir", output, *SMALL_EPISODES, *SMALL_SPLITS, *more]


def generate(bank: Path, output: Path, *more: object) -> Path:
    result = run_here("generate_dataset.py", *words(bank, output, *more), cwd=bank.parent)
    assert result.returncode == 0, result.stderr
    return output


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_features(tmp_path_factory.mktemp("films") / "video-features", LENGTHS)


@pytest.fixture(scope="module")
def written(bank: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a first run wrote; its output is in it as `log`. Read only."""
    output = tmp_path_factory.mktemp("written") / "new" / "folder"
    result = run_here("generate_dataset.py", *words(bank, output), cwd=bank.parent)
    assert result.returncode == 0, result.stderr
    (output.parent / "log").write_text(result.stdout)
    return output


def test_three_files_are_written_and_nothing_else(bank, written):
    assert set(contents(written)) == {f"{split}_indices.h5" for split in SPLITS}
    assert len(list(bank.iterdir())) == len(LENGTHS)


@pytest.mark.parametrize(("split", "num", "num_films"), [("train", 24, 5), ("validation", 8, 3), ("test", 8, 3)])
def test_files_hold_what_the_design_says(bank, written, split, num, num_films):
    with h5py.File(written / f"{split}_indices.h5") as file:
        assert {name: (data.shape, data.dtype.name) for name, data in file.items() if name != "video_ids"} == {
            "study": ((num, 3, 3), "int32"),
            "probes": ((num, 8, 2), "int32"),
            "is_old": ((num, 8), "uint8"),
            "kind": ((num, 8), "uint8"),
            "video_num_frames": ((num_films,), "int64"),
            "video_digests": ((num_films,), "object"),
        }
        video_ids = file["video_ids"].asstr()[:].tolist()
        assert file["video_num_frames"][:].tolist() == [LENGTHS[int(name.removeprefix("film_"))] for name in video_ids]
        attributes = dict(file.attrs)
        assert len(attributes.pop("bank_digest")) == 64
        assert attributes == {
            "num_clips": 3,
            "clip_length": 9,
            "clip_margin": 4,
            "num_tests": 4,
            "subsample": 2,
            "old_probes": "any",
            "new_probes": "far",
            "probe_lags": "uniform",
            "alter_every": 0,
            "study_clips": "any",
            "seed": 0,
            "split": split,
            "test_set_fraction": 0.25,
            "validation_set_fraction": 0.25,
            "format_version": 2,
        }


def test_further_numbers_of_clips_give_test_episodes_alone_from_the_same_films(tmp_path, bank, written):
    output = generate(bank, tmp_path, "--n_clips", 3, 2, 5)
    names = {"test_indices_2clips.h5", "test_indices_5clips.h5"}
    whole = contents(output)
    assert whole.keys() == contents(written).keys() | names
    assert {name: whole[name] for name in contents(written)} == contents(written)
    for number in (2, 5):
        index = read_index(output / f"test_indices_{number}clips.h5")
        assert index.episodes.study.shape == (8, number, 3)
        assert index.spec.num_clips == number
        assert index.video_ids == read_index(written / "test_indices.h5").video_ids


def test_kinds_of_new_probes_are_drawn_and_stored(tmp_path, bank):
    output = generate(bank, tmp_path, "--new_probes=far=2,near,other_film")
    index = read_index(output / "train_indices.h5")
    assert index.spec.new_probes == "far=2,near,other_film"
    assert np.bincount(index.episodes.kind.ravel()).tolist() == [96, 48, 24, 0, 24]


@pytest.fixture(scope="module")
def bank_with_all(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Films with altered frames, one in 4, and shots of 23 frames."""
    folder = tmp_path_factory.mktemp("with_all") / "features"
    return write_features(folder, [70 + 9 * k for k in range(24)], alter_every=4, shot_length=23)


def test_kinds_of_clips_and_all_kinds_of_new_probes_are_drawn_and_stored(tmp_path, bank_with_all):
    more = ("--clip_length=8", "--n_tests=7", f"--new_probes={','.join(PROBE_KINDS[1:])}", "--probe_lags=balanced")
    more = (*more, "--study_clips=no_cut,cut,other_film", "--n_clips", 3, 6)
    first, again = (generate(bank_with_all, tmp_path / str(k), *more) for k in range(2))
    assert contents(first) == contents(again)
    for name, num_clips in [("train_indices", 3), ("test_indices", 3), ("test_indices_6clips", 6)]:
        index = read_index(first / f"{name}.h5")
        assert (index.spec.alter_every, index.spec.probe_lags) == (4, "balanced")
        assert index.episodes.study.shape[1:] == (2 * num_clips, 3)
        np.testing.assert_array_equal(np.sort(index.clip_kind, 1), [np.repeat([0, 1, 2], num_clips // 3)] * len(index))
        assert np.bincount(index.episodes.kind[0]).tolist() == [7, 1, 1, 1, 1, 1, 1, 1]
        for study, kinds in zip(index.episodes.study.tolist(), index.clip_kind, strict=True):
            for (video, start, _), (video2, _, stop), kind in zip(study[::2], study[1::2], kinds, strict=True):
                assert (video != video2) == (kind == 2)
                assert kind == 2 or (start // 23 != (stop - 1) // 23) == (kind == 1)


def test_audit_follows_the_files_and_names_films_that_two_splits_share(tmp_path, bank):
    folder = write_features(tmp_path / "features", LENGTHS)
    for name in ("film_3", "film_4", "film_5", "film_6"):  # one film under five names is in two splits at least
        with h5py.File(folder / "film_2.h5") as file, h5py.File(folder / f"{name}.h5", "r+") as other:
            other.attrs["video_sha256"] = file.attrs["video_sha256"]
    result = run_here("generate_dataset.py", *words(folder, tmp_path), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "video files in two splits under two names: " in result.stdout
    assert "no clips overlap, old probes lie in studied clips and new ones do not, in 24 episodes" in result.stdout
    assert "new probes are nearer to a studied frame than the median old probe" in result.stdout


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--new_probes=nearby"], "--new_probes: 'nearby' is no kind; there are far, near"),
        (["--new_probes=far=9,near"], "--new_probes: of 4 in all, its share leaves none for near"),
        (["--study_clips=soft"], "--study_clips: 'soft' is no kind; there are no_cut, cut, other_film"),
        (["--study_clips=cut"], "--study_clips: a clip of two halves, of which every 2th frame is shown, must have a"),
        (["--study_clips=cut", "--clip_length=8"], "does not say where shots begin; run preprocess_videos.py --over"),
        (["--n_clips", 3, 2, "--clip_length=8", "--study_clips=cut,no_cut,other_film"], "leaves none for other_film"),
        (
            ["--new_probes=far,mirrored"],
            "has no features of altered frames; make them with preprocess_videos.py --alter",
        ),
        (["--new_probes=same_shot"], "does not say where shots begin; run preprocess_videos.py --overwrite"),
        (["--n_clips", 3, 3], "argument --n_clips: gives a number twice"),
    ],
)
def test_probes_that_cannot_be_had_are_refused(tmp_path, bank, more, complaint):
    result = run_here("generate_dataset.py", *words(bank, tmp_path / "out", *more), cwd=tmp_path)
    assert complaint in refusal(result)
    assert not (tmp_path / "out").exists()


def test_no_film_is_in_two_splits_and_short_ones_are_in_none(written):
    ids = [video_id for split in SPLITS for video_id in read_index(written / f"{split}_indices.h5").video_ids]
    assert sorted(ids) == sorted(f"film_{k}" for k in range(1, 12))
    assert "2 of 13 films are left out: shorter than 14 frames" in (written.parent / "log").read_text()


def test_splits_of_like_films_hold_different_episodes(tmp_path):
    folder = write_features(tmp_path / "features", [80] * 12)
    generate(folder, folder, "--test_set_fraction=0.34", "--validation_set_fraction=0.34")
    indices = [read_index(folder / f"{split}_indices.h5") for split in SPLITS]
    assert [len(index.video_ids) for index in indices] == [4, 4, 4]
    assert len({index.episodes.study[:8].tobytes() for index in indices}) == 3


def bank_with_seen(folder: Path, seen: range) -> Path:
    """Features of twelve films, of which the backbone has learned from some."""
    write_features(folder, [80] * 12)
    for k in seen:
        change_attribute("seen_by_backbone", True, f"film_{k}.h5")(folder)
    return folder


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_films_from_which_the_backbone_has_learned_are_in_training_alone(tmp_path, seed):
    folder = bank_with_seen(tmp_path / "features", range(6))  # and six are needed for validation and test
    result = run_here("generate_dataset.py", *words(folder, folder, "--seed", seed), cwd=tmp_path)
    assert "6 of 12 films are for training alone: the backbone has learned from them" in result.stdout
    films = {split: read_index(folder / f"{split}_indices.h5").video_ids for split in SPLITS}
    assert sorted(films["train"]) == sorted(f"film_{k}" for k in range(6))
    assert sorted(films["validation"] + films["test"]) == sorted(f"film_{k}" for k in range(6, 12))
    assert "films from which the backbone has learned" not in result.stdout.partition("Audit:")[2]


def test_films_are_dealt_as_ever_where_the_backbone_has_seen_none_of_them(tmp_path, written):
    order = np.random.default_rng((0, 3)).permutation(11)
    ids = sorted(f"film_{k}" for k in range(1, 12))
    for split, numbers in zip(SPLITS, np.split(order, [5, 8]), strict=True):
        assert list(read_index(written / f"{split}_indices.h5").video_ids) == [ids[k] for k in np.sort(numbers)]


def test_too_few_films_that_the_backbone_has_not_seen_are_refused(tmp_path):
    folder = bank_with_seen(tmp_path / "features", range(7))
    line = refusal(run_here("generate_dataset.py", *words(folder, tmp_path / "out"), cwd=tmp_path))
    assert "5 films are left for validation and test, 6 are needed: from 7 others the backbone has learned" in line
    assert "(film_0, film_1, film_2, ...); add films that it has not seen" in line
    assert not (tmp_path / "out").exists()


def test_equal_arguments_give_equal_bytes_and_another_seed_does_not(tmp_path, bank, written):
    assert contents(generate(bank, tmp_path / "again")) == contents(written)
    other = contents(generate(bank, tmp_path / "other", "--seed", 1))
    assert other.keys() == contents(written).keys()
    assert not set(other.values()) & set(contents(written).values())
    split_films = [read_index(folder / "test_indices.h5").video_ids for folder in (written, tmp_path / "other")]
    assert split_films[0] != split_films[1]


def test_more_episodes_begin_with_the_fewer(tmp_path, bank, written):
    generate(bank, tmp_path, "--n_samples_train=30")
    longer, shorter = (read_index(folder / "train_indices.h5").episodes for folder in (tmp_path, written))
    for k in range(3):
        np.testing.assert_array_equal(longer[k][:24], shorter[k])


def test_suffix_keeps_sets_apart_and_index_files_are_not_taken_for_films(tmp_path):
    folder = write_features(tmp_path / "features", LENGTHS)
    before = contents(generate(folder, folder))
    after = contents(generate(folder, folder, "--suffix", "_short", "--old_probes=presented", "--seed", 3))
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {f"{split}_indices_short.h5" for split in SPLITS}
    assert read_index(folder / "test_indices_short.h5").spec.old_probes == "presented"


def test_killed_at_any_moment_and_run_again_gives_the_same_files(tmp_path, bank, written):
    command = ["generate_dataset.py", *words(bank, tmp_path / "out")]
    kill_at_random(command, tmp_path, num_kills=4, longest_s=0.5, once_it_speaks=False)
    assert contents(generate(bank, tmp_path / "out")) == contents(written)


def test_remains_of_a_killed_run_are_cleared_away(tmp_path, bank, written):
    for split in SPLITS:
        gone = tmp_path / f".{split}_indices.h5.{socket.gethostname().replace('.', '-')}.{2**30}.part"
        gone.write_text("half a file")
    assert contents(generate(bank, tmp_path)) == contents(written)


def test_killed_run_leaves_each_earlier_file_or_a_whole_new_one(tmp_path, bank, written):
    earlier, new = contents(generate(bank, tmp_path, "--seed", 1)), contents(written)
    for moment_s in (0.2, 0.3, 0.4, 0.5):
        with contextlib.suppress(subprocess.TimeoutExpired):  # ends with kill -9
            run_script("generate_dataset.py", *words(bank, tmp_path), cwd=tmp_path, timeout=moment_s)
        left = {name: data for name, data in contents(tmp_path).items() if not name.startswith(".")}
        assert left.keys() == new.keys()
        assert all(data in (earlier[name], new[name]) for name, data in left.items())


def digest(folder: Path) -> str:
    digests = set()
    for split in SPLITS:
        with h5py.File(folder / f"{split}_indices.h5") as file:
            digests.add(file.attrs["bank_digest"])
    assert len(digests) == 1
    return digests.pop()


def test_bank_digest_tells_films_and_how_they_were_made(tmp_path, bank, written):
    others = {
        "another film file": lambda file: file.attrs.__setitem__("video_sha256", "f" * 64),
        "another decoder": lambda file: file.attrs.__setitem__("decoder", "other"),
        "another precision": lambda file: file.attrs.__setitem__("compute_dtype", "bfloat16"),
    }
    digests = [digest(written)]
    for name, change in others.items():
        folder = write_features(tmp_path / name, LENGTHS)
        with h5py.File(folder / "film_3.h5", "r+") as file:
            change(file)
        digests.append(digest(generate(folder, folder)))
    assert len(set(digests)) == 4


def copied(source: str, name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / source).read_bytes())


def change_attribute(name: str, value: object, film: str = "film_3.h5") -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        with h5py.File(folder / film, "r+") as file:
            file.attrs[name] = value

    return change


def remove_films(folder: Path) -> None:
    for path in folder.glob("film_*.h5"):
        path.unlink()


def cut_short(folder: Path) -> None:
    (folder / "film_3.h5").write_bytes((folder / "film_3.h5").read_bytes()[:2000])


@pytest.mark.parametrize(
    ("damage", "more", "named"),
    [
        (None, ["--n_clips=1000"], "hold 113 clips of 9 frames, 1000 are needed: 7983 frames are missing, or 64 films"),
        (None, ["--clip_length=300"], "the longest is 175 frames too short"),
        (None, ["--n_tests=40"], "13 frames are missing"),
        (None, ["--clip_margin=100", "--n_clips=5"], "train films: the films (1, "),
        (None, ["--test_set_fraction=0"], "no test films"),
        (None, ["--validation_set_fraction=0"], "no validation films"),
        (None, ["--test_set_fraction=0.75"], "no train films"),
        (None, ["--test_set_fraction=1.5"], "--test_set_fraction: 1.5 is out of range"),
        (None, ["--test_set_fraction=nan"], "--test_set_fraction: nan"),
        (None, ["--validation_set_fraction=-0.1"], "--validation_set_fraction"),
        (None, ["--n_clip=3"], "--n_clips"),
        (None, ["--n_samples_train=many"], "--n_samples_train: 'many'"),
        (None, ["--n_samples_test=0"], "--n_samples_test"),
        (None, ["--seed=-1"], "--seed"),
        (None, ["--subsample=1.5"], "--subsample: '1.5'"),
        (None, ["--old_probes=shown"], "'presented'"),
        (None, ["--suffix=a/b"], "--suffix: 'a/b'"),
        (None, ["--input_dir=nowhere"], "--input_dir nowhere: no such folder"),
        (remove_films, [], "holds no feature file"),
        (cut_short, [], "film_3.h5"),
        (change_attribute("backbone", "resnet50"), [], "several backbones"),
        (change_attribute("weights_sha256", "1" * 64), [], "several backbones or weights"),
        (copied("film_3.h5", "film_99.h5"), [], "film_99.h5: holds the film 'film_3'"),
        (lambda folder: (folder / "film_50.h5").write_text("text"), [], "film_50.h5"),
    ],
)
def test_wrong_input_ends_in_one_line_and_touches_nothing(tmp_path, damage, more, named):
    folder = write_features(tmp_path / "features", LENGTHS)
    for split in SPLITS:
        (folder / f"{split}_indices.h5").write_text(f"earlier {split}")
    if damage:
        damage(folder)
    before = contents(tmp_path)
    result = run_here("generate_dataset.py", *words(folder, folder, *more), cwd=tmp_path)
    assert named in refusal(result)
    assert contents(tmp_path) == before


def test_wrong_input_makes_no_folder(tmp_path, bank):
    refusal(run_here("generate_dataset.py", *words(bank, tmp_path / "new", "--n_clips=1000"), cwd=tmp_path))
    assert not (tmp_path / "new").exists()


def test_full_disk_is_told_in_one_line_and_leaves_the_earlier_files(tmp_path, bank):
    output = generate(bank, tmp_path / "out", "--seed", 1)
    before = contents(output)
    result = run_anew(
        "generate_dataset.py",
        *words(bank, output, "--n_samples_test=5000"),
        cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert "File too large" in result.stderr
    assert contents(output) == before


def test_file_in_the_folders_place_is_told_in_one_line(tmp_path, bank):
    (tmp_path / "out").write_text("not a folder")
    result = run_script("generate_dataset.py", *words(bank, tmp_path / "out"), cwd=tmp_path)
    assert f"argument --output_dir: {tmp_path / 'out'}: is not a folder" in refusal(result)
    assert (tmp_path / "out").read_text() == "not a folder"


def test_help_shows_the_published_protocol_as_default(tmp_path):
    text = run_script("generate_dataset.py", "--help", cwd=tmp_path).stdout
    shown = dict(re.findall(r"\n  --(\w+) [^(]*?\(default:\s\[?(\w+)\]?\)", text))
    protocol = {"n_clips": "90", "clip_length": "300", "clip_margin": "150", "n_tests": "90", "subsample": "3"}
    assert protocol.items() <= shown.items()
