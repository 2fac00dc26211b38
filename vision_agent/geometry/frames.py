"""The one place where coordinates change frame.

Every box is float xyxy. Every frame is continuous: pixel i covers [i, i + 1), so x runs over [0, W].

    image     pixels of the upright original image: (0..W, 0..H)
    unit      0..1 of the whole image
    thousand  0..1000 of the whole image, the numbers inside InternVL's <box> text
    input     pixels of the model's canvas: the image *resized* (aspect ratio not kept) to columns*S x rows*S
    tile      pixels of one S x S piece of that canvas, cut row by row; when there are several pieces, a thumbnail
              (the whole image resized to S x S) may follow as the last tile
    map       cells of the stitched feature map: columns*g x rows*g of them, cell i covers [i, i + 1)

All frames but `tile` show the whole image, so going between them is one scale per axis.

Functions take numpy arrays (or nested lists) and, where the annotation says `ArrayT`, torch tensors too; the same
kind comes back, never the same memory, and differentiable where the input was. Integers and half precision are
widened first: a half float cannot tell neighbouring pixels of a large image apart.
"""

import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, cast

import numpy as np
import numpy.typing as npt

from vision_agent.errors import InputError, bad_argument

if TYPE_CHECKING:
    from torch import Tensor

Frame = Literal["image", "unit", "thousand", "input", "tile", "map"]
ArrayT = TypeVar("ArrayT", npt.NDArray[Any], "Tensor")


# --- images and model input ---------------------------------------------------------------------------------------


@lru_cache(maxsize=32)
def _tile_layouts(min_tiles: int, max_tiles: int) -> tuple[tuple[int, int], ...]:
    """(columns, rows) of every allowed layout, fewest tiles first."""
    sides = range(1, max_tiles + 1)
    layouts = [(i, j) for i in sides for j in sides if min_tiles <= i * j <= max_tiles]
    return tuple(sorted(layouts, key=lambda layout: layout[0] * layout[1]))


def choose_tiles(
    width: int,
    height: int,
    *,
    min_tiles: int = 1,
    max_tiles: int = 12,
    tile_size: int = 448,
    beside: tuple[int, int] | None = None,
) -> tuple[int, int]:
    """InternVL's official choice of (columns, rows) for an image of width x height pixels.

    The layout of nearest aspect ratio wins. Among equally near ones a larger layout wins as long as the image has
    more than half of that layout's pixels. `beside` is another layout of the same image: layouts whose columns and rows
    both divide its own are left out, for they cut where it cuts.

    Raises InputError for sides, limits or a tile size that are not positive, or `min_tiles` over `max_tiles`.
    """
    _positive(width=width, height=height, min_tiles=min_tiles, tile_size=tile_size)
    if max_tiles < min_tiles:
        raise InputError(bad_argument("max_tiles", f"at least `min_tiles` ({min_tiles})", max_tiles))
    best, best_difference = (1, 1), float("inf")
    for columns, rows in _tile_layouts(min_tiles, max_tiles):
        if beside is not None and not beside[0] % columns and not beside[1] % rows:
            continue
        difference = abs(width / height - columns / rows)
        wide_enough = width * height > 0.5 * tile_size * tile_size * columns * rows
        if difference < best_difference or (difference == best_difference and wide_enough):
            best, best_difference = (columns, rows), difference
    return best


