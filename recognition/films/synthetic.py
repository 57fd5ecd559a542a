"""Synthetic films for the demo and the tests: small, seeded, and enough like films to be a fair test of memory.

What makes real films hard to remember is kept: shots are cut every few seconds, a film returns to its few sets, so
that later shots resemble earlier ones, the camera moves, people walk through the picture, light changes from shot to
shot, and the picture has grain. Written as real H.264 files, so every later step meets what it meets in life.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from recognition.common.files import written_whole

WIDTH, HEIGHT = 320, 180
CANVAS_SCALE = 2  # a set is painted this much larger than the frame, so that the camera has somewhere to go
MEDIAN_SHOT_S, SHOT_SIGMA = 3.5, 0.5  # log-normal shot lengths


@dataclass(frozen=True)
class Look:
    """What the colours of one set have in common: tint (red, green, blue) and saturation, 0 to 1."""

    tint: np.ndarray
    saturation: float

    def draw_colour(self, rng: np.random.Generator) -> np.ndarray:
        """Draw a colour of this look, (3,), 0 to 255."""
        colour = rng.uniform(20, 230, 3)
        colour = colour.mean() + self.saturation * (colour - colour.mean())
        return np.clip(colour * self.tint, 0, 255)


@dataclass(frozen=True)
class Person:
    """A figure in front of the set: colours, height as a share of the picture, steps a second."""

    coat: tuple[float, float, float]
    skin: tuple[float, float, float]
    size: float
    pace: float


def write_films(folder: str | Path, num_films: int, duration_s: float, fps: int = 24, seed: int = 0) -> Iterator[Path]:
    """Write `num_films` films as `folder`/film_<k>.mp4, yielding each path when its film is there.

    Film k depends on (seed, k) and the other arguments alone. Files already there are kept.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(num_films):
        path = folder / f"film_{k:03d}.mp4"
        if not path.exists():
            write_film(path, duration_s, fps, np.random.default_rng((seed, k)))
        yield path


def write_film(path: str | Path, duration_s: float, fps: int, rng: np.random.Generator) -> None:
    """Write one film as H.264 in mp4, `duration_s` * `fps` frames of 320 x 180."""
    write_frames(path, render_film(round(duration_s * fps), fps, rng), (WIDTH, HEIGHT), fps)


