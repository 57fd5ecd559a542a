"""`python -m recognition.live` with the options of a search alone."""

from argparse import Namespace

from recognition.common.command_line import ArgumentParser, run
from recognition.streaming import find


def main() -> int | None:
    parser = ArgumentParser(description=find.__doc__)
    parser.add_argument("words", nargs="+")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--weights")
    find.add_arguments(parser)
    args: Namespace = parser.parse_args()
    args.settings = [word for word in args.words if "=" in word]
    args.words = [word for word in args.words if "=" not in word]
    return find.main(args)


if __name__ == "__main__":
    run(main)
