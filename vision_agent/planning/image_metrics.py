"""Figures of an image that its pixels alone give, for comparing images."""

from collections.abc import Callable
from typing import Literal

import numpy as np
from PIL import Image

PixelMeasure = Literal["brightness", "sharpness", "size"]


def measure(name: PixelMeasure, image: Image.Image) -> float:
    """Return one figure of an RGB image.

    * "brightness": mean luma (ITU-R BT.601), 0-255.
    * "sharpness": standard deviation of the luma's Laplacian over its own standard deviation, at 512 pixels; blur
      takes fine edges first (https://doi.org/10.1109/ICPR.2000.903548).
    * "size": pixels.
    """
    return _MEASURES[name](image)


def _brightness(image: Image.Image) -> float:
    return float(np.asarray(image.convert("L"), dtype=np.float32).mean())


def _sharpness(image: Image.Image) -> float:
    grey = image.convert("L")
    grey.thumbnail((512, 512))
    luma = np.asarray(grey, dtype=np.float32)
    if min(luma.shape) < 3:
        return 0.0
    inner = luma[1:-1, 1:-1]
    laplacian = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:] - 4 * inner
    return float(laplacian.std() / (luma.std() + 1))


def _size(image: Image.Image) -> float:
    return float(image.width * image.height)


_MEASURES: dict[str, Callable[[Image.Image], float]] = {
    "brightness": _brightness,
    "sharpness": _sharpness,
    "size": _size,
}
