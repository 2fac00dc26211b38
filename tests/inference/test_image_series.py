"""Lists and iterators of images, for every verb: results equal single calls, and images are read as asked for."""

import asyncio
import io
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import PHOTOS
from PIL import Image

from vision_agent import ArgumentTypeError, Count, ImageError, InputError, VisionAgent, load_image
from vision_agent.documents.result import Line
from vision_agent.inference.image_series import AT_ONCE

DOG, BOAT = PHOTOS / "000000139872.jpg", PHOTOS / "000000190140.jpg"
VERBS: dict[str, Callable[[VisionAgent, Any], Any]] = {
    "detect": lambda agent, image: agent.detect(["dog", "person"], image),
    "segment": lambda agent, image: agent.segment("dog", image),
    "point": lambda agent, image: agent.point("dog", image),
    "count": lambda agent, image: agent.count("dog", image),
    "caption": lambda agent, image: agent.caption(image, length="short"),
}


def towers(agent: VisionAgent, patch: pytest.MonkeyPatch) -> list[int]:
    """How many tiles went through the image tower, each time."""
    tiles: list[int] = []
    see = agent.backbone.see
    patch.setattr(agent.backbone, "see", lambda some: tiles.append(len(some)) or see(some))
    agent.clear_cache()
    return tiles


class Counted:
    """An iterator that knows how far it was read."""

    def __init__(self, items: Iterator[Any]) -> None:
        self._items = items
        self.read_so_far = 0

    def __iter__(self) -> "Counted":
        return self

    def __next__(self) -> Any:
        item = next(self._items)
        self.read_so_far += 1
        return item


