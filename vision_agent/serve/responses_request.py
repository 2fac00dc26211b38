"""Requests of OpenAI's responses: text and images. They are asked as chats, and what is wrong is named as here."""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from vision_agent.serve.chat_request import ChatRequest
from vision_agent.serve.problems import Problem, wrong


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class InputPart(_Part):
    """A part of a message: words, or an image by its `data:` address. Parts of earlier answers may come back."""

    type: Literal["input_text", "input_image", "output_text", "refusal"]
    text: str | None = None
    image_url: str | None = None
    detail: Literal["auto", "low", "medium", "high"] | None = None
    refusal: str | None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    logprobs: list[Any] | None = None


class InputMessage(_Part):
    """One message."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[InputPart]
    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None
    phase: str | None = None
    vision: Any = None


class TextFormat(_Part):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class TextSettings(_Part):
    """How the answer is written."""

    format: TextFormat = TextFormat(type="text")
    verbosity: Any = None


class ResponseStreamOptions(_Part):
    """What a stream has besides the answer."""

    include_obfuscation: Literal[False] | None = None


class ResponsesRequest(_Part):
    """A request for a response. Answers are greedy unless `temperature` or `top_p` say otherwise.

    Attributes:
        input: a question, or the messages of a chat.
        routes: the routes that the answer may take, by name; None for all that the model has, [] for words alone.
    """

    model: str
    input: str | Annotated[list[InputMessage], Field(min_length=1, max_length=999)]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[FiniteFloat, Field(ge=0, le=2)] | None = None
    top_p: Annotated[FiniteFloat, Field(gt=0, le=1)] | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    text: TextSettings | None = None
    include: list[Literal["message.output_text.logprobs"]] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    routes: Annotated[list[str], Field(max_length=20)] | None = None
    # Notes of the caller's own: nothing of an answer depends on them.
    user: str | None = None
    metadata: dict[str, str] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    # What other servers do with these cannot be done here; see `_ONLY`.
    background: Any = None
    conversation: Any = None
    max_tool_calls: Any = None
    parallel_tool_calls: Any = None
    previous_response_id: Any = None
    prompt: Any = None
    reasoning: Any = None
    service_tier: Any = None
    store: Any = None
    tool_choice: Any = None
    tools: Any = None
    truncation: Any = None

    def as_chat(self) -> ChatRequest:
        """Return the chat that asks the same.

        Raises:
            Problem: a field with a value that this server does nothing with, or parts that do not fit.
        """
        for name, (accepted, why) in _ONLY.items():
            value = getattr(self, name)
            if value is not None and not any(value == each and type(value) is type(each) for each in accepted):
                raise wrong(name, f"`{name}` cannot be used here: {why}", "unsupported_parameter")
        given = [InputMessage(role="user", content=self.input)] if isinstance(self.input, str) else self.input
        messages = [_chat_message(message, f"input[{index}]") for index, message in enumerate(given)]
        if self.instructions is not None:
            messages.insert(0, {"role": "system", "content": self.instructions})
        chat: dict[str, Any] = {"model": self.model, "messages": messages, "stream": self.stream, "routes": self.routes}
        chat |= {"temperature": self.temperature, "top_p": self.top_p, "max_completion_tokens": self.max_output_tokens}
        if self.include:
            chat |= {"logprobs": True, "top_logprobs": self.top_logprobs}
        elif self.top_logprobs:
            said = '`top_logprobs` is for requests that `include` "message.output_text.logprobs"'
            raise wrong("top_logprobs", said)
        if self.text is not None:
            chat |= {"response_format": _chat_format(self.text.format), "verbosity": self.text.verbosity}
        if self.stream:
            chat["stream_options"] = {"include_usage": True}
        return ChatRequest.model_validate(chat)

    def named_here(self, problem: Problem) -> Problem:
        """Return a problem of the chat with the names that this request has for its fields."""
        first = 0 if self.instructions is None else 1

        def renamed(text: str) -> str:
            if isinstance(self.input, str):
                text = re.sub(rf"messages\[{first}\](?:\.content)?", "input", text)
            text = re.sub(r"messages\[(\d+)\]", lambda found: f"input[{int(found[1]) - first}]", text)
            text = text.replace("input[-1].content", "instructions").replace(".image_url.url", ".image_url")
            return re.sub("|".join(_NAMES), lambda found: _NAMES[found[0]], text)

        param = None if problem.param is None else renamed(problem.param)
        same = {"kind": problem.kind, "code": problem.code, "headers": problem.headers}
        return Problem(problem.status, renamed(problem.message), param=param, **same)  # type: ignore[arg-type]


_NAMES = {
    "response_format.json_schema": "text.format",
    "response_format": "text.format",
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "verbosity": "text.verbosity",
    "messages": "input",
}
_NOT_KEPT = "nothing is kept from one request to the next: send the earlier messages in `input`"
_NO_TOOLS = "tools are called by `/v1/chat/completions`"
_ONLY: dict[str, tuple[tuple[Any, ...], str]] = {
    "background": ((False,), "use `/v1/vision/...` with `Prefer: respond-async` for what takes long"),
    "conversation": ((), _NOT_KEPT),
    "max_tool_calls": ((), _NO_TOOLS),
    "parallel_tool_calls": ((False, True), _NO_TOOLS),
    "previous_response_id": ((), _NOT_KEPT),
    "prompt": ((), "no prompts are kept here"),
    "reasoning": (({},), "the model does not reason before it answers"),
    "service_tier": (("auto", "default"), "there is one service tier"),
    "store": ((False,), "no answer is stored"),
    "tool_choice": (("auto", "none"), _NO_TOOLS),
    "tools": (([],), _NO_TOOLS),
    "truncation": (("disabled",), "what does not fit is refused, and never cut"),
}


def _chat_message(message: InputMessage, place: str) -> dict[str, Any]:
    if isinstance(message.content, str):
        return {"role": message.role, "content": message.content}
    parts: list[dict[str, Any]] = []
    for index, part in enumerate(message.content):
        where = f"{place}.content[{index}]"
        field = {"input_image": "image_url", "refusal": "refusal"}.get(part.type, "text")
        value = getattr(part, field)
        if value is None:
            raise wrong(f"{where}.{field}", f"`{where}.{field}` is missing", "missing_parameter")
        if (part.type in ("output_text", "refusal")) != (message.role == "assistant"):
            said = f"`{where}.type`: {part.type!r} is not for a message of role {message.role!r}"
            raise wrong(f"{where}.type", said)
        if part.type == "input_image":
            parts.append({"type": "image_url", "image_url": {"url": value, "detail": part.detail}})
        else:
            kind = "refusal" if part.type == "refusal" else "text"
            parts.append({"type": kind, kind: value})
    return {"role": message.role, "content": parts}


def _chat_format(given: TextFormat) -> dict[str, Any]:
    if given.type != "json_schema":
        return {"type": given.type}
    for field, value in (("name", given.name), ("schema", given.schema_)):
        if value is None:
            raise wrong(f"text.format.{field}", f"`text.format.{field}` is missing", "missing_parameter")
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", given.name or ""):
        said = "`text.format.name` must be at most 64 letters, digits, _ and -"
        raise wrong("text.format.name", said)
    return {"type": "json_schema", "json_schema": {"name": given.name, "schema": given.schema_}}
