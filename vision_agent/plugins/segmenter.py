"""TODO docstring."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy.typing as npt

if TYPE_CHECKING:
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
        image: "ImageSource",
        *,
        boxes: npt.ArrayLike | None = None,
        points: npt.ArrayLike | None = None,
        point_labels: npt.ArrayLike | None = None,
        labels: Sequence[str] | None = None,
        scores: Sequence[float] | None = None,
        phrases: Sequence[str] | None = None,
        model: str | None = None,
        limits: "ImageLimits | None" = None,
    ) -> Segmentation:
        """One segment for each box or for each object's points, in their order."""
        ...
