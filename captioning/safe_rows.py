"""The rows that the published captioner keeps: features of a clip's frames with its caption, read without running code.

An .npz file holds text and numbers; pickles are read as `safe_pickle` does.
"""

import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from captioning.captions import check_film
from captioning.safe_pickle import read_restricted
from recognition.common.command_line import InputError, first_line, shown
from recognition.common.files import is_there, read_whole

RECIPE = """\
  import pickle
  import numpy as np
  from transformers import GPT2TokenizerFast

  rows = pickle.load(open("train.pkl", "rb"))  # only a file of your own: a pickle can run any program
  decode = GPT2TokenizerFast.from_pretrained("gpt2").decode
  np.savez(
      "train.npz",
      video_id=np.array([row["video_id"] for row in rows]),
      caption=np.array([decode(row["caption"]) for row in rows]),
      num_frames=np.array([len(row["frames"]) for row in rows]),
      frames=np.concatenate([np.asarray(row["frames"], np.float32) for row in rows]),
  )"""


class ClipRow(NamedTuple):
    """A clip of the published rows."""

    place: str  # file and row
    film: str
    frames: np.ndarray  # (T, D) features, T at least 1
    caption: str | Sequence[int]  # or numbers of tokens


def read_rows(path: Path) -> list[ClipRow]:
    """The rows of an .npz file, or of a pickle of either published layout: rows of video_id, frames, caption; or, of
    images, clip_embedding (N, D) with captions, a list of {image_id, caption, clip_embedding: row}.

    Raises InputError, which says what is refused.
    """
    if not is_there(path):
        raise InputError(f"{path}: no such file")
    if path.is_dir():
        raise InputError(f"{path}: is a folder, and a file of rows is due")
    data = read_whole(path)
    is_archive = zipfile.is_zipfile(data)
    data.seek(0)
    rows = list(_npz_rows(path, data) if is_archive else _pickle_rows(path, read_restricted(path)))
    if not rows:
        raise InputError(f"{path}: has no rows")
    for row in rows:
        if row.frames.shape[1] != rows[0].frames.shape[1]:
            raise InputError(
                f"{row.place}: has {row.frames.shape[1]} features a frame, the first has {rows[0].frames.shape[1]}"
            )
    return rows


def _pickle_rows(path: Path, content: Any) -> Iterator[ClipRow]:
    if isinstance(content, dict) and content.keys() >= {"clip_embedding", "captions"}:
        yield from _image_rows(path, content)
        return
    if isinstance(content, dict) and content.keys() >= {"video_id", "frames", "caption"}:
        columns = [content[name] for name in ("video_id", "frames", "caption")]
        if len({len(column) for column in columns}) > 1:
            raise InputError(f"{path}: video_id, frames and caption are of different lengths")
        content = [dict(zip(("video_id", "frames", "caption"), row, strict=True)) for row in zip(*columns, strict=True)]
    if not isinstance(content, list):
        raise InputError(
            f"{path}: is a pickle, but neither of rows of video_id, frames, caption nor of clip_embedding and captions"
        )
    for number, row in enumerate(content, 1):
        place = f"{path}, row {number}"
        if not isinstance(row, Mapping) or not row.keys() >= {"video_id", "frames", "caption"}:
            raise InputError(f"{place}: is to have video_id, frames and caption")
        yield _row(place, row["video_id"], row["frames"], row["caption"])


def _image_rows(path: Path, content: Mapping[str, Any]) -> Iterator[ClipRow]:
    """Of images: each caption is a clip of its image, of one frame."""
    features = _features(f"{path}: clip_embedding", content["clip_embedding"])
    if not isinstance(content["captions"], list):
        raise InputError(f"{path}: captions are to be a list")
    for number, row in enumerate(content["captions"], 1):
        place = f"{path}, caption {number}"
        if not isinstance(row, Mapping) or not row.keys() >= {"image_id", "caption", "clip_embedding"}:
            raise InputError(f"{place}: is to have image_id, caption and clip_embedding")
        place_of = row["clip_embedding"]
        if not isinstance(place_of, int) or not 0 <= place_of < len(features):
            raise InputError(f"{place}: clip_embedding {shown(place_of)} is no row of the {len(features)} embeddings")
        yield _row(place, str(row["image_id"]), features[place_of : place_of + 1], row["caption"])


def _npz_rows(path: Path, data: io.BytesIO) -> Iterator[ClipRow]:
    """Of the file that RECIPE makes."""
    names = ("video_id", "caption", "num_frames", "frames")
    try:
        with np.load(data, allow_pickle=False) as file:
            if missing := [name for name in names if name not in file]:
                raise InputError(f"{path}: has no {missing[0]}; it needs {', '.join(names)}")
            films, captions, lengths, frames = (file[name] for name in names)
    except InputError:
        raise
    except Exception as error:  # numpy and zipfile raise many kinds for a damaged file
        raise InputError(f"{path}: cannot be read without unpickling, or is damaged ({first_line(error)})") from None
    if films.dtype.kind != "U" or captions.dtype.kind != "U" or lengths.dtype.kind not in "iu":
        raise InputError(f"{path}: video_id and caption are to be text, num_frames whole numbers")
    if not films.shape == captions.shape == lengths.shape == (films.size,) or frames.ndim != 2:
        raise InputError(f"{path}: video_id, caption and num_frames are to be (N,), frames (sum of num_frames, D)")
    if (lengths < 1).any() or lengths.sum() != len(frames):
        raise InputError(
            f"{path}: num_frames says {lengths.sum()} frames in all, each 1 or more; there are {len(frames)}"
        )
    parts = np.split(frames, np.cumsum(lengths)[:-1])
    for number, row in enumerate(zip(films.tolist(), parts, captions.tolist(), strict=True), 1):
        yield _row(f"{path}, row {number}", *row)


def _row(place: str, film: Any, frames: Any, caption: Any) -> ClipRow:
    check_film(place, film)
    if not isinstance(caption, str):
        caption = caption.tolist() if isinstance(caption, np.ndarray) else caption
        if not isinstance(caption, list) or not all(type(token) is int and token >= 0 for token in caption):
            raise InputError(f"{place}: the caption {shown(caption)} is neither text nor numbers of tokens")
    return ClipRow(place, film, _features(place, frames), caption)


def _features(place: str, frames: Any) -> np.ndarray:
    """Features as (T, D) float32."""
    try:
        with np.errstate(over="ignore"):  # it is then not finite
            array = np.asarray(frames, np.float32)
    except (TypeError, ValueError):
        array = np.empty(0, np.float32)
    if array.ndim != 2 or array.size == 0:
        raise InputError(f"{place}: frames are to be (frames, features), one frame or more; they are {array.shape}")
    if not np.isfinite(array).all():
        raise InputError(f"{place}: features are not finite")
    return array
