"""`python -m benchmarks` on this device, case by case."""

import importlib
import sys
import traceback
from collections.abc import Iterator
from typing import Any

from benchmarks import CASES, GPU_CASES


def speed(device: str, seconds: float) -> Iterator[dict[str, Any]]:
    for name in GPU_CASES:
        try:
            for row in getattr(importlib.import_module(f"benchmarks.{CASES[name]}"), name)(device):
                yield {
                    "what": row.what.strip(),
                    "value": f"{row.ratio:.2f} times as fast as {row.rival}",
                    "wanted": row.wanted,
                    "ms": round(1e3 * row.ours_s, 2),
                    "memory share": row.memory_share and round(row.memory_share, 3),
                    "note": row.note,
                }
        except ModuleNotFoundError as error:
            yield {"what": name, "value": f"not measured: {error.name} is not installed"}
        except Exception as error:  # the next case may go well
            traceback.print_exc(file=sys.stderr)
            yield {"what": name, "value": " ".join(f"{error!r}".split())[:500], "is_good": False}
