"""Files of trained backbones: what is written is read, and what cannot be meant is refused in one line."""

import hashlib
import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from conftest import ROOT, run_script
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.clip_networks import clip_network
from recognition.common.command_line import InputError
from recognition.features.weights_file import Eye, read_eye, write_backbone

FILMS = ("b" * 64, "a" * 64, "b" * 64)
EYE = Eye(
    name="r3d_10",
    width=4,
    gates={"fuse": "residual", "stages": [2, 3], "hidden": 3},
    dilate_last=True,
    expansion=1,
    stem_pool=True,
    frames=8,
    fps=7.5,
    side=32,
    keep_aspect=True,
    mean=(0.5, 0.25, 0.125),
    deviation=(0.2, 0.3, 0.4),
    run="runs/films é",
    code_revision="c0ffee",
    config_digest="d" * 64,
    films=FILMS,
)


def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return clip_network("r3d_10", num_classes=2, temporal_gates=EYE.gates, **EYE.shape).state_dict()


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


def change(path: Path, **values: str | None) -> None:
    """Write a file anew with other metadata; without those that are None."""
    others = {name: value for name, value in (metadata(path) | values).items() if value is not None}
    save_file(load_file(path), path, others)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    write_backbone(path, state(), EYE)
    return path


def test_eye_and_weights_are_read_back(written):
    assert read_eye(written) == replace(EYE, films=("a" * 64, "b" * 64))
    found, due = load_file(written), state()
    assert found.keys() == due.keys()
    assert all(torch.equal(value, due[name]) for name, value in found.items())
    assert (written.parent / "films.txt").read_text() == f"{'a' * 64}\n{'b' * 64}\n"
    assert {path.name for path in written.parent.iterdir()} == {"films.txt", "weights.safetensors"}


def test_metadata_are_text_and_leave_out_what_is_usual(tmp_path, written):
    plain = tmp_path / "plain" / "weights.safetensors"
    plain.parent.mkdir()
    write_backbone(plain, {}, Eye("r3d_mini"))
    told = metadata(plain)
    usual = {"backbone": "r3d_mini", "width": "16", "gates": "null", "frames": "16", "fps": "null", "side": "112"}
    usual |= {"keep_aspect": "false", "run": "", "code_revision": "", "config_digest": "", "num_films": "0"}
    usual |= {"mean": "[0.43216, 0.394666, 0.37645]", "deviation": "[0.22803, 0.22145, 0.216989]"}
    assert told == usual | {"films_digest": hashlib.sha256(b"").hexdigest()}
    assert read_eye(plain) == Eye("r3d_mini", width=16)
    assert metadata(written).keys() == told.keys() | {"dilate_last", "expansion", "stem_pool"}
    films = (written.parent / "films.txt").read_bytes()
    assert metadata(written)["films_digest"] == hashlib.sha256(films).hexdigest()
    assert metadata(written)["num_films"] == "2"
    assert json.loads(metadata(written)["gates"]) == EYE.gates


def test_every_setting_is_kept(tmp_path):
    eye = replace(EYE, classes=("slide, then rise", "fall"), films=())
    assert all(getattr(eye, field.name) != field.default for field in fields(Eye)[:-1])
    write_backbone(tmp_path / "weights.safetensors", {}, eye)
    assert read_eye(tmp_path / "weights.safetensors") == eye


def test_equal_weights_give_equal_bytes_in_another_process(written):
    code = (
        "import sys; sys.path[:0] = ['tests', 'tests/features']\n"
        "from test_weights_file import EYE, state, write_backbone\n"
        "write_backbone(sys.argv[1], state(), EYE)"
    )
    other = written.with_name("other.safetensors")
    assert run_script("-c", code, other, cwd=ROOT).returncode == 0
    assert other.read_bytes() == written.read_bytes()


def test_tensors_that_lie_otherwise_in_memory_are_written_too(tmp_path):
    network = clip_network("r3d_10", num_classes=2, width=4).to(memory_format=torch.channels_last_3d)
    write_backbone(tmp_path / "w.safetensors", network.state_dict(), Eye("r3d_10", width=4))
    assert torch.equal(load_file(tmp_path / "w.safetensors")["stem.0.weight"], network.stem[0].weight)


def test_weights_of_others_say_nothing_of_an_eye(tmp_path, written):
    save_file(load_file(written), tmp_path / "plain.safetensors", {"format": "pt"})
    torch.save({}, tmp_path / "weights.pth")
    assert read_eye(tmp_path / "plain.safetensors") is read_eye(tmp_path / "weights.pth") is None


def test_what_a_later_version_may_say_besides_is_passed_over(written):
    change(written, colour_of_the_eye="blue")
    assert read_eye(written).name == "r3d_10"


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"backbone": "r3d_19"}, "is of a network 'r3d_19', which is not known here"),
        ({"gates": "{fuse"}, "its metadata gates is no JSON: {fuse"),
        ({"gates": "[1]"}, "its metadata gates: "),
        ({"gates": '{"fuze": 1}'}, "its metadata fuze: no setting has this name"),
        ({"width": "0"}, "its metadata width: "),
        ({"width": '"4"'}, "its metadata width: "),
        ({"side": "0"}, "its metadata side: "),
        ({"width": "9" * 30}, "its metadata width: "),
        ({"gates": "[" * 100_000}, "its metadata gates is no JSON: [["),
        ({"gates": '{"stages": [[1]]}'}, "its metadata stages: must be some of 1, 2, 3 and 4, found [[1]]"),
        ({"gates": '{"hidden": 99999999999999}'}, "its metadata "),
        ({"fps": "-1"}, "its metadata fps: "),
        ({"fps": "NaN"}, "its metadata fps: "),
        ({"mean": "[1, 2]"}, "its metadata mean"),
        ({"expansion": "3"}, "its metadata expansion: must be 1 or 4"),
        ({"films_digest": "0" * 64}, "films.txt is not the one written with it"),
    ],
)
def test_metadata_that_cannot_be_meant_are_refused_in_one_line(written, values, named):
    change(written, **values)
    with pytest.raises(InputError) as error:
        read_eye(written)
    assert str(error.value).startswith(f"--weights {written}: ")
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_films_that_are_missing_or_others_are_noticed(written):
    films = written.with_name("films.txt")
    films.write_text("a" * 64 + "\n")
    with pytest.raises(InputError, match=r"films\.txt is not the one written with it"):
        read_eye(written)
    films.unlink()
    with pytest.raises(InputError, match=r"films\.txt is missing; bring it along"):
        read_eye(written)


@pytest.mark.parametrize("content", [b"", b"junk", b"version https://git-lfs.github.com/spec/v1\n", None])
def test_files_that_are_no_weights_are_refused(tmp_path, content):
    path = tmp_path / "weights.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"^--weights .*safetensors: (cannot be read|is a pointer|no such file)"):
        read_eye(path)
