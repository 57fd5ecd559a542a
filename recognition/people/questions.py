"""Questions on clips, a laboratory's own, which the page asks between them."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recognition.common.command_line import InputError, shown

QUESTION_COLUMNS = ["episode", "after_clip", "text", "answer"]


def read_questions(path: Path, num_clips: Mapping[str, int]) -> dict[str, list[dict[str, Any]]]:
    """Questions on clips by episode, of a CSV of QUESTION_COLUMNS. Keys are y and n, or the digits up to 9 or letters
    that the answers to the episode's questions name, if others.

    Raises InputError, naming the file and the line.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = list(csv.DictReader(file, strict=True))
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"--questions {path}: no such file") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"--questions {path}: not a CSV in UTF-8 ({error})") from None
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in num_clips}
    for place, line in enumerate(lines, 2):
        where = f"--questions {path}:{place}"
        if list(line) != QUESTION_COLUMNS or None in line.values():
            raise InputError(f"{where}: its columns must be {', '.join(QUESTION_COLUMNS)}")
        episode, after, text, answer = (line[name].strip() for name in QUESTION_COLUMNS)
        if episode not in num_clips:
            raise InputError(f"{where}: episode {shown(episode)} is not exported; there are {', '.join(num_clips)}")
        if not after.isdecimal() or not 1 <= int(after) <= num_clips[episode]:
            raise InputError(f"{where}: after_clip must be from 1 to {num_clips[episode]}, found {shown(after)}")
        if answer.lower() not in ("y", "n", *"123456789") or not text:
            raise InputError(
                f"{where}: needs a text, and an answer that is a key: y, n or 1 to 9, found {shown(answer)}"
            )
        keys = ["y", "n"] if answer.lower() in "yn" else [str(k) for k in range(1, max(4, int(answer)) + 1)]
        found[episode].append({"after_clip": int(after), "text": text, "keys": keys, "answer": answer.lower()})
    return found
