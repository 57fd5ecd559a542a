"""How time and memory grow with the length of an episode, for every model at the published scale.

python -m benchmarks.growth          writes docs/growth.svg and docs/growth.md
"""

from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measure import peak_memory, precision, take_turns
from recognition.common.command_line import ArgumentParser, folder_path, run

ROOT = Path(__file__).parent.parent
LENGTHS = [1_024, 2_048, 4_096, 8_192, 16_384, 32_768]
CONFIGS = ["transformer", "lstm", "ur_lstm", "mlstm", "mamba-one_layer", "knn_memory"]
# Told apart also by the colour-blind, by marker and by shade.
STYLES = [("#0072b2", "o"), ("#d55e00", "s"), ("#009e73", "^"), ("#cc79a7", "D"), ("#555555", "v"), ("#e69f00", "P")]
NUM_PROBES = 180


def main() -> None:
    args = parse_arguments()
    from tqdm import tqdm

    found: dict[str, list[tuple[float, float]]] = {}
    for name, _, *costs in tqdm(measurements("cpu"), total=len(CONFIGS) * len(LENGTHS), unit="measurement"):
        found.setdefault(name, []).append(costs)
    args.output_dir.mkdir(exist_ok=True)
    draw(found, args.output_dir / "growth.svg")
    (args.output_dir / "growth.md").write_text(table(found))
    print(f"written to {args.output_dir / 'growth.svg'} and {args.output_dir / 'growth.md'}")


def measurements(device: str) -> Iterator[tuple[str, int, float, float]]:
    """Configuration, frames, seconds and gigabytes of every measurement; none where a GPU has too little memory."""
    for name in CONFIGS:
        for length in LENGTHS:
            try:
                # The first pass over a length on a GPU may compile for it; on a CPU it costs what every pass costs.
                [seconds] = take_turns([prepare(device, name, length)], repeats=1, warm_up=device != "cpu")
                yield name, length, seconds, peak_memory(prepare, device, name, length) / 1e9
            except torch.cuda.OutOfMemoryError:
                break


def prepare(device: str, name: str, num_frames: int) -> Callable[[], None]:
    """A forward and backward pass of one episode of `num_frames` positions through a shipped configuration's model."""
    from models import CONFIGS as SETTINGS
    from models import PUBLISHED_NAMES, build_model
    from models.recogniser import Layout
    from recognition.training.config import check_model, load_config

    path = ROOT / "config-files" / f"{name}.yaml"
    config = check_model(load_config(path), SETTINGS, PUBLISHED_NAMES, path).model
    torch.manual_seed(0)
    model = build_model(config.model, SETTINGS[config.model](**config.args), Layout(512, NUM_PROBES)).to(device)
    features = torch.randn(1, num_frames, 512, device=device)

    def step(features: Tensor = features) -> None:
        with precision(device):
            logits = model(features)
        logits.sum().backward()

    step(features[:, : NUM_PROBES + 9])  # whatever happens once only
    return step


def table(found: dict[str, list[tuple[float, float]]]) -> str:
    """The measurements as a page of Markdown."""
    lines = [
        "# How cost grows with the length of an episode",
        "",
        "One forward and backward pass of one episode through each model of `config-files/`, in float32 on "
        f"{torch.get_num_threads()} CPU threads: seconds, and the gigabytes by which memory grows at its peak. Made by "
        "`python -m benchmarks.growth`.",
        "",
        "![seconds and gigabytes against frames](growth.svg)",
        "",
        "| frames | " + " | ".join(found) + " |",
        "|---" * (len(found) + 1) + "|",
    ]
    for k, length in enumerate(LENGTHS):
        cells = [f"{v[k][0]:.2f} s, {v[k][1]:.2f} GB" if k < len(v) else "" for v in found.values()]
        lines.append(f"| {length:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(found: dict[str, list[tuple[float, float]]], path: Path) -> None:
    """Both measures against length, in doubling steps on both axes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    with plt.rc_context({"svg.hashsalt": "growth", "font.size": 11}):
        figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
        for axis, measure, title, unit in ((axes[0], 0, "Time", "seconds"), (axes[1], 1, "Peak memory", "gigabytes")):
            for (name, values), (colour, marker) in zip(found.items(), STYLES, strict=False):
                axis.plot(
                    LENGTHS[: len(values)],
                    [value[measure] for value in values],
                    color=colour,
                    marker=marker,
                    label=name,
                )
            axis.set(title=title, xlabel="frames of an episode", ylabel=unit, yscale="log")
            axis.set_xscale("log", base=2)
            axis.set_xticks(LENGTHS, [f"{length // 1024}k" for length in LENGTHS])
            axis.grid(alpha=0.3)
            axis.spines[["top", "right"]].set_visible(False)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", frameon=False)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def parse_arguments() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument(
        "--output_dir", type=folder_path, default=ROOT / "docs", help="folder for the figure and the table"
    )
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
