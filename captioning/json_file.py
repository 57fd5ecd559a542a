"""JSON that others wrote: what is wrong with it is told in one line."""

import json
from pathlib import Path
from typing import Any

from captioning.captions import read_text
from recognition.common.command_line import InputError, shown


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises InputError, which names the line, if it is none or has a key twice."""
    try:
        return json.loads(read_text(path), object_pairs_hook=lambda pairs: _once(path, pairs))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: is no JSON ({error.msg})") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: is no JSON that can be read ({type(error).__name__})") from None


def _once(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for number, (key, _) in enumerate(pairs) if key in dict(pairs[:number]))
        raise InputError(f"{path}: {shown(twice)} is there twice")
    return found
