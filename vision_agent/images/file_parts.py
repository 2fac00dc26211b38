"""How many parts an image file has, counted before anything is decoded: some formats allow work without end."""

import re

from vision_agent.errors import ImageTooLargeError
from vision_agent.images.limits import CheckedSource

_MOST_PARTS = 100_000  # segments of a JPEG, chunks of a PNG; a file of 64 MiB has some thousands
_MOST_SCANS = 100  # of a progressive JPEG; encoders write about ten
_MOST_WORK = 2_000_000_000  # scans times pixels: 20 for the largest image that is allowed
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_END, _SCAN, _ALONE = 0xD9, 0xDA, (0x01, 0xD8)


def check_parts(kind: str, data: bytes, this: CheckedSource) -> int:
    """Refuse a file of too many parts, and return its scans.

    Raises:
        ImageTooLargeError: more scans, segments or chunks than any encoder writes.
    """
    if kind == "PNG":
        _check_chunks(data, this)
    return _scans(data, this) if kind == "JPEG" else 1


def check_work(scans: int, size: tuple[int, int], this: CheckedSource) -> None:
    """Refuse scans that are too many for their size: each goes over all pixels. Raises ImageTooLargeError."""
    if scans * size[0] * size[1] > _MOST_WORK:
        why = f"which has {scans} scans of {size[0]} x {size[1]} pixels"
        raise this.error(f"a JPEG whose scans have {_MOST_WORK} pixels at most, together", why, ImageTooLargeError)


def _scans(data: bytes, this: CheckedSource) -> int:
    place, scans, parts = 2, 0, 0
    while (match := _MARKER.search(data, place)) is not None:
        marker, place = match[1][0], match.end()
        if marker == _END:
            break
        if marker in _ALONE:
            continue
        scans += marker == _SCAN
        parts += 1
        place += int.from_bytes(data[place : place + 2], "big")  # the length counts itself
        if scans > _MOST_SCANS or parts > _MOST_PARTS:
            expected = f"a JPEG of at most {_MOST_SCANS} scans and {_MOST_PARTS} segments"
            raise this.error(expected, "which has more", ImageTooLargeError)
    return max(scans, 1)


def _check_chunks(data: bytes, this: CheckedSource) -> None:
    place, parts = 8, 0
    while place < len(data):
        parts += 1
        if parts > _MOST_PARTS:
            raise this.error(f"a PNG of at most {_MOST_PARTS} chunks", "which has more", ImageTooLargeError)
        place += 12 + int.from_bytes(data[place : place + 4], "big")
