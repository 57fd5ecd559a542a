"""preprocess_videos.py against its parts alone, and against the plain way of doing it."""

import functools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import av
import cv2
import torch
from PIL import Image

from benchmarks.measure import Row
from recognition.allocator import keep_freed_memory
from recognition.backbone import Backbone, Preprocessing, torchvision
from recognition.films import write_films
from recognition.video import DecodeError, decode, find_videos

ROOT = Path(__file__).parent.parent
BATCH_SIZE = 16
NUM_BATCHES, NUM_PLAIN_FRAMES = 20, 150  # for the network alone, and frame by frame


def preprocess(device: str, videos: Path | None) -> Iterator[Row]:
    """Frames a second from end to end, of a folder of films or of eight synthetic ones, against the parts alone.

    Decoding and network share the cores, so the best to be had is D N / (D + N) for D decoded and N computed frames a
    second, each alone. The start of the program is left out: the time of a run over no new film is taken off.
    """
    with tempfile.TemporaryDirectory() as folder:
        if videos is None:
            videos = Path(folder) / "films"
            list(write_films(videos, 8, 8, fps=25))
        features = Path(folder) / "features"
        num_frames, whole = _run(videos, features)
        _, start = _run(videos, features)
        ours = (whole - start) / num_frames

        paths = sorted(find_videos(videos), key=lambda path: -path.stat().st_size)
        decoding = _on_all_cores(_decode, paths) / num_frames
        parts = [NUM_BATCHES] * torch.get_num_threads()
        network = _on_all_cores(_compute, parts) / (BATCH_SIZE * sum(parts))
        note = f"{1 / ours:.0f} frames/s; decoding alone {1 / decoding:.0f}, network alone {1 / network:.0f}"
        yield Row(
            "preprocess_videos.py", "D N / (D + N), the best to be had", ours, decoding + network, 0.95, note=note
        )
        plain = _plainly(videos, NUM_PLAIN_FRAMES)
        yield Row("preprocess_videos.py", "OpenCV, PIL, float32, frame by frame", ours, plain, 3)


def _run(videos: Path, features: Path) -> tuple[int, float]:
    """Preprocess a folder as a user would; returns the number of frames and seconds."""
    words = [f"--input_dir={videos}", f"--output_dir={features}", "--weights=random:0", f"--batch_size={BATCH_SIZE}"]
    started = time.perf_counter()
    subprocess.run([sys.executable, str(ROOT / "preprocess_videos.py"), *words], capture_output=True)
    seconds = time.perf_counter() - started
    lines = (features / "videos.csv").read_text().splitlines()[1:]
    return sum(int(line.split(",")[1]) for line in lines), seconds


def _on_all_cores(work: Callable[..., object], parts: list) -> float:
    """Seconds for all parts, shared among as many processes as there are cores, each of which computes by itself."""
    num_cores = torch.get_num_threads()
    with ProcessPoolExecutor(num_cores, get_context("spawn"), _prepare) as pool:
        list(pool.map(work, parts[:num_cores]))  # whatever happens once only
        started = time.perf_counter()
        list(pool.map(work, parts))
        return time.perf_counter() - started


def _prepare() -> None:
    """Have this process work as one of preprocess_videos.py's does."""
    av.logging.set_level(av.logging.PANIC)  # of damaged films
    torch.set_num_threads(1)
    keep_freed_memory()


def _compute(num_batches: int) -> None:
    """Compute features of the same frames as many times."""
    backbone, frames = _backbone(), torch.randint(0, 256, (BATCH_SIZE, 3, 224, 224), dtype=torch.uint8)
    for _ in range(num_batches):
        backbone.features(frames)


@functools.cache
def _backbone() -> Backbone:
    return Backbone("resnet18", "random:0", torch.device("cpu"))


def _decode(path: Path) -> None:
    """Decode and crop a film, or the part of it before damage."""
    preprocessing = Preprocessing("resnet18")
    try:
        for image, _ in decode(path):
            preprocessing.crop(torch.from_numpy(image).permute(2, 0, 1))
    except DecodeError:
        pass


def _plainly(videos: Path, most: int) -> float:
    """Seconds a frame by OpenCV, PIL and torchvision's transforms, one at a time in float32, of `most` frames."""
    transforms = torchvision.models.ResNet18_Weights.DEFAULT.transforms()
    network = torchvision.models.resnet18().eval()
    network.fc = torch.nn.Identity()
    num_frames, started = 0, time.perf_counter()
    for path in find_videos(videos):
        film = cv2.VideoCapture(str(path))
        while num_frames < most:
            is_read, image = film.read()
            if not is_read:
                break
            with torch.inference_mode():
                network(transforms(Image.fromarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)))[None])
            num_frames += 1
    return (time.perf_counter() - started) / num_frames
