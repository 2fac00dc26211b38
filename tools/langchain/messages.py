"""LangChain messages as a conversation that an InternVL reads; see `vision_agent.planning.message_rounds`."""

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, HumanMessage, SystemMessage, ToolMessage

from vision_agent.errors import InputError, bad_argument
from vision_agent.images.store import ImageStore
from vision_agent.inference.conversation import Conversation
from vision_agent.planning.message_rounds import MessageRounds, call_text, typed_text


def conversation_of(messages: Sequence[BaseMessage], store: ImageStore, preface: str = "") -> Conversation:
    """Turn a list of messages into a conversation.

    Args:
        store: opens images: ids as `file_id`, `data:` addresses, and https addresses where it allows them.
        preface: stands before the first question.

    Raises:
        InputError: a message or block that is neither text nor an image, or an image that may not be read.
    """
    several = sum(block.get("type") == "image" for message in messages for block in _blocks(message)) > 1
    rounds = MessageRounds(several, preface)
    for message in messages:
        if isinstance(message, AIMessage):
            rounds.answer(message.text, *(call_text(call["name"], call["args"]) for call in message.tool_calls))
            continue
        if not isinstance(message, HumanMessage | SystemMessage | ToolMessage | ChatMessage):
            raise InputError(bad_argument("messages", "of system, user, assistant and tools", type(message).__name__))
        text = "".join(_shown(block, rounds, store) for block in _blocks(message))
        if isinstance(message, ToolMessage):
            rounds.give(message.name or "", text, failed=message.status == "error")
        else:
            rounds.ask(text)
    return rounds.conversation()


def _blocks(message: BaseMessage) -> list[dict[str, Any]]:
    if isinstance(message, AIMessage):
        return []
    return [dict(block) for block in message.content_blocks]


def _shown(block: dict[str, Any], rounds: MessageRounds, store: ImageStore) -> str:
    """A block as text; images go to `rounds` and leave a placeholder."""
    kind = block.get("type")
    if kind == "text":
        return typed_text(str(block["text"]))
    if kind != "image":
        raise InputError(bad_argument("messages", "text and image blocks", f"a block of type {kind!r}"))
    if "base64" in block:
        reference = f"data:{block.get('mime_type', 'image/png')};base64,{block['base64']}"
    else:
        reference = block.get("file_id") or block.get("url") or ""
    return rounds.show(store.open(reference, name="messages").image)
