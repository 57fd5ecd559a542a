"""The picture that people see: colours as they are tagged, square pixels, upright and not mirrored."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext
from changing_films import write_changing_film

from recognition.films.picture import display_matrix, square_size
from recognition.films.video import DecodeError, decode, read_frames

HEIGHT, WIDTH = 48, 64
TURNS = [np.array(matrix) for matrix in ([[1, 0], [0, 1]], [[0, 1], [-1, 0]], [[-1, 0], [0, -1]], [[0, -1], [1, 0]])]
ORIENTATIONS = [mirror @ turn for mirror in (np.diag([1, 1]), np.diag([-1, 1])) for turn in TURNS]
FULL, LIMITED = 2, 1
SHARES = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}  # of red and blue in luma


def write(path: Path, pixels: str = "yuv420p", codec: str = "libx264", num_frames: int = 8, **tags) -> Path:
    """A film whose four quarters are red, green, blue and grey."""
    image = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    for colour, (y, x) in enumerate([(0, 0), (0, 1), (1, 0)]):
        image[y * HEIGHT // 2 :, x * WIDTH // 2 :][: HEIGHT // 2, : WIDTH // 2] = 200 * (np.arange(3) == colour)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixels
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        for _ in range(num_frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        container.mux(stream.encode())
    return path


def ask_for(path: Path, matrix: np.ndarray) -> Path:
    """Write a display matrix (2, 2) of 16.16 bits into an mp4 file; ISO/IEC 14496-12 names its place."""
    content = bytearray(path.read_bytes())
    (a, b), (c, d) = (65536 * matrix).astype(int).tolist()
    struct.pack_into(">9i", content, content.index(b"tkhd") + 44, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


def shown(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Where a matrix of -1, 0 and 1 puts every pixel, one by one: (x, y) goes to (x, y) @ matrix, moved into view."""
    places = {(x, y): np.array([x, y]) @ matrix for y, x in np.ndindex(image.shape[:2])}
    first, last = np.min([*places.values()], 0), np.max([*places.values()], 0)
    found = np.zeros((*(last - first + 1)[::-1], 3), np.uint8)
    for (x, y), place in places.items():
        column, row = place - first
        found[row, column] = image[y, x]
    return found


@pytest.mark.parametrize("matrix", ORIENTATIONS, ids=lambda matrix: str(matrix.tolist()))
def test_display_matrix_is_followed_in_all_eight_orientations(tmp_path, matrix):
    path = write(tmp_path / "video.mp4")
    before = [image for image, _ in decode(path)]
    frames = list(decode(ask_for(path, matrix)))
    np.testing.assert_array_equal([image for image, _ in frames], [shown(image, matrix) for image in before])
    assert all(image.flags.c_contiguous for image, _ in frames)
    np.testing.assert_array_equal(read_frames(path, [frames[1][1]])[0], frames[1][0])


def test_mirrored_film_is_mirrored_from_left_to_right(tmp_path):
    path = ask_for(write(tmp_path / "video.mp4"), np.diag([-1, 1]))
    image, _ = next(decode(path))
    assert image[4, -4].argmax() == 0  # red was at the upper left
    assert image[-4, -4].argmax() == 2


@pytest.mark.parametrize(
    ("matrix", "turned"),
    [
        ([[0, 0], [0, 0]], 0),
        ([[1, 0.5], [0.5, 1]], 0),  # a shear
        ([[0.866, 0.5], [-0.5, 0.866]], 0),  # 30 degrees
        ([[0.5, 0.866], [-0.866, 0.5]], 3),  # 60 degrees clockwise are nearer to 90
        ([[0, 20], [-20, 0]], 3),  # and twenty times as large
    ],
)
def test_matrix_that_is_no_orientation_gives_the_nearest(tmp_path, matrix, turned):
    path = write(tmp_path / "video.mp4")
    before, _ = next(decode(path))
    image, _ = next(decode(ask_for(path, np.array(matrix))))
    np.testing.assert_array_equal(image, np.rot90(before, turned))


def test_angle_serves_where_side_data_cannot_be_read(tmp_path):
    """PyAV cannot name all kinds of side data, and then gives none."""
    path = write(tmp_path / "video.mp4")
    with av.open(str(ask_for(path, TURNS[1]))) as container:
        frame = next(container.decode(video=0))

    class Frame:
        rotation = frame.rotation

        @property
        def side_data(self):
            raise ValueError("29 is not a valid Type")

    np.testing.assert_allclose(display_matrix(Frame()), display_matrix(frame) / 65536, atol=1e-9)


