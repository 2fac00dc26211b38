"""What `/v1/responses` answers: one item, a message or a call of a tool, whole or event by event."""

import json
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from pydantic import BaseModel

from vision_agent.serve.chat_reply import Reason, Vision
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


class OutputCall(BaseModel):
    """A call of a tool. What it gave comes back as a `function_call_output` with its `call_id`."""

    id: str
    type: Literal["function_call"] = "function_call"
    call_id: str
    name: str
    arguments: str
    status: Literal["in_progress", "completed"]
    vision: Vision | None = None


class ModelResponse(BaseModel):
    """What `/v1/responses` answers."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Status
    model: str
    output: list[OutputMessage | OutputCall]
    error: Reason | None
    usage: dict[str, Any] | None


class ResponseReply:
    """One response: whole, or event by event."""

    def __init__(self, asked: ResponsesRequest) -> None:
        self._asked = asked
        self._id = f"resp_{uuid.uuid4().hex}"
        self._item = f"msg_{uuid.uuid4().hex}"
        self._begun = False  # the message, in a stream
        self._call: dict[str, Any] | None = None
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
        for call in message.get("tool_calls") or ():
            self._called(call)
        return self._response(self._status, [self._output()])

    def beginning(self) -> Iterator[str]:
        """The events before it is known what the answer is."""
        for kind in ("created", "in_progress"):
            yield self._event(f"response.{kind}", response=self._response("in_progress", []))

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
            for call in delta.get("tool_calls") or ():
                yield from self._calling(self._called(call))
            words = delta.get("content") or ""
            if words or told:
                self._text += words
                yield from self._message_begun()
                yield self._part("response.output_text.delta", 0, delta=words, logprobs=told)

    def _called(self, call: dict[str, Any]) -> dict[str, Any]:
        """Take the call that a chat's answer is, and return it as an item."""
        self._item = f"fc_{uuid.uuid4().hex}"
        self._call = {"id": self._item, "type": "function_call", "call_id": call["id"], **call["function"]}
        return self._call

    def _calling(self, call: dict[str, Any]) -> Iterator[str]:
        begun = {**call, "arguments": "", "status": "in_progress"}
        yield self._event("response.output_item.added", output_index=0, item=begun)
        kind, where = "response.function_call_arguments", {"item_id": self._item, "output_index": 0}
        yield self._event(f"{kind}.delta", **where, delta=call["arguments"])
        yield self._event(f"{kind}.done", **where, name=call["name"], arguments=call["arguments"])

    def _message_begun(self) -> Iterator[str]:
        if self._begun:
            return
        self._begun = True
        empty = {"id": self._item, "type": "message", "role": "assistant", "status": "in_progress", "content": []}
        yield self._event("response.output_item.added", output_index=0, item=empty)
        yield self._part("response.content_part.added", 0, part=_words(""))

    def _ending(self) -> Iterator[str]:
        if self._call is None:
            yield from self._message_ended()
        item = self._output()
        yield self._event("response.output_item.done", output_index=0, item=item)
        yield self._event(f"response.{self._status}", response=self._response(self._status, [item]))

    def _message_ended(self) -> Iterator[str]:
        yield from self._message_begun()
        yield self._part("response.output_text.done", 0, text=self._text, logprobs=self._logprobs)
        yield self._part("response.content_part.done", 0, part=_words(self._text, self._logprobs))
        if self._refusal is not None:
            yield self._part("response.content_part.added", 1, part={"type": "refusal", "refusal": ""})
            yield self._part("response.refusal.delta", 1, delta=self._refusal)
            yield self._part("response.refusal.done", 1, refusal=self._refusal)
            yield self._part("response.content_part.done", 1, part={"type": "refusal", "refusal": self._refusal})

    @property
    def _status(self) -> Literal["completed", "incomplete"]:
        return "incomplete" if self._cut else "completed"

    def _output(self) -> dict[str, Any]:
        """The one item of the answer: a message or a call."""
        seen = {} if self._vision is None else {"vision": self._vision}
        if self._call is not None:
            return {**self._call, "status": "completed", **seen}
        content = [_words(self._text, self._logprobs)]
        if self._refusal is not None:
            content.append({"type": "refusal", "refusal": self._refusal})
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
        chosen = asked.tool_choice or "auto"
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
            "tool_choice": chosen if isinstance(chosen, str) else chosen.model_dump(),
            "tools": [{**tool.model_dump(), "strict": tool.strict is not False} for tool in asked.tools or ()],
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
