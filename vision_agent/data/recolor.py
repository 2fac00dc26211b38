"""Names the colour of objects, and repaints them: the ground truth of colour phrases.

Colours are named as in `vision_agent.inference.colors`, but only where one is clearly ahead.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vision_agent.inference.colors import colour_shares

# Hue that makes a clear example of a colour.
_PAINTS = {"red": 0, "orange": 28, "yellow": 54, "green": 120, "blue": 222, "purple": 280, "pink": 325}
_LEAST_SHARE = 0.45
_MOST_BESIDE = 0.5  # of the first colour's share: a second one this large makes it unclear


def colour_of(pixels: NDArray[np.uint8]) -> str | None:
    """Return the colour that most pixels of an object have, None when no colour is clearly ahead.

    Args:
        pixels: (n, 3) uint8 RGB of the object alone.
    """
    shares = [*colour_shares(pixels).items(), ("", 0.0), ("", 0.0)]
    (first, share), (_, beside) = shares[:2]
    return first if share >= _LEAST_SHARE and beside <= _MOST_BESIDE * share else None


def repainted(cutout: Image.Image, colour: str) -> Image.Image:
    """Return an RGBA cut-out in another hue; its shading stays. `colour` is one of the seven hues."""
    hsv = np.array(cutout.convert("RGB").convert("HSV"))
    hsv[..., 0] = _PAINTS[colour] * 255 // 360
    hsv[..., 1] = np.maximum(hsv[..., 1], 130)
    hsv[..., 2] = np.clip(hsv[..., 2].astype(np.int32) + 30, 80, 255)
    channels = [Image.fromarray(np.ascontiguousarray(hsv[..., channel])) for channel in range(3)]
    painted = Image.merge("HSV", channels).convert("RGB")
    painted.putalpha(cutout.getchannel("A"))
    return painted


PAINTABLE = tuple(_PAINTS)
