"""What moondream's client asks for, answered by the verbs: `/v1/query`, `/caption`, `/detect`, `/point`, `/segment`.

Places are shares of the image, 0-1; a segment's path is in shares of its box. Chats go to `/v1/chat/completions`.
"""

import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vision_agent.errors import VisionAgentError
from vision_agent.generation.options import GenerationOptions
from vision_agent.results.answers import Answer
from vision_agent.results.box import Box
from vision_agent.results.events import AnswerDone, TextDelta
from vision_agent.results.segmentation import Segment
from vision_agent.serve.bodies import read_json
from vision_agent.serve.desk import Desk
from vision_agent.serve.event_stream import EventStream
from vision_agent.serve.gate import record_of
from vision_agent.serve.problems import problem_of, wrong
from vision_agent.serve.request_sources import Sources

if TYPE_CHECKING:
    from vision_agent.agent import VisionAgent

_NAMES = {"image": "image_url", "phrase": "object", "max_new_tokens": "settings.max_tokens"}
_DIGITS = 5  # of a share of an image
MOONDREAM_PATHS = ("/v1/query", "/v1/caption", "/v1/detect", "/v1/point", "/v1/segment")


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")


class MoondreamSettings(_Closed):
    """How an answer is written; without a temperature it is greedy."""

    temperature: Annotated[FiniteFloat, Field(ge=0, le=2)] | None = None
    top_p: Annotated[FiniteFloat, Field(gt=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=4096)] | None = None
    max_objects: Annotated[int, Field(ge=1, le=10_000)] | None = None

    def options(self) -> GenerationOptions | None:
        """Return the SDK's settings; None where nothing is set."""
        given: dict[str, Any] = {} if self.max_tokens is None else {"max_new_tokens": self.max_tokens}
        if self.temperature:
            given |= {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p or 1.0}
        return GenerationOptions(**given) if given else None


class MoondreamRequest(_Closed):
    """A request of moondream's client; which fields belong to which path is checked there."""

    image_url: str | None = None
    question: Annotated[str, Field(max_length=10_000)] | None = None
    object: Annotated[str, Field(max_length=1000)] | None = None
    length: Literal["short", "normal", "long"] = "normal"
    stream: bool = False
    reasoning: Literal[False] = False
    spatial_refs: Annotated[list[Any], Field(max_length=0)] | None = None
    model: str | None = None
    settings: MoondreamSettings = MoondreamSettings()


class MoondreamEndpoint:
    """Answers moondream's client with one agent."""

    def __init__(self, agent: "VisionAgent", desk: Desk, sources: Sources, check_model: Callable[[str], None]) -> None:
        self._agent = agent
        self._desk = desk
        self._sources = sources
        self._check_model = check_model

    async def answer(self, request: Request) -> Response:
        """Answer a request at one of `MOONDREAM_PATHS`."""
        task = request.scope["path"].rpartition("/")[2]
        asked = await read_json(request, MoondreamRequest)
        if asked.model is not None:
            self._check_model(asked.model)
        needed = {"query": ("question",), "caption": ("image_url",)}.get(task, ("image_url", "object"))
        for name in needed:
            if getattr(asked, name) is None:
                raise wrong(name, f"`{name}` is missing", "missing_parameter")
        for name in {"question", "object"} - {*needed}:
            if getattr(asked, name) is not None:
                raise wrong(name, f"`{name}` is no field of this request", "unknown_parameter")
        record_of(request.scope).numbers["images"] = asked.image_url is not None
        if asked.stream and task in ("query", "caption"):
            events = self._streamed(request, task, asked)
            return EventStream(await anext(events), events)
        if asked.stream:
            raise wrong("stream", "`stream` is for words; masks come whole")
        async with self._desk.turn(request.receive) as turn:
            return JSONResponse(await turn.run(partial(self._done, task, asked)))

    def _done(self, task: str, asked: MoondreamRequest) -> dict[str, Any]:
        try:
            if task in ("query", "caption"):
                return {"answer" if task == "query" else "caption": self._words(task, asked, lambda text: None).text}
            image = self._sources.image(asked.image_url or "", "image_url")
            if task == "segment":
                segments = sorted(self._agent.segment(asked.object, image), key=lambda each: -each.score)
                return _outlined(segments, image.size)
            most = asked.settings.max_objects
            if task == "detect":
                found = self._agent.detect(asked.object or "", image)
                return {"objects": [_shares(each.box, image.size) for each in found[:most]]}
            points = self._agent.point(asked.object or "", image)
            width, height = image.size
            shares = [(each.x / width, each.y / height) for each in points[:most]]
            return {"points": [{"x": round(x, _DIGITS), "y": round(y, _DIGITS)} for x, y in shares]}
        except VisionAgentError as error:
            raise problem_of(error, _NAMES) from error

    def _words(self, task: str, asked: MoondreamRequest, emit: Callable[[str], None]) -> Answer:
        """An answer in words, which are handed over as they are written."""
        image = None if asked.image_url is None else self._sources.image(asked.image_url, "image_url")
        options = asked.settings.options()
        if task == "caption":
            answer = self._agent.caption(image, length=asked.length, options=options)  # type: ignore[arg-type]
            emit(answer.text)
            return answer
        for event in self._agent.ask(asked.question or "", image, options=options, stream=True):
            if isinstance(event, TextDelta):
                emit(event.text)
            elif isinstance(event, AnswerDone):
                return event.answer
        raise AssertionError("a stream ends with its answer")

    async def _streamed(self, request: Request, task: str, asked: MoondreamRequest) -> AsyncGenerator[str, None]:
        def work(emit: Callable[[str], None]) -> None:
            try:
                self._words(task, asked, emit)
            except VisionAgentError as error:
                raise problem_of(error, _NAMES) from error

        async with self._desk.turn(request.receive) as turn, aclosing(turn.stream(work)) as texts:
            async for text in texts:
                yield json.dumps({"chunk": text}, ensure_ascii=False)
        yield json.dumps({"completed": True})


def _shares(box: Box, size: tuple[int, int]) -> dict[str, float]:
    sides = zip(("x_min", "y_min", "x_max", "y_max"), box.xyxy, size * 2, strict=True)
    return {name: round(side / whole, _DIGITS) for name, side, whole in sides}


def _outlined(segments: Sequence[Segment], size: tuple[int, int]) -> dict[str, Any]:
    """The surest segment; an empty path where nothing was found."""
    tight = segments[0].mask.box if segments else None
    if tight is None:
        return {"path": "", "bbox": None}
    x0, y0, x1, y1 = tight.xyxy
    path = ""
    for part in segments[0].mask.polygons():
        for ring in part:
            corners = [(round((x - x0) / (x1 - x0), 4), round((y - y0) / (y1 - y0), 4)) for x, y in ring.tolist()]
            path += "M" + "L".join(f"{x:g} {y:g}" for x, y in corners) + "Z"
    return {"path": path, "bbox": _shares(tight, size)}
