"""ByteTrack of the people behind supervision, in place of our own association.

Needs their package: `pip install "internvl-vision-agent[bytetrack]"`. supervision had ByteTrack itself until 0.30.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vision_agent.errors import MissingExtraError

_RATE = 30  # frames a second in which their buffer is counted


class ByteTrackAssociation:
    """Associates boxes by `trackers.ByteTrackTracker`, one for each label.

    Args:
        start_score: least score of a box that begins an object.
        max_gap: seconds that an object may not be seen.

    Raises:
        MissingExtraError: `trackers` is not installed.
    """

    def __init__(self, start_score: float, max_gap: float) -> None:
        try:
            import supervision
            from trackers import ByteTrackTracker
        except ImportError as error:
            raise MissingExtraError(
                '`tracker="bytetrack"` needs trackers: pip install "internvl-vision-agent[bytetrack]"'
            ) from error
        self._detections: Any = supervision.Detections
        self._new: Any = lambda: ByteTrackTracker(
            lost_track_buffer=round(max_gap * _RATE),
            frame_rate=float(_RATE),
            track_activation_threshold=start_score,
            high_conf_det_threshold=start_score,
            minimum_consecutive_frames=1,
        )
        self._trackers: dict[str, Any] = {}
        self._numbers: dict[tuple[str, int], int] = {}

    def match(
        self,
        boxes: npt.NDArray[np.float64],
        scores: npt.NDArray[np.float64],
        labels: Sequence[str],
        seconds: float,
    ) -> list[int]:
        """Return a number for each box of the next frame; see `Association`."""
        numbers = [-1] * len(boxes)
        for label in dict.fromkeys([*self._trackers, *labels]):
            places = np.array([place for place, each in enumerate(labels) if each == label], dtype=np.int64)
            tracker = self._trackers.setdefault(label, None) or self._new()
            self._trackers[label] = tracker
            given = self._detections(
                xyxy=boxes[places].reshape(-1, 4).astype(np.float32),
                confidence=scores[places].astype(np.float32),
                class_id=np.zeros(len(places), dtype=np.int64),
                data={"place": places},
            )
            found = tracker.update(given, timestamp=seconds)
            if not len(found):
                continue
            for place, own in zip(found.data["place"], found.tracker_id, strict=True):
                if own >= 0:
                    numbers[int(place)] = self._numbers.setdefault((label, int(own)), len(self._numbers) + 1)
        return numbers
