"""Boxes by the words of a remote model: `<ref>phrase</ref><box>[[..]]</box>`, written in steps under patterns.

No engine's grammar reaches marks such as `<box>`, which are single tokens. So the first token alone says whether there
is something; then the answer is continued from `<ref>phrase</ref><box>` under a pattern of the list. A number that
makes no box is taken back, and the list is continued there under a pattern of the right ones: the boxes are those that
the model would write here.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from PIL import Image

from vision_agent.errors import AnswerError, RouteError
from vision_agent.generation.options import GenerationOptions
from vision_agent.generation.vocabulary import vocabulary_of
from vision_agent.geometry.frames import TileGrid
from vision_agent.inference.conversation import Conversation
from vision_agent.inference.decode import RouteStates, decode
from vision_agent.inference.detail import Detail
from vision_agent.inference.engine import InferenceEngine
from vision_agent.inference.find_options import FindOptions
from vision_agent.inference.image_cache import CachedImage
from vision_agent.inference.predictor import Predictor
from vision_agent.inference.tiled_search import search
from vision_agent.plugins.decoder import DecodeRequest, TextDecoder, WrittenAnswer
from vision_agent.plugins.registry import load_text_decoder
from vision_agent.remote.dialects import TOP, image_address
from vision_agent.remote.remote_answers import RemoteEngine
from vision_agent.remote.remote_states import RemoteStates
from vision_agent.remote.replies import Said, ask_engine
from vision_agent.results.detections import Detections
from vision_agent.routing.adapter import Route

_TOKENS = 512  # most tokens of a list: some thirty boxes
_OPENING = 64  # tokens that are kept for the phrase and the marks around it
_STEP_TOKENS = 128  # of one step: what follows a number that is taken back was written for nothing
_MOST_STEPS = 24
_NOTHING = WrittenAnswer("", (), ())


class RemotePredictor(Predictor):
    """Finds objects by phrase with a model that a remote engine runs."""

    def __init__(self, engine: RemoteEngine, states: RemoteStates | None = None) -> None:
        """Take the engine, and what reads the states of routes from it; None where it gives none."""
        # Of an engine without routes the parts that are used here are the backbone and `run`.
        super().__init__(
            cast(InferenceEngine, engine) if states is None else states.sight, states.routes if states else {}
        )
        self._remote, self._states = engine, states

    @property
    def routes(self) -> Mapping[str, Route]:
        """The routes that are read through the engine."""
        return self._routes

    def route(self, name: str) -> Route:
        """Return the route of that name. Raises RouteError where it is not read through the engine."""
        if name in self._routes:
            return self._routes[name]
        told = (
            f"has no {name!r} route here"
            if self._states
            else f"hands out no hidden states: it has no {name!r} route here"
        )
        raise RouteError(f"{self._backbone.name!r} runs in a remote engine, which {told}")

    def run_route(
        self,
        route: Route,
        phrases: tuple[str, ...],
        image: Image.Image | CachedImage,
        threshold: float | None,
        only_known: bool = True,
        detail: Detail | None = None,
    ) -> Any:
        """Return what a route's decoder gives for phrases on an image: its states come from the engine."""
        states = self._states
        if states is None:
            raise RouteError(f"{self._backbone.name!r} runs in a remote engine, which hands out no hidden states")
        cached = image if isinstance(image, CachedImage) else self._engine.encode_images([image])[0]
        asked = [(lambda phrase=phrase: states.forced(route, phrase, cached)) for phrase in phrases]
        read = RouteStates(torch.stack(self._remote.together(asked)), phrases, [cached])
        return decode(
            self._engine,
            route,
            read,
            read.request(self._backbone.name, threshold),
            only_known=only_known,
            detail=detail,
        )

    def detect_each(
        self, phrases: tuple[str, ...], images: Sequence[Image.Image], options: FindOptions
    ) -> list[Detections]:
        """Return boxes in each image, by a route that is read through the engine, or by the model's own words.

        Of `vision-agent serve` by its verb.

        Raises:
            RouteError: the engine cannot hold answers to patterns, or tells no probabilities.
        """
        info = self._remote.info
        if "det" in self._routes:
            return super().detect_each(phrases, images, options)
        if info.kind == "vision-agent":
            return [self._served(phrases, image, options) for image in images]
        if not (info.patterns and info.continues):
            raise RouteError(f"an engine of the kind {info.kind!r} holds no answers to patterns, which boxes need")
        if not info.logprobs:
            raise RouteError(
                f"the engine at {info.url} tells no probabilities, which the scores of boxes are made of; LMDeploy "
                "does with --logprobs-mode raw_logprobs"
            )
        return search(images, options, self._backbone, lambda views, _: self._remote_boxes(phrases, views, options))

    def _remote_boxes(
        self, phrases: tuple[str, ...], images: Sequence[Image.Image], options: FindOptions
    ) -> list[Detections]:
        decoder = load_text_decoder("grounding")(self._backbone)
        for image in images:
            for phrase in phrases:
                conversation = Conversation.build(decoder.request(phrase), [image], max_tiles=options.max_tiles)
                self._remote.check(conversation, GenerationOptions(max_new_tokens=1))
        work = [
            (lambda image=image, phrase=phrase: self._written(decoder, phrase, image, options))
            for image in images
            for phrase in phrases
        ]
        answers = self._remote.together(work)
        found: list[Detections] = []
        for index, image in enumerate(images):
            grid: TileGrid = self._backbone.grid_for(*image.size, options.max_tiles)
            request = DecodeRequest(phrases, grid, self._backbone.name, options.threshold)
            own = answers[index * len(phrases) : (index + 1) * len(phrases)]
            decoded: Detections = decoder.decode(own, request)
            found.append(decoded.seen_in(image))
        return found

    def _written(self, decoder: TextDecoder, phrase: str, image: Image.Image, options: FindOptions) -> WrittenAnswer:
        """The answer about one phrase."""
        conversation = Conversation.build(decoder.request(phrase), [image], max_tiles=options.max_tiles)
        left = self._backbone.context - self._remote.check(conversation, GenerationOptions(max_new_tokens=1))
        first = self._said(conversation, 1, top=TOP)
        there = self._there(decoder, phrase, first)
        if there is None:
            return _NOTHING
        written: tuple[tuple[int, float], ...] = ()
        before = None
        for _ in range(_MOST_STEPS):
            step = decoder.continuation(phrase, written)
            if step is None or step == before:
                break
            room = min(_TOKENS, left - _OPENING) - len(step.written)
            if room < 1:
                break
            tokens = min(room, _STEP_TOKENS)
            said = self._said(conversation, tokens, pattern=step.pattern, begun=step.text)
            written, before = (*step.written, *self._ids(said, step.pattern)), step
        return decoder.whole_answer(phrase, there, written)

    def _said(self, conversation: Conversation, tokens: int, **more: Any) -> Said:
        options = GenerationOptions(max_new_tokens=tokens)
        asked = self._remote.asked(conversation, options, marks=True, logprobs=True, **more)
        said = ask_engine(self._remote.client, self._remote.info, asked)
        if not said.tokens:
            raise AnswerError(f"the engine at {self._remote.info.url} tells no probabilities of this answer", said.text)
        return said

    def _there(self, decoder: TextDecoder, phrase: str, said: Said) -> float | None:
        """The logprob of the first token of an answer with boxes; None where "none" is likelier.

        What is not among the likeliest tokens is taken to be as likely as the last of them.
        """
        vocabulary = vocabulary_of(self._backbone.tokenizer)
        names = {number: text.encode() for text, number in vocabulary.marks.items()}
        first = said.tokens[0]
        told = {data.strip(): logprob for data, logprob in ((first.data, first.logprob), *first.top)}
        least = min(told.values())
        some, nothing = (
            told.get((names.get(token) or vocabulary.pieces[token]).strip()) for token in decoder.first_tokens(phrase)
        )
        if nothing is not None and (some is None or nothing > some):
            return None
        return least if some is None else some

    def _ids(self, said: Said, pattern: str) -> tuple[tuple[int, float], ...]:
        """The tokens of a text by what they write, with their logprobs; end tokens left out."""
        vocabulary = vocabulary_of(self._backbone.tokenizer)
        marks = {text.encode() for text in vocabulary.marks}
        pieces = [(token.data, token.logprob) for token in said.tokens if token.data not in marks]
        joined = b"".join(data for data, _ in pieces)
        if joined.strip() != said.text.strip().encode():
            raise AnswerError(
                f"the engine at {self._remote.info.url} says {said.text[:60]!r}, but tokens of {joined[:60]!r}",
                said.text,
            )
        if pattern.startswith(" ") and not pattern.startswith(" ?") and not joined.startswith(b" "):
            pieces = [(b" ", 0.0), *pieces]  # some engines drop a space where their text begins
        found: list[tuple[int, float]] = []
        for data, logprob in pieces:
            one = vocabulary.ids_of.get(data)
            found += [(number, logprob) for number in (one[:1] if one else vocabulary.encode(data))]
        return tuple(found)

    def _served(self, phrases: tuple[str, ...], image: Image.Image, options: FindOptions) -> Detections:
        """What `vision-agent serve` finds: the SDK's own result."""
        body: dict[str, Any] = {
            "image": image_address(image),
            "phrase": list(phrases),
            "only_known": options.only_known,
        }
        if options.threshold is not None:
            body["threshold"] = options.threshold
        if options.tiles is not None:
            body["tiles"] = options.tiles
        if options.detail is not None:
            body["detail"] = options.detail
        reply = self._remote.client.post("/v1/vision/detect", body)
        try:
            found = Detections.model_validate(reply)
        except ValueError as error:
            raise self._remote.client.error(f"answered /v1/vision/detect in another form: {error!s:.200}") from None
        return found.seen_in(image)
