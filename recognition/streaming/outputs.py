"""Where answers and events go: tables, a video, a page, lines in the terminal."""

import time
from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path

from tqdm import tqdm

from recognition.streaming.annotated_video import AnnotatedVideo
from recognition.streaming.event import Event
from recognition.streaming.frames import Source
from recognition.streaming.page import LivePage
from recognition.streaming.rows import answers_file, events_file
from recognition.streaming.trained import TrainedRun
from recognition.streaming.watcher import Seen, Watcher
from recognition.streaming.words import clock, lasting, words_of_event

NUM_THUMBNAILS = 3600  # one of each second
RUNNING_EVERY_S = 1.0  # an event that goes on is shown anew


class Outputs(ExitStack):
    """All that was asked for, open until the block ends.

    Args:
        args: of watching.
        trained: the run.
        watcher: at its source.
        source: what comes live is shown on a page, unless the arguments forbid it.

    Raises InputError for a port that is taken and a table of another kind; OSError for what cannot be written.
    """

    def __init__(self, args: Namespace, trained: TrainedRun, watcher: Watcher, source: Source):
        super().__init__()
        self.watcher, self.is_quiet, self._shown_s = watcher, args.quiet, 0.0
        next_start_s, last_s = (watcher.next_start_s, watcher.memory.last_s) if watcher.was_there else (None, None)
        with ExitStack() as opened:
            self.events = opened.enter_context(events_file(args.events, next_start_s)) if args.events else None
            self.answers = opened.enter_context(answers_file(args.answers, last_s)) if args.answers else None
            video = args.video and _free_name(args.video, watcher.is_going_on)
            self.video = opened.enter_context(AnnotatedVideo(video)) if video else None
            self.page = None
            if args.page is not None or (source.is_live and args.words[1] != "-" and not args.no_page):
                num_thumbnails = NUM_THUMBNAILS if args.thumbnails else 0
                about = trained.run.path.name, source.name, watcher.events.rules.threshold
                self.page = LivePage(args.page, *about, num_thumbnails, trained.ring_threshold)
                opened.callback(self.page.close)
                print(f"see {self.page.address}", flush=True)
            self.bar = opened.enter_context(tqdm(unit=" frames", disable=None, leave=False))
            self.push(opened.pop_all())

    def add(self, seen: Seen) -> None:
        """Write and show what is known after a frame."""
        self.bar.update()
        if seen.event:
            self.add_event(seen.event)
        answer = seen.answer
        if answer is None:
            return
        if self.answers:
            self.answers.write(answer)
        if self.video:
            self.video.write(seen.frame.picture, answer)
        if self.page:
            self.page.show(seen.frame.picture, answer, self._numbers())
            now_s, running = time.monotonic(), self.watcher.events.current
            if running and self.watcher.events.is_open and now_s - self._shown_s > RUNNING_EVERY_S:
                self._shown_s = now_s
                self.page.event(running, is_over=False)

    def add_event(self, event: Event) -> None:
        """Write, show and tell of an event that is over."""
        if self.events:
            self.events.write(event)
        if self.page:
            self.page.event(event, is_over=True)
        if not self.is_quiet:
            tqdm.write(told(event))

    def _numbers(self) -> dict[str, float]:
        memory, latency = self.watcher.memory, self.watcher.latency.summary()
        return {
            "studied": memory.num_studied,
            "forgotten": memory.num_forgotten,
            "still": memory.num_still,
            "dropped_share": latency.dropped_share,
            "latency_median_ms": 1e3 * latency.median_s,
            "latency_p95_ms": 1e3 * latency.p95_s,
        }


def told(event: Event) -> str:
    """An event in a line: 02:13 to 02:17: 00:10 to 00:14 again (replay, after 2 min 3 s; 41 frames, peak 5.2)."""
    ago = "" if event.offset_s is None else f", after {lasting(event.offset_s)}"
    about = f"{event.kind}{ago}; {event.num_frames} frames, peak {event.peak:.1f}"
    return f"{clock(event.start_s)} to {clock(event.end_s)}: {words_of_event(event)} ({about})"


def _free_name(path: Path, is_going_on: bool) -> Path:
    """Of a film that is gone on with, the video of each part has a name of its own: out.mp4, out-2.mp4."""
    number, free = 1, path
    while is_going_on and free.exists():
        number += 1
        free = path.with_stem(f"{path.stem}-{number}")
    return free
