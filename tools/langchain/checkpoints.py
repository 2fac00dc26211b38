"""Results in LangGraph's checkpoints: the artifacts of tool messages come back as the types that they were.

A checkpoint holds a message as plain values, its artifact too. So the messages of our tools are of a class that makes
the artifact of them again. LangGraph's serializer warns of classes that it was not told of, and is going to refuse
them (with `LANGGRAPH_STRICT_MSGPACK=true` it does so now): `checkpoint_serializer` tells it of ours.
"""

from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator

from vision_agent.errors import MissingExtraError
from vision_agent.extract.result import Extraction
from vision_agent.plugins.tool import ToolResult
from vision_agent.results.answers import Answer, revived
from vision_agent.results.detections import Detections
from vision_agent.results.points import Count, Points
from vision_agent.results.segmentation import Segmentation

from ..builtin.images import NewImage

try:
    from langchain_core.messages import ToolMessage
except ImportError as error:
    raise MissingExtraError(
        'artifacts in checkpoints need langchain-core: pip install "internvl-vision-agent[langchain]"'
    ) from error

if TYPE_CHECKING:
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

_KINDS: dict[str, type[BaseModel]] = {"extraction": Extraction, "new_image": NewImage}
_NAMED = (Answer, Count, Detections, Extraction, NewImage, Points, Segmentation, ToolResult)
_LATER = (("vision_agent.documents.result", "OcrResult"), ("vision_agent.planning.result", "AgentResult"))


def _result(value: Any) -> Any:
    """The result that a dict is of; all else as it is."""
    kind = value.get("kind") if isinstance(value, dict) else None
    if kind == "agent_result":
        return import_module("vision_agent.planning.result").AgentResult.model_validate(value)
    return _KINDS[kind].model_validate(value) if kind in _KINDS else revived(value)


class VisionToolMessage(ToolMessage):
    """What a tool gave: a `ToolMessage` whose artifact becomes a result again when it is loaded from plain values."""

    artifact: Annotated[Any, BeforeValidator(_result)] = None

    @classmethod
    def lc_id(cls) -> list[str]:
        """Return the name under which LangChain itself keeps it: that of any tool's message."""
        return ToolMessage.lc_id()


def kept_by_checkpoints(output: Any) -> Any:
    """Return a tool's message as a `VisionToolMessage`; anything else as it is."""
    if type(output) is not ToolMessage or output.artifact is None:
        return output
    return VisionToolMessage(**{name: getattr(output, name) for name in ToolMessage.model_fields})


def checkpoint_types() -> list[tuple[str, str]]:
    """Return module and name of every class of ours that a checkpoint may have, as LangGraph lists them."""
    return [*((each.__module__, each.__name__) for each in (VisionToolMessage, *_NAMED)), *_LATER]


def checkpoint_serializer(also: Iterable[tuple[str, str]] = ()) -> "JsonPlusSerializer":
    """Make a serializer for a checkpointer: `InMemorySaver(serde=checkpoint_serializer())`.

    Args:
        also: module and name of classes of the program's own.

    Raises:
        MissingExtraError: LangGraph is not installed.
    """
    try:
        from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
    except ImportError as error:
        raise MissingExtraError("checkpoints need LangGraph: pip install langgraph") from error
    return JsonPlusSerializer(allowed_msgpack_modules=[*checkpoint_types(), *also])
