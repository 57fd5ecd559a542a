"""Where runs are checked on streams: those with the same features on the same ones."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from recognition.common.command_line import InputError
from recognition.episodes.index_file import EpisodeIndex
from recognition.evaluation.scores import without_nan
from recognition.streaming.checking.asked import ask_all, step_ms
from recognition.streaming.checking.calibrating import LIVE_FILE
from recognition.streaming.checking.calibration import read_calibration
from recognition.streaming.checking.check_scores import Answers, Repeat, at_threshold, chance, counted, describe
from recognition.streaming.checking.made_streams import (
    AS_IT_WAS,
    CHANGES,
    LAGS_S,
    FilmsAtHand,
    MadeStream,
    draw,
    make_streams,
    open_films,
    stream_spec,
)
from recognition.streaming.memory import LiveMemory, MemoryRules
from recognition.streaming.trained import TrainedRun, open_trained

RING, CHANCE = "plain ring", "chance"


class _Kept(NamedTuple):
    """Where a run's calibration is kept, and what it depends on."""

    path: Path
    digests: dict[str, str]


@dataclass
class Bench:
    """Where runs are checked: those with the same features on the same streams, made once."""

    args: Namespace
    index: EpisodeIndex
    output: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    streams: dict[object, list[MadeStream]] = field(default_factory=dict)
    told: list[dict[str, Any]] = field(default_factory=list)  # of each of these
    rings: list[tuple[Answers, dict[str, Any]]] = field(default_factory=list)  # of each, what the ring said and its row

    def check(self, run: Path, name: str) -> None:
        """Check a run. Raises InputError if it cannot stream, or its features are not at hand."""
        args = self.args
        trained = open_trained(run, args.settings, args.device)
        stream = trained.stream(args.capacity, args.forget_after)
        films = open_films(self.index, trained.config.dataset.video_path, args.fps or trained.fps)
        key = films.bank.digests, str(films.bank.folder.resolve()), films.subsample
        is_new = key not in self.streams
        if is_new:
            self.streams[key] = self._made(films, trained)
        made, number = self.streams[key], list(self.streams).index(key)
        answered = []
        for one in tqdm(made, name, unit="stream", leave=False, disable=None):
            memory = LiveMemory(stream, trained.num_features, MemoryRules(args.delay, num_ring=args.ring))
            answered.append(ask_all(memory, one.features, one.times_s, asks_ring=is_new))
        facts: dict[str, Any] = {"model": trained.config.model.model, "stream": number, "state_bytes": memory.num_bytes}
        of_ring: dict[str, Any] = {
            "model": None,
            "stream": number,
            "state_bytes": memory.ring.num_bytes,
            "calibrated": None,
        }
        facts["step_ms"], of_ring["step_ms"] = step_ms(memory, made[-1].features[-1])
        if is_new:
            self._add_controls(joined([asked.ring for asked in answered]), made, of_ring)
        kept = _Kept(run / LIVE_FILE, trained.live_digests(args.delay, args.fps or trained.fps or films.fps))
        answers, row = self.rings[number]
        row["calibrated"] = row["calibrated"] or self._calibrated(answers, made, kept, of_ring=True)
        answers = joined([asked.model for asked in answered])
        self._add(name, "run", answers, made, facts | {"calibrated": self._calibrated(answers, made, kept)})

    def found(self) -> dict[str, Any]:
        """All that was found, as JSON can say it: rows, streams and notes."""
        order = {"run": 0, "ring": 1, "chance": 2}
        rows = sorted(self.rows, key=lambda row: order[row["kind"]])
        settings = {"index": str(self.args.check), "seed": self.args.seed, "delay_s": self.args.delay}
        return without_nan({**settings, "streams": self.told, "notes": self.notes, "rows": rows})

    def _made(self, films: FilmsAtHand, trained: TrainedRun) -> list[MadeStream]:
        """Streams of films, without changed repeats if they cannot be made; what they are like is told and noted."""
        args, videos = self.args, self.args.videos or films.bank.folder.parent / "videos"
        for changes in (CHANGES, (AS_IT_WAS,)):
            drawings = draw(films, stream_spec(args.hours, args.repeats, args.delay, changes), args.seed)
            try:
                made = make_streams(films, drawings, videos, lambda: trained.eye(args.weights), self.output)
                break
            except InputError as error:
                if changes != CHANGES:
                    raise
                self._note(f"Repeats are as they were, none is changed: {error}.")
        self._describe(films, made)
        return made

    def _describe(self, films: FilmsAtHand, made: list[MadeStream]) -> None:
        times_s = np.concatenate([one.times_s for one in made])
        hours, num_films = Answers(times_s, times_s, times_s).hours, len(films.index.video_ids)
        counts = counted(repeats_of(made))
        told = {"features": str(films.bank.folder), "hours": hours, "fps": films.fps, "num_streams": len(made)}
        told |= {"num_films": num_films, "num_repeats": len(repeats_of(made)), **counts}
        known = {name: lag_s for name, lag_s in LAGS_S.items() if name in counts["by_lag"]}
        self.told.append(told | {"lags_s": known})
        if len(made) > 1:
            self._note(
                f"{num_films} films do not last for a stream of {self.args.hours:g} h: there are {len(made)} of the "
                f"same films in other pieces and orders, {hours:.2f} h in all, and each begins with an empty memory."
            )
        if missing := [name for name in LAGS_S if name not in known]:
            self._note(f"No repeat comes after {' or '.join(missing)}: there are too few films.")

    def _add_controls(self, answers: Answers, made: list[MadeStream], facts: dict[str, Any]) -> None:
        ending = f" {facts['stream'] + 1}" if facts["stream"] else ""
        self._add(RING + ending, "ring", answers, made, facts)
        self.rings.append((answers, self.rows[-1]))
        told = facts | {"name": CHANCE + ending, "kind": "chance", "step_ms": None, "state_bytes": 0}
        self.rows.append(told | chance(repeats_of(made), answers.hours))

    def _add(self, name: str, kind: str, answers: Answers, made: list[MadeStream], facts: dict[str, Any]) -> None:
        self.rows.append({"name": name, "kind": kind, **facts, **describe(answers, repeats_of(made))})

    def _calibrated(
        self, answers: Answers, made: list[MadeStream], kept: _Kept, of_ring: bool = False
    ) -> dict[str, Any] | None:
        """What is found with the threshold of calibration; None without any, which is noted."""
        try:
            calibration = read_calibration(*kept, of_ring)
        except InputError as error:
            self._note(f"No calibrated threshold: {error}.")
            return None
        if calibration is None:
            self._note("Runs without a calibrated threshold have none told; give them one with --calibrate.")
            return None
        asked_for = {"asked_per_hour": calibration.false_events_per_hour}
        return at_threshold(answers, repeats_of(made), calibration.rules()) | asked_for

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


def joined(answers: Sequence[Answers]) -> Answers:
    """What was said of streams that follow each other."""
    of_all = [(one.times_s, one.logits, one.seen_s) for one in answers]
    return Answers(*map(np.concatenate, zip(*of_all, strict=True)))


def repeats_of(made: Sequence[MadeStream]) -> list[Repeat]:
    """What comes again in streams that follow each other."""
    return [repeat for one in made for repeat in one.repeats]
