"""The definitions in the hands of the OpenAI and Anthropic SDKs: their types, their clients, their rules for strict."""

import copy
import json
from collections.abc import Iterator
from typing import Any, Literal

import anthropic
import httpx2
import openai
import pytest
from anthropic.types import ToolParam
from openai.lib._pydantic import _ensure_strict_json_schema
from openai.types.chat import ChatCompletionFunctionToolParam
from openai.types.responses import FunctionTool, FunctionToolParam
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from vision_agent import InputError, ToolOutput, VisionAgent
from vision_agent.plugins.registry import load_tools
from vision_agent.plugins.tool import Tool
from vision_agent.tools import definition
from vision_agent.tools.arguments import read_arguments

TOOLS = load_tools()
TYPES: dict[str, Any] = {
    "openai": ChatCompletionFunctionToolParam,
    "openai-responses": FunctionToolParam,
    "anthropic": ToolParam,
}


@pytest.mark.parametrize("style", TYPES)
@pytest.mark.parametrize("name", sorted(TOOLS))
def test_definitions_have_the_types_of_the_sdks(name: str, style: str) -> None:
    made = definition(TOOLS[name], style)
    # A typed dict drops the keys that it does not have: none may be lost.
    assert TypeAdapter(TYPES[style]).validate_python(made) == made


# --- strict


def schemas_in(schema: Any) -> Iterator[dict[str, Any]]:
    yield schema
    for part in [*schema.get("properties", {}).values(), *schema.get("anyOf", [])]:
        yield from schemas_in(part)
    if "items" in schema:
        yield from schemas_in(schema["items"])


def check_strict(schema: dict[str, Any]) -> None:
    """The published rules, without the keywords that only some of the models take."""
    assert schema["type"] == "object" and "anyOf" not in schema
    for part in schemas_in(schema):
        assert set(part) <= {
            *("type", "description", "enum", "items", "anyOf", "properties", "required", "additionalProperties")
        }
        if part.get("type") == "object":
            assert part["additionalProperties"] is False and part["required"] == list(part["properties"])
        elif "array" in part.get("type", ()):
            assert "items" in part
    # What the SDK does to make a schema strict changes nothing in one that is.
    assert _ensure_strict_json_schema(copy.deepcopy(schema), path=(), root=schema) == schema


@pytest.mark.parametrize("name", sorted(TOOLS))
def test_strict_definitions_fulfil_the_published_rules(name: str) -> None:
    tool = TOOLS[name]
    made = definition(tool, "openai-responses")
    assert made["strict"] is True and FunctionTool.model_validate(made).strict is True
    check_strict(made["parameters"])
    optional = [name for name, field in tool.arguments.model_fields.items() if not field.is_required()]
    for field in optional:
        part = made["parameters"]["properties"][field]
        assert "null" in part["type"] and ("enum" not in part or None in part["enum"])


class Address(BaseModel):
    model_config = ConfigDict(extra="forbid")
    title: str
    zip: str | None = Field(default=None, pattern="^[0-9]+$", description="The code.")


class Order(BaseModel):
    """Arguments of a third party, with all that strict mode has words for, and some that it has not."""

    model_config = ConfigDict(extra="forbid")
    to: Address
    or_else: Address | None = None
    amounts: list[int] = Field(default=[1], max_length=3)
    how: Literal["fast", "slow"] | None = None
    at: int | str = 0
    exactly: Literal["yes"] = "yes"


class Open(BaseModel):
    notes: dict[str, int]


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow")
    name: str = ""


class Pair(BaseModel):
    pair: tuple[int, str]


class Anything(BaseModel):
    thing: Any


class Node(BaseModel):
    inner: "Node | None" = None


def tool_of(arguments: type[BaseModel]) -> Tool:
    return Tool("other", "Other.", arguments, arguments, lambda agent, store, args: ToolOutput(args, args))


