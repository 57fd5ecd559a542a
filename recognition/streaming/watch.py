"""Watch a source: say of every frame whether it was there before, and when; tell of events as they end."""

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from recognition.common.command_line import ArgumentParser, as_folder, whole_number

if TYPE_CHECKING:
    from recognition.streaming.trained import TrainedRun
    from recognition.streaming.watcher import Watcher

USUAL_FPS = 10.0
SLOW = 0.8  # of the frames that the run has learned from


def add_arguments(parser: ArgumentParser) -> None:
    """The arguments of watching."""
    group = parser.add_argument_group("watch a source")
    group.add_argument(
        "--realtime", action="store_true", help="let a film come at its own pace, not as fast as it can be asked"
    )
    group.add_argument("--no_study", action="store_true", help="ask only, of a memory made before")
    group.add_argument(
        "--memory", type=Path, metavar="FILE", help="keep the memory in this file, and go on with it if it is there"
    )
    group.add_argument("--events", type=Path, metavar="FILE", help="write events into this CSV, each as it ends")
    group.add_argument("--answers", type=Path, metavar="FILE", help="write the answer to every frame into this CSV")
    group.add_argument("--video", type=Path, metavar="FILE", help="write the pictures with their answers, .mp4")
    group.add_argument(
        "--page",
        type=whole_number(0, 65535),
        metavar="PORT",
        help="show picture, answer and events in a browser on this machine, 0 at a free port; what comes live is shown",
    )
    group.add_argument("--no_page", action="store_true", help="show no camera either")
    group.add_argument(
        "--thumbnails", action="store_true", help="keep small pictures, so that the page can show what was seen then"
    )
    group.add_argument(
        "--ignore_still", action="store_true", help="pass over frames that do not differ from those a delay ago"
    )
    group.add_argument(
        "--threads",
        type=whole_number(1),
        default=1,
        metavar="N",
        help="of the CPU, for each frame; of a small network one at a time is faster by one",
    )
    group.add_argument("--num_answers", type=whole_number(1), metavar="N", help="end after so many answers")
    group.add_argument("--quiet", action="store_true", help="print no line for each event")


def main(args: Namespace) -> None:
    """Watch until the source ends, or a signal comes."""
    import signal

    import torch

    from recognition.common.stopping import SIGNALS, stopping_later
    from recognition.streaming.outputs import Outputs
    from recognition.streaming.sources import open_source
    from recognition.streaming.trained import open_trained

    for file in (args.memory, args.events, args.answers, args.video):
        as_folder((file or Path()).parent)
    torch.set_num_threads(args.threads)
    path, word = args.words
    trained = open_trained(Path(path), args.settings, args.device)
    fps = args.fps or trained.fps or USUAL_FPS
    eye, watcher = trained.eye(args.weights), start(trained, args, fps)
    with (
        stopping_later((*SIGNALS, signal.SIGINT)) as is_stop_asked,
        open_source(word, eye.reads_at(fps), args.realtime) as source,
    ):
        source.end_when(is_stop_asked)
        watcher.begin(source)
        print(f"{trained.run.path.name} on {source.name}: {told(watcher, fps)}", flush=True)
        with Outputs(args, trained, watcher, source) as outputs:
            for frame in source:
                # What was done before is not done again; windows need all of their frames.
                if eye.window > 1 or watcher.is_due(frame):
                    taken = eye.take(frame)
                    if taken and watcher.is_due(taken):
                        outputs.add(watcher.see(taken, eye.now()))
                if is_stop_asked() or watcher.num_answers == args.num_answers:
                    break
            if event := watcher.end(is_stop_asked()):
                outputs.add_event(event)
        print(f"{source.name}: {summary(watcher, fps)}", flush=True)


def start(trained: "TrainedRun", args: Namespace, fps: float) -> "Watcher":
    """A watcher with a new memory, or with the one in --memory. Raises InputError."""
    from recognition.streaming.checking.calibration import read_calibration
    from recognition.streaming.events import EventRules, Events
    from recognition.streaming.memory import LiveMemory, MemoryRules
    from recognition.streaming.watcher import Watcher

    rules = MemoryRules(args.delay, not args.no_study, args.ring, args.ignore_still)
    memory = LiveMemory(trained.stream(args.capacity, args.forget_after), trained.num_features, rules)
    calibration = read_calibration(trained.run.path / "live.json", trained.live_digests(args.delay, fps))
    if calibration is None:
        print(
            f"{trained.run.path.name} is not calibrated: what its logit 0 calls old fits films of which half is old; "
            f"python -m recognition.live {trained.run.path} --calibrate",
        )
    return Watcher(memory, Events(calibration.rules() if calibration else EventRules()), args.memory)


def told(watcher: "Watcher", fps: float) -> str:
    """What is about to happen."""
    memory, rules = watcher.memory, watcher.memory.rules
    studies = f"each frame is studied {rules.delay_s:g} s later" if rules.studies else "nothing is studied"
    text = f"{fps:g} answers a second, old above {watcher.events.rules.threshold:.3g}; {studies}"
    if watcher.was_there:
        text += f"; goes on with {memory.num_studied + memory.num_forgotten:,} frames studied before"
    return text


def summary(watcher: "Watcher", fps: float) -> str:
    """What has happened."""
    memory = watcher.memory
    text = f"{watcher.num_answers:,} answers, {watcher.num_events} events; {watcher.latency.summary()}; "
    text += f"{memory.num_studied:,} frames in memory, {memory.num_bytes / 1e6:.2f} MB"
    text += f", {memory.num_forgotten:,} forgotten" if memory.num_forgotten else ""
    if watcher.answers_a_second < SLOW * fps:
        text += f"; only {watcher.answers_a_second:.3g} answers a second, while the run has learned from {fps:g}"
    return text + (f"; {memory.num_still:,} still frames passed over" if memory.num_still else "")
