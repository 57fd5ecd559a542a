"""Is a GPU right? One training step of every shipped configuration, in each precision, beside float64 on the CPU.

Shapes: B episodes, S study frames, P probes, T = S + P, D features.
"""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment
from torch import Tensor

from benchmarks import tiny
from models import CONFIGS, PUBLISHED_NAMES, build_model
from models.optional import MAMBA2, find_module
from models.recogniser import Layout, Recogniser
from recognition.episodes.dataset import Batch
from recognition.training.config import RunConfig, TrainingConfig, check_model, load_config
from recognition.training.data import batches
from recognition.training.devices import precision_of
from recognition.training.episode_task import EpisodeTask
from recognition.training.loop import Loop, Progress

FOLDER = Path(__file__).parents[2] / "config-files"
OTHERS = {"sweeps", "backbones", "captioning"}  # which train on other things than episodes
SHIPPED = sorted(path for path in FOLDER.rglob("*.yaml") if path.relative_to(FOLDER).parts[0] not in OTHERS)
MOST_OVERFLOWS = 24  # steps in which float16 may look for its scale, which starts at 2**16


class Sizes(NamedTuple):
    """Of the episodes, and of the model where it is not to be as wide as shipped."""

    episodes: int
    clips: int
    clip_frames: int
    probes: int
    features: int
    d_embed: int | None


# More frames than any layer takes at a time: 1,024 for mLSTM, 512 for Mamba2, 300 for the kNN memory.
FULL = Sizes(episodes=2, clips=37, clip_frames=30, probes=60, features=512, d_embed=None)
TINY = Sizes(episodes=3, clips=6, clip_frames=10, probes=10, features=32, d_embed=32)


class Allowed(NamedTuple):
    """Largest relative errors. Of gradients only what is more than `lost` of all of them together is counted."""

    output: float
    gradient: float
    lost: float


# By the words of training.precision. Several roundings follow each other, and where one opens a ReLU that should be
# closed, a gradient moves by more than a rounding.
ALLOWED: dict[str | int, Allowed] = {
    32: Allowed(output=2e-5, gradient=1e-3, lost=1e-6),
    "bf16": Allowed(output=8 * 2**-8, gradient=32 * 2**-8, lost=1e-3),
    16: Allowed(output=8 * 2**-11, gradient=64 * 2**-11, lost=1e-3),
}


class Step(NamedTuple):
    """What a step computes: logits (B, P) and every parameter's gradient by its name, on the CPU, and a remark."""

    logits: Tensor
    gradients: dict[str, Tensor]
    note: str = ""


class MadeUpEpisodes:
    """One batch of episodes, as data sets give them: old probes are studied frames, new ones are not."""

    bank = SimpleNamespace(device=torch.device("cpu"))
    asked = None

    def __init__(self, sizes: Sizes):
        draw = torch.Generator().manual_seed(0)
        shape = sizes.episodes, sizes.clips + 1, 1, sizes.features
        clips = torch.randn(shape, generator=draw)  # frames of a clip are alike; of the last one only probes are shown
        noise = torch.randn(*shape[:2], max(sizes.clip_frames, sizes.probes), sizes.features, generator=draw)
        frames = torch.relu(clips + 0.5 * noise).half()  # as features of images are, and as they are stored
        study, unseen = frames[:, :-1, : sizes.clip_frames].flatten(1, 2), frames[:, -1, : sizes.probes]
        studied = torch.randint(study.shape[1], (sizes.episodes, sizes.probes), generator=draw)
        is_old = torch.arange(sizes.probes).remainder(2).bool().expand(sizes.episodes, -1)
        seen = study.gather(1, studied[..., None].expand(-1, -1, sizes.features))
        self.features = torch.cat([study, torch.where(is_old[..., None], seen, unseen)], 1)  # (B, T, D)
        self.is_old = is_old.float()  # (B, P)

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, number: np.ndarray) -> Batch:
        features = self.features[number]
        return Batch(features, self.is_old[number], torch.zeros(features.shape[:2], dtype=torch.int64))


def correctness(device: str, seconds: float) -> Iterator[dict]:
    """A line for every configuration and precision that `device` has; what raises has a line as well."""
    sizes = TINY if tiny.is_tiny else FULL
    precisions = [precision for precision in ALLOWED if precision != 16 or device == "cuda"]
    references: dict[str, Step] = {}  # configurations of the demo and of comparisons build equal models
    for path in SHIPPED:
        for precision in precisions:
            yield check(path, device, precision, sizes, references)


