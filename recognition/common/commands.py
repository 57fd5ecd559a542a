"""The commands of a room, a line each, for `python -m ROOM`."""

import ast
from argparse import SUPPRESS
from pathlib import Path

from recognition.common.command_line import ArgumentParser, nearest


def list_commands(folder: Path, description: str | None) -> None:
    """Print the commands in a folder, which is a package. A word that follows ends the program: it says how the
    command is started."""
    room, names = folder.name, commands(folder)
    parser = ArgumentParser(description=description)
    parser.add_argument("words", nargs="*", default=[], help=SUPPRESS)
    args = parser.parse_args()
    if args.words:
        word = args.words[0]
        hint = f"it is started as python -m {room}.{word}" if word in names else nearest(word, names)
        parser.error(f"{word!r} cannot follow here; {hint}")
    width = max(map(len, names))
    for name, line in names.items():
        print(f"  python -m {room}.{name:<{width}}   {line}")


def commands(folder: Path) -> dict[str, str]:
    """Every command's name and the first line of its docstring. Files are read, not imported: a command is one with a
    main of its own."""
    found = {}
    for path in sorted(folder.glob("*.py")):
        text = path.read_text("utf-8")
        if not path.stem.startswith("__") and 'if __name__ == "__main__":' in text:
            found[path.stem] = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    return found
