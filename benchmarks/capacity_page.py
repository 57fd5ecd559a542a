"""The page and the figure of benchmarks/capacity.py, from its results."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from recognition.common.files import written_whole
from recognition.common.plotting import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, STYLE, VERMILION, Row, reach

LOOKS = {  # colour and marker of a memory, by its name without the size; what does not learn and what does share them
    "novelty filter": (BLUE, "o"),
    "novelty_filter": (BLUE, "o"),
    "Hebbian matrix": (VERMILION, "s"),
    "hebbian": (SKY, "P"),
    "Bloom bits": (GREEN, "^"),
    "Bloom maxima": (GREEN, "v"),
    "bloom": (GREEN, "v"),
    "delta": (PURPLE, "D"),
    "sum of frames": (GREY, "X"),
    "nearest frame": (ORANGE, "d"),
}
OTHER_LOOK = (GREY, "*")  # families on a GPU
CURVES = (  # against clips
    *("novelty filter 128", "Hebbian matrix 128", "Bloom bits 4096", "sum of frames 64", "nearest frame"),
    *("novelty_filter 128", "bloom 512", "hebbian 64", "delta 64"),
)
THEORY = "Bloom bits by theory"
GOOD = 0.9  # accuracy of which the page says who reaches it with the fewest bytes


def family(name: str) -> str:
    """A memory's name without its size."""
    words = name.split()
    return " ".join(words[:-1]) if words[-1].isdigit() else name


def shown(results: Mapping[str, Any]) -> list[str]:
    """Which memories have a curve against clips."""
    there = {row["name"] for row in results["rows"]}
    return [name for name in CURVES if name in there]


def is_bits(row: Row) -> bool:
    """Whether it is of a Bloom filter whose units are bits, of which theory speaks."""
    return family(row["name"]) == "Bloom bits"


def at_most_clips(results: Mapping[str, Any], *learning: str) -> list[Row]:
    """Rows of the longest episodes."""
    most = max(row["num_clips"] for row in results["rows"])
    return [row for row in results["rows"] if row["num_clips"] == most and row["learning"] in learning]


def bloom_accuracy(units: float, shots: float) -> float:
    """What theory gives a Bloom filter of so many bits that holds a code of each shot: every old probe is hit, and
    false alarms are 0.62^(bits / items), as with the best number of winners (Bloom 1970, doi 10.1145/362686.362692)."""
    return 1 - 0.6185 ** (units / shots) / 2


def page(results: Mapping[str, Any], name: str) -> str:
    """The results as a page of Markdown. `name` is that of its figure without the ending."""
    machine = results["machine"]
    command = "python -m benchmarks.capacity" + ("" if machine["device"] == "cpu" else " --device cuda")
    threads = f"{machine['threads']} thread{'s' * (machine['threads'] > 1)}"
    return "\n".join(
        [
            "# Memory per byte",
            "",
            "How much of a long episode memories of fixed size keep: by theory, without learning, and learned. Made by "
            f"`{command}` in {machine['minutes']:g} minutes on {machine['device']} ({threads}), torch "
            f"{machine['torch']}.",
            "",
            f"![accuracy against clips, and against bytes]({name}.svg)",
            "",
            f"On the left one size of each kind: {', '.join(shown(results))}. Names of families of `models/` are those "
            "of trained ones; theory is that of Bloom filters of bits.",
            "",
            *said(results),
            "",
            "## What was asked",
            "",
            *asked(results),
            "## Accuracy",
            "",
            *accuracy_table(results),
            "",
            "## Before and after learning",
            "",
            *learning_table(results),
            "",
            "## What theory says",
            "",
            *theory_tables(results),
            "",
            "## Time of study",
            "",
            *study_table(results),
            "",
        ]
    )


