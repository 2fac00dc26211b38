"""Finds objects by phrase: by a forced route, or by grounding text where a checkpoint has no route for it.

A forced route needs no generation: the phrase and the routing token are given, and their states are read.
"""

from collections.abc import Mapping, Sequence
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
from vision_agent.inference.decode import checked, counted_from, decode, forced_states, overflow_told, prepared
from vision_agent.inference.detail import Detail
from vision_agent.inference.emitted_routes import read_emitted_route
from vision_agent.inference.engine import InferenceEngine
from vision_agent.inference.find_options import FindOptions
from vision_agent.inference.image_cache import CachedImage
from vision_agent.inference.tile_layout import tiles_of
from vision_agent.inference.tiled_search import SURE_IN_A_TILE, FoundT, search
from vision_agent.model.devices import input_device
from vision_agent.plugins.cancellation import raise_if_cancelled
from vision_agent.plugins.decoder import DecodeRequest, PromptedDecoder, WrittenAnswer
from vision_agent.plugins.registry import load_segmenter, load_text_decoder
from vision_agent.plugins.segmenter import Segmenter
from vision_agent.results.detections import Detections
from vision_agent.results.points import Count, Points
from vision_agent.results.segmentation import Segmentation
from vision_agent.routing.adapter import Route
from vision_agent.routing.policy import find_route

_GROUNDING_TOKENS = 512  # most tokens of a grounded answer: some thirty boxes
_GROUNDED_AT_ONCE = 8  # answers that are written as one batch


