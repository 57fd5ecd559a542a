"""A film in another container, its packets as they are."""

from pathlib import Path

import av


def remux(film: Path, path: Path, **options: str) -> Path:
    """Write `film` as `path` anew, in the container that its suffix names."""
    with av.open(str(film)) as old, av.open(str(path), "w", options=options) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    return path
