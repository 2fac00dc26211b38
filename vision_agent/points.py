"""Points and counts, each with the evidence it rests on."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, overload

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveInt

from vision_agent.results import Detections

_FROZEN = ConfigDict(frozen=True, extra="forbid")


class Point(BaseModel):
    """A place in a picture.

    Attributes:
        label: what is there, in the words of the request.
        score: how sure the model is, 0..1.
        x, y: pixels of the upright original picture.
    """

    model_config = _FROZEN

    label: str
    score: Annotated[float, Field(ge=0, le=1)]
    x: FiniteFloat
    y: FiniteFloat

    @property
    def xy(self) -> tuple[float, float]:
        return self.x, self.y


class Points(BaseModel, Sequence[Point]):
    """A sequence of `Point`, possibly empty.

    Attributes:
        points: the places found.
        image_size: (width, height) of the upright original picture, pixels.
        model: the model that found them.
        decoder: name of the decoder that made them.
        kind: always "points"; tells results apart in JSON.
    """

    model_config = _FROZEN

    kind: Literal["points"] = "points"
    points: tuple[Point, ...]
    image_size: tuple[PositiveInt, PositiveInt]
    model: str
    decoder: str = ""

    @classmethod
    def from_detections(cls, found: Detections) -> "Points":
        """The middles of boxes."""
        points = (
            Point(label=each.label, score=each.score, x=each.box.center[0], y=each.box.center[1]) for each in found
        )
        return cls(points=tuple(points), image_size=found.image_size, model=found.model, decoder=found.decoder)

    @property
    def xy(self) -> npt.NDArray[np.float32]:
        """float32 (n, 2), pixels of the upright original."""
        return np.array([point.xy for point in self], dtype=np.float32).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self.points)

    # Pydantic iterates over fields; a sequence iterates over its items.
    def __iter__(self) -> Iterator[Point]:  # type: ignore[override]
        return iter(self.points)

    @overload
    def __getitem__(self, key: int) -> Point: ...
    @overload
    def __getitem__(self, key: slice) -> "Points": ...
    def __getitem__(self, key: int | slice) -> "Point | Points":
        if isinstance(key, slice):
            return self.model_copy(update={"points": self.points[key]})
        return self.points[key]


class Count(BaseModel):
    """How many there are. `int(count)` is the number.

    Attributes:
        count: how many were found.
        phrase: what was counted.
        evidence: the boxes that were counted.
        kind: always "count"; tells results apart in JSON.
    """

    model_config = _FROZEN

    kind: Literal["count"] = "count"
    count: int = Field(ge=0)
    phrase: str
    evidence: Detections

    def model_post_init(self, context: Any, /) -> None:
        if self.count != len(self.evidence):
            raise ValueError(f"`count` must be the number of boxes in `evidence`, {len(self.evidence)}")

    def __int__(self) -> int:
        return self.count
