"""Points and counts, each with the boxes or masks that it was made of."""

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field, FiniteFloat, NonNegativeInt, PositiveInt

from vision_agent.geometry.rle import Bools
from vision_agent.results.base import FoundInImage
from vision_agent.results.box import FROZEN
from vision_agent.results.detections import Detections
from vision_agent.results.segmentation import Segmentation

_COARSE = 128  # longest side, in cells, at which the inscribed circle is sought


class Point(BaseModel):
    """A place in an image.

    Attributes:
        label: what is there, in the words of the request.
        score: how sure the model is, 0..1.
        x, y: pixels of the upright original image.
    """

    model_config = FROZEN

    label: str
    score: Annotated[float, Field(ge=0, le=1)]
    x: FiniteFloat
    y: FiniteFloat

    @property
    def xy(self) -> tuple[float, float]:
        """The place, pixels."""
        return self.x, self.y


class Points(FoundInImage[Point]):
    """A sequence of `Point`, possibly empty.

    Attributes:
        points: the places found.
        image_size: (width, height) of the upright original image, pixels.
        model: the model that found them.
        decoder: name of the decoder that made them.
        unknown_words, tiles: as of `Detections`.
        kind: always "points"; tells results apart in JSON.
    """

    _field: ClassVar[str] = "points"

    kind: Literal["points"] = "points"
    points: tuple[Point, ...]
    image_size: tuple[PositiveInt, PositiveInt]
    model: str
    decoder: str = ""
    unknown_words: tuple[str, ...] = ()
    tiles: NonNegativeInt = 0

    @classmethod
    def from_detections(cls, found: Detections) -> "Points":
        """Take the middles of boxes."""
        points = (
            Point(label=each.label, score=each.score, x=each.box.center[0], y=each.box.center[1]) for each in found
        )
        return cls._of(tuple(points), found)

    @classmethod
    def from_segmentation(cls, found: Segmentation) -> "Points":
        """Take the centre of the largest circle that fits into each mask; of an empty mask, the middle of its box."""
        points = []
        for each in found:
            runs = each.mask.runs
            x, y = each.box.center
            if runs.box is not None:
                left, top = runs.box[:2]
                column, row = inscribed_centre(runs.cropped(runs.box))
                x, y = left + column, top + row
            points.append(Point(label=each.label, score=each.score, x=x, y=y))
        return cls._of(tuple(points), found)

    @classmethod
    def _of(cls, points: tuple[Point, ...], found: Detections | Segmentation) -> "Points":
        return cls(
            points=points,
            image_size=found.image_size,
            model=found.model,
            decoder=found.decoder,
            unknown_words=found.unknown_words,
            tiles=found.tiles,
        )

    def _rows(self) -> tuple[list[str], list[dict[str, Any]]]:
        columns = ["label", "score", "x", "y"]
        return columns, [dict(zip(columns, (each.label, each.score, each.x, each.y), strict=True)) for each in self]

    @property
    def xy(self) -> npt.NDArray[np.float32]:
        """float32 (n, 2), pixels of the upright original."""
        return np.array([point.xy for point in self], dtype=np.float32).reshape(-1, 2)


class Count(BaseModel):
    """The number of objects. `int(count)` is the number.

    Attributes:
        count: how many were found.
        phrase: what was counted.
        evidence: the boxes that were counted.
        kind: always "count"; tells results apart in JSON.
    """

    model_config = FROZEN

    kind: Literal["count"] = "count"
    count: int = Field(ge=0)
    phrase: str
    evidence: Detections

    def model_post_init(self, context: Any, /) -> None:
        if self.count != len(self.evidence):
            raise ValueError(f"`count` must be the number of boxes in `evidence`, {len(self.evidence)}")

    def __int__(self) -> int:
        return self.count

    @property
    def unknown_words(self) -> tuple[str, ...]:
        """Words of the phrase that the model was never taught; see `Detections`."""
        return self.evidence.unknown_words

    @property
    def points(self) -> Points:
        """The evidence as points: the middles of its boxes."""
        return Points.from_detections(self.evidence)


def inscribed_centre(mask: Bools) -> tuple[float, float]:
    """Return x and y, in pixels, of the centre of the largest circle that fits into a mask (H, W) with any pixel set.

    The place is always a pixel of the mask. A large mask is looked at in cells of which every pixel is set, or, where
    it is too thin for any, of which some are.
    """
    cell = -(-max(mask.shape) // _COARSE)
    height, width = (-(-side // cell) for side in mask.shape)
    padded = np.zeros((height * cell, width * cell), dtype=np.bool_)
    padded[: mask.shape[0], : mask.shape[1]] = mask
    cells = padded.reshape(height, cell, width, cell)
    coarse = cells.all(axis=(1, 3))
    if not coarse.any():
        coarse = cells.any(axis=(1, 3))
    distance = _squared_distance(np.pad(coarse, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(distance.argmax()), distance.shape)
    ys, xs = np.nonzero(cells[row, :, column, :])
    nearest = int(((ys - (cell - 1) / 2) ** 2 + (xs - (cell - 1) / 2) ** 2).argmin())
    return float(column * cell + xs[nearest] + 0.5), float(row * cell + ys[nearest] + 0.5)


def _squared_distance(mask: Bools) -> npt.NDArray[np.float32]:
    """For each cell, squared distance to the nearest cell outside the mask, whose border is outside.

    First along columns, then the least over all columns of a row (Felzenszwalb and Huttenlocher, Distance transforms of
    sampled functions, 2012, without their envelope: masks here are small).
    """
    height, width = mask.shape
    rows = np.arange(height)[:, None]
    above = np.maximum.accumulate(np.where(mask, -1, rows), axis=0)
    below = np.minimum.accumulate(np.where(mask, height, rows)[::-1], axis=0)[::-1]
    along = np.minimum(rows - above, below - rows).astype(np.float32) ** 2
    columns = np.arange(width, dtype=np.float32)
    apart = (columns[:, None] - columns[None, :]) ** 2
    return np.stack([(along_W[None, :] + apart).min(axis=1) for along_W in along])
