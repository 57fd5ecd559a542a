"""Streams made of films, in which some pieces come again, as they were or changed: what a memory is checked on.

Shapes: N frames of a stream, M frames of its changed repeats, V films, D features.
"""

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from recognition.common.command_line import InputError, first_line
from recognition.common.files import is_there, read_whole, written_whole
from recognition.episodes.index_file import EpisodeIndex
from recognition.episodes.rendering import Films, altered
from recognition.episodes.streams import StreamDrawing, StreamSpec, Stretch, draw_stream
from recognition.features.feature_bank import FeatureBank, find_header
from recognition.films.alterations import ALTERATIONS
from recognition.streaming.checking.calibration import HOUR_S
from recognition.streaming.checking.check_scores import Repeat
from recognition.streaming.eye import Eye

AS_IT_WAS, RE_ENCODED = "as it was", "re-encoded"
CRF = 35  # of H.264: a picture that has visibly suffered
# A third of each: as they were, re-encoded, altered.
CHANGES = (*[AS_IT_WAS] * len(ALTERATIONS), *[RE_ENCODED] * len(ALTERATIONS), *ALTERATIONS)
LAGS_S = {"30 s": 30.0, "2 min": 120.0, "10 min": 600.0}
PIECE_S, REPEAT_S = (5.0, 20.0), (3.0, 6.0)
MOST_REPEATED = 0.1  # of a stream's time
MOST_STREAMS, SHORTEST_S = 20, 60.0  # of the streams, which together are as long as was asked
APART_S = 60.0  # from one to the next, so that no event is in two
VERSION = 1  # of how changed pictures are made
FEATURES_FILE = "changed-{}.npz"


@dataclass(frozen=True)
class FilmsAtHand:
    """Films whose features are at hand.

    rates: (V,) rows of features a second. subsample: of so many rows one is shown.
    """

    index: EpisodeIndex
    bank: FeatureBank
    rates: np.ndarray
    subsample: int

    @property
    def fps(self) -> float:
        """Frames a second that a stream of them has."""
        return float(np.median(self.rates)) / self.subsample


@dataclass(frozen=True, eq=False)
class MadeStream:
    """A stream to be seen frame by frame, and what comes again in it."""

    times_s: np.ndarray  # (N,)
    features: np.ndarray  # (N, D) float32
    repeats: list[Repeat]

    def later(self, by_s: float) -> "MadeStream":
        """The same stream, so many seconds later."""
        repeats = [replace(one, start_s=one.start_s + by_s, end_s=one.end_s + by_s) for one in self.repeats]
        return MadeStream(self.times_s + by_s, self.features, repeats)


def open_films(index: EpisodeIndex, folder: str | Path, fps: float | None) -> FilmsAtHand:
    """The films of an index with their features, memory-mapped, for streams of about `fps` frames a second; as many as
    there are rows of features if it is None. Raises InputError where they do not fit the index, or do not say their
    rate."""
    bank = FeatureBank(folder, index.video_ids, index.video_num_frames, "mapped")
    headers = [find_header(folder, video_id) for video_id in index.video_ids]
    rates = np.array([header.fps if header else 0.0 for header in headers])
    if not (rates > 0).all():
        film = index.video_ids[int((rates > 0).argmin())]
        raise InputError(f"{folder}: does not say how many frames a second {film} has, and streams have times")
    return FilmsAtHand(index, bank, rates, max(1, round(float(np.median(rates)) / fps)) if fps else 1)


def stream_spec(hours: float, num_repeats: int, delay_s: float, changes: Sequence[str]) -> StreamSpec:
    """What streams of so many hours in all, with about so many repeats, are drawn like. Pieces of a film are a delay
    apart, as one shot goes on in what lies closer. Raises InputError for a delay in which repeats would come."""
    share = min(num_repeats * sum(REPEAT_S) / 2 / (HOUR_S * hours), MOST_REPEATED)
    lags_s = tuple(LAGS_S.values())
    try:
        return StreamSpec(HOUR_S * hours, PIECE_S, REPEAT_S, lags_s, share, tuple(changes), delay_s, gap_s=delay_s)
    except ValueError as error:
        raise InputError(f"--delay {delay_s:g}, --hours {hours:g}: no stream can be made ({error})") from None


def draw(films: FilmsAtHand, spec: StreamSpec, seed: int) -> list[StreamDrawing]:
    """Streams of these films, in each of which every frame comes once, but for repeats. Where the films do not last for
    one of the length that is asked for, there are several, drawn alike. Raises InputError if there can be none."""
    drawings: list[StreamDrawing] = []
    left_s = spec.length_s
    while len(drawings) < MOST_STREAMS and (not drawings or left_s >= SHORTEST_S):
        rng = np.random.default_rng((seed, len(drawings)))
        of_rest = replace(spec, length_s=left_s)
        try:
            drawings.append(draw_stream(films.bank.num_frames, films.rates, films.subsample, of_rest, rng))
        except ValueError as error:
            raise InputError(f"{films.index.path}: {error}") from None
        left_s -= float(drawings[-1].time_s[-1])
    if not any(drawing.repeats for drawing in drawings):
        raise InputError(f"{films.index.path}: its films are too short for a repeat after {min(spec.lags_s):g} s")
    return drawings


