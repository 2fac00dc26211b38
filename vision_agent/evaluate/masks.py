"""Figures of masks: how well they fit given the true box and by phrase, and whether points lie on their objects.

"Mask mIoU" is the intersection over union averaged over objects, whatever their size. Only objects with an outline
count.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vision_agent.agent import VisionAgent
from vision_agent.data.mask_samples import MaskImages
from vision_agent.data.scene import Scene
from vision_agent.evaluate.figures import Figure
from vision_agent.geometry.frames import box_iou
from vision_agent.results.segmentation import Segmentation

_FOUND = 0.5  # least overlap of a box with the true one for its object to count as found


def mask_figures(agent: VisionAgent, data: Path, split: str, limit: int | None = None) -> Iterable[Figure]:
    """Yield figures of an agent with a `[SEG]` route that takes boxes; none for an agent without the route.

    Args:
        data: folder of the archives.
        limit: at most this many photos, and scenes.
    """
    if "seg" not in agent.routes:
        return
    images = MaskImages(data, split, cutouts="val")
    records = images.photo_records[:limit]
    photos = [images.photos.scene(record, colours=False, masks=True) for record in records]
    yield from _fits(agent, photos, f"outlined objects on {len(photos)} COCO photos", "COCO photos")
    yield _points(agent, [scene for scene in photos if all(mask is not None for mask in scene.masks)])
    scenes = [images.composed(np.random.default_rng((17, number))) for number in range(limit or 150)]
    yield from _fits(agent, scenes, f"objects in {len(scenes)} scenes", "composed scenes")


def _fits(agent: VisionAgent, scenes: list[Scene], of: str, title: str) -> Iterable[Figure]:
    """Mean IoU given the true box, of the filled box itself, and by phrase where a box was found."""
    given: list[float] = []
    filled: list[float] = []
    by_phrase: list[float] = []
    for scene in tqdm(scenes, desc=f"masks, {title}"):
        outlined = [index for index, mask in enumerate(scene.masks) if mask is not None and mask.any()]
        if not outlined:
            continue
        truth = [scene.masks[index] for index in outlined]
        by_box = agent.segment(image=scene.image, boxes=scene.boxes[outlined])
        for mine, true, box in zip(by_box, truth, scene.boxes[outlined], strict=True):
            assert true is not None
            given.append(_iou(mine.mask.to_array(), true))
            filled.append(_iou(_filled(box, true), true))
        found = agent.segment(sorted({scene.names[index] for index in outlined}), scene.image)
        by_phrase += _matched(scene, outlined, found)
    yield Figure(name=f"mask mIoU given the true box, {title}", value=_mean(given), count=len(given), of=of)
    yield Figure(name=f"... baseline: the filled box, {title}", value=_mean(filled), count=len(filled), of=of)
    found_of = f"of them that were found by name (box IoU of at least {_FOUND})"
    yield Figure(name=f"mask mIoU by phrase, {title}", value=_mean(by_phrase), count=len(by_phrase), of=found_of)
    missed = [0.0] * (len(given) - len(by_phrase))
    all_of = f"{of}, 0 for those that were not found by name"
    yield Figure(name=f"... of all asked for, {title}", value=_mean([*by_phrase, *missed]), count=len(given), of=all_of)


def _matched(scene: Scene, outlined: list[int], found: Segmentation) -> list[float]:
    """IoU of the masks of found boxes with the objects that they were found of, the best match first."""
    fits: list[float] = []
    names = np.array([scene.names[index] for index in outlined], dtype=np.str_)
    same_name = np.array(found.labels, dtype=np.str_)[:, None] == names
    overlap = box_iou(found.xyxy, scene.boxes[outlined]) * same_name
    while overlap.size and overlap.max() >= _FOUND:
        row, column = np.unravel_index(overlap.argmax(), overlap.shape)
        overlap[row], overlap[:, column] = 0, 0
        true = scene.masks[outlined[int(column)]]
        assert true is not None
        fits.append(_iou(found[int(row)].mask.to_array(), true))
    return fits


def _points(agent: VisionAgent, scenes: list[Scene]) -> Figure:
    """Return how often the point with the highest score of a name lies on an object of that name."""
    hits: list[bool] = []
    for scene in tqdm(scenes, desc="points"):
        crowded = {name for _, name in scene.crowds}
        for name in sorted(set(scene.names) - crowded):
            masks = [mask for mask, other in zip(scene.masks, scene.names, strict=True) if other == name]
            points = agent.point(name, scene.image)
            if not len(points):
                continue
            best = max(points, key=lambda point: point.score)
            x, y = min(int(best.x), scene.image.width - 1), min(int(best.y), scene.image.height - 1)
            hits.append(any(bool(mask[y, x]) for mask in masks if mask is not None))
    return Figure(
        name="pointing accuracy (the point with the highest score lies in a mask of its name)",
        value=_mean(hits),
        count=len(hits),
        of=f"names pointed at on {len(scenes)} COCO photos outlined completely",
    )


def _filled(box: NDArray[np.float32], like: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels of a mask's image whose middles lie in a box."""
    x0, y0, x1, y1 = (int(np.ceil(side - 0.5)) for side in box.tolist())
    mask = np.zeros_like(like)
    mask[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = True
    return mask


def _iou(mine: NDArray[np.bool_], true: NDArray[np.bool_]) -> float:
    return float((mine & true).sum() / max(1, int((mine | true).sum())))


def _mean(values: list[float] | list[bool]) -> float:
    return float(np.mean(values)) if values else 0.0
