"""The whole pipeline in a few minutes: small films, then steps 2 to 5 on them, with the commands a user would type.

Ends with a table of scores and the paths of what there is to look at: a report of each run, a comparison of them, and
a video of what the model saw and answered.

  python demo.py                              makes 24 films of 84 s and trains a transformer, with two seeds
  python demo.py --model mlstm                another model: a name in config-files/demo/
  python demo.py --model lstm-easy            episodes of one short clip, for models that fail at ten
  python demo.py --model lstm --seeds 1       with one seed, in half of the training time
  python demo.py --videos my-films            the same on films of your own
  python demo.py --configs config-files/compare --seeds 3     all models, with the same budget, and their comparison

Everything is written below demo-run/ and what is finished there is not done again; remove the folder to start over.
The features come from an untrained network, random:0, so that nothing need be downloaded: fine for a demonstration.
"""

import itertools
import json
import os
import shlex
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from recognition.common.command_line import (
    ArgumentParser,
    InputError,
    folder_path,
    nearest,
    own_file,
    run,
    whole_number,
)

HERE = Path(os.path.relpath(Path(__file__).parent))
NUM_FILMS, FILM_S, FPS = 24, 84, 6
ALTER_EVERY = 20  # of so many frames one is altered too, for probes that look nearly old
# An episode is ten clips of ten seconds, of which every second frame is shown, and ten old and ten new probes: the
# published protocol made small. Films too short for it get the first smaller one that fits. Further numbers of clips
# are for the capacity curve. Clips, frames a clip, margin in frames:
EPISODES = [
    ((10, 5, 20), 60, 30),
    ((5, 2, 10), 60, 30),
    ((5, 2, 10), 30, 15),
    ((3, 1, 6), 20, 10),
    ((2, 1), 10, 5),
]
EASY_EPISODES = [((1, 2, 4), 30, 15), ((1, 2), 10, 5)]  # a clip of five seconds
# Episodes that are only tested on, by name: new probes of every kind; clips short enough to lie between two cuts.
FURTHER = {
    "lures": ("--n_clips=3", "--n_tests=14", "--new_probes=far,near,same_shot,other_film,mirrored,cropped,brightened"),
    "cuts": ("--n_clips=12", "--n_tests=12", "--study_clips=no_cut,cut,other_film"),
}


def main() -> None:
    args = parse_arguments()
    folder = args.output_dir / (args.videos.resolve().name if args.videos else "synthetic")
    features, runs = folder / "video-features", folder / args.runs
    videos = args.videos or make_films(folder / "videos")
    is_easy = args.configs[0].stem.endswith("-easy")
    suffix, times = ("_easy", 4) if is_easy else ("", 1)  # easy episodes have fewer probes, so there are more of them

    # Status 1 means that some film could not be decoded: that is told, and the others serve.
    command(
        "preprocess_videos.py",
        *(f"--input_dir={videos}", f"--output_dir={features}", "--weights=random:0", f"--alter_every={ALTER_EVERY}"),
        allow=1,
    )
    for num_clips, clip_length, margin in EASY_EPISODES if is_easy else EPISODES:
        is_drawn = draw(
            features,
            *("--n_clips", *map(str, num_clips), f"--clip_length={clip_length}", f"--clip_margin={margin}"),
            *(f"--n_tests={num_clips[0]}", f"--n_samples_train={2048 * times}"),
            *(f"--n_samples_validation={256 * times}", f"--n_samples_test={512 * times}", f"--suffix={suffix}"),
        )
        if is_drawn:
            break
        print("Smaller episodes may fit:")
    else:
        raise InputError(f"{videos}: too few or too short films even for the smallest episodes")
    further = draw_further(features, suffix, clip_length, margin)
    trained = []
    for seed, config in itertools.product(range(args.seeds), args.configs):
        name = f"{config.stem}{f'-seed{seed}' if seed else ''}"
        trained.append(runs / name)
        command(
            "train.py",
            *("-f", str(config), "--resume", f"--runs_dir={runs}", f"name={name}"),
            f"training.seed={seed}",
            f"dataset.train_indices_file={features / f'train_indices{suffix}.h5'}",
            f"dataset.test_indices_file={features / f'test_indices{suffix}.h5'}",
            f"dataset.video_path={features}",
            # Smaller episodes have room for fewer probes, in training too.
            *([f"dataset.train_probes={6 * num_clips[0]}"] if asks_more(config) else []),
        )
    episodes = ("--episodes", *map(str, further)) if further else ()
    command("evaluate.py", *map(str, trained), "--audit", f"--videos={videos}", *episodes)
    index, episode = features / f"test_indices{suffix}.h5", folder / "episode.mp4"
    command("recognition.render", *(str(index), f"--run={trained[0]}", f"--videos={videos}", f"--output={episode}"))
    experiment = export(index, videos, folder / "experiment")
    print("\n" + "\n".join(summary(trained, episode)))
    if experiment:
        print(f"{'the same episode for people':33}   {(experiment / 'index.html').resolve()}")


def export(index: Path, videos: Path, experiment: Path) -> Path | None:
    """Export the first test episode for people, unless that is done; None, and a line, where jsPsych cannot be had."""
    from recognition.people.jspsych import can_install

    if not experiment.is_dir():
        if not can_install():
            print("\nNo experiment for people is exported: npm, which installs jsPsych, is not on this machine.")
            return None
        words = "export", str(index), f"--videos={videos}", f"--output={experiment}", "--size=480x270"
        if command("recognition.participants", *words, allow=1).returncode:  # npm may find no way to its registry
            return None
    return experiment


