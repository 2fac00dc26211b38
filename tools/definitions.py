"""A tool's name, description and JSON schemas, in the forms that providers of language models ask for."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic import BaseModel

from vision_agent.errors import InputError, bad_argument
from vision_agent.plugins.tool import Tool

Style = Literal["openai", "openai-responses", "anthropic"]
_KEPT_TITLES = ("properties", "$defs")  # below these, "title" is a name and not an annotation


def flat_schema(model: type[BaseModel], mode: Literal["validation", "serialization"] = "validation") -> dict[str, Any]:
    """Return the JSON schema of a model without references, titles, and defaults of None."""
    schema = model.model_json_schema(mode=mode)
    flat: dict[str, Any] = _inlined(schema, schema.get("$defs", {}))
    flat.pop("description", None)  # the tool has one
    return flat


def definition(tool: Tool, style: str) -> dict[str, Any]:
    """Return the tool as a provider's API takes it.

    Args:
        style: "openai" (chat completions), "openai-responses" or "anthropic".

    Raises:
        InputError: another style.
    """
    schema = flat_schema(tool.arguments)
    if style == "openai":
        function = {"name": tool.name, "description": tool.description, "parameters": schema}
        return {"type": "function", "function": function}
    if style == "openai-responses":
        return {"type": "function", "name": tool.name, "description": tool.description, "parameters": schema}
    if style == "anthropic":
        return {"name": tool.name, "description": tool.description, "input_schema": schema}
    raise InputError(bad_argument("style", f"one of {list(get_args(Style))}", style))


def _inlined(schema: Any, shared: Mapping[str, Any], *, names: bool = False) -> Any:
    """`names`: the keys of this mapping are names of fields."""
    if isinstance(schema, list):
        return [_inlined(part, shared) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        target = shared[schema["$ref"].removeprefix("#/$defs/")]
        return _inlined({**target, **{key: value for key, value in schema.items() if key != "$ref"}}, shared)
    return {
        key: _inlined(value, shared, names=key in _KEPT_TITLES)
        for key, value in schema.items()
        if names or not (key in ("title", "$defs") or (key == "default" and value is None))
    }
