"""What a frozen model's image tower sees of images: vectors and maps, kept on disk while a head is trained.

Of InternViT: the last layer's patch tokens, the class token left out, as the official probes take them. Of the
default's small tower: its four maps side by side.

Shape suffixes: B images, D width of a vector, C channels, H and W cells.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from vision_agent.images.loading import load_image
from vision_agent.model.backbone import Backbone

_MOST_CELLS = 32  # of a side of joined maps, a tile: as many as InternViT has; finer ones are left out


class TowerFeatures:
    """Sees images once, and reads what was seen from a folder from then on.

    Args:
        backbone: its model is frozen.
        tiles: most tiles of an image; 1 sees it whole.
        folder: where maps and vectors are kept; None keeps nothing.
    """

    def __init__(self, backbone: Backbone, tiles: int = 1, folder: Path | None = None) -> None:
        self._backbone, self._tiles, self._folder = backbone, tiles, folder
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def width(self) -> int:
        """D, and C of joined maps."""
        return sum(self._backbone.feature_widths)

    def vector(self, image: Image.Image) -> Tensor:
        """Return the means of an image's maps, one after the other, float32 (D,)."""
        maps = self._backbone.encode_images([image], self._tiles)[0].features.maps
        return torch.cat([map_1CHW.float().mean(dim=(2, 3))[0] for map_1CHW in maps]).cpu()

    def map(self, image: Image.Image) -> Tensor:
        """Return an image's maps joined at the finest that is not too large, float16 (C, H, W); they span it whole."""
        maps = self._backbone.encode_images([image], self._tiles)[0].features.maps
        sizes = [tuple(each.shape[2:]) for each in maps]
        size = next((each for each in sizes if max(each) <= _MOST_CELLS * self._tiles), sizes[-1])
        joined = [functional.interpolate(each.float(), size, mode="bilinear", align_corners=False) for each in maps]
        return torch.cat(joined, dim=1)[0].to(torch.float16).cpu()

    def vectors_of(self, files: Sequence[Path]) -> Tensor:
        """Return the vectors of files, (N, D)."""
        return torch.stack([self._kept(file, "vector") for file in files])

    def map_of(self, file: Path) -> Tensor:
        """Return the joined maps of a file."""
        return self._kept(file, "map")

    def _kept(self, file: Path, what: str) -> Tensor:
        if self._folder is None:
            return self._seen(file, what)
        known = f"{self._backbone.fingerprint} {self._tiles} {what} {file.resolve()} {file.stat().st_mtime_ns}"
        path = self._folder / f"{hashlib.sha256(known.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.npy"
        if path.exists():
            return torch.from_numpy(np.load(path))
        seen = self._seen(file, what)
        part = path.with_suffix(".part")
        with open(part, "wb") as stream:
            np.save(stream, seen.numpy())
        os.replace(part, path)
        return seen

    def _seen(self, file: Path, what: str) -> Tensor:
        image = load_image(file)
        return self.vector(image) if what == "vector" else self.map(image)
