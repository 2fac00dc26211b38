"""A Pydantic model from a JSON schema, or from what a command line can name: `package.module:Model`, or a file."""

import datetime
import importlib
import json
import operator
import sys
from decimal import Decimal
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, create_model

from vision_agent.errors import InputError, bad_argument

# Exact in Python, and a number in JSON, as the schema says.
_Number = Annotated[Decimal, PlainSerializer(float, return_type=float, when_used="json")]
_SCALARS: dict[str, Any] = {"string": str, "number": _Number, "integer": int, "boolean": bool, "null": type(None)}
_FORMATS: dict[str, Any] = {"date": datetime.date, "date-time": datetime.datetime, "time": datetime.time}
_DEEPEST = 16  # schemas within schemas; `extract` takes fewer


def load_schema(name: str) -> type[BaseModel]:
    """Load the model that `name` names: a class in a module of the environment or working folder, or a JSON schema.

    Of JSON schemas, what can be extracted is read: objects, arrays, strings (dates and times by their format), numbers
    (as decimals), integers, booleans, enum, const, anyOf and oneOf with null, local $ref, title, description, default.

    Raises:
        InputError: there is no such module, class or file, or it is none that can be extracted.
    """
    expected = "`package.module:Model`, or the path of a .json file with a JSON schema"
    if name.lower().endswith(".json"):
        try:
            schema = json.loads(Path(name).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{bad_argument('schema', expected, name)} ({error})") from error
        return _Reader(schema).model()
    module_name, colon, path = name.partition(":")
    if not (colon and module_name and path):
        raise InputError(bad_argument("schema", expected, name))
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # a console script, unlike `python -m`, does not look there
    try:
        found: Any = importlib.import_module(module_name)
        for part in path.split("."):
            found = getattr(found, part)
    except Exception as error:  # the module is the user's own and may fail in any way
        raise InputError(f"{bad_argument('schema', expected, name)} ({type(error).__name__}: {error})") from error
    if not (isinstance(found, type) and issubclass(found, BaseModel)):
        raise InputError(bad_argument("schema", "a Pydantic model class", name))
    return found


def model_of(schema: dict[str, Any]) -> type[BaseModel]:
    """Make a model of a JSON schema; `load_schema` says what is read of it.

    Raises:
        InputError: it is no schema of an object, or of types that cannot be extracted.
    """
    return _Reader(schema).model()


class _Reader:
    """One JSON schema, read into models."""

    def __init__(self, schema: Any) -> None:
        self._schema = schema

    def model(self) -> type[BaseModel]:
        if not isinstance(self._schema, dict):
            raise InputError(bad_argument("schema", "a JSON schema of an object", self._schema))
        root = self._followed(self._schema)
        if not isinstance(root.get("properties"), dict) or not root["properties"]:
            raise InputError(bad_argument("schema", 'a JSON schema of an object with "properties"', root))
        return self._object(root, str(root.get("title") or "Document"), 0)

    def _object(self, node: dict[str, Any], name: str, depth: int) -> type[BaseModel]:
        required = node.get("required", [])
        fields: dict[str, Any] = {}
        for number, (key, part) in enumerate(node["properties"].items()):
            part = self._followed(part)
            kind = self._type(part, f"{name}.{key}", depth + 1)
            default: Any = ...
            if key not in required:
                default = part.get("default")
                kind = kind | None
            # Any text may be a key of JSON, and few are names in Python: the field is reached by its alias.
            plain = key.isidentifier() and not key.startswith(("_", "model_")) and not hasattr(BaseModel, key)
            info = Field(
                default,
                alias=None if plain else key,
                title=part.get("title"),
                description=part.get("description"),
            )
            fields[key if plain else f"field_{number}"] = (kind, info)
        model = create_model("".join(filter(str.isalnum, name)) or "Document", __config__=_CONFIG, **fields)
        return model

    def _type(self, node: dict[str, Any], where: str, depth: int) -> Any:
        if depth > _DEEPEST:
            raise InputError(bad_argument("schema", "not nested without end", where))
        for key in ("anyOf", "oneOf"):
            if key in node:
                return reduce(operator.or_, [self._type(self._followed(arm), where, depth + 1) for arm in node[key]])
        if "const" in node or "enum" in node:
            return Literal[tuple(node["enum"] if "enum" in node else [node["const"]])]
        kind = node.get("type", "object" if "properties" in node else "string")
        if isinstance(kind, list):
            return reduce(operator.or_, [self._type({**node, "type": each}, where, depth + 1) for each in kind])
        if kind == "object" and node.get("properties"):
            return self._object(node, where, depth)
        if kind == "array":
            return list[self._type(self._followed(node.get("items", {})), f"{where}.item", depth + 1)]  # type: ignore[misc]
        if kind == "string":
            return _FORMATS.get(node.get("format", ""), str)
        if kind not in _SCALARS:
            raise InputError(bad_argument("schema", f"of types that can be extracted, at {where}", node))
        return _SCALARS[kind]

    def _followed(self, node: Any) -> dict[str, Any]:
        """The schema that a local reference points to, with what is said beside the reference."""
        for _ in range(_DEEPEST):
            if not isinstance(node, dict):
                raise InputError(bad_argument("schema", "made of JSON schemas", node))
            reference = node.get("$ref")
            if reference is None and len(node.get("allOf", ())) == 1:
                node = {**node["allOf"][0], **{key: value for key, value in node.items() if key != "allOf"}}
                continue
            if reference is None:
                return node
            target = self._schema
            for part in filter(None, str(reference).removeprefix("#").split("/")):
                key = part.replace("~1", "/").replace("~0", "~")  # RFC 6901
                target = target.get(key) if isinstance(target, dict) else None
            if not isinstance(target, dict) or not str(reference).startswith("#"):
                raise InputError(bad_argument("schema", "with references into itself only", reference))
            node = {**target, **{key: value for key, value in node.items() if key != "$ref"}}
        raise InputError(bad_argument("schema", "not nested without end", node))


_CONFIG = ConfigDict(validate_by_name=True, validate_by_alias=True)
