"""The contract of a tool: what a language model may call, whatever framework it is called through.

A `Tool` knows no framework. Its forms for LangChain, OpenAI, Anthropic and the agent's own loop are all derived from it
by a toolkit (`vision_agent.tools.toolkit.Toolkit`), which checks arguments, bounds results and traces calls. Tools plug
in through the entry-point group `vision_agent.tools`; built-in and third-party ones alike.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from PIL import Image
from pydantic import BaseModel, ConfigDict

from vision_agent.images.loading import ImageLimits, ImageSource
from vision_agent.images.store import ImageStore
from vision_agent.plugins.segmenter import Segmenter
from vision_agent.results.answers import Answer
from vision_agent.results.detections import Detections
from vision_agent.results.generated import GeneratedImage
from vision_agent.results.points import Count, Points
from vision_agent.results.segmentation import Segmentation
from vision_agent.results.tracks import Tracks


class ToolAgent(Protocol):
    """What a tool may use of the agent that it works with; a `VisionAgent` has all of it, and there it is explained."""

    @property
    def model(self) -> str: ...

    @property
    def routes(self) -> Mapping[str, Any]: ...

    @property
    def image_limits(self) -> ImageLimits: ...

    def detect(
        self, phrase: str | Sequence[str], image: ImageSource, *, threshold: float | None = None
    ) -> Detections: ...

    def point(self, phrase: str | Sequence[str], image: ImageSource, *, threshold: float | None = None) -> Points: ...

    def count(self, phrase: str, image: ImageSource, *, threshold: float | None = None) -> Count: ...

    def track(
        self,
        phrase: str | Sequence[str],
        video: bytes,
        *,
        threshold: float | None = None,
        fps: float | None = None,
        bounds: tuple[float, float] | None = None,
        max_gap: float = 1.0,
    ) -> Tracks: ...

    def segment(
        self,
        phrase: str | Sequence[str],
        image: ImageSource,
        *,
        threshold: float | None = None,
        segmenter: Segmenter | str | Path | None = None,
    ) -> Segmentation: ...

    def run_route(
        self, route: str, phrase: str | Sequence[str], image: ImageSource, *, threshold: float | None = None
    ) -> BaseModel: ...

    def caption(self, image: ImageSource, *, length: Literal["short", "normal", "long"] = "normal") -> Answer: ...

    def ask(self, question: str, image: list[Image.Image], *, choices: Sequence[str] | None = None) -> Answer: ...

    def generate(self, prompt: str, *, seed: int | None = None, steps: int | None = None) -> GeneratedImage: ...

    def edit(
        self, prompt: str, image: ImageSource, *, mask: Image.Image | None = None, seed: int | None = None
    ) -> GeneratedImage: ...

    # An `OcrResult` and an `Extraction`: documents are above plug-ins, so they cannot be named here.

    def ocr(self, source: Image.Image | Path | bytes) -> Any: ...

    def extract(self, document: Image.Image | Path | bytes, schema: type[BaseModel]) -> Any: ...


@dataclass(frozen=True)
class ToolOutput:
    """What a tool's `run` gives.

    Attributes:
        content: what the language model reads; an instance of the tool's `result` model.
        artifact: the whole result, for programs; never images or arrays, which go into the store.
        images: ids of the images that the call made.
    """

    content: BaseModel
    artifact: Any
    images: tuple[str, ...] = ()


def _always(agent: ToolAgent) -> bool:
    return True


@dataclass(frozen=True)
class Tool:
    """One task that a language model may ask for.

    Attributes:
        name: as the model writes it: lower case, digits and underscores.
        description: for the model: when to use it, units, what an empty result means.
        arguments: a Pydantic model with `extra="forbid"` and flat fields; every one with a description.
        result: a Pydantic model of what the language model reads. A long list in it is called `items`, beside
            `next_offset`, so that it can be cut to size.
        run: does the work with the agent, the session's images and the checked arguments.
        available: whether an agent can do it; a tool that cannot work is never offered.
        extra: the extra of this distribution that it needs, such as "ocr". Whoever asks for a tool that is not offered
            for want of it is told how to install it.
        read_only: it makes nothing but new images in the session, and the same call may be made again.
    """

    name: str
    description: str
    arguments: type[BaseModel]
    result: type[BaseModel]
    run: Callable[[ToolAgent, ImageStore, Any], ToolOutput]
    available: Callable[[ToolAgent], bool] = field(default=_always)
    read_only: bool = True
    extra: str | None = None


class ToolResult(BaseModel):
    """The outcome of one call.

    Attributes:
        tool: its name.
        text: what the language model reads: compact JSON, bounded in size.
        content: the same as Python values.
        artifact: the whole result: `Detections`, `Answer`, ...
        images: ids of the images that the call made.
        seconds: how long it took.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    tool: str
    text: str
    content: dict[str, Any]
    artifact: Any = None
    images: tuple[str, ...] = ()
    seconds: float = 0.0
