"""`/v1/chat/completions` as OpenAI's own client sees it, against the verbs of the same agent."""

import asyncio
import base64
import io
import json
from pathlib import Path
from typing import Any, Literal

import av
import httpx
import numpy as np
import openai
import pytest
from pydantic import BaseModel

from vision_agent import GenerationOptions, VisionAgent
from vision_agent.images.loading import ImageLimits
from vision_agent.images.video import sample_frames
from vision_agent.inference.conversation import Conversation
from vision_agent.results.answers import revived
from vision_agent.serve.chat_endpoint import conversation_of
from vision_agent.serve.chat_request import Message
from vision_agent.serve.options import ServeOptions
from vision_agent.serve.request_sources import Sources


def shown(text: str, url: str, **more: Any) -> list[dict[str, Any]]:
    """A user's message with an image."""
    image = {"type": "image_url", "image_url": {"url": url, **more}}
    return [{"role": "user", "content": [image, {"type": "text", "text": text}]}]


def refused(client: openai.OpenAI, **changed: Any) -> openai.BadRequestError:
    """The error of a request that is right but for what is changed."""
    request: dict[str, Any] = {"model": "default", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(**{**request, **changed})
    assert raised.value.type == "invalid_request_error"
    return raised.value


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["default"]
    assert client.models.retrieve("default").id == "default"
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-5'"):
        client.models.retrieve("gpt-5")


def test_an_answer_is_that_of_the_verb(client: openai.OpenAI, agent: VisionAgent, photo: Path, data_url: str) -> None:
    answered = client.chat.completions.create(model="default", messages=shown("what colour is the dog?", data_url))
    own = agent.run("what colour is the dog?", photo, planner="off")
    (choice,) = answered.choices
    assert (choice.message.content, choice.finish_reason) == (own.text, "stop")
    read, written = own.prompt_tokens, own.completion_tokens
    told = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
    assert answered.usage is not None and answered.usage.model_dump(exclude_unset=True) == told


def test_a_route_is_told_exactly_and_in_words(
    client: openai.OpenAI, agent: VisionAgent, photo: Path, data_url: str
) -> None:
    answered = client.chat.completions.create(model="default", messages=shown("find the frisbee", data_url))
    message = answered.choices[0].message
    assert message.content == "frisbee\nfrisbee: 1 found, at (406,323,549,450)"
    (route,) = message.model_extra["vision"]["routes"]
    assert (route["token"], route["image"]) == ("[DET]", 0)
    found = agent.detect("frisbee", photo)
    assert revived(route["result"]).xyxy == pytest.approx(found.xyxy, abs=1.0)
    # What the server said may come back as it is.
    again = [*shown("find the frisbee", data_url), message, {"role": "user", "content": "what colour is the frisbee?"}]
    second = client.chat.completions.create(model="default", messages=again)
    assert second.usage.prompt_tokens > answered.usage.prompt_tokens
    assert second.choices[0].message.content == "red", "the words of the server about boxes are not the model's"
    again[-1] = {"role": "user", "content": "outline the dog"}
    third = client.chat.completions.create(model="default", messages=again).choices[0].message
    assert third.model_extra["vision"]["routes"][0]["token"] == "[SEG]"


def test_masks_come_with_an_answer(client: openai.OpenAI, data_url: str) -> None:
    request = {"messages": shown("segment the frisbee", data_url), "model": "default"}
    vision = client.chat.completions.create(**request).choices[0].message.model_extra["vision"]
    outlined = revived(vision["routes"][0]["result"])
    assert outlined.segments[0].mask.area > 1000
    words = client.chat.completions.create(**request, extra_body={"routes": []}).choices[0].message
    assert not words.model_extra.get("vision", {}).get("routes") and words.content


@pytest.mark.parametrize("usage", [True, False])
def test_a_stream_says_the_same(client: openai.OpenAI, usage: bool) -> None:
    request: dict[str, Any] = {"model": "default", "messages": [{"role": "user", "content": "hello"}]}
    whole = client.chat.completions.create(**request)
    more = {"stream_options": {"include_usage": True}} if usage else {}
    chunks = list(client.chat.completions.create(**request, stream=True, **more))
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    if usage:
        last = chunks.pop()
        assert (last.choices, last.usage) == ([], whole.usage)
    assert all(len(chunk.choices) == 1 and chunk.usage is None for chunk in chunks)
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert deltas[0].role == "assistant" and [delta.role for delta in deltas[1:]] == [None] * (len(deltas) - 1)
    assert len(deltas) > 4
    assert "".join(delta.content or "" for delta in deltas) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert (chunks[-1].choices[0].finish_reason, deltas[-1].content) == ("stop", None)


def test_the_probabilities_of_tokens_are_told(client: openai.OpenAI, agent: VisionAgent, data_url: str) -> None:
    request: dict[str, Any] = {"model": "default", "messages": [{"role": "user", "content": "hello"}]}
    own = agent.ask("hello", options=GenerationOptions(top_logprobs=2)).tokens
    assert own
    asked = {**request, "logprobs": True, "top_logprobs": 2}
    told = client.chat.completions.create(**asked).choices[0].logprobs.content
    assert [(one.token, bytes(one.bytes)) for one in told] == [(each.text, bytes(each.bytes)) for each in own]
    assert [one.logprob for one in told] == pytest.approx([each.logprob for each in own], abs=1e-3)
    assert all(one.top_logprobs[0].token == one.token and len(one.top_logprobs) == 2 for one in told)
    with client.chat.completions.stream(**asked) as stream:
        stream.until_done()
        streamed = stream.get_final_completion().choices[0].logprobs.content
    assert [one.token for one in streamed] == [one.token for one in told]
    chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**asked, stream=True)]
    assert sum(bool(chunk.logprobs) for chunk in chunks) > 3, "they come with the words"
    bare = client.chat.completions.create(**request, logprobs=True).choices[0].logprobs.content
    assert [one.top_logprobs for one in bare] == [[]] * len(told)
    assert client.chat.completions.create(**request).choices[0].logprobs is None
    form = {"type": "json_schema", "json_schema": {"name": "flag", "schema": {"type": "boolean"}}}
    held = client.chat.completions.create(**asked, response_format=form).choices[0]
    assert "".join(one.token for one in held.logprobs.content).strip() == held.message.content
    captioned = client.chat.completions.create(
        model="default", messages=shown("describe the image", data_url), logprobs=True
    )
    assert captioned.choices[0].logprobs is None, "no model wrote it token by token"


