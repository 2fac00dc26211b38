"""What reads one image: the contract of the plug-ins of the group `vision_agent.readers`.

A reader knows lines and words. Files, PDFs, reading order and blocks are the same for all readers and not its business.
The shipped one is `rapidocr` (decoders/ocr.py).
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from vision_agent.documents.result import Line


class PageReader(Protocol):
    """What reads one image. Safe to use from several threads at once."""

    name: str

    def read(self, image: Image.Image) -> list[Line]:
        """All lines of an RGB image, turned or skewed, in any order. Their quads start where reading does."""
        ...

    def find(self, image: Image.Image) -> npt.NDArray[np.float64]:
        """Quads (n, 4, 2) in pixels where lines are, without reading them."""
        ...

    def recognise(self, image: Image.Image, quads: npt.NDArray[np.float64]) -> list[Line | None]:
        """The line in each quad (n, 4, 2), whose first side is its upper edge; None where there is none."""
        ...
