"""The tools for smolagents: `CodeAgent` and `ToolCallingAgent`. Extra `smolagents`.

A call returns what a language model reads, as a dict, so that an agent that writes code can index it. Refused calls
raise `ToolError`, whose message smolagents shows to its model.
"""

from typing import Any

from vision_agent.errors import MissingExtraError
from vision_agent.plugins.tool import Tool

from .definitions import flat_schema
from .toolkit import Toolkit

try:
    from smolagents import Tool as SmolTool
except ImportError as error:
    raise MissingExtraError('these tools need smolagents: pip install "internvl-vision-agent[smolagents]"') from error


class VisionSmolTool(SmolTool):  # type: ignore[misc]  # smolagents has no types
    """A `vision_agent.Tool` in smolagents' form. Made by `smolagents_tools`."""

    skip_forward_signature_validation = True  # `inputs` describes the arguments
    output_type = "object"

    def __init__(self, toolkit: Toolkit, tool: Tool) -> None:
        """Wrap `tool`, to be run by `toolkit`."""
        schema = flat_schema(tool.arguments)
        optional = set(schema["properties"]) - set(schema.get("required", ()))
        self.name = tool.name
        self.description = tool.description
        self.inputs = {
            name: {"description": "", **part, **({"nullable": True} if name in optional else {})}
            for name, part in schema["properties"].items()
        }
        self._toolkit = toolkit
        super().__init__()

    def forward(self, *words: Any, **arguments: Any) -> dict[str, Any]:
        """Run the tool. Raises ToolError for what `Toolkit.call` refuses."""
        named = dict(zip(self.inputs, words, strict=False)) | arguments
        given = {name: value for name, value in named.items() if value is not None}
        return self._toolkit.call(self.name, given).content


def smolagents_tools(toolkit: Toolkit) -> list[VisionSmolTool]:
    """Return the tools of a session: `CodeAgent(smolagents_tools(Toolkit(agent, store=store)), model)`."""
    return [VisionSmolTool(toolkit, tool) for tool in toolkit.tools.values()]
