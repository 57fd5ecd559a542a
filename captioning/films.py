"""Made-up films whose captions need earlier clips: a task that a captioner learns on a CPU in minutes.

A film has eight clips. Four balls of different colours are shown twice each, in random order, on a set that is drawn
anew for each clip. The caption of a ball's second clip says on which set it was first:

    a red ball moves left on a striped set.
    the red ball from the striped set grows.

So nothing in a clip tells whether its ball was seen before, or where. What a frame alone tells of the action is little,
for a movement's middle, and that of a growth, are drawn at random. The best captions without memory are those of
`captions_without_memory`: half of them are wrong.

Shapes: three frames a clip of 320 x 180 pixels; what matters is in the square that a network for images crops.
"""

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from captioning.captions import Caption, read_table, write_captions
from recognition.common.command_line import InputError
from recognition.common.files import written_whole
from recognition.films.synthetic import HEIGHT, WIDTH, write_frames

COLOURS = {
    "red": (215, 30, 35),
    "green": (25, 150, 55),
    "blue": (35, 70, 215),
    "yellow": (245, 220, 40),
    "purple": (130, 40, 150),
    "turquoise": (50, 215, 215),
    "white": (250, 250, 250),
    "black": (15, 15, 15),
}
SETS = ("striped", "dotted", "chequered", "plain")
ACTIONS = ("moves left", "moves right", "grows", "shrinks")
NUM_OBJECTS, CLIPS_PER_FILM, FRAMES_PER_CLIP = 4, 8, 3
FPS = FRAMES_PER_CLIP  # a clip lasts a second
RADIUS, STEP, GROWTH = 30.0, 20.0, 1.5  # pixels; pixels a frame; times a frame
PLACE, SIZE = 28.0, 0.22  # how far the middle is from the usual, at most: pixels, and share of the radius
SQUARE = HEIGHT * 224 / 256  # side of what a network for images crops, which the ball never leaves
CONTRAST = (80, 120)  # between a set's two tones, of 255
TINT = 30  # how far its red, green and blue are from their middle, at most
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Slots:
    """What a caption of these films says, and of which clip.

    Attributes:
        set: on which the clip is, whether or not its caption says so.
        earlier_set: where the ball was before; empty if it was not.
        lag_clips: from the ball's first clip to this one; 0 if this is the first.
    """

    film: str
    clip: int
    colour: str
    action: str
    set: str
    is_seen: bool
    earlier_set: str
    lag_clips: int

    @property
    def caption(self) -> str:
        if self.is_seen:
            return f"the {self.colour} ball from the {self.earlier_set} set {self.action}."
        return f"a {self.colour} ball {self.action} on a {self.set} set."


def write_caption_films(
    folder: str | Path, num_train: int = 600, num_validation: int = 60, num_test: int = 100, seed: int = 0
) -> Iterator[Path]:
    """Write captions.csv and slots.csv, and then `folder`/film_<k>.mp4, yielding each path when its film is there.

    Film k depends on (seed, k) alone. Films already there are kept. Raises InputError if they are of another seed.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    films = [draw_film(k, seed) for k in range(num_train + num_validation + num_test)]
    write_slots(folder / "slots.csv", [slots for film in films for slots in film])
    splits = np.repeat(SPLITS, [num_train, num_validation, num_test]).tolist()
    write_captions(
        folder / "captions.csv",
        [
            Caption(slots.film, slots.clip, float(slots.clip), slots.clip + 1.0, slots.caption, split, "")
            for film, split in zip(films, splits, strict=True)
            for slots in film
        ],
    )
    for k, film in enumerate(films):
        path = folder / f"{film[0].film}.mp4"
        if not path.exists():
            write_frames(path, render_film(film, np.random.default_rng((seed, k, 1))), (WIDTH, HEIGHT), FPS)
        yield path


def draw_film(number: int, seed: int) -> list[Slots]:
    """Draw what is in each clip of a film."""
    rng = np.random.default_rng((seed, number, 0))
    colours = rng.choice(list(COLOURS), NUM_OBJECTS, replace=False)
    first: dict[str, Slots] = {}
    film = []
    for clip, colour in enumerate(rng.permutation(np.repeat(colours, CLIPS_PER_FILM // NUM_OBJECTS)).tolist()):
        action, its_set = str(rng.choice(ACTIONS)), str(rng.choice(SETS))
        earlier = first.get(colour)
        film.append(
            Slots(
                f"film_{number:04d}",
                clip,
                colour,
                action,
                its_set,
                earlier is not None,
                earlier.set if earlier else "",
                clip - earlier.clip if earlier else 0,
            )
        )
        first.setdefault(colour, film[-1])
    return film


def write_slots(path: Path, slots: Sequence[Slots]) -> None:
    """Write slots.csv. Raises InputError if there is one of other films."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in fields(Slots))
    writer.writerows(asdict(row).values() for row in slots)
    new, old = text.getvalue(), path.read_text() if path.exists() else ""
    if not (new.startswith(old) or old.startswith(new)):
        raise InputError(
            f"{path}: is of other films than these, which would be kept; name another folder, or remove it"
        )
    with written_whole(path) as part:
        part.write_text(new)


