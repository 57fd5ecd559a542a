"""The page of what a captioner said: frames, captions and what memory read, failures first. HTML that needs nothing
else; all text from outside is escaped."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2

from captioning.config import CaptionSettings
from captioning.metrics import rouge_l, tokens
from captioning.said import Said
from recognition.common.files import is_there, written_whole
from recognition.common.pages import render
from recognition.films.video import VIDEO_SUFFIXES, DecodeError, decode
from recognition.training.config import dump_config

TEMPLATES = Path(__file__).parent / "templates"
FILE = "captions.html"
MOST_FILMS = 24
HEIGHT = 72  # pixels of a frame
SCORES = {
    "bleu_1": "BLEU-1",
    "bleu_2": "BLEU-2",
    "bleu_3": "BLEU-3",
    "bleu_4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "cider_d": "CIDEr-D",
}


def write_page(
    folder: Path, config: CaptionSettings, said: Sequence[Said], scores: Mapping[str, float], videos: Path | None
) -> None:
    """Write captions.html into a run's folder.

    Args:
        folder: the run's.
        config: its settings.
        said: all captions; the films that went worst are shown, MOST_FILMS of them.
        scores: of the corpus, by the names in SCORES with test_ before them.
        videos: the films, for frames; None or a film that is not there shows none.
    """
    page = render(
        FILE,
        TEMPLATES,
        config=config,
        scores=[(label, scores[f"test_{name}"]) for name, label in SCORES.items()],
        films=worst_films(said, videos),
        num_films=len({clip.film for clip in said}),
        num_clips=len(said),
        settings=dump_config(config),
    )
    with written_whole(folder / FILE) as part:
        part.write_text(page, encoding="utf-8")


def worst_films(said: Sequence[Said], videos: Path | None) -> list[tuple[str, list[dict[str, Any]]]]:
    """The films that went worst by ROUGE-L, up to MOST_FILMS of them, each with what templates show of its clips."""
    films: dict[str, list[Said]] = {}
    for clip in said:
        films.setdefault(clip.film, []).append(clip)
    worst = sorted(films, key=lambda film: (_mean_rouge(films[film]), film))[:MOST_FILMS]
    return [(film, _rows(films[film], videos)) for film in worst]


def _mean_rouge(clips: Sequence[Said]) -> float:
    scores = [rouge_l(tokens(clip.caption), [tokens(text) for text in clip.references]) for clip in clips]
    return sum(scores) / len(scores)


def _rows(clips: Sequence[Said], videos: Path | None) -> list[dict[str, Any]]:
    pictures = _pictures(clips, videos)
    return [
        {
            "clip": clip.clip,
            "times": f"{clip.start_s:g} to {clip.end_s:g} s" if clip.end_s else "",
            "caption": clip.caption,
            "reference": clip.references[0],
            "is_same": clip.caption.strip() in map(str.strip, clip.references),
            "read": clip.retrieved,
            "picture": picture,
        }
        for clip, picture in zip(clips, pictures, strict=True)
    ]


def _pictures(clips: Sequence[Said], videos: Path | None) -> list[str]:
    """The middle frame of each clip of a film as JPEG in base64, empty where it cannot be had."""
    file = _film(videos, clips[0].film)
    if file is None:
        return [""] * len(clips)
    middles = [(clip.start_s + clip.end_s) / 2 for clip in clips]
    distances = [float("inf")] * len(clips)
    nearest: list[Any] = [None] * len(clips)
    try:
        for image, time_s in decode(file):
            for place, middle in enumerate(middles):
                if abs(time_s - middle) < distances[place]:
                    distances[place], nearest[place] = abs(time_s - middle), image
    except DecodeError:
        pass  # the pictures so far are those of its beginning
    return ["" if image is None else _jpeg(image) for image in nearest]


def _film(videos: Path | None, name: str) -> Path | None:
    if videos is None:
        return None
    files = (videos / f"{name}{suffix}" for suffix in sorted(VIDEO_SUFFIXES))
    return next((file for file in files if is_there(file)), None)


def _jpeg(image: Any) -> str:
    width = round(image.shape[1] * HEIGHT / image.shape[0])
    small = cv2.resize(image, (width, HEIGHT), interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    return base64.b64encode(data.tobytes()).decode()
