"""Say what was seen: the commands, a line each.

python -m captioning                this list
python -m captioning.train --help   what one of them does, with examples
"""

from pathlib import Path

from recognition.common.command_line import run
from recognition.common.commands import list_commands

if __name__ == "__main__":
    run(lambda: list_commands(Path(__file__).parent, __doc__))