def read_all_slots(path: str | Path) -> list[Slots]:
    """The rows of slots.csv."""
    kinds: dict[str, Callable[[str], Any]] = {"clip": int, "lag_clips": int, "is_seen": lambda text: text == "True"}
    return [
        Slots(**{name: kinds.get(name, str)(value) for name, value in row.items()}) for _, row in read_table(Path(path))
    ]


def render_film(film: Sequence[Slots], rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield the frames of a film, (180, 320, 3) uint8 RGB."""
    for slots in film:
        picture = paint_set(slots.set, rng)
        shift_px = {"moves left": -STEP, "moves right": STEP}.get(slots.action, 0.0)
        growth = {"grows": GROWTH, "shrinks": 1 / GROWTH}.get(slots.action, 1.0)
        radius = RADIUS * (1 + rng.uniform(-SIZE, SIZE))
        reach = np.array([abs(shift_px), 0]) + radius * max(growth, 1 / growth)
        place = np.minimum(PLACE, SQUARE / 2 - reach)
        x, y = np.array([WIDTH, HEIGHT]) / 2 + rng.uniform(-place, place)
        for step in range(FRAMES_PER_CLIP):
            time = step - (FRAMES_PER_CLIP - 1) / 2
            frame = picture.copy()
            centre = round(16 * (x + shift_px * time)), round(16 * y)  # in sixteenths of a pixel
            cv2.circle(
                frame, centre, round(16 * radius * growth**time), COLOURS[slots.colour], -1, cv2.LINE_AA, shift=4
            )
            yield frame


def paint_set(name: str, rng: np.random.Generator) -> np.ndarray:
    """Paint a set in two tones of a colour that is drawn, or in one if it is plain: (180, 320, 3) uint8 RGB."""
    contrast = rng.uniform(*CONTRAST)
    dark = rng.uniform(TINT, 255 - TINT - contrast) + rng.uniform(-TINT, TINT, 3)
    tones = np.array([dark, dark + contrast]).astype(np.uint8)[:: rng.choice([-1, 1])]
    period = int(rng.integers(24, 41))
    x, y = np.arange(WIDTH)[None] + rng.integers(period), np.arange(HEIGHT)[:, None] + rng.integers(period)
    half = period // 2
    is_other = {
        "striped": (x % period < half) & (y >= 0),
        "dotted": np.hypot(x % period - half, y % period - half) < 0.3 * period,
        "chequered": (x % period < half) ^ (y % period < half),
        "plain": np.zeros((HEIGHT, WIDTH), bool),
    }[name]
    return tones[is_other.astype(int)]


def read_slots(caption: str) -> dict[str, str | bool | None]:
    """What a caption says: colour, action, set, is_seen and earlier_set, each None where it says nothing of the kind.

    `set` is where a ball is that was not seen before, `earlier_set` where one was that is seen again.
    """
    found = {
        "colour": re.search(r"\b(?:a|the) (\w+) ball\b", caption),
        "action": re.search(r"\b(" + "|".join(ACTIONS) + r")\b", caption),
        "set": re.search(r"\bon an? (\w+) set\b", caption),
        "earlier_set": re.search(r"\bfrom the (\w+) set\b", caption),
    }
    slots: dict[str, str | bool | None] = {name: match[1] if match else None for name, match in found.items()}
    article = re.match(r"(a|the)\b", caption.strip())
    return slots | {"is_seen": article[1] == "the" if article else None}


def slot_scores(captions: Sequence[str], slots: Sequence[Slots]) -> dict[str, float]:
    """How often captions, one a clip, are right about each thing, nan where no clip has it.

    colour, action and is_seen of all clips; set of those whose ball is new; earlier_set of those whose ball was seen
    before; exact: the whole caption.
    """
    told = [read_slots(caption) for caption in captions]

    def share(right: Sequence[bool]) -> float:
        return sum(right) / len(right) if right else float("nan")

    pairs = list(zip(told, slots, strict=True))
    scores = {name: share([t[name] == getattr(s, name) for t, s in pairs]) for name in ("colour", "action", "is_seen")}
    scores["set"] = share([t["set"] == s.set for t, s in pairs if not s.is_seen])
    scores["earlier_set"] = share([t["earlier_set"] == s.earlier_set for t, s in pairs if s.is_seen])
    scores["exact"] = share([caption == s.caption for caption, s in zip(captions, slots, strict=True)])
    return scores


def captions_without_memory(slots: Sequence[Slots]) -> list[str]:
    """What perfect eyes without memory say at best: of each ball that it is new, for that is as likely as not, and
    then they know the set, too."""
    return [f"a {s.colour} ball {s.action} on a {s.set} set." for s in slots]
