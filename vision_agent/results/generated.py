"""Images that were made or changed: frozen results that hold their pixels, and the settings they were asked with."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator

from vision_agent.errors import ArgumentTypeError, InputError, bad_argument
from vision_agent.results.base import ResultSequence
from vision_agent.results.box import FROZEN

_WITH_BYTES = ConfigDict(**FROZEN, ser_json_bytes="base64", val_json_bytes="base64")

Progress = Callable[[int, int, Image.Image], None]
"""Told, after each step: the step from 1, the number of steps, and the image expected so far."""

MOST_STEPS = 1000
_LEAST_SIDE = 16
_LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class ImageOptions:
    """How an image is made; None leaves a value to the decoder.

    Attributes:
        seed: the same seed gives the same image; None draws one.
        steps: steps from noise to image.
        size: (width, height) in pixels.
        guidance: how strictly the words are followed; 1 takes them as one hint, about 2-8 are usual.
    """

    seed: int | None = None
    steps: int | None = None
    size: tuple[int, int] | None = None
    guidance: float | None = None

    @classmethod
    def of(cls, seed: Any, steps: Any, size: Any, guidance: Any, largest_side: int) -> "ImageOptions":
        """Check the options. `size` may be one side of a square.

        Raises:
            InputError: a value out of range; an image may have `largest_side` pixels a side.
            ArgumentTypeError: a value of another type.
        """
        _check_whole("seed", seed, 0, _LARGEST_SEED)
        _check_whole("steps", steps, 1, MOST_STEPS)
        sides = size if isinstance(size, tuple | list) else (size, size)
        if len(sides) != 2:
            raise InputError(bad_argument("size", "a side, or (width, height)", size))
        for name, side in zip(("width", "height"), sides, strict=True):
            _check_whole(f"size ({name})", side, _LEAST_SIDE, largest_side)
        if size is not None and None in sides:
            raise ArgumentTypeError(bad_argument("size", "a side, or (width, height)", size))
        if guidance is not None:
            if isinstance(guidance, bool) or not isinstance(guidance, int | float):
                raise ArgumentTypeError(bad_argument("guidance", "a number", guidance))
            if not 1 <= guidance <= 50:
                raise InputError(bad_argument("guidance", "from 1 to 50", guidance))
        return cls(seed, steps, None if size is None else (sides[0], sides[1]), guidance)


class GeneratedImage(BaseModel):
    """An image that was made from words, or changed by them.

    Attributes:
        prompt: the words.
        size: (width, height), pixels.
        seed, steps, guidance: what gives the same image again.
        negative_prompt: what was to be avoided; "" for nothing.
        unknown_words: words of the prompt that the decoder was never taught; it had to ignore them.
        edited: whether it is a changed image.
        model, decoder: what made it.
        png: the image as a PNG file; base64 in JSON.
        kind: always "generated_image"; tells results apart in JSON.
    """

    model_config = _WITH_BYTES

    kind: Literal["generated_image"] = "generated_image"
    prompt: str
    size: tuple[PositiveInt, PositiveInt]
    seed: NonNegativeInt
    steps: PositiveInt
    guidance: float
    negative_prompt: str = ""
    unknown_words: tuple[str, ...] = ()
    edited: bool = False
    model: str
    decoder: str
    png: Annotated[bytes, Field(repr=False)]

    @model_validator(mode="after")
    def _png_has_the_size(self) -> "GeneratedImage":
        with Image.open(io.BytesIO(self.png), formats=["PNG"]) as image:
            if image.size != self.size:
                raise ValueError(f"`png` must be an image of `size` {self.size}, but it is of {image.size}")
        return self

    @classmethod
    def of(cls, image: Image.Image, **fields: Any) -> "GeneratedImage":
        """Make a result of an image; `size` and `png` follow from it."""
        file = io.BytesIO()
        image.save(file, "PNG")
        return cls(size=image.size, png=file.getvalue(), **fields)

    @property
    def image(self) -> Image.Image:
        """The image, RGB; a fresh copy."""
        with Image.open(io.BytesIO(self.png), formats=["PNG"]) as image:
            return image.convert("RGB")

    def to_array(self) -> npt.NDArray[np.uint8]:
        """Return the image as uint8 RGB (height, width, 3)."""
        return np.array(self.image)

    def save(self, path: str | Path) -> None:
        """Write the image; the format follows from the name."""
        self.image.save(path)

    def _repr_png_(self) -> bytes:
        """The image that notebooks show."""
        return self.png


class GeneratedImages(ResultSequence[GeneratedImage]):
    """Images, one for each prompt: a sequence of `GeneratedImage`.

    Attributes:
        images: in the order of the prompts.
        kind: always "generated_images".
    """

    model_config = _WITH_BYTES

    _field: ClassVar[str] = "images"

    kind: Literal["generated_images"] = "generated_images"
    images: tuple[GeneratedImage, ...]

    @property
    def image(self) -> Image.Image:
        """The only image. Raises InputError where there are several, or none."""
        if len(self.images) != 1:
            raise InputError(f"`image` is for one image, but there are {len(self.images)}; index them")
        return self.images[0].image

    def sheet(self, columns: int = 4) -> Image.Image:
        """Put all images side by side on white, at the distances of the largest. Raises InputError where none are."""
        if not self.images or columns < 1:
            raise InputError(bad_argument("columns", "at least 1, for at least one image", columns))
        width, height = (max(each.size[axis] for each in self) for axis in (0, 1))
        columns = min(columns, len(self))
        canvas = Image.new("RGB", (columns * width, -(-len(self) // columns) * height), "white")
        for number, each in enumerate(self):
            canvas.paste(each.image, (number % columns * width, number // columns * height))
        return canvas


def _check_whole(name: str, value: Any, least: int, most: int) -> None:
    """See that a value is a whole number in range, or None."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise ArgumentTypeError(bad_argument(name, "a whole number", value))
    if not least <= value <= most:
        raise InputError(bad_argument(name, f"a whole number from {least} to {most}", value))
