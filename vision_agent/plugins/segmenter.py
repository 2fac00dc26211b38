"""Segmenters: the contract of what makes masks from boxes and points, as an alternative to the `[SEG]` route."""

from collections.abc import Sequence
from typing import Protocol

import numpy.typing as npt

from vision_agent.images.loading import ImageLimits, ImageSource
from vision_agent.results.segmentation import Segmentation


class Segmenter(Protocol):
    """What makes masks from boxes and points, such as `decoders.sam.SamSegmenter`.

    Attributes:
        name: of the decoder, for results.
    """

    name: str

    def segment(
        self,
        image: ImageSource,
        *,
        boxes: npt.ArrayLike | None = None,
        points: npt.ArrayLike | None = None,
        point_labels: npt.ArrayLike | None = None,
        labels: Sequence[str] | None = None,
        scores: Sequence[float] | None = None,
        phrases: Sequence[str] | None = None,
        model: str | None = None,
        limits: ImageLimits | None = None,
    ) -> Segmentation:
        """Return one segment for each box or for each object's points, in their order."""
        ...
