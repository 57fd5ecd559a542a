"""Write episodes of an index file as an experiment that runs in a browser.

  python -m recognition.participants export video-features/test_indices.h5 --episodes 0-3 --output experiment
  python -m recognition.participants export video-features/test_indices.h5 --frames studied --order_task 30
  python -m recognition.participants export video-features/test_indices.h5 --jspsych jspsych/   where npm is not

The folder can be opened as it is, given to `participants serve`, or put on any web server or into JATOS. Nothing in it
tells old pictures from new ones: the key, experiment.key.json, is written beside it, and `participants read` needs it.
Practice is taken from an episode that is not exported. Copyright of the films and the approval of an ethics committee
are yours to see to. jsPsych is installed by npm into a cache folder, once, or taken from the folder of --jspsych.
"""

import re
import sys
import time
from argparse import ArgumentTypeError, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from recognition.common.command_line import (
    ArgumentParser,
    InputError,
    as_folder,
    folder_path,
    number_between,
    whole_number,
)

if TYPE_CHECKING:
    from recognition.episodes.index_file import EpisodeIndex
    from recognition.people.experiment import Planned, Planner

TIMES = (  # options in seconds
    ("cross_s", 1.0, "cross before a clip"),
    ("probe_cross_s", 0.5, "cross before a picture"),
    ("picture_s", 1.5, "a picture is shown"),
    ("pair_s", 2.0, "a pair of pictures is shown"),
    ("answer_s", 10.0, "to answer, from the picture's onset"),
    ("check_s", 5.0, "to press the key of a check"),
)


def add_arguments(parser: ArgumentParser) -> None:
    """The arguments of `participants export`."""
    parser.add_argument("index", type=Path, help="an index file, such as video-features/test_indices.h5")
    parser.add_argument("--episodes", type=episode_numbers, default="0", help="which episodes, such as 0-3 or 0,5")
    parser.add_argument("--output", type=Path, default=Path("experiment"), help="the folder to write")
    parser.add_argument("--videos", type=folder_path, default=Path("videos"), help="folder with the films")
    parser.add_argument(
        "--features", type=folder_path, help="folder with the feature files; that of the index if not given"
    )
    parser.add_argument(
        "--jspsych", type=Path, metavar="FOLDER", help="a node_modules, or an unpacked release of jsPsych 8"
    )
    parser.add_argument(
        "--frames", choices=["all", "studied"], default="all", help="clips at the films' pace, or models' frames alone"
    )
    parser.add_argument(
        "--subsample", type=whole_number(1), help="studied is every k-th frame; if not given, as the index says"
    )
    parser.add_argument("--probe_format", choices=["jpg", "png"], default="jpg", help="of pictures")
    parser.add_argument("--size", type=even_size, default="640x360", help="width and height of clips and pictures")
    parser.add_argument(
        "--order_task", type=whole_number(), default=0, metavar="N", help="ask which came first, N times"
    )
    parser.add_argument(
        "--orders", type=whole_number(1, 100), default=1, help="ask probes in so many orders, one a session"
    )
    parser.add_argument("--questions", type=Path, metavar="CSV", help="of episode, after_clip, text, answer (a key)")
    parser.add_argument("--no_checks", action="store_true", help="leave out the attention checks")
    parser.add_argument("--no_practice", action="store_true", help="leave out the practice")
    parser.add_argument("--text", type=Path, metavar="FILE", help="JSON with your own words for the page")
    parser.add_argument("--consent", type=Path, metavar="FILE", help="text to agree to before anything else")
    parser.add_argument("--input", choices=["keys", "buttons"], default="keys", help="buttons are for tablets")
    parser.add_argument(
        "--scale", choices=["drawn", "old_first", "new_first"], default="drawn", help="what the key 1 means"
    )
    for name, default, text in TIMES:
        parser.add_argument(
            f"--{name}", type=number_between(0.1, 600), default=default, metavar="S", help=f"seconds: {text}"
        )
    parser.add_argument(
        "--break_every", type=whole_number(1), default=30, metavar="N", help="clips from pause to pause"
    )
    parser.add_argument("--save", type=address, metavar="URL", help="where answers are posted; our server needs none")
    parser.add_argument("--end_url", type=address, metavar="URL", help="where people are led to at the end")
    parser.add_argument("--seed", type=whole_number(), default=0, help="of the checks and orders")
    parser.add_argument("--workers", type=whole_number(), help="processes that encode; as many as there are cores")


def main(args: Namespace) -> None:
    """Export."""
    from recognition.common.files import is_there
    from recognition.episodes.index_file import read_index
    from recognition.episodes.rendering import Films
    from recognition.people.experiment import Planner
    from recognition.people.experiment_files import key_file_of, write_experiment
    from recognition.people.words import read_words

    began = time.perf_counter()
    key_file = key_file_of(args.output)
    as_folder(args.output.parent)
    for path in (args.output, key_file):
        if is_there(path):
            raise InputError(f"{path} is there; name another --output, or remove it if nobody's answers need it")
    index = read_index(args.index)
    if max(args.episodes) >= len(index):
        raise InputError(
            f"--episodes {max(args.episodes)}: {args.index} has {counted(len(index), 'episode')}, counted from 0"
        )
    words = read_words(args.text, args.consent)
    subsample = args.subsample or (index.spec.subsample if index.spec else None)
    if subsample is None:
        raise InputError(f"--subsample: must be given, {args.index} does not say it")
    args.subsample = subsample
    films = Films(index.video_ids, args.features or args.index.parent, args.videos)
    planner = Planner(index, films, subsample if args.frames == "studied" else 1, args.probe_format)
    planned = plan(planner, index, args)
    tell_colours(planned, films)
    tell_unseen(planned, subsample if args.frames == "studied" else 1)
    write_experiment(planned, films, words, args)
    size = sum(path.stat().st_size for path in args.output.rglob("*") if path.is_file())
    clips, probes = (sum(len(one.episode[name]) for one in planned.values()) for name in ("clips", "probes"))
    print(
        f"{args.output}: {counted(len(args.episodes), 'episode')}{' and practice' if 'practice' in planned else ''} "
        f"({counted(clips, 'clip')}, {counted(probes, 'picture')}), {size / 1e6:.0f} MB, "
        f"in {time.perf_counter() - began:.0f} s"
    )
    print(f"{key_file}: the key to its answers; keep it where no participant can read it")


