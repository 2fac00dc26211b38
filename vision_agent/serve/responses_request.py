"""Requests of OpenAI's responses: text, images and tools. They are asked as chats; what is wrong is named as here."""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from vision_agent.serve.chat_request import ChatRequest
from vision_agent.serve.problems import Problem, wrong
from vision_agent.serve.responses_items import FunctionCallOutput, InputItem, InputMessage


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


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


class ResponseTool(_Part):
    """A tool that the answer may call. Arguments always follow its `parameters`, as `strict` asks."""

    type: Literal["function"]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    def as_chat(self) -> dict[str, Any]:
        """Return it as chat completions have it."""
        return {"type": "function", "function": self.model_dump(exclude={"type"}, exclude_none=True)}


class ChosenTool(_Part):
    """A tool that the answer must call."""

    type: Literal["function"]
    name: str

    def as_chat(self) -> dict[str, Any]:
        """Return it as chat completions have it."""
        return {"type": "function", "function": {"name": self.name}}


class AllowedTools(_Part):
    """Which of the tools may be called this time, and whether one of them must be."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[ChosenTool], Field(min_length=1, max_length=128)]

    def as_chat(self) -> dict[str, Any]:
        """Return it as chat completions have it."""
        allowed = {"mode": self.mode, "tools": [tool.as_chat() for tool in self.tools]}
        return {"type": "allowed_tools", "allowed_tools": allowed}


class ResponseStreamOptions(_Part):
    """What a stream has besides the answer."""

    include_obfuscation: Literal[False] | None = None


class ResponsesRequest(_Part):
    """A request for a response. Answers are greedy unless `temperature` or `top_p` say otherwise.

    Attributes:
        input: a question, or the messages of a chat, with the calls of tools and what those gave.
        routes: the routes that the answer may take, by name; None for all that the model has, [] for words alone.
    """

    model: str
    input: str | Annotated[list[InputItem], Field(min_length=1, max_length=999)]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[FiniteFloat, Field(ge=0, le=2)] | None = None
    top_p: Annotated[FiniteFloat, Field(ge=0, le=1)] | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    text: TextSettings | None = None
    tools: Annotated[list[ResponseTool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | AllowedTools | None = None
    parallel_tool_calls: bool | None = None  # there is one call in an answer
    # The model does not reason, so there is never an encrypted content of that.
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    routes: Annotated[list[str], Field(max_length=20)] | None = None
    # Notes of the caller's own: nothing of an answer depends on them.
    user: str | None = None
    metadata: dict[str, str] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    # What other servers do with these cannot be done here; see `_ONLY`.
    background: Any = None
    conversation: Any = None
    max_tool_calls: Any = None
    previous_response_id: Any = None
    prompt: Any = None
    reasoning: Any = None
    service_tier: Any = None
    store: Any = None
    truncation: Any = None

    def as_chat(self) -> ChatRequest:
        """Return the chat that asks the same.

        Raises:
            Problem: a field with a value that this server does nothing with, or parts that do not fit.
        """
        for name, (accepted, why) in _ONLY.items():
            value = getattr(self, name)
            if name == "reasoning" and isinstance(value, dict):  # of no reasoning there is no summary
                value = {key: part for key, part in value.items() if part is not None and key != "summary"}
            if value is not None and not any(value == each and type(value) is type(each) for each in accepted):
                raise wrong(name, f"`{name}` cannot be used here: {why}", "unsupported_parameter")
        given = [InputMessage(role="user", content=self.input)] if isinstance(self.input, str) else self.input
        messages = [item.as_chat(f"input[{index}]") for index, item in enumerate(given)]
        if self.instructions is not None:
            messages.insert(0, {"role": "system", "content": self.instructions})
        chat: dict[str, Any] = {"model": self.model, "messages": messages, "stream": self.stream, "routes": self.routes}
        chat |= {"temperature": self.temperature, "top_p": self.top_p, "max_completion_tokens": self.max_output_tokens}
        if self.tools:
            chat["tools"] = [tool.as_chat() for tool in self.tools]
        if self.tool_choice is not None:
            chosen = self.tool_choice
            chat["tool_choice"] = chosen if isinstance(chosen, str) else chosen.as_chat()
        if self.include and "message.output_text.logprobs" in self.include:
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
            for own, theirs in _FIELDS:
                text = text.replace(own, theirs)
            text = re.sub(r"(input\[\d+\])\.content(?=\W|$)", self._content_here, text)
            return re.sub("|".join(_NAMES), lambda found: _NAMES[found[0]], text)

        param = None if problem.param is None else renamed(problem.param)
        same = {"kind": problem.kind, "code": problem.code, "headers": problem.headers}
        return Problem(problem.status, renamed(problem.message), param=param, **same)  # type: ignore[arg-type]

    def _content_here(self, found: re.Match[str]) -> str:
        """What this request calls the content of a chat's message: a tool has an output."""
        index = int(found[1][6:-1])
        is_output = isinstance(self.input, list) and isinstance(self.input[index], FunctionCallOutput)
        return f"{found[1]}.output" if is_output else found[0]


_FIELDS = (
    ("input[-1].content", "instructions"),
    (".image_url.url", ".image_url"),
    (".tool_calls[0].function.arguments", ".arguments"),
    (".tool_call_id", ".call_id"),
    (".function.parameters", ".parameters"),
    ("tool_choice.allowed_tools.", "tool_choice."),
)
_NAMES = {
    "response_format.json_schema": "text.format",
    "response_format": "text.format",
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "verbosity": "text.verbosity",
    "messages": "input",
}
_NOT_KEPT = "nothing is kept from one request to the next: send the earlier messages in `input`"
_ONLY: dict[str, tuple[tuple[Any, ...], str]] = {
    "background": ((False,), "use `/v1/vision/...` with `Prefer: respond-async` for what takes long"),
    "conversation": ((), _NOT_KEPT),
    "max_tool_calls": ((), "it is about tools of the server's own, and there are none"),
    "previous_response_id": ((), _NOT_KEPT),
    "prompt": ((), "no prompts are kept here"),
    "reasoning": (({}, {"effort": "none"}), "the model does not reason before it answers"),
    "service_tier": (("auto", "default"), "there is one service tier"),
    "store": ((False,), "no answer is stored"),
    "truncation": (("disabled",), "what does not fit is refused, and never cut"),
}


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
