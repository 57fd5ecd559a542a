"""The commands beside the five steps, a line each.

python -m recognition                 this list
python -m recognition.render --help   what one of them does, with examples
"""

import ast
from argparse import SUPPRESS
from pathlib import Path

from recognition.common.command_line import ArgumentParser, nearest, run

HERE = Path(__file__).parent


def main() -> None:
    parse_arguments()
    names = commands()
    width = max(map(len, names))
    for name, line in names.items():
        print(f"  python -m recognition.{name:<{width}}   {line}")


def parse_arguments() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", default=[], help=SUPPRESS)
    args = parser.parse_args()
    if args.words:
        word = args.words[0]
        hint = f"it is started as python -m recognition.{word}" if word in commands() else nearest(word, commands())
        parser.error(f"{word!r} cannot follow here; {hint}")


def commands() -> dict[str, str]:
    """Every command's name and the first line of its docstring, which is read without importing the command."""
    files = sorted(path for path in HERE.glob("*.py") if not path.stem.startswith("__"))
    docstrings = {path.stem: ast.get_docstring(ast.parse(path.read_text("utf-8"))) for path in files}
    return {name: (docstring or "").partition("\n")[0] for name, docstring in docstrings.items()}


if __name__ == "__main__":
    run(main)
