"""Videos as a few upright RGB images, chosen the way InternVL's authors choose them.

The video is cut into equal segments and the frame in the middle of each is taken. A file is read twice: once for the
times of its frames, without decoding (what a file says about its length is often missing or wrong), and once to
decode, jumping over what lies between wanted frames wherever the file has a place to jump to. So the memory needed is
that of the wanted frames, however long the video is.

Needs PyAV: `pip install "internvl-vision-agent[video]"`.

A *stamp* is a frame's time in the file's own unit; frames are told apart by it. Where a file has no times (AVI), or
wrong ones, frames are counted instead.
"""

import io
import math
import os
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from typing import IO, TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from vision_agent.errors import (
    ArgumentTypeError,
    ImageTooLargeError,
    InputError,
    MissingExtraError,
    UrlRefusedError,
    bad_argument,
)
from vision_agent.images.loading import ImageLimits, ImageSource, load_image
from vision_agent.images.regular_files import NotRegularError, open_regular

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

CONTAINERS = ("mov", "matroska", "avi", "gif", "mpegts", "mpeg", "flv", "asf", "ogg", "apng")
"""The kinds of video files that are read, by FFmpeg's names (mp4 is mov, webm is matroska). No playlists: they point at
other files."""

# Of these, the ones with an index, by which a place in the file is found exactly.
_INDEXED = ("mov", "matroska")

_DEFAULT_LIMITS = ImageLimits()


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


VideoSource: TypeAlias = (
    str
    | os.PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | _Readable
    | Sequence[ImageSource]
    | npt.NDArray[np.uint8 | np.uint16 | np.floating[Any]]
)
"""What `sample_frames` takes: a path, the bytes of a video file, a binary file object, or frames."""


@dataclass(frozen=True)
class VideoFrames:
    """Frames of a video, in order.

    Attributes:
        images: upright RGB images, one a segment.
        indices: their numbers in the video, from 0.
        seconds: their times, from the video's first frame; None if the caller gave the frames.
        duration: length of the video in seconds; None if the caller gave the frames.
        fps: frames a second, on average; None if the caller gave the frames.
    """

    images: tuple[Image.Image, ...]
    indices: tuple[int, ...]
    seconds: tuple[float, ...] | None = None
    duration: float | None = None
    fps: float | None = None

    def __len__(self) -> int:
        return len(self.images)


def sample_frames(
    source: VideoSource,
    *,
    segments: int = 8,
    bounds: tuple[float, float] | None = None,
    limits: ImageLimits = _DEFAULT_LIMITS,
    max_bytes: int = 1 << 30,
    max_pixels: int = 1_000_000_000,
    name: str = "video",
) -> VideoFrames:
    """Take the frames in the middle of `segments` equal parts of a video.

    Rotation marks of the file are applied; pixels that are not square are left as they are.

    Args:
        source: a path; the bytes of a video file; a binary file object, read from where it is to its end; or frames,
            as a list of images of the kinds that `load_image` takes, or an array or tensor (T, H, W, 3). Frames are
            all taken as they are: `segments` says nothing, and `bounds` is refused.
        segments: how many frames. A video with fewer gives some of them several times.
        bounds: (start, end) in seconds: only this part is cut into segments. The end may lie behind the video's. Where
            frames come at a steady rate their numbers are the authors'; else those whose times lie in the part.
        limits: what one frame may measure.
        max_bytes: the size of a video given as bytes or as a file object at most. Paths are not read as a whole.
        max_pixels: the pixels of all frames together at most.
        name: what the caller calls this argument, for error messages.

    Raises:
        ArgumentTypeError: `source` is none of the kinds above.
        ImageTooLargeError: over `max_bytes`, `max_pixels` or `limits`.
        UrlRefusedError: an address; videos are not downloaded.
        InputError: no video, one that is broken or cut off, or one without frames; bounds outside the video; no
            segments.
        MissingExtraError: PyAV is not installed.
    """
    if not isinstance(segments, int) or isinstance(segments, bool) or segments < 1:
        raise InputError(bad_argument("segments", "a whole number of at least 1", segments))
    _check_bounds(bounds)
    if getattr(source, "ndim", None) == 4:
        source = list(source)  # type: ignore[arg-type]
    if isinstance(source, list | tuple):
        if bounds is not None:
            raise InputError(bad_argument("bounds", f"None where `{name}` is frames already", bounds))
        return _given_frames(source, limits, name)
    _check_installed()
    with _opened(source, max_bytes, name) as file:
        timeline = _read_timeline(file, limits, name)
        if timeline.pixels * segments > max_pixels:
            expected = f"a video of which {segments} frames have at most {max_pixels} pixels (`max_pixels`)"
            raise ImageTooLargeError(f"`{name}` must be {expected}, but they have {timeline.pixels * segments}")
        if bounds is None or timeline.is_steady():
            indices = frame_indices(len(timeline.stamps), timeline.fps, segments, bounds)
        else:
            indices = _middles(*timeline.between(bounds), segments)
        images = _images(file, timeline, sorted(set(indices)), limits, name)
    return VideoFrames(
        images=tuple(images[index] for index in indices),
        indices=indices,
        seconds=tuple(timeline.seconds(index) for index in indices),
        duration=timeline.duration,
        fps=timeline.fps,
    )


