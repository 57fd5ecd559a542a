"""The made-up films: what is drawn, what is said of it, and how captions are read back and scored."""

from collections import Counter
from itertools import groupby

import numpy as np
import pytest

from captioning.captions import read_captions
from captioning.films import (
    ACTIONS,
    COLOURS,
    CONTRAST,
    SETS,
    Slots,
    captions_without_memory,
    draw_film,
    paint_set,
    read_all_slots,
    read_slots,
    render_film,
    slot_scores,
    write_caption_films,
)
from recognition.common.command_line import InputError
from recognition.films.video import decode


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder with three films, one of each split. Read only."""
    folder = tmp_path_factory.mktemp("corpus")
    assert [path.name for path in write_caption_films(folder, 1, 1, 1)] == [f"film_000{k}.mp4" for k in range(3)]
    return folder


@pytest.fixture(scope="module")
def many() -> list[Slots]:
    return [slots for k in range(400) for slots in draw_film(k, seed=0)]


def test_every_object_is_in_two_clips_and_no_two_share_a_colour(many):
    for _, film in groupby(many, lambda slots: slots.film):
        film = list(film)
        assert [slots.clip for slots in film] == list(range(8))
        assert sorted(Counter(slots.colour for slots in film).values()) == [2, 2, 2, 2]
        for slots in film:
            earlier = [other for other in film[: slots.clip] if other.colour == slots.colour]
            due = (True, earlier[0].set, slots.clip - earlier[0].clip) if earlier else (False, "", 0)
            assert (slots.is_seen, slots.earlier_set, slots.lag_clips) == due


def test_what_is_drawn_is_even_and_the_set_that_is_visible_does_not_tell_the_earlier_one(many):
    for name, values in (("colour", COLOURS), ("action", ACTIONS), ("set", SETS)):
        counts = Counter(getattr(slots, name) for slots in many)
        assert set(counts) == set(values)
        assert max(counts.values()) < 1.25 * min(counts.values())
    seen = [slots for slots in many if slots.is_seen]
    assert {slots.lag_clips for slots in seen} == set(range(1, 8))
    assert abs(np.mean([slots.set == slots.earlier_set for slots in seen]) - 0.25) < 0.04


def test_film_depends_on_its_number_and_the_seed_alone(tmp_path, corpus):
    list(write_caption_films(tmp_path, 0, 2, 0))
    assert (tmp_path / "film_0001.mp4").read_bytes() == (corpus / "film_0001.mp4").read_bytes()
    assert draw_film(1, seed=0) == draw_film(1, seed=0) != draw_film(1, seed=1)
    assert [s.caption for s in draw_film(1, 0)] != [s.caption for s in draw_film(2, 0)]


def test_tables_say_what_is_in_each_clip_and_of_which_split_it_is(corpus):
    captions, slots = read_captions(corpus / "captions.csv"), read_all_slots(corpus / "slots.csv")
    assert slots == [row for k in range(3) for row in draw_film(k, seed=0)]
    assert [row.caption for row in captions] == [row.caption for row in slots]
    assert [(row.film, row.clip) for row in captions] == [(row.film, row.clip) for row in slots]
    assert [row.split for row in captions] == ["train"] * 8 + ["validation"] * 8 + ["test"] * 8
    assert [(row.start_s, row.end_s) for row in captions[:8]] == [(k, k + 1) for k in range(8)]


def test_films_are_three_frames_a_second_of_what_was_rendered(corpus):
    images, times = zip(*decode(corpus / "film_0002.mp4"), strict=True)
    np.testing.assert_allclose(times, np.arange(24) / 3, atol=1e-9)
    rendered = list(render_film(draw_film(2, 0), np.random.default_rng((0, 2, 1))))
    assert images[0].shape == rendered[0].shape == (180, 320, 3)
    away = [np.abs(a.astype(float) - b).mean() for a, b in zip(images, rendered, strict=True)]
    other = np.abs(images[0].astype(float) - rendered[3]).mean()
    assert max(away) < 8 < other


def test_films_are_kept_and_may_become_more_but_not_others(tmp_path):
    path = next(write_caption_films(tmp_path, 1, 1, 0))
    path.write_bytes(b"kept")
    assert len(list(write_caption_films(tmp_path, 2, 1, 0))) == 3
    assert path.read_bytes() == b"kept"
    assert len(list(write_caption_films(tmp_path, 1, 0, 0))) == 1
    with pytest.raises(InputError, match=r"slots\.csv: is of other films than these"):
        next(write_caption_films(tmp_path, 1, 1, 0, seed=1))


def ball(frame: np.ndarray, colour: str) -> tuple[float, float, float]:
    """The ball's middle, x and y, and its radius in a frame as it is rendered."""
    y, x = np.nonzero((frame == np.array(COLOURS[colour])).all(-1))
    return x.mean(), y.mean(), float(np.sqrt(len(x) / np.pi))


