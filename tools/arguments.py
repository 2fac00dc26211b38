"""What a language model writes as arguments, read once for every tool and every framework.

Models are careless about form, and a list that is searched literally finds nothing, which looks like an answer. So
what can only be meant in one way is taken that way (`null` is "not given", a list may come as its JSON), and all else
is refused with words that the model can act on. Hostile JSON ends here: nothing behind this sees endless nesting,
numbers of thousands of digits, or halves of characters.
"""

import difflib
import json
import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ValidationError

from vision_agent.errors import ToolError
from vision_agent.plugins.tool import Tool

from .definitions import flat_schema
from .tracing import without_bytes

_DEEPEST = 16  # lists and objects within each other
_MOST_VALUES = 20_000
_MOST_CHARACTERS = 64 * 2**20
_LONGEST_NUMBER = 40  # digits
_LONGEST_LITERAL = 20_000  # characters of a list in Python's own form
_NULLS = frozenset({"null", "None"})
_BETWEEN_WORDS = re.compile(r"\s*(?:[;\n]|,(?!\d)|(?<!\d),)\s*")  # not the comma of 1,000
_BETWEEN_NUMBERS = re.compile(r"[\s,;]+")
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
_QUOTED_LIST = re.compile(rf"\[\s*(?:{_QUOTED.pattern})(?:\s*,\s*(?:{_QUOTED.pattern}))*\s*,?\s*\]")
_NUMBERS_ALONE = re.compile(r"[\[(][-+0-9.eE,\s\[\]()]*[\])]")
_ADDRESS = re.compile(r"data:|[A-Za-z][A-Za-z0-9+.-]*://", re.IGNORECASE)


def read_arguments(tool: Tool, arguments: Mapping[str, Any] | str | None) -> BaseModel:
    """Return what a language model wrote as an instance of the tool's `arguments`.

    A list may come as JSON ('["dog", "frisbee"]'), as words with commas, semicolons or lines between them
    ("dog, frisbee"), or as its only item; the items of a real list are taken as they stand. Numbers may come as text,
    and a choice in other letters. `null` is "not given".

    Args:
        tool: the tool.
        arguments: by name, or their JSON.

    Raises:
        ToolError: they cannot be read, or do not fit; the message is for the language model.
    """
    try:
        given = _parsed_object(arguments)
        _check_sizes(given)
        schema = _schema(tool.arguments)
        properties, required = schema.get("properties", {}), schema.get("required", ())
        fitted = {
            key: _fitted(value, properties.get(key, {}), key, optional=key not in required)
            for key, value in given.items()
        }
    except _RefusedError as error:
        raise ToolError(f"{tool.name}: {error}") from error
    try:
        return tool.arguments.model_validate({key: value for key, value in fitted.items() if value is not None})
    except ValidationError as error:
        raise ToolError(_explained(tool, error)) from error


class _RefusedError(Exception):
    """The message, without the tool's name."""


# --- from text


def _parsed_object(arguments: Any) -> dict[str, Any]:
    if isinstance(arguments, str):
        text = arguments
        arguments = _whole_json(text)
        if isinstance(arguments, str) and arguments.lstrip()[:1] == "{":  # written as JSON twice
            arguments = _whole_json(arguments)
    if arguments is None:
        return {}
    if not isinstance(arguments, Mapping):
        raise _RefusedError(f"the arguments must be an object, but got {type(arguments).__name__}")
    return dict(arguments)


def _whole_json(text: str) -> Any:
    expected = "the arguments must be one JSON object"
    if len(text) > _MOST_CHARACTERS:
        raise _RefusedError(f"{expected} of at most {_MOST_CHARACTERS} characters, but got {len(text)}")
    try:
        return _json(text) if text.strip() else None
    except RecursionError as error:
        raise _RefusedError(f"{expected}, but got lists or objects in each other, far too deep") from error
    except ValueError as error:
        raise _RefusedError(f"{expected}, but {_short(str(error))}") from error


def _json(text: str) -> Any:
    """Raises ValueError, also for what Python would read though it is no JSON, and RecursionError."""
    return json.loads(
        text,
        object_pairs_hook=_unique,
        parse_constant=_no_constant,
        parse_int=_number,
        parse_float=_number,
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"{_short(repr(twice))} is there twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number in JSON")


