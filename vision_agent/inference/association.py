"""Which box of a frame is which object of the frames before: by overlap with where each object should be by now.

Each object moves on at its own speed, which is measured in pixels a second, so that frames need not be evenly far
apart. Boxes that are sure choose first; what is left of the objects may take a box that is not sure enough to begin one
(ByteTrack's idea: a weak box where an object is expected is that object, half hidden). Where a box has no object, one
begins; where an object had no box for `max_gap` seconds, it ends.

Shapes: N boxes, P paths, 4 is xyxy in pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from vision_agent.geometry.frames import box_iou
from vision_agent.inference.assignment import assign

Array = npt.NDArray[np.float64]

_LEAST = 0.1  # likeness, from which a box may be an object; see `_likeness`
_NEARNESS = 0.25  # what being near counts beside overlap, which a fast object does not have
_MOST_GROWTH = 2.5  # from one sighting to the next, in area
_SAME = 0.6  # overlap from which a box without an object is a second box on one that has one
_KEEP, _TURN = 0.8, 0.4  # how much of a sighting's surprise changes place and speed (an alpha-beta filter)
_COAST = 1.0  # seconds in which an object that is not seen loses most of its speed


class Association(Protocol):
    """What says which boxes are which objects."""

    def match(self, boxes: Array, scores: Array, labels: Sequence[str], seconds: float) -> list[int]:
        """Return a number for each box of the next frame: the same one for the same object, -1 for none."""


@dataclass
class _Path:
    """An object that is being followed: its last box and its speed."""

    number: int
    label: str
    middle: Array
    size: Array
    seconds: float
    speed: Array = field(default_factory=lambda: np.zeros(2))
    sightings: int = 1

    def expected(self, seconds: float) -> Array:
        """Where its box should be."""
        coasting = _COAST * (1 - math.exp(-(seconds - self.seconds) / _COAST))
        middle = self.middle + self.speed * coasting
        return np.concatenate([middle - self.size / 2, middle + self.size / 2])

    def saw(self, box: Array, seconds: float) -> None:
        """Move on to a box in which it was seen."""
        passed = seconds - self.seconds
        expected = self.expected(seconds)
        middle, size = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
        surprise = middle - (expected[:2] + expected[2:]) / 2
        if self.sightings == 1:
            self.speed, self.middle = surprise / passed, middle
        else:
            self.speed = self.speed + _TURN * surprise / passed
            self.middle = middle - (1 - _KEEP) * surprise
        self.size = (self.size + size) / 2
        self.seconds = seconds
        self.sightings += 1


class MotionAssociation:
    """Associates boxes by overlap and motion.

    Args:
        start_score: least score of a box that begins an object.
        max_gap: seconds that an object may not be seen.
    """

    def __init__(self, start_score: float, max_gap: float) -> None:
        self._start_score, self._max_gap = start_score, max_gap
        self._paths: list[_Path] = []
        self._begun = 0

    def match(self, boxes: Array, scores: Array, labels: Sequence[str], seconds: float) -> list[int]:
        """Return a number for each box of the next frame, which is later than the last; see `Association`."""
        self._paths = [path for path in self._paths if seconds - path.seconds <= self._max_gap + 1e-9]
        numbers = np.full(len(boxes), -1)
        likeness = _likeness(self._paths, boxes, labels, seconds)
        sure = scores >= self._start_score
        free = np.ones(len(self._paths), dtype=bool)
        for some in (np.flatnonzero(sure), np.flatnonzero(~sure)):
            left = np.flatnonzero(free)
            for row, column in assign(likeness[np.ix_(left, some)]):
                path, box = int(left[row]), int(some[column])
                if likeness[path, box] >= _LEAST:
                    free[path] = False
                    numbers[box] = self._paths[path].number
        taken = numbers >= 0
        path_of = {path.number: path for path in self._paths}
        for box in map(int, np.flatnonzero(taken)):
            path_of[int(numbers[box])].saw(boxes[box], seconds)
        for box in map(int, np.flatnonzero(sure & ~taken)):
            same = [place for place in range(len(boxes)) if numbers[place] >= 0 and labels[place] == labels[box]]
            if same and float(np.max(box_iou(boxes[box][None], boxes[same]))) >= _SAME:
                continue
            numbers[box] = self._begin(boxes[box], labels[box], seconds)
        return [int(number) for number in numbers]

    def _begin(self, box: Array, label: str, seconds: float) -> int:
        self._begun += 1
        middle, size = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
        self._paths.append(_Path(self._begun, label, middle, size, seconds))
        return self._begun


def _likeness(paths: Sequence[_Path], boxes: Array, labels: Sequence[str], seconds: float) -> Array:
    """(P, N): overlap with where a path should be, and a little for being near; 0 for what cannot be the same."""
    if not paths or not len(boxes):
        return np.zeros((len(paths), len(boxes)))
    expected = np.stack([path.expected(seconds) for path in paths])
    overlap = np.asarray(box_iou(expected, boxes), dtype=np.float64)
    middles = (expected[:, None, :2] + expected[:, None, 2:] - boxes[None, :, :2] - boxes[None, :, 2:]) / 2
    sizes, own = boxes[:, 2:] - boxes[:, :2], np.stack([path.size for path in paths])
    diagonal = (np.hypot(*own.T)[:, None] + np.hypot(*sizes.T)[None]) / 2
    near = np.clip(1 - np.hypot(middles[..., 0], middles[..., 1]) / np.maximum(diagonal, 1e-9), 0, 1)
    growth = np.maximum(sizes.prod(1), 1e-9)[None] / np.maximum(own.prod(1), 1e-9)[:, None]
    same = np.array([[path.label == label for label in labels] for path in paths])
    possible = same & (np.maximum(growth, 1 / growth) <= _MOST_GROWTH)
    return np.where(possible, overlap + _NEARNESS * near, 0.0)
