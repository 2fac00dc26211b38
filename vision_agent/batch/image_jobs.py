"""What is asked about each image of a run: a verb of `VisionAgent` with its request and settings."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from PIL import Image
from pydantic import BaseModel

from vision_agent._distribution import DISTRIBUTION
from vision_agent.batch.attempts import check_count
from vision_agent.batch.engine_source import EngineSource
from vision_agent.batch.image_workers import Asked, image_workers
from vision_agent.batch.jobs import Work
from vision_agent.batch.lists import read_item
from vision_agent.batch.load_agent import load_agent
from vision_agent.batch.records import Record, head_of
from vision_agent.embedding.class_labels import check_labels, check_templates
from vision_agent.errors import InputError, bad_argument
from vision_agent.images.loading import ImageLimits, load_image
from vision_agent.inference.detail import Detail
from vision_agent.inference.find_options import FindOptions
from vision_agent.inference.tile_layout import Tiles
from vision_agent.results.box import Box
from vision_agent.results.segmentation import Mask
from vision_agent.validation import check_length, check_phrase, check_phrases, check_request, check_switch

if TYPE_CHECKING:
    from vision_agent.agent import VisionAgent

Verb = Literal["detect", "segment", "count", "point", "ask", "caption", "run", "classify", "embed", "edit"]
_VERIFIED = ("detect", "run")
SEED = 0  # of new images: a run that is resumed ends with the same ones


class ImageVector(BaseModel):
    """The vector of an image, in a record of `embed`.

    Attributes:
        vector: of length one.
        model: what embedded it.
    """

    vector: tuple[float, ...]
    model: str


@dataclass(frozen=True)
class ImageJob:
    """Ask the same about each image. A record has the `result` as JSON and, where words answer, its `text`.

    In tables there is a row for each object, of `classify` for each label, of others one for each image; an image
    without objects has one row. Of `embed` a result has the `vector`, of `edit` the new image as a PNG.

    Attributes:
        verb: a verb of `VisionAgent`.
        request: the phrases or labels (a semicolon separates them), the question, the request, or the length of a
            caption; nothing for `embed`.
        threshold, only_known, tiles, detail: as for `VisionAgent.detect`.
        verify: as for `VisionAgent.detect` and `VisionAgent.run`; no other verb has it.
        templates: as for `VisionAgent.classify`; nothing for none.
        model, adapters, embedder, device, dtype: as for `VisionAgent.from_pretrained`; None for the default model.
        engine: where the model runs, if not here. `model` is its name there then, and `adapters` are those whose
            routes it is asked the states of; nothing of the three others is named.
        threads: of the CPU that a worker computes with. Last digits depend on them, so they are the same in every
            executor.
        allow_urls: whether lists may name https addresses.
    """

    verb: Verb
    request: str = ""
    threshold: float | None = None
    only_known: bool = True
    tiles: Tiles = None
    detail: Detail | None = None
    model: str | None = None
    adapters: tuple[str, ...] = ()
    device: str = "auto"
    dtype: str = "auto"
    embedder: str | None = None
    templates: tuple[str, ...] = ()
    threads: int = 1
    allow_urls: bool = False
    engine: EngineSource | None = None
    verify: bool = False

    def __post_init__(self) -> None:
        if self.verb not in get_args(Verb):
            raise InputError(bad_argument("verb", f"one of {list(get_args(Verb))}", self.verb))
        for name, usual in (("device", "auto"), ("dtype", "auto"), ("embedder", None)):
            if self.engine is not None and getattr(self, name) != usual:
                raise InputError(bad_argument(name, "left out: the model runs in a remote engine", getattr(self, name)))
        FindOptions.of(self.threshold, self.only_known, self.tiles, self.detail)
        check_switch("verify", self.verify)
        if self.verify and self.verb not in _VERIFIED:
            raise InputError(bad_argument("verify", f"False for {self.verb}: {' and '.join(_VERIFIED)} have it", True))
        if self.verb == "ask":
            check_request("question", self.request, None)
        elif self.verb == "caption":
            check_length(self.request)
        elif self.verb == "count":
            check_phrase(self.request, None)
        elif self.verb == "classify":
            check_labels(self.labels)
            check_templates(self.templates or None)
        elif self.verb in ("run", "edit"):
            check_request("request" if self.verb == "run" else "prompt", self.request, None)
        elif self.verb == "embed":
            if self.request:
                raise InputError(bad_argument("request", "nothing for embed", self.request))
        else:
            check_phrases(self.request, None)
        check_count("threads", self.threads)

    @property
    def labels(self) -> list[str]:
        """What `classify` chooses from."""
        return [label.strip() for label in self.request.split(";") if label.strip()]

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
            # Where an engine is does not matter: a run may go on at another address.
            **({"tokenizer": self.engine.tokenizer} if self.engine is not None else {}),
            **({"verify": True} if self.verify else {}),
            **({"embedder": self.embedder} if self.embedder is not None else {}),
            **({"templates": list(self.templates)} if self.templates else {}),
        }

    def start(self, threads: int) -> Work:
        """Load the model in a worker. It looks at one image at a time, so that no result depends on another image."""
        import torch

        torch.set_num_threads(self.threads)
        agent = self._load()

        def work(file: str) -> Record:
            source = read_item(file)
            agent.clear_cache()
            if self.verb == "ask" and isinstance(source, Path) and source.suffix.lower() == ".pdf":
                return content_of(agent.ask(self.request, source))
            (result,) = self._ask(agent, [load_image(source, limits=self.limits)])
            return content_of(result)

        return work

    @property
    def limits(self) -> ImageLimits:
        """What images are accepted."""
        return ImageLimits(allow_urls=self.allow_urls)

    def loaded(self, total: int) -> AbstractContextManager[Asked]:
        """Load the model, for a run over `total` images, and give what asks it about several of them."""
        return image_workers(self._load, self._ask, total)

    def _load(self) -> "VisionAgent":
        if self.engine is not None:
            return self.engine.load(self.model, self.adapters)
        return load_agent(self.model, self.adapters, self.device, self.dtype, embedder=self.embedder)

    def _ask(self, agent: "VisionAgent", images: list[Image.Image]) -> Sequence[BaseModel]:
        if self.verb == "ask":
            return agent.ask([self.request] * len(images), images)
        if self.verb == "caption":
            length: Any = self.request
            return agent.caption(images, length=length)
        if self.verb == "run":
            return [agent.run(self.request, image, verify=self.verify) for image in images]
        if self.verb == "edit":
            return [agent.edit(self.request, image, seed=SEED) for image in images]
        if self.verb == "classify":
            return agent.classify(images, self.labels, templates=self.templates or None)
        if self.verb == "embed":
            name = agent.embedder.name
            return [ImageVector(vector=tuple(map(float, row)), model=name) for row in agent.embed(images)]
        find: Any = getattr(agent, self.verb)
        settings = {"threshold": self.threshold, "only_known": self.only_known, "tiles": self.tiles}
        settings |= {"verify": True} if self.verify else {}
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
        if self.verb == "run":
            return [head | {"text": record["text"]}]
        if self.verb == "embed":
            return [head | {"vector": result["vector"]}]
        if self.verb == "edit":
            return [head | {"image": result["png"]}]
        if self.verb == "classify":
            none = result["none_of_these"]
            return [head | {"label": each["label"], "score": each["score"], "none": none} for each in result["scores"]]
        if self.verb == "count":
            return [head | {"phrase": result["phrase"], "count": result["count"]}]
        width, height = result["image_size"]
        head |= {"width": width, "height": height}
        objects = result[{"detect": "detections", "segment": "segments", "point": "points"}[self.verb]]
        return [head | _cells(each) for each in objects] or [head]


def record_of(file: str, result: BaseModel) -> Record:
    """Return the record of an image: its result as plain JSON, and the words of an answer."""
    return {"file": file, "error": None, **content_of(result)}


def content_of(result: BaseModel) -> Record:
    """Return what a record says of a result: it as plain JSON, before that its words where it has any."""
    return content_of_json(result.model_dump(mode="json"))


def content_of_json(result: dict[str, Any]) -> Record:
    """Return the same of a result that is plain JSON already."""
    for step in result["steps"] if result.get("kind") == "agent_result" else ():
        step["seconds"] = 0.0  # all that would differ from run to run
    return {**({"text": result["text"]} if "text" in result else {}), "result": result}


def _cells(found: Mapping[str, Any]) -> dict[str, Any]:
    """An object's label, score and place; of a mask its run lengths and its area in pixels."""
    cells = {"label": found["label"], "score": found["score"]}
    if "x" in found:
        return cells | {"x": found["x"], "y": found["y"]}
    cells |= dict(zip(("x0", "y0", "x1", "y1"), Box.model_validate(found["box"]).xyxy, strict=True))
    if "mask" in found:
        cells |= {"area": Mask.model_validate(found["mask"]).area, "mask": found["mask"]["counts"]}
    return cells
