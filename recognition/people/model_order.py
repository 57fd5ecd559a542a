"""Ask trained models which of two studied frames came first.

python -m recognition.participants order runs/transformer           one run
python -m recognition.participants order runs/*                     several; those that cannot be asked are left out
python -m recognition.participants order runs/* dataset.video_path=elsewhere       where features have been moved

No model was trained for this. It is asked about both frames of a pair as about any probes. One that looks frames up, a
kNN memory, is taken to call that one earlier for which it retrieved the earlier frame first; any other to call the less
familiar one earlier, the one that it is less sure to have seen. Beside each stands a control that looks up the nearest
of all studied frames. Chance is 0.5.

Writes order.json into each run's folder: accuracy and d' by distance and by kind of clip, with intervals.
"""

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recognition.common.command_line import ArgumentParser, InputError, expanded, one_line, whole_number
from recognition.common.files import sha256, written_whole

if TYPE_CHECKING:
    from recognition.episodes.dataset import EpisodeDataset
    from recognition.evaluation.answers import Subject
    from recognition.people.order import Pairs

FORMAT_VERSION = 1
ORDER_FILE = "order.json"
MOST_PAIRS = 10_000  # of an episode: a model reads two frames for each


def add_arguments(parser: ArgumentParser) -> None:
    """The arguments of `participants order`."""
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="folder of a run, such as runs/transformer, or key=value, such as dataset.video_path=elsewhere",
    )
    parser.add_argument(
        "--pairs", type=whole_number(1, MOST_PAIRS), default=90, metavar="N", help="pairs of each test episode"
    )


def main(args: Namespace) -> None:
    """Ask all runs, and print a line for each."""
    from recognition.training.runs import part_settings

    words, settings = part_settings(args.runs)
    paths = list(dict.fromkeys(Path(expanded(word)) for word in words))
    if not paths:
        raise InputError("no run among these words; name the folder of one, such as runs/transformer")
    num_asked = 0
    for path in paths:
        try:
            print(_line(path, _ask_run(path, settings, args.pairs)))
            num_asked += 1
        except InputError as error:
            if len(paths) == 1:
                raise
            print(one_line(f"{path} is left out: {error}"), file=sys.stderr)
    if not num_asked:
        raise InputError(f"none of the {len(paths)} can be asked, for the reasons above")


def ask_model(subject: "Subject", dataset: "EpisodeDataset", pairs: "Pairs") -> tuple[str, np.ndarray]:
    """By which account a model says which frame of each pair came first, "places" or "familiarity", and whether it is
    right, (N, Q) as of `says_first_earlier`.

    Where nothing was retrieved for one of the two, a coin decides.
    """
    from recognition.people.order import asked_about, says_first_earlier

    asked = asked_about(dataset, pairs)
    answer, told = subject.ask(subject.build(asked, {}), asked)
    if not (layers := told.get("retrieval")):
        return "familiarity", says_first_earlier(answer, pairs)
    place = layers[-1].found["retrieved"][:, asked.repeat_test - 1 :: asked.repeat_test, 0]  # (N, 2 Q)
    is_found = (place[:, 0::2] >= 0) & (place[:, 1::2] >= 0)
    return "places", np.where(is_found, says_first_earlier(place, pairs), 0.5)


def _ask_run(path: Path, settings: list[str], num_pairs: int) -> dict[str, Any]:
    """Ask one run and write its file; returns the content."""
    from recognition.episodes.nearest import nearest_study_frame
    from recognition.evaluation.answers import subject_of
    from recognition.evaluation.one_run import open_run, open_test_set
    from recognition.evaluation.scores import without_nan
    from recognition.people.order import PAIRS_SEED, asked_about, draw_pairs, order_scores, says_first_earlier

    run, config = open_run(path, settings)
    test_set = open_test_set(run, config)
    try:
        pairs = draw_pairs(test_set, np.random.default_rng(PAIRS_SEED), num_pairs)
    except ValueError as error:
        raise InputError(f"{test_set.index.path}: {error}") from None
    subject = subject_of(run, config)
    account, is_right = ask_model(subject, test_set, pairs)
    _, nearest = nearest_study_frame(asked_about(test_set, pairs), np.arange(len(test_set)), subject.fabric.device)
    found = {
        "format_version": FORMAT_VERSION,
        "sha256": {"test": sha256(test_set.index.path), "weights": sha256(run.best_file)},
        "model": config.model.model,
        "account": account,
        "num_episodes": len(test_set),
        **order_scores(is_right, pairs),
        "controls": {"nearest_frame": order_scores(says_first_earlier(nearest, pairs), pairs)},
    }
    with written_whole(path / ORDER_FILE) as part:
        part.write_text(json.dumps(without_nan(found), indent=2) + "\n", encoding="utf-8")
    return found


def _line(path: Path, found: dict[str, Any]) -> str:
    by_kind = "".join(f", {row['kind']} {row['accuracy']:.3f}" for row in found["by_clip_kind"])
    ends = found["accuracy_interval"]
    within = f" ({ends[0]:.3f} to {ends[1]:.3f})" if ends else ""
    return (
        f"{path.name}: which came first, by {found['account']}: accuracy {found['accuracy']:.3f}{within}, "
        f"d' {found['d_prime']:.2f}{by_kind}, nearest-frame control "
        f"{found['controls']['nearest_frame']['accuracy']:.3f}; {path / ORDER_FILE}"
    )
