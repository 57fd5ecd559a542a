"""The commands beside the five steps, a line each.

python -m recognition                 this list
python -m recognition.render --help   what one of them does, with examples
"""

from pathlib import Path

from recognition.common.command_line import run
from recognition.common.commands import list_commands

if __name__ == "__main__":
    run(lambda: list_commands(Path(__file__).parent, __doc__))
