"""Films that change on the way, as where a broadcast is joined to another."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def write_changing_film(
    path: Path, parts: Sequence[tuple[int, int, Fraction]], num_frames: int, rate: int = 25
) -> Path:
    """A transport stream of H.264 with some frames of each part's width, height and shape of pixels, ever lighter."""
    with av.open(str(path), "w", format="mpegts") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = *parts[0][:2], "yuv420p"
        for number, (width, height, pixel_shape) in enumerate(parts):
            encoder = av.CodecContext.create("libx264", "w")
            encoder.width, encoder.height, encoder.pix_fmt, encoder.framerate = width, height, "yuv420p", rate
            encoder.time_base, encoder.sample_aspect_ratio = Fraction(1, rate), pixel_shape
            first = number * num_frames
            for k in range(first, first + num_frames):
                frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), 2 * k, np.uint8))
                frame.pts, frame.time_base = k, Fraction(1, rate)
                _mux(encoder.encode(frame), stream, container)
            _mux(encoder.encode(None), stream, container)
    return path


def _mux(packets: list[av.Packet], stream: av.VideoStream, container: av.container.OutputContainer) -> None:
    for packet in packets:
        packet.stream = stream
        container.mux(packet)
