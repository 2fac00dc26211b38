"""A cancelled task frees the model within one step, whatever it was doing: drawing, reading, finding, tracking."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vision_agent import VisionAgent
from vision_agent.decoders.mask.decoder import MaskDecoder
from vision_agent.documents.result import Line
from vision_agent.plugins.cancellation import CANCELLED
from vision_agent.results.segmentation import Segmentation

AT = 2  # the step during which the task is cancelled


class Steps:
    """Counts steps; during number `AT` the awaiting task is cancelled."""

    def __init__(self) -> None:
        self.count = 0
        self.task: asyncio.Task[Any] | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.gone = threading.Event()

    def step(self, *_: object) -> None:
        self.count += 1
        if self.count < AT or self.loop is None or self.task is None:
            return
        if self.count == AT:
            self.loop.call_soon_threadsafe(self.task.cancel)
        assert self.gone.wait(60)  # other workers wait, too: they would do more until the loop has come to the task

    def run(self, call: Callable[[], Awaitable[Any]]) -> None:
        async def work() -> None:
            async def awaited() -> Any:
                return await call()

            self.loop = asyncio.get_running_loop()
            self.task = asyncio.create_task(awaited())
            with pytest.raises(asyncio.CancelledError):
                await self.task
            self.gone.set()

        asyncio.run(work())  # ends when the thread has


def images(count: int) -> list[Image.Image]:
    """Images that nobody has seen, so that none is in the cache."""
    return [Image.fromarray(np.random.default_rng().integers(0, 255, (64, 64, 3), np.uint8)) for _ in range(count)]


class CountingReader:
    """A reader that finds nothing, page by page."""

    name = "counting"

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def read(self, image: Image.Image) -> list[Line]:
        self._steps.step()
        return []

    def find(self, image: Image.Image) -> Any:
        return np.zeros((0, 4, 2))

    def recognise(self, image: Image.Image, quads: Any) -> list[Line | None]:
        return []


def encoding(agent: VisionAgent, steps: Steps, patch: pytest.MonkeyPatch, of: object = None) -> None:
    """Count the images that are encoded, or, of a decoder, prepared."""
    where, name = (agent.backbone, "encode_image") if of is None else (of, "prepare_image")
    encode = getattr(where, name)

    def counted(*given: Any, **named: Any) -> Any:
        steps.step()
        return encode(*given, **named)

    patch.setattr(where, name, counted)


def test_drawing_and_editing(agent: VisionAgent) -> None:
    drawing, editing = Steps(), Steps()
    drawing.run(lambda: agent.aio.generate("a dog", seed=1, steps=6, progress=drawing.step))
    editing.run(lambda: agent.aio.edit("make it red", images(1)[0], steps=6, progress=editing.step))
    assert drawing.count == editing.count == AT
    assert agent.generate("a dog", seed=1, steps=1).size  # free again


@pytest.mark.parametrize("workers", [1, 2])
def test_reading_pages(agent: VisionAgent, tmp_path: Path, workers: int) -> None:
    first, *others = images(6)
    first.save(tmp_path / "pages.tiff", save_all=True, append_images=others)
    steps = Steps()
    steps.run(lambda: agent.aio.ocr(tmp_path / "pages.tiff", engine=CountingReader(steps), workers=workers))
    assert steps.count <= AT + workers - 1


def test_finding_in_many_images(agent: VisionAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    many = images(5)
    steps = Steps()
    encoding(agent, steps, monkeypatch, agent.routes["det"].decoder)  # a group of images is encoded together
    steps.run(lambda: agent.aio.detect("dog", many))
    assert steps.count == AT
    assert agent.detect("dog", many[4]).image_size == (64, 64)


def test_tracking_through_a_video(agent: VisionAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps()

    def track(self: MaskDecoder, states: Any, frames: Sequence[Any], prompted: int, request: Any) -> Iterator[Any]:
        for frame in frames:
            steps.step()
            yield Segmentation.empty(frame.size, "test", request.phrases)

    monkeypatch.setattr(MaskDecoder, "track", track)
    steps.run(lambda: agent.aio.segment_video("dog", images(8)))
    assert steps.count == AT
    assert len(agent.segment_video("dog", images(3)).frames) == 3


VERBS: dict[str, Callable[[VisionAgent, Image.Image], Any]] = {
    "detect": lambda agent, image: agent.detect("dog", image),
    "point": lambda agent, image: agent.point("dog", image),
    "count": lambda agent, image: agent.count("dog", image),
    "segment": lambda agent, image: agent.segment("dog", image),
    "points": lambda agent, image: agent.segment(image=image, points=[[5, 5]]),
    "run_route": lambda agent, image: agent.run_route("det", "dog", image),
    "edit": lambda agent, image: agent.edit("make it red", image),
    "ask": lambda agent, image: agent.ask("is there a dog?", image),
    "caption": lambda agent, image: agent.caption(image),
    "run": lambda agent, image: agent.run("find the dog", image),
    "generate": lambda agent, image: agent.generate("a dog"),
    "ocr": lambda agent, image: agent.ocr(image, engine=CountingReader(Steps())),
}


@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_begins_for_a_caller_who_has_gone(
    agent: VisionAgent, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As evaluation and loops of calls need it: the next call of whatever verb ends them, before it reads an image."""
    steps = Steps()
    encoding(agent, steps, monkeypatch)
    gone = threading.Event()
    gone.set()
    token = CANCELLED.set(gone)
    try:
        with pytest.raises(CancelledError):
            VERBS[verb](agent, images(1)[0])
    finally:
        CANCELLED.reset(token)
    assert steps.count == 0
