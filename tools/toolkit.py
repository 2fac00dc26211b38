"""The tools of one agent and one session: checks arguments, runs tools, bounds results, traces calls.

Frameworks are thin layers over this: what is refused, and how it is said, is the same for all of them.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from vision_agent.aio import in_thread
from vision_agent.errors import (
    ArgumentTypeError,
    InputError,
    MissingExtraError,
    ToolError,
    VisionAgentError,
    bad_argument,
)
from vision_agent.images.store import ImageStore
from vision_agent.plugins.registry import lacking, load_tools
from vision_agent.plugins.tool import Tool, ToolAgent, ToolResult

from .arguments import read_arguments
from .definitions import definition
from .sizing import MAX_BYTES, fit, to_text
from .tracing import call_span, without_bytes


class Toolkit:
    """What an agent can do, as tools that share one session's images. Safe to share between threads and tasks.

    Args:
        agent: does the work.
        names: which tools, by name, or tools of the program's own; None for all that are registered.
        store: the session's images; None for a new session, without folders to read.
        max_bytes: most bytes of a result's text.

    Raises:
        InputError: a name that is not registered, or of a tool that this agent cannot do.
        MissingExtraError: a name of a tool whose packages are not installed.

    Example:
        >>> toolkit = Toolkit(agent, store=ImageStore(roots=["examples/photos"]))
        >>> toolkit.call("detect", {"image": "000000139872.jpg", "phrases": ["dog"]}).content["total"]
        1
    """

    def __init__(
        self,
        agent: ToolAgent,
        names: Sequence[str | Tool] | None = None,
        *,
        store: ImageStore | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        if isinstance(names, str):
            raise ArgumentTypeError(bad_argument("names", "a list of tool names", names))
        if store is not None and not isinstance(store, ImageStore):
            raise ArgumentTypeError(bad_argument("store", "an ImageStore", store))
        if isinstance(max_bytes, bool) or not isinstance(max_bytes, int) or max_bytes < 500:
            raise InputError(bad_argument("max_bytes", "a whole number of at least 500", max_bytes))
        self.agent = agent
        self.store = store if store is not None else ImageStore(limits=agent.image_limits)
        self.max_bytes = max_bytes
        self._tools = _chosen(agent, names)

    @property
    def tools(self) -> dict[str, Tool]:
        """The tools by name, a copy."""
        return dict(self._tools)

    def definitions(self, style: str = "openai") -> list[dict[str, Any]]:
        """Return all tools as a provider's API takes them; `style` as for `tools.definitions.definition`."""
        return [definition(tool, style) for tool in self._tools.values()]

    def call(self, name: str, arguments: Mapping[str, Any] | str | None = None) -> ToolResult:
        """Run a tool with what a language model wrote.

        Args:
            name: of the tool.
            arguments: by name, or their JSON.

        Raises:
            ToolError: an unknown tool, arguments that do not fit, an image that may not or cannot be read, or what
                the verb itself refuses. The message is for the language model.
        """
        tool = self._tools.get(name) if isinstance(name, str) else None
        if tool is None:
            lacks = lacking(name)
            why = f"{name}: {lacks}" if lacks else f"there is no tool {without_bytes(str(name))[:80]!r}"
            raise ToolError(f"{why}; there are: {', '.join(self._tools)}")
        checked = read_arguments(tool, arguments)
        began = time.perf_counter()
        with call_span(tool.name, self.agent.model) as span:
            try:
                output = tool.run(self.agent, self.store, checked)
            except VisionAgentError as error:
                raise ToolError(f"{tool.name}: {error}") from error
            content = output.content.model_dump(mode="json", exclude_none=True)
            seen = content.get("image", content.get("document", content.get("source")))
            span.finished(self.store, seen if isinstance(seen, str) else None, output.images)
        content = fit(content, self.max_bytes)
        return ToolResult(
            tool=tool.name,
            text=to_text(content),
            content=content,
            artifact=output.artifact,
            images=output.images,
            seconds=time.perf_counter() - began,
        )

    async def acall(self, name: str, arguments: Mapping[str, Any] | str | None = None) -> ToolResult:
        """Run `call` in a thread. When cancelled, the model is free again after the token that it is writing."""
        return await in_thread(lambda: self.call(name, arguments))


def _chosen(agent: ToolAgent, names: Sequence[str | Tool] | None) -> dict[str, Tool]:
    if names is None:
        return {name: tool for name, tool in load_tools().items() if tool.available(agent)}
    registered = load_tools() if any(isinstance(name, str) for name in names) else {}
    chosen: dict[str, Tool] = {}
    for name in names:
        tool = name if isinstance(name, Tool) else registered.get(name) if isinstance(name, str) else None
        if tool is None:
            raise InputError(bad_argument("names", f"tools, or names out of {list(registered)}", name))
        if not tool.available(agent):
            if lacks := lacking(tool.name):
                raise MissingExtraError(f"`names` has {tool.name!r}, but {lacks}")
            raise InputError(
                f"`names` has {tool.name!r}, which {agent.model!r} cannot do: it has the routes {sorted(agent.routes)}"
            )
        if tool.name in chosen:
            raise InputError(bad_argument("names", "different tools", tool.name))
        chosen[tool.name] = tool
    return chosen
