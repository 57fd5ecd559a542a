"""The configuration of a run: a strict YAML schema, overrides from the command line, errors in one line.

The keys of the published study's files are all here and mean what they meant there; the others are optional.
"""

import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    Strict,
    ValidationError,
    model_serializer,
)
from pydantic.fields import FieldInfo

from recognition.common.command_line import LARGEST_NUMBER, InputError, expanded, nearest, shown
from recognition.episodes.streams import StreamSpec

LARGEST_SEED = 2**63 - 1  # torch takes no larger one
PathText = Annotated[str, AfterValidator(expanded)]
Number = Annotated[int, Field(ge=0, le=LARGEST_NUMBER)]
Count = Annotated[int, Field(ge=1, le=LARGEST_NUMBER)]
Range = Annotated[tuple[float, float], Strict(False)]  # YAML writes it [low, high]


class Section(BaseModel):
    """A mapping in the YAML file. Unknown keys and wrong types are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class LoggingConfig(Section):
    wandb: bool = Field(False, description="mirror the metrics to Weights & Biases")
    wandb_project: str = "Visual Recognition Memory"
    logfile: PathText | None = Field(None, description="also write a plain table of the epochs to this file")


class DatasetConfig(Section):
    train_indices_file: PathText = "video-features/train_indices.h5"
    validation_indices_file: PathText | None = Field(
        None, description="validation_indices beside the training file if not given; the published data set has none"
    )
    test_indices_file: PathText = "video-features/test_indices.h5"
    video_path: PathText = Field(
        "video-features", description="folder with the feature files, or made-up:FILMSxFRAMES for made-up features"
    )
    subsample: Count | None = Field(None, description="show every k-th frame of a clip; as the index says if not given")
    repeat_test: Count = Field(1, description="show each probe so many times in a row and read the last showing")
    bank: Literal["auto", "gpu", "memory", "mapped"] = Field(
        "auto", description="where the features are held; auto takes the first of the others that has twice the room"
    )
    mmap: bool | None = Field(None, description="the published study's word for bank: true is mapped, false is memory")
    fresh_episodes: bool = Field(False, description="draw new training episodes from the training films every epoch")
    standardise: bool = Field(
        False, description="scale features to unit length, then each to mean 0 and deviation 1 over the training films"
    )
    whiten: Count | None = Field(
        None, description="standardise, keep so many principal axes of the training films, each scaled to deviation 1"
    )
    reflect_films: bool = Field(
        False, description="turn the sign of half of the whitened axes in each film of each training episode, at random"
    )
    train_probes: Count | None = Field(
        None, description="ask so many probes in a training episode; as the index says if not given"
    )
    probe_times: Literal["end", "clip_ends"] = Field(
        "end", description="when training episodes ask: after all clips, or some after clips in between too"
    )
    at_end: float = Field(0.3, ge=0, le=1, description="share of the probes asked after all clips, with clip_ends")


class ModelConfig(Section):
    model: str = Field(description="the family: a name in models.MODELS, mixed, or a name of the published study")
    args: dict[str, Any] = Field(default_factory=dict, description="the family's own settings, see its Config class")
    probes_write: bool = Field(True, description="whether a probe remembers earlier ones, as in the published study")
    load: bool = Field(False, description="start from the weights in load_path")
    load_path: PathText = ""
    save: bool = Field(False, description="also save the weights to save_path after every epoch")
    save_path: PathText = ""


class LoopConfig(Section):
    """What the training loop needs to know, whatever is trained."""

    learning_rate: float = Field(1e-3, gt=0)
    n_epochs: Count = 50
    batch_size: Count = Field(16, description="episodes a step, or films, shared among all devices")
    weight_decay: float = Field(0.01, ge=0)
    gradient_clip: float | None = Field(None, gt=0, description="largest norm of all gradients together")
    seed: int = Field(
        0, ge=0, le=LARGEST_SEED, description="of the first weights, the order of episodes, fresh episodes and dropout"
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    num_devices: Count = Field(1, description="GPUs, or processes on the CPU")
    checkpoint_minutes: float = Field(
        15, ge=0, description="longest time within an epoch without a checkpoint; there is one after every epoch"
    )
    precision: Literal["auto", "bf16", 16, 32] = Field("auto", description="of the matrix products")


class TrainingConfig(LoopConfig):
    num_workers: Number = Field(2, description="threads that gather episodes; 0 gathers them between steps")
    warmup_steps: Number = Field(0, description="steps over which the learning rate rises from 0")
    schedule: Literal["constant", "cosine"] = Field("constant", description="cosine falls to 0 at the last step")
    calibrate: bool = Field(
        False, description="at the end find the threshold for old that is best on validation, and score with it too"
    )


class StreamConfig(Section):
    """Training on streams in place of episodes; what is not said here is as in `StreamSpec`. Times are in seconds."""

    streams_per_epoch: Count = Field(64, description="train on streams: so many new ones every epoch")
    validation_streams: Count = Field(16, description="the same ones after every epoch")
    length_s: float = Field(
        600, gt=0, description="of a stream, in seconds; where the films do not reach, it is shorter"
    )
    piece_s: Range = Field((5, 20), description="shortest and longest piece of a film")
    repeat_s: Range = Field((3, 6), description="shortest and longest part of a piece that is repeated")
    lags_s: Annotated[tuple[float, ...], Strict(False)] = Field(
        (30, 120), description="from a frame to its repeat, about"
    )
    repeats_share: float = Field(0.3, ge=0, lt=1, description="of a stream's time, at most")
    gap_s: float = Field(10, ge=0, description="between two pieces of one film, else one shot goes on in both")
    delay_s: float = Field(10, ge=0, description="a frame is studied so much later than it is asked about, at least")
    asked_together_s: float | None = Field(
        None, gt=0, description="frames that are asked of one state of the memory, which lacks so much more; delay_s"
    )
    fps: float | None = Field(None, gt=0, description="of films whose feature files do not say it")

    @property
    def spec(self) -> StreamSpec:
        """How streams are drawn. Raises ValueError, beginning with a key, if they cannot be."""
        told = {name: getattr(self, name) for name in StreamSpec.__annotations__ if name in type(self).model_fields}
        return StreamSpec(**told)


class Settings(Section):
    """What every run has, whatever it trains."""

    name: str | None = Field(
        None, pattern=r"^\w[\w.=+-]{0,99}$", description="of the run's folder; the YAML file's if not given"
    )
    resume: Literal["auto", "never"] = Field(
        "never", description="auto goes on with the run of this name, if it was started, as --resume does"
    )
    show_timing: bool = Field(False, description="print after every epoch where its time went")
    logging: LoggingConfig = LoggingConfig()

    def conflict(self) -> str | None:
        """What two keys together ask for that there is not, with what to do: "key: ..."; None if nothing."""
        return None


class RunConfig(Settings):
    """All that decides a run on episodes, or on streams of the same films."""

    dataset: DatasetConfig = DatasetConfig()
    stream: StreamConfig | None = None
    model: ModelConfig
    training: TrainingConfig = TrainingConfig()

    def conflict(self) -> str | None:
        return find_conflict(self)

    @model_serializer(mode="wrap")
    def _without_what_is_absent(self, told: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in told(self).items() if key != "stream" or value is not None}


AnySettings = TypeVar("AnySettings", bound=Settings)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The settings of a run on episodes, see `load_settings`. What stands in model.args is left to `check_model`."""
    return load_settings(RunConfig, path, overrides)


