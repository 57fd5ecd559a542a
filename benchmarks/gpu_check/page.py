"""What a run of the parts found, as a page of Markdown with two figures."""

from pathlib import Path
from typing import Any

from benchmarks import growth
from benchmarks.growth import STYLES

Rows = list[dict[str, Any]]
INTRODUCTION = """# On a GPU

Everything runs on a GPU where torch finds one; nothing need be set.

```bash
pixi run -e gpu train -f config-files/mamba.yaml
```

- **With pixi** the environment `gpu` brings a CUDA build of torch from conda-forge, and Mamba's kernel.
- **In a container** of NVIDIA's: see [jobs](jobs.md#in-a-container).
- **Precision** is chosen by the card: bfloat16, or float16 with scaled losses on cards before Ampere.
- **Several GPUs**: see [jobs](jobs.md#several-gpus).
- **Kernels**: UR-LSTM runs in Triton kernels, the transformer by FlexAttention, Mamba2 in mamba-ssm's kernel where that
  is installed. Each is tried against the plain form before it is taken, and one line says so where it is not.
  `GPU_PATHS=none` before a command takes plain forms alone; `GPU_PATHS=all` also compiles mLSTM and Mamba2.

We have run neither the container nor pixi's environment yet. What we have run is pip's on a CPU, with the versions in
`constraints.txt`.

## What has been measured

```bash
make gpu-check
python -m benchmarks.gpu_check --device cpu --tiny --output gpu-rehearsal
```

The first checks and measures in 9 minutes all that only a GPU can tell, and writes this page: tests marked `gpu`, one
step of every configuration against a reference in float64, speeds against plain rivals, learning at the published
scale, growth with the length of an episode. The second rehearses all of it without a GPU, in a minute.
"""
NOTES = {
    "learning": "Made-up features, whose difficulty is not that of films (docs/made_up.md): what counts is whether a "
    "family learns at this length at all, and what it costs. Seconds are those of training alone.",
    "speed": "Both sides of each ratio took turns in one run and got the same inputs and weights.",
    "correctness": "Errors relative to a float64 reference on the CPU with equal weights; TF32 is off.",
}
UNMEASURED = "\nNothing has been measured yet: no GPU was at hand.\n"


def write_page(rows: Rows, output: Path) -> Path:
    """Write `output`.md and, where matplotlib is installed, the figures into the folder `output`; returns the page."""
    figures: dict[str, str] = {}
    try:
        figures = draw(rows, output)
    except ModuleNotFoundError as error:  # the numbers are there: the page can be made anew elsewhere
        print(f"no figures, {error.name} is not installed; python -m benchmarks.gpu_check --page draws them later")
    path = output.with_name(f"{output.name}.md")
    path.write_text(page(rows, figures, output.name), encoding="utf-8")
    return path


def page(rows: Rows, figures: dict[str, str], folder: str) -> str:
    """All rows, a table for each part; `figures` are the files in the folder by the part that they show."""
    if not rows:
        return INTRODUCTION + UNMEASURED
    lines = [INTRODUCTION]
    for part in dict.fromkeys(row["part"] for row in rows):
        *found, end = [row for row in rows if row["part"] == part]
        lines += [
            f"### {part.capitalize()}",
            "",
            f"{end['value'].capitalize()}, {end['seconds']} s. {NOTES.get(part, '')}",
        ]
        if part in figures:
            lines += ["", f"![{part}]({folder}/{figures[part]})"]
        lines += ["", *table(found), ""]
    return "\n".join(lines)


def table(rows: Rows) -> list[str]:
    """Rows as a table with the columns that any of them has."""
    columns = [key for key in dict.fromkeys(key for row in rows for key in row) if key not in ("part", "is_good")]
    lines = ["| " + " | ".join(columns) + " | |", "|---" * (len(columns) + 1) + "|"]
    for row in rows:
        cells = [str(row[key]) if row.get(key) is not None else "" for key in columns]
        mark = {True: "good", False: "**wrong**", None: ""}[row["is_good"]]
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in [*cells, mark]) + " |")
    return lines


def draw(rows: Rows, output: Path) -> dict[str, str]:
    """Draw what was found of learning and growth; returns the names of the figures, by part."""
    figures = {}
    if curves := series(rows, "learning", "seconds", "validation accuracy"):
        draw_learning(curves, output / "learning.svg")
        figures["learning"] = "learning.svg"
    if costs := series(rows, "growth", "seconds", "GB"):
        growth.draw(costs, output / "growth.svg")
        figures["growth"] = "growth.svg"
    return figures


def series(rows: Rows, part: str, x: str, y: str) -> dict[str, list[tuple[float, float]]]:
    """The numbers of two columns, in order, by what they were measured of."""
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row["part"] == part and x in row and y in row and row["what"] != "how it ended":
            found.setdefault(row["what"], []).append((row[x], row[y]))
    return found


def draw_learning(curves: dict[str, list[tuple[float, float]]], path: Path) -> None:
    """Accuracy against seconds, a line for each family."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    with plt.rc_context({"svg.hashsalt": "learning", "font.size": 11}):
        figure, axis = plt.subplots(figsize=(8, 4.2), layout="constrained")
        for (name, points), (colour, marker) in zip(curves.items(), STYLES, strict=False):
            axis.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=4, label=name)
        axis.axhline(0.5, color="#999999", linestyle=":", linewidth=1)
        axis.set(xlabel="seconds of training", ylabel="validation accuracy", ylim=(0.45, 1.01))
        axis.set_title("Made-up features", loc="left", fontsize=10)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside right center", frameon=False)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)
