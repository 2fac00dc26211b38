"""From the bytes of an image file to an upright RGB image.

Format and size are checked before anything is decoded.
"""

import io
import re
import struct
from collections.abc import Callable
from contextlib import ExitStack
from typing import IO

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from vision_agent.errors import (
    ImageTooLargeError,
    InputError,
    MissingExtraError,
    UnsupportedImageError,
    require_extra,
)
from vision_agent.images.file_parts import check_parts, check_work
from vision_agent.images.limits import CheckedSource, cause
from vision_agent.images.pixels import no_size_warning, upright_rgb

_SIGNATURES = (
    (re.compile(rb"\xff\xd8\xff"), "JPEG"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "PNG"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "WEBP"),
    (re.compile(rb"GIF8[79]a"), "GIF"),
    (re.compile(rb"II[*+]\x00|MM\x00[*+]"), "TIFF"),
    (re.compile(rb"P([1-6f]|0CMYK)\s"), "PPM"),
    (re.compile(rb"BM"), "BMP"),
    (re.compile(rb"....ftypavif", re.DOTALL), "AVIF"),
    (re.compile(rb"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1)", re.DOTALL), "HEIF"),
    (re.compile(rb"\x00\x00\x00\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"), "JPEG2000"),
)

# Common files that are not read, so that the error can name them.
_OTHER_SIGNATURES = (
    (re.compile(rb"....ftypavis", re.DOTALL), "an animated AVIF image"),
    (re.compile(rb"....ftyp", re.DOTALL), "a video"),
    (re.compile(rb"\x00\x00\x00\x0cJXL |\xff\x0a"), "a JPEG XL image"),
    (re.compile(rb"\x00\x00\x01\x00"), "an icon (ICO)"),
    (re.compile(rb"8BPS"), "a Photoshop file"),
    (re.compile(rb"%PDF"), "a PDF"),
    (re.compile(rb"%!PS"), "a PostScript file"),
    (re.compile(rb"\s*(<\?xml.*?)?<svg", re.DOTALL), "an SVG drawing"),
)


def _open_heif(file: IO[bytes]) -> ImageFile.ImageFile:
    require_extra("pi_heif", "heic", "HEIC images are")
    from pi_heif import HeifImageFile

    opened: ImageFile.ImageFile = HeifImageFile(file)
    return opened


_OPENERS: dict[str, Callable[[IO[bytes]], ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.jpeg_factory,  # gives MPO too
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
    "JPEG2000": Jpeg2KImagePlugin.Jpeg2KImageFile,
    "HEIF": _open_heif,
}


def decode_file(data: bytes, this: CheckedSource) -> Image.Image:
    """Decode an image file to an upright RGB image.

    The plugins are called directly, not through `Image.open`: that would try formats which are not allowed, and it
    checks sizes against a limit of its own, which is global and warns.
    """
    kind = _kind(data, this)
    size = _header_size(kind, data)
    if size:
        this.check_size(*size)
    scans = check_parts(kind, data, this)
    try:
        with ExitStack() as held:
            if size:
                held.enter_context(this.memory(*size))
            with no_size_warning(kind, size):
                opened = held.enter_context(_OPENERS[kind](io.BytesIO(data)))
            this.check_size(*opened.size)
            check_work(scans, opened.size, this)
            _check_format(opened.format, this)
            # The images behind the first one of phones' files are extras (a depth map, the other eye), not frames.
            if opened.format not in ("MPO", "HEIF") and getattr(opened, "is_animated", False):
                raise _several_frames(kind, this)
            if not size:
                held.enter_context(this.memory(*opened.size))
            with no_size_warning(kind, opened.size):
                opened.load()
            this.check_size(*opened.size)  # a GIF frame can be larger than its header says
            return upright_rgb(opened, this, last_use=True)
    except (InputError, MissingExtraError):  # ours
        raise
    except Image.DecompressionBombError as error:
        why = "whose size is over the limit of Pillow itself (`PIL.Image.MAX_IMAGE_PIXELS`)"
        raise this.error("a smaller image", why, ImageTooLargeError) from error
    except Exception as error:  # plugins let nearly everything through when they read a broken file
        why = f"whose {kind} data is broken or cut off ({cause(error)})"
        raise this.error("a complete image file", why) from error


def _kind(data: bytes, this: CheckedSource) -> str:
    if not data:
        raise this.error("an image file", "which is empty")
    start = data[:512]
    for pattern, kind in _SIGNATURES:
        if pattern.match(start):
            if kind != "JPEG":  # only the plugin can tell a JPEG from an MPO
                _check_format(kind, this)
            return kind
    for pattern, what in _OTHER_SIGNATURES:
        if pattern.match(start):
            raise this.error(_formats(this), f"which is {what}", UnsupportedImageError)
    raise this.error(_formats(this), "which is no image in a known format")


def _check_format(kind: str | None, this: CheckedSource) -> None:
    if kind not in this.limits.formats:
        raise this.error(_formats(this), f"which is in the format {kind}", UnsupportedImageError)


def _formats(this: CheckedSource) -> str:
    return f"an image file in a format of `limits.formats` ({', '.join(this.limits.formats)})"


def _several_frames(kind: str, this: CheckedSource) -> InputError:
    if kind == "TIFF":
        remedy = "open it with PIL, choose the page with seek(), and pass that image"
        return this.error("an image with one page", f"which has more; {remedy}", UnsupportedImageError)
    remedy = "pass one frame, e.g. Image.open(file).convert('RGB')"
    return this.error("a still image", f"which is animated; {remedy}", UnsupportedImageError)


def _header_size(kind: str, data: bytes) -> tuple[int, int] | None:
    """Width and height as the file's first bytes give them, where a plugin needs memory just to open a file."""
    if kind == "PNG" and data[12:16] == b"IHDR" and len(data) >= 24:
        return _unpack(">II", data, 16)
    if kind == "GIF" and len(data) >= 10:
        width, height = _unpack("<HH", data, 6)
        return (width, height) if width and height else None  # then the first frame has the size
    if kind == "WEBP" and data[12:16] == b"VP8X" and len(data) >= 30:
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == "WEBP" and data[12:16] == b"VP8L" and len(data) >= 25:
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == "WEBP" and data[12:16] == b"VP8 " and len(data) >= 30:
        width, height = _unpack("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _unpack(layout: str, data: bytes, offset: int) -> tuple[int, int]:
    first, second = struct.unpack_from(layout, data, offset)
    return int(first), int(second)
