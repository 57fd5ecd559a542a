"""Episodes as a task: what training episodes ask in the midst of study, films whose axes are turned, and resuming."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import assert_same_run, config_text
from lightning_fabric import Fabric
from torch import Tensor, nn

from models import CONFIGS, build_model
from models.recogniser import Layout
from recognition.common.command_line import InputError
from recognition.training.config import DatasetConfig, TrainingConfig
from recognition.training.data import open_split
from recognition.training.episode_task import EpisodeTask, answers, reflections

CONFIG = TrainingConfig(n_epochs=2, batch_size=4, num_workers=0, device="cpu")
ASKING = {"fresh_episodes": True, "train_probes": 12, "probe_times": "clip_ends"}


class Listener(nn.Module):
    """Gives zeros, as many as it is asked for, and keeps what it is given."""

    def __init__(self, num_probes: int):
        super().__init__()
        self.shift, self.num_probes, self.heard = nn.Parameter(torch.zeros(())), num_probes, []

    def forward(
        self, features: Tensor, asked: list[tuple[int, int]] | None = None, signs: Tensor | None = None
    ) -> Tensor:
        self.heard.append((features, asked, signs))
        return self.shift.expand(len(features), sum(size for _, size in asked) if asked else self.num_probes)


@pytest.fixture
def fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1)


@pytest.fixture
def make_task(small_bank: Path, fabric: Fabric) -> Callable[..., EpisodeTask]:
    def make(**settings: object) -> EpisodeTask:
        files = {f"{split}_indices_file": str(small_bank / f"{split}_indices.h5") for split in ("train", "test")}
        data = DatasetConfig(**files, video_path=str(small_bank), **settings)
        episodes = open_split(data, "train")
        return EpisodeTask(Listener(episodes.num_probes), episodes, open_split(data, "test"), fabric, CONFIG, data)

    return make


def epoch_of(task: EpisodeTask, epoch: int, first: int = 0) -> list[tuple[Tensor, ...]]:
    """Batches of an epoch from a step on, with what the model is told besides."""
    made = []
    for step, batch in enumerate(task.batches(epoch, first, lambda: False), first):
        torch.manual_seed(step)
        loss, numbers = task.loss(task.model, batch, step)
        assert numbers["count"] == batch.is_old.numel()
        assert loss.item() == pytest.approx(np.log(2))
        features, asked, signs = task.model.heard[-1]
        assert features is batch.features
        made.append((*batch, torch.tensor(asked or []), torch.zeros(0) if signs is None else signs))
    return made


@pytest.mark.parametrize("settings", [ASKING, ASKING | {"whiten": 6, "reflect_films": True}, {"fresh_episodes": True}])
@pytest.mark.parametrize("epoch", [0, 1])
def test_epoch_gone_on_with_is_the_same_to_the_last_bit(make_task: Callable, settings: dict, epoch: int):
    whole, rest = epoch_of(make_task(**settings), epoch), epoch_of(make_task(**settings), epoch, 2)
    assert len(whole) == 6
    torch.testing.assert_close(whole[2:], rest, rtol=0, atol=0)


def test_every_epoch_asks_anew_the_first_too(make_task: Callable):
    task = make_task(**ASKING)
    stored = task.train_set.index.episodes
    asked, studied = [], [stored.study.tobytes()]
    for epoch in range(3):
        epoch_of(task, epoch)
        asked.append(task.model.heard[-1][1])
        studied.append(task.train_set.episodes.study.tobytes())
    assert len({str(groups) for groups in asked}) > 1
    assert len(set(studied)) == 4
    assert all(groups == asked[0] for _, groups, _ in task.model.heard[:6])


def test_without_the_options_the_first_epoch_is_that_of_the_index_and_nothing_is_told_besides(make_task: Callable):
    task = make_task(fresh_episodes=True)
    epoch_of(task, 0)
    assert task.train_set.episodes is task.train_set.index.episodes
    assert all(told == [None, None] for _, *told in task.model.heard)


def test_answers_are_asked_for_at_the_end_and_of_films_as_they_are(make_task: Callable, fabric: Fabric):
    task = make_task(**ASKING, whiten=6, reflect_films=True)
    epoch_of(task, 0)
    task.model.heard.clear()
    for logits, is_old in answers(fabric, task.model, task.validation_set, CONFIG):
        assert logits.shape == is_old.shape == (4, 8)
    assert all(told == [None, None] for _, *told in task.model.heard)


@pytest.mark.parametrize("num_axes", [6, 7, 1])
def test_half_of_the_axes_turn_in_every_film_of_every_episode_for_itself(num_axes: int):
    torch.manual_seed(0)
    film = torch.randint(0, 5, (40, 30))
    signs = reflections(film, num_axes)
    assert (signs.shape, signs.dtype) == ((40, 30, num_axes), torch.int8)
    assert ((signs == 1) | (signs == -1)).all()
    assert ((signs < 0).sum(2) == num_axes // 2).all()
    for episode, films in zip(signs, film, strict=True):
        for number in films.unique():
            assert (episode[films == number] == episode[films == number][0]).all()
    if num_axes > 1:
        assert len({tuple(row) for row in signs[film == 3].tolist()}) > 10  # film 3 in 40 episodes
        share = (signs < 0).float()[torch.arange(40), 0].mean(0)
        assert (share - num_axes // 2 / num_axes).abs().max() < 0.3
    torch.manual_seed(0)
    assert torch.equal(reflections(torch.randint(0, 5, (40, 30)), num_axes), signs)


def test_cosines_within_a_film_stay_and_those_of_two_films_change():
    torch.manual_seed(0)
    model = build_model("transformer", CONFIGS["transformer"](d_embed=6), Layout(8, 2))
    model.whiten(torch.randn(8), torch.randn(8, 6))
    film = torch.tensor([[0, 0, 1, 1, 0, 1]])
    features = torch.randn(1, 6, 8)
    before, after = (model._prepare(features, signs)[0] for signs in (None, reflections(film, 6)))
    changes = (before @ before.T - after @ after.T).abs()
    is_same = film == film.T
    torch.testing.assert_close(changes[is_same], torch.zeros(int(is_same.sum())), rtol=0, atol=1e-6)
    assert changes[~is_same].max() > 0.1


WORDS = "model.probes_write=false", "dataset.train_probes=12", "dataset.probe_times=clip_ends"


@pytest.mark.parametrize("model", ["mlstm", "temporal_gate"])  # one layer may look ahead, as no other is above it
def test_training_that_asks_in_the_midst_of_study_and_turns_axes_is_the_same_with_threads_that_gather(
    model: str, train_here: Callable, small_bank: Path
):
    text = config_text(small_bank, model, "{d_embed: 8}", n_epochs=2)
    words = *WORDS, "dataset.whiten=6", "dataset.reflect_films=true"
    assert_same_run(train_here(*words, text=text, name="one"), train_here(*words, "training.num_workers=2", text=text))


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ("{d_embed: 8, layers: [temporal_gate, transformer]}", r"temporal_gate .* later frames \(probe_times: end\)$"),
        (
            "{d_embed: 8, layers: [transformer, lstm]}",
            r"transformer .* \(model\.args\.transformer\.causal: true, or probe_times: end\)$",
        ),
        ("{d_embed: 8, layers: [transformer, lstm], transformer: {causal: true}}", None),
        ("{d_embed: 8, layers: [lstm, temporal_gate]}", None),
    ],
)
def test_layer_that_sees_later_frames_below_another_is_refused(
    args: str, told: str | None, train_here: Callable, small_bank: Path, tmp_path: Path
):
    text = config_text(small_bank, "mixed", args, n_epochs=1)
    if not told:
        train_here(*WORDS, text=text)
        return
    with pytest.raises(InputError, match=rf"^dataset\.probe_times: clip_ends, but a layer of {told}"):
        train_here(*WORDS, text=text)
    assert not (tmp_path / "runs/run").exists()
    train_here(*WORDS, "dataset.probe_times=end", text=text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dataset.fresh_episodes=false"], "dataset.train_probes: is for new episodes every epoch"),
        (["dataset.train_probes=null", "dataset.fresh_episodes=false"], "dataset.probe_times: is for new episodes"),
        (["model.probes_write=true"], "dataset.train_probes: is for probes that do not write; set model.probes_write"),
        (["dataset.train_probes=7"], "dataset.train_probes: must be even, half of them old and half new, found 7"),
        (["dataset.reflect_films=true"], "dataset.reflect_films: turns whitened axes; set dataset.whiten to their num"),
        (["dataset.repeat_test=2"], "dataset.repeat_test: 2, but probes that do not write gain nothing by it; set it"),
        (["dataset.train_probes=900"], "dataset.train_probes: cannot draw such episodes: 3 clips have 27 frames"),
    ],
)
def test_keys_that_contradict_each_other_are_refused_before_anything_is_written(
    words: list[str], message: str, train_here: Callable, small_bank: Path, tmp_path: Path
):
    with pytest.raises(InputError) as error:
        train_here(*WORDS, *words, text=config_text(small_bank, "lstm", "{d_embed: 8}"))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "runs/run").exists()
