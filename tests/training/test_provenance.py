"""The chain from a run back to its films: told whole, and every link that has changed named."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest
from conftest import ROOT, SMALL_EPISODES, SMALL_SPLITS, config_text, run_here, run_script, write_features

from recognition.common.command_line import InputError
from recognition.training.provenance import Link, chain


@pytest.fixture(scope="module")
def evaluated(small_bank: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the small bank and an evaluated run on it. Read only."""
    folder = tmp_path_factory.mktemp("evaluated")
    shutil.copytree(small_bank, folder / "bank")
    (folder / "run.yaml").write_text(config_text(Path("bank"), n_epochs=1))
    for words in (("train.py", "-f", "run.yaml"), ("evaluate.py", "runs/run")):
        result = run_here(*words, cwd=folder)
        assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture
def run(evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run in the current folder, which a test may change; `bank` lies there too."""
    shutil.copytree(evaluated, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return Path("runs/run")


@pytest.fixture
def bank(run: Path) -> Path:
    """The folder of its features and index files."""
    return Path("bank")


def broken(path: Path) -> list[str]:
    return [link.text for link in chain(path) if not link.is_intact]


def redraw(bank: Path, *words: str) -> None:
    folders = f"--input_dir={bank}", f"--output_dir={bank}"
    script = run_here("generate_dataset.py", *SMALL_EPISODES, *SMALL_SPLITS, *folders, *words, cwd=Path.cwd())
    assert script.returncode == 0


def remake(bank: Path, film: str) -> None:
    """As if the film had been preprocessed anew, from another file."""
    with h5py.File(bank / f"{film}.h5", "r+") as file:
        file.attrs["video_sha256"] = "f" * 64


def test_chain_of_an_untouched_run_is_whole_and_names_every_step(run: Path, bank: Path):
    links = list(chain(run))
    assert all(link.is_intact for link in links)
    text = "\n".join(link.text for link in links)
    for file in ("train_indices.h5", "validation_indices.h5", "test_indices.h5"):
        assert f"{bank / file}: unchanged" in text
    assert "24 episodes of 6 films, drawn 3 clips of 9 frames, 4 old and as many new probes" in text
    assert f"6 of 6 films in {bank} unchanged; resnet18, weights random:0 (000000000000), by pyav" in text
    assert "transformer, by code" in links[0].text
    assert list(chain(run / "report.html")) == list(chain(run / "checkpoints/last.pt")) == links


def test_data_that_has_moved_is_found_where_it_is_told(run: Path, bank: Path):
    whole = len(list(chain(run)))
    bank.rename("features")
    Path("indices").mkdir()
    for path in Path("features").glob("*_indices.h5"):
        path.rename(Path("indices") / path.name)
    assert broken(run) == [
        f"evaluation.json is of {bank}/test_indices.h5: MISSING",
        *(
            f"{split} episodes {bank}/{split}_indices.h5: MISSING; say where it is by dataset.{split}_indices_file=PATH"
            for split in ("train", "validation", "test")
        ),
    ]
    told = [f"dataset.{split}_indices_file=indices/{split}_indices.h5" for split in ("train", "test")]
    lost = [link.text for link in chain(run, None, told) if not link.is_intact]
    assert lost == [f"films in {bank}: all MISSING; say where they are by dataset.video_path=FOLDER"] * 3
    told.append("dataset.video_path=features")
    links = list(chain(run, None, told))
    assert all(link.is_intact for link in links)
    assert len(links) == whole
    index = Path("indices/test_indices.h5")
    assert not all(link.is_intact for link in chain(index))
    assert all(link.is_intact for link in chain(index, None, told[-1:]))
    with pytest.raises(InputError, match="no such setting"):
        list(chain(run, None, ["training.seed=1"]))


def test_config_that_was_edited_says_where_data_is(run: Path, bank: Path):
    bank.rename("elsewhere")
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("bank/", "elsewhere/"))
    config = (run / "config.yaml").read_text().replace("video_path: bank", "video_path: elsewhere")
    (run / "config.yaml").write_text(config)
    assert broken(run) == []


def test_changed_film_is_named_and_stops_what_reads_it(run: Path, bank: Path, train_here: Callable):
    train_films = h5py.File(bank / "train_indices.h5")["video_ids"].asstr()[:]
    remake(bank, train_films[2])
    assert broken(run) == [f"{bank / train_films[2]}.h5: CHANGED since the episodes were drawn"]
    told = rf"train_indices\.h5: .*{train_films[2]}\.h5 is not what it was when these episodes were drawn; run generate"
    with pytest.raises(InputError, match=told):
        train_here(text=config_text(bank), name="another")
    remake(bank, train_films[0])
    with pytest.raises(InputError, match=rf"{train_films[0]}\.h5 is not .* \(nor are 1 others\)"):
        train_here(text=config_text(bank), name="another")
    redraw(bank)
    train_here(text=config_text(bank), name="another")


def test_changed_episodes_are_named_and_stop_the_run_that_knew_others(run: Path, bank: Path, train_here: Callable):
    (run / "test.json").unlink()
    redraw(bank, "--seed=1")
    assert f"test episodes {bank / 'test_indices.h5'}: CHANGED" in broken(run)
    assert f"evaluation.json is of {bank / 'test_indices.h5'}: CHANGED" in broken(run)
    with pytest.raises(InputError, match=r"train_indices\.h5 has changed since .*runs/run was trained on its episodes"):
        train_here("--resume", text=config_text(bank, n_epochs=1))
    result = run_here("evaluate.py", run, cwd=Path.cwd())
    assert result.returncode == 2
    assert "test_indices.h5 has changed since" in result.stderr


def test_weights_that_changed_after_the_evaluation_are_named(run: Path):
    weights = run / "checkpoints/best.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert broken(run) == [f"evaluation.json is of {weights}: CHANGED"]


def test_missing_and_damaged_films_are_named(bank: Path):
    index = bank / "test_indices.h5"
    first, second, *_ = h5py.File(index)["video_ids"].asstr()[:]
    (bank / f"{first}.h5").unlink()
    (bank / f"{second}.h5").write_bytes(b"no features")
    missing, damaged = broken(index)
    assert missing == f"{bank / first}.h5: MISSING"
    assert damaged.endswith(": DAMAGED")
    assert f"{second}.h5" in damaged


def test_film_itself_is_compared_where_films_are_at_hand(tmp_path: Path):
    (tmp_path / "films").mkdir()
    (tmp_path / "films/film_0.mp4").write_bytes(b"a film")
    features = write_features(tmp_path, [30]) / "film_0.h5"
    assert [link.is_intact for link in chain(features, tmp_path / "films")] == [True, False]  # made-up sha256
    assert "say --videos" in list(chain(features))[1].text
    (tmp_path / "films/film_0.mp4").unlink()
    assert "MISSING" in list(chain(features, tmp_path / "films"))[1].text


def test_run_and_index_from_before_inputs_were_kept_say_so(run: Path, bank: Path):
    (run / "environment.json").write_text("{}")
    assert Link(1, "its index files are not known: it was started before they were kept") in chain(run)
    with h5py.File(bank / "test_indices.h5", "r+") as file:
        del file["video_digests"]
    assert any("is not known" in link.text for link in chain(bank / "test_indices.h5"))


def test_command_prints_the_chain_and_tells_by_its_status(run: Path, bank: Path):
    def ask(*words: object) -> subprocess.CompletedProcess[str]:
        return run_here("recognition.provenance", *words, cwd=Path.cwd())

    whole = run_script("recognition.provenance", run, cwd=Path.cwd())
    assert (whole.returncode, whole.stderr) == (0, "")
    assert whole.stdout.count("unchanged") == 8
    remake(bank, "film_3")
    assert ask(run).returncode == 1
    other = ask(ROOT / "Makefile")
    assert (other.returncode, other.stdout) == (2, "")
    assert "neither a run nor in one" in other.stderr
    assert "no such file or folder" in ask("absent").stderr
