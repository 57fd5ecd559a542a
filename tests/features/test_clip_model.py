"""CLIP as a backbone of step 2, and frames of a rate: a small random CLIP in a folder stands for the published ones."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL_FEATURES, refusal
from safetensors.torch import load_file, save_file

from recognition.features.backbone import Backbone
from recognition.features.feature_file import map_features, read_header, read_shots, read_times
from recognition.features.preprocessing import Preprocessing, on_grid
from recognition.films.video import decode

CPU = torch.device("cpu")
PUBLISHED = {  # the processor's file as it stands beside the published weights, but for the sides
    "crop_size": 32,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": 32,
}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """A folder with a small CLIP, pictures and texts, and its processor."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("models") / "small-clip"
    sides = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "projection_dim": 24}
    pictures = sides | {"num_attention_heads": 4, "image_size": 32, "patch_size": 8}
    texts = sides | {"num_attention_heads": 2, "vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1}
    config = transformers.CLIPConfig(vision_config=pictures, text_config=texts, projection_dim=24)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.CLIPModel(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PUBLISHED))
    return folder


@pytest.fixture
def altered_clip(clip, tmp_path) -> Callable[..., Path]:
    """Make a copy of the folder with a JSON file in which some values are others."""

    def alter(file: str, **values: object) -> Path:
        folder = tmp_path / "other-clip"
        folder.mkdir(exist_ok=True)
        for path in clip.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        told = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(told | values))
        return folder

    return alter


def reference(folder: Path, images: list[np.ndarray]) -> np.ndarray:
    """Embeddings of pictures (H, W, 3) by transformers' own two classes."""
    from PIL import Image
    from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

    pixels = CLIPImageProcessor.from_pretrained(folder)([Image.fromarray(image) for image in images])["pixel_values"]
    pixels = torch.from_numpy(np.stack([np.asarray(p) for p in pixels]))
    with torch.inference_mode():
        return CLIPVisionModelWithProjection.from_pretrained(folder).eval()(pixel_values=pixels).image_embeds.numpy()


def assert_near(found: np.ndarray, due: np.ndarray) -> None:
    """Where transformers resizes by torchvision all is equal but for rounding; where by Pillow, one value in some
    hundred of a picture is rounded another way, which moves an embedding by less than a hundredth."""
    assert found.shape == due.shape
    np.testing.assert_allclose(found, due, rtol=0, atol=1e-2 * np.abs(due).max())
    assert np.abs(due[0] - due[-1]).max() > 0.1 * np.abs(due).max()  # a mix-up would show


@pytest.mark.parametrize("size", [(90, 161), (161, 90), (32, 32), (20, 31), (240, 320), (33, 47)])
@pytest.mark.parametrize("pictures", [{}, {"size": 40}, {"size": {"height": 36, "width": 48}}, {"resample": 2}])
def test_features_are_those_of_transformers_for_pictures_of_any_shape(altered_clip, size, pictures):
    folder = altered_clip("preprocessor_config.json", **pictures)
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(0, 255, (3, 3, 9, 12)))
    images = torch.nn.functional.interpolate(coarse, size, mode="bicubic").clamp(0, 255).to(torch.uint8)
    images[1] = images[1].flip(2)
    backbone = Backbone(str(folder), "DEFAULT", CPU, fast=False)
    found = backbone.features(torch.stack([backbone.preprocessing.crop(image) for image in images])).numpy()
    assert_near(found, reference(folder, [image.permute(1, 2, 0).numpy() for image in images]))


