"""People do the same task: experiments in a browser, sessions read, people beside models.

  python -m recognition.participants export video-features/test_indices.h5 --episodes 0-3 --output experiment
  python -m recognition.participants export --help      what one of them does, with all its options

export    an index file becomes a folder that is an experiment, with its key beside it
serve     a small web server for a laboratory, which keeps the answers
read      answers of people become a folder that evaluate.py takes beside those of runs
published the people of the published study are read from their NWB files
order     trained models are asked which of two studied frames came first
compare   people beside models: one figure, one table, and how far they agree about each probe
"""

from argparse import Namespace
from typing import Protocol

from recognition.common.command_line import ArgumentParser, run
from recognition.people import compare, export, model_order, published, read, server


class Command(Protocol):
    """A module with a command of its own. The first line of its docstring, without the full stop, is told in the
    list of commands; what takes long to import it imports in `main`."""

    def add_arguments(self, parser: ArgumentParser) -> None: ...

    def main(self, args: Namespace) -> int | None: ...


COMMANDS: dict[str, Command] = {
    "export": export,
    "serve": server,
    "read": read,
    "published": published,
    "order": model_order,
    "compare": compare,
}


def main() -> int | None:
    args = parse_arguments()
    return COMMANDS[args.command].main(args)


def parse_arguments() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        text = command.__doc__ or ""
        line = text.partition("\n")[0].removesuffix(".")
        added = commands.add_parser(name, help=line, description=text, prog=f"{parser.prog} {name}")
        command.add_arguments(added)
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
