"""The run directory: what a training run was asked, what it measured, and all that resuming needs."""

import json
import platform
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save_file
from torch import Tensor

from recognition.common.command_line import InputError, first_line, nearest
from recognition.common.files import is_there, read_whole, sha256, written_whole
from recognition.training.config import AnySettings, RunConfig, Settings, dump_config, load_config
from recognition.training.data import index_path

PACKAGES = ("torch", "torchvision", "numpy", "h5py", "lightning-fabric", "mamba-ssm", "wandb")
# What a run reads and knows again by its content, and the settings that say where it is.
INPUT_KEYS = {
    "train": "dataset.train_indices_file",
    "validation": "dataset.validation_indices_file",
    "test": "dataset.test_indices_file",
    "load": "model.load_path",
    "list": "data.list",
    "weights": "network.weights",
    "captions": "data.captions",
}
PLACES = ("train_indices_file", "validation_indices_file", "test_indices_file", "video_path")  # of the data set
# Settings that may change when a run is resumed: they do not change what it computes.
FREE_TO_CHANGE = (
    "resume",
    "show_timing",
    "logging.",
    "dataset.video_path",
    "dataset.mmap",
    "dataset.bank",
    "model.save",
    "training.num_workers",
    "training.checkpoint_minutes",
    "training.device",
    "data.workers",
    "data.cache",
    "data.videos",
    "data.video_path",
)
# What may be said of a trained run in other words than it was trained with: where its inputs are, and what computes.
GIVEN_ANEW = (
    *(f"dataset.{key}" for key in PLACES),
    *("dataset.bank", "dataset.mmap", "training.device", "training.num_workers"),
)


class DamagedCheckpoint(InputError):
    """A checkpoint that is not as it was written."""


