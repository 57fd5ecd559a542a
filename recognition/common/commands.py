"""Commands of the project: those of a room, a line each, for `python -m ROOM`; and how demos run them."""

import ast
import os
import shlex
import subprocess
import sys
import time
from argparse import SUPPRESS
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from recognition.common.command_line import PROJECT, ArgumentParser, Failure, nearest


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


def command(folder: Path, name: str, script: str, *words: str) -> None:
    """Run a command of the project as a user would, showing it; what it prints goes to logs/<name>.txt.

    Raises Failure, with its last line, if it does not end well.
    """
    is_script = script.endswith(".py")
    print(f"$ python {shlex.join([*([] if is_script else ['-m']), script, *words])}", flush=True)
    started = [os.path.relpath(PROJECT / script)] if is_script else ["-m", script]
    paths = os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    log, began = folder / "logs" / f"{name}.txt", time.perf_counter()
    with open(log, "w", encoding="utf-8") as file:
        status = subprocess.run(
            [sys.executable, *started, *words], env=environment, stdout=file, stderr=file
        ).returncode
    if status:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["nothing was printed"]
        raise Failure(f"{name}: status {status}: {lines[-1]}; all of it is in {log}")
    print(f"  {name}: {time.perf_counter() - began:.0f} s", flush=True)


def side_by_side(tasks: Sequence[Callable[[], None]]) -> None:
    """Do tasks two at a time; raises what the first of them raises that fails."""
    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(task) for task in tasks]:
            future.result()