def asked(results: Mapping[str, Any]) -> list[str]:
    """How it was measured."""
    films, training = results["films"], results["training"]
    num_training = training["steps"] * training["batch"]
    numbers = ", ".join(f"{num} of {clips} clips" for clips, num in results["episodes"].items())
    thin = ", ".join(f"{share:.0e} at the {k}th" for k, share in results["axes"].items())
    lines = [
        "Episodes of the published protocol with fewer and with all clips, 100 study frames and two probes a clip, "
        f"from `{films['name']}`: {films['training']} films for training, {films['validation']} for validation, "
        f"{films['test']} for test. As many episodes to validate as to test: {numbers}. Every memory has its threshold "
        "from validation episodes with as many clips, and is turned round if that is better there, as read-outs are by "
        "chance before training; test was read once. Intervals are of 95 %, over episodes. "
        "Features are whitened by the training films. The nearest frame compares them as they are, or along 16 axes.",
        "",
        f"Families that learn were trained on {num_training:,} episodes of {training['num_clips']} clips each, "
        f"{training['steps']} steps of {training['batch']}, with films reflected and probes asked after some clips as "
        "well, and then asked about all lengths. That is little: longer episodes are new to them, and longer training "
        "may bring more.",
        "",
    ]
    if results["left_out"]:
        lines += [
            f"Not trained here, for want of time or of a GPU: {', '.join(results['left_out'])}. "
            "`python -m benchmarks.capacity --device cuda --minutes 60` trains all families.",
            "",
        ]
    return [
        *lines,
        "**Made-up features are no films.** They have 48 directions and what rectifying adds, so the last axes of wide "
        f"memories are thin: their variance is, of the first one's, {thin}. Whitening makes all of them count alike. "
        "Real features spread over more directions.",
        "",
    ]


def said(results: Mapping[str, Any]) -> list[str]:
    """What the numbers show, in sentences."""
    rows = at_most_clips(results, "none", "after")
    clips = rows[0]["num_clips"]
    nearest = next(row for row in rows if row["name"] == "nearest frame")
    fixed = [row for row in rows if family(row["name"]) != "nearest frame"]
    best = max(fixed, key=lambda row: row["accuracy"])
    good = sorted((row for row in fixed if row["accuracy"] >= GOOD), key=lambda row: row["state_bytes"])
    lines = [
        f"- At {clips} clips the best memory of fixed size is {told(best)}, right in {best['accuracy']:.3f} with "
        f"{best['state_bytes']:,} bytes. All frames as they are, {nearest['state_bytes']:,} bytes, give "
        f"{nearest['accuracy']:.3f}.",
        f"- {GOOD} there takes {good[0]['state_bytes']:,} bytes, of {told(good[0])}."
        if good
        else f"- No memory of fixed size reaches {GOOD} there.",
    ]
    changes = [(after, before) for after, before in learned_pairs(results)]
    if changes:
        gains = [after["accuracy"] - before["accuracy"] for after, before in changes]
        after, before = changes[gains.index(max(gains))]
        lines.append(
            f"- Training on so few and short episodes changed accuracy at {clips} clips by {min(gains):+.3f} to "
            f"{max(gains):+.3f}; most for {after['name']}, from {before['accuracy']:.3f} to {after['accuracy']:.3f}."
        )
    ranks = [row for row in results["theory"] if row["num_clips"] == clips]
    shares = ", ".join(f"{row['effective_rank'] / row['width']:.2f} of {row['width']}" for row in ranks)
    lines.append(f"- The effective rank of what {clips} clips show is {shares} axes.")
    filters = {row["name"]: row for row in rows if family(row["name"]) == "novelty filter"}
    least = min(ranks, key=lambda row: row["effective_rank"] / row["width"])["width"]
    roomy, found_best = filters[f"novelty filter {least}"], max(filters.values(), key=lambda row: row["accuracy"])
    lines.append(
        f"- By that the novelty filter of K {least}, which has the most room left, should be the best one. It is right "
        f"in {roomy['accuracy']:.3f}, and the best one, {found_best['name']}, in {found_best['accuracy']:.3f}."
    )
    shots, bits = ranks[0]["shots"], [row for row in rows if is_bits(row)]
    numbers = ", ".join(f"{8 * row['state_bytes']:,}" for row in bits)
    found = ", ".join(f"{row['accuracy']:.2f}" for row in bits)
    expected = ", ".join(f"{bloom_accuracy(8 * row['state_bytes'], shots):.2f}" for row in bits)
    lines.append(
        f"- Bloom filters of {numbers} bits reach {found}. If each of the {shots:.0f} shots were one item, theory "
        f"would give them {expected}."
    )
    ratios = [row["study_s"] / row["product_s"] for row in results["study"]]
    lines.append(f"- Study takes the novelty filter {min(ratios):.1f} to {max(ratios):.1f} times one product X'X.")
    return lines