def plan(planner: "Planner", index: "EpisodeIndex", args: Namespace) -> dict[str, "Planned"]:
    """All episodes by name, the practice among them unless it is left out."""
    import numpy as np

    from recognition.people.experiment import draw_checks
    from recognition.people.questions import read_questions

    planned = {}
    if not args.no_practice:
        number, clips, probes = planner.practice(args.episodes)
        planned["practice"] = planner.episode(number, "practice", clips, probes)
    pairs = draw_all_pairs(index, args) if args.order_task else None
    for number in args.episodes:
        planned[str(number)] = one = planner.episode(number, str(number))
        if not args.no_checks:
            rng = np.random.default_rng((args.seed, number))
            one.episode["checks"] = draw_checks(len(one.episode["clips"]), rng)
        if pairs is not None:
            planner.add_pairs(one, number, str(number), pairs)
    if args.questions:
        num_clips = {str(number): len(planned[str(number)].episode["clips"]) for number in args.episodes}
        for name, questions in read_questions(args.questions, num_clips).items():
            planned[name].episode["questions"] = questions
    return planned


def draw_all_pairs(index: "EpisodeIndex", args: Namespace) -> Any:
    """Pairs of all episodes up to the last exported one, those that models are asked about."""
    from typing import cast

    import numpy as np

    from recognition.episodes.dataset import EpisodeDataset
    from recognition.features.feature_bank import FeatureBank
    from recognition.people.order import PAIRS_SEED, draw_pairs

    dataset = EpisodeDataset(index, cast(FeatureBank, None), args.subsample)  # features are for models
    try:
        return draw_pairs(dataset, np.random.default_rng(PAIRS_SEED), args.order_task)
    except ValueError as error:
        raise InputError(f"--order_task: {args.index}: {error}") from None


def tell_colours(planned: dict[str, "Planned"], films: Any) -> None:
    """Say which films have colours that cannot be shown as they are meant."""
    from recognition.people.stimuli import Clip, unusual_colours

    items = [item for one in planned.values() for item in one.items]
    videos = {item.rows[k][0] for item in items if isinstance(item, Clip) for k in range(len(item.rows))}
    videos |= {item.video for item in items if not isinstance(item, Clip)}
    for video in sorted(videos):
        if what := unusual_colours(films.path(video)):
            print(f"{films.path(video)} {what}", file=sys.stderr)


def tell_unseen(planned: dict[str, "Planned"], step: int) -> None:
    """Say how many old probes are frames that no clip shows, where clips show every `step`-th frame."""
    episodes = [one.episode for name, one in planned.items() if name != "practice"]
    old = [(episode, probe) for episode in episodes for probe in episode["probes"] if probe["is_old"]]
    unseen = 0
    for episode, probe in old:
        rows = episode["clips"][probe["clip"]]["rows"]
        unseen += not any(
            video == probe["video_id"] and start <= probe["frame"] < end and (probe["frame"] - start) % step == 0
            for video, start, end in rows
        )
    if unseen:
        print(f"{unseen} of {counted(len(old), 'old probe')} lie between the frames that models study, and are never "
              "shown in a clip; --frames all shows them", file=sys.stderr)  # fmt: skip


def counted(number: int, what: str) -> str:
    """A number of things, in words."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def episode_numbers(text: str) -> list[int]:
    """An argparse type: numbers and ranges of them, such as 0-3,7; ascending, each once."""
    numbers: set[int] = set()
    for word in text.split(","):
        if (found := re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", word)) is None:
            raise ArgumentTypeError(f"{text!r} must be numbers and ranges, such as 0-3 or 0,5")
        first, last = int(found[1]), int(found[2] or found[1])
        if not first <= last < first + 1000:
            raise ArgumentTypeError(f"{word.strip()!r} must ascend, over 1000 episodes at most")
        numbers |= set(range(first, last + 1))
    return sorted(numbers)


def even_size(text: str) -> tuple[int, int]:
    """An argparse type: width and height in pixels, even ones."""
    found = re.fullmatch(r"(\d{2,4})x(\d{2,4})", text)
    if found is None or int(found[1]) % 2 or int(found[2]) % 2 or min(int(found[1]), int(found[2])) < 32:
        raise ArgumentTypeError(f"{text!r} must be two even numbers from 32, such as 640x360")
    return int(found[1]), int(found[2])


def address(text: str) -> str:
    """An argparse type: an address of a web page, whole or relative to the experiment's."""
    if urlsplit(text).scheme not in ("http", "https", "") or any(letter.isspace() for letter in text):
        raise ArgumentTypeError(f"{text!r} must be an address with http:// or https://, or relative to the page")
    return text
