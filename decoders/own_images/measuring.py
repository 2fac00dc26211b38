"""How well names are found: AP50 by name, before and after."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from vision_agent.agent import VisionAgent
from vision_agent.data.annotations.annotated import AnnotatedImage
from vision_agent.evaluate.average_precision import Question, average_precision
from vision_agent.geometry.frames import TileGrid, box_iou
from vision_agent.geometry.rle import RunLengths
from vision_agent.geometry.rle import mask_iou as pairwise_mask_iou
from vision_agent.model.backbone import Backbone
from vision_agent.plugins.decoder import DecodeRequest, DenseFeatures
from vision_agent.results.detections import Detections
from vision_agent.routing.adapter import Route

from ..box import BoxDecoder
from .phrase_states import read_states
from .views import wordings

LEAST_SCORE = 0.02
_MOST_EXPRESSIONS = 16  # asked at once
_MOST_WATCHED = 100  # validation images that the run is measured by while it goes on

Find = Callable[[Image.Image, list[str]], Detections]


class NameFigures(BaseModel):
    """How well names are found.

    Attributes:
        ap50: the mean over the names, of average precision at an IoU of 0.5.
        by_name: of each name that is marked somewhere.
        found, wrong, missed: boxes at the adapter's own least score: on an object of the name, on none, objects left.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ap50: float
    by_name: dict[str, float]
    found: int = 0
    wrong: int = 0
    missed: int = 0


def measure(find: Find, images: Sequence[AnnotatedImage], names: Sequence[str], usual: float) -> NameFigures:
    """Ask every image for every name, as users do, and compare with what is marked.

    Args:
        find: an image and phrases -> boxes down to `LEAST_SCORE`, labelled by phrase.
        usual: the least score of boxes that are counted.
    """
    asked = {name: wordings(name)[0] for name in names}
    questions: list[Question] = []
    counts = np.zeros(3, dtype=int)
    for number, annotated in enumerate(images):
        found = find(annotated.load(), list(asked.values()))
        questions += _questions(number, annotated, asked, found)
        counts += _counted(annotated, asked, found.filter(min_score=usual))
    return _figures(questions, counts.tolist())


def expressions_found(find: Find, images: Sequence[AnnotatedImage]) -> float | None:
    """Return the share of expressions whose surest box is the object that is meant, as RefCOCO counts; None for none.

    Args:
        find: an image and phrases -> boxes, labelled by phrase.
    """
    right: list[bool] = []
    for annotated in images:
        objects = [each for each in annotated.objects if not each.crowd]
        asked = sorted({name for each in objects for name in each.names})
        if not asked:
            continue
        loaded = annotated.load()
        for begin in range(0, len(asked), _MOST_EXPRESSIONS):
            some = asked[begin : begin + _MOST_EXPRESSIONS]
            found = find(loaded, some)
            for name in some:
                boxes = _labelled(found, name)
                true = np.array([each.xyxy for each in objects if name in each.names], dtype=np.float32)
                surest = boxes.xyxy[int(np.argmax(boxes.scores))] if len(boxes) else None
                right.append(surest is not None and bool(box_iou(surest[None], true).max() >= 0.5))
    return sum(right) / len(right) if right else None


@dataclass(frozen=True)
class _Watched:
    annotated: AnnotatedImage
    maps: tuple[Tensor, ...]
    grid: TileGrid
    states_KNC: Tensor


class Watch:
    """Validation images whose features are read once, to measure a decoder by while it learns.

    Args:
        images: at most a hundred of them are taken.
    """

    def __init__(
        self, backbone: Backbone, route: Route, images: Sequence[AnnotatedImage], names: Sequence[str]
    ) -> None:
        self._asked = {name: wordings(name)[0] for name in names}
        self._model, self._device = backbone.name, backbone.device
        self._watched = []
        for annotated in images[:_MOST_WATCHED]:
            encoded = backbone.encode_image(annotated.load())
            states = read_states(backbone, route, encoded.tokens_TC.clone(), list(self._asked.values()))
            maps = tuple(each.to("cpu", torch.float16) for each in encoded.features.maps)
            self._watched.append(_Watched(annotated, maps, encoded.grid, states))

    @torch.no_grad()
    def ap50(self, decoder: BoxDecoder) -> float:
        """Return the mean AP50 of the names."""
        questions = []
        for number, each in enumerate(self._watched):
            maps = tuple(map_BCHW.to(self._device, torch.float32) for map_BCHW in each.maps)
            request = DecodeRequest(tuple(self._asked.values()), each.grid, self._model, LEAST_SCORE)
            prepared = decoder.prepare(DenseFeatures(maps))
            found = decoder.decode(each.states_KNC.to(self._device), prepared, request)
            questions += _questions(number, each.annotated, self._asked, found)
        return average_precision(questions)[0]


