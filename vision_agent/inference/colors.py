"""Names the colours of pixels in eleven words: the basic colour terms of English (Berlin and Kay, 1969).

Thresholds are in PIL's HSV: hue in degrees, saturation and value 0-255. Half of what an object shows is shading, so a
colour is told by votes of its pixels, not by their mean.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey")
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
_LEAST_PIXELS = 20


def colour_shares(pixels: NDArray[np.uint8]) -> dict[str, float]:
    """Return the share of each colour among the pixels, largest first. Pixels between two colours vote for none.

    Args:
        pixels: (n, 3) uint8 RGB of the object alone. Fewer than 20 give an empty dict.
    """
    if len(pixels) < _LEAST_PIXELS:
        return {}
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
    votes[~dark & ~pale & (hue >= 8) & (hue < 45) & (value < 150)] = COLOURS.index("brown")
    shares = np.bincount(votes[votes >= 0], minlength=len(COLOURS)) / len(pixels)
    return {COLOURS[place]: float(shares[place]) for place in np.argsort(-shares, kind="stable") if shares[place]}
