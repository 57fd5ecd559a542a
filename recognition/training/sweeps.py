"""Sweep files of Weights & Biases, and the runs they stand for, without its server.

The keys are those of `wandb sweep`: program, method, metric, parameters, command, run_cap. A run is a value for every
parameter; its command line is the one that an agent of Weights & Biases would build.
"""

import itertools
import math
import random
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from recognition.common.command_line import InputError, nearest
from recognition.training.config import Section, read_yaml, validate

# What a parameter must give for each distribution; q_ before a name rounds to multiples of q.
DISTRIBUTIONS = {
    "constant": {"value"},
    "categorical": {"values"},
    "int_uniform": {"min", "max"},
    "uniform": {"min", "max"},
    "q_uniform": {"min", "max", "q"},
    "log_uniform": {"min", "max"},  # of the exponents of e
    "q_log_uniform": {"min", "max", "q"},
    "log_uniform_values": {"min", "max"},
    "q_log_uniform_values": {"min", "max", "q"},
    "normal": {"mu", "sigma"},
    "q_normal": {"mu", "sigma", "q"},
    "log_normal": {"mu", "sigma"},  # of the logarithm
    "q_log_normal": {"mu", "sigma", "q"},
}
MACROS = {"${args}": "--", "${args_no_hyphens}": ""}  # what stands before key=value


class Metric(Section):
    # What train.py logs every epoch, and may choose by: test episodes are for the end.
    name: Literal["train_loss", "train_accuracy", "validation_loss", "validation_accuracy"]
    goal: Literal["minimize", "maximize"] = "minimize"
    target: float | None = None


class SweepFile(Section):
    """The keys of a sweep file. Those that say how Weights & Biases shows a sweep mean nothing here."""

    program: Literal["train.py"]
    method: Literal["grid", "random", "bayes"]
    metric: Metric
    parameters: dict[str, Any] = Field(min_length=1)
    command: list[str] = Field(["${env}", "${interpreter}", "${program}", "${args}"])
    run_cap: int | None = Field(None, ge=1)
    name: str | None = None
    description: str | None = None
    project: str | None = None
    entity: str | None = None

    @field_validator("command")
    @classmethod
    def _hands_over_the_parameters(cls, command: list[str]) -> list[str]:
        if "${program}" not in command:
            raise ValueError("must contain ${program}")
        macros = [word for word in _behind_program(command) if word.startswith("${")]
        if len(macros) != 1 or macros[0] not in MACROS:
            raise ValueError("must hand over the parameters once, by ${args} or ${args_no_hyphens}")
        return command


class Parameter(Section):
    """What values one key of the configuration takes."""

    value: Any = None
    values: list[Any] | None = Field(None, min_length=1)
    probabilities: list[float] | None = None
    distribution: str | None = None
    min: int | float | None = None
    max: int | float | None = None
    mu: float | None = None
    sigma: float | None = Field(None, gt=0)
    q: int | float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _is_whole(self) -> "Parameter":
        if self.kind not in DISTRIBUTIONS:
            raise ValueError(f"distribution: unknown {self.kind!r}; {nearest(self.kind, DISTRIBUTIONS)}")
        needed = DISTRIBUTIONS[self.kind]
        optional = {"distribution", *(["probabilities"] if self.kind == "categorical" else [])}
        given = {key for key in self.model_fields_set if key == "value" or getattr(self, key) is not None}
        if missing := needed - given:
            raise ValueError(f"{self.kind} values need {' and '.join(sorted(missing))}")
        if spare := given - needed - optional:
            raise ValueError(f"{' and '.join(sorted(spare))} mean nothing for {self.kind} values")
        if "min" in needed and not self._bounds()[0] < self._bounds()[1]:
            raise ValueError(f"min: must be below max, found {self.min} and {self.max}")
        if self.kind.endswith("log_uniform_values") and self._bounds()[0] <= 0:
            raise ValueError(f"min: must be above 0 for {self.kind} values, found {self.min}")
        if self.kind == "int_uniform" and not (isinstance(self.min, int) and isinstance(self.max, int)):
            raise ValueError("min and max: must be whole numbers for int_uniform values")
        if self.probabilities is not None and (
            len(self.probabilities) != len(self.listed) or not math.isclose(sum(self.probabilities), 1, abs_tol=1e-6)
        ):
            raise ValueError("probabilities: must be as many as values, and their sum 1")
        return self

    @property
    def kind(self) -> str:
        """The distribution, as Weights & Biases understands a parameter that does not name it."""
        if self.distribution is not None:
            return self.distribution
        if "value" in self.model_fields_set:
            return "constant"
        if self.values is not None:
            return "categorical"
        return "int_uniform" if isinstance(self.min, int) and isinstance(self.max, int) else "uniform"

    @property
    def listed(self) -> list[Any]:
        """All values, of a constant or categorical parameter."""
        return [self.value] if self.values is None else self.values

    def quantile(self, share: float) -> Any:
        """The value below which a share of the distribution lies, 0 < share < 1."""
        kind = self.kind.removeprefix("q_")
        if kind == "constant":
            return self.value
        if kind == "categorical":
            shares = self.probabilities or [1 / len(self.listed)] * len(self.listed)
            return self.listed[sum(end <= share for end in itertools.accumulate(shares[:-1]))]
        if kind == "int_uniform":
            low, high = self._bounds()
            return low + int(share * (high - low + 1))
        if kind in ("normal", "log_normal"):
            assert self.mu is not None
            assert self.sigma is not None
            drawn = NormalDist(self.mu, self.sigma).inv_cdf(share)
        else:
            low, high = self._bounds()
            if kind == "log_uniform_values":
                low, high = math.log(low), math.log(high)
            drawn = low + share * (high - low)
        drawn = math.exp(drawn) if kind.startswith("log_") else drawn
        return round(drawn / self.q) * self.q if self.q else drawn

    def _bounds(self) -> tuple[int | float, int | float]:
        """min and max, of a distribution that needs them."""
        assert self.min is not None
        assert self.max is not None
        return self.min, self.max


