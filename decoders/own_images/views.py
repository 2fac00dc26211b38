"""What a training step sees of annotated images: parts of them, mirrored, in other light, several in one.

Objects that the starting adapter finds beside those that a user marked stand in the scenes too, as sure as it was, so
that nothing teaches it that they are background.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vision_agent.data.annotations.annotated import AnnotatedImage
from vision_agent.data.samples import jittered
from vision_agent.data.scene import ANYTHING, Scene, flipped, mosaic, random_frame, window
from vision_agent.geometry.frames import box_iou
from vision_agent.inference.nouns import plural, with_article
from vision_agent.model.backbone import EncodedImage
from vision_agent.plugins.decoder import BoxTargets

from ..box import BoxDecoder

_MOST_NAMES = 12  # asked of one view
_OTHER_WORDING = 0.25  # how often a name is asked for in another wording
_SURE = 0.5  # what looks less like an object may be one or not
_DOUBTFUL = 0.2  # what looks less like one is none
_SAME_IOU = 0.5  # boxes of more overlap are of one object
_MOST_FOUND = 60


@dataclass(frozen=True)
class Found:
    """What the starting adapter took for objects on an image beside the marked ones: (n, 4) pixels, and how sure."""

    boxes: NDArray[np.float32]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class View:
    """One sample: pixels (S, S, 3) uint8, its phrases, the truth, and masks (S, S) of the objects, None if unknown."""

    pixels: Tensor
    phrases: tuple[str, ...]
    targets: BoxTargets
    masks: tuple[Tensor | None, ...] = ()


def wordings(name: str) -> tuple[str, ...]:
    """Return how a name is asked for: as the set has it, in plain words, with an article, and in the plural."""
    plain = " ".join(name.replace("_", " ").lower().split())
    return tuple(dict.fromkeys((plain, name, with_article(plain), plural(plain))))


def find_others(decoder: BoxDecoder, annotated: AnnotatedImage, encoded: EncodedImage) -> Found:
    """Return what a box decoder takes for an object, whatever it is called, and nobody marked."""
    prepared = decoder.prepare(encoded.features.float())
    scores = torch.sigmoid(prepared.objectness_BL[0])
    best_T, cells_T = scores.topk(min(10 * _MOST_FOUND, len(scores)))
    unit_T4 = prepared.boxes_BL4[0][cells_T].clamp(0, 1).double().cpu().numpy()
    boxes = encoded.grid.convert(unit_T4, "unit", "image")
    taken = np.array([each.xyxy for each in annotated.objects], dtype=np.float64).reshape(-1, 4)
    marked = len(taken)
    kept: list[float] = []
    for place, score in enumerate(best_T.tolist()):
        if score < _DOUBTFUL or len(kept) == _MOST_FOUND:
            break
        if box_iou(boxes[place][None], taken).max(initial=0.0) < _SAME_IOU:
            taken = np.concatenate([taken, boxes[place][None]])
            kept.append(score)
    return Found(taken[marked:].astype(np.float32), tuple(kept))


def scene_of(annotated: AnnotatedImage, image: Image.Image, found: Found | None, masks: bool = False) -> Scene:
    """Return an image's own objects, and what was found beside them."""
    marked = [each for each in annotated.objects if not each.crowd]
    boxes = [each.xyxy for each in marked]
    crowds = [(np.array(each.xyxy, dtype=np.float32), each.name) for each in annotated.objects if each.crowd]
    names, sure = [each.name for each in marked], [1.0] * len(marked)
    shapes = [each.mask(annotated.size) if masks else None for each in marked]
    for box, score in [] if found is None else zip(found.boxes, found.scores, strict=True):
        if score < _SURE:
            crowds.append((box, ANYTHING))
        else:
            boxes.append(tuple(box.tolist()))
            names.append(ANYTHING)
            sure.append(score)
            shapes.append(None)
    return Scene(
        image=image,
        boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        names=tuple(names),
        colours=(None,) * len(names),
        crowds=tuple(crowds),
        masks=tuple(shapes) if masks else (),
        sure=tuple(sure),
    )


