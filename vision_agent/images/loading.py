"""The one way in for images: whatever the caller has becomes an upright RGB image, or a clear error.

`load_image` is the only place of the package that opens image files, so the limits hold everywhere.
"""

import base64
import binascii
import os
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeGuard
from urllib.parse import unquote_to_bytes

import numpy as np
import numpy.typing as npt
from PIL import Image

from vision_agent.errors import ArgumentTypeError, InputError, UrlRefusedError, bad_argument
from vision_agent.images.addresses import shown
from vision_agent.images.image_files import decode_file
from vision_agent.images.limits import FORMATS, CheckedSource, ImageLimits, cause
from vision_agent.images.pixels import rgb_from_array, rgb_from_pil, rgb_from_tensor
from vision_agent.images.regular_files import NotRegularError, open_regular

if TYPE_CHECKING:
    import torch

__all__ = ["FORMATS", "ImageLimits", "ImageSource", "load_image"]


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
"""What `load_image` takes: a path, a `data:` or https address, the bytes of an image file, a binary file object,
a PIL image, a numpy array or a torch tensor."""


_DEFAULT_LIMITS = ImageLimits()


def load_image(source: ImageSource, *, limits: ImageLimits = _DEFAULT_LIMITS, name: str = "image") -> Image.Image:
    """Load any kind of image as an upright RGB `PIL.Image.Image`.

    The result is always a new image, without metadata. The EXIF orientation is applied for every kind of source, and
    transparent pixels are blended onto white. 16-bit values are scaled by the 16-bit range (65535 becomes 255), unless
    none is over 255: then they are 8-bit values in a wider type, and stay as they are. Colour profiles are not applied.

    Args:
        source: one of
            - a path, as a string or a `pathlib.Path`;
            - a `data:` address, in base64 or percent-encoded;
            - an https:// address, if `limits.allow_urls` is on;
            - the bytes of an image file (`bytes`, `bytearray`, `memoryview`);
            - a file object opened in binary mode, read from where it is to its end;
            - a PIL image of any mode; of a multi-frame one the current frame is taken;
            - a numpy array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), channels in RGB order (OpenCV gives BGR: pass
              `array[..., ::-1]`), of dtype uint8, uint16, or float with values from 0 to 1. What is at most 0.1 below
              or above, as resizing leaves it, is clipped to 0 and 1;
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
        this = CheckedSource(name, f"{type(source).__name__} of length {size}", limits)
        this.check_bytes(size)
        return decode_file(bytes(source), this)
    if isinstance(source, os.PathLike):
        return _from_path(os.fsdecode(source), limits, name)
    if isinstance(source, Image.Image):
        return rgb_from_pil(source, CheckedSource(name, f"a PIL image of mode {source.mode}", limits))
    if isinstance(source, np.ndarray):
        label = f"a numpy array of shape {source.shape} and dtype {source.dtype}"
        return rgb_from_array(np.asarray(source), CheckedSource(name, label, limits))
    if _is_tensor(source):
        label = f"a torch tensor of shape {tuple(source.shape)} and dtype {source.dtype}"
        return rgb_from_tensor(source, CheckedSource(name, label, limits))
    read = getattr(source, "read", None)
    if callable(read):
        this = CheckedSource(name, f"a file object ({type(source).__name__})", limits)
        return decode_file(_read(read, this), this)
    expected = "a path, bytes, a binary file object, a PIL image, a numpy array or a torch tensor"
    hint = "; pass one image at a time" if isinstance(source, list | tuple) else ""
    raise ArgumentTypeError(f"`{name}` must be {expected}, but got a {type(source).__name__}{hint}")


# --- From a source to the bytes of an image file ---


def _from_text(text: str, limits: ImageLimits, name: str) -> Image.Image:
    if text[:5].lower() == "data:":
        this = CheckedSource(name, f"a data: address of {len(text)} characters", limits)
        return decode_file(_data_url(text, this), this)
    if re.match(r"[a-z][a-z0-9+.-]*://", text, re.IGNORECASE):
        return _from_url(text, limits, name)
    return _from_path(text, limits, name)


def _from_url(url: str, limits: ImageLimits, name: str) -> Image.Image:
    from vision_agent.images.fetch import fetch  # httpx is slow to import and rarely needed

    this = CheckedSource(name, shown(url), limits)
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
    return decode_file(data, this)


def _from_path(path: str, limits: ImageLimits, name: str) -> Image.Image:
    shown = repr(path if len(path) <= 120 else path[:100] + "...")
    this = CheckedSource(name, shown, limits)
    expected = "the path of an image file"
    try:
        with open_regular(path) as file:
            this.check_bytes(os.fstat(file.fileno()).st_size)
            data = _read(file.read, this)
    except NotRegularError as error:
        raise this.error(expected, f"which is {error}") from error
    except FileNotFoundError as error:
        raise this.error(expected, "which does not exist") from error
    except PermissionError as error:
        raise this.error(expected, "which this process has no permission to read") from error
    except InputError:  # ours; it is a ValueError too
        raise
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise this.error(expected, f"which cannot be read ({cause(error)})") from error
    return decode_file(data, this)


def _read(read: Callable[[int], object], this: CheckedSource) -> bytes:
    """The rest of a file, at most one byte over the limit."""
    expected = "a file object opened in binary mode"
    data = bytearray()
    while len(data) <= this.limits.max_bytes:
        try:
            chunk = read(min(this.limits.max_bytes + 1 - len(data), 1 << 20))
        except Exception as error:  # any class can have a `read`
            raise this.error(expected, f"which cannot be read ({cause(error)})") from error
        if not isinstance(chunk, bytes | bytearray | memoryview):
            raise this.error(expected, f"whose read() gives {type(chunk).__name__}")
        if not chunk:
            return bytes(data)
        data += chunk
    this.check_bytes(len(data), at_least=True)
    return bytes(data)


def _data_url(url: str, this: CheckedSource) -> bytes:
    expected = "a data: address with an image"
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
        raise this.error(expected, f"whose base64 is broken ({cause(error)})") from error


def _is_tensor(source: object) -> "TypeGuard[torch.Tensor]":
    # What is a tensor has imported torch already; nobody else should wait for that import.
    if "torch" not in sys.modules:
        return False
    import torch

    return isinstance(source, torch.Tensor)