class Predictor:
    """Finds objects by phrase with one model.

    Args:
        routes: the loaded routes by name; routes that are loaded later count too.
    """

    def __init__(self, engine: InferenceEngine, routes: Mapping[str, Route]) -> None:
        self._engine = engine
        self._backbone = engine.backbone
        self._routes = routes
        self._segmenters: dict[str, Segmenter] = {}

    def route(self, name: str) -> Route:
        """Return the loaded route of that name. Raises RouteError where there is none."""
        return find_route(self._routes, name, self._backbone.name)

    @property
    def det_route(self) -> Route | None:
        """The loaded `[DET]` route; None where boxes are written as text."""
        return self._routes.get("det")

    def run_route(
        self,
        route: Route,
        phrases: tuple[str, ...],
        image: Image.Image | CachedImage,
        threshold: float | None,
        only_known: bool = True,
        detail: Detail | None = None,
    ) -> Any:
        """Return what a route's decoder gives for phrases on an image, which is not looked at in tiles.

        The routing token is forced, or, where the model was trained to write it, asked for in the decoder's words.
        `only_known`, `detail`: see `decode`.
        """
        if route.decoder.request(phrases[0]) is None:
            read = forced_states(self._engine, route, phrases, [image])
        else:
            shown = image.image if isinstance(image, CachedImage) else image
            read = read_emitted_route(self._engine, self._routes, route, phrases, [shown])
        request = read.request(self._backbone.name, threshold)
        found = decode(self._engine, route, read, request, only_known=only_known, detail=detail)
        # Phrases that the model wrote no token for were asked for all the same.
        return found.model_copy(update={"phrases": phrases}) if hasattr(found, "phrases") else found

    def detect(
        self, phrases: tuple[str, ...], image: Image.Image, threshold: float | None, only_known: bool = True
    ) -> Detections:
        """Return boxes, for parts of the package that look for evidence: what only a tile shows has to be sure."""
        options = FindOptions(threshold, only_known, tile_threshold=SURE_IN_A_TILE)
        return self.detect_each(phrases, [image], options)[0]

    def detect_each(
        self, phrases: tuple[str, ...], images: Sequence[Image.Image], options: FindOptions
    ) -> list[Detections]:
        """Return boxes in each image, by the `[DET]` route where there is one."""
        if "det" not in self._routes:
            return search(images, options, self._backbone, lambda views, _: self._ground(phrases, views, options))
        return self._each(self._routes["det"], phrases, images, options, Detections)

    def count_each(self, phrase: str, images: Sequence[Image.Image], options: FindOptions) -> list[Count]:
        """Return boxes in each image and their number: by default of those that the `[DET]` route counts.

        Where `detect` finds something and no box reaches the score that is counted, the best one is counted.
        """
        counts = []
        for evidence in self.detect_each((phrase,), images, options):
            if options.threshold is None and "det" in self._routes:
                evidence = evidence.filter(min_score=counted_from(self._routes["det"]) or 0.0) or evidence[:1]
            counts.append(Count(count=len(evidence), phrase=phrase, evidence=evidence))
        return counts

    def segment_each(
        self, phrases: tuple[str, ...], images: Sequence[Image.Image], options: FindOptions
    ) -> list[Segmentation]:
        """Return masks in each image, by the `[SEG]` route. Raises RouteError where there is none."""
        return self._each(self.route("seg"), phrases, images, options, Segmentation)

    def point_each(self, phrases: tuple[str, ...], images: Sequence[Image.Image], options: FindOptions) -> list[Points]:
        """Return a point inside each object: in its mask where there is a `[SEG]` route, else in its box."""
        if "seg" in self._routes:
            return [Points.from_segmentation(found) for found in self.segment_each(phrases, images, options)]
        return [Points.from_detections(found) for found in self.detect_each(phrases, images, options)]

    def with_tiles(self, route: Route, found: Any, phrases: tuple[str, ...], image: Image.Image) -> Any:
        """Return what a route found in an image; of a much larger one than the model's view, what its tiles show too.

        Results of other kinds than boxes and masks stay as they are.
        """
        if not isinstance(found, Detections | Segmentation):
            return found
        if not tiles_of(image.size, None, self._backbone.grid_for, self._backbone.tiling.max_tiles):
            return found.seen_in(image)
        options = FindOptions()
        if isinstance(found, Detections):
            return self._each(route, phrases, [image], options, Detections)[0]
        return self._each(route, phrases, [image], options, Segmentation)[0]

    def segment_prompts(
        self,
        image: Image.Image,
        boxes: npt.ArrayLike | None,
        points: npt.ArrayLike | None,
        point_labels: npt.ArrayLike | None,
    ) -> Segmentation:
        """Return masks of boxes, or of the objects that points lie on, by the decoder of the `[SEG]` route.

        Raises:
            RouteError: no such route, or its decoder takes words alone.
            InputError: both boxes and points, and what the decoder refuses.
            AnswerError: the image's features are NaN or infinite.
        """
        route = self.route("seg")
        decoder = route.decoder
        if not isinstance(decoder, PromptedDecoder):
            raise RouteError(f"the decoder {route.spec.decoder!r} of {route.spec.token!r} takes no boxes and points")
        if boxes is not None and points is not None:
            raise InputError("`boxes` and `points` together need `segmenter=`; the model's own route takes one of them")
        if points is None and point_labels is not None:
            raise InputError(bad_argument("point_labels", "left out where there are no `points`", point_labels))

        @torch.inference_mode()
        def decoded() -> object:
            raise_if_cancelled()
            cached = self._engine.encode_image(image)
            raise_if_cancelled()
            request = DecodeRequest((), cached.encoded.grid, self._backbone.name)
            made = prepared(self._engine, cached, route, "low")
            with overflow_told(self._backbone):
                if points is not None:
                    return decoder.decode_points(points, made, request, point_labels)
                return decoder.decode_boxes(boxes, made, request)

        return checked(route, self._engine.run(decoded), Segmentation)

    def segment_by(
        self,
        segmenter: Segmenter | str | Path,
        phrases: tuple[str, ...],
        image: Image.Image,
        options: FindOptions,
        limits: ImageLimits,
    ) -> Segmentation:
        """Return masks by a segmenter, one for each box that `detect` finds."""
        segmenter = self.segmenter(segmenter)
        (found,) = self.detect_each(phrases, [image], options)
        raise_if_cancelled()
        found = found[box_area(box_clip(found.xyxy, found.image_size)) > 0]
        if not found:
            empty = Segmentation.empty(image.size, self._backbone.name, phrases, decoder=segmenter.name)
            return empty.model_copy(update={"unknown_words": found.unknown_words, "tiles": found.tiles})
        segmented = segmenter.segment(
            image,
            boxes=[each.box.xyxy for each in found],
            labels=found.labels,
            scores=[each.score for each in found],
            phrases=phrases,
            model=self._backbone.name,
            limits=limits,
        )
        told = {"unknown_words": found.unknown_words, "tiles": found.tiles}
        return segmented.model_copy(update=told).seen_in(found.seen_image)

    def segmenter(self, segmenter: Segmenter | str | Path) -> Segmenter:
        """Return a segmenter; one that is named by path is loaded once."""
        if not isinstance(segmenter, str | Path):
            return segmenter
        key = str(segmenter)

        def loaded() -> Segmenter:
            if key not in self._segmenters:
                self._segmenters[key] = load_segmenter("sam").from_pretrained(
                    segmenter, input_device(self._backbone.model)
                )
            return self._segmenters[key]

        return self._engine.run(loaded)

    def _each(
        self,
        route: Route,
        phrases: tuple[str, ...],
        images: Sequence[Image.Image],
        options: FindOptions,
        expected: type[FoundT],
    ) -> list[FoundT]:
        """What a route's decoder finds in each image and in its tiles."""

        def find(views: list[Image.Image], details: list[Detail | None]) -> list[FoundT]:
            found = []
            for view, detail in zip(self._engine.encode_images(views, options.max_tiles), details, strict=True):
                result = self.run_route(route, phrases, view, options.threshold, options.only_known, detail)
                found.append(checked(route, result, expected).seen_in(view.image))
            return found

        return search(images, options, self._backbone, find)

    def _ground(
        self, phrases: tuple[str, ...], images: Sequence[Image.Image], options: FindOptions
    ) -> list[Detections]:
        """Return boxes by the model's own grounding text, for checkpoints without a `[DET]` route.

        All phrases of some images are asked as one batch.
        """
        some = max(1, _GROUNDED_AT_ONCE // len(phrases))
        if len(images) > some:
            return self._ground(phrases, images[:some], options) + self._ground(phrases, images[some:], options)
        decoder = load_text_decoder("grounding")(self._backbone)
        conversations = [
            Conversation.build(
                decoder.request(phrase), [image], max_tiles=options.max_tiles, constraint=decoder.constraint(phrase)
            )
            for image in images
            for phrase in phrases
        ]
        # A list of boxes that is cut off still holds the boxes before the cut.
        room = min(self._engine.answer_room(conversation) for conversation in conversations)
        writing = GenerationOptions(max_new_tokens=max(1, min(_GROUNDING_TOKENS, room)))
        tokens_of_routes = [route.token_id for route in self._routes.values()]
        output, cached = self._engine.generate(conversations, writing, tokens_of_routes)
        answers = []
        for ids, logprobs in zip(output.answers, output.logprobs, strict=True):
            said = [(token, p) for token, p in zip(ids, logprobs, strict=True) if token not in self._backbone.end_ids]
            tokens, probabilities = zip(*said, strict=True) if said else ((), ())
            answers.append(WrittenAnswer(self._backbone.decode_text(tokens), tuple(tokens), tuple(probabilities)))
        found: list[Detections] = []
        for first in range(0, len(answers), len(phrases)):
            request = DecodeRequest(phrases, cached[first][0].encoded.grid, self._backbone.name, options.threshold)
            decoded: Detections = decoder.decode(answers[first : first + len(phrases)], request)
            found.append(decoded.seen_in(cached[first][0].image))
        return found
