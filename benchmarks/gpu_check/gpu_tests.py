"""The tests that only a GPU can run, in one process."""

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
RESULT = re.compile(r"^(tests/\S+::.+) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b")


def gpu_tests(device: str, seconds: float) -> Iterator[dict[str, Any]]:
    """Every failure by name when it happens, and at the end how many there were of each kind."""
    # Other files may need packages that are not here.
    files = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    words = ["-m", "gpu", "-vv", "--tb=short", "-p", "no:cacheprovider", *map(str, files)]
    counts: Counter[str] = Counter()
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout or ():
            print(line, end="", file=sys.stderr)
            if found := RESULT.match(line):
                name, outcome = found.groups()
                counts[outcome.lower()] += 1
                if outcome in ("FAILED", "ERROR"):
                    yield {"what": name, "value": outcome.lower(), "is_good": False}
    told = ", ".join(f"{number} {outcome}" for outcome, number in counts.items()) or "none was run"
    # 5: nothing was collected; on a CPU all are skipped.
    is_good = process.returncode == 0 and (counts["passed"] > 0 or device == "cpu")
    yield {"what": f"tests marked gpu, in {len(files)} files", "value": told, "is_good": is_good}
