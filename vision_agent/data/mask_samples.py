"""Images with the shapes of their objects: outlined photos, composed scenes, clothes.

Clothes are regions, not objects: one is all there is of a label, such as both shoes or all skin. They teach that a mask
may have several parts.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import ImageEnhance
from torch import Tensor
from torch.utils.data import Dataset

from vision_agent.data.dataset import ImageSources
from vision_agent.data.scene import Scene, flipped, random_frame, window
from vision_agent.data.sources import CocoPhotos

_SHARES = {"photo": 0.5, "composed": 0.3, "clothes": 0.2}
_LEAST_SIDE = 6  # pixels of the sample: smaller objects show no shape
_LEAST_AREA = 24


@dataclass(frozen=True)
class MaskSample:
    """A training image and those of its objects whose shape is known.

    Attributes:
        pixels: (S, S, 3) uint8.
        boxes: float32 (G, 4), frame "unit".
        masks: bool (G, S, S).
        names: of the G objects.
    """

    pixels: Tensor
    boxes: Tensor
    masks: Tensor
    names: tuple[str, ...]


class MaskImages:
    """Scenes with masks, of one split."""

    def __init__(self, folder: Path, split: str, cutouts: str | None = None) -> None:
        self._images = ImageSources(folder, split, cutouts)
        self.photos = self._images.photos
        self.photo_records = self.photos.outlined(split)
        self.clothes = CocoPhotos(folder, "clothing_320")
        self.clothes_records = self.clothes.outlined(split)

    def photo(self, rng: np.random.Generator) -> Scene:
        """Return an outlined photo, or a part of one."""
        record = self.photo_records[rng.integers(len(self.photo_records))]
        scene = self.photos.scene(record, colours=False, masks=True)
        return _framed(scene, rng)

    def clothing(self, rng: np.random.Generator) -> Scene:
        """Return a photo of clothes, or a part of one."""
        record = self.clothes_records[rng.integers(len(self.clothes_records))]
        return _framed(self.clothes.scene(record, colours=False, masks=True), rng)

    def composed(self, rng: np.random.Generator) -> Scene:
        """Return a scene of objects pasted on a background."""
        return self._images.copy_paste.make(self._images.background(rng), rng, masks=True)


class MaskMix(Dataset[MaskSample]):
    """Sample number -> sample; it follows from the seed and the number alone.

    Args:
        side: of the samples, in pixels.
        most: most objects of a sample.
    """

    def __init__(self, folder: Path, side: int, seed: tuple[int, ...], most: int = 8) -> None:
        self._images = MaskImages(folder, "train")
        self._side, self._seed, self._most = side, seed, most

    def __getitem__(self, number: int) -> MaskSample:
        rng = np.random.default_rng((*self._seed, number))
        sample = self._drawn(rng)
        while not sample.names:  # a crop beside everything, or nothing pasted that shows
            sample = self._drawn(rng)
        return sample

    def _drawn(self, rng: np.random.Generator) -> MaskSample:
        kind = list(_SHARES)[rng.choice(len(_SHARES), p=list(_SHARES.values()))]
        if kind == "composed":
            scene = self._images.composed(rng)
        else:
            scene = tightened(self._images.photo(rng) if kind == "photo" else self._images.clothing(rng))
        if rng.random() < 0.5:
            scene = flipped(scene)
        return make_mask_sample(scene, self._side, rng, self._most)


def make_mask_sample(scene: Scene, side: int, rng: np.random.Generator, most: int) -> MaskSample:
    """Return a scene with masks as a square sample, in some other light, with at most `most` of its objects."""
    scene = window(scene, (0, 0, *scene.image.size), (side, side))
    kept = [index for index, mask in enumerate(scene.masks) if mask is not None and _shows_shape(scene, index)]
    if len(kept) > most:
        kept = sorted(rng.choice(kept, most, replace=False).tolist())
    image = ImageEnhance.Brightness(scene.image).enhance(float(rng.uniform(0.75, 1.25)))
    masks = np.zeros((len(kept), side, side), dtype=np.bool_)
    for place, index in enumerate(kept):
        masks[place] = scene.masks[index]
    return MaskSample(
        pixels=torch.from_numpy(np.array(image)),
        boxes=torch.from_numpy(scene.boxes[kept] / side).float().reshape(-1, 4),
        masks=torch.from_numpy(masks),
        names=tuple(scene.names[index] for index in kept),
    )


def tightened(scene: Scene) -> Scene:
    """Return the scene with each box drawn tightly around its mask, where there is one.

    A crop may have cut parts of an object away.
    """
    boxes = scene.boxes.copy()
    for index, mask in enumerate(scene.masks):
        if mask is None or not mask.any():
            continue
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes[index] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return replace(scene, boxes=boxes)


def _shows_shape(scene: Scene, index: int) -> bool:
    x0, y0, x1, y1 = scene.boxes[index]
    mask = scene.masks[index]
    return bool(min(x1 - x0, y1 - y0) >= _LEAST_SIDE and mask is not None and mask.sum() >= _LEAST_AREA)


def _framed(scene: Scene, rng: np.random.Generator) -> Scene:
    """The whole scene, a part of it, or the whole in a grey frame."""
    width, height = scene.image.size
    kind = rng.random()
    if kind < 0.55:
        frame = random_frame(scene, rng)
    elif kind < 0.7:
        grow = rng.uniform(1.1, 1.6)
        x0, y0 = -rng.uniform(0, width * (grow - 1)), -rng.uniform(0, height * (grow - 1))
        frame = (x0, y0, x0 + width * grow, y0 + height * grow)
    else:
        return scene
    return window(scene, frame, (round(frame[2] - frame[0]), round(frame[3] - frame[1])))