def luma_and_chroma(colour: tuple[int, int, int], space: int, full: bool, bits: int) -> list[int]:
    """ITU-R BT.601, 709 and 2020 from red, green and blue, 0 to 255."""
    red, green, blue = (value / 255 for value in colour)
    of_red, of_blue = SHARES[space]
    luma = of_red * red + (1 - of_red - of_blue) * green + of_blue * blue
    chroma = (blue - luma) / (2 - 2 * of_blue), (red - luma) / (2 - 2 * of_red)
    if full:
        scales = [(luma, 2**bits - 1, 0), *((value, 2**bits - 1, 2 ** (bits - 1)) for value in chroma)]
    else:
        scales = [(luma, 219 << bits - 8, 16 << bits - 8), *((v, 224 << bits - 8, 128 << bits - 8) for v in chroma)]
    return [round(value * scale + offset) for value, scale, offset in scales]


def write_flat(
    path: Path,
    planes: list[int],
    pixels: str,
    codec: str,
    width: int = WIDTH,
    height: int = HEIGHT,
    num_frames: int = 1,
    **tags,
) -> Path:
    """A film of one colour, given in the numbers that are stored."""
    frame = av.VideoFrame(width, height, pixels)
    for plane, value in zip(frame.planes, planes, strict=True):
        size = np.uint16 if pixels.endswith("le") else np.uint8
        plane.update(np.full(plane.buffer_size // np.dtype(size).itemsize, value, size))
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"crf": "1"} if codec.startswith("libx") else {})
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
            setattr(frame, name, value)
        for k in range(num_frames):
            frame.pts = k
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("colour", [(200, 40, 30), (20, 180, 60), (240, 240, 240), (10, 20, 200)], ids=str)
@pytest.mark.parametrize(
    ("space", "range_", "pixels", "codec"),
    [
        *((space, range_, "yuv420p", "libx264") for space in SHARES for range_ in (LIMITED, FULL)),
        *((space, range_, "yuv420p10le", "libx265") for space in SHARES for range_ in (LIMITED, FULL)),
    ],
)
def test_colours_are_those_that_the_film_is_tagged_with(tmp_path, space, range_, pixels, codec, colour):
    bits = 10 if pixels.endswith("10le") else 8
    planes = luma_and_chroma(colour, space, range_ == FULL, bits)
    path = write_flat(tmp_path / "video.mkv", planes, pixels, codec, colorspace=space, color_range=range_)
    image, _ = next(decode(path))
    np.testing.assert_allclose(image[::7, ::7], np.broadcast_to(colour, image[::7, ::7].shape), atol=4)


def test_film_without_tags_has_colours_of_bt601(tmp_path):
    planes = luma_and_chroma((200, 40, 30), space=5, full=False, bits=8)
    image, _ = next(decode(write_flat(tmp_path / "video.mkv", planes, "yuv420p", "libx264")))
    np.testing.assert_allclose(image[::7, ::7], np.broadcast_to((200, 40, 30), image[::7, ::7].shape), atol=4)


def tag(path: Path, tags: str, codec: str = "h264") -> Path:
    """Write other tags into a film, by the numbers of its codec."""
    tagged = path.with_name(f"tagged_{path.name}")
    with av.open(str(path)) as before, av.open(str(tagged), "w") as after:
        stream = after.add_stream_from_template(before.streams.video[0])
        change = BitStreamFilterContext(f"{codec}_metadata={tags}", before.streams.video[0], stream)
        for packet in before.demux(video=0):
            for changed in change.filter(packet) if packet.size else []:
                changed.stream = stream
                after.mux(changed)
    return tagged


@pytest.mark.parametrize(
    ("encoder", "codec", "tags"),
    [
        ("libx264", "h264", "transfer_characteristics=9"),
        ("libx264", "h264", "colour_primaries=3:transfer_characteristics=3:matrix_coefficients=3"),
        ("libvpx-vp9", "vp9", "color_space=6"),  # "reserved"
    ],
)
def test_tags_that_decide_nothing_do_not_keep_a_film_from_being_read(tmp_path, encoder, codec, tags):
    planes = luma_and_chroma((200, 40, 30), space=5, full=False, bits=8)
    path = tag(write_flat(tmp_path / "video.mkv", planes, "yuv420p", encoder, num_frames=4), tags, codec)
    image, _ = next(decode(path))
    np.testing.assert_allclose(image[::7, ::7], np.broadcast_to((200, 40, 30), image[::7, ::7].shape), atol=4)


@pytest.mark.parametrize(
    ("orientation", "matrix"),
    [("rotate=90", TURNS[3]), ("flip=horizontal", ORIENTATIONS[4]), ("flip=vertical", -ORIENTATIONS[4])],
)
def test_orientation_that_the_frames_themselves_ask_for_is_followed(tmp_path, orientation, matrix):
    path = write(tmp_path / "video.mkv")
    before = next(decode(path))[0]
    image = next(decode(tag(path, f"display_orientation=insert:{orientation}")))[0]
    np.testing.assert_array_equal(image, shown(before, matrix))


