"""Looks at images for a model that asks to: joins the loop of `looking` to a loaded model and its `[DET]` route."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vision_agent.generation.options import GenerationOptions
from vision_agent.geometry.frames import box_clip
from vision_agent.inference.colors import colour_shares
from vision_agent.inference.conversation import Conversation
from vision_agent.inference.decode import counted_from
from vision_agent.inference.engine import InferenceEngine
from vision_agent.inference.evidence import LOOKS
from vision_agent.inference.evidence_loop import Looked, Looker, NameColour, answer_with_evidence, turns_of
from vision_agent.inference.predictor import Predictor
from vision_agent.plugins.decoder import PromptedDecoder
from vision_agent.results.box import Box
from vision_agent.results.detections import Detections
from vision_agent.routing.adapter import Route

_ROUTE = "det"
_MASKS = "seg"


@dataclass(frozen=True)
class Sighting:
    """An answer that rests on what was found, and what was found, in the order of the looks."""

    told: Looked
    found: tuple[Detections, ...]


class Onlooker:
    """Answers questions about one image by looking first, where the model was taught to.

    Args:
        routes: the loaded routes by name; routes that are loaded later count too.
        finder: finds phrases with the same model.
    """

    def __init__(self, engine: InferenceEngine, routes: Mapping[str, Route], predictor: Predictor) -> None:
        self._engine = engine
        self._backbone = engine.backbone
        self._routes = routes
        self._predictor = predictor

    def can_look(self, conversation: Conversation) -> bool:
        """Whether the model looks by itself, and there is one image to look at and no grammar to obey."""
        route = self._routes.get(_ROUTE)
        taught = route is not None and route.spec.looks
        return taught and len(conversation.images) == 1 and conversation.constraint is None

    def wants_to_look(self, ids: list[int]) -> bool:
        """Whether an answer's tokens ask to look: `phrase[DET] look:`."""
        route = self._routes.get(_ROUTE)
        if route is None or not route.spec.looks or route.token_id not in ids:
            return False
        after = ids[ids.index(route.token_id) + 1 :]
        return self._backbone.decode_text(after).strip().startswith(LOOKS)

    def answer(self, conversation: Conversation, options: GenerationOptions) -> Sighting:
        """Words, and the boxes that they rest on.

        Raises:
            InputError: a prompt that does not fit the model's context.
        """
        route = self._routes[_ROUTE]
        (image,) = conversation.images
        least = counted_from(route) or 0.0
        presence, maybe = (route.decoder.settings.get(name) for name in ("presence", "maybe"))
        found: list[Detections] = []

        def find(phrase: str, threshold: float) -> Detections:
            everything = self._predictor.detect((phrase,), image, threshold)
            found.append(everything.filter(min_score=least) or everything[:1])
            return everything

        with self._engine.lock, torch.inference_mode():
            reading = self._engine.reading(conversation, options)
            others = [each.token_id for name, each in self._routes.items() if name != _ROUTE]
            write = turns_of(self._backbone, reading, options, others, self._engine.prefixes)
            look = Looker(find, self._colour_namer(image), least, presence, maybe)
            told = answer_with_evidence(write, look, self._backbone, route.token_id)
        return Sighting(told, tuple(found))

    def _colour_namer(self, image: Image.Image) -> NameColour:
        """Names the colour of most of a thing's pixels: those of its mask, where a `[SEG]` route takes boxes."""
        pixels_HWC = np.asarray(image)

        def name(box: Box) -> str | None:
            inside = np.round(box_clip(np.array(box.xyxy), image.size)).astype(int)
            x0, y0, x1, y1 = inside.tolist()
            if x0 >= x1 or y0 >= y1:
                return None
            thing_HW = self._mask(image, inside)[y0:y1, x0:x1]
            return next(iter(colour_shares(pixels_HWC[y0:y1, x0:x1][thing_HW])), None)

        return name

    def _mask(self, image: Image.Image, box: NDArray[np.int_]) -> NDArray[np.bool_]:
        """Bools (H, W) of the thing in a box; without masks, of the middle of the box."""
        masks = self._routes.get(_MASKS)
        if masks is not None and isinstance(masks.decoder, PromptedDecoder):
            (found,) = self._predictor.segment_prompts(image, [box.tolist()], None, None)
            return found.mask.to_array()
        middle_HW = np.zeros((image.height, image.width), dtype=bool)
        x0, y0, x1, y1 = box.tolist()
        margin_x, margin_y = (x1 - x0) // 5, (y1 - y0) // 5
        middle_HW[y0 + margin_y : y1 - margin_y, x0 + margin_x : x1 - margin_x] = True
        return middle_HW
