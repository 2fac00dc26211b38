"""Figures of clicks: whether a mask that is returned for a point holds it.

A mask that does not is worse than none: it is of something else, and looks as sure.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vision_agent.agent import VisionAgent
from vision_agent.data.dataset import ImageSources
from vision_agent.evaluate.figures import Figure

_COLUMNS, _ROWS = 10, 8
_PHOTOS = 10


def click_figures(agent: VisionAgent, data: Path, split: str, limit: int | None = None) -> Iterable[Figure]:
    """Yield the share of masks that hold their click, and of clicks that get one; nothing without the `[SEG]` route.

    Each photo is clicked at 80 places of a grid, one object a click.

    Args:
        data: folder of the archives.
        limit: at most this many photos; 10 where it is None.
    """
    if "seg" not in agent.routes:
        return
    images = ImageSources(data, split, cutouts="val")
    held: list[bool] = []
    clicks = 0
    for record in tqdm(images.photo_records[: limit or _PHOTOS], desc="clicks"):
        image = images.photos.scene(record, colours=False).image
        points = _grid(*image.size)
        found = agent.segment(image=image, points=points)
        clicks += len(points)
        places = [points[each.prompt] for each in found if each.prompt is not None]
        held += [bool(each.mask.to_array()[int(y), int(x)]) for each, (x, y) in zip(found, places, strict=True)]
    yield Figure(
        name="masks that hold their click", value=float(np.mean(held)) if held else 1.0, count=len(held), of="masks"
    )
    yield Figure(
        name="clicks that get a mask", value=len(held) / clicks if clicks else 0.0, count=clicks, of="clicks on a grid"
    )


def _grid(width: int, height: int) -> NDArray[np.float64]:
    """The middles of equal cells, (80, 2)."""
    x = width * (np.arange(_COLUMNS) + 0.5) / _COLUMNS
    y = height * (np.arange(_ROWS) + 0.5) / _ROWS
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
