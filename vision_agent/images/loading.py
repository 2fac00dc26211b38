"""The one door for images: whatever the caller has becomes an upright RGB image, or a clear error.

`load_image` is the only place of the package that opens image files, so the limits hold everywhere.
"""

import base64
import binascii
import io
import math
import os
import re
import stat
import struct
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Protocol, TypeAlias, TypeGuard
from urllib.parse import unquote_to_bytes

import numpy as np
import numpy.typing as npt
from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from vision_agent.errors import (
    ArgumentTypeError,
    ImageError,
    ImageTooLargeError,
    InputError,
    UnsupportedImageError,
    UrlRefusedError,
    bad_argument,
)

if TYPE_CHECKING:
    import torch

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "MPO")
"""The picture formats that can be read. MPO is the JPEG of phones that comes with further pictures behind it."""


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Tensor(Protocol):  # names no torch type, so that the hints can be resolved without torch
    def detach(self) -> Any: ...

    def permute(self, *dims: int) -> Any: ...


ImageSource: TypeAlias = (
    str
    | os.PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | _Readable
    | Image.Image
    | npt.NDArray[np.uint8 | np.uint16 | np.floating[Any]]
    | _Tensor
)
"""What `load_image` takes: a path, a `data:` or https address, the bytes of a picture file, a binary file object,
a PIL image, a numpy array or a torch tensor."""


@dataclass(frozen=True, kw_only=True)
class ImageLimits:
    """What `load_image` accepts.

    Attributes:
        max_pixels: width times height at most; checked before anything is decoded.
        max_side: the longer side at most.
        min_side: the shorter side at least.
        max_aspect: the longer side over the shorter one at most.
        max_bytes: the size of an image file at most; also the size of a download.
        formats: the file formats that are read, out of `FORMATS`. A PIL image was opened by the caller: its format
            is not checked.
        allow_urls: whether https:// addresses are downloaded. `data:` addresses always work.
        url_timeout: seconds for a whole download.
        max_redirects: redirects to follow at most.

    Raises:
        InputError: a value that makes no sense.
    """

    max_pixels: int = 100_000_000
    max_side: int = 50_000
    min_side: int = 8
    max_aspect: float = 200.0
    max_bytes: int = 64 * 1024 * 1024
    formats: tuple[str, ...] = FORMATS
    allow_urls: bool = False
    url_timeout: float = 10.0
    max_redirects: int = 3

    def __post_init__(self) -> None:
        for field, least in (("max_pixels", 1), ("max_side", 1), ("min_side", 1), ("max_bytes", 1)):
            self._check_whole(field, least)
        self._check_whole("max_redirects", 0)
        self._check_number("max_aspect", "a number of at least 1", lambda value: value >= 1)
        self._check_number("url_timeout", "a number of seconds above 0", lambda value: value > 0)
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


_DEFAULT_LIMITS = ImageLimits()


@dataclass(frozen=True)
class _Source:
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
            expected = f"a picture of at most {limits.max_pixels} pixels (`limits.max_pixels`)"
            raise self.error(expected, f"{what}, {width * height} in all", ImageTooLargeError)
        if max(width, height) > limits.max_side:
            expected = f"a picture with sides of at most {limits.max_side} pixels (`limits.max_side`)"
            raise self.error(expected, what, ImageTooLargeError)
        if min(width, height) < limits.min_side:
            raise self.error(f"an image with sides of at least {limits.min_side} pixels (`limits.min_side`)", what)
        if max(width, height) > limits.max_aspect * min(width, height):
            expected = f"a picture at most {limits.max_aspect:g} times as long as wide (`limits.max_aspect`)"
            raise self.error(expected, what)

    def check_bytes(self, count: int, *, at_least: bool = False) -> None:
        if count > self.limits.max_bytes:
            expected = f"a picture file of at most {self.limits.max_bytes} bytes (`limits.max_bytes`)"
            why = "which is larger" if at_least else f"which is {count} bytes"
            raise self.error(expected, why, ImageTooLargeError)


