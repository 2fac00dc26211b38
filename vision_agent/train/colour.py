"""Names the colour of things, and repaints them: the ground truth of colour phrases.

Thresholds are in PIL's HSV (hue, saturation and value 0-255).
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Hue ranges in degrees for saturated pixels; red wraps around.
_HUES = (
    ("red", 345, 375),
    ("orange", 15, 42),
    ("yellow", 42, 68),
    ("green", 68, 165),
    ("blue", 180, 262),
    ("purple", 262, 300),
    ("pink", 300, 345),
)
# Hue and value scale that make a clear example of a colour.
_PAINTS = {"red": 0, "orange": 28, "yellow": 54, "green": 120, "blue": 222, "purple": 280, "pink": 325}
COLOURS = (*_PAINTS, "brown", "black", "white", "grey")
_LEAST_SHARE = 0.45


def colour_of(pixels: NDArray[np.uint8]) -> str | None:
    """The colour that most pixels of a thing have, None when no colour is clearly ahead.

    Args:
        pixels: (n, 3) uint8 RGB of the thing alone.
    """
    if len(pixels) < 20:
        return None
    hsv = np.asarray(Image.fromarray(pixels[None]).convert("HSV"))[0].astype(np.int32)
    hue, saturation, value = hsv[:, 0] * 360 // 255, hsv[:, 1], hsv[:, 2]
    votes = np.full(len(pixels), -1)
    dark = value < 55
    pale = (saturation < 45) & ~dark
    votes[dark] = COLOURS.index("black")
    votes[pale & (value > 190)] = COLOURS.index("white")
    votes[pale & (value <= 190)] = COLOURS.index("grey")
    vivid = ~dark & ~pale & (saturation >= 80)
    for name, low, high in _HUES:
        inside = vivid & (((hue >= low) & (hue < high)) | ((hue + 360 >= low) & (hue + 360 < high)))
        votes[inside] = COLOURS.index(name)
    brown = ~dark & ~pale & (hue >= 8) & (hue < 45) & (value < 150)
    votes[brown] = COLOURS.index("brown")
    counts = np.bincount(votes[votes >= 0], minlength=len(COLOURS))
    order = np.argsort(counts)[::-1]
    share = counts / len(pixels)
    if share[order[0]] < _LEAST_SHARE or share[order[1]] > 0.5 * share[order[0]]:
        return None
    return str(COLOURS[order[0]])


def repainted(cutout: Image.Image, colour: str) -> Image.Image:
    """An RGBA cut-out in another hue; its shading stays. `colour` is one of the seven hues."""
    hsv = np.array(cutout.convert("RGB").convert("HSV"))
    hsv[..., 0] = _PAINTS[colour] * 255 // 360
    hsv[..., 1] = np.maximum(hsv[..., 1], 130)
    hsv[..., 2] = np.clip(hsv[..., 2].astype(np.int32) + 30, 80, 255)
    channels = [Image.fromarray(np.ascontiguousarray(hsv[..., channel])) for channel in range(3)]
    painted = Image.merge("HSV", channels).convert("RGB")
    painted.putalpha(cutout.getchannel("A"))
    return painted


PAINTABLE = tuple(_PAINTS)
