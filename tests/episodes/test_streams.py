"""Drawing streams: what every stream keeps to."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from recognition.episodes.streams import LAG_TOLERANCE, StreamDrawing, StreamSpec, draw_stream

SPECS = {
    "long films": ([9000] * 12, 10.0, 1, StreamSpec(changes=("same", "mirrored"))),
    "films of the demo": ([504] * 14, 6.0, 2, StreamSpec(600, lags_s=(30, 120), repeats_share=0.3)),
    "one short film": ([200], 2.0, 1, StreamSpec(60, (5, 9), (1, 2), (15,), 0.4, delay_s=3, gap_s=0)),
    "films of other rates": ([900, 1500, 2400, 77], np.array([3.0, 5, 8, 5]), 3, StreamSpec(500, repeats_share=0.2)),
    "no repeats": ([600] * 3, 5.0, 1, StreamSpec(200, repeats_share=0)),
}
over_specs = pytest.mark.parametrize("name", SPECS)


def draw(name: str, seed: int = 0) -> StreamDrawing:
    num_frames, fps, subsample, spec = SPECS[name]
    return draw_stream(np.array(num_frames), fps, subsample, spec, np.random.default_rng(seed))


@over_specs
@pytest.mark.parametrize("seed", range(3))
def test_a_frame_is_new_unless_the_very_same_was_shown_before(name: str, seed: int):
    num_frames, _, _, _ = SPECS[name]
    stream, seen = draw(name, seed), {}
    assert len(stream) == len(stream.frame) == len(stream.time_s) == len(stream.first_seen) > 0
    for place, (video, frame, first) in enumerate(zip(stream.video, stream.frame, stream.first_seen, strict=True)):
        assert 0 <= frame < num_frames[video]
        assert seen.get((video, frame), -1) == first
        seen.setdefault((video, frame), place)


@over_specs
def test_stretches_follow_each_other_and_hold_every_frame(name: str):
    _, fps, subsample, spec = SPECS[name]
    stream, place, time_s = draw(name), 0, 0.0
    for stretch in stream.stretches:
        assert (stretch.first, stretch.first_s) == (place, pytest.approx(time_s))
        frames = np.arange(stretch.start, stretch.end, subsample)
        assert len(frames) == stretch.num_frames
        rows = slice(place, place + len(frames))
        assert (stream.frame[rows] == frames).all()
        assert (stream.video[rows] == stretch.video).all()
        rate = (fps if isinstance(fps, float) else fps[stretch.video]) / subsample
        np.testing.assert_allclose(stream.time_s[rows], time_s + np.arange(len(frames)) / rate)
        place, time_s = place + len(frames), time_s + len(frames) / rate
    assert place == len(stream)
    assert stream.time_s[-1] < spec.length_s


@over_specs
@pytest.mark.parametrize("seed", range(3))
def test_repeats_come_about_a_lag_after_part_of_one_piece_and_only_once(name: str, seed: int):
    _, _, _, spec = SPECS[name]
    stream = draw(name, seed)
    assert bool(stream.repeats) == (spec.repeats_share > 0)
    pieces = [stretch for stretch in stream.stretches if not stretch.is_repeat]
    for repeat in stream.repeats:
        rows = slice(repeat.first, repeat.first + repeat.num_frames)
        then = stream.first_seen[rows]
        assert (then == repeat.original + np.arange(repeat.num_frames)).all()
        assert any(piece.first <= then[0] and then[-1] < piece.first + piece.num_frames for piece in pieces)
        np.testing.assert_allclose(stream.time_s[rows] - stream.time_s[then], repeat.lag_s)
        assert any(abs(repeat.lag_s - lag_s) <= LAG_TOLERANCE * lag_s for lag_s in spec.lags_s)
        assert repeat.lag_s > spec.delay_s
        assert repeat.change in spec.changes
    originals = stream.first_seen[stream.first_seen >= 0]
    assert len(originals) == len(np.unique(originals))
    assert all(piece.change == "" and np.isnan(piece.lag_s) for piece in pieces)


def test_pieces_and_repeats_are_as_long_as_asked():
    spec, rate = SPECS["long films"][3], 10.0
    stream = draw("long films")
    assert len(stream) == 36_000
    for is_repeat, (shortest, longest) in ((False, spec.piece_s), (True, spec.repeat_s)):
        seconds = [s.num_frames / rate for s in stream.stretches[:-1] if s.is_repeat == is_repeat]
        assert min(seconds) >= shortest - 0.05
        assert max(seconds) <= longest + 0.05
        assert np.mean(seconds) == pytest.approx((shortest + longest) / 2, rel=0.1)
    assert (stream.first_seen >= 0).mean() == pytest.approx(spec.repeats_share, abs=0.003)


def test_lags_and_changes_come_about_equally_often_and_as_often_as_they_are_named():
    spec = replace(SPECS["long films"][3], changes=("same", "same", "mirrored"), repeats_share=0.1)
    stream = draw_stream(np.full(12, 9000), 10.0, 1, spec, np.random.default_rng(1))
    counts = Counter((min(spec.lags_s, key=lambda lag_s: abs(lag_s - r.lag_s)), r.change) for r in stream.repeats)
    assert len(stream.repeats) > 70
    for lag_s in spec.lags_s:
        assert counts[lag_s, "same"] == pytest.approx(2 * counts[lag_s, "mirrored"], abs=3)
        assert counts[lag_s, "mirrored"] == pytest.approx(len(stream.repeats) / 9, abs=2)


def test_few_films_give_a_shorter_stream_and_nothing_comes_again_as_new():
    spec = StreamSpec(3600, lags_s=(30, 120))
    stream = draw_stream(np.full(6, 504), 6.0, 2, spec, np.random.default_rng(0))
    new = stream.first_seen < 0
    frames = set(zip(stream.video[new], stream.frame[new], strict=True))
    assert len(frames) == new.sum()
    assert 300 < stream.time_s[-1] < 6 * 84 * 1.1


def test_pieces_of_one_film_keep_their_distance():
    stream = draw_stream(np.full(2, 9000), 10.0, 1, StreamSpec(gap_s=2, repeats_share=0), np.random.default_rng(0))
    for video in range(2):
        frames = np.sort(stream.frame[stream.video == video])
        steps = np.diff(frames)
        assert set(steps[steps != 1]) == {21}


def test_equal_seeds_give_equal_streams_and_others_do_not():
    first, again, other = (draw("films of the demo", seed) for seed in (4, 4, 5))
    assert first.stretches[0] == again.stretches[0]
    assert (first.frame == again.frame).all()
    assert len(first) != len(other) or (first.frame != other.frame).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"piece_s": (5, 4)}, "piece_s"),
        ({"repeat_s": (0, 4)}, "repeat_s"),
        ({"length_s": 0}, "length_s"),
        ({"repeats_share": 1}, "repeats_share"),
        ({"lags_s": ()}, "lags_s"),
        ({"lags_s": (12, 60)}, "lags_s: 12 s may become 9.6 s"),
    ],
)
def test_a_spec_that_cannot_be_is_refused(change: dict, message: str):
    with pytest.raises(ValueError, match=message):
        StreamSpec(**change)


def test_films_that_are_too_short_or_of_no_known_rate_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="shortest piece, 5 s"):
        draw_stream(np.array([40, 49]), 10.0, 1, StreamSpec(), rng)
    with pytest.raises(ValueError, match="must be known"):
        draw_stream(np.array([400, 400]), np.array([10.0, np.nan]), 1, StreamSpec(), rng)


def test_a_film_of_just_the_shortest_length_is_a_piece():
    for seed in range(10):
        stream = draw_stream(np.array([50]), 10.0, 1, StreamSpec(), np.random.default_rng(seed))
        assert len(stream) == 50
