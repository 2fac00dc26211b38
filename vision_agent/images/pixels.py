"""From decoded images, arrays and tensors to upright 8-bit RGB."""

import math
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from vision_agent.errors import ImageTooLargeError, InputError
from vision_agent.images.limits import CheckedSource, cause

if TYPE_CHECKING:
    import torch

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_OVERSHOOT = 0.1  # of float values below 0 and above 1, as resizing and filters leave it; these are clipped
_PIXELS_AT_ONCE = 4_000_000
_TO_8_BIT = ((np.arange(65536) + 128) // 257).astype(np.uint8)


def rgb_from_pil(image: Image.Image, this: CheckedSource) -> Image.Image:
    this.check_size(*image.size)
    try:
        with this.memory(*image.size):
            with no_size_warning(image.format, image.size):
                image.load()  # an opened file may not be decoded yet
            return upright_rgb(image, this)
    except InputError:  # ours
        raise
    except Image.DecompressionBombError as error:
        why = "whose size is over the limit of Pillow itself (`PIL.Image.MAX_IMAGE_PIXELS`)"
        raise this.error("a smaller image", why, ImageTooLargeError) from error
    except Exception as error:  # the file behind it can be broken in any way
        raise this.error("a readable image", f"which cannot be decoded ({cause(error)})") from error


def upright_rgb(image: Image.Image, this: CheckedSource, *, last_use: bool = False) -> Image.Image:
    """Make a new upright RGB image of a loaded one, whose memory is freed on the way if this is its `last_use`."""
    turn = _TURNS.get(_orientation(image))
    upright = _rgb(image, this)
    if turn is not None:
        if last_use:
            image.close()
        upright = upright.transpose(turn)
    upright.info = {}  # the orientation must not be applied again when the result is passed on
    return upright


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # broken EXIF, which fails in many ways, says nothing about the pixels
        return 1
    return value if isinstance(value, int) else 1


def _rgb(image: Image.Image, this: CheckedSource) -> Image.Image:
    mode = image.mode
    transparent = image.info.get("transparency")
    if mode.startswith("I"):
        return _grey_16(np.asarray(image), transparent, this)
    if mode == "F":
        return _grey_float(np.asarray(image), this)
    if mode == "La":
        return _on_white(image.convert("LA"))
    one_colour = isinstance(transparent, int if mode in ("1", "L") else tuple) and mode in ("1", "L", "RGB")
    if one_colour or mode in ("P", "PA", "LA", "RGBA", "RGBa"):
        return _on_white(image)
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    """Blend onto white, some rows at a time: copies of the whole image with its transparency would be three more."""
    canvas = Image.new("RGB", image.size, (255, 255, 255))
    rows = max(1, _PIXELS_AT_ONCE // image.width)
    for top in range(0, image.height, rows):
        # A copy also where it is already RGBA, as Pillow writes the transparency into the palette that it converts.
        part = image.crop((0, top, image.width, min(top + rows, image.height))).convert("RGBA")
        canvas.paste(part, (0, top), part.getchannel("A"))
    return canvas


def _grey_16(values: npt.NDArray[Any], transparent: object, this: CheckedSource) -> Image.Image:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise this.error("a grey image of at most 16 bits", f"which has values from {low} to {high}")
    grey = _wide_to_8_bit(values)
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(grey).convert("RGB")


def _grey_float(values: npt.NDArray[Any], this: CheckedSource) -> Image.Image:
    """Values from 0 to 1, or whole ones to 255, which is what Pillow makes of 8 bits."""
    with np.errstate(invalid="ignore"):
        low, high = float(values.min()), float(values.max())
        if 0 <= low and 1 < high <= 255 and (values == np.rint(values)).all():
            return Image.fromarray(values.astype(np.uint8)).convert("RGB")
    return rgb_from_array(values, this)


def _wide_to_8_bit(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """16 bits to 8. Where no value needs more than 8 they are 8-bit values in a wider type; scaled, they were black."""
    eight_bit: npt.NDArray[np.uint8] = values.astype(np.uint8) if values.max() <= 255 else _TO_8_BIT[values]
    return eight_bit


# --- From an array to an image ---

_CHANNELS = (1, 3, 4)


def rgb_from_array(array: npt.NDArray[Any], this: CheckedSource) -> Image.Image:
    """Make an RGB image of an array (H, W) or (H, W, C)."""
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
        array = _wide_to_8_bit(array)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    image = Image.fromarray(np.ascontiguousarray(array))
    return _on_white(image) if image.mode == "RGBA" else image.convert("RGB")


def _dtype_hint(kind: str) -> str:
    if kind == "b":
        return "which may be a mask; pass mask.astype('uint8') * 255 to use it as an image"
    return "whose range of values is not known; convert it, e.g. with astype('uint8')"


def _unit_to_8_bit(array: npt.NDArray[Any], this: CheckedSource) -> npt.NDArray[np.uint8]:
    low, high = float(array.min()), float(array.max())  # NaN comes through both
    if not (math.isfinite(low) and math.isfinite(high)):
        raise this.error("an image of finite values", "which has NaN or infinity in it")
    if low < -_OVERSHOOT or high > 1 + _OVERSHOOT:
        raise this.error(
            "a float image with values from 0 to 1", f"whose values are {low:g} to {high:g}; {_float_hint(low, high)}"
        )
    scaled = np.multiply(array, 255, dtype=np.float32, casting="same_kind")
    if low < 0 or high > 1:
        np.clip(scaled, 0, 255, out=scaled)
    eight_bit: npt.NDArray[np.uint8] = np.rint(scaled, out=scaled).astype(np.uint8)
    return eight_bit


def _float_hint(low: float, high: float) -> str:
    if low >= -_OVERSHOOT and high <= 2:
        return "clip it to 0 and 1, if it should not be brighter"
    if low >= 0 and high <= 65535:
        return f"divide it by {255 if high <= 255 else 65535}"
    return "undo its normalisation"


def rgb_from_tensor(tensor: "torch.Tensor", this: CheckedSource) -> Image.Image:
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
    return rgb_from_array(plain.numpy(), this)


_warning_lock = threading.Lock()


@contextmanager
def no_size_warning(kind: str | None, size: tuple[int, int] | None) -> Iterator[None]:
    """Suppress Pillow's warning about large images, for an image inside our own limit.

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
