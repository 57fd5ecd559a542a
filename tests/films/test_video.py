"""Decoding: every frame once, upright, with its own time; a film that is not whole is refused."""

import random
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from on_disk import CLIPS, truncate

from recognition.common.command_line import InputError
from recognition.films import video
from recognition.films.synthetic import write_films
from recognition.films.video import (
    VIDEO_SUFFIXES,
    DecodeError,
    VideoInfo,
    decode,
    files_passed_over,
    find_videos,
    probe,
    read_frames,
)

HEIGHT, WIDTH = 48, 64
UNEVEN_MS = [40 * k + 13 * (k % 3) for k in range(60)]
OPEN_GOPS = {"g": "8", "x264-params": "open-gop=1:bframes=3:b-pyramid=normal:scenecut=0"}
REAL_FILMS = [  # beside the checkout; their tests are skipped where they are absent
    path for path in sorted(CLIPS.glob("*")) if path.suffix in VIDEO_SUFFIXES and "corrupted" not in path.name
]


def write_video(
    path: Path,
    times_ms: Sequence[int] = range(0, 1000, 40),
    codec: str = "libx264",
    tags: dict | None = None,
    coding: dict[str, str] | None = None,
    **options,
) -> Path:
    """Write a video in which frame k has grey 8 k modulo 256 and a bright corner at the upper left."""
    with av.open(str(path), "w", container_options=options) as container:
        container.metadata.update(tags or {})
        stream = container.add_stream(codec, rate=25, options={"bf": "2", **(coding or {})})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        if codec == "libx264":
            stream.codec_context.time_base = Fraction(1, 1000)
        for k, time_ms in enumerate(times_ms):
            image = np.full((HEIGHT, WIDTH, 3), 8 * k % 256, np.uint8)
            image[:16, :16] = 255
            frame = av.VideoFrame.from_ndarray(image)
            frame.pts, frame.time_base = (time_ms, Fraction(1, 1000)) if codec == "libx264" else (k, Fraction(1, 25))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_sound(path: Path) -> Path:
    """Write one second of silence as a WAV file, whatever the name says."""
    with av.open(str(path), "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def split_boxes(content: bytes) -> list[bytes]:
    """Split a part of an mp4 file into its boxes."""
    boxes = []
    while content:
        size = int.from_bytes(content[:4], "big")
        boxes.append(content[:size])
        content = content[size:]
    return boxes


def turn(path: Path, degrees: int) -> None:
    """Make an mp4 file ask for a rotation, clockwise."""
    content = bytearray(path.read_bytes())
    cos, sin = round(np.cos(np.radians(degrees))), round(np.sin(np.radians(degrees)))
    matrix = (cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30)  # ISO 14496-12
    struct.pack_into(">9i", content, content.index(b"tkhd") + 44, *matrix)
    path.write_bytes(content)


def times(path: Path) -> np.ndarray:
    """Times of all frames, in seconds."""
    return np.array([time_s for _, time_s in decode(path)])


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film of 24 frames. Read only."""
    [path] = write_films(tmp_path_factory.mktemp("film"), 1, duration_s=2, fps=12)
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_every_frame_comes_once_and_in_order(tmp_path, suffix):
    greys = [image[-16:, -16:].mean() for image, _ in decode(write_video(tmp_path / f"video{suffix}"))]
    np.testing.assert_allclose(greys, 8 * np.arange(25), atol=3)  # lossy


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_uneven_times_are_kept(tmp_path, suffix):
    uneven = [0, 33, 66, 200, 230, 500, 533, 1700]
    np.testing.assert_allclose(times(write_video(tmp_path / f"video{suffix}", uneven)) * 1000, uneven, atol=0.5)


def test_times_increase_in_avi_files_with_b_frames(tmp_path):
    found = times(write_video(tmp_path / "video.avi"))
    assert np.diff(found).min() > 0
    np.testing.assert_allclose(found, np.arange(1, 26) / 25, atol=0.081)  # two frames: avi stores no times


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotation_that_a_film_asks_for_is_applied(tmp_path, degrees):
    path = write_video(tmp_path / "video.mp4")
    upright = [image for image, _ in decode(path)]
    turn(path, degrees)
    turned = [image for image, _ in decode(path)]
    np.testing.assert_array_equal(turned, [np.rot90(image, -degrees // 90) for image in upright])
    corner = {0: (0, 0), 90: (0, -1), 180: (-1, -1), 270: (-1, 0)}[degrees]
    assert turned[0][corner].min() > 200
    assert all(image.flags.c_contiguous for image in turned)


def test_decoding_with_threads_gives_the_same_frames(film):
    for (image, time_s), (threaded, threaded_s) in zip(decode(film), decode(film, threads=2), strict=True):
        np.testing.assert_array_equal(image, threaded)
        assert time_s == threaded_s


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.6, 0.9, 0.99])
def test_truncated_mp4_is_refused(tmp_path, film, share):
    path = tmp_path / "film.mp4"
    path.write_bytes(film.read_bytes()[: int(share * film.stat().st_size)])
    with pytest.raises(DecodeError):
        list(decode(path))


@pytest.mark.parametrize("share", [0.2, 0.35, 0.5, 0.65, 0.8])
@pytest.mark.parametrize(
    ("name", "options"),
    [("video.mp4", {"movflags": "faststart"}), ("video.mov", {"movflags": "faststart"}), ("video.avi", {})],
)
def test_film_whose_list_of_frames_outlived_their_end_is_refused(tmp_path, name, options, share):
    codec = "mpeg4" if name.endswith("avi") else "libx264"
    path = write_video(tmp_path / name, range(0, 10_000, 40), codec, **options)
    truncate(path, share)
    with pytest.raises(DecodeError):
        list(decode(path))


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_film_that_ends_within_a_packet_is_refused(tmp_path, codec):
    path = write_video(tmp_path / "video.avi", codec=codec)
    with av.open(str(path)) as container:
        ends = [packet.pos + packet.size for packet in container.demux(video=0) if packet.size]
    content = path.read_bytes()
    for end in ends[15:]:
        path.write_bytes(content[: end - 2])
        with pytest.raises(DecodeError):
            list(decode(path))


@pytest.mark.parametrize("share", [0.2, 0.35, 0.5, 0.65, 0.8])
def test_damage_in_the_middle_is_refused(tmp_path, film, share):
    content = bytearray(film.read_bytes())
    start = int(share * len(content))
    content[start : start + 2000] = bytes(2000)  # a lost block; wrong bytes of other kinds can pass for a picture
    (tmp_path / "film.mp4").write_bytes(content)
    with pytest.raises(DecodeError, match=r"after \d+ frames|frame \d+ is damaged"):
        list(decode(tmp_path / "film.mp4"))


@pytest.mark.parametrize("read", [probe, lambda path: list(decode(path))], ids=["probe", "decode"])
def test_what_is_no_film_is_refused_in_one_line(tmp_path, read):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no film at all\n" * 100)
    (tmp_path / "folder.mp4").mkdir()
    write_sound(tmp_path / "sound.mp4")
    for name in ("empty", "text", "folder", "sound", "missing"):
        with pytest.raises(DecodeError, match="holds no video stream" if name == "sound" else r"^[^\n/]+$"):
            read(tmp_path / f"{name}.mp4")


@pytest.mark.parametrize("read", [probe, lambda path: list(decode(path))], ids=["probe", "decode"])
def test_film_of_an_unknown_codec_is_called_so(tmp_path, read):
    path = write_video(tmp_path / "video.mp4")
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(DecodeError, match=r"^is of a codec that FFmpeg does not know"):
        read(path)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_tags_in_another_encoding_do_not_matter(tmp_path, suffix):
    path = write_video(tmp_path / f"video{suffix}", tags={"title": "QQQQQQ"})
    content = path.read_bytes()
    assert b"QQQQQQ" in content
    path.write_bytes(content.replace(b"QQQQQQ", "Amélie".encode("latin-1")))
    assert len(times(path)) == 25
    assert probe(path).width == WIDTH


def test_cover_picture_is_passed_over(tmp_path):
    path = tmp_path / "video.mp4"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream(codec, rate=25) for codec in ("png", "libx264")]
        for stream, size, pixels in zip(streams, (32, 64), ("rgb24", "yuv420p"), strict=True):
            stream.width, stream.height, stream.pix_fmt = size, size, pixels
        streams[0].disposition = av.stream.Disposition.attached_pic.value
        for stream, size, num_frames in zip(streams, (32, 64), (1, 5), strict=True):
            for _ in range(num_frames):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((size, size, 3), np.uint8))))
            container.mux(stream.encode())
    boxes = [
        box[:8] + b"".join(sorted(split_boxes(box[8:]), key=lambda inner: inner[4:8] != b"udta"))  # the cover first
        if box[4:8] == b"moov"
        else box
        for box in split_boxes(path.read_bytes())
    ]
    path.write_bytes(b"".join(boxes))
    with av.open(str(path)) as container:
        assert [stream.codec_context.name for stream in container.streams.video] == ["png", "h264"]
    assert [image.shape for image, _ in decode(path)] == [(64, 64, 3)] * 5
    assert probe(path).width == 64


def test_probe_tells_what_the_container_claims(film, tmp_path):
    assert probe(film) == VideoInfo(320, 180, 12.0, 24)
    assert probe(write_video(tmp_path / "video.mkv")).num_frames == pytest.approx(25, abs=1)  # from its duration


def test_films_are_found_by_name_and_other_files_are_passed_over(tmp_path):
    for name in ("b.mp4", "a.MKV", "c.webm", ".hidden.mp4", "notes.txt", "b.jpg", "manifest.csv", "d.mp4.part"):
        (tmp_path / name).touch()
    assert [path.name for path in find_videos(tmp_path)] == ["a.MKV", "b.mp4", "c.webm"]
    assert [path.name for path in files_passed_over(tmp_path)] == ["b.jpg", "d.mp4.part", "notes.txt"]


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.3gp", "libx264", {}),
        ("a.3g2", "libx264", {}),
        ("a.f4v", "libx264", {}),
        ("a.ogv", "libvpx", {}),
        ("a.m2ts", "libx264", {"mpegts_m2ts_mode": "1"}),
        ("a.mts", "libx264", {}),
        ("a.vob", "mpeg2video", {}),
        ("a.asf", "wmv2", {}),
        ("a.wmv", "wmv2", {}),
        ("a.mpg", "mpeg2video", {}),
    ],
)
def test_films_of_other_containers_are_found_and_read_whole(tmp_path, name, codec, options):
    path = write_video(tmp_path / name, codec=codec, coding={"bf": "0"}, **options)
    assert find_videos(tmp_path) == [path]
    greys = [image[-16:, -16:].mean() for image, _ in decode(path)]
    np.testing.assert_allclose(greys, 8 * np.arange(25), atol=5)
    assert np.ptp(times(path)) == pytest.approx(24 / 25, abs=0.05)  # one frame: mpg does not tell the time of each
    check_frames(path, 3)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (None, "no such folder"),
        ([], "holds no film"),
        (["notes.txt", ".hidden.mp4"], "holds no film"),
        (["a.mp4", "b.mp4", "a.mkv"], r"a\.mkv and .*a\.mp4 would share one feature file"),
    ],
)
def test_folder_that_cannot_be_used_is_refused(tmp_path, names, message):
    folder = tmp_path / "videos"
    if names is not None:
        folder.mkdir()
        for name in names:
            (folder / name).touch()
    with pytest.raises(InputError, match=message):
        find_videos(folder)


def check_frames(path: Path, num_asked: int) -> None:
    """Fail unless frames read by their times, in any order and repeated, are those that `decode` gives."""
    frames = list(decode(path))
    for numbers in ([0], [len(frames) - 1], random.Random(0).choices(range(len(frames)), k=num_asked)):
        found = read_frames(path, [frames[k][1] for k in numbers])
        np.testing.assert_array_equal(found, [frames[k][0] for k in numbers])


@pytest.mark.parametrize("coding", [{}, {"g": "8"}, {"g": "7", "bf": "0"}, OPEN_GOPS], ids=str)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".avi", ".ts", ".flv"])
def test_frames_read_by_their_times_are_those_of_decoding(tmp_path, suffix, coding):
    path = write_video(tmp_path / f"video{suffix}", UNEVEN_MS, coding=coding)
    check_frames(path, 5)


@pytest.mark.parametrize("codec", ["mpeg4", "mpeg2video", "libvpx-vp9"])
@pytest.mark.parametrize("suffix", [".mkv", ".avi"])
def test_frames_of_other_codecs_are_found_too(tmp_path, suffix, codec):
    check_frames(write_video(tmp_path / f"video{suffix}", range(0, 2000, 40), codec, coding={"g": "9"}), 5)


@pytest.mark.parametrize("path", REAL_FILMS, ids=lambda path: path.name)
def test_frames_of_real_films_are_found_by_their_times(path):
    check_frames(path, 3)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_frames_read_by_their_times_are_upright(tmp_path, degrees):
    path = write_video(tmp_path / "video.mp4", UNEVEN_MS, coding={"g": "8"})
    turn(path, degrees)
    check_frames(path, 4)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_late_frames_are_read_without_decoding_the_film_from_its_start(tmp_path, monkeypatch, suffix):
    path = write_video(tmp_path / f"video{suffix}", UNEVEN_MS, coding={"g": "8"})
    frames = list(decode(path))
    decoded, picture = [], video.PictureMaker.picture
    monkeypatch.setattr(video, "decode", lambda path: pytest.fail("decoded from the start"))
    monkeypatch.setattr(
        video.PictureMaker, "picture", lambda maker, frame: decoded.append(frame.time) or picture(maker, frame)
    )
    [found] = read_frames(path, [frames[50][1]])
    np.testing.assert_array_equal(found, frames[50][0])
    assert decoded == [frames[50][1]]


def test_frames_that_share_a_time_are_told_apart_as_decoding_does(tmp_path):
    path = tmp_path / "video.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "1", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        images = [np.full((HEIGHT, WIDTH, 3), 12 * k, np.uint8) for k in range(20)]
        packets = [packet for image in images for packet in stream.encode(av.VideoFrame.from_ndarray(image))]
        for k, packet in enumerate([*packets, *stream.encode()]):
            packet.pts = packet.dts = k - (k > 4)  # frames 4 and 5 at once, all later ones a frame early
            container.mux(packet)
    frames = list(decode(path))
    np.testing.assert_allclose([time_s for _, time_s in frames[:10]], np.arange(10) / 25)
    for image, time_s in frames:
        np.testing.assert_array_equal(read_frames(path, [time_s]), [image])


def test_time_at_which_a_film_has_no_frame_is_refused(tmp_path):
    path = write_video(tmp_path / "video.mp4")
    with pytest.raises(DecodeError, match=r"no frame at 0\.050000 s"):
        read_frames(path, [0.04, 0.05])
    with pytest.raises(DecodeError, match=r"no frame at 7\.000000 s"):
        read_frames(path, [7])
    assert read_frames(path, []) == []


def test_frames_of_what_is_no_film_are_refused(tmp_path):
    (tmp_path / "text.mp4").write_text("no film at all\n" * 100)
    for name in ("text", "missing"):
        with pytest.raises(DecodeError, match=r"^[^\n/]+$"):
            read_frames(tmp_path / f"{name}.mp4", [0.0])
