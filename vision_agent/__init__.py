"""Detect, segment, read and ask with InternVL: routing tokens to pluggable decoders, typed results.

Everything public is importable from here; other modules may change without notice.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vision_agent._distribution import warn_of_namesake
from vision_agent.documents import Block, Cell, DocumentNode, KeyValue, Line, OcrResult, Page, Table, Word
from vision_agent.errors import (
    AdapterMismatchError,
    AnnotationError,
    AnswerError,
    ArgumentTypeError,
    BusyError,
    CheckpointError,
    ConfigError,
    DocumentError,
    EngineError,
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
from vision_agent.model.threads import wait_briefly
from vision_agent.planning.plan import Plan, PlannedStep
from vision_agent.planning.result import AgentResult, AgentStep
from vision_agent.planning.run_events import AgentEvent, StepDone
from vision_agent.plugins.embedder import Embedder
from vision_agent.plugins.segmenter import Segmenter
from vision_agent.plugins.tool import Tool, ToolAgent, ToolOutput, ToolResult
from vision_agent.results.answers import Answer, RoutedText, TokenLogprob, TokenScore
from vision_agent.results.box import Box
from vision_agent.results.classification import Classification, LabelScore
from vision_agent.results.detections import Detection, Detections
from vision_agent.results.events import AnswerDone, AnswerEvent, ResultReady, RouteOpened, TextDelta
from vision_agent.results.generated import GeneratedImage, GeneratedImages
from vision_agent.results.points import Count, Point, Points
from vision_agent.results.segmentation import Mask, Segment, Segmentation
from vision_agent.results.tracks import Track, TrackedBox, TrackedObject, TrackedObjects, Tracks
from vision_agent.results.video_segmentation import VideoSegmentation

if TYPE_CHECKING:
    from vision_agent.agent import AsyncVisionAgent, VisionAgent
    from vision_agent.aio import AsyncChat
    from vision_agent.documents.options import OcrOptions, OcrSettings
    from vision_agent.documents.page_reader import PageReader
    from vision_agent.extract.contents import DocumentContents
    from vision_agent.extract.extractor import ExtractSettings
    from vision_agent.extract.question_answering import DocumentAnswer
    from vision_agent.extract.result import Extraction, FieldValue
    from vision_agent.extract.schema_draft import draft_schema
    from vision_agent.images.video import TimedFrame, VideoFrames, sample_frames, stream_frames
    from vision_agent.inference.answering import AnswerPipeline
    from vision_agent.inference.chat import Chat
    from vision_agent.inference.conversation import Conversation
    from vision_agent.inference.find_options import FindSettings, SegmentSettings
    from vision_agent.inference.object_tracker import ObjectTracker
    from vision_agent.inference.second_look import DetectSettings
    from vision_agent.inference.settings import AskSettings, CaptionSettings, ChatSettings, GenerateSettings
    from vision_agent.model.backbone import Backbone
    from vision_agent.model.load_options import LoadSettings
    from vision_agent.planning.options import RunSettings
    from vision_agent.plugins.constraint import Constraint, ConstraintState
    from vision_agent.plugins.decoder import (
        BoxTargets,
        Continuation,
        Decoder,
        DecodeRequest,
        DenseFeatures,
        TextDecoder,
        WrittenAnswer,
    )
    from vision_agent.plugins.route import RouteSpec
    from vision_agent.remote.connection import RemoteSettings
    from vision_agent.remote.engine_info import AdapterVerdict, EngineInfo
    from vision_agent.routing.adapter import Route, new_route, save_adapter
    from vision_agent.search.hits import DuplicateGroup, Duplicates, IndexChanges, SearchHit, SearchResults
    from vision_agent.search.index import Index
    from vision_agent.train.adapter_training import AdapterSample, AdapterTraining, train_adapter

__version__ = "0.2.0"

__all__ = [
    "AdapterMismatchError",
    "AdapterSample",
    "AdapterTraining",
    "AdapterVerdict",
    "AgentEvent",
    "AgentResult",
    "AgentStep",
    "AnnotationError",
    "Answer",
    "AnswerDone",
    "AnswerError",
    "AnswerEvent",
    "AnswerPipeline",
    "ArgumentTypeError",
    "AskSettings",
    "AsyncChat",
    "AsyncVisionAgent",
    "Backbone",
    "Block",
    "Box",
    "BoxTargets",
    "BusyError",
    "CaptionSettings",
    "Cell",
    "Chat",
    "ChatSettings",
    "CheckpointError",
    "Classification",
    "ConfigError",
    "Constraint",
    "ConstraintState",
    "Continuation",
    "Conversation",
    "Count",
    "DecodeRequest",
    "Decoder",
    "DenseFeatures",
    "DetectSettings",
    "Detection",
    "Detections",
    "DocumentAnswer",
    "DocumentContents",
    "DocumentError",
    "DocumentNode",
    "DuplicateGroup",
    "Duplicates",
    "Embedder",
    "EngineError",
    "EngineInfo",
    "ExtractSettings",
    "Extraction",
    "ExtractionError",
    "FieldValue",
    "FindSettings",
    "GenerateSettings",
    "GeneratedImage",
    "GeneratedImages",
    "GenerationOptions",
    "ImageError",
    "ImageLimits",
    "ImageStore",
    "ImageTooLargeError",
    "Index",
    "IndexChanges",
    "InputError",
    "KeyValue",
    "LabelScore",
    "Line",
    "LoadSettings",
    "Mask",
    "MissingExtraError",
    "ObjectTracker",
    "OcrOptions",
    "OcrResult",
    "OcrSettings",
    "Page",
    "PageReader",
    "PasswordError",
    "PathRefusedError",
    "Plan",
    "PlannedStep",
    "Point",
    "Points",
    "RemoteSettings",
    "ResultReady",
    "Route",
    "RouteError",
    "RouteOpened",
    "RouteSpec",
    "RoutedText",
    "RunSettings",
    "SearchHit",
    "SearchResults",
    "Segment",
    "SegmentSettings",
    "Segmentation",
    "Segmenter",
    "StepDone",
    "Table",
    "TextDecoder",
    "TextDelta",
    "TimedFrame",
    "TokenLogprob",
    "TokenScore",
    "Tool",
    "ToolAgent",
    "ToolError",
    "ToolOutput",
    "ToolResult",
    "Track",
    "TrackedBox",
    "TrackedObject",
    "TrackedObjects",
    "Tracks",
    "UnknownDecoderError",
    "UnknownImageError",
    "UnsupportedImageError",
    "UrlRefusedError",
    "VideoFrames",
    "VideoSegmentation",
    "VisionAgent",
    "VisionAgentError",
    "Word",
    "WrittenAnswer",
    "draft_schema",
    "load_image",
    "new_route",
    "sample_frames",
    "save_adapter",
    "stream_frames",
    "train_adapter",
]

# What needs torch loads on first use: errors, results and images must not cost two seconds.
_LAZY = {
    "AdapterSample": "vision_agent.train.adapter_training",
    "AdapterTraining": "vision_agent.train.adapter_training",
    "AdapterVerdict": "vision_agent.remote.engine_info",
    "AnswerPipeline": "vision_agent.inference.answering",
    "AskSettings": "vision_agent.inference.settings",
    "AsyncChat": "vision_agent.aio",
    "AsyncVisionAgent": "vision_agent.agent",
    "Backbone": "vision_agent.model.backbone",
    "BoxTargets": "vision_agent.plugins.decoder",
    "CaptionSettings": "vision_agent.inference.settings",
    "Chat": "vision_agent.inference.chat",
    "ChatSettings": "vision_agent.inference.settings",
    "Constraint": "vision_agent.plugins.constraint",
    "ConstraintState": "vision_agent.plugins.constraint",
    "Continuation": "vision_agent.plugins.decoder",
    "Conversation": "vision_agent.inference.conversation",
    "DecodeRequest": "vision_agent.plugins.decoder",
    "Decoder": "vision_agent.plugins.decoder",
    "DenseFeatures": "vision_agent.plugins.decoder",
    "DetectSettings": "vision_agent.inference.second_look",
    "DocumentAnswer": "vision_agent.extract.question_answering",
    "DocumentContents": "vision_agent.extract.contents",
    "EngineInfo": "vision_agent.remote.engine_info",
    "ExtractSettings": "vision_agent.extract.extractor",
    "Extraction": "vision_agent.extract.result",
    "FieldValue": "vision_agent.extract.result",
    "FindSettings": "vision_agent.inference.find_options",
    "GenerateSettings": "vision_agent.inference.settings",
    "LoadSettings": "vision_agent.model.load_options",
    "ObjectTracker": "vision_agent.inference.object_tracker",
    "OcrOptions": "vision_agent.documents.options",
    "OcrSettings": "vision_agent.documents.options",
    "PageReader": "vision_agent.documents.page_reader",
    "RemoteSettings": "vision_agent.remote.connection",
    "Route": "vision_agent.routing.adapter",
    "RouteSpec": "vision_agent.plugins.route",
    "RunSettings": "vision_agent.planning.options",
    "SegmentSettings": "vision_agent.inference.find_options",
    "TextDecoder": "vision_agent.plugins.decoder",
    "TimedFrame": "vision_agent.images.video",
    "VideoFrames": "vision_agent.images.video",
    "VisionAgent": "vision_agent.agent",
    "WrittenAnswer": "vision_agent.plugins.decoder",
    "draft_schema": "vision_agent.extract.schema_draft",
    "new_route": "vision_agent.routing.adapter",
    "sample_frames": "vision_agent.images.video",
    "save_adapter": "vision_agent.routing.adapter",
    "stream_frames": "vision_agent.images.video",
    "train_adapter": "vision_agent.train.adapter_training",
    "DuplicateGroup": "vision_agent.search.hits",
    "Duplicates": "vision_agent.search.hits",
    "Index": "vision_agent.search.index",
    "IndexChanges": "vision_agent.search.hits",
    "SearchHit": "vision_agent.search.hits",
    "SearchResults": "vision_agent.search.hits",
}

warn_of_namesake()
wait_briefly()


def __getattr__(name: str) -> Any:
    if name == "ray":  # `vision_agent.ray.map(...)`
        return import_module("vision_agent.ray")
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