class Run:
    """A run's folder, `runs/<name>/`, with its files as attributes."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.config_file = self.path / "config.yaml"
        self.environment_file = self.path / "environment.json"
        self.metrics_file = self.path / "metrics.jsonl"
        self.test_file = self.path / "test.json"
        self.evaluation_file = self.path / "evaluation.json"
        self.answers_file = self.path / "answers.npz"
        self.report_file = self.path / "report.html"
        self.figures_folder = self.path / "figures"
        self.wandb_file = self.path / "wandb_id.txt"
        self.last_file = self.path / "checkpoints" / "last.pt"
        self.previous_file = self.path / "checkpoints" / "previous.pt"
        self.best_file = self.path / "checkpoints" / "best.safetensors"

    def start(self, config: Settings, environment: dict[str, Any], wandb_id: str | None = None) -> None:
        """Make the folder and write what the run was asked, and under which id Weights & Biases has it."""
        self.last_file.parent.mkdir(parents=True, exist_ok=True)
        texts = {self.environment_file: json.dumps(environment, indent=2), self.config_file: dump_config(config)}
        if wandb_id:
            texts[self.wandb_file] = wandb_id
        for file, text in texts.items():
            with written_whole(file) as part:
                part.write_text(text + "\n", encoding="utf-8")

    def keep_places(self, config: RunConfig) -> None:
        """Keep in config.yaml where `config` says that the inputs are by now, if the run knows their content."""
        stored = load_config(self.config_file)
        dataset = stored.dataset.model_copy(update={key: getattr(config.dataset, key) for key in PLACES})
        model = stored.model.model_copy(update={"load_path": config.model.load_path})
        if self.read_inputs() and (dataset, model) != (stored.dataset, stored.model):
            with written_whole(self.config_file) as part:
                told = dump_config(stored.model_copy(update={"dataset": dataset, "model": model}))
                part.write_text(told + "\n", encoding="utf-8")

    def check_same(self, config: Settings, stored: Settings) -> None:
        """Raise InputError if a resumed run would not be the one that was started, naming the first difference.

        Where the inputs are makes no difference if the run knows their content: that is for `check_inputs`.
        """
        started, now = deciding_settings(stored), deciding_settings(config)
        places = {INPUT_KEYS[name] for name in self.read_inputs()}
        for key in {**now, **started}:  # a section may be in one of them alone
            if key not in places and now.get(key) != started.get(key):
                raise InputError(
                    f"--resume: {self.path} was started with {key} = {started.get(key)!r}, now it is {now.get(key)!r}; "
                    f"restore it, or start another run with name=..."
                )

    def check_inputs(self, inputs: Mapping[str, Mapping[str, str]]) -> None:
        """Raise InputError if one of the inputs, as `describe_inputs` gives them, is not what the run has read."""
        for name, found in inputs.items():
            if found["sha256"] != self.read_inputs().get(name, found)["sha256"]:
                whats = {"load": "from its weights", "weights": "from its weights", "list": "on its films"}
                whats["captions"] = "on its captions"
                what = whats.get(name, "on its episodes")
                raise InputError(
                    f"{found['file']} has changed since {self.path} was trained {what}; restore it, or start "
                    f"another run with name=..."
                )

    def read_inputs(self) -> dict[str, dict[str, str]]:
        """What the run has read, as `describe_inputs` gave it; empty for runs from before that was kept."""
        if not is_there(self.environment_file):
            return {}
        try:
            return json.loads(self.environment_file.read_text(encoding="utf-8")).get("inputs", {})
        except ValueError as error:
            raise InputError(f"{self.environment_file}: not valid JSON ({error}); remove it to go on without") from None

    def append_metrics(self, metrics: dict[str, Any]) -> None:
        """Add one line to metrics.jsonl."""
        with open(self.metrics_file, "a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, without one that a killed process left half written."""
        lines = self.metrics_file.read_text(encoding="utf-8").splitlines() if is_there(self.metrics_file) else []
        metrics = []
        for line in lines:
            try:
                metrics.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return metrics

    def forget_metrics_after(self, epoch: int) -> None:
        """Drop the lines of epochs that are about to be run again."""
        kept = [line for line in self.read_metrics() if line["epoch"] <= epoch]
        with written_whole(self.metrics_file) as part:
            part.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")

    def write_test(self, scores: dict[str, float]) -> None:
        """Keep the scores of the test episodes."""
        with written_whole(self.test_file) as part:
            part.write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")

    def write_evaluation(self, evaluation: dict[str, Any]) -> None:
        """Keep all that evaluate.py found. Raises ValueError for numbers that JSON cannot say, such as nan."""
        with written_whole(self.evaluation_file) as part:
            part.write_text(json.dumps(evaluation, indent=2, allow_nan=False) + "\n", encoding="utf-8")

    def read_evaluation(self) -> dict[str, Any]:
        """What `write_evaluation` kept; empty if there is nothing."""
        if not is_there(self.evaluation_file):
            return {}
        try:
            return json.loads(self.evaluation_file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{self.evaluation_file}: not valid JSON ({error}); score the run anew") from None

    def save_answers(self, answers: np.ndarray) -> None:
        """Keep the graded answers to the test probes, (N, P), above 0 for "old"."""
        with written_whole(self.answers_file) as part, open(part, "wb") as file:
            np.savez_compressed(file, answers=answers.astype(np.float32))

    def read_answers(self) -> np.ndarray:
        """What `save_answers` kept. Raises InputError if there is nothing."""
        if not is_there(self.answers_file):
            raise InputError(f"{self.answers_file}: no such file; score the run with evaluate.py first")
        content = read_whole(self.answers_file)
        try:
            with np.load(content, allow_pickle=False) as file:
                return file["answers"]
        except Exception as error:  # zipfile, zlib and numpy raise many kinds for a damaged file
            raise InputError(f"{self.answers_file}: cannot be read ({first_line(error)})") from None

    def save_last(self, state: dict[str, Any]) -> None:
        """Keep all that resuming needs, and what was kept before as the previous checkpoint."""
        with written_whole(self.last_file) as part:
            torch.save(state, part)
            if is_there(self.last_file):
                self.last_file.replace(self.previous_file)

    def load_last(self) -> dict[str, Any] | None:
        """What `save_last` kept, on the CPU, or None before the first checkpoint.

        Raises DamagedCheckpoint for one that was read whole and is not as it was written, InputError for another one
        that is of no use here, and OSError if the system does not let it be read.
        """
        file = self.last_file if is_there(self.last_file) else self.previous_file
        if not is_there(file):
            return None
        content = read_whole(file)
        try:
            with zipfile.ZipFile(content) as archive:
                if record := archive.testzip():  # torch.load does not look at the check sums
                    raise ValueError(f"{record} is damaged")
        except MemoryError:
            raise
        except Exception as error:  # zipfile and zlib raise many kinds
            raise DamagedCheckpoint(f"{file}: cannot be read ({first_line(error)}); remove it to start over") from None
        try:
            content.seek(0)
            state = torch.load(content, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises many kinds
            raise InputError(f"{file}: cannot be read ({first_line(error)}); remove it to start over") from None
        if "progress" not in state:
            raise InputError(f"{file}: from an earlier version of train.py; train anew, under another name=...")
        return state

    def drop_damaged_checkpoint(self) -> None:
        """Put the checkpoint before the last in its place if the last is damaged, with a warning."""
        try:
            self.load_last()
        except DamagedCheckpoint as error:
            if not is_there(self.previous_file):
                raise
            print(f"{error}".partition(";")[0] + "; going on from the checkpoint before it", file=sys.stderr)
            self.previous_file.replace(self.last_file)

    def save_best(self, weights: dict[str, Tensor]) -> None:
        """Keep the weights that validation chose. Those that share memory are kept each by itself."""
        with written_whole(self.best_file) as part:
            whole = torch.contiguous_format
            save_file(
                {name: tensor.detach().cpu().clone(memory_format=whole) for name, tensor in weights.items()}, part
            )

    def load_best(self) -> dict[str, Tensor]:
        """What `save_best` kept. Raises InputError if there is nothing."""
        if not is_there(self.best_file):
            raise InputError(f"{self.best_file}: no such file; train the run first")
        content = read_whole(self.best_file).getvalue()
        try:
            return load(content)
        except Exception as error:  # safetensors has an exception class of its own
            raise InputError(f"{self.best_file}: cannot be read ({error})") from None


def check_folder(
    run: Run,
    config: AnySettings,
    resume: bool,
    read: Callable[[Path], AnySettings],
    inputs: Callable[[AnySettings], Mapping[str, Path]],
) -> None:
    """Raise InputError if the run's folder is taken by another run, or by this one and it is not to be resumed.

    Of a run's kind `read` reads its settings, with which they are checked like new ones: a run from before a setting
    existed has its default; `inputs` says which files it reads, as `input_files` does for episodes.
    """
    if not is_there(run.config_file):
        return
    if not resume:
        raise InputError(f"{run.path} exists: go on with it by --resume, choose another name=..., or remove it")
    stored = read(run.config_file)
    run.check_same(config, stored)
    before = inputs(stored)
    run.check_inputs(describe_inputs({k: file for k, file in inputs(config).items() if file != before.get(k)}))


def input_files(config: RunConfig) -> dict[str, Path]:
    """Where the inputs of a run are that it knows by their content, by their names in INPUT_KEYS."""
    files = {split: index_path(config.dataset, split) for split in ("train", "validation", "test")}
    return files | ({"load": Path(config.model.load_path)} if config.model.load else {})


def describe_inputs(files: Mapping[str, Path]) -> dict[str, dict[str, str]]:
    """{name: {file, sha256}} of inputs by their names in INPUT_KEYS. Raises InputError if one is missing."""
    for name, path in files.items():
        if not is_there(path) or path.is_dir():
            raise InputError(
                f"{INPUT_KEYS[name]}: {str(path)!r}: no such file; say where it is, {INPUT_KEYS[name]}=PATH"
            )
    return {name: {"file": str(path), "sha256": sha256(path)} for name, path in files.items()}


def part_settings(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Words that are paths, and settings such as dataset.video_path=elsewhere, of which those in GIVEN_ANEW are taken.

    Folders of runs may have a = in their names: what is there is a path. Raises InputError for other settings.
    """
    settings = [word for word in words if "=" in word and not Path(word).exists()]
    for word in settings:
        if (key := word.partition("=")[0]) not in GIVEN_ANEW:
            raise InputError(
                f"{word}: there is no such run, and no such setting that could be given anew to a trained one; "
                f"{nearest(key, GIVEN_ANEW)}"
            )
    return [word for word in words if word not in settings], settings


def deciding_settings(config: Settings) -> dict[str, Any]:
    """The settings that decide what a run computes, by their dotted names."""
    settings = _flatten(config.model_dump(mode="json"))
    return {key: value for key, value in settings if not key.startswith(FREE_TO_CHANGE)}


def describe_environment(device: str) -> dict[str, Any]:
    """Versions, machine and git revision, for environment.json."""
    packages: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "packages": packages,
        "platform": platform.platform(),
        "device": device,
        "num_threads": torch.get_num_threads(),
        "git_revision": _git_revision(),
    }


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a nested mapping with their dotted names."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _git_revision() -> str | None:
    """The commit of the code, "+changes" if files differ from it, None outside a repository."""
    here = Path(__file__).parent
    try:
        revision = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        changes = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return revision.stdout.strip() + ("+changes" if changes.stdout.strip() else "")