def test_films_get_clips_embeddings_of_the_frames_nearest_to_a_rate(tmp_path, clip, films, preprocess):
    (tmp_path / "videos").mkdir()
    film = films / "film_002.mp4"
    (tmp_path / "videos" / film.name).symlink_to(film)
    words = (f"--backbone={clip}", "--fps=5", "--dtype=float32", f"--input_dir={tmp_path / 'videos'}")
    words = (*words, f"--output_dir={tmp_path / 'features'}", "--batch_size=3")
    result = preprocess(*words)
    assert (result.returncode, result.stderr.count("error")) == (0, 0), result.stderr
    assert "1 films, 10 frames" in result.stdout
    path = tmp_path / "features" / "film_002.h5"
    header = read_header(path)
    name = "small-clip (num_attention_heads=4, resize=[32], crop=[32]), 5 frames a second"
    assert (header.backbone, header.weights, header.fps, header.num_frames) == (name, "DEFAULT", 5, 10)
    images, times = zip(*decode(film), strict=True)  # 24, 12 a second
    rows = [0, 2, 5, 7, 10, 12, 14, 17, 19, 22]
    assert read_times(path).tolist() == [times[row] for row in rows]
    assert_near(map_features(path), reference(clip, [images[row] for row in rows]))
    assert preprocess(*words).returncode == 0  # finished
    assert f"this run has {name.replace('5 fr', '4 fr')}" in refusal(preprocess(*words, "--fps=4"))


def test_workers_and_half_precision_find_the_same_embeddings(tmp_path, clip, films, preprocess):
    folder = tmp_path / "features"
    words = (f"--backbone={clip}", "--fps=4", "--workers=2", f"--input_dir={films}", f"--output_dir={folder}")
    result = preprocess(*words)
    assert result.returncode == 0, result.stderr
    film = films / "film_001.mp4"
    due = reference(clip, [image for image, _ in decode(film)][::3])
    found = map_features(folder / "film_001.h5").astype(np.float32)
    cosine = (found * due).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(due, axis=1)
    assert cosine.min() > 0.999


@pytest.mark.parametrize(
    ("times", "fps", "due"),
    [
        (np.arange(24) / 24, 5, [0, 5, 10, 14, 19]),
        (7 + np.arange(24) / 24, 5, [0, 5, 10, 14, 19]),
        (np.arange(6) / 3, 5, [0, 1, 2, 3, 4, 5]),
        (np.arange(9) / 10, 5, [0, 2, 4, 6, 8]),
        (np.arange(9) / 10, 4, [0, 3, 5, 8]),
        (np.array([0, 0.1, 0.9, 1.0, 1.05, 2.0]), 2, [0, 2, 3, 4, 5]),
        (np.array([3.0]), 2, [0]),
        (np.array([]), 2, []),
    ],
)
def test_kept_frames_are_nearest_to_even_times(times, fps, due):
    found = [row for row, _, is_due in on_grid(zip(range(len(times)), times, strict=True), fps) if is_due]
    assert found == due
    if len(times):
        even = times[0] + np.arange(0, round((times[-1] - times[0]) * fps, 6) + 1e-6) / fps
        nearest = {int(len(times) - 1 - np.abs(times[::-1] - t - 1e-9).argmin()) for t in even}
        assert found == sorted(nearest)