def frame_indices(count: int, fps: float, segments: int, bounds: tuple[float, float] | None = None) -> tuple[int, ...]:
    """Return the numbers of the frames that InternVL's authors take of a video with `count` frames.

    Raises:
        InputError: bounds that begin behind the last frame.
    """
    first, last = 0, count - 1
    if bounds is not None:
        if bounds[0] * fps >= count:
            expected = f"within the video, which has {count} frames, {fps:g} a second"
            raise InputError(bad_argument("bounds", expected, bounds))
        first, last = round(float(bounds[0]) * fps), min(round(float(bounds[1]) * fps), last)
    return _middles(first, last, segments)


def _middles(first: int, last: int, segments: int) -> tuple[int, ...]:
    """The numbers in the middle of equal parts of the frames from `first` to `last`."""
    size = float(last - first) / segments
    # In the authors' order of operations: another would round some numbers differently.
    numbers = (first + size / 2 + np.round(size * np.arange(segments))).astype(np.int64)
    return tuple(numbers.tolist())


def frame_prompt(count: int) -> str:
    """Write what stands before a question about `count` frames: a line `Frame1: <image>` for each, from 1."""
    return "".join(f"Frame{number}: <image>\n" for number in range(1, count + 1))


# --- what callers pass -----------------------------------------------------------------------------------------------


def _check_bounds(bounds: Any) -> None:
    if bounds is None:
        return
    pair = isinstance(bounds, list | tuple) and len(bounds) == 2
    if not pair or not all(isinstance(end, Real) and math.isfinite(end) for end in bounds):
        raise InputError(bad_argument("bounds", "a pair of finite numbers, (start, end) in seconds", bounds))
    if not 0 <= bounds[0] < bounds[1]:
        raise InputError(bad_argument("bounds", "(start, end) in seconds with 0 <= start < end", bounds))


def _check_installed() -> None:
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise MissingExtraError('videos need PyAV: pip install "internvl-vision-agent[video]"') from error


def _given_frames(items: Sequence[ImageSource], limits: ImageLimits, name: str) -> VideoFrames:
    if not items:
        raise InputError(bad_argument(name, "a video or a list with at least one frame", items))
    images = tuple(load_image(item, limits=limits, name=f"{name}[{i}]") for i, item in enumerate(items))
    return VideoFrames(images, tuple(range(len(images))))


