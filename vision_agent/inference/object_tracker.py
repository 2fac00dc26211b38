"""Follows objects through the frames of a video or a camera, given what was detected in each."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

import numpy as np

from vision_agent.errors import ArgumentTypeError, InputError, bad_argument
from vision_agent.inference.association import Association, MotionAssociation
from vision_agent.inference.byte_track import ByteTrackAssociation
from vision_agent.results.box import Box
from vision_agent.results.detections import Detection, Detections
from vision_agent.results.tracks import Track, TrackedBox, TrackedObject, TrackedObjects, Tracks
from vision_agent.validation import check_switch

TrackerName: TypeAlias = Literal["motion", "bytetrack"]
"""What associates boxes: our own, or ByteTrack (extra "bytetrack")."""

_LEAST_FRAMES = 2  # in which an object is found before it counts
_ASSOCIATIONS: Mapping[str, type[MotionAssociation] | type[ByteTrackAssociation]] = {
    "motion": MotionAssociation,
    "bytetrack": ByteTrackAssociation,
}


@dataclass
class _Sightings:
    """Where one object was seen; `id` once it counts."""

    label: str
    count: int = 0
    total: float = 0.0  # of the scores
    boxes: list[tuple[int, Detection]] = field(default_factory=list)  # the frame's place, and what was detected
    id: int | None = None

    @property
    def score(self) -> float:
        """Mean of the scores so far."""
        return self.total / self.count


class ObjectTracker:
    """Gives objects numbers that stay the same from frame to frame: `tracker.update(agent.detect("dog", frame), 0.4)`.

    For a camera, or a detector of your own; `agent.track` does all of it for a video. An object counts, and has its
    number, from the second frame on in which it is found, once its scores are good enough in the mean; those of the
    first frame may count at once.

    Args:
        max_gap: seconds that an object may not be seen and still be the same one; 0 or more.
        start_score: least score of a box that begins an object, 0-1. Boxes below it continue objects: a `detect` with
            three quarters of that threshold finds more of them.
        mean_score: least mean score of an object that counts, 0-1. Many false boxes come again in every frame, but
            with low scores.
        tracker: "motion" associates boxes by overlap and speed; "bytetrack" by ByteTrack.
        history: keep what is seen for `tracks`; False for a camera that runs for days.

    Raises:
        InputError: a number out of range, or an unknown tracker.
        MissingExtraError: "bytetrack" without its extra.
    """

    def __init__(
        self,
        *,
        max_gap: float = 1.0,
        start_score: float = 0.0,
        mean_score: float = 0.0,
        tracker: TrackerName = "motion",
        history: bool = True,
    ) -> None:
        check_gap(max_gap)
        for name, value in (("start_score", start_score), ("mean_score", mean_score)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise InputError(bad_argument(name, "a number from 0 to 1", value))
        check_tracker(tracker)
        check_switch("history", history)
        self._history = history
        self._association: Association = _ASSOCIATIONS[tracker](float(start_score), float(max_gap))
        self._max_gap, self._mean_score = float(max_gap), float(mean_score)
        self._seen: dict[int, _Sightings] = {}
        self._seconds: list[float] = []
        self._indices: list[int] = []
        self._frames = 0
        self._first: Detections | None = None
        self._counted = 0

    def update(self, found: Detections, seconds: float, *, index: int | None = None) -> TrackedObjects:
        """Take what was detected in the next frame, and return those objects that count, with their numbers.

        Args:
            found: of `agent.detect`, boxes in pixels of the upright frame.
            seconds: the frame's time, later than that of the frame before; such as `time.monotonic()` of a camera.
            index: the frame's number in its video; None for one more than the last.

        Raises:
            InputError: a time or a number that does not grow, a frame of another size.
            ArgumentTypeError: values of other types.
        """
        self._check(found, seconds, index)
        self._first = self._first or found
        place, number_here = self._frames, self._next_index if index is None else index
        self._frames += 1
        if not self._history:
            self._seconds, self._indices = [], []
        self._seconds.append(float(seconds))
        self._indices.append(number_here)
        boxes = np.array([each.box.xyxy for each in found], dtype=np.float64).reshape(-1, 4)
        scores = np.array([each.score for each in found], dtype=np.float64)
        numbers = self._association.match(boxes, scores, found.labels, float(seconds))
        objects = []
        for number, detection in zip(numbers, found, strict=True):
            if number < 0:
                continue
            sightings = self._seen.setdefault(number, _Sightings(detection.label))
            sightings.count += 1
            sightings.total += detection.score
            if self._history:
                sightings.boxes.append((place, detection))
            counts = sightings.count >= min(_LEAST_FRAMES, self._frames) and sightings.score >= self._mean_score
            if sightings.id is None and counts:
                self._counted += 1
                sightings.id = self._counted
            if sightings.id is not None:
                objects.append(TrackedObject(id=sightings.id, **dict(detection)))
        told = {name: getattr(found, name) for name in ("image_size", "model", "phrases", "decoder", "unknown_words")}
        return TrackedObjects(objects=tuple(objects), seconds=float(seconds), **told)

    def tracks(self, *, fill: bool = True) -> Tracks:
        """Return all objects that count, and where each of them was so far.

        Args:
            fill: an object that was not found in some frames between two sightings, at most `max_gap` seconds apart, is
                put on the line between them (`seen` is False); False leaves these frames out.

        Raises:
            InputError: no frame was there yet, or nothing is kept of them.
            ArgumentTypeError: `fill` is neither True nor False.
        """
        check_switch("fill", fill)
        first = self._first
        if first is None:
            raise InputError("`tracks` needs a frame, but `update` was not called yet")
        if not self._history:
            raise InputError("`tracks` needs what was seen, but the tracker was made with `history=False`")
        least = min(_LEAST_FRAMES, self._frames)
        counting = [each for each in self._seen.values() if each.count >= least and each.score >= self._mean_score]
        told = {name: getattr(first, name) for name in ("image_size", "model", "phrases", "decoder", "unknown_words")}
        return Tracks(
            tracks=tuple(self._track(each, number, fill) for number, each in _numbered(counting)),
            indices=tuple(self._indices),
            seconds=tuple(self._seconds),
            **told,
        )

    @property
    def _next_index(self) -> int:
        return self._indices[-1] + 1 if self._indices else 0

    def _track(self, sightings: _Sightings, number: int, fill: bool) -> Track:
        boxes: list[TrackedBox] = []
        before: tuple[int, Detection] | None = None
        for place, detection in sightings.boxes:
            if fill and before is not None and self._seconds[place] - self._seconds[before[0]] <= self._max_gap:
                boxes += [self._between(before, (place, detection), each) for each in range(before[0] + 1, place)]
            boxes.append(self._boxed(place, detection.box, detection.score, True))
            before = (place, detection)
        return Track(id=number, label=sightings.label, score=min(sightings.score, 1.0), boxes=tuple(boxes))

    def _between(self, before: tuple[int, Detection], after: tuple[int, Detection], place: int) -> TrackedBox:
        """The place on the line between two sightings."""
        start, end = self._seconds[before[0]], self._seconds[after[0]]
        share = (self._seconds[place] - start) / (end - start)
        sides = (1 - share) * np.array(before[1].box.xyxy) + share * np.array(after[1].box.xyxy)
        return self._boxed(place, Box.from_xyxy(sides), min(before[1].score, after[1].score), False)

    def _boxed(self, place: int, box: Box, score: float, seen: bool) -> TrackedBox:
        return TrackedBox(index=self._indices[place], seconds=self._seconds[place], box=box, score=score, seen=seen)

    def _check(self, found: object, seconds: object, index: object) -> None:
        if not isinstance(found, Detections):
            raise ArgumentTypeError(bad_argument("found", "the `Detections` of a frame", found))
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
            raise InputError(bad_argument("seconds", "a number, 0 or more", seconds))
        if self._seconds and seconds <= self._seconds[-1]:
            raise InputError(bad_argument("seconds", f"later than the frame before, at {self._seconds[-1]:g}", seconds))
        if index is not None and (type(index) is not int or index < self._next_index):
            raise InputError(bad_argument("index", f"a whole number from {self._next_index}, or None", index))
        if self._first is not None and found.image_size != self._first.image_size:
            raise InputError(bad_argument("found", f"of a frame of {self._first.image_size}", found.image_size))


def check_gap(max_gap: object) -> None:
    """Raise InputError for anything but a finite number of seconds, 0 or more."""
    if isinstance(max_gap, bool) or not isinstance(max_gap, int | float) or not 0 <= max_gap < math.inf:
        raise InputError(bad_argument("max_gap", "seconds, 0 or more", max_gap))


def check_tracker(tracker: object) -> TrackerName:
    """Return the tracker. Raises InputError for one that there is not."""
    for name in get_args(TrackerName):
        if name == tracker:
            known: TrackerName = name
            return known
    raise InputError(bad_argument("tracker", '"motion" or "bytetrack"', tracker))


def _numbered(counting: list[_Sightings]) -> list[tuple[int, _Sightings]]:
    """Objects with the numbers that they were given, in that order."""
    return sorted(((each.id, each) for each in counting if each.id is not None), key=lambda pair: pair[0])
