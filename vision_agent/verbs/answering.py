"""Verbs that answer: `ask`, `caption`, `chat`, and `run`, where the model chooses its routes."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypedDict, Unpack, overload

from PIL import Image
from pydantic import BaseModel

from vision_agent.documents.result import OcrResult
from vision_agent.errors import InputError, bad_argument
from vision_agent.extract.question_answering import DocumentAnswer, ask_document, is_document
from vision_agent.generation.options import GenerationOptions
from vision_agent.generation.structured import AnswerForm
from vision_agent.images.loading import ImageSource, load_image
from vision_agent.images.store import ImageStore
from vision_agent.inference.chat import Chat
from vision_agent.inference.conversation import Conversation
from vision_agent.model.preprocess import check_tiles
from vision_agent.model.prompt import with_placeholders
from vision_agent.planning.events import AgentEvent
from vision_agent.planning.result import AgentResult
from vision_agent.planning.runner import Planner, RunSettings, check_planning
from vision_agent.results.answers import Answer
from vision_agent.results.events import AnswerEvent
from vision_agent.routing.policy import RouteChoice
from vision_agent.validation import check_length, check_options, check_request
from vision_agent.verbs.parts import Parts

Pictures = ImageSource | Sequence[ImageSource] | None
_CAPTIONS = {
    "short": ("describe the picture in one short sentence", 48),
    "normal": ("describe the picture", 160),
    "long": ("describe the picture in detail", 768),
}


class AskSettings(TypedDict, total=False):
    """The settings of `ask`; see there."""

    schema: type[BaseModel] | dict[str, Any] | None
    choices: Sequence[str] | None
    combine: bool
    max_tiles: int | Sequence[int] | None
    max_new_tokens: int | None
    options: GenerationOptions | None


class AnsweringVerbs(Parts):
    """Answers in words, with routes where the model may take them."""

    @overload
    def ask(self, question: str, image: OcrResult) -> DocumentAnswer: ...

    @overload
    def ask(
        self, question: str, image: Pictures = None, *, stream: Literal[False] = False, **settings: Unpack[AskSettings]
    ) -> Answer: ...

    @overload
    def ask(
        self, question: str, image: Pictures = None, *, stream: Literal[True], **settings: Unpack[AskSettings]
    ) -> Iterator[AnswerEvent]: ...

    @overload
    def ask(
        self, question: list[str], image: Pictures | Sequence[Pictures] = None, **settings: Unpack[AskSettings]
    ) -> list[Answer]: ...

    def ask(
        self,
        question: str | list[str],
        image: Any = None,
        *,
        schema: type[BaseModel] | dict[str, Any] | None = None,
        choices: Sequence[str] | None = None,
        combine: bool = False,
        max_tiles: int | Sequence[int] | None = None,
        max_new_tokens: int | None = None,
        options: GenerationOptions | None = None,
        stream: bool = False,
    ) -> Answer | list[Answer] | Iterator[AnswerEvent]:
        """Answer a question in words. Routing tokens are forbidden: the text is the base model's own.

        Args:
            question: one question; or a list of them, which are answered as one batch.
            image: an image, a list of images that the question is about, or None. Several images are numbered
                `Image-1: <image>` unless the question has `<image>` placeholders of its own. For a list of questions:
                one image for all, or a list with what belongs to each. A PDF, or what `ocr` gave, is a document: the
                answer is a `DocumentAnswer`, which tells page and box; a small model answers with a piece of its text.
            schema: a Pydantic model or JSON schema; the answer is JSON that follows it, and `.value` the instance.
            choices: the answer is one of these, as written here in `.value`. `.text` is what the model wrote, in lower
                case where its tokenizer knows no other.
            combine: the tiles of all images form one image to the model, as InternVL's "combined images" do.
            max_tiles: most tiles of an image; one number, or one for each image.
            max_new_tokens: shortcut for `options=GenerationOptions(max_new_tokens=...)`.
            options: how the answer is written.
            stream: yield `TextDelta` events and at last an `AnswerDone`; closing the iterator stops the model.

        Raises:
            InputError: an empty question, an image that cannot be read, images and placeholders that differ in
                number, a prompt that does not fit the model's context.
            ArgumentTypeError: swapped arguments, or values of other types.
            AnswerError: a structured answer that did not end within its tokens.
            MissingExtraError: `schema` without the extra "structured".
        """
        settings = check_options(options, max_new_tokens)
        if is_document(image):
            if schema is not None or choices is not None or stream or isinstance(question, list | tuple):
                raise InputError(
                    "a document takes one question, without `schema`, `choices` or `stream`; see `extract`"
                )
            check_request("question", question, None)
            return ask_document(question, image, self._extractor, self.ask, settings, self.model)
        form = AnswerForm.of(schema, choices, self._backbone, settings)
        if isinstance(question, list | tuple):
            if stream:
                raise InputError(bad_argument("stream", "False for a list of questions", stream))
            batch = self._batch("question", question, image, max_tiles, combine, form)
            return self._pipeline.answers(batch, settings, form=form)
        check_request("question", question, image)
        conversation = self._conversation(question, self._load(image), max_tiles, combine, form)
        if stream:
            return self._pipeline.stream(conversation, settings, form=form)
        return self._pipeline.answers([conversation], settings, form=form)[0]

    def caption(
        self,
        image: ImageSource,
        *,
        length: Literal["short", "normal", "long"] = "normal",
        options: GenerationOptions | None = None,
    ) -> Answer:
        """Describe an image.

        Args:
            length: one sentence, some sentences, or all there is to say.
            options: how the answer is written; its token limit takes the place of the length's own.

        Raises:
            InputError: another length, or an image that cannot be read.
        """
        check_length(length)
        request, tokens = _CAPTIONS[length]
        picture = load_image(image, limits=self._limits)
        return self.ask(request, picture, options=options or GenerationOptions(max_new_tokens=tokens))

    def chat(self, *, options: GenerationOptions | None = None) -> Chat:
        """A conversation of several rounds, about any number of images, a video, or nothing but words."""
        settings = check_options(options, None)
        return Chat(self._pipeline, self._limits, settings)

    @overload
    def run(
        self,
        request: str,
        image: Pictures = None,
        *,
        stream: Literal[False] = False,
        **settings: Unpack[RunSettings],
    ) -> AgentResult: ...

    @overload
    def run(
        self, request: str, image: Pictures = None, *, stream: Literal[True], **settings: Unpack[RunSettings]
    ) -> Iterator[AgentEvent]: ...

    @overload
    def run(
        self, request: list[str], image: Pictures | Sequence[Pictures] = None, **settings: Unpack[RunSettings]
    ) -> list[AgentResult]: ...

    def run(
        self,
        request: str | list[str],
        image: Any = None,
        *,
        routes: Sequence[str] | None = None,
        first_route: str | None = None,
        max_routes: int | None = None,
        max_steps: int = 24,
        planner: Planner = "auto",
        store: ImageStore | None = None,
        max_new_tokens: int | None = None,
        options: GenerationOptions | None = None,
        stream: bool = False,
    ) -> AgentResult | list[AgentResult] | Iterator[AgentEvent]:
        """Let the model decide: it answers in words, or emits routing tokens whose results are in `.routes`.

        One answer may hold several routes; each result is tied to its phrase in the text and to its image. A request
        of several steps ("find every red car and read its plate") is read as a plan and carried out with the agent's
        tools; `.plan` and `.steps` tell how, and `.refused` why something was not done.

        Args:
            request: one request; or a list of them, which are answered as one batch.
            image: an image, a list of images that the request is about, or None. For a list of requests: one
                image for all, or a list with what belongs to each.
            routes: names of the routes it may take; None for all that are loaded. The others are forbidden.
            first_route: a route that the answer must take before any other.
            max_routes: most routing tokens in an answer. With any of these three there is no planning.
            max_steps: most calls of tools.
            planner: "clauses" reads requests of several steps by a small grammar; "model" lets the model call tools
                by itself, which needs a large one (and the extra "structured"); "off" gives one routed answer;
                "auto" is "clauses", with "model" for what it cannot read where the model has a billion parameters.
            store: the session in which steps put their images; None for one of its own.
            max_new_tokens: shortcut for `options=GenerationOptions(max_new_tokens=...)`.
            options: how answers are written.
            stream: yield `TextDelta`, `RouteOpened` and `ResultReady` events in the order of the text, `StepDone` for
                each step, and at last an `AnswerDone`; closing the iterator stops the model.

        Raises:
            RouteError: a route that is named is not loaded.
            InputError, ArgumentTypeError: as for `ask`.
        """
        settings = check_options(options, max_new_tokens)
        choice = RouteChoice.of(self._routes, self.model, routes, first_route, max_routes)
        check_planning(planner, max_steps)
        if isinstance(request, list | tuple):
            if stream:
                raise InputError(bad_argument("stream", "False for a list of requests", stream))
            batch = self._batch("request", request, image, None, False, AnswerForm())
            return self._runner.batch(request, batch, settings, choice, max_steps, planner, store)
        check_request("request", request, image)
        conversation = self._conversation(request, self._load(image), None, False, AnswerForm())
        if stream:
            return self._runner.stream(request, conversation, settings, choice, max_steps, planner, store)
        return self._runner.batch([request], [conversation], settings, choice, max_steps, planner, store)[0]

    def _load(self, image: Any) -> list[Image.Image]:
        """None, one image or several -> upright images."""
        if image is None:
            return []
        if isinstance(image, list | tuple):
            return [load_image(item, limits=self._limits, name=f"image[{i}]") for i, item in enumerate(image)]
        return [load_image(image, limits=self._limits)]

    def _batch(
        self, name: str, questions: Sequence[str], image: Any, max_tiles: Any, combine: bool, form: AnswerForm
    ) -> list[Conversation]:
        """One conversation for each question; `name` is the argument's name."""
        if not questions:
            raise InputError(bad_argument(name, f"at least one {name}", questions))
        for index, question in enumerate(questions):
            check_request(f"{name}[{index}]", question, image)
        if isinstance(image, list | tuple):
            if len(image) != len(questions):
                expected = f"{len(questions)} pictures (or lists of pictures), one for each {name}"
                raise InputError(bad_argument("image", expected, f"{len(image)} of them"))
            images = [self._load(item) for item in image]
        else:
            images = [self._load(image)] * len(questions)
        return [
            self._conversation(question, mine, max_tiles, combine, form)
            for question, mine in zip(questions, images, strict=True)
        ]

    def _conversation(
        self, question: str, images: Sequence[Image.Image], max_tiles: Any, combine: bool, form: AnswerForm
    ) -> Conversation:
        return Conversation(
            turns=((with_placeholders(question, len(images), combine=combine), None),),
            images=tuple(images),
            max_tiles=check_tiles(max_tiles, len(images)),
            combine=combine,
            constraint=form.constraint,
        )
