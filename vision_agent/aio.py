"""The verbs for asyncio: the same names and arguments, awaited.

The model runs in a worker thread, so the event loop stays free. A stream is an async iterator: its tokens are written
one by one as they are asked for, and closing it stops the model. So does cancelling: the model is free again after the
token that it is writing.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from vision_agent.inference.cancellation import ABANDONED

if TYPE_CHECKING:
    from vision_agent.agent import VisionAgent
    from vision_agent.inference.chat import Chat

P = ParamSpec("P")
R = TypeVar("R")
_END = object()


class AsyncVisionAgent:
    """The verbs of a `VisionAgent`, awaited: `await agent.aio.detect("red car", image)`.

    With `stream=True` the awaited result is an async iterator: `async for event in await agent.aio.ask(...)`.
    """

    def __init__(self, agent: "VisionAgent") -> None:
        self._agent = agent
        self.detect = _awaited(agent.detect)
        self.point = _awaited(agent.point)
        self.count = _awaited(agent.count)
        self.segment = _awaited(agent.segment)
        self.generate = _awaited(agent.generate)
        self.edit = _awaited(agent.edit)
        self.segment_video = _awaited(agent.segment_video)
        self.ocr = _awaited(agent.ocr)
        self.run_route = _awaited(agent.run_route)
        self.ask = _awaited(agent.ask)
        self.caption = _awaited(agent.caption)
        self.run = _awaited(agent.run)
        self.call_tool = _awaited(agent.call_tool)

    def chat(self, **settings: Any) -> "AsyncChat":
        """A conversation whose `ask` is awaited. Takes what `VisionAgent.chat` takes."""
        return AsyncChat(self._agent.chat(**settings))


class AsyncChat:
    """A `Chat` whose `ask` is awaited."""

    def __init__(self, chat: "Chat") -> None:
        self._chat = chat
        self.ask = _awaited(chat.ask)

    @property
    def history(self) -> list[tuple[str, str]]:
        """The rounds so far, (question, answer)."""
        return self._chat.history


def _awaited(verb: Callable[P, R]) -> Callable[P, Awaitable[Any]]:
    async def call(*args: P.args, **kwargs: P.kwargs) -> Any:
        abandoned = threading.Event()

        def work() -> R:
            ABANDONED.set(abandoned)  # in the thread's own copy of the context
            return verb(*args, **kwargs)

        try:
            result = await asyncio.to_thread(work)
        except asyncio.CancelledError:
            abandoned.set()
            raise
        return _stepped(result) if isinstance(result, Generator) else result

    return call


async def _stepped(events: Generator[Any, None, None]) -> AsyncIterator[Any]:
    # A step whose awaiting task was cancelled still runs to its end in its thread; closing waits for it.
    turn = threading.Lock()

    def step() -> Any:
        with turn:
            return next(events, _END)

    def close() -> None:
        with turn:
            events.close()

    try:
        while (event := await asyncio.to_thread(step)) is not _END:
            yield event
    finally:
        await asyncio.to_thread(close)
