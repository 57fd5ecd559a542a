"""Backbones on small films: labels or none, gates or none, and what an eye is worth to a memory.

  python -m backbones.demo                     on two cores; everything is written below demo-run/backbones

1. Films of ten actions that one frame cannot tell are made, and of eight in pairs, each the other's reversal.
2. A network learns the ten with their labels; another one without, by predicting one clip of a film from another one
   (BYOL with a key-value memory). A third has learned nothing. On the eight actions, one learns with temporal gates and
   one without.
3. Each of the three eyes is asked what it is good for: a linear probe, retrieval, and a memory that reads films
   through it: preprocess_videos.py, generate_dataset.py and train.py, as for any backbone.

Ends with a table and the page demo-run/backbones/demo.html. What is finished is not done again; remove the folder to
start over. Two commands run side by side, each with one thread; what they print is in demo-run/backbones/logs/.
"""

import json
import os
import time
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from backbones.config import PretrainSettings
from recognition.common.command_line import ArgumentParser, folder_path, run
from recognition.common.commands import command, side_by_side

HERE = Path(os.path.relpath(Path(__file__).parents[1]))
CONFIGS = HERE / "config-files" / "backbones" / "demo"
MEMORY = HERE / "config-files" / "compare" / "novelty_filter.yaml"
NUM_TRAIN, NUM_TEST = {"ten": 500, "eight": 640}, {"ten": 300, "eight": 320}
MEMORY_FILMS, FILM_S, FPS = 24, 84, 6  # as demo.py makes them
EYES = ("random", "memory", "labels")  # names of runs
BATCHES_OF_NORMS = 20  # for the statistics of a network that has learned nothing
# An episode of the memory: ten clips of ten seconds, a window of eight frames every third of a second.
EPISODES = ("--n_clips=10", "--clip_length=30", "--clip_margin=15", "--n_tests=10", "--subsample=1")
SIZES = ("--n_samples_train=1024", "--n_samples_validation=256", "--n_samples_test=512")


def main() -> int:
    from backbones.demo_page import table, write_page

    args = parse_arguments()
    started = time.perf_counter()
    folder: Path = args.output_dir
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    make_films(folder)
    side_by_side([partial(pretrain, folder), partial(learn_with_labels, folder)])
    make_random_eye(folder)
    side_by_side([partial(ask, folder, eye) for eye in EYES])
    found = results(folder)
    write_page(folder, found)
    print("\n" + "\n".join(table(found)))
    print(f"\npage: {(folder / 'demo.html').resolve()}\n{time.perf_counter() - started:.0f} s in all")
    return 0


def make_films(folder: Path) -> None:
    """Write the films of actions and those for the memory, as far as they are not there yet."""
    from tqdm import tqdm

    from recognition.films.synthetic import write_films

    for kind in NUM_TRAIN:
        make_action_films(folder, kind)
    films = write_films(folder / "videos", MEMORY_FILMS, FILM_S, FPS)
    for _ in tqdm(films, desc="films for the memory", total=MEMORY_FILMS, unit="film"):
        pass


def make_action_films(folder: Path, kind: Any) -> None:
    """Write the films of ten, or eight, actions, as far as they are not there yet."""
    from tqdm import tqdm

    from backbones.action_films import write_action_films

    films = write_action_films(folder / kind, kind, NUM_TRAIN[kind], NUM_TEST[kind])
    for _ in tqdm(films, desc=f"{kind} actions", total=NUM_TRAIN[kind] + NUM_TEST[kind], unit="film"):
        pass


def pretrain(folder: Path) -> None:
    """Learn without labels."""
    train(folder, "backbones.pretrain", "memory", "memory")


def learn_with_labels(folder: Path) -> None:
    """Learn with labels: the ten actions, and the eight with gates and without."""
    train(folder, "backbones.classify", "labels", "labels")
    train(folder, "backbones.classify", "actions", "gates")
    train(folder, "backbones.classify", "actions", "no-gates", "network.temporal_gates=null")


