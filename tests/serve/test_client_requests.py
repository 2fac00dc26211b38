"""What programs send that speak to servers of OpenAI's API: answered as the plain request is, or refused by name.

Seen in public reports about LiteLLM, Open WebUI, Vercel's AI SDK, LangChain, LlamaIndex, Continue and clients of vLLM:
fields of other servers that come back in a conversation, empty values, an image by its address alone.
"""

from typing import Any

import httpx
import pytest

HELLO = {"role": "user", "content": "hello"}
SAID = {"role": "assistant", "content": "hi"}
CITY = {"type": "object", "properties": {"city": {"enum": ["Paris", "Oslo"]}}, "required": ["city"]}
NESTED = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "$defs": {"City": {"type": "object", "properties": {"name": {"enum": ["Paris", "Oslo"]}}, "required": ["name"]}},
    "properties": {"city": {"$ref": "#/$defs/City"}},
    "required": ["city"],
    "additionalProperties": False,
}
CALL = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}


def tool(parameters: Any = CITY, name: str = "get_weather") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def posted(url: str, path: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{url}/v1/{path}", json={"model": "default", **body}, timeout=60)


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [], "tool_choice": "auto"},
        {"tools": None, "tool_choice": None, "response_format": None, "stream_options": None, "logit_bias": None},
        {"tool_choice": "none", "parallel_tool_calls": False},
        {"max_tokens": None, "temperature": None, "top_p": None, "stop": None, "n": None, "seed": None, "user": None},
        {"temperature": 0, "top_p": 1, "n": 1, "stop": [], "frequency_penalty": 0, "presence_penalty": 0.0},
        {"temperature": 0.7, "top_p": 0},
        {"top_p": 0},
        {"top_k": -1, "min_p": 0, "repetition_penalty": 1},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"reasoning_effort": "none", "verbosity": "medium", "modalities": ["text"], "store": False, "metadata": {}},
        {"prompt_cache_key": "a", "prompt_cache_retention": "24h", "safety_identifier": "b", "service_tier": "auto"},
        {"messages": [{**HELLO, "name": "example_user"}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "hello", "cache_control": {"type": "e"}}]}
            ]
        },
        {
            "messages": [
                HELLO,
                {**SAID, "tool_calls": [], "function_call": None, "audio": None, "annotations": []},
                HELLO,
            ]
        },
        {"messages": [HELLO, {**SAID, "reasoning_content": "It is a greeting.", "reasoning": None}, HELLO]},
        {"messages": [HELLO, {**SAID, "provider_specific_fields": {"refusal": None}, "thinking_blocks": []}, HELLO]},
    ],
)
def test_what_says_nothing_changes_nothing(url: str, more: dict[str, Any]) -> None:
    messages = [HELLO, SAID, HELLO] if len(more.get("messages", ())) == 3 else [HELLO]
    plain = posted(url, "chat/completions", {"messages": messages}).json()
    sent = posted(url, "chat/completions", {"messages": messages, **more})
    assert sent.status_code == 200, sent.text
    assert [sent.json()[part] for part in ("choices", "usage")] == [plain[part] for part in ("choices", "usage")]


@pytest.mark.parametrize("shown", ["address", "original"])
def test_images_as_clients_send_them(url: str, data_url: str, shown: str) -> None:
    def asked(image: Any) -> Any:
        parts = [{"type": "image_url", "image_url": image}, {"type": "text", "text": "what colour is the dog?"}]
        return posted(url, "chat/completions", {"messages": [{"role": "user", "content": parts}]})

    sent = asked(data_url if shown == "address" else {"url": data_url, "detail": "original"})
    same = asked({"url": data_url, "detail": "high"} if shown == "original" else {"url": data_url})
    assert sent.status_code == 200, sent.text
    assert sent.json()["choices"][0]["message"] == same.json()["choices"][0]["message"]
    refused = asked(data_url.partition(",")[2])  # without `data:`, as Ollama has it
    assert refused.json()["error"]["param"] == "messages[0].content[0].image_url.url"


@pytest.mark.parametrize("parameters", [NESTED, None, {}, {"type": "object", "properties": {}, "required": []}])
def test_tools_as_frameworks_describe_them(url: str, parameters: Any) -> None:
    """Nested models refer to their parts, which they do inside of the whole answer's schema, too."""
    for tools in ([tool(parameters)], [tool(parameters), tool(NESTED, "another")]):
        chosen = {"type": "function", "function": {"name": "get_weather"}}
        for choice in (chosen, "required"):
            answer = posted(url, "chat/completions", {"messages": [HELLO], "tools": tools, "tool_choice": choice})
            assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["finish_reason"] == "tool_calls"
    flat = {"type": "function", **tool(parameters)["function"]}
    answer = posted(url, "responses", {"input": "hello", "tools": [flat], "tool_choice": "required"})
    assert answer.json()["output"][0]["type"] == "function_call", answer.text


@pytest.mark.parametrize("content", [None, "", "left out"])
def test_calls_of_other_models_are_read(url: str, content: str | None) -> None:
    calls = [CALL, {**CALL, "id": "c2"}]
    called: dict[str, Any] = {"role": "assistant", "content": content, "tool_calls": calls}
    if content == "left out":
        del called["content"]
    given = [{"role": "tool", "tool_call_id": call["id"], "name": "get_weather", "content": "21"} for call in calls]
    answer = posted(url, "chat/completions", {"messages": [HELLO, called, *given], "tools": [tool()]})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    "more",
    [
        {"include": [], "tools": [], "tool_choice": "auto"},
        {"reasoning": {"effort": None, "summary": None}},
        {"reasoning": {"summary": "auto"}},
        {"text": {"format": {"type": "text"}, "verbosity": None}, "prompt_cache_retention": None},
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": "hello", "file_id": None}]}]},
        {"top_p": 0, "temperature": 1},
    ],
)
def test_what_says_nothing_in_a_response_changes_nothing(url: str, more: dict[str, Any]) -> None:
    plain = posted(url, "responses", {"input": "hello"}).json()
    sent = posted(url, "responses", {"input": "hello", **more})
    assert sent.status_code == 200, sent.text
    assert sent.json()["output"][0]["content"] == plain["output"][0]["content"]


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"min_p": 0.1}, "min_p"),
        ({"top_k": -2}, "top_k"),
        ({"top_p": -0.1}, "top_p"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"chat_template_kwargs": {"enable_thinking": True}}, "chat_template_kwargs"),
        ({"reasoning_effort": "minimal"}, "reasoning_effort"),
        ({"session_id": "x"}, "session_id"),
        ({"extra_body": {"a": 1}}, "extra_body"),
        ({"stream": False, "stream_options": {"include_usage": True}}, "stream_options"),
        ({"messages": [HELLO, {"role": "function", "name": "f", "content": "21"}]}, "messages[1].role"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "file", "file": {}}]}]}, "messages[0].content[0].type"),
    ],
)
def test_what_cannot_be_done_is_named(url: str, more: dict[str, Any], param: str) -> None:
    answer = posted(url, "chat/completions", {"messages": [HELLO], **more})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
