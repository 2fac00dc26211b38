"""`VisionAgent`: what users call. Its verbs check their arguments and hand over to the rooms below."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, Unpack, overload

import numpy.typing as npt
from pydantic import BaseModel

from vision_agent.aio import (
    AsyncChat,
    AwaitedAsk,
    AwaitedCaption,
    AwaitedClassify,
    AwaitedCount,
    AwaitedDetect,
    AwaitedFind,
    AwaitedOcr,
    AwaitedRun,
    AwaitedSegment,
    DocumentT,
    awaited,
    awaited_or_streamed,
    streamed,
)
from vision_agent.documents.options import OcrOptions, OcrSettings
from vision_agent.documents.reader import DocumentReader
from vision_agent.documents.result import OcrResult, Page
from vision_agent.documents.source import Documents, DocumentSource
from vision_agent.embedding.verbs import EmbedderSource, EmbeddingVerbs, find_embedder
from vision_agent.errors import ArgumentTypeError, InputError, RouteError, bad_argument
from vision_agent.extract.contents import DocumentContents
from vision_agent.extract.extractor import Extractor, ExtractSettings
from vision_agent.extract.question_answering import DocumentAnswer, ask_document, is_document
from vision_agent.extract.result import Extraction
from vision_agent.generation.options import GenerationOptions
from vision_agent.generation.structured import AnswerForm
from vision_agent.images.loading import ImageLimits, ImageSource, load_image
from vision_agent.images.store import ImageStore
from vision_agent.inference.answering import AnswerPipeline
from vision_agent.inference.assembly import AgentParts, assemble
from vision_agent.inference.chat import Chat
from vision_agent.inference.conversation import Conversation, build_batch, load_images
from vision_agent.inference.detail import Detail
from vision_agent.inference.find_options import FindOptions, FindSettings, SegmentSettings
from vision_agent.inference.generation_verbs import GenerationVerbs
from vision_agent.inference.image_cache import check_image_cache_bytes
from vision_agent.inference.image_generation import ImageGenerator, tie_networks
from vision_agent.inference.image_series import is_series, look_at
from vision_agent.inference.second_look import DetectSettings, check_verifiable, detect_verified, looking_again
from vision_agent.inference.settings import (
    CAPTION_REQUESTS,
    AskSettings,
    CaptionLength,
    CaptionSettings,
    Images,
    ImageT,
    Phrases,
    Several,
)
from vision_agent.inference.tile_layout import Tiles
from vision_agent.inference.video_verbs import VideoVerbs
from vision_agent.model.backbone import Backbone
from vision_agent.model.checkpoint import DEFAULT_CHECKPOINT, adapter_folders, load_backbone
from vision_agent.model.devices import release_memory
from vision_agent.model.load_options import LoadSettings
from vision_agent.model.tile_bounds import MultiScale
from vision_agent.planning.options import Planner, RunOptions, RunSettings
from vision_agent.planning.result import AgentResult
from vision_agent.planning.run_events import AgentEvent
from vision_agent.planning.runner import RequestRunner
from vision_agent.planning.tool_calls import SessionTools
from vision_agent.plugins.registry import load_toolkit
from vision_agent.plugins.segmenter import Segmenter
from vision_agent.plugins.tool import Tool, ToolAgent, ToolResult
from vision_agent.remote.connection import Connectable
from vision_agent.results.answers import Answer
from vision_agent.results.detections import Detections
from vision_agent.results.events import AnswerEvent
from vision_agent.results.points import Count, Points
from vision_agent.results.segmentation import Segmentation
from vision_agent.routing.adapter import Route, build_own_route, load_adapter
from vision_agent.routing.policy import RouteChoice
from vision_agent.validation import (
    check_length,
    check_options,
    check_phrase,
    check_phrases,
    check_request,
    check_switch,
    check_threshold,
)

if TYPE_CHECKING:
    from langchain_core.tools import BaseTool

T = TypeVar("T", bound=BaseModel)

_TOOL_CALL_TOKENS = 512  # most tokens of a tool call that the model writes in its own loop


class VisionAgent(EmbeddingVerbs, VideoVerbs, GenerationVerbs, Connectable):
    """Finds objects by phrase, answers questions about images and documents, and chooses between the two by itself.

    `VisionAgent()` runs the small model that ships with the package; `VisionAgent.from_pretrained(...)` any InternVL
    checkpoint. One agent may be shared by threads; calls take turns on the model. `agent.aio` has the same verbs for
    asyncio.

    Example:
        >>> agent = VisionAgent()
        >>> agent.detect("red car", "examples/photos/000000142472.jpg", threshold=0.4).labels
        ['red car']
    """

    def __init__(
        self,
        *,
        image_limits: ImageLimits | None = None,
        image_cache_bytes: int | None = None,
        embedder: EmbedderSource | None = None,
        **settings: Unpack[LoadSettings],
    ) -> None:
        """Load the default model.

        Args:
            image_limits: what images are accepted; also whether `https` addresses are fetched.
            image_cache_bytes: most bytes of encoded images that are kept on the device, so that the next call about
                one of them need not encode it again; 0 keeps none. None has room for eight of the largest, at least
                256 MiB, in at most a sixteenth of the device's memory.
            embedder: what `embed` and `classify` compare images and texts with: the folder of a SigLIP or CLIP, or an
                `Embedder` of your own.
            settings: `device`, `dtype` and more: see `LoadOptions` in `vision_agent.model.load_options`.
        """
        check_image_cache_bytes(image_cache_bytes)
        self._embedder = find_embedder(embedder, settings.get("device", "auto"))
        backbone = load_backbone(DEFAULT_CHECKPOINT, local_files_only=True, **settings)
        self._setup(backbone, adapter_folders(DEFAULT_CHECKPOINT), image_limits, image_cache_bytes)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        adapters: Sequence[str | Path] = (),
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        image_limits: ImageLimits | None = None,
        image_cache_bytes: int | None = None,
        embedder: EmbedderSource | None = None,
        **settings: Unpack[LoadSettings],
    ) -> Self:
        """Load an InternVL checkpoint, native or in the original format. Code of a checkpoint is never run.

        Args:
            name_or_path: a folder, a hub name, or `"default"` for the model in the package.
            adapters: adapter folders, or those of runs; the checkpoint's own, in its `adapters/`, are always loaded.
            cache_dir: folder for downloads.
            local_files_only: never touch the network.
            image_limits: what images are accepted.
            image_cache_bytes, embedder: see `VisionAgent`.
            settings: `device`, `dtype`, `attn_implementation`, `quantization`, `compile`, `device_map`,
                `offload_folder`, `max_memory`, `lora`, `threads`: see `model.load_options.LoadOptions`.

        Raises:
            CheckpointError: the checkpoint or an adapter cannot be loaded.
            AdapterMismatchError: an adapter was trained on another base model.
            ConfigError: a setting that is unknown or that this machine cannot do.
            MissingExtraError: a setting that needs a package which is not installed.
        """
        check_image_cache_bytes(image_cache_bytes)
        source = DEFAULT_CHECKPOINT if name_or_path == "default" else name_or_path
        found = find_embedder(embedder, settings.get("device", "auto"))
        backbone = load_backbone(source, cache_dir=cache_dir, local_files_only=local_files_only, **settings)
        agent = cls.__new__(cls)
        agent._embedder = found
        agent._setup(backbone, [*adapter_folders(Path(source)), *map(Path, adapters)], image_limits, image_cache_bytes)
        return agent

    def _setup(
        self, backbone: Backbone, adapters: Sequence[Path], limits: ImageLimits | None, image_cache_bytes: int | None
    ) -> None:
        routes: dict[str, Route] = {}
        self._join(assemble(backbone, routes, image_cache_bytes), routes, limits)
        for own in backbone.own_routes:
            self._routes[own.spec.name] = build_own_route(own, backbone)
        for folder in (each for path in adapters for each in adapter_folders(path) or [path]):
            self.load_adapter(folder)

    def _join(self, parts: AgentParts, routes: dict[str, Route], limits: ImageLimits | None) -> None:
        self._engine, self._predictor, self._pipeline = parts
        self._backbone, self._routes = self._engine.backbone, routes
        self._limits = limits or ImageLimits()
        self._image_generator = ImageGenerator(self._engine, self._routes)
        self._session = ImageStore(limits=self._limits)
        again = looking_again(self._predictor)
        self._runner = RequestRunner(self._pipeline, self._next_call, self._toolkit, self._limits, again)
        self._document_reader = DocumentReader(self._limits, self._pipeline.ask, self.model)
        ask, parameters = self._pipeline.ask, self._pipeline.parameters
        self._extractor = Extractor(self._document_reader.read, ask, parameters, self._limits)

    @property
    def aio(self) -> "AsyncVisionAgent":
        """The same verbs for asyncio: `await agent.aio.ask(...)`."""
        return AsyncVisionAgent(self)

    def load_adapter(self, folder: str | Path) -> str:
        """Add a route from an adapter folder, in place of one of the same name, and return its name.

        Raises:
            CheckpointError: the adapter cannot be loaded.
            AdapterMismatchError: it was trained on another base model.
        """

        def loaded() -> str:
            route = load_adapter(folder, self._backbone)
            self._routes[route.spec.name] = route
            tie_networks(self._routes)
            self._engine.clear()
            return route.spec.name

        return self._engine.run(loaded)

    def __repr__(self) -> str:
        routes = " ".join(route.spec.token for route in self._routes.values())
        return f"{type(self).__name__}({self.model!r} on {self._backbone.device}, routes: {routes or 'none'})"

    def clear_cache(self) -> None:
        """Forget all encoded images and all prompts that were read, and give their memory back to the system."""
        self._engine.clear()
        release_memory(self._backbone.device)

    @property
    def model(self) -> str:
        """Name of the loaded checkpoint."""
        return self._backbone.name

    @property
    def backbone(self) -> Backbone:
        """The model, its tokenizer and its tiling, for programs that need more than the verbs."""
        return self._backbone

    @property
    def image_limits(self) -> ImageLimits:
        """What images are accepted."""
        return self._limits

    @property
    def answer_pipeline(self) -> AnswerPipeline:
        """What answers whole conversations, for programs that bring their own history."""
        return self._pipeline

    @property
    def routes(self) -> dict[str, Route]:
        """The loaded routes by name, a copy."""
        return dict(self._routes)

    # Find ------------------------------------------------------------------------------------------------------------

    @overload
    def detect(
        self, phrase: Phrases, image: Several[ImageT], **settings: Unpack[DetectSettings]
    ) -> list[Detections]: ...

    @overload
    def detect(self, phrase: Phrases, image: ImageSource, **settings: Unpack[DetectSettings]) -> Detections: ...

    @overload
    def detect(
        self, phrase: Phrases, image: Iterator[ImageT], **settings: Unpack[DetectSettings]
    ) -> Iterator[Detections]: ...

    def detect(
        self,
        phrase: Phrases,
        image: Any,
        *,
        threshold: float | None = None,
        only_known: bool = True,
        tiles: Tiles = None,
        detail: Detail | None = None,
        verify: bool = False,
    ) -> Detections | list[Detections] | Iterator[Detections]:
        """Find objects by phrase.

        A checkpoint with a `[DET]` route answers through it; any other through InternVL's own grounding text. The
        result's `decoder` says which.

        Args:
            phrase: what to find, such as `"red car"`; or several phrases, in a list or with semicolons between them,
                which are asked together and do not influence each other. One that is said twice is asked once.
            image: an image (see `load_image` for the kinds); a list of images; or an iterator of them, which is read
                in groups of eight, as results are asked for.
            threshold: least score, 0-1; None for the value that was best on validation images. What only a tile shows
                needs 0.45 then.
            only_known: a phrase of words that the model was never taught finds nothing, where the model says which
                words it knows; False looks for it all the same.
            tiles: whether the image is looked at in overlapping tiles as well, each of which costs as much as an image.
                None for where it is much larger than the model's view (for the default, over 2,240 pixels or longer
                than 3:1), in at most 32; True for small objects, as sharp as the model sees; False never; a number for
                at most so many. `.tiles` of the result says how many there were.
            detail: how closely the whole image is looked at. The default can look a second time, on a canvas of 640
                pixels, which costs as much as two images more: "auto" does so for images of 320 pixels and more that
                are not looked at in tiles, "high" always, in tiles too, "low" never. Other checkpoints see an image in
                their own tiles, and in one with "low". None for what the scores were fitted with.
            verify: look again at what is found: common names are looked for as well, and a box stays only where none of
                them fits it much better. More of the boxes are right then, and some right ones go: docs/detecting.md.

        Returns:
            boxes in pixels of the upright original, best first within each phrase; empty if nothing is there. A list
            of images gives a list of results, an iterator an iterator. `.unknown_words` are those that the model was
            never taught.

        Raises:
            InputError: an empty or overlong phrase, a threshold outside 0-1, an image that cannot be read; one of
                several is named by its index, `image[3]`.
            ArgumentTypeError: swapped arguments, or values of other types.
        """
        phrases = check_phrases(phrase, image)
        options = FindOptions.of(threshold, only_known, tiles, detail)
        check_switch("verify", verify)
        if verify:
            check_verifiable(self._predictor)
            return look_at(image, self._limits, lambda some: detect_verified(self._predictor, phrases, some, options))
        return look_at(image, self._limits, lambda some: self._predictor.detect_each(phrases, some, options))

    @overload
    def point(self, phrase: Phrases, image: Several[ImageT], **settings: Unpack[FindSettings]) -> list[Points]: ...

    @overload
    def point(self, phrase: Phrases, image: ImageSource, **settings: Unpack[FindSettings]) -> Points: ...

    @overload
    def point(self, phrase: Phrases, image: Iterator[ImageT], **settings: Unpack[FindSettings]) -> Iterator[Points]: ...

    def point(
        self,
        phrase: Phrases,
        image: Any,
        *,
        threshold: float | None = None,
        only_known: bool = True,
        tiles: Tiles = None,
        detail: Detail | None = None,
    ) -> Points | list[Points] | Iterator[Points]:
        """Point at objects by phrase, in one image or several. Takes and raises what `detect` does.

        With a `[SEG]` route a point lies inside the object, at the centre of the largest circle that its mask holds;
        otherwise it is the middle of the box that `detect` finds.
        """
        phrases = check_phrases(phrase, image)
        options = FindOptions.of(threshold, only_known, tiles, detail)
        return look_at(image, self._limits, lambda some: self._predictor.point_each(phrases, some, options))

    @overload
    def count(self, phrase: str, image: Several[ImageT], **settings: Unpack[FindSettings]) -> list[Count]: ...

    @overload
    def count(self, phrase: str, image: ImageSource, **settings: Unpack[FindSettings]) -> Count: ...

    @overload
    def count(self, phrase: str, image: Iterator[ImageT], **settings: Unpack[FindSettings]) -> Iterator[Count]: ...

    def count(
        self,
        phrase: str,
        image: Any,
        *,
        threshold: float | None = None,
        only_known: bool = True,
        tiles: Tiles = None,
        detail: Detail | None = None,
    ) -> Count | list[Count] | Iterator[Count]:
        """Count objects by phrase: the boxes that are sure enough to be counted are found first, then counted.

        All but `phrase` is `detect`'s; the model's own threshold is the one that counted best on validation photos.

        Raises:
            ArgumentTypeError: `phrase` is not one string.
            InputError: several phrases with semicolons between them, and as for `detect`.
        """
        one = check_phrase(phrase, image)
        options = FindOptions.of(threshold, only_known, tiles, detail)
        return look_at(image, self._limits, lambda some: self._predictor.count_each(one, some, options))

    @overload
    def segment(
        self, phrase: Phrases | None, image: Several[ImageT], **settings: Unpack[SegmentSettings]
    ) -> list[Segmentation]: ...

    @overload
    def segment(
        self, phrase: Phrases | None = None, image: ImageSource | None = None, **settings: Unpack[SegmentSettings]
    ) -> Segmentation: ...

    @overload
    def segment(
        self, phrase: Phrases | None, image: Iterator[ImageT], **settings: Unpack[SegmentSettings]
    ) -> Iterator[Segmentation]: ...

    def segment(
        self,
        phrase: Phrases | None = None,
        image: Any = None,
        *,
        boxes: npt.ArrayLike | None = None,
        points: npt.ArrayLike | None = None,
        point_labels: npt.ArrayLike | None = None,
        threshold: float | None = None,
        only_known: bool = True,
        tiles: Tiles = None,
        detail: Detail | None = None,
        segmenter: Segmenter | str | Path | None = None,
    ) -> Segmentation | list[Segmentation] | Iterator[Segmentation]:
        """Return masks of objects, by phrase, by boxes or by points.

        A phrase goes to the model's `[SEG]` route. With `segmenter` it is found by `detect` first, and the segmenter
        makes a mask for each box. `Segmentation.union()` is one mask of all, for what is not counted, such as grass.

        Args:
            phrase: what to segment, or several phrases; None where boxes or points say it.
            image: an image (see `load_image` for the kinds); for a phrase also several, as for `detect`.
            boxes: (n, 4) xyxy in pixels of the upright original, one object each.
            points: (n, 2), one point for each object, or (n, k, 2), k points for each; beside `boxes` they refine them.
            point_labels: 1 for points on the object, 0 for points beside it; all 1 if None.
            threshold: for a phrase, least score of a box, 0-1; None as for `detect`.
            only_known, tiles, detail: for a phrase, as for `detect`.
            segmenter: a SAM checkpoint (see `SamSegmenter.from_pretrained`), which is loaded once, or a `Segmenter`;
                None for the model's own route.

        Returns:
            one segment for each box found or given; empty if a phrase finds nothing. Of each object's points the
            model's own route gives a mask that holds every point on it and none beside it, or none at all;
            `Segment.prompt` says which object it is of.

        Raises:
            RouteError: no `segmenter`, and the model has no `[SEG]` route, or one that takes no boxes and points.
            InputError: neither or both of a phrase and boxes or points, and what `detect` and
                `SamSegmenter.segment` refuse.
            CheckpointError, MissingExtraError: `segmenter` cannot be loaded.
            ArgumentTypeError: values of other types, or no image.
        """
        if image is None:
            raise ArgumentTypeError(bad_argument("image", "an image", image))
        if (phrase is None) == (boxes is None and points is None):
            got = "none of them" if phrase is None else "both"
            raise InputError(f"either `phrase`, or `boxes` or `points`, must be given, but got {got}")
        if phrase is None:
            if is_series(image):
                raise InputError(bad_argument("image", "one image, where there are `boxes` or `points`", image))
            if segmenter is None:
                loaded = load_image(image, limits=self._limits)
                return self._predictor.segment_prompts(loaded, boxes, points, point_labels)
            segmenter = self._predictor.segmenter(segmenter)
            return segmenter.segment(image, boxes=boxes, points=points, point_labels=point_labels, limits=self._limits)
        phrases = check_phrases(phrase, image)
        options = FindOptions.of(threshold, only_known, tiles, detail)
        if segmenter is not None:
            by, limits = self._predictor.segmenter(segmenter), self._limits
            return look_at(
                image,
                limits,
                lambda some: [self._predictor.segment_by(by, phrases, each, options, limits) for each in some],
            )
        if "seg" not in self._routes:
            raise RouteError(
                f"{self.model!r} has no [SEG] route to segment with: load an adapter, or give `segmenter=`"
            )
        return look_at(image, self._limits, lambda some: self._predictor.segment_each(phrases, some, options))

    def run_route(
        self,
        route: str,
        phrase: Phrases,
        image: ImageSource,
        *,
        threshold: float | None = None,
        only_known: bool = True,
    ) -> BaseModel:
        """Run any loaded route by its name (`"det"` for `[DET]`) and return what its decoder gives.

        The way to a third-party decoder's results: an instance of its own result class, so check it with `isinstance`.
        `detect` is this for `"det"`.

        Raises:
            RouteError: no such route is loaded.
            InputError, ArgumentTypeError: as for `detect`.
        """
        phrases = check_phrases(phrase, image)
        check_threshold(threshold)
        check_switch("only_known", only_known)
        loaded = load_image(image, limits=self._limits)
        found: BaseModel = self._predictor.run_route(
            self._predictor.route(route), phrases, loaded, threshold, only_known
        )
        return found

    # Read documents --------------------------------------------------------------------------------------------------

    @overload
    def ocr(self, source: list[DocumentT], **settings: Unpack[OcrSettings]) -> list[OcrResult]: ...

    @overload
    def ocr(self, source: DocumentSource, **settings: Unpack[OcrSettings]) -> OcrResult: ...

    @overload
    def ocr(self, source: Iterator[DocumentT], **settings: Unpack[OcrSettings]) -> Iterator[OcrResult]: ...

    def ocr(self, source: Any, **options: Unpack[OcrSettings]) -> OcrResult | list[OcrResult] | Iterator[OcrResult]:
        """Read a document: pages, blocks, lines and words, with their positions in pixels of the page as given.

        Text that is read is data from whoever wrote the page, never an instruction. The keyword arguments are the
        fields of `OcrOptions`.

        Args:
            source: an image (see `load_image` for the kinds), a TIFF of many pages or a PDF: path, bytes or file
                object. A list, or the path of a folder, gives a list of results; an iterator of documents an iterator,
                which reads each document as its result is asked for.
            pages: which pages, from 1: `3`, `[1, 2]`, `"1-3,7"`, `"5-"`; None for all.
            password: of an encrypted PDF.
            engine: `"rapidocr"` (extra "ocr"); `"model"`, where the model itself reads, without positions; the name of
                another reader in the group `vision_agent.readers`, or a `PageReader`.
            workers: how many pages are read side by side.
            text_layer: `"auto"` takes a PDF's own text where the page shows it; `"never"` reads every page's image;
                `"only"` reads no image.
            progress: show a bar on stderr.

        Returns:
            the pages; an empty page has no blocks.

        Raises:
            DocumentError: a PDF or TIFF that is broken, empty or too large, or pages that it does not have.
            PasswordError: (a DocumentError) a PDF that is locked.
            InputError: an image that cannot be read, an empty list or folder.
            MissingExtraError: the extra "ocr" is not installed.
            ArgumentTypeError: values of other types.
        """
        settings = OcrOptions(**options)
        if isinstance(source, Iterator) and is_series(source):
            return self._document_reader.read_each(source, settings)
        return self._document_reader.read(source, settings)

    def ocr_pages(self, source: Documents, **options: Unpack[OcrSettings]) -> Iterator[Page]:
        """Read a document as `ocr` does, page by page as they are asked for: it takes the memory of a few pages.

        Each page has its `number` and `file`. Raises what `ocr` raises, at the page where it happens.
        """
        return self._document_reader.pages(source, OcrOptions(**options))

    @overload
    def extract(
        self, document: DocumentSource | OcrResult, schema: None = None, **settings: Unpack[ExtractSettings]
    ) -> Extraction[DocumentContents]: ...

    @overload
    def extract(
        self, document: DocumentSource | OcrResult, schema: type[T], **settings: Unpack[ExtractSettings]
    ) -> Extraction[T]: ...

    @overload
    def extract(
        self, document: DocumentSource | OcrResult, schema: dict[str, Any], **settings: Unpack[ExtractSettings]
    ) -> Extraction[BaseModel]: ...

    def extract(self, document: Any, schema: Any = None, **settings: Unpack[ExtractSettings]) -> Extraction[Any]:
        """Fill your own Pydantic model from a document. Values come from the document's words, or not at all.

        Names, aliases, titles and short descriptions of the model's fields say what to look for.

        Args:
            document: as for `ocr`, one document; or the result of `ocr`.
            schema: the model: nested ones, lists of them, optional fields, enums, dates and decimals may be in it; or a
                JSON schema. None gives what stands there, `DocumentContents`: pairs of labels and values, and tables.
            engine: `"layout"` uses labels, positions, types and sums; `"model"` lets the language model read the page;
                `"auto"` takes the model where it is a big one.
            pages: which pages, from 1; None for all.
            password: of an encrypted PDF.
            date_order: `"dmy"` or `"mdy"`, for dates that can be read both ways; None for what the document shows, else
                `"dmy"`.
            decimal_mark: `"."` or `","`, for numbers that can be read both ways; None for what the document shows.
            min_confidence: 0-1; what is less sure counts as not found.

        Returns:
            `.value`, the instance, and `.fields`, where each of its values was read. What the document does not state
            is None, or the field's default, and not `found`.

        Raises:
            ExtractionError: a required field was not found; `.partial` has the rest.
            InputError: a model that nothing can be found for, and what `ocr` refuses.
            ArgumentTypeError: `schema` is no model, `document` no document.
            MissingExtraError: the extra "ocr", or for `engine="model"` the extra "structured", is not installed.
        """
        return self._extractor.extract(document, schema, **settings)

    # Answer ----------------------------------------------------------------------------------------------------------

    @overload
    def ask(self, question: str, image: OcrResult) -> DocumentAnswer: ...

    @overload
    def ask(
        self, question: str, image: Images = None, *, stream: Literal[False] = False, **settings: Unpack[AskSettings]
    ) -> Answer: ...

    @overload
    def ask(
        self, question: str, image: Images = None, *, stream: Literal[True], **settings: Unpack[AskSettings]
    ) -> Iterator[AnswerEvent]: ...

    @overload
    def ask(
        self, question: list[str], image: Images | Sequence[Images] = None, **settings: Unpack[AskSettings]
    ) -> list[Answer]: ...

    @overload
    def ask(
        self, question: str, image: Iterator[ImageT], *, stream: Literal[False] = False, **settings: Unpack[AskSettings]
    ) -> Iterator[Answer]: ...

    def ask(
        self,
        question: str | list[str],
        image: Any = None,
        *,
        schema: type[BaseModel] | dict[str, Any] | None = None,
        choices: Sequence[str] | None = None,
        combine: bool = False,
        tiles: MultiScale | None = None,
        max_tiles: int | Sequence[int] | None = None,
        max_new_tokens: int | None = None,
        options: GenerationOptions | None = None,
        stream: bool = False,
    ) -> Answer | list[Answer] | Iterator[Answer] | Iterator[AnswerEvent]:
        """Answer a question in words. Routing tokens are forbidden: the text is the base model's own.

        Args:
            question: one question; or a list of them, which are answered as one batch.
            image: an image, a list of images that the question is about, or None. An iterator of images gives an
                iterator of answers, one for each, read as they are asked for. Several images are numbered
                `Image-1: <image>` unless the question has `<image>` placeholders of its own. For a list of questions:
                one image for all, or a list with what belongs to each. A PDF, or the result of `ocr`, is a document:
                the answer is a `DocumentAnswer`, which has the page and the box; a small model answers with a piece of
                its text.
            schema: a Pydantic model or JSON schema; the answer is JSON that follows it, and `.value` the instance. A
                model that answers from evidence fills one value, from its word.
            choices: the answer is one of these, as written here in `.value`. `.text` is what the model wrote, in lower
                case where its tokenizer knows no other.
            combine: the tiles of all images form one image to the model, as InternVL's "combined images" do.
            tiles: "multi-scale" shows each image in two tilings that cut in different places; for dense documents.
            max_tiles: most tiles of an image; one number, or one for each image.
            max_new_tokens: shortcut for `options=GenerationOptions(max_new_tokens=...)`.
            options: how the answer is written.
            stream: yield `TextDelta` events and at last an `AnswerDone`; closing the iterator stops the model.

        Raises:
            InputError: an empty question, an image that cannot be read, images and placeholders that differ in
                number, a prompt that does not fit the model's context.
            ArgumentTypeError: swapped arguments, or values of other types.
            AnswerError: a structured answer that did not end within its tokens, or that the model cannot give (in
                words that is a result with `.refused`); scores that are NaN or infinite.
            MissingExtraError: `schema` without the extra "structured", a question about writing without "ocr".
        """
        settings = check_options(options, max_new_tokens)
        if is_document(image):
            if schema is not None or choices is not None or stream or isinstance(question, list | tuple):
                raise InputError(
                    "a document takes one question, without `schema`, `choices` or `stream`; see `extract`"
                )
            check_request("question", question, None)
            return ask_document(question, image, self._extractor, self._pipeline.ask, settings, self.model)
        form = AnswerForm.of(schema, choices, self._backbone, settings)
        bound = self._backbone.bound_of(tiles, max_tiles)
        shown: dict[str, Any] = {"max_tiles": bound, "combine": combine, "constraint": form.constraint}
        if isinstance(image, Iterator) and is_series(image) and not isinstance(question, list | tuple):
            one = check_request("question", question, None)
            if stream:
                raise InputError(bad_argument("stream", "False for an iterator of images", stream))
            return look_at(
                image, self._limits, lambda some: self._pipeline.ask_each(one, some, settings, form, **shown)
            )
        if isinstance(question, list | tuple):
            if stream:
                raise InputError(bad_argument("stream", "False for a list of questions", stream))
            batch = build_batch("question", question, image, self._limits, **shown)
            return self._pipeline.answers(batch, settings, form=form)
        check_request("question", question, image)
        conversation = Conversation.build(question, load_images(image, self._limits), **shown)
        if stream:
            return self._pipeline.stream(conversation, settings, form=form)
        return self._pipeline.answers([conversation], settings, form=form)[0]

    @overload
    def caption(self, image: Several[ImageT], **settings: Unpack[CaptionSettings]) -> list[Answer]: ...

    @overload
    def caption(self, image: ImageSource, **settings: Unpack[CaptionSettings]) -> Answer: ...

    @overload
    def caption(self, image: Iterator[ImageT], **settings: Unpack[CaptionSettings]) -> Iterator[Answer]: ...

    def caption(
        self,
        image: Any,
        *,
        length: CaptionLength = "normal",
        options: GenerationOptions | None = None,
    ) -> Answer | list[Answer] | Iterator[Answer]:
        """Describe an image, or each of several.

        Args:
            image: an image (see `load_image` for the kinds); or a list or an iterator of them, as for `detect`.
            length: one sentence, some sentences, or a detailed description.
            options: how the answer is written; its token limit takes the place of the length's own.

        Raises:
            InputError: another length, or an image that cannot be read.
        """
        check_length(length)
        request, tokens = CAPTION_REQUESTS[length]
        settings = check_options(options or GenerationOptions(max_new_tokens=tokens), None)
        return look_at(image, self._limits, lambda some: self._pipeline.ask_each(request, some, settings))

    def chat(self, *, options: GenerationOptions | None = None) -> Chat:
        """Start a conversation of several rounds, about any number of images, a video, or no image at all."""
        return Chat(self._pipeline, self._limits, check_options(options, None))

    @overload
    def run(
        self,
        request: str,
        image: Images = None,
        *,
        stream: Literal[False] = False,
        **settings: Unpack[RunSettings],
    ) -> AgentResult: ...

    @overload
    def run(
        self, request: str, image: Images = None, *, stream: Literal[True], **settings: Unpack[RunSettings]
    ) -> Iterator[AgentEvent]: ...

    @overload
    def run(
        self, request: list[str], image: Images | Sequence[Images] = None, **settings: Unpack[RunSettings]
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
        verify: bool = False,
        store: ImageStore | None = None,
        max_new_tokens: int | None = None,
        options: GenerationOptions | None = None,
        stream: bool = False,
    ) -> AgentResult | list[AgentResult] | Iterator[AgentEvent]:
        """Let the model decide: it answers in words, or emits routing tokens whose results are in `.routes`.

        One answer may hold several routes; each result is tied to its phrase in the text and to its image. A request
        of several steps ("find every red car and read its plate") is read as a plan and carried out with the agent's
        tools; see `.plan` and `.steps`, and `.refused` for why something was not done.

        Args:
            request: one request; or a list of them, which are answered as one batch.
            image: an image, a list of images that the request is about, or None. For a list of requests: one
                image for all, or a list with what belongs to each.
            routes: names of the routes it may take; None for all that are loaded. The others are forbidden.
            first_route: a route that the answer must take; the only one, unless `routes` allows others after it.
            max_routes: most routing tokens in an answer. With any of these three there is no planning.
            max_steps: most calls of tools.
            planner: "clauses" reads requests of several steps by a small grammar; "model" lets the model call tools
                by itself, which needs a large one (and the extra "structured"); "off" gives one routed answer;
                "auto" is "clauses", with "model" for what it cannot read where the model has a billion parameters.
            verify: look again at boxes that were found, as `detect` does; each round is in `.steps`, with the numbers
                of the boxes that were chosen, which may be none.
            store: the session in which steps put their images; None for one of its own.
            max_new_tokens: shortcut for `options=GenerationOptions(max_new_tokens=...)`.
            options: how answers are written.
            stream: yield `TextDelta`, `RouteOpened` and `ResultReady` events in the order of the text, `StepDone` for
                each step, and at last an `AnswerDone`; closing the iterator stops the model.

        Raises:
            RouteError: a route that is named is not loaded.
            InputError, ArgumentTypeError: as for `ask`.
        """
        written = check_options(options, max_new_tokens)
        choice = RouteChoice.of(self._routes, self.model, routes, first_route, max_routes)
        check_switch("verify", verify)
        if verify:
            check_verifiable(self._predictor)
        settings = RunOptions(written, choice, max_steps, planner, store, verify)
        if isinstance(request, list | tuple):
            if stream:
                raise InputError(bad_argument("stream", "False for a list of requests", stream))
            return self._runner.batch(request, build_batch("request", request, image, self._limits), settings)
        check_request("request", request, image)
        conversation = Conversation.build(request, load_images(image, self._limits))
        if stream:
            return self._runner.stream(request, conversation, settings)
        return self._runner.batch([request], [conversation], settings)[0]

    # Tools -----------------------------------------------------------------------------------------------------------

    def tools(
        self,
        names: Sequence[str | Tool] | None = None,
        *,
        store: ImageStore | None = None,
        include_images: bool = False,
    ) -> "list[BaseTool]":
        """Return LangChain tools, one for each task that this agent can do.

        Args:
            names: which of them, or tools of your own; None for all.
            store: the images of the session and the folders that it may read; None for a new session without folders.
            include_images: images that a tool makes are shown to the language model too, where it can see.

        Raises:
            MissingExtraError: LangChain is not installed.
            InputError: a name that is not registered, or of a tool that this agent cannot do.
        """
        langchain = load_toolkit("langchain")
        tools: list[BaseTool] = langchain.of(self, names, store=store, include_images=include_images).get_tools()
        return tools

    def tool_definitions(
        self, style: Literal["openai", "openai-responses", "anthropic"], names: Sequence[str | Tool] | None = None
    ) -> list[dict[str, Any]]:
        """Return the tools as a provider's API takes them: names, descriptions and JSON schemas.

        Raises:
            InputError: another style, and what `tools` refuses.
        """
        return self._toolkit(None, names).definitions(style)

    def call_tool(
        self, name: str, arguments: Mapping[str, Any] | str | None = None, *, store: ImageStore | None = None
    ) -> ToolResult:
        """Run a tool with the arguments that a language model wrote.

        Args:
            name: of the tool.
            arguments: by name, or their JSON.
            store: the session's images; None for one session that all such calls of this agent share.

        Raises:
            ToolError: the call is refused; the message is for the language model.
        """
        return self._toolkit(self._session if store is None else store).call(name, arguments)

    # Inside ----------------------------------------------------------------------------------------------------------

    def _next_call(self, prompt: str, schema: dict[str, Any]) -> Answer:
        """A turn of the model's own loop."""
        return self.ask(prompt, schema=schema, max_new_tokens=_TOOL_CALL_TOKENS)

    def _toolkit(self, store: ImageStore | None, names: Sequence[str | Tool] | None = None) -> SessionTools:
        """The tools of a session."""
        agent: ToolAgent = self
        tools: SessionTools = load_toolkit("plain")(agent, names, store=store)
        return tools


