"""Looks for objects in images and, where an image is much larger than the model's view, in its tiles as well.

All views of several images, whole images and tiles, are looked at in groups, so that they go through the image tower
together. What the views of one image show is then put together: each object once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from vision_agent.geometry.rle import RunLengths, mask_union
from vision_agent.inference.detail import Detail
from vision_agent.inference.find_options import FindOptions
from vision_agent.inference.tile_layout import Fit, Tile, tiles_of
from vision_agent.inference.tile_merging import join_views
from vision_agent.model.backbone import Backbone
from vision_agent.model.tile_bounds import MULTI_SCALE
from vision_agent.results.box import Box
from vision_agent.results.detections import Detections
from vision_agent.results.segmentation import Mask, Segment, Segmentation

FoundT = TypeVar("FoundT", Detections, Segmentation)

AT_ONCE = 8  # views in one group
SURE_IN_A_TILE = 0.45
"""Least score of what only a tile shows, where nobody set one: each tile is a chance to find what is not there."""


@dataclass(frozen=True)
class _View:
    """A whole image, for `tile` None, or a tile of it."""

    image: int
    tile: Tile | None = None


def search(
    images: Sequence[Image.Image],
    options: FindOptions,
    backbone: Backbone,
    find: Callable[[list[Image.Image], list[Detail | None]], list[FoundT]],
) -> list[FoundT]:
    """Return what is found in each image, and in its tiles where it has any.

    Args:
        images: upright RGB.
        options: `tiles`, `detail` and `tile_threshold` count here.
        find: looks at some views, all at `options.threshold`, each as closely as is said.
    """
    if options.tiles == MULTI_SCALE:
        backbone.check_scales()
    own_tiles = backbone.tiling.max_tiles
    tiles = [tiles_of(image.size, options.tiles, backbone.grid_for, own_tiles) for image in images]
    views = _views(tiles)
    found: list[list[FoundT]] = [[] for _ in images]
    for first in range(0, len(views), AT_ONCE):
        some = views[first : first + AT_ONCE]
        details = [_detail(options.detail, tiles[view.image]) for view in some]
        seen = find([_shown(images[view.image], view.tile) for view in some], details)
        for view, result in zip(some, seen, strict=True):
            found[view.image].append(result)
    least = options.tile_threshold
    if least is None and options.threshold is None:
        least = SURE_IN_A_TILE
    results: list[FoundT] = []
    for number, image in enumerate(images):
        squashed = Fit.of(backbone.grid_for(*image.size)).is_squashed
        joined: FoundT = _joined(found[number], tiles[number], least or 0.0, squashed)
        results.append(joined)
    return results


def _detail(detail: Detail | None, tiles: Sequence[Tile]) -> Detail | None:
    """How closely each view of an image is looked at: tiles are a closer look already."""
    return "low" if tiles and detail != "high" else detail


def _shown(image: Image.Image, tile: Tile | None) -> Image.Image:
    return image if tile is None else image.crop(tile)


def _views(tiles: Sequence[Sequence[Tile]]) -> list[_View]:
    """The views of several images, by the tiles of each."""
    views: list[_View] = []
    for number, own in enumerate(tiles):
        views += [_View(number), *(_View(number, tile) for tile in own)]
    return views


def _joined(found: Sequence[Any], tiles: Sequence[Tile], least: float, squashed: bool) -> Any:
    """What the whole image and its tiles show, in the image's own pixels, best first within each phrase.

    Args:
        found: in the whole image, and in each tile.
        least: least score of what only a tile shows.
        squashed: shapes in the whole image are lost, so it has to be as sure as a tile.
    """
    whole = found[0]
    if not tiles:
        return whole
    size = whole.image_size
    places: list[Tile] = [(0, 0, *size), *tiles]
    items: list[tuple[Any, int]] = []
    for view, result in enumerate(found):
        sure = least if view or squashed else 0.0
        items += [(each, view) for each in result if each.score >= sure]
    offsets = np.array([places[view][:2] * 2 for _, view in items], dtype=np.float64).reshape(-1, 4)
    boxes = np.array([each.box.xyxy for each, _ in items], dtype=np.float64).reshape(-1, 4) + offsets
    scores = np.array([each.score for each, _ in items], dtype=np.float64)
    objects: list[Any] = []
    for label in dict.fromkeys([*whole.phrases, *(each.label for each, _ in items)]):
        rows = [row for row, (each, _) in enumerate(items) if each.label == label]
        views = [items[row][1] for row in rows]
        for parts in join_views(boxes[rows], scores[rows], views, tiles, size):
            mine = [rows[part] for part in parts]
            box = np.concatenate([boxes[mine, :2].min(axis=0), boxes[mine, 2:].max(axis=0)])
            best = items[mine[0]][0]
            update: dict[str, Any] = {"box": Box.from_xyxy(box)}
            if isinstance(best, Segment):
                masks = [_placed(items[row][0].mask, places[items[row][1]], size) for row in mine]
                update["mask"] = Mask.from_runs(mask_union([mask.runs for mask in masks]))
            objects.append(best.model_copy(update=update))
    return whole.model_copy(update={whole._field: tuple(objects), "tiles": len(tiles)})


def _placed(mask: Mask, tile: Tile, size: tuple[int, int]) -> Mask:
    """A mask of a tile as a mask of the whole image: runs go down the columns, so only its own columns are filled."""
    width, height = size
    x0, y0, x1, y1 = tile
    if (x0, y0, x1, y1) == (0, 0, width, height):
        return mask
    columns = np.zeros((height, x1 - x0), dtype=np.bool_)
    columns[y0:y1] = mask.to_array()
    edges = RunLengths.from_mask(columns).edges + x0 * height
    if len(edges) % 2 and x1 < width:  # it ends with the last pixel of the tile
        edges = np.append(edges, x1 * height)
    return Mask.from_runs(RunLengths((height, width), edges))
