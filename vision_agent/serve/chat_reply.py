"""What chat completions answer, as models: for `/openapi.json`."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt

from vision_agent.results.answers import RoutedText
from vision_agent.results.detections import Detections

FinishReason = Literal["stop", "length", "tool_calls"]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Usage(_Closed):
    """Tokens. The prompt counts once, however many answers it has."""

    prompt_tokens: NonNegativeInt
    completion_tokens: NonNegativeInt
    total_tokens: NonNegativeInt


class WrittenCall(_Closed):
    """A function and its arguments, as JSON in a text."""

    name: str
    arguments: str


class WrittenToolCall(_Closed):
    """A call of a tool that the answer wrote."""

    index: int | None = None
    id: str
    type: Literal["function"]
    function: WrittenCall


class Vision(_Closed):
    """What stands beside an answer's words.

    Attributes:
        routes: what the routes that the answer took gave: boxes, masks, words, images.
        evidence: boxes that the answer rests on.
        confidence: of the words, 0-1.
        warnings: what makes the answer doubtful.
    """

    routes: list[RoutedText]
    evidence: list[Detections]
    confidence: float
    warnings: list[str]


class AnswerMessage(_Closed):
    """An answer."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    tool_calls: list[WrittenToolCall] | None = None
    vision: Vision | None = None


class LikelyToken(_Closed):
    """A token that might stand in a place. `bytes` are UTF-8, of which a token may hold half a character."""

    token: str
    bytes: list[NonNegativeInt]
    logprob: float


class ToldToken(LikelyToken):
    """A token of an answer, and the likeliest ones in its place."""

    top_logprobs: list[LikelyToken]


class Logprobs(_Closed):
    """The tokens of an answer's words, in order."""

    content: list[ToldToken]
    refusal: None


class Choice(_Closed):
    """One of `n` answers."""

    index: NonNegativeInt
    message: AnswerMessage
    finish_reason: FinishReason
    logprobs: Logprobs | None


class ChatCompletion(_Closed):
    """The answer to a chat."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class Delta(_Closed):
    """What is new in an answer."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[WrittenToolCall] | None = None
    vision: Vision | None = None


class ChunkChoice(_Closed):
    """What is new in one of `n` answers."""

    index: NonNegativeInt
    delta: Delta
    finish_reason: FinishReason | None
    logprobs: Logprobs | None


class ChatChunk(_Closed):
    """One event of a stream."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


class ServedModel(_Closed):
    """The model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int
    routes: list[str]


class ModelList(_Closed):
    """The models."""

    object: Literal["list"]
    data: list[ServedModel]


class Reason(_Closed):
    """Why a request is not answered."""

    message: str
    type: str
    param: str | None
    code: str | None


class Refusal(_Closed):
    """What every request that is not answered gets."""

    error: Reason
