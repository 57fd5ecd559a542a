"""The whole pipeline in a few minutes: small films, then steps 2 to 5 on them, with the commands a user would type.

  python demo.py                              makes 24 films of 84 s and trains a transformer
  python demo.py --model mlstm                another model: a name in config-files/demo/
  python demo.py --model lstm-easy            episodes of one short clip, for models that fail at ten
  python demo.py --videos my-films            the same on films of your own

Everything is written below demo-run/ and what is finished there is not done again; remove the folder to start over.
The features come from an untrained network, random:0, so that nothing need be downloaded: fine for a demonstration.
"""

import json
import os
import shlex
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

from recognition.command_line import ArgumentParser, InputError, nearest, run

HERE = Path(os.path.relpath(Path(__file__).parent))
NUM_FILMS, FILM_S, FPS = 24, 84, 6
# An episode is ten clips of ten seconds, of which every second frame is shown, and ten old and ten new probes: the
# published protocol made small. Films too short for it get the first smaller one that fits.
EPISODES = [(10, 60, 30), (5, 60, 30), (5, 30, 15), (3, 20, 10), (2, 10, 5)]  # clips, frames a clip, margin in frames
EASY_EPISODES = [(1, 30, 15), (1, 10, 5)]  # a clip of five seconds


def main() -> None:
    args = parse_arguments()
    folder = args.output_dir / (args.videos.resolve().name if args.videos else "synthetic")
    features, runs = folder / "video-features", folder / "runs"
    videos = args.videos or make_films(folder / "videos")
    is_easy = args.config.stem.endswith("-easy")
    suffix, times = ("_easy", 4) if is_easy else ("", 1)  # easy episodes have fewer probes, so there are more of them

    # Status 1 means that some film could not be decoded: that is told, and the others serve.
    command("preprocess_videos.py", f"--input_dir={videos}", f"--output_dir={features}", "--weights=random:0", allow=1)
    for num_clips, clip_length, margin in EASY_EPISODES if is_easy else EPISODES:
        result = command(
            "generate_dataset.py",
            *(f"--input_dir={features}", f"--output_dir={features}"),
            *(f"--n_clips={num_clips}", f"--clip_length={clip_length}", f"--clip_margin={margin}", "--subsample=2"),
            *(f"--n_tests={num_clips}", "--validation_set_fraction=0.15"),
            *(f"--n_samples_train={2048 * times}", f"--n_samples_validation={256 * times}"),
            *(f"--n_samples_test={512 * times}", f"--suffix={suffix}"),
            allow=2,
            stderr=subprocess.PIPE,
        )
        if result.returncode == 0:
            break
        print(f"{result.stderr.strip()}\nSmaller episodes may fit:")
    else:
        raise InputError(f"{videos}: too few or too short films even for the smallest episodes")
    command(
        "train.py",
        *("-f", str(args.config), "--resume", f"--runs_dir={runs}"),
        f"dataset.train_indices_file={features / f'train_indices{suffix}.h5'}",
        f"dataset.test_indices_file={features / f'test_indices{suffix}.h5'}",
        f"dataset.video_path={features}",
    )
    report = runs / args.config.stem / "report.html"
    command("evaluate.py", str(report.parent))
    scores = json.loads((report.parent / "evaluation.json").read_text())
    print(f"\ntest accuracy {scores['accuracy']:.3f}, d' {scores['d_prime']:.2f}, report: {report.resolve()}")


def parse_arguments() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="transformer", help="which of config-files/demo/ to train")
    parser.add_argument("--videos", type=Path, help="a folder with films of your own")
    parser.add_argument("--output_dir", type=Path, default=Path("demo-run"), help="where everything is written")
    args = parser.parse_args()
    configs = {path.stem: path for path in (HERE / "config-files" / "demo").glob("*.yaml")}
    if args.model not in configs:
        parser.error(f"argument --model: there is no {args.model!r}; {nearest(args.model, sorted(configs))}")
    args.config = configs[args.model]
    if args.videos and not args.videos.is_dir():
        parser.error(f"argument --videos: {args.videos}: no such folder")
    return args


def make_films(folder: Path) -> Path:
    """Write the synthetic films, those that are not there yet."""
    from tqdm import tqdm

    from recognition.films import write_films

    print(f"making {NUM_FILMS} films of {FILM_S} s in {folder}")
    for _ in tqdm(write_films(folder, NUM_FILMS, FILM_S, FPS), total=NUM_FILMS, unit="film"):
        pass
    return folder


def command(script: str, *words: str, allow: int = 0, **options) -> subprocess.CompletedProcess[str]:
    """Run a script of this project as a user would, showing the command.

    Ends the demo with the script's status, its message having been printed, if that is neither 0 nor `allow`.
    """
    print(f"\n$ python {shlex.join([script, *words])}", flush=True)
    result = subprocess.run([sys.executable, str(HERE / script), *words], text=True, **options)
    if result.returncode not in (0, allow):
        sys.exit(result.returncode)
    return result


if __name__ == "__main__":
    run(main)
