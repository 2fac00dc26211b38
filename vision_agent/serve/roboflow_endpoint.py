"""What Roboflow's client asks open-vocabulary models for: `/yolo_world/infer` and `/sam3/concept_segment`.

Boxes are given by their centre, in pixels. Whatever model the client names, the one that is served answers.
"""

import time
import uuid
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vision_agent.errors import VisionAgentError
from vision_agent.results.segmentation import Segment
from vision_agent.serve.bodies import read_json
from vision_agent.serve.desk import Desk
from vision_agent.serve.gate import record_of
from vision_agent.serve.options import ServeOptions
from vision_agent.serve.problems import problem_of, wrong
from vision_agent.serve.request_sources import Sources

if TYPE_CHECKING:
    from vision_agent.agent import VisionAgent

Share = Annotated[FiniteFloat, Field(ge=0, le=1)]
Phrase = Annotated[str, Field(min_length=1, max_length=1000)]
BOXES_PATH, MASKS_PATH = "/yolo_world/infer", "/sam3/concept_segment"


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RoboflowImage(_Closed):
    """An image: in base64, or a `data:` address."""

    type: Literal["base64", "url"]
    value: str

    @property
    def address(self) -> str:
        """Where it is."""
        return f"data:;base64,{self.value}" if self.type == "base64" else self.value


class _RoboflowRequest(_Closed):
    image: RoboflowImage | Annotated[list[RoboflowImage], Field(min_length=1)]
    # Notes of the client's own: nothing of an answer depends on them. Keys are read from the headers.
    id: str | None = None
    api_key: str | None = None
    model_id: str | None = None
    source: str | None = None
    source_info: str | None = None

    @property
    def images(self) -> list[RoboflowImage]:
        """The images."""
        return self.image if isinstance(self.image, list) else [self.image]


class RoboflowBoxesRequest(_RoboflowRequest):
    """A request for boxes: what to find, and how sure it must be; by the model's own threshold where it is not said."""

    text: Annotated[list[Phrase], Field(min_length=1, max_length=100)]
    confidence: Share | None = None
    yolo_world_version_id: str | None = None


class RoboflowPrompt(_Closed):
    """What to outline. Examples by boxes cannot be given."""

    type: Literal["text"] = "text"
    text: Phrase
    output_prob_thresh: Share | None = None


class RoboflowMasksRequest(_RoboflowRequest):
    """A request for masks."""

    prompts: Annotated[list[RoboflowPrompt], Field(min_length=1, max_length=100)]
    output_prob_thresh: Share = 0.5
    format: Literal["polygon", "rle"] = "polygon"


class RoboflowEndpoint:
    """Answers Roboflow's client with one agent."""

    def __init__(self, agent: "VisionAgent", options: ServeOptions, desk: Desk, sources: Sources) -> None:
        self._agent = agent
        self._options = options
        self._desk = desk
        self._sources = sources

    async def boxes(self, request: Request) -> Response:
        """Answer `/yolo_world/infer`."""
        return await self._answered(request, await read_json(request, RoboflowBoxesRequest))

    async def masks(self, request: Request) -> Response:
        """Answer `/sam3/concept_segment`."""
        return await self._answered(request, await read_json(request, RoboflowMasksRequest))

    async def _answered(self, request: Request, asked: RoboflowBoxesRequest | RoboflowMasksRequest) -> Response:
        count = len(asked.images)
        if count > self._options.max_images:
            raise wrong("image", f"`image` must be at most {self._options.max_images}, but got {count}")
        record_of(request.scope).numbers["images"] = count
        async with self._desk.turn(request.receive) as turn:
            made = await turn.run(partial(self._done, asked))
        return JSONResponse(made if isinstance(asked.image, list) else made[0])

    def _done(self, asked: RoboflowBoxesRequest | RoboflowMasksRequest) -> list[dict[str, Any]]:
        """A result for each image. Runs in a thread."""
        try:
            images = [self._sources.image(each.address, "image") for each in asked.images]
            if isinstance(asked, RoboflowBoxesRequest):
                return [self._found(asked, image) for image in images]
            return [self._outlined(asked, image) for image in images]
        except VisionAgentError as error:
            names = {"phrase": "text" if isinstance(asked, RoboflowBoxesRequest) else "prompts"}
            raise problem_of(error, names) from error

    def _found(self, asked: RoboflowBoxesRequest, image: Image.Image) -> dict[str, Any]:
        began = time.perf_counter()
        phrases = list(dict.fromkeys(asked.text))
        predictions = []
        for found in self._agent.detect(phrases, image, threshold=asked.confidence):
            x0, y0, x1, y1 = found.box.xyxy
            predictions.append(
                {
                    "x": (x0 + x1) / 2,
                    "y": (y0 + y1) / 2,
                    "width": x1 - x0,
                    "height": y1 - y0,
                    "confidence": found.score,
                    "class": found.label,
                    "class_id": asked.text.index(found.label) if found.label in asked.text else -1,
                    "detection_id": str(uuid.uuid4()),
                }
            )
        size = {"width": image.width, "height": image.height}
        return {"image": size, "predictions": predictions, "time": time.perf_counter() - began}

    def _outlined(self, asked: RoboflowMasksRequest, image: Image.Image) -> dict[str, Any]:
        began = time.perf_counter()
        results = []
        for index, prompt in enumerate(asked.prompts):
            least = asked.output_prob_thresh if prompt.output_prob_thresh is None else prompt.output_prob_thresh
            segments = self._agent.segment(prompt.text, image, threshold=least)
            echo = {"prompt_index": index, "type": prompt.type, "text": prompt.text, "num_boxes": 0}
            predictions = [_prediction(segment, asked.format) for segment in segments]
            results.append({"prompt_index": index, "echo": echo, "predictions": predictions})
        return {"prompt_results": results, "time": time.perf_counter() - began}


def _prediction(segment: Segment, form: Literal["polygon", "rle"]) -> dict[str, Any]:
    mask = segment.mask
    masks: Any = {"size": list(mask.size), "counts": mask.counts}
    if form == "polygon":  # the outer rings: the client's form has none for holes
        masks = [[[round(x), round(y)] for x, y in part[0].tolist()] for part in mask.polygons()]
    return {"masks": masks, "confidence": segment.score, "format": form}