def test_frames_of_a_rate_are_for_networks_for_images_of_any_kind_and_name_themselves(films, tmp_path, preprocess):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "film_000.mp4").symlink_to(films / "film_000.mp4")
    folder = tmp_path / "features"
    words = (*SMALL_FEATURES, f"--input_dir={tmp_path / 'videos'}", f"--output_dir={folder}", "--alter_every=2")
    assert preprocess(*words, "--fps=3").returncode == 0
    whole = tmp_path / "whole"
    assert preprocess(*words, f"--output_dir={whole}").returncode == 0
    few, all_ = read_header(folder / "film_000.h5"), read_header(whole / "film_000.h5")
    assert (few.backbone, few.fps, few.num_frames) == ("shufflenet_v2_x0_5, 3 frames a second", 3, 6)
    assert (all_.backbone, all_.fps, all_.num_frames) == ("shufflenet_v2_x0_5", 12, 24)
    assert few.digest != all_.digest
    found, due = map_features(folder / "film_000.h5"), map_features(whole / "film_000.h5")[::4]
    np.testing.assert_allclose(found.astype(float), due.astype(float), rtol=0, atol=2e-3 * np.abs(due).max())
    assert map_features(folder / "film_000.h5", "altered").shape == (3, 3, 1024)
    shots = read_shots(whole / "film_000.h5")
    assert read_shots(folder / "film_000.h5").tolist() == sorted({-(-shot // 4) for shot in shots.tolist()} - {6})


def test_without_a_rate_all_frames_are_read_and_nothing_is_named():
    assert list(on_grid(zip("abc", [0.0, 0.1, 0.1], strict=True), None)) == [
        ("a", 0.0, True),
        ("b", 0.1, True),
        ("c", 0.1, True),
    ]
    assert Backbone("shufflenet_v2_x0_5", "random:0", CPU).name == "shufflenet_v2_x0_5"
    assert (Preprocessing("resnet18").rate(24), Preprocessing("r3d_18").rate(24)) == (24, 1.5)
    assert [Preprocessing("resnet18", frame_fps=5).rate(fps) for fps in (0, 3, 24)] == [5, 3, 5]


def test_rate_of_frames_is_refused_for_networks_for_videos(films, preprocess):
    words = ("--backbone=r3d_18", "--weights=random:0", "--fps=5", f"--input_dir={films}")
    assert "--fps 5: r3d_18 reads windows, not single frames; say --clip_fps" in refusal(preprocess(*words))


@pytest.mark.parametrize(
    ("file", "values", "named"),
    [
        ("config.json", {"model_type": "gpt2"}, "is a model of type gpt2, not CLIP"),
        ("preprocessor_config.json", {"do_center_crop": False}, "not of CLIP's kind: do_center_crop is false"),
        ("preprocessor_config.json", {"rescale_factor": 1.0}, "not of CLIP's kind: rescale_factor is 1.0"),
        ("preprocessor_config.json", {"resample": 1}, "has resample 1, not 0, 2 or 3"),
        ("preprocessor_config.json", {"crop_size": {"height": 32, "width": 16}}, "which is no square"),
        ("preprocessor_config.json", {"size": {"shortest_edge": 30}}, "of pictures of {'shortest_edge': 30}"),
    ],
)
def test_folder_that_is_no_clip_is_refused_in_one_line(altered_clip, films, preprocess, file, values, named):
    folder = altered_clip(file, **values)
    told = refusal(preprocess(f"--backbone={folder}", f"--input_dir={films}"))
    assert f"--backbone {folder}: " in told
    assert named in told


def test_folder_that_is_not_whole_is_refused_in_one_line(altered_clip, films, preprocess):
    folder = altered_clip("config.json")
    words = (f"--backbone={folder}", f"--input_dir={films}")
    state = load_file(folder / "model.safetensors")
    save_file(
        {k: v for k, v in state.items() if "visual_projection" not in k}, folder / "model.safetensors", {"format": "pt"}
    )
    assert "its weights lack 1 tensors, such as visual_projection.weight" in refusal(preprocess(*words))
    (folder / "model.safetensors").write_bytes(b"\x20" * 100)
    assert "cannot be read from this folder" in refusal(preprocess(*words))
    torch.save(state, folder / "pytorch_model.bin")  # which would be unpickled
    (folder / "model.safetensors").unlink()
    assert "cannot be read from this folder" in refusal(preprocess(*words))
    (folder / "preprocessor_config.json").unlink()
    assert "cannot be read from this folder" in refusal(preprocess(*words))


def test_name_on_the_hub_that_cannot_be_had_is_refused_in_seconds(films, preprocess, monkeypatch):
    pytest.importorskip("transformers")
    from huggingface_hub import constants

    words = ("--backbone=nobody/no-clip", f"--input_dir={films}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "nobody/no-clip: is no folder, and not to be had from the hub" in refusal(preprocess(*words))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    before_s = time.monotonic()
    assert "http://127.0.0.1:9 cannot be reached (" in refusal(preprocess(*words))
    assert time.monotonic() - before_s < 20  # left alone, it would be tried for 45


def test_clip_without_transformers_names_what_to_install(films, preprocess, monkeypatch, clip):
    monkeypatch.setitem(sys.modules, "transformers", None)
    told = refusal(preprocess(f"--backbone={clip}", f"--input_dir={films}"))
    assert "needs transformers: pip install -e '.[captioning]'" in told


def test_options_for_other_networks_are_refused(clip, films, preprocess):
    words = (f"--backbone={clip}", f"--input_dir={films}")
    assert "--weights random:0: " in refusal(preprocess(*words, "--weights=random:0"))
    assert "--temporal_gates: " in refusal(preprocess(*words, "--temporal_gates"))
    assert "--clip_fps 5: small-clip" in refusal(preprocess(*words, "--clip_fps=5"))
