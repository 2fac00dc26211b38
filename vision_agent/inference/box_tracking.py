"""Tracks objects through a video by detecting them in its frames."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Self, TypedDict

from PIL import Image

from vision_agent.errors import InputError, bad_argument
from vision_agent.images.video import TimedFrame
from vision_agent.inference.detail import Detail
from vision_agent.inference.find_options import FindOptions
from vision_agent.inference.object_tracker import ObjectTracker, TrackerName
from vision_agent.inference.predictor import Predictor
from vision_agent.inference.tile_layout import Tiles
from vision_agent.inference.tiled_search import SURE_IN_A_TILE
from vision_agent.plugins.cancellation import raise_if_cancelled
from vision_agent.results.tracks import Tracks
from vision_agent.routing.adapter import Route

_AT_ONCE = 4  # frames that are looked at together
# Of the threshold: what continues an object but begins none, and what an object needs in the mean. Chosen on composed
# videos (`evaluate/identities.py`): without the mean, three times as many boxes are false.
_WEAK, _MEAN = 0.75, 1.5


class TrackSettings(TypedDict, total=False):
    """The settings of `VisionAgent.track` as keyword arguments; see there."""

    threshold: float | None
    only_known: bool
    tiles: Tiles
    detail: Detail | None
    fps: float | None
    bounds: tuple[float, float] | None
    max_gap: float
    fill: bool
    tracker: TrackerName


@dataclass(frozen=True)
class TrackScores:
    """Least scores of a box that begins an object, of one that continues it, and of an object in the mean."""

    start: float
    weak: float
    mean: float

    @classmethod
    def of(cls, route: Route | None, threshold: float | None) -> Self:
        """Return those of a caller's threshold, or those that go with the `[DET]` route's own."""
        own = 0.0 if route is None else float(route.decoder.settings.get("threshold", 0.0))
        start = own if threshold is None else threshold
        return cls(start, _WEAK * start, min(1.0, _MEAN * own) if threshold is None else threshold)


def follow(
    predictor: Predictor,
    phrases: tuple[str, ...],
    frames: Iterator[TimedFrame],
    options: FindOptions,
    scores: TrackScores,
    tracker: ObjectTracker,
    fill: bool,
) -> Tracks:
    """Detect phrases in frame after frame, some at once, and return the tracks.

    Raises:
        CancelledError: nobody waits for the result any longer.
        InputError: no frame, or frames of several sizes.
    """
    sure = SURE_IN_A_TILE if options.threshold is None and options.tile_threshold is None else options.tile_threshold
    weak = replace(options, threshold=scores.weak, tile_threshold=sure)
    size: tuple[int, int] | None = None
    while some := list(islice(frames, _AT_ONCE)):
        raise_if_cancelled()
        for frame in some:
            size = size or frame.image.size
            if frame.image.size != size:
                expected = f"frames of one size, {size[0]} x {size[1]}"
                raise InputError(f"`video` must have {expected}, but frame {frame.index} has {_size(frame.image)}")
        found = predictor.detect_each(phrases, [frame.image for frame in some], weak)
        for frame, each in zip(some, found, strict=True):
            tracker.update(each, frame.seconds, index=frame.index)
    if size is None:
        raise InputError(bad_argument("bounds", "a part of the video that has a frame", "one without"))
    return tracker.tracks(fill=fill)


def _size(image: Image.Image) -> str:
    return f"{image.width} x {image.height}"
