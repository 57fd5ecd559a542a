"""Files that the system does not let be read: finished work is kept and told of, never made anew."""

import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest
from conftest import SMALL_EPISODES, SMALL_FEATURES, SMALL_SPLITS, refusal, run_anew
from on_disk import contents, rows, truncate

from recognition.common.files import is_there
from recognition.episodes.index_file import read_index
from recognition.features.feature_file import DamagedFile, feature_files, read_header
from recognition.films.download import Failure, download
from recognition.films.manifest import Film, Manifest, make_row
from recognition.provenance import main as tell_provenance
from recognition.training.runs import Run


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, str]]:
    """The environment of a process for which the file system has faults; skipped where there is no gcc."""
    if not (compiler := shutil.which("gcc")):
        pytest.skip("needs gcc")
    library = tmp_path_factory.mktemp("faults") / "failing_system.so"
    source = Path(__file__).with_name("failing_system.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)

    def environment(end: str = "", error: int = 0) -> dict[str, str]:
        failing = {"FAIL_END": end, "FAIL_ERRNO": str(error)} if end else {}
        return {**os.environ, "LD_PRELOAD": str(library), **failing}

    return environment


@pytest.fixture
def features(finished: Path, tmp_path: Path) -> Path:
    """A copy of `finished` that a test may spoil."""
    return Path(shutil.copytree(finished, tmp_path / "features"))


def linked(films: Path, folder: Path) -> Path:
    """A folder with links to the films, as git-annex and DataLad lay them."""
    folder.mkdir()
    for film in films.glob("*.mp4"):
        (folder / film.name).symlink_to(film)
    return folder


def lead_nowhere(link: Path) -> Path:
    link.unlink()
    link.symlink_to("nowhere/to/be/found")
    return link


def reasons(features: Path) -> dict[str, str]:
    return {row["video"]: row["reason"] for row in rows(features / "failed.csv")}


def test_features_are_read_where_no_locks_are_granted(features, faults):
    words = (*SMALL_EPISODES, "--n_clips=1", "--n_tests=2", *SMALL_SPLITS)
    result = run_anew(
        "generate_dataset.py", f"--input_dir={features}", f"--output_dir={features}", *words, cwd=features, env=faults()
    )
    assert result.returncode == 0, result.stderr


def test_features_that_cannot_be_read_are_kept_and_other_films_are_done(films, finished, features, faults):
    (features / "film_003.h5").unlink()
    words = (*SMALL_FEATURES, "--input_dir", films, "--output_dir", features, "--workers=0")
    result = run_anew("preprocess_videos.py", *words, cwd=features, env=faults("film_001.h5", errno.ESTALE))
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "4 films, 2 of them finished" in result.stdout  # no lock is granted for these either
    assert reasons(features) == {"film_001.mp4": f"{features / 'film_001.h5'}: {os.strerror(errno.ESTALE)}"}
    made = {path.name: path.read_bytes() for path in feature_files(features)}
    assert made == {path.name: path.read_bytes() for path in feature_files(finished)}


def test_link_or_folder_in_place_of_a_feature_file_is_kept(films, features, preprocess):
    lead_nowhere(features / "film_000.h5")
    (features / "film_001.h5").unlink()
    (features / "film_001.h5").mkdir()
    (features / "film_002.h5").unlink()
    result = preprocess(*SMALL_FEATURES, "--input_dir", films, "--output_dir", features)
    assert result.returncode == 1
    assert "4 films, 1 of them finished" in result.stdout
    assert (features / "film_000.h5").is_symlink()
    assert (features / "film_001.h5").is_dir()
    assert reasons(features) == {
        "film_000.mp4": f"{features / 'film_000.h5'}: a link that leads nowhere",
        "film_001.mp4": f"{features / 'film_001.h5'}: {os.strerror(errno.EISDIR)}",
    }
    assert [row["video_id"] for row in rows(features / "videos.csv")] == ["film_002", "film_003"]


def test_features_of_films_that_are_not_here_just_now_are_kept(films, finished, features, preprocess, tmp_path):
    videos = linked(films, tmp_path / "videos")
    lead_nowhere(videos / "film_001.mp4")
    (features / "film_002.h5").unlink()
    result = preprocess(*SMALL_FEATURES, "--input_dir", videos, "--output_dir", features)
    assert result.returncode == 0, result.stderr
    assert contents(features) == contents(finished)


@pytest.mark.parametrize("overwrite", [True, False])
def test_film_that_is_not_here_leaves_the_others_to_be_done(films, finished, features, preprocess, tmp_path, overwrite):
    videos = linked(films, tmp_path / "videos")
    absent = lead_nowhere(videos / "film_001.mp4")
    if not overwrite:
        (features / "film_001.h5").unlink()
    (features / "film_002.h5").unlink()
    result = preprocess(
        *SMALL_FEATURES, "--input_dir", videos, "--output_dir", features, *(["--overwrite"] if overwrite else [])
    )
    assert result.returncode == 1
    assert reasons(features) == {"film_001.mp4": f"{absent}: a link that leads nowhere"}
    due = {path.name for path in feature_files(finished)} - (set() if overwrite else {"film_001.h5"})
    assert {path.name for path in feature_files(features)} == due


def test_film_that_stops_being_readable_keeps_its_earlier_features(films, features, faults, tmp_path):
    videos, before = tmp_path / "videos", (features / "film_001.h5").read_bytes()
    videos.mkdir()
    shutil.copy(films / "film_001.mp4", videos)
    words = (*SMALL_FEATURES, "--input_dir", videos, "--output_dir", features, "--workers=0", "--overwrite")
    result = run_anew("preprocess_videos.py", *words, cwd=features, env=faults("film_001.mp4", errno.EIO))
    assert result.returncode == 1
    assert list(reasons(features)) == ["film_001.mp4"]
    assert (features / "film_001.h5").read_bytes() == before


def test_wrong_content_is_told_from_what_cannot_be_read(features, tmp_path):
    with pytest.raises(DamagedFile):
        read_header(truncate(features / "film_000.h5"))
    for path in (lead_nowhere(features / "film_001.h5"), tmp_path / "none.h5", tmp_path):
        with pytest.raises(OSError, match=str(path)):
            read_header(path)
    with pytest.raises(FileNotFoundError):
        read_index(features / "film_001.h5")


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_checkpoint_that_cannot_be_read_is_not_replaced_by_the_one_before_it(tmp_path, kind):
    run = Run(tmp_path)
    for epoch in range(2):
        run.last_file.parent.mkdir(exist_ok=True)
        run.save_last({"progress": {"epoch": epoch}})
    if kind == "link":
        lead_nowhere(run.last_file)
    else:
        run.last_file.unlink()
        run.last_file.mkdir()
    before = run.previous_file.read_bytes()
    with pytest.raises(OSError, match=r"last\.pt"):
        run.drop_damaged_checkpoint()
    assert is_there(run.last_file)
    assert run.previous_file.read_bytes() == before


def test_damaged_checkpoint_is_replaced_by_the_one_before_it(tmp_path, capsys):
    run = Run(tmp_path)
    run.last_file.parent.mkdir()
    for epoch in range(2):
        run.save_last({"progress": {"epoch": epoch}})
    truncate(run.last_file)
    run.drop_damaged_checkpoint()
    assert run.load_last() == {"progress": {"epoch": 0}}
    assert "going on from the checkpoint before it" in capsys.readouterr().err


def test_features_of_a_later_version_of_the_program_are_not_made_anew(films, features, preprocess):
    with h5py.File(features / "film_001.h5", "r+") as file:
        file.attrs["format_version"] = 2
    before = contents(features)
    line = refusal(preprocess(*SMALL_FEATURES, "--input_dir", films, "--output_dir", features))
    assert "film_001.h5: format 2, this program reads 1: name another --output_dir" in line
    assert contents(features) == before


def test_file_that_cannot_be_read_is_neither_fetched_again_nor_forgotten(tmp_path):
    films = [Film(letter * 11, f"https://example.org/{letter}", letter) for letter in "ab"]
    (tmp_path / f"{films[0].video_id}.mp4").symlink_to("nowhere")

    def fetch(film: Film, folder: Path) -> Path:
        assert film == films[1]
        raise Failure("removed", "is gone")

    found = list(download(films, Manifest(tmp_path, films), fetch, 1, 0))
    assert [(row["video_id"][0], row["status"], row["reason"]) for row in found] == [
        ("a", "failed", "other"),
        ("b", "failed", "removed"),
    ]
    assert "a link that leads nowhere" in found[0]["message"]
    assert list(Manifest(tmp_path, films).rows) == [films[1].video_id]


def test_film_that_was_fetched_and_is_not_here_just_now_is_done(tmp_path):
    film = Film("a" * 11, "https://example.org/a", "A")
    row = make_row(film, "done", file=f"{film.video_id}.mp4", size_bytes="7")
    Manifest(tmp_path, [film]).record(row)
    assert not Manifest(tmp_path, [film]).is_done(film)
    (tmp_path / row["file"]).symlink_to("nowhere")
    assert Manifest(tmp_path, [film]).is_done(film)


def test_finished_run_whose_files_lead_nowhere_is_not_trained_anew(tmp_path, train_here):
    run = Run(tmp_path / "runs" / "run")
    run.path.mkdir(parents=True)
    lead_nowhere_at = run.config_file
    lead_nowhere_at.symlink_to("nowhere")
    for words in ([], ["--resume"]):
        with pytest.raises((OSError, ValueError), match=r"runs/run"):
            train_here(*words)
    assert [path.name for path in run.path.iterdir()] == ["config.yaml"]


def test_provenance_says_what_it_could_not_compare(films, features, tmp_path, monkeypatch, capsys):
    videos = linked(films, tmp_path / "videos")
    lead_nowhere(videos / "film_001.mp4")
    monkeypatch.setattr("sys.argv", ["provenance", str(features / "film_001.h5"), f"--videos={videos}"])
    assert tell_provenance() == 1
    assert "NOT COMPARED" in capsys.readouterr().out
