"""Requests of OpenAI's chat completions: what may stand in them, and the settings that the agent makes of them."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat

from vision_agent.generation.json_schema import prepare_schema
from vision_agent.generation.options import GenerationOptions
from vision_agent.planning.formed_answer import ANY_TOOL, FORMED_TOKENS
from vision_agent.planning.message_rounds import tool_names
from vision_agent.serve.options import ServeOptions
from vision_agent.serve.problems import Problem, wrong

_USUAL_TOKENS = 1024  # most tokens of words, where the request does not say
_LARGEST_SEED = 2**63
_TILES = {"low": 6, "medium": 12, "high": 24, "original": 24}  # of an image, as LMDeploy takes OpenAI's `detail`
OPTION_NAMES = {
    "max_new_tokens": "max_tokens",
    "do_sample": "temperature",
    "image": "messages",
    "question": "messages",
    "request": "messages",
    "schema": "response_format",
}
"""What chat completions call the SDK's arguments."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ImageAddress(_Part):
    """Where an image is, and in how many tiles it is seen.

    Attributes:
        url: a `data:` address.
        detail: low, medium and high (or original) are at most 6, 12 and 24 tiles; auto is the checkpoint's own bound.
        max_dynamic_patch: most tiles.
    """

    url: str
    detail: Literal["auto", "low", "medium", "high", "original"] | None = None
    max_dynamic_patch: Annotated[int, Field(ge=1, le=40)] | None = None

    @property
    def max_tiles(self) -> int | None:
        """Most tiles; None for the checkpoint's own bound."""
        return self.max_dynamic_patch or _TILES.get(self.detail or "auto")


def _as_address(given: Any) -> Any:
    """Take the address alone, as many clients send it, for an object with it."""
    return {"url": given} if isinstance(given, str) else given


class VideoAddress(_Part):
    """Where a video is, and how many of its frames are seen, equally far apart.

    Attributes:
        url: a `data:` address.
        num_frames: each is one tile.
    """

    url: str
    num_frames: Annotated[int, Field(ge=1, le=64)] = 8


class ContentPart(_Part):
    """A part of a message: words, an image, or the frames of a video."""

    type: Literal["text", "image_url", "video_url", "refusal"]
    text: str | None = None
    refusal: str | None = None
    image_url: Annotated[ImageAddress, BeforeValidator(_as_address)] | None = None
    video_url: VideoAddress | None = None
    cache_control: Any = None  # a note for providers that cache prompts on request, as Anthropic does

    @property
    def images(self) -> int:
        """How many images the model sees for it."""
        if self.video_url is not None:
            return self.video_url.num_frames
        return int(self.image_url is not None)


class CalledFunction(_Part):
    """What an earlier answer called."""

    name: str
    arguments: str


class ToolCall(_Part):
    """A call in an earlier answer."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None


class Message(_Part):
    """One message. What this server put into an earlier answer may come back with it."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    audio: None = None
    function_call: None = None
    vision: Any = None
    # What other servers put beside their answers, and clients send back; no part of what was said.
    reasoning: Any = None
    reasoning_content: Any = None
    reasoning_details: Any = None
    thinking_blocks: Any = None
    provider_specific_fields: Any = None

    @property
    def parts(self) -> list[ContentPart]:
        """The content, in parts."""
        if isinstance(self.content, str):
            return [ContentPart(type="text", text=self.content)]
        return self.content or []


class FunctionTool(_Part):
    """What a tool is called with."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolDefinition(_Part):
    """A tool that the answer may call."""

    type: Literal["function"]
    function: FunctionTool


class NamedFunction(_Part):
    """The name of a tool."""

    name: str


class NamedTool(_Part):
    """A tool that the answer must call."""

    type: Literal["function"]
    function: NamedFunction


class AllowedTools(_Part):
    """Which of the tools may be called this time.

    Attributes:
        mode: whether one of them must be called.
        tools: their names.
    """

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1, max_length=128)]


class AllowedToolChoice(_Part):
    """A choice among some of the tools."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


