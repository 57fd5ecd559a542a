"""Write episodes of an index file as an experiment that runs in a browser.

python -m recognition.participants export video-features/test_indices.h5 --episodes 0-3 --output experiment
"""

from argparse import Namespace
from pathlib import Path

from recognition.common.command_line import ArgumentParser, Failure


def add_arguments(parser: ArgumentParser) -> None:
    """The arguments of `participants export`."""
    parser.add_argument("index", type=Path, help="an index file, such as video-features/test_indices.h5")


def main(args: Namespace) -> None:
    """Export."""
    raise Failure("not written yet")
