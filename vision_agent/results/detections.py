"""Detections: what was found in an image, as boxes. Frozen, comparable by value and exact through JSON.

Boxes are float xyxy in pixels of the upright original image (frame "image" of `vision_agent.geometry.frames`).
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt

from vision_agent.errors import InputError, bad_argument
from vision_agent.geometry.frames import box_area, box_clip, box_nms, box_to_cxcywh, to_unit
from vision_agent.results.base import FoundObjects
from vision_agent.results.box import FROZEN, Box


class Detection(BaseModel):
    """One object found in an image.

    Attributes:
        label: what it is, in the words of the request where there were any.
        score: how sure the model is, 0..1.
        box: where it is, in pixels of the upright original image.
    """

    model_config = FROZEN

    label: str
    score: Annotated[float, Field(ge=0, le=1)]
    box: Box


class Detections(FoundObjects[Detection]):
    """What was found in one image: a sequence of `Detection`, possibly empty.

    Attributes:
        detections: the objects found.
        image_size: (width, height) of the upright original image, pixels.
        model: the model that found them.
        phrases: what was asked for; their order gives the class ids of the exports.
        decoder: name of the decoder that made them, such as "box" or "grounding"; "" where none did.
        unknown_words: words of the phrases that the model was never taught, where it says which it knows. A phrase of
            such words alone finds nothing.
        tiles: into how many tiles the image was cut, which were looked at beside the whole of it; 0 where the whole
            was enough.
        kind: always "detections"; tells results apart in JSON.
    """

    _field: ClassVar[str] = "detections"

    kind: Literal["detections"] = "detections"
    detections: tuple[Detection, ...]
    image_size: tuple[PositiveInt, PositiveInt]
    model: str
    phrases: tuple[str, ...] = ()
    decoder: str = ""
    unknown_words: tuple[str, ...] = ()
    tiles: NonNegativeInt = 0

    @classmethod
    def from_arrays(
        cls,
        xyxy: npt.ArrayLike,
        scores: npt.ArrayLike,
        labels: Sequence[str],
        *,
        image_size: tuple[int, int],
        model: str,
        phrases: Sequence[str] = (),
        decoder: str = "",
    ) -> Self:
        """Make detections of n boxes, scores and labels.

        Args:
            xyxy: float (n, 4), pixels of the upright original.
            scores: (n,), 0..1.

        Raises InputError where shapes do not match, a number is not finite, a box is turned inside out or a score is
        not in 0..1.
        """
        boxes = np.asarray(xyxy, dtype=np.float64)
        if boxes.size == 0 and boxes.ndim == 1:  # an empty list carries no second axis
            boxes = boxes.reshape(0, 4)
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise InputError(bad_argument("xyxy", "boxes of shape (n, 4)", boxes.shape))
        score_of = np.asarray(scores, dtype=np.float64)
        if score_of.shape != (len(boxes),):
            raise InputError(bad_argument("scores", f"of shape ({len(boxes)},), one for each box", score_of.shape))
        if isinstance(labels, str) or len(labels) != len(boxes):
            raise InputError(bad_argument("labels", f"{len(boxes)} strings, one for each box", labels))
        for row in np.flatnonzero(~(np.isfinite(boxes).all(1) & (boxes[:, 2:] >= boxes[:, :2]).all(1))):
            raise InputError(bad_argument(f"xyxy[{row}]", "finite, with x1 >= x0 and y1 >= y0", boxes[row].tolist()))
        for row in np.flatnonzero(~((score_of >= 0) & (score_of <= 1))):
            raise InputError(bad_argument(f"scores[{row}]", "from 0 to 1", float(score_of[row])))
        found = tuple(
            Detection(label=label, score=score, box=Box(x0=x0, y0=y0, x1=x1, y1=y1))
            for (x0, y0, x1, y1), score, label in zip(boxes.tolist(), score_of.tolist(), labels, strict=True)
        )
        return cls(detections=found, image_size=image_size, model=model, phrases=tuple(phrases), decoder=decoder)

    def nms(self, iou: float = 0.5, *, class_agnostic: bool = False) -> Self:
        """Drop those that overlap a better one of the same label (or of any) by more than `iou`; the order is kept."""
        groups = None if class_agnostic else self._class_ids()
        scores = [found.score for found in self]
        kept = np.sort(box_nms(self._boxes(), scores, iou, groups))
        return self[kept]

    def to_yolo(self, *, include_scores: bool = False) -> str:
        """Return lines "class cx cy width height", each 0..1 of the image, six decimals; "" where nothing was found.

        Classes are numbers as in `class_names`. Boxes are cut to the image, since YOLO's loaders refuse images
        with labels that reach over the edge; one with no area inside is left out. `include_scores` adds the score.
        """
        inside = box_clip(self._boxes(), self.image_size)
        rows = box_to_cxcywh(to_unit(inside, self.image_size)).tolist()
        lines = []
        for number, area, row, found in zip(self._class_ids(), box_area(inside).tolist(), rows, self, strict=True):
            if area > 0:
                values = [*row, found.score] if include_scores else row
                lines.append(" ".join([str(number), *(f"{value:.6f}" for value in values)]))
        return "\n".join(lines)
