"""From conversations to answers: words, and the results of the routes that the model took.

The answers of a batch are decoded together: all routing tokens of all rows in one forward pass. A stream decodes each
token as soon as the model has gone on past it, so a result comes one token after its route opened.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image
from pydantic import BaseModel
from torch import Tensor

from vision_agent.errors import AnswerError
from vision_agent.generation.decoding import GenerationOutput
from vision_agent.generation.grammar import choice_constraint
from vision_agent.generation.options import GenerationOptions
from vision_agent.generation.stopping import cut_at_limits, cut_at_stop
from vision_agent.generation.structured import AnswerForm
from vision_agent.inference.abilities import TO_DRAW, WHETHER_THERE, Abilities
from vision_agent.inference.choice_matching import ChoiceMatcher
from vision_agent.inference.conversation import Conversation
from vision_agent.inference.decode import RouteStates, as_asked, decode
from vision_agent.inference.engine import InferenceEngine
from vision_agent.inference.evidence import EVIDENCE_REQUESTS
from vision_agent.inference.evidence_loop import EvidenceLoop, is_about
from vision_agent.inference.image_cache import CachedImage
from vision_agent.inference.image_refs import named_images
from vision_agent.inference.object_caption import ObjectCaptioner
from vision_agent.inference.predictor import Predictor
from vision_agent.inference.streaming import AnswerReader, OpenedRoute, events_of
from vision_agent.inference.token_scores import TokenScorer
from vision_agent.inference.word_forms import WordForm, spoken
from vision_agent.inference.word_reading import WordReader
from vision_agent.results.answers import Answer, RoutedText
from vision_agent.results.events import AnswerDone, AnswerEvent, ResultReady, RouteOpened, TextDelta
from vision_agent.routing.adapter import Route
from vision_agent.routing.policy import RouteChoice
from vision_agent.routing.states import Emitted, read_emitted
from vision_agent.validation import check_options

_WORDS_ALONE = RouteChoice()
_FREE = AnswerForm()
_UNSEEN = "the answer rests on nothing that was found in the image"
_UNLIKELY = "none of the choices is likely: the model would say something else"
_SALAD = 0.05  # routes after words less sure than this stand for nothing that was asked
_LIKELY = 0.02  # of a choice: less sure it is any of them
_MADE_UP = 0.2  # words less sure than this, of a model that is held to what it was taught, are none


@dataclass(frozen=True)
class _Subject:
    """What the routes of one answer may be about.

    Attributes:
        request: the words that were answered.
        images: those of the conversation.
        default: which of them the request is about where no words say it.
    """

    request: str
    images: Sequence[CachedImage]
    default: Sequence[int]

    @classmethod
    def of(cls, conversation: Conversation, images: Sequence[CachedImage]) -> "_Subject":
        """Take the images of the last round as the default; without any, those of the rounds before."""
        last = range(conversation.earlier_images, len(images)) or range(len(images))
        return cls(conversation.request, images, last)


class AnswerPipeline:
    """Answers conversations with one model.

    Args:
        routes: the loaded routes by name; routes that are loaded later count too.
        predictor: looks in the tiles of big images for what a routing token stands for.
        evidence_loop: answers from evidence, for a model that was taught to ask for it.
        word_reader: answers questions about writing, for a model that cannot read.
        captioner: describes images by the objects in them, for a model whose own words would invent some.

    Raises:
        CheckpointError: the checkpoint's `answers` are not those of `Abilities`.
    """

    def __init__(
        self,
        engine: InferenceEngine,
        routes: Mapping[str, Route],
        predictor: Predictor,
        evidence_loop: EvidenceLoop,
        word_reader: WordReader,
        captioner: ObjectCaptioner,
    ) -> None:
        self._engine = engine
        self._word_reader = word_reader
        self._abilities = Abilities.of(engine.backbone.model, engine.backbone.name)
        self._captioner = captioner
        self._predictor = predictor
        self._evidence_loop = evidence_loop
        self.backbone = engine.backbone
        self._choices = ChoiceMatcher(self.backbone, routes, predictor)
        self._routes = routes

    @property
    def routes(self) -> Mapping[str, Route]:
        """The loaded routes by name."""
        return self._routes

    @property
    def model(self) -> str:
        """Name of the checkpoint."""
        return self.backbone.name

    @property
    def parameters(self) -> int:
        """Parameters of the checkpoint."""
        return int(sum(parameter.numel() for parameter in self.backbone.model.parameters()))

    def ask(
        self,
        question: str,
        image: Image.Image | Sequence[Image.Image] | None = None,
        *,
        schema: type[BaseModel] | dict[str, Any] | None = None,
        max_new_tokens: int | None = None,
        options: GenerationOptions | None = None,
    ) -> Answer:
        """Answer one question in words, or as JSON under a schema: for parts of the package that ask the model.

        Args:
            image: one or several, upright RGB.
        """
        options = check_options(options, max_new_tokens)
        form = replace(AnswerForm.of(schema, None, self.backbone, options), protocol=True)
        images = [image] if isinstance(image, Image.Image) else image or []
        conversation = Conversation.build(question, images, constraint=form.constraint)
        return self.answers([conversation], options, form=form)[0]

    def ask_each(
        self,
        question: str,
        images: Sequence[Image.Image],
        options: GenerationOptions,
        form: AnswerForm = _FREE,
        **shown: Any,
    ) -> list[Answer]:
        """Answer one question about each of some images, as one batch; `shown` is as for `Conversation.build`."""
        conversations = [Conversation.build(question, [image], **shown) for image in images]
        if self._engine.images.max_bytes:  # what is looked at one by one finds the images encoded
            self._engine.encode_images(images, conversations[0].max_tiles[0])
        return self.answers(conversations, options, form=form)

    def answers(
        self,
        conversations: Sequence[Conversation],
        options: GenerationOptions,
        choice: RouteChoice = _WORDS_ALONE,
        form: AnswerForm = _FREE,
    ) -> list[Answer]:
        """Return one answer for each conversation, generated as one batch; those from evidence, each by itself.

        Args:
            choice: the routes that answers may take; none by default.
            form: turns their texts into values.

        Raises:
            AnswerError: an answer that does not give the form's value, also because the model cannot answer this.
        """
        if choice == _WORDS_ALONE and any(map(self._is_special, conversations)):
            return [self._in_words(conversation, options, form) for conversation in conversations]
        refusals = [self._beyond(conversation, choice) for conversation in conversations]
        kept = [row for row, refused in zip(conversations, refusals, strict=True) if refused is None]
        answers = iter(self._generated(kept, options, choice, form) if kept else ())
        return [next(answers) if refused is None else self._refused(refused, form) for refused in refusals]

    def _beyond(self, conversation: Conversation, choice: RouteChoice) -> str | None:
        """Why a request that may take routes is refused; one to draw, and one whose route is given, never is."""
        request = conversation.request
        if choice == _WORDS_ALONE or choice.first is not None or TO_DRAW.match(request):
            return None
        images = len(conversation.images)
        refused = self._abilities.refuses_to_say(self.model, request, images, looked=True)
        return refused and (self._abilities.refuses(self.model, images) or refused)

    def _is_special(self, conversation: Conversation) -> bool:
        """Whether an answer in words takes more than generating it."""
        return self._abilities != Abilities() or self._evidence_loop.applies_to(conversation)

    def _is_plain_talk(self, conversation: Conversation) -> bool:
        """Whether there is no image to look at, and nothing that the model refuses."""
        asked = len(conversation.images)
        said = self._abilities.refuses_to_say(self.model, conversation.request, asked)
        return asked == 0 and said is None and self._abilities.refuses(self.model, asked) is None

    def _in_words(self, conversation: Conversation, options: GenerationOptions, form: AnswerForm) -> Answer:
        """One answer in words: refused, read, from evidence, or generated."""
        looks = self._evidence_loop.applies_to(conversation)
        schema = form.schema is not None and not (looks and WordForm.of(form.schema) is not None)
        refused = self._abilities.refuses(self.model, len(conversation.images), schema=schema)
        if refused is not None and form.protocol:
            answer = self._generated([conversation], options, _WORDS_ALONE, form)[0]
            return answer.model_copy(update={"warnings": (*answer.warnings, refused)})
        if refused is not None:
            return self._refused(refused, form)
        request = conversation.request
        reads = not self._abilities.reading and not form.protocol
        if reads and self._word_reader.applies_to(conversation, request):
            return self._read(conversation, request, form)
        if not form.protocol:
            refused = self._abilities.refuses_to_say(self.model, request, len(conversation.images), looked=True)
            if refused is not None:
                return self._refused(refused, form)
        if form.constraint is None and not form.protocol:
            described = self._described(conversation, options)
            if described is not None:
                return described
        if looks:
            return self._from_evidence(conversation, options, form)
        return self._generated([conversation], options, _WORDS_ALONE, form)[0]

    def _read(self, conversation: Conversation, request: str, form: AnswerForm) -> Answer:
        """An answer from what is written in the image, in the form that is asked for."""
        words = WordForm.of(form.schema) if form.schema is not None else None
        choices: Mapping[str, Any] = words.words if words else spoken(form.choices) | {own: own for own in form.choices}
        answer = self._word_reader.answer(conversation, request, choices)
        if words is not None:
            return answer.model_copy(update={"value": form.parsed(words.value(answer.text), answer.text)})
        return answer.model_copy(update={"value": form.choices[choices[answer.text]] if choices else None})

    def _refused(self, reason: str, form: AnswerForm = _FREE, prompt_tokens: int = 0, written: int = 0) -> Answer:
        """The answer of a model that cannot answer. Raises AnswerError where a value was asked for."""
        if form.constraint is not None:
            raise AnswerError(reason, "")
        return Answer(
            text=reason,
            finish_reason="refused",
            prompt_tokens=prompt_tokens,
            completion_tokens=written,
            confidence=0.0,
            model=self.model,
            refused=reason,
        )

    def _described(self, conversation: Conversation, options: GenerationOptions) -> Answer | None:
        """A caption of what was found, where one is asked for of a model that makes them so."""
        captions, request = self._abilities.captions, conversation.request
        if captions is None or len(conversation.images) != 1 or not captions.are_asked_for(request):
            return None
        caption = self._captioner.answer(captions, request, conversation.images[0])
        text, written, cut = cut_at_limits(caption.text, options, self.backbone.tokenizer)
        return caption.model_copy(
            update={"text": text, "completion_tokens": written, "finish_reason": "length" if cut else "stop"}
        )

    def _from_evidence(self, conversation: Conversation, options: GenerationOptions, form: AnswerForm) -> Answer:
        """An answer in words that rests on what was found; `evidence` has the boxes."""
        words = WordForm.of(form.schema) if form.schema is not None else None
        choices: Mapping[str, Any] = spoken(form.choices) if form.choices else words.words if words else {}
        grammar = None
        if choices:
            grammar = choice_constraint(self.backbone.tokenizer, list(choices), self.backbone.end_ids)
        elif words is None:
            grammar = form.constraint
        grounded = self._evidence_loop.answer(conversation, options, grammar)
        if choices:
            grounded = self._choices.answer(choices, conversation.request, conversation.images[0], grounded)
        turns, text = grounded.turns, cut_at_stop(grounded.words, options.stop).strip()
        reason = "stop" if grounded.chosen else turns[-1].finish_reasons[0]
        read, written = turns[0].prompt_tokens[0], sum(len(turn.answers[0]) for turn in turns)
        looked = is_about(grounded.evidence, conversation.request)
        unknown = dict.fromkeys(word for found in grounded.detections for word in found.unknown_words)
        if form.constraint is None and not form.protocol:
            refused = None
            if not looked:
                refused = self._abilities.refuses_to_say(self.model, conversation.request, 1)
            elif self._abilities.without_looking is not None and (
                grounded.confidence < _LIKELY or (unknown and not WHETHER_THERE.search(conversation.request))
            ):
                refused = self._abilities.not_taught(self.model, 1)
            if refused is not None:
                return self._refused(refused, form, read, written)
        value: Any
        if words is not None:
            value = form.parsed(words.value(self._said(choices, text, reason) if choices else text), text)
        elif form.choices:
            value = form.choices[choices[self._said(choices, text, reason)]]
        else:
            value = form.value(text, reason)
        warnings = [*turns[-1].warnings[0], *([_UNSEEN] if form.constraint is not None and not looked else [])]
        if unknown:
            warnings.append(f"the model was never taught these words: {', '.join(unknown)}")
        if choices and grounded.confidence < _LIKELY:
            warnings.append(_UNLIKELY)
        return Answer(
            text=text,
            finish_reason=reason,
            prompt_tokens=read,
            completion_tokens=written,
            confidence=grounded.confidence,
            model=self.model,
            value=value,
            evidence=grounded.detections,
            warnings=tuple(warnings),
            tokens=None if grounded.chosen else TokenScorer(self.backbone, options).new(turns[-1]),
        )

    @staticmethod
    def _said(choices: Mapping[str, str], text: str, reason: str) -> str:
        """The choice that was written. Raises AnswerError where it was cut."""
        if text not in choices or (reason != "stop" and any(o != text and o.startswith(text) for o in choices)):
            raise AnswerError(f"the answer did not end within `max_new_tokens`; it began with {text[:80]!r}", text)
        return text

    def _generated(
        self,
        conversations: Sequence[Conversation],
        options: GenerationOptions,
        choice: RouteChoice,
        form: AnswerForm,
    ) -> list[Answer]:
        if choice.first is not None:  # it ends with its routes; evidence, which it may ask for, is for answers in words
            options = options.model_copy(update={"stop": (*options.stop, *EVIDENCE_REQUESTS)})
        constrained = [self._constrained(conversation, choice, options) for conversation in conversations]
        output, images = self._engine.generate(constrained, options, choice.forbidden(self._routes))
        readers = []
        for ids in output.answers:
            reader = self._reader(options)
            for _ in (*reader.push(ids), *reader.finish()):
                pass  # the reader keeps what it reads
            readers.append(reader)
        looks = [
            choice.first is None
            and self._evidence_loop.is_asked_for(ids)
            and self._evidence_loop.applies_to(conversation)
            for ids, conversation in zip(output.answers, conversations, strict=True)
        ]
        places = [(row, opened) for row, reader in enumerate(readers) if not looks[row] for opened in reader.opened]
        routed: list[list[RoutedText]] = [[] for _ in readers]

        def take_routes() -> None:
            for (row, opened), states_NC in zip(places, states, strict=True):
                probability = output.probability(row, opened.index)
                subject = _Subject.of(conversations[row], images[row])
                routed[row] += self._results(opened, states_NC, probability, subject)

        if places:
            emitted = [Emitted(row, opened.index, opened.spec.name) for row, opened in places]
            states = self._engine.read_emitted(output, emitted)
            self._engine.run(take_routes)
        if self._abilities.without_looking is not None and choice.first is None:
            routed = [own if output.confidence(row) > _SALAD else [] for row, own in enumerate(routed)]
        return [
            self._from_evidence(conversations[row], options, form)
            if looks[row]
            else self._answer(output, row, reader.text, conversations[row], form, routed[row], options, choice)
            for row, reader in enumerate(readers)
        ]

    def stream(
        self,
        conversation: Conversation,
        options: GenerationOptions,
        choice: RouteChoice = _WORDS_ALONE,
        form: AnswerForm = _FREE,
    ) -> Iterator[AnswerEvent]:
        """Yield the events of one answer as it is generated. The model is free for others between its tokens.

        An answer from evidence is short and comes in one piece.
        """
        if self._is_special(conversation) and not self._is_plain_talk(conversation):
            (answer,) = self.answers([conversation], options, choice, form)
            yield from events_of(answer)
            return
        reader, scorer = self._reader(options), TokenScorer(self.backbone, options)
        waiting: list[OpenedRoute] = []
        routed: list[RoutedText] = []
        constrained = self._constrained(conversation, choice, options)
        for output, images in self._engine.stream(constrained, options, choice.forbidden(self._routes)):
            subject = _Subject.of(conversation, images)
            if waiting:  # their tokens have been fed by now
                yield from self._ready(output, waiting, subject, routed)
                waiting = []
            for new in reader.push(output.answers[0]):
                if isinstance(new, str):
                    yield TextDelta(text=new, tokens=scorer.new(output))
                else:
                    waiting.append(new)
                    yield RouteOpened(token=new.spec.token, phrase=new.phrase, start=new.start, end=new.end)
        if waiting:
            self._engine.run(lambda: output.fill_cache(self.backbone))
            yield from self._ready(output, waiting, subject, routed)
        for rest in reader.finish():
            yield TextDelta(text=rest, tokens=scorer.new(output))
        yield AnswerDone(answer=self._answer(output, 0, reader.text, conversation, form, routed, options, choice))

    def _constrained(self, conversation: Conversation, choice: RouteChoice, options: GenerationOptions) -> Conversation:
        rule = choice.constraint(self._routes, self.backbone.end_ids, options.max_new_tokens)
        return conversation if rule is None else replace(conversation, constraint=rule)

    def _reader(self, options: GenerationOptions) -> AnswerReader:
        specs = {route.token_id: route.spec for route in self._routes.values()}
        return AnswerReader(self._engine, specs, options.stop)

    def _ready(
        self, output: GenerationOutput, waiting: Sequence[OpenedRoute], subject: _Subject, routed: list[RoutedText]
    ) -> Iterator[ResultReady]:
        """Results of routes whose tokens are in the cache; they are added to `routed`."""

        def results() -> list[RoutedText]:
            states = self._states(output, [(0, opened) for opened in waiting])
            return [
                item
                for opened, states_NC in zip(waiting, states, strict=True)
                for item in self._results(opened, states_NC, output.probability(0, opened.index), subject)
            ]

        routed += (new := self._engine.run(results))
        yield from (ResultReady(routed=item) for item in new)

    def _states(self, output: GenerationOutput, places: Sequence[tuple[int, OpenedRoute]]) -> list[Tensor]:
        """The states of routing tokens that have been fed; the last token of a growing answer has not."""
        if not places:
            return []
        fed = output.cache.get_seq_length()
        missing = output.mask_BP.shape[1] - fed
        answers = [answer[: len(answer) - missing] if missing else answer for answer in output.answers]
        emitted = [Emitted(row, opened.index, opened.spec.name) for row, opened in places]
        return read_emitted(self.backbone, self._routes, output.cache, output.mask_BP[:, :fed], answers, emitted)

    def _results(
        self, opened: OpenedRoute, states_NC: Tensor, probability: float, subject: _Subject
    ) -> list[RoutedText]:
        """What the route's decoder gives, for each image that the token is about."""
        route = self._routes[opened.spec.name]
        count = len(subject.images)
        numbers: Sequence[int | None] = (
            named_images(opened.about, count) or named_images(subject.request, count) or subject.default or [None]
        )
        read = RouteStates(states_NC[None].float(), (opened.phrase or route.spec.name,), scores=(probability,))
        return [
            RoutedText(
                token=opened.spec.token,
                phrase=opened.phrase,
                start=opened.start,
                end=opened.end,
                result=self._decoded(route, read, None if number is None else subject.images[number]),
                image=number,
            )
            for number in numbers
        ]

    def _decoded(self, route: Route, read: RouteStates, image: CachedImage | None) -> Any:
        if image is None and route.decoder.needs_image:
            return None
        if image is None:
            return decode(self._engine, route, read)
        result = decode(self._engine, route, as_asked(self._engine, route, replace(read, images=(image,))))
        return self._predictor.with_tiles(route, result, read.phrases, image.image)

    def _answer(
        self,
        output: GenerationOutput,
        row: int,
        text: str,
        conversation: Conversation,
        form: AnswerForm,
        routed: Sequence[RoutedText],
        options: GenerationOptions,
        choice: RouteChoice,
    ) -> Answer:
        reason = output.finish_reasons[row]
        read, written = output.prompt_tokens[row], len(output.answers[row])
        free = form.constraint is None and not form.protocol and choice.first is None
        described = self._described(conversation, options) if free and not routed else None
        if described is not None:
            return described
        # A request for evidence that nobody can give, such as about several images, is no result of a route.
        if free and (not routed or self._evidence_loop.is_asked_for(output.answers[row])):
            images = len(conversation.images)
            refused = self._abilities.refuses(self.model, images)
            refused = refused or self._abilities.refuses_to_say(self.model, conversation.request, images)
            made_up = not text or output.confidence(row) < _MADE_UP
            if refused is None and not routed and self._abilities.without_looking is not None and made_up:
                refused = self._abilities.not_taught(self.model, images)
            if refused is not None:
                return self._refused(refused, form, read, written)
        return Answer(
            text=text,
            finish_reason=reason,
            prompt_tokens=read,
            completion_tokens=written,
            confidence=output.confidence(row),
            model=self.model,
            value=form.value(text, reason),
            routes=tuple(routed),
            warnings=output.warnings[row],
            tokens=TokenScorer(self.backbone, options, row).new(output),
        )
