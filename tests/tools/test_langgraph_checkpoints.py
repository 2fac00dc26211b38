"""Artifacts in LangGraph's checkpoints: what a graph was told by its tools is there again, as the same types."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import PHOTOS
from langchain.agents import create_agent
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage, messages_from_dict, messages_to_dict
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from vision_agent import Answer, Count, Detections, Extraction, ImageStore, OcrResult, Points, Segmentation, VisionAgent
from vision_agent.plugins.tool import ToolResult
from vision_agent.tools.builtin.images import NewImage
from vision_agent.tools.langchain.checkpoints import checkpoint_serializer, checkpoint_types

DOG = "000000139872.jpg"
CALLS: list[tuple[str, dict[str, Any], type]] = [
    ("detect", {"image": DOG, "phrases": ["dog"]}, Detections),
    ("point", {"image": DOG, "phrases": ["dog"]}, Points),
    ("count", {"image": DOG, "phrase": "dog"}, Count),
    ("segment", {"image": DOG, "phrases": ["dog"]}, Segmentation),
    ("ask", {"image": DOG, "question": "is there a dog?"}, Answer),
    ("ocr", {"document": "invoice.pdf"}, OcrResult),
    ("extract", {"document": "invoice.pdf", "fields": ["total: number", "date: date"]}, Extraction),
    ("crop", {"image": DOG, "box": [0, 0, 64, 48]}, NewImage),
    ("draw", {"image": DOG, "boxes": [[0, 0, 64, 48]]}, NewImage),
]


class Scripted(GenericFakeChatModel):
    def bind_tools(self, tools: Any, **settings: Any) -> Any:
        return self


@pytest.fixture(scope="module")
def store() -> ImageStore:
    return ImageStore(roots=[PHOTOS, PHOTOS.parent])


@pytest.fixture(scope="module")
def results(agent: VisionAgent, store: ImageStore) -> list[ToolResult]:
    return [agent.call_tool(name, arguments, store=store) for name, arguments, _ in CALLS]


def test_every_artifact_comes_back(results: list[ToolResult], caplog: pytest.LogCaptureFixture) -> None:
    serializer = checkpoint_serializer()
    for (name, _, kind), result in zip(CALLS, results, strict=True):
        assert type(result.artifact) is kind, name
        assert (kind.__module__, kind.__name__) in checkpoint_types()
        assert serializer.loads_typed(serializer.dumps_typed(result.artifact)) == result.artifact, name
    whole = serializer.loads_typed(serializer.dumps_typed(results[0]))
    assert isinstance(whole, ToolResult) and whole.content == results[0].content
    (fields,) = (result.artifact for result in results if isinstance(result.artifact, Extraction))
    assert set(fields.value) == set(fields.fields) == {"total", "date"} and fields.value["total"] > 0
    assert not caplog.records  # no warning of types that are not registered


def test_types_of_others_are_refused_unless_named(results: list[ToolResult]) -> None:
    strict = JsonPlusSerializer(allowed_msgpack_modules=[("vision_agent.results.points", "Count")])
    kind, data = strict.dumps_typed(results[0].artifact)
    assert not isinstance(strict.loads_typed((kind, data)), Detections)
    assert isinstance(checkpoint_serializer().loads_typed((kind, data)), Detections)
    assert ("a", "B") in checkpoint_serializer([("a", "B")])._allowed_msgpack_modules  # type: ignore[operator]


@pytest.mark.parametrize("serializer", [None, checkpoint_serializer()], ids=["its own", "ours"])
def test_a_graph_that_goes_on_later_has_its_artifacts(agent: VisionAgent, store: ImageStore, serializer: Any) -> None:
    def script() -> Iterator[AIMessage]:
        for number, (name, arguments, _) in enumerate(CALLS):
            yield AIMessage("", tool_calls=[{"name": name, "args": arguments, "id": str(number), "type": "tool_call"}])
        while True:
            yield AIMessage("done")

    saver, model, tools = InMemorySaver(serde=serializer), Scripted(messages=script()), agent.tools(store=store)
    config: Any = {"configurable": {"thread_id": "1"}, "recursion_limit": 60}
    create_agent(model, tools, checkpointer=saver).invoke({"messages": [HumanMessage("look")]}, config)
    for _ in range(2):  # saved, loaded, and saved again
        later = create_agent(model, tools, checkpointer=saver)  # another graph, and only what was saved
        state = later.invoke({"messages": [HumanMessage("and now?")]}, config)
    artifacts = [message.artifact for message in state["messages"] if isinstance(message, ToolMessage)]
    assert [type(artifact) for artifact in artifacts] == [kind for _, _, kind in CALLS]
    found, cut = artifacts[0], artifacts[-2]
    assert isinstance(found, Detections) and found[0].label == "dog"
    assert isinstance(cut, NewImage) and store.get(cut.id).size == (64, 48)
    assert state["messages"][-1].content == "done"


def test_a_message_is_a_tool_message_to_langchain(agent: VisionAgent, store: ImageStore) -> None:
    (crop,) = agent.tools(["crop"], store=store)
    call: Any = {"name": "crop", "args": {"image": DOG, "box": [0, 0, 64, 48]}, "id": "7", "type": "tool_call"}
    for message in (crop.invoke(call), asyncio.run(crop.ainvoke(call))):
        assert isinstance(message, ToolMessage) and message.tool_call_id == "7" and message.name == "crop"
        assert message.lc_id() == ToolMessage.lc_id()
        (again,) = messages_from_dict(messages_to_dict([message]))
        assert again.content == message.content
    refused: Any = {**call, "args": {"image": "none.jpg", "box": [0, 0, 64, 48]}}
    assert crop.invoke(refused).status == "error"
