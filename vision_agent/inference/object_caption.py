"""Captions of what was found, for a model whose own sentences tell of what is not there.

The checkpoint names the objects that it knows well (`answers.captions` in its `generation_config.json`). All are looked
for in one pass; those that are sure enough are counted, coloured and placed in plain sentences. So a caption names
little, and rests on boxes that come with it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from vision_agent.geometry.frames import box_nms
from vision_agent.inference.abilities import CaptionAbility
from vision_agent.inference.evidence import COUNT_WORDS, MIDDLE, place_of
from vision_agent.inference.nouns import listed, plural, with_article
from vision_agent.inference.object_colors import object_colours
from vision_agent.inference.predictor import Predictor
from vision_agent.results.answers import Answer
from vision_agent.results.box import Box
from vision_agent.results.detections import Detection, Detections
from vision_agent.routing.adapter import Route

_SAME_PLACE = 0.6  # boxes of two names that overlap so much are one object: the surer name counts
_MOST_COUNTED = 5  # of more, the count is not to be relied on
_MOST_IN_SHORT = 4
_MOST_PLACES = 2
_OWN_COLOUR = 0.5  # least share of an object's pixels for their colour to be told
_COLOURLESS = frozenset({"person"})  # whose clothes have colours of their own
_SHORT = re.compile(r"\b(?:short|brief(?:ly)?|one sentence|captions?|title)\b", re.IGNORECASE)
_LONG = re.compile(r"\b(?:details?|detailed|long|everything|all)\b", re.IGNORECASE)
_NOTHING = "None of the objects that I know by name is sure enough to be here."


@dataclass(frozen=True)
class _Kind:
    """The objects of one name, the surest first."""

    name: str
    found: tuple[Detection, ...]
    colour: str | None
    places: tuple[str, ...]

    @property
    def is_plural(self) -> bool:
        return len(self.found) > 1 or _is_pair(self.name)

    def counted(self, *, coloured: bool) -> str:
        """Return `"two people"`, `"a brown dog"`."""
        count = len(self.found)
        if count > _MOST_COUNTED:
            return f"many {plural(self.name)}"
        if count > 1:
            return f"{COUNT_WORDS[count]} {plural(self.name)}"
        name = f"{self.colour} {self.name}" if coloured and self.colour else self.name
        return name if _is_pair(self.name) else with_article(name)

    def placed(self) -> str:
        """Return `"the dog is on the left"`, `"the cups are at the top and in the middle"`."""
        name = plural(self.name) if len(self.found) > 1 else self.name
        where = "in many places" if len(self.places) > _MOST_PLACES else listed(list(map(_where, self.places)))
        return f"the {name} {'are' if self.is_plural else 'is'} {where}"


class ObjectCaptioner:
    """Describes an image by the objects in it.

    Args:
        routes: the loaded routes by name; masks tell the colours where there is a route for them.
        model: name of the checkpoint.
    """

    def __init__(self, routes: Mapping[str, Route], predictor: Predictor, model: str) -> None:
        self._routes, self._predictor, self._model = routes, predictor, model

    def answer(self, ability: CaptionAbility, request: str, image: Image.Image) -> Answer:
        """Return a caption: short, normal or long, as the request says. `evidence` has the boxes.

        The confidence is the mean score of the objects that it tells of: the share of them to be expected right.
        """
        length = "short" if _SHORT.search(request) else "long" if _LONG.search(request) else "normal"
        seen = told_of(self._predictor.detect(ability.names, image, ability.more), ability)
        kinds = self._kinds(seen, image, coloured=length != "short")[: _MOST_IN_SHORT if length == "short" else None]
        told = seen[np.isin(seen.labels, [kind.name for kind in kinds])]
        scores = [each.score for each in told]
        return Answer(
            text=_sentences(kinds, length) if kinds else _NOTHING,
            finish_reason="stop",
            prompt_tokens=0,
            completion_tokens=0,
            confidence=float(np.mean(scores)) if scores else 0.0,
            model=self._model,
            evidence=(told,),
        )

    def _kinds(self, seen: Detections, image: Image.Image, *, coloured: bool) -> list[_Kind]:
        """The names that were found, those that fill most of the image first."""
        by_name: dict[str, list[Detection]] = {}
        for each in seen:
            by_name.setdefault(each.label, []).append(each)
        kinds = []
        for name, found in by_name.items():
            best = max(found, key=lambda each: each.score)
            colour = self._colour(image, best.box) if coloured and len(found) == 1 and name not in _COLOURLESS else None
            places = dict.fromkeys(place_of(each.box, image.size) for each in found)
            kinds.append(_Kind(name, tuple(found), colour, tuple(places)))
        return sorted(kinds, key=lambda kind: -sum(each.box.area * each.score for each in kind.found))

    def _colour(self, image: Image.Image, box: Box) -> str | None:
        colour, share = next(iter(object_colours(self._routes, self._predictor, image, box).items()), (None, 0.0))
        return colour if share >= _OWN_COLOUR else None


def told_of(found: Detections, ability: CaptionAbility) -> Detections:
    """Return the objects that a caption tells of: those sure enough, and each place by its surest name.

    Args:
        found: by the ability's names, down to its lower score.
    """
    found = found.filter(min_score=ability.more)
    sure = {each.label for each in found.filter(min_score=ability.least)}
    found = found[np.isin(found.labels, sorted(sure))]
    return found[box_nms(found.xyxy, [each.score for each in found], _SAME_PLACE)]


def _sentences(kinds: Sequence[_Kind], length: str) -> str:
    parts = [listed([kind.counted(coloured=length != "short") for kind in kinds])]
    if length != "short":
        told = kinds if length == "long" else kinds[:2]
        parts += [kind.placed() for kind in told] if length == "long" else [listed([kind.placed() for kind in told])]
    return " ".join(f"{part[:1].upper()}{part[1:]}." for part in parts)


def _where(place: str) -> str:
    """Return `"in the middle"`, `"at the top"`, `"on the left"`, `"at the top left"`."""
    if place == MIDDLE:
        return f"in the {place}"
    return f"on the {place}" if place in ("left", "right") else f"at the {place}"


def _is_pair(name: str) -> bool:
    return name.endswith("s") and plural(name) == name