def view_of(scenes: Sequence[Scene], side: int, rng: np.random.Generator, flip: bool) -> Scene:
    """Return the first scene, or a part of it, larger or smaller; sometimes four scenes in one."""
    scene, kind = scenes[0], rng.random()
    if kind < 0.15 and not scene.masks:
        scene = mosaic(list(scenes), side, rng)
    elif kind < 0.65:
        scene = window(scene, random_frame(scene, rng, least=0.5), (side, side))
    elif kind < 0.8:
        width, height = scene.image.size
        grow = rng.uniform(1.1, 1.6)
        x0, y0 = -rng.uniform(0, width * (grow - 1)), -rng.uniform(0, height * (grow - 1))
        scene = window(scene, (x0, y0, x0 + width * grow, y0 + height * grow), (side, side))
    else:
        scene = window(scene, (0, 0, *scene.image.size), (side, side))
    if flip and rng.random() < 0.5:
        scene = flipped(scene)
    return replace(scene, image=jittered(scene.image, rng))


def asked_view(scene: Scene, names: Sequence[str], rng: np.random.Generator) -> View:
    """Ask a scene of the training's size for all names of the set, or for those that it has and some others."""
    present = [name for name in names if name in scene.names]
    absent = [name for name in names if name not in scene.names]
    rng.shuffle(present)
    rng.shuffle(absent)
    asked = [*present, *absent][: max(_MOST_NAMES, min(len(present), 2 * _MOST_NAMES))]
    phrases = []
    for name in asked:
        others = wordings(name)
        phrases.append(others[rng.integers(1, len(others))] if rng.random() < _OTHER_WORDING else others[0])
    side = scene.image.width
    ignored = [(box / side, asked.index(name)) for box, name in scene.crowds if name in asked]
    doubtful = [box / side for box, name in scene.crowds if name == ANYTHING]
    belongs = np.array([[name == other for other in scene.names] for name in asked], dtype=np.bool_)
    targets = BoxTargets(
        boxes_G4=_boxes([box / side for box in scene.boxes]),
        belongs_KG=torch.from_numpy(belongs.reshape(len(asked), len(scene.names))),
        ignored_M4=_boxes([box for box, _ in ignored]),
        ignored_phrase_M=torch.tensor([phrase for _, phrase in ignored], dtype=torch.long),
        sure_G=torch.tensor(scene.sureness, dtype=torch.float32),
        doubtful_D4=_boxes(doubtful),
    )
    masks = tuple(None if mask is None else torch.from_numpy(np.array(mask)) for mask in scene.masks)
    return View(torch.from_numpy(np.array(scene.image)), tuple(phrases), targets, masks)


def _boxes(boxes: Sequence[object]) -> Tensor:
    return torch.from_numpy(np.array(boxes, dtype=np.float32).reshape(-1, 4))


class Views:
    """Sample number -> view; it follows from the seed and the number alone.

    Args:
        images: of the training part.
        found: what the starting adapter found on each, by file.
        names: of the set.
        side: of the views, in pixels.
    """

    def __init__(
        self,
        images: Sequence[AnnotatedImage],
        found: Mapping[str, Found],
        names: Sequence[str],
        side: int,
        seed: int,
        *,
        flip: bool = True,
        masks: bool = False,
    ) -> None:
        self._images, self._found, self._names, self._side = images, found, names, side
        self._seed, self._flip, self._masks = seed, flip, masks

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, number: int) -> View:
        rng = np.random.default_rng((self._seed, int(self._masks), number))
        # Every image once in each round.
        turn, place = divmod(number, len(self._images))
        order = np.random.default_rng((self._seed, turn)).permutation(len(self._images))
        chosen = [int(order[place]), *rng.integers(len(self._images), size=3).tolist()]
        scenes = [self._scene(index) for index in (chosen[:1] if self._masks else chosen)]
        return asked_view(view_of(scenes, self._side, rng, self._flip), self._names, rng)

    def _scene(self, index: int) -> Scene:
        annotated = self._images[index]
        image = annotated.load()
        return scene_of(annotated, image, self._found.get(annotated.file), self._masks)
