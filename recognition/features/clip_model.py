"""The picture half of CLIP (Radford et al. 2021, arXiv:2103.00020) as a backbone, read by transformers.

A model is a name on the hub, such as openai/clip-vit-base-patch32, or a folder with config.json, model.safetensors and
preprocessor_config.json, as `save_pretrained` writes them. Nothing in it is unpickled or run.
"""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from models.vision import torchvision
from recognition.common.command_line import InputError, first_line, one_line
from recognition.common.files import is_of_system
from recognition.features.preprocessing import Pictures

Loaded = TypeVar("Loaded")
Mode = torchvision.transforms.InterpolationMode
KINDS = ("clip", "clip_vision_model")  # as config.json calls them
HEAD_WIDTH = 64  # in all published ones
USUAL = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
USUAL_PICTURES = Pictures(
    [224],
    [224],
    Mode.BICUBIC,
    (0.48145466, 0.4578275, 0.40821073),
    (0.26862954, 0.26130258, 0.27577711),
    rounds_down=True,
)
MODES = {0: Mode.NEAREST, 2: Mode.BILINEAR, 3: Mode.BICUBIC}  # by Pillow's numbers
STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
ANSWERS_S = 5.0  # a hub that has not answered by then is out of reach


@dataclass(frozen=True)
class ClipModel:
    """The network (N, 3, side, side) -> (N, num_features), and how pictures are prepared for it.

    Attributes:
        name: its name on the hub or that of its folder, with all in which it and its pictures are not as published.
    """

    name: str
    network: nn.Module
    num_features: int
    pictures: Pictures


class ImageEmbeddings(nn.Module):
    """Of pictures (N, 3, side, side) their embeddings (N, D), as long as they come."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model(pixel_values=pixels).image_embeds


def is_clip(name: str) -> bool:
    """Whether a backbone's name is a model of transformers, and not a network of torchvision or of ours."""
    return "/" in name or (Path(name) / "config.json").is_file()


def read_clip(name: str) -> ClipModel:
    """Read a model by its name on the hub, downloaded once, or from its folder.

    Raises InputError where it cannot be had, is no CLIP or lacks weights, where its pictures are prepared in another
    way than CLIP's, and without transformers; OSError if the system does not let its files be read.
    """
    option = f"--backbone {name}"
    transformers = import_transformers(option)

    def load(**options: Any) -> tuple[Any, dict[str, Any], Any]:
        kind = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False, **options).model_type
        if kind not in KINDS:
            raise InputError(f"{option}: is a model of type {kind}, not CLIP; name another")
        processor = transformers.CLIPImageProcessor.from_pretrained(name, **options)
        model, told = transformers.CLIPVisionModelWithProjection.from_pretrained(
            name, use_safetensors=True, trust_remote_code=False, output_loading_info=True, **options
        )
        return model, told, processor.to_dict()

    model, told, processor = loaded(load, name, option)
    if missing := sorted(told["missing_keys"]):
        raise InputError(one_line(f"{option}: its weights lack {len(missing)} tensors, such as {missing[0]}"))
    pictures, config = _pictures(processor, option), model.config
    usual = USUAL | {"num_attention_heads": config.hidden_size // HEAD_WIDTH}
    others = {key: getattr(config, key) for key in usual if getattr(config, key) != usual[key]}
    others |= {key: value for key, value in pictures.told().items() if value != USUAL_PICTURES.told()[key]}
    called = Path(name).resolve().name if Path(name).is_dir() else name
    called += f" ({', '.join(f'{key}={value}' for key, value in others.items())})" * bool(others)
    return ClipModel(called, ImageEmbeddings(model.float()), config.projection_dim, pictures)


def import_transformers(option: str) -> Any:
    """transformers, which then says no more than errors. Raises InputError, which names `option`, if it is missing."""
    try:
        import transformers
    except ImportError:
        raise InputError(f"{option}: needs transformers: pip install -e '.[captioning]'") from None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def loaded(load: Callable[..., Loaded], name: str, option: str) -> Loaded:
    """What `load`, given options of `from_pretrained`, makes of a folder or of a name on the hub.

    What has been downloaded before is taken as it is. A hub that does not answer is given up in seconds; left alone,
    transformers tries it for most of a minute. Raises InputError, naming `option`, or OSError.
    """
    try:
        try:
            return load(local_files_only=True)
        except (OSError, ValueError) as error:
            if is_of_system(error) or Path(name).is_dir() or not _is_in_reach(name, option):
                raise
        return load()
    except InputError:
        raise
    except Exception as error:  # of several kinds: no such file, damaged weights, tensors of other shapes
        if is_of_system(error):
            raise
        if isinstance(error, json.JSONDecodeError) or Path(name).is_dir():
            raise InputError(one_line(f"{option}: cannot be read from this folder: {first_line(error)}")) from None
        raise InputError(
            one_line(f"{option}: is no folder, and not to be had from the hub ({first_line(error)}); give a folder")
        ) from None


def _is_in_reach(name: str, option: str) -> bool:
    """Whether the hub may be asked, and answers. Raises InputError if it should but does not."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or os.environ.get("TRANSFORMERS_OFFLINE", "0").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=ANSWERS_S).close()
    except urllib.error.HTTPError:  # an answer, too
        return True
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise InputError(
            one_line(f"{option}: is no folder, and {constants.ENDPOINT} cannot be reached ({reason}); give a folder")
        ) from None
    return True


def _pictures(processor: dict[str, Any], option: str) -> Pictures:
    """How a processor of transformers prepares pictures. Raises InputError for what CLIP's does not do."""
    skipped = [step for step in STEPS if not processor.get(step, True)]
    if skipped or abs(255 * processor["rescale_factor"] - 1) > 1e-6:
        what = f"{skipped[0]} is false" if skipped else f"rescale_factor is {processor['rescale_factor']}"
        raise InputError(f"{option}: its preprocessor_config.json is not of CLIP's kind: {what}")
    size, crop = ({key: value for key, value in processor[key].items() if value} for key in ("size", "crop_size"))
    size = dict(sorted(size.items()))  # height before width
    if not (set(size) in ({"shortest_edge"}, {"height", "width"}) and set(crop) == {"height", "width"}):
        raise InputError(f"{option}: its preprocessor_config.json has sizes of another kind: {size}, {crop}")
    if len(set(crop.values())) > 1:
        raise InputError(f"{option}: its preprocessor_config.json crops {crop}, which is no square")
    if min(size.values()) < crop["height"]:
        raise InputError(f"{option}: its preprocessor_config.json crops {crop} of pictures of {size}")
    if processor["resample"] not in MODES:
        raise InputError(f"{option}: its preprocessor_config.json has resample {processor['resample']}, not 0, 2 or 3")
    mean, deviation = (tuple(map(float, processor[key])) for key in ("image_mean", "image_std"))
    mode = MODES[int(processor["resample"])]
    return Pictures(list(size.values()), [crop["height"]], mode, mean, deviation, rounds_down=True)
