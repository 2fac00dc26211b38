"""A box in an image, in pixels of the upright original (frame "image" of `vision_agent.geometry.frames`)."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, FiniteFloat, model_validator

from vision_agent.errors import InputError, bad_argument
from vision_agent.geometry.frames import box_iou

FROZEN = ConfigDict(frozen=True, extra="forbid")
"""The configuration of results: they do not change and have no unknown fields."""


class Box(BaseModel):
    """A box in pixels of the upright original image; pixel i covers [i, i + 1).

    Attributes:
        x0, y0: left and upper edge.
        x1, y1: right and lower edge, at least `x0` and `y0`.

    Raises:
        pydantic.ValidationError: (a ValueError) a side that is not finite, or a box that is turned inside out.
    """

    model_config = FROZEN

    x0: FiniteFloat
    y0: FiniteFloat
    x1: FiniteFloat
    y1: FiniteFloat

    @model_validator(mode="after")
    def _right_way_round(self) -> Self:
        if self.x1 < self.x0 or self.y1 < self.y0:
            raise ValueError(f"a box needs x1 >= x0 and y1 >= y0, but got x0, y0, x1, y1 = {self.xyxy}")
        return self

    @classmethod
    def from_xyxy(cls, xyxy: Sequence[float] | npt.NDArray[Any]) -> Self:
        """Make a box of four numbers: left, upper, right and lower edge. Raises InputError for another count."""
        values = np.asarray(xyxy, dtype=np.float64)
        if values.shape != (4,):
            raise InputError(bad_argument("xyxy", "four numbers", xyxy))
        x0, y0, x1, y1 = values.tolist()
        return cls(x0=x0, y0=y0, x1=x1, y1=y1)

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        """Left, upper, right and lower edge, pixels."""
        return self.x0, self.y0, self.x1, self.y1

    @property
    def xywh(self) -> tuple[float, float, float, float]:
        """Left and upper edge, width and height, pixels (COCO)."""
        return self.x0, self.y0, self.width, self.height

    @property
    def width(self) -> float:
        """Width, pixels."""
        return self.x1 - self.x0

    @property
    def height(self) -> float:
        """Height, pixels."""
        return self.y1 - self.y0

    @property
    def area(self) -> float:
        """Area, squared pixels."""
        return self.width * self.height

    @property
    def center(self) -> tuple[float, float]:
        """x and y of the middle, pixels."""
        return (self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2

    def iou(self, other: "Box") -> float:
        """Return the intersection over union with another box of the same image, 0..1; 0 where neither has an area."""
        return float(box_iou([self.xyxy], [other.xyxy])[0, 0])