@contextmanager
def _opened(source: Any, max_bytes: int, name: str) -> Iterator[IO[bytes]]:
    """A file object that can go back to its start.

    FFmpeg is never given a path: it would take one such as `concat:...` or `http:...` for a command.
    """
    if isinstance(source, str | os.PathLike):
        with _open_path(os.fsdecode(source), name) as file:
            yield file
        return
    if not isinstance(source, bytes | bytearray | memoryview):
        read = getattr(source, "read", None)
        if not callable(read):
            expected = "a path, the bytes of a video, a binary file object, or a list of frames"
            raise ArgumentTypeError(f"`{name}` must be {expected}, but got a {type(source).__name__}")
        try:
            source = read(max_bytes + 1)
        except Exception as error:  # any class can have a `read`
            raise InputError(f"`{name}` must be a file object opened in binary mode, but got {error!r}") from error
        if not isinstance(source, bytes | bytearray | memoryview):
            got = f"one whose read() gives {type(source).__name__}"
            raise InputError(f"`{name}` must be a file object opened in binary mode, but got {got}")
    if memoryview(source).nbytes > max_bytes:
        raise ImageTooLargeError(f"`{name}` must be a video of at most {max_bytes} bytes (`max_bytes`), but got more")
    if not source:
        raise InputError(f"`{name}` must be a video, but got no bytes")
    yield io.BytesIO(source)


def _open_path(path: str, name: str) -> IO[bytes]:
    if re.match(r"[a-z][a-z0-9+.-]*://|data:", path, re.IGNORECASE):
        raise UrlRefusedError(bad_argument(name, "a path or the bytes of a video, which is not downloaded", path))
    try:
        return open_regular(path)
    except NotRegularError as error:
        raise InputError(bad_argument(name, "the path of a video file, and no folder or device", path)) from error
    except FileNotFoundError as error:
        raise InputError(bad_argument(name, "the path of a video file that exists", path)) from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise InputError(f"{bad_argument(name, 'the path of a readable video file', path)} ({error})") from error


# --- what a file holds -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Timeline:
    """The frames of a video before any is decoded.

    Attributes:
        stamps: of every frame, in the order they are shown.
        keys: stamps of the frames to jump to, ascending; empty if decoding has to start at the beginning.
        timed: whether stamps are times of the file, or numbers counted here.
        unit: seconds of one stamp.
        duration: in seconds.
        fps: frames a second, on average.
        pixels: of one frame.
    """

    stamps: Sequence[int]
    keys: Sequence[int]
    timed: bool
    unit: float
    duration: float
    fps: float
    pixels: int

    def seconds(self, index: int) -> float:
        return (self.stamps[index] - self.stamps[0]) * self.unit

    def is_steady(self) -> bool:
        """Return whether each frame is where its number and the rate put it, to half a frame."""
        times = (np.asarray(self.stamps, dtype=np.float64) - self.stamps[0]) * self.unit
        return bool((np.abs(times * self.fps - np.arange(len(times))) <= 0.5).all())

    def between(self, bounds: tuple[float, float]) -> tuple[int, int]:
        """Return the first and the last frame whose times lie in a part; where none do, twice the one on show.

        Raises:
            InputError: a part that begins behind the end.
        """
        if bounds[0] >= self.duration:
            expected = f"within the video, which has {self.duration:g} seconds"
            raise InputError(bad_argument("bounds", expected, bounds))
        start, end = (self.stamps[0] + float(each) / self.unit for each in bounds)
        first, last = bisect_left(self.stamps, start), bisect_right(self.stamps, end) - 1
        return (first, last) if first <= last else (last, last)


