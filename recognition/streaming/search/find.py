"""Find pictures and clips in films: in which one, and when.

python -m recognition.live runs/knn_memory --study videos/ --ask photos/
python -m recognition.live runs/knn_memory --study videos/                      study alone, to ask another day
python -m recognition.live runs/knn_memory --study video-features/ --videos videos/ --ask photo.jpg clip.mp4

Films are studied once, by the network of the run's features; the next call goes on, or only asks. What is compared are
these features, by cosine: every frame that is stored, about one a second, and then every frame of the films around the
best ones. The run's model is asked whether it takes the best finds for old.
"""

import itertools
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recognition.common.command_line import (
    ArgumentParser,
    InputError,
    folder_path,
    number_between,
    one_line,
    whole_number,
)

if TYPE_CHECKING:
    from recognition.streaming.eye import Eye
    from recognition.streaming.search.questions import Question
    from recognition.streaming.search.store import Store
    from recognition.streaming.search.verdicts import Verdicts
    from recognition.streaming.trained import TrainedRun

STORE_FILE, FINDS_FILE, PAGE_FILE = "frames.store", "finds.csv", "find.html"
AT_ONCE = 16  # questions that are looked up in one pass


def add_arguments(parser: ArgumentParser) -> None:
    """The options of a search."""
    group = parser.add_argument_group("find pictures and clips in films")
    group.add_argument("--study", type=Path, metavar="FILMS", help="folder of films, or of their feature files")
    group.add_argument(
        "--ask", type=Path, nargs="+", default=[], metavar="PICTURES", help="pictures, clips, or folders of them"
    )
    group.add_argument(
        "--features", type=folder_path, help="folder for the films' features; FILMS-features beside them if not given"
    )
    group.add_argument("--num_finds", type=whole_number(1, 1000), default=100, help="told of each, at most")
    group.add_argument(
        "--num_verdicts",
        type=whole_number(0, 1000),
        default=1,
        help="of the best finds, which the model is asked about",
    )
    group.add_argument(
        "--store_fps", type=number_between(0.01, 100), default=1.0, help="frames a second that are looked through first"
    )
    group.add_argument(
        "--faiss",
        action="store_true",
        help="look frames up by an index of faiss, which misses a few",
    )


def main(args: Namespace) -> int | None:
    """Study, ask, and tell. Returns 1 if a film, a picture or a clip had to be passed over."""
    from recognition.streaming.search.find_page import write_page
    from recognition.streaming.search.finds import find_all, judged, told, write_finds
    from recognition.streaming.search.inverted import InvertedLists
    from recognition.streaming.search.questions import listed
    from recognition.streaming.search.store import open_store
    from recognition.streaming.search.study import open_studied
    from recognition.streaming.search.verdicts import Verdicts
    from recognition.streaming.trained import open_trained

    if len(args.words) != 1:
        raise InputError(f"--study: one run is wanted, found {len(args.words)}; sources are named with --study")
    if args.study is None:
        raise InputError("--ask: say with --study in which films to look")
    paths = listed(args.ask)
    trained = open_trained(Path(args.words[0]), args.settings, args.device)
    eye = trained.eye(args.weights)
    studied, failed = open_studied(args.study, args.features, eye)
    store = open_store(studied.folder / STORE_FILE, studied, args.store_fps)
    if args.faiss:
        store = replace(store, lists=InvertedLists(studied.folder / STORE_FILE, store))
    size = f"{len(studied.names):,} films, {len(store.frame):,} frames at {store.fps:g} a second"
    print(one_line(f"{size}: {studied.folder / STORE_FILE}, {store.num_bytes / 1e6:,.1f} MB"))
    if not paths:
        print("Nothing is asked; do so with --ask")
        return 1 if failed else 0
    verdicts = Verdicts(trained, studied)
    about = describe(trained, eye, store, verdicts, args.num_verdicts)
    tell_how(about)
    answers, took_s = [], 0.0
    questions = read_questions(paths, eye, failed)
    while batch := list(itertools.islice(questions, AT_ONCE)):
        began_s = time.perf_counter()
        found = find_all(batch, store, studied, args.num_finds)
        took_s += time.perf_counter() - began_s
        for answer in found:
            answers.append(judged(answer, verdicts, args.num_verdicts))
            print(told(answers[-1], verdicts.threshold), flush=True)
    if not answers:
        raise InputError(f"none of the {len(paths)} can be asked about, for the reasons above")
    output: Path = args.output or Path("found")
    output.mkdir(parents=True, exist_ok=True)
    write_finds(output / FINDS_FILE, answers, verdicts.threshold)
    videos = args.videos or (args.study if studied.folder != args.study else None)
    write_page(output / PAGE_FILE, answers, videos, about)
    print(f"Looked up in {took_s / len(answers):.2f} s each. All finds: {output / FINDS_FILE}")
    print(f"The best with pictures: {output / PAGE_FILE}")
    return 1 if failed else 0


def read_questions(paths: Sequence[Path], eye: "Eye", failed: list[str]) -> "Iterator[Question]":
    """Pictures and clips, as they are asked for. Those that cannot be read are told, and added to `failed`; raises
    InputError if there is only one."""
    from recognition.streaming.search.questions import read_question

    for path in paths:
        try:
            yield read_question(path, eye)
        except (InputError, OSError) as error:
            if len(paths) == 1:
                raise
            print(one_line(f"{error}; passed over"), file=sys.stderr)
            failed.append(str(path))


def describe(
    trained: "TrainedRun", eye: "Eye", store: "Store", verdicts: "Verdicts", num_verdicts: int
) -> dict[str, Any]:
    """What the page and the first lines say of how it was looked for."""
    from recognition.streaming.search.verdicts import AROUND_S

    return {
        "num_films": len(store.films),
        "num_rows": len(store.frame),
        "fps": store.fps,
        "backbone": f"{eye.backbone.name}, {eye.backbone.weights}",
        "ring_threshold": trained.ring_threshold,
        "run": str(trained.run.path),
        "reason": verdicts.reason or ("" if num_verdicts else "--num_verdicts 0"),
        "num_verdicts": num_verdicts,
        "around_s": AROUND_S,
        "threshold": verdicts.threshold,
        "table": FINDS_FILE,
    }


def tell_how(about: dict[str, Any]) -> None:
    """Say what is compared, and what the numbers mean."""
    line = f"Compared by cosine: plain features of {about['backbone']}, not what the model makes of them"
    if about["ring_threshold"] is not None:
        line += f"; on the test episodes the nearest frame means old from {about['ring_threshold']:.4f} on"
    print(one_line(line))
    if about["reason"]:
        print(one_line(f"The model is not asked: {about['reason']}"))
    else:
        print(f"The model says old above {about['threshold']:.2f}, after studying the film around the place")