def write_frames(path: str | Path, frames: Iterable[np.ndarray], size: tuple[int, int], fps: int) -> None:
    """Write frames (H, W, 3) uint8 RGB as a film, H.264 in mp4; size: W, H, even numbers."""
    with written_whole(path) as part, av.open(str(part), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "23", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.time_base = Fraction(1, fps)
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def render_film(num_frames: int, fps: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield the frames of one film, (180, 320, 3) uint8 RGB."""
    film_tint = rng.uniform(0.9, 1.1, 3)
    num_sets = max(3, round(num_frames / fps / rng.uniform(8, 16)))  # a new one every 8 to 16 seconds of film
    sets = [paint_set(film_tint, rng) for _ in range(num_sets)]
    cast = [draw_person(rng) for _ in range(rng.integers(2, 5))]
    grain = rng.normal(0, rng.uniform(1, 3), (2 * HEIGHT, 2 * WIDTH, 1)).astype(np.float32)
    current = 0
    while num_frames > 0:
        others = [k for k in range(len(sets)) if k != current]
        current = int(rng.choice(others))
        length = min(num_frames, max(fps // 2, round(fps * MEDIAN_SHOT_S * np.exp(rng.normal(0, SHOT_SIGMA)))))
        num_frames -= length
        yield from render_shot(sets[current], cast, grain, length, fps, rng)


def render_shot(
    canvas: np.ndarray, cast: list[Person], grain: np.ndarray, num_frames: int, fps: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Yield one shot: a framing of the set that drifts, lit anew, with some of the cast walking through it."""
    start, end = _framing(rng), _framing(rng)
    end = start + (end - start) * rng.choice([0.0, 0.15, 0.6])  # still, drifting or moving camera
    light = rng.uniform(0.75, 1.2) * rng.uniform(0.85, 1.15, 3)
    shake = rng.uniform(0, 1.5)
    players = [
        (person, rng.uniform(-0.2, 1.2), rng.choice([-1, 1]) * rng.uniform(0, 0.15), rng.uniform(0.75, 1.05))
        for person in cast
        if rng.random() < 0.5
    ]
    for t in range(num_frames):
        progress, time_s = t / max(1, num_frames - 1), t / fps
        x, y, zoom = start + (end - start) * progress
        x += shake * np.sin(5 * time_s)
        y += shake * np.sin(7 * time_s + 1)
        view = cv2.warpAffine(
            canvas,
            np.array([[zoom, 0, -zoom * x], [0, zoom, -zoom * y]]),
            (WIDTH, HEIGHT),
            borderMode=cv2.BORDER_REFLECT,
        )
        for person, place, speed, feet in players:
            _draw_person(view, person, place + speed * time_s, feet, time_s)
        dx, dy = rng.integers(0, WIDTH), rng.integers(0, HEIGHT)
        view = view * light.astype(np.float32) + grain[dy : dy + HEIGHT, dx : dx + WIDTH]
        yield np.clip(view, 0, 255).astype(np.uint8)


def paint_set(film_tint: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Paint a set: wall and floor with texture, furniture and lamps. Returns (360, 640, 3) float32, 0 to 255."""
    look = Look(film_tint * rng.uniform(0.8, 1.15, 3), rng.uniform(0.2, 0.7))
    height, width = CANVAS_SCALE * HEIGHT, CANVAS_SCALE * WIDTH
    canvas = np.empty((height, width, 3), np.float32)
    horizon = int(rng.uniform(0.45, 0.8) * height)
    wall, floor = look.draw_colour(rng), look.draw_colour(rng)
    shade = np.linspace(1.1, 0.8, width)[None, :, None]
    canvas[:horizon] = wall * shade
    canvas[horizon:] = floor * shade[:, ::-1]
    for scale in (4, 12, 40):  # texture at several grain sizes
        noise = rng.normal(0, 1, (height // scale + 2, width // scale + 2)).astype(np.float32)
        canvas += rng.uniform(3, 10) * cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
    for _ in range(rng.integers(8, 20)):
        x, y = int(rng.uniform(0, width)), int(rng.uniform(0.1, 1) * height)
        w, h = int(rng.uniform(0.03, 0.15) * width), int(rng.uniform(0.05, 0.3) * height)
        colour = look.draw_colour(rng).tolist()
        shape = rng.integers(0, 4)
        if shape == 0:
            cv2.rectangle(canvas, (x, y - h), (x + w, y), colour, -1)
        elif shape == 1:
            cv2.ellipse(canvas, (x, y), (w // 2 + 1, h // 2 + 1), rng.uniform(0, 180), 0, 360, colour, -1)
        elif shape == 2:
            corners = np.array([x, y]) + rng.uniform(-1, 1, (rng.integers(3, 7), 2)) * (w, h)
            cv2.fillPoly(canvas, [cv2.convexHull(corners.astype(np.int32))], colour)
        else:
            for step in range(0, w, max(6, w // 6)):  # bars: a fence, blinds, shelves
                cv2.line(canvas, (x + step, y - h), (x + step, y), colour, 3)
    lamp = (rng.uniform(0, width), rng.uniform(0, horizon))
    distance = np.hypot(np.arange(width)[None] - lamp[0], np.arange(height)[:, None] - lamp[1])
    canvas *= (0.8 + 0.6 * np.exp(-distance / rng.uniform(80, 250)))[..., None].astype(np.float32)
    return np.clip(canvas, 0, 255)


def draw_person(rng: np.random.Generator) -> Person:
    """Draw a member of the cast."""
    skin = np.array([225, 180, 150]) * rng.uniform(0.35, 1.05)
    return Person(tuple(rng.uniform(10, 240, 3)), tuple(skin), rng.uniform(0.35, 0.7), rng.uniform(1, 2.5))


def _draw_person(view: np.ndarray, person: Person, x: float, feet: float, time_s: float) -> None:
    """Draw a person whose feet stand at (x, feet), both as shares of the picture, in place."""
    tall = person.size * HEIGHT
    left, base = int(x * WIDTH), int(feet * HEIGHT + 0.02 * tall * np.sin(2 * np.pi * person.pace * time_s))
    stride = int(0.12 * tall * np.sin(np.pi * person.pace * time_s))
    hip, neck, thick = int(base - 0.45 * tall), int(base - 0.8 * tall), max(2, int(0.09 * tall))
    for foot in (left - stride, left + stride):
        cv2.line(view, (left, hip), (foot, base), (45.0, 45.0, 55.0), thick)
    cv2.ellipse(view, (left, (hip + neck) // 2), (int(0.14 * tall), (hip - neck) // 2 + 2), 0, 0, 360, person.coat, -1)
    cv2.circle(view, (left, int(neck - 0.1 * tall)), max(2, int(0.1 * tall)), person.skin, -1)


def _framing(rng: np.random.Generator) -> np.ndarray:
    """Draw a camera position: left and top edge of the view on the canvas, and zoom (1 = canvas pixels)."""
    zoom = rng.uniform(0.6, 1.4)
    room = CANVAS_SCALE - 1 / zoom
    return np.array([rng.uniform(0, room) * WIDTH, rng.uniform(0, room) * HEIGHT, zoom])
