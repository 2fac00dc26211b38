"""`agent.aio`: every verb of `VisionAgent` is there, with the same parameters; what streams is an async iterator."""

import asyncio
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import BaseModel
from test_mixed import tiny

from vision_agent import AsyncVisionAgent, Detections, Page, VisionAgent
from vision_agent.aio import awaited
from vision_agent.documents.result import Line

__all__ = ["tiny"]  # a fixture

# What an agent is, has, or makes without running the model: it is not awaited.
NOT_AWAITED = {"from_pretrained", "remote", "load_adapter", "clear_cache", "tools", "tool_definitions", "chat"}


def public_methods(owner: type) -> set[str]:
    """Names of methods without an underscore; properties are none."""
    return {name for name in dir(owner) if not name.startswith("_") and callable(getattr(owner, name))}


def missing_or_different(agent: VisionAgent, twin: Any) -> dict[str, str]:
    """What is wrong with the awaited verbs of `twin`, by name."""
    wrong = {}
    for name in sorted(public_methods(type(agent)) - NOT_AWAITED):
        verb = getattr(twin, name, None)
        if verb is None or not inspect.iscoroutinefunction(verb):
            wrong[name] = "missing" if verb is None else "not awaited"
        elif inspect.signature(verb) != inspect.signature(getattr(agent, name)):
            wrong[name] = f"{inspect.signature(verb)} instead of {inspect.signature(getattr(agent, name))}"
    return wrong


def test_every_verb_is_awaited_with_the_same_parameters(tiny: VisionAgent) -> None:
    assert missing_or_different(tiny, tiny.aio) == {}
    assert public_methods(VisionAgent) >= NOT_AWAITED | {"ask", "extract", "ocr_pages"}
    assert inspect.signature(tiny.aio.chat).parameters == inspect.signature(tiny.chat).parameters
    assert not public_methods(AsyncVisionAgent) - public_methods(VisionAgent)


class _Later(VisionAgent):
    """An agent with a verb that nobody thought of in `aio`."""

    def compare(self, image: Any) -> None: ...


def _other(phrase: str) -> Detections: ...


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda twin: delattr(twin, "extract"), {"extract": "missing"}),
        (lambda twin: setattr(twin, "count", lambda phrase, image: None), {"count": "not awaited"}),
        (lambda twin: setattr(twin, "detect", awaited(_other)), {"detect": "(phrase: str) -> "}),
    ],
)
def test_a_verb_that_is_missing_or_differs_is_noticed(
    tiny: VisionAgent, change: Callable[[AsyncVisionAgent], None], problem: dict[str, str]
) -> None:
    twin = tiny.aio
    change(twin)
    wrong = missing_or_different(tiny, twin)
    assert wrong.keys() == problem.keys()
    assert all(wrong[name].startswith(text) for name, text in problem.items())


def test_a_new_verb_is_noticed(tiny: VisionAgent) -> None:
    later = _Later.__new__(_Later)
    later.__dict__.update(vars(tiny))
    assert missing_or_different(later, later.aio) == {"compare": "missing"}


class Reader:
    """Finds the same line on every page."""

    name = "stub"

    def read(self, image: Image.Image) -> list[Line]:
        return []

    def find(self, image: Image.Image) -> Any:
        raise AssertionError("a page without a text layer is not compared")

    recognise = find


class Receipt(BaseModel):
    total: str | None = None


def test_documents_are_read_and_filled(tiny: VisionAgent, tmp_path: Path) -> None:
    pages = [Image.new("RGB", (200, 100), "white") for _ in range(3)]
    pages[0].save(tmp_path / "scan.tiff", save_all=True, append_images=pages[1:])

    async def work() -> None:
        read = await tiny.aio.ocr_pages(tmp_path / "scan.tiff", engine=Reader())
        numbers = [page.number async for page in read if isinstance(page, Page)]
        assert numbers == [1, 2, 3]
        whole = await tiny.aio.ocr(tmp_path / "scan.tiff", engine=Reader())
        assert len(whole.pages) == 3
        filled = await tiny.aio.extract(whole, Receipt, engine="layout")
        assert filled.value == Receipt() and filled.missing == ["total"]

    asyncio.run(work())
