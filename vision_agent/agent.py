"""`VisionAgent`: what users call. Loads a model, joins its parts and offers its tools; its verbs are in `verbs`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, Unpack

from vision_agent.aio import AsyncVisionAgent
from vision_agent.documents.reader import DocumentReader
from vision_agent.extract.extractor import Extractor
from vision_agent.images.loading import ImageLimits
from vision_agent.images.store import ImageStore
from vision_agent.inference.answering import AnswerPipeline
from vision_agent.inference.engine import InferenceEngine
from vision_agent.inference.image_generation import ImageGenerator, tie_networks
from vision_agent.inference.onlooker import Onlooker
from vision_agent.inference.predictor import Predictor
from vision_agent.model.backbone import Backbone
from vision_agent.model.checkpoint import DEFAULT_CHECKPOINT, _adapter_folders
from vision_agent.model.load_options import LoadSettings
from vision_agent.planning.runner import RequestRunner
from vision_agent.plugins.registry import load_toolkit
from vision_agent.plugins.tool import Tool, ToolResult
from vision_agent.results.answers import Answer
from vision_agent.routing.adapter import Route, build_own_route, load_adapter
from vision_agent.verbs.answering import AnsweringVerbs
from vision_agent.verbs.drawing import DrawingVerbs
from vision_agent.verbs.finding import FindingVerbs
from vision_agent.verbs.reading import ReadingVerbs

_DECIDING_TOKENS = 512  # most tokens of a tool call


class VisionAgent(FindingVerbs, DrawingVerbs, ReadingVerbs, AnsweringVerbs):
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
            image_limits: what images are accepted; also whether `https` addresses are fetched.
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
            image_limits: what images are accepted.
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
        self._engine = InferenceEngine(backbone)
        self._routes: dict[str, Route] = {}
        self._predictor = Predictor(self._engine, self._routes)
        self._pipeline = AnswerPipeline(
            self._engine, self._routes, Onlooker(self._engine, self._routes, self._predictor)
        )
        self._image_generator = ImageGenerator(self._engine, self._routes)
        self._session: ImageStore | None = None
        self._runner = RequestRunner(self._pipeline, self._decide, self._toolkit, self._limits)
        self._document_reader = DocumentReader(self._limits, self.ask, self.model)
        self._extractor = Extractor(self._document_reader.read, self.ask, self._pipeline.parameters, self._limits)
        for own in backbone.own_routes:
            self._routes[own.spec.name] = build_own_route(own, backbone)
        for folder in adapters:
            self.load_adapter(folder)

    @property
    def aio(self) -> AsyncVisionAgent:
        """The same verbs for asyncio: `await agent.aio.ask(...)`."""
        return AsyncVisionAgent(self)

    def load_adapter(self, folder: str | Path) -> str:
        """Add a route from an adapter folder; a route of the same name is replaced. Returns its name."""
        with self._engine.lock:
            route = load_adapter(folder, self._backbone)
            self._routes[route.spec.name] = route
            tie_networks(self._routes)
            self._engine.clear()
        return route.spec.name

    def clear_cache(self) -> None:
        """Forget all encoded images and all prompts read."""
        self._engine.clear()

    # Tools -------------------------------------------------------------------------------------------------------

    def tools(
        self,
        names: Sequence[str | Tool] | None = None,
        *,
        store: ImageStore | None = None,
        include_images: bool = False,
    ) -> list[Any]:
        """LangChain tools, one for each thing that this agent can do.

        Args:
            names: which of them, or tools of your own; None for all.
            store: the session's images and the folders it may read; None for a new session without folders.
            include_images: images that a tool makes are shown to the language model too, where it can see.

        Raises:
            MissingExtraError: LangChain is not installed.
            InputError: a name that is not registered, or of a tool that this agent cannot do.
        """
        langchain = load_toolkit("langchain")
        tools: list[Any] = langchain.of(self, names, store=store, include_images=include_images).get_tools()
        return tools

    def tool_definitions(
        self, style: Literal["openai", "openai-responses", "anthropic"], names: Sequence[str | Tool] | None = None
    ) -> list[dict[str, Any]]:
        """The tools as a provider's API takes them: names, descriptions and JSON schemas.

        Raises:
            InputError: another style, and what `tools` refuses.
        """
        definitions: list[dict[str, Any]] = load_toolkit("plain")(self, names).definitions(style)
        return definitions

    def call_tool(
        self, name: str, arguments: Mapping[str, Any] | str | None = None, *, store: ImageStore | None = None
    ) -> ToolResult:
        """Run a tool with what a language model wrote.

        Args:
            name: of the tool.
            arguments: by name, or their JSON.
            store: the session's images; None for one session that all such calls of this agent share.

        Raises:
            ToolError: the call is refused; the message is for the language model.
        """
        if store is None:
            with self._engine.lock:
                self._session = store = self._session or ImageStore(limits=self._limits)
        result: ToolResult = load_toolkit("plain")(self, store=store).call(name, arguments)
        return result

    # Inside ------------------------------------------------------------------------------------------------------

    def _decide(self, prompt: str, schema: dict[str, Any]) -> Answer:
        """A turn of the model's own loop."""
        return self.ask(prompt, schema=schema, max_new_tokens=_DECIDING_TOKENS)

    def _toolkit(self, store: ImageStore) -> Any:
        """The tools of a session."""
        return load_toolkit("plain")(self, store=store)
