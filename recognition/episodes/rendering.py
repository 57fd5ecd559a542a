"""What a model saw, as pictures: frames by [video, frame] out of the films, and whole episodes as videos."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import torch

from recognition.common.command_line import InputError
from recognition.common.files import is_there
from recognition.episodes.episode_spec import CLIP_KINDS, PROBE_KINDS
from recognition.episodes.index_file import EpisodeIndex
from recognition.features.feature_file import DamagedFile, read_header, read_times
from recognition.films.alterations import ALTERATIONS
from recognition.films.video import DecodeError, find_videos, read_frames

WIDTH, HEIGHT, BAR = 640, 360, 40  # pixels of a picture and of the bar with words under it
PROBE_S, PROBE_RATE = 1, 10  # each probe's seconds and pictures a second: few players keep to a picture that lasts
FONT, MARGIN = (cv2.FONT_HERSHEY_SIMPLEX, 0.6, 1), 13  # with its scale and thickness; pixels around words
WHITE, DARK = (255, 255, 255), (25, 25, 25)
RIGHT, WRONG = (120, 190, 255), (255, 165, 60)  # blue and orange: the colour-blind tell them apart too


class Films:
    """The films of an index: pictures by [video, frame].

    Args:
        video_ids: the films, in the order in which an index numbers them.
        features: folder with their feature files, which tell the times of their frames.
        videos: folder with the films themselves, under the names of their feature files.

    Raises:
        InputError: there is no such folder of films; from the methods, that a film or its frames' times are missing.
    """

    def __init__(self, video_ids: Sequence[str], features: str | Path, videos: str | Path):
        self.video_ids, self.features, self.videos = video_ids, Path(features), Path(videos)
        if not self.videos.is_dir():
            raise InputError(f"--videos {videos}: no such folder; name the one with the films")
        self._paths = {path.stem: path for path in find_videos(self.videos) if path.exists()}  # no link to nowhere

    def has(self, video: int) -> bool:
        """Whether the film is at hand."""
        return self.video_ids[video] in self._paths

    def path(self, video: int) -> Path:
        """Where the film is."""
        if not self.has(video):
            raise InputError(f"{self.videos}: holds no film {self.video_ids[video]}; name the folder with --videos")
        return self._paths[self.video_ids[video]]

    def times(self, video: int) -> np.ndarray:
        """Times of all frames of a film, (num_frames,) in seconds."""
        path = self.features / f"{self.video_ids[video]}.h5"
        if not is_there(path):
            raise InputError(
                f"{path}: no such file, and nothing else tells the times of the film's frames; "
                f"name the folder of the feature files with --features"
            )
        try:
            read_header(path)
        except DamagedFile as error:
            raise InputError(f"{error}; run preprocess_videos.py again") from None
        return read_times(path)

    def pictures(self, video: int, frames: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """Frames of one film, (H, W, 3) uint8 RGB each, in one pass over it."""
        path, times = self.path(video), self.times(video)
        try:
            return read_frames(path, times[np.asarray(frames)].tolist())
        except DecodeError as error:
            raise InputError(f"{path}: {error}") from None


def render(
    index: EpisodeIndex, episode: int, subsample: int, films: Films, answers: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, float]]:
    """One episode as pictures (HEIGHT + BAR, WIDTH, 3) uint8 RGB with the seconds that each is to be seen.

    The frames that were studied come first, at the pace of their films, then every probe for PROBE_S seconds in
    PROBE_RATE pictures a second, altered if it was. Words under a picture say which clip or probe it is and of what
    kind; `answers` (P,), above 0 for "old", are told beside the probes.

    Raises InputError, before the first picture, if a film of the episode or times of its frames are missing.
    """
    study, probes, _, kind = (field[episode] for field in index.episodes)
    times = {video: films.times(video) for video in np.union1d(study[:, 0], probes[:, 0]).tolist()}
    for video in times:
        films.path(video)
    for video, end in [*study[:, [0, 2]].tolist(), *(probes + np.array([0, 1])).tolist()]:
        if end > len(times[video]):
            raise InputError(
                f"{films.features}: {films.video_ids[video]} has {len(times[video])} frames, too few for {index.path}; "
                f"run generate_dataset.py again"
            )
    clip_kind = None if index.clip_kind is None else index.clip_kind[episode]
    num_clips = len(study) if clip_kind is None else len(clip_kind)

    def pictures() -> Iterator[tuple[np.ndarray, float]]:
        for row, (video, start, end) in enumerate(study.tolist()):
            clip = row * num_clips // len(study)  # clips drawn by kind have two rows
            words = f"study: clip {clip + 1} of {num_clips}"
            if clip_kind is not None:
                words += f", {CLIP_KINDS[clip_kind[clip]].replace('_', ' ')}"
            frames = np.arange(start, end, subsample)
            durations = seconds_shown(times[video], frames, subsample)
            for picture, duration_s in zip(films.pictures(video, frames), durations.tolist(), strict=True):
                yield label(picture, words), duration_s
        for number, ((video, frame), code) in enumerate(zip(probes.tolist(), kind.tolist(), strict=True)):
            [picture] = films.pictures(video, [frame])
            name = PROBE_KINDS[code]
            words, answer, colour = f"probe {number + 1} of {len(probes)}: {name.replace('_', ' ')}", "", WHITE
            if answers is not None:
                says_old = answers[number] > 0
                is_right = says_old == (name == "old")
                answer = f"answer: {'old' if says_old else 'new'}, {'right' if is_right else 'wrong'}"
                colour = RIGHT if is_right else WRONG
            shown = label(altered(picture, name), words, answer, colour)
            yield from itertools.repeat((shown, 1 / PROBE_RATE), PROBE_S * PROBE_RATE)

    return pictures()


def altered(picture: np.ndarray, kind: str) -> np.ndarray:
    """The picture (H, W, 3) as a probe of this kind showed it; unchanged unless the kind is an alteration.

    Networks see the middle square of a frame, altered. It looks the same in the altered whole frame.
    """
    if kind not in ALTERATIONS:
        return picture
    frame = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None]
    return ALTERATIONS[kind](frame)[0].permute(1, 2, 0).contiguous().numpy()


def label(picture: np.ndarray, words: str, answer: str = "", colour: tuple[int, int, int] = WHITE) -> np.ndarray:
    """The picture fitted into WIDTH x HEIGHT above a bar, (HEIGHT + BAR, WIDTH, 3): words at its left in white, the
    answer at its right in `colour`."""
    canvas = np.full((HEIGHT + BAR, WIDTH, 3), DARK, np.uint8)
    scale = min(WIDTH / picture.shape[1], HEIGHT / picture.shape[0])
    width, height = (max(1, round(scale * size)) for size in (picture.shape[1], picture.shape[0]))
    x, y = (WIDTH - width) // 2, (HEIGHT - height) // 2
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    canvas[y : y + height, x : x + width] = cv2.resize(picture, (width, height), interpolation=way)
    (answer_width, _), _ = cv2.getTextSize(answer, *FONT)
    for text, left, its_colour in ((words, MARGIN, WHITE), (answer, WIDTH - MARGIN - answer_width, colour)):
        cv2.putText(canvas, text, (left, HEIGHT + BAR - MARGIN), FONT[0], FONT[1], its_colour, FONT[2], cv2.LINE_AA)
    return canvas


class VideoFile:
    """A video of `label`'s pictures, H.264 in mp4, that is being written; to be closed.

    Times are kept to a millisecond. A picture that does not come after the one before it is shown a millisecond later.
    """

    def __init__(self, path: str | Path):
        self._container = av.open(str(path), "w", format="mp4", options={"movflags": "faststart"})
        self._stream = self._container.add_stream("libx264", rate=25, options={"crf": "23", "preset": "veryfast"})
        self._stream.width, self._stream.height, self._stream.pix_fmt = WIDTH, HEIGHT + BAR, "yuv420p"
        self._stream.codec_context.time_base = Fraction(1, 1000)
        self._container.start_encoding()  # so that a file that cannot be written is told now
        self._last_ms = -1

    def write(self, picture: np.ndarray, time_s: float) -> None:
        """Add a picture that is shown from `time_s`, at least 0, until the next one."""
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        self._last_ms = max(round(1000 * time_s), self._last_ms + 1)
        frame.pts, frame.time_base = self._last_ms, Fraction(1, 1000)
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """End the video, which can be played then."""
        try:
            self._container.mux(self._stream.encode())
        finally:
            self._container.close()


def write_video(path: str | Path, pictures: Iterable[tuple[np.ndarray, float]]) -> float:
    """Write pictures of `render`, each shown for its seconds, to a `VideoFile`. Returns the whole video's seconds."""
    clock_s = 0.0
    with closing(VideoFile(path)) as video:
        for picture, duration_s in pictures:
            video.write(picture, clock_s)
            clock_s += duration_s
    return clock_s


def seconds_shown(times: np.ndarray, frames: np.ndarray, subsample: int) -> np.ndarray:
    """How long frames of a film are seen if the next one is `subsample` frames later: times of all its frames
    (num_frames,), frames (n,) to (n,) seconds. Beyond its end the film goes on at its mean rate."""
    gap_s = (times[-1] - times[0]) / max(1, len(times) - 1) or 1 / 25
    beyond = times[-1] + gap_s * np.arange(1, subsample + 1)
    return np.append(times, beyond)[frames + subsample] - times[frames]
