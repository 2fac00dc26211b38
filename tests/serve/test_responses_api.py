"""`/v1/responses` as OpenAI's own client sees it: text, images and tools, the same answers as chat completions give."""

import asyncio
import json
from typing import Any, Literal

import httpx
import jsonschema
import openai
import pytest
from openai.types.responses import Response
from pydantic import BaseModel


def shown(text: str, url: str, **more: Any) -> list[Any]:
    """A user's message with an image."""
    image = {"type": "input_image", "image_url": url, **more}
    return [{"role": "user", "content": [image, {"type": "input_text", "text": text}]}]


def rounded(value: Any) -> Any:
    """A value without the last digits of its numbers, which depend on what was written beside it."""
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return round(value, 3) if isinstance(value, float) else value


def chat_of(client: openai.OpenAI, text: str, url: str) -> Any:
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
    return client.chat.completions.create(model="default", messages=[{"role": "user", "content": content}])


@pytest.mark.parametrize("text", ["what colour is the dog?", "outline the dog", "why is she sad?"])
def test_answers_are_those_of_chats(client: openai.OpenAI, url: str, data_url: str, text: str) -> None:
    chat = chat_of(client, text, data_url)
    said = chat.choices[0].message
    response = client.responses.create(model="default", input=shown(text, data_url))
    assert response.output_text == said.content
    assert (response.status, response.object, response.error) == ("completed", "response", None)
    message = response.output[0].model_dump()
    assert rounded(message.get("vision")) == rounded(said.model_dump().get("vision"))
    refusals = [part["refusal"] for part in message["content"] if part["type"] == "refusal"]
    assert refusals == ([] if said.refusal is None else [said.refusal])
    used = response.usage
    assert (used.input_tokens, used.output_tokens) == (chat.usage.prompt_tokens, chat.usage.completion_tokens)
    assert used.total_tokens == used.input_tokens + used.output_tokens
    described = httpx.get(f"{url}/openapi.json").json()
    answers = described["paths"]["/v1/responses"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    sent = {"model": "default", "input": shown(text, data_url)}
    raw = httpx.post(f"{url}/v1/responses", json=sent, timeout=60).json()
    jsonschema.Draft202012Validator({**answers, "components": described["components"]}).validate(raw)
    # As strict as the client's own models are.
    Response.model_validate(raw)


def test_rounds_and_instructions(client: openai.OpenAI, data_url: str) -> None:
    first = client.responses.create(model="default", input=shown("find the dog", data_url))
    assert first.output[0].model_dump()["vision"]["routes"][0]["token"] == "[DET]"
    again = [*shown("find the dog", data_url), *first.output, {"role": "user", "content": "what colour is the dog?"}]
    second = client.responses.create(model="default", input=again)
    assert second.output_text == "white" and second.usage.input_tokens > first.usage.input_tokens
    plain = client.responses.create(model="default", input="hello")
    told = client.responses.create(model="default", input="hello", instructions="Answer in one word.")
    assert told.usage.input_tokens > plain.usage.input_tokens and told.instructions == "Answer in one word."


@pytest.mark.parametrize("text", ["find the dog", "why is she sad?"])
def test_a_stream_says_the_same(client: openai.OpenAI, data_url: str, text: str) -> None:
    whole = client.responses.create(model="default", input=shown(text, data_url))
    events = list(client.responses.create(model="default", input=shown(text, data_url), stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert kinds[-2:] == ["output_item.done", "completed"] and kinds.count("output_text.done") == 1
    words = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    last = events[-1].response
    assert words == last.output_text == whole.output_text
    assert last.usage == whole.usage
    streamed, own = (each.output[0].model_dump(exclude={"id"}) for each in (last, whole))
    assert rounded(streamed) == rounded(own)
    with client.responses.stream(model="default", input=shown(text, data_url)) as stream:
        assert stream.get_final_response().output_text == words


def test_raw_events(url: str) -> None:
    body = {"model": "default", "input": "hello", "stream": True}
    with httpx.stream("POST", f"{url}/v1/responses", json=body, timeout=60) as response:
        text = response.read().decode()
    assert response.headers["content-type"].startswith("text/event-stream")
    for event in text.removesuffix("\n\n").split("\n\n"):
        name, data = event.split("\n")
        assert name == f"event: {json.loads(data.removeprefix('data: '))['type']}"


def test_json_and_lengths(client: openai.OpenAI, data_url: str) -> None:
    class Dog(BaseModel):
        there: bool
        colour: str

    parsed = client.responses.parse(model="default", input=shown("is there a dog?", data_url), text_format=Dog)
    assert isinstance(parsed.output_parsed, Dog)
    loose = client.responses.create(model="default", input="a list", text={"format": {"type": "json_object"}})
    assert isinstance(json.loads(loose.output_text), dict)
    cut = client.responses.create(model="default", input=shown("describe it", data_url), max_output_tokens=2)
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert cut.usage.output_tokens <= 2


def test_the_probabilities_of_tokens_are_told(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "default", "include": ["message.output_text.logprobs"], "top_logprobs": 2}
    whole = client.responses.create(input="hello", **asked)
    (part,) = whole.output[0].content
    assert "".join(one.token for one in part.logprobs).strip() == whole.output_text
    assert all(len(one.top_logprobs) == 2 and one.logprob <= 0 for one in part.logprobs)
    with client.responses.stream(input="hello", **asked) as stream:
        deltas = [event for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert final.output[0].content[0].logprobs == part.logprobs
    assert [one.token for delta in deltas for one in delta.logprobs] == [one.token for one in part.logprobs]
    # An answer may come back as it is.
    again = [*whole.output, {"role": "user", "content": "hello"}]
    assert client.responses.create(model="default", input=again).output_text


def test_the_async_client(url: str, data_url: str) -> None:
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0) as client:
            asked = (
                client.responses.create(model="default", input=shown("find the frisbee", data_url)) for _ in range(3)
            )
            return [response.output_text for response in await asyncio.gather(*asked)]

    assert set(asyncio.run(ask())) == {"frisbee\nfrisbee: 1 found, at (406,323,549,450)"}


CITY = {"type": "object", "properties": {"city": {"enum": ["Paris", "Oslo"]}}, "required": ["city"]}
WEATHER = {"type": "function", "name": "get_weather", "description": "The weather.", "parameters": CITY, "strict": True}
TIME = {**WEATHER, "name": "get_time", "description": "The time."}
CALL = {"type": "function_call", "call_id": "c", "name": "get_weather", "arguments": '{"city": "Oslo"}'}
OUTPUT = {"type": "function_call_output", "call_id": "c", "output": "21 degrees"}


def allowed(mode: str, *names: str) -> dict[str, Any]:
    """OpenAI's choice among some of the tools."""
    return {"type": "allowed_tools", "mode": mode, "tools": [{"type": "function", "name": name} for name in names]}


def test_tools_are_called_and_their_outputs_taken(client: openai.OpenAI, url: str, data_url: str) -> None:
    asked: list[Any] = [{"role": "user", "content": "what is the weather in Paris?"}]
    named = {"type": "function", "name": "get_weather"}
    first = client.responses.create(
        model="default", input=asked, tools=[WEATHER], tool_choice=named, parallel_tool_calls=True
    )
    (call,) = first.output
    assert (call.type, call.name, call.status, first.status) == (
        "function_call",
        "get_weather",
        "completed",
        "completed",
    )
    assert json.loads(call.arguments)["city"] in ("Paris", "Oslo")
    assert first.tools[0].model_dump(exclude_none=True) == WEATHER
    assert first.tool_choice.model_dump() == named and first.output_text == ""
    # The same call as a chat's: the same words were written.
    functions = [{"type": "function", "function": {key: WEATHER[key] for key in ("name", "description", "parameters")}}]
    chat = client.chat.completions.create(
        model="default",
        messages=asked,
        tools=functions,
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
    )
    assert chat.choices[0].message.tool_calls[0].function.arguments == call.arguments
    assert chat.usage.prompt_tokens == first.usage.input_tokens
    # Its output goes back beside it, as words or as an image.
    for output in (
        "21 degrees",
        [{"type": "input_text", "text": "see"}, {"type": "input_image", "image_url": data_url}],
    ):
        given = {"type": "function_call_output", "call_id": call.call_id, "output": output}
        after = client.responses.create(
            model="default", input=[*asked, call, given], tools=[WEATHER], tool_choice="none"
        )
        assert after.output[0].type == "message" and after.output_text
        assert after.usage.input_tokens > first.usage.input_tokens - 100
        Response.model_validate(after.model_dump())
    seen, unseen = (
        client.responses.create(model="default", input=[*asked, call, {**OUTPUT, "call_id": call.call_id, **more}])
        for more in ({"output": [{"type": "input_image", "image_url": data_url}]}, {"output": "nothing"})
    )
    assert seen.usage.input_tokens > unseen.usage.input_tokens + 50
    raw = httpx.post(
        f"{url}/v1/responses",
        json={"model": "default", "input": "hello", "tools": [WEATHER], "tool_choice": "required"},
        timeout=60,
    ).json()
    described = httpx.get(f"{url}/openapi.json").json()
    answers = described["paths"]["/v1/responses"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema.Draft202012Validator({**answers, "components": described["components"]}).validate(raw)
    assert raw["output"][0]["type"] == "function_call"
    Response.model_validate(raw)


def test_choices_of_tools(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "default", "input": "what time is it?", "tools": [WEATHER, TIME]}
    for name in ("get_weather", "get_time"):
        for choice in (allowed("required", name), {"type": "function", "name": name}):
            (call,) = client.responses.create(**asked, tool_choice=choice).output
            assert (call.type, call.name) == ("function_call", name)
    words = client.responses.create(**asked, tool_choice="none")
    plain = client.responses.create(model="default", input="what time is it?")
    assert words.output_text == plain.output_text and words.usage == plain.usage
    one = client.responses.create(**asked, tool_choice=allowed("auto", "get_time"))
    alone = client.responses.create(**{**asked, "tools": [TIME]})
    assert one.usage.input_tokens == alone.usage.input_tokens


def test_a_call_in_a_stream(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "default", "input": "hello", "tools": [WEATHER], "tool_choice": "required"}
    (whole,) = client.responses.create(**asked).output
    events = list(client.responses.create(**asked, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    call = "function_call_arguments"
    assert [event.type.removeprefix("response.") for event in events] == [
        *("created", "in_progress", "output_item.added", f"{call}.delta", f"{call}.done", "output_item.done"),
        "completed",
    ]
    added, delta, done, ended = events[2:6]
    assert (added.item.type, added.item.arguments, added.item.status) == ("function_call", "", "in_progress")
    assert delta.delta == done.arguments == ended.item.arguments == whole.arguments
    assert {added.item.id, delta.item_id, done.item_id, ended.item.id} == {events[-1].response.output[0].id}
    assert added.item.call_id == ended.item.call_id
    with client.responses.stream(**asked) as stream:
        final = stream.get_final_response()
    assert final.output[0].arguments == whole.arguments and final.usage == events[-1].response.usage
    words = list(client.responses.create(**{**asked, "tool_choice": "none"}, stream=True))
    assert "response.output_text.done" in [event.type for event in words]


def test_tools_as_models(client: openai.OpenAI) -> None:
    class Weather(BaseModel):
        city: Literal["Paris", "Oslo"]
        days: int

    tool = openai.pydantic_function_tool(Weather)["function"]
    flat: Any = {"type": "function", **tool}
    parsed = client.responses.parse(model="default", input="hello", tools=[flat], tool_choice="required")
    (call,) = parsed.output
    assert isinstance(call.parsed_arguments, Weather) or Weather.model_validate(call.parsed_arguments)
    again = [{"role": "user", "content": "hello"}, call, {**OUTPUT, "call_id": call.call_id}]
    assert client.responses.parse(model="default", input=again, tools=[flat], tool_choice="none").output_text


def test_what_a_model_without_reasoning_need_not_refuse(client: openai.OpenAI) -> None:
    plain = client.responses.create(model="default", input="hello")
    told = client.responses.create(
        model="default",
        input="hello",
        include=["reasoning.encrypted_content"],
        reasoning={"effort": "none"},
        store=False,
    )
    assert (told.output_text, told.output[0].content[0].logprobs) == (plain.output_text, [])


IMAGE = {"type": "input_image"}


@pytest.mark.parametrize(
    ("changed", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "name": "has spaces"}]}, "tools[0].name"),
        ({"tools": [{**WEATHER, "parameters": {"type": "nothing"}}]}, "tools[0].parameters"),
        ({"tools": [{**WEATHER, "defer_loading": True}]}, "tools[0].defer_loading"),
        ({"tools": [WEATHER, WEATHER]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "name": "get_time"}}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "web_search"}}, "tool_choice.type"),
        ({"tools": [WEATHER], "tool_choice": allowed("auto", "get_time")}, "tool_choice.tools[0]"),
        ({"tools": [WEATHER], "text": {"format": {"type": "json_object"}}}, "text.format"),
        ({"max_tool_calls": 3}, "max_tool_calls"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
        ({"input": [{"type": "reasoning", "id": "rs_1", "summary": []}]}, "input[0]"),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "f"}]}, "input[0].arguments"),
        ({"input": [{**CALL, "arguments": "[1]"}]}, "input[0].arguments"),
        ({"input": [{**CALL, "namespace": "crm"}]}, "input[0].namespace"),
        ({"input": [CALL, {**OUTPUT, "call_id": "another"}]}, "input[1].call_id"),
        ({"instructions": "x", "input": [CALL, {**OUTPUT, "call_id": "another"}]}, "input[1].call_id"),
        ({"input": [CALL, {**OUTPUT, "output": [{"type": "input_image"}]}]}, "input[1].output[0].image_url"),
        (
            {"input": [CALL, {**OUTPUT, "output": [{"type": "input_image", "image_url": "file:///etc/passwd"}]}]},
            "input[1].output[0].image_url",
        ),
        ({"input": [CALL, {**OUTPUT, "output": [{"type": "output_text", "text": "x"}]}]}, "input[1].output[0].type"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"store": True}, "store"),
        ({"reasoning": {"effort": "high"}}, "reasoning"),
        ({"include": ["file_search_call.results"]}, "include[0]"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"include": ["message.output_text.logprobs"], "top_logprobs": 21}, "top_logprobs"),
        ({"truncation": "auto"}, "truncation"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"input": []}, "input"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
            "input[0].content[0].type",
        ),
        ({"input": [{"role": "user", "content": [IMAGE]}]}, "input[0].content[0].image_url"),
        (
            {
                "instructions": "x",
                "input": [{"role": "user", "content": [{**IMAGE, "image_url": "file:///etc/passwd"}]}],
            },
            "input[0].content[0].image_url",
        ),
        ({"input": [{"role": "user", "content": [{"type": "output_text", "text": "x"}]}]}, "input[0].content[0].type"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema"),
        (
            {"text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "nothing"}}}},
            "text.format.schema",
        ),
        ({"text": {"verbosity": "high"}}, "text.verbosity"),
        ({"extra_body": {"n": 2}}, "n"),
        ({"extra_body": {"routes": ["nothing"]}}, "routes"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_done_is_named(client: openai.OpenAI, changed: dict[str, Any], param: str, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.responses.create(**{"model": "default", "input": "hello", "stream": stream, **changed})
    assert raised.value.param == param, raised.value.message
    assert "messages" not in raised.value.message and "passwd" not in raised.value.message.replace("/etc/passwd", "")


def test_what_is_not_kept_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve("resp_1")
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-5'"):
        client.responses.create(model="gpt-5", input="hello")
