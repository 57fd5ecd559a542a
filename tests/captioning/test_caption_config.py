"""Settings of captioners: those that are shipped, and those that do not go together."""

from pathlib import Path

import pytest
from conftest import ROOT

from captioning.captioner import Captioner
from captioning.config import CaptionSettings
from recognition.common.command_line import InputError
from recognition.training.config import dump_config, load_settings

FILES = sorted((ROOT / "config-files/captioning").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_shipped_settings_load_and_their_header_says_the_command(file: Path):
    config = load_settings(CaptionSettings, file)
    command = f"#   python -m captioning.train -f {file.relative_to(ROOT)}"
    assert command in file.read_text().splitlines()
    assert config.name == file.stem


def test_there_are_settings_as_published_and_for_the_demo():
    assert {"demo", "published"} <= {file.stem for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_settings_written_are_the_settings_read(file: Path, tmp_path: Path):
    config = load_settings(CaptionSettings, file)
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_settings(CaptionSettings, tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("training.rate=1",), "training.rate: unknown key"),
        (("data.frame=last",), "data.frame: unknown key; did you mean 'frames'?"),
        (("data.frames=second",), "data.frames"),
        (("memory.scope=episode",), "memory.scope"),
        (("memory.model=knn",), "memory.model: unknown model 'knn'"),
        (("generation.top_p=1.5",), "generation.top_p"),
        (("generation.temperature=0",), "generation.temperature"),
        (("language_model.train=mapper",), "language_model.train: made-of-captions has learned nothing yet"),
        (("training.warmup=2",), "training.warmup"),
    ],
)
def test_wrong_settings_are_named(words, told: str):
    with pytest.raises(InputError) as error:
        load_settings(CaptionSettings, ROOT / "config-files/captioning/demo.yaml", words)
    assert told in str(error.value)


def test_published_settings_are_those_of_its_mapper(monkeypatch: pytest.MonkeyPatch):
    from language_folder import folder

    from captioning.language import load_language

    config = load_settings(CaptionSettings, ROOT / "config-files/captioning/published.yaml")
    config = config.model_copy(update={"generation": config.generation.model_copy(update={"stop": "."})})
    captioner = Captioner(config, 512, load_language(str(folder())))
    assert captioner.scope == "clip"
    assert len(captioner.mapper.layers) == 8
    assert len(captioner.mapper.memory_layers) == 2