def load_image(source: ImageSource, *, limits: ImageLimits = _DEFAULT_LIMITS, name: str = "image") -> Image.Image:
    """Any kind of image as an upright RGB `PIL.Image.Image`.

    The result is always a new image, without metadata. The EXIF orientation is applied for every kind of source,
    transparent pixels are blended onto white, and 16-bit values are scaled by the 16-bit range (65535 becomes 255).
    Colour profiles are not applied.

    Args:
        source: one of
            - a path, as a string or a `pathlib.Path`;
            - a `data:` address, in base64 or percent-encoded;
            - an https:// address, if `limits.allow_urls` is on;
            - the bytes of an image file (`bytes`, `bytearray`, `memoryview`);
            - a file object opened in binary mode, read from where it is to its end;
            - a PIL image of any mode; of a multi-frame one the current frame is taken;
            - a numpy array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), channels in RGB order (OpenCV gives BGR: pass
              `array[..., ::-1]`), of dtype uint8, uint16, or float with values from 0 to 1;
            - a torch tensor (H, W), (C, H, W) or (H, W, C) with 1, 3 or 4 channels, of the same dtypes.
        limits: sizes, formats and whether addresses are downloaded.
        name: what the caller calls this argument, for error messages.

    Raises:
        ArgumentTypeError: `source` is none of the kinds above.
        ImageTooLargeError: over `max_pixels`, `max_side` or `max_bytes`.
        UnsupportedImageError: a format that is not allowed, or a file with more than one frame.
        UrlRefusedError: an address that is not downloaded.
        ImageError: anything else that is wrong with the image; the base class of all but the first and the fourth.
    """
    if not isinstance(limits, ImageLimits):
        raise ArgumentTypeError(bad_argument("limits", "an ImageLimits", limits))
    if isinstance(source, str):
        return _from_text(source, limits, name)
    if isinstance(source, bytes | bytearray | memoryview):
        size = source.nbytes if isinstance(source, memoryview) else len(source)
        this = _Source(name, f"{type(source).__name__} of length {size}", limits)
        this.check_bytes(size)
        return _decode(bytes(source), this)
    if isinstance(source, os.PathLike):
        return _from_path(os.fsdecode(source), limits, name)
    if isinstance(source, Image.Image):
        return _from_pil(source, _Source(name, f"a PIL image of mode {source.mode}", limits))
    if isinstance(source, np.ndarray):
        label = f"a numpy array of shape {source.shape} and dtype {source.dtype}"
        return _from_array(np.asarray(source), _Source(name, label, limits))
    if _is_tensor(source):
        label = f"a torch tensor of shape {tuple(source.shape)} and dtype {source.dtype}"
        return _from_tensor(source, _Source(name, label, limits))
    read = getattr(source, "read", None)
    if callable(read):
        this = _Source(name, f"a file object ({type(source).__name__})", limits)
        return _decode(_read(read, this), this)
    expected = "a path, bytes, a binary file object, a PIL image, a numpy array or a torch tensor"
    hint = "; pass one picture at a time" if isinstance(source, list | tuple) else ""
    raise ArgumentTypeError(f"`{name}` must be {expected}, but got a {type(source).__name__}{hint}")


# --- From a source to the bytes of an image file ---


def _from_text(text: str, limits: ImageLimits, name: str) -> Image.Image:
    if text[:5].lower() == "data:":
        this = _Source(name, f"a data: address of {len(text)} characters", limits)
        return _decode(_data_url(text, this), this)
    if re.match(r"[a-z][a-z0-9+.-]*://", text, re.IGNORECASE):
        return _from_url(text, limits, name)
    return _from_path(text, limits, name)


def _from_url(url: str, limits: ImageLimits, name: str) -> Image.Image:
    from vision_agent.images.fetch import fetch, shown  # httpx is slow to import and rarely needed

    this = _Source(name, shown(url), limits)
    if not limits.allow_urls:
        why = "and addresses are only downloaded when `limits.allow_urls` is True"
        raise this.error("a path or the bytes of an image", why, UrlRefusedError)
    data = fetch(
        url,
        max_bytes=limits.max_bytes,
        timeout=limits.url_timeout,
        max_redirects=limits.max_redirects,
        name=name,
    )
    return _decode(data, this)


def _from_path(path: str, limits: ImageLimits, name: str) -> Image.Image:
    shown = repr(path if len(path) <= 120 else path[:100] + "...")
    this = _Source(name, shown, limits)
    expected = "the path of a picture file"
    try:
        info = os.stat(path)
        if stat.S_ISDIR(info.st_mode):
            raise this.error(expected, "which is a folder")
        if not stat.S_ISREG(info.st_mode):  # a pipe or a device could block or never end
            raise this.error(expected, "which is not a regular file")
        this.check_bytes(info.st_size)
        with open(path, "rb") as file:
            data = _read(file.read, this)
    except FileNotFoundError as error:
        raise this.error(expected, "which does not exist") from error
    except PermissionError as error:
        raise this.error(expected, "which this process has no permission to read") from error
    except InputError:  # ours; it is a ValueError too
        raise
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise this.error(expected, f"which cannot be read ({_cause(error)})") from error
    return _decode(data, this)