def test_colour_space_that_is_not_known_is_named(tmp_path):
    path = write(tmp_path / "video.mp4", colorspace=8)  # YCgCo
    with pytest.raises(DecodeError, match=r"^has colour space 8"):
        next(decode(path))


@pytest.mark.parametrize(("width", "height"), [(4096, 16), (16, 4096)])
def test_picture_like_a_thread_is_refused_before_it_is_enlarged(tmp_path, width, height):
    path = write_flat(tmp_path / "video.mkv", [0, 128, 128], "yuv420p", "ffv1", width=width, height=height)
    with pytest.raises(DecodeError, match=rf"^has pictures of {width} x {height} pixels, too slim"):
        next(decode(path))


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        (None, (64, 48)),
        (Fraction(1), (64, 48)),
        (Fraction(2), (128, 48)),
        (Fraction(1, 2), (64, 96)),
        (Fraction(64, 45), (91, 48)),
        (Fraction(1281, 1280), (64, 48)),
        (Fraction(1000), (64, 48)),
        (Fraction(1, 1000), (64, 48)),
        (Fraction(-2), (64, 48)),
        (Fraction(0), (64, 48)),
    ],
)
def test_pixels_that_are_not_square_are_made_so_unless_their_shape_is_absurd(shape, size):
    assert square_size(64, 48, shape) == size


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".mp4", "libx264"), (".mkv", "libx264"), (".ts", "libx264"), (".avi", "mpeg4")]
)
def test_film_of_wide_pixels_is_drawn_out(tmp_path, suffix, codec):
    path = write(tmp_path / f"video{suffix}", codec=codec, sample_aspect_ratio=Fraction(4, 3))
    frames = list(decode(path))
    assert {image.shape for image, _ in frames} == {(HEIGHT, 4 * WIDTH // 3, 3)}
    assert [image[8, x].argmax() for x in (8, 34, 50, 76) for image in [frames[0][0]]] == [0, 0, 1, 1]
    np.testing.assert_array_equal(read_frames(path, [frames[2][1]])[0], frames[2][0])


def test_pixels_are_drawn_out_before_the_picture_is_turned(tmp_path):
    path = ask_for(write(tmp_path / "video.mp4", sample_aspect_ratio=Fraction(2)), TURNS[1])
    assert next(decode(path))[0].shape == (2 * WIDTH, HEIGHT, 3)


def test_shape_of_pixels_may_change_within_a_film(tmp_path):
    """As where a broadcast goes from 4:3 to 16:9 and keeps the number of its pixels."""
    parts = [(WIDTH, HEIGHT, Fraction(1)), (WIDTH, HEIGHT, Fraction(3, 2)), (2 * WIDTH, HEIGHT, Fraction(1))]
    frames = list(decode(write_changing_film(tmp_path / "video.ts", parts, 20)))
    widths = [image.shape[1] for image, _ in frames]
    assert [widths[k] for k in (0, 16, 20, 36, 40, 59)] == [WIDTH] * 2 + [3 * WIDTH // 2] * 2 + [2 * WIDTH] * 2
    np.testing.assert_allclose([image.mean() for image, _ in frames], 2 * np.arange(60), atol=3)


@pytest.mark.parametrize(
    ("pixels", "codec", "suffix"),
    [
        ("gray", "ffv1", ".mkv"),
        ("gray10le", "ffv1", ".mkv"),
        ("yuva420p", "ffv1", ".mkv"),
        ("bgra", "ffv1", ".mkv"),
        ("yuv422p", "libx264", ".mp4"),
        ("yuv420p12le", "libx265", ".mkv"),
        ("yuvj420p", "mjpeg", ".avi"),
        ("bgr24", "rawvideo", ".avi"),
        ("argb", "qtrle", ".mov"),
    ],
)
def test_other_ways_to_store_pixels_give_the_same_picture(tmp_path, pixels, codec, suffix):
    expected = next(decode(write(tmp_path / "plain.mkv", "bgr0", "ffv1")))[0].astype(int)
    if pixels.startswith("gray"):
        expected = (expected @ [0.299, 0.587, 0.114])[..., None]
    image, _ = next(decode(write(tmp_path / f"video{suffix}", pixels, codec)))
    assert image.shape == (HEIGHT, WIDTH, 3)
    quarters = np.s_[8 :: HEIGHT // 2, 8 :: WIDTH // 2]
    np.testing.assert_allclose(image[quarters], np.broadcast_to(expected[quarters], (2, 2, 3)), atol=12)
