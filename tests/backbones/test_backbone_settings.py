"""Settings of backbones: every file that is shipped loads, and what does not go together is refused in one line."""

from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from backbones.config import ClassifySettings, PretrainSettings
from recognition.common.command_line import InputError
from recognition.training.config import dump_config, load_settings

SHIPPED = sorted((ROOT / "config-files/backbones").rglob("*.yaml"))


def schema_of(path: Path) -> type[ClassifySettings | PretrainSettings]:
    return PretrainSettings if "byol" in yaml.safe_load(path.read_text()) else ClassifySettings


def load(path: Path, *words: str) -> ClassifySettings | PretrainSettings:
    schema = schema_of(path)
    needs_weights = path.parent.name in ("linear", "finetune") or path.stem == "probe"
    return load_settings(schema, path, [*words, *(["network.weights=x.safetensors"] if needs_weights else [])])


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT / "config-files/backbones")))
def test_shipped_file_loads_and_says_how_it_is_started(path: Path):
    config = load(path)
    command = "pretrain" if isinstance(config, PretrainSettings) else "classify"
    assert f"python -m backbones.{command} -f {path.relative_to(ROOT)}" in path.read_text()


def test_dumped_settings_load_back_equal(tmp_path: Path):
    for path in SHIPPED:
        config = load(path)
        (tmp_path / "config.yaml").write_text(dump_config(config))
        assert load_settings(type(config), tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("byol: {}\nnetwork: {name: r3d_19}", "network.name: unknown network 'r3d_19'; did you mean 'r3d_18'"),
        ("byol: {}\nclip: {fps: null}", "clip.fps: is missing; set it, or clip.stride"),
        ("byol: {}\nclip: {side: 8}", "clip.side: must be greater than or equal to 16, found 8"),
        ("byol: {}\naugmentation: {area: [0.7, 0.2]}", "augmentation.area: must be two numbers above 0 that ascend"),
        ("byol: {}\ntraining: {schedule: steps}", "training.rate_steps: is missing"),
        ("byol: {predicter: memory}", "byol.predicter: unknown key; did you mean 'predictor'"),
        ("classifier: {}", "data.list: is missing"),
        ("data: {list: a.csv}\nclassifier: {train: linear}", "network.weights: is missing"),
        ("data: {list: a.csv}\nmultigrid: {long: true}", "training.schedule: multigrid follows the steps"),
        ("data: {list: a.csv}\nclassifier: {rates_of: {old: 1}}", "classifier.rates_of.old: unknown key"),
        ("data: {list: a.csv}\ntraining: {rate_steps: [4, 2]}", "training.rate_steps: must ascend, found [4, 2]"),
    ],
)
def test_wrong_setting_is_told_by_its_name(tmp_path: Path, text: str, told: str):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(InputError) as error:
        load(tmp_path / "x.yaml")
    assert told in str(error.value)