def test_the_helper_for_streams_puts_routes_together(client: openai.OpenAI, data_url: str) -> None:
    with client.chat.completions.stream(model="default", messages=shown("find the frisbee", data_url)) as stream:
        stream.until_done()
        message = stream.get_final_completion().choices[0].message
    assert message.content == "frisbee\nfrisbee: 1 found, at (406,323,549,450)"
    assert message.model_extra["vision"]["routes"][0]["token"] == "[DET]"


def test_raw_events(url: str) -> None:
    request = {"model": "default", "messages": [{"role": "user", "content": "hello"}], "stream": True}
    response = httpx.post(f"{url}/v1/chat/completions", json=request, timeout=60)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    *events, end = response.text.removesuffix("\n\n").split("\n\n")
    assert end == "data: [DONE]"
    assert all(json.loads(event.removeprefix("data: "))["object"] == "chat.completion.chunk" for event in events)


def test_the_async_client(url: str, data_url: str) -> None:
    async def both() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="-") as client:
            asked = [shown("what colour is the dog?", data_url), [{"role": "user", "content": "hello"}]]
            create = client.chat.completions.create
            return await asyncio.gather(*(create(model="default", messages=each) for each in asked))  # type: ignore[arg-type]

    colour, greeting = asyncio.run(both())
    assert (colour.choices[0].message.content, greeting.choices[0].message.content[:5]) == ("white", "hello")


