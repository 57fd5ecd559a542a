"""Have I seen this before, and when? A run watches a camera or a film, or searches films.

  python -m recognition.live runs/knn_memory 0                       camera 0, shown in a browser on this machine
  python -m recognition.live runs/knn_memory test:                   a try without a camera
  python -m recognition.live runs/knn_memory film.mp4 --events events.csv --video out.mp4
  python -m recognition.live runs/mlstm film.mp4 --memory film.memory          keep the memory; the next call goes on
  python -m recognition.live runs/knn_memory --study videos --ask photos       in which film was this, and when?
  python -m recognition.live runs/* --calibrate                      thresholds for 6 false events an hour
  python -m recognition.live runs/* --check video-features/test_indices.h5     how well do they notice what returns?

A source is a camera's number, a film, a folder of pictures, an rtsp or http address, - for standard input, or test:. A
frame is asked about when it comes and studied only a while later, for it always resembles the one before it. Events
are replays (the same pictures again), returns (the same place again) and resemblances. Nothing leaves this machine, and
nothing is kept but features, unless you ask for it.

SIGTERM and SIGUSR1 end it after the frame under way with exit status 75, Ctrl-C with 130; with --memory the same
command goes on with the film. Settings such as dataset.video_path=elsewhere say where a run's data are by now.
"""

from argparse import Namespace

from recognition.common.command_line import (
    ArgumentParser,
    folder_path,
    number_between,
    path_or_word,
    run,
    whole_number,
)
from recognition.streaming import watch
from recognition.streaming.checking import calibrating, check
from recognition.streaming.search import find


def main() -> int | None:
    args = parse_arguments()
    if args.study or args.ask:
        return find.main(args)
    mode = calibrating if args.calibrate else check if args.check else watch
    mode.main(args)
    return None


def parse_arguments() -> Namespace:
    usage = "%(prog)s RUN SOURCE | RUN --study FILMS --ask PICTURES | RUN... --calibrate | RUN... --check INDEX"
    parser = ArgumentParser(description=__doc__, usage=usage)
    parser.add_argument("words", nargs="+", metavar="RUN", help="folder of a trained run, then SOURCE; key=value")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--weights", type=path_or_word, help="where the backbone's weights are, if the features had them of a file"
    )
    parser.add_argument(
        "--delay", type=number_between(0, 1e6), default=10.0, metavar="S", help="study a frame when it is so old"
    )
    parser.add_argument(
        "--fps", type=number_between(0.01, 1000), help="frames a second; as many as the run has learned from"
    )
    parser.add_argument(
        "--ring", type=whole_number(1), default=36_000, metavar="N", help="frames kept to look up by plain similarity"
    )
    parser.add_argument("--capacity", type=whole_number(1), metavar="N", help="frames that a layer with look-up keeps")
    parser.add_argument(
        "--forget_after", type=whole_number(1), metavar="N", help="forget all after so many studied frames"
    )
    parser.add_argument("--videos", type=folder_path, help="the films of which a search or a check has the features")
    parser.add_argument(
        "--output", type=folder_path, help="folder for what a search or a check writes; found, or live-check"
    )
    for mode in (watch, find, calibrating, check):
        mode.add_arguments(parser)
    args = parser.parse_intermixed_args()  # an option may stand between a run and its source
    from recognition.training.runs import part_settings

    _, args.settings = part_settings([word for word in args.words if "://" not in word])
    args.words = [word for word in args.words if word not in args.settings]
    is_watching = not (args.study or args.ask or args.calibrate or args.check)
    if is_watching and len(args.words) != 2:
        parser.error("a run and a source are needed: python -m recognition.live runs/knn_memory film.mp4")
    return args


if __name__ == "__main__":
    run(main)