def make_streams(
    films: FilmsAtHand, drawings: Sequence[StreamDrawing], videos: Path, eye: Callable[[], Eye], kept_in: Path
) -> list[MadeStream]:
    """The features of streams, see `make_stream`, whose times follow each other."""
    made: list[MadeStream] = []
    for drawing in drawings:
        begins_s = float(made[-1].times_s[-1]) + APART_S if made else 0.0
        made.append(make_stream(films, drawing, videos, eye, kept_in).later(begins_s))
    return made


def make_stream(
    films: FilmsAtHand, drawing: StreamDrawing, videos: Path, eye: Callable[[], Eye], kept_in: Path
) -> MadeStream:
    """The features of a stream: those of the feature files, but of changed repeats those that `eye` makes of changed
    pictures of the films in `videos`. The latter are kept in a file in `kept_in`, and read there the next time.

    Raises InputError if there is a changed repeat and the films or the eye cannot be had.
    """
    features = films.bank.gather(drawing.video, drawing.frame).float().numpy()
    changed = [repeat for repeat in drawing.repeats if repeat.change != AS_IT_WAS]
    if changed:
        rows = np.concatenate([np.arange(r.first, r.first + r.num_frames) for r in changed])
        features[rows] = _kept(
            kept_in / FEATURES_FILE.format(digest(films, changed)[:16]),
            (len(rows), films.bank.num_features),
            lambda: changed_features(films, changed, videos, eye()),
        )
    return MadeStream(drawing.time_s, features, [_repeat(repeat, drawing) for repeat in drawing.repeats])


def changed_features(films: FilmsAtHand, changed: Sequence[Stretch], videos: Path, eye: Eye) -> np.ndarray:
    """Features (M, D) float32 of changed repeats. Raises InputError for films that cannot be read, and for a network
    that reads windows of pictures, which do not begin and end where a repeat does."""
    if eye.window > 1:
        raise InputError("its network reads windows, and pictures of a repeat alone fill none")
    at_hand = Films(films.index.video_ids, films.bank.folder, videos)
    features = []
    for stretch in changed:
        pictures = at_hand.pictures(stretch.video, np.arange(stretch.start, stretch.end))
        seen = changed_pictures(pictures, stretch.change, float(films.rates[stretch.video]))
        features.append(eye.features(seen[:: films.subsample]))
    return np.concatenate(features)


def changed_pictures(pictures: Sequence[np.ndarray], change: str, fps: float) -> list[np.ndarray]:
    """Pictures (H, W, 3) uint8 RGB that follow each other, changed."""
    if change == RE_ENCODED:
        return re_encoded(pictures, fps)
    return [altered(picture, change) for picture in pictures] if change in ALTERATIONS else list(pictures)


def re_encoded(pictures: Sequence[np.ndarray], fps: float, crf: int = CRF) -> list[np.ndarray]:
    """Pictures (H, W, 3) uint8 RGB, all of one size, after H.264 in half their width and height."""
    height, width = (max(2, 2 * round(size / 4)) for size in pictures[0].shape[:2])
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": str(crf)})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        for picture in pictures:
            whole = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            container.mux(stream.encode(whole.reformat(width, height, "yuv420p", threads=1)))
        container.mux(stream.encode())
    file.seek(0)
    with av.open(file) as container:
        container.streams.video[0].thread_type = "NONE"
        return [frame.to_ndarray(format="rgb24", threads=1) for frame in container.decode(video=0)]


def digest(films: FilmsAtHand, changed: Sequence[Stretch]) -> str:
    """Of all that decides the features of changed repeats."""
    decisive = VERSION, CRF, films.subsample, films.index.video_ids, films.bank.digests, list(map(tuple, changed))
    return hashlib.sha256(repr(decisive).encode()).hexdigest()


def _kept(path: Path, shape: tuple[int, int], make: Callable[[], np.ndarray]) -> np.ndarray:
    """What `make` makes, from a file if it is there. Raises InputError for a file that is no such one."""
    if not is_there(path):
        made = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as part, open(part, "wb") as file:
            np.savez(file, features=made)
    content = read_whole(path)
    try:
        with np.load(content, allow_pickle=False) as kept:
            features = kept["features"]
        if features.shape != shape or features.dtype != np.float32:
            raise ValueError(f"is of shape {features.shape}")
    except Exception as error:  # zipfile, zlib and numpy raise many kinds for a damaged file
        raise InputError(f"{path}: cannot be read ({first_line(error)}); remove it") from None
    return features


def _repeat(stretch: Stretch, drawing: StreamDrawing) -> Repeat:
    group = min(LAGS_S, key=lambda name: abs(LAGS_S[name] - stretch.lag_s) / LAGS_S[name])
    end_s = float(drawing.time_s[stretch.first + stretch.num_frames - 1])
    return Repeat(stretch.first_s, end_s, stretch.lag_s, group, stretch.change)