def test_tools_of_others_are_strict_where_they_can_be() -> None:
    made = definition(tool_of(Order), "openai-responses")
    assert made["strict"] is True
    check_strict(made["parameters"])
    properties = made["parameters"]["properties"]
    assert (
        properties["or_else"]["anyOf"][-1] == {"type": "null"}
        and "At most 3 items." in properties["amounts"]["description"]
    )
    assert properties["to"]["properties"]["title"] == {"type": "string"}
    given = {name: None for name in properties} | {"to": {"title": "x", "zip": None}}
    assert read_arguments(tool_of(Order), given) == Order(to=Address(title="x"))
    for arguments in (Open, Loose, Pair, Anything):
        other = definition(tool_of(arguments), "openai-responses")
        assert (
            other["strict"] is False
            and other["parameters"] == definition(tool_of(arguments), "openai")["function"]["parameters"]
        )


class Callback(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    call: object.__class__


@pytest.mark.parametrize("arguments", [Node, Callback])
@pytest.mark.parametrize("style", TYPES)
def test_arguments_that_have_no_flat_schema(arguments: type[BaseModel], style: str) -> None:
    with pytest.raises(InputError, match="`arguments` must be"):
        definition(tool_of(arguments), style)


# --- the clients


class Provider:
    """A provider's server: it answers every request with one call of `detect`, and keeps what it was sent."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.sent: dict[str, Any] = {}
        self._answer = answer
        self.client = httpx2.Client(transport=httpx2.MockTransport(self._respond))

    def _respond(self, request: httpx2.Request) -> httpx2.Response:
        self.sent = json.loads(request.content)
        return httpx2.Response(200, json=self._answer)


ARGUMENTS = {"image": "000000139872.jpg", "phrases": ["dog"], "threshold": None, "offset": None, "limit": None}


def found(agent: VisionAgent, photo: Any, name: str, arguments: Any) -> int:
    from vision_agent import ImageStore

    result = agent.call_tool(name, arguments, store=ImageStore(roots=[photo.parent]))
    total: int = result.content["total"]
    return total


def test_openai_responses(agent: VisionAgent, photo: Any) -> None:
    call = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "detect", "status": "completed"}
    call["arguments"] = json.dumps(ARGUMENTS)
    provider = Provider({"id": "r", "object": "response", "created_at": 0, "model": "m", "output": [call], "tools": []})
    tools: Any = agent.tool_definitions("openai-responses")
    client = openai.OpenAI(api_key="none", http_client=provider.client)
    (made,) = client.responses.create(model="m", input="is there a dog?", tools=tools).output
    assert provider.sent["tools"] == tools and made.type == "function_call"
    assert found(agent, photo, made.name, made.arguments) == 1


def test_openai_chat(agent: VisionAgent, photo: Any) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "detect", "arguments": json.dumps(ARGUMENTS)}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    choice = {"index": 0, "finish_reason": "tool_calls", "message": message}
    provider = Provider({"id": "r", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]})
    tools: Any = agent.tool_definitions("openai")
    client = openai.OpenAI(api_key="none", http_client=provider.client)
    messages: Any = [{"role": "user", "content": "is there a dog?"}]
    answer = client.chat.completions.create(model="m", messages=messages, tools=tools)
    assert provider.sent["tools"] == tools
    (made,) = answer.choices[0].message.tool_calls or ()
    assert made.type == "function" and found(agent, photo, made.function.name, made.function.arguments) == 1


def test_anthropic(agent: VisionAgent, photo: Any) -> None:
    use = {"type": "tool_use", "id": "t1", "name": "detect", "input": {**ARGUMENTS, "phrases": '["dog"]'}}
    usage = {"input_tokens": 1, "output_tokens": 1}
    provider = Provider(
        {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": [use], "usage": usage}
        | {"stop_reason": "tool_use", "stop_sequence": None}
    )
    tools: Any = agent.tool_definitions("anthropic")
    client = anthropic.Anthropic(api_key="none", http_client=provider.client)
    messages: Any = [{"role": "user", "content": "is there a dog?"}]
    (made,) = client.messages.create(model="m", max_tokens=9, messages=messages, tools=tools).content
    assert provider.sent["tools"] == tools and made.type == "tool_use"
    assert found(agent, photo, made.name, made.input) == 1