class AsyncVisionAgent:
    """The verbs of a `VisionAgent`, awaited: `await agent.aio.detect("red car", image)`.

    With `stream=True`, of an iterator of images, and of `ocr_pages`, the awaited result is an async iterator:
    `async for event in await agent.aio.ask(..., stream=True)`. See `vision_agent.aio`.
    """

    def __init__(self, agent: VisionAgent) -> None:
        self._agent = agent
        self.detect: AwaitedDetect = awaited_or_streamed(agent.detect)
        self.point: AwaitedFind[Points] = awaited_or_streamed(agent.point)
        self.count: AwaitedCount = awaited_or_streamed(agent.count)
        self.segment: AwaitedSegment = awaited_or_streamed(agent.segment)
        self.segment_video = awaited(agent.segment_video)
        self.track = awaited(agent.track)
        self.run_route = awaited(agent.run_route)
        self.generate = awaited(agent.generate)
        self.edit = awaited(agent.edit)
        self.ocr: AwaitedOcr = awaited_or_streamed(agent.ocr)
        self.ocr_pages = streamed(agent.ocr_pages)
        self.extract = awaited(agent.extract)
        self.ask: AwaitedAsk = awaited_or_streamed(agent.ask)
        self.caption: AwaitedCaption = awaited_or_streamed(agent.caption)
        self.classify: AwaitedClassify = awaited_or_streamed(agent.classify)
        self.embed = awaited(agent.embed)
        self.run: AwaitedRun = awaited_or_streamed(agent.run)
        self.call_tool = awaited(agent.call_tool)

    def chat(self, *, options: GenerationOptions | None = None) -> AsyncChat:
        """Start a conversation whose `ask` is awaited; see `VisionAgent.chat`."""
        return AsyncChat(self._agent.chat(options=options))
