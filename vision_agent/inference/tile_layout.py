"""Where a big or long image is looked at more closely: overlapping tiles, each a view of its own.

A model sees an image on a canvas of its own size, whatever the image's: a panorama is squashed, and a large photo
loses its small objects. The canvas of a checkpoint that cuts images itself (InternVL's own tiles) is larger, so fewer
images need more. Sliced inference: https://arxiv.org/abs/2202.06934.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from operator import index
from typing import TypeAlias

import numpy as np

from vision_agent.errors import InputError, bad_argument
from vision_agent.geometry.frames import TileGrid
from vision_agent.model.tile_bounds import MULTI_SCALE, MultiScale

Tiles: TypeAlias = bool | int | MultiScale | None
"""Whether an image is looked at in tiles: None where it is much larger than the model's view, True for every image that
is larger, False never; a number for at most so many tiles; "multi-scale" for the model's own tiles in two scales, whose
cuts lie in different places, and no others: for documents."""

Tile: TypeAlias = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels of the whole image."""

MOST_TILES = 256
_OVERLAP = 0.35  # of a tile with its neighbour: an object up to this part of a tile lies whole in one of them
_LEAST_SIDE = 32  # pixels; on less there is nothing to tell
_MUCH_LARGER = 5.0  # image pixels to one pixel of the view, from which small objects are lost
_SQUASHED = 3.0  # how much more one side is shrunk than the other, from which shapes are lost
_SHARP, _TRUE = 3.1, 1.7  # the same of the tiles that are made then
_AUTOMATIC = 32  # most tiles where nobody asks for more
_CUTS = 64  # most of the checkpoint's own tiles in them


@dataclass(frozen=True)
class Fit:
    """How an image comes out on the model's canvas.

    Attributes:
        shrunk: pixels of the image to one of the canvas, along the side that loses more.
        squashed: how much more that side loses than the other.
    """

    shrunk: float
    squashed: float

    @property
    def is_squashed(self) -> bool:
        """Whether shapes are lost."""
        return self.squashed > _SQUASHED

    @classmethod
    def of(cls, grid: TileGrid) -> "Fit":
        width, height = grid.frame_size("input")
        across, down = grid.image_width / width, grid.image_height / height
        return cls(max(across, down), max(across, down) / min(across, down))


def check_tiling(tiles: object) -> Tiles:
    """Return the `tiles` of a verb, a number as an int.

    Raises:
        InputError: not None, True, False, "multi-scale" or a whole number from 1 to 256.
    """
    if tiles is None or isinstance(tiles, bool):
        return tiles
    if tiles == MULTI_SCALE:
        return MULTI_SCALE
    try:
        number = index(tiles)  # type: ignore[arg-type]  # a TypeError is the question asked here
    except TypeError:
        number = 0
    if not 1 <= number <= MOST_TILES:
        expected = f"None, True, False or a whole number from 1 to {MOST_TILES}, or {MULTI_SCALE!r}"
        raise InputError(bad_argument("tiles", expected, tiles))
    return number


def tiles_of(
    size: tuple[int, int], tiles: Tiles, grid_for: Callable[[int, int], TileGrid], own_tiles: int = 1
) -> list[Tile]:
    """Return the tiles in which an image is looked at beside the whole of it, row by row; none where that is enough.

    Args:
        size: (width, height) of the image.
        tiles: as `check_tiling` returns it.
        grid_for: how the model sees an image of a width and a height.
        own_tiles: most tiles into which the model cuts an image by itself.
    """
    if tiles is False or tiles == MULTI_SCALE or (tiles == 1 and tiles is not True):
        return []
    whole = Fit.of(grid_for(*size))
    asked = tiles is not None
    if not asked and whole.shrunk <= _MUCH_LARGER and not whole.is_squashed:
        return []
    if tiles is True and whole.shrunk <= 1.0:
        return []
    numbered = asked and tiles is not True
    most = index(tiles) if numbered else max(4, min(_AUTOMATIC, _CUTS // own_tiles))  # type: ignore[arg-type]
    sharp = 1.0 if tiles is True else _SHARP
    best: tuple[float, int, int] | None = None
    chosen: tuple[int, int] = (1, 1)
    for columns, rows in product(range(1, most + 1), repeat=2):
        sides = _side(size[0], columns), _side(size[1], rows)
        if not 1 < columns * rows <= most or (columns > 1 and sides[0] < _LEAST_SIDE):
            continue
        if (rows > 1 and sides[1] < _LEAST_SIDE) or (min(size) < _LEAST_SIDE and not asked):
            continue
        fit = Fit.of(grid_for(*sides))
        # As few as will do; of a number, all that make the image sharper.
        lacking = max(1.0, fit.shrunk / sharp, fit.squashed / _TRUE)
        if numbered:
            lacking = fit.shrunk * max(1.0, fit.squashed / _TRUE)
        if best is None or (lacking, columns * rows, abs(columns - rows)) < best:
            best, chosen = (lacking, columns * rows, abs(columns - rows)), (columns, rows)
    if best is None:
        return []
    across, down = (_spans(side, count) for side, count in zip(size, chosen, strict=True))
    return [(x0, y0, x1, y1) for y0, y1 in down for x0, x1 in across]


def _side(whole: int, count: int) -> int:
    """Length of each of `count` tiles that overlap and cover a side."""
    return math.ceil(whole / (1 + (count - 1) * (1 - _OVERLAP)))


def _spans(whole: int, count: int) -> list[tuple[int, int]]:
    side = _side(whole, count)
    return [(int(start), int(start) + side) for start in np.linspace(0, whole - side, count).round()]
