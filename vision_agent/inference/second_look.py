"""A second look at what was found: each box stands in a line-up with other names, and "none" is an answer.

What is found for a name that is not there is most often a thing of another name, which a model that is asked for one
name at a time has no chance to say: the orange that looks like a mango. So candidates are found first, a little below
the threshold; then common names are looked for in the same image, and a candidate stays only where none of them fits
its box much better. One round for each phrase and image.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

import numpy as np
from PIL import Image
from pydantic import BaseModel

from vision_agent.errors import RouteError
from vision_agent.geometry.frames import box_iou
from vision_agent.inference.find_options import FindOptions, FindSettings
from vision_agent.inference.predictor import Predictor
from vision_agent.inference.tiled_search import SURE_IN_A_TILE, FoundT
from vision_agent.plugins.cancellation import raise_if_cancelled
from vision_agent.results.box import FROZEN
from vision_agent.results.detections import Detections
from vision_agent.results.segmentation import Segmentation

# Common things. A name that is a word of the phrase does not stand in its line-up.
_RIVALS = (
    "person dog cat bird horse cow sheep bear car bus truck train bicycle motorcycle airplane boat chair table bed tv "
    "laptop phone book clock vase bottle cup bowl fork knife banana apple orange pizza cake flower tree hat shoe bag "
    "umbrella ball kite toy lamp sign box"
).split()
_LEAST_RIVAL = 0.1  # score of a rival that is looked at
_SAME_PLACE = 0.5  # IoU of boxes of one object
# How much better a rival's score must be, for common names score higher than rare ones; and the candidates' threshold.
# Chosen on 45 composed scenes of the validation split.
_BETTER, _CANDIDATES = 1.4, 0.85


class DetectSettings(FindSettings, total=False):
    """The settings of `VisionAgent.detect` as keyword arguments; see there."""

    verify: bool


class SecondLook(BaseModel):
    """One round: the candidates of one phrase in one image, and which of them were chosen.

    Attributes:
        phrase: what was asked for.
        candidates: how many boxes there were; they are numbered from 1, best first.
        chosen: numbers of those that stay; empty for "none".
        instead: of each of the others, the name that fits it better.
    """

    model_config = FROZEN

    phrase: str
    candidates: int
    chosen: tuple[int, ...]
    instead: dict[int, str]

    @property
    def line(self) -> str:
        """The round in words."""
        if not self.candidates:
            return f"{self.phrase}: nothing to look at again"
        dropped = "".join(f"; {number} is rather {name!r}" for number, name in self.instead.items())
        kept = ", ".join(map(str, self.chosen)) or "none"
        return f"{self.phrase}: chose {kept} of {self.candidates}{dropped}"


class LookAgain(Protocol):
    """What looks again at what was found in an image; it returns what stays, and the rounds."""

    def __call__(self, image: Image.Image, found: FoundT) -> tuple[FoundT, list[SecondLook]]: ...


def look_again(predictor: Predictor, image: Image.Image, found: FoundT) -> tuple[FoundT, list[SecondLook]]:
    """Return the boxes that keep their place in a line-up of names, and one round for each phrase.

    Raises:
        RouteError: see `check_verifiable`.
    """
    check_verifiable(predictor)
    phrases = tuple(dict.fromkeys([*found.phrases, *found.labels]))
    if not found:
        empty = [SecondLook(phrase=phrase, candidates=0, chosen=(), instead={}) for phrase in phrases]
        return found, empty
    others = predictor.detect_each(tuple(_RIVALS), [image], FindOptions(_LEAST_RIVAL))[0]
    kept = np.zeros(len(found), dtype=bool)
    rounds = []
    for phrase in phrases:
        raise_if_cancelled()
        mine = [place for place, label in enumerate(found.labels) if label == phrase]
        rivals = others.filter(label=[name for name in _RIVALS if not _same_words(name, phrase)])
        instead = {}
        for number, place in enumerate(mine, start=1):
            name = _better(found, place, rivals)
            kept[place] = name is None
            if name is not None:
                instead[number] = name
        chosen = tuple(number for number in range(1, len(mine) + 1) if number not in instead)
        rounds.append(SecondLook(phrase=phrase, candidates=len(mine), chosen=chosen, instead=instead))
    return found[kept], rounds


def detect_verified(
    predictor: Predictor, phrases: tuple[str, ...], images: Sequence[Image.Image], options: FindOptions
) -> list[Detections]:
    """Return boxes in each image that were looked at again. Raises what `look_again` raises."""
    route = predictor.det_route
    if options.threshold is None and route is not None:
        least = float(route.decoder.settings.get("threshold", 0.0)) * _CANDIDATES
        options = replace(options, threshold=least, tile_threshold=options.tile_threshold or SURE_IN_A_TILE)
    found = predictor.detect_each(phrases, images, options)
    return [look_again(predictor, image, each)[0] for image, each in zip(images, found, strict=True)]


def check_verifiable(predictor: Predictor) -> None:
    """Raise RouteError for a model without a `[DET]` route, whose scores are compared."""
    if predictor.det_route is None:
        raise RouteError("`verify` compares scores of a [DET] route, and the model has none")


def looking_again(predictor: Predictor) -> LookAgain:
    """Return `look_again` of a predictor."""
    return partial(look_again, predictor)


def _better(found: Detections | Segmentation, place: int, rivals: Detections) -> str | None:
    """The name that fits a box much better than its own; None for none."""
    if not rivals:
        return None
    same = np.asarray(box_iou(found.xyxy[place][None], rivals.xyxy))[0] >= _SAME_PLACE
    scores = np.where(same, rivals.scores, 0.0)
    best = int(scores.argmax())
    return rivals.labels[best] if scores[best] >= _BETTER * found[place].score else None


def _same_words(name: str, phrase: str) -> bool:
    words = {word.rstrip("s") for word in phrase.lower().split()}
    return name in words or name.rstrip("s") in words
