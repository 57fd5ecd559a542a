"""What every file was made from, and whether that is still so.

  python -m recognition.provenance runs/transformer                     from a run back to the features of its films
  python -m recognition.provenance video-features/test_indices.h5       from episodes
  python -m recognition.provenance video-features/abc.h5 --videos videos       from features, and the film itself
  python -m recognition.provenance runs/transformer dataset.video_path=elsewhere       where features have been moved

PATH is a run's folder or any file in it, an index file or a feature file. Each line names a file, how it was made and
whether what it was made from is unchanged; the exit status is 1 if something has changed or is missing. Inputs are
looked for where the run's config.yaml says, and features of an index file beside it; where they are by now can be told
by the settings of train.py.
"""

from argparse import Namespace
from pathlib import Path

from recognition.common.command_line import ArgumentParser, InputError, folder_path, run
from recognition.training.provenance import chain


def main() -> int:
    args = parse_arguments()
    if not args.path.exists():
        raise InputError(f"{args.path}: no such file or folder")
    if args.videos and not args.videos.is_dir():
        raise InputError(f"--videos {args.videos}: no such folder")
    is_intact = True
    for link in chain(args.path, args.videos, args.settings):
        print("  " * link.depth + link.text)
        is_intact &= link.is_intact
    return 0 if is_intact else 1


def parse_arguments() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path, metavar="PATH", help="a run, a file in a run, an index or a feature file")
    parser.add_argument(
        "settings", nargs="*", metavar="key=value", help="where inputs are by now, such as dataset.video_path=elsewhere"
    )
    parser.add_argument("--videos", type=folder_path, help="folder with the films, to see whether they are unchanged")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