@contextmanager
def _container(file: IO[bytes], limits: ImageLimits, name: str) -> Iterator[tuple["InputContainer", "VideoStream"]]:
    """The file from its start, and its video. FFmpeg's errors inside become ours."""
    import av

    options = {
        "format_whitelist": ",".join(CONTAINERS),
        "protocol_whitelist": "none",  # whatever a file refers to, nothing else is opened
    }
    file.seek(0)
    try:
        with av.open(file, "r", container_options=options, metadata_errors="replace", buffer_size=1 << 20) as container:
            cover = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
            stream = next((item for item in container.streams.video if not item.disposition & cover), None)
            if stream is None:
                what = "sound, but no images" if container.streams.audio else "no images"
                raise InputError(f"`{name}` must be a video, but got a file that has {what}, or is cut off")
            if stream.codec_context is None:
                raise InputError(f"`{name}` must be a video in a known coding, but this FFmpeg cannot decode it")
            # Refuses a frame far larger than the file's head says before there is memory for it. FFmpeg counts its own
            # padding, hence the room; `load_image` checks exactly.
            stream.codec_context.options = {"max_pixels": str(2 * limits.max_pixels + (1 << 20))}
            stream.codec_context.thread_type = "AUTO"
            yield container, stream
    except av.FFmpegError as error:
        kinds = f"a complete video file of a known kind ({', '.join(CONTAINERS)})"
        why = error.strerror or type(error).__name__
        raise InputError(f"`{name}` must be {kinds}, but it is none, or broken or cut off ({why})") from error


def _read_timeline(file: IO[bytes], limits: ImageLimits, name: str) -> _Timeline:
    """Read all packets, which is fast, to know the frames: each packet of a video stream is one."""
    with _container(file, limits, name) as (container, stream):
        width, height = stream.codec_context.width, stream.codec_context.height
        if not width * height:
            raise InputError(f"`{name}` must be a video with frames, but not even their size can be read")
        if width * height > limits.max_pixels:
            expected = f"a video with frames of at most {limits.max_pixels} pixels (`limits.max_pixels`)"
            raise ImageTooLargeError(f"`{name}` must be {expected}, but they are {width} x {height}")
        stamps: list[int] = []
        keys: list[int] = []
        count, last, length = 0, 0, 0  # length: how long the last frame is shown
        file_end, partial = 0.0, False
        for packet in container.demux():
            if not packet.size:  # the last ones only empty the decoders
                continue
            partial = packet.is_corrupt
            file_end = max(file_end, float(((packet.pts or 0) + (packet.duration or 0)) * (packet.time_base or 0)))
            if packet.stream_index != stream.index or packet.is_discard:  # the file's edit list discards
                continue
            count += 1
            if packet.pts is None:
                continue
            stamps.append(packet.pts)
            if packet.is_keyframe:
                keys.append(packet.pts)
            if packet.pts >= last:
                last, length = packet.pts, packet.duration or 0
        if not count:
            raise InputError(f"`{name}` must be a video with frames, but it has none")
        fps = float(stream.average_rate or stream.guessed_rate or 0) or 1.0
        if len(set(stamps)) == count and container.format.name != "avi":
            stamps.sort()
            unit = float(stream.time_base or 0)
            duration = (last - stamps[0]) * unit + (length * unit or 1 / fps)
            jumps = sorted(keys) if container.format.name.startswith(_INDEXED) else []
            timeline = _Timeline(stamps, jumps, True, unit, duration, fps, width * height)
        else:
            timeline = _Timeline(range(count), (), False, 1 / fps, count / fps, fps, width * height)
        _check_complete(container, stream, timeline, file_end, partial, name)
    return timeline


def _check_complete(
    container: "InputContainer", stream: "VideoStream", timeline: _Timeline, file_end: float, partial: bool, name: str
) -> None:
    """Compare what is there with what the file says of itself; GIF files and broadcasts (mpegts, mpeg) say nothing.

    `file_end`: when the last packet of any stream ends, in seconds; `partial`: whether the last packet is.
    """
    kind, count = container.format.name, len(timeline.stamps)
    there, said, what = timeline.duration, 0.0, "seconds"
    if kind.startswith("mov") and stream.duration is not None:
        said = stream.duration * float(stream.time_base or 0)
    elif kind.startswith(("mov", "matroska", "flv")) and container.duration is not None:
        there, said = file_end, container.duration / 1e6
    elif kind == "avi":
        there, said, what = count, stream.frames, "frames"
    why = None
    if said - there > max(0.02 * said, 0.25):  # less is a duration that was rounded
        why = f"{there:g} of {said:g} {what} are there"
    elif partial and not kind.startswith("mpeg"):  # a broadcast may end anywhere
        why = "its last frame is not complete"
    if why is not None:
        raise InputError(f"`{name}` must be a complete video, but it is cut off: {why}")


