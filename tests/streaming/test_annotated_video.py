"""A stream as a video, and the words for its answers and events: every answer has its picture, at its time."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from recognition.common.command_line import InputError
from recognition.episodes.rendering import BAR, HEIGHT, WIDTH
from recognition.films.video import decode
from recognition.streaming.annotated_video import OLD, AnnotatedVideo, labelled
from recognition.streaming.answers import Answer
from recognition.streaming.event import Event
from recognition.streaming.words import clock, lasting, said, words_of, words_of_event

OLD_ANSWER = Answer(200.0, 2.5, True, 67.0, 0.97, 60.0)


def picture_of(k: int) -> np.ndarray:
    """The k-th picture: a grey that coding keeps apart from others."""
    return np.full((48, 64, 3), 20 + 10 * k, np.uint8)


def numbers_of(path: Path) -> tuple[list[int], list[float]]:
    """Which pictures a video shows, and when."""
    frames = list(decode(path))
    assert {picture.shape for picture, _ in frames} == {(HEIGHT + BAR, WIDTH, 3)}
    means = [picture[HEIGHT // 2, WIDTH // 2].mean() for picture, _ in frames]
    return [round((mean - 20) / 10) for mean in means], [time_s for _, time_s in frames]


def test_video_has_as_many_pictures_as_answers_at_the_times_of_the_stream(tmp_path):
    times_s = [0.0, 0.1, 0.2, 0.7, 0.74, 3.0, 3.1]
    with AnnotatedVideo(tmp_path / "made" / "out.mp4") as video:
        for k, time_s in enumerate(times_s):
            video.write(picture_of(k), Answer(time_s, 1.0, k % 2 == 0), "")
    numbers, found_s = numbers_of(tmp_path / "made" / "out.mp4")
    assert numbers == list(range(len(times_s)))
    np.testing.assert_allclose(found_s, times_s, atol=0.001)


def test_stream_that_goes_on_begins_its_video_with_its_first_picture(tmp_path):
    with AnnotatedVideo(tmp_path / "out.mp4") as video:
        for k, time_s in enumerate((600.0, 600.5, 600.5)):  # two at one time
            video.write(picture_of(k), Answer(time_s, 1.0, True), "")
    numbers, found_s = numbers_of(tmp_path / "out.mp4")
    assert numbers == [0, 1, 2]
    np.testing.assert_allclose(found_s, [0, 0.5, 0.501], atol=0.0005)


def test_what_was_written_until_an_interruption_can_be_played(tmp_path):
    with suppress(KeyboardInterrupt), AnnotatedVideo(tmp_path / "out.mp4") as video:
        for k in range(5):
            video.write(picture_of(k), Answer(k / 10, 1.0, True), "")
        raise KeyboardInterrupt
    assert numbers_of(tmp_path / "out.mp4")[0] == [0, 1, 2, 3, 4]
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_video_has_its_name_only_once_it_is_whole(tmp_path):
    video = AnnotatedVideo(tmp_path / "out.mp4")
    video.write(picture_of(0), OLD_ANSWER, "")
    assert not (tmp_path / "out.mp4").exists()
    video.close()
    video.close()
    assert numbers_of(tmp_path / "out.mp4")[0] == [0]


def test_stream_without_an_answer_leaves_no_video(tmp_path):
    AnnotatedVideo(tmp_path / "out.mp4").close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["out.avi", "out", "folder.mp4"])
def test_path_that_is_no_videos_is_refused_before_the_first_picture(tmp_path, name):
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(InputError, match=rf"--video .*{name}: must end in \.mp4, and be no folder"):
        AnnotatedVideo(tmp_path / name)


def test_folder_that_cannot_be_written_is_told_by_name(tmp_path):
    video = AnnotatedVideo(tmp_path / "gone" / "out.mp4")
    (tmp_path / "gone").rmdir()
    with pytest.raises(OSError, match=r"gone/.*out\.mp4"):
        video.write(picture_of(0), OLD_ANSWER, "")
    video.close()


def test_bar_says_when_in_words_of_its_own_answer_unless_others_are_given():
    picture = picture_of(3)
    np.testing.assert_array_equal(labelled(picture, OLD_ANSWER), labelled(picture, OLD_ANSWER, "seen 2 min 13 s ago"))
    assert not np.array_equal(labelled(picture, OLD_ANSWER), labelled(picture, OLD_ANSWER, ""))


def test_old_answers_are_coloured_and_new_ones_white():
    for says_old in (True, False):
        bar = labelled(picture_of(0), Answer(1.0, 1.0, says_old))[HEIGHT:].astype(int)
        assert ((np.abs(bar - OLD).max(2) < 20).sum() > 15) == says_old


def test_words_that_are_too_long_are_cut_and_leave_the_time_alone():
    picture = picture_of(0)
    bar = labelled(picture, OLD_ANSWER, "a very long word " * 20)[HEIGHT:].astype(int)
    written = (np.abs(bar - bar[0, 0]).max(2) > 30).any(0).nonzero()[0]
    assert 8 < written.min() <= written.max() < WIDTH - 8
    alone = labelled(picture, Answer(200.0, 2.5, True), "")[HEIGHT:].astype(int)
    np.testing.assert_array_equal(bar[:, :75], alone[:, :75])


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (OLD_ANSWER, "seen 2 min 13 s ago"),
        (Answer(200.0, 2.5, True, None, 0.97, 60.0), "nearest frame 2 min 20 s ago"),
        (Answer(200.0, 2.5, True), ""),
        (Answer(200.0, -2.5, False, 67.0, 0.97, 60.0), ""),
    ],
)
def test_words_tell_a_look_up_of_the_model_from_the_nearest_frame_of_the_ring(answer, words):
    assert words_of(answer) == words


def test_probability_is_that_of_what_is_said():
    assert said(Answer(0.0, 2.5, True)) == "old 0.92"
    assert said(Answer(0.0, -2.5, False)) == "new 0.92"
    assert said(Answer(0.0, 2.5, False)) == "new 0.08"  # by a threshold above 2.5
    assert said(Answer(0.0, 1000.0, True)) == "old 1.00"
    assert said(Answer(0.0, -1000.0, True)) == "old 0.00"


def test_times_and_durations_are_told_as_people_do():
    assert [clock(time_s) for time_s in (0, 133, 59.9999999, 3733.2, -5)] == [
        *("00:00", "02:13", "01:00", "1:02:13", "-00:05")
    ]
    assert [lasting(duration_s) for duration_s in (0.2, 13, 59.7, 133, 3725, 90_000)] == [
        *("0 s", "13 s", "1 min", "2 min 13 s", "1 h 2 min", "25 h")
    ]


@pytest.mark.parametrize(
    ("kind", "seen", "words"),
    [
        ("replay", (133.0, 137.0), "02:13 to 02:17 again"),
        ("return", (133.0, 137.0), "this place, as at 02:13"),
        ("resemblance", (None, None), "resembles what was seen"),
    ],
)
def test_events_are_told_by_their_kind(kind, seen, words):
    assert words_of_event(Event(300.0, 304.0, kind, *seen, None, 2.0, 1.0, 40)) == words
