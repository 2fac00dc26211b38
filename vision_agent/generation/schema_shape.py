"""Whether a value is a JSON schema at all: the kinds of its keywords' values, its depth and its size.

Schemas come from anywhere: from a user, or from another program's tools. This is asked before anything walks through
one, so it does not recurse itself: a dict may contain itself.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

_DEEPEST = 100  # dicts and lists within each other; the grammar's library reads no more
_MOST_VALUES = 100_000
_LARGEST = 10**300  # of bounds, which must fit a float


def schema_fault(schema: Mapping[Any, Any]) -> str | None:
    """Return what is wrong with a schema, in words that follow "but got", or None."""
    level: list[tuple[str, Any, bool]] = [("the top", schema, True)]
    values = 0
    for _ in range(_DEEPEST):
        below: list[tuple[str, Any, bool]] = []
        for where, value, is_schema in level:
            values += 1
            if fault := _fault(value, is_schema):
                return f"{fault} (at {where})"
            below += _parts(where, value, is_schema)
            if values + len(below) > _MOST_VALUES:
                return f"one of more than {_MOST_VALUES} values"
        level = below
        if not level:
            return None
    return f"one with more than {_DEEPEST} objects and lists in each other"


def _parts(where: str, value: Any, is_schema: bool) -> list[tuple[str, Any, bool]]:
    """What is within a value: its place, itself, and whether it is a schema."""
    if isinstance(value, list | tuple):
        return [(f"{where}/{index}", each, False) for index, each in enumerate(value)]
    if not isinstance(value, Mapping):
        return []
    found: list[tuple[str, Any, bool]] = []
    for key, each in value.items():
        place = f"{where}/{str(_SIGNS.get(key, key))[:40]}"[-120:]
        if is_schema and key in _NAMED and isinstance(each, Mapping):
            within = where if key == "properties" else place
            found += [(f"{within}/{str(name)[:40]}"[-120:], part, True) for name, part in each.items()]
        elif is_schema and key in _LISTED and isinstance(each, list | tuple):
            found += [(f"{place}/{index}", part, True) for index, part in enumerate(each)]
        else:
            found.append((place, each, is_schema and key in _INNER))
    return found


def _fault(value: Any, is_schema: bool) -> str | None:
    if is_schema and not isinstance(value, Mapping | bool):
        return _shown(value)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                return f"the key {_shown(key)}, which is no text"
            if fault := _unwritable(key):
                return fault
        for key, each in value.items() if is_schema else ():
            if key in _NAMED and isinstance(each, Mapping) and (fault := _fault(dict.fromkeys(each), False)):
                return fault
            check = _KINDS.get(key)
            if check is not None and not check[0](each):
                return f"{key!r}: {_shown(each)}, which should be {check[1]}"
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value}, which is no number in JSON"
    if isinstance(value, str):
        return _unwritable(value)
    if isinstance(value, int) and abs(value) > _LARGEST:
        return f"{_shown(value)}, which is too large"
    if value is None or isinstance(value, bool | int | float | list | tuple):
        return None
    return f"{_shown(value)}, which JSON cannot hold"


def _unwritable(text: str) -> str | None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"half of a character, {text[error.start]!r}"
    return None


def _shown(value: Any) -> str:
    if isinstance(value, int) and value.bit_length() > 256:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, Mapping | list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:40]}..."


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_object(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _is_full_list(value: Any) -> bool:
    return _is_list(value) and len(value) > 0


def _is_types(value: Any) -> bool:
    return _is_text(value) or (_is_full_list(value) and all(_is_text(each) for each in value))


_NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions"})  # names with schemas
_LISTED = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})  # lists of schemas
_INNER = frozenset({"items", "additionalProperties"})  # one schema
_SIGNS = {"items": "[]", "additionalProperties": "*"}  # in the name of a place
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "type": (_is_types, "the name of a type, or a list of them"),
    "enum": (_is_full_list, "a list of at least one value"),
    "required": (lambda value: _is_list(value) and all(_is_text(each) for each in value), "a list of names"),
    "pattern": (_is_text, "a text"),
    "format": (_is_text, "a text"),
    "$ref": (_is_text, "a text"),
    "multipleOf": (lambda value: _is_number(value) and value > 0, "a number above 0"),
    "uniqueItems": (lambda value: isinstance(value, bool), "true or false"),
    **dict.fromkeys(_NAMED, (_is_object, "an object of names and schemas")),
    **dict.fromkeys(_LISTED, (_is_full_list, "a list of at least one schema")),
    **dict.fromkeys(
        ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
        (_is_count, "a whole number of at least 0"),
    ),
    **dict.fromkeys(
        ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), (_is_number, "a number that fits a float")
    ),
}
