"""Synthetic films of actions, which frames without their order do not tell: tasks that a network learns on a CPU.

"ten": actions that a mirror does not change, for learning without labels. A film is two takes of 32 frames. Object,
background, light, place and size are drawn anew for each, but the object moves alike in both, so that two clips of a
film share how something moves and not its look. What decides whether a network learns in minutes is that backgrounds
are plain, and darker than objects, and that movements are fast.

"eight": four pairs, each action the other one's reversal, for learning with labels. Place, size and angle in the middle
of a film are drawn alike for all, so that the middle frame says nothing, and frames without order no more than which
pair. Left and right, clockwise and anticlockwise trade places in a mirror.

Shapes: T frames, 64 x 64 pixels; coordinates are x to the right, y down.
"""

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np

from recognition.common.files import written_whole
from recognition.films.synthetic import write_frames

Kind = Literal["ten", "eight"]
ACTIONS: dict[Kind, tuple[str, ...]] = {
    "ten": ("slide", "rise", "fall", "grow", "shrink", "spin", "shake", "bounce", "circle", "pulse"),
    "eight": ("left", "right", "up", "down", "clockwise", "anticlockwise", "grow", "shrink"),
}
_PAIRS = list(zip(ACTIONS["eight"][::2], ACTIONS["eight"][1::2], strict=True))
REVERSED = dict(_PAIRS) | {other: one for one, other in _PAIRS}
SIDE, FPS = 64, 15
NUM_FRAMES: dict[Kind, int] = {"ten": 64, "eight": 24}
TAKE = 32  # frames of one take of "ten"
SUBPIXEL = 4  # bits
TINT = 0.3  # how far the channels of a colour of "ten" differ from its grey, as a share
QUIET = 8.0  # deviation of the backgrounds of "eight"


def write_action_films(folder: str | Path, kind: Kind, num_train: int, num_test: int, seed: int = 0) -> Iterator[Path]:
    """Write films as `folder`/<action>_<k>.mp4, yielding each path when its film is there, and at last list.csv, which
    has a line video,label,split for each. Classes are equally frequent.

    Film k depends on (seed, k) and the kind alone. Films already there are kept.
    """
    folder, actions = Path(folder), ACTIONS[kind]
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for k in range(num_train + num_test):
        action = actions[k % len(actions)]
        path = folder / f"{action}_{k:04d}.mp4"
        if not path.exists():
            film = draw_action(kind, action, np.random.default_rng((seed, k)))
            write_frames(path, film, (SIDE, SIDE), FPS)
        rows.append((path.name, action, "train" if k < num_train else "test"))
        yield path
    with written_whole(folder / "list.csv") as part, open(part, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("video", "label", "split"), *rows])


def draw_action(kind: Kind, action: str, rng: np.random.Generator, num_frames: int | None = None) -> np.ndarray:
    """Draw a film of an action of ACTIONS[kind]: (T, 64, 64, 3) uint8 RGB; T is NUM_FRAMES[kind] if not given.

    Of "eight", with the same state of `rng`, frames in reverse order are the film of the REVERSED action.
    """
    num_frames = num_frames or NUM_FRAMES[kind]
    if kind == "eight":
        return _quiet_film(action, num_frames, rng)
    movement = Movement(rng.choice([-1, 1]), rng.uniform(1.5, 2.0), rng.uniform(0, 2 * math.pi))
    lengths = [min(TAKE, num_frames - at) for at in range(0, num_frames, TAKE)]
    return np.concatenate([_take(_motion_of_ten(action, length, movement), rng) for length in lengths])


class Movement(NamedTuple):
    """How an action is done in a film."""

    side: int  # -1 or 1; what has a side has either, so that mirrored films are as likely as others
    pace: float
    phase: float  # radians


