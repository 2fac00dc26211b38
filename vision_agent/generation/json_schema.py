"""JSON schemas that answers can be decoded under: what is supported, and how it is narrowed to what always validates.

A schema says what is valid; a grammar must also end and be read back. So objects get no keys beside their own,
integers fit 64 bits, numbers are what a float holds to the unit, and formats such as dates become patterns all of whose
matches parse: a calendar without a 30th of February. What a grammar cannot promise is refused beforehand.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUserError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from vision_agent.errors import ArgumentTypeError, InputError, bad_argument
from vision_agent.generation.schema_shape import schema_fault

_SUPPORTED = (
    "made of objects, arrays, tuples, strings (length, pattern, common formats), numbers, booleans, null, enum, const, "
    "anyOf, allOf and local $ref"
)
_ANNOTATIONS = frozenset(
    "title description default examples deprecated readOnly writeOnly discriminator $schema $id $comment".split()
)
_TYPES = frozenset("object array string number integer boolean null".split())
_KEYWORDS = frozenset(
    "$defs definitions $ref type enum const anyOf oneOf allOf properties required additionalProperties minProperties "
    "maxProperties patternProperties items prefixItems minItems maxItems minLength maxLength pattern format minimum "
    "maximum exclusiveMinimum exclusiveMaximum multipleOf".split()
)
_INTEGER_BOUNDS = (-(10**18), 10**18)
_NUMBER_BOUNDS = (-(10**15), 10**15)

_LEAP_CENTURY_OR_YEAR = "(?:0[48]|[2468][048]|[13579][26])"
_DATE = (
    "(?:(?:[0-9]{3}[1-9]|[0-9]{2}[1-9][0-9]|[0-9][1-9][0-9]{2}|[1-9][0-9]{3})-"
    "(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|"
    "02-(?:0[1-9]|1[0-9]|2[0-8]))|"
    f"(?:[0-9]{{2}}{_LEAP_CENTURY_OR_YEAR}|{_LEAP_CENTURY_OR_YEAR}00)-02-29)"
)
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?"
_OFFSET = "(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_LABEL = "[a-z0-9]{1,20}(?:-[a-z0-9]{1,20})?"
_HOST = rf"{_LABEL}(?:\.{_LABEL}){{0,3}}\.[a-z]{{2,10}}"
_PATTERNS = {
    "date": _DATE,
    "time": f"{_TIME}{_OFFSET}",
    "date-time": f"{_DATE}T{_TIME}{_OFFSET}",
    "duration": "P(?:[0-9]{1,4}D|(?:[0-9]{1,4}D)?T[0-9]{1,4}[HMS])",
    "email": rf"[a-z0-9]{{1,20}}(?:[._-][a-z0-9]{{1,20}}){{0,2}}@{_HOST}",
    "uri": rf"https?://{_HOST}(?:/[A-Za-z0-9._~-]{{0,40}}){{0,8}}",
    "uuid": "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    **{
        f"uuid{version}": f"[0-9a-f]{{8}}-[0-9a-f]{{4}}-{version}[0-9a-f]{{3}}-[89ab][0-9a-f]{{3}}-[0-9a-f]{{12}}"
        for version in range(1, 9)
    },
}
# Formats that the grammar's library knows well enough, and those that any text satisfies.
_KNOWN_FORMATS = frozenset({"ipv4", "ipv6", "hostname"})
_FREE_FORMATS = frozenset({"path", "binary", "password"})


@dataclass(frozen=True)
class PreparedSchema:
    """A schema ready to be a grammar.

    Attributes:
        schema: plain JSON schema.
        growth: an upper bound, in bytes, on what a value that need not be there adds to the shortest ending.
        text_growth: the same for what is written inside of a string, whose pattern or choices may oblige to more.
    """

    schema: dict[str, Any]
    growth: int
    text_growth: int


def prepare_schema(schema: object) -> PreparedSchema:
    """Check a Pydantic model class or a JSON schema, and narrow it as the module's docstring says.

    Raises:
        ArgumentTypeError: `schema` is neither.
        InputError: it uses a type, keyword or format that no grammar here can promise; the message says where.
    """
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        try:
            content = schema.model_json_schema(schema_generator=_ParsedSchema)
        except PydanticUserError as error:
            raise _unsupported(str(error).splitlines()[0], schema.__name__) from error
        return _prepared(content, whole_unions=True)
    if isinstance(schema, Mapping):
        return _prepared(schema, whole_unions=False)
    raise ArgumentTypeError(bad_argument("schema", "a Pydantic model class or a JSON schema as a dict", schema))


def _prepared(content: Mapping[str, Any], *, whole_unions: bool) -> PreparedSchema:
    if fault := schema_fault(content):
        raise InputError(bad_argument("schema", "a JSON schema", fault))
    try:
        return _Preparation(dict(content), whole_unions=whole_unions).prepared()
    except RecursionError as error:  # a long chain of references
        raise InputError(bad_argument("schema", _SUPPORTED, "references in each other, far too deep")) from error


def _unsupported(what: str, where: str) -> InputError:
    return InputError(bad_argument("schema", _SUPPORTED, f"{what} (at {where})"))


class _ParsedSchema(GenerateJsonSchema):
    """Pydantic's schema of a model, narrowed where it allows text that the model itself would not parse."""

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> JsonSchemaValue:
        written: JsonSchemaValue = {"type": "number"}
        for bound, keyword in (
            ("ge", "minimum"),
            ("le", "maximum"),
            ("gt", "exclusiveMinimum"),
            ("lt", "exclusiveMaximum"),
        ):
            if schema.get(bound) is not None:
                written[keyword] = float(schema[bound])  # type: ignore[literal-required]
        places, digits = schema.get("decimal_places"), schema.get("max_digits")
        if places is not None:
            written["multipleOf"] = float(f"1e-{places}")
        elif digits is not None:
            written["type"] = "integer"
        if digits is not None:
            largest = 10 ** (digits - (places or 0)) - 1
            written["minimum"] = max(written.get("minimum", -largest), -largest)
            written["maximum"] = min(written.get("maximum", largest), largest)
        return written

    def set_schema(self, schema: core_schema.SetSchema) -> JsonSchemaValue:
        return self._as_array(schema, super().set_schema(schema))

    def frozenset_schema(self, schema: core_schema.FrozenSetSchema) -> JsonSchemaValue:
        return self._as_array(schema, super().frozenset_schema(schema))

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        keys = schema.get("keys_schema", {"type": "any"})
        if keys["type"] not in ("str", "any"):
            return self.handle_invalid_for_json_schema(schema, f"core_schema.DictSchema with {keys['type']} keys")
        return super().dict_schema(schema)

    def complex_schema(self, schema: core_schema.ComplexSchema) -> JsonSchemaValue:
        return self.handle_invalid_for_json_schema(schema, "core_schema.ComplexSchema")

    def datetime_schema(self, schema: core_schema.DatetimeSchema) -> JsonSchemaValue:
        return {"type": "string", "pattern": f"^{_DATE}T{_TIME}{_zone(schema.get('tz_constraint'))}$"}

    def time_schema(self, schema: core_schema.TimeSchema) -> JsonSchemaValue:
        return {"type": "string", "pattern": f"^{_TIME}{_zone(schema.get('tz_constraint'))}$"}

    def _as_array(
        self, schema: core_schema.SetSchema | core_schema.FrozenSetSchema, written: JsonSchemaValue
    ) -> JsonSchemaValue:
        """A set is read from any array; only its least length could be missed by what occurs twice."""
        if (schema.get("min_length") or 0) > 1:
            raise PydanticInvalidForJsonSchema("Cannot promise a set of more than one different items")
        return {keyword: value for keyword, value in written.items() if keyword != "uniqueItems"}


