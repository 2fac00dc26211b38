"""`ChatVision` under LangChain's own standard suites, on the model that ships with the package."""

import asyncio
import base64
import io
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests
from PIL import Image
from pydantic import BaseModel, Field

from vision_agent import ImageStore, InputError, UrlRefusedError, VisionAgent
from vision_agent.planning.tool_prompt import tool_preface
from vision_agent.tools.langchain.chat_model import ChatVision
from vision_agent.tools.langchain.messages import conversation_of

PHOTO = Path(__file__).parents[2] / "examples" / "photos" / "000000139872.jpg"
TOO_SMALL = "the default model cannot copy arguments out of a question; that the call is valid is tested below"


class _OfTheDefault:
    """What both suites are told."""

    @pytest.fixture(autouse=True)
    def _agent(self, agent: VisionAgent) -> None:
        self.agent = agent

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatVision

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"agent": self.agent}

    @property
    def supports_image_inputs(self) -> bool:
        return True

    @property
    def supports_image_tool_message(self) -> bool:
        return True


class TestUnit(_OfTheDefault, ChatModelUnitTests):
    pass


class TestStandard(_OfTheDefault, ChatModelIntegrationTests):
    @pytest.fixture(autouse=True)
    def _no_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where the suite would download its image, it gets another one."""
        file = io.BytesIO()
        Image.open(PHOTO).resize((160, 120)).save(file, "PNG")
        monkeypatch.setattr(httpx, "get", lambda *_, **__: httpx.Response(200, content=file.getvalue()))

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        return {"max_tokens": 64}

    @property
    def supports_json_mode(self) -> bool:
        return True

    @pytest.mark.xfail(reason=TOO_SMALL, raises=AssertionError)
    def test_unicode_tool_call_integration(self, model: BaseChatModel, **settings: Any) -> None:
        super().test_unicode_tool_call_integration(model, **settings)


# --- words and images


@pytest.fixture
def chat(agent: VisionAgent) -> ChatVision:
    return ChatVision(agent=agent, max_tokens=24)


def in_base64() -> str:
    return base64.b64encode(PHOTO.read_bytes()).decode()


def test_images_in_every_form(chat: ChatVision, agent: VisionAgent) -> None:
    question = "describe the picture"
    store = ImageStore(roots=[PHOTO.parent])
    url = f"data:image/jpeg;base64,{in_base64()}"
    source = {"type": "base64", "media_type": "image/jpeg", "data": in_base64()}
    blocks: list[dict[str, Any]] = [
        {"type": "image", "base64": in_base64(), "mime_type": "image/jpeg"},
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "image", "source": source},
        {"type": "image", "file_id": store.open(PHOTO.name).id},
    ]
    expected = agent.ask(question, PHOTO, options=chat._options(None, False, {})).text
    seeing = ChatVision(agent=agent, max_tokens=24, store=store)
    for block in blocks:
        message = HumanMessage([block, {"type": "text", "text": question}])
        assert seeing.invoke([message]).text == expected


def test_streams_join_to_the_answer(chat: ChatVision) -> None:
    message = HumanMessage("describe a dog in the park")  # about an image, the default answers in one piece
    chunks = list(chat.stream([message]))
    assert "".join(chunk.text for chunk in chunks) == chat.invoke([message]).text
    assert len(chunks) > 2 and chunks[-1].chunk_position == "last"
    assert chunks[-1].usage_metadata is not None and chunks[-1].response_metadata["model_name"] == "default"

    async def streamed() -> list[str]:
        return [chunk.text async for chunk in chat.astream([message])]

    assert "".join(asyncio.run(streamed())) == chat.invoke([message]).text


def test_messages_become_rounds() -> None:
    store = ImageStore()
    image = {"type": "image", "base64": in_base64(), "mime_type": "image/jpeg"}
    messages = [
        SystemMessage("Be brief."),
        HumanMessage([{"type": "text", "text": "See <image> "}, image]),
        AIMessage("A dog."),
        AIMessage("", tool_calls=[{"name": "crop", "args": {"x": 1}, "id": "1", "type": "tool_call"}]),
        ToolMessage([image, "cut"], tool_call_id="1", name="crop"),
        ToolMessage("no", tool_call_id="2", name="ask", status="error"),
    ]
    rounds = conversation_of(messages, store, "Preface.")
    assert rounds.turns == (
        (
            "Preface.\nBe brief.\nSee [image] Image-1: <image>\n",
            'A dog.\n{"tool": "crop", "arguments": {"x": 1}}',
        ),
        ("The tool crop gave this data: Image-2: <image>\ncut\nThe tool ask failed: no", None),
    )
    assert [each.size for each in rounds.images] == [(640, 480)] * 2 and rounds.earlier_images == 1
    assert conversation_of([AIMessage("Hi.")], store).turns == (("Go on.", "Hi."), ("Go on.", None))


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image", "url": str(PHOTO)},
        {"type": "image", "url": f"file://{PHOTO}"},
        {"type": "image", "url": "http://example.com/a.png"},
        {"type": "image", "url": "https://example.com/a.png"},
        {"type": "image", "file_id": "img_000000"},
        {"type": "audio", "base64": "AAAA", "mime_type": "audio/wav"},
    ],
)
def test_what_may_not_be_read(chat: ChatVision, block: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="`messages` must be"):
        chat.invoke([HumanMessage([block])])


def test_options(checkpoint: Path) -> None:
    agent = VisionAgent.from_pretrained(checkpoint)  # one that writes whatever it is asked
    drawn = ChatVision(agent=agent, max_tokens=12, temperature=1.5, seed=3)
    assert drawn.invoke("hello").text == drawn.invoke("hello").text
    assert drawn.bind(seed=4).invoke("hello").text != drawn.invoke("hello").text
    short = ChatVision(agent=agent, max_tokens=2).invoke("describe a dog in the park")
    assert short.response_metadata["finish_reason"] == "length" and short.usage_metadata is not None
    assert short.usage_metadata["output_tokens"] == 2


# --- tools and schemas


@tool
def weather(city: str, days: int) -> str:
    """Tell the weather."""
    return f"{city}: rain for {days} days"


@tool
def clock() -> str:
    """Tell the time."""
    return "noon"


@pytest.mark.parametrize("choice", [None, "auto", "any", "required", "weather", "clock", "none"])
def test_calls_are_valid_whatever_the_model_writes(chat: ChatVision, choice: str | None) -> None:
    bound = ChatVision(agent=chat.agent, max_tokens=64).bind_tools([weather, clock], tool_choice=choice)
    message = bound.invoke("what is the weather in paris?")
    assert isinstance(message, AIMessage)
    if choice in ("any", "required", "weather", "clock"):
        assert message.tool_calls and not message.text
    if choice == "none":
        assert message.text and not message.tool_calls
    for made in message.tool_calls:
        called = {"weather": weather, "clock": clock}[made["name"]]
        assert choice in (None, "auto", "any", "required", made["name"])
        assert called.invoke(made["args"])
    whole: Any = None
    for chunk in bound.stream("what is the weather in paris?"):
        whole = chunk if whole is None else whole + chunk
    assert isinstance(whole, AIMessageChunk) and whole.text == message.text
    assert [(each["name"], each["args"]) for each in whole.tool_calls] == [
        (each["name"], each["args"]) for each in message.tool_calls
    ]


def test_an_unknown_choice(chat: ChatVision) -> None:
    with pytest.raises(InputError, match=r"'none' or one of \['weather'\], but got 'whether'"):
        chat.bind_tools([weather], tool_choice="whether")


@pytest.mark.parametrize("choice", [None, "any", "detect"])
def test_the_default_takes_all_tools_of_its_agent(agent: VisionAgent, choice: str | None) -> None:
    store = ImageStore(roots=[PHOTO.parent])
    tools = agent.tools(store=store)
    bound = ChatVision(agent=agent, store=store, max_tokens=64).bind_tools(tools, tool_choice=choice)
    message = bound.invoke([HumanMessage(f"is there a dog in {PHOTO.name}?")])
    assert isinstance(message, AIMessage) and message.usage_metadata is not None
    assert message.usage_metadata["input_tokens"] < 4096 // 2
    assert [each["name"] for each in message.tool_calls if each["name"] not in {tool.name for tool in tools}] == []
    assert choice is None or len(message.tool_calls) == 1
    if choice == "detect":
        assert message.tool_calls[0]["name"] == "detect"
        assert message.usage_metadata["input_tokens"] < 600  # the other tools are not told of


def test_tools_are_told_in_the_longest_form_that_fits(agent: VisionAgent) -> None:
    tools = [convert_to_openai_tool(each) for each in agent.tools()]
    lengths = [len(tool_preface(tools, False, len, context)) for context in (100_000, 12_000, 1)]
    assert lengths == sorted(lengths, reverse=True) and len(set(lengths)) == 3
    whole, _, brief = (tool_preface(tools, False, len, context) for context in (100_000, 12_000, 1))
    assert '"minItems": 1' in whole and "detect(image, phrases: list, threshold?: number, offset?: integer" in brief
    assert "make?: nothing|masks|cutouts|drawing" in brief
    only = tool_preface(tools[:1], True, len, 1)
    assert only.startswith("You may call this tool:") and '"answer"' not in only


@pytest.mark.parametrize("words", ["hello", "hello " * 5000])
def test_tools_that_do_not_fit(chat: ChatVision, words: str) -> None:
    def made(number: int) -> dict[str, Any]:
        properties = {"city": {"type": "string"}}
        parameters = {"type": "object", "properties": properties, "required": ["city"]}
        return {"name": f"weather_of_region_{number}", "description": "Tell it.", "parameters": parameters}

    bound = chat.bind_tools([made(number) for number in range(300 if words == "hello" else 2)])
    with pytest.raises(InputError, match=r"bind fewer tools, such as agent.tools\(\['detect', 'count'\]\)"):
        bound.invoke(words)


def nested() -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(1500):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


@pytest.mark.parametrize("parameters", [{"type": 5}, {"properties": 5}, nested()], ids="abc")
def test_hostile_schemas_are_refused(chat: ChatVision, parameters: dict[str, Any]) -> None:
    function = {"name": "act", "description": "Act.", "parameters": parameters}
    with pytest.raises(InputError, match="`schema` must be"):
        chat.bind_tools([{"type": "function", "function": function}])
    with pytest.raises(InputError, match="`schema` must be"):
        chat.with_structured_output({"title": "act", **parameters}).invoke("act")


@pytest.mark.parametrize("wrong", [5, {}, {"a": 1}, {"type": "function", "function": 5}, "weather", None])
def test_what_is_no_tool_or_schema(chat: ChatVision, wrong: Any) -> None:
    with pytest.raises(InputError, match="`tools` must be tools"):
        chat.bind_tools([wrong])
    with pytest.raises(InputError, match="`schema` must be"):
        chat.with_structured_output(wrong).invoke("act")


class Scene(BaseModel):
    """A scene."""

    animals: int = Field(ge=0, le=9)
    outdoors: bool


def test_schemas_are_filled(chat: ChatVision) -> None:
    block = {"type": "image", "base64": in_base64(), "mime_type": "image/jpeg"}
    scene = chat.with_structured_output(Scene).invoke([HumanMessage([block, "how many animals?"])])
    assert isinstance(scene, Scene) and 0 <= scene.animals <= 9
    raw = chat.with_structured_output(Scene, include_raw=True).invoke("a dog")
    assert isinstance(raw, dict)
    assert raw["parsed"] == Scene.model_validate_json(raw["raw"].text) and raw["parsing_error"] is None
    with pytest.raises(InputError, match="temper"):
        chat.with_structured_output(Scene, temper=1)


def test_it_drives_an_agent_loop(agent: VisionAgent) -> None:
    """One forced call of a real tool, and its result read back in the next round."""
    store = ImageStore(roots=[PHOTO.parent])
    (caption,) = agent.tools(["caption"], store=store)
    chat = ChatVision(agent=agent, store=store, max_tokens=64)
    made = chat.bind_tools([caption], tool_choice="caption").invoke("describe it")
    (wanted,) = made.tool_calls
    result = caption.invoke(wanted)  # its image is whatever the small model wrote: most likely refused
    assert isinstance(result, ToolMessage) and result.tool_call_id == wanted["id"]
    assert isinstance(chat.invoke([HumanMessage("describe it"), made, result]), AIMessage)


def test_a_typed_placeholder_is_text(chat: ChatVision) -> None:
    assert isinstance(chat.invoke("what is <image> in html?"), AIMessage)


def test_a_large_image_is_refused(agent: VisionAgent) -> None:
    file = io.BytesIO()
    Image.effect_noise((400, 400), 90).save(file, "PNG")
    block = {"type": "image", "base64": base64.b64encode(file.getvalue()).decode(), "mime_type": "image/png"}
    small = ChatVision(agent=agent, store=ImageStore(max_data_bytes=10_000))
    with pytest.raises(InputError, match="10000 bytes"):
        small.invoke([HumanMessage([block])])


def test_addresses_stay_off(chat: ChatVision) -> None:
    with pytest.raises(UrlRefusedError):
        chat.invoke([HumanMessage([{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}])])
    assert json.dumps(chat._identifying_params)


def test_structured_output_of_the_default_is_what_it_saw(agent: VisionAgent) -> None:
    class There(BaseModel):
        """Whether it is there."""

        there: bool

    photo = {"type": "image", "base64": base64.b64encode(PHOTO.read_bytes()).decode(), "mime_type": "image/jpeg"}
    model = ChatVision(agent=agent).with_structured_output(There)
    for name, there in (("dog", True), ("train", False)):
        asked = [HumanMessage([{"type": "text", "text": f"is there a {name}?"}, photo])]
        assert model.invoke(asked) == There(there=there)
    assert list(model.stream(asked)) == [There(there=False)]


def test_the_tool_gives_a_choice_as_it_was_written(agent: VisionAgent) -> None:
    store = ImageStore()
    image = store.add(PHOTO)
    said = agent.call_tool(
        "ask", {"image": image, "question": "is there a dog?", "choices": ["False", "True"]}, store=store
    )
    assert said.content["text"] == "True" and said.content["confidence"] > 0.5
