"""Detect, segment, read and ask with InternVL: routing tokens to pluggable decoders, typed results.

Everything public is importable from here; other modules may change without notice.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vision_agent._distribution import warn_of_namesake
from vision_agent.answers.events import (
    AgentEvent,
    AnswerDone,
    AnswerEvent,
    ResultReady,
    RouteOpened,
    StepDone,
    TextDelta,
)
from vision_agent.clips import VideoSegmentation
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
from vision_agent.images import ImageLimits, load_image
from vision_agent.pictures import GeneratedImage, GeneratedImages
from vision_agent.plans.outcome import AgentResult, AgentStep
from vision_agent.plans.plan import Plan, PlannedStep
from vision_agent.points import Count, Point, Points
from vision_agent.results import Answer, Box, Detection, Detections, RoutedText
from vision_agent.segments import Mask, Segment, Segmentation
from vision_agent.store import ImageStore
from vision_agent.text.options import GenerationOptions
from vision_agent.tool import Tool, ToolOutput, ToolResult

if TYPE_CHECKING:
    from vision_agent.adapter import new_route, save_adapter
    from vision_agent.agent import VisionAgent
    from vision_agent.aio import AsyncChat, AsyncVisionAgent
    from vision_agent.answers.chat import Chat
    from vision_agent.decoder import BoxTargets, Decoder, DecodeRequest, DenseFeatures, TextDecoder, WrittenAnswer
    from vision_agent.routing import RouteSpec
    from vision_agent.text.constraint import Constraint, ConstraintState

__version__ = "0.1.0"

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

# What needs torch loads on first use: errors, results and pictures must not cost two seconds.
_LAZY = {
    "AsyncChat": "vision_agent.aio",
    "AsyncVisionAgent": "vision_agent.aio",
    "BoxTargets": "vision_agent.decoder",
    "Chat": "vision_agent.answers.chat",
    "Constraint": "vision_agent.text.constraint",
    "ConstraintState": "vision_agent.text.constraint",
    "DecodeRequest": "vision_agent.decoder",
    "Decoder": "vision_agent.decoder",
    "DenseFeatures": "vision_agent.decoder",
    "RouteSpec": "vision_agent.routing",
    "TextDecoder": "vision_agent.decoder",
    "VisionAgent": "vision_agent.agent",
    "WrittenAnswer": "vision_agent.decoder",
    "new_route": "vision_agent.adapter",
    "save_adapter": "vision_agent.adapter",
}

warn_of_namesake()


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
