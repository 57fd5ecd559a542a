"""The YAML schema: what loads, what is refused and in which words; every shipped file."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT

from models import CONFIGS, PUBLISHED_NAMES, build_model
from models.recogniser import Layout
from recognition.common.command_line import InputError
from recognition.training.config import RunConfig, check_model, describe_keys, dump_config, load_config

MINIMAL = "model: {model: transformer}"
OTHERS = {"sweeps", "backbones", "captioning"}  # which have tests of their own
FOLDER = ROOT / "config-files"
SHIPPED = sorted(path for path in FOLDER.rglob("*.yaml") if path.relative_to(FOLDER).parts[0] not in OTHERS)
DEMOS = [path for path in SHIPPED if path.parent.name == "demo"]

# The keys and values of the published study's files.
PUBLISHED = """
show_timing: False
logging:
  wandb: False
  wandb_project: "Memory task"
  logfile: "log/run.log"
dataset:
  train_indices_file: "video-features/train_indices.npz"
  test_indices_file: "video-features/test_indices.npz"
  video_path: "video-features"
  subsample: 3
  repeat_test: 1
  mmap: False
model:
  model: "{model}"
  args: {args}
  load: False
  load_path: ""
  save: True
  save_path: "saved_models/model.pt"
training:
  learning_rate: 1e-4
  n_epochs: 100
  batch_size: 16
  num_workers: 8
