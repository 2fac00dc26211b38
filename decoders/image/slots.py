"""An image as slots: rows of numbers that say what is drawn where, and the drawing of them.

Row 0 is the background, a 3 x 3 grid of colours; rows 1-4 are objects, drawn in that order; row 5 is a part of an older
image that an edit takes away. An object is a place, a size, and two codes of +1 and -1, which say how it looks and what
colour it is. Discrete choices as real numbers are "analog bits" (https://arxiv.org/abs/2208.04202): a flow can draw
them.

Places and sizes are shares of the image's sides. Shape suffixes: B images, R rows, F numbers a row, H W image.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from .samples import Sample

OBJECTS = 4
ROWS = OBJECTS + 2
NUMBERS = 32
GRID = 3  # colours of the background a side
LOOK_BITS, COLOUR_BITS = 16, 8

_GONE = ROWS - 1
_THERE, _X, _Y, _WIDTH, _HEIGHT = range(5)  # _WIDTH is the size of an object
_LIGHT = 4
_LOOK = slice(5, 5 + LOOK_BITS)
_COLOUR = slice(5 + LOOK_BITS, 5 + LOOK_BITS + COLOUR_BITS)
CODE = slice(_LOOK.start, _COLOUR.stop)
_PLACE_SCALE, _SIZE_MIDDLE, _SIZE_SCALE, _LIGHT_SCALE = 4.0, 0.5, 6.0, 10.0


def codes(count: int, bits: int, seed: int) -> Tensor:
    """Return codes (count, bits) of +1 and -1, far apart: each new one is the best of many draws."""
    draws = torch.Generator().manual_seed(seed)
    chosen = torch.randint(0, 2, (1, bits), generator=draws) * 2.0 - 1
    while len(chosen) < count:
        tried = torch.randint(0, 2, (256, bits), generator=draws) * 2.0 - 1
        apart = (bits - tried @ chosen.T).amin(dim=1)
        chosen = torch.cat([chosen, tried[int(apart.argmax())][None]])
    return chosen


def rows_of(samples: Sequence["Sample"], looks: Tensor, colours: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows (B, R, F) of training samples, and how much each number counts (B, R, F)."""
    rows = torch.zeros(len(samples), ROWS, NUMBERS)
    weights = torch.zeros_like(rows)
    for row, weight, sample in zip(rows, weights, samples, strict=True):
        row[0, : GRID * GRID * 3] = torch.from_numpy(sample.grid).flatten() * 2 - 1
        weight[0, : GRID * GRID * 3] = 1
        row[1:, _THERE] = -1
        weight[1:, _THERE] = 2  # how many there are
        for number, obj in enumerate(sample.objects, start=1):
            row[number, _THERE] = 1
            row[number, _X] = _PLACE_SCALE * (obj.x - 0.5)
            row[number, _Y] = _PLACE_SCALE * (obj.y - 0.5)
            row[number, _WIDTH] = _SIZE_SCALE * (obj.size - _SIZE_MIDDLE)
            row[number, _LIGHT] = _LIGHT_SCALE * (obj.light - 1)
            row[number, _LOOK], row[number, _COLOUR] = looks[obj.look], colours[obj.paint]
            weight[number, : CODE.stop] = 1
        if sample.gone is not None:
            x0, y0, x1, y1 = sample.gone
            values = torch.tensor([1 / _PLACE_SCALE, (x0 + x1) / 2 - 0.5, (y0 + y1) / 2 - 0.5, x1 - x0, y1 - y0])
            row[_GONE, : _HEIGHT + 1] = _PLACE_SCALE * values
            weight[_GONE, : _HEIGHT + 1] = 1
    return rows, weights


def compose(rows_RF: Tensor, sprites_T4SS: Tensor, size: tuple[int, int], under_3HW: Tensor | None = None) -> Tensor:
    """Draw the rows of one image: (3, H, W), 0..1.

    Args:
        sprites_T4SS: how each of the four objects looks: premultiplied colours and cover, 0..1, on a square.
        size: (height, width).
        under_3HW: an older image to draw on; None for the rows' own background.
    """
    height, width = size
    grid = ((rows_RF[0, : GRID * GRID * 3] + 1) / 2).clamp(0, 1).reshape(1, GRID, GRID, 3).permute(0, 3, 1, 2)
    ground = F.interpolate(grid, size, mode="bilinear", align_corners=True)[0]
    canvas = ground if under_3HW is None else under_3HW
    down = ((torch.arange(height, device=canvas.device) + 0.5) / height)[:, None]
    across = ((torch.arange(width, device=canvas.device) + 0.5) / width)[None]
    is_there = rows_RF[:, _THERE] > 0  # chosen by where it is: the host would have to wait for a device's answer
    if under_3HW is not None:
        x, y, wide, high = (rows_RF[_GONE, 1:5] / _PLACE_SCALE).unbind()
        edge = 0.03  # the part that goes fades over a thirtieth of the image
        beyond = torch.maximum((across - 0.5 - x).abs() - wide / 2, (down - 0.5 - y).abs() - high / 2)
        canvas = torch.where(is_there[_GONE], canvas + (ground - canvas) * (1 - beyond / edge).clamp(0, 1), canvas)
    for row, sprite, is_drawn in zip(rows_RF[1:_GONE], sprites_T4SS, is_there[1:_GONE], strict=True):
        half = (row[_WIDTH] / _SIZE_SCALE + _SIZE_MIDDLE).clamp(0.05, 1) / 2
        x = ((across - 0.5 - row[_X] / _PLACE_SCALE) / half).expand(height, width)
        y = ((down - 0.5 - row[_Y] / _PLACE_SCALE) / half).expand(height, width)
        places = torch.stack([x, y], dim=-1)
        drawn = F.grid_sample(sprite[None], places[None], align_corners=False)[0]
        light = (1 + row[_LIGHT] / _LIGHT_SCALE).clamp(0.5, 1.5)
        canvas = torch.where(is_drawn, canvas * (1 - drawn[3:]) + (drawn[:3] * light).clamp(0, 1), canvas)
    return canvas.clamp(0, 1)
