"""What language models write as arguments: careless forms that mean one thing, and hostile ones that are refused."""

import json
import random
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict

from vision_agent import ToolError, ToolOutput, VisionAgent
from vision_agent.plugins.registry import load_tools
from vision_agent.plugins.tool import Tool
from vision_agent.tools import Toolkit
from vision_agent.tools.arguments import read_arguments
from vision_agent.tools.langchain.tools import VisionTool

TOOLS = load_tools()
REQUIRED: dict[str, dict[str, Any]] = {
    "ask": {"image": "a.jpg", "question": "what is it?"},
    "crop": {"image": "a.jpg", "box": [1, 2, 3, 4]},
    "detect": {"image": "a.jpg", "phrases": ["dog"]},
    "draw": {"image": "a.jpg", "boxes": [[1, 2, 3, 4]]},
    "extract": {"document": "a.pdf", "fields": ["total"]},
}


def read(name: str, **given: Any) -> Any:
    return read_arguments(TOOLS[name], {**REQUIRED[name], **given})


def refusal(name: str, arguments: Any) -> str:
    with pytest.raises(ToolError) as refused:
        read_arguments(TOOLS[name], arguments)
    said = str(refused.value)
    assert said.startswith(f"{name}: ") and len(said) < 800
    said.encode()  # it goes into JSON
    return said


# --- lists


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ('["dog","frisbee"]', ["dog", "frisbee"]),
        (' [ "dog" , "frisbee" ] ', ["dog", "frisbee"]),
        ("['dog', \"the dog's frisbee\"]", ["dog", "the dog's frisbee"]),
        ('"[\\"dog\\"]"', ["dog"]),  # encoded twice
        ('"dog"', ["dog"]),
        ('"dog", "frisbee"', ["dog", "frisbee"]),
        ("dog", ["dog"]),
        ("red car, dog", ["red car", "dog"]),
        ("dog; frisbee\nbus", ["dog", "frisbee", "bus"]),
        ("a 1,000 dollar note", ["a 1,000 dollar note"]),
        ("Hündin, собака, 犬", ["Hündin", "собака", "犬"]),
        ('["\\u72ac"]', ["犬"]),
        ([["dog", "frisbee"]], ["dog", "frisbee"]),
        (['["dog", "frisbee"]', "bus"], ["dog", "frisbee", "bus"]),
        (["a man, with a hat", "[EXIT] sign"], ["a man, with a hat", "[EXIT] sign"]),  # a list's own items stand
        (["dog", None], ["dog"]),
        (["dog", 5], ["dog", "5"]),
        (("dog", "bus"), ["dog", "bus"]),
    ],
)
def test_a_list_of_texts_in_every_form(written: Any, meant: list[str]) -> None:
    assert read("detect", phrases=written).phrases == meant
    assert read("ask", choices=written).choices == meant
    assert read("draw", labels=written).labels == meant
    assert read("extract", fields=written).fields == meant
    whole = {**REQUIRED["detect"], "phrases": written}
    assert read_arguments(TOOLS["detect"], json.dumps(whole)).phrases == meant


@pytest.mark.parametrize(
    "written",
    [
        *([1, 2, 3.5, 4], "[1, 2, 3.5, 4]", "1, 2, 3.5, 4", "1 2 3.5 4", "(1, 2, 3.5, 4)", "[1, 2, 3.5, 4,]"),
        *(["1", "2", "3.5", "4"], '["1", "2", "3.5", "4"]', [[1, 2, 3.5, 4]], "[[1, 2, 3.5, 4]]"),
    ],
)
def test_a_box_in_every_form(written: Any) -> None:
    assert read("crop", box=written).box == [1, 2, 3.5, 4]
    assert read("draw", boxes=written).boxes == [[1, 2, 3.5, 4]]


@pytest.mark.parametrize(
    "written",
    [
        "[[1, 2, 3, 4], [5, 6, 7, 8]]",
        "[1, 2, 3, 4], [5, 6, 7, 8]",
        "((1, 2, 3, 4), (5, 6, 7, 8))",
        ["[1, 2, 3, 4]", "5, 6, 7, 8"],
        [[[1, 2, 3, 4], [5, 6, 7, 8]]],
    ],
)
def test_boxes_in_every_form(written: Any) -> None:
    assert read("draw", boxes=written).boxes == [[1, 2, 3, 4], [5, 6, 7, 8]]


