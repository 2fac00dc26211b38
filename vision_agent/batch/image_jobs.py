"""What is asked about each image of a run: a verb of `VisionAgent` with its request and settings."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal, get_args

from PIL import Image
from pydantic import BaseModel

from vision_agent._distribution import DISTRIBUTION
from vision_agent.batch.image_workers import Asked, image_workers
from vision_agent.batch.load_agent import load_agent
from vision_agent.batch.records import Record, head_of
from vision_agent.errors import InputError, bad_argument
from vision_agent.inference.detail import Detail
from vision_agent.inference.find_options import FindOptions
from vision_agent.inference.tile_layout import Tiles
from vision_agent.results.answers import Answer
from vision_agent.results.box import Box
from vision_agent.results.segmentation import Mask
from vision_agent.validation import (
    check_length,
    check_phrase,
    check_phrases,
    check_request,
)

if TYPE_CHECKING:
    from vision_agent.agent import VisionAgent

Verb = Literal["detect", "segment", "count", "point", "ask", "caption"]


@dataclass(frozen=True)
class ImageJob:
    """Ask the same about each image. A record has the `result` as JSON and, of `ask` and `caption`, its `text`.

    In tables there is a row for each object, for `ask`, `caption` and `count` one for each image; an image without
    objects has one row.

    Attributes:
        verb: a verb of `VisionAgent`.
        request: the phrases (a semicolon separates them), the question, or the length of a caption.
        threshold, only_known, tiles, detail: as for `VisionAgent.detect`.
        model, adapters, device, dtype: as for `VisionAgent.from_pretrained`; None for the default model.
    """

    verb: Verb
    request: str
    threshold: float | None = None
    only_known: bool = True
    tiles: Tiles = None
    detail: Detail | None = None
    model: str | None = None
    adapters: tuple[str, ...] = ()
    device: str = "auto"
    dtype: str = "auto"

    def __post_init__(self) -> None:
        if self.verb not in get_args(Verb):
            raise InputError(bad_argument("verb", f"one of {list(get_args(Verb))}", self.verb))
        FindOptions.of(self.threshold, self.only_known, self.tiles, self.detail)
        if self.verb == "ask":
            check_request("question", self.request, None)
        elif self.verb == "caption":
            check_length(self.request)
        elif self.verb == "count":
            check_phrase(self.request, None)
        else:
            check_phrases(self.request, None)

    def settings(self) -> dict[str, Any]:
        """Return all that decides what records say, as plain JSON."""
        return {
            "job": self.verb,
            "version": version(DISTRIBUTION),
            "request": self.request,
            "threshold": self.threshold,
            "only_known": self.only_known,
            "tiles": self.tiles,
            "detail": self.detail,
            "model": self.model,
            "adapters": list(self.adapters),
            "dtype": self.dtype,
        }

    def start(self, total: int) -> AbstractContextManager[Asked]:
        """Load the model, for a run over `total` images, and give what asks it about several of them."""
        return image_workers(lambda: load_agent(self.model, self.adapters, self.device, self.dtype), self._ask, total)

    def _ask(self, agent: "VisionAgent", images: list[Image.Image]) -> Sequence[BaseModel]:
        if self.verb == "ask":
            return agent.ask([self.request] * len(images), images)
        if self.verb == "caption":
            length: Any = self.request
            return agent.caption(images, length=length)
        find: Any = getattr(agent, self.verb)
        settings = {"threshold": self.threshold, "only_known": self.only_known, "tiles": self.tiles}
        found: Sequence[BaseModel] = find(self.request, images, **settings, detail=self.detail)
        return found

    def rows(self, record: Record) -> Iterable[Mapping[str, Any]]:
        """Return a record as the rows of a table."""
        head = head_of(record)
        if record["error"] is not None:
            return [head]
        result = record["result"]
        if self.verb in ("ask", "caption"):
            return [head | {"text": record["text"], "confidence": result["confidence"]}]
        if self.verb == "count":
            return [head | {"phrase": result["phrase"], "count": result["count"]}]
        width, height = result["image_size"]
        head |= {"width": width, "height": height}
        objects = result[{"detect": "detections", "segment": "segments", "point": "points"}[self.verb]]
        return [head | _cells(each) for each in objects] or [head]


def record_of(file: str, result: BaseModel) -> Record:
    """Return the record of an image: its result as plain JSON, and the words of an answer."""
    text = {"text": result.text} if isinstance(result, Answer) else {}
    return {"file": file, "error": None, **text, "result": result.model_dump(mode="json")}


def _cells(found: Mapping[str, Any]) -> dict[str, Any]:
    """An object's label, score and place; of a mask its run lengths and its area in pixels."""
    cells = {"label": found["label"], "score": found["score"]}
    if "x" in found:
        return cells | {"x": found["x"], "y": found["y"]}
    cells |= dict(zip(("x0", "y0", "x1", "y1"), Box.model_validate(found["box"]).xyxy, strict=True))
    if "mask" in found:
        cells |= {"area": Mask.model_validate(found["mask"]).area, "mask": found["mask"]["counts"]}
    return cells