"""
PUBLISHED_ARGS = {
    "TransformerEncoder": "{d_embed: 64, n_heads: 1, n_layers: 2, no_self: True}",
    "xLSTM": "{num_heads: 1, proj_factor: 1, conv1d_kernel_size: 2, n_layers: 1}",
    "Mamba": "{n_layers: 2, d_state: 64, d_conv: 4, expand: 2}",
    "LSTM": "{n_layers: 2}",
}


def load(path: Path, *overrides: str) -> RunConfig:
    return check_model(load_config(path, overrides), CONFIGS, PUBLISHED_NAMES, path)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_shipped_config_loads(path: Path):
    config = load(path)
    assert config.name == path.stem
    head = path.read_text().partition("\ndataset:")[0]
    assert all(word in head for word in ("python ", "Machine", "Score"))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_model_has_a_demo(name: str):
    """Of its own, or as a layer of a mixed one: temporal gates are no memory."""
    models = [load(path).model for path in DEMOS]
    assert any(name in (model.model, *model.args.get("layers", ())) for model in models)


@pytest.mark.parametrize("path", [path for path in SHIPPED if path not in DEMOS], ids=lambda path: path.stem)
def test_shipped_config_builds_a_model_of_the_published_scale(path: Path):
    config = load(path)
    model = build_model(
        config.model.model,
        CONFIGS[config.model.model](**config.model.args),
        Layout(512, 180, probes_write=config.model.probes_write),
    )
    assert model.state_size(9000) > 0
    assert model(torch.randn(1, 190, 512)).shape == (1, 180)


@pytest.mark.parametrize("model", PUBLISHED_ARGS)
def test_published_config_loads_unchanged(model: str, write_yaml: Callable):
    config = load(write_yaml(PUBLISHED.format(model=model, args=PUBLISHED_ARGS[model])))
    assert config.model.model == PUBLISHED_NAMES[model]
    assert config.training.learning_rate == 1e-4
    assert config.dataset.subsample == 3
    assert config.dataset.mmap is False


def test_published_defaults_are_the_published_transformer(write_yaml: Callable):
    args = load(write_yaml(MINIMAL)).model.args
    assert (args["d_embed"], args["n_layers"], args["n_heads"], args["no_self"]) == (64, 2, 1, True)


def test_dumped_config_loads_back_equal(write_yaml: Callable):
    config = load(write_yaml(PUBLISHED.format(model="xLSTM", args="{}")), "training.learning_rate=3e-5", "name=é")
    assert load(write_yaml(dump_config(config), "again.yaml")) == config


MIXED = "model: {{model: mixed, args: {{d_embed: 32, {args}}}}}"


@pytest.mark.parametrize(
    "args",
    [
        "layers: [mamba2, transformer, mamba2], mamba2: {A_init_range: [0.1, 1]}, transformer: {n_heads: 2}",
        "layers: [ur_lstm, mlstm, lstm], key_value_slots: 9, ur_lstm: {checkpoint_every: null}",
    ],
)
def test_dumped_mixed_stack_loads_back_equal(args: str, write_yaml: Callable):
    config = load(write_yaml(MIXED.format(args=args)))
    assert load(write_yaml(dump_config(config), "again.yaml")) == config


def test_dumped_mixed_stack_holds_all_settings_of_its_families_and_those_of_no_other(write_yaml: Callable):
    path = write_yaml(MIXED.format(args="layers: [mamba2, transformer], transformer: {n_heads: 2}"))
    args = yaml.safe_load(dump_config(load(path)))["model"]["args"]
    assert args.keys() == {"d_embed", "key_value_slots", "match_init", "layers", "mamba2", "transformer"}
    for family in ("mamba2", "transformer"):
        own = CONFIGS[family].model_fields.keys() - {"d_embed", "key_value_slots", "match_init", "n_layers"}
        assert args[family].keys() == own
    assert args["transformer"]["n_heads"] == 2


def test_settings_of_a_family_in_a_mixed_stack_can_be_changed_on_the_command_line(write_yaml: Callable):
    path = write_yaml(MIXED.format(args="layers: [mamba2, transformer], transformer: {n_heads: 2}"))
    assert load(path, "model.args.transformer.n_heads=4").model.args["transformer"]["n_heads"] == 4
    assert load(path, "model.args.mamba2.d_state=8").model.args["mamba2"]["d_state"] == 8
    args = load(path, "model.args.layers=[mlstm]", "model.args.transformer=null").model.args
    assert args.keys() == {"d_embed", "key_value_slots", "match_init", "layers", "mlstm"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("mamba2: {}", "model.args.layers: is missing"),
        ("layers: []", "model.args.layers: is too short, found []"),
        ("layers: 2", "model.args.layers: must be a list, found 2"),
        ("layers: null", "model.args.layers: must be a list, found None"),
        ("layers: [2]", "model.args.layers.0: must be 'transformer', 'lstm',"),
        ("layers: mamba2", "model.args.layers: must be a list, found 'mamba2'"),
        ("layers: [lstm, mamba]", "model.args.layers.1: must be 'transformer', 'lstm',"),
        ("layers: [lstm, mixed]", "found 'mixed'"),
        ("layers: [mamba2], mamba: {}", "model.args.mamba: unknown key; did you mean 'mamba2'?"),
        ("layers: [mamba2], mamba2: {d_stat: 8}", "model.args.mamba2.d_stat: unknown key; did you mean 'd_state'?"),
        ("layers: [mamba2], mamba2: {d_state: 0}", "model.args.mamba2.d_state: must be greater than or equal to 1"),
        ("layers: [mamba2], mamba2: 3", "model.args.mamba2: must be a mapping, found 3"),
        ("layers: [mamba2], lstm: {}", "model.args.lstm: layers names no lstm"),
        ("layers: [mamba2], mamba2: {d_embed: 64}", "model.args.mamba2: d_embed is the same for all layers"),
        ("layers: [mamba2], mamba2: {key_value_slots: 9}", "model.args.mamba2: key_value_slots is the same for all"),
        ("layers: [mamba2], mamba2: {n_layers: 2}", "model.args.mamba2: n_layers is given by layers"),
        (
            "layers: [mamba2, transformer], transformer: {n_heads: 3}",
            "model.args.transformer: d_embed 32 cannot be shared among n_heads 3",
        ),
        ("layers: [mamba2], n_layers: 2", "model.args.n_layers: unknown key; did you mean 'layers'?"),
    ],
)
def test_impossible_mix_is_refused_in_one_line_that_names_the_key(args: str, message: str, write_yaml: Callable):
    path = write_yaml(MIXED.format(args=args))
    with pytest.raises(InputError) as error:
        load(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {model: transformer}\nmodle: 1", "modle: unknown key; did you mean 'model'?"),
        ("model: {model: transformer, arg: {}}", "model.arg: unknown key; did you mean 'args'?"),
        ("model: {model: transformer, args: {n_head: 2}}", "model.args.n_head: unknown key; did you mean 'n_heads'?"),
        ("model: {model: transformer, args: {layers: [lstm]}}", "model.args.layers: unknown key; stacks of several"),
        ("model: {model: xLSTM, args: {layers: 2}}", "families are model.model=mixed, n_layers counts those of one"),
        ("model: {model: transfomer}", "model.model: unknown model 'transfomer'; did you mean 'transformer'?"),
        ("model: {model: transformer, args: {n_heads: 3}}", "model.args: d_embed 64 cannot be shared among n_heads 3"),
        (
            "model: {model: mlstm, args: {d_embed: 0}}",
            "model.args.d_embed: must be greater than or equal to 1, found 0",
        ),
        (
            f"{MINIMAL}\ntraining: {{learning_rate: fast}}",
            "training.learning_rate: must be a valid number, found 'fast'",
        ),
        (f"{MINIMAL}\ntraining: {{n_epochs: 1.5}}", "training.n_epochs: must be a valid integer, found 1.5"),
        (f"{MINIMAL}\ntraining: {{learning_rate: .inf}}", "training.learning_rate: must be a finite number, found inf"),
        (
            f"{MINIMAL}\ntraining: {{schedule: cosin}}",
            "training.schedule: must be 'constant' or 'cosine', found 'cosin'",
        ),
        (f"{MINIMAL}\ndataset: {{subsample: 0}}", "dataset.subsample: must be greater than or equal to 1, found 0"),
        (f"{MINIMAL}\nlogging: {{wandb: 1}}", "logging.wandb: must be a valid boolean, found 1"),
        (f"{MINIMAL}\ndataset: []", "dataset: must be a mapping, found []"),
        (f"{MINIMAL}\nname: ../elsewhere", "name: must match pattern"),
        ("training: {}", "model: is missing"),
        ("- a\n- b", "must hold a mapping of keys to values"),
        ("model: {", "not valid YAML"),
        ("a: !!python/object:os.system x", "not valid YAML"),
    ],
)
def test_wrong_config_is_refused_in_one_line_that_names_the_key(text: str, message: str, write_yaml: Callable):
    path = write_yaml(text)
    with pytest.raises(InputError) as error:
        load(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_file_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"absent\.yaml: No such file"):
        load(tmp_path / "absent.yaml")


def test_overrides_win_over_the_file_and_later_ones_over_earlier(write_yaml: Callable):
    path = write_yaml(f"{MINIMAL}\ntraining: {{learning_rate: 1e-2, batch_size: 4}}")
    config = load(path, "training.learning_rate=1e-3", "--training.learning_rate=3e-4", "model.args.n_layers=5")
    assert (config.training.learning_rate, config.training.batch_size) == (3e-4, 4)
    assert config.model.args["n_layers"] == 5


def test_a_mapping_changes_the_keys_that_it_names_and_no_others(write_yaml: Callable):
    """Nested parameters of a sweep of Weights & Biases arrive as Python prints a dict."""
    path = write_yaml(f"{MINIMAL}\ntraining: {{gradient_clip: 2.0, batch_size: 4}}")
    training = load(path, "--training={'learning_rate': 1e-05, 'gradient_clip': None}").training
    assert (training.learning_rate, training.gradient_clip, training.batch_size) == (1e-5, None, 4)


def test_runs_of_a_sweep_of_weights_and_biases_have_names_of_their_own(
    write_yaml: Callable, monkeypatch: pytest.MonkeyPatch
):
    path = write_yaml(MINIMAL)
    monkeypatch.setenv("WANDB_RUN_ID", "k3y")
    assert load(path).name == "run"
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep9")
    assert load(path).name == "run-k3y"
    assert load(path, "name=mine").name == "mine"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.learning_rat=1", "training.learning_rat: unknown key; did you mean 'learning_rate'?"),
        ("training.learning_rate", "'training.learning_rate' is not of the form key=value"),
        ("name.first=x", "name is not a mapping"),
        ("name=[", "the value is not valid YAML"),
    ],
)
def test_wrong_override_is_refused(override: str, message: str, write_yaml: Callable):
    path = write_yaml(f"name: n\n{MINIMAL}")
    with pytest.raises(InputError) as error:
        load(path, override)
    assert message in str(error.value)


@pytest.mark.parametrize("number", ["1e-3", "1.0e-3", "1E-3", ".1e-2", "0.001"])
def test_numbers_in_every_notation_are_numbers(number: str, write_yaml: Callable):
    assert load(write_yaml(f"{MINIMAL}\ntraining: {{learning_rate: {number}}}")).training.learning_rate == 1e-3


def test_help_lists_every_key():
    text = describe_keys()
    for section, field in RunConfig.model_fields.items():
        for key in getattr(field.annotation, "model_fields", {}):
            assert f"{section}.{key} " in text


def test_key_given_twice_is_refused(write_yaml):
    with pytest.raises(InputError, match="learning_rate is given twice"):
        load(write_yaml(f"{MINIMAL}\ntraining: {{learning_rate: 1e-3, learning_rate: 1e-4}}"))


@pytest.mark.parametrize("name", ["1e-3", "1e400", "true", "null", "2001-01-01", "0x10"])
def test_text_that_looks_like_something_else_is_dumped_as_text(tmp_path: Path, name: str):
    (tmp_path / f"{name}.yaml").write_text(MINIMAL)
    config = load(tmp_path / f"{name}.yaml")
    (tmp_path / "dumped.yaml").write_text(dump_config(config))
    assert load(tmp_path / "dumped.yaml") == config
    assert config.name == name


def test_file_whose_name_cannot_be_that_of_a_folder_needs_another(tmp_path: Path):
    (tmp_path / "my run.yaml").write_text(MINIMAL)
    with pytest.raises(InputError, match="name: must match pattern"):
        load(tmp_path / "my run.yaml")
    assert load(tmp_path / "my run.yaml", "name=mine").name == "mine"


def test_own_folder_is_spelled_out_in_every_path(write_yaml: Callable, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/me")
    path = write_yaml(
        "dataset: {train_indices_file: ~/a.h5, test_indices_file: ~/b.h5}\n"
        "model: {model: lstm, load_path: ~/w.pt, save_path: ~/v.pt}\nlogging: {logfile: ~/log}"
    )
    config = load_config(path, ["dataset.video_path=~/features", "dataset.validation_indices_file=~/c.h5"])
    dataset = config.dataset
    assert (dataset.train_indices_file, dataset.validation_indices_file) == ("/home/me/a.h5", "/home/me/c.h5")
    assert (dataset.test_indices_file, dataset.video_path) == ("/home/me/b.h5", "/home/me/features")
    assert (config.model.load_path, config.model.save_path) == ("/home/me/w.pt", "/home/me/v.pt")
    assert config.logging.logfile == "/home/me/log"
    with pytest.raises(InputError, match=r"dataset\.video_path: '~nobody-of-this-name': no such user"):
        load_config(path, ["dataset.video_path=~nobody-of-this-name"])
