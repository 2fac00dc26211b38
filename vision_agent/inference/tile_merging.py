"""Joins what was found in an image and in its tiles: each object once, whole where tiles cut it.

Boxes of one label are compared. A box that ends at the border of its tile may be a part: it is left out where another
view shows the object whole, and parts in neighbouring tiles become one object.

Shape suffixes: N boxes, V views, the whole image first.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vision_agent.geometry.frames import box_area, box_iou
from vision_agent.geometry.rle import Bools
from vision_agent.inference.tile_layout import Tile

Floats = npt.NDArray[np.float64]

_SAME_IOU = 0.4  # two views of one object overlap at least so much
_INSIDE = 0.65  # the share of a box in another one from which it shows nothing of its own
_ALONG = 0.5  # IoU of two parts of one object along the border between them
_BORDER = 0.02  # of a tile's side: a box that comes so near to the tile's border is cut by it
_MOST = 500  # boxes that are compared


def join_views(
    xyxy: Floats, scores: Floats, views: Sequence[int], tiles: Sequence[Tile], image_size: tuple[int, int]
) -> list[list[int]]:
    """Return the objects that boxes of one label show, best first: of each the numbers of its parts, best first.

    Args:
        xyxy: (N, 4), pixels of the whole image.
        scores: (N,), 0-1.
        views: (N,), where each was found: 0 for the whole image, k for `tiles[k - 1]`.
        image_size: (width, height).
    """
    if not len(scores):
        return []
    order = np.argsort(-scores, kind="stable")[:_MOST]
    xyxy, scores, view_N = xyxy[order], scores[order], np.asarray(views, dtype=np.int64)[order]
    cut_N4 = _cut(xyxy, view_N, tiles, image_size)
    is_cut_N: Bools = np.asarray(cut_N4.any(axis=1))
    inside_NN = _inside(xyxy)
    goes_on_NN = _goes_on(xyxy, cut_N4) & (view_N[:, None] != view_N[None])
    shown_whole_N = is_cut_N & ((inside_NN | goes_on_NN) & ~is_cut_N[None]).any(axis=1)
    left = np.flatnonzero(~shown_whole_N)
    one_NN = _parts(xyxy[left], cut_N4[left])
    # Of an object that is whole nowhere, one tile may show a part of the part that another shows.
    both_cut_NN = is_cut_N[left][:, None] & is_cut_N[left][None]
    one_NN |= inside_NN[np.ix_(left, left)] & both_cut_NN & (view_N[left][:, None] != view_N[left][None])
    objects = [[int(left[row]) for row in rows] for rows in _together(one_NN)]
    objects.sort(key=lambda rows: rows[0])  # the best part is first, and so is the best object
    hulls = np.array([[*xyxy[rows, :2].min(axis=0), *xyxy[rows, 2:].max(axis=0)] for rows in objects]).reshape(-1, 4)
    lone_cut = np.array([len(rows) == 1 and bool(is_cut_N[rows[0]]) for rows in objects], dtype=np.bool_)
    of_whole = np.array([view_N[rows[0]] == 0 for rows in objects], dtype=np.bool_)
    kept = _distinct(hulls, lone_cut, of_whole)
    return [[int(order[row]) for row in objects[number]] for number in kept]


def _cut(xyxy_N4: Floats, view_N: npt.NDArray[np.int64], tiles: Sequence[Tile], image_size: tuple[int, int]) -> Bools:
    """Which sides of the boxes (N, 4) end at the border of their tile, where the image goes on."""
    ends_V4 = np.array([(0, 0, *image_size), *tiles], dtype=np.float64)
    near_V4 = np.tile(np.maximum(2.0, (ends_V4[:, 2:] - ends_V4[:, :2]) * _BORDER), (1, 2))
    inner_V4 = ends_V4 != ends_V4[0]
    cut_N4: Bools = inner_V4[view_N] & (np.abs(xyxy_N4 - ends_V4[view_N]) <= near_V4[view_N])
    return cut_N4


def _inside(xyxy_N4: Floats) -> Bools:
    """Whether most of a box (row) lies in another one (column)."""
    low = np.maximum(xyxy_N4[:, None, :2], xyxy_N4[None, :, :2])
    high = np.minimum(xyxy_N4[:, None, 2:], xyxy_N4[None, :, 2:])
    shared = (high - low).clip(min=0).prod(axis=2)
    inside: Bools = shared >= _INSIDE * np.maximum(box_area(xyxy_N4), 1e-9)[:, None]
    np.fill_diagonal(inside, False)
    return inside


def _goes_on(xyxy_N4: Floats, cut_N4: Bools) -> Bools:
    """Whether a box (row) ends at a border just where another one (column) crosses it: it is a part of that object."""
    crossed: Bools = np.zeros((len(xyxy_N4), len(xyxy_N4)), dtype=np.bool_)
    for side in range(4):
        axis = side % 2
        edge = xyxy_N4[:, side, None]
        across = (xyxy_N4[None, :, axis] < edge) & (edge < xyxy_N4[None, :, axis + 2])
        low, high = xyxy_N4[:, 1 - axis], xyxy_N4[:, 3 - axis]
        shared = np.minimum(high[:, None], high[None]) - np.maximum(low[:, None], low[None])
        crossed |= cut_N4[:, side, None] & across & (shared >= _ALONG * np.maximum(high - low, 1e-9)[:, None])
    return crossed


def _parts(xyxy_N4: Floats, cut_N4: Bools) -> Bools:
    """Whether two boxes are parts of one object: the first goes on beyond a border where the second begins."""
    joined: Bools = np.zeros((len(xyxy_N4), len(xyxy_N4)), dtype=np.bool_)
    for axis in (0, 1):
        low, high = xyxy_N4[:, axis], xyxy_N4[:, axis + 2]
        # One that is whole and ends near a border looks cut: then both may begin, or end, at the same place.
        goes_on = (low[:, None] <= low[None]) & (high[:, None] <= high[None]) & (high[:, None] > low[None])
        beside_low, beside_high = xyxy_N4[:, 1 - axis], xyxy_N4[:, 3 - axis]
        shared = np.minimum(beside_high[:, None], beside_high[None]) - np.maximum(beside_low[:, None], beside_low[None])
        spanned = np.maximum(beside_high[:, None], beside_high[None]) - np.minimum(
            beside_low[:, None], beside_low[None]
        )
        alike = shared >= _ALONG * np.maximum(spanned, 1e-9)
        joined |= goes_on & alike & cut_N4[:, None, axis + 2] & cut_N4[None, :, axis]
    return joined


def _together(joined_NN: Bools) -> list[list[int]]:
    """The connected groups of rows, each in order."""
    group = list(range(len(joined_NN)))
    for first, second in np.argwhere(joined_NN).tolist():
        old, new = max(group[first], group[second]), min(group[first], group[second])
        if old != new:
            group = [new if each == old else each for each in group]
    rows: dict[int, list[int]] = {}
    for row, name in enumerate(group):
        rows.setdefault(name, []).append(row)
    return list(rows.values())


def _distinct(xyxy_N4: Floats, lone_cut_N: Bools, of_whole_N: Bools) -> list[int]:
    """The boxes, best first, that no better one shows already."""
    overlap_NN, inside_NN = box_iou(xyxy_N4, xyxy_N4) > _SAME_IOU, _inside(xyxy_N4)
    # From another distance, a part looks like an object, or several like one.
    other_scale_NN = of_whole_N[:, None] != of_whole_N[None]
    same_NN = overlap_NN | ((inside_NN | inside_NN.T) & other_scale_NN) | (inside_NN & lone_cut_N[:, None])
    kept: list[int] = []
    for number in range(len(xyxy_N4)):
        if not same_NN[number, kept].any():
            kept.append(number)
    return kept
