"""A stream frame by frame, for every family: what a frame costs beside the network that describes it, and beside its
share of a batch."""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measure import Row, take_turns

FOLDER = Path(__file__).parent.parent / "config-files"
# Of the published scale; the transformer as it can stream: it sees the latest 9,000 frames.
FAMILIES: dict[str, dict[str, object]] = {
    "transformer": {"causal": True, "window": 9000},
    "lstm": {},
    "ur_lstm": {},
    "mlstm": {},
    "mamba-one_layer": {},
    "knn_memory": {},
    "delta": {},
    "novelty_filter": {},
    "bloom": {},
    "hebbian": {},
}
NUM_FRAMES, NUM_PROBES, NUM_FEATURES = 9180, 180, 512
REPEATS = 15


def steps(device: str) -> Iterator[Row]:
    network = prepare_network(device)
    for name, changes in FAMILIES.items():
        step, batch = prepare(device, name, changes)
        [batch_s] = take_turns([batch], repeats=1, warm_up=False)
        step_s, network_s = take_turns([step, network], REPEATS)
        what = f"{name.partition('-')[0]}, asked and studied"
        note = f"{1 / step_s:.0f} steps/s; a batch of {NUM_FRAMES:,} frames: {NUM_FRAMES / batch_s:.0f} frames/s"
        yield Row(what, "ResNet18 of that frame", step_s, network_s, 10, note=note)


def prepare(device: str, name: str, changes: dict[str, object]) -> tuple[Callable[[], None], Callable[[], Tensor]]:
    """A step of a stream that has studied a whole episode; and that episode at once, asked about its probes."""
    from models import CONFIGS, PUBLISHED_NAMES, build_model
    from models.recogniser import Layout
    from models.streaming import Stream
    from recognition.training.config import check_model, load_config

    path = FOLDER / f"{name}.yaml"
    config = check_model(load_config(path), CONFIGS, PUBLISHED_NAMES, path).model
    torch.manual_seed(0)
    layout = Layout(NUM_FEATURES, NUM_PROBES, probes_write=config.probes_write)
    model = build_model(config.model, CONFIGS[config.model](**{**config.args, **changes}), layout).to(device).eval()
    features = torch.randn(1, NUM_FRAMES, NUM_FEATURES, device=device)
    stream = Stream(model)
    state = stream.study(stream.start(), features[:, :-NUM_PROBES])

    def step() -> None:
        nonlocal state
        _, state = stream.step(state, features[:, -1])

    @torch.no_grad()
    def batch() -> Tensor:
        return model(features)

    return step, batch


def prepare_network(device: str) -> Callable[[], Tensor]:
    """ResNet18 with drawn weights, on one picture."""
    from models.vision import torchvision

    network, picture = torchvision.models.resnet18().to(device).eval(), torch.randn(1, 3, 224, 224, device=device)

    @torch.no_grad()
    def describe() -> Tensor:
        return network(picture)

    return describe