def test_settings_reach_the_model(client: openai.OpenAI) -> None:
    request: dict[str, Any] = {"model": "default", "messages": [{"role": "user", "content": "hello"}]}

    def said(**settings: Any) -> list[str]:
        return [choice.message.content for choice in client.chat.completions.create(**request, **settings).choices]

    (greeting,) = said()
    assert said(stop=["look", "never"]) == [greeting.split("look")[0].strip()]
    assert said(n=2) == [greeting] * 2
    letters = {"type": "object", "properties": {"w": {"type": "string", "maxLength": 8}}, "required": ["w"]}
    form = {"type": "json_schema", "json_schema": {"name": "letters", "schema": letters}}
    drawn = {"temperature": 2.0, "top_p": 0.99, "response_format": form}
    three = said(**drawn, seed=5, n=3)
    assert len(set(three)) == 3
    assert said(**drawn, seed=6) == three[1:2], "each choice is what its own seed alone gives"
    short = client.chat.completions.create(**request, max_completion_tokens=3, max_tokens=100)
    assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", 3)
    assert said(max_tokens=10**6) == [greeting], "more than fits means as much as fits"


class Seen(BaseModel):
    """What is in a picture."""

    animal: Literal["dog", "cat", "bird"]
    outdoors: bool


def test_structured_answers(client: openai.OpenAI, data_url: str) -> None:
    parsed = client.chat.completions.parse(
        model="default", messages=shown("what is it?", data_url), response_format=Seen
    )
    assert isinstance(parsed.choices[0].message.parsed, Seen)
    request: dict[str, Any] = {"model": "default", "messages": shown("which animal is it?", data_url), "max_tokens": 40}
    anything = client.chat.completions.create(**request, response_format={"type": "json_object"})
    assert isinstance(json.loads(anything.choices[0].message.content), dict)
    words = client.chat.completions.create(**request, response_format={"type": "text"})
    assert words.choices[0].message.content


TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather.",
        "parameters": {
            "type": "object",
            "properties": {"unit": {"type": "string", "enum": ["celsius", "kelvin"]}},
            "required": ["unit"],
        },
    },
}


def test_tools(client: openai.OpenAI) -> None:
    asked: list[Any] = [{"role": "user", "content": "what is the weather?"}]
    request: dict[str, Any] = {"model": "default", "messages": asked, "tools": [TOOL]}
    named = {"type": "function", "function": {"name": "get_weather"}}
    message = client.chat.completions.create(**request, tool_choice=named).choices[0].message
    assert message.content is None
    (call,) = message.tool_calls
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["unit"] in ("celsius", "kelvin")
    asked += [message, {"role": "tool", "tool_call_id": call.id, "content": "21"}]
    after = client.chat.completions.create(**request, tool_choice="none")
    assert after.choices[0].finish_reason == "stop" and not after.choices[0].message.tool_calls
    asked[-1] = {"role": "tool", "tool_call_id": "another", "content": "21"}
    assert refused(client, messages=asked).param == "messages[2].tool_call_id"


def allowed(mode: str, *names: str) -> dict[str, Any]:
    """OpenAI's choice among some of the tools."""
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


def test_some_of_the_tools_are_allowed(client: openai.OpenAI) -> None:
    functions = [{**TOOL["function"], "name": name} for name in ("get_weather", "get_time", "get_news")]
    asked: dict[str, Any] = {
        "model": "default",
        "messages": [{"role": "user", "content": "what is the weather?"}],
        "tools": [{"type": "function", "function": function} for function in functions],
    }
    for name in ("get_weather", "get_time", "get_news"):
        answered = client.chat.completions.create(**asked, tool_choice=allowed("required", name))
        assert [call.function.name for call in answered.choices[0].message.tool_calls] == [name]
    one = client.chat.completions.create(**asked, tool_choice=allowed("auto", "get_time"))
    alone = client.chat.completions.create(**{**asked, "tools": asked["tools"][1:2]})
    assert one.usage.prompt_tokens == alone.usage.prompt_tokens, "the others are not shown to the model"


def test_tools_in_streams(client: openai.OpenAI) -> None:
    asked: list[Any] = [{"role": "user", "content": "what is the weather?"}]
    with client.chat.completions.stream(
        model="default", messages=asked, tools=[TOOL], tool_choice="required"
    ) as stream:
        stream.until_done()
        choice = stream.get_final_completion().choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    assert choice.message.tool_calls[0].function.name == "get_weather"


