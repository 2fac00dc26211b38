"""The tools for LangChain and LangGraph: one `BaseTool` each, and a `VisionToolkit` that makes them.

A tool's message content is compact JSON for the language model; its artifact is the whole result (`Detections`,
`Answer`, ...) for the program. Images stay in the session's store. Refused calls come back as messages that say what
to do instead, so that an agent's loop goes on. Extra `langchain`.
"""

import base64
import io
from collections.abc import Sequence
from typing import Any, Literal

from PIL import Image
from pydantic import ConfigDict, Field, PrivateAttr

from vision_agent.errors import MissingExtraError, ToolError
from vision_agent.images.store import ImageStore
from vision_agent.plugins.tool import Tool, ToolAgent, ToolResult

from ..arguments import read_arguments
from ..toolkit import Toolkit
from ..tracing import image_facts, without_bytes

try:
    from langchain_core.callbacks import (
        AsyncCallbackManagerForToolRun,
        CallbackManagerForToolRun,
        adispatch_custom_event,
        dispatch_custom_event,
    )
    from langchain_core.messages.content import create_image_block, create_text_block
    from langchain_core.tools import BaseTool, BaseToolkit, ToolException
except ImportError as error:
    raise MissingExtraError(
        'these tools need langchain-core: pip install "internvl-vision-agent[langchain]"'
    ) from error

from .checkpoints import kept_by_checkpoints  # it needs langchain-core

_EVENT = "vision_agent.images"
_SHOWN_SIDE = 768  # pixels of the longer side of images that are shown to the language model


class VisionTool(BaseTool):
    """A `vision_agent.Tool` in LangChain's form. Made by `VisionToolkit` and `VisionAgent.tools`.

    Callbacks see an image's id, size and hash, in the custom event `vision_agent.images`, and never its bytes.

    Attributes:
        include_images: images that a call makes follow its text as image blocks.
    """

    response_format: Literal["content", "content_and_artifact"] = "content_and_artifact"
    handle_tool_error: Any = True
    include_images: bool = False
    _toolkit: Toolkit = PrivateAttr()
    _tool: Tool = PrivateAttr()

    def __init__(self, toolkit: Toolkit, tool: Tool, **settings: Any) -> None:
        """Wrap `tool`, to be run by `toolkit`; `settings` are fields of `BaseTool`."""
        super().__init__(
            **{"name": tool.name, "description": tool.description, "args_schema": tool.arguments, **settings}
        )
        self._toolkit = toolkit
        self._tool = tool

    def run(self, *words: Any, **settings: Any) -> Any:
        """Run the tool; the artifact of its message survives a checkpoint."""
        return kept_by_checkpoints(super().run(*words, **settings))

    async def arun(self, *words: Any, **settings: Any) -> Any:
        """Run the tool, awaited; see `run`."""
        return kept_by_checkpoints(await super().arun(*words, **settings))

    def _run(
        self, *words: str, run_manager: CallbackManagerForToolRun | None = None, **arguments: Any
    ) -> tuple[str | list[dict[str, Any]], Any]:
        try:
            result = self._toolkit.call(self._tool.name, self._named(words, arguments))
        except ToolError as error:
            raise ToolException(str(error)) from error
        if run_manager is not None and (facts := self._facts(result)):
            dispatch_custom_event(_EVENT, facts, config={"callbacks": run_manager.get_child()})
        return self._content(result), result.artifact

    async def _arun(
        self, *words: str, run_manager: AsyncCallbackManagerForToolRun | None = None, **arguments: Any
    ) -> tuple[str | list[dict[str, Any]], Any]:
        try:
            result = await self._toolkit.acall(self._tool.name, self._named(words, arguments))
        except ToolError as error:
            raise ToolException(str(error)) from error
        if run_manager is not None and (facts := self._facts(result)):
            await adispatch_custom_event(_EVENT, facts, config={"callbacks": run_manager.get_child()})
        return self._content(result), result.artifact

    def _parse_input(self, tool_input: str | dict[str, Any], tool_call_id: str | None) -> str | dict[str, Any]:
        """Check arguments as in every other framework; they are passed on as they came."""
        named = self._named((tool_input,), {}) if isinstance(tool_input, str) else tool_input
        try:
            read_arguments(self._tool, named)
        except ToolError as error:
            raise ToolException(str(error)) from error
        return tool_input if isinstance(tool_input, str) else dict(tool_input)

    def _named(self, words: Sequence[str], arguments: dict[str, Any]) -> dict[str, Any]:
        """LangChain passes a bare string, for tools of one argument, by position."""
        return {**dict(zip(self._tool.arguments.model_fields, words, strict=False)), **arguments}

    def _filter_injected_args(self, tool_input: dict[str, Any]) -> dict[str, Any]:
        """What callbacks are told of the arguments."""
        shown: dict[str, Any] = without_bytes(super()._filter_injected_args(tool_input))
        return shown

    def _facts(self, result: ToolResult) -> dict[str, Any]:
        store = self._toolkit.store
        seen = result.content.get("image", result.content.get("source"))
        return {
            "tool": self.name,
            "image": image_facts(store.get(seen)) if isinstance(seen, str) and seen in store else None,
            "new_images": [image_facts(store.get(each)) for each in result.images if each in store],
        }

    def _content(self, result: ToolResult) -> str | list[dict[str, Any]]:
        if not (self.include_images and result.images):
            return result.text
        store = self._toolkit.store
        blocks: list[Any] = [create_text_block(result.text)]
        blocks += [_image_block(store.get(each).image) for each in result.images if each in store]
        return blocks


class VisionToolkit(BaseToolkit):
    """All tools of one agent and one session.

    Example:
        >>> toolkit = VisionToolkit.of(agent, store=ImageStore(roots=["photos"]))
        >>> langchain.agents.create_agent(model, toolkit.get_tools())

    Attributes:
        toolkit: runs the tools.
        include_images: images that a tool makes are shown to the language model too, where it can see.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    toolkit: Toolkit = Field(repr=False)
    include_images: bool = False

    @classmethod
    def of(
        cls,
        agent: ToolAgent,
        names: Sequence[str | Tool] | None = None,
        *,
        store: ImageStore | None = None,
        include_images: bool = False,
    ) -> "VisionToolkit":
        """Make a toolkit of an agent's tools; for the arguments see `VisionAgent.tools`."""
        return cls(toolkit=Toolkit(agent, names, store=store), include_images=include_images)

    @property
    def store(self) -> ImageStore:
        """The session's images."""
        return self.toolkit.store

    def get_tools(self) -> list[BaseTool]:
        """Return the tools, in a new list."""
        return [
            VisionTool(self.toolkit, tool, include_images=self.include_images) for tool in self.toolkit.tools.values()
        ]


def _image_block(image: Image.Image) -> Any:
    small = image.copy()
    small.thumbnail((_SHOWN_SIDE, _SHOWN_SIDE))
    file = io.BytesIO()
    small.save(file, "PNG")
    return create_image_block(base64=base64.b64encode(file.getvalue()).decode(), mime_type="image/png")
