"""A tool's name, description and JSON schemas, in the forms that providers of language models ask for."""

import json
from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic import BaseModel
from pydantic.errors import PydanticUserError

from vision_agent.errors import InputError, bad_argument, first_line
from vision_agent.plugins.tool import Tool

Style = Literal["openai", "openai-responses", "anthropic"]
_KEPT_TITLES = ("properties", "$defs")  # below these, "title" is a name and not an annotation
# What OpenAI's strict mode takes everywhere; bounds of texts, numbers and lists are told in the description instead.
_STRICT_KEYWORDS = frozenset({"type", "description", "enum", "items", "properties", "anyOf"})
_DEEPEST = 32  # schemas within each other


def flat_schema(model: type[BaseModel], mode: Literal["validation", "serialization"] = "validation") -> dict[str, Any]:
    """Return the JSON schema of a model without references, titles, and defaults of None.

    Raises:
        InputError: a model that has no JSON schema, or one that contains itself.
    """
    try:
        schema = model.model_json_schema(mode=mode)
    except (PydanticUserError, RecursionError) as error:  # also of types that JSON has no words for
        raise InputError(
            bad_argument("arguments", "a model with a JSON schema", f"{model.__name__}: {first_line(error)}")
        ) from error
    flat: dict[str, Any] = _inlined(schema, schema.get("$defs", {}), model.__name__)
    flat.pop("description", None)  # the tool has one
    return flat


def definition(tool: Tool, style: str) -> dict[str, Any]:
    """Return the tool as a provider's API takes it.

    Args:
        style: "openai" (chat completions), "openai-responses" or "anthropic". With "openai-responses" a tool is
            `strict` where its arguments can be: then every argument is required, and `null` stands for one that is not
            given.

    Raises:
        InputError: another style, or arguments that have no flat JSON schema.
    """
    schema = flat_schema(tool.arguments)
    if style == "openai":
        function = {"name": tool.name, "description": tool.description, "parameters": schema}
        return {"type": "function", "function": function}
    if style == "openai-responses":
        # The API takes what does not say for strict, and would rewrite the schema on its own.
        strict = _strict_object(schema)
        return {
            "type": "function",
            "name": tool.name,
            "description": tool.description,
            "parameters": schema if strict is None else strict,
            "strict": strict is not None,
        }
    if style == "anthropic":
        return {"name": tool.name, "description": tool.description, "input_schema": schema}
    raise InputError(bad_argument("style", f"one of {list(get_args(Style))}", style))


def _inlined(schema: Any, shared: Mapping[str, Any], model: str, *, names: bool = False, deep: int = 0) -> Any:
    """`names`: the keys of this mapping are names of fields."""
    if deep > _DEEPEST:
        expected = f"flat: schemas at most {_DEEPEST} deep, and no model that contains itself"
        raise InputError(bad_argument("arguments", expected, model))
    if isinstance(schema, list):
        return [_inlined(part, shared, model, deep=deep + 1) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema and not names:
        target = shared[schema["$ref"].removeprefix("#/$defs/")]
        whole = {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
        return _inlined(whole, shared, model, deep=deep + 1)
    return {
        key: _inlined(value, shared, model, names=key in _KEPT_TITLES and not names, deep=deep + 1)
        for key, value in schema.items()
        if names or not (key in ("title", "$defs") or (key == "default" and value is None))
    }


# --- strict mode


def _strict_object(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """An object as OpenAI's strict mode takes it; None where it cannot be said there, as with keys of any name."""
    properties = schema.get("properties", {})
    if schema.get("additionalProperties", False) is not False or "patternProperties" in schema:
        return None
    strict: dict[str, Any] = {}
    for name, content in properties.items():
        part = _strict(content)
        if part is None:
            return None
        strict[name] = part if name in schema.get("required", ()) else _or_null(part)
    told = {key: schema[key] for key in ("description",) if key in schema}
    return {
        "type": "object",
        **told,
        "properties": strict,
        "required": list(properties),
        "additionalProperties": False,
    }


def _strict(schema: Any) -> dict[str, Any] | None:
    if not isinstance(schema, Mapping):
        return None
    if schema.get("type") == "object":
        return _strict_object(schema)
    kept = {key: value for key, value in schema.items() if key in _STRICT_KEYWORDS}
    if "const" in schema:
        kept["enum"] = [schema["const"]]
    if schema.get("type") == "array":
        items = _strict(schema.get("items"))
        if items is None or "prefixItems" in schema:
            return None
        kept["items"] = items
    if "anyOf" in schema:
        parts = [_strict(part) for part in schema["anyOf"]]
        if None in parts:
            return None
        kept["anyOf"] = parts
    elif "type" not in kept:
        return None
    if told := " ".join(filter(None, [kept.pop("description", ""), _bounds(schema)])):
        kept = {"description": told, **kept}
    return kept


def _bounds(schema: Mapping[str, Any]) -> str:
    """In words, what the schema would say with keywords that strict mode does not know everywhere."""
    words = [f"Default: {json.dumps(schema['default'])}."] if "default" in schema else []
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        words.append(f"From {low:g} to {high:g}.")
    elif low is not None or high is not None:
        words.append(f"At least {low:g}." if low is not None else f"At most {high:g}.")
    for least, most, what in (("minItems", "maxItems", "items"), ("minLength", "maxLength", "characters")):
        few, many = schema.get(least), schema.get(most)
        if few is not None and few == many:
            words.append(f"Exactly {few} {what}.")
        elif many is not None:
            words.append(f"At most {many} {what}.")
    words += [f"{key}: {schema[key]}." for key in ("pattern", "format") if key in schema]
    return " ".join(words)


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """What also takes `null`."""
    if "anyOf" in schema:
        parts = schema["anyOf"]
        return schema if {"type": "null"} in parts else {**schema, "anyOf": [*parts, {"type": "null"}]}
    if schema.get("type") == "object":
        return {"anyOf": [schema, {"type": "null"}]}
    kinds = [schema["type"]] if isinstance(schema["type"], str) else list(schema["type"])
    with_null = {**schema, "type": [*kinds, *([] if "null" in kinds else ["null"])]}
    if "enum" in schema:
        with_null["enum"] = [*schema["enum"], *([] if None in schema["enum"] else [None])]
    return with_null
