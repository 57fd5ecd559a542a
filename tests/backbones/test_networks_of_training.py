"""The network with which a training starts: what it takes from weights, what it draws, and what it says of itself."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from labelled_films import classifier, held_films, settings
from safetensors.torch import save_file

from backbones.networks import build_backbone, eye_of, read_weights
from models.clip_networks import clip_network
from recognition.common.command_line import InputError
from recognition.features.weights_file import read_eye, write_backbone

CLIPS = torch.randint(0, 256, (2, 4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def write_weights(tmp_path: Path) -> Callable[..., Path]:
    """The weights of a drawn network in a file."""

    def write(name: str = "r3d_mini", num_classes: int = 400, fc: bool = True, seed: int = 7, **shape) -> Path:
        torch.manual_seed(seed)
        state = clip_network(name, num_classes, **{"width": 4} | shape).state_dict()
        path = tmp_path / "weights.safetensors"
        save_file({key: x.contiguous() for key, x in state.items() if fc or not key.startswith("fc.")}, path)
        return path

    return write


def features(config) -> torch.Tensor:
    backbone, _ = build_backbone(config)
    with torch.no_grad():
        return backbone.eval()(CLIPS)


def test_without_weights_the_seed_draws_the_network():
    one, same, other = (build_backbone(settings(training={"seed": seed}))[0] for seed in (3, 3, 4))
    torch.testing.assert_close(one.state_dict(), same.state_dict(), rtol=0, atol=0)
    assert not torch.equal(one.network.layer1[0].conv1[0].weight, other.network.layer1[0].conv1[0].weight)
    assert build_backbone(settings())[1] == set()


def test_drawing_leaves_the_generators_alone():
    torch.manual_seed(1)
    wanted = torch.rand(2)
    torch.manual_seed(1)
    build_backbone(settings())
    assert torch.equal(torch.rand(2), wanted)


@pytest.mark.parametrize("file", [{"fc": False}, {"num_classes": 3}, {"num_classes": 101}])
def test_all_but_the_last_layer_is_loaded_and_that_one_starts_anew(file: dict, write_weights: Callable):
    path = write_weights(**file)
    config = settings(network={"weights": str(path)})
    model, loaded = classifier(config, held_films())
    state = read_weights(path)
    own = {name: x for name, x in model.weights().items() if not name.startswith("fc.")}
    assert loaded == set(own)
    assert all(torch.equal(x, state[name]) for name, x in own.items())
    assert model.head.weight.abs().max() < 0.1
    assert not model.head.bias.any()


def test_new_residual_gates_leave_the_features_of_loaded_weights_as_they_were(write_weights: Callable):
    path = str(write_weights())
    plain = features(settings(network={"weights": path}))
    gated = settings(network={"weights": path, "temporal_gates": {"fuse": "residual"}})
    torch.testing.assert_close(features(gated), plain, rtol=0, atol=0)
    backbone, loaded = build_backbone(gated)
    assert 0 < len(loaded) < len(backbone.network.state_dict())


def test_gates_of_the_weights_are_loaded(write_weights: Callable):
    path = write_weights(temporal_gates={"fuse": "sigmoid"})
    config = settings(network={"weights": str(path), "temporal_gates": {"fuse": "sigmoid"}})
    backbone, loaded = build_backbone(config)
    assert loaded == set(backbone.network.state_dict())
    assert all(torch.equal(x, read_weights(path)[name]) for name, x in backbone.network.state_dict().items())
    with pytest.raises(InputError, match=r"^network\.weights: .* does not fit r3d_mini: \d+ of its entries fit"):
        build_backbone(settings(network={"weights": str(path)}))


@pytest.mark.parametrize(("file", "told"), [({"width": 8}, "does not fit r3d_mini"), ({"name": "r3d_10"}, "fits? n")])
def test_weights_that_do_not_fit_are_refused_in_one_line(file: dict, told: str, write_weights: Callable, capsys):
    config = settings(network={"weights": str(write_weights(**file)), "width": 5})
    with pytest.raises(
        InputError, match=rf"^network\.weights: .*{told}.*network\.partial=true to load what fits$"
    ) as e:
        build_backbone(config)
    assert "\n" not in str(e.value)


def test_partial_loads_what_fits_and_tells_what_does_not(write_weights: Callable, capsys):
    path = write_weights(name="r3d_18")
    config = settings(network={"weights": str(path), "partial": True})
    backbone, loaded = build_backbone(config)
    state = read_weights(path)
    own = backbone.network.state_dict()
    assert loaded == {name for name in own if name in state and state[name].shape == own[name].shape}
    assert 0 < len(loaded) < len(state)
    assert all(torch.equal(own[name], state[name]) for name in loaded)
    assert capsys.readouterr().out.startswith("network.weights: ")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("none.safetensors", None, "no such file"),
        ("broken.safetensors", b"0123456789", "cannot be read as weights"),
        ("pointer.pt", b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
    ],
)
def test_file_that_cannot_be_read_is_named(name: str, content: bytes | None, told: str, tmp_path: Path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"^network\.weights: {tmp_path / name}: {told}"):
        build_backbone(settings(network={"weights": str(tmp_path / name)}))


def test_torchvisions_weights_are_for_its_networks_alone(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(InputError, match=r"^network\.weights: DEFAULT: torchvision has none for r3d_mini; name a"):
        build_backbone(settings(network={"weights": "DEFAULT"}))

    def offline(*_: object, **__: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(InputError, match=r"^network\.weights: DEFAULT: could not be downloaded \(no route\); name"):
        build_backbone(settings(network={"name": "r3d_18", "width": None, "weights": "DEFAULT"}))


def test_random_weights_are_those_of_their_seed():
    one, same, other = (features(settings(network={"weights": f"random:{seed}"})) for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(one, features(settings(training={"seed": 3})))


def test_wrong_settings_of_a_network_are_told():
    with pytest.raises(InputError, match=r"^network: "):
        build_backbone(settings(network={"temporal_gates": {"fuse": "glue"}}))


def test_eye_says_what_was_trained_and_how_it_sees():
    films = held_films()
    config = settings(clip={"stride": None, "fps": 7.5}, network={"name": "srtg_r3d_34"})
    eye = eye_of(config, films.train, ["b", "a"], films.classes)
    assert (eye.name, eye.gates, eye.width, eye.frames, eye.fps) == ("r3d_34", {}, 4, 4, 7.5)
    assert (eye.side, eye.keep_aspect, eye.classes, eye.films) == (32, False, tuple(films.classes), ("b", "a"))
    assert eye.run == "small"
    assert len(eye.config_digest) == 64


@pytest.mark.parametrize(("stride", "fps"), [(3, 10.0), ([2, 5, 4], 7.5), (1, None)])
def test_strides_of_films_with_a_rate_are_told_as_a_rate(stride, fps: float | None):
    eye = eye_of(settings(clip={"stride": stride}), held_films().train)
    assert eye.fps == fps


def test_strides_of_films_without_a_rate_need_one():
    from dataclasses import replace

    items = [replace(item, fps=0.0) for item in held_films().train]
    with pytest.raises(
        InputError, match=r"^data\.store_fps: is missing; weights are to say how fast frames 4 apart are"
    ):
        eye_of(settings(clip={"stride": [2, 5, 4]}), items)
    assert eye_of(settings(clip={"stride": 1}), items).fps is None


def test_classes_stand_in_the_file_of_weights(tmp_path: Path):
    films = held_films()
    model, _ = classifier(settings(), films)
    path = tmp_path / "weights.safetensors"
    eye = eye_of(settings(), films.train, ["0" * 64], films.classes)
    write_backbone(path, model.weights(), eye)
    assert read_eye(path).classes == tuple(films.classes)