def summary(runs: list[Path], episode: Path) -> list[str]:
    """What the demo ends with: a line with the scores of each run, and where the pictures are."""
    width = max(len(path.name) for path in runs)
    evaluations = [json.loads((path / "evaluation.json").read_text()) for path in runs]
    is_calibrated = any(scores["calibrated"] for scores in evaluations)
    head = "calibrated   " if is_calibrated else ""
    lines = [f"{'run':{width}}   test accuracy          {head}d'     nearest frame (control)"]
    for path, scores in zip(runs, evaluations, strict=True):
        accuracy = f"{scores['accuracy']:.3f}"
        if ends := scores["accuracy_interval"]:
            accuracy += " [{:.3f}, {:.3f}]".format(*ends)
        calibrated = f"{scores['calibrated']['accuracy']:.3f}" if scores["calibrated"] else ""
        accuracy = f"{accuracy:20}   {calibrated:10}" if is_calibrated else accuracy
        control = scores["controls"]["nearest_frame"]["accuracy"]
        lines.append(f"{path.name:{width}}   {accuracy:20}   {scores['d_prime']:<4.2f}   {control:.3f}")
    places = [("report, with figures and pictures", path / "report.html") for path in runs]
    if len(runs) > 1:
        places.append(("comparison of the runs", runs[0].parent / "comparison.html"))
    places.append(("video of an episode, with answers", episode))
    return [*lines, "", *(f"{what:33}   {path.resolve()}" for what, path in places)]


def parse_arguments() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="transformer", help="which of config-files/demo/ to train")
    parser.add_argument("--configs", type=own_file, help="a folder of YAML files to train instead, every one of them")
    parser.add_argument(
        "--seeds", type=whole_number(1), default=2, help="train so many runs, each from a seed of its own"
    )
    parser.add_argument("--videos", type=folder_path, help="a folder with films of your own")
    parser.add_argument("--output_dir", type=folder_path, default=Path("demo-run"), help="where everything is written")
    args = parser.parse_args()
    configs = {path.stem: path for path in (HERE / "config-files" / "demo").glob("*.yaml")}
    if args.model not in configs:
        parser.error(f"argument --model: there is no {args.model!r}; {nearest(args.model, sorted(configs))}")
    args.runs = args.configs.name if args.configs else "runs"
    args.configs = sorted(args.configs.glob("*.yaml")) if args.configs else [configs[args.model]]
    if not args.configs:
        parser.error("argument --configs: no YAML file in this folder")
    if args.videos and not args.videos.is_dir():
        parser.error(f"argument --videos: {args.videos}: no such folder")
    return args


def make_films(folder: Path) -> Path:
    """Write the synthetic films, those that are not there yet."""
    from tqdm import tqdm

    from recognition.films.synthetic import write_films

    print(f"making {NUM_FILMS} films of {FILM_S} s in {folder}")
    for _ in tqdm(write_films(folder, NUM_FILMS, FILM_S, FPS), total=NUM_FILMS, unit="film"):
        pass
    return folder


def asks_more(config: Path) -> bool:
    """Whether training episodes are to ask more probes than the others."""
    from recognition.training.config import read_yaml

    return bool(read_yaml(config).get("dataset", {}).get("train_probes"))


def draw_further(features: Path, suffix: str, clip_length: int, margin: int) -> list[Path]:
    """Draw the episodes that are only tested on; returns the files of those that the films hold."""
    files = []
    for name, kinds in FURTHER.items():
        length = clip_length // 8 * 4 if name == "cuts" else clip_length
        lengths = f"--clip_length={length}", f"--clip_margin={margin}"
        # The same films are for testing; generate_dataset.py also wants some episodes to train and validate on.
        sizes = "--n_samples_train=1", "--n_samples_validation=1", "--n_samples_test=256"
        if draw(features, *kinds, *lengths, *sizes, f"--suffix={suffix}_{name}"):
            files.append(features / f"test_indices{suffix}_{name}.h5")
        else:
            print("The films do not hold such episodes, so they are left out.")
    return files


def draw(features: Path, *words: str) -> bool:
    """Draw episodes from the films; if they do not hold such, say so and return False."""
    folders = f"--input_dir={features}", f"--output_dir={features}"
    same = "--subsample=2", "--validation_set_fraction=0.15"
    result = command("generate_dataset.py", *folders, *same, *words, allow=2, stderr=subprocess.PIPE)
    if result.returncode:
        print(result.stderr.strip())
    return result.returncode == 0


def command(script: str, *words: str, allow: int = 0, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a script of this project as a user would, showing the command.

    Ends the demo with the script's status, its message having been printed, if that is neither 0 nor `allow`.
    """
    is_script = script.endswith(".py")
    print(f"\n$ python {shlex.join([*([] if is_script else ['-m']), script, *words])}", flush=True)
    started = [str(HERE / script)] if is_script else ["-m", script]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}
    result = subprocess.run([sys.executable, *started, *words], env=environment, text=True, **options)
    if result.returncode not in (0, allow):
        sys.exit(result.returncode)
    return result


if __name__ == "__main__":
    run(main)