def make_random_eye(folder: Path, name: str = "random", seed: int = 0) -> None:
    """Keep the weights that the seed draws as those of an eye, with the statistics that norms have of the films."""
    import torch

    from backbones.dataset import ClipDataset, Draw
    from backbones.items import open_films
    from backbones.networks import build_backbone, eye_of
    from backbones.precise_norms import measure_norms
    from recognition.features.weights_file import write_backbone
    from recognition.training.config import dump_config, load_settings

    path = folder / "runs" / name
    if (path / "weights.safetensors").exists():
        return
    config = load_settings(
        PretrainSettings, CONFIGS / "memory.yaml", [*places(folder), f"name={name}", f"training.seed={seed}"]
    )
    films = open_films(config)
    backbone, _ = build_backbone(config)
    data, size = ClipDataset(films.train, config, films.readers), config.training.batch_size
    draws = [Draw(k % len(data), 0, config.clip.frames, config.clip.side) for k in range(BATCHES_OF_NORMS * size)]
    clips = [torch.cat([data.drawn(draw) for draw in draws[k : k + size]]) for k in range(0, len(draws), size)]
    with torch.no_grad():
        measure_norms(backbone, clips)
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    write_backbone(path / "weights.safetensors", backbone.network.state_dict(), eye_of(config, films.train))


def ask(folder: Path, eye: str) -> None:
    """What an eye is good for: probe, retrieval, a memory."""
    weights, features = folder / "runs" / eye / "weights.safetensors", folder / f"features-{eye}"
    probe(folder, eye)
    paths = f"--input_dir={folder / 'videos'}", f"--output_dir={features}"
    network = "--backbone=r3d_10", f"--weights={weights}", "--window_stride=2", "--workers=1"
    command(folder, f"preprocess-{eye}", "preprocess_videos.py", *paths, *network)
    paths = f"--input_dir={features}", f"--output_dir={features}"
    command(folder, f"generate-{eye}", "generate_dataset.py", *paths, *EPISODES, *SIZES)
    files = [f"dataset.{split}_indices_file={features / f'{split}_indices.h5'}" for split in ("train", "test")]
    words = *files, f"dataset.video_path={features}", "training.n_epochs=4", "resume=auto", f"name=recall-{eye}"
    command(folder, f"recall-{eye}", "train.py", f"-f={MEMORY}", f"--runs_dir={folder / 'runs'}", *words)


def probe(folder: Path, eye: str) -> None:
    """A linear probe of an eye, and retrieval."""
    weights = folder / "runs" / eye / "weights.safetensors"
    train(folder, "backbones.classify", "probe", f"probe-{eye}", f"network.weights={weights}")
    retrieve(folder, eye)


def retrieve(folder: Path, eye: str) -> None:
    """Retrieval among the ten actions, unless it was done."""
    path = folder / "runs" / eye
    if not (path / "retrieval.json").exists():
        films = f"--list={folder / 'ten' / 'list.csv'}", f"--videos={folder / 'ten'}"
        command(folder, f"retrieve-{eye}", "backbones.retrieve", str(path), *films, "--clips=4")


def train(folder: Path, module: str, config: str, name: str, *words: str) -> None:
    """Run a training of the demo, from where it was left."""
    given = [*places(folder, config), *words, "resume=auto", f"name={name}"]
    runs = f"--runs_dir={folder / 'runs'}"
    command(folder, name, module, f"-f={CONFIGS / config}.yaml", runs, *given)


def places(folder: Path, config: str = "") -> list[str]:
    """Settings that say where the films are, and in which precision this machine computes best."""
    import torch

    from recognition.features.backbone import fast_dtype

    films = folder / ("eight" if config == "actions" else "ten")
    is_fast = fast_dtype(torch.device("cpu")) == torch.bfloat16
    return [f"data.list={films / 'list.csv'}", f"data.videos={films}"] + ["training.precision=bf16"] * is_fast


def results(folder: Path) -> dict[str, Any]:
    """The scores of all runs, by their names."""
    runs = folder / "runs"
    eyes = {
        eye: {
            "probe": read(runs / f"probe-{eye}" / "test.json"),
            "retrieval": read(runs / eye / "retrieval.json"),
            "recall": read(runs / f"recall-{eye}" / "test.json"),
        }
        for eye in EYES
    }
    trained = {name: read(runs / name / "test.json") for name in ("labels", "gates", "no-gates")}
    return {"eyes": eyes, "trained": trained}


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def parse_arguments(words: Sequence[str] | None = None) -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument(
        "--output_dir", type=folder_path, default=Path("demo-run/backbones"), help="where everything is written"
    )
    return parser.parse_args(words)


if __name__ == "__main__":
    run(main)