def _zone(constraint: object) -> str:
    """The pattern of a time's offset, for Pydantic's constraint: "aware", "naive" or none (or minutes)."""
    return {"aware": _OFFSET, "naive": ""}.get(str(constraint), f"{_OFFSET}?")


@dataclass
class _Preparation:
    """One walk over a schema.

    Attributes:
        root: the whole schema, for local references.
        whole_unions: `oneOf` may be taken as `anyOf`, since what reads the answer takes the first match.
    """

    root: dict[str, Any]
    whole_unions: bool
    growth: int = 0
    text_growth: int = 6  # the rest of an escape or of a character
    _sizes: dict[str, int] = field(default_factory=dict)

    def prepared(self) -> PreparedSchema:
        schema, _ = self._value(self.root, "the top")
        if not isinstance(schema, dict):
            raise _unsupported(repr(schema), "the top")
        for group in ("$defs", "definitions"):
            if group in self.root:
                schema[group] = {
                    name: self._value(content, f"{group}/{name}")[0] for name, content in self.root[group].items()
                }
        return PreparedSchema(schema, self.growth, self.text_growth)

    def _value(self, schema: Any, where: str, closed: bool = True) -> tuple[Any, int]:
        """A schema, narrowed, and the most bytes of its shortest values. `closed`: objects get no other keys."""
        if isinstance(schema, bool):
            return schema, 4
        if not isinstance(schema, Mapping):
            raise _unsupported(repr(schema), where)
        kept = {key: value for key, value in schema.items() if key not in _ANNOTATIONS}
        if "oneOf" in kept and (self.whole_unions or "discriminator" in schema):
            kept["anyOf"] = kept.pop("oneOf")
        if "oneOf" in kept:
            raise _unsupported("the keyword 'oneOf'; anyOf is supported", where)
        if kept.get("uniqueItems") is False:
            del kept["uniqueItems"]
        if unknown := sorted(set(kept) - _KEYWORDS):
            raise _unsupported(f"the keyword {unknown[0]!r}", where)
        for group in ("$defs", "definitions"):  # of the root; prepared once, there
            kept.pop(group, None)
        types = kept.get("type", [])
        types = [types] if isinstance(types, str) else list(types)
        if wrong := [name for name in types if name not in _TYPES]:
            raise _unsupported(f"the type {wrong[0]!r}", where)
        sizes = [self._alternatives(kept, where, closed and "allOf" not in kept)]
        if "string" in types or "pattern" in kept or "format" in kept:
            sizes.append(self._string(kept, where))
        if "object" in types or "properties" in kept:
            sizes.append(self._object(kept, where, closed and "allOf" not in kept))
        if "array" in types or "items" in kept or "prefixItems" in kept:
            sizes.append(self._array(kept, where))
        if ("integer" in types or "number" in types) and not {"enum", "const"} & set(kept):
            sizes.append(_bounded(kept, _NUMBER_BOUNDS if "number" in types else _INTEGER_BOUNDS))
        if len(types) > 1:
            self._optional(*sizes)
        return kept, max(sizes)

    def _optional(self, *sizes: int) -> None:
        """Note the sizes of values that an answer may have or not."""
        self.growth = max([self.growth, *sizes])

    def _alternatives(self, kept: dict[str, Any], where: str, closed: bool) -> int:
        """Narrow references and unions in place; the most bytes of their shortest values, 5 (`false`) at least."""
        sizes = [5, *(len(json.dumps(value)) for value in [*kept.get("enum", []), kept.get("const")])]
        self.text_growth = max(self.text_growth, *sizes)
        if "$ref" in kept:
            sizes.append(self._referred(kept["$ref"], where))
        for keyword in ("anyOf", "allOf"):
            if keyword in kept:
                parts = [
                    self._value(part, f"{where}/{keyword}/{index}", closed and keyword == "anyOf")
                    for index, part in enumerate(kept[keyword])
                ]
                kept[keyword] = [part for part, _ in parts]
                self._optional(*(size for _, size in parts))
                sizes.append((max if keyword == "anyOf" else sum)((size for _, size in parts)))
        return max(sizes)

    def _referred(self, target: Any, where: str) -> int:
        group, _, name = str(target).removeprefix("#/").partition("/")
        if target == "#":
            return 0  # as below: the root is being measured
        if group not in ("$defs", "definitions") or name not in self.root.get(group, {}):
            raise _unsupported(f"the reference {target!r}", where)
        if target not in self._sizes:
            self._sizes[target] = 0  # one that contains itself must be optional there
            self._sizes[target] = self._value(self.root[group][name], f"{group}/{name}")[1]
        return self._sizes[target]

    def _string(self, kept: dict[str, Any], where: str) -> int:
        wanted = kept.get("format")
        if wanted in _FREE_FORMATS:
            del kept["format"]
        elif wanted in _PATTERNS and "pattern" not in kept:
            kept["pattern"] = f"^(?:{_PATTERNS[kept.pop('format')]})$"
        elif wanted is not None and wanted not in _KNOWN_FORMATS:
            raise _unsupported(f"the format {wanted!r}", where)
        size = 2 + 6 * int(kept.get("minLength", 0)) + (80 if "pattern" in kept or "format" in kept else 0)
        self.text_growth = max(self.text_growth, size)
        return size

    def _object(self, kept: dict[str, Any], where: str, closed: bool) -> int:
        properties = kept.get("properties", {})
        sizes = {}
        if properties:
            kept["properties"] = {}
            for name, content in properties.items():
                kept["properties"][name], size = self._value(content, f"{where}/{name}")
                sizes[name] = _key_size(name) + size
                if name not in kept.get("required", []):  # a letter may tell which key it is that was begun
                    self.text_growth = max(self.text_growth, sizes[name])
                    self._optional(sizes[name])
            if closed:
                kept.setdefault("additionalProperties", False)
        others = 4
        if "additionalProperties" in kept:
            kept["additionalProperties"], others = self._value(kept["additionalProperties"], f"{where}/*")
        if "patternProperties" in kept:
            prepared = {
                key: self._value(content, f"{where}/{key}") for key, content in kept["patternProperties"].items()
            }
            kept["patternProperties"] = {key: content for key, (content, _) in prepared.items()}
            others = max([others, *(size for _, size in prepared.values())])
        self._optional(8 + others)
        needed = sum(sizes.get(name, _key_size(name) + others) for name in kept.get("required", []))
        return 2 + needed + int(kept.get("minProperties", 0)) * (8 + others)

    def _array(self, kept: dict[str, Any], where: str) -> int:
        first = [self._value(part, f"{where}/{index}") for index, part in enumerate(kept.get("prefixItems", []))]
        if first:
            kept["prefixItems"] = [part for part, _ in first]
        rest = 4
        if "items" in kept:
            kept["items"], rest = self._value(kept["items"], f"{where}/[]")
        self._optional(2 + rest, *(2 + size for _, size in first))
        return 2 + sum(2 + size for _, size in first) + int(kept.get("minItems", 0)) * (2 + rest)


def _key_size(name: str) -> int:
    """Bytes of a key with its quotes and what separates it."""
    return len(json.dumps(name, ensure_ascii=False).encode()) + 4


def _bounded(kept: dict[str, Any], bounds: tuple[int, int]) -> int:
    """Give numbers that have none a bound on either side. A schema's own bounds stay."""
    lowest, highest = bounds
    if "minimum" not in kept and "exclusiveMinimum" not in kept:
        kept["minimum"] = min(lowest, kept.get("maximum", 0), kept.get("exclusiveMaximum", 0) - 1)
    if "maximum" not in kept and "exclusiveMaximum" not in kept:
        kept["maximum"] = max(highest, kept.get("minimum", 0), kept.get("exclusiveMinimum", 0) + 1)
    return 24
