"""preprocess_videos.py against its parts alone, and against the plain way of doing it."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import torch
from PIL import Image

from benchmarks.measure import Row
from recognition.backbone import Backbone, Preprocessing, torchvision
from recognition.films import write_films
from recognition.video import DecodeError, decode, find_videos

ROOT = Path(__file__).parent.parent
BATCH_SIZE = 64


def preprocess(device: str, videos: Path | None) -> Iterator[Row]:
    """Frames a second from end to end, of a folder of films or of eight synthetic ones, against the parts alone.

    Decoding and network share the cores, so the best to be had is D N / (D + N) for D decoded and N computed frames a
    second, each alone. The start of the program is left out: the time of a run over no new film is taken off.
    """
    av.logging.set_level(av.logging.PANIC)  # of damaged films
    with tempfile.TemporaryDirectory() as folder:
        if videos is None:
            videos = Path(folder) / "films"
            list(write_films(videos, 8, 8, fps=25))
        features = Path(folder) / "features"
        started = time.perf_counter()
        num_frames = _run(videos, features)
        middle = time.perf_counter()
        _run(videos, features)
        seconds = 2 * middle - started - time.perf_counter()
        ours = seconds / num_frames

        frames, decoding = _decode_all(videos)
        backbone = Backbone("resnet18", "random:0", torch.device("cpu"))
        started = time.perf_counter()
        for batch in frames.split(BATCH_SIZE):
            backbone.features(batch)
        network = (time.perf_counter() - started) / len(frames)
        note = f"{1 / ours:.0f} frames/s; decoding alone {1 / decoding:.0f}, network alone {1 / network:.0f}"
        yield Row(
            "preprocess_videos.py", "D N / (D + N), the best to be had", ours, decoding + network, 0.95, note=note
        )
        plain = _plainly(videos, 150)
        yield Row("preprocess_videos.py", "OpenCV, PIL, float32, frame by frame", ours, plain, 3)


def _run(videos: Path, features: Path) -> int:
    """Preprocess a folder as a user would; returns the number of frames."""
    words = [f"--input_dir={videos}", f"--output_dir={features}", "--weights=random:0", f"--batch_size={BATCH_SIZE}"]
    subprocess.run([sys.executable, str(ROOT / "preprocess_videos.py"), *words], capture_output=True)
    return sum(int(line.split(",")[1]) for line in (features / "videos.csv").read_text().splitlines()[1:])


def _decode_all(videos: Path) -> tuple[torch.Tensor, float]:
    """Decode and crop all films on all cores; returns some of the frames and the seconds a frame took."""
    preprocessing, frames, num_frames = Preprocessing("resnet18"), [], 0
    started = time.perf_counter()
    for path in find_videos(videos):
        try:
            for image, _ in decode(path, threads=torch.get_num_threads()):
                frame = preprocessing.crop(torch.from_numpy(image).permute(2, 0, 1))
                num_frames += 1
                if len(frames) < 8 * BATCH_SIZE:
                    frames.append(frame)
        except DecodeError:
            continue
    return torch.stack(frames), (time.perf_counter() - started) / num_frames


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
