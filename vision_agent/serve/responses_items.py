"""What stands in `input` of OpenAI's responses: messages, calls of tools, what tools gave. Each is a chat's message."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from vision_agent.serve.problems import wrong

Status = Literal["in_progress", "completed", "incomplete"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class InputPart(_Part):
    """A part of a message: words, or an image by its `data:` address. Parts of earlier answers may come back."""

    type: Literal["input_text", "input_image", "output_text", "refusal"]
    text: str | None = None
    image_url: str | None = None
    detail: Literal["auto", "low", "medium", "high", "original"] | None = None
    file_id: None = None
    refusal: str | None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    logprobs: list[Any] | None = None


class InputMessage(_Part):
    """One message."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[InputPart]
    id: str | None = None
    status: Status | None = None
    phase: str | None = None
    vision: Any = None

    def as_chat(self, place: str) -> dict[str, Any]:
        """Return the message as chat completions have it. Raises Problem for parts that do not fit."""
        if isinstance(self.content, str):
            return {"role": self.role, "content": self.content}
        return {"role": self.role, "content": _chat_parts(self.content, self.role, f"{place}.content")}


class FunctionCall(_Part):
    """A call in an earlier answer.

    Attributes:
        call_id: what its output names.
        arguments: the JSON of an object.
    """

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: Status | None = None
    vision: Any = None
    # What this server never gives: they are of tools that run elsewhere.
    caller: None = None
    namespace: None = None
    async_: Literal[False] | None = Field(None, alias="async")

    def as_chat(self, place: str) -> dict[str, Any]:
        """Return the call as a message of chat completions."""
        function = {"name": self.name, "arguments": self.arguments}
        call = {"id": self.call_id, "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call]}


class FunctionCallOutput(_Part):
    """What a tool gave for a call before it: words, or parts with images."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | list[InputPart]
    id: str | None = None
    status: Status | None = None
    name: str | None = None
    caller: None = None
    namespace: None = None

    def as_chat(self, place: str) -> dict[str, Any]:
        """Return it as a message of chat completions. Raises Problem for parts that do not fit."""
        given = self.output if isinstance(self.output, str) else _chat_parts(self.output, "tool", f"{place}.output")
        return {"role": "tool", "tool_call_id": self.call_id, "content": given}


_KINDS = ("message", "function_call", "function_call_output")


def _kind(item: Any) -> str | None:
    kind = item.get("type", "message") if isinstance(item, dict) else getattr(item, "type", None)
    return kind if kind in _KINDS else None


InputItem = Annotated[
    Annotated[InputMessage, Tag("message")]
    | Annotated[FunctionCall, Tag("function_call")]
    | Annotated[FunctionCallOutput, Tag("function_call_output")],
    Discriminator(
        _kind,
        custom_error_type="item_kind",
        custom_error_message="it must be an object whose `type` is message, function_call or function_call_output",
    ),
]
"""One item of `input`."""


def _chat_parts(given: list[InputPart], role: str, place: str) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    for index, part in enumerate(given):
        where = f"{place}[{index}]"
        field = {"input_image": "image_url", "refusal": "refusal"}.get(part.type, "text")
        value = getattr(part, field)
        if value is None:
            raise wrong(f"{where}.{field}", f"`{where}.{field}` is missing", "missing_parameter")
        if (part.type in ("output_text", "refusal")) != (role == "assistant"):
            said = f"`{where}.type`: {part.type!r} is not for a message of role {role!r}"
            raise wrong(f"{where}.type", said)
        if part.type == "input_image":
            parts.append({"type": "image_url", "image_url": {"url": value, "detail": part.detail}})
        else:
            kind = "refusal" if part.type == "refusal" else "text"
            parts.append({"type": kind, kind: value})
    return parts
