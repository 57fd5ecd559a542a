"""Step 3: draw the episodes of training, validation and test from the feature files.

  python generate_dataset.py                                      the published protocol: 90 clips of 10 s, 180 probes
  python generate_dataset.py --old_probes presented               old probes are frames that were themselves shown
  python generate_dataset.py --n_clips 10 --n_tests 10 --suffix _short    writes train_indices_short.h5, ...
  python generate_dataset.py --n_clips 90 10 20 40 180            test episodes of other lengths too, for capacity
  python generate_dataset.py --new_probes far=0.4,near=0.3,other_film=0.3    several kinds of new probes
  python generate_dataset.py --study_clips no_cut,cut,other_film             clips with and without cuts, a third each
  python generate_dataset.py --input_dir made-up:1072x20000 --output_dir made-up    1,072 made-up films, without files

Films are split at random: no film is in two of the three. Films from which the backbone itself has learned, as
preprocess_videos.py marks them, are for training alone: such an eye would help a memory on them. Writes
{train,validation,test}_indices<suffix>.h5, all or none of them; equal arguments on equal features give equal bytes.
Ends with an audit: what the splits share, and how near new probes come to what is studied.

Kinds of new probes: far (of a studied film, --clip_margin frames or more from any studied clip), near (outside the
clips, but nearer), same_shot (outside the clips, in the shot in which one begins or ends), other_film (of a film not
studied), mirrored, cropped and brightened (a studied frame altered; needs features by preprocess_videos.py
--alter_every). "far=3,near=1" gives shares; equal ones where none are given.

Kinds of study clips: no_cut (in one shot), cut (of one film, cut at least once), other_film (in the middle a cut to
another film, and no other); any takes clips as they come.
"""

import hashlib
from argparse import Namespace
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from recognition.common.command_line import ArgumentParser, InputError, folder_path, number_between, run, whole_number

if TYPE_CHECKING:
    import numpy as np

    from recognition.episodes.episode_spec import EpisodeSpec
    from recognition.episodes.index_file import EpisodeIndex
    from recognition.features.feature_file import FeatureHeader

SPLITS = ("train", "validation", "test")  # their places are their seeds; train.py draws fresh episodes with 3
CAPACITY = 4  # keeps the seeds of test episodes of other lengths apart from those


class File(NamedTuple):
    """An index file to be written."""

    path: Path
    split: str
    spec: "EpisodeSpec"
    num_episodes: int
    seed: tuple[int, ...]


class Films(NamedTuple):
    """The films of a split."""

    headers: "list[FeatureHeader]"
    shots: "list[np.ndarray] | None"  # first frames of the shots of each, where episodes need them


def main() -> None:
    args = parse_arguments()
    from tqdm import tqdm

    from recognition.features.made_up import is_made_up

    headers = read_bank(args.input_dir)
    if is_made_up(args.input_dir):
        print(
            f"{args.input_dir}: made-up features of films that there are not: to try and time things, not for results"
        )
    bank_digest = hashlib.sha256("\n".join(header.digest for header in headers).encode()).hexdigest()
    spec = make_spec(args, headers[0].alter_every)
    headers = with_room(headers, spec, args)
    if num_seen := sum(header.seen_by_backbone for header in headers):
        print(f"{num_seen} of {len(headers)} films are for training alone: the backbone has learned from them")
    fractions = {"test": args.test_set_fraction, "validation": args.validation_set_fraction}
    numbers = split_films(headers, fractions, args.seed)
    films = {split: films_of([headers[k] for k in numbers[split]], spec, args.input_dir) for split in SPLITS}
    files = wanted_files(args, spec)
    indices = [draw(file, films[file.split]) for file in tqdm(files, unit="file", leave=False, disable=None)]
    attributes = {"seed": args.seed, "bank_digest": bank_digest}
    attributes |= {f"{name}_set_fraction": value for name, value in fractions.items()}
    args.output_dir.mkdir(parents=True, exist_ok=True)
    write_all(files, indices, attributes)
    for file, index in zip(files, indices, strict=True):
        print(f"{file.path}: {len(index)} episodes from {len(index.video_ids)} of {len(headers)} films")
    print_audit(args.input_dir, [file.path for file in files])


