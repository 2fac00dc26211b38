"""Boxes and points as prompts, checked before anything expensive."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from vision_agent.errors import InputError, bad_argument
from vision_agent.geometry.frames import box_area, box_clip
from vision_agent.results.segmentation import Mask

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Prompts:
    """Checked prompts of n objects, in pixels of the image.

    Attributes:
        given: float64 (n, 4), the boxes as they came; None where there are only points.
        boxes: float64 (n, 4), cut to the image; None where there are only points.
        points: float64 (n, k, 2); None where there are only boxes.
        labels: int64 (n, k), 1 on the object, 0 beside it; None where there are only boxes.
    """

    given: Floats | None
    boxes: Floats | None
    points: Floats | None
    labels: npt.NDArray[np.int64] | None

    @classmethod
    def check(
        cls,
        boxes: npt.ArrayLike | None,
        points: npt.ArrayLike | None,
        point_labels: npt.ArrayLike | None,
        image_size: tuple[int, int],
    ) -> Self:
        """Check prompts. Raises InputError, as `SamSegmenter.segment` says."""
        if boxes is None and points is None:
            raise InputError("either `boxes` or `points` must be given, but both are None")
        if points is None and point_labels is not None:
            raise InputError(bad_argument("point_labels", "left out where there are no `points`", point_labels))
        given = None if boxes is None else _checked_boxes(boxes, image_size)
        places = None if points is None else _checked_points(points, image_size)
        if given is not None and places is not None and len(given) != len(places):
            raise InputError(bad_argument("points", f"for {len(given)} objects, as `boxes` are", places.shape))
        labels = None if places is None else _checked_labels(point_labels, places, alone=given is None)
        inside = None if given is None else box_clip(given, image_size)
        return cls(given, inside, places, labels)

    def __len__(self) -> int:
        some = self.boxes if self.boxes is not None else self.points
        return 0 if some is None else len(some)

    def rows(self, key: slice) -> "Prompts":
        """Return the prompts of some of the objects."""
        return Prompts(
            None if self.given is None else self.given[key],
            None if self.boxes is None else self.boxes[key],
            None if self.points is None else self.points[key],
            None if self.labels is None else self.labels[key],
        )

    def boxes_of(self, masks: Sequence[Mask]) -> Floats:
        """Return boxes (n, 4): those given, else those around the masks, or around the points of an empty one."""
        if self.given is not None:
            return self.given
        assert self.points is not None
        around = np.concatenate([self.points.min(1), self.points.max(1)], axis=1)
        return np.array([mask.runs.box or tuple(box) for mask, box in zip(masks, around, strict=True)], np.float64)


def _checked_boxes(boxes: npt.ArrayLike, image_size: tuple[int, int]) -> Floats:
    values = _numbers("boxes", boxes, "boxes of shape (n, 4)")
    if values.ndim != 2 or values.shape[1] != 4:
        raise InputError(bad_argument("boxes", "of shape (n, 4)", values.shape))
    upright = (values[:, 2:] > values[:, :2]).all(1)
    with_area = box_area(box_clip(values, image_size)) > 0
    for row, good in enumerate(upright & with_area):
        if not good:
            expected = "x0, y0, x1, y1 with x1 > x0 and y1 > y0, and partly inside the image of {} x {} pixels"
            raise InputError(bad_argument(f"boxes[{row}]", expected.format(*image_size), values[row].tolist()))
    return values


def _checked_points(points: npt.ArrayLike, image_size: tuple[int, int]) -> Floats:
    values = _numbers("points", points, "points of shape (n, 2) or (n, k, 2)")
    if values.ndim not in (2, 3) or values.shape[-1] != 2 or 0 in values.shape:
        raise InputError(bad_argument("points", "of shape (n, 2) or (n, k, 2)", values.shape))
    inside = ((values >= 0) & (values <= image_size)).all(-1)
    for place in np.argwhere(~inside):
        name = "points" + "".join(f"[{number}]" for number in place)
        expected = "inside the image of {} x {} pixels".format(*image_size)
        raise InputError(bad_argument(name, expected, values[tuple(place)].tolist()))
    return values.reshape(len(values), -1, 2)


def _checked_labels(labels: npt.ArrayLike | None, points: Floats, *, alone: bool) -> npt.NDArray[np.int64]:
    if labels is None:
        return np.ones(points.shape[:2], dtype=np.int64)
    values = _numbers("point_labels", labels, "1 (on the object) or 0 (beside it) for each point")
    if values.ndim == 1 and points.shape[1] == 1:
        values = values[:, None]
    if values.shape != points.shape[:2]:
        raise InputError(bad_argument("point_labels", f"of shape {points.shape[:2]}, as `points`", values.shape))
    if not np.isin(values, (0, 1)).all():
        raise InputError(bad_argument("point_labels", "1 (on the object) or 0 (beside it)", labels))
    if alone and not values.any(1).all():
        raise InputError(bad_argument("point_labels", "at least one 1 for each object without a box", labels))
    return values.astype(np.int64)


def _numbers(name: str, values: npt.ArrayLike, expected: str) -> Floats:
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:  # text, or rows of several lengths
        raise InputError(bad_argument(name, expected, values)) from error
    if array.size == 0:
        raise InputError(bad_argument(name, "at least one", values))
    if not np.isfinite(array).all():
        raise InputError(bad_argument(name, "finite", values))
    return array