# --- decoding --------------------------------------------------------------------------------------------------------


class _WrongStampsError(Exception):
    """The file's times or its index are wrong: its frames have to be counted from the beginning."""


def _images(
    file: IO[bytes], timeline: _Timeline, indices: Sequence[int], limits: ImageLimits, name: str
) -> dict[int, Image.Image]:
    """The frames with these numbers, ascending, as upright RGB images."""

    def decoded(timed: bool) -> dict[int, Image.Image]:
        stamps, keys = (timeline.stamps, timeline.keys) if timed else (range(len(timeline.stamps)), ())
        with _container(file, limits, name) as (container, stream):
            frames = _Frames(container, stream, keys, timed=timed)
            found = ((index, frames.at(stamps[index], name)) for index in indices)
            return {index: load_image(_upright(frame), limits=limits, name=name) for index, frame in found}

    try:
        return decoded(timeline.timed)
    except _WrongStampsError:
        return decoded(False)


class _Frames:
    """Decodes frames by their stamps, which have to be asked for in ascending order.

    Jumps to key frames (`keys`, their stamps, ascending), and decodes on from there.
    """

    def __init__(self, container: "InputContainer", stream: "VideoStream", keys: Sequence[int], *, timed: bool) -> None:
        self._container, self._stream, self._keys, self._timed = container, stream, keys, timed
        self._decoded = self._decode()
        self._jumped = False
        self._shown: tuple[int, VideoFrame] | None = None
        self._ahead: tuple[int, VideoFrame] | None = None

    def at(self, stamp: int, name: str) -> "VideoFrame":
        """Return the frame on show at `stamp`: its own, or, where a file has none for it, the one before.

        Raises:
            _WrongStampsError: a jump led behind the frame, or frames come in another order than their stamps.
            InputError: nothing can be decoded.
        """
        place = bisect_right(self._keys, stamp)
        if place > 1 and (self._shown is None or self._keys[place - 1] > self._shown[0]):
            self._jump(self._keys[place - 1])
        while self._shown is None or self._shown[0] < stamp:
            if self._ahead is None:
                self._ahead = next(self._decoded, None)
            if self._ahead is None or self._ahead[0] > stamp:
                break
            self._shown, self._ahead = self._ahead, None
        if self._shown is None and self._jumped:
            raise _WrongStampsError
        frame = self._shown or self._ahead  # the latter: a video that was cut out of a longer one begins with gaps
        if frame is None:
            raise InputError(f"`{name}` must be a video with frames, but none can be decoded")
        return frame[1]

    def _jump(self, key: int) -> None:
        import av

        try:
            self._container.seek(key, stream=self._stream)
        except av.FFmpegError as error:
            raise _WrongStampsError from error
        self._decoded = self._decode()
        self._jumped = True
        self._shown = self._ahead = None

    def _decode(self) -> "Iterator[tuple[int, VideoFrame]]":
        count, last = 0, None
        for packet in self._container.demux(self._stream):
            for frame in self._stream.decode(packet):
                stamp = frame.pts if self._timed else count
                count += 1
                if stamp is None or (last is not None and stamp <= last):
                    raise _WrongStampsError
                last = stamp
                yield stamp, frame


_TURNS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}


def _upright(frame: "VideoFrame") -> Image.Image:
    """A frame as an image, turned by the file's rotation mark; transparent parts stay so."""
    transparent = any(part.is_alpha for part in frame.format.components)
    image = Image.fromarray(frame.to_ndarray(format="rgba" if transparent else "rgb24"))
    turn = _TURNS.get(round(frame.rotation / 90) * 90 % 360)
    return image if turn is None else image.transpose(turn)
