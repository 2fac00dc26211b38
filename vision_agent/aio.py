"""How verbs are awaited: in a worker thread, so that the event loop stays free.

`awaited` makes an awaited verb of a verb and keeps its types; `AsyncVisionAgent` (agent.py) is made of such verbs. A
stream becomes an async iterator: its tokens are written one by one as they are asked for, and closing it stops the
model. Cancelling does so too: the model is free again after the token that it is writing.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Protocol, TypeVar, Unpack, overload

if TYPE_CHECKING:
    from vision_agent.documents.options import OcrSettings
    from vision_agent.documents.result import OcrResult
    from vision_agent.documents.source import DocumentSource
    from vision_agent.extract.question_answering import DocumentAnswer
    from vision_agent.images.loading import ImageSource
    from vision_agent.inference.chat import Chat
    from vision_agent.inference.find_options import FindSettings, SegmentSettings
    from vision_agent.inference.second_look import DetectSettings
    from vision_agent.inference.settings import (
        AskSettings,
        CaptionSettings,
        ChatSettings,
        Images,
        ImageT,
        Phrases,
        Several,
    )
    from vision_agent.planning.options import RunSettings
    from vision_agent.planning.result import AgentResult
    from vision_agent.planning.run_events import AgentEvent
    from vision_agent.results.answers import Answer
    from vision_agent.results.classification import Classification
    from vision_agent.results.detections import Detections
    from vision_agent.results.events import AnswerEvent
    from vision_agent.results.points import Count
    from vision_agent.results.segmentation import Segmentation

P = ParamSpec("P")
R = TypeVar("R")
Found = TypeVar("Found")
DocumentT = TypeVar("DocumentT", bound="DocumentSource")
_END = object()


class AwaitedFind(Protocol[Found]):
    """`VisionAgent.point`, awaited: one image, several, or an iterator of them."""

    @overload
    def __call__(
        self, phrase: "Phrases", image: "Several[ImageT]", **settings: "Unpack[FindSettings]"
    ) -> "Awaitable[list[Found]]": ...

    @overload
    def __call__(
        self, phrase: "Phrases", image: "ImageSource", **settings: "Unpack[FindSettings]"
    ) -> "Awaitable[Found]": ...

    @overload
    def __call__(
        self, phrase: "Phrases", image: "Iterator[ImageT]", **settings: "Unpack[FindSettings]"
    ) -> "Awaitable[AsyncIterator[Found]]": ...


class AwaitedDetect(Protocol):
    """`VisionAgent.detect`, awaited."""

    @overload
    def __call__(
        self, phrase: "Phrases", image: "Several[ImageT]", **settings: "Unpack[DetectSettings]"
    ) -> "Awaitable[list[Detections]]": ...

    @overload
    def __call__(
        self, phrase: "Phrases", image: "ImageSource", **settings: "Unpack[DetectSettings]"
    ) -> "Awaitable[Detections]": ...

    @overload
    def __call__(
        self, phrase: "Phrases", image: "Iterator[ImageT]", **settings: "Unpack[DetectSettings]"
    ) -> "Awaitable[AsyncIterator[Detections]]": ...


class AwaitedCount(Protocol):
    """`VisionAgent.count`, awaited."""

    @overload
    def __call__(
        self, phrase: str, image: "Several[ImageT]", **settings: "Unpack[FindSettings]"
    ) -> "Awaitable[list[Count]]": ...

    @overload
    def __call__(self, phrase: str, image: "ImageSource", **settings: "Unpack[FindSettings]") -> "Awaitable[Count]": ...

    @overload
    def __call__(
        self, phrase: str, image: "Iterator[ImageT]", **settings: "Unpack[FindSettings]"
    ) -> "Awaitable[AsyncIterator[Count]]": ...


class AwaitedSegment(Protocol):
    """`VisionAgent.segment`, awaited."""

    @overload
    def __call__(
        self, phrase: "Phrases | None", image: "Several[ImageT]", **settings: "Unpack[SegmentSettings]"
    ) -> "Awaitable[list[Segmentation]]": ...

    @overload
    def __call__(
        self,
        phrase: "Phrases | None" = None,
        image: "ImageSource | None" = None,
        **settings: "Unpack[SegmentSettings]",
    ) -> "Awaitable[Segmentation]": ...

    @overload
    def __call__(
        self, phrase: "Phrases | None", image: "Iterator[ImageT]", **settings: "Unpack[SegmentSettings]"
    ) -> "Awaitable[AsyncIterator[Segmentation]]": ...


class AwaitedCaption(Protocol):
    """`VisionAgent.caption`, awaited."""

    @overload
    def __call__(
        self, image: "Several[ImageT]", **settings: "Unpack[CaptionSettings]"
    ) -> "Awaitable[list[Answer]]": ...

    @overload
    def __call__(self, image: "ImageSource", **settings: "Unpack[CaptionSettings]") -> "Awaitable[Answer]": ...

    @overload
    def __call__(
        self, image: "Iterator[ImageT]", **settings: "Unpack[CaptionSettings]"
    ) -> "Awaitable[AsyncIterator[Answer]]": ...


class AwaitedClassify(Protocol):
    """`VisionAgent.classify`, awaited."""

    @overload
    def __call__(
        self, image: "Several[ImageT]", labels: Sequence[str], templates: str | Sequence[str] | None = None
    ) -> "Awaitable[list[Classification]]": ...

    @overload
    def __call__(
        self, image: "ImageSource", labels: Sequence[str], templates: str | Sequence[str] | None = None
    ) -> "Awaitable[Classification]": ...

    @overload
    def __call__(
        self, image: "Iterator[ImageT]", labels: Sequence[str], templates: str | Sequence[str] | None = None
    ) -> "Awaitable[AsyncIterator[Classification]]": ...


class AwaitedOcr(Protocol):
    """`VisionAgent.ocr`, awaited."""

    @overload
    def __call__(
        self, source: "list[DocumentT]", **settings: "Unpack[OcrSettings]"
    ) -> "Awaitable[list[OcrResult]]": ...

    @overload
    def __call__(self, source: "DocumentSource", **settings: "Unpack[OcrSettings]") -> "Awaitable[OcrResult]": ...

    @overload
    def __call__(
        self, source: "Iterator[DocumentT]", **settings: "Unpack[OcrSettings]"
    ) -> "Awaitable[AsyncIterator[OcrResult]]": ...


class AwaitedAsk(Protocol):
    """`VisionAgent.ask`, awaited."""

    @overload
    def __call__(self, question: str, image: "OcrResult") -> "Awaitable[DocumentAnswer]": ...

    @overload
    def __call__(
        self,
        question: str,
        image: "Images" = None,
        *,
        stream: Literal[False] = False,
        **settings: "Unpack[AskSettings]",
    ) -> "Awaitable[Answer]": ...

    @overload
    def __call__(
        self, question: str, image: "Images" = None, *, stream: Literal[True], **settings: "Unpack[AskSettings]"
    ) -> "Awaitable[AsyncIterator[AnswerEvent]]": ...

    @overload
    def __call__(
        self, question: list[str], image: "Images | Sequence[Images]" = None, **settings: "Unpack[AskSettings]"
    ) -> "Awaitable[list[Answer]]": ...

    @overload
    def __call__(
        self,
        question: str,
        image: "Iterator[ImageT]",
        *,
        stream: Literal[False] = False,
        **settings: "Unpack[AskSettings]",
    ) -> "Awaitable[AsyncIterator[Answer]]": ...


class AwaitedRun(Protocol):
    """`VisionAgent.run`, awaited."""

    @overload
    def __call__(
        self, request: str, image: "Images" = None, *, stream: Literal[False] = False, **settings: "Unpack[RunSettings]"
    ) -> "Awaitable[AgentResult]": ...

    @overload
    def __call__(
        self, request: str, image: "Images" = None, *, stream: Literal[True], **settings: "Unpack[RunSettings]"
    ) -> "Awaitable[AsyncIterator[AgentEvent]]": ...

    @overload
    def __call__(
        self, request: list[str], image: "Images | Sequence[Images]" = None, **settings: "Unpack[RunSettings]"
    ) -> "Awaitable[list[AgentResult]]": ...


class AwaitedRound(Protocol):
    """`Chat.ask`, awaited."""

    @overload
    def __call__(
        self,
        question: str,
        images: "Images" = None,
        *,
        stream: Literal[False] = False,
        **settings: "Unpack[ChatSettings]",
    ) -> "Awaitable[Answer]": ...

    @overload
    def __call__(
        self, question: str, images: "Images" = None, *, stream: Literal[True], **settings: "Unpack[ChatSettings]"
    ) -> "Awaitable[AsyncIterator[AnswerEvent]]": ...


class AsyncChat:
    """A `Chat` whose `ask` is awaited."""

    def __init__(self, chat: "Chat") -> None:
        self._chat = chat
        self.ask: AwaitedRound = awaited_or_streamed(chat.ask)

    @property
    def history(self) -> list[tuple[str, str]]:
        """The rounds so far, (question, answer)."""
        return self._chat.history


def awaited(verb: Callable[P, R]) -> Callable[P, Awaitable[R]]:
    """Return a verb that is awaited: the same arguments, run in a thread."""

    @wraps(verb)
    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return await in_thread(lambda: verb(*args, **kwargs))

    return call


def streamed(verb: Callable[P, Iterator[R]]) -> Callable[P, Awaitable[AsyncIterator[R]]]:
    """Return a verb that is awaited and gives an async iterator, in place of the verb's own iterator."""
    call: Callable[P, Awaitable[AsyncIterator[R]]] = awaited_or_streamed(verb)
    return call


def awaited_or_streamed(verb: Callable[..., Any]) -> Any:
    """Return a verb that is awaited: what it gives, or an async iterator in place of a stream."""

    @wraps(verb)
    async def call(*args: Any, **kwargs: Any) -> Any:
        result = await in_thread(lambda: verb(*args, **kwargs))
        return _steps(result) if isinstance(result, Generator) else result

    return call


async def in_thread(work: Callable[[], R]) -> R:
    """Run `work` in a thread. When the awaiting task is cancelled, the model stops after the token it is writing."""
    from vision_agent.plugins.cancellation import CANCELLED

    abandoned = threading.Event()

    def watched() -> R:
        CANCELLED.set(abandoned)  # in the thread's own copy of the context
        return work()

    try:
        return await asyncio.to_thread(watched)
    except asyncio.CancelledError:
        abandoned.set()
        raise


async def _steps(events: Generator[R, None, None]) -> AsyncIterator[R]:
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