def test_an_address_is_not_split_at_its_comma() -> None:
    address = "data:image/png;base64,iVBORw0KGgo="
    assert read("ask", more_images=address).more_images == [address]
    assert read("ask", more_images="img_3f9a2c, img_4f9a2c").more_images == ["img_3f9a2c", "img_4f9a2c"]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("[dog, frisbee]", '`phrases` must be a list such as ["dog", "frisbee"], but got'),
        ('["dog", "fris', '`phrases` must be a list such as ["dog", "frisbee"], but got'),
        ("[" * 200_000, '`phrases` must be a list such as ["dog", "frisbee"], but got'),
        ("['" + "a', '" * 50_000, '`phrases` must be a list such as ["dog", "frisbee"], but got'),
        ('{"phrases": ["dog"]}', "`phrases` must be a list, but got an object"),
        ({"0": "dog"}, "`phrases`: Input should be a valid list"),
        (5, "`phrases`: Input should be a valid list, but got 5"),
        (True, "`phrases`: Input should be a valid list, but got True"),
        ([], "`phrases`: List should have at least 1 item"),
        ("", "`phrases`: List should have at least 1 item"),
        ([[["dog"]]], "`phrases.0`: Input should be a valid string"),
        (["dog"] * 30_000, "more than 20000 values; give fewer"),
        ("null", "`phrases` is missing"),
        (None, "`phrases` is missing"),
    ],
)
def test_what_is_no_list_is_never_searched_for(written: Any, said: str) -> None:
    assert said in refusal("detect", {"image": "a.jpg", "phrases": written})


# --- null, numbers, choices, names


def test_null_is_not_given_everywhere() -> None:
    for tool in TOOLS.values():
        fields = tool.arguments.model_fields
        absent = {name: None for name, field in fields.items() if not field.is_required()}
        required = {
            name: [[1, 2, 3, 4]] if name == "boxes" else [1, 2, 3, 4] if name == "box" else "x"
            for name, field in fields.items()
            if field.is_required()
        }
        assert read_arguments(tool, required | absent) == read_arguments(tool, required), tool.name
        spelled = {name: "null" for name in absent}
        assert read_arguments(tool, required | spelled) == read_arguments(tool, required), tool.name
        for name in required:
            assert f"`{name}` is missing" in refusal(tool.name, {**required, name: None})


def test_numbers_and_choices_as_texts() -> None:
    read_one = read("detect", threshold=" 0.3 ", limit="7", offset=2.0)
    assert (read_one.threshold, read_one.limit, read_one.offset) == (0.3, 7, 2)
    caption = read_arguments(TOOLS["caption"], {"image": "a.jpg", "length": " SHORT"})
    assert caption.length == "short"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"threshold": "high"}, "`threshold`: Input should be a valid number, unable to parse string"),
        ({"threshold": True}, "`threshold` must be a number, but got true"),
        ({"threshold": float("nan")}, "`threshold`: Input should be"),
        ({"limit": "ten"}, "`limit`: Input should be a valid integer"),
        ({"limit": 2.5}, "`limit`: Input should be a valid integer"),
        ({"offset": 10**30}, "`offset`: Input should be less than or equal to"),
        ({"offset": 10**9999}, "which is too large"),
        ({"phrase": "dog"}, "`phrase` is no argument of this tool (did you mean `phrases`?)"),
        ({"Threshold": 0.2}, "`Threshold` is no argument of this tool (did you mean `threshold`?)"),
        ({"self": 1}, "`self` is no argument of this tool"),
        ({"run_manager": 1, "config": {}}, "`run_manager` is no argument of this tool"),
        ({"x" * 100_000: 1}, "is no argument of this tool"),
        ({"image": ["a.jpg"]}, "`image`: Input should be a valid string"),
        ({"image": "dog\ud83d"}, r"half of a character ('\ud83d')"),
        ({"\udc00": "dog"}, r"half of a character ('\udc00')"),
        ({7: "dog"}, "Keys should be strings"),
    ],
)
def test_what_does_not_fit_is_explained(agent: VisionAgent, given: dict[Any, Any], said: str) -> None:
    arguments = {**REQUIRED["detect"], **given}
    told = refusal("detect", arguments)
    assert said in told
    if all(isinstance(key, str) for key in given):  # in LangChain's words it is the same
        call: Any = {"name": "detect", "args": arguments, "id": "1", "type": "tool_call"}
        assert VisionTool(Toolkit(agent, ["detect"]), TOOLS["detect"]).invoke(call).content == told


