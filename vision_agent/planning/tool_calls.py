"""Calls of tools for a plan, each noted as a step: at most so many, and none twice for the same closer look."""

import time
from collections.abc import Mapping
from typing import Any, Protocol

from vision_agent.errors import ToolError
from vision_agent.images.store import ImageStore
from vision_agent.inference.second_look import LookAgain, SecondLook
from vision_agent.inference.tiled_search import FoundT
from vision_agent.planning.objects import XYXY, ObjectRef, objects_of, phrases_of, with_margin
from vision_agent.planning.result import AgentStep
from vision_agent.planning.summary import call_line
from vision_agent.plugins.tool import Tool, ToolResult
from vision_agent.results.detections import Detections
from vision_agent.results.segmentation import Segmentation


class SessionTools(Protocol):
    """The tools of a session, as the toolkit "plain" of the entry-point group `vision_agent.toolkits` offers them."""

    @property
    def tools(self) -> dict[str, Tool]: ...

    def call(self, name: str, arguments: Mapping[str, Any] | str | None = None) -> ToolResult: ...

    def definitions(self, style: str) -> list[dict[str, Any]]: ...


class StoppedError(Exception):
    """A plan cannot go on; the message says why."""


def verify_step(
    look: SecondLook, image: str | int, kept: Detections | Segmentation, began: float, planned: int | None = None
) -> AgentStep:
    """Return a round of a second look as a step."""
    return AgentStep(
        tool="verify",
        arguments={"image": image, "phrase": look.phrase, "candidates": look.candidates},
        text=look.line,
        content=look.model_dump(mode="json"),
        result=kept.filter(label=look.phrase),
        seconds=time.perf_counter() - began,
        planned=planned,
    )


class ToolCalls:
    """The calls of one plan.

    Args:
        toolkit: the tools.
        store: the session's images.
        max_steps: most calls.
        again: looks again at boxes that were found; None for once is enough.

    Attributes:
        steps: what was called so far.
        planned: number, from 0, of the plan's step that calls belong to now.
    """

    def __init__(
        self, toolkit: SessionTools, store: ImageStore, max_steps: int, again: LookAgain | None = None
    ) -> None:
        self._again = again
        self.steps: list[AgentStep] = []
        self.planned = 0
        self._toolkit = toolkit
        self._store = store
        self._max_steps = max_steps
        self._looks: dict[tuple[str, XYXY], str] = {}

    def call(self, tool: str, arguments: dict[str, Any]) -> ToolResult:
        """Call a tool. Raises StoppedError where it refuses, or no call is left."""
        self.check_calls_left()
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
            text=call_line(made),
            content=made.content,
            result=made.artifact,
            images=made.images,
        )
        return made

    def note(self, began: float, **fields: Any) -> None:
        """Add a step that began at that time of `time.perf_counter`; `fields` are those of `AgentStep`."""
        self.steps.append(AgentStep(**fields, seconds=time.perf_counter() - began, planned=self.planned))

    def check_calls_left(self) -> None:
        """Raise StoppedError where no call is left."""
        if len(self.steps) >= self._max_steps:
            raise StoppedError(
                f"it would take more than `max_steps`={self._max_steps} calls; what was done is in `steps`"
            )

    def find(self, image: str, phrase: str) -> list[ObjectRef]:
        """Detect objects in an image, best first."""
        found: Detections = self.call("detect", {"image": image, "phrases": phrases_of(phrase)}).artifact
        return sorted(objects_of(self._verified(image, found), image), key=lambda obj: -obj.score)

    def count(self, image: str, phrase: str) -> list[ObjectRef]:
        """Detect those objects of an image that are sure enough to be counted."""
        counted = [self.call("count", {"image": image, "phrase": each}).artifact for each in phrases_of(phrase)]
        return [obj for each in counted for obj in objects_of(self._verified(image, each.evidence), image)]

    def _verified(self, image: str, found: FoundT) -> FoundT:
        """What stays of the boxes in an image after a second look, whose rounds become steps."""
        if self._again is None:
            return found
        began = time.perf_counter()
        kept, rounds = self._again(self._store.get(image).image, found)
        self.steps += [verify_step(each, image, kept, began, self.planned) for each in rounds]
        return kept

    def outline(self, image: str, phrase: str) -> list[tuple[ObjectRef, str]]:
        """Segment objects of an image, each with the id of its mask."""
        made = self.call("segment", {"image": image, "phrases": phrases_of(phrase), "make": "masks"})
        found: Segmentation = made.artifact
        kept = {tuple(round(side, 1) for side in each.box.xyxy) for each in self._verified(image, found)}
        return [
            (ObjectRef(image, item["label"], tuple(item["box"]), item["score"]), item["image"])
            for item in made.content["items"]
            if self._again is None or tuple(item["box"]) in kept
        ]

    def look(self, obj: ObjectRef) -> str:
        """Crop an object and return the id of the new image; a whole image keeps its own."""
        if obj.box is None:
            return obj.image
        key = obj.image, obj.box
        if key not in self._looks:
            box = with_margin(obj.box, self._store.get(obj.image).size, self._store.limits.min_side)
            self._looks[key] = self.call("crop", {"image": obj.image, "box": list(box)}).images[0]
        return self._looks[key]
