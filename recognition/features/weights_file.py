"""weights.safetensors: a backbone that was trained here, with what features by it depend on besides its weights.

Tensors have torchvision's names; the last layer, `fc`, may be there or not. Metadata is text, JSON but for names:

    backbone, width, gates              the network; gates are null or the settings of temporal gates
    dilate_last, expansion, stem_pool   also, where they are not as usual
    frames, fps                         of a clip, as nearly as films give them; fps is null for consecutive frames
    side, keep_aspect                   pixels; false where pictures were squeezed before they were cropped
    mean, deviation                     of each colour, taken out of pictures from 0 to 1
    run, code_revision, config_digest   where it comes from
    classes                             names of those of the last layer, if it is there
    num_films, films_digest             how many films it has seen, and SHA-256 of films.txt

films.txt, beside it, has the SHA-256 of each film that it has seen, a line each, sorted.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from models.clip_networks import NETWORKS, PLANS, clip_network
from recognition.common.command_line import InputError, first_line, one_line
from recognition.common.files import is_of_system, written_whole

FILMS_FILE = "films.txt"
LFS_POINTER = b"version https://git-lfs"  # what such a file begins with
SHAPE = ("width", "dilate_last", "expansion", "stem_pool")
PICTURES = ("side", "keep_aspect", "mean", "deviation")
TEXTS = ("run", "code_revision", "config_digest")
Count = Annotated[int, Field(ge=1, le=4096)]
Colours = tuple[float, float, float]


@dataclass(frozen=True)
class Eye:
    """A network for clips and how it sees, which is as torchvision's were trained unless said otherwise.

    Attributes:
        name: of `models.clip_networks.NETWORKS`.
        width, gates, dilate_last, expansion, stem_pool: see `clip_network`; a width of None is the network's own.
        frames, fps: of a clip, frames a second; None for consecutive frames of a film.
        side, keep_aspect: of pictures, in pixels; see `Preprocessing`.
        mean, deviation: of red, green and blue, from 0 to 1.
        run, code_revision, config_digest: where it comes from.
        classes: what the last layer names, in its order.
        films: SHA-256 of the films that it has learned from.
    """

    __pydantic_config__ = ConfigDict(strict=True, allow_inf_nan=False, extra="forbid")

    name: str
    width: Count | None = None
    gates: dict[str, Any] | None = None
    dilate_last: bool = False
    expansion: int = 4
    stem_pool: bool = False
    frames: Count = 16
    fps: Annotated[float, Field(gt=0)] | None = None
    side: Count = 112
    keep_aspect: bool = False
    mean: Colours = (0.43216, 0.394666, 0.37645)
    deviation: Colours = (0.22803, 0.22145, 0.216989)
    run: str = ""
    code_revision: str = ""
    config_digest: str = ""
    classes: tuple[str, ...] = ()
    films: tuple[str, ...] = ()

    @property
    def shape(self) -> dict[str, Any]:
        """What `clip_network` needs besides the name and the gates."""
        return {name: getattr(self, name) for name in SHAPE}

    def __str__(self) -> str:
        """The network, with all in which it and its pictures are not as usual."""
        usual = USUAL | {"width": PLANS[self.name].width}
        others = {name: getattr(self, name) for name in (*SHAPE, *PICTURES)}
        others = {name: value for name, value in others.items() if value not in (None, usual[name])}
        text = self.name + f" ({_listed(others)})" * bool(others)
        return text if self.gates is None else f"{text} with temporal gates ({_listed(self.gates)})"


USUAL = {field.name: field.default for field in fields(Eye)}


def write_backbone(path: str | Path, state: Mapping[str, Tensor], eye: Eye) -> None:
    """Write a network's weights, and films.txt beside them, each of them whole; equal ones give equal bytes.

    Raises OSError, naming the file, if the system does not let them be written.
    """
    path = Path(path)
    films = "".join(f"{digest}\n" for digest in sorted(set(eye.films)))
    with written_whole(path.with_name(FILMS_FILE)) as part:
        part.write_text(films)
    metadata = {"backbone": eye.name, "num_films": str(films.count("\n")), "films_digest": _digest(films)}
    metadata |= {name: getattr(eye, name) for name in TEXTS}
    written = {"width": eye.width or PLANS[eye.name].width} | {
        name: getattr(eye, name) for name in ("gates", "frames", "fps", *PICTURES)
    }
    others = {name: getattr(eye, name) for name in (*SHAPE[1:], "classes")}
    written |= {name: value for name, value in others.items() if value != USUAL[name]}
    metadata |= {name: json.dumps(value) for name, value in written.items()}
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    with written_whole(path) as part:
        part.write_bytes(_in_order(save(tensors, metadata)))


def read_eye(path: str | Path) -> Eye | None:
    """How a backbone sees, and what it has seen; None of a file whose metadata names no backbone.

    Raises InputError where the file cannot be read or says something that it cannot mean, and where films.txt is not
    the one that was written with it; OSError if the system does not let them be read.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        return None
    check_weights_file(path)
    try:
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata() or {})
    except Exception as error:  # of several kinds for a damaged file
        raise _unreadable(path, error) from None
    if "backbone" not in metadata:
        return None
    films_digest, num_films = metadata.pop("films_digest", ""), metadata.pop("num_films", "0")
    told: dict[str, Any] = {"name": metadata.pop("backbone")}
    for name, text in metadata.items():
        if name in USUAL:  # other versions may say more
            try:
                told[name] = text if name in TEXTS else json.loads(text)
            except (ValueError, RecursionError):
                raise InputError(one_line(f"--weights {path}: its metadata {name} is no JSON: {text[:100]}")) from None
    if told["name"] not in NETWORKS:
        raise InputError(one_line(f"--weights {path}: is of a network {told['name']!r}, which is not known here"))
    films = () if num_films == "0" else _read_films(path, films_digest)
    try:
        eye = TypeAdapter(Eye).validate_json(json.dumps(told | {"films": films}))
        with torch.device("meta"):  # takes no memory
            clip_network(eye.name, temporal_gates=eye.gates, **eye.shape)
        return eye
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        found = f"{'.'.join(map(str, first['loc']))}: {first['msg']}, found {first['input']!r}"
        raise InputError(one_line(f"--weights {path}: its metadata {found}")) from None
    except (ValueError, RuntimeError) as error:  # the latter is torch's for sizes beyond its numbers
        raise InputError(one_line(f"--weights {path}: its metadata {first_line(error)}")) from None