def told(row: Row) -> str:
    """A memory by its name, and whether it has learned."""
    return f"the {'trained' if row['learning'] == 'after' else 'plain'} {row['name']}"


def learned_pairs(results: Mapping[str, Any]) -> list[tuple[Row, Row]]:
    """Rows of the longest episodes after and before training."""
    before = {row["name"]: row for row in at_most_clips(results, "before")}
    return [(row, before[row["name"]]) for row in at_most_clips(results, "after")]


def accuracy_table(results: Mapping[str, Any]) -> list[str]:
    """Accuracy with its interval, memories by clips."""
    counts = sorted({row["num_clips"] for row in results["rows"]})
    found: dict[tuple[str, str], dict[int, Row]] = {}
    for row in results["rows"]:
        if row["learning"] != "before":
            found.setdefault((row["name"], row["learning"]), {})[row["num_clips"]] = row
    lines = [
        "| memory | learned | bytes at the most clips | " + " | ".join(f"{count} clips" for count in counts) + " |",
        "|---" * (3 + len(counts)) + "|",
    ]
    for (name, learning), rows in found.items():
        cells = [scored(rows[count]) for count in counts]
        size, learned = rows[counts[-1]]["state_bytes"], "yes" if learning == "after" else ""
        lines.append(f"| {name} | {learned} | {size:,} | " + " | ".join(cells) + " |")
    return lines


def scored(row: Row) -> str:
    """An accuracy with its interval."""
    if row["accuracy_interval"] is None:
        return f"{row['accuracy']:.3f}"
    low, high = row["accuracy_interval"]
    return f"{row['accuracy']:.3f} ({low:.2f}–{high:.2f})"


def learning_table(results: Mapping[str, Any]) -> list[str]:
    """Accuracy in the longest episodes before and after training."""
    pairs = learned_pairs(results)
    if not pairs:
        return ["No family was trained."]
    return [
        f"At {pairs[0][0]['num_clips']} clips; before it, families start as a comparison of whitened frames.",
        "",
        "| family | bytes | before | after |",
        "|---|---|---|---|",
        *(f"| {a['name']} | {a['state_bytes']:,} | {scored(b)} | {scored(a)} |" for a, b in pairs),
    ]


def theory_tables(results: Mapping[str, Any]) -> list[str]:
    """Effective rank beside what the novelty filter says, and false alarms of Bloom filters beside the expected."""
    rows = {(row["name"], row["num_clips"]): row for row in results["rows"] if row["learning"] == "none"}
    lines = [
        "A ridge filter separates old from new until the effective rank of what was studied, tr(C (C + r)^-1), nears "
        "K: the novelty of a new probe is what is left, 1 - rank / K, if probes lie in all directions alike.",
        "",
        "| clips | K | effective rank / K | left for new probes | novelty of new | of old | accuracy |",
        "|---|---|---|---|---|---|---|",
    ]
    for theory in sorted(results["theory"], key=lambda theory: theory["num_clips"]):
        k, clips = theory["width"], theory["num_clips"]
        share, row = theory["effective_rank"] / k, rows[f"novelty filter {k}", clips]
        cells = share, 1 - share, -row["mean_of_new"], -row["mean_of_old"], row["accuracy"]
        lines.append(f"| {clips} | {k} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |")
    lines += [
        "",
        "A Bloom filter has false alarms of about 0.62^(bits / items). With a shot as an item:",
        "",
        "| clips | shots | bits | false alarms by theory | false alarms | accuracy by theory | accuracy |",
        "|---|---|---|---|---|---|---|",
    ]
    shots = {theory["num_clips"]: theory["shots"] for theory in results["theory"]}
    for (_, clips), row in sorted(rows.items(), key=lambda item: item[0][1]):
        if is_bits(row):
            units = 8 * row["state_bytes"]
            accuracy = bloom_accuracy(units, shots[clips])
            found = 2 - 2 * accuracy, row["false_alarm_rate"], accuracy, row["accuracy"]
            scores = " | ".join(f"{score:.3f}" for score in found)
            lines.append(f"| {clips} | {shots[clips]:.0f} | {units:,} | {scores} |")
    return lines