def _number(text: str) -> int | float:
    if len(text) > _LONGEST_NUMBER:
        raise ValueError(f"it has a number of {len(text)} digits, which starts with {text[:12]}")
    if text.lstrip("-").isdigit():
        return int(text)
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text} is too large")
    return number


def _check_sizes(given: dict[str, Any]) -> None:
    """Refuse what the code behind this could stumble over. No recursion: a list may contain itself."""
    level: list[Any] = [given]
    values = 0
    for _ in range(_DEEPEST):
        below: list[Any] = []
        for each in level:
            if isinstance(each, Mapping):
                below += [*each, *each.values()]
            elif isinstance(each, list | tuple | set | frozenset):
                below += each
            else:
                _check_one(each)
            values += 1
            if values + len(below) > _MOST_VALUES:
                raise _RefusedError(f"the arguments have more than {_MOST_VALUES} values; give fewer")
        level = below
    if level:
        raise _RefusedError(f"the arguments have lists or objects in each other, more than {_DEEPEST} deep")


def _check_one(value: Any) -> None:
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            half = value[error.start]
            raise _RefusedError(
                f"a text has half of a character ({half!r}) without its other half: write the character itself"
            ) from error
    if isinstance(value, int) and value.bit_length() > 256:
        raise _RefusedError(f"a number has {value.bit_length()} bits, which is too large")


# --- to the form of a schema


@lru_cache(maxsize=256)
def _schema(arguments: type[BaseModel]) -> dict[str, Any]:
    return flat_schema(arguments)


def _fitted(value: Any, schema: Mapping[str, Any], name: str, *, optional: bool) -> Any:
    """The value in the form that the schema asks for, None where it is not given. What cannot be read stays."""
    schema, kinds = _kinds(schema)
    if "array" in kinds:
        return _listed(value, schema.get("items", {}), name)
    if isinstance(value, bool) and kinds & {"number", "integer"} and "boolean" not in kinds:
        raise _RefusedError(f"`{name}` must be a number, but got {str(value).lower()}")
    if optional and isinstance(value, str):
        free = "string" in kinds and "enum" not in schema
        if value.strip() in _NULLS or not (value.strip() or free):
            return None
    if isinstance(value, str) and "enum" in schema:
        same = [each for each in schema["enum"] if str(each).casefold() == value.strip().casefold()]
        return same[0] if len(same) == 1 else value
    return value


def _kinds(schema: Mapping[str, Any]) -> tuple[Mapping[str, Any], frozenset[str]]:
    """The part of a schema that counts, and its types; a list counts where text is no alternative to it."""
    parts = [part for part in schema.get("anyOf", [schema]) if isinstance(part, Mapping)]
    types: list[tuple[Mapping[str, Any], str]] = []
    for part in parts:
        kind = part.get("type", ())
        types += [(part, each) for each in ([kind] if isinstance(kind, str) else kind) if each != "null"]
    kinds = frozenset(each for _, each in types)
    if "array" in kinds:
        if "string" in kinds:
            return schema, kinds - {"array"}
        return next(part for part, each in types if each == "array"), frozenset({"array"})
    return (types[0][0] if len(types) == 1 else schema), kinds


def _listed(value: Any, items: Mapping[str, Any], name: str) -> Any:
    """A list in any of the forms that models write it in."""
    items, kinds = _kinds(items)
    if isinstance(value, str):
        value = _list_in_text(value, kinds, name)
    if isinstance(value, tuple | set | frozenset):
        value = list(value)
    if not isinstance(value, list):
        return value
    if "array" in kinds:
        return _lists(value, items, name)
    flat: list[Any] = []
    for each in value:
        inner = _in_brackets(each) if isinstance(each, str) else each
        if isinstance(inner, list | tuple):
            flat += inner
        elif each is not None or "string" not in kinds:
            flat.append(each)
    if kinds == {"string"}:  # answers and labels are often numbers
        flat = [str(each) if isinstance(each, int | float) and not isinstance(each, bool) else each for each in flat]
    return flat


