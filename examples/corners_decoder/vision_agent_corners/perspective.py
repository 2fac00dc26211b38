"""Flat sheets seen at an angle. Corners are (4, 2) pixels: top left, top right, bottom right, bottom left."""

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from vision_agent import InputError

Corners = npt.NDArray[np.float64]


def is_convex(corners: npt.ArrayLike) -> bool:
    """Return whether four corners go clockwise round something with an area, and never turn back."""
    given = np.asarray(corners, dtype=np.float64)
    sides = np.roll(given, -1, axis=0) - given
    after = np.roll(sides, -1, axis=0)
    return bool((sides[:, 0] * after[:, 1] - sides[:, 1] * after[:, 0] > 1e-6).all())


def rectangle(size: tuple[int, int]) -> Corners:
    """Return the corners of a whole image of (width, height)."""
    width, height = size
    return np.array([(0, 0), (width, 0), (width, height), (0, height)], dtype=np.float64)


def coefficients(source: npt.ArrayLike, target: npt.ArrayLike) -> tuple[float, ...]:
    """Return the eight numbers of `Image.transform(PERSPECTIVE)` that move the corners `source` to `target`.

    Pillow asks for each pixel (x, y) of the result where it comes from: ((a x + b y + c) / (g x + h y + 1),
    (d x + e y + f) / (g x + h y + 1)). Four pairs of corners are eight linear equations in a ... h.
    """
    rows, wanted = [], []
    for (u, v), (x, y) in zip(np.asarray(source).tolist(), np.asarray(target).tolist(), strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        wanted += [u, v]
    return tuple(np.linalg.solve(np.array(rows, dtype=np.float64), np.array(wanted, dtype=np.float64)).tolist())


def moved(image: Image.Image, source: npt.ArrayLike, target: npt.ArrayLike, size: tuple[int, int]) -> Image.Image:
    """Return an image of `size` on which the corners `source` of `image` lie at `target`."""
    numbers: Any = coefficients(source, target)
    return image.transform(size, Image.Transform.PERSPECTIVE, numbers, Image.Resampling.BICUBIC)


def straighten(image: Image.Image, corners: npt.ArrayLike) -> Image.Image:
    """Return the sheet between four corners, as a scanner would see it.

    Its sides are as long as the longer of the two opposite sides in the photo, so that no letter shrinks.

    Raises:
        InputError: four corners that are no sheet: not clockwise from the top left, or without area.
    """
    given = np.asarray(corners, dtype=np.float64)
    if given.shape != (4, 2) or not is_convex(given):
        raise InputError(f"`corners` must be four points, clockwise from the top left, but got {given.tolist()!r}")
    top, right, bottom, left = np.linalg.norm(np.roll(given, -1, axis=0) - given, axis=1).tolist()
    size = max(1, round(max(top, bottom))), max(1, round(max(left, right)))
    return moved(image.convert("RGB"), given, rectangle(size), size)
