"""Reads what engines answer, whole or as events, with one clear error for what is no answer."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from vision_agent.errors import AnswerError
from vision_agent.remote.dialects import ChatAsked, choice_of, entries_of, request_body, said_text, usage_of
from vision_agent.remote.engine_info import EngineInfo
from vision_agent.remote.http_client import EngineClient

_PATH = "/v1/chat/completions"
_REASONS: Mapping[str, Literal["stop", "length"]] = {
    "stop": "stop",
    "eos": "stop",
    "tool_calls": "stop",
    "length": "length",
}


@dataclass(frozen=True)
class TokenSaid:
    """A token of an answer.

    Attributes:
        data: what it writes.
        logprob: natural logarithm of its probability.
        top: the likeliest tokens in its place, as (bytes, logprob).
    """

    data: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...] = ()


@dataclass(frozen=True)
class Said:
    """What an engine answered.

    Attributes:
        text: as the engine gives it.
        reason: why it ended.
        tokens: with their logprobs; none where the engine does not tell them.
        refusal: why it does not answer.
        vision: what `vision-agent serve` says beside the words.
    """

    text: str
    reason: Literal["stop", "length"]
    prompt_tokens: int = 0
    completion_tokens: int = 0
    tokens: tuple[TokenSaid, ...] = ()
    refusal: str | None = None
    vision: Mapping[str, Any] = field(default_factory=dict)

    @property
    def confidence(self) -> float | None:
        """Geometric mean of the tokens' probabilities; None where they are not told."""
        if not self.tokens:
            return None
        return min(1.0, math.exp(sum(token.logprob for token in self.tokens) / len(self.tokens)))


def ask_engine(client: EngineClient, info: EngineInfo, asked: ChatAsked) -> Said:
    """Send a question, and return the answer.

    Raises:
        EngineError, BusyError: no answer, or none in the form of chat completions.
        AnswerError: probabilities that are no numbers.
    """
    reply = client.post(_PATH, request_body(info.kind, info.model, asked))
    choice = choice_of(reply)
    message = choice.get("message") if choice is not None else None
    if choice is None or not isinstance(message, dict):
        raise client.error("answered in another form than chat completions: it has no `choices[0].message`")
    read, written = usage_of(reply)
    vision = message.get("vision")
    return Said(
        text=said_text(info.kind, asked, _text(client, message)),
        reason=_reason(client, choice.get("finish_reason")),
        prompt_tokens=read,
        completion_tokens=written,
        tokens=_tokens(entries_of(choice)),
        refusal=_refusal(message),
        vision=vision if isinstance(vision, dict) else {},
    )


def stream_engine(client: EngineClient, info: EngineInfo, asked: ChatAsked) -> Iterator[str | Said]:
    """Send a question, yield the text of the answer in pieces as it comes, and at last the whole.

    Raises:
        EngineError, BusyError: also for a stream that breaks off: what was yielded until then is no whole answer.
        AnswerError: probabilities that are no numbers.
    """
    pieces: list[str] = []
    tokens: list[TokenSaid] = []
    reason: Literal["stop", "length"] | None = None
    read = written = 0
    refusal: str | None = None
    vision: Mapping[str, Any] = {}
    events = client.events(_PATH, request_body(info.kind, info.model, asked, stream=True))
    try:
        for event in events:
            counted = usage_of(event)
            read, written = counted if any(counted) else (read, written)
            choice = choice_of(event)
            if choice is None:
                continue
            delta = choice.get("delta")
            if not isinstance(delta, dict):
                raise client.error("streams in another form than chat completions: an event has no `delta`")
            tokens += _tokens(entries_of(choice))
            refusal = _refusal(delta) or refusal
            vision = delta["vision"] if isinstance(delta.get("vision"), dict) else vision
            if piece := _text(client, delta):
                pieces.append(piece)
                yield piece
            if choice.get("finish_reason") is not None:
                reason = _reason(client, choice["finish_reason"])
    finally:
        events.close()  # type: ignore[attr-defined]  # a generator: the connection is closed with it
    if reason is None:
        raise client.error("ended its stream without saying why the answer ends: it was cut")
    text = said_text(info.kind, asked, "".join(pieces))
    yield Said(text, reason, read, written, tuple(tokens), refusal, vision)


def _text(client: EngineClient, message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if content is None:
        return ""
    if not isinstance(content, str):
        raise client.error(f"answered with {content!r:.80} where its text should be")
    return content


def _refusal(message: Mapping[str, Any]) -> str | None:
    refusal = message.get("refusal")
    return refusal if isinstance(refusal, str) and refusal else None


def _reason(client: EngineClient, said: object) -> Literal["stop", "length"]:
    reason = _REASONS.get(said) if isinstance(said, str) else None
    if reason is None:
        raise client.error(f"gave the answer up: its `finish_reason` is {said!r:.80}")
    return reason


def _tokens(entries: Sequence[Any]) -> tuple[TokenSaid, ...]:
    said = []
    for entry in entries:
        data, logprob = _token(entry)
        listed = entry.get("top_logprobs")
        top = tuple(map(_token, listed)) if isinstance(listed, list) else ()
        said.append(TokenSaid(data, logprob, top))
    return tuple(said)


def _token(entry: Any) -> tuple[bytes, float]:
    logprob = entry.get("logprob") if isinstance(entry, dict) else None
    if not isinstance(logprob, int | float) or isinstance(logprob, bool) or not math.isfinite(logprob):
        raise AnswerError(
            f"the engine tells {logprob!r:.40} as the logarithm of a probability: its scores are no numbers (an "
            "overflow in half precision); start it with another `dtype`",
            "",
        )
    data = entry.get("bytes")
    if isinstance(data, list) and all(type(byte) is int and 0 <= byte < 256 for byte in data) and data:
        return bytes(data), min(float(logprob), 0.0)
    token = entry.get("token")
    return (token if isinstance(token, str) else "").encode(), min(float(logprob), 0.0)
