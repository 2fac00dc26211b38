"""The one internal format of training images, and the augmentations that work on it.

Boxes are float xyxy in pixels of the scene's image.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ANYTHING = ""  # the name of what nobody named
_LEAST_VISIBLE = 0.35  # a cropped object keeps its box while this share of it stays in view


@dataclass(frozen=True)
class Scene:
    """An annotated image.

    Attributes:
        image: upright RGB.
        boxes: (G, 4).
        names: what each box holds.
        colours: colour name of each, None where unknown.
        crowds: regions of many objects too small or too many to mark, with their name; those of `ANYTHING` may hold an
            object or not.
        known_names: names that are marked wherever they occur: only these may be asked for as absent.
        captions: sentences about the whole image.
        masks: the pixels of each box's object, bools (H, W), None where unknown; empty where nobody asked for them.
        sure: how sure it is that each box and its name are right, 0-1; empty where people marked them all.
    """

    image: Image.Image
    boxes: NDArray[np.float32]
    names: tuple[str, ...]
    colours: tuple[str | None, ...]
    crowds: tuple[tuple[NDArray[np.float32], str], ...] = ()
    known_names: frozenset[str] = frozenset()
    captions: tuple[str, ...] = field(default=())
    masks: tuple[NDArray[np.bool_] | None, ...] = ()
    sure: tuple[float, ...] = ()

    @property
    def sureness(self) -> tuple[float, ...]:
        """`sure` of every box, 1 for those that people marked."""
        return self.sure or (1.0,) * len(self.boxes)


def flipped(scene: Scene) -> Scene:
    """Mirror left and right. Captions go, since they may name sides."""
    width = scene.image.width

    def flip(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.stack([width - boxes[..., 2], boxes[..., 1], width - boxes[..., 0], boxes[..., 3]], axis=-1)

    return replace(
        scene,
        image=scene.image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        boxes=flip(scene.boxes),
        crowds=tuple((flip(box), name) for box, name in scene.crowds),
        captions=tuple(c for c in scene.captions if "left" not in c and "right" not in c),
        masks=tuple(None if mask is None else mask[:, ::-1] for mask in scene.masks),
    )


def window(scene: Scene, frame: tuple[float, float, float, float], size: tuple[int, int]) -> Scene:
    """Return the part of a scene inside `frame` (xyxy), scaled to `size` (w, h).

    The frame may reach beyond the image: grey there.
    """
    x0, y0, x1, y1 = frame
    source, data = scene.image, frame
    if (x1 - x0) > 1.5 * size[0]:  # EXTENT does not smooth when it shrinks: reduce first
        wanted = (source.width * size[0] / (x1 - x0), source.height * size[1] / (y1 - y0))
        source = source.resize((max(1, round(wanted[0])), max(1, round(wanted[1]))), Image.Resampling.BILINEAR)
        sx, sy = source.width / scene.image.width, source.height / scene.image.height
        data = (x0 * sx, y0 * sy, x1 * sx, y1 * sy)
    image = source.transform(
        size, Image.Transform.EXTENT, data=data, resample=Image.Resampling.BILINEAR, fillcolor=(124, 124, 124)
    )
    scale = np.array([size[0] / (x1 - x0), size[1] / (y1 - y0)] * 2, dtype=np.float32)
    shift = np.array([x0, y0] * 2, dtype=np.float32)
    limit = np.array([*size, *size], dtype=np.float32)

    def moved(boxes: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        placed = (boxes - shift) * scale
        clipped = np.clip(placed, 0, limit)
        visible = _area(clipped) / np.maximum(_area(placed), 1e-6)
        big = np.minimum(clipped[:, 2] - clipped[:, 0], clipped[:, 3] - clipped[:, 1]) >= 3
        return clipped, (visible >= _LEAST_VISIBLE) & big

    boxes, keep = moved(scene.boxes)
    # What is cut away or too small to see becomes a region to ignore, so that it is neither asked nor denied.
    lost = [
        (box, scene.names[index])
        for index, (box, kept) in enumerate(zip(boxes, keep, strict=True))
        if not kept and _area(box[None])[0] > 4
    ]
    crowds = [(moved(box[None])[0][0], name) for box, name in scene.crowds]
    kept_crowds = [(box, name) for box, name in crowds if _area(box[None])[0] > 4]
    return replace(
        scene,
        image=image,
        boxes=boxes[keep],
        names=tuple(name for name, kept in zip(scene.names, keep, strict=True) if kept),
        colours=tuple(colour for colour, kept in zip(scene.colours, keep, strict=True) if kept),
        crowds=(*kept_crowds, *lost),
        captions=scene.captions if keep.all() else (),
        masks=tuple(_seen(mask, frame, size) for mask, kept in zip(scene.masks, keep, strict=False) if kept),
        sure=tuple(sure for sure, kept in zip(scene.sure, keep, strict=False) if kept),
    )


def mosaic(scenes: list[Scene], side: int, rng: np.random.Generator) -> Scene:
    """Return four scenes around a random middle, each in its quarter. What is absent must be so in all four."""
    middle_x, middle_y = (int(side * rng.uniform(0.35, 0.65)) for _ in range(2))
    canvas = Image.new("RGB", (side, side))
    top = ((0, 0, middle_x, middle_y), (middle_x, 0, side, middle_y))
    bottom = ((0, middle_y, middle_x, side), (middle_x, middle_y, side, side))
    parts = []
    for scene, (x0, y0, x1, y1) in zip(scenes, (*top, *bottom), strict=True):
        part = window(scene, random_frame(scene, rng, least=0.5), (x1 - x0, y1 - y0))
        canvas.paste(part.image, (x0, y0))
        shift = np.array([x0, y0, x0, y0], dtype=np.float32)
        crowds = tuple((box + shift, name) for box, name in part.crowds)
        parts.append(replace(part, boxes=part.boxes + shift, crowds=crowds))
    return Scene(
        image=canvas,
        boxes=np.concatenate([part.boxes for part in parts]),
        names=tuple(name for part in parts for name in part.names),
        colours=tuple(colour for part in parts for colour in part.colours),
        crowds=tuple(crowd for part in parts for crowd in part.crowds),
        known_names=frozenset.intersection(*(part.known_names for part in parts)),
        sure=tuple(sure for part in parts for sure in part.sureness),
    )


def random_frame(
    scene: Scene, rng: np.random.Generator, least: float = 0.45, most: float = 1.0
) -> tuple[float, float, float, float]:
    """Return a random crop of at least `least` of either side."""
    width, height = scene.image.size
    scale = rng.uniform(least, most)
    stretch = np.exp(rng.uniform(-0.2, 0.2))
    w, h = min(width, width * scale * stretch), min(height, height * scale / stretch)
    x0, y0 = rng.uniform(0, width - w), rng.uniform(0, height - h)
    return (x0, y0, x0 + w, y0 + h)


def _seen(
    mask: NDArray[np.bool_] | None, frame: tuple[float, float, float, float], size: tuple[int, int]
) -> NDArray[np.bool_] | None:
    """The part of a mask inside `frame`, scaled to `size` (w, h); each pixel takes the one that its middle falls on."""
    if mask is None:
        return None
    whole = Image.fromarray(mask.astype(np.uint8))
    part = whole.transform(size, Image.Transform.EXTENT, data=frame, resample=Image.Resampling.NEAREST, fillcolor=0)
    return np.asarray(part).astype(np.bool_)


def _area(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    area: NDArray[np.float32] = np.maximum(boxes[:, 2] - boxes[:, 0], 0) * np.maximum(boxes[:, 3] - boxes[:, 1], 0)
    return area