class Sweep(NamedTuple):
    """What a file says, its parameters by their dotted names."""

    file: SweepFile
    parameters: dict[str, Parameter]

    @property
    def varied(self) -> list[str]:
        """The parameters that differ between runs."""
        return [key for key, parameter in self.parameters.items() if parameter.kind != "constant"]


def load_sweep(path: str | Path) -> Sweep:
    """Read and check a sweep file. Raises InputError with the full path of the first key that is wrong."""
    path = Path(path)
    tree = read_yaml(path)
    if "early_terminate" in tree:
        raise InputError(f"{path}: early_terminate: only Weights & Biases ends runs early; remove it to sweep without")
    file = validate(SweepFile, tree, str(path), ())
    if file.method == "bayes":
        raise InputError(
            f"{path}: method: bayes learns from earlier runs on the server of Weights & Biases; start it with "
            f"`wandb sweep`, or set random"
        )
    parameters = {}
    for key, values in _flatten(file.parameters):
        parameters[key] = validate(Parameter, values, str(path), ("parameters", *key.split(".")))
        is_listed = parameters[key].kind in ("constant", "categorical") and not parameters[key].probabilities
        if file.method == "grid" and not is_listed:
            raise InputError(f"{path}: parameters.{key}: a grid needs value or values alone")
    return Sweep(file, parameters)


def draw_runs(sweep: Sweep, count: int | None, seed: int) -> list[dict[str, Any]]:
    """The runs of a sweep, each a value for every parameter.

    A grid has all combinations, of which the last parameter changes fastest; a random sweep has `count` of them, where
    a draw depends on the seed, the run's number and the parameter's name alone, whatever else is in the file.
    """
    if sweep.file.method == "grid":
        values = [parameter.listed for parameter in sweep.parameters.values()]
        runs = [dict(zip(sweep.parameters, chosen, strict=True)) for chosen in itertools.product(*values)]
        return runs[:count]
    assert count is not None  # a random sweep never ends
    return [
        {key: parameter.quantile(_share(seed, number, key)) for key, parameter in sweep.parameters.items()}
        for number in range(1, count + 1)
    ]


def arguments(sweep: Sweep, values: dict[str, Any]) -> list[str]:
    """What an agent would put behind the program for one run."""
    words = []
    for word in _behind_program(sweep.file.command):
        words += [f"{MACROS[word]}{key}={value}" for key, value in values.items()] if word in MACROS else [word]
    return words


def run_names(sweep: Sweep, runs: list[dict[str, Any]]) -> list[str]:
    """A name for each run: its values, and for random draws its number before them. Seeds read as in "...-seed=1"."""
    ends = [key.rpartition(".")[2] for key in sweep.varied]
    labels = {key: end if ends.count(end) == 1 else key for key, end in zip(sweep.varied, ends, strict=True)}
    names = []
    for number, values in enumerate(runs, 1):
        parts = [f"{number:03}"] if sweep.file.method == "random" else []
        parts += [_label(labels[key], values[key]) for key in sweep.varied]
        names.append(re.sub(r"[^\w.=+-]+", "_", "-".join(parts or ["only"])))
    return names


def _behind_program(command: list[str]) -> list[str]:
    return command[command.index("${program}") + 1 :]


def _label(key: str, value: Any) -> str:
    """A value in a run's name; a YAML file says by its own name what it is."""
    if isinstance(value, str) and value.endswith(".yaml"):
        return Path(value).stem
    return f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"


def _flatten(parameters: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The parameters, those within `parameters` of another by their dotted names."""
    for key, values in parameters.items():
        if isinstance(values, dict) and isinstance(values.get("parameters"), dict):
            yield from _flatten(values["parameters"], f"{prefix}{key}.")
        else:
            yield prefix + key, values


def _share(seed: int, number: int, key: str) -> float:
    """A number strictly between 0 and 1, the same in every version of Python."""
    return (random.Random(f"{seed} {number} {key}").getrandbits(52) + 0.5) / 2**52
