"""Videos as a few upright RGB images, chosen the way InternVL's authors choose them.

The video is cut into equal segments and the frame in the middle of each is taken, so the memory needed is that of the
wanted frames, however long the video is. `stream_frames` gives frame after frame instead.

Needs PyAV: `pip install "internvl-vision-agent[video]"`.
"""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from vision_agent.errors import ImageTooLargeError, InputError, bad_argument
from vision_agent.images.loading import ImageLimits, ImageSource, load_image
from vision_agent.images.video_file import Timeline, check_pyav, frames_at, opened, read_timeline

_DEFAULT_LIMITS = ImageLimits()
_GIVEN_FPS = 30.0  # frames a second of frames that a caller gives


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
    check_pyav()
    with opened(source, max_bytes, name) as file:
        timeline = read_timeline(file, limits, name)
        if timeline.pixels * segments > max_pixels:
            expected = f"a video of which {segments} frames have at most {max_pixels} pixels (`max_pixels`)"
            raise ImageTooLargeError(f"`{name}` must be {expected}, but they have {timeline.pixels * segments}")
        if bounds is None or timeline.is_steady():
            indices = frame_indices(len(timeline.stamps), timeline.fps, segments, bounds)
        else:
            indices = _middles(*timeline.between(bounds), segments)
        images = dict(frames_at(file, timeline, sorted(set(indices)), limits, name))
    return VideoFrames(
        images=tuple(images[index] for index in indices),
        indices=indices,
        seconds=tuple(timeline.seconds(index) for index in indices),
        duration=timeline.duration,
        fps=timeline.fps,
    )


@dataclass(frozen=True)
class TimedFrame:
    """A frame of a video: its number, from 0, its time in seconds from the video's first frame, and the image."""

    index: int
    seconds: float
    image: Image.Image


def stream_frames(
    source: VideoSource,
    *,
    fps: float | None = None,
    bounds: tuple[float, float] | None = None,
    limits: ImageLimits = _DEFAULT_LIMITS,
    max_bytes: int = 1 << 30,
    name: str = "video",
) -> Iterator[TimedFrame]:
    """Yield the frames of a video one after the other, in the memory of one frame.

    Args:
        source: as for `sample_frames`.
        fps: of a file, at most so many frames a second, by their times, which need not be even; None for all. Of
            frames, how many there are a second; None for 30.
        bounds: (start, end) in seconds: only frames of this part.
        limits, max_bytes, name: as for `sample_frames`.

    Raises:
        InputError: a rate that is not above 0, and what `sample_frames` refuses; what is wrong with a file, at the
            first frame that is asked for.
    """
    check_rate("fps", fps)
    _check_bounds(bounds)
    if getattr(source, "ndim", None) == 4:
        source = list(source)  # type: ignore[arg-type]
    if isinstance(source, list | tuple):
        if not source:
            raise InputError(bad_argument(name, "a video or a list with at least one frame", source))
        return _given_stream(source, fps or _GIVEN_FPS, bounds, limits, name)
    check_pyav()
    return _file_stream(source, fps, bounds, limits, max_bytes, name)


def check_rate(name: str, value: object) -> None:
    """Raise InputError for anything but None or a finite number above 0."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InputError(bad_argument(name, "a number above 0, or None", value))


def _given_stream(
    items: Sequence[ImageSource], fps: float, bounds: tuple[float, float] | None, limits: ImageLimits, name: str
) -> Iterator[TimedFrame]:
    start, end = bounds or (0.0, math.inf)
    for index, item in enumerate(items):
        if start <= index / fps <= end:
            yield TimedFrame(index, index / fps, load_image(item, limits=limits, name=f"{name}[{index}]"))


def _file_stream(
    source: Any,
    fps: float | None,
    bounds: tuple[float, float] | None,
    limits: ImageLimits,
    max_bytes: int,
    name: str,
) -> Iterator[TimedFrame]:
    with opened(source, max_bytes, name) as file:
        timeline = read_timeline(file, limits, name)
        last = -1
        with closing(frames_at(file, timeline, _spaced(timeline, fps, bounds), limits, name)) as frames:
            for index, image in frames:
                if index > last:  # what comes again was given already
                    yield TimedFrame(index, timeline.seconds(index), image)
                    last = index


def _spaced(timeline: Timeline, fps: float | None, bounds: tuple[float, float] | None) -> list[int]:
    """The frames of a part, at most `fps` a second: the first one that is due, again and again."""
    first, last = (0, len(timeline.stamps) - 1) if bounds is None else timeline.between(bounds)
    if fps is None:
        return list(range(first, last + 1))
    kept, begin, due = [], timeline.seconds(first), 0
    for index in range(first, last + 1):
        passed = (timeline.seconds(index) - begin) * fps + 1e-6
        if passed >= due:
            kept.append(index)
            due = math.floor(passed) + 1
    return kept


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


def _given_frames(items: Sequence[ImageSource], limits: ImageLimits, name: str) -> VideoFrames:
    if not items:
        raise InputError(bad_argument(name, "a video or a list with at least one frame", items))
    images = tuple(load_image(item, limits=limits, name=f"{name}[{i}]") for i, item in enumerate(items))
    return VideoFrames(images, tuple(range(len(images))))
