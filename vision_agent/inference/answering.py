"""From conversations to answers: words, and the results of the routes that the model took.

Written answers of a batch are read together: all routing tokens of all rows in one forward pass. A stream reads each
token as soon as the model has gone on past it, so a result comes one token after its route opened.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vision_agent.generation.decoding import Written, cut_at_stop
from vision_agent.generation.options import GenerationOptions
from vision_agent.generation.structured import AnswerForm
from vision_agent.geometry.frames import TileGrid
from vision_agent.inference.conversation import Conversation
from vision_agent.inference.decode import prepared
from vision_agent.inference.engine import InferenceEngine
from vision_agent.inference.image_cache import SeenImage
from vision_agent.inference.image_refs import named_images
from vision_agent.inference.onlooker import Onlooker
from vision_agent.inference.streaming import AnswerReader, Opened
from vision_agent.model.prompt import PLACEHOLDER
from vision_agent.plugins.decoder import DecodeRequest
from vision_agent.results.answers import Answer, RoutedText
from vision_agent.results.events import AnswerDone, AnswerEvent, ResultReady, RouteOpened, TextDelta
from vision_agent.routing.adapter import Route
from vision_agent.routing.policy import RouteChoice
from vision_agent.routing.states import Emitted, read_emitted

_WORDS_ALONE = RouteChoice()
_FREE = AnswerForm()
_PLACEHOLDERS = re.compile(rf"(?:Image-\d+: )?{PLACEHOLDER}\n?")  # they name every image, so they name none
_NO_IMAGE = TileGrid(1, 1, 1, 1)  # the grid of a route that is read without one


@dataclass(frozen=True)
class _Shown:
    """What the routes of one answer may be about.

    Attributes:
        request: the words that were answered.
        seen: the images of the conversation.
        about: which of them the request is about where no words say it.
    """

    request: str
    seen: Sequence[SeenImage]
    about: Sequence[int]


class AnswerPipeline:
    """Answers conversations with one model.

    Args:
        routes: the loaded routes by name; routes that are loaded later count too.
        onlooker: looks at the image for a model that was taught to ask for it.
    """

    def __init__(self, engine: InferenceEngine, routes: Mapping[str, Route], onlooker: Onlooker) -> None:
        self._engine = engine
        self._onlooker = onlooker
        self._backbone = engine.backbone
        self._routes = routes

    @property
    def routes(self) -> Mapping[str, Route]:
        """The loaded routes by name."""
        return self._routes

    @property
    def model(self) -> str:
        """Name of the checkpoint."""
        return self._backbone.name

    @property
    def parameters(self) -> int:
        """Parameters of the checkpoint."""
        return int(sum(parameter.numel() for parameter in self._backbone.model.parameters()))

    def answers(
        self,
        conversations: Sequence[Conversation],
        options: GenerationOptions,
        choice: RouteChoice = _WORDS_ALONE,
        form: AnswerForm = _FREE,
    ) -> list[Answer]:
        """One answer for each conversation, written as one batch; those that look first, each by itself.

        Args:
            choice: the routes that answers may take; none by default.
            form: turns their texts into values.
        """
        if choice == _WORDS_ALONE and any(map(self._onlooker.can_look, conversations)):
            return [
                self._looked(conversation, options, form)
                if self._onlooker.can_look(conversation)
                else self._written([conversation], options, choice, form)[0]
                for conversation in conversations
            ]
        return self._written(conversations, options, choice, form)

    def _looked(self, conversation: Conversation, options: GenerationOptions, form: AnswerForm) -> Answer:
        """An answer in words that rests on what was found; `evidence` has the boxes."""
        sighting = self._onlooker.answer(conversation, options)
        turns, text = sighting.told.turns, cut_at_stop(sighting.told.words, options.stop).strip()
        logprobs = [each for turn in turns for each in turn.logprobs[0]]
        reason = turns[-1].reasons[0]
        return Answer(
            text=text,
            finish_reason=reason,
            prompt_tokens=turns[0].prompt_tokens[0],
            completion_tokens=len(logprobs),
            confidence=min(1.0, math.exp(sum(logprobs) / max(1, len(logprobs)))),
            model=self.model,
            value=form.value(text, reason),
            evidence=sighting.found,
        )

    def _written(
        self,
        conversations: Sequence[Conversation],
        options: GenerationOptions,
        choice: RouteChoice,
        form: AnswerForm,
    ) -> list[Answer]:
        with self._engine.lock:
            ruled = [self._ruled(conversation, choice, options) for conversation in conversations]
            written, seen = self._engine.write(ruled, options, choice.forbidden(self._routes))
            readers = []
            for ids in written.answers:
                reader = self._reader(options)
                for _ in (*reader.push(ids), *reader.finish()):
                    pass  # the reader keeps what it reads
                readers.append(reader)
            places = [(row, opened) for row, reader in enumerate(readers) for opened in reader.opened]
            if places:
                written.complete(self._backbone)
            states = self._states(written, places)
            routed: list[list[RoutedText]] = [[] for _ in readers]
            for (row, opened), states_NC in zip(places, states, strict=True):
                sure = math.exp(written.logprobs[row][opened.index])
                routed[row] += self._results(opened, states_NC, sure, _shown(conversations[row], seen[row]))
        return [
            self._looked(conversations[row], options, form)
            if self._onlooker.wants_to_look(written.answers[row]) and self._onlooker.can_look(conversations[row])
            else self._answer(written, row, reader.text, options, form, routed[row])
            for row, reader in enumerate(readers)
        ]

    def stream(
        self,
        conversation: Conversation,
        options: GenerationOptions,
        choice: RouteChoice = _WORDS_ALONE,
        form: AnswerForm = _FREE,
    ) -> Iterator[AnswerEvent]:
        """One answer as it is written. The model is free for others between its tokens.

        A model that looks before it speaks is small and quick: its answer comes in one piece.
        """
        if self._onlooker.can_look(conversation):
            (answer,) = self.answers([conversation], options, choice, form)
            yield from _told(answer)
            return
        reader = self._reader(options)
        waiting: list[Opened] = []
        routed: list[RoutedText] = []
        ruled = self._ruled(conversation, choice, options)
        for written, seen in self._engine.stream(ruled, options, choice.forbidden(self._routes)):
            if waiting:  # their tokens have been fed by now
                yield from self._ready(written, waiting, _shown(conversation, seen), routed)
                waiting = []
            for new in reader.push(written.answers[0]):
                if isinstance(new, str):
                    yield TextDelta(text=new)
                else:
                    waiting.append(new)
                    yield RouteOpened(token=new.spec.token, phrase=new.phrase, start=new.start, end=new.end)
        if waiting:
            with self._engine.lock:
                written.complete(self._backbone)
            yield from self._ready(written, waiting, _shown(conversation, seen), routed)
        for rest in reader.finish():
            yield TextDelta(text=rest)
        yield AnswerDone(answer=self._answer(written, 0, reader.text, options, form, routed))

    def _ruled(self, conversation: Conversation, choice: RouteChoice, options: GenerationOptions) -> Conversation:
        rule = choice.constraint(self._routes, self._backbone.end_ids, options.max_new_tokens)
        return conversation if rule is None else replace(conversation, constraint=rule)

    def _reader(self, options: GenerationOptions) -> AnswerReader:
        specs = {route.token_id: route.spec for route in self._routes.values()}
        return AnswerReader(self._engine, specs, options.stop)

    def _ready(
        self, written: Written, waiting: Sequence[Opened], shown: _Shown, routed: list[RoutedText]
    ) -> Iterator[ResultReady]:
        """Results of routes whose tokens are in the cache; they are added to `routed`."""
        with self._engine.lock:
            states = self._states(written, [(0, opened) for opened in waiting])
            pairs = zip(waiting, states, strict=True)
            new = [
                item
                for opened, states_NC in pairs
                for item in self._results(opened, states_NC, math.exp(written.logprobs[0][opened.index]), shown)
            ]
        routed += new
        yield from (ResultReady(routed=item) for item in new)

    def _states(self, written: Written, places: Sequence[tuple[int, Opened]]) -> list[Tensor]:
        """The states of routing tokens that have been fed; the last token of a growing answer has not."""
        if not places:
            return []
        fed = written.cache.get_seq_length()
        missing = written.mask_BP.shape[1] - fed
        answers = [answer[: len(answer) - missing] if missing else answer for answer in written.answers]
        emitted = [Emitted(row, opened.index, opened.spec.name) for row, opened in places]
        return read_emitted(self._backbone, self._routes, written.cache, written.mask_BP[:, :fed], answers, emitted)

    def _results(self, opened: Opened, states_NC: Tensor, sure: float, shown: _Shown) -> list[RoutedText]:
        """What the route's decoder gives, for each image that the token is about; `sure`: its probability."""
        route = self._routes[opened.spec.name]
        images: Sequence[int | None] = (
            named_images(opened.about, len(shown.seen))
            or named_images(shown.request, len(shown.seen))
            or shown.about
            or [None]
        )
        return [
            RoutedText(
                token=opened.spec.token,
                phrase=opened.phrase,
                start=opened.start,
                end=opened.end,
                result=self._decoded(
                    route, opened.phrase, states_NC, sure, None if number is None else shown.seen[number]
                ),
                image=number,
            )
            for number in images
        ]

    def _decoded(self, route: Route, phrase: str, states_NC: Tensor, sure: float, seen: SeenImage | None) -> Any:
        if seen is None and route.decoder.needs_image:
            return None
        grid = _NO_IMAGE if seen is None else seen.encoded.grid
        request = DecodeRequest((phrase or route.spec.name,), grid, self.model, scores=(min(1.0, sure),))
        with torch.inference_mode():
            made = None if seen is None else prepared(seen, route)
            return route.decoder.decode(states_NC[None].float(), made, request)

    def _answer(
        self,
        written: Written,
        row: int,
        text: str,
        options: GenerationOptions,
        form: AnswerForm,
        routed: Sequence[RoutedText],
    ) -> Answer:
        logprobs = written.logprobs[row]
        reason = written.reasons[row]
        return Answer(
            text=text,
            finish_reason=reason,
            prompt_tokens=written.prompt_tokens[row],
            completion_tokens=len(written.answers[row]),
            confidence=min(1.0, math.exp(sum(logprobs) / max(1, len(logprobs)))),
            model=self.model,
            value=form.value(text, reason),
            routes=tuple(routed),
        )


def _told(answer: Answer) -> Iterator[AnswerEvent]:
    """A finished answer as events, in the order of its text."""
    told = 0
    for routed in sorted(answer.routes, key=lambda each: each.end):
        if routed.end > told:
            yield TextDelta(text=answer.text[told : routed.end])
            told = routed.end
        yield RouteOpened(token=routed.token, phrase=routed.phrase, start=routed.start, end=routed.end)
        yield ResultReady(routed=routed)
    if answer.text[told:]:
        yield TextDelta(text=answer.text[told:])
    yield AnswerDone(answer=answer)


def _shown(conversation: Conversation, seen: Sequence[SeenImage]) -> _Shown:
    """The images of the last round are what it is about; without any, those of the rounds before."""
    request = _PLACEHOLDERS.sub("", conversation.turns[-1][0])
    return _Shown(request, seen, range(conversation.earlier_images, len(seen)) or range(len(seen)))
