"""Masks as run lengths, and the geometry of masks. Needs numpy alone.

A mask of a 12-megapixel image takes 12 MB as bools and a few kB as run lengths, so results keep run lengths and turn
into bools on request. The order is COCO's: pixels are counted down the columns, first column first, and runs lie
outside and inside in turn, outside first. The text form is pycocotools' own.

Sizes are (height, width) here, as numpy and COCO say them; `image_size` elsewhere is (width, height). Coordinates are
those of `vision_agent.geometry.frames`: pixel i covers [i, i + 1), so an outline runs along the edges of pixels and
encloses exactly the mask.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from vision_agent.errors import InputError, bad_argument

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Ring = npt.NDArray[np.float64]
"""The corners of a closed line as x, y, float64 (n, 2); the first is not repeated at the end."""

# COCO's text writes a number in groups of five bits, lowest first; a sixth bit says that more follow.
_BITS, _MORE, _FIRST_CHARACTER = 5, 32, 48
_LONGEST_NUMBER = 8  # groups: 40 bits, more than any image has pixels

_PIXELS_AT_ONCE = 2**20  # of a mask being enlarged


@dataclass(frozen=True, eq=False)
class RunLengths:
    """A mask as the places where it begins and ends.

    Attributes:
        size: (height, width).
        edges: int64 (k,), ascending: the pixels, counted down the columns, at which the mask changes. It is outside
            before the first one.
    """

    size: tuple[int, int]
    edges: Ints

    # --- making them

    @classmethod
    def from_mask(cls, mask: npt.ArrayLike) -> Self:
        """Encode bools (H, W). Raises InputError for another dtype or shape."""
        array = np.asarray(mask)
        if array.ndim != 2 or array.size == 0 or array.dtype != np.bool_:
            raise InputError(bad_argument("mask", "bools of shape (H, W)", (array.dtype.name, array.shape)))
        size = (array.shape[0], array.shape[1])
        return cls(size, _edges_of(array.T, size))

    @classmethod
    def from_counts(cls, counts: npt.ArrayLike, size: tuple[int, int]) -> Self:
        """Make a mask of lengths of runs, outside and inside in turn, outside first.

        Raises InputError where they are not whole, one is negative, or they do not fill `size` (height, width).
        """
        lengths = np.asarray(counts)
        if lengths.ndim != 1 or lengths.size == 0 or lengths.dtype.kind not in "iu":
            raise InputError(bad_argument("counts", "whole numbers of shape (n,)", counts))
        lengths = lengths.astype(np.int64)
        total = size[0] * size[1]
        # Each is checked before the sum, which could wrap around.
        if lengths.min() < 0 or lengths.max() > total or int(lengths.sum()) != total:
            expected = f"runs of at least 0 pixels that make {size[0]} x {size[1]} = {total}"
            raise InputError(bad_argument("counts", expected, counts))
        return cls(size, _canonical(np.cumsum(lengths)[:-1], total))

    @classmethod
    def from_text(cls, text: str, size: tuple[int, int]) -> Self:
        """Read COCO's compressed text. Raises InputError where it is damaged or of another size."""
        return cls.from_counts(_read_text(text), size)

    @classmethod
    def from_logits(
        cls,
        logits: npt.NDArray[np.floating[Any]],
        size: tuple[int, int],
        *,
        threshold: float = 0.0,
        box: Sequence[float] | None = None,
        within: Sequence[float] | None = None,
    ) -> Self:
        """The mask of `size` that small logits (h, w) stand for.

        As if the logits were resized bilinearly (torch's `interpolate` with `align_corners=False`) and compared with
        `threshold`; but the large image of floats never exists, only some columns of it at a time, and none where
        nothing can be inside.

        Args:
            box: x0, y0, x1, y1, the pixels that the logits lie over, not necessarily whole ones or inside the image;
                the mask is empty outside. The whole image if None.
            within: x0, y0, x1, y1 outside which the mask is empty, too; `box` if None.
        """
        height, width = size
        x0, y0, x1, y1 = (0.0, 0.0, float(width), float(height)) if box is None else box
        left, top, right, bottom = (x0, y0, x1, y1) if within is None else within
        small = np.ascontiguousarray(logits.T, dtype=np.float32)
        x = _Taps.of(len(small), width, x0, x1, max(left, x0), min(right, x1))
        y = _Taps.of(small.shape[1], height, y0, y1, max(top, y0), min(bottom, y1))
        columns, rows = x.reached(small.max(1) > threshold), y.reached(small.max(0) > threshold)
        if columns is None or rows is None:
            return cls(size, np.zeros(0, np.int64))
        (first, last), (highest, lowest) = columns, rows
        tall = np.ascontiguousarray(y[highest:lowest].mix(small.T).T)
        step = max(1, _PIXELS_AT_ONCE // (lowest - highest))
        edges = [
            _edges_of(x[at : min(at + step, last)].mix(tall) > threshold, size, x.first + at, y.first + highest)
            for at in range(first, last, step)
        ]
        return cls(size, _canonical(np.concatenate(edges), height * width))

    # --- what they say

    @property
    def counts(self) -> Ints:
        """Lengths of the runs, outside and inside in turn, outside first (0 where the first pixel is inside)."""
        return np.diff(self.edges, prepend=0, append=self.size[0] * self.size[1])

    @property
    def text(self) -> str:
        """COCO's compressed text, the same as pycocotools writes."""
        return _write_text(self.counts)

    @property
    def area(self) -> int:
        """Number of pixels inside."""
        starts, ends = self._runs()
        return int((ends - starts).sum())

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """The tightest x0, y0, x1, y1 around the mask; None where it is empty."""
        starts, ends = self._runs()
        if not len(starts):
            return None
        height = self.size[0]
        left, right = int(starts[0]) // height, int(ends[-1] - 1) // height
        if (starts // height != (ends - 1) // height).any():  # from the foot of one column to the head of the next
            return left, 0, right + 1, height
        return left, int((starts % height).min()), right + 1, int(((ends - 1) % height).max()) + 1

    def holds(self, pixels: npt.ArrayLike) -> Bools:
        """Return bools (k,): whether each pixel (k, 2), whole x and y inside the image, is inside the mask."""
        x, y = np.asarray(pixels, dtype=np.int64).reshape(-1, 2).T
        return np.asarray(np.searchsorted(self.edges, x * self.size[0] + y, side="right") % 2 == 1)

    def to_mask(self) -> Bools:
        """Return the mask as bools (H, W)."""
        height, width = self.size
        return np.ascontiguousarray(_filled(self.edges, height * width).reshape(width, height).T)

    def cropped(self, box: tuple[int, int, int, int]) -> Bools:
        """Return bools (y1 - y0, x1 - x0) of the part inside whole x0, y0, x1, y1; made without the other columns."""
        x0, y0, x1, y1 = box
        height = self.size[0]
        first, last = x0 * height, x1 * height
        begun, ended = np.searchsorted(self.edges, first, "right"), np.searchsorted(self.edges, last, "left")
        flat = _filled(self.edges[begun:ended] - first, last - first) ^ bool(begun % 2)
        return np.ascontiguousarray(flat.reshape(x1 - x0, height)[:, y0:y1].T)

    def resized(self, size: tuple[int, int]) -> Self:
        """Resize to another (height, width): each pixel takes the one that its middle falls on. Raises InputError."""
        if min(size) < 1:
            raise InputError(bad_argument("size", "a positive (height, width)", size))
        rows, columns = ((np.arange(new) * 2 + 1) * old // (2 * new) for new, old in zip(size, self.size, strict=True))
        return type(self)(size, _edges_of(self.to_mask()[np.ix_(rows, columns)].T, size))

    def _runs(self) -> tuple[Ints, Ints]:
        """Where the runs inside begin, and where they end."""
        starts, ends = self.edges[0::2], self.edges[1::2]
        if len(ends) < len(starts):
            ends = np.append(ends, self.size[0] * self.size[1])
        return starts, ends


# --- several masks --------------------------------------------------------------------------------------------------


def mask_iou(a: Sequence[RunLengths], b: Sequence[RunLengths]) -> npt.NDArray[np.float64]:
    """Return the intersection over union of each mask of a with each of b: float64 (n, m); 0 where both are empty.

    Raises InputError for masks of several sizes.
    """
    _one_size([*a, *b])
    iou = np.zeros((len(a), len(b)))
    areas_a, areas_b = [mask.area for mask in a], [mask.area for mask in b]
    boxes_a, boxes_b = [mask.box for mask in a], [mask.box for mask in b]
    for i, j in np.ndindex(iou.shape):
        if _meet(boxes_a[i], boxes_b[j]):
            shared = _shared(a[i], b[j])
            iou[i, j] = shared / (areas_a[i] + areas_b[j] - shared)
    return iou


def mask_union(masks: Sequence[RunLengths]) -> RunLengths:
    """Unite masks: what any of them covers. Raises InputError for no masks, or masks of several sizes."""
    if not masks:
        raise InputError(bad_argument("masks", "at least one mask", list(masks)))
    _one_size(masks)
    runs = [mask._runs() for mask in masks]
    starts, ends = (np.concatenate(side) for side in zip(*runs, strict=True))
    places, where = np.unique(np.concatenate([starts, ends]), return_inverse=True)
    steps = np.bincount(where, np.repeat([1, -1], [len(starts), len(ends)]), minlength=len(places))
    inside = np.cumsum(steps) > 0.5
    edges = places[inside != np.concatenate([[False], inside[:-1]])]
    size = masks[0].size
    return RunLengths(size, edges[edges < size[0] * size[1]])


def _shared(a: RunLengths, b: RunLengths) -> int:
    """Pixels inside both."""
    places = np.union1d(a.edges, b.edges)
    lengths = np.diff(places, append=a.size[0] * a.size[1])
    both = (np.searchsorted(a.edges, places, "right") & np.searchsorted(b.edges, places, "right") & 1).astype(bool)
    return int(lengths[both].sum())


def _meet(a: tuple[int, int, int, int] | None, b: tuple[int, int, int, int] | None) -> bool:
    return a is not None and b is not None and a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _one_size(masks: Sequence[RunLengths]) -> None:
    sizes = sorted({mask.size for mask in masks})
    if len(sizes) > 1:
        raise InputError(bad_argument("masks", "of one size", sizes))


# --- outlines -------------------------------------------------------------------------------------------------------


def mask_polygons(mask: npt.ArrayLike, *, origin: tuple[int, int] = (0, 0)) -> list[list[Ring]]:
    """Return the outlines of bools (H, W), exact: one list for each connected part, its outer ring and then its holes.

    Rings hold corners only. Outer rings run clockwise as seen in the image, holes the other way. Pixels that touch
    at a corner alone are not connected. `origin` is where the first pixel lies, x and y.

    Raises InputError for another dtype or shape.
    """
    array = np.asarray(mask)
    if array.ndim != 2 or array.dtype != np.bool_:
        raise InputError(bad_argument("mask", "bools of shape (H, W)", (array.dtype.name, array.shape)))
    rings = [points + np.array(origin, np.float64) for points in _rings(array)]
    outer = [_signed_area(ring) > 0 for ring in rings]
    owner = _owners(rings, outer)
    polygons = {number: [ring] for number, ring in enumerate(rings) if outer[number]}
    for number, ring in enumerate(rings):
        if not outer[number]:
            polygons[owner[number]].append(ring)
    return list(polygons.values())


def polygons_to_mask(polygons: Sequence[Sequence[npt.ArrayLike]], size: tuple[int, int]) -> Bools:
    """Return bools (H, W) of `size` (height, width): the pixels whose middles lie in any of the polygons.

    Args:
        polygons: for each its rings, (n, 2) as x, y; a place is inside where an odd number of rings surrounds it, so
            that the rings after the first cut holes.

    Raises:
        InputError: a ring of another shape, or one that is not finite.
    """
    height, width = size
    if min(size) < 1:
        raise InputError(bad_argument("size", "a positive (height, width)", size))
    mask = np.zeros(size, dtype=np.bool_)
    for index, rings in enumerate(polygons):
        lines = [_lines(ring, f"polygons[{index}][{number}]") for number, ring in enumerate(rings)]
        if lines:
            mask |= _filled(_crossings(np.concatenate(lines), size), height * width).reshape(size)
    return mask


def _rings(mask: Bools) -> list[Ring]:
    """Closed lines along the edges of pixels, each with the inside on its right-hand side.

    A line turns around a pixel that differs from both of its neighbours at a corner. Each turn joins one level and one
    upright stretch of line, so sorting the turns along rows and along columns pairs up the ends of all stretches.
    """
    padded = np.pad(mask, 1)
    up_left, up_right, low_left, low_right = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    found = []
    for pixel, beside, above_or_below, across, right, down in (
        (up_left, up_right, low_left, low_right, False, False),
        (up_right, up_left, low_right, low_left, True, False),
        (low_left, low_right, up_left, up_right, False, True),
        (low_right, low_left, up_right, up_left, True, True),
    ):
        # Two pixels inside that meet at the corner alone are two turns; two outside are those same turns.
        for turns, inside in (
            (pixel & ~beside & ~above_or_below, True),
            (~pixel & beside & above_or_below & across, False),
        ):
            at = np.argwhere(turns)
            flags = np.broadcast_to([right, down, inside == (right == down)], (len(at), 3))
            found.append(np.concatenate([at, flags], axis=1))
    y, x, right_of, down_of, leaves_level = np.concatenate(found).T
    by_row, by_column = np.lexsort((right_of, x, y)), np.lexsort((down_of, y, x))
    following = np.where(leaves_level, _partners(by_row), _partners(by_column)).tolist()
    rings, waiting = [], np.ones(len(y), dtype=np.bool_)
    for start in by_row.tolist():
        ring = []
        turn = start
        while waiting[turn]:
            waiting[turn] = False
            ring.append(turn)
            turn = following[turn]
        if ring:
            rings.append(np.stack([x[ring], y[ring]], axis=1).astype(np.float64))
    return rings


def _partners(order: Ints) -> Ints:
    """For each turn the other end of its stretch, given the turns in the order in which stretches begin and end."""
    partner = np.empty_like(order)
    partner[order[0::2]], partner[order[1::2]] = order[1::2], order[0::2]
    return partner


def _signed_area(ring: Ring) -> float:
    """Positive where the ring runs clockwise as seen in an image, whose y runs down."""
    x, y = ring.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def _owners(rings: Sequence[Ring], outer: Sequence[bool]) -> dict[int, int]:
    """The outer ring that each hole belongs to, by number.

    Left of a hole's leftmost line lies the part that the hole is cut from, and the next line to the left is the end of
    that part: its outer ring, or another of its holes, which reaches farther to the left.
    """
    lines = [_lines(ring, "ring") for ring in rings]
    upright = [each[each[:, 0] == each[:, 2]] for each in lines]
    if not upright:
        return {}
    ring_of = np.repeat(np.arange(len(rings)), [len(each) for each in upright])
    x, top, bottom = (np.concatenate([side(each) for each in upright]) for side in (_left, _top, _bottom))
    owner: dict[int, int] = {}
    for hole in sorted((n for n in range(len(rings)) if not outer[n]), key=lambda n: float(rings[n][:, 0].min())):
        first = upright[hole][upright[hole][:, 0].argmin()]
        row = min(first[1], first[3])
        candidates = np.flatnonzero((x < first[0]) & (top <= row) & (row < bottom))
        neighbour = int(ring_of[candidates[x[candidates].argmax()]])
        owner[hole] = neighbour if outer[neighbour] else owner[neighbour]
    return owner


def _left(lines: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return lines[:, 0]


def _top(lines: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.minimum(lines[:, 1], lines[:, 3])


def _bottom(lines: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.maximum(lines[:, 1], lines[:, 3])


def _lines(ring: npt.ArrayLike, name: str) -> npt.NDArray[np.float64]:
    """The lines of a ring (n, 2) as x0, y0, x1, y1, the closing one last."""
    points = np.asarray(ring, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3:
        raise InputError(bad_argument(name, "at least three points of shape (n, 2)", points.shape))
    if not np.isfinite(points).all():
        raise InputError(bad_argument(name, "finite", ring))
    return np.concatenate([points, np.roll(points, -1, axis=0)], axis=1)


def _crossings(lines: npt.NDArray[np.float64], size: tuple[int, int]) -> Ints:
    """Where lines (n, 4) cross the middles of pixel rows, as edges counted along the rows: inside is between pairs."""
    height, width = size
    first, last = (np.ceil(side(lines) - 0.5).clip(0, height).astype(np.int64) for side in (_top, _bottom))
    count = last - first
    x0, y0, x1, y1 = np.repeat(lines, count, axis=0).T
    row = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count - first, count)
    x = x0 + (row + 0.5 - y0) * (x1 - x0) / (y1 - y0)
    column = np.ceil(x - 0.5).clip(0, width).astype(np.int64)
    return _canonical(row * width + column, height * width)


# --- runs -----------------------------------------------------------------------------------------------------------


def _edges_of(columns: Bools, size: tuple[int, int], left: int = 0, top: int = 0) -> Ints:
    """Edges of bools (columns, rows) that lie at `left`, `top` in a mask of `size`, empty around them."""
    count, rows = columns.shape
    closed = np.zeros((count, rows + 1), dtype=np.bool_)  # each column ends outside
    closed[:, :rows] = columns
    flat = closed.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    if flat[0]:
        changes = np.concatenate([[0], changes])
    column, row = np.divmod(changes, rows + 1)
    return _canonical((left + column) * size[0] + top + row, size[0] * size[1])


def _canonical(edges: Ints, total: int) -> Ints:
    """Edges ascending, without those that undo each other (an even number at one place) and that at the very end."""
    places, count = np.unique(edges, return_counts=True)
    kept: Ints = places[(count % 2 == 1) & (places != total)]
    return kept.astype(np.int64)


def _filled(edges: Ints, total: int) -> Bools:
    """Bools (total,) from edges."""
    return np.repeat(np.arange(len(edges) + 1) % 2 == 1, np.diff(edges, prepend=0, append=total))


@dataclass(frozen=True)
class _Taps:
    """Bilinear resizing along one axis: each value is a mixture of two.

    Attributes:
        low, high: int64 (n,), which two.
        weight: float32 (n,), how much of `high`.
        first: the number of the first of the n new values.
    """

    low: Ints
    high: Ints
    weight: npt.NDArray[np.float32]
    first: int = 0

    @classmethod
    def of(cls, old: int, new: int, start: float, end: float, low: float, high: float) -> Self:
        """From `old` values, which span `start` to `end`, to those of `new` whose middles lie from `low` to `high`."""
        first, last = (min(max(math.ceil(side - 0.5), 0), new) for side in (low, high))
        place = ((np.arange(first, last) + 0.5 - start) * (old / (end - start)) - 0.5).clip(0)
        under = np.minimum(place.astype(np.int64), old - 1)
        return cls(under, np.minimum(under + 1, old - 1), (place - under).astype(np.float32), first)

    def __getitem__(self, key: slice) -> "_Taps":
        return _Taps(self.low[key], self.high[key], self.weight[key], self.first + (key.start or 0))

    def mix(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(old, m) to (new, m)."""
        mixed = values[self.high]
        low = values[self.low]
        mixed -= low
        mixed *= self.weight[:, None]
        mixed += low
        return mixed

    def reached(self, live: Bools) -> tuple[int, int] | None:
        """First and last + 1 of the new values that a live old one has a share in; None where none is live."""
        touched = np.flatnonzero(live[self.low] | live[self.high])
        return (int(touched[0]), int(touched[-1]) + 1) if len(touched) else None


# --- COCO's text ----------------------------------------------------------------------------------------------------


def counts_text(counts: str | bytes | npt.ArrayLike) -> str:
    """Return COCO's text of run lengths given as text, as the bytes of it, or as whole numbers, in the shortest form.

    Raises InputError for anything else.
    """
    if isinstance(counts, bytes):
        counts = counts.decode("ascii", "replace")
    lengths = _read_text(counts) if isinstance(counts, str) else np.asarray(counts)
    if lengths.ndim != 1 or lengths.size == 0 or lengths.dtype.kind not in "iu" or lengths.min() < 0:
        raise InputError(bad_argument("counts", "run lengths of at least 0 pixels", counts))
    return RunLengths.from_counts(lengths, (1, int(lengths.sum()))).text


def _write_text(counts: Ints) -> str:
    """From the fourth on, a run is written as the difference to the run two before, in groups of bits with a sign."""
    numbers = counts.astype(np.int64)
    numbers[3:] -= counts[1:-2]
    limits = 2 ** (_BITS * np.arange(1, _LONGEST_NUMBER) - 1)
    groups = 1 + ((numbers[:, None] >= limits) | (numbers[:, None] < -limits)).sum(1)
    place = np.arange(_LONGEST_NUMBER)
    codes = (numbers[:, None] >> (_BITS * place)) & (_MORE - 1)
    codes += _MORE * (place < groups[:, None] - 1) + _FIRST_CHARACTER
    return bytes(codes[place < groups[:, None]].astype(np.uint8)).decode("ascii")


def _read_text(text: str) -> Ints:
    """Raises InputError for anything that `_write_text` does not write."""
    codes = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8).astype(np.int64) - _FIRST_CHARACTER
    expected = "run lengths as COCO writes them"
    if not len(codes) or codes.min() < 0 or codes.max() >= 2 * _MORE or codes[-1] & _MORE:
        raise InputError(bad_argument("counts", expected, text))
    starts = np.concatenate([[0], np.flatnonzero(codes[:-1] < _MORE) + 1])
    groups = np.diff(starts, append=len(codes))
    if groups.max() > _LONGEST_NUMBER:
        raise InputError(bad_argument("counts", expected, text))
    place = np.arange(len(codes)) - np.repeat(starts, groups)
    numbers = np.add.reduceat((codes & (_MORE - 1)) << (_BITS * place), starts)
    numbers -= np.where(codes[starts + groups - 1] & (_MORE // 2), 1 << (_BITS * groups), 0)
    for first in (1, 2):
        numbers[first::2] = np.cumsum(numbers[first::2])
    return numbers
