"""Streams as a task: labels, answers as a stream gives them, gradients, resuming, refusals, and that it is learned."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, assert_same_run, metrics_of, refusal, run_here, run_script, write_features
from forking import Forked
from lightning_fabric import Fabric
from torch import Tensor

from models import CONFIGS, build_model
from models.recogniser import Layout, Recogniser
from models.streaming import Stream
from recognition.common.command_line import InputError
from recognition.training.config import RunConfig, StreamConfig, dump_config
from recognition.training.data import open_split
from recognition.training.stream_task import StreamBatch, StreamTask, answers, auc, scores

D, M = 16, 8
# The films of `small_bank` have 30 frames a second, of which 15 are shown.
STREAM = {
    "streams_per_epoch": 8,
    "validation_streams": 3,
    "length_s": 8,
    "piece_s": [0.5, 1],
    "repeat_s": [0.3, 0.5],
    "lags_s": [2, 4],
    "delay_s": 1,
    "gap_s": 0.1,
}
WINDOW = {"causal": True, "window": 20}
FAMILIES: list[tuple[str, dict]] = [
    ("lstm", {"n_layers": 2}),
    ("ur_lstm", {"n_layers": 1, "familiarity": True}),
    ("mlstm", {"n_layers": 2, "familiarity": True}),
    ("mamba2", {"n_layers": 2, "headdim": 8}),
    ("knn_memory", {"n_layers": 1, "k": 4, "capacity": 60}),
    ("transformer", {**WINDOW, "n_layers": 2}),
    ("transformer", {**WINDOW, "no_self": False}),
    ("delta", {"d_key": 8, "d_value": 8}),
]
over_families = pytest.mark.parametrize(("name", "settings"), FAMILIES, ids=str)


def text_of(bank: Path, model: str = "lstm", args: dict | None = None, stream: dict | None = None, **training) -> str:
    config = {
        "dataset": {
            "train_indices_file": f"{bank}/train_indices.h5",
            "test_indices_file": f"{bank}/test_indices.h5",
            "video_path": str(bank),
        },
        "stream": STREAM | (stream or {}),
        "model": {"model": model, "probes_write": False, "args": {"d_embed": M} | (args or {})},
        "training": {"n_epochs": 2, "batch_size": 4, "num_workers": 0, "device": "cpu"} | training,
    }
    return yaml.safe_dump(config)


def build(name: str, settings: dict) -> Recogniser:
    torch.manual_seed(0)
    model = build_model(name, CONFIGS[name](**{"d_embed": M, **settings}), Layout(D, 4, probes_write=False))
    for parameter in model.parameters():  # far from the start, where families say of all frames about the same
        parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    return model


@pytest.fixture
def make_task(small_bank: Path) -> Callable[..., StreamTask]:
    def make(model: Recogniser | None = None, stream: dict | None = None, **settings: object) -> StreamTask:
        config = RunConfig(**yaml.safe_load(text_of(small_bank, stream=stream, **settings)))
        films = [open_split(config.dataset, split) for split in ("train", "validation")]
        return StreamTask(model or build("lstm", {}), *films, Fabric(accelerator="cpu", devices=1), config)

    return make


@pytest.mark.parametrize("together_s", [None, 0.25, 1 / 15])
def test_labels_say_what_a_memory_that_studies_later_has_seen(together_s: float | None, make_task: Callable):
    """Frame by frame: what was shown, what is studied, who is asked."""
    task = make_task(stream={"asked_together_s": together_s})
    assert (task.train_set.delay, task.train_set.together) == (15, {None: 15, 0.25: 4}.get(together_s, 1))
    numbers = np.arange(3)
    batch = task.train_set[numbers]
    num_frames = batch.is_old.shape[1]
    of_frame = [studied for studied, size in task.train_set.asked(num_frames) for _ in range(size)]
    assert len(of_frame) == num_frames
    for frame, studied in enumerate(of_frame):
        due = max(0, frame - 15 + 1)  # nothing younger than the delay
        assert max(0, due - task.train_set.together + 1) <= studied <= due
    num_old = 0
    for row, stream in enumerate(map(task.train_set.draw, numbers)):
        shown = list(zip(stream.video.tolist(), stream.frame.tolist(), strict=True))
        for frame, studied in enumerate(of_frame):
            if frame >= len(shown):
                assert not batch.counts[row, frame]
                continue
            is_old, is_queued = shown[frame] in shown[:studied], shown[frame] in shown[studied:frame]
            assert batch.is_old[row, frame] == is_old
            assert batch.counts[row, frame] == (is_old or not is_queued)
            num_old += is_old
            features = task.train_set.bank.gather(*np.array([shown[frame]]).T)[0]
            assert torch.equal(batch.features[row, frame], features)
            assert batch.film[row, frame] == shown[frame][0]
    assert num_old > 20


def test_what_was_shown_but_is_not_studied_yet_does_not_count(make_task: Callable):
    batch = make_task(stream={"asked_together_s": 3}).train_set[np.arange(4)]
    assert (batch.is_old[~batch.counts] == 0).all()
    assert (~batch.counts).sum() > 20  # repeats after 2 s of what the memory lacks for up to 4


@over_families
@pytest.mark.parametrize("together_s", [None, 0.3])
def test_training_asks_what_a_stream_asks(name: str, settings: dict, together_s: float | None, make_task: Callable):
    model = build(name, settings)
    task = make_task(model, {"asked_together_s": together_s, "length_s": 3})
    features = task.train_set[np.arange(2)].features.float()
    with torch.no_grad():
        logits = answers(model.eval(), features, task.train_set.asked(features.shape[1]))
    stream = Stream(model)
    state, expected = stream.start(2), []
    for num_studied, size in task.train_set.asked(features.shape[1]):
        while state.num_studied < num_studied:
            state = stream.study(state, features[:, state.num_studied])
        for frame in features[:, len(expected) : len(expected) + size].unbind(1):
            expected.append(stream.ask(state, frame))
    assert len(expected) == features.shape[1]
    assert logits.std() > 1e-3
    torch.testing.assert_close(logits, torch.stack(expected, 1), rtol=1e-5, atol=1e-5)


@over_families
def test_gradients_are_those_of_small_differences(name: str, settings: dict, make_task: Callable):
    """Along one random direction of all weights at once, in float64."""
    model = build(name, settings).double().train()
    task = make_task(model, {"length_s": 5})
    batch = task.train_set[np.arange(2)]
    batch = batch._replace(features=batch.features.double())

    def loss() -> Tensor:
        logits = model(torch.cat([batch.features] * 2, 1), task.train_set.asked(batch.features.shape[1]))
        return scores(logits, batch._replace(is_old=batch.is_old.double()))[0].mean()

    torch.manual_seed(1)
    parameters = list(model.parameters())
    direction = [torch.randn_like(parameter) for parameter in parameters]
    model.zero_grad()
    loss().backward()
    slope = sum((p.grad * d).sum() for p, d in zip(parameters, direction, strict=True) if p.grad is not None)
    sides = []
    for step in (1e-6, -2e-6):
        for parameter, along in zip(parameters, direction, strict=True):
            parameter.data.add_(along, alpha=step)
        with torch.no_grad():
            sides.append(loss())
    assert abs(slope) > 1e-4
    torch.testing.assert_close(slope, (sides[0] - sides[1]) / 2e-6, rtol=1e-5, atol=1e-8)


def test_every_weight_that_is_read_gets_a_gradient_through_the_whole_stream(make_task: Callable):
    """From the last repeats back to the first frames: nothing is cut off on the way."""
    model = build("mlstm", {"n_layers": 2}).train()
    task = make_task(model)
    features = task.train_set[np.arange(1)].features.float().requires_grad_()
    answers(model, features, task.train_set.asked(features.shape[1]))[0, -1].backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert (features.grad[0, 0] != 0).any()


def test_old_and_new_frames_weigh_alike_in_every_stream():
    is_old = torch.tensor([[1.0, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
    counts = torch.tensor([[True, True, True, True, False], [True, True, True, True, True]])
    logits = torch.tensor([[2.0, 1, -1, -3, 9], [-1, -1, -1, -1, 1]])
    batch = StreamBatch(torch.empty(0), is_old, counts, torch.empty(0))
    loss, accuracy = scores(logits, batch)
    cost = torch.nn.functional.softplus
    expected = (cost(torch.tensor(-2.0)) + cost(logits[0, 1:4]).mean()) / 2, cost(logits[1]).mean()
    torch.testing.assert_close(loss, torch.stack(expected))
    assert accuracy.tolist() == pytest.approx([(1 + 2 / 3) / 2, 4 / 5])


def test_area_counts_pairs_of_old_and_new():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(0, 6, (40,), generator=generator).float()  # with ties
    is_old, counts = (torch.rand(2, 40, generator=generator) > 0.4).float()
    pairs = [
        (old > new) + (old == new) / 2
        for (old, a, x), (new, b, y) in itertools.product(zip(logits, is_old, counts, strict=True), repeat=2)
        if a and not b and x and y
    ]
    assert auc(logits, is_old, counts > 0) == pytest.approx(np.mean(pairs))
    assert np.isnan(auc(logits, torch.zeros(40), counts > 0))
    assert np.isnan(auc(logits, torch.ones(40), counts > 0))


def test_streams_depend_on_seed_epoch_and_place_alone(make_task: Callable):
    task, again, other = make_task(), make_task(num_workers=2), make_task(seed=1)
    never = lambda: False  # noqa: E731
    first, second = (list(task.batches(epoch, 0, never)) for epoch in (0, 1))
    assert len(first) == task.num_steps(0) == 2
    for batch, same in zip(second, again.batches(1, 0, never), strict=True):
        assert all(map(torch.equal, batch, same))
    [late] = again.batches(1, 1, never)
    assert all(map(torch.equal, second[1], late))
    sums = {float(batch.features.double().sum()) for batch in (*first, *second, *other.batches(0, 0, never))}
    assert len(sums) == 6
    assert not torch.equal(task.validation_set[np.arange(1)].features, task.train_set[np.arange(1)].features)


def test_processes_share_the_streams_of_one(make_task: Callable):
    whole = make_task()
    parts = [make_task() for _ in range(2)]
    for rank, part in enumerate(parts):
        part.fabric = type("Fabric", (), {"global_rank": rank, "world_size": 2, "device": torch.device("cpu")})()
    batches = zip(*(task.batches(1, 0, lambda: False) for task in (whole, *parts)), strict=True)
    for batch, one, two in batches:
        for row, (part, place) in enumerate(itertools.product(range(2), (one, two))):
            length = place.counts.shape[1]
            assert torch.equal(batch.features[row, :length][batch.counts[row, :length]],
                               place.features[part][place.counts[part]])  # fmt: skip


@pytest.mark.parametrize("model", ["lstm", "knn_memory"])
def test_a_run_on_streams_is_whole_and_can_be_evaluated(model: str, train_here: Callable, small_bank: Path, tmp_path):
    run = train_here(text=text_of(small_bank, model, {"n_layers": 1}, calibrate=True))
    assert [line["step"] for line in metrics_of(run)] == [2, 4]
    assert {"train_loss", "train_accuracy", "validation_auc", "validation_accuracy"} <= set(metrics_of(run)[0])
    assert {"test_accuracy", "calibrated_accuracy"} <= json.loads((run / "test.json").read_text()).keys()
    if model == "lstm":
        result = run_here("evaluate.py", str(run), cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        evaluation = json.loads((run / "evaluation.json").read_text())
        assert evaluation["accuracy"] == json.loads((run / "test.json").read_text())["test_accuracy"]
        assert evaluation["seconds_per_episode"] is None  # it was trained on none


def test_a_run_that_is_killed_goes_on_to_the_same_end(train_here: Callable, small_bank: Path, tmp_path: Path):
    text = text_of(small_bank, "mlstm", {"n_layers": 1}, n_epochs=6)  # long enough to be met in mid-work
    whole = train_here(text=text, name="whole")
    (tmp_path / "killed.yaml").write_text(text)
    command = ["train.py", "-f", "killed.yaml", "--resume", "training.checkpoint_minutes=0"]
    process = Forked(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    told = tmp_path / "runs/killed/metrics.jsonl"
    while process.poll() is None and not (told.exists() and told.read_text()):
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 75
    assert not (tmp_path / "runs/killed/test.json").exists()
    assert_same_run(whole, train_here("--resume", text=text, name="killed"))


def test_two_processes_train_like_one(train_here: Callable, small_bank: Path, tmp_path: Path):
    one = train_here(text=text_of(small_bank, stream={"validation_streams": 4}), name="one")
    (tmp_path / "two.yaml").write_text(text_of(small_bank, stream={"validation_streams": 4}, num_devices=2))
    command = [sys.executable, str(ROOT / "train.py"), "-f", "two.yaml"]
    result = subprocess.run(command, cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for line, other in zip(metrics_of(one), metrics_of(tmp_path / "runs/two"), strict=True):
        assert line == pytest.approx(other, abs=1e-6)


def test_a_small_mlstm_learns_to_say_old_in_mid_stream(train_here: Callable, tmp_path: Path):
    """Features without structure: only remembering them helps, and films are others than in training."""
    bank = write_features(tmp_path / "bank", [150] * 12, num_features=32)
    words = "--n_clips=2 --clip_length=6 --clip_margin=3 --n_tests=4 --subsample=2 --validation_set_fraction=0.25"
    numbers = "--n_samples_train=8 --n_samples_validation=8 --n_samples_test=8"
    folders = f"--input_dir={bank} --output_dir={bank}"
    assert run_here("generate_dataset.py", *f"{words} {numbers} {folders}".split(), cwd=tmp_path).returncode == 0
    args = {"d_embed": 32, "match_init": True, "familiarity": True, "tie_qk": True, "residual": False}
    args |= {"forget_bias_range": [5, 7], "conv1d_kernel_size": 1}
    stream = {"streams_per_epoch": 32, "validation_streams": 8}
    run = train_here(text=text_of(bank, "mlstm", args, stream, n_epochs=6, batch_size=4, learning_rate=1e-2))
    first, *_, last = metrics_of(run)
    assert first["validation_auc"] < 0.7
    assert last["validation_auc"] > 0.8
    assert last["validation_loss"] < first["validation_loss"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stream": {"delay_s": 2}}, r"stream\.lags_s: 2 s may become 1\.6 s, not more than delay_s 2"),
        ({"stream": {"delays": 2}}, r"stream\.delays: unknown key; did you mean 'delay_s'"),
        ({"stream": {"repeats_share": 1.0}}, r"stream\.repeats_share: must be less than 1"),
        ({"stream": {"piece_s": [9, 3]}}, r"stream\.piece_s: must be a shortest and a longest"),
        ({"stream": {"piece_s": [6, 9]}}, "stream: .*train_indices.h5: no film is as long as the shortest piece, 6 s"),
        ({"stream": {"lags_s": [300]}}, r"stream: the films of .* too few .* after 300 s; lower stream\.lags_s"),
        ({"batch_size": 3}, r"stream\.streams_per_epoch: 8 is no multiple of training\.batch_size 3"),
        ({"model": "transformer"}, "stream: layer 1, Transformer, cannot go frame by frame: it attends to later"),
        ({"model": "temporal_gate"}, "stream: layer 1, TemporalGate, cannot go frame by frame"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(change: dict, message: str, small_bank: Path, train_here: Callable):
    with pytest.raises(InputError, match=message):
        train_here(text=text_of(small_bank, **change))


def test_settings_of_episodes_are_refused_beside_streams(small_bank: Path, train_here: Callable, tmp_path: Path):
    with pytest.raises(InputError, match=r"dataset\.fresh_episodes: true, but streams are trained on"):
        train_here("dataset.fresh_episodes=true", text=text_of(small_bank))
    with pytest.raises(InputError, match=r"model\.probes_write: true, but in a stream asking leaves"):
        train_here("model.probes_write=true", text=text_of(small_bank))
    (tmp_path / "run.yaml").write_text(text_of(small_bank))
    told = refusal(run_script("train.py", "-f", "run.yaml", "stream.delay=3", cwd=tmp_path))
    assert "stream.delay: unknown key" in told


def test_a_run_on_episodes_says_nothing_of_streams_and_neither_goes_on_as_the_other(
    small_bank: Path, train_here: Callable
):
    text = text_of(small_bank, n_epochs=1)
    episodes = yaml.safe_dump({key: part for key, part in yaml.safe_load(text).items() if key != "stream"})
    run = train_here(text=episodes, name="episodes")
    assert "stream" not in (run / "config.yaml").read_text()
    assert "stream" in (train_here(text=text, name="streams") / "config.yaml").read_text()
    for name, other in (("episodes", text), ("streams", episodes)):
        with pytest.raises(InputError, match=rf"--resume: .*{name} was started with stream\."):
            train_here("--resume", text=other, name=name)


def test_a_dumped_section_loads_back_equal(small_bank: Path):
    config = RunConfig(**yaml.safe_load(text_of(small_bank)))
    assert RunConfig(**yaml.safe_load(dump_config(config))) == config
    assert config.stream is not None
    assert config.stream.spec.lags_s == (2, 4)
    assert StreamConfig().spec.changes == ("same",)
