"""A video file: its times, read without decoding, and its frames, decoded in order.

A file is read twice: once for the times of its frames (what a file says about its length is often missing or wrong),
and once to decode, jumping over what lies between wanted frames wherever the file has a place to jump to.

A *stamp* is a frame's time in the file's own unit; frames are told apart by it. Where a file has no times (AVI), or
wrong ones, frames are counted instead.

Needs PyAV: `pip install "internvl-vision-agent[video]"`.
"""

import io
import os
import re
from bisect import bisect_left, bisect_right
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from vision_agent.errors import (
    ArgumentTypeError,
    ImageTooLargeError,
    InputError,
    MissingExtraError,
    UrlRefusedError,
    bad_argument,
)
from vision_agent.images.loading import ImageLimits, load_image
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


def check_pyav() -> None:
    """Raise MissingExtraError where PyAV is not installed."""
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise MissingExtraError('videos need PyAV: pip install "internvl-vision-agent[video]"') from error


@contextmanager
def opened(source: Any, max_bytes: int, name: str) -> Iterator[IO[bytes]]:
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
class Timeline:
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
def container_of(file: IO[bytes], limits: ImageLimits, name: str) -> Iterator[tuple["InputContainer", "VideoStream"]]:
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


def read_timeline(file: IO[bytes], limits: ImageLimits, name: str) -> Timeline:
    """Read all packets, which is fast, to know the frames: each packet of a video stream is one."""
    with container_of(file, limits, name) as (container, stream):
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
            timeline = Timeline(stamps, jumps, True, unit, duration, fps, width * height)
        else:
            timeline = Timeline(range(count), (), False, 1 / fps, count / fps, fps, width * height)
        _check_complete(container, stream, timeline, file_end, partial, name)
    return timeline


def _check_complete(
    container: "InputContainer", stream: "VideoStream", timeline: Timeline, file_end: float, partial: bool, name: str
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


def frames_at(
    file: IO[bytes], timeline: Timeline, indices: Sequence[int], limits: ImageLimits, name: str
) -> Generator[tuple[int, Image.Image], None, None]:
    """Yield the frames with these numbers, ascending, as upright RGB images, each as it is decoded.

    Where the file's times turn out to be wrong, all of them come once more, counted from the beginning.
    """

    def decoded(timed: bool) -> Iterator[tuple[int, Image.Image]]:
        stamps, keys = (timeline.stamps, timeline.keys) if timed else (range(len(timeline.stamps)), ())
        with container_of(file, limits, name) as (container, stream):
            frames = _Frames(container, stream, keys, timed=timed)
            for index in indices:
                yield index, load_image(_upright(frames.at(stamps[index], name)), limits=limits, name=name)

    try:
        yield from decoded(timeline.timed)
    except _WrongStampsError:
        yield from decoded(False)


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
