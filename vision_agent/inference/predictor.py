"""Finds things by phrase: routes that are forced, and grounding text where a checkpoint has no route for it.

A forced route needs no generation: the phrase and the routing token are given, and their states are read.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from PIL import Image

from vision_agent.errors import InputError, RouteError, bad_argument
from vision_agent.generation.options import GenerationOptions
from vision_agent.geometry.frames import box_area, box_clip
from vision_agent.images.loading import ImageLimits
from vision_agent.inference.conversation import Conversation
from vision_agent.inference.decode import _wrong_result, counted_from, prepared
from vision_agent.inference.emitted_routes import read_emitted_route
from vision_agent.inference.engine import InferenceEngine
from vision_agent.model.devices import input_device
from vision_agent.plugins.decoder import DecodeRequest, PromptedDecoder, WrittenAnswer
from vision_agent.plugins.registry import load_segmenter, load_text_decoder
from vision_agent.plugins.segmenter import Segmenter
from vision_agent.results.detections import Detections
from vision_agent.results.points import Count, Points
from vision_agent.results.segmentation import Segmentation
from vision_agent.routing.adapter import Route
from vision_agent.routing.policy import find_route
from vision_agent.routing.states import read_forced

_GROUNDING_TOKENS = 512  # most tokens of a grounded answer: some thirty boxes


class Predictor:
    """Finds by phrase with one model.

    Args:
        routes: the loaded routes by name; routes that are loaded later count too.
    """

    def __init__(self, engine: InferenceEngine, routes: Mapping[str, Route]) -> None:
        self._engine = engine
        self._backbone = engine.backbone
        self._routes = routes
        self._segmenters: dict[str, Segmenter] = {}

    def route(self, name: str) -> Route:
        """The loaded route of that name. Raises RouteError where there is none."""
        return find_route(self._routes, name, self._backbone.name)

    def forced(self, route: Route, phrases: tuple[str, ...], image: Image.Image, threshold: float | None) -> Any:
        """What a route's decoder gives for phrases on an image; the model is asked where it was trained to be."""
        if route.decoder.request(phrases[0]) is not None:
            return self._asked_for(route, phrases, image, threshold)
        with self._engine.lock, torch.inference_mode():
            seen = self._engine.see(image)
            encoded = seen.encoded
            states_KNC = read_forced(self._backbone, route, encoded.tokens_TC, [len(encoded.tokens_TC)], phrases)
            request = DecodeRequest(phrases, encoded.grid, self._backbone.name, threshold)
            return route.decoder.decode(states_KNC.float(), prepared(seen, route), request)

    def _asked_for(self, route: Route, phrases: tuple[str, ...], image: Image.Image, threshold: float | None) -> Any:
        asked = read_emitted_route(self._engine, self._routes, route, phrases, [image])
        (seen,) = asked.seen
        request = DecodeRequest(asked.phrases, seen.encoded.grid, self._backbone.name, threshold, asked.scores)
        with self._engine.lock, torch.inference_mode():
            found = route.decoder.decode(asked.states_KNC, prepared(seen, route), request)
        # Phrases that the model took no route for were asked all the same.
        return found.model_copy(update={"phrases": phrases}) if hasattr(found, "phrases") else found

    def detect(self, phrases: tuple[str, ...], image: Image.Image, threshold: float | None) -> Detections:
        """Boxes, by the `[DET]` route where there is one."""
        if "det" not in self._routes:
            return self._ground(phrases, image, threshold)
        route = self._routes["det"]
        found = self.forced(route, phrases, image, threshold)
        if not isinstance(found, Detections):
            raise _wrong_result(route, found, "Detections")
        return found

    def count(self, phrase: str, image: Image.Image, threshold: float | None) -> Count:
        """Boxes, and their number: by default of those that the `[DET]` route counts.

        Where `detect` finds something and nothing of it is sure enough to be counted, there is one thing at least.
        """
        evidence = self.detect((phrase,), image, threshold)
        if threshold is None and "det" in self._routes:
            evidence = evidence.filter(min_score=counted_from(self._routes["det"]) or 0.0) or evidence[:1]
        return Count(count=len(evidence), phrase=phrase, evidence=evidence)

    def segment(self, phrases: tuple[str, ...], image: Image.Image, threshold: float | None) -> Segmentation:
        """Masks, by the `[SEG]` route. Raises RouteError where there is none."""
        route = self.route("seg")
        found = self.forced(route, phrases, image, threshold)
        if not isinstance(found, Segmentation):
            raise _wrong_result(route, found, "a Segmentation")
        return found

    def segment_prompts(
        self,
        image: Image.Image,
        boxes: npt.ArrayLike | None,
        points: npt.ArrayLike | None,
        point_labels: npt.ArrayLike | None,
    ) -> Segmentation:
        """Masks of boxes, or of the things that points lie on, by the decoder of the `[SEG]` route.

        Raises:
            RouteError: no such route, or its decoder takes words alone.
            InputError: both boxes and points, and what the decoder refuses.
        """
        route = self.route("seg")
        decoder = route.decoder
        if not isinstance(decoder, PromptedDecoder):
            raise RouteError(f"the decoder {route.spec.decoder!r} of {route.spec.token!r} takes no boxes and points")
        if boxes is not None and points is not None:
            raise InputError("`boxes` and `points` together need `segmenter=`; the model's own route takes one of them")
        if points is None and point_labels is not None:
            raise InputError(bad_argument("point_labels", "left out where there are no `points`", point_labels))
        with self._engine.lock, torch.inference_mode():
            seen = self._engine.see(image)
            request = DecodeRequest((), seen.encoded.grid, self._backbone.name)
            if points is not None:
                found = decoder.decode_points(points, prepared(seen, route), request, point_labels)
            else:
                found = decoder.decode_boxes(boxes, prepared(seen, route), request)
        if not isinstance(found, Segmentation):
            raise _wrong_result(route, found, "a Segmentation")
        return found

    def segment_by(
        self,
        segmenter: Segmenter | str | Path,
        phrases: tuple[str, ...],
        image: Image.Image,
        threshold: float | None,
        limits: ImageLimits,
    ) -> Segmentation:
        """Masks by a segmenter, one for each box that `detect` finds."""
        segmenter = self.segmenter(segmenter)
        found = self.detect(phrases, image, threshold)
        found = found[box_area(box_clip(found.xyxy, found.image_size)) > 0]
        if not found:
            return Segmentation.empty(image.size, self._backbone.name, phrases, decoder=segmenter.name)
        return segmenter.segment(
            image,
            boxes=[each.box.xyxy for each in found],
            labels=found.labels,
            scores=[each.score for each in found],
            phrases=phrases,
            model=self._backbone.name,
            limits=limits,
        )

    def point(self, phrases: tuple[str, ...], image: Image.Image, threshold: float | None) -> Points:
        """Places inside things: of their masks where there is a `[SEG]` route, of their boxes otherwise."""
        if "seg" in self._routes:
            return Points.from_segmentation(self.segment(phrases, image, threshold))
        return Points.from_detections(self.detect(phrases, image, threshold))

    def segmenter(self, segmenter: Segmenter | str | Path) -> Segmenter:
        """A segmenter; one that is named by path is loaded once."""
        if not isinstance(segmenter, str | Path):
            return segmenter
        key = str(segmenter)
        with self._engine.lock:
            if key not in self._segmenters:
                self._segmenters[key] = load_segmenter("sam").from_pretrained(
                    segmenter, input_device(self._backbone.model)
                )
        return self._segmenters[key]

    def _ground(self, phrases: tuple[str, ...], image: Image.Image, threshold: float | None) -> Detections:
        """Boxes by the model's own grounding text, for checkpoints without a `[DET]` route."""
        decoder = load_text_decoder("grounding")(self._backbone)
        conversations = [
            Conversation.build(decoder.request(phrase), [image], constraint=decoder.constraint(phrase))
            for phrase in phrases
        ]
        # A list of boxes that is cut off still holds the boxes before the cut.
        room = min(self._engine.room(conversation) for conversation in conversations)
        options = GenerationOptions(max_new_tokens=max(1, min(_GROUNDING_TOKENS, room)))
        tokens_of_routes = [route.token_id for route in self._routes.values()]
        written, seen = self._engine.write(conversations, options, tokens_of_routes)
        answers = []
        for ids, logprobs in zip(written.answers, written.logprobs, strict=True):
            said = [(token, p) for token, p in zip(ids, logprobs, strict=True) if token not in self._backbone.end_ids]
            tokens, probabilities = zip(*said, strict=True) if said else ((), ())
            answers.append(WrittenAnswer(self._backbone.decode_text(tokens), tuple(tokens), tuple(probabilities)))
        found: Detections = decoder.decode(
            answers, DecodeRequest(phrases, seen[0][0].encoded.grid, self._backbone.name, threshold)
        )
        return found
