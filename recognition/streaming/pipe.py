"""Standard input, or any pipe, as FFmpeg reads it: with an end to waiting."""

import os
import select

import av

from recognition.common.command_line import Failure, InputError

SILENT_S = 10.0  # so long nothing may come
JPEG = b"\xff\xd8"  # what each JPEG file begins with
# A live stream should not be looked at for long before its first picture is shown.
SHORT_LOOK = {"analyzeduration": "500000"}  # microseconds of it


class Pipe:
    """A file for PyAV around a descriptor, which stays open."""

    def __init__(self, number: int):
        self._number, self._held = number, b""

    def peek(self, size: int) -> bytes:
        """The first bytes, `size` of them or, at the end, fewer, which `read` gives again."""
        while len(self._held) < size and (more := self._next(size)):
            self._held += more
        return self._held[:size]

    def read(self, size: int) -> bytes:
        """Up to `size` bytes as they come; none at the end. Raises Failure if nothing comes for SILENT_S seconds."""
        if self._held:
            given, self._held = self._held[:size], self._held[size:]
            return given
        return self._next(size)

    def _next(self, size: int) -> bytes:
        waiting = select.poll()
        waiting.register(self._number, select.POLLIN)
        if not waiting.poll(SILENT_S * 1000):
            raise Failure(f"standard input: nothing has come for {SILENT_S:.0f} s")
        return os.read(self._number, size)


def open_pipe(number: int) -> av.container.InputContainer:
    """Open what comes through a descriptor: MJPEG if it begins as a JPEG file, else MPEG-TS, and nothing else, since
    FFmpeg follows what a playlist names. Raises InputError if nothing comes."""
    pipe = Pipe(number)
    if not (start := pipe.peek(2)):
        raise InputError("-: nothing came through standard input; pipe a stream into it, as MPEG-TS or MJPEG")
    return av.open(
        pipe, "r", format="mjpeg" if start == JPEG else "mpegts", options=SHORT_LOOK, metadata_errors="replace"
    )