class JsonSchemaFormat(_Part):
    """A schema with a name."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(_Part):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class StreamOptions(_Part):
    """What a stream has besides the answer."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class ChatRequest(_Part):
    """A request for chat completions. Answers are greedy unless `temperature` or `top_p` say otherwise.

    Attributes:
        max_tokens: most tokens of an answer; a larger number than fits means as many as fit.
        top_p: 0 is the likeliest token alone.
        top_k, repetition_penalty: as of the SDK's `GenerationOptions`; a `top_k` of -1 is none, as vLLM has it.
        routes: the routes that the answer may take, by name; None for all that the model has, [] for words alone.
        logprobs: whether the probabilities of the answer's tokens are told.
        top_logprobs: of how many of the likeliest tokens in each place, too.
    """

    model: str
    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    n: Annotated[int, Field(ge=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[FiniteFloat, Field(ge=0, le=2)] | None = None
    top_p: Annotated[FiniteFloat, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    repetition_penalty: Annotated[FiniteFloat, Field(gt=0, le=10)] | None = None
    seed: Annotated[int, Field(ge=-_LARGEST_SEED, lt=_LARGEST_SEED)] | None = None
    stop: (
        Annotated[str, Field(min_length=1, max_length=200)]
        | list[Annotated[str, Field(min_length=1, max_length=200)]]
        | None
    ) = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[ToolDefinition], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | AllowedToolChoice | None = None
    parallel_tool_calls: bool | None = None
    routes: Annotated[list[str], Field(max_length=20)] | None = None
    # Notes of the caller's own: nothing of an answer depends on them.
    user: str | None = None
    metadata: dict[str, str] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    # What other servers do with these cannot be done here; see `_ONLY`.
    frequency_penalty: Any = None
    presence_penalty: Any = None
    logit_bias: Any = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None
    web_search_options: Any = None
    chat_template_kwargs: Any = None
    min_p: Any = None
    service_tier: Any = None
    store: Any = None
    functions: Any = None
    function_call: Any = None

    @property
    def schema_of_answer(self) -> dict[str, Any] | None:
        """What the answer's JSON follows; None for words."""
        given = self.response_format
        if given is None or given.type == "text":
            return None
        return given.json_schema.schema_ if given.json_schema is not None else {"type": "object"}

    @property
    def used_tools(self) -> list[dict[str, Any]]:
        """The tools that the answer may call, as OpenAI has them."""
        if self.tool_choice == "none":
            return []
        allowed = self._allowed_names
        tools = (tool for tool in self.tools or () if allowed is None or tool.function.name in allowed)
        return [tool.model_dump(exclude_none=True) for tool in tools]

    @property
    def choice_of_tool(self) -> str | None:
        """`ANY_TOOL`, the name of the tool that must be called, or None."""
        if isinstance(self.tool_choice, NamedTool):
            return self.tool_choice.function.name
        chosen = self.tool_choice
        mode = chosen.allowed_tools.mode if isinstance(chosen, AllowedToolChoice) else chosen
        return ANY_TOOL if mode == "required" else None

    @property
    def _allowed_names(self) -> list[str] | None:
        """Of the tools that may be called; None for all."""
        if not isinstance(self.tool_choice, AllowedToolChoice):
            return None
        return [tool.function.name for tool in self.tool_choice.allowed_tools.tools]

    def check(self, options: ServeOptions) -> None:
        """Refuse what cannot be done, by name: nothing is silently left out.

        Raises:
            Problem: a field with a value that this server does nothing with, or fields that do not go together.
        """
        for name, (accepted, why) in _ONLY.items():
            value = getattr(self, name)
            if value is not None and not any(type(value) in (type(each), int) and value == each for each in accepted):
                raise wrong(name, f"`{name}` cannot be used here: {why}", "unsupported_parameter")
        if self.n is not None and self.n > options.max_choices:
            raise wrong("n", f"`n` must be at most {options.max_choices}, but got {self.n}")
        if self.stream_options is not None and not self.stream:
            raise wrong("stream_options", "`stream_options` is for requests with `stream`: true")
        if self.top_logprobs and not self.logprobs:
            raise wrong("top_logprobs", "`top_logprobs` is for requests with `logprobs`: true")
        if isinstance(self.stop, list) and len(self.stop) > 4:
            raise wrong("stop", f"`stop` must be at most 4 texts, but got {len(self.stop)}")
        self._check_form()
        self._check_sizes(options)

    def generation_options(self, room: int, options: ServeOptions) -> GenerationOptions:
        """Return the SDK's settings; `room` is how many tokens the model's context leaves for the answer."""
        formed = bool(self.used_tools) or self.schema_of_answer is not None
        asked = self.max_completion_tokens or self.max_tokens or (FORMED_TOKENS if formed else _USUAL_TOKENS)
        settings: dict[str, Any] = {"max_new_tokens": min(asked, options.max_tokens, room)}
        if self.stop:
            settings["stop"] = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        if self.logprobs:
            settings["top_logprobs"] = self.top_logprobs or 0
        if self.repetition_penalty is not None:
            settings["repetition_penalty"] = self.repetition_penalty
        top_k = max(0, self.top_k or 0)
        drawn = self.temperature is not None or (self.top_p or 1.0) < 1 or bool(top_k)
        if drawn and self.temperature != 0 and self.top_p != 0:
            given = {"temperature": self.temperature, "top_p": self.top_p, "seed": self.seed, "top_k": top_k or None}
            settings |= {"do_sample": True, **{name: value for name, value in given.items() if value is not None}}
            if self.seed is not None:
                settings["seed"] = self.seed % _LARGEST_SEED
        return GenerationOptions(**settings)

    def _check_form(self) -> None:
        given = self.response_format
        if given is not None and (given.type == "json_schema") != (given.json_schema is not None):
            expected = "given where `type` is json_schema, and only there"
            raise wrong("response_format.json_schema", f"`response_format.json_schema` must be {expected}")
        names = tool_names([tool.model_dump() for tool in self.tools or ()])
        if len(set(names)) < len(names):
            raise wrong("tools", "`tools` must have a name each, but two have the same")
        if self.tool_choice not in (None, "none", "auto") and not names:
            raise wrong("tool_choice", "`tool_choice` is for requests with `tools`")
        if self.choice_of_tool not in (None, ANY_TOOL, *names):
            raise wrong(
                "tool_choice", f"`tool_choice` must be one of the tools {names}, but got {self.choice_of_tool!r}"
            )
        for index, name in enumerate(self._allowed_names or ()):
            if name not in names:
                where = f"tool_choice.allowed_tools.tools[{index}]"
                raise wrong(where, f"`{where}` must be one of the tools {names}, but got {name!r}")
        formed = self.schema_of_answer is not None
        if formed and self.used_tools:
            raise wrong("response_format", "`response_format` with JSON and `tools` exclude each other")
        if self.stop and (formed or self.used_tools):
            raise wrong("stop", "`stop` is for words: JSON and calls of tools end by themselves")
        if self.routes and (formed or self.used_tools):
            raise wrong("routes", "`routes` are for words: an answer that is JSON or a call of a tool takes none")
        for place, schema in self._schemas():
            try:
                prepare_schema(schema)
            except (ValueError, RecursionError) as error:
                raise wrong(place, f"`{place}`: {_short(error)}", "invalid_schema") from None

    def _schemas(self) -> list[tuple[str, dict[str, Any]]]:
        found = [
            (f"tools[{index}].function.parameters", tool.function.parameters)
            for index, tool in enumerate(self.tools or ())
            if tool.function.parameters
        ]
        if self.response_format is not None and self.response_format.json_schema is not None:
            found.append(("response_format.json_schema.schema", self.response_format.json_schema.schema_))
        return found

    def _check_sizes(self, options: ServeOptions) -> None:
        images = characters = 0
        for index, message in enumerate(self.messages):
            place = f"messages[{index}]"
            _check_message(message, place)
            for part in message.parts:
                images += part.images
                characters += len(part.text or part.refusal or "")
            characters += sum(len(call.function.arguments) for call in message.tool_calls or ())
        if images > options.max_images:
            raise wrong("messages", f"`messages` must have at most {options.max_images} images, but got {images}")
        if characters > options.max_characters:
            said = f"`messages` must have at most {options.max_characters} characters, but got {characters}"
            raise wrong("messages", said, "context_length_exceeded")


_NO_SOUND = "answers are words"
_ONLY: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "frequency_penalty": ((0.0,), "only `repetition_penalty` is there"),
    "presence_penalty": ((0.0,), "only `repetition_penalty` is there"),
    "logit_bias": (({},), "single tokens cannot be made likelier"),
    "modalities": ((["text"],), _NO_SOUND),
    "audio": ((), _NO_SOUND),
    "prediction": ((), "nothing is predicted"),
    "reasoning_effort": (("none",), "the model does not reason before it answers"),
    "verbosity": (("medium",), "the model writes as it does; say in the messages how long an answer shall be"),
    "chat_template_kwargs": (
        ({}, {"enable_thinking": False}, {"thinking": False}),
        "the model has one template, and does not think before it answers",
    ),
    "min_p": ((0.0,), "use `top_p` or `top_k`"),
    "web_search_options": ((), "nothing is searched for on the web"),
    "service_tier": (("auto", "default"), "there is one service tier"),
    "store": ((False,), "no answer is stored"),
    "functions": ((), "it is the old name of `tools`"),
    "function_call": ((), "it is the old name of `tool_choice`"),
}


def _check_message(message: Message, place: str) -> None:
    """Refuse parts that do not belong to a message of its role."""
    if message.content is None and not (message.role == "assistant" and (message.tool_calls or message.refusal)):
        raise wrong(f"{place}.content", f"`{place}.content` is missing", "missing_parameter")
    if message.tool_calls and message.role != "assistant":
        raise wrong(f"{place}.tool_calls", f"`{place}.tool_calls` is for messages of the assistant")
    if (message.tool_call_id is not None) != (message.role == "tool"):
        raise wrong(f"{place}.tool_call_id", f"`{place}.tool_call_id` is for messages of tools, and each must have it")
    for index, part in enumerate(message.parts):
        if isinstance(message.content, str):
            continue
        where = f"{place}.content[{index}]"
        own = {
            "text": part.text,
            "refusal": part.refusal,
            "image_url": part.image_url,
            "video_url": part.video_url,
        }
        if own.pop(part.type) is None:
            raise wrong(f"{where}.{part.type}", f"`{where}.{part.type}` is missing", "missing_parameter")
        for name, value in own.items():
            if value is not None:
                raise wrong(f"{where}.{name}", f"`{where}.{name}` is not for a part of type {part.type!r}")
        if part.images and message.role == "assistant":
            raise wrong(where, f"`{where}`: an answer holds no images")


def _short(error: Exception) -> str:
    said = " ".join(str(error).split()) or type(error).__name__
    return said if len(said) <= 300 else f"{said[:280]}..."


def too_long(prompt_and_answer: str) -> Problem:
    """Return the problem of messages that do not fit the model."""
    return wrong("messages", prompt_and_answer, "context_length_exceeded")