# --- hostile JSON


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 200_000, "far too deep"),
        ('{"a":' * 200_000, "far too deep"),
        ("[" * 50 + "]" * 50, "must be an object, but got list"),
        ('{"image": ' + "[" * 40 + "]" * 40 + "}", "more than 16 deep"),
        ('{"image": ' + "9" * 5000 + "}", "a number of 5000 digits"),
        ('{"image": 1e999}', "the number 1e999 is too large"),
        ('{"image": NaN}', "NaN is no number in JSON"),
        ('{"image": -Infinity}', "-Infinity is no number in JSON"),
        ('{"image": "\\ud800", "phrases": "dog"}', "half of a character"),
        ('{"image": "a.jpg", "image": "b.jpg"}', "'image' is there twice"),
        ('{"image": {"id": 1, "id": 2}}', "'id' is there twice"),
        ('{"image": "a.jpg",}', "must be one JSON object, but"),
        ("{'image': 'a.jpg'}", "must be one JSON object, but"),
        ("\x00", "must be one JSON object, but"),
        ("{} {}", "Extra data"),
        ("7", "must be an object, but got int"),
        ('"detect"', "must be an object, but got str"),
        ("", "`image` is missing"),
        ("null", "`image` is missing"),
    ],
)
def test_hostile_json(text: str, said: str) -> None:
    assert said in refusal("detect", text)


def test_arguments_that_are_encoded_twice() -> None:
    assert read_arguments(TOOLS["detect"], json.dumps(json.dumps(REQUIRED["detect"]))) == read("detect")


def test_values_of_programs_that_contain_themselves() -> None:
    endless: list[Any] = []
    endless += [endless] * 10
    assert "deep" in refusal("detect", {"image": "a.jpg", "phrases": endless}) or "values" in refusal(
        "detect", {"image": "a.jpg", "phrases": endless}
    )


def test_anything_is_read_or_refused() -> None:
    """Random values out of what breaks parsers: nothing but `ToolError` comes."""
    parts: list[Any] = [None, True, 0, -1, 1e308, float("inf"), 10**100, "", "null", "[", "]", '"', "{", "}", "(", "'"]
    parts += ["\ud800", "\x00", "img_000000", "[1,2", "[[1],[2]]", "a,b", "NaN", "1e999", "\\", "['\\", "data:,", b"x"]
    draw = random.Random(18)

    def value(deep: int) -> Any:
        kind = draw.random()
        if deep and kind < 0.25:
            return [value(deep - 1) for _ in range(draw.randrange(4))]
        if deep and kind < 0.35:
            return {str(draw.choice(parts)): value(deep - 1) for _ in range(draw.randrange(3))}
        if kind < 0.5:
            return "".join(str(draw.choice(parts)) for _ in range(draw.randrange(8)))
        return draw.choice(parts)

    outcomes = {"read": 0, "refused": 0}
    for _ in range(3000):
        tool = draw.choice(list(TOOLS.values()))
        names = [*tool.arguments.model_fields, "other"] if draw.random() < 0.2 else [*tool.arguments.model_fields]
        arguments = {name: value(3) for name in names if draw.random() < 0.8}
        try:
            read_arguments(tool, arguments)
            outcomes["read"] += 1
        except ToolError as error:
            str(error).encode()
            outcomes["refused"] += 1
    assert outcomes["read"] > 20 and outcomes["refused"] > 1000


# --- tools of others


class Free(BaseModel):
    """Arguments of a third party, which are not made of ours."""

    model_config = ConfigDict(extra="forbid")

    words: list[str] | None = None
    counts: list[int] = []
    either: str | list[str] = ""
    kind: Literal["one", "two"] = "one"
    notes: dict[str, int] = {}


def test_tools_of_others_are_read_alike() -> None:
    tool = Tool("free", "Free.", Free, Free, lambda agent, store, args: ToolOutput(args, args))
    given = {"words": '["a"]', "counts": "1, 2", "either": '["a"]', "kind": "TWO", "notes": {"a": 1}}
    meant = Free(words=["a"], counts=[1, 2], either='["a"]', kind="two", notes={"a": 1})
    assert read_arguments(tool, given) == meant
    assert read_arguments(tool, {name: None for name in given}) == Free()


# --- all the way


def test_a_list_as_json_finds_what_a_list_finds(agent: VisionAgent, photo: Any) -> None:
    image = agent.call_tool("draw", {"image": _data_url(photo), "boxes": "5 5 9 9"}).content["source"]
    as_list = agent.call_tool("detect", {"image": image, "phrases": ["dog", "frisbee"]})
    assert as_list.content["counts"] == {"dog": 1, "frisbee": 1}
    for written in ('["dog", "frisbee"]', "dog, frisbee", ["dog; frisbee"], ["Dog", "dog", "frisbee"]):
        found = agent.call_tool("detect", {"image": image, "phrases": written, "threshold": None}).content
        assert [item["box"] for item in found["items"]] == [item["box"] for item in as_list.content["items"]]
        assert sorted(found["counts"].values()) == [1, 1]
    said = agent.call_tool("ask", {"image": image, "question": "is there a dog?", "choices": '["yes", "no"]'})
    assert said.content["text"] == "yes"


def _data_url(photo: Any) -> str:
    import base64

    return "data:image/jpeg;base64," + base64.b64encode(photo.read_bytes()).decode()
