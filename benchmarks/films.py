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

import torch

from benchmarks.measure import Row, take_turns
from recognition.common.allocator import keep_freed_memory
from recognition.common.command_line import Failure
from recognition.features.backbone import Backbone, Preprocessing, torchvision

ROOT = Path(__file__).parent.parent
NUM_FILMS, FILM_S = {"cpu": 8, "cuda": 32}, 8  # that are made where none are given
BATCH_SIZE = {"cpu": 16, "cuda": 64}
NUM_BATCHES, NUM_PLAIN_FRAMES = 20, 150  # for the network alone, and frame by frame
START = "spawn"  # processes, as beside CUDA


def preprocess(device: str, videos: Path | None = None) -> Iterator[Row]:
    """Frames a second from end to end, of a folder of films or of synthetic ones, against the parts alone.

    On a CPU decoding and network share the cores, so for D decoded and N computed frames a second, each alone, the best
    to be had is D N / (D + N). Beside a GPU they overlap, and it is the lesser of the two. The start of the program is
    left out: the time of a run over no new film is taken off.
    """
    # Not above: other benchmarks run where these packages are missing.
    from recognition.films.synthetic import write_films
    from recognition.films.video import find_videos

    with tempfile.TemporaryDirectory() as folder:
        if videos is None:
            videos = Path(folder) / "films"
            list(write_films(videos, NUM_FILMS[device], FILM_S, fps=25))
        features = Path(folder) / "features"
        num_frames, whole = _run(device, videos, features)
        _, start = _run(device, videos, features)
        ours = (whole - start) / num_frames

        paths = sorted(find_videos(videos), key=lambda path: -path.stat().st_size)
        decoding = _on_all_cores(_decode, paths) / num_frames
        if device == "cpu":
            parts = [NUM_BATCHES] * torch.get_num_threads()
            network = _on_all_cores(_compute, parts) / (BATCH_SIZE[device] * sum(parts))
            rival, best = "D N / (D + N), the best to be had", decoding + network
        else:
            [seconds] = take_turns([lambda: _compute(NUM_BATCHES, device)])
            network = seconds / (BATCH_SIZE[device] * NUM_BATCHES)
            rival, best = "the lesser of D and N, the best to be had", max(decoding, network)
        note = f"{1 / ours:.0f} frames/s; decoding alone {1 / decoding:.0f}, network alone {1 / network:.0f}"
        yield Row("preprocess_videos.py", rival, ours, best, 0.95, note=note)
        if device == "cpu":
            plain = _plainly(videos, NUM_PLAIN_FRAMES)
            yield Row("preprocess_videos.py", "OpenCV, PIL, float32, frame by frame", ours, plain, 3)


def _run(device: str, videos: Path, features: Path) -> tuple[int, float]:
    """Preprocess a folder as a user would; returns the number of frames and seconds."""
    words = [f"--input_dir={videos}", f"--output_dir={features}", "--weights=random:0", f"--device={device}"]
    words.append(f"--batch_size={BATCH_SIZE[device]}")
    started = time.perf_counter()
    result = subprocess.run(
        [sys.executable, str(ROOT / "preprocess_videos.py"), *words], capture_output=True, text=True
    )
    seconds = time.perf_counter() - started
    if not (features / "videos.csv").exists():  # a film that is damaged is no failure of this
        raise Failure(f"preprocess_videos.py: {result.stderr}")
    lines = (features / "videos.csv").read_text().splitlines()[1:]
    return sum(int(line.split(",")[1]) for line in lines), seconds


def _on_all_cores(work: Callable[..., object], parts: list) -> float:
    """Seconds for all parts, shared among as many processes as there are cores, each of which computes by itself."""
    num_cores = torch.get_num_threads()
    with ProcessPoolExecutor(num_cores, get_context(START), _prepare) as pool:
        list(pool.map(work, parts[:num_cores]))  # whatever happens once only
        started = time.perf_counter()
        list(pool.map(work, parts))
        return time.perf_counter() - started


def _prepare() -> None:
    """Have this process work as one of preprocess_videos.py's does."""
    import av

    av.logging.set_level(av.logging.PANIC)  # of damaged films
    torch.set_num_threads(1)
    keep_freed_memory()


def _compute(num_batches: int, device: str = "cpu") -> None:
    """Compute features of the same frames as many times."""
    backbone, frames = _backbone(device), torch.randint(0, 256, (BATCH_SIZE[device], 3, 224, 224), dtype=torch.uint8)
    for _ in range(num_batches):
        backbone.features(frames)


@functools.cache
def _backbone(device: str) -> Backbone:
    return Backbone("resnet18", "random:0", torch.device(device))


def _decode(path: Path) -> None:
    """Decode and crop a film, or the part of it before damage."""
    from recognition.films.video import DecodeError, decode

    preprocessing = Preprocessing("resnet18")
    try:
        for image, _ in decode(path):
            preprocessing.crop(torch.from_numpy(image).permute(2, 0, 1))
    except DecodeError:
        pass


def _plainly(videos: Path, most: int) -> float:
    """Seconds a frame by OpenCV, PIL and torchvision's transforms, one at a time in float32, of `most` frames."""
    import cv2
    from PIL import Image

    from recognition.films.video import find_videos

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
