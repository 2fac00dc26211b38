"""Training samples: a scene, a phrase that names the sheet in it, and one that names something else."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from vision_agent import AdapterSample
from vision_agent_corners.decoder import CornersTarget
from vision_agent_corners.pages import draw_scene

PHRASES = ("sheet of paper", "page", "receipt", "document", "letter", "piece of paper")
_OTHERS = ("dog", "red car", "cup", "person", "bottle", "chair", "blue ball", "cat", "table", "tree")


def draw_sample(number: int, photos: Sequence[Path] = ()) -> AdapterSample:
    """Return training sample `number`: the same number gives the same sample."""
    scene = draw_scene(number, photos=photos)
    rng = np.random.default_rng(number)
    corners_K42 = torch.zeros(2, 4, 2)
    if scene.corners is not None:
        corners_K42[0] = torch.from_numpy(scene.corners / scene.image.size)
    present_K = torch.tensor([scene.corners is not None, False])
    phrases = str(rng.choice(PHRASES)), str(rng.choice(_OTHERS))
    return AdapterSample(scene.image, phrases, CornersTarget(corners_K42, present_K))


def training_samples(photos: Path | None) -> "partial[AdapterSample]":
    """Return `draw_sample` with the photos of a folder, or with none, as grounds."""
    return partial(draw_sample, photos=list_photos(photos))


def list_photos(folder: Path | None) -> tuple[Path, ...]:
    """Return the JPEG files of a folder, sorted; empty for None."""
    return () if folder is None else tuple(sorted(folder.glob("*.jpg")))
