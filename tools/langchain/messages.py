"""LangChain messages as a conversation that an InternVL reads: rounds of question and answer, with images.

System messages, the user's and tools' results make a question; what the assistant said, or the tool calls that it
wrote, make an answer. Images stand where their blocks stand.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, HumanMessage, SystemMessage, ToolMessage
from PIL import Image

from vision_agent.errors import InputError, bad_argument
from vision_agent.images.store import ImageStore
from vision_agent.inference.conversation import Conversation
from vision_agent.model.prompt import PLACEHOLDER, Turn
from vision_agent.plugins.constraint import Constraint

_GO_ON = "Go on."  # where nobody asks, but an answer is due


@dataclass
class _Rounds:
    """Rounds while they are being read.

    Attributes:
        asked: parts of the question that has no answer yet.
        earlier: how many images came before that question.
    """

    turns: list[Turn] = field(default_factory=list)
    images: list[Image.Image] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    earlier: int = 0

    def answer(self, text: str) -> None:
        if not self.asked and self.turns:  # said in two messages
            question, before = self.turns[-1]
            self.turns[-1] = (question, f"{before}\n{text}")
            return
        self.turns.append(("\n".join(self.asked) or _GO_ON, text))
        self.asked = []
        self.earlier = len(self.images)


def conversation_of(
    messages: Sequence[BaseMessage], store: ImageStore, preface: str = "", constraint: Constraint | None = None
) -> Conversation:
    """Turn a list of messages into a conversation.

    Args:
        store: opens images: ids as `file_id`, `data:` addresses, and https addresses where it allows them.
        preface: stands before the first question.
        constraint: the grammar of the answer.

    Raises:
        InputError: a message or block that is neither text nor an image, or an image that may not be read.
    """
    several = sum(block.get("type") == "image" for message in messages for block in _blocks(message)) > 1
    rounds = _Rounds(asked=[preface] if preface else [])
    for message in messages:
        if isinstance(message, AIMessage):
            rounds.answer(_said(message))
            continue
        if not isinstance(message, HumanMessage | SystemMessage | ToolMessage | ChatMessage):
            raise InputError(bad_argument("messages", "of system, user, assistant and tools", type(message).__name__))
        text = "".join(_shown(block, rounds, store, several) for block in _blocks(message))
        if isinstance(message, ToolMessage):
            text = (
                f"The tool {message.name or ''} {'failed' if message.status == 'error' else 'gave this data'}: {text}"
            )
        rounds.asked.append(text)
    question = "\n".join(rounds.asked) or _GO_ON
    earlier = Conversation(
        tuple(rounds.turns),
        tuple(rounds.images[: rounds.earlier]),
        (None,) * rounds.earlier,
        places=(None,) * len(rounds.turns),
    )
    return Conversation.build(question, rounds.images[rounds.earlier :], after=earlier, constraint=constraint)


def call_text(name: str, arguments: dict[str, Any]) -> str:
    """Return a tool call as the model writes it."""
    return json.dumps({"tool": name, "arguments": arguments}, ensure_ascii=False)


def _blocks(message: BaseMessage) -> list[dict[str, Any]]:
    if isinstance(message, AIMessage):
        return []
    return [dict(block) for block in message.content_blocks]


def _said(message: AIMessage) -> str:
    calls = [call_text(call["name"], call["args"]) for call in message.tool_calls]
    return "\n".join(part for part in (message.text, *calls) if part) or "(nothing)"


def _shown(block: dict[str, Any], rounds: _Rounds, store: ImageStore, several: bool) -> str:
    """A block as text; images go to `rounds` and leave a placeholder."""
    kind = block.get("type")
    if kind == "text":
        return str(block["text"]).replace(PLACEHOLDER, "[image]")  # typed by a user, it is no image
    if kind != "image":
        raise InputError(bad_argument("messages", "text and image blocks", f"a block of type {kind!r}"))
    if "base64" in block:
        reference = f"data:{block.get('mime_type', 'image/png')};base64,{block['base64']}"
    else:
        reference = block.get("file_id") or block.get("url") or ""
    rounds.images.append(store.open(reference, name="messages").image)
    return f"Image-{len(rounds.images)}: {PLACEHOLDER}\n" if several else f"{PLACEHOLDER}\n"
