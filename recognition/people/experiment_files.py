"""The files of an experiment: clips and pictures, the key to them, and the page that shows them."""

import json
import os
import shutil
from argparse import Namespace
from contextlib import closing
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
from tqdm import tqdm

from recognition.common.command_line import InputError
from recognition.common.files import sha256
from recognition.common.workers import done_by_workers
from recognition.episodes.rendering import Films
from recognition.people.experiment import Planned, draw_orders, page_episode
from recognition.people.jspsych import BROWSER, copy_library
from recognition.people.key import FORMAT_VERSION, Key, write_key
from recognition.people.stimuli import Studio

NO_PAGE = ("package.json", "package-lock.json", "text.json")  # of the folder browser/
STARTED_S = 1_000_000_000  # the time of all files: when each was made would tell something


def key_file_of(experiment: Path) -> Path:
    """Where the key of an experiment lies: beside its folder."""
    return experiment.with_name(f"{experiment.name}.key.json")


def write_experiment(planned: dict[str, Planned], films: Films, words: dict[str, Any], args: Namespace) -> None:
    """Write the folder --output and its key, both or none."""
    args.output.parent.mkdir(parents=True, exist_ok=True)
    part, key_file = Path(mkdtemp(dir=args.output.parent, prefix=f".{args.output.name}.", suffix=".part")), None
    try:
        (part / "lib").mkdir()
        copy_library(part / "lib", args.jspsych)
        make_all(planned, part, films, args)
        key = key_of(planned, part, args)
        write_page(part, key, words, args)
        key_file = key_file_of(args.output)
        write_key(key_file, key)
        part.rename(args.output)
    except BaseException:
        if key_file is not None:
            key_file.unlink(missing_ok=True)
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def make_all(planned: dict[str, Planned], part: Path, films: Films, args: Namespace) -> None:
    """Write all clips and pictures below a folder."""
    items = [item for one in planned.values() for item in one.items]
    for folder in {part / item.file.parent for item in items}:
        folder.mkdir(parents=True, exist_ok=True)
    studio = Studio(films, args.size)

    def work(task: int) -> Any:
        try:
            studio.make(items[task], part)
        except (InputError, OSError) as error:
            yield f"{items[task].file}: {error}" if isinstance(error, OSError) else str(error)
        else:
            yield None

    num_workers = (os.cpu_count() or 1) if args.workers is None else args.workers
    made = done_by_workers(
        work,
        [item.file.as_posix() for item in items],
        min(num_workers, len(items)),
        f"lower --workers ({num_workers})",
        lambda task, how: f"{items[task].file}: {how}",
    )
    with closing(made), tqdm(made, total=len(items), unit="file", leave=False) as bar:
        for reason in bar:
            if reason is not None:
                raise InputError(reason)


def key_of(planned: dict[str, Planned], part: Path, args: Namespace) -> Key:
    """The key of what was made."""
    for one in planned.values():
        for row in (*one.episode["clips"], *one.episode["probes"]):
            row["sha256"] = sha256(part / row["file"])
    empty: dict[str, Any] = {"clips": [], "probes": [], "pairs": [], "checks": [], "questions": []}
    practice = planned["practice"].episode if "practice" in planned else empty
    episodes = {name: one.episode for name, one in planned.items() if name != "practice"}
    settings = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(args).items()
        if name not in ("command", "output", "workers")
    }
    return Key(str(args.index), sha256(args.index), json.loads(json.dumps(settings)), practice, episodes)


def write_page(part: Path, key: Key, words: dict[str, Any], args: Namespace) -> None:
    """Write the page and what it is told, and let all files be of one time."""
    for path in sorted(BROWSER.iterdir()):
        if path.is_file() and path.name not in NO_PAGE and not path.name.startswith("."):
            shutil.copyfile(path, part / path.name)
    names = ("cross_s", "probe_cross_s", "picture_s", "pair_s", "answer_s", "check_s", "break_every", "input", "scale")
    settings = {name: getattr(args, name) for name in (*names, "frames", "save", "end_url")}
    settings |= {"width": args.size[0], "height": args.size[1]}
    settings |= {"attention_checks": not args.no_checks, "order_task": args.order_task, "orders": args.orders}
    episodes = {}
    for name, episode in key.episodes.items():
        rng = np.random.default_rng((args.seed, int(name), 1))
        orders = draw_orders(len(episode["probes"]), args.orders, rng) if args.orders > 1 else None
        episodes[name] = page_episode(episode, orders)
    told = {
        "format_version": FORMAT_VERSION,
        "experiment": key.experiment,
        "settings": settings,
        "text": words,
        "practice": page_episode(key.practice, None, tells=True),
        "episodes": episodes,
    }
    script = f"const EXPERIMENT = {json.dumps(told, allow_nan=False)};\n"  # in ASCII: all else is escaped
    (part / "timeline.js").write_text(script, encoding="ascii")
    for path in part.rglob("*"):
        os.utime(path, (STARTED_S, STARTED_S))
    part.chmod(0o755)  # mkdtemp's are for its user alone, and web servers are others
