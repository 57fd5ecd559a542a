"""Where the metrics of a run go: metrics.jsonl, the terminal, a plain table, Weights & Biases."""

from pathlib import Path
from typing import Any

from recognition.common.command_line import InputError, first_line
from recognition.common.files import is_there, written_whole
from recognition.training.config import Settings
from recognition.training.runs import Run


class Reporter:
    """Tells of a run what the first of its processes finds.

    Raises InputError if Weights & Biases is asked for and does not start.
    """

    def __init__(self, run: Run, config: Settings, num_epochs: int):
        self.run, self.num_epochs, self.logging = run, num_epochs, config.logging
        self.wandb_run = start_wandb(run, config) if config.logging.wandb else None

    @property
    def wandb_id(self) -> str | None:
        """Under which name Weights & Biases has the run, None where it does not."""
        return self.wandb_run.id if self.wandb_run else None

    def report(self, metrics: dict[str, Any]) -> None:
        """Tell one epoch's metrics."""
        self.run.append_metrics(metrics)
        values = {
            split: ", ".join(
                f"{name.removeprefix(f'{split}_')} {value:.4f}"
                for name, value in metrics.items()
                if name.startswith(f"{split}_")
            )
            for split in ("train", "validation")
        }
        validation = f"; validation {values['validation']}" if values["validation"] else ""
        print(
            f"epoch {metrics['epoch']}/{self.num_epochs}: training {values['train']}{validation}; "
            f"{metrics['seconds']:.1f} s"
        )
        if self.wandb_run:
            self.wandb_run.log(metrics, step=metrics["step"])
        if self.logging.logfile:
            write_table(Path(self.logging.logfile), self.run.read_metrics())

    def stopped(self) -> None:
        """Training stops at the wish of a scheduler, and is to go on."""
        if self.wandb_run:
            self.wandb_run.mark_preempting()

    def finish(self, scores: dict[str, float]) -> None:
        """Keep the scores of the test, the last thing of a run, and tell them, the last first."""
        self.run.write_test(scores)
        self.close(scores)
        told = ", ".join(
            f"{name.removeprefix('test_').replace('_', ' ')} {score:.4f}" for name, score in reversed(scores.items())
        )
        print(f"test {told}; all about the run is in {self.run.path}")

    def close(self, scores: dict[str, float]) -> None:
        """Nothing more is to be told but these scores."""
        if self.wandb_run:
            self.wandb_run.summary.update({name.replace("_", " "): score for name, score in scores.items()})
            self.wandb_run.finish()


def start_wandb(run: Run, config: Settings) -> Any:
    """Start a Weights & Biases run, or go on with the one that this run has had. Raises InputError, which says how to
    do without."""
    import wandb

    settings = config.model_dump(mode="json")
    earlier: dict[str, Any] = {}
    if is_there(run.wandb_file):
        earlier = {"id": run.wandb_file.read_text().strip(), "resume": "allow"}
    try:
        return wandb.init(project=config.logging.wandb_project, name=config.name, config=settings, **earlier)
    except wandb.Error as error:
        raise InputError(
            f"logging.wandb: Weights & Biases did not start ({first_line(error)}); log in with `wandb login`, set the "
            f"variable WANDB_MODE=offline to keep its files here, or set logging.wandb=false"
        ) from None


def write_table(path: Path, metrics: list[dict[str, Any]]) -> None:
    """The epochs as plain rows of numbers, as the published study wrote them; nan where one was not measured.

    The columns of episodes are epoch train_loss train_accuracy validation_loss validation_accuracy.
    """
    names = dict.fromkeys(name for line in metrics for name in line if name.startswith(("train_", "validation_")))
    columns = ["epoch", *sorted(names, key=lambda name: name.startswith("validation_"))]
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as part:
        rows = [" ".join(columns), *(" ".join(str(line.get(c, "nan")) for c in columns) for line in metrics)]
        part.write_text("\n".join(rows) + "\n", encoding="utf-8")
