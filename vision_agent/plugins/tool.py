"""The contract of a tool: what a language model may call, whatever framework it is called through.

A `Tool` knows no framework. Its forms for LangChain, OpenAI, Anthropic and the agent's own loop are all derived from it
by a toolkit (`vision_agent.tools.toolkit.Toolkit`), which checks arguments, bounds results and traces calls. Tools plug
in through the entry-point group `vision_agent.tools`; built-in and third-party ones alike.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from vision_agent.agent import VisionAgent
    from vision_agent.images.store import ImageStore


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


def _always(agent: "VisionAgent") -> bool:
    return True


@dataclass(frozen=True)
class Tool:
    """One thing that a language model may ask for.

    Attributes:
        name: as the model writes it: lower case, digits and underscores.
        description: for the model: when to use it, units, what an empty result means.
        arguments: a Pydantic model with `extra="forbid"` and flat fields; every one with a description.
        result: a Pydantic model of what the language model reads. A long list in it is called `items`, beside
            `next_offset`, so that it can be cut to size.
        run: does the work with the agent, the session's images and the checked arguments.
        available: whether an agent can do it; a tool that cannot work is never offered.
        read_only: it makes nothing but new images in the session, and the same call may be made again.
    """

    name: str
    description: str
    arguments: type[BaseModel]
    result: type[BaseModel]
    run: "Callable[[VisionAgent, ImageStore, Any], ToolOutput]"
    available: "Callable[[VisionAgent], bool]" = field(default=_always)
    read_only: bool = True


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
