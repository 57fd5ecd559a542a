"""The words that people read in an experiment, and their replacement by a laboratory's own."""

import json
from pathlib import Path
from typing import Any

from recognition.common.command_line import InputError, first_line, nearest
from recognition.people.jspsych import BROWSER


def default_words() -> dict[str, Any]:
    """Those of the page: texts, and lists of texts."""
    return json.loads((BROWSER / "text.json").read_text("utf-8"))


def read_words(path: Path | None, consent: Path | None) -> dict[str, Any]:
    """The words with those replaced that a JSON file names, and with the consent page of a text file.

    Raises InputError, naming the file and the word.
    """
    words = default_words()
    if path is not None:
        try:
            own = json.loads(_text(path, "--text"))
        except (ValueError, RecursionError) as error:
            raise InputError(f"--text {path}: not JSON ({first_line(error)})") from None
        if not isinstance(own, dict):
            raise InputError(f"--text {path}: must be an object of words, as text.json beside the page is")
        for name, value in own.items():
            if name not in words:
                raise InputError(f"--text {path}: {name}: no such word; {nearest(name, words)}")
            if not _fits(value, words[name], name):
                raise InputError(f"--text {path}: {name}: must be {_due(words[name], name)}")
        words |= own
    if consent is not None:
        words["consent"] = _text(consent, "--consent").strip()
    return words


def _fits(value: Any, due: Any, name: str) -> bool:
    if isinstance(due, str):
        return isinstance(value, str)
    is_list = isinstance(value, list) and bool(value) and all(isinstance(word, str) for word in value)
    return is_list and (name == "instructions" or len(value) == len(due))


def _due(due: Any, name: str) -> str:
    if isinstance(due, str):
        return "a text"
    return "a list of texts" if name == "instructions" else f"a list of {len(due)} texts"


def _text(path: Path, option: str) -> str:
    try:
        return path.read_text("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"{option} {path}: no such file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{option} {path}: not a text in UTF-8 (byte {error.start})") from None
