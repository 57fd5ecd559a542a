"""Times, answers and events of a stream in words."""

from recognition.streaming.answers import Answer
from recognition.streaming.event import Event

MINUTE_S, HOUR_S = 60, 3600


def clock(time_s: float) -> str:
    """A time of a stream as a clock shows it: 02:13 or 1:02:13."""
    seconds = max(0, int(time_s))
    hours, rest = divmod(seconds, HOUR_S)
    return (f"{hours}:" if hours else "") + f"{rest // MINUTE_S:02}:{rest % MINUTE_S:02}"


def duration(time_s: float) -> str:
    """A length of time: 41 s, 2 min 13 s, 1 h 2 min."""
    seconds = max(0, round(time_s))
    if seconds < MINUTE_S:
        return f"{seconds} s"
    if seconds < HOUR_S:
        return f"{seconds // MINUTE_S} min {seconds % MINUTE_S} s"
    return f"{seconds // HOUR_S} h {seconds % HOUR_S // MINUTE_S} min"


def when(answer: Answer) -> str:
    """When a frame was seen: by the model's own look-up, or else by the nearest frame of the ring, which is said. Empty
    for a frame that is new, or if neither knows."""
    if not answer.says_old:
        return ""
    if answer.seen_s is not None:
        return f"seen {duration(answer.time_s - answer.seen_s)} ago"
    if answer.ring_seen_s is not None:
        return f"nearest frame {duration(answer.time_s - answer.ring_seen_s)} ago"
    return ""


def told(event: Event) -> str:
    """An event in a line: 02:13 to 02:17: 00:10 to 00:14 again (replay, after 2 min 3 s; 41 frames, peak 5.2)."""
    span = f"{clock(event.start_s)} to {clock(event.end_s)}"
    about = f"{event.num_frames} frames, peak {event.peak:.1f}"
    if event.seen_start_s is None or event.seen_end_s is None or event.offset_s is None:
        return f"{span}: something like it was there ({event.kind}; {about})"
    ago = f"after {duration(event.offset_s)}"
    if event.kind == "return":
        return f"{span}: this place, as at {clock(event.seen_start_s)} ({event.kind}, {ago}; {about})"
    return f"{span}: {clock(event.seen_start_s)} to {clock(event.seen_end_s)} again ({event.kind}, {ago}; {about})"