def parse_arguments() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument(
        "--input_dir",
        type=folder_path,
        default=Path("video-features"),
        help="folder with the feature files, or made-up:FILMSxFRAMES",
    )
    parser.add_argument(
        "--output_dir", type=folder_path, default=Path("video-features"), help="folder for the index files"
    )
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
    parser.add_argument(
        "--n_clips",
        type=whole_number(1),
        nargs="+",
        default=[90],
        help="clips studied in an episode; further numbers give test episodes of other lengths, for capacity curves",
    )
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
    parser.add_argument("--new_probes", default="far", help="kinds of new probes and their shares, see above")
    parser.add_argument("--study_clips", default="any", help="any clips, or kinds of clips and their shares, see above")
    parser.add_argument(
        "--probe_lags",
        choices=["uniform", "balanced"],
        default="uniform",
        help="old probes come from all clips alike, or more often from late ones, so that short lags are measured as "
        "well as long ones",
    )
    parser.add_argument("--suffix", default="", help="ending of the index files' names, to keep several sets apart")
    args = parser.parse_args()
    if Path(args.suffix).name != args.suffix and args.suffix:
        parser.error(f"argument --suffix: {args.suffix!r} must not hold a folder")
    if len(set(args.n_clips)) < len(args.n_clips):
        parser.error("argument --n_clips: gives a number twice")
    for num_clips in args.n_clips:
        make_spec(args, 0, num_clips)  # before anything is read
    return args


def make_spec(args: Namespace, alter_every: int, num_clips: int | None = None) -> "EpisodeSpec":
    """What an episode consists of, with `num_clips` clips or the first of --n_clips."""
    from recognition.episodes.episode_spec import EpisodeSpec

    try:
        return EpisodeSpec(
            num_clips=num_clips or args.n_clips[0],
            clip_length=args.clip_length,
            clip_margin=args.clip_margin,
            num_tests=args.n_tests,
            subsample=args.subsample,
            old_probes=args.old_probes,
            new_probes=args.new_probes,
            probe_lags=args.probe_lags,
            alter_every=alter_every,
            study_clips=args.study_clips,
        )
    except ValueError as error:
        raise InputError(f"--{error}") from None


def read_bank(folder: Path) -> "list[FeatureHeader]":
    """The headers of the feature files of a folder, or of made-up films, by name. Raises InputError if they do not go
    together."""
    from recognition.features.feature_file import DamagedFile, feature_files, read_header
    from recognition.features.made_up import MadeUpFilms, is_made_up

    if is_made_up(folder):
        films = MadeUpFilms(folder)
        return [films.header(video_id) for video_id in films.video_ids]
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
    if len({h.alter_every for h in headers}) > 1:
        raise InputError(
            f"--input_dir {folder}: some films have more altered frames than others; "
            f"run preprocess_videos.py again, with one --alter_every for all"
        )
    return headers


def with_room(headers: "list[FeatureHeader]", spec: "EpisodeSpec", args: Namespace) -> "list[FeatureHeader]":
    """The films that are long enough. Raises InputError if all of them together cannot hold an episode."""
    import numpy as np

    from recognition.episodes.episode_spec import ALTERATIONS, TooFewFrames, check_room

    if set(ALTERATIONS) & set(spec.lures) and not spec.alter_every:
        raise InputError(
            f"--new_probes {args.new_probes}: {args.input_dir} has no features of altered frames; "
            f"make them with preprocess_videos.py --alter_every"
        )
    try:
        check_room(np.array([header.num_frames for header in headers]), spec)
    except TooFewFrames as error:
        raise InputError(f"{args.input_dir}: {error}; add films or ask for less") from None
    long_enough = [header for header in headers if header.num_frames >= spec.shortest_film]
    if num_short := len(headers) - len(long_enough):
        print(f"{num_short} of {len(headers)} films are left out: shorter than {spec.shortest_film} frames")
    return long_enough


def films_of(headers: "list[FeatureHeader]", spec: "EpisodeSpec", folder: Path) -> Films:
    """Films with all that is needed to draw such episodes from them."""
    if not spec.needs_shots:
        return Films(headers, None)
    from recognition.features.feature_bank import read_all_shots

    return Films(headers, read_all_shots(folder, [header.video_id for header in headers]))