def test_actions_are_what_is_seen_and_stay_in_the_square_that_networks_crop():
    middles = []
    for k in range(12):
        film = draw_film(k, 1)
        frames = list(render_film(film, np.random.default_rng(k)))
        for slots in film:
            (x0, y0, r0), (x1, y1, r1), (x2, y2, r2) = (ball(f, slots.colour) for f in frames[3 * slots.clip :][:3])
            moves = {"moves left": x2 < x1 - 5, "moves right": x2 > x1 + 5}.get(slots.action, abs(x2 - x0) < 1)
            grows = {"grows": r2 > 1.2 * r1, "shrinks": r2 < r1 / 1.2}.get(slots.action, abs(r2 - r0) < 1)
            assert moves, slots
            assert grows, slots
            assert abs(x1 - (x0 + x2) / 2) < 1 > abs(y0 - y2)
            for x, y, r in ((x0, y0, r0), (x1, y1, r1), (x2, y2, r2)):
                assert max(abs(x - 159.5), abs(y - 89.5)) + r < 180 * 224 / 256 / 2
            middles.append((x1 - 159.5, y1 - 89.5, r1))
    x, y, r = np.array(middles).T
    assert 25 < np.abs(x).max() < 29
    assert 25 < np.abs(y).max() < 29
    assert 1.4 < r.max() / r.min() < 1.22 / 0.78 + 0.1


@pytest.mark.parametrize("name", SETS)
def test_sets_have_two_tones_of_high_contrast_and_colours_of_their_own(name):
    pictures = [paint_set(name, np.random.default_rng(k)).astype(int) for k in range(8)]
    assert len({tuple(picture[0, 0]) for picture in pictures}) == 8
    for picture in pictures:
        tones = np.array(sorted(set(map(tuple, picture[::3, ::3].reshape(-1, 3)))))
        assert len(tones) == (1 if name == "plain" else 2)
        apart = np.abs(tones[0] - tones[-1])
        assert name == "plain" or (apart.min() >= CONTRAST[0] - 1 and apart.max() <= CONTRAST[1] + 1)


def test_captions_are_read_back_into_what_they_say(many):
    for slots in many[:200]:
        told = read_slots(slots.caption)
        assert (told["colour"], told["action"], told["is_seen"]) == (slots.colour, slots.action, slots.is_seen)
        assert told["set"] == (None if slots.is_seen else slots.set)
        assert told["earlier_set"] == (slots.earlier_set or None)
    assert read_slots("a red ball moves left on a striped set.") == {
        "colour": "red",
        "action": "moves left",
        "set": "striped",
        "earlier_set": None,
        "is_seen": False,
    }


@pytest.mark.parametrize("text", ["", ".", "ball ball set the", "another sun shines", "a" * 1000])
def test_captions_that_say_nothing_of_the_kind_have_no_slots(text):
    assert set(read_slots(text).values()) <= {None}


def test_scores_of_slots_count_what_can_be_right():
    film = draw_film(3, 0)
    assert slot_scores([s.caption for s in film], film) == dict.fromkeys(
        ("colour", "action", "is_seen", "set", "earlier_set", "exact"), 1.0
    )
    wrong = [s.caption.replace(s.earlier_set if s.is_seen else s.set, "striped") for s in film]
    scores = slot_scores(wrong, film)
    assert scores["earlier_set"] == np.mean([s.earlier_set == "striped" for s in film if s.is_seen])
    assert scores["set"] == np.mean([s.set == "striped" for s in film if not s.is_seen])
    assert (scores["colour"], scores["action"], scores["is_seen"]) == (1, 1, 1)
    assert set(slot_scores([""] * 8, film).values()) == {0.0}
    assert np.isnan(slot_scores([film[0].caption], film[:1])["earlier_set"])


def test_perfect_eyes_without_memory_are_right_about_half_of_the_clips(many):
    test = many[:800]
    captions = captions_without_memory(test)
    due = {"colour": 1, "action": 1, "is_seen": 0.5, "set": 1, "earlier_set": 0, "exact": 0.5}
    assert slot_scores(captions, test) == due
    sacrebleu = pytest.importorskip("sacrebleu")
    texts = [[text.rstrip(".") for text in rows] for rows in (captions, [s.caption for s in test])]
    bleu = sacrebleu.corpus_bleu(texts[0], [texts[1]], tokenize="none", smooth_method="none").score
    assert abs(bleu - 58.9) < 0.5
