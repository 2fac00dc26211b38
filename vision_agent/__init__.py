"""Detect, segment, read and ask with InternVL: routing tokens to pluggable decoders, typed results.

Everything public is importable from here; other modules may change without notice.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vision_agent._distribution import warn_of_namesake
from vision_agent.errors import (
    AdapterMismatchError,
    AnswerError,
    ArgumentTypeError,
    CheckpointError,
    ConfigError,
    ImageError,
    ImageTooLargeError,
    InputError,
    MissingExtraError,
    RouteError,
    UnknownDecoderError,
    UnsupportedImageError,
    UrlRefusedError,
    VisionAgentError,
)
from vision_agent.events import AnswerDone, AnswerEvent, TextDelta
from vision_agent.images import ImageLimits, load_image
from vision_agent.options import GenerationOptions
from vision_agent.points import Count, Point, Points
from vision_agent.results import Answer, Box, Detection, Detections, RoutedText
from vision_agent.segments import Mask, Segment, Segmentation

if TYPE_CHECKING:
    from vision_agent.adapter import new_route, save_adapter
    from vision_agent.agent import VisionAgent
    from vision_agent.aio import AsyncChat, AsyncVisionAgent
    from vision_agent.chat import Chat
    from vision_agent.constraint import Constraint, ConstraintState
    from vision_agent.decoder import BoxTargets, Decoder, DecodeRequest, DenseFeatures, TextDecoder, WrittenAnswer
    from vision_agent.routing import RouteSpec

__version__ = "0.1.0"

__all__ = [
    "AdapterMismatchError",
    "Answer",
    "AnswerDone",
    "AnswerError",
    "AnswerEvent",
    "ArgumentTypeError",
    "AsyncChat",
    "AsyncVisionAgent",
    "Box",
    "BoxTargets",
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
    "GenerationOptions",
    "ImageError",
    "ImageLimits",
    "ImageTooLargeError",
    "InputError",
    "Mask",
    "MissingExtraError",
    "Point",
    "Points",
    "RouteError",
    "RouteSpec",
    "RoutedText",
    "Segment",
    "Segmentation",
    "TextDecoder",
    "TextDelta",
    "UnknownDecoderError",
    "UnsupportedImageError",
    "UrlRefusedError",
    "VisionAgent",
    "VisionAgentError",
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
    "Chat": "vision_agent.chat",
    "Constraint": "vision_agent.constraint",
    "ConstraintState": "vision_agent.constraint",
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
