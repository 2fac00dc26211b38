"""Videos: the right frames out of real little files of many kinds, and every way in which they can be bad."""

import io
import struct
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vision_agent.errors import ArgumentTypeError, ImageTooLargeError, InputError, MissingExtraError, UrlRefusedError
from vision_agent.images import video_file as video
from vision_agent.images.loading import ImageLimits
from vision_agent.images.video import frame_indices, frame_prompt, sample_frames

WIDTH, HEIGHT = 128, 64
KINDS = [
    ("mpeg4", "mp4", "yuv420p"),
    ("libx264", "mp4", "yuv420p"),  # frames are stored in another order than shown
    ("libx264", "matroska", "yuv420p"),
    ("libvpx-vp9", "webm", "yuv420p"),
    ("ffv1", "matroska", "yuv420p"),
    ("mpeg4", "avi", "yuv420p"),
    ("libx264", "avi", "yuv420p"),  # whose times are wrong
    ("gif", "gif", "rgb8"),
    ("libx264", "mpegts", "yuv420p"),
    ("mpeg2video", "mpeg", "yuv420p"),
    ("libx264", "flv", "yuv420p"),
]


def numbered(number: int, width: int = WIDTH, height: int = HEIGHT) -> npt.NDArray[np.uint8]:
    """A frame that shows its number as eight bars, dark or light."""
    bits = np.repeat(np.array([number >> bit & 1 for bit in range(8)]), width // 8)
    return np.broadcast_to(np.where(bits, 235, 20).astype(np.uint8)[None, :, None], (height, width, 3)).copy()


def number_of(image: Image.Image) -> int:
    assert image.mode == "RGB"
    bars = np.asarray(image.convert("L")).mean(axis=0).reshape(8, -1).mean(axis=1)
    return sum(int(bar > 128) << bit for bit, bar in enumerate(bars))


def encoded(
    codec: str = "mpeg4",
    kind: str = "mp4",
    pixels: str = "yuv420p",
    *,
    count: int = 30,
    rate: int = 25,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    group: int = 8,
    rotation: int = 0,
    pts: list[int] | None = None,
    frames: list[av.VideoFrame] | None = None,
    colorspace: int | None = None,
    options: dict[str, str] | None = None,
) -> bytes:
    """A video file; `pts` in milliseconds."""
    file = io.BytesIO()
    with av.open(file, "w", format=kind, options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = pixels
        stream.codec_context.gop_size = group
        if colorspace is not None:
            stream.codec_context.colorspace = colorspace
        if rotation:
            stream.set_display_rotation(rotation)
        if pts:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(count):
            frame = frames[number] if frames else av.VideoFrame.from_ndarray(numbered(number, *size), format="rgb24")
            if pts:
                frame.pts, frame.time_base = pts[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


@pytest.fixture(scope="module")
def clip() -> bytes:
    """30 frames, 10 a second, a key frame every 8."""
    return encoded(rate=10)


def official_indices(bound: Any, fps: float, max_frame: int, first_idx: int = 0, num_segments: int = 32) -> list[int]:
    """`get_index` of InternVL's quick start, with its names."""
    start, end = bound or (-100000, 100000)
    start_idx = max(first_idx, round(start * fps))
    end_idx = min(round(end * fps), max_frame)
    seg_size = float(end_idx - start_idx) / num_segments
    return [int(start_idx + (seg_size / 2) + np.round(seg_size * idx)) for idx in range(num_segments)]


# --- which frames ----------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 4000),
    st.sampled_from([1.0, 10.0, 12.5, 24.0, 30000 / 1001, 25.0, 59.94, 1000 / 33]),
    st.integers(1, 70),
    st.none() | st.tuples(st.floats(0, 1), st.floats(0.001, 1.5)),
)
def test_indices_are_the_official_ones(count: int, fps: float, segments: int, part: tuple[float, float] | None) -> None:
    bounds = None
    if part is not None:
        start = part[0] * (count - 1) / fps
        bounds = (start, start + part[1] * count / fps)
    indices = frame_indices(count, fps, segments, bounds)
    assert list(indices) == official_indices(bounds, fps, count - 1, num_segments=segments)
    assert all(0 <= index < count for index in indices)


@pytest.mark.parametrize(("codec", "kind", "pixels"), KINDS)
@pytest.mark.parametrize("segments", [1, 7, 30])
def test_every_frame_taken_is_the_one_it_says(codec: str, kind: str, pixels: str, segments: int) -> None:
    found = sample_frames(encoded(codec, kind, pixels), segments=segments)
    assert list(found.indices) == official_indices(None, 25.0, 29, num_segments=segments)
    assert [number_of(image) for image in found.images] == list(found.indices)
    assert [image.size for image in found.images] == [(WIDTH, HEIGHT)] * segments == [(WIDTH, HEIGHT)] * len(found)
    assert found.fps == 25
    assert found.duration == pytest.approx(1.2, abs=0.01)
    assert found.seconds == pytest.approx([index / 25 for index in found.indices], abs=0.011)


def test_only_what_lies_before_a_wanted_frame_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    decode = video._Frames._decode

    def counted(self: Any) -> Iterator[Any]:
        for item in decode(self):
            decoded.append(item)
            yield item

    monkeypatch.setattr(video._Frames, "_decode", counted)
    found = sample_frames(encoded("libx264", "mp4", count=240, group=10), segments=3)
    assert [number_of(image) for image in found.images] == list(found.indices) == [39, 119, 198]
    assert len(decoded) <= 3 * 11


def test_an_index_that_leads_behind_the_frame_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    jump, jumps = video._Frames._jump, []

    def too_far(self: Any, key: int) -> None:
        jumps.append(key)
        jump(self, self._keys[-1])

    data = encoded("libx264", "mp4")
    monkeypatch.setattr(video._Frames, "_jump", too_far)
    found = sample_frames(data, segments=4)
    assert jumps
    assert [number_of(image) for image in found.images] == list(found.indices) == [3, 10, 17, 25]


def test_uneven_times() -> None:
    pts = [0, 40, 400, 440, 480, 2000, 2040, 2080]
    found = sample_frames(encoded("ffv1", "matroska", count=8, pts=pts), segments=8)
    numbers = [number_of(image) for image in found.images]
    assert numbers == list(found.indices)
    assert found.seconds == pytest.approx([pts[number] / 1000 for number in numbers])


def test_fewer_frames_than_segments() -> None:
    found = sample_frames(encoded(count=2), segments=5)
    assert found.indices == (0, 0, 0, 1, 1) == tuple(official_indices(None, 25, 1, num_segments=5))
    assert sample_frames(encoded(count=1), segments=3).indices == (0, 0, 0)


VARIABLE = [
    ((0, 0.55), (0, 5)),
    ((1, 9.5), (10, 14)),
    ((3.5, 4.5), (11, 11)),
    ((9.95, 60), (15, 24)),
]


@pytest.mark.parametrize("kind", [("ffv1", "matroska", "yuv420p"), ("libx264", "mp4", "yuv420p")])
def test_bounds_of_a_variable_rate_are_seconds(kind: tuple[str, str, str]) -> None:
    """Ten frames in the first second, then one every two seconds, then ten in the last: as screens are recorded."""
    pts = [*range(0, 1000, 100), *range(1000, 11_000, 2000), *range(10_000, 11_000, 100)]
    file = encoded(*kind, count=25, pts=pts)
    for bounds, (first, last) in VARIABLE:
        found = sample_frames(file, segments=4, bounds=bounds)
        assert all(first <= index <= last for index in found.indices)
        assert [number_of(image) for image in found.images] == list(found.indices)
        assert found.seconds == pytest.approx([pts[index] / 1000 for index in found.indices])
    with pytest.raises(InputError, match="`bounds` must be within the video"):
        sample_frames(file, bounds=(200, 300))


def test_bounds_choose_a_part(clip: bytes) -> None:
    found = sample_frames(clip, segments=4, bounds=(1, 2))
    assert [number_of(image) for image in found.images] == list(found.indices) == [11, 13, 16, 19]
    assert found.seconds == pytest.approx([1.1, 1.3, 1.6, 1.9])
    open_end = sample_frames(clip, segments=2, bounds=(2.5, 1000))
    assert open_end.indices == tuple(official_indices((2.5, 1000), 10, 29, num_segments=2))


def test_an_edit_list_hides_frames() -> None:
    data = bytearray(encoded("libx264", "mp4", rate=10))
    place = data.find(b"elst") + 12
    _, start = struct.unpack_from(">Ii", data, place)
    struct.pack_into(">Ii", data, place, 1000, start + 10240)  # one second, from second 1
    found = sample_frames(bytes(data), segments=10)
    assert [number_of(image) for image in found.images] == [10 + index for index in found.indices]
    assert found.indices[-1] == 8 and found.seconds == pytest.approx([index / 10 for index in found.indices])
    assert found.duration == pytest.approx(1)


# --- what they look like ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_rotation_marks_are_applied(rotation: int) -> None:
    frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    frame[: HEIGHT // 2, : WIDTH // 2] = 255  # upper left
    data = encoded(rotation=rotation, count=1, frames=[av.VideoFrame.from_ndarray(frame, format="rgb24")])
    (image,) = sample_frames(data, segments=1).images
    upright = np.rot90(frame, rotation // 90)  # counter-clockwise, as the mark says
    assert image.size == (upright.shape[1], upright.shape[0])
    assert np.abs(np.asarray(image).astype(int) - upright).mean() < 5


@pytest.mark.parametrize(("colorspace", "red"), [(1, (63, 102, 240)), (5, (81, 90, 240))])
def test_colours_follow_the_file_s_colour_space(colorspace: int, red: tuple[int, int, int]) -> None:
    planes = [np.full(HEIGHT * WIDTH // part, level, np.uint8) for part, level in zip((1, 4, 4), red, strict=True)]
    frame = av.VideoFrame.from_ndarray(np.concatenate(planes).reshape(-1, WIDTH), format="yuv420p")
    frame.colorspace = colorspace
    (image,) = sample_frames(encoded("libx264", frames=[frame], count=1, colorspace=colorspace), segments=1).images
    np.testing.assert_allclose(np.asarray(image)[HEIGHT // 2, WIDTH // 2], (255, 0, 0), atol=6)


def test_transparent_parts_are_white() -> None:
    pixels = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    pixels[:, WIDTH // 2 :, 3] = 255
    frame = av.VideoFrame.from_ndarray(pixels, format="rgba")
    (image,) = sample_frames(encoded("ffv1", "matroska", "bgra", frames=[frame], count=1), segments=1).images
    assert image.getpixel((3, 3)) == (255, 255, 255)
    assert image.getpixel((WIDTH - 3, 3)) == (0, 0, 0)


def test_frames_may_change_their_size() -> None:
    parts = [encoded("libx264", "mpegts", size=size, count=8) for size in ((128, 64), (64, 96))]
    found = sample_frames(b"".join(parts), segments=16)
    assert {image.size for image in found.images} == {(128, 64), (64, 96)}
    with pytest.raises(InputError):
        sample_frames(b"".join(reversed(parts)), segments=16, limits=ImageLimits(max_pixels=64 * 96))


# --- where from -------------------------------------------------------------------------------------------------------


def test_ways_to_pass_a_video(clip: bytes, tmp_path: Path) -> None:
    path = tmp_path / "clip: 1.mp4"
    path.write_bytes(clip)
    expected = sample_frames(clip, segments=3)
    before = io.BytesIO(b"junk" + clip)
    before.seek(4)
    with path.open("rb") as file:
        for source in (path, str(path), bytearray(clip), memoryview(clip), io.BytesIO(clip), before, file):
            assert sample_frames(source, segments=3).images == expected.images
        assert not file.closed


def test_frames_that_are_given_are_all_taken(tmp_path: Path) -> None:
    frames = [Image.fromarray(numbered(number)) for number in range(5)]
    frames[1].save(tmp_path / "1.png")
    given = [frames[0], tmp_path / "1.png", np.asarray(frames[2]), *frames[3:]]
    found = sample_frames(given, segments=2)
    assert [number_of(image) for image in found.images] == list(found.indices) == [0, 1, 2, 3, 4]
    assert found.seconds is None and found.duration is None and found.fps is None
    stacked = sample_frames(np.stack([np.asarray(frame) for frame in frames]))
    assert [number_of(image) for image in stacked.images] == [0, 1, 2, 3, 4]
    with pytest.raises(InputError, match="`bounds` must be None where `video` is frames already"):
        sample_frames(frames, bounds=(0, 1))
    with pytest.raises(InputError, match="at least one frame"):
        sample_frames([])
    with pytest.raises(InputError, match=r"`clip\[1\]` must be"):
        sample_frames([frames[0], b"no picture"], name="clip")


def test_frame_prompt() -> None:
    assert frame_prompt(3) == "Frame1: <image>\nFrame2: <image>\nFrame3: <image>\n"
    assert frame_prompt(0) == ""


def test_without_pyav(monkeypatch: pytest.MonkeyPatch, clip: bytes) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r'pip install "internvl-vision-agent\[video\]"'):
        sample_frames(clip)
    assert len(sample_frames([Image.new("RGB", (32, 32))])) == 1  # frames need none


# --- bad videos -------------------------------------------------------------------------------------------------------


def image_file(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"not a video at all\n" * 50,
        bytes(range(256)) * 8,
        image_file("JPEG"),
        image_file("PNG"),
        b"\x00\x00\x00\x20ftypisom" + bytes(100),
    ],
)
def test_what_is_no_video(data: bytes) -> None:
    with pytest.raises(InputError, match="`video` must be "):
        sample_frames(data)


def test_playlists_open_nothing_else(tmp_path: Path, clip: bytes) -> None:
    path = tmp_path / "secret.mp4"
    path.write_bytes(clip)
    hls = f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nfile://{path}\n#EXT-X-ENDLIST\n"
    for text in (hls, f"ffconcat version 1.0\nfile '{path}'\n"):
        with pytest.raises(InputError, match="of a known kind"):
            sample_frames(text.encode())
    with pytest.raises(InputError, match="that exists"):
        sample_frames(f"concat:{path}")


def test_sound_alone() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=44100)
        for number in range(10):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 44100, number * 1024
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(InputError, match="sound, but no images"):
        sample_frames(file.getvalue())


def test_a_video_without_frames() -> None:
    whole = encoded("libx264", "mp4", options={"movflags": "frag_keyframe+empty_moov"})
    with pytest.raises(InputError, match="with frames, but "):
        sample_frames(whole[: whole.find(b"moof") - 4])


@pytest.mark.parametrize("share", [0.3, 0.7])
@pytest.mark.parametrize(
    ("codec", "kind"), [("mpeg4", "mp4"), ("libvpx-vp9", "webm"), ("mpeg4", "avi"), ("libx264", "flv")]
)
def test_files_that_are_cut_off(codec: str, kind: str, share: float) -> None:
    data = encoded(codec, kind, count=60)
    with pytest.raises(InputError, match="cut off"):
        sample_frames(data[: int(len(data) * share)])


def test_an_mp4_with_its_index_first_that_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(60):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(number), format="rgb24")))
        container.mux(stream.encode(None))
    data = path.read_bytes()
    assert data.find(b"moov") < data.find(b"mdat")
    assert number_of(sample_frames(data, segments=1).images[0]) == 29
    with pytest.raises(InputError, match="it is cut off: "):
        sample_frames(data[: int(len(data) * 0.8)])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_files_give_frames_or_our_error(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from([("mpeg4", "mp4"), ("libvpx-vp9", "webm"), ("mpeg4", "avi")]))
    damaged = bytearray(_small(*kind))
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert len(sample_frames(damaged, segments=2, limits=ImageLimits(max_pixels=100_000))) == 2
    except InputError as error:
        assert str(error).startswith("`video` must be ")


_SMALL: dict[tuple[str, str], bytes] = {}


def _small(codec: str, kind: str) -> bytes:
    if (codec, kind) not in _SMALL:
        _SMALL[codec, kind] = encoded(codec, kind, count=6, size=(32, 16))
    return _SMALL[codec, kind]


def test_limits(clip: bytes) -> None:
    pixels = WIDTH * HEIGHT
    with pytest.raises(ImageTooLargeError, match=r"`limits.max_pixels`\), but they are 128 x 64"):
        sample_frames(clip, limits=ImageLimits(max_pixels=pixels - 1))
    with pytest.raises(ImageTooLargeError, match="8 frames have at most 65535 pixels"):
        sample_frames(clip, max_pixels=8 * pixels - 1)
    assert len(sample_frames(clip, limits=ImageLimits(max_pixels=pixels), max_pixels=8 * pixels)) == 8
    with pytest.raises(ImageTooLargeError, match=r"`limits\.max_side`"):
        sample_frames(clip, limits=ImageLimits(max_side=100))
    for source in (clip, io.BytesIO(clip), memoryview(clip).cast("B")):
        with pytest.raises(ImageTooLargeError, match=r"at most 1000 bytes \(`max_bytes`\)"):
            sample_frames(source, max_bytes=1000)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ((3, 4), "within the video, which has 30 frames, 10 a second"),
        ((100, 200), "within the video"),
        ((1, 1), "0 <= start < end"),
        ((2, 1), "0 <= start < end"),
        ((-1, 2), "0 <= start < end"),
        ((float("nan"), 2), "a pair of finite numbers"),
        ((0, float("inf")), "a pair of finite numbers"),
        ((0,), "a pair of finite numbers"),
        ((0, "1"), "a pair of finite numbers"),
        (5, "a pair of finite numbers"),
    ],
)
def test_bad_bounds(clip: bytes, bounds: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"`bounds` must be .*{message}"):
        sample_frames(clip, bounds=bounds)


@pytest.mark.parametrize("segments", [0, -3, 1.5, True, "8", None])
def test_bad_segments(segments: Any) -> None:
    with pytest.raises(InputError, match="`segments` must be a whole number of at least 1"):
        sample_frames(b"never looked at", segments=segments)


def test_bad_sources(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    for source, error, message in [
        (tmp_path / "no.mp4", InputError, "`film` must be the path of a video file that exists"),
        (tmp_path, InputError, "no folder or device"),
        ("null\0inside", InputError, "readable video file"),
        ("https://example.com/a.mp4", UrlRefusedError, "not downloaded"),
        ("RTSP://example.com/a", UrlRefusedError, "not downloaded"),
        (b"", InputError, "got no bytes"),
        ((tmp_path / "text").open(), InputError, r"whose read\(\) gives str"),
        (None, ArgumentTypeError, "but got a NoneType"),
        (Image.new("RGB", (32, 32)), ArgumentTypeError, "or a list of frames, but got a Image"),
    ]:
        with pytest.raises(error, match=message):
            sample_frames(source, name="film")  # type: ignore[arg-type]
