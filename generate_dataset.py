"""Step 3: draw the episodes of training, validation and test from the feature files.

  python generate_dataset.py                                      the published protocol: 90 clips of 10 s, 180 probes
  python generate_dataset.py --old_probes presented               old probes are frames that were themselves shown
  python generate_dataset.py --n_clips 10 --n_tests 10 --suffix _short    writes train_indices_short.h5, ...

Films are split at random: no film is in two of the three. Writes {train,validation,test}_indices<suffix>.h5, all or
none of them; equal arguments on equal features give equal bytes.
"""

import hashlib
from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path

from recognition.command_line import ArgumentParser, InputError, number_between, run, whole_number

SPLITS = ("train", "validation", "test")


def main() -> None:
    args = parse_arguments()
    from tqdm import tqdm

    from recognition.episodes import EpisodeSpec, TooFewFrames, check_room, draw_episodes
    from recognition.files import written_whole
    from recognition.index_file import write_index

    spec = EpisodeSpec(args.n_clips, args.clip_length, args.clip_margin, args.n_tests, args.subsample, args.old_probes)
    video_ids, num_frames, bank_digest = read_bank(args.input_dir)
    try:
        check_room(num_frames, spec)
    except TooFewFrames as error:
        raise InputError(f"{args.input_dir}: {error}; add films or ask for less") from None
    if num_short := int((num_frames < spec.shortest_film).sum()):
        print(f"{num_short} of {len(video_ids)} films are left out: shorter than {spec.shortest_film} frames")
        video_ids = [v for v, length in zip(video_ids, num_frames, strict=True) if length >= spec.shortest_film]
        num_frames = num_frames[num_frames >= spec.shortest_film]
    fractions = {"test": args.test_set_fraction, "validation": args.validation_set_fraction}
    films = split_films(len(video_ids), fractions, args.seed)
    num_samples = {"train": args.n_samples_train, "validation": args.n_samples_validation, "test": args.n_samples_test}

    drawn = {}
    for number, split in enumerate(tqdm(SPLITS, unit="split", leave=False, disable=None)):
        try:
            drawn[split] = draw_episodes(num_frames[films[split]], spec, num_samples[split], (args.seed, number))
        except TooFewFrames as error:
            raise InputError(f"{split} films: {error}; add films or ask for less") from None

    args.output_dir.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        for split, episodes in drawn.items():
            part = stack.enter_context(written_whole(args.output_dir / f"{split}_indices{args.suffix}.h5"))
            ids, lengths = [video_ids[k] for k in films[split]], num_frames[films[split]]
            attributes = {"split": split, "seed": args.seed, "bank_digest": bank_digest}
            attributes |= {f"{name}_set_fraction": value for name, value in fractions.items()}
            write_index(part, episodes, ids, lengths, spec, attributes)
    for split in SPLITS:
        path = args.output_dir / f"{split}_indices{args.suffix}.h5"
        print(f"{path}: {num_samples[split]} episodes from {len(films[split])} of {len(video_ids)} films")


def parse_arguments() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--input_dir", type=Path, default=Path("video-features"), help="folder with the feature files")
    parser.add_argument("--output_dir", type=Path, default=Path("video-features"), help="folder for the index files")
    parser.add_argument("--n_samples_train", type=whole_number(1), default=16384, help="episodes to train on")
    parser.add_argument(
        "--n_samples_validation", type=whole_number(1), default=1024, help="episodes to choose weights by"
    )
    parser.add_argument("--n_samples_test", type=whole_number(1), default=4096, help="episodes to test on")
    parser.add_argument(
        "--test_set_fraction", type=number_between(0, 1), default=0.25, help="share of films for testing"
    )
    parser.add_argument(
        "--validation_set_fraction", type=number_between(0, 1), default=0.1, help="share of films for validation"
    )
    parser.add_argument("--seed", type=whole_number(), default=0, help="seed of the split and of all draws")
    parser.add_argument("--n_clips", type=whole_number(1), default=90, help="clips studied in an episode")
    parser.add_argument(
        "--clip_length", type=whole_number(1), default=300, help="frames from a clip's start to its end"
    )
    parser.add_argument(
        "--clip_margin", type=whole_number(), default=150, help="frames between a new probe and any studied clip"
    )
    parser.add_argument("--n_tests", type=whole_number(1), default=90, help="old probes, and as many new ones")
    parser.add_argument("--subsample", type=whole_number(1), default=3, help="of a clip, show every k-th frame")
    parser.add_argument(
        "--old_probes",
        choices=["any", "presented"],
        default="any",
        help="old probes are any frames of a studied clip, or only those that were shown",
    )
    parser.add_argument("--suffix", default="", help="ending of the index files' names, to keep several sets apart")
    args = parser.parse_args()
    if Path(args.suffix).name != args.suffix and args.suffix:
        parser.error(f"argument --suffix: {args.suffix!r} must not hold a folder")
    return args


def read_bank(folder: Path):
    """List the films of a folder of features: their ids, numbers of frames (V,) and the digest of the whole bank."""
    import numpy as np

    from recognition.feature_file import DamagedFile, feature_files, read_header

    if not folder.is_dir():
        raise InputError(f"--input_dir {folder}: no such folder; make features with preprocess_videos.py")
    paths = feature_files(folder)
    try:
        headers = [read_header(path) for path in paths]
    except DamagedFile as error:
        raise InputError(f"{error}; run preprocess_videos.py again") from None
    if not headers:
        raise InputError(f"--input_dir {folder}: holds no feature file; make some with preprocess_videos.py")
    for path, header in zip(paths, headers, strict=True):  # a film under two names would be in two splits
        if header.video_id != path.stem:
            raise InputError(f"{path}: holds the film {header.video_id!r}; a feature file must be named after its film")
    if len({(h.backbone, h.weights_sha256) for h in headers}) > 1:
        raise InputError(
            f"--input_dir {folder}: holds features of several backbones or weights; keep one kind in a folder"
        )
    digest = hashlib.sha256("\n".join(map(repr, headers)).encode()).hexdigest()
    return [h.video_id for h in headers], np.array([h.num_frames for h in headers]), digest


def split_films(num_films: int, fractions: dict[str, float], seed: int) -> dict:
    """Deal films out at random: arrays of film numbers, ascending, for train, validation and test."""
    import numpy as np

    order = np.random.default_rng((seed, len(SPLITS))).permutation(num_films)
    sizes = {split: round(fraction * num_films) for split, fraction in fractions.items()}
    sizes["train"] = num_films - sum(sizes.values())
    for split in SPLITS:
        if sizes[split] < 1:
            given = ", ".join(f"--{name}_set_fraction {value:g}" for name, value in fractions.items())
            raise InputError(
                f"no {split} films: {num_films} films with {given} leave {sizes[split]}; add films or change these"
            )
    ends = np.cumsum([sizes[split] for split in SPLITS])
    return {split: np.sort(part) for split, part in zip(SPLITS, np.split(order, ends[:-1]), strict=True)}


if __name__ == "__main__":
    run(main)
