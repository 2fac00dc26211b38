"""Training examples of the small generator: objects, and the scene or the change that they make up."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vision_agent.inference.colors import COLOURS

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class SceneObject:
    """One object in a scene. Place and size are shares of the image's side.

    Attributes:
        name, colour: what prompts call it; no colour is its own.
        look: number of its image among all images of objects.
        paint: number of its colour, 0 for its own.
        light: how bright, about 1.
    """

    name: str
    colour: str | None
    look: int
    x: float
    y: float
    size: float
    light: float

    @property
    def paint(self) -> int:
        return 0 if self.colour is None else COLOURS.index(self.colour) + 1


@dataclass(frozen=True)
class Sample:
    """One training example: what to draw, and for an edit, on what.

    Attributes:
        prompt: what the image shows, or what the edit does.
        grid: the background's colours, float32 (3, 3, 3) of 0..1, spread smoothly over the image.
        objects: what is drawn, in order.
        source: the image to change, uint8 (S, S, 3); None for a new image.
        mask: bool (S, S), where it may change; None for everywhere.
        gone: what of the source becomes background, x0 y0 x1 y1 as shares of its sides.
    """

    prompt: str
    grid: NDArray[np.float32]
    objects: tuple[SceneObject, ...]
    source: Pixels | None = None
    mask: NDArray[np.bool_] | None = None
    gone: tuple[float, float, float, float] | None = None
