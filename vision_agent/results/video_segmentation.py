"""The result of segmenting a video."""

from collections.abc import Iterator
from typing import Literal, Self

from pydantic import BaseModel, NonNegativeFloat, NonNegativeInt, model_validator

from vision_agent.results.box import FROZEN
from vision_agent.results.segmentation import Segment, Segmentation


class VideoSegmentation(BaseModel):
    """What was segmented in a video: one `Segmentation` for each frame.

    All frames have the same objects in the same order, with an empty mask where one is not visible.

    Attributes:
        frames: one result for each frame.
        indices: the frames' numbers in the video, from 0.
        seconds: their times from the video's first frame; None if the caller gave the frames.
        phrases: what was asked for.
        model: the model that found them.
        kind: always "video_segmentation"; tells results apart in JSON.

    Raises:
        pydantic.ValidationError: (a ValueError) frames, numbers and times differ in number, or frames in their objects.
    """

    model_config = FROZEN

    kind: Literal["video_segmentation"] = "video_segmentation"
    frames: tuple[Segmentation, ...]
    indices: tuple[NonNegativeInt, ...]
    seconds: tuple[NonNegativeFloat, ...] | None = None
    phrases: tuple[str, ...]
    model: str

    @model_validator(mode="after")
    def _frames_agree(self) -> Self:
        lengths = {len(self.frames), len(self.indices), *([] if self.seconds is None else [len(self.seconds)])}
        if len(lengths) > 1:
            raise ValueError(f"`frames`, `indices` and `seconds` must be of one length, but got {sorted(lengths)}")
        if len({tuple(frame.labels) for frame in self.frames}) > 1:
            raise ValueError("`frames` must all have the same objects in the same order")
        return self

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def labels(self) -> list[str]:
        """What the objects are, in the order of each frame's segments."""
        return self.frames[0].labels if self.frames else []

    def track(self, number: int) -> Iterator[tuple[int, Segment]]:
        """Follow one object through the video: (frame's place in `frames`, segment) wherever its mask is not empty.

        Raises IndexError where there is no such object.
        """
        if not 0 <= number < len(self.labels):
            raise IndexError(f"there are {len(self.labels)} objects, but got {number}")
        for place, frame in enumerate(self.frames):
            if frame[number].mask.area:
                yield place, frame[number]