def read_state(path: Path, others: str = "") -> dict[str, Tensor]:
    """Read a state dict, .pt, .pth or .safetensors, without unpickling code.

    Raises InputError as `read_eye` does, for which `others` says what else weights may be called.
    """
    check_weights_file(path, others)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both readers raise many kinds for a damaged file
        raise _unreadable(path, error) from None


def check_weights_file(path: Path, others: str = "") -> None:
    """Raise InputError unless there is such a file, and not a pointer to one."""
    if not path.is_file():
        raise InputError(f"--weights {path}: no such file{others and f', and {others}'}")
    with open(path, "rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise InputError(f"--weights {path}: is a pointer of Git LFS, not the weights; fetch with git lfs pull")


def _read_films(path: Path, films_digest: str) -> tuple[str, ...]:
    """The SHA-256 of films beside a file of weights. Raises InputError unless they are those that it means."""
    file = path.with_name(FILMS_FILE)
    text = file.read_text(errors="replace") if file.is_file() else None
    if text is None or _digest(text) != films_digest:
        what = "is missing" if text is None else "is not the one written with it"
        raise InputError(f"--weights {path}: {file} {what}; bring it along, it tells which films the network has seen")
    return tuple(text.split())


def _unreadable(path: Path, error: Exception) -> Exception:
    """What to raise for an error of reading weights."""
    if is_of_system(error):
        return error
    return InputError(f"--weights {path}: cannot be read as weights: {first_line(error)}")


def _in_order(data: bytes) -> bytes:
    """A safetensors file with its metadata in order of names: the library writes another order each time."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format wants tensors to begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(settings.items()))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
