"""The SAM 2 inside a Sa2VA folder, with the steps of Sa2VA's own code around it."""

from pathlib import Path
from typing import Self

from PIL import Image

from vision_agent.model.original.sa2va_sam2 import load_sam2

from .files import IMAGENET
from .transformers_network import TransformersNetwork


class Sa2vaNetwork(TransformersNetwork):
    """SAM 2 as Sa2VA trained it.

    What differs from SAM 2 elsewhere: Pillow's bicubic resizing, masks enlarged in two steps, and masks of objects
    that SAM 2 thinks are out of sight, which stay as they are.
    """

    resampling = Image.Resampling.BICUBIC
    enlarges = True
    hides_absent = False

    @classmethod
    def load_folder(cls, folder: Path) -> Self:
        """Load it from a Sa2VA folder. Raises CheckpointError."""
        return cls(load_sam2(folder), *IMAGENET)