@dataclass(frozen=True)
class TileGrid:
    """How one image is cut into model tiles, and every change of frame that follows from it.

    `image_width`, `image_height`: upright original, pixels. `columns`, `rows`: pieces of the canvas. `tile_size`: side
    S of a tile, pixels. `cells`: feature-map cells per tile side. `thumbnail`: whether a thumbnail tile is wanted (it
    is there only when there are several pieces, see `tile_count`).

    Raises InputError when a number is not positive.
    """

    image_width: int
    image_height: int
    columns: int
    rows: int
    tile_size: int = 448
    cells: int = 32
    thumbnail: bool = True

    def __post_init__(self) -> None:
        _positive(
            image_width=self.image_width,
            image_height=self.image_height,
            columns=self.columns,
            rows=self.rows,
            tile_size=self.tile_size,
            cells=self.cells,
        )

    @classmethod
    def for_image(
        cls,
        width: int,
        height: int,
        *,
        min_tiles: int = 1,
        max_tiles: int = 12,
        tile_size: int = 448,
        cells: int = 32,
        thumbnail: bool = True,
    ) -> Self:
        """The grid InternVL's own processor would use for an image of width x height pixels; see `choose_tiles`."""
        columns, rows = choose_tiles(width, height, min_tiles=min_tiles, max_tiles=max_tiles, tile_size=tile_size)
        return cls(width, height, columns, rows, tile_size, cells, thumbnail)

    @property
    def piece_count(self) -> int:
        """Tiles cut from the canvas, the thumbnail not counted."""
        return self.columns * self.rows

    @property
    def has_thumbnail(self) -> bool:
        """Whether the last tile is a thumbnail."""
        return self.thumbnail and self.piece_count > 1

    @property
    def tile_count(self) -> int:
        """Tiles the model receives: the pieces and the thumbnail."""
        return self.piece_count + self.has_thumbnail

    def frame_size(self, frame: Frame) -> tuple[int, int]:
        """Return (width, height) of the whole frame in its own unit. Raises InputError for an unknown frame."""
        sizes: dict[str, tuple[int, int]] = {
            "image": (self.image_width, self.image_height),
            "unit": (1, 1),
            "thousand": (1000, 1000),
            "input": (self.columns * self.tile_size, self.rows * self.tile_size),
            "tile": (self.tile_size, self.tile_size),
            "map": (self.columns * self.cells, self.rows * self.cells),
        }
        if frame not in sizes:
            raise InputError(bad_argument("frame", f"one of {', '.join(sizes)}", frame))
        return sizes[frame]

    def convert(
        self,
        coordinates: ArrayT,
        source: Frame,
        target: Frame,
        *,
        tile: "int | npt.NDArray[Any] | Tensor | None" = None,
    ) -> ArrayT:
        """Points (..., 2) as x, y or boxes (..., 4) as xyxy, from frame `source` to frame `target`.

        `tile` is the tile's number (row by row, the thumbnail last) where one of the frames is "tile": one int, or
        whole numbers of the coordinates' leading shape (...). Nothing is clipped: a box that reaches over its tile
        keeps its size. Returns floats of the same shape.

        Raises InputError for another shape, an unknown frame, or a `tile` that is missing, needless or out of range.
        """
        from_size, to_size = self.frame_size(source), self.frame_size(target)
        if ("tile" in (source, target)) != (tile is not None):
            raise InputError(bad_argument("tile", 'given exactly when a frame is "tile"', tile))
        out = _float_copy(coordinates, "coordinates", (2, 4))
        if tile is not None:
            origins, factors = self._tile_placement(tile)
            canvas = self.frame_size("input")
            if source == "tile":
                for axis in (0, 1):
                    out[..., axis::2] *= factors[axis]
                    out[..., axis::2] += origins[axis]
                from_size = canvas
            if target == "tile":
                out = _scale(out, from_size, canvas)
                for axis in (0, 1):
                    out[..., axis::2] -= origins[axis]
                    out[..., axis::2] /= factors[axis]
                return out
        return _scale(out, from_size, to_size)

    def _tile_placement(self, tile: Any) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
        """Origin (x, y) on the canvas in canvas pixels, and canvas pixels per tile pixel (x, y), of the tiles.

        Written with operators alone, so that ints, numpy arrays and tensors take the same path.
        """
        # Floats, since products of a small integer dtype would overflow; a last axis, to broadcast over x0 and x1.
        array = tile if _is_tensor(tile) or isinstance(tile, int) else np.asarray(tile)
        number = float(array) if isinstance(array, int) else array[..., None] * 1.0
        valid = (number >= 0) & (number < self.tile_count) & (number % 1 == 0)
        if not (valid if isinstance(valid, bool) else bool(valid.all())):
            raise InputError(bad_argument("tile", f"whole and from 0 to {self.tile_count - 1}", tile))
        piece = number < self.piece_count
        thumb = number >= self.piece_count
        x = piece * (number % self.columns) * self.tile_size
        y = piece * (number // self.columns) * self.tile_size
        return (x, y), (piece + thumb * float(self.columns), piece + thumb * float(self.rows))

    def tile_index_of(self, points: ArrayT, source: Frame = "image") -> ArrayT:
        """Number the piece that each point (..., 2) of frame `source` falls on: int64 (...), never the thumbnail.

        A point outside the image, or on its right or lower edge, gets the nearest piece. Raises InputError for
        another shape or the frame "tile".
        """
        on_map = _float_copy(points, "points", (2,))
        on_map = _scale(on_map, self._whole(source), (self.columns, self.rows))
        column = (on_map[..., 0] // 1).clip(0, self.columns - 1)
        row = (on_map[..., 1] // 1).clip(0, self.rows - 1)
        number: ArrayT = row * self.columns + column
        return _int64(number)

    def tile_boxes(self, target: Frame = "input") -> npt.NDArray[np.float64]:
        """Return what each tile shows: boxes float64 (tile_count, 4) in frame `target`; the thumbnail shows all of it.

        Raises InputError for the frame "tile".
        """
        number = np.arange(self.tile_count)
        whole_tile = np.tile([0.0, 0.0, self.tile_size, self.tile_size], (self.tile_count, 1))
        self._whole(target)
        return self.convert(whole_tile, "tile", target, tile=number)

    def cell_centers(self, target: Frame = "image") -> npt.NDArray[np.float64]:
        """Return the centres of the feature-map cells: float64 (rows*cells, columns*cells, 2) in frame `target`.

        Raises InputError for the frame "tile".
        """
        width, height = self.frame_size("map")
        points = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), axis=-1)
        return _scale(points, (width, height), self._whole(target))

    def clip(self, boxes: ArrayT, frame: Frame = "image") -> ArrayT:
        """Cut boxes (..., 4) of `frame` to what the frame covers; see `box_clip`."""
        return box_clip(boxes, self.frame_size(frame))

    def _whole(self, frame: Frame) -> tuple[int, int]:
        """Size of a frame that shows the whole image."""
        if frame == "tile":
            raise InputError(bad_argument("frame", 'a frame of the whole image; use `convert` for "tile"', frame))
        return self.frame_size(frame)


# --- frames that need no tiles --------------------------------------------------------------------------------------


def to_unit(coordinates: ArrayT, image_size: tuple[int, int]) -> ArrayT:
    """Convert points (..., 2) or boxes (..., 4) from image pixels to 0..1; `image_size` is (width, height) in pixels.

    Not clipped. Raises InputError for another shape or an empty image.
    """
    return _scale(_float_copy(coordinates, "coordinates", (2, 4)), _image(image_size), (1, 1))


def from_unit(coordinates: ArrayT, image_size: tuple[int, int]) -> ArrayT:
    """Convert points (..., 2) or boxes (..., 4) from 0..1 to image pixels; the inverse of `to_unit`."""
    return _scale(_float_copy(coordinates, "coordinates", (2, 4)), (1, 1), _image(image_size))


def to_thousand(coordinates: ArrayT, image_size: tuple[int, int]) -> ArrayT:
    """Convert points (..., 2) or boxes (..., 4) from image pixels to floats 0..1000; `image_size` is (width, height).

    Not rounded, not clipped. Raises InputError for another shape or an empty image.
    """
    return _scale(_float_copy(coordinates, "coordinates", (2, 4)), _image(image_size), (1000, 1000))


def to_thousand_ints(coordinates: ArrayT, image_size: tuple[int, int]) -> ArrayT:
    """Convert as `to_thousand`, rounded and clipped to int64 0..1000, the way InternVL writes boxes in text.

    Raises InputError for another shape, an empty image or a coordinate that is not a number.
    """
    exact = to_thousand(coordinates, image_size)
    if not bool((exact == exact).all()):
        raise InputError(bad_argument("coordinates", "free of NaN", coordinates))
    rounded: ArrayT = exact.round().clip(0, 1000)
    return _int64(rounded)


def from_thousand(coordinates: ArrayT, image_size: tuple[int, int]) -> ArrayT:
    """Convert points (..., 2) or boxes (..., 4) from 0..1000 to image pixels; the inverse of `to_thousand`."""
    return _scale(_float_copy(coordinates, "coordinates", (2, 4)), (1000, 1000), _image(image_size))


# --- boxes in any one frame -----------------------------------------------------------------------------------------


def box_clip(boxes: ArrayT, size: tuple[float, float]) -> ArrayT:
    """Cut boxes (..., 4) xyxy to 0..width, 0..height of `size`; a box that lies outside ends up without area."""
    out, uncut = _float_copy(boxes, "boxes", (4,)), _float_copy(boxes, "boxes", (4,))
    for axis in (0, 1):  # read from another copy: torch wants what `clip` saw unchanged for the gradient
        out[..., axis::2] = uncut[..., axis::2].clip(0, size[axis])
    return out


def box_area(boxes: ArrayT) -> ArrayT:
    """Return areas (...) of boxes (..., 4) xyxy, in squared units of their frame; 0 for a box turned inside out."""
    boxes = _float_copy(boxes, "boxes", (4,))
    area: ArrayT = (boxes[..., 2] - boxes[..., 0]).clip(0) * (boxes[..., 3] - boxes[..., 1]).clip(0)
    return area


def box_iou(a: npt.ArrayLike, b: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the intersection over union of boxes a (n, 4) with boxes b (m, 4), xyxy of one frame: float64 (n, m).

    Two boxes without area have an IoU of 0. Raises InputError for another shape.
    """
    left, right = _box_rows(a, "a"), _box_rows(b, "b")
    low = np.maximum(left[:, None, :2], right[None, :, :2])
    high = np.minimum(left[:, None, 2:], right[None, :, 2:])
    shared = (high - low).clip(0).prod(axis=-1)
    union = box_area(left)[:, None] + box_area(right)[None, :] - shared
    iou: npt.NDArray[np.float64] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return iou


def box_nms(
    boxes: npt.ArrayLike, scores: npt.ArrayLike, iou: float = 0.5, groups: npt.ArrayLike | None = None
) -> npt.NDArray[np.int64]:
    """Row numbers int64 (k,), best first, of the boxes (n, 4) that no better one overlaps by more than `iou`.

    `scores` (n,): higher is better, and of equals the earlier row is. `groups` (n,): only boxes of the same group
    suppress each other. Raises InputError for shapes that do not match.
    """
    rows = _box_rows(boxes, "boxes")
    score_of = np.asarray(scores, dtype=np.float64)
    group_of = np.zeros(len(rows)) if groups is None else np.asarray(groups)
    for name, values in (("scores", score_of), ("groups", group_of)):
        if values.shape != (len(rows),):
            raise InputError(bad_argument(name, f"of shape ({len(rows)},), one for each box", values.shape))
    waiting = np.argsort(-score_of, kind="stable")
    kept: list[int] = []
    while len(waiting):  # one turn per box that is kept; what it suppresses goes in one step
        best, waiting = waiting[0], waiting[1:]
        kept.append(int(best))
        suppressed = (box_iou(rows[best][None], rows[waiting])[0] > iou) & (group_of[waiting] == group_of[best])
        waiting = waiting[~suppressed]
    return np.array(kept, dtype=np.int64)


def box_to_xywh(boxes: ArrayT) -> ArrayT:
    """Convert (..., 4) x0, y0, x1, y1 to x0, y0, width, height (COCO)."""
    out = _float_copy(boxes, "boxes", (4,))
    out[..., 2:] -= out[..., :2]
    return out


def xywh_to_box(boxes: ArrayT) -> ArrayT:
    """Convert (..., 4) x0, y0, width, height to x0, y0, x1, y1."""
    out = _float_copy(boxes, "boxes", (4,))
    out[..., 2:] += out[..., :2]
    return out


def box_to_cxcywh(boxes: ArrayT) -> ArrayT:
    """Convert (..., 4) x0, y0, x1, y1 to center x, center y, width, height (DETR, YOLO)."""
    out = box_to_xywh(boxes)
    out[..., :2] += out[..., 2:] / 2
    return out


def cxcywh_to_box(boxes: ArrayT) -> ArrayT:
    """Convert (..., 4) center x, center y, width, height to x0, y0, x1, y1."""
    out = _float_copy(boxes, "boxes", (4,))
    out[..., :2] -= out[..., 2:] / 2
    out[..., 2:] += out[..., :2]
    return out


def non_degenerate(boxes: ArrayT, min_side: float = 1.0) -> ArrayT:
    """Return bools (...): which boxes (..., 4) have finite sides of at least `min_side`, in the boxes' own unit."""
    boxes = _float_copy(boxes, "boxes", (4,))
    with np.errstate(invalid="ignore"):  # inf - inf
        sides = boxes[..., 2:] - boxes[..., :2]
    good = (sides >= min_side) & (sides < float("inf"))  # comparisons with NaN are False
    both: ArrayT = good[..., 0] & good[..., 1]
    return both


# --- helpers --------------------------------------------------------------------------------------------------------


def _positive(**numbers: float) -> None:
    for name, number in numbers.items():
        if not number > 0:
            raise InputError(bad_argument(name, "a positive number", number))


def _image(image_size: tuple[int, int]) -> tuple[int, int]:
    width, height = image_size
    if not (width > 0 and height > 0):
        raise InputError(bad_argument("image_size", "a positive (width, height)", image_size))
    return width, height


def _box_rows(boxes: npt.ArrayLike, name: str) -> npt.NDArray[np.float64]:
    rows = np.asarray(boxes, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] != 4:
        raise InputError(bad_argument(name, "boxes of shape (n, 4)", rows.shape))
    return rows


def _is_tensor(value: object) -> bool:
    torch = sys.modules.get("torch")  # a tensor can only have come from a torch that is already loaded
    return torch is not None and isinstance(value, torch.Tensor)


def _float_copy(coordinates: ArrayT, name: str, last: tuple[int, ...]) -> ArrayT:
    """A float copy of at least 32 bits whose last axis has one of the lengths `last`."""
    array: Any = coordinates if _is_tensor(coordinates) else np.asarray(coordinates)
    if array.ndim == 0 or array.shape[-1] not in last:
        wanted = " or ".join(f"(..., {length})" for length in last)
        raise InputError(bad_argument(name, f"of shape {wanted}", tuple(array.shape)))
    array = array * 1.0
    if array.dtype.itemsize < 4:
        array = array.float() if _is_tensor(array) else array.astype(np.float32)
    return cast(ArrayT, array)


def _scale(coordinates: ArrayT, source: tuple[float, float], target: tuple[float, float]) -> ArrayT:
    """Coordinates (changed in place) of a frame of size `source` in a frame of size `target`, both (width, height)."""
    for axis in (0, 1):
        if source[axis] != target[axis]:
            coordinates[..., axis::2] *= target[axis] / source[axis]
    return coordinates


def _int64(values: ArrayT) -> ArrayT:
    array: Any = values
    return cast(ArrayT, array.long() if _is_tensor(array) else array.astype(np.int64))
