"""Answers of a chat in a form: tool calls and JSON, written under a grammar whatever the checkpoint was taught.

With tools, an answer is `{"tool": name, "arguments": {...}}` or `{"answer": text}` and nothing else, so its JSON is
always valid. One call in each answer.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel

from vision_agent.errors import InputError
from vision_agent.generation.options import GenerationOptions
from vision_agent.generation.structured import AnswerForm
from vision_agent.inference.conversation import Conversation
from vision_agent.model.backbone import Backbone
from vision_agent.planning.call_schema import call_schema
from vision_agent.planning.tool_prompt import tool_preface
from vision_agent.results.answers import Answer

FORMED_TOKENS = 512
"""Most tokens of a tool call or structured answer, where the caller does not say."""
ANY_TOOL = "any"
"""The choice of a call of some tool."""


@dataclass(frozen=True)
class FormedRequest:
    """A chat whose next answer is due, with the form of that answer.

    Attributes:
        conversation: what is answered.
        options: how.
        form: free text, JSON under a schema, or a tool call.
        with_tools: the answer's JSON is a call or words: see `read_said`.
    """

    conversation: Conversation
    options: GenerationOptions
    form: AnswerForm
    with_tools: bool

    @classmethod
    def of(
        cls,
        backbone: Backbone,
        read: Callable[[str], Conversation],
        options: GenerationOptions | Callable[[Conversation], GenerationOptions],
        *,
        tools: Sequence[dict[str, Any]] = (),
        choice: str | None = None,
        schema: type[BaseModel] | dict[str, Any] | None = None,
    ) -> "FormedRequest":
        """Put it together.

        Args:
            read: makes the conversation, with a preface before its first question.
            options: how the answer is written, or what says so once the conversation is known.
            tools: that the answer may call, as OpenAI has them.
            choice: None to leave it to the model, `ANY_TOOL` for a call of some tool, or the name of one.
            schema: of an answer without tools; None for words.

        Raises:
            InputError: a schema that no grammar can be made of, or words that do not fit beside the list of tools.
        """
        if tools:
            tools = [tool for tool in tools if choice in (None, ANY_TOOL, tool["function"]["name"])]
            schema = call_schema(tools, choice)

        def count(text: str) -> int:
            return len(backbone.text_ids(text))

        preface = tool_preface(tools, choice is not None, count, backbone.context) if tools else ""
        conversation = read(preface)
        options = options if isinstance(options, GenerationOptions) else options(conversation)
        form = replace(AnswerForm.of(schema, None, backbone, options), protocol=schema is not None)
        conversation = replace(conversation, constraint=form.constraint)
        if tools:
            needed = sum(count(text) for turn in conversation.turns for text in turn if text)
            _check_room(needed, len(tools), options, backbone)
        return cls(conversation, options, form, bool(tools))


@dataclass(frozen=True)
class Said:
    """What an answer says: words, or a call of a tool.

    Attributes:
        text: the words; "" for a call.
        tool: the tool that is called; None for words.
        arguments: of the call.
    """

    text: str = ""
    tool: str | None = None
    arguments: dict[str, Any] | None = None


def read_said(answer: Answer, with_tools: bool) -> Said:
    """Read an answer; of one that was written with tools, its JSON becomes a call or words."""
    if not with_tools:
        return Said(_written(answer))
    said: dict[str, Any] = json.loads(answer.text)
    return Said(said["answer"]) if "answer" in said else Said("", said["tool"], said["arguments"])


def _written(answer: Answer) -> str:
    """The text; of a value that was made of a word, such as of "yes" under a schema, the value's JSON."""
    if answer.value is None:
        return answer.text
    try:
        json.loads(answer.text)
    except ValueError:
        pass
    else:
        return answer.text
    if isinstance(answer.value, BaseModel):
        return answer.value.model_dump_json(by_alias=True)
    return json.dumps(answer.value, ensure_ascii=False)


def _check_room(needed: int, tools: int, options: GenerationOptions, backbone: Backbone) -> None:
    """Refuse words that do not fit beside the list of tools. Images are counted later, with all else."""
    if needed + options.max_new_tokens > backbone.context:
        raise InputError(
            f"the messages and the shortest list of {tools} tools have {needed} tokens, and the answer may have "
            f"`max_tokens`={options.max_new_tokens}, but {backbone.name!r} takes {backbone.context} in all: bind "
            "fewer tools, such as agent.tools(['detect', 'count']), choose one of them with `tool_choice`, or send "
            "fewer messages"
        )
