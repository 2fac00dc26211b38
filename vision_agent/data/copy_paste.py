"""Makes annotated scenes by pasting named cut-outs on photos: exact boxes, colours, counts and look-alikes."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

from vision_agent.data.recolor import PAINTABLE, colour_of, repainted
from vision_agent.data.scene import Scene
from vision_agent.data.sources import Cutout, Cutouts

_MOST_COVERED = 0.6  # an object hidden more than this is not asked for


class CopyPaste:
    """Pastes cut-outs of one split on an image.

    Args:
        cutouts: the archive.
        split: which cut-outs, see `Cutouts.items`.
        size: (fewest, most) objects pasted.
    """

    def __init__(self, cutouts: Cutouts, split: str, size: tuple[int, int] = (2, 8)) -> None:
        self._cutouts = cutouts
        self._items = cutouts.items(split)
        self._size = size
        # Photos of objects teach more than drawings of them.
        weight = np.array([{"photo": 1.5, "render": 1.0, "stamp": 1.0}[item.kind] for item in self._items])
        self._weight = weight / weight.sum()
        self.names = frozenset(item.name for item in self._items)

    def make(self, background: Scene, rng: np.random.Generator, masks: bool = False) -> Scene:
        """Paste objects on `background`, whose own boxes stay unless they get covered.

        With `masks`, the scene has the mask of what is visible of each object.
        """
        picked = [
            self._items[index] for index in rng.choice(len(self._items), rng.integers(*self._size), p=self._weight)
        ]
        pastes: list[tuple[Cutout, str | None]] = []
        for item in picked:
            # Twins of two colours, or several of one kind: what "red X" and "three X" are learned from.
            kind = rng.random()
            if kind < 0.3:
                pair = rng.choice(len(PAINTABLE), 2, replace=False)
                pastes += [(item, PAINTABLE[index]) for index in pair]
            elif kind < 0.45:
                pastes += [(item, None)] * int(rng.integers(2, 5))
            else:
                pastes.append((item, PAINTABLE[rng.integers(len(PAINTABLE))] if rng.random() < 0.2 else None))
        rng.shuffle(pastes)
        return self._paste(background, pastes[:11], rng, masks=masks)

    def pair(self, background: Scene, colours: tuple[str, str], rng: np.random.Generator) -> Scene:
        """Return one object twice, in two colours, apart from each other."""
        item = self._items[rng.choice(len(self._items), p=self._weight)]
        return self._paste(background, [(item, colours[0]), (item, colours[1])], rng, apart=True)

    def _paste(
        self,
        background: Scene,
        pastes: list[tuple[Cutout, str | None]],
        rng: np.random.Generator,
        apart: bool = False,
        masks: bool = False,
    ) -> Scene:
        canvas = background.image.copy()
        width, height = canvas.size
        # The number of the topmost object at each pixel; 0 for the background.
        owner: NDArray[np.int16] = np.zeros((height, width), dtype=np.int16)
        areas, boxes, names, colours = [], [], [], []
        for item, paint in pastes:
            cutout = self._cutouts.open(item)
            if paint is not None:
                cutout = repainted(cutout, paint)
            cutout = _varied(cutout, min(width, height), rng)
            place = _place(cutout.size, (width, height), owner, rng, apart)
            if place is None:
                continue
            x, y = place
            alpha = np.asarray(cutout.getchannel("A")) > 110
            rows, columns = np.nonzero(alpha.any(1))[0], np.nonzero(alpha.any(0))[0]
            if len(rows) < 6 or len(columns) < 6:
                continue
            canvas.paste(cutout, (x, y), cutout)
            boxes.append([x + columns[0], y + rows[0], x + columns[-1] + 1, y + rows[-1] + 1])
            names.append(item.name)
            colours.append(colour_of(np.asarray(cutout.convert("RGB"))[alpha]))
            areas.append(int(alpha.sum()))
            owner[y : y + cutout.height, x : x + cutout.width][alpha] = len(boxes)
        seen = np.bincount(owner.ravel(), minlength=len(boxes) + 1)[1:]
        pasted = np.array(boxes, dtype=np.float32).reshape(-1, 4)
        kept = [i for i in range(len(boxes)) if seen[i] >= (1 - _MOST_COVERED) * areas[i]]
        lost = [(pasted[i], names[i]) for i in range(len(boxes)) if i not in kept]
        old_kept, old_lost = _uncovered(background, owner)
        shapes: list[NDArray[np.bool_] | None] = []
        if masks:
            shapes = [_behind(background, i, owner) for i in old_kept] + [owner == i + 1 for i in kept]
        return Scene(
            image=_weathered(canvas, rng),
            boxes=np.concatenate([background.boxes[old_kept], pasted[kept]]).astype(np.float32),
            names=tuple([background.names[i] for i in old_kept] + [names[i] for i in kept]),
            colours=tuple([background.colours[i] for i in old_kept] + [colours[i] for i in kept]),
            crowds=(*background.crowds, *lost, *((background.boxes[i], background.names[i]) for i in old_lost)),
            known_names=background.known_names | self.names,
            masks=tuple(shapes),
            sure=(*(background.sureness[i] for i in old_kept), *(1.0 for _ in kept)),
        )


def plain_background(image: Image.Image) -> Scene:
    """Return an image with unlabelled content, of which nothing may be asked."""
    return Scene(image=image, boxes=np.zeros((0, 4), dtype=np.float32), names=(), colours=())


def without_names(scene: Scene, names: frozenset[str]) -> Scene:
    """Return the scene, with `names` no longer known to be marked wherever they occur."""
    return replace(scene, known_names=scene.known_names - names)


def _varied(cutout: Image.Image, side: int, rng: np.random.Generator) -> Image.Image:
    """Random size, mirror, small turn, light."""
    if rng.random() < 0.5:
        cutout = cutout.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    longest = side * float(np.exp(rng.uniform(np.log(0.14), np.log(0.65))))
    scale = longest / max(cutout.size)
    stretch = float(np.exp(rng.uniform(-0.12, 0.12)))
    cutout = cutout.resize(
        (max(6, round(cutout.width * scale * stretch)), max(6, round(cutout.height * scale / stretch))),
        Image.Resampling.BILINEAR,
    )
    if rng.random() < 0.4:
        cutout = cutout.rotate(float(rng.uniform(-25, 25)), Image.Resampling.BILINEAR, expand=True)
    alpha = cutout.getchannel("A")
    cutout = ImageEnhance.Brightness(cutout.convert("RGB")).enhance(float(rng.uniform(0.75, 1.2)))
    if rng.random() < 0.2:
        cutout = cutout.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.4, 1.2))))
    cutout.putalpha(alpha)
    return cutout


def _place(
    size: tuple[int, int], canvas: tuple[int, int], owner: NDArray[np.int16], rng: np.random.Generator, apart: bool
) -> tuple[int, int] | None:
    """Top-left corner with little covered; None when there is no room."""
    best: tuple[float, tuple[int, int]] | None = None
    if size[0] > canvas[0] or size[1] > canvas[1]:
        return None
    for _ in range(12 if apart else 4):
        x, y = (int(rng.integers(0, canvas[axis] - size[axis] + 1)) for axis in (0, 1))
        covered = float((owner[y : y + size[1], x : x + size[0]] > 0).mean())
        if best is None or covered < best[0]:
            best = (covered, (x, y))
    assert best is not None
    if apart and best[0] > 0:
        return None
    return best[1] if best[0] < 0.7 else None


def _uncovered(scene: Scene, owner: NDArray[np.int16]) -> tuple[list[int], list[int]]:
    """Boxes of the background that stay visible, and those that pasted objects cover."""
    kept: list[int] = []
    lost: list[int] = []
    for index, box in enumerate(scene.boxes):
        x0, y0, x1, y1 = (round(float(value)) for value in box)
        part = owner[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
        (kept if part.size and float((part > 0).mean()) < 0.5 else lost).append(index)
    return kept, lost


def _behind(scene: Scene, index: int, owner: NDArray[np.int16]) -> NDArray[np.bool_] | None:
    """What is left of a background object's mask; None where it is unknown."""
    mask = scene.masks[index] if scene.masks else None
    return None if mask is None else mask & (owner == 0)


def _weathered(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Light and blur over the whole image, so that pasted edges do not give objects away."""
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.0))))
    if rng.random() < 0.5:
        image = ImageEnhance.Brightness(image).enhance(float(rng.uniform(0.8, 1.2)))
        image = ImageEnhance.Contrast(image).enhance(float(rng.uniform(0.8, 1.2)))
    return image