def load_settings(schema: type[AnySettings], path: str | Path, overrides: Sequence[str] = ()) -> AnySettings:
    """Read a YAML file, apply overrides such as "training.learning_rate=3e-4", check it and fill in defaults.

    The last word on a key wins.

    Raises:
        InputError: with the full path of the first key that is wrong, what was found and what is allowed.
    """
    path = Path(path)
    tree = read_yaml(path)
    for override in overrides:
        _apply(tree, override)
    if tree.get("name") is None:
        tree["name"] = _default_name(path)
    config = validate(schema, tree, str(path), ())
    if fault := config.conflict():
        raise InputError(f"{path}: {fault}")
    return config


def find_conflict(config: RunConfig) -> str | None:
    """What two keys together ask for that there is not, with what to do: "key: ..."; None if nothing."""
    data, writes = config.dataset, config.model.probes_write
    asks = "train_probes" if data.train_probes else "probe_times" if data.probe_times != "end" else None
    if asks and not data.fresh_episodes:
        return f"dataset.{asks}: is for new episodes every epoch; set dataset.fresh_episodes to true"
    if asks and writes:
        return f"dataset.{asks}: is for probes that do not write; set model.probes_write to false"
    if data.train_probes and data.train_probes % 2:
        return f"dataset.train_probes: must be even, half of them old and half new, found {data.train_probes}"
    if data.reflect_films and not data.whiten:
        return "dataset.reflect_films: turns whitened axes; set dataset.whiten to their number"
    if config.stream and (fault := _stream_conflict(config, config.stream)):
        return fault
    if data.repeat_test > 1 and not writes:
        return f"dataset.repeat_test: {data.repeat_test}, but probes that do not write gain nothing by it; set it to 1"
    return None


def _stream_conflict(config: RunConfig, stream: StreamConfig) -> str | None:
    if config.model.probes_write:
        return "model.probes_write: true, but in a stream asking leaves the memory as it is; set it to false"
    if config.dataset.fresh_episodes:
        return "dataset.fresh_episodes: true, but streams are trained on, new ones every epoch; set it to false"
    if stream.streams_per_epoch % config.training.batch_size:
        return (
            f"stream.streams_per_epoch: {stream.streams_per_epoch} is no multiple of training.batch_size "
            f"{config.training.batch_size}; change one of them"
        )
    try:
        _ = stream.spec
    except ValueError as error:
        return f"stream.{error}"
    return None