def wanted_files(args: Namespace, spec: "EpisodeSpec") -> list[File]:
    """The index files of the splits, then those of test episodes with other numbers of clips."""
    nums = args.n_samples_train, args.n_samples_validation, args.n_samples_test
    files = [
        File(args.output_dir / f"{split}_indices{args.suffix}.h5", split, spec, num, (args.seed, k))
        for k, (split, num) in enumerate(zip(SPLITS, nums, strict=True))
    ]
    for num_clips in args.n_clips[1:]:
        path = args.output_dir / f"test_indices{args.suffix}_{num_clips}clips.h5"
        other = make_spec(args, spec.alter_every, num_clips)
        files.append(File(path, "test", other, args.n_samples_test, (args.seed, CAPACITY, num_clips)))
    return files


def draw(file: File, films: Films) -> "EpisodeIndex":
    """Draw the episodes of a file. Raises InputError if the films have no room for them."""
    import numpy as np

    from recognition.episodes.drawing import clip_kinds, draw_episodes
    from recognition.episodes.episode_spec import TooFewFrames
    from recognition.episodes.index_file import EpisodeIndex

    lengths = np.array([header.num_frames for header in films.headers])
    try:
        episodes = draw_episodes(lengths, file.spec, file.num_episodes, file.seed, films.shots)
    except TooFewFrames as error:
        raise InputError(f"{file.split} films: {error}; add films or ask for less") from None
    kinds = None
    if file.spec.clip_counts:
        assert films.shots is not None  # such a spec needs them
        kinds = clip_kinds(episodes.study, lengths, films.shots)
    ids, digests = [h.video_id for h in films.headers], [h.digest for h in films.headers]
    return EpisodeIndex(file.path, episodes, ids, lengths, file.spec, kinds, digests)


def write_all(files: "list[File]", indices: "list[EpisodeIndex]", attributes: dict[str, Any]) -> None:
    """Write all index files, or none."""
    from recognition.common.files import written_whole
    from recognition.episodes.index_file import write_index

    with ExitStack() as stack:
        for file, index in zip(files, indices, strict=True):
            part = stack.enter_context(written_whole(file.path))
            write_index(replace(index, path=part), {"split": file.split, **attributes})


def print_audit(input_dir: Path, paths: list[Path]) -> None:
    """Say what the three splits share and how near new probes come to what is studied."""
    from recognition.episodes.audit import audit, audit_lines
    from recognition.training.config import DatasetConfig
    from recognition.training.data import open_split

    config = DatasetConfig(
        train_indices_file=str(paths[0]),
        validation_indices_file=str(paths[1]),
        test_indices_file=str(paths[2]),
        video_path=str(input_dir),
        bank="mapped",
    )
    print("Audit:")
    train_set, validation_set, test_set = (open_split(config, split) for split in SPLITS)
    for line in audit_lines(audit(train_set, validation_set, test_set, input_dir)):
        print(f"  {line}")


def split_films(headers: "list[FeatureHeader]", fractions: dict[str, float], seed: int) -> "dict[str, np.ndarray]":
    """Deal films out at random: arrays of film numbers, ascending, for train, validation and test. Films from which the
    backbone has learned are for training alone."""
    import numpy as np

    num_films = len(headers)
    order = np.random.default_rng((seed, len(SPLITS))).permutation(num_films)
    is_seen = np.array([header.seen_by_backbone for header in headers])
    order = np.concatenate([order[is_seen[order]], order[~is_seen[order]]])  # those of training come first
    sizes = {split: round(fraction * num_films) for split, fraction in fractions.items()}
    sizes["train"] = num_films - sum(sizes.values())
    for split in SPLITS:
        if sizes[split] < 1:
            given = ", ".join(f"--{name}_set_fraction {value:g}" for name, value in fractions.items())
            raise InputError(
                f"no {split} films: {num_films} films with {given} leave {sizes[split]}; add films or change these"
            )
    if is_seen.sum() > sizes["train"]:
        seen = [headers[k].video_id for k in np.flatnonzero(is_seen)]
        raise InputError(
            f"{num_films - len(seen)} films are left for validation and test, {num_films - sizes['train']} are needed: "
            f"from {len(seen)} others the backbone has learned ({', '.join(seen[:3])}{', ...' * (len(seen) > 3)}); "
            f"add films that it has not seen, or lower the set fractions"
        )
    ends = np.cumsum([sizes[split] for split in SPLITS])
    return {split: np.sort(part) for split, part in zip(SPLITS, np.split(order, ends[:-1]), strict=True)}


if __name__ == "__main__":
    run(main)
