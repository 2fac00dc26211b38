"""The schema of an answer that calls tools means what each tool's own schema means."""

from enum import Enum
from typing import Any

import jsonschema
import pytest
from pydantic import BaseModel

from vision_agent.generation.json_schema import prepare_schema
from vision_agent.planning.call_schema import call_schema


class Country(Enum):
    FR = "FR"
    NO = "NO"


class City(BaseModel):
    country: Country
    twin: "City | None" = None


class Trip(BaseModel):
    cities: list[City]


NESTED = Trip.model_json_schema()
# As JavaScript's tools write it: other words for the same place, and the same names for other things.
OLDER = {
    "type": "object",
    "definitions": {"City": {"enum": ["Rome"]}},
    "properties": {"city": {"$ref": "#/definitions/City"}, "$ref": {"const": {"$ref": "#/definitions/City"}}},
    "required": ["city"],
}
TREE = {"type": "object", "properties": {"left": {"$ref": "#"}, "name": {"type": "string"}}, "required": ["name"]}
SHARED = {"type": "object", "$defs": {"City": {"enum": ["Oslo"]}}, "properties": {"a": {"$ref": "#/$defs/City"}}}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": schema}}
    for name, schema in (("trip", NESTED), ("older", OLDER), ("tree", TREE), ("shared", SHARED), ("none", None))
]
CASES: list[tuple[str, Any]] = [
    ("trip", {"cities": [{"country": "NO", "twin": {"country": "FR"}}]}),
    ("trip", {"cities": []}),
    ("trip", {"cities": [{"country": "XX"}]}),
    ("trip", {"cities": [{"country": "NO", "twin": {"country": 3}}]}),
    ("older", {"city": "Rome"}),
    ("older", {"city": "Oslo"}),
    ("older", {"city": "Rome", "$ref": {"$ref": "#/definitions/City"}}),
    ("tree", {"name": "a", "left": {"name": "b", "left": {"name": "c"}}}),
    ("tree", {"name": "a", "left": {"left": {"name": "c"}}}),
    ("tree", {"name": "a", "left": {"tool": "tree", "arguments": {"name": "b"}}}),
    ("shared", {"a": "Oslo"}),
    ("shared", {"a": "Rome"}),
    ("none", {}),
    ("none", {"a": 1}),
]


@pytest.mark.parametrize("tools", [TOOLS, TOOLS[::-1]])
def test_a_call_fits_where_its_arguments_fit(tools: list[dict[str, Any]]) -> None:
    whole = call_schema(tools, "any")
    jsonschema.Draft202012Validator.check_schema(whole)
    prepare_schema(whole)  # a grammar can be made of it
    together = jsonschema.Draft202012Validator(whole)
    fitting = []
    for name, arguments in CASES:
        own = next(tool["function"]["parameters"] for tool in tools if tool["function"]["name"] == name)
        own = {**(own or {"type": "object"}), "additionalProperties": False}
        fits = jsonschema.Draft202012Validator(own).is_valid(arguments)
        assert together.is_valid({"tool": name, "arguments": arguments}) == fits, (name, arguments)
        alone = call_schema([tool for tool in tools if tool["function"]["name"] == name], name)
        assert jsonschema.Draft202012Validator(alone).is_valid({"tool": name, "arguments": arguments}) == fits
        fitting.append(fits)
    assert True in fitting and False in fitting
    assert not together.is_valid({"answer": "words"})
    assert jsonschema.Draft202012Validator(call_schema(tools, None)).is_valid({"answer": "words"})
