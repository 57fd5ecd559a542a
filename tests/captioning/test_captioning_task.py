"""Captions as a task of the loop: the batches, what their loss is, how captions are shared out, and the rates."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from caption_room import CONFIG, make_room
from language_folder import folder as language_folder
from lightning_fabric import Fabric

from captioning import captioning_task
from captioning.captioning_task import CaptioningTask, write_captions
from captioning.config import CaptionSettings
from captioning.language import load_language
from captioning.session import first_captioner, open_sets
from recognition.common.command_line import InputError
from recognition.training.config import load_settings
from recognition.training.loop import Loop

FABRIC = Fabric(accelerator="cpu", devices=1)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_room(tmp_path_factory.mktemp("room"))
    (folder / "run.yaml").write_text(
        CONFIG.replace("captions.csv", f"{folder}/captions.csv").replace(
            "video_path: features", f"video_path: {folder}/features"
        )
    )
    return folder


def make(room: Path, *words: str, fabric: object = FABRIC) -> CaptioningTask:
    config = load_settings(CaptionSettings, room / "run.yaml", words)
    sets = open_sets(config)
    model = first_captioner(config, sets.train, load_language(str(language_folder())))
    return CaptioningTask(model, sets.train, sets.validation, fabric, config)


def one_of_two(rank: int, mean: object = None) -> SimpleNamespace:
    """What a task asks of Fabric in one of two processes; `mean` is what they reduce to."""
    return SimpleNamespace(
        global_rank=rank, world_size=2, strategy=FABRIC.strategy, all_reduce=lambda x, reduce_op: mean
    )


def same(batch: tuple, other: tuple) -> bool:
    return all(map(torch.equal, batch, other))


def test_batches_depend_on_seed_and_step_alone(room: Path):
    whole = list(make(room).batches(1, 0, lambda: False))
    assert len(whole) == 3
    rest = list(make(room, "training.num_workers=0").batches(1, 2, lambda: False))
    assert len(rest) == 1
    assert same(whole[2], rest[0])
    assert not same(whole[0], next(iter(make(room).batches(2, 0, lambda: False))))
    assert not same(whole[0], next(iter(make(room, "training.seed=1").batches(1, 0, lambda: False))))
    assert not same(whole[0], next(iter(make(room, "data.jitter=false").batches(1, 0, lambda: False))))


def test_batch_says_of_which_film_and_clip_each_caption_is(room: Path):
    task = make(room)
    batch = task.batch(task.train_set, [2, 0], None)
    assert batch.of.tolist() == [[0, 0], [0, 1], [0, 2], [0, 3], [1, 0], [1, 1]]
    assert batch.has_clip.sum(1).tolist() == [4, 2]
    language = task.captioner.language
    texts = [language.tokenizer.decode(ids[:n]) for ids, n in zip(batch.ids, batch.lengths.tolist(), strict=True)]
    assert [text.replace(" .", ".") for text in texts] == [c.caption for k in (2, 0) for c in task.train_set.clips[k]]


def test_processes_share_the_films_of_a_step_and_its_tokens_weigh_alike(room: Path):
    task = make(room, "data.jitter=false")
    whole = next(iter(task.batches(0, 0, lambda: False)))
    parts, totals = [], []
    for rank in range(2):
        one = make(room, "data.jitter=false", fabric=one_of_two(rank))
        parts.append(next(iter(one.batches(0, 0, lambda: False))))
    assert sum(len(part.ids) for part in parts) == len(whole.ids)
    mean_tokens = sum(part.lengths.sum() for part in parts) / 2
    for part in parts:
        loss, _ = make(room, fabric=one_of_two(0, mean_tokens)).loss(task.captioner.eval(), part, 0)
        totals.append(loss)
    torch.testing.assert_close(sum(totals) / 2, task.loss(task.captioner, whole, 0)[0], rtol=1e-5, atol=1e-6)


def test_more_processes_than_films_in_a_step_are_refused(room: Path):
    with pytest.raises(InputError, match=r"training.num_devices: a step has 2 films to share among 3 processes"):
        make(room, fabric=SimpleNamespace(global_rank=0, world_size=3))


def test_captions_are_those_of_the_films_in_order_whatever_the_size_of_batches(room: Path):
    task = make(room)
    captions = write_captions(FABRIC, task.captioner, task.validation_set, task.config)
    assert list(map(len, captions)) == [2, 3]
    one = task.config.model_copy(update={"training": task.config.training.model_copy(update={"batch_size": 1})})
    assert write_captions(FABRIC, task.captioner, task.validation_set, one) == captions


def test_memory_of_another_film_that_is_the_same_changes_nothing(room: Path, monkeypatch: pytest.MonkeyPatch):
    task = make(room)
    batches = captioning_task._films
    monkeypatch.setattr(
        captioning_task, "_films", lambda fabric, data, numbers: batches(fabric, data, [1] * len(numbers))
    )
    own = write_captions(FABRIC, task.captioner, task.validation_set, task.config)
    assert write_captions(FABRIC, task.captioner, task.validation_set, task.config, of_other_memory=True) == own


def test_validation_is_greedy_and_better_captions_are_chosen(room: Path):
    task = make(room, "generation.top_p=1.0")
    found, again = (task.validate(task.model, 0) for _ in range(2))
    assert found == again
    assert found.scores.keys() == {"loss", "bleu_4", "rouge_l", "cider_d"}
    assert found.merit == [found.scores["cider_d"], -found.scores["loss"]]
    by_loss = make(room, "training.best_by=loss")
    assert by_loss.validate(by_loss.model, 0).merit == [-found.scores["loss"]]


def test_loop_makes_captions_likelier_and_leaves_a_frozen_language_model_as_it_was(room: Path):
    words = ("language_model.path=frozen", "language_model.train=mapper", "training.best_by=loss")
    task = make(room, *words, "training.n_epochs=8")
    before = {name: weight.clone() for name, weight in task.captioner.language.model.state_dict().items()}
    told: list[dict] = []
    Loop(task, FABRIC, task.config.training, show_bar=False).fit(told.append)
    assert told[-1]["train_loss"] < told[0]["train_loss"]
    for name, weight in task.captioner.language.model.state_dict().items():
        assert torch.equal(weight, before[name])
    assert all(p.grad is None for p in task.captioner.language.model.parameters())


@pytest.mark.parametrize(
    ("schedule", "rates"), [("constant", [0.5, 1, 1, 1, 1, 1]), ("cosine", [0.5, 1, 1, 0.8535534, 0.5, 0.1464466])]
)
def test_rate_rises_over_a_share_of_the_steps(room: Path, schedule: str, rates: list[float]):
    words = "training.learning_rate=1", f"training.schedule={schedule}"
    task, without = (make(room, *words, f"training.warmup={share}") for share in (1 / 3, 0))
    assert [task.learning_rate(step, 6) for step in range(6)] == pytest.approx(rates)
    assert without.learning_rate(0, 6) == 1
