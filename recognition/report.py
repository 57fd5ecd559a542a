"""The report of a run: one HTML page that needs nothing else."""

import io
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

TRAINING, VALIDATION, TEST = "#0072b2", "#d55e00", "#555555"  # told apart also by the colour-blind


def render_report(name: str, evaluation: dict[str, Any], metrics: list[dict[str, Any]], config: str) -> str:
    """The page as HTML: scores, controls, training curve and settings. All text from outside is escaped."""
    templates = Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True)
    best = max(metrics, key=lambda line: (line["validation_accuracy"], -line["validation_loss"]))
    return templates.get_template("report.html").render(
        name=name,
        scores=evaluation,
        rows=_rows(evaluation),
        curve=Markup(training_curve(metrics, evaluation["accuracy"])),
        best_epoch=best["epoch"],
        num_epochs=len(metrics),
        config=config,
    )


def training_curve(metrics: list[dict[str, Any]], test_accuracy: float) -> str:
    """Loss and accuracy against epochs as SVG: training dashed, validation solid, the test accuracy as a line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    epochs = [line["epoch"] for line in metrics]
    marker = "o" if len(epochs) == 1 else None
    with plt.rc_context({"svg.hashsalt": "report", "svg.fonttype": "none", "font.size": 11}):
        figure, axes = plt.subplots(2, 1, figsize=(6, 6.5), sharex=True, layout="constrained")
        for axis, quantity in zip(axes, ("loss", "accuracy"), strict=True):
            for split, colour, style in (("train", TRAINING, "--"), ("validation", VALIDATION, "-")):
                values = [line[f"{split}_{quantity}"] for line in metrics]
                label = "training" if split == "train" else split
                axis.plot(epochs, values, style, color=colour, label=label, marker=marker)
            axis.grid(alpha=0.3)
            axis.spines[["top", "right"]].set_visible(False)
        axes[0].set(title="Loss (binary cross-entropy)", ylabel="nats per probe")
        axes[1].axhline(test_accuracy, color=TEST, linestyle=":", label="test, best weights")
        axes[1].set(title="Accuracy", ylabel="share of right answers", xlabel="epoch")
        axes[1].xaxis.set_major_locator(MaxNLocator(integer=True))
        for axis in axes:
            axis.legend(frameon=False)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
        plt.close(figure)
    return text.getvalue()[text.getvalue().index("<svg") :]


def _rows(evaluation: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The table of scores: label, value, meaning."""

    def number(value: float | None, digits: int = 3) -> str:
        return "none" if value is None else f"{value:.{digits}f}".replace("-", "−")

    controls = evaluation["controls"]
    return [
        ("accuracy", number(evaluation["accuracy"]), "share of right answers"),
        ("hit rate", number(evaluation["hit_rate"]), f"“old” to the {evaluation['n_old']:,} old probes"),
        (
            "false-alarm rate",
            number(evaluation["false_alarm_rate"]),
            f"“old” to the {evaluation['n_new']:,} new probes",
        ),
        ("d′", number(evaluation["d_prime"], 2), "sensitivity in standard deviations, log-linear correction"),
        ("criterion", number(evaluation["criterion"], 2), "above 0: reluctant to say “old”"),
        ("AUC", number(evaluation["auc"]), "area under the ROC of the graded answers"),
        (
            "accuracy, probes shown",
            number(evaluation["accuracy_shown"]),
            f"the {evaluation['n_shown']:,} old probes that were study frames themselves",
        ),
        (
            "accuracy, probes between",
            number(evaluation["accuracy_between"]),
            f"the {evaluation['n_between']:,} old probes between two study frames",
        ),
        (
            "nearest studied frame",
            number(controls["nearest_frame"]["accuracy"]),
            "control: accuracy of a threshold on cosine similarity, chosen on validation",
        ),
        ("chance", number(controls["chance"]["accuracy"]), "control: accuracy of one and the same answer always"),
    ]
