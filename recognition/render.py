"""See the task: one episode as a video, the clips in order, then every probe for a second.

  python -m recognition.render video-features/test_indices.h5 --episode 0 --output episode.mp4
  python -m recognition.render video-features/test_indices.h5 --episode 0 --run runs/transformer

Words below the picture number the clips and the probes and say of what kind each probe is. With --run, each probe
carries the model's answer and whether it is right; evaluate.py must have scored the run on this index. Films are
looked for in --videos by the names of their feature files. Whole frames are shown; networks see their middle square.
"""

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from recognition.common.command_line import ArgumentParser, InputError, as_folder, folder_path, run, whole_number

if TYPE_CHECKING:
    import numpy as np

    from recognition.episodes.index_file import EpisodeIndex


def main() -> None:
    args = parse_arguments()
    from tqdm import tqdm

    from recognition.common.files import written_whole
    from recognition.episodes.drawing import study_frames
    from recognition.episodes.index_file import read_index
    from recognition.episodes.rendering import PROBE_RATE, PROBE_S, Films, render, write_video

    index = read_index(args.index)
    if args.episode >= len(index):
        raise InputError(f"--episode {args.episode}: {args.index} has {len(index)} episodes, counted from 0")
    subsample = args.subsample or (index.spec.subsample if index.spec else None)
    if subsample is None:
        raise InputError(f"--subsample: must be given, {args.index} does not say it")
    answers = read_answers(args.run, index)[args.episode] if args.run else None
    films = Films(index.video_ids, args.features or args.index.parent, args.videos)
    study, probes = index.episodes.study[args.episode], index.episodes.probes[args.episode]
    pictures = render(index, args.episode, subsample, films, answers)
    num_pictures = len(study_frames(study, subsample)) + len(probes) * PROBE_S * PROBE_RATE
    output = args.output or Path(f"episode_{args.episode}.mp4")
    output.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(output) as part:
        duration_s = write_video(part, tqdm(pictures, total=num_pictures, unit="picture", leave=False))
    print(f"{output}: {duration_s:.0f} s, {len(study_frames(study, subsample))} study frames and {len(probes)} probes")


def parse_arguments() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("index", type=Path, help="an index file, such as video-features/test_indices.h5")
    parser.add_argument("--episode", type=whole_number(), default=0, help="which episode, counted from 0")
    parser.add_argument("--videos", type=folder_path, default=Path("videos"), help="folder with the films")
    parser.add_argument(
        "--features", type=folder_path, help="folder with the feature files; that of the index if not given"
    )
    parser.add_argument(
        "--subsample", type=whole_number(1), help="show every k-th frame; if not given, as the index says"
    )
    parser.add_argument("--run", type=Path, help="folder of a run whose answers are shown")
    parser.add_argument("--output", type=Path, help="the video to write, .mp4; episode_<number>.mp4 if not given")
    args = parser.parse_args()
    if args.output and (args.output.suffix.lower() != ".mp4" or args.output.is_dir()):
        parser.error(f"argument --output: {args.output} must end in .mp4, and be no folder")
    as_folder((args.output or Path()).parent)
    return args


def read_answers(path: Path, index: "EpisodeIndex") -> "np.ndarray":
    """A run's graded answers (N, P) to the episodes of an index. Raises InputError if it was scored on others."""
    import numpy as np

    from recognition.common.files import sha256
    from recognition.episodes.index_file import read_index
    from recognition.training.config import load_config
    from recognition.training.runs import Run

    run = Run(path)
    if not run.config_file.is_file():
        raise InputError(f"--run {path}: not a run (no config.yaml there); train one with train.py")
    answers = run.read_answers()
    scored = Path(load_config(run.config_file).dataset.test_indices_file)
    is_same = run.read_evaluation().get("sha256", {}).get("test") == sha256(index.path)
    if not is_same and scored.is_file():  # the same episodes may stand in two files
        is_same = all(map(np.array_equal, read_index(scored).episodes, index.episodes))
    if not is_same or answers.shape != index.episodes.is_old.shape:
        raise InputError(f"--run {path}: was scored on {scored}, whose episodes are not those of {index.path}")
    return answers


if __name__ == "__main__":
    run(main)
