"""The tools under smolagents, with a scripted model in the place of a language model."""

from typing import Any

import pytest
from conftest import PHOTOS
from smolagents import CodeAgent, Model, ToolCallingAgent
from smolagents.models import (
    ChatMessage,
    ChatMessageToolCall,
    ChatMessageToolCallFunction,
    MessageRole,
)

from vision_agent import ImageStore, ToolError, VisionAgent
from vision_agent.tools import Toolkit
from vision_agent.tools.smolagents import smolagents_tools

DOG = "000000139872.jpg"
CODE = f"""<code>
found = detect(image="{DOG}", phrases=["dog"])
cut = crop(found["image"], found["items"][0]["box"])
final_answer([found["total"], cut["images"][0]])
</code>"""


class Scripted(Model):  # type: ignore[misc]
    """Says what it was told to say, one answer after the other."""

    def __init__(self, *answers: ChatMessage) -> None:
        super().__init__()
        self.answers = list(answers)
        self.heard = ""

    def generate(self, messages: Any, **settings: Any) -> ChatMessage:
        self.heard = str(messages)
        return self.answers.pop(0)


def said(text: str) -> ChatMessage:
    return ChatMessage(role=MessageRole.ASSISTANT, content=text)


def calls(name: str, **arguments: Any) -> ChatMessage:
    function = ChatMessageToolCallFunction(name=name, arguments=arguments)
    call = ChatMessageToolCall(id=name, type="function", function=function)
    return ChatMessage(role=MessageRole.ASSISTANT, content="", tool_calls=[call])


@pytest.fixture
def toolkit(agent: VisionAgent) -> Toolkit:
    return Toolkit(agent, store=ImageStore(roots=[PHOTOS]))


def test_written_code_finds_and_cuts_out(toolkit: Toolkit, agent: VisionAgent) -> None:
    total, cut = CodeAgent(smolagents_tools(toolkit), Scripted(said(CODE)), verbosity_level=0).run("cut out the dog")
    assert total == len(agent.detect("dog", PHOTOS / DOG)) and cut in toolkit.store


def test_calls_and_refusals_are_told(toolkit: Toolkit) -> None:
    script = Scripted(
        calls("count", image="../../pyproject.toml", phrase="dog"),
        calls("count", image=DOG, phrase="dog"),
        calls("final_answer", answer="one"),
    )
    loop = ToolCallingAgent(smolagents_tools(toolkit), script, verbosity_level=0)
    assert loop.run("how many dogs?") == "one"
    assert (
        "inside the folders of this session" in script.heard
        and "'phrase': 'dog', 'count': " in script.heard.replace("\\", "")
    )


def test_every_tool_describes_itself(toolkit: Toolkit) -> None:
    tools = {tool.name: tool for tool in smolagents_tools(toolkit)}
    assert set(tools) == set(toolkit.tools)
    assert all(part["description"] for tool in tools.values() for part in tool.inputs.values())
    assert tools["detect"].inputs["threshold"]["nullable"] and "nullable" not in tools["detect"].inputs["image"]
    with pytest.raises(ToolError, match="`phrase` is missing"):
        tools["count"](DOG)