def check(
    path: Path, device: str, precision: str | int, sizes: Sizes, references: dict[str, Step] | None = None
) -> dict:
    """Compare a configuration's first training step on `device` with float64: a line of `correctness`.

    References that are in `references` are not computed again. What raises has None for errors, and says why in "note".
    """
    allowed = ALLOWED[precision]
    output: float | None = None
    gradient: float | None = None
    note, is_good = "", False
    try:
        config, references = _load(path, sizes), {} if references is None else references
        allowed = _allowed(config, device, precision)
        model, episodes = build(config, sizes), MadeUpEpisodes(sizes)
        key = f"{config.model} {config.dataset.standardise} {config.dataset.whiten} {config.training.seed} {sizes}"
        if key not in references:
            references[key] = reference(model, episodes, config.training)
        with _float32_in_full():
            step = training_step(model, episodes, config.training, device, precision)
        output, gradient, worst = errors(step, references[key], allowed)
        note, is_good = worst + step.note, output < allowed.output and gradient < allowed.gradient
    except Exception as error:
        note = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return {
        "what": f"{path.relative_to(FOLDER)}, {precision}",
        "output error": output,
        "allowed output error": allowed.output,
        "gradient error": gradient,
        "allowed gradient error": allowed.gradient,
        "is_good": is_good,
        "note": note,
    }


def build(config: RunConfig, sizes: Sizes) -> Recogniser:
    """The configuration's model for made-up episodes, on the CPU, in float32."""
    torch.manual_seed(config.training.seed)
    settings = CONFIGS[config.model.model](**config.model.args)
    num_axes, probes_write = config.dataset.whiten, config.model.probes_write
    layout = Layout(num_axes or sizes.features, sizes.probes, 1, sizes.clip_frames, probes_write)
    model = build_model(config.model.model, settings, layout)
    frames = F.normalize(MadeUpEpisodes(sizes).features.flatten(0, 1).float(), dim=1)
    if num_axes:  # any axes will do
        model.whiten(frames.mean(0), torch.randn(sizes.features, num_axes) / frames.std(0)[:, None])
    elif config.dataset.standardise:
        model.standardise(frames.mean(0), frames.std(0))
    return model


def reference(model: Recogniser, episodes: MadeUpEpisodes, training: TrainingConfig) -> Step:
    """The step in float64 on the CPU, without any of the training loop's code."""
    model = copy.deepcopy(model).double().train()
    [order] = batches(len(episodes), len(episodes), (training.seed, 0))
    batch = episodes[order]
    logits = model(batch.features.double())
    F.binary_cross_entropy_with_logits(logits, batch.is_old.double()).backward()
    return Step(logits.detach(), _gradients(model))


def training_step(
    model: Recogniser, episodes: MadeUpEpisodes, training: TrainingConfig, device: str, precision: str | int
) -> Step:
    """The first step that the training loop makes; in float16 the first whose gradients do not overflow."""
    one_epoch = {"n_epochs": 1, "batch_size": len(episodes), "num_workers": 0, "gradient_clip": None}
    training = training.model_copy(update=one_epoch)
    fabric = Fabric(accelerator=device, devices=1, plugins=[LightningEnvironment(), precision_of(precision, device)])
    sets: Any = episodes  # as much of an EpisodeDataset as a step asks for
    model, logits = copy.deepcopy(model), []
    model.register_forward_hook(lambda module, given, made: logits.append(made.detach().double().cpu()))
    loop = Loop(EpisodeTask(model, sets, sets, fabric, training), fabric, training, show_bar=False)
    for _ in range(1 + MOST_OVERFLOWS):
        loop.progress = Progress()
        loop.train_epoch()
        gradients = _gradients(model)
        if precision != 16 or all(gradient.isfinite().all() for gradient in gradients.values()):
            break
    overflows = len(logits) - 1
    return Step(logits[-1], gradients, f", after {overflows} steps that overflowed" if overflows else "")


def errors(step: Step, exact: Step, allowed: Allowed) -> tuple[float, float, str]:
    """Relative error of the logits, the largest one of a gradient, and the name of its parameter."""
    whole = torch.cat([gradient.flatten() for gradient in exact.gradients.values()]).norm()
    least = allowed.lost * whole / allowed.gradient
    relative = {
        name: ((step.gradients[name] - gradient).norm() / (gradient.norm() + least)).item()
        for name, gradient in exact.gradients.items()
    }
    worst = max(relative, key=lambda name: math.inf if math.isnan(relative[name]) else relative[name])
    return ((step.logits - exact.logits).norm() / exact.logits.norm()).item(), relative[worst], worst


def _load(path: Path, sizes: Sizes) -> RunConfig:
    width = [] if sizes.d_embed is None else [f"model.args.d_embed={sizes.d_embed}"]
    return check_model(load_config(path, width), CONFIGS, PUBLISHED_NAMES, path)


def _allowed(config: RunConfig, device: str, precision: str | int) -> Allowed:
    # TF32, in which mamba-ssm's kernel multiplies float32, has float16's 11 bits.
    has_mamba2 = "mamba2" in (config.model.model, *config.model.args.get("layers", []))
    multiplies_in_tf32 = device == "cuda" and has_mamba2 and find_module(MAMBA2.module).module is not None
    return ALLOWED[16 if precision == 32 and multiplies_in_tf32 else precision]


def _gradients(model: Recogniser) -> dict[str, Tensor]:
    gradients = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient"
        gradients[name] = parameter.grad.double().cpu()
    return gradients


@contextmanager
def _float32_in_full() -> Iterator[None]:
    """Products of float32 within are not rounded to TF32, as training lets them be."""
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False  # of LSTMs, too
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions
