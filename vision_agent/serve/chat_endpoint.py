"""OpenAI's chat completions, answered by the agent: `/v1/chat/completions` and `/v1/models`.

An answer may take the routes that the model has, as `VisionAgent.run` does without a plan: what they gave is in the
message's `vision`, exactly, and in words at the end of its `content`.
"""

import json
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, closing
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vision_agent.errors import VisionAgentError
from vision_agent.generation.options import GenerationOptions
from vision_agent.inference.engine import InferenceEngine
from vision_agent.planning.formed_answer import FormedRequest, Said, read_said
from vision_agent.planning.message_rounds import MessageRounds, call_text, typed_text
from vision_agent.planning.summary import routed_line, without_routed_lines
from vision_agent.results.answers import Answer, TokenLogprob, TokenScore
from vision_agent.results.events import AnswerDone, TextDelta
from vision_agent.routing.policy import RouteChoice
from vision_agent.serve.bodies import read_json
from vision_agent.serve.chat_request import OPTION_NAMES, ChatRequest, Message, ToolCall, too_long
from vision_agent.serve.counters import Counters
from vision_agent.serve.desk import Desk, Turn
from vision_agent.serve.event_stream import EventStream
from vision_agent.serve.gate import LOG, RequestRecord, record_of
from vision_agent.serve.options import ServeOptions
from vision_agent.serve.problems import ClientGoneError, Problem, problem_of, unexpected, wrong
from vision_agent.serve.request_sources import Sources
from vision_agent.serve.result_json import dumped

if TYPE_CHECKING:
    from vision_agent.agent import VisionAgent
    from vision_agent.inference.conversation import Conversation

Chunk = dict[str, Any]
_BEGINNING = {"role": "assistant", "content": "", "refusal": None}
_REASONS = {"stop": "stop", "length": "length", "repetition": "length", "refused": "stop"}


class ChatEndpoint:
    """Answers chats with one agent."""

    def __init__(
        self, agent: "VisionAgent", options: ServeOptions, desk: Desk, counters: Counters, sources: Sources
    ) -> None:
        self._agent = agent
        self._options = options
        self._desk = desk
        self._counters = counters
        self._sources = sources
        self._counting = InferenceEngine(agent.backbone, agent.routes, 0)  # counts tokens, and holds nothing
        self._created = int(time.time())

    @property
    def model_name(self) -> str:
        """The name that requests have to give."""
        return self._options.name or self._agent.model

    async def models(self, request: Request) -> Response:
        """Answer `/v1/models`."""
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        """Answer `/v1/models/NAME`."""
        self.check_model(request.scope["path"].removeprefix("/v1/models/"))
        return JSONResponse(self._model())

    async def completions(self, request: Request) -> Response:
        """Answer `/v1/chat/completions`."""
        asked = await read_json(request, ChatRequest)
        if asked.stream:
            events = self.events(request, asked)
            first = await anext(events)  # what goes wrong until then is no stream, but a response with its status
            return EventStream(first, events)
        return JSONResponse(await self.whole(request, asked))

    async def whole(self, request: Request, asked: ChatRequest) -> dict[str, Any]:
        """Return the completion of a chat."""
        reply, record = self._begun(request, asked)
        async with self._desk.turn(request.receive) as turn:
            record.numbers["queue_seconds"] = round(turn.waited, 4)
            answers, with_tools = await turn.run(lambda: self._answered(asked))
        self._note(answers, record, turn)
        return reply.whole(answers, with_tools)

    def events(self, request: Request, asked: ChatRequest) -> AsyncGenerator[str, None]:
        """Return the events of a chat's stream, the last of which is `[DONE]` where nothing goes wrong."""
        reply, record = self._begun(request, asked)
        return self._streamed(request, asked, reply, record)

    def _begun(self, request: Request, asked: ChatRequest) -> tuple["_Reply", RequestRecord]:
        """Refuse what cannot be done, and note what is asked."""
        self.check_model(asked.model)
        asked.check(self._options)
        for name in asked.routes or ():
            if name not in self._agent.routes:
                known = sorted(self._agent.routes)
                raise wrong("routes", f"`routes` must be of the model's routes {known}, but got {name[:80]!r}")
        record = record_of(request.scope)
        record.numbers["images"] = sum(part.images for each in asked.messages for part in each.parts)
        self._counters.add("images_total", record.numbers["images"])
        return _Reply(asked, self.model_name), record

    def check_model(self, name: str) -> None:
        """Raise Problem for another model than the one that is served."""
        if name != self.model_name:
            shown = name if len(name) <= 80 else f"{name[:60]}..."
            said = f"there is no model {shown!r} here, but {self.model_name!r}"
            raise Problem(404, said, param="model", code="model_not_found")

    def _model(self) -> dict[str, Any]:
        return {
            "id": self.model_name,
            "object": "model",
            "created": self._created,
            "owned_by": "vision-agent",
            "max_model_len": self._agent.backbone.context,
            "routes": sorted(self._agent.routes),
        }

    # --- in a thread

    def _prepared(self, asked: ChatRequest) -> tuple[FormedRequest, RouteChoice]:
        agent = self._agent
        formed = bool(asked.used_tools) or asked.schema_of_answer is not None
        routes = [] if formed else asked.routes
        choice = RouteChoice.of(agent.routes, agent.model, routes, None, None)

        def read(preface: str) -> "Conversation":
            return conversation_of(asked.messages, self._sources, preface)

        def options(conversation: "Conversation") -> GenerationOptions:
            room = self._counting.answer_room(conversation)
            if room < 1:
                context = agent.backbone.context
                said = f"the messages have {context - room} tokens, but {self.model_name!r} takes {context} in all"
                raise too_long(said)
            return asked.generation_options(room, self._options)

        tools, schema = asked.used_tools, asked.schema_of_answer
        made = FormedRequest.of(agent.backbone, read, options, tools=tools, choice=asked.choice_of_tool, schema=schema)
        return made, choice

    def _answered(self, asked: ChatRequest) -> tuple[list[Answer], bool]:
        try:
            made, choice = self._prepared(asked)
            answers = self._agent.answer_pipeline.answers
            if made.options.seed is None:
                several = [made.conversation] * (asked.n or 1)
                return answers(several, made.options, choice, made.form), made.with_tools
            # Seeds of their own: with one seed all would be alike.
            each = (
                made.options.model_copy(update={"seed": (made.options.seed + index) % 2**63})
                for index in range(asked.n or 1)
            )
            one = [answers([made.conversation], options, choice, made.form)[0] for options in each]
            return one, made.with_tools
        except VisionAgentError as error:
            raise problem_of(error, OPTION_NAMES) from error

    def _written(self, asked: ChatRequest, reply: "_Reply", emit: Callable[[Chunk | Answer], None]) -> None:
        """Hand over the chunks of all choices, one choice after the other, and each choice's answer."""
        try:
            made, choice = self._prepared(asked)
            for index in range(asked.n or 1):
                options = made.options
                if options.seed is not None:
                    options = options.model_copy(update={"seed": (options.seed + index) % 2**63})
                told: list[TokenScore] = []
                if made.form.constraint is None:
                    answer = self._words(made, options, choice, partial(_emit_delta, emit, reply, index), told)
                else:  # half a JSON is of no use
                    pipeline = self._agent.answer_pipeline
                    (answer,) = pipeline.answers([made.conversation], options, choice, made.form)
                for chunk in reply.ending(index, answer, made, len(told)):
                    emit(chunk)
                emit(answer)
        except VisionAgentError as error:
            raise problem_of(error, OPTION_NAMES) from error

    def _words(
        self,
        made: FormedRequest,
        options: GenerationOptions,
        choice: RouteChoice,
        emit: Callable[..., None],
        told: list[TokenScore],
    ) -> Answer:
        """Hand over the words of an answer as they are written. The first part is its role, with the first words.

        Args:
            told: takes the tokens that were handed over with the words.
        """
        begun = False
        events = self._agent.answer_pipeline.stream(made.conversation, options, choice, made.form)
        with closing(events):  # type: ignore[type-var]  # a generator
            for event in events:
                if isinstance(event, AnswerDone):
                    if not begun:
                        emit(dict(_BEGINNING))
                    return event.answer
                if isinstance(event, TextDelta):
                    if not begun:
                        emit(dict(_BEGINNING))
                    begun = True
                    told += event.tokens or ()
                    emit({"content": event.text}, logprobs=_logprobs(event.tokens))
        raise AssertionError("a stream ends with its answer")

    # --- in the event loop

    async def _streamed(
        self, request: Request, asked: ChatRequest, reply: "_Reply", record: RequestRecord
    ) -> AsyncGenerator[str, None]:
        began = time.perf_counter()
        answers: list[Answer] = []
        started = worded = False
        try:
            async with self._desk.turn(request.receive) as turn:
                record.numbers["queue_seconds"] = round(turn.waited, 4)
                stream: AsyncGenerator[Chunk | Answer, None] = turn.stream(partial(self._written, asked, reply))
                async with aclosing(stream) as items:
                    async for item in items:
                        if isinstance(item, Answer):
                            answers.append(item)
                            continue
                        if not worded and item["choices"][0]["delta"].get("content"):
                            self._counters.see("first_token_seconds", time.perf_counter() - began)
                            worded = True
                        started = True
                        yield json.dumps(item, ensure_ascii=False)
                self._note(answers, record, turn)
        except ClientGoneError:
            raise
        except Exception as error:
            if not started:
                raise
            if not isinstance(error, Problem):
                LOG.exception("a stream failed")
            yield json.dumps((error if isinstance(error, Problem) else unexpected()).body())
            return
        if asked.stream_options is not None and asked.stream_options.include_usage:
            yield json.dumps(reply.usage_chunk(answers))
        yield "[DONE]"

    def _note(self, answers: list[Answer], record: RequestRecord, turn: Turn) -> None:
        usage = _usage(answers)
        for name in ("prompt_tokens", "completion_tokens"):
            record.numbers[name] = usage[name]
            self._counters.add(f"{name}_total", usage[name])
        if usage["completion_tokens"]:
            self._counters.see("token_seconds", turn.seconds / usage["completion_tokens"])


