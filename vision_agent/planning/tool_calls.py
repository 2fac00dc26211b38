"""Calls of tools for a plan, each noted as a step: at most so many, and none twice for the same closer look."""

import time
from collections.abc import Mapping
from typing import Any, Protocol

from vision_agent.errors import ToolError
from vision_agent.images.store import ImageStore
from vision_agent.planning.objects import XYXY, Thing, phrases_of, room_around, things_of
from vision_agent.planning.result import AgentStep
from vision_agent.planning.summary import summary
from vision_agent.plugins.tool import Tool, ToolResult


class Caller(Protocol):
    """The tools of a session, as `vision_agent.toolkits` offers them."""

    @property
    def tools(self) -> dict[str, Tool]: ...

    def call(self, name: str, arguments: Mapping[str, Any]) -> ToolResult: ...


class StoppedError(Exception):
    """A plan cannot go on; the message says why."""


class Calls:
    """The calls of one plan.

    Args:
        toolkit: the tools.
        store: the session's images.
        max_steps: most calls.

    Attributes:
        steps: what was called so far.
        planned: number, from 0, of the plan's step that calls belong to now.
    """

    def __init__(self, toolkit: Caller, store: ImageStore, max_steps: int) -> None:
        self.steps: list[AgentStep] = []
        self.planned = 0
        self._toolkit = toolkit
        self._store = store
        self._max_steps = max_steps
        self._looks: dict[tuple[str, XYXY], str] = {}

    def call(self, tool: str, arguments: dict[str, Any]) -> ToolResult:
        """What a tool gives. Raises StoppedError where it refuses, or no call is left."""
        self.need_room()
        began = time.perf_counter()
        try:
            made = self._toolkit.call(tool, arguments)
        except ToolError as error:
            self.note(began, tool=tool, arguments=arguments, error=str(error))
            raise StoppedError(str(error)) from error
        self.note(
            began,
            tool=tool,
            arguments=arguments,
            text=summary(made),
            content=made.content,
            result=made.artifact,
            images=made.images,
        )
        return made

    def note(self, began: float, **fields: Any) -> None:
        """Add a step that began at that time of `time.perf_counter`; `fields` are those of `AgentStep`."""
        self.steps.append(AgentStep(**fields, seconds=time.perf_counter() - began, planned=self.planned))

    def need_room(self) -> None:
        """Raise StoppedError where no call is left."""
        if len(self.steps) >= self._max_steps:
            raise StoppedError(
                f"it would take more than `max_steps`={self._max_steps} calls; what was done is in `steps`"
            )

    def find(self, image: str, phrase: str) -> list[Thing]:
        """Things of an image, best first."""
        found = self.call("detect", {"image": image, "phrases": phrases_of(phrase)}).artifact
        return sorted(things_of(found, image), key=lambda thing: -thing.score)

    def count(self, image: str, phrase: str) -> list[Thing]:
        """Things of an image that are sure enough to be counted."""
        counted = [self.call("count", {"image": image, "phrase": each}).artifact for each in phrases_of(phrase)]
        return [thing for each in counted for thing in things_of(each.evidence, image)]

    def outline(self, image: str, phrase: str) -> list[tuple[Thing, str]]:
        """Outlined things of an image, each with the id of its mask."""
        made = self.call("segment", {"image": image, "phrases": phrases_of(phrase), "make": "masks"})
        return [
            (Thing(image, item["label"], tuple(item["box"]), item["score"]), item["image"])
            for item in made.content["items"]
        ]

    def look(self, thing: Thing) -> str:
        """The id of a closer look at a thing; a whole image's own."""
        if thing.box is None:
            return thing.image
        key = thing.image, thing.box
        if key not in self._looks:
            box = room_around(thing.box, self._store.get(thing.image).size, self._store.limits.min_side)
            self._looks[key] = self.call("crop", {"image": thing.image, "box": list(box)}).images[0]
        return self._looks[key]