def _lists(value: list[Any], items: Mapping[str, Any], name: str) -> list[Any]:
    """A list of lists, such as boxes: a single one may come without its own brackets, or with too many."""
    if value and not any(isinstance(each, list | tuple) or _bracketed(each) for each in value):
        value = [value]
    elif len(value) == 1 and isinstance(value[0], list) and value[0] and all(isinstance(x, list) for x in value[0]):
        value = value[0]
    return [_listed(each, items.get("items", {}), f"{name}[{index}]") for index, each in enumerate(value)]


def _list_in_text(text: str, kinds: frozenset[str], name: str) -> Any:
    text = text.strip()
    if text in _NULLS:
        return None
    numbers = bool(kinds) and not kinds & {"string", "array"}
    if _bracketed(text) or (text[:1] == "(" and "string" not in kinds):
        found = _in_brackets(text)
        if found is None and "array" in kinds:
            found = _in_brackets(f"[{text}]")  # several lists without brackets around them
        if found is None:
            example = "[114, 56, 486, 435]" if numbers else '["dog", "frisbee"]'
            example = "[[114, 56, 486, 435]]" if "array" in kinds else example
            raise _RefusedError(f"`{name}` must be a list such as {example}, but got {_short(repr(text))}")
        return found
    if text[:1] == '"':
        found = _in_brackets(f"[{text}]")
        if isinstance(found, list):
            return _list_in_text(found[0], kinds, name) if len(found) == 1 and _bracketed(found[0]) else found
    if text[:1] == "{":
        raise _RefusedError(f"`{name}` must be a list, but got an object: {_short(repr(text))}")
    if _ADDRESS.match(text):  # a comma is part of it
        return [text]
    if numbers:
        return [part for part in _BETWEEN_NUMBERS.split(text) if part]
    if "array" in kinds:
        found = _in_brackets(f"[{text}]")
        if found is None and _NUMBERS_ALONE.fullmatch(f"[{text}]"):
            found = [part for part in _BETWEEN_NUMBERS.split(text) if part]
        return text if found is None else found
    return [part for part in _BETWEEN_WORDS.split(text) if part.strip()]


def _bracketed(value: Any) -> bool:
    return isinstance(value, str) and value.lstrip()[:1] == "["


def _in_brackets(text: str) -> list[Any] | None:
    """The list that a text says in JSON, or in Python's form; None for other text."""
    text = text.strip()
    if text[:1] not in ("[", "("):
        return None
    try:
        found = _json(text)
    except (ValueError, RecursionError):
        found = _python_list(text)
    return found if isinstance(found, list) else None


def _python_list(text: str) -> list[Any] | None:
    """A list as Python writes it: texts in single quotes, numbers in round brackets. Its own parser can be bombed."""
    if _NUMBERS_ALONE.fullmatch(text):
        try:
            found: list[Any] = _json(re.sub(r",\s*]", "]", text.replace("(", "[").replace(")", "]")))
            return found
        except (ValueError, RecursionError):
            return None
    if len(text) > _LONGEST_LITERAL or not _QUOTED_LIST.fullmatch(text):
        return None
    return [re.sub(r"\\(.)", r"\1", match[0][1:-1]) for match in _QUOTED.finditer(text)]


# --- what is wrong


def _explained(tool: Tool, error: ValidationError) -> str:
    """Explain what is wrong with a call's arguments, to the language model that made it."""
    fields = {field.alias or name: field for name, field in tool.arguments.model_fields.items()}
    wrong = []
    for each in error.errors(include_url=False, include_context=False)[:5]:
        where = _short(_printable(".".join(map(str, each["loc"])) or "the arguments"))
        if each["type"] == "extra_forbidden":
            near = difflib.get_close_matches(where.lower(), fields, 1)
            wrong.append(f"`{where}` is no argument of this tool" + (f" (did you mean `{near[0]}`?)" if near else ""))
        elif each["type"] == "missing":
            wrong.append(f"`{where}` is missing")
        else:
            wrong.append(f"`{where}`: {each['msg']}, but got {_short(without_bytes(repr(each['input'])))}")
    known = ", ".join(f"{name} (required)" if field.is_required() else name for name, field in fields.items())
    return f"{tool.name}: {'; '.join(wrong)}. Its arguments are: {known or 'none'}"


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:60] + "..."


def _printable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()
