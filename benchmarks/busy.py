"""Two trainings that share the cores, as beside other work on a laptop or a cluster, against one that has them alone.

python -m benchmarks.busy SECONDS STEPS     one training: STEPS of warm-up, prints "ready", waits for a line, prints its
                                            steps a second
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks.measure import Row

BATCH, NUM_FRAMES, NUM_PROBES, NUM_FEATURES = 16, 320, 20, 512
WARM_UP_STEPS, MEASURED_S = 20, 8
SPINS_OF_OPENMP = 300_000


def busy(device: str) -> Iterator[Row]:
    """Two at once against one, with as many threads each as there are cores; and how threads wait, see machine.py."""
    [alone], slower = _side_by_side(1), min(_side_by_side(2))
    [alone_spinning], slower_spinning = _side_by_side(1, SPINS_OF_OPENMP), min(_side_by_side(2, SPINS_OF_OPENMP))
    note = f"steps/s: {alone:.1f} alone, the slower of two {slower:.1f}"
    yield Row("each of two trainings at once", "one alone", 1 / slower, 1 / alone, 0.4, note=note)
    rival = "threads that spin as long as OpenMP has it"
    note = f"steps/s: {alone_spinning:.1f} alone, the slower of two {slower_spinning:.1f}"
    yield Row("  the same", rival, 1 / slower, 1 / slower_spinning, 1, note=note)
    yield Row("  one alone", rival, 1 / alone, 1 / alone_spinning, 0.97)


def _side_by_side(num: int, spins: int | None = None) -> list[float]:
    """Steps a second of so many trainings at once, whose threads spin for so many turns; as ours do if None."""
    command = [sys.executable, "-m", "benchmarks.busy", str(MEASURED_S), str(WARM_UP_STEPS)]
    environment = os.environ | ({"GOMP_SPINCOUNT": str(spins)} if spins else {})
    runs = [
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(num)
    ]
    for run in runs:
        assert run.stdout is not None
        run.stdout.readline()
    for run in runs:
        assert run.stdin is not None
        run.stdin.write("go\n")
        run.stdin.flush()
    return [float(run.communicate()[0]) for run in runs]


def main(seconds: float, warm_up_steps: int) -> None:
    import torch
    import torch.nn.functional as F

    from models import CONFIGS, build_model
    from models.recogniser import Layout
    from recognition.common.allocator import keep_freed_memory

    keep_freed_memory()
    torch.manual_seed(0)
    model = build_model("transformer", CONFIGS["transformer"](), Layout(NUM_FEATURES, NUM_PROBES))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    features = torch.randn(BATCH, NUM_FRAMES, NUM_FEATURES)
    is_old = torch.arange(BATCH * NUM_PROBES).view(BATCH, NUM_PROBES) % 2.0

    def step() -> None:
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(model(features), is_old).backward()
        optimizer.step()

    for _ in range(warm_up_steps):
        step()
    print("ready", flush=True)
    sys.stdin.readline()
    started, num_steps = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        step()
        num_steps += 1
    print(num_steps / (time.perf_counter() - started), flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
