"""What a PDF may hold: pages of a bounded image, and images of at most `limits.max_pixels`, wherever they are used."""

import math
import mmap
import re
import struct
from typing import TypeAlias

from vision_agent.errors import DocumentError
from vision_agent.images.limits import ImageLimits

SCALE = 2000 / 842  # pixels a point: an A4 page gets a long side of 2000 pixels (171 dpi)
MAX_PIXELS = 32_000_000  # of a page's image; larger pages (A0) get fewer pixels a point

_DICTIONARY = 4096  # bytes before a stream in which its dictionary is looked for
_STREAM = re.compile(rb"stream\r?\n")
_ESCAPE = re.compile(rb"#([0-9A-Fa-f]{2})")
_IS_IMAGE = re.compile(rb"/Subtype\s*/Image\b")
_WIDTH, _HEIGHT = (re.compile(rb"/%s\s+(\d{1,10})(\s+\d{1,5}\s+R)?" % side) for side in (b"Width", b"Height"))
_JPEG_2000 = re.compile(rb"\xff\x4f\xff\x51.{4}(.{16})", re.DOTALL)

FileContent: TypeAlias = "bytes | mmap.mmap"
"""The bytes of a file, read or mapped."""


def page_scale(size: tuple[float, float], number: int, limits: ImageLimits, name: str) -> float:
    """Return the pixels a point at which a page of (width, height) points is drawn: fewer for large pages.

    Raises:
        DocumentError: a page without a size, or one that is too small or too long for `limits` at any scale.
    """
    width, height = size
    if not (0 < width < math.inf and 0 < height < math.inf):
        raise DocumentError(f"page {number} of `{name}` must have a size, but it is {width} x {height} points")
    most = min(MAX_PIXELS, limits.max_pixels)
    scale = min(SCALE, math.sqrt(most / (width * height)), limits.max_side / max(width, height))
    # Sides are rounded up to whole pixels, which may not go over the limit.
    while math.ceil(width * scale) * math.ceil(height * scale) > most and scale * max(width, height) > 1:
        scale *= 0.999
    columns, rows = math.ceil(width * scale), math.ceil(height * scale)
    long, short = max(columns, rows), min(columns, rows)
    if short < limits.min_side or long > limits.max_side or long > limits.max_aspect * short:
        raise DocumentError(
            f"page {number} of `{name}` must have sides from {limits.min_side} to {limits.max_side} pixels, at most "
            f"{limits.max_aspect:g} times as long as wide (`limits`), but it is {width:g} x {height:g} points, "
            f"{columns} x {rows} pixels"
        )
    return scale


def large_images(content: FileContent, limits: ImageLimits) -> set[tuple[int, int]]:
    """Return width and height of all images over `limits.max_pixels`: on a page, as a mask, in a pattern.

    Dictionaries of images stand readably in the file, in encrypted ones too: only what streams hold can be packed.
    """
    found = set()
    for match in _STREAM.finditer(content):
        place = match.start()
        if content[max(0, place - 3) : place] == b"end":
            continue
        before = content[max(0, place - _DICTIONARY) : place]
        dictionary = _ESCAPE.sub(lambda escape: bytes([int(escape[1], 16)]), before[before.rfind(b"obj") + 3 :])
        if not _IS_IMAGE.search(dictionary):
            continue
        found.add((_side(dictionary, _WIDTH, content), _side(dictionary, _HEIGHT, content)))
        if b"JPXDecode" in dictionary:  # its own head counts, not the dictionary
            head = _JPEG_2000.search(content, match.end(), match.end() + _DICTIONARY)
            if head:
                right, bottom, left, top = struct.unpack(">4I", head[1])
                found.add((right - left, bottom - top))
    return {(width, height) for width, height in found if width * height > limits.max_pixels}


def check_image_size(width: int, height: int, limits: ImageLimits, where: str) -> None:
    """Refuse an image inside a PDF, `where`, that is too large to decode. Raises DocumentError."""
    if width * height > limits.max_pixels:
        raise DocumentError(
            f"{where} must hold images and masks of at most {limits.max_pixels} pixels (`limits.max_pixels`), "
            f"but one is {width} x {height}"
        )


def _side(dictionary: bytes, pattern: re.Pattern[bytes], content: FileContent) -> int:
    match = pattern.search(dictionary)
    if match is None:
        return 0
    if match[2] is None:
        return int(match[1])
    elsewhere = re.search(rb"(?<!\d)0*%d\s+\d+\s+obj\s*(\d{1,10})" % int(match[1]), content)
    return int(elsewhere[1]) if elsewhere else 0
