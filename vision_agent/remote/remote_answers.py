"""Answers of a model that a remote engine runs, in the same forms as those of a model that runs here."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar

from PIL import Image

from vision_agent.errors import AnswerError, InputError, RouteError, bad_argument
from vision_agent.generation.decoding import check_context
from vision_agent.generation.options import GenerationOptions
from vision_agent.generation.stopping import cut_at_stop
from vision_agent.generation.structured import AnswerForm
from vision_agent.generation.vocabulary import vocabulary_of
from vision_agent.inference.answering import AnswerPipeline
from vision_agent.inference.conversation import Conversation
from vision_agent.inference.engine import InferenceEngine
from vision_agent.inference.image_cache import ImageCache
from vision_agent.model.backbone import Backbone
from vision_agent.model.tile_bounds import TileBound
from vision_agent.plugins.constraint import WrittenGrammar
from vision_agent.remote.dialects import ChatAsked
from vision_agent.remote.engine_info import EngineInfo
from vision_agent.remote.http_client import EngineClient
from vision_agent.remote.replies import Said, ask_engine, stream_engine
from vision_agent.results.answers import Answer, TokenLogprob, TokenScore
from vision_agent.results.events import AnswerDone, AnswerEvent, TextDelta
from vision_agent.routing.adapter import Route
from vision_agent.routing.policy import RouteChoice

T = TypeVar("T")

_AT_ONCE = 8  # requests that an engine gets at a time
_WORDS_ALONE = RouteChoice()
_FREE = AnswerForm()
_UNSURE = "the engine tells no probabilities, so the confidence is unknown"


class RemoteEngine:
    """What other parts know of a model as its engine, where the model runs elsewhere.

    Attributes:
        backbone: tokenizer, prompts and tiling; its model has no weights.
        images: holds nothing.
        sight: what routes need here, where the engine gives their states; None where there are none.
    """

    def __init__(self, backbone: Backbone, client: EngineClient, info: EngineInfo, system: str | None) -> None:
        self.backbone = backbone
        self.client = client
        self.info = info
        self.system = system
        self.images = ImageCache(0)
        self.sight: InferenceEngine | None = None

    def run(self, work: Callable[[], T]) -> T:
        """Run a function; nothing here has to be waited for."""
        return work()

    def clear(self) -> None:
        """Forget the images that were encoded here for routes; all else that is kept is in the engine."""
        if self.sight is not None:
            self.sight.clear()

    def encode_images(self, images: Sequence[Image.Image], max_tiles: TileBound = None) -> list[Any]:
        """Raise RouteError: images are encoded where the model is."""
        raise RouteError(f"{self.info.model!r} runs in a remote engine, which hands out no features of images")

    def check(self, conversation: Conversation, options: GenerationOptions) -> int:
        """Return the tokens of a prompt. Raises InputError where it and its answer do not fit; nothing is sent."""
        pairs = zip(conversation.images, conversation.max_tiles, strict=True)
        counts = [self.backbone.tile_count(*image.size, most) * self.backbone.tokens_per_tile for image, most in pairs]
        filled = [sum(counts)] if conversation.combine and counts else counts
        prompt = self.backbone.prompt(conversation.turns, filled, conversation.places)
        check_context(self.backbone, len(prompt.ids), sum(counts), options)
        return len(prompt.ids)

    def asked(self, conversation: Conversation, options: GenerationOptions, **more: Any) -> ChatAsked:
        """Return a question as the engine is asked it, with the system message."""
        return ChatAsked(conversation, options, self.system, **more)

    def together(self, work: Sequence[Callable[[], T]]) -> list[T]:
        """Run several functions that ask the engine, some at a time; the first error is raised when all have ended."""
        if len(work) == 1:
            return [work[0]()]
        with ThreadPoolExecutor(min(_AT_ONCE, max(1, len(work)))) as pool:
            futures = [pool.submit(copy_context().run, each) for each in work]
            try:
                return [future.result() for future in futures]
            finally:
                for future in futures:
                    future.cancel()


class RemotePipeline(AnswerPipeline):
    """Answers conversations with a remote engine."""

    def __init__(self, engine: RemoteEngine) -> None:
        """Take the engine's backbone; what looks into images here has no part in it."""
        self._remote = engine
        self.backbone = engine.backbone
        self._routes: Mapping[str, Route] = {}

    def ask_each(
        self,
        question: str,
        images: Sequence[Image.Image],
        options: GenerationOptions,
        form: AnswerForm = _FREE,
        **shown: Any,
    ) -> list[Answer]:
        """Answer one question about each of some images."""
        return self.answers([Conversation.build(question, [image], **shown) for image in images], options, form=form)

    def answers(
        self,
        conversations: Sequence[Conversation],
        options: GenerationOptions,
        choice: RouteChoice = _WORDS_ALONE,
        form: AnswerForm = _FREE,
    ) -> list[Answer]:
        """Return one answer for each conversation; the engine gets some of them at a time.

        Raises:
            InputError: a prompt that does not fit, or a setting that the engine does not have.
            EngineError, BusyError: no answer of the engine.
            AnswerError: an answer that does not give the form's value.
        """
        for conversation in conversations:
            self._remote.check(conversation, options)
        asked = [self._asked(conversation, options, form) for conversation in conversations]
        client, info = self._remote.client, self._remote.info
        said = self._remote.together([_asking(client, info, each) for each in asked])
        return [self._answer_of(each, options, form) for each in said]

    def stream(
        self,
        conversation: Conversation,
        options: GenerationOptions,
        choice: RouteChoice = _WORDS_ALONE,
        form: AnswerForm = _FREE,
    ) -> Iterator[AnswerEvent]:
        """Yield the events of one answer as the engine writes it; closing the iterator closes the connection."""
        self._remote.check(conversation, options)
        asked = self._asked(conversation, options, form)
        held = ""  # space that may be the end's
        begun = False
        events = stream_engine(self._remote.client, self._remote.info, asked)
        try:
            for event in events:
                if isinstance(event, Said):
                    yield AnswerDone(answer=self._answer_of(event, options, form))
                    return
                text = held + event if begun else event.lstrip()
                ready = text.rstrip()
                held = text[len(ready) :]
                if ready:
                    begun = True
                    yield TextDelta(text=ready)
        finally:
            events.close()  # type: ignore[attr-defined]  # a generator

    def _asked(self, conversation: Conversation, options: GenerationOptions, form: AnswerForm) -> ChatAsked:
        grammar = form.constraint or conversation.constraint
        written = grammar if isinstance(grammar, WrittenGrammar) else None
        known = self._remote.info.logprobs
        if options.top_logprobs is not None and not known:
            expected = "None: this engine tells no probabilities"
            raise InputError(bad_argument("top_logprobs", expected, options.top_logprobs))
        top = options.top_logprobs or 0
        return self._remote.asked(conversation, options, grammar=written, logprobs=known, top=top)

    def _answer_of(self, said: Said, options: GenerationOptions, form: AnswerForm) -> Answer:
        if said.refusal is not None and form.constraint is not None:
            raise AnswerError(said.refusal, said.text)
        text = cut_at_stop(said.text, options.stop).strip()
        sure = said.confidence
        vision = said.vision
        told = vision.get("confidence")
        warnings = vision.get("warnings")
        if isinstance(told, int | float) and 0 <= told <= 1:  # more than words may make an answer doubtful
            sure = float(told)
        refused = said.refusal
        doubts = [each for each in warnings if isinstance(each, str)] if isinstance(warnings, list) else []
        if sure is None and refused is None:
            doubts.append(_UNSURE)
        return Answer(
            text=text or (refused or ""),
            finish_reason=said.reason if refused is None else "refused",
            prompt_tokens=said.prompt_tokens,
            completion_tokens=said.completion_tokens,
            confidence=0.0 if sure is None or refused is not None else sure,
            model=self.model,
            value=form.value(text, said.reason),
            warnings=tuple(doubts),
            refused=refused,
            tokens=None if options.top_logprobs is None or refused is not None else self._scores(said),
        )

    def _scores(self, said: Said) -> tuple[TokenScore, ...]:
        """The tokens of the words; as here, marks are none."""
        marks = {mark.encode() for mark in vocabulary_of(self.backbone.tokenizer).marks}
        return tuple(
            TokenScore(**_token(each.data, each.logprob), top=tuple(TokenLogprob(**_token(*one)) for one in each.top))
            for each in said.tokens
            if each.data and each.data not in marks
        )


def _token(data: bytes, logprob: float) -> dict[str, Any]:
    return {"text": data.decode("utf-8", errors="replace"), "bytes": tuple(data), "logprob": logprob}


def _asking(client: EngineClient, info: EngineInfo, asked: ChatAsked) -> Callable[[], Said]:
    return lambda: ask_engine(client, info, asked)