@pytest.mark.parametrize("verb", VERBS)
def test_several_images_give_what_each_gives(agent: VisionAgent, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call = VERBS[verb]
    several = [DOG, Image.open(BOAT).convert("L").resize((200, 320)), DOG.read_bytes()]
    seen = towers(agent, monkeypatch)
    listed = call(agent, several)
    assert seen == [2]  # two of the three are one photo, in two forms
    agent.clear_cache()
    assert isinstance(listed, list) and listed == [call(agent, image) for image in several]
    iterated = call(agent, (image for image in several))
    assert isinstance(iterated, Iterator) and list(iterated) == listed
    assert call(agent, tuple(several[:1])) == call(agent, deque(several[:1])) == listed[:1]


def test_a_question_about_each_of_an_iterator(agent: VisionAgent) -> None:
    answers = agent.ask("is there a dog?", iter([DOG, BOAT]))
    assert not isinstance(answers, list) and [each.text for each in answers] == ["yes", "yes"]
    alone = [agent.ask("is there a dog?", photo) for photo in (DOG, BOAT)]
    assert list(agent.ask("is there a dog?", iter([DOG, BOAT]))) == alone
    asked = agent.ask(["is there a dog?", "is there a zebra?"], iter([DOG, BOAT]))
    assert [each.text[:3].strip(",") for each in asked] == ["yes", "no"]
    with pytest.raises(InputError, match="2 images"):
        agent.ask(["is there a dog?", "is there a zebra?"], repeat(DOG))
    with pytest.raises(InputError, match="`stream`"):
        agent.ask("is there a dog?", iter([DOG]), stream=True)


def test_an_iterator_without_end_is_read_in_groups(agent: VisionAgent) -> None:
    small = load_image(DOG).resize((64, 64))
    photos = Counted(repeat(small))
    counts = agent.count("dog", photos)
    assert photos.read_so_far == 0
    first = list(islice(counts, 2))
    assert all(isinstance(each, Count) for each in first) and photos.read_so_far == AT_ONCE
    list(islice(counts, AT_ONCE))
    assert photos.read_so_far == 2 * AT_ONCE
    assert list(agent.detect("dog", iter([]))) == []


def test_the_tower_sees_groups(agent: VisionAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = towers(agent, monkeypatch)
    found = agent.detect("dog", [np.full((40, 40, 3), shade, np.uint8) for shade in range(AT_ONCE + 2)])
    assert seen == [AT_ONCE // 2, AT_ONCE // 2, 2] and [each.image_size for each in found] == [(40, 40)] * (AT_ONCE + 2)


@pytest.mark.parametrize("verb", VERBS)
def test_a_bad_image_is_named_by_its_index(agent: VisionAgent, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call = VERBS[verb]
    seen = towers(agent, monkeypatch)
    for bad, error in (("nothing.jpg", ImageError), (None, ArgumentTypeError), ([DOG], ArgumentTypeError)):
        with pytest.raises(error, match=r"^`image\[9\]`"):
            call(agent, [*[DOG] * 9, bad])
    assert seen == []  # before any work
    results = call(agent, iter([DOG, b"no image", DOG]))
    assert next(results) == call(agent, DOG)
    with pytest.raises(ImageError, match=r"^`image\[1\]`"):
        next(results)
    assert list(results) == []


@pytest.mark.parametrize("verb", VERBS)
def test_what_is_no_series(agent: VisionAgent, verb: str) -> None:
    call = VERBS[verb]
    for wrong in ({DOG, BOAT}, {"a": DOG}):
        with pytest.raises(ArgumentTypeError, match="a list of images or an iterator"):
            call(agent, wrong)
    with pytest.raises(InputError, match="at least one image"):
        call(agent, [])
    assert call(agent, io.BytesIO(DOG.read_bytes())) == call(agent, DOG)  # a file is an iterator, too


def test_boxes_belong_to_one_image(agent: VisionAgent) -> None:
    with pytest.raises(InputError, match="one image"):
        agent.segment(None, [DOG], boxes=[[10, 10, 200, 200]])


def test_awaited_iterators_are_async(agent: VisionAgent) -> None:
    async def work() -> list[Any]:
        found = [each async for each in await agent.aio.detect("dog", iter([DOG, BOAT]))]
        listed = await agent.aio.detect("dog", [DOG, BOAT])
        assert listed == found
        captions = await agent.aio.caption([DOG], length="short")
        assert [each.text for each in captions] == [agent.caption(DOG, length="short").text]
        return found

    assert asyncio.run(work()) == agent.detect("dog", [DOG, BOAT])


class Reader:
    """Finds a line on every page."""

    name = "stub"

    def read(self, image: Image.Image) -> list[Line]:
        return []

    def find(self, image: Image.Image) -> Any:
        raise AssertionError("a page without a text layer is not compared")

    recognise = find


def test_documents_of_an_iterator(agent: VisionAgent, tmp_path: Path) -> None:
    pages = [Image.new("RGB", (200, 100), "white") for _ in range(2)]
    pages[0].save(tmp_path / "scan.tiff", save_all=True, append_images=pages[1:])
    sources = Counted(iter([tmp_path / "scan.tiff", pages[0], tmp_path / "none.png", pages[0]]))
    read = agent.ocr(sources, engine=Reader())
    assert sources.read_so_far == 0 and len(next(read).pages) == 2
    assert sources.read_so_far == 1 and len(next(read).pages) == 1
    with pytest.raises(InputError, match=r"`source\[2\]`"):
        next(read)


@pytest.mark.parametrize(
    ("phrase", "asked"),
    [
        ({"frisbee", "dog"}, ("dog", "frisbee")),
        ((name for name in ("frisbee", "dog")), ("frisbee", "dog")),
        (np.array(["frisbee", "dog"]), ("frisbee", "dog")),
        ({"dog": 1}.keys(), ("dog",)),
        ("red\n frisbee\n", ("red frisbee",)),
    ],
)
def test_phrases_of_any_collection(agent: VisionAgent, phrase: Any, asked: tuple[str, ...]) -> None:
    assert agent.detect(phrase, DOG).phrases == asked


@pytest.mark.parametrize("phrase", [set(), iter([]), repeat("dog"), ["dog"] * 1001])
def test_none_and_too_many_phrases(agent: VisionAgent, phrase: Any) -> None:
    with pytest.raises(InputError, match="at least one phrase and at most 1000"):
        agent.detect(phrase, DOG)


@pytest.mark.parametrize("phrase", [{"dog": 1}, b"dog", iter([1]), {1}])
def test_what_is_no_phrase(agent: VisionAgent, phrase: Any) -> None:
    with pytest.raises(ArgumentTypeError, match="a string or a list of strings"):
        agent.detect(phrase, DOG)


def test_an_agent_says_what_it_is(agent: VisionAgent) -> None:
    said = repr(agent)
    assert agent.model in said and "cpu" in said and all(each.spec.token in said for each in agent.routes.values())
