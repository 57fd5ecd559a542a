"""Published rows of features and captions, as captions of clips and feature files of films."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from captioning.captions import Caption
from captioning.safe_rows import ClipRow, read_rows
from recognition.common.command_line import InputError, first_line
from recognition.features.feature_file import FeatureHeader, FeatureSpool

BACKBONE = "published-rows"


def read_split(
    path: Path, split: str, fps: float, tokenizer: str | None
) -> tuple[dict[str, list[ClipRow]], list[Caption]]:
    """The rows of a file film by film, and their captions. Raises InputError.

    The rows do not say when a clip was. In the feature file the clips of a film follow each other, and a clip ends half
    a frame after its last one.
    """
    films: dict[str, list[ClipRow]] = {}
    for row in read_rows(path):
        films.setdefault(row.film, []).append(row)
    decode = _decoder(tokenizer) if tokenizer else None
    captions = []
    for film, rows in films.items():
        ends = np.cumsum([len(row.frames) for row in rows]).tolist()
        for clip, (row, end) in enumerate(zip(rows, ends, strict=True)):
            start_s, end_s = (end - len(row.frames)) / fps, (end - 0.5) / fps
            captions.append(Caption(film, clip, start_s, end_s, _text(row, decode), split, row.place))
    return films, captions


def write_row_features(folder: Path, films: Mapping[str, Sequence[ClipRow]], fps: float) -> None:
    """Write a feature file for each film, its clips one after the other, at `fps` frames a second."""
    for film, rows in films.items():
        frames = np.concatenate([row.frames for row in rows])
        header = FeatureHeader(
            video_id=film,
            video_sha256=hashlib.sha256(frames.tobytes()).hexdigest(),  # there is no film; this stands for it
            num_frames=len(frames),
            fps=fps,
            width=0,
            height=0,
            backbone=BACKBONE,
            weights=BACKBONE,
            weights_sha256="0" * 64,
            decoder=BACKBONE,
            dtype="float32",
            compute_dtype="float32",
        )
        with FeatureSpool(folder / f"{film}.h5", np.dtype(np.float32)) as spool:
            spool.append(frames, np.arange(len(frames)) / fps)
            spool.finish(header)


def _text(row: ClipRow, decode: Callable[[ClipRow], str] | None) -> str:
    if isinstance(row.caption, str):
        return row.caption
    if decode is None:
        raise InputError(f"{row.place}: the caption is numbers of tokens; name their maker, as --tokenizer gpt2")
    return decode(row)


def _decoder(tokenizer: str) -> Callable[[ClipRow], str]:
    """Makes text of a row's tokens. Raises InputError if there is no such tokeniser."""
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise InputError("transformers is not installed; pip install -e '.[captioning]' brings it") from None
    try:
        found = AutoTokenizer.from_pretrained(tokenizer, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(f"--tokenizer {tokenizer}: no tokeniser ({first_line(error)}); give a folder") from None

    def decode(row: ClipRow) -> str:
        numbers = [int(number) for number in row.caption]
        if max(numbers, default=0) >= len(found):
            raise InputError(f"{row.place}: token {max(numbers)} is none of {tokenizer}'s {len(found)}")
        return str(found.decode(numbers, skip_special_tokens=True))

    return decode
