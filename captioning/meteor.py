"""METEOR 1.5 (Denkowski and Lavie 2014), by its authors' own program, which needs Java; no other goes by this name."""

import atexit
import importlib.util
import shutil
import subprocess
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from recognition.common.command_line import Failure

JAR = Path("meteor", "meteor-1.5.jar")  # within the package pycocoevalcap
MOST_ROWS = 500  # asked at once


def what_is_missing() -> str | None:
    """What METEOR needs and is not here, in one line; None if all is."""
    if _jar() is None:
        return "not computed: needs the package pycocoevalcap (104 MB; pip install pycocoevalcap)"
    if shutil.which("java") is None:
        return "not computed: needs Java, a program `java` on the path"
    return None


def meteor_counts(
    hypotheses: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> np.ndarray | str:
    """What METEOR's program counts of N captions, in tokens: (N, 23), which may be summed over clips; or, where it
    cannot be run, what it needs."""
    if missing := what_is_missing():
        return missing
    try:
        counts = np.array([_program().count(*pair) for pair in zip(hypotheses, references, strict=True)])
    except (Failure, OSError) as error:
        return f"not computed: {error}"
    # The program, when it adds up clips, counts no chunk for those that are word for word as the reference.
    length, due, chunks, found, found_due = counts[:, [0, 1, 20, 21, 22]].T
    counts[(length == found) & (due == found_due) & (chunks == 1), 20] = 0
    return counts


def meteor_of(counts: np.ndarray) -> np.ndarray:
    """METEOR (R,) of counts (R, 23), be they a clip's or sums over clips. Raises Failure if the program fails."""
    rows = range(0, len(counts), MOST_ROWS)
    return np.concatenate([_program().scores(counts[start : start + MOST_ROWS]) for start in rows])


class _Program:
    """The program, asked line by line."""

    def __init__(self) -> None:
        words = ["java", "-Xmx2G", "-jar", str(_jar()), "-", "-", "-stdio", "-l", "en", "-norm"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            words, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, encoding="utf-8"
        )
        atexit.register(self._process.kill)

    def count(self, hypothesis: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        texts = [" ".join(word for word in words if "|" not in word) for words in (*references, hypothesis)]
        return [float(number) for number in self._ask(" ||| ".join(["SCORE", *texts]))[0].split()]

    def scores(self, counts: np.ndarray) -> np.ndarray:
        rows = [" ".join(map(str, row)) for row in counts.tolist()]
        return np.array(self._ask(" ||| ".join(["EVAL", *rows]), len(rows) + 1)[:-1], float)  # the last is that of all

    def _ask(self, line: str, num_answers: int = 1) -> list[str]:
        assert self._process.stdin
        assert self._process.stdout
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        answers = [self._process.stdout.readline() for _ in range(num_answers)]
        if not answers[-1].strip():
            raise Failure("METEOR's program has ended before its work was done; is there memory for it, 2 GB?")
        return answers


@lru_cache
def _program() -> _Program:
    """Started once: it takes seconds."""
    return _Program()


@lru_cache
def _jar() -> Path | None:
    """Where the program is, if the package that brings it is installed."""
    package = importlib.util.find_spec("pycocoevalcap")
    for folder in (package and package.submodule_search_locations) or ():
        if (path := Path(folder, JAR)).is_file():
            return path.resolve()
    return None
