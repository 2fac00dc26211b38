"""The contract of plug-ins that read one image, in the entry-point group `vision_agent.readers`.

A reader finds lines and words. Files, PDFs, reading order and blocks are handled outside, the same for all readers.
The one that comes with this package is `rapidocr` (decoders/ocr/rapidocr.py).
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from vision_agent.documents.result import Line


class PageReader(Protocol):
    """A reader of one image. It must be safe to use from several threads at once."""

    name: str

    def read(self, image: Image.Image) -> list[Line]:
        """Return all lines of an RGB image, turned or skewed, in any order. Their quads start where reading does."""
        ...

    def find(self, image: Image.Image) -> npt.NDArray[np.float64]:
        """Return quads (n, 4, 2) in pixels where lines are, without reading them."""
        ...

    def recognise(self, image: Image.Image, quads: npt.NDArray[np.float64]) -> list[Line | None]:
        """Return the line in each quad (n, 4, 2), whose first side is its upper edge; None where there is none."""
        ...