def study_table(results: Mapping[str, Any]) -> list[str]:
    """How long the novelty filter studies."""
    lines = [
        "The novelty filter's layer studies one episode of the most clips, against one product X'X of as many frames, "
        "in turns. The layer maps frames to keys first, which is one such "
        "product more.",
        "",
        "| K | study, ms | product, ms | ratio |",
        "|---|---|---|---|",
    ]
    for row in results["study"]:
        ours, product = 1e3 * row["study_s"], 1e3 * row["product_s"]
        lines.append(f"| {row['width']} | {ours:.1f} | {product:.1f} | {ours / product:.2f} |")
    return lines


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Accuracy against clips, and in the longest episodes against bytes: learned filled, not learned hollow."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "capacity"}):
        figure = Figure(figsize=(11, 5), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        _draw_clips(left, results)
        _draw_bytes(right, results)
        for axis in (left, right):
            axis.grid(alpha=0.3)
            axis.spines[["top", "right"]].set_visible(False)
        drawn: dict[str, Any] = {}
        for axis in (left, right):
            drawn |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
        figure.legend(drawn.values(), drawn.keys(), loc="outside lower center", frameon=False, ncols=4, fontsize=10)
        with written_whole(path) as part:
            figure.savefig(part, format="svg", metadata={"Date": None})


def _draw_clips(axis: Axes, results: Mapping[str, Any]) -> None:
    """Curves of a memory of each kind."""
    curves: dict[tuple[str, str], list[Row]] = {}
    for row in results["rows"]:
        if row["name"] in CURVES and row["learning"] != "before":
            curves.setdefault((row["name"], row["learning"]), []).append(row)
    for rows in curves.values():
        _points(axis, sorted(rows, key=lambda row: row["num_clips"]), "num_clips")
    counts = sorted({row["num_clips"] for row in results["rows"]})
    bits = next((8 * row["state_bytes"] for row in results["rows"] if row["name"] in CURVES and is_bits(row)), None)
    if bits:
        shots = {row["num_clips"]: row["shots"] for row in results["theory"]}
        predicted = [bloom_accuracy(bits, shots[count]) for count in counts]
        axis.plot(counts, predicted, "--", color="black", linewidth=1, label=THEORY)
    axis.set(xlabel="clips studied, 100 frames each", ylabel="accuracy", xscale="log", ylim=(0.45, 1.02))
    axis.set_title("Accuracy by length of the episode", fontsize=11)
    axis.set_xticks(counts, [str(count) for count in counts])
    axis.xaxis.set_minor_locator(NullLocator())


def _draw_bytes(axis: Axes, results: Mapping[str, Any]) -> None:
    """All memories in the longest episodes; sizes of one kind are joined."""
    rows = at_most_clips(results, "none", "after")
    kinds: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        kinds.setdefault((family(row["name"]), row["learning"]), []).append(row)
    for group in kinds.values():
        _points(axis, group, "state_bytes")
    sizes = [row["state_bytes"] for row in rows if is_bits(row)]
    shots = next(row["shots"] for row in results["theory"] if row["num_clips"] == rows[0]["num_clips"])
    places = np.geomspace(min(sizes), max(sizes), 50)
    axis.plot(
        places, [bloom_accuracy(8 * size, shots) for size in places], "--", color="black", linewidth=1, label=THEORY
    )
    axis.set(xlabel="state from study to probe (bytes)", xscale="log")
    axis.set_title(f"Accuracy at {rows[0]['num_clips']} clips by size", fontsize=11)


def _points(axis: Axes, rows: Sequence[Row], x: str) -> None:
    """A line through rows of one kind with their intervals, filled if they have learned."""
    kind, has_learned = family(rows[0]["name"]), rows[0]["learning"] == "after"
    colour, marker = LOOKS.get(kind, OTHER_LOOK)
    reached = [reach(row, "accuracy") or [[0.0], [0.0]] for row in rows]
    axis.errorbar(
        [row[x] for row in rows],
        [row["accuracy"] for row in rows],
        np.concatenate(reached, 1),
        color=colour,
        marker=marker,
        linestyle="-" if has_learned else ":",
        capsize=2,
        linewidth=1.2,
        markersize=6.5,
        fillstyle="full" if has_learned else "none",
        label=f"{kind}, trained" if has_learned else kind,
    )
