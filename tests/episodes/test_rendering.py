"""Episodes as videos: every frame that was seen, in order, at its pace, with the right words under it."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from colour_films import KINDS, NUM_FRAMES, PROBES, STUDY, SUBSAMPLE, colour_episode, colour_of, write_times

from recognition.common.command_line import InputError
from recognition.episodes.drawing import Episodes
from recognition.episodes.episode_spec import CLIP_KINDS, PROBE_KINDS
from recognition.episodes.index_file import EpisodeIndex
from recognition.episodes.rendering import BAR, HEIGHT, RIGHT, WIDTH, WRONG, Films, altered, label, render, write_video
from recognition.features.backbone import Preprocessing
from recognition.films.alterations import ALTERATIONS
from recognition.films.synthetic import render_film
from recognition.films.video import decode


@pytest.fixture
def colour_index() -> EpisodeIndex:
    return colour_episode()


@pytest.fixture
def films(colour_films: Path, colour_index: EpisodeIndex) -> Films:
    return Films(colour_index.video_ids, colour_films, colour_films)


def place_of(picture: np.ndarray, share: float) -> np.ndarray:
    """The colour at a share of the width of the film's own picture, which lies in the middle of a labelled one."""
    return picture[HEIGHT // 2 - 5 : HEIGHT // 2 + 5, round(WIDTH * share)].astype(int).mean(0)


def expected_colours() -> list[np.ndarray]:
    """Colours in the middle of every picture of the episode."""
    study = [colour_of(film, frame) for film, start, end in STUDY[0] for frame in range(start, end, SUBSAMPLE)]
    probes = [colour_of(film, frame) for film, frame in PROBES[0]]
    probes[4] = 1.5 * probes[4]
    return study + [colour for colour in probes for _ in range(10)]


def test_written_video_holds_every_studied_frame_and_probe_in_order(tmp_path, films, colour_index):
    duration_s = write_video(tmp_path / "episode.mp4", render(colour_index, 0, SUBSAMPLE, films))
    frames = list(decode(tmp_path / "episode.mp4"))
    expected = expected_colours()
    assert len(frames) == len(expected) == 4 * 4 + 5 * 10
    colours = [place_of(image, 0.5) for image, _ in frames]
    np.testing.assert_allclose(colours, expected, atol=14)  # frames differ by 4, those shown one after another by 8
    steps = np.diff([colour.max() for colour in colours[:16]]).reshape(-1)
    assert all(4 < step < 12 for k, step in enumerate(steps) if k % 4 != 3)
    clocks = np.concatenate([np.full(4, 2 / fps) for fps in (10, 25, 20, 25)] + [np.full(50, 0.1)])
    np.testing.assert_allclose([time_s for _, time_s in frames], np.cumsum(clocks) - clocks, atol=0.006)
    assert duration_s == pytest.approx(clocks.sum(), abs=0.005)


def test_written_video_can_be_opened_by_browsers_and_players(tmp_path, films, colour_index):
    write_video(tmp_path / "episode.mp4", render(colour_index, 0, SUBSAMPLE, films))
    with av.open(str(tmp_path / "episode.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height) == (WIDTH, HEIGHT + BAR)
    content = (tmp_path / "episode.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # so that a browser can begin before it has all


def test_picture_is_fitted_whole_into_its_place_whatever_its_shape():
    for height, width in ((48, 64), (72, 40), (360, 640), (1080, 1920), (2, 400)):
        picture = np.full((height, width, 3), 200, np.uint8)
        picture[0], picture[-1], picture[:, 0], picture[:, -1] = ([250, 0, 0],) * 4
        shown = label(picture, "words")[:HEIGHT].astype(int)
        is_picture = (shown.max(2) > 100).nonzero()
        top, bottom, left, right = is_picture[0].min(), is_picture[0].max(), is_picture[1].min(), is_picture[1].max()
        assert top + bottom in (HEIGHT - 1, HEIGHT, HEIGHT - 2)
        assert left + right in (WIDTH - 1, WIDTH, WIDTH - 2)
        assert bottom - top + 1 == HEIGHT or right - left + 1 == WIDTH
        shares = (right - left + 1) / width, (bottom - top + 1) / height
        assert shares[0] == pytest.approx(shares[1], rel=0.02) or height == 2


def bars(pictures: list[np.ndarray]) -> list[np.ndarray]:
    return [picture[HEIGHT:] for picture in pictures]


def test_words_number_clips_and_probes_and_name_the_kinds_of_lures(films, colour_index):
    shown = [picture for picture, _ in render(colour_index, 0, SUBSAMPLE, films)]
    words = [f"study: clip {k} of 4" for k in (1, 2, 3, 4) for _ in range(4)]
    words += [f"probe {k} of 5: {kind}" for k, kind in enumerate(KINDS, 1) for _ in range(10)]
    blank = np.zeros((9, 16, 3), np.uint8)
    for bar, text in zip(bars(shown), words, strict=True):
        np.testing.assert_array_equal(bar, label(blank, text)[HEIGHT:])


def test_clips_drawn_by_kind_are_two_rows_and_say_their_kind(films, colour_index):
    kinds = np.array([[CLIP_KINDS.index("other_film"), CLIP_KINDS.index("no_cut")]], np.uint8)
    index = EpisodeIndex(*[vars(colour_index)[name] for name in ("path", "episodes", "video_ids")], None, None, kinds)
    shown = [picture for picture, _ in render(index, 0, SUBSAMPLE, films)][:16]
    words = ["study: clip 1 of 2, other film"] * 8 + ["study: clip 2 of 2, no cut"] * 8
    for bar, text in zip(bars(shown), words, strict=True):
        np.testing.assert_array_equal(bar, label(shown[0][:HEIGHT], text)[HEIGHT:])


def test_answers_stand_beside_the_probes_and_are_marked(films, colour_index):
    answers = np.array([2.5, 0.5, -1, -0.1, 7])
    shown = [picture for picture, _ in render(colour_index, 0, SUBSAMPLE, films, answers)]
    words = ["old, right", "old, wrong", "new, right", "new, right", "old, wrong"]
    for number, (bar, text) in enumerate(zip(bars(shown[16::10]), words, strict=True)):
        colour = RIGHT if "right" in text else WRONG
        expected = label(shown[0][:HEIGHT], f"probe {number + 1} of 5: {KINDS[number]}", f"answer: {text}", colour)
        np.testing.assert_array_equal(bar, expected[HEIGHT:])
        assert (np.abs(bar.astype(int) - colour).max(2) < 20).sum() > 15  # pixels of that colour are there
    for bar in bars(shown[:16]):
        assert np.ptp(bar.astype(int), axis=2).max() < 10  # and none of any colour beside a clip


def test_words_fit_even_where_numbers_and_names_are_long():
    picture = np.zeros((9, 16, 3), np.uint8)
    empty = label(picture, "").astype(int)
    for words, answer in (
        ("probe 1234 of 1234: other film", "answer: old, wrong"),
        ("study: clip 999 of 999, other film", ""),
    ):
        bar = label(picture, words, answer, WRONG).astype(int)
        written = np.abs(bar - empty).max(2) > 30
        columns = written.any(0).nonzero()[0]
        rows = written.any(1).nonzero()[0]
        assert HEIGHT + 4 < rows.min() <= rows.max() < HEIGHT + BAR - 4
        assert 8 < columns.min() <= columns.max() < WIDTH - 8
        alone = (np.abs(label(picture, words).astype(int) - empty).max(2) > 30).any(0).nonzero()[0]
        answered = (np.abs(label(picture, "", answer).astype(int) - empty).max(2) > 30).any(0).nonzero()[0]
        assert not answer or alone.max() + 20 < answered.min()


@pytest.mark.parametrize("kind", PROBE_KINDS)
def test_altered_probes_are_shown_altered(kind):
    picture = np.random.default_rng(0).integers(0, 256, (45, 63, 3), np.uint8)
    before = picture.copy()
    shown = altered(picture, kind)
    np.testing.assert_array_equal(picture, before)
    assert shown.flags.c_contiguous
    assert np.array_equal(shown, picture) == (kind not in ALTERATIONS)
    if kind == "mirrored":
        np.testing.assert_array_equal(shown, picture[:, ::-1])
    if kind == "brightened":
        np.testing.assert_array_equal(shown, np.minimum(255, np.round(1.5 * picture)))


@pytest.mark.parametrize("kind", ALTERATIONS)
def test_altered_picture_holds_what_the_network_saw(kind):
    """Networks are given the altered middle square of a frame: nearly the middle square of the altered frame."""
    preprocessing = Preprocessing("resnet18")
    [frame] = list(render_film(1, 25, np.random.default_rng(3)))
    of_frame, of_altered = (
        preprocessing.crop(torch.from_numpy(image.copy()).permute(2, 0, 1)) for image in (frame, altered(frame, kind))
    )
    difference = (ALTERATIONS[kind](of_frame[None])[0].float() - of_altered.float()).abs()
    assert difference.mean() < 4  # grey levels; the squares can be a pixel apart
    assert (of_frame.float() - of_altered.float()).abs().mean() > 8


def test_mirrored_probe_is_mirrored_in_the_video(films, colour_index):
    shown = [picture for picture, _ in render(colour_index, 0, SUBSAMPLE, films)]
    mirrored, plain = shown[16 + 2 * 10], shown[16 + 3 * 10]
    assert place_of(plain, 0.1)[2] > 100 > place_of(plain, 0.9)[2]
    assert place_of(mirrored, 0.9)[2] > 90 > place_of(mirrored, 0.1)[2]


def test_uneven_frames_are_shown_as_long_as_in_their_film(tmp_path):
    times_ms = [0, 40, 80, 200, 240, 300, 1000, 1040, 1080, 1120]
    with av.open(str(tmp_path / "film.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for time_ms in times_ms:
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    write_times(tmp_path, tmp_path / "film.mkv")
    study = np.array([[[0, 1, 5], [0, 6, 10]]], np.int32)
    one = np.zeros((1, 1), np.uint8)
    index = EpisodeIndex(Path("x"), Episodes(study, np.array([[[0, 1]]]), one + 1, one), ["film"], None, None)
    shown = [seconds for _, seconds in render(index, 0, 3, Films(["film"], tmp_path, tmp_path))]
    mean = 1.12 / 9  # beyond the film's end it goes on so
    np.testing.assert_allclose(shown[:4], [0.2, 0.8, 0.12, 3 * mean], atol=0.001)


def test_every_clip_is_read_in_one_pass(films, colour_index, monkeypatch):
    calls, read = [], Films.pictures
    monkeypatch.setattr(Films, "pictures", lambda self, video, frames: calls.append(video) or read(self, video, frames))
    list(render(colour_index, 0, SUBSAMPLE, films))
    assert calls == [1, 0, 2, 0, 0, 1, 2, 2, 0]


@pytest.fixture
def spoil(tmp_path: Path, colour_films: Path, colour_index: EpisodeIndex) -> Callable:
    """A copy of the films without one file, or with other content in it."""

    def spoil(name: str, content: str | None = None) -> Films:
        for path in colour_films.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        (tmp_path / name).unlink(missing_ok=True)
        if content is not None:
            (tmp_path / name).write_text(content)
        return Films(colour_index.video_ids, tmp_path, tmp_path)

    return spoil


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("blue.avi", None, "holds no film blue; name the folder with --videos"),
        ("green.h5", None, r"green\.h5: no such file, and nothing else tells the times"),
        ("green.h5", "no features", r"green\.h5: .*; run preprocess_videos\.py again"),
    ],
)
def test_what_is_missing_is_told_before_anything_is_rendered(spoil, colour_index, name, content, message):
    with pytest.raises(InputError, match=message):
        render(colour_index, 0, SUBSAMPLE, spoil(name, content))


def test_features_of_fewer_frames_than_the_index_needs_are_told(spoil, colour_index):
    films = spoil("notes.h5", "")
    colour_index.episodes.probes[0, 1] = 1, NUM_FRAMES
    with pytest.raises(InputError, match=r"green has 36 frames, too few for indices\.h5; run generate_dataset"):
        render(colour_index, 0, SUBSAMPLE, films)


def test_film_that_is_not_the_one_of_its_features_is_told(spoil, colour_index):
    films = spoil("red.mp4", "no film")
    assert films.has(0)
    with pytest.raises(InputError, match=r"red\.mp4: "):
        list(render(colour_index, 0, SUBSAMPLE, films))


def test_films_must_be_in_a_folder(tmp_path, colour_index):
    with pytest.raises(InputError, match=r"--videos .*absent: no such folder"):
        Films(colour_index.video_ids, tmp_path, tmp_path / "absent")
