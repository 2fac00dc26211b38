"""`VisionAgent`: what users call."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Self, Unpack, overload

import numpy.typing as npt
import torch
from PIL import Image
from pydantic import BaseModel

from vision_agent.adapter import Route, load_adapter
from vision_agent.aio import AsyncVisionAgent
from vision_agent.arguments import (
    check_length,
    check_options,
    check_phrases,
    check_request,
    check_threshold,
    check_tiles,
)
from vision_agent.backbone import Backbone
from vision_agent.cache import SeenImage
from vision_agent.chat import Chat
from vision_agent.decoder import DecodeRequest, WrittenAnswer
from vision_agent.errors import ArgumentTypeError, InputError, RouteError, bad_argument
from vision_agent.events import AnswerDone, AnswerEvent, TextDelta
from vision_agent.generation import Written
from vision_agent.geometry import box_area, box_clip
from vision_agent.images import ImageLimits, ImageSource, load_image
from vision_agent.loading import LoadSettings, input_device
from vision_agent.options import GenerationOptions
from vision_agent.points import Count, Points
from vision_agent.prompt import with_placeholders
from vision_agent.registry import load_segmenter, load_text_decoder
from vision_agent.responder import Conversation, Responder, TextStream
from vision_agent.results import Answer, Detections, RoutedText
from vision_agent.router import Emitted, read_emitted, read_forced
from vision_agent.routing import emitted_routes
from vision_agent.segments import Segmentation, Segmenter
from vision_agent.structured import AnswerForm

DEFAULT_CHECKPOINT = Path(__file__).parent / "checkpoints" / "default"

Pictures = ImageSource | Sequence[ImageSource] | None
_GROUNDING_TOKENS = 512  # most tokens of a grounded answer: some thirty boxes
_CAPTIONS = {
    "short": ("describe the picture in one short sentence", 48),
    "normal": ("describe the picture", 160),
    "long": ("describe the picture in detail", 768),
}


class VisionAgent:
    """Sees: finds things by phrase, answers questions, and routes between the two by itself.

    `VisionAgent()` runs the small model that ships with the package; `VisionAgent.from_pretrained(...)` any InternVL
    checkpoint. One agent may be shared by threads; calls take turns on the model. `agent.aio` has the same verbs for
    asyncio.

    Example:
        >>> agent = VisionAgent()
        >>> agent.detect("red car", "examples/photos/000000142472.jpg", threshold=0.4).labels
        ['red car']
    """

    def __init__(self, *, image_limits: ImageLimits | None = None, **settings: Unpack[LoadSettings]) -> None:
        """Load the default model.

        Args:
            image_limits: what pictures are accepted; also whether `https` addresses are fetched.
            settings: `device`, `dtype` and more: see `loading.LoadOptions`.
        """
        backbone = Backbone.from_pretrained(DEFAULT_CHECKPOINT, local_files_only=True, **settings)
        self._setup(backbone, _adapter_folders(DEFAULT_CHECKPOINT), image_limits)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        adapters: Sequence[str | Path] = (),
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        image_limits: ImageLimits | None = None,
        **settings: Unpack[LoadSettings],
    ) -> Self:
        """Load an InternVL checkpoint, native or in the original format. No checkpoint code is ever run.

        Args:
            name_or_path: a folder, a hub name, or `"default"` for the model in the package.
            adapters: adapter folders, one a route; those in the checkpoint's own `adapters/` load by themselves.
            cache_dir: folder for downloads.
            local_files_only: never touch the network.
            image_limits: what pictures are accepted.
            settings: `device`, `dtype`, `attn_implementation`, `quantization`, `compile`, `device_map`,
                `offload_folder`, `max_memory`, `lora`: see `loading.LoadOptions`.

        Raises:
            CheckpointError: the checkpoint or an adapter cannot be loaded.
            AdapterMismatchError: an adapter was trained on another base model.
            ConfigError: a setting that is unknown or that this machine cannot do.
            MissingExtraError: a setting that needs a package which is not installed.
        """
        source = DEFAULT_CHECKPOINT if name_or_path == "default" else name_or_path
        backbone = Backbone.from_pretrained(source, cache_dir=cache_dir, local_files_only=local_files_only, **settings)
        agent = cls.__new__(cls)
        agent._setup(backbone, [*_adapter_folders(Path(source)), *map(Path, adapters)], image_limits)
        return agent

    def _setup(self, backbone: Backbone, adapters: Sequence[Path], limits: ImageLimits | None) -> None:
        self._backbone = backbone
        self._limits = limits or ImageLimits()
        self._responder = Responder(backbone)
        self._routes: dict[str, Route] = {}
        self._segmenters: dict[str, Segmenter] = {}
        for folder in adapters:
            self.load_adapter(folder)

    @property
    def model(self) -> str:
        """Name of the loaded checkpoint."""
        return self._backbone.name

    @property
    def backbone(self) -> Backbone:
        """The model, its tokenizer and its tiling, for programs that need more than the verbs."""
        return self._backbone

    @property
    def aio(self) -> AsyncVisionAgent:
        """The same verbs for asyncio: `await agent.aio.ask(...)`."""
        return AsyncVisionAgent(self)

    @property
    def routes(self) -> dict[str, Route]:
        """The loaded routes by name, a copy."""
        return dict(self._routes)

    def load_adapter(self, folder: str | Path) -> str:
        """Add a route from an adapter folder; a route of the same name is replaced. Returns its name."""
        with self._responder.lock:
            route = load_adapter(folder, self._backbone)
            self._routes[route.spec.name] = route
            self._responder.clear()
        return route.spec.name

    def clear_cache(self) -> None:
        """Forget all encoded pictures and all prompts read."""
        self._responder.clear()

    # Finding -----------------------------------------------------------------------------------------------------

    @overload
    def detect(
        self, phrase: str | Sequence[str], image: list[ImageSource], *, threshold: float | None = None
    ) -> list[Detections]: ...

    @overload
    def detect(
        self, phrase: str | Sequence[str], image: ImageSource, *, threshold: float | None = None
    ) -> Detections: ...

    def detect(
        self,
        phrase: str | Sequence[str],
        image: ImageSource | Sequence[ImageSource],
        *,
        threshold: float | None = None,
    ) -> Detections | list[Detections]:
        """Find things by phrase.

        A checkpoint with a `[DET]` route answers through it; any other through InternVL's own grounding text. The
        result's `decoder` says which.

        Args:
            phrase: what to find, such as `"red car"`; or several phrases, which are asked together and do not
                influence each other.
            image: a picture (see `load_image` for the kinds), or a list of pictures.
            threshold: least score, 0-1; None for the value that was best on validation pictures.

        Returns:
            boxes in pixels of the upright original, best first within each phrase; empty if nothing is there. A list
            of pictures gives a list of results.

        Raises:
            InputError: an empty or overlong phrase, a threshold outside 0-1, a picture that cannot be read.
            ArgumentTypeError: swapped arguments, or values of other types.
        """
        phrases = check_phrases(phrase, image)
        check_threshold(threshold)
        if isinstance(image, list | tuple):
            pictures = [load_image(item, limits=self._limits, name=f"image[{i}]") for i, item in enumerate(image)]
            return [self._detect(phrases, picture, threshold) for picture in pictures]
        return self._detect(phrases, load_image(image, limits=self._limits), threshold)  # type: ignore[arg-type]

    def point(self, phrase: str | Sequence[str], image: ImageSource, *, threshold: float | None = None) -> Points:
        """Point at things by phrase: the middles of the boxes that `detect` finds. Raises what `detect` raises."""
        return Points.from_detections(self._found(phrase, image, threshold))

    def count(self, phrase: str, image: ImageSource, *, threshold: float | None = None) -> Count:
        """Count things by phrase: evidence first (the boxes that `detect` finds), then their number.

        Raises:
            ArgumentTypeError: `phrase` is not one string.
            InputError: as for `detect`.
        """
        check_phrases(phrase, image)
        if not isinstance(phrase, str):
            raise ArgumentTypeError(bad_argument("phrase", "one string", phrase))
        evidence = self._found(phrase, image, threshold)
        return Count(count=len(evidence), phrase=phrase, evidence=evidence)

    def segment(
        self,
        phrase: str | Sequence[str] | None = None,
        image: ImageSource | None = None,
        *,
        boxes: npt.ArrayLike | None = None,
        points: npt.ArrayLike | None = None,
        point_labels: npt.ArrayLike | None = None,
        threshold: float | None = None,
        sam: Segmenter | str | Path,
    ) -> Segmentation:
        """Masks of things, by phrase, by boxes or by points.

        A phrase is found by `detect` first; Segment Anything then makes a mask for each box.

        Args:
            phrase: what to segment, or several phrases; None where boxes or points say it.
            image: a picture (see `load_image` for the kinds).
            boxes: (n, 4) xyxy in pixels of the upright original, one object each.
            points: (n, 2), one point for each object, or (n, k, 2), k points for each; beside `boxes` they refine them.
            point_labels: 1 for points on the object, 0 for points beside it; all 1 if None.
            threshold: for a phrase, least score of a box, 0-1; None as for `detect`.
            sam: a SAM checkpoint (see `SamSegmenter.from_pretrained`), which is loaded once, or anything that segments.

        Returns:
            one segment for each box found or given, or for each object's points; empty if a phrase finds nothing.

        Raises:
            InputError: neither or both of a phrase and boxes or points, and what `detect` and
                `SamSegmenter.segment` refuse.
            CheckpointError, MissingExtraError: `sam` cannot be loaded.
            ArgumentTypeError: values of other types, or no picture.
        """
        if image is None:
            raise ArgumentTypeError(bad_argument("image", "a picture", image))
        if (phrase is None) == (boxes is None and points is None):
            got = "none of them" if phrase is None else "both"
            raise InputError(f"either `phrase`, or `boxes` or `points`, must be given, but got {got}")
        segmenter = self._segmenter(sam)
        if phrase is None:
            return segmenter.segment(image, boxes=boxes, points=points, point_labels=point_labels, limits=self._limits)
        phrases = check_phrases(phrase, image)
        check_threshold(threshold)
        picture = load_image(image, limits=self._limits)
        found = self._detect(phrases, picture, threshold)
        found = found[box_area(box_clip(found.xyxy, found.image_size)) > 0]
        if not found:
            return Segmentation.empty(picture.size, self.model, phrases, decoder=segmenter.name)
        return segmenter.segment(
            picture,
            boxes=[each.box.xyxy for each in found],
            labels=found.labels,
            scores=[each.score for each in found],
            phrases=phrases,
            model=self.model,
            limits=self._limits,
        )

    def force(
        self, route: str, phrase: str | Sequence[str], image: ImageSource, *, threshold: float | None = None
    ) -> Any:
        """Force any loaded route by its name (`"det"` for `[DET]`) and return what its decoder gives.

        The way to a third-party decoder's results; `detect` is this for `"det"`, with a typed result.

        Raises:
            RouteError: no such route is loaded.
            InputError, ArgumentTypeError: as for `detect`.
        """
        phrases = check_phrases(phrase, image)
        check_threshold(threshold)
        return self._forced(self._route(route), phrases, load_image(image, limits=self._limits), threshold)

    # Answering ---------------------------------------------------------------------------------------------------

    @overload
    def ask(
        self,
        question: str,
        image: Pictures = None,
        *,
        schema: type[BaseModel] | dict[str, Any] | None = None,
        choices: Sequence[str] | None = None,
        combine: bool = False,
        max_tiles: int | Sequence[int] | None = None,
        max_new_tokens: int | None = None,
        options: GenerationOptions | None = None,
        stream: Literal[False] = False,
    ) -> Answer: ...

    @overload
    def ask(
        self,
        question: str,
        image: Pictures = None,
        *,
        schema: type[BaseModel] | dict[str, Any] | None = None,
        choices: Sequence[str] | None = None,
        combine: bool = False,
        max_tiles: int | Sequence[int] | None = None,
        max_new_tokens: int | None = None,
        options: GenerationOptions | None = None,
        stream: Literal[True],
    ) -> Iterator[AnswerEvent]: ...

    @overload
    def ask(
        self,
        question: list[str],
        image: Pictures | Sequence[Pictures] = None,
        *,
        schema: type[BaseModel] | dict[str, Any] | None = None,
        choices: Sequence[str] | None = None,
        combine: bool = False,
        max_tiles: int | None = None,
        max_new_tokens: int | None = None,
        options: GenerationOptions | None = None,
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
            image: a picture, a list of pictures that the question is about, or None. Several pictures are numbered
                `Image-1: <image>` unless the question has `<image>` placeholders of its own. For a list of questions:
                one picture for all, or a list with what belongs to each.
            schema: a Pydantic model or JSON schema; the answer is JSON that follows it, and `.value` the instance.
            choices: the answer is one of these, as written here in `.value`. `.text` is what the model wrote, in lower
                case where its tokenizer knows no other.
            combine: the tiles of all pictures form one picture to the model, as InternVL's "combined images" do.
            max_tiles: most tiles of a picture; one number, or one for each picture.
            max_new_tokens: shortcut for `options=GenerationOptions(max_new_tokens=...)`.
            options: how the answer is written.
            stream: yield `TextDelta` events and at last an `AnswerDone`; closing the iterator stops the model.

        Raises:
            InputError: an empty question, a picture that cannot be read, pictures and placeholders that differ in
                number, a prompt that does not fit the model's context.
            ArgumentTypeError: swapped arguments, or values of other types.
            AnswerError: a structured answer that did not end within its tokens.
            MissingExtraError: `schema` without the extra "structured".
        """
        settings = check_options(options, max_new_tokens)
        form = AnswerForm.of(schema, choices, self._backbone, settings)
        if isinstance(question, list | tuple):
            if stream:
                raise InputError(bad_argument("stream", "False for a list of questions", stream))
            return self._answers(self._batch(question, image, max_tiles, combine, form), settings, form)
        check_request("question", question, image)
        conversation = self._conversation(question, self._load(image), max_tiles, combine, form)
        if stream:
            return self._stream(conversation, settings, form)
        return self._answers([conversation], settings, form)[0]

    def caption(
        self,
        image: ImageSource,
        *,
        length: Literal["short", "normal", "long"] = "normal",
        options: GenerationOptions | None = None,
    ) -> Answer:
        """Describe a picture.

        Args:
            length: one sentence, some sentences, or all there is to say.
            options: how the answer is written; its token limit takes the place of the length's own.

        Raises:
            InputError: another length, or a picture that cannot be read.
        """
        check_length(length)
        request, tokens = _CAPTIONS[length]
        picture = load_image(image, limits=self._limits)
        return self.ask(request, picture, options=options or GenerationOptions(max_new_tokens=tokens))

    def chat(self, *, options: GenerationOptions | None = None) -> Chat:
        """A conversation of several rounds, about any number of pictures, a video, or nothing but words."""
        settings = check_options(options, None)
        return Chat(self._responder, self._limits, self._text_only, self._forbidden, settings)

    def run(
        self,
        request: str,
        image: ImageSource,
        *,
        routes: Sequence[str] | None = None,
        max_new_tokens: int | None = None,
        options: GenerationOptions | None = None,
    ) -> Answer:
        """Let the model decide: it answers in words, or emits routing tokens whose results are in `.routes`.

        Args:
            routes: names of the routes it may take; None for all that are loaded. The others are forbidden.

        Raises:
            RouteError: a name in `routes` is not loaded.
            InputError, ArgumentTypeError: as for `ask`.
        """
        check_request("request", request, image)
        settings = check_options(options, max_new_tokens)
        if isinstance(routes, str):
            raise ArgumentTypeError(bad_argument("routes", "a list of names", routes))
        allowed = tuple(self._routes) if routes is None else tuple(routes)
        for name in allowed:
            self._route(name)
        conversation = self._conversation(request, [load_image(image, limits=self._limits)], None, False, AnswerForm())
        with self._responder.lock:
            written, ((seen,),) = self._responder.write([conversation], settings, self._forbidden(allowed))
            shown, routed = self._read_routes(written, seen, settings.stop)
        return _answer(self.model, written, 0, shown, routes=tuple(routed))

    # Inside ------------------------------------------------------------------------------------------------------

    def _route(self, name: str) -> Route:
        if name not in self._routes:
            raise RouteError(
                f"{self.model!r} has no {name!r} route; it has {sorted(self._routes)}. "
                "Load an adapter trained on this checkpoint with `load_adapter(folder)`"
            )
        return self._routes[name]

    def _segmenter(self, sam: Segmenter | str | Path) -> Segmenter:
        if not isinstance(sam, str | Path):
            return sam
        key = str(sam)
        with self._responder.lock:
            if key not in self._segmenters:
                self._segmenters[key] = load_segmenter("sam").from_pretrained(sam, input_device(self._backbone.model))
        return self._segmenters[key]

    def _forbidden(self, allowed: Sequence[str] = ()) -> list[int]:
        return [route.token_id for name, route in self._routes.items() if name not in allowed]

    def _load(self, image: Any) -> list[Image.Image]:
        """None, one picture or several -> upright pictures."""
        if image is None:
            return []
        if isinstance(image, list | tuple):
            return [load_image(item, limits=self._limits, name=f"image[{i}]") for i, item in enumerate(image)]
        return [load_image(image, limits=self._limits)]

    def _batch(
        self, questions: Sequence[str], image: Any, max_tiles: Any, combine: bool, form: AnswerForm
    ) -> list[Conversation]:
        if not questions:
            raise InputError(bad_argument("question", "at least one question", questions))
        for index, question in enumerate(questions):
            check_request(f"question[{index}]", question, image)
        if isinstance(image, list | tuple):
            if len(image) != len(questions):
                expected = f"{len(questions)} pictures (or lists of pictures), one for each question"
                raise InputError(bad_argument("image", expected, f"{len(image)} of them"))
            pictures = [self._load(item) for item in image]
        else:
            pictures = [self._load(image)] * len(questions)
        return [
            self._conversation(question, mine, max_tiles, combine, form)
            for question, mine in zip(questions, pictures, strict=True)
        ]

    def _conversation(
        self, question: str, pictures: Sequence[Image.Image], max_tiles: Any, combine: bool, form: AnswerForm
    ) -> Conversation:
        return Conversation(
            turns=((with_placeholders(question, len(pictures), combine=combine), None),),
            pictures=tuple(pictures),
            max_tiles=check_tiles(max_tiles, len(pictures)),
            combine=combine,
            constraint=form.constraint,
        )

    def _answers(
        self, conversations: Sequence[Conversation], options: GenerationOptions, form: AnswerForm
    ) -> list[Answer]:
        written, _ = self._responder.write(conversations, options, self._forbidden())
        return [self._finished(written, row, options, form) for row in range(len(conversations))]

    def _stream(
        self, conversation: Conversation, options: GenerationOptions, form: AnswerForm
    ) -> Iterator[AnswerEvent]:
        text = TextStream(self._responder, options.stop)
        for written, _ in self._responder.stream(conversation, options, self._forbidden()):
            if new := text.push(written.answers[0]):
                yield TextDelta(text=new)
        answer = self._finished(written, 0, options, form)
        if rest := text.finish(answer.text):
            yield TextDelta(text=rest)
        yield AnswerDone(answer=answer)

    def _text_only(self, written: Written, options: GenerationOptions) -> Answer:
        return self._finished(written, 0, options, AnswerForm())

    def _finished(self, written: Written, row: int, options: GenerationOptions, form: AnswerForm) -> Answer:
        text = self._responder.visible_text(written.answers[row], options.stop)
        return _answer(self.model, written, row, text, value=form.value(text, written.reasons[row]))

    def _prepared(self, seen: SeenImage, route: Route) -> Any:
        if route.spec.name not in seen.prepared:
            with torch.inference_mode():
                maps = seen.encoded.features
                seen.prepared[route.spec.name] = route.decoder.prepare(maps.float())
        return seen.prepared[route.spec.name]

    def _forced(self, route: Route, phrases: tuple[str, ...], picture: Image.Image, threshold: float | None) -> Any:
        with self._responder.lock, torch.inference_mode():
            seen = self._responder.see(picture)
            encoded = seen.encoded
            states_KNC = read_forced(self._backbone, route, encoded.tokens_TC, [len(encoded.tokens_TC)], phrases)
            request = DecodeRequest(phrases, encoded.grid, self.model, threshold)
            return route.decoder.decode(states_KNC.float(), self._prepared(seen, route), request)

    def _found(self, phrase: str | Sequence[str], image: ImageSource, threshold: float | None) -> Detections:
        """`detect` on one picture."""
        phrases = check_phrases(phrase, image)
        check_threshold(threshold)
        return self._detect(phrases, load_image(image, limits=self._limits), threshold)

    def _detect(self, phrases: tuple[str, ...], picture: Image.Image, threshold: float | None) -> Detections:
        if "det" in self._routes:
            route = self._routes["det"]
            found = self._forced(route, phrases, picture, threshold)
            if not isinstance(found, Detections):
                raise RouteError(f"the decoder of {route.spec.token!r} gives {type(found).__name__}, not Detections")
            return found
        return self._ground(phrases, picture, threshold)

    def _ground(self, phrases: tuple[str, ...], picture: Image.Image, threshold: float | None) -> Detections:
        """Boxes by the model's own grounding text, for checkpoints without a `[DET]` route."""
        decoder = load_text_decoder("grounding")(self._backbone)
        conversations = [
            Conversation(
                turns=((with_placeholders(decoder.request(phrase), 1), None),),
                pictures=(picture,),
                max_tiles=(None,),
                constraint=decoder.constraint(phrase),
            )
            for phrase in phrases
        ]
        # A list of boxes that is cut off still holds the boxes before the cut.
        room = min(self._responder.room(conversation) for conversation in conversations)
        options = GenerationOptions(max_new_tokens=max(1, min(_GROUNDING_TOKENS, room)))
        written, seen = self._responder.write(conversations, options, self._forbidden())
        answers = []
        for ids, logprobs in zip(written.answers, written.logprobs, strict=True):
            said = [(token, p) for token, p in zip(ids, logprobs, strict=True) if token not in self._backbone.end_ids]
            tokens, probabilities = zip(*said, strict=True) if said else ((), ())
            answers.append(WrittenAnswer(self._backbone.decode_text(tokens), tuple(tokens), tuple(probabilities)))
        found: Detections = decoder.decode(
            answers, DecodeRequest(phrases, seen[0][0].encoded.grid, self.model, threshold)
        )
        return found

    def _read_routes(self, written: Written, seen: SeenImage, stop: Sequence[str]) -> tuple[str, list[RoutedText]]:
        """The answer's text without its tokens, and the result of each routing token, tied to its phrase in it."""
        by_token = {route.token_id: route for route in self._routes.values()}
        answer = [token for token in written.answers[0] if token not in self._backbone.end_ids]
        found = emitted_routes(answer, {token: route.spec for token, route in by_token.items()})
        emitted = [Emitted(0, index, spec.name) for index, spec in found]
        if emitted:
            written.complete(self._backbone)
        states = read_emitted(self._backbone, self._routes, written.cache, written.mask_BP, written.answers, emitted)
        text, routes, begin = "", [], 0
        for item, states_NC in zip(emitted, states, strict=True):
            phrase = self._backbone.decode_text(answer[begin : item.index]).strip()
            begin = item.index + 1
            start = len(text) + 1 if text else 0
            text = f"{text} {phrase}" if text else phrase
            route = self._routes[item.route]
            request = DecodeRequest((phrase or item.route,), seen.encoded.grid, self.model)
            result = route.decoder.decode(states_NC[None].float(), self._prepared(seen, route), request)
            routes.append(
                RoutedText(
                    token=route.spec.token,
                    phrase=phrase,
                    start=start,
                    end=len(text),
                    detections=result if isinstance(result, Detections) else None,
                )
            )
        rest = self._responder.visible_text(answer[begin:], stop)
        return (f"{text} {rest}".strip() if rest else text), routes


def _answer(model: str, written: Written, row: int, text: str, **more: Any) -> Answer:
    logprobs = written.logprobs[row]
    return Answer(
        text=text,
        finish_reason=written.reasons[row],
        prompt_tokens=written.prompt_tokens[row],
        completion_tokens=len(written.answers[row]),
        confidence=min(1.0, math.exp(sum(logprobs) / max(1, len(logprobs)))),
        model=model,
        **more,
    )


def _adapter_folders(checkpoint: Path) -> list[Path]:
    folder = checkpoint / "adapters"
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
