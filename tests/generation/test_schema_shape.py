"""Schemas that are none, that are hostile, or that no text satisfies: each an error of ours, none a crash or a wait."""

import random
from typing import Any

import pytest
from pydantic import BaseModel

from vision_agent.errors import ArgumentTypeError, InputError
from vision_agent.generation.grammar import json_constraint
from vision_agent.generation.json_schema import prepare_schema
from vision_agent.model.backbone import Backbone


def nested(count: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(count):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


def chained(count: int) -> dict[str, Any]:
    names = {f"a{number}": {"$ref": f"#/$defs/a{number + 1}"} for number in range(count)}
    return {"$ref": "#/$defs/a0", "$defs": {**names, f"a{count}": {"type": "string"}}}


def cyclic() -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    schema["properties"] = {"a": schema}
    return schema


WRONG: list[tuple[dict[Any, Any], str]] = [
    ({"type": 5}, "'type': 5"),
    ({"type": None}, "'type': None"),
    ({"type": []}, "'type': a list of 0"),
    ({"type": ["string", 5]}, "'type': a list of 2"),
    ({"type": {"a": 1}}, "'type': a dict of 1"),
    ({"type": "unknown"}, "the type 'unknown'"),
    ({"properties": 5}, "'properties': 5"),
    ({"properties": ["a"]}, "'properties': a list of 1"),
    ({"properties": {"a": 5}}, "'5 (at the top/a)'"),
    ({"properties": {"a": {"items": {"type": 5}}}}, "(at the top/a/[])"),
    ({"properties": {"\ud800": {}}}, "half of a character"),
    ({"\udfff": 1}, "half of a character"),
    ({5: {}}, "the key 5"),
    ({"required": "a"}, "'required': 'a'"),
    ({"required": [5]}, "'required'"),
    ({"enum": 5}, "'enum': 5"),
    ({"enum": []}, "'enum': a list of 0"),
    ({"enum": [float("nan")]}, "no number in JSON"),
    ({"enum": [b"x"]}, "JSON cannot hold"),
    ({"const": {1}}, "JSON cannot hold"),
    ({"anyOf": {}}, "'anyOf'"),
    ({"anyOf": [5]}, "'5 (at the top/anyOf/0)'"),
    ({"allOf": []}, "'allOf'"),
    ({"items": 5}, "'5 (at the top/[])'"),
    ({"items": [{"type": "string"}]}, "a list of 1 (at the top/[])"),
    ({"additionalProperties": "no"}, "'no' (at the top/*)"),
    ({"patternProperties": 5}, "'patternProperties': 5"),
    ({"$defs": []}, "'$defs'"),
    ({"$defs": {"a": 5}}, "'5 (at the top/$defs/a)'"),
    ({"$ref": 5}, "'$ref': 5"),
    ({"minimum": "a", "type": "integer"}, "'minimum': 'a'"),
    ({"minimum": True, "type": "integer"}, "'minimum': True"),
    ({"maximum": float("inf"), "type": "number"}, "'maximum': inf"),
    ({"minimum": 10**9999, "type": "integer"}, "'minimum': a number of"),
    ({"const": 10**9999}, "a number of"),
    ({"minLength": -1, "type": "string"}, "'minLength': -1"),
    ({"maxItems": 1.5, "type": "array"}, "'maxItems': 1.5"),
    ({"multipleOf": 0, "type": "number"}, "'multipleOf': 0"),
    ({"pattern": 5, "type": "string"}, "'pattern': 5"),
    ({"format": 5, "type": "string"}, "'format': 5"),
    (nested(1500), "objects and lists in each other"),
    (chained(5000), "references in each other"),
    (cyclic(), "objects and lists in each other"),
    ({"enum": list(range(200_000))}, "more than 100000 values"),
]


@pytest.mark.parametrize(("schema", "said"), WRONG, ids=[said for _, said in WRONG])
def test_what_is_no_schema(schema: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match="`schema` must be") as refused:
        prepare_schema(schema)
    assert said in str(refused.value) and len(str(refused.value)) < 600
    str(refused.value).encode()


@pytest.mark.parametrize("schema", [True, 5, "string", [nested(1)], None, dict])
def test_what_is_neither_a_model_nor_a_dict(schema: Any) -> None:
    with pytest.raises(ArgumentTypeError, match="`schema` must be"):
        prepare_schema(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]},
        {"type": "array", "items": {"$ref": "#"}, "minItems": 1},
        {"type": "string", "minLength": 10**9},
        {"type": "array", "items": {"type": "null"}, "minItems": 10**6},
        {"type": "string", "pattern": "(a{1000}){1000}"},
        {"type": "integer", "minimum": 5, "maximum": 1},
        {"type": "array", "items": False, "minItems": 1},
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
        {"type": "string", "pattern": "("},
        {"type": "string", "pattern": r"(a)\1"},
    ],
    ids=str,
)
def test_what_no_short_text_satisfies(backbone: Backbone, schema: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="`schema` must be"):
        json_constraint(backbone.tokenizer, schema, backbone.end_ids, max_new_tokens=64)


class Tree(BaseModel):
    inner: list["Tree"] = []


@pytest.mark.parametrize(
    "schema",
    [
        Tree,
        nested(20),
        chained(50),
        {},
        {"properties": {"a": True}},
        {"type": "object", "properties": {"a": {"$ref": "#"}}},
    ],
    ids=["model", "nested", "chained", "anything", "boolean", "recursive"],
)
def test_what_is_odd_but_a_schema(backbone: Backbone, schema: Any) -> None:
    assert json_constraint(backbone.tokenizer, schema, backbone.end_ids, max_new_tokens=512)


def test_random_schemas_are_taken_or_refused(backbone: Backbone) -> None:
    """Keywords with values of any kind, in each other: nothing but errors of ours comes."""
    draw = random.Random(18)
    keywords = (
        "type properties required enum const anyOf allOf items prefixItems additionalProperties $ref $defs".split()
    )
    keywords += "minLength maxLength pattern format minimum maximum multipleOf minItems maxItems title default".split()
    types = ["object", "array", "string", "integer", "number", "boolean", "null"]
    plain: list[Any] = [None, True, False, 0, -3, 2.5, 1e400, "a", "(", "#", "#/$defs/a", "date", "\ud800", b"", [], {}]

    def value(deep: int) -> Any:
        kind = draw.random()
        if deep == 0 or kind < 0.25:
            return draw.choice([*plain, *types])
        if kind < 0.4:
            return [value(deep - 1) for _ in range(draw.randrange(3))]
        if kind < 0.5:
            return {draw.choice("ab"): value(deep - 1) for _ in range(draw.randrange(3))}
        return schema(deep - 1)

    def schema(deep: int) -> dict[str, Any]:
        made: dict[str, Any] = {"type": draw.choice(types)} if draw.random() < 0.8 else {}
        if deep and draw.random() < 0.5:
            made["properties"] = {letter: schema(deep - 1) for letter in "ab"}
        return made | {draw.choice(keywords): value(deep) for _ in range(draw.randrange(2))}

    outcomes = {"taken": 0, "refused": 0}
    for _ in range(400):
        try:
            json_constraint(backbone.tokenizer, schema(3), backbone.end_ids, max_new_tokens=128)
            outcomes["taken"] += 1
        except InputError as error:
            str(error).encode()
            outcomes["refused"] += 1
    assert outcomes["taken"] > 40 and outcomes["refused"] > 100