def _read(read: Callable[[int], object], this: _Source) -> bytes:
    """The rest of a file, at most one byte over the limit."""
    expected = "a file object opened in binary mode"
    data = bytearray()
    while len(data) <= this.limits.max_bytes:
        try:
            chunk = read(min(this.limits.max_bytes + 1 - len(data), 1 << 20))
        except Exception as error:  # any class can have a `read`
            raise this.error(expected, f"which cannot be read ({_cause(error)})") from error
        if not isinstance(chunk, bytes | bytearray | memoryview):
            raise this.error(expected, f"whose read() gives {type(chunk).__name__}")
        if not chunk:
            return bytes(data)
        data += chunk
    this.check_bytes(len(data), at_least=True)
    return bytes(data)


def _data_url(url: str, this: _Source) -> bytes:
    expected = "a data: address with a picture"
    head, comma, body = url[5:].partition(",")
    if not comma:
        raise this.error(expected, "which has no comma")
    if head.rpartition(";")[2].strip().lower() != "base64":
        # An escape is three characters for one byte; this count is never above the real one.
        this.check_bytes(len(body) - 2 * body.count("%"), at_least=True)
        data = unquote_to_bytes(body)
        this.check_bytes(len(data))
        return data
    if len(body) > 4 * this.limits.max_bytes + 4:  # base64 that is percent-encoded throughout is 4 to 1
        this.check_bytes(this.limits.max_bytes + 1, at_least=True)
    digits = b"".join(unquote_to_bytes(body).split()).rstrip(b"=")
    this.check_bytes(len(digits) * 3 // 4)
    try:
        return base64.b64decode(digits + b"=" * (-len(digits) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise this.error(expected, f"whose base64 is broken ({_cause(error)})") from error


# --- From the bytes of an image file to an image ---

_SIGNATURES = (
    (re.compile(rb"\xff\xd8\xff"), "JPEG"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "PNG"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "WEBP"),
    (re.compile(rb"GIF8[79]a"), "GIF"),
    (re.compile(rb"II[*+]\x00|MM\x00[*+]"), "TIFF"),
    (re.compile(rb"P([1-6f]|0CMYK)\s"), "PPM"),
    (re.compile(rb"BM"), "BMP"),
)

# Common files that are not read, so that the error can name them.
_OTHER_SIGNATURES = (
    (re.compile(rb"....ftyp(avif|avis)", re.DOTALL), "an AVIF picture"),
    (re.compile(rb"....ftyp(hei|hev|mif1|msf1)", re.DOTALL), "a HEIC picture"),
    (re.compile(rb"....ftyp", re.DOTALL), "a video"),
    (re.compile(rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51"), "a JPEG 2000 picture"),
    (re.compile(rb"\x00\x00\x00\x0cJXL |\xff\x0a"), "a JPEG XL picture"),
    (re.compile(rb"\x00\x00\x01\x00"), "an icon (ICO)"),
    (re.compile(rb"8BPS"), "a Photoshop file"),
    (re.compile(rb"%PDF"), "a PDF"),
    (re.compile(rb"%!PS"), "a PostScript file"),
    (re.compile(rb"\s*(<\?xml.*?)?<svg", re.DOTALL), "an SVG drawing"),
)

_OPENERS: dict[str, Callable[[IO[bytes]], ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.jpeg_factory,  # gives MPO too
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
}


def _decode(data: bytes, this: _Source) -> Image.Image:
    """An image file as an upright RGB image.

    The plugins are called directly, not through `Image.open`: that would try formats which are not allowed, and it
    checks sizes against a limit of its own, which is global and warns.
    """
    kind = _kind(data, this)
    size = _header_size(kind, data)
    if size:
        this.check_size(*size)
    try:
        with _no_size_warning(kind, size):
            opened = _OPENERS[kind](io.BytesIO(data))
        with opened as image:
            this.check_size(*image.size)
            _check_format(image.format, this)
            # The images behind the first one of an MPO are extras (a depth map, the other eye), not frames.
            if image.format != "MPO" and getattr(image, "is_animated", False):
                raise _several_frames(kind, this)
            with _no_size_warning(kind, image.size):
                image.load()
            this.check_size(*image.size)  # a GIF frame can be larger than its header says
            return _upright_rgb(image, this)
    except InputError:  # ours
        raise
    except Image.DecompressionBombError as error:
        why = "whose size is over the limit of Pillow itself (`PIL.Image.MAX_IMAGE_PIXELS`)"
        raise this.error("a smaller image", why, ImageTooLargeError) from error
    except Exception as error:  # plugins let nearly everything through when they read a broken file
        why = f"whose {kind} data is broken or cut off ({_cause(error)})"
        raise this.error("a complete image file", why) from error


def _kind(data: bytes, this: _Source) -> str:
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


def _check_format(kind: str | None, this: _Source) -> None:
    if kind not in this.limits.formats:
        raise this.error(_formats(this), f"which is in the format {kind}", UnsupportedImageError)


def _formats(this: _Source) -> str:
    return f"a picture file in a format of `limits.formats` ({', '.join(this.limits.formats)})"


def _several_frames(kind: str, this: _Source) -> InputError:
    if kind == "TIFF":
        remedy = "open it with PIL, choose the page with seek(), and pass that image"
        return this.error("a picture with one page", f"which has more; {remedy}", UnsupportedImageError)
    remedy = "pass one frame, e.g. Image.open(file).convert('RGB')"
    return this.error("a still picture", f"which is animated; {remedy}", UnsupportedImageError)


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


_warning_lock = threading.Lock()


@contextmanager
def _no_size_warning(kind: str | None, size: tuple[int, int] | None) -> Iterator[None]:
    """Keeps back Pillow's warning about large images, for an image inside our own limit.

    Changing the warning filters touches every thread, so this is only done where the warning can come at all: the
    TIFF and GIF plugins give it while they read an image over Pillow's limit.
    """
    ceiling = Image.MAX_IMAGE_PIXELS
    if kind not in ("TIFF", "GIF") or ceiling is None or size is None or size[0] * size[1] <= ceiling:
        yield
        return
    with _warning_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def _cause(error: BaseException) -> str:
    """An error's own words in one short line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:100] or type(error).__name__


# --- From a PIL image to upright RGB ---

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_TO_8_BIT = ((np.arange(65536) + 128) // 257).astype(np.uint8)


def _from_pil(image: Image.Image, this: _Source) -> Image.Image:
    this.check_size(*image.size)
    try:
        with _no_size_warning(image.format, image.size):
            image.load()  # an opened file may not be decoded yet
        return _upright_rgb(image, this)
    except InputError:  # ours
        raise
    except Image.DecompressionBombError as error:
        why = "whose size is over the limit of Pillow itself (`PIL.Image.MAX_IMAGE_PIXELS`)"
        raise this.error("a smaller image", why, ImageTooLargeError) from error
    except Exception as error:  # the file behind it can be broken in any way
        raise this.error("a readable image", f"which cannot be decoded ({_cause(error)})") from error


def _upright_rgb(image: Image.Image, this: _Source) -> Image.Image:
    """A new upright RGB image of a loaded one."""
    upright = _rgb(image, this)
    turn = _TURNS.get(_orientation(image))
    if turn is not None:
        upright = upright.transpose(turn)
    upright.info = {}  # the orientation must not be applied again when the result is passed on
    return upright


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # broken EXIF, which fails in many ways, says nothing about the pixels
        return 1
    return value if isinstance(value, int) else 1


def _rgb(image: Image.Image, this: _Source) -> Image.Image:
    mode = image.mode
    transparent = image.info.get("transparency")
    if mode.startswith("I"):
        return _grey_16(np.asarray(image), transparent, this)
    if mode == "F":
        return _from_array(np.asarray(image), this)
    if mode == "P":
        # Pillow writes the transparency into the palette that it converts, and that one is the caller's.
        return _on_white(image.copy().convert("RGBA"))
    if mode in ("PA", "LA", "RGBA", "RGBa"):
        return _on_white(image.convert("RGBA"))
    if mode == "La":
        return _on_white(image.convert("LA").convert("RGBA"))
    if (mode in ("1", "L") and isinstance(transparent, int)) or (mode == "RGB" and isinstance(transparent, tuple)):
        return _on_white(image.convert("RGBA"))
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    canvas = Image.new("RGB", image.size, (255, 255, 255))
    canvas.paste(image, mask=image.getchannel("A"))
    return canvas


def _grey_16(values: npt.NDArray[Any], transparent: object, this: _Source) -> Image.Image:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise this.error("a grey image of at most 16 bits", f"which has values from {low} to {high}")
    grey = _TO_8_BIT[values]
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(grey).convert("RGB")


# --- From an array to an image ---

_CHANNELS = (1, 3, 4)


def _from_array(array: npt.NDArray[Any], this: _Source) -> Image.Image:
    """An RGB image of an array (H, W) or (H, W, C)."""
    kind, width = array.dtype.kind, array.dtype.itemsize
    if not (kind == "f" or (kind == "u" and width <= 2)):
        raise this.error("an array of dtype uint8, uint16 or float", _dtype_hint(kind))
    if array.ndim == 4:
        raise this.error("one image", "which is a batch; pass one of them, e.g. images[0]")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in _CHANNELS):
        swapped = array.ndim == 3 and array.shape[0] in _CHANNELS
        hint = "which has its channels first; pass np.moveaxis(array, 0, -1)" if swapped else "which is another shape"
        raise this.error("an array of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)", hint)
    this.check_size(array.shape[1], array.shape[0])
    if kind == "f":
        array = _unit_to_8_bit(array, this)
    elif width == 2:
        array = _TO_8_BIT[array]
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    image = Image.fromarray(np.ascontiguousarray(array))
    return _on_white(image) if image.mode == "RGBA" else image.convert("RGB")


def _dtype_hint(kind: str) -> str:
    if kind == "b":
        return "which may be a mask; pass mask.astype('uint8') * 255 to use it as a picture"
    return "whose range of values is not known; convert it, e.g. with astype('uint8')"


def _unit_to_8_bit(array: npt.NDArray[Any], this: _Source) -> npt.NDArray[np.uint8]:
    low, high = float(array.min()), float(array.max())  # NaN comes through both
    if not (math.isfinite(low) and math.isfinite(high)):
        raise this.error("an image of finite values", "which has NaN or infinity in it")
    if low < 0 or high > 1:
        hint = "divide it by 255" if low >= 0 and high <= 255 else "undo its normalisation"
        raise this.error("a float image with values from 0 to 1", f"whose values are {low:g} to {high:g}; {hint}")
    scaled = np.multiply(array, 255, dtype=np.float32, casting="same_kind")
    eight_bit: npt.NDArray[np.uint8] = np.rint(scaled, out=scaled).astype(np.uint8)
    return eight_bit


def _is_tensor(source: object) -> "TypeGuard[torch.Tensor]":
    # What is a tensor has imported torch already; nobody else should wait for that import.
    if "torch" not in sys.modules:
        return False
    import torch

    return isinstance(source, torch.Tensor)


def _from_tensor(tensor: "torch.Tensor", this: _Source) -> Image.Image:
    import torch

    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        raise this.error("a dense tensor with values", "which is sparse, quantized or on the meta device")
    if tensor.dtype not in (torch.uint8, torch.uint16) and not (
        tensor.dtype.is_floating_point and tensor.dtype.itemsize >= 2
    ):
        kind = "b" if tensor.dtype == torch.bool else "i"
        raise this.error("a tensor of dtype uint8, uint16 or float", _dtype_hint(kind))
    if tensor.ndim == 4:
        raise this.error("one image", "which is a batch; pass one of them, e.g. images[0]")
    if tensor.ndim == 3:
        first, last = tensor.shape[0] in _CHANNELS, tensor.shape[2] in _CHANNELS
        expected = "a tensor of shape (H, W), (C, H, W) or (H, W, C) with 1, 3 or 4 channels"
        if first == last:
            raise this.error(expected, "which could be read both ways" if first else "which is another shape")
        if first:
            tensor = tensor.permute(1, 2, 0)
    elif tensor.ndim != 2:
        raise this.error("a tensor with 2 or 3 dimensions", "which is another shape")
    this.check_size(tensor.shape[1], tensor.shape[0])  # before it is copied from a device
    plain = tensor.detach().cpu().resolve_neg()
    if plain.dtype == torch.bfloat16:  # numpy has no such type
        plain = plain.float()
    return _from_array(plain.numpy(), this)
