"""OpenAI's responses, `/v1/responses`: the chat endpoint's answers in the newer form. Nothing is stored."""

import json
import time
import uuid
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Any, Literal

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vision_agent.serve.bodies import read_json
from vision_agent.serve.chat_endpoint import ChatEndpoint
from vision_agent.serve.chat_reply import Reason, Vision
from vision_agent.serve.event_stream import EventStream
from vision_agent.serve.problems import Problem
from vision_agent.serve.responses_request import ResponsesRequest

Status = Literal["in_progress", "completed", "incomplete", "failed"]


class OutputPart(BaseModel):
    """A part of an answer: its words, or that and why there is none."""

    type: Literal["output_text", "refusal"]
    text: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class OutputMessage(BaseModel):
    """An answer; `vision` has what its routes gave, as in chat completions."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    status: Literal["in_progress", "completed", "incomplete"]
    content: list[OutputPart]
    vision: Vision | None = None


class ModelResponse(BaseModel):
    """What `/v1/responses` answers."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Status
    model: str
    output: list[OutputMessage]
    error: Reason | None
    usage: dict[str, Any] | None


class ResponsesEndpoint:
    """Answers requests for responses with a chat endpoint."""

    def __init__(self, chat: ChatEndpoint) -> None:
        self._chat = chat

    async def answer(self, request: Request) -> Response:
        """Answer `/v1/responses`."""
        asked = await read_json(request, ResponsesRequest)
        try:
            chat = asked.as_chat()
            reply = _Reply(asked)
            if not asked.stream:
                return JSONResponse(reply.whole(await self._chat.whole(request, chat)))
            chunks = self._chat.events(request, chat)
            first = await anext(chunks)  # what goes wrong until then is a response with its status
        except Problem as problem:
            raise asked.named_here(problem) from problem
        events = self._streamed(reply, first, chunks)
        return EventStream(await anext(events), events, named=True)

    async def _streamed(
        self, reply: "_Reply", first: str, chunks: AsyncGenerator[str, None]
    ) -> AsyncGenerator[str, None]:
        for event in reply.beginning():
            yield event
        async with aclosing(chunks) as others:
            for event in reply.taken(first):
                yield event
            async for chunk in others:
                for event in reply.taken(chunk):
                    yield event


class _Reply:
    """One response: whole, or event by event."""

    def __init__(self, asked: ResponsesRequest) -> None:
        self._asked = asked
        self._id = f"resp_{uuid.uuid4().hex}"
        self._item = f"msg_{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._number = -1
        self._text = ""
        self._refusal: str | None = None
        self._vision: Any = None
        self._logprobs: list[dict[str, Any]] = []
        self._cut = False
        self._usage: dict[str, int] | None = None
        self._failed = False

    def whole(self, completion: dict[str, Any]) -> dict[str, Any]:
        """The response that says what a chat completion does."""
        (choice,) = completion["choices"]
        message = choice["message"]
        self._text, self._refusal, self._vision = message["content"], message["refusal"], message.get("vision")
        self._cut = choice["finish_reason"] == "length"
        self._logprobs = (choice["logprobs"] or {}).get("content", [])
        self._usage = completion["usage"]
        return self._response(self._status, [self._message()])

    def beginning(self) -> Iterator[str]:
        """The events before the first words."""
        for kind in ("created", "in_progress"):
            yield self._event(f"response.{kind}", response=self._response("in_progress", []))
        empty = {"id": self._item, "type": "message", "role": "assistant", "status": "in_progress", "content": []}
        yield self._event("response.output_item.added", output_index=0, item=empty)
        yield self._part("response.content_part.added", 0, part=_words(""))

    def taken(self, data: str) -> Iterator[str]:
        """The events that an event of a chat becomes."""
        if data == "[DONE]":
            if not self._failed:
                yield from self._ending()
            return
        chunk = json.loads(data)
        if "error" in chunk:
            self._failed = True
            said = self._asked.named_here(Problem(500, chunk["error"]["message"], param=chunk["error"]["param"]))
            error = {"code": chunk["error"]["code"], "message": said.message, "param": said.param}
            yield self._event("error", **error)
            return
        self._usage = chunk.get("usage") or self._usage
        for choice in chunk["choices"]:
            delta = choice["delta"]
            self._cut |= choice["finish_reason"] == "length"
            self._refusal = delta.get("refusal") or self._refusal
            self._vision = delta.get("vision") or self._vision
            told = (choice["logprobs"] or {}).get("content", [])
            self._logprobs += told
            words = delta.get("content") or ""
            if words or told:
                self._text += words
                yield self._part("response.output_text.delta", 0, delta=words, logprobs=told)

    def _ending(self) -> Iterator[str]:
        yield self._part("response.output_text.done", 0, text=self._text, logprobs=self._logprobs)
        yield self._part("response.content_part.done", 0, part=_words(self._text, self._logprobs))
        if self._refusal is not None:
            yield self._part("response.content_part.added", 1, part={"type": "refusal", "refusal": ""})
            yield self._part("response.refusal.delta", 1, delta=self._refusal)
            yield self._part("response.refusal.done", 1, refusal=self._refusal)
            yield self._part("response.content_part.done", 1, part={"type": "refusal", "refusal": self._refusal})
        message = self._message()
        yield self._event("response.output_item.done", output_index=0, item=message)
        yield self._event(f"response.{self._status}", response=self._response(self._status, [message]))

    @property
    def _status(self) -> Literal["completed", "incomplete"]:
        return "incomplete" if self._cut else "completed"

    def _message(self) -> dict[str, Any]:
        content = [_words(self._text, self._logprobs)]
        if self._refusal is not None:
            content.append({"type": "refusal", "refusal": self._refusal})
        seen = {} if self._vision is None else {"vision": self._vision}
        status = self._status
        message = {"id": self._item, "type": "message", "role": "assistant", "status": status, "content": content}
        return message | seen

    def _response(self, status: Status, output: list[dict[str, Any]]) -> dict[str, Any]:
        asked, used = self._asked, self._usage
        usage = None
        if used is not None:
            usage = {
                "input_tokens": used["prompt_tokens"],
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": used["completion_tokens"],
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": used["total_tokens"],
            }
        text = asked.text.format.model_dump(by_alias=True, exclude_none=True) if asked.text else {"type": "text"}
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "metadata": asked.metadata or {},
            "model": asked.model,
            "output": output,
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "store": False,
            "temperature": asked.temperature,
            "text": {"format": text},
            "tool_choice": "auto",
            "tools": [],
            "top_p": asked.top_p,
            "truncation": "disabled",
            "usage": usage,
        }

    def _part(self, kind: str, index: int, **fields: Any) -> str:
        return self._event(kind, item_id=self._item, output_index=0, content_index=index, **fields)

    def _event(self, kind: str, **fields: Any) -> str:
        self._number += 1
        return json.dumps({"type": kind, "sequence_number": self._number, **fields}, ensure_ascii=False)


def _words(text: str, logprobs: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}
