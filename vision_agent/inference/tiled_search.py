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
from vision_agent.inference.find_options import FindOptions
from vision_agent.inference.tile_layout import Fit, Tile, tiles_of
from vision_agent.inference.tile_merging import join_views
from vision_agent.model.backbone import Backbone
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
    find: Callable[[list[Image.Image]], list[FoundT]],
) -> list[FoundT]:
    """Return what is found in each image, and in its tiles where it has any.

    Args:
        images: upright RGB.
        options: `tiles` and `tile_threshold` count here.
        find: looks at some views, all at `options.threshold`.
    """
    own_tiles = backbone.tiling.max_tiles
    tiles = [tiles_of(image.size, options.tiles, backbone.grid_for, own_tiles) for image in images]
    views: list[_View] = []
    for number in range(len(images)):
        views += [_View(number), *(_View(number, tile) for tile in tiles[number])]
    found: list[list[FoundT]] = [[] for _ in images]
    for first in range(0, len(views), AT_ONCE):
        some = views[first : first + AT_ONCE]
        seen = find([images[view.image] if view.tile is None else images[view.image].crop(view.tile) for view in some])
        for view, result in zip(some, seen, strict=True):
            found[view.image].append(result)
    least = options.tile_threshold
    if least is None and options.threshold is None:
        least = SURE_IN_A_TILE
    results: list[FoundT] = []
    for number, image in enumerate(images):
        whole, *in_tiles = found[number]
        if in_tiles:
            sure = [each.filter(min_score=least or 0.0) for each in in_tiles]
            if Fit.of(backbone.grid_for(*image.size)).is_squashed:  # shapes on it tell no more than parts in tiles do
                whole = whole.filter(min_score=least or 0.0)
            whole = _joined(whole, sure, tiles[number])
        results.append(whole)
    return results


def _joined(whole: FoundT, in_tiles: Sequence[FoundT], tiles: Sequence[Tile]) -> FoundT:
    """What the whole image and its tiles show, in the image's own pixels, best first within each phrase."""
    size = whole.image_size
    placed: list[Any] = list(whole)
    views = [0] * len(placed)
    for number, (tile, result) in enumerate(zip(tiles, in_tiles, strict=True), start=1):
        placed += [_moved(each, tile, size) for each in result]
        views += [number] * len(result)
    boxes = np.array([each.box.xyxy for each in placed], dtype=np.float64).reshape(-1, 4)
    scores = np.array([each.score for each in placed], dtype=np.float64)
    items: list[Any] = []
    for label in dict.fromkeys([*whole.phrases, *(each.label for each in placed)]):
        rows = [row for row, each in enumerate(placed) if each.label == label]
        if not rows:
            continue
        for parts in join_views(boxes[rows], scores[rows], [views[row] for row in rows], tiles, size):
            items.append(_whole([placed[rows[part]] for part in parts]))
    return whole.model_copy(update={whole._field: tuple(items), "tiles": len(tiles)})


def _moved(item: Any, tile: Tile, size: tuple[int, int]) -> Any:
    """A detection or a segment of a tile, in the pixels of the whole image."""
    left, top = tile[:2]
    x0, y0, x1, y1 = item.box.xyxy
    box = Box(x0=x0 + left, y0=y0 + top, x1=x1 + left, y1=y1 + top)
    update: dict[str, Any] = {"box": box}
    if isinstance(item, Segment):
        update["mask"] = _placed(item.mask, tile, size)
    return item.model_copy(update=update)


def _placed(mask: Mask, tile: Tile, size: tuple[int, int]) -> Mask:
    """A mask of a tile as a mask of the whole image: runs go down the columns, so only its own columns are filled."""
    width, height = size
    x0, y0, x1, y1 = tile
    columns = np.zeros((height, x1 - x0), dtype=np.bool_)
    columns[y0:y1] = mask.to_array()
    edges = RunLengths.from_mask(columns).edges + x0 * height
    if len(edges) % 2 and x1 < width:  # it ends with the last pixel of the tile
        edges = np.append(edges, x1 * height)
    return Mask.from_runs(RunLengths((height, width), edges))


def _whole(parts: Sequence[Any]) -> Any:
    """One object of its parts, the best first."""
    best = parts[0]
    if len(parts) == 1:
        return best
    corners = np.array([part.box.xyxy for part in parts])
    box = Box.from_xyxy([*corners[:, :2].min(axis=0), *corners[:, 2:].max(axis=0)])
    update: dict[str, Any] = {"box": box}
    if isinstance(best, Segment):
        update["mask"] = Mask.from_runs(mask_union([part.mask.runs for part in parts]))
    return best.model_copy(update=update)