@pytest.mark.parametrize(
    ("changed", "param"),
    [
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": False, "top_logprobs": 5}, "top_logprobs"),
        ({"top_logprobs": 5}, "top_logprobs"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"presence_penalty": -1}, "presence_penalty"),
        ({"logit_bias": {"50256": -100}}, "logit_bias"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"store": True}, "store"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 1000}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": ""}, "stop"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "nobody", "content": "hello"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "tool", "content": "1"}]}, "messages[0].tool_call_id"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"type": "retrieval"}]}, "tools[0].type"),
        ({"tools": [TOOL], "tool_choice": allowed("auto", "get_time")}, "tool_choice.allowed_tools.tools[0]"),
        ({"tools": [TOOL], "tool_choice": allowed("never", "get_weather")}, "tool_choice.allowed_tools.mode"),
        ({"tools": [TOOL], "tool_choice": allowed("auto")}, "tool_choice.allowed_tools.tools"),
        ({"tools": [TOOL], "response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [TOOL], "stop": "x"}, "stop"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"extra_body": {"guided_regex": "a+"}}, "guided_regex"),
        ({"extra_body": {"routes": ["nothing"]}}, "routes"),
    ],
)
def test_what_cannot_be_done_is_named(client: openai.OpenAI, changed: dict[str, Any], param: str) -> None:
    assert refused(client, **changed).param == param


@pytest.mark.parametrize(
    "address",
    [
        "file:///etc/passwd",
        "/etc/passwd",
        "../photo.jpg",
        "http://169.254.169.254/latest/meta-data",
        "https://example.org/a.jpg",
        "img_3f9a2c",
        "data:image/png;base64,AAAA",
        "data:image/png",
        "",
    ],
)
def test_only_images_that_come_with_the_request_are_read(client: openai.OpenAI, address: str) -> None:
    error = refused(client, messages=shown("what is it?", address))
    assert error.param == "messages[0].content[0].image_url.url"
    assert "root:" not in str(error)


def test_tiles_of_an_image(client: openai.OpenAI, data_url: str) -> None:
    bound = client.chat.completions.create(
        model="default", messages=shown("what colour is the dog?", data_url, detail="low", max_dynamic_patch=1)
    )
    assert bound.choices[0].message.content == "white"
    assert refused(client, messages=shown("what?", data_url, max_dynamic_patch=99)).param == (
        "messages[0].content[0].image_url.max_dynamic_patch"
    )


def test_another_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": "hello"}])
    assert (raised.value.param, raised.value.code) == ("model", "model_not_found")


def test_words_beyond_the_context_are_refused(client: openai.OpenAI) -> None:
    error = refused(client, messages=[{"role": "user", "content": "dog " * 9000}])
    assert (error.param, error.code) == ("messages", "context_length_exceeded")


@pytest.fixture(scope="module")
def clip() -> bytes:
    """A second of a square that grows darker."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=16)
        stream.width = stream.height = 64
        for number in range(16):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 240 - 12 * number, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def test_frames_of_a_video(client: openai.OpenAI, agent: VisionAgent, clip: bytes) -> None:
    url = f"data:video/mp4;base64,{base64.b64encode(clip).decode()}"
    video = {"type": "video_url", "video_url": {"url": url, "num_frames": 4}}
    asked: list[Any] = [{"role": "user", "content": [video, {"type": "text", "text": "what happens?"}]}]
    made = conversation_of([Message.model_validate(each) for each in asked], Sources(ServeOptions(), ImageLimits()))
    own = Conversation.build("what happens?", sample_frames(clip, segments=4).images, frames=True)
    assert (made.turns, made.max_tiles) == (own.turns, own.max_tiles)
    assert [image.tobytes() for image in made.images] == [image.tobytes() for image in own.images]
    answer = client.chat.completions.create(model="default", messages=asked, extra_body={"routes": []})
    assert answer.choices[0].message.content == agent.chat().ask("what happens?", video=clip, segments=4).text
    asked[0]["content"][0]["video_url"]["url"] = "data:video/mp4;base64,AAAA"
    assert refused(client, messages=asked).param == "messages[0].content[0].video_url.url"
    asked[0]["content"][0]["video_url"] = {"url": url, "num_frames": 60}
    assert "at most 16 images" in str(refused(client, messages=asked))
