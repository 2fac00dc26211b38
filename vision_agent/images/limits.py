"""What images are accepted, and the checks and error messages for it."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from vision_agent.errors import ImageError, ImageTooLargeError, InputError, bad_argument
from vision_agent.images.decoding_memory import BYTES_A_PIXEL, MEMORY

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "MPO", "AVIF", "JPEG2000", "HEIF")
"""The image formats that can be read. MPO is the JPEG of phones that comes with further images behind it;
HEIF (HEIC) is what newer phones write, and needs the extra `heic`."""


@dataclass(frozen=True, kw_only=True)
class ImageLimits:
    """What `load_image` accepts.

    Attributes:
        max_pixels: width times height at most; checked before anything is decoded.
        max_side: the longer side at most.
        min_side: the shorter side at least.
        max_aspect: the longer side over the shorter one at most.
        max_bytes: the size of an image file at most; also the size of a download.
        max_decoding_bytes: memory for all images that are being decoded at the same time in this process, about. An
            image that does not fit beside the others waits for them; one that needs more is decoded alone.
        formats: the file formats that are read, out of `FORMATS`. A PIL image was opened by the caller: its format
            is not checked.
        allow_urls: whether https:// addresses are downloaded. `data:` addresses always work.
        url_timeout: seconds for a whole download.
        max_redirects: redirects to follow at most.
        page_timeout: seconds to open a PDF and to draw a page of it, for a small file. Large ones get as much again for
            each 400 kB, up to ten times; a whole file gets that, and as much again for each 40 kB.

    Raises:
        InputError: a value that makes no sense.
    """

    max_pixels: int = 100_000_000
    max_side: int = 50_000
    min_side: int = 8
    max_aspect: float = 200.0
    max_bytes: int = 64 * 1024 * 1024
    max_decoding_bytes: int = 1024 * 1024 * 1024
    formats: tuple[str, ...] = FORMATS
    allow_urls: bool = False
    url_timeout: float = 10.0
    max_redirects: int = 3
    page_timeout: float = 3.0

    def __post_init__(self) -> None:
        for field in ("max_pixels", "max_side", "min_side", "max_bytes", "max_decoding_bytes"):
            self._check_whole(field, 1)
        self._check_whole("max_redirects", 0)
        self._check_number("max_aspect", "a number of at least 1", lambda value: value >= 1)
        for field in ("url_timeout", "page_timeout"):
            self._check_number(field, "a number of seconds above 0", lambda value: value > 0)
        if not isinstance(self.allow_urls, bool):
            raise InputError(bad_argument("limits.allow_urls", "True or False", self.allow_urls))
        known = isinstance(self.formats, tuple) and all(kind in FORMATS for kind in self.formats)
        if not known or not self.formats:
            expected = f"a tuple with one or more of {', '.join(FORMATS)}"
            raise InputError(bad_argument("limits.formats", expected, self.formats))

    def _check_whole(self, field: str, least: int) -> None:
        value = getattr(self, field)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise InputError(bad_argument(f"limits.{field}", f"a whole number of at least {least}", value))

    def _check_number(self, field: str, expected: str, accept: Callable[[float], bool]) -> None:
        value = getattr(self, field)
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number or not accept(value):
            raise InputError(bad_argument(f"limits.{field}", expected, value))


@dataclass(frozen=True)
class CheckedSource:
    """What is being loaded, for the checks and for the error messages."""

    name: str
    label: str
    limits: ImageLimits

    def error(self, expected: str, why: str, kind: type[InputError] = ImageError) -> InputError:
        return kind(f"`{self.name}` must be {expected}, but got {self.label}, {why}")

    def check_size(self, width: int, height: int) -> None:
        limits = self.limits
        what = f"which is {width} x {height} pixels"
        if width < 1 or height < 1:
            raise self.error("an image with at least one pixel", what)
        if width * height > limits.max_pixels:
            expected = f"an image of at most {limits.max_pixels} pixels (`limits.max_pixels`)"
            raise self.error(expected, f"{what}, {width * height} in all", ImageTooLargeError)
        if max(width, height) > limits.max_side:
            expected = f"an image with sides of at most {limits.max_side} pixels (`limits.max_side`)"
            raise self.error(expected, what, ImageTooLargeError)
        if min(width, height) < limits.min_side:
            raise self.error(f"an image with sides of at least {limits.min_side} pixels (`limits.min_side`)", what)
        if max(width, height) > limits.max_aspect * min(width, height):
            expected = f"an image at most {limits.max_aspect:g} times as long as wide (`limits.max_aspect`)"
            raise self.error(expected, what)

    def memory(self, width: int, height: int) -> AbstractContextManager[None]:
        """Hold the memory that decoding takes, about; waits for others that are decoding."""
        return MEMORY.held(width * height * BYTES_A_PIXEL, self.limits.max_decoding_bytes)

    def check_bytes(self, count: int, *, at_least: bool = False) -> None:
        if count > self.limits.max_bytes:
            expected = f"an image file of at most {self.limits.max_bytes} bytes (`limits.max_bytes`)"
            why = "which is larger" if at_least else f"which is {count} bytes"
            raise self.error(expected, why, ImageTooLargeError)


def cause(error: BaseException) -> str:
    """An error's own words in one short line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:100] or type(error).__name__