def _take(motion: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """One take of "ten", of an object with that motion."""
    outline = list(OUTLINES.values())[rng.integers(len(OUTLINES))]
    levels = rng.uniform(0.05, 0.25), *rng.permutation([rng.uniform(0.5, 0.6), rng.uniform(0.7, 1.0)])
    background, body, mark = (255 * level * rng.uniform(1 - TINT, 1 + TINT, 3) for level in levels)
    place, size, angle = rng.uniform(22, 42, 2), rng.uniform(8, 16), rng.uniform(0, 2 * math.pi)
    slope = rng.uniform(-0.15, 0.15, 2)  # of the light, from one side of the picture to the other
    across = np.linspace(-0.5, 0.5, SIDE)
    light = 1 + slope[0] * across[None, :, None] + slope[1] * across[:, None, None]
    # Off its middle, so that turning shows whatever the outline is.
    spot = 0.35 * OUTLINES["disc"] + (0.5, 0)
    frames = []
    for x, y, larger, turned in zip(*motion, strict=True):
        image = np.full((SIDE, SIDE, 3), background.round(), np.uint8)
        for shape, colour in ((outline, body), (spot, mark)):
            _fill(image, shape, colour, np.add(place, (x, y)), size * larger, angle + turned)
        frames.append(image * light)
    return np.stack(frames).round().clip(0, 255).astype(np.uint8)


def _motion_of_ten(action: str, num_frames: int, movement: Movement) -> tuple[np.ndarray, ...]:
    """Where the object is in each frame, (T,) each: x and y from its place in pixels, times its size, radians."""
    t = np.arange(num_frames) - (num_frames - 1) / 2
    side, pace, phase = movement
    shift, turn = pace * t, 2 * math.pi * pace * t
    still, same = np.zeros(num_frames), np.ones(num_frames)
    motions = {
        "slide": (side * shift, still, same, still),
        "rise": (still, -shift, same, still),
        "fall": (still, shift, same, still),
        "grow": (still, still, np.exp(0.025 * shift), still),
        "shrink": (still, still, np.exp(-0.025 * shift), still),
        "spin": (still, still, same, side * turn / 36),
        "shake": (4.5 * np.sin(turn / 11 + phase), still, same, still),
        "bounce": (still, 7 - 14 * np.abs(np.sin(turn / 24 + phase)), same, still),
        "circle": (10 * np.cos(side * turn / 24 + phase), 10 * np.sin(side * turn / 24 + phase), same, still),
        "pulse": (still, still, 1 + 0.35 * np.sin(turn / 14 + phase), still),
    }
    return motions[action]


def _quiet_film(action: str, num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """A film of "eight". Everything is drawn before the action is looked at."""
    outline = [OUTLINES[name] for name in ("bar", "triangle", "L")][rng.integers(3)]
    texture = cv2.GaussianBlur(rng.normal(0, 1, (SIDE, SIDE)), (0, 0), 2)
    grey = rng.uniform(100, 155)
    background = (grey + QUIET * (texture - texture.mean()) / texture.std()).round().astype(np.uint8)
    colour = np.full(3, grey + rng.choice([-1, 1]) * rng.uniform(60, 90))
    place, size, angle = rng.uniform(27, 37, 2), rng.uniform(9, 13), rng.uniform(0, 2 * math.pi)
    pace = rng.uniform(0.7, 1.3)
    frames = []
    for t in pace * (np.arange(num_frames) - (num_frames - 1) / 2):
        x, y = {"left": (-t, 0), "right": (t, 0), "up": (0, -t), "down": (0, t)}.get(action, (0, 0))
        turned = angle + math.radians(5) * {"clockwise": t, "anticlockwise": -t}.get(action, 0)
        larger = math.exp(0.035 * {"grow": t, "shrink": -t}.get(action, 0))
        image = np.repeat(background[..., None], 3, axis=2)
        _fill(image, outline, colour, np.add(place, (x, y)), size * larger, turned)
        frames.append(image)
    return np.stack(frames)


def _fill(
    image: np.ndarray, outline: np.ndarray, colour: np.ndarray, place: np.ndarray, size: float, angle: float
) -> None:
    """Draw an outline (K, 2) in place, `size` times as large, turned clockwise, about a place in pixels."""
    cosine, sine = math.cos(angle), math.sin(angle)
    corners = size * outline @ np.array([[cosine, sine], [-sine, cosine]]) + place
    fixed = np.round(corners * 2**SUBPIXEL).astype(np.int32)
    cv2.fillPoly(image, [fixed], colour.tolist(), cv2.LINE_AA, SUBPIXEL)


def _outlines() -> dict[str, np.ndarray]:
    """Corners (K, 2) by name, about as large as a circle of radius 1."""
    turns = np.linspace(0, 2 * math.pi, 24, endpoint=False)
    corners = {
        "square": [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
        "bar": [(-1.1, -0.4), (1.1, -0.4), (1.1, 0.4), (-1.1, 0.4)],
        "triangle": [(1.1, 0), (-0.6, 0.95), (-0.6, -0.95)],
        "L": [(-0.8, -1), (-0.1, -1), (-0.1, 0.3), (0.9, 0.3), (0.9, 1), (-0.8, 1)],
        "plus": [(a, b) for a, b in _PLUS],
        "disc": np.stack([np.cos(turns), np.sin(turns)], 1),
    }
    return {name: np.asarray(points, float) for name, points in corners.items()}


_PLUS = [(-1, -0.35), (-0.35, -0.35), (-0.35, -1), (0.35, -1), (0.35, -0.35), (1, -0.35)]
_PLUS += [(-a, -b) for a, b in _PLUS]
OUTLINES = _outlines()
