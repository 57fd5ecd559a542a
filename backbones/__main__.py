"""Learn your own backbone from films: the commands, a line each.

python -m backbones                   this list
python -m backbones.classify --help   what one of them does, with examples
"""

from pathlib import Path

from recognition.common.command_line import run
from recognition.common.commands import list_commands

if __name__ == "__main__":
    run(lambda: list_commands(Path(__file__).parent, __doc__))
