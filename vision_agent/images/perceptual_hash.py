"""What tells whether two images look alike, without any model: a difference hash, and a small copy.

The hash is https://www.hackerfactor.com/blog/index.php?/archives/529-Kind-of-Like-That.html, of 16 x 16 bits.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HASH_BITS = 256
SMALL_SIDE = 16  # of a small copy, pixels
_SIDE = 16


def difference_hash(image: Image.Image) -> NDArray[np.bool_]:
    """Return 256 bits: whether each cell of a small grey copy is brighter than the one to its left."""
    small = image.convert("L").resize((_SIDE + 1, _SIDE), Image.Resampling.BOX)
    grey_HW = np.asarray(small, dtype=np.int16)
    return (grey_HW[:, 1:] > grey_HW[:, :-1]).ravel()


def small_copy(image: Image.Image) -> NDArray[np.uint8]:
    """Return the image in 16 x 16 pixels, uint8 (768,): red, green and blue of each."""
    small = image.convert("RGB").resize((SMALL_SIDE, SMALL_SIDE), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.uint8).ravel()
