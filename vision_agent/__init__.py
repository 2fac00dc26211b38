"""Detect, segment, read and ask with InternVL: routing tokens to pluggable decoders, typed results.

Everything public is importable from here; other modules may change without notice.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vision_agent._distribution import warn_of_namesake
from vision_agent.documents import Block, Cell, Line, OcrResult, Page, Table, Word
from vision_agent.errors import (
    AdapterMismatchError,
    AnswerError,
    ArgumentTypeError,
    CheckpointError,
    ConfigError,
    DocumentError,
    ExtractionError,
    ImageError,
    ImageTooLargeError,
    InputError,
    MissingExtraError,
    PasswordError,
    PathRefusedError,
    RouteError,
    ToolError,
    UnknownDecoderError,
    UnknownImageError,
    UnsupportedImageError,
    UrlRefusedError,
    VisionAgentError,
)
from vision_agent.generation.options import GenerationOptions
from vision_agent.images.loading import ImageLimits, load_image
from vision_agent.images.store import ImageStore
from vision_agent.planning.events import AgentEvent, StepDone
from vision_agent.planning.plan import Plan, PlannedStep
from vision_agent.planning.result import AgentResult, AgentStep
from vision_agent.plugins.tool import Tool, ToolOutput, ToolResult
from vision_agent.results.answers import Answer, RoutedText
from vision_agent.results.detections import Box, Detection, Detections
from vision_agent.results.events import AnswerDone, AnswerEvent, ResultReady, RouteOpened, TextDelta
from vision_agent.results.generated import GeneratedImage, GeneratedImages
from vision_agent.results.points import Count, Point, Points
from vision_agent.results.segmentation import Mask, Segment, Segmentation
from vision_agent.results.video_segmentation import VideoSegmentation

if TYPE_CHECKING:
    from vision_agent.agent import VisionAgent
    from vision_agent.aio import AsyncChat, AsyncVisionAgent
    from vision_agent.inference.chat import Chat
    from vision_agent.plugins.constraint import Constraint, ConstraintState
    from vision_agent.plugins.decoder import (
        BoxTargets,
        Decoder,
        DecodeRequest,
        DenseFeatures,
        TextDecoder,
        WrittenAnswer,
    )
    from vision_agent.plugins.route import RouteSpec
    from vision_agent.routing.adapter import new_route, save_adapter

__version__ = "0.2.0"

__all__ = [
    "AdapterMismatchError",
    "AgentEvent",
    "AgentResult",
    "AgentStep",
    "Answer",
    "AnswerDone",
    "AnswerError",
    "AnswerEvent",
    "ArgumentTypeError",
    "AsyncChat",
    "AsyncVisionAgent",
    "Block",
    "Box",
    "BoxTargets",
    "Cell",
    "Chat",
    "CheckpointError",
    "ConfigError",
    "Constraint",
    "ConstraintState",
    "Count",
    "DecodeRequest",
    "Decoder",
    "DenseFeatures",
    "Detection",
    "Detections",
    "DocumentError",
    "ExtractionError",
    "GeneratedImage",
    "GeneratedImages",
    "GenerationOptions",
    "ImageError",
    "ImageLimits",
    "ImageStore",
    "ImageTooLargeError",
    "InputError",
    "Line",
    "Mask",
    "MissingExtraError",
    "OcrResult",
    "Page",
    "PasswordError",
    "PathRefusedError",
    "Plan",
    "PlannedStep",
    "Point",
    "Points",
    "ResultReady",
    "RouteError",
    "RouteOpened",
    "RouteSpec",
    "RoutedText",
    "Segment",
    "Segmentation",
    "StepDone",
    "Table",
    "TextDecoder",
    "TextDelta",
    "Tool",
    "ToolError",
    "ToolOutput",
    "ToolResult",
    "UnknownDecoderError",
    "UnknownImageError",
    "UnsupportedImageError",
    "UrlRefusedError",
    "VideoSegmentation",
    "VisionAgent",
    "VisionAgentError",
    "Word",
    "WrittenAnswer",
    "load_image",
    "new_route",
    "save_adapter",
]

# What needs torch loads on first use: errors, results and images must not cost two seconds.
_LAZY = {
    "AsyncChat": "vision_agent.aio",
    "AsyncVisionAgent": "vision_agent.aio",
    "BoxTargets": "vision_agent.plugins.decoder",
    "Chat": "vision_agent.inference.chat",
    "Constraint": "vision_agent.plugins.constraint",
    "ConstraintState": "vision_agent.plugins.constraint",
    "DecodeRequest": "vision_agent.plugins.decoder",
    "Decoder": "vision_agent.plugins.decoder",
    "DenseFeatures": "vision_agent.plugins.decoder",
    "RouteSpec": "vision_agent.plugins.route",
    "TextDecoder": "vision_agent.plugins.decoder",
    "VisionAgent": "vision_agent.agent",
    "WrittenAnswer": "vision_agent.plugins.decoder",
    "new_route": "vision_agent.routing.adapter",
    "save_adapter": "vision_agent.routing.adapter",
}

warn_of_namesake()


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