def _emit_delta(
    emit: Callable[[Chunk | Answer], None], reply: "_Reply", index: int, delta: dict[str, Any], **more: Any
) -> None:
    emit(reply.chunk(index, delta, **more))


class _Reply:
    """Answers in OpenAI's form; all parts of one have the same id."""

    def __init__(self, asked: ChatRequest, model: str) -> None:
        self._tells_usage = asked.stream_options is not None and bool(asked.stream_options.include_usage)
        self._images = sum(part.images for each in asked.messages for part in each.parts)
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex[:24]}", "created": int(time.time()), "model": model}

    def whole(self, answers: list[Answer], with_tools: bool) -> dict[str, Any]:
        choices = []
        for index, answer in enumerate(answers):
            said = read_said(answer, with_tools)
            message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": answer.refused}
            if said.tool is None:
                message["content"] = said.text + self._routed(answer, said.text)
            else:
                message["tool_calls"] = [_call(said)]
            end = {"logprobs": _logprobs(answer.tokens), **self._end(answer, said)}
            choices.append({"index": index, "message": message | _vision(answer), **end})
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": _usage(answers)}

    def chunk(self, index: int, delta: dict[str, Any], **more: Any) -> Chunk:
        choice = {"index": index, "delta": delta, "finish_reason": None, "logprobs": None, **more}
        return {
            **self._head,
            "object": "chat.completion.chunk",
            "choices": [choice],
            **({"usage": None} if self._tells_usage else {}),
        }

    def ending(self, index: int, answer: Answer, made: FormedRequest, told: int) -> Iterator[Chunk]:
        """The chunks after the words; of an answer in a form, all of them. `told`: tokens that came before."""
        said = read_said(answer, made.with_tools)
        formed = made.form.constraint is not None
        if said.tool is not None:
            yield self.chunk(index, {**_BEGINNING, "content": None})
            yield self.chunk(index, {"tool_calls": [{"index": 0, **_call(said)}]})
        elif formed:
            yield self.chunk(index, dict(_BEGINNING))
        text = (said.text if formed else "") + self._routed(answer, said.text)
        if text:
            yield self.chunk(index, {"content": text})
        if answer.refused is not None:
            yield self.chunk(index, {"refusal": answer.refused})
        if vision := _vision(answer):
            yield self.chunk(index, vision)
        rest = None if answer.tokens is None else answer.tokens[told:]
        yield self.chunk(index, {}, logprobs=_logprobs(rest or None), **self._end(answer, said))

    def usage_chunk(self, answers: list[Answer]) -> Chunk:
        return {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": _usage(answers)}

    def _routed(self, answer: Answer, text: str) -> str:
        """What the routes gave, in words, after the answer's own."""
        lines = [routed_line(routed, self._images) for routed in answer.routes]
        return "".join(f"\n{line}" for line in lines) if text else "\n".join(lines)

    def _end(self, answer: Answer, said: Said) -> dict[str, Any]:
        reason = "tool_calls" if said.tool is not None else _REASONS[answer.finish_reason]
        return {"finish_reason": reason}


def _call(said: Said) -> dict[str, Any]:
    written = json.dumps(said.arguments, ensure_ascii=False)
    call = {"name": said.tool, "arguments": written}
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": call}


def _logprobs(tokens: Sequence[TokenScore] | None) -> dict[str, Any] | None:
    if tokens is None:
        return None
    told = [{**_token(each), "top_logprobs": [_token(other) for other in each.top]} for each in tokens]
    return {"content": told, "refusal": None}


def _token(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.text, "bytes": list(token.bytes), "logprob": token.logprob}


def _vision(answer: Answer) -> dict[str, Any]:
    """What stands beside the words: boxes, masks and words of routes, what an answer rests on, and doubts."""
    if not (answer.routes or answer.evidence or answer.warnings):
        return {}
    return {
        "vision": {
            "routes": [dumped(routed) for routed in answer.routes],
            "evidence": [dumped(found) for found in answer.evidence],
            "confidence": answer.confidence,
            "warnings": list(answer.warnings),
        }
    }


def _usage(answers: list[Answer]) -> dict[str, int]:
    """The prompt counts once, however many answers it has."""
    read = answers[0].prompt_tokens if answers else 0
    written = sum(answer.completion_tokens for answer in answers)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def conversation_of(messages: list[Message], sources: Sources, preface: str = "") -> "Conversation":
    """Return the rounds of a chat, with what its messages show; `preface` stands before the first question.

    Raises:
        Problem: messages that do not fit each other. InputError: an image or a video that may not be read, or is none.
    """
    several = sum(part.type == "image_url" for message in messages for part in message.parts) > 1
    rounds = MessageRounds(several, preface)
    called: dict[str, str] = {}
    for index, message in enumerate(messages):
        place = f"messages[{index}]"
        if message.role == "assistant":
            calls = message.tool_calls or []
            called |= {call.id: call.function.name for call in calls}
            words = "".join(part.text or part.refusal or "" for part in message.parts) or message.refusal or ""
            words = without_routed_lines(words)  # what `_Reply` put there would be strange to the model
            rounds.answer(words, *(_written_call(call, f"{place}.tool_calls[{n}]") for n, call in enumerate(calls)))
            continue
        text = ""
        for number, part in enumerate(message.parts):
            if part.video_url is not None:
                where = f"{place}.content[{number}].video_url.url"
                text += rounds.show_frames(sources.frames(part.video_url.url, part.video_url.num_frames, where))
            elif part.image_url is not None:
                image = sources.image(part.image_url.url, f"{place}.content[{number}].image_url.url")
                text += rounds.show(image, part.image_url.max_tiles)
            else:
                text += typed_text(part.text or part.refusal or "")
        if message.role != "tool":
            rounds.ask(text)
        elif message.tool_call_id not in called:
            where = f"{place}.tool_call_id"
            raise wrong(where, f"`{where}` must be the id of a call before it, but got {message.tool_call_id!r}")
        else:
            rounds.give(called[message.tool_call_id], text)
    return rounds.conversation()


def _written_call(call: ToolCall, place: str) -> str:
    where = f"{place}.function.arguments"
    try:
        arguments = json.loads(call.function.arguments or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise wrong(where, f"`{where}` must be the JSON of an object, but got {call.function.arguments[:80]!r}")
    return call_text(call.function.name, arguments)
