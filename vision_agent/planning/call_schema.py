"""The JSON schema of an answer that may call tools, put together of the tools' own schemas."""

from collections.abc import Mapping, Sequence
from typing import Any

from vision_agent.planning.message_rounds import tool_names

_GROUPS = ("$defs", "definitions")
_BY_NAME = ("properties", "patternProperties", *_GROUPS)  # whose keys are the caller's names
_VALUES = ("enum", "const", "default", "examples")  # whose content is no schema


def call_schema(tools: Sequence[dict[str, Any]], choice: str | None) -> dict[str, Any]:
    """Return the schema of an answer with tools: a call of one of them, or, where no call is demanded, words.

    Args:
        tools: as OpenAI has them.
        choice: None where the answer may be words.
    """
    definitions: dict[str, Any] = {}
    forms = []
    for number, (name, tool) in enumerate(zip(tool_names(tools), tools, strict=True)):
        arguments = _closed(tool["function"].get("parameters"))
        forms.append(_object(tool={"const": name}, arguments=_nested(arguments, f"tool{number}", definitions)))
    if choice is None:
        forms.append(_object(answer={"type": "string"}))
    whole = {"anyOf": forms} if len(forms) > 1 else forms[0]
    return {**whole, "$defs": definitions} if definitions else whole


def _nested(schema: dict[str, Any], prefix: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return a schema that means the same inside of another, whose `definitions` take its own.

    References count from the top of the whole: those of a tool are given names that no other tool's have.
    """
    for group in _GROUPS:
        for name, content in (schema.get(group) or {}).items():
            definitions[f"{prefix}.{group}.{name}"] = _renamed(content, prefix)
    own = _renamed({key: value for key, value in schema.items() if key not in _GROUPS}, prefix)
    if not _refers_to_itself(schema):
        nested: dict[str, Any] = own
        return nested
    definitions[prefix] = own
    return {"$ref": f"#/$defs/{prefix}"}


def _renamed(schema: Any, prefix: str) -> Any:
    if isinstance(schema, list):
        return [_renamed(part, prefix) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {key: _renamed_part(key, value, prefix) for key, value in schema.items()}


def _renamed_part(key: str, value: Any, prefix: str) -> Any:
    if key == "$ref" and isinstance(value, str):
        group, _, name = value.removeprefix("#/").partition("/")
        if value == "#":
            return f"#/$defs/{prefix}"
        return f"#/$defs/{prefix}.{group}.{name}" if group in _GROUPS else value
    if key in _VALUES:
        return value
    if key in _BY_NAME and isinstance(value, Mapping):
        return {name: _renamed(part, prefix) for name, part in value.items()}
    return _renamed(value, prefix)


def _refers_to_itself(schema: Any) -> bool:
    if isinstance(schema, list):
        return any(map(_refers_to_itself, schema))
    if not isinstance(schema, Mapping):
        return False
    return schema.get("$ref") == "#" or any(_refers_to_itself(value) for value in schema.values())


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _closed(parameters: dict[str, Any] | None) -> dict[str, Any]:
    """A tool's parameters; one without any takes no keys at all."""
    return {**parameters, "additionalProperties": False} if parameters and parameters.get("properties") else _object()
