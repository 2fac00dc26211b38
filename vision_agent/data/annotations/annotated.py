"""The one record of an annotated image, whatever format it was read from.

Boxes are xyxy in pixels of the upright image, cut at its edges.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from vision_agent.geometry.rle import RunLengths, polygons_to_mask
from vision_agent.images.loading import ImageLimits, load_image


@dataclass(frozen=True)
class AnnotatedObject:
    """One object of an image.

    Attributes:
        name: what it is called in the set.
        xyxy: its box.
        polygons: rings of its outline, each x, y, x, y, ...; they are joined.
        runs: its outline as run lengths of the upright image.
        crowd: a region of many such objects that were not marked one by one.
        also: other names of it, where expressions mean it.
    """

    name: str
    xyxy: tuple[float, float, float, float]
    polygons: tuple[tuple[float, ...], ...] = ()
    runs: RunLengths | None = None
    crowd: bool = False
    also: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All that it is called."""
        return (self.name, *self.also)

    @property
    def outlined(self) -> bool:
        """Whether its pixels are known."""
        return bool(self.polygons) or self.runs is not None

    def mask(self, size: tuple[int, int]) -> npt.NDArray[np.bool_] | None:
        """Return bools (H, W) of an image of `size` (width, height); None without an outline."""
        if self.runs is not None:
            return self.runs.to_mask()
        if not self.polygons:
            return None
        return polygons_to_mask([[np.reshape(ring, (-1, 2))] for ring in self.polygons], (size[1], size[0]))


@dataclass(frozen=True)
class AnnotatedImage:
    """One image of a set.

    Attributes:
        file: its path as the set has it, for messages and for the split.
        source: where its pixels are: a path, or the bytes that a LabelMe file holds.
        size: width and height of the upright image.
        objects: what is marked on it; empty where nothing of the set's names is.
    """

    file: str
    source: Path | bytes
    size: tuple[int, int]
    objects: tuple[AnnotatedObject, ...] = ()

    def load(self, limits: ImageLimits | None = None) -> Image.Image:
        """Return the image, upright RGB."""
        return load_image(self.source, name=self.file, limits=limits or ImageLimits())


@dataclass(frozen=True)
class AnnotationSet:
    """A checked set: every name is marked wherever it occurs; an expression only where it was said.

    Attributes:
        kind: "coco", "yolo", "voc", "labelme" or "refcoco".
        train, validation: its images; no image is in both.
        names: of all objects, sorted.
        left_out: what was wrong and therefore left out, one sentence a fault; empty unless that was allowed.
    """

    kind: str
    train: tuple[AnnotatedImage, ...]
    validation: tuple[AnnotatedImage, ...]
    names: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    @property
    def by_expressions(self) -> bool:
        """Whether names are expressions, which mean something in their own image and nothing in others."""
        return self.kind == "refcoco"

    def count(self, name: str) -> tuple[int, int]:
        """Return how many objects of a name the training and the validation images have."""
        train, validation = (
            sum(name in each.names and not each.crowd for image in images for each in image.objects)
            for images in (self.train, self.validation)
        )
        return train, validation