def agreed(
    find: Find, start: Sequence[Detections], images: Sequence[AnnotatedImage], names: Sequence[str]
) -> float | None:
    """Return AP50 against what the starting adapter found on the same images; None where it found nothing.

    This is a set that needs no marking: it says whether old names are still found where they were.
    """
    questions = []
    for number, (annotated, before) in enumerate(zip(images, start, strict=True)):
        if not before:
            continue
        found = find(annotated.load(), list(names))
        for name in dict.fromkeys(before.labels):
            truth = before[[label == name for label in before.labels]].xyxy
            questions.append(Question(number, name, truth, _none(), _labelled(found, name)))
    return average_precision(questions)[0] if questions else None


def mask_iou(agent: VisionAgent, images: Sequence[AnnotatedImage]) -> float | None:
    """Return the mean IoU of true outlines and of the masks of their boxes; None where none is known."""
    values: list[float] = []
    for annotated in images:
        marked = [each for each in annotated.objects if each.outlined and not each.crowd]
        if not marked:
            continue
        found = agent.segment(image=annotated.load(), boxes=[each.xyxy for each in marked])
        for each, segment in zip(marked, found, strict=True):
            true = each.mask(annotated.size)
            if true is not None and true.any():
                made = RunLengths.from_text(segment.mask.counts, segment.mask.size)
                values.append(float(pairwise_mask_iou([RunLengths.from_mask(true)], [made])[0, 0]))
    return sum(values) / len(values) if values else None


def _questions(number: int, annotated: AnnotatedImage, asked: dict[str, str], found: Detections) -> list[Question]:
    questions = []
    for name, phrase in asked.items():
        boxes, crowds = _truth(annotated, name, False), _truth(annotated, name, True)
        questions.append(Question(number, name, boxes, crowds, _labelled(found, phrase)))
    return questions


def _figures(questions: Sequence[Question], counts: Sequence[int]) -> NameFigures:
    marked = sorted({each.category for each in questions if len(each.truth)})
    by_name = {name: average_precision([each for each in questions if each.category == name])[0] for name in marked}
    mean = sum(by_name.values()) / max(1, len(by_name))
    return NameFigures(ap50=mean, by_name=by_name, found=counts[0], wrong=counts[1], missed=counts[2])


def _counted(annotated: AnnotatedImage, asked: dict[str, str], found: Detections) -> list[int]:
    """Boxes on an object of their name, on none, and objects without a box, at the usual least score."""
    right = wrong = missed = 0
    for name, phrase in asked.items():
        boxes, crowds = _labelled(found, phrase).xyxy, _truth(annotated, name, True)
        left = [*_truth(annotated, name, False)]
        for box in boxes:
            overlaps = box_iou(box[None], np.array(left).reshape(-1, 4))[0]
            if overlaps.max(initial=0.0) >= 0.5:
                left.pop(int(overlaps.argmax()))
                right += 1
            elif box_iou(box[None], crowds).max(initial=0.0) < 0.5:
                wrong += 1
        missed += len(left)
    return [right, wrong, missed]


def _labelled(found: Detections, phrase: str) -> Detections:
    return found[[label == phrase for label in found.labels]] if len(found) else found


def _truth(annotated: AnnotatedImage, name: str, crowd: bool) -> NDArray[np.float32]:
    held = [each.xyxy for each in annotated.objects if each.name == name and each.crowd == crowd]
    return np.array(held, dtype=np.float32).reshape(-1, 4)


def _none() -> NDArray[np.float32]:
    return np.zeros((0, 4), dtype=np.float32)
