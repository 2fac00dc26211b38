"""Writes images as an mp4 file, each at a time of its own.

Needs PyAV: `pip install "internvl-vision-agent[video]"`.
"""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, cast
from uuid import uuid4

import numpy as np
from PIL import Image

from vision_agent.errors import InputError, bad_argument
from vision_agent.images.video_file import check_pyav

if TYPE_CHECKING:
    from av.video.stream import VideoStream

_UNIT = Fraction(1, 90_000)  # of times, in seconds: what broadcasts use
_LONE = 1.0  # seconds that the only frame of a video is shown


def write_mp4(target: Path, images: Iterable[Image.Image], seconds: Sequence[float]) -> None:
    """Write a video that is there whole or not at all. The last image is shown as long as the one before it.

    Args:
        target: of the file.
        images: RGB images of one size, as many as `seconds`. They are asked for one after the other. An odd side is
            one pixel longer in the video, as H.264 wants it.
        seconds: when each is shown, ascending.

    Raises:
        InputError: the file cannot be written.
        MissingExtraError: PyAV is not installed.
    """
    check_pyav()
    part = target.with_name(f".{uuid4().hex}.part")
    try:
        try:
            _encode(part, images, seconds)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{bad_argument('path', 'a file that can be written', str(target))}: {error}") from error


def _encode(part: Path, images: Iterable[Image.Image], seconds: Sequence[float]) -> None:
    import av

    steps = [after - before for before, after in pairwise(seconds)]
    length = steps[-1] if steps else _LONE
    with open(part, "wb") as file, av.open(file, "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream: VideoStream | None = None
        for image, time in zip(images, seconds, strict=True):
            if stream is None:
                stream = cast("VideoStream", container.add_stream(_codec(), rate=max(1, round(1 / length))))
                stream.width, stream.height = (side + side % 2 for side in image.size)
                stream.pix_fmt = "yuv420p"
                stream.codec_context.time_base = _UNIT
            frame = av.VideoFrame.from_ndarray(np.asarray(_even(image)), format="rgb24")
            frame.pts, frame.time_base = round((time - seconds[0]) / _UNIT), _UNIT
            frame.duration = round(length / _UNIT)
            container.mux(stream.encode(frame))
        if stream is not None:
            container.mux(stream.encode(None))


def _codec() -> str:
    """H.264 where this FFmpeg can write it; MPEG-4 elsewhere."""
    import av

    return "libx264" if "libx264" in av.codecs_available else "mpeg4"


def _even(image: Image.Image) -> Image.Image:
    """The image with even sides: the last row or column stands there twice."""
    width, height = (side + side % 2 for side in image.size)
    if (width, height) == image.size:
        return image.convert("RGB")
    wider = image.convert("RGB").transform((width, height), Image.Transform.EXTENT, (0, 0, width, height))
    wider.paste(image, (width - image.width, height - image.height))
    wider.paste(image, (0, 0))
    return wider
