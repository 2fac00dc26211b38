"""The objects that the steps of a plan are about: boxes of images, or whole images; which of them is meant."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vision_agent.geometry.frames import box_iou
from vision_agent.planning.clauses import bare
from vision_agent.planning.coordination import split_objects
from vision_agent.planning.plan import Pick
from vision_agent.results.detections import Detections

XYXY = tuple[float, float, float, float]

_MARGIN = 0.05  # of a closer look, as a share of its box


@dataclass(frozen=True)
class ObjectRef:
    """A reference to what a step was about: an object in an image, or the whole image.

    Attributes:
        image: id of the image.
        label: what it is called; "" for an image as it was given.
        box: xyxy in pixels of the image; None for all of it.
        score: of the detection, 0-1.
    """

    image: str
    label: str = ""
    box: XYXY | None = None
    score: float = 1.0

    @property
    def area(self) -> float:
        """Of the box, square pixels; 0 for a whole image."""
        return 0.0 if self.box is None else (self.box[2] - self.box[0]) * (self.box[3] - self.box[1])

    @property
    def center(self) -> tuple[float, float]:
        """(x, y) of the box, pixels; (0, 0) for a whole image."""
        return (0.0, 0.0) if self.box is None else ((self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2)


def objects_of(found: Detections, image: str) -> list[ObjectRef]:
    """Return references to the boxes that were found in an image."""
    return [ObjectRef(image, each.label, each.box.xyxy, each.score) for each in found]


def phrases_of(phrase: str) -> list[str]:
    """Split "men and the dog" into two phrases, each in the singular, as detectors are asked."""
    return list(dict.fromkeys(filter(None, map(bare, split_objects(phrase))))) or [phrase]


def picked(objects: Sequence[ObjectRef], pick: Pick) -> list[ObjectRef]:
    """Return all of the objects, or the one that is meant."""
    if pick == "each" or not objects:
        return list(objects)
    keys: dict[str, Callable[[ObjectRef], float]] = {
        "best": lambda obj: obj.score,
        "largest": lambda obj: obj.area,
        "smallest": lambda obj: -obj.area,
        "leftmost": lambda obj: -obj.center[0],
        "rightmost": lambda obj: obj.center[0],
        "topmost": lambda obj: -obj.center[1],
        "lowest": lambda obj: obj.center[1],
    }
    return [max(objects, key=keys[pick])]


def overlap(first: ObjectRef, second: ObjectRef) -> float:
    """Return the intersection over union of their boxes; 0 where they are not of one image."""
    if first.box is None or second.box is None or first.image != second.image:
        return 0.0
    return float(box_iou(np.array([first.box]), np.array([second.box]))[0, 0])


def with_margin(box: XYXY, size: tuple[int, int], least: int) -> XYXY:
    """Return a box with some margin around it, inside the image and at least `least` pixels wide and high.

    Args:
        size: (width, height) of the image, pixels.
    """
    grown = []
    for low, high, side in ((box[0], box[2], size[0]), (box[1], box[3], size[1])):
        margin = max(_MARGIN * (high - low), (least - (high - low)) / 2 + 1, 0.0)
        low, high = max(0.0, low - margin), min(float(side), high + margin)
        if high - low < least:  # at the edge of the image
            low, high = (
                (0.0, min(float(side), least + 1.0)) if low <= 0 else (max(0.0, side - least - 1.0), float(side))
            )
        grown.append((low, high))
    (x0, x1), (y0, y1) = grown
    return x0, y0, x1, y1
