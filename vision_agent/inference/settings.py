"""The keyword arguments of verbs as typed dicts, for signatures that pass them on. They are explained at the verbs."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias, TypedDict, TypeVar

from pydantic import BaseModel

from vision_agent.generation.options import GenerationOptions
from vision_agent.images.loading import ImageSource
from vision_agent.images.video import VideoSource
from vision_agent.model.tile_bounds import MultiScale
from vision_agent.results.generated import Progress

Images: TypeAlias = ImageSource | Sequence[ImageSource] | None
"""One image, several, or none."""

Phrases: TypeAlias = str | Iterable[str]
"""One phrase, or several."""

ImageT = TypeVar("ImageT", bound=ImageSource)

Several: TypeAlias = list[ImageT] | tuple[ImageT, ...]
"""Many images, each with a result of its own. Other collections are taken, too."""

CaptionLength: TypeAlias = Literal["short", "normal", "long"]

CAPTION_REQUESTS = {
    "short": ("describe the picture in one short sentence", 48),
    "normal": ("describe the picture", 160),
    "long": ("describe the picture in detail", 768),
}
"""What is asked for a caption of each length, and its most tokens."""


class CaptionSettings(TypedDict, total=False):
    """The settings of `VisionAgent.caption`."""

    length: CaptionLength
    options: GenerationOptions | None


class AskSettings(TypedDict, total=False):
    """The settings of `VisionAgent.ask`."""

    schema: type[BaseModel] | dict[str, Any] | None
    choices: Sequence[str] | None
    combine: bool
    tiles: MultiScale | None
    max_tiles: int | Sequence[int] | None
    max_new_tokens: int | None
    options: GenerationOptions | None


class ChatSettings(TypedDict, total=False):
    """The settings of `Chat.ask`."""

    video: VideoSource | None
    segments: int
    bounds: tuple[float, float] | None
    placed: bool
    tiles: MultiScale | None
    max_tiles: int | Sequence[int] | None
    routes: Sequence[str]
    options: GenerationOptions | None


class GenerateSettings(TypedDict, total=False):
    """The settings of `VisionAgent.generate`."""

    seed: int | None
    steps: int | None
    size: int | tuple[int, int] | None
    guidance: float | None
    negative_prompt: str | None
    progress: Progress | None