def check_model(
    config: RunConfig, families: Mapping[str, type[BaseModel]], other_names: Mapping[str, str], source: str | Path
) -> RunConfig:
    """Check the name of the model and its own settings, and fill in their defaults.

    Args:
        config: what `load_config` read.
        families: what may stand in model.args for each family of models.
        other_names: names under which families are also known.
        source: the file, for messages.

    Raises:
        InputError: as `load_config`.
    """
    family = other_names.get(config.model.model, config.model.model)
    if family not in families:
        hint = nearest(family, [*families, *other_names])
        raise InputError(f"{source}: model.model: unknown model {family!r}; {hint}")
    args = validate(families[family], config.model.args, str(source), ("model", "args"))
    model = config.model.model_copy(update={"model": family, "args": args.model_dump()})
    return config.model_copy(update={"model": model})


def describe_keys(schema: type[Settings] = RunConfig) -> str:
    """A line for every key of the YAML file with its default and meaning, for --help."""
    lines = []
    for name, leaf in _leaves(schema, ""):
        usual = None if leaf.is_required() else leaf.get_default(call_default_factory=True)
        told = yaml.safe_dump(usual, default_flow_style=True).removesuffix("...\n").strip()
        default = "required" if leaf.is_required() else told
        lines.append(f"  {name:<34}{default:<40}{leaf.description or ''}".rstrip())
    return "\n".join(lines)


def _leaves(schema: type[BaseModel], place: str) -> Iterator[tuple[str, FieldInfo]]:
    """The keys of a section and of those in it, by their full names."""
    for key, field in schema.model_fields.items():
        kind = next(iter(get_args(field.annotation)), field.annotation)  # X of X | None
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from _leaves(kind, f"{place}{key}.")
        else:
            yield f"{place}{key}", field


def dump_config(config: Settings) -> str:
    """The configuration as YAML that loads back to an equal one."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, but as in YAML 1.2 1e-3 is a number and a mapping cannot have a key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := next((key for key, other in itertools.pairwise(sorted(keys)) if key == other), None):
            raise yaml.constructor.ConstructorError(None, None, f"{twice} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Its counterpart: a text that it would take for a number or nothing, as the name of a run may be, is written in
    quotes."""


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
    )
    # Agents of Weights & Biases write values as Python does.
    _kind.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("^None$"), ["N"])


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises InputError if there is none."""
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except Exception as error:  # yaml raises many kinds, for nesting too deep, for a date or a number that is none
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise InputError(f"{path}: must hold a mapping of keys to values, found {shown(tree)}")
    return tree


def _default_name(path: Path) -> str:
    """The YAML file's; an agent of Weights & Biases starts many runs from one file, so theirs have the run's id too."""
    return f"{path.stem}-{os.environ['WANDB_RUN_ID']}" if "WANDB_SWEEP_ID" in os.environ else path.stem


def _apply(tree: dict[str, Any], override: str) -> None:
    key, sign, value = override.lstrip("-").partition("=")
    if not sign or not key:
        raise InputError(f"{override!r} is not of the form key=value, such as training.learning_rate=3e-4")
    *parents, last = key.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise InputError(f"{override!r}: {parent} is not a mapping, so it has no key {last!r}")
    try:
        tree[last] = _merged(tree.get(last), yaml.load(value, _Loader))
    except Exception:  # as in read_yaml
        raise InputError(f"{override!r}: the value is not valid YAML") from None


def _merged(old: Any, new: Any) -> Any:
    """`new`, but a mapping leaves those keys of an old one as they are that it does not name."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return old | {key: _merged(old.get(key), value) for key, value in new.items()}


def validate(schema: type[BaseModel], values: Any, source: str, place: tuple[str, ...]) -> Any:
    """An instance of `schema`. Raises InputError that names the first wrong key below `place` in the file `source`."""
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{source}: {_explain(schema, error.errors()[0], place)}") from None


def _explain(schema: type[BaseModel], error: Mapping[str, Any], place: tuple[str, ...]) -> str:
    """One line for pydantic's first complaint: the key's full path, what was found, what is allowed."""
    *parents, last = error["loc"] or ("",)
    for parent in parents:
        field = getattr(schema, "model_fields", {}).get(parent)
        schema = next(iter(get_args(field.annotation)), field.annotation) if field else schema  # X of X | None
    key = ".".join(str(part) for part in (*place, *error["loc"]) if part != "")
    if error["type"] == "extra_forbidden":
        if key == "model.args.layers":
            return f"{key}: unknown key; stacks of several families are model.model=mixed, n_layers counts those of one"
        return f"{key}: unknown key; {nearest(str(last), schema.model_fields)}"
    if error["type"] == "missing":
        return f"{key}: is missing"
    if error["type"] == "value_error":
        return f"{key}: {error['msg'].removeprefix('Value error, ')}"
    plain = {
        "model_type": "must be a mapping",
        "dict_type": "must be a mapping",
        "tuple_type": "must be a list",
        "too_short": "is too short",
    }
    message = error["msg"].replace("Input should be", "must be").replace("String should", "must")
    message = plain.get(error["type"], message)
    return f"{key}: {message}, found {shown(error['input'])}"
