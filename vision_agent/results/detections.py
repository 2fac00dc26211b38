"""Typed results: frozen, comparable by value, exact through JSON, and able to draw and export themselves.

Boxes are float xyxy in pixels of the upright original image (frame "image" of `vision_agent.geometry.frames`).
"""

import html
from collections.abc import Iterator, Mapping, Sequence
from operator import index
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar, overload

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    PositiveInt,
    model_validator,
)

from vision_agent.errors import ArgumentTypeError, InputError, MissingExtraError, bad_argument
from vision_agent.geometry.frames import box_area, box_clip, box_iou, box_nms, box_to_cxcywh, to_unit
from vision_agent.results import annotate as _draw

if TYPE_CHECKING:
    import supervision

    from vision_agent.images.loading import ImageLimits, ImageSource

_FROZEN = ConfigDict(frozen=True, extra="forbid")

# How many detections a one-line or a notebook view shows before it says how many more there are.
_SHOWN, _SHOWN_ROWS = 5, 50


class Box(BaseModel):
    """A box in pixels of the upright original image; pixel i covers [i, i + 1).

    Attributes:
        x0, y0: left and upper edge.
        x1, y1: right and lower edge, at least `x0` and `y0`.

    Raises:
        pydantic.ValidationError: (a ValueError) a side that is not finite, or a box that is turned inside out.
    """

    model_config = _FROZEN

    x0: FiniteFloat
    y0: FiniteFloat
    x1: FiniteFloat
    y1: FiniteFloat

    @model_validator(mode="after")
    def _right_way_round(self) -> Self:
        if self.x1 < self.x0 or self.y1 < self.y0:
            raise ValueError(f"a box needs x1 >= x0 and y1 >= y0, but got x0, y0, x1, y1 = {self.xyxy}")
        return self

    @classmethod
    def from_xyxy(cls, xyxy: Sequence[float] | npt.NDArray[Any]) -> Self:
        """A box from four numbers, left, upper, right and lower edge. Raises InputError for another count."""
        values = np.asarray(xyxy, dtype=np.float64)
        if values.shape != (4,):
            raise InputError(bad_argument("xyxy", "four numbers", xyxy))
        x0, y0, x1, y1 = values.tolist()
        return cls(x0=x0, y0=y0, x1=x1, y1=y1)

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        """Left, upper, right and lower edge, pixels."""
        return self.x0, self.y0, self.x1, self.y1

    @property
    def xywh(self) -> tuple[float, float, float, float]:
        """Left and upper edge, width and height, pixels (COCO)."""
        return self.x0, self.y0, self.width, self.height

    @property
    def width(self) -> float:
        """Width, pixels."""
        return self.x1 - self.x0

    @property
    def height(self) -> float:
        """Height, pixels."""
        return self.y1 - self.y0

    @property
    def area(self) -> float:
        """Area, squared pixels."""
        return self.width * self.height

    @property
    def center(self) -> tuple[float, float]:
        """x and y of the middle, pixels."""
        return (self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2

    def iou(self, other: "Box") -> float:
        """Intersection over union with another box of the same image, 0..1; 0 where neither has an area."""
        return float(box_iou([self.xyxy], [other.xyxy])[0, 0])


class Detection(BaseModel):
    """One thing found in an image.

    Attributes:
        label: what it is, in the words of the request where there were any.
        score: how sure the model is, 0..1.
        box: where it is, in pixels of the upright original image.
    """

    model_config = _FROZEN

    label: str
    score: Annotated[float, Field(ge=0, le=1)]
    box: Box


_Item = TypeVar("_Item", bound=BaseModel)


def pick(items: tuple[_Item, ...], key: object) -> _Item | tuple[_Item, ...]:
    """One item for an int; those that a slice, ints (k,) or bools (n,) pick, in that order.

    Raises IndexError for an int out of range, InputError for bools of another length than `items`, and
    ArgumentTypeError for anything else.
    """
    if isinstance(key, slice):
        return items[key]
    try:
        return items[index(key)]  # type: ignore[arg-type]  # a TypeError is the question asked here
    except TypeError:
        pass
    keys = np.asarray(key)
    if keys.ndim != 1 or isinstance(key, str) or not (keys.size == 0 or keys.dtype.kind in "biu"):
        raise ArgumentTypeError(bad_argument("index", "an int, a slice, ints or a mask of bools", key))
    if keys.dtype.kind == "b":
        if len(keys) != len(items):
            raise InputError(bad_argument("index", f"a mask of {len(items)} bools", f"{len(keys)} bools"))
        keys = np.flatnonzero(keys)
    return tuple(items[int(row)] for row in keys)


class Detections(BaseModel, Sequence[Detection]):
    """What was found in one image: a sequence of `Detection`, possibly empty.

    Beside an int, the index may be a slice, a list of ints, or a list or numpy array of bools, which give a
    `Detections` of the same image. `dict(...)` of a sequence makes no sense: use `model_dump()`.

    Attributes:
        detections: the things found.
        image_size: (width, height) of the upright original image, pixels.
        model: the model that found them.
        phrases: what was asked for; their order gives the class ids of the exports.
        decoder: name of the decoder that made them, such as "box" or "grounding"; "" where none did.
        kind: always "detections"; tells results apart in JSON.
    """

    model_config = _FROZEN

    kind: Literal["detections"] = "detections"
    detections: tuple[Detection, ...]
    image_size: tuple[PositiveInt, PositiveInt]
    model: str
    phrases: tuple[str, ...] = ()
    decoder: str = ""

    # --- making them

    @classmethod
    def empty(cls, image_size: tuple[int, int], model: str, phrases: Sequence[str] = (), *, decoder: str = "") -> Self:
        """Nothing found in an image of `image_size` (width, height)."""
        return cls(detections=(), image_size=image_size, model=model, phrases=tuple(phrases), decoder=decoder)

    @classmethod
    def from_arrays(
        cls,
        xyxy: npt.ArrayLike,
        scores: npt.ArrayLike,
        labels: Sequence[str],
        *,
        image_size: tuple[int, int],
        model: str,
        phrases: Sequence[str] = (),
        decoder: str = "",
    ) -> Self:
        """From boxes (n, 4), float xyxy in pixels of the upright original, scores (n,) in 0..1 and n labels.

        Raises InputError where shapes do not match, a number is not finite, a box is turned inside out or a score is
        not in 0..1.
        """
        boxes = np.asarray(xyxy, dtype=np.float64)
        if boxes.size == 0 and boxes.ndim == 1:  # an empty list carries no second axis
            boxes = boxes.reshape(0, 4)
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise InputError(bad_argument("xyxy", "boxes of shape (n, 4)", boxes.shape))
        score_of = np.asarray(scores, dtype=np.float64)
        if score_of.shape != (len(boxes),):
            raise InputError(bad_argument("scores", f"of shape ({len(boxes)},), one for each box", score_of.shape))
        if isinstance(labels, str) or len(labels) != len(boxes):
            raise InputError(bad_argument("labels", f"{len(boxes)} strings, one for each box", labels))
        for row in np.flatnonzero(~(np.isfinite(boxes).all(1) & (boxes[:, 2:] >= boxes[:, :2]).all(1))):
            raise InputError(bad_argument(f"xyxy[{row}]", "finite, with x1 >= x0 and y1 >= y0", boxes[row].tolist()))
        for row in np.flatnonzero(~((score_of >= 0) & (score_of <= 1))):
            raise InputError(bad_argument(f"scores[{row}]", "from 0 to 1", float(score_of[row])))
        found = tuple(
            Detection(label=label, score=score, box=Box(x0=x0, y0=y0, x1=x1, y1=y1))
            for (x0, y0, x1, y1), score, label in zip(boxes.tolist(), score_of.tolist(), labels, strict=True)
        )
        return cls(detections=found, image_size=image_size, model=model, phrases=tuple(phrases), decoder=decoder)

    # --- a sequence

    def __len__(self) -> int:
        return len(self.detections)

    # Pydantic iterates over fields; a sequence iterates over its items.
    def __iter__(self) -> Iterator[Detection]:  # type: ignore[override]
        return iter(self.detections)

    @overload
    def __getitem__(self, key: int) -> Detection: ...
    @overload
    def __getitem__(self, key: "slice | Sequence[int] | npt.NDArray[Any]") -> "Detections": ...
    def __getitem__(self, key: "int | slice | Sequence[int] | npt.NDArray[Any]") -> "Detection | Detections":
        """One detection, or those that a slice, ints (k,) or bools (n,) pick, in that order.

        Raises IndexError for an int out of range, InputError for bools of another length than `len(self)`, and
        ArgumentTypeError for anything else.
        """
        picked = pick(self.detections, key)
        return self._with(picked) if isinstance(picked, tuple) else picked

    def _with(self, detections: tuple[Detection, ...]) -> "Detections":
        return self.model_copy(update={"detections": detections})

    # --- views: every array is a fresh copy

    @property
    def xyxy(self) -> npt.NDArray[np.float32]:
        """Boxes float32 (n, 4) as x0, y0, x1, y1 in pixels of the upright original."""
        return self._boxes().astype(np.float32)

    @property
    def scores(self) -> npt.NDArray[np.float32]:
        """Scores float32 (n,) in 0..1."""
        return np.array([found.score for found in self], dtype=np.float32)

    @property
    def labels(self) -> list[str]:
        """The n labels."""
        return [found.label for found in self]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes of the exports, in the order of their ids: the phrases, then any other label."""
        return tuple(dict.fromkeys([*self.phrases, *self.labels]))

    def _boxes(self) -> npt.NDArray[np.float64]:
        return np.array([found.box.xyxy for found in self], dtype=np.float64).reshape(-1, 4)

    def _class_ids(self) -> list[int]:
        number = {name: place for place, name in enumerate(self.class_names)}
        return [number[label] for label in self.labels]

    # --- choosing

    def filter(self, min_score: float = 0.0, label: str | Sequence[str] | None = None) -> "Detections":
        """Those with a score of at least `min_score` and, if given, with this label or one of these."""
        wanted = None if label is None else {label} if isinstance(label, str) else set(label)
        kept = (found for found in self if found.score >= min_score and (wanted is None or found.label in wanted))
        return self._with(tuple(kept))

    def nms(self, iou: float = 0.5, *, class_agnostic: bool = False) -> "Detections":
        """Without those that overlap a better one of the same label (or of any) by more than `iou`; order kept."""
        groups = None if class_agnostic else self._class_ids()
        scores = [found.score for found in self]
        kept = np.sort(box_nms(self._boxes(), scores, iou, groups))
        return self[kept]

    # --- exports

    def to_supervision(self) -> "supervision.Detections":
        """As `supervision.Detections`: pixel xyxy, confidence, class ids as in `class_names`, names in `data`.

        Raises MissingExtraError where supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise MissingExtraError(
                '`to_supervision` needs supervision: pip install "internvl-vision-agent[supervision]"'
            ) from error
        return supervision.Detections(
            xyxy=self.xyxy,
            confidence=self.scores,
            class_id=np.array(self._class_ids(), dtype=np.int64),
            data={"class_name": np.array(self.labels, dtype=np.str_)},
        )

    def to_coco(
        self, image_id: int = 0, category_ids: Mapping[str, int] | None = None, *, file_name: str = ""
    ) -> dict[str, Any]:
        """A complete COCO dataset of this one image, as plain Python for `json.dump` or pycocotools.

        Its "annotations" have ids from 1, "bbox" as x, y, width, height in pixels, and a "score": they are also what
        COCO's `loadRes` wants, there for many images together. `category_ids` gives each label's category id;
        without it they count from 1 in the order of `class_names`.

        Raises InputError where `category_ids` lacks a label.
        """
        ids = category_ids
        if ids is None:
            ids = {name: number for number, name in enumerate(self.class_names, start=1)}
        for label in self.labels:
            if label not in ids:
                raise InputError(bad_argument("category_ids", f"a mapping that has the label {label!r}", dict(ids)))
        return {
            "info": {"description": f"detections of {self.model}"},
            "images": [
                {"id": image_id, "width": self.image_size[0], "height": self.image_size[1], "file_name": file_name}
            ],
            "annotations": [
                {
                    "id": number,
                    "image_id": image_id,
                    "category_id": ids[found.label],
                    "bbox": list(found.box.xywh),
                    "area": found.box.area,
                    "iscrowd": 0,
                    "score": found.score,
                }
                for number, found in enumerate(self, start=1)
            ],
            "categories": [{"id": number, "name": name} for name, number in ids.items()],
        }

    def to_yolo(self, *, include_scores: bool = False) -> str:
        """Lines "class cx cy width height", each 0..1 of the image, six decimals; "" where nothing was found.

        Classes are numbers as in `class_names`. Boxes are cut to the image, since YOLO's loaders refuse images
        with labels that reach over the edge; one with no area inside is left out. `include_scores` adds the score.
        """
        inside = box_clip(self._boxes(), self.image_size)
        rows = box_to_cxcywh(to_unit(inside, self.image_size)).tolist()
        lines = []
        for number, area, row, found in zip(self._class_ids(), box_area(inside).tolist(), rows, self, strict=True):
            if area > 0:
                values = [*row, found.score] if include_scores else row
                lines.append(" ".join([str(number), *(f"{value:.6f}" for value in values)]))
        return "\n".join(lines)

    def draw(
        self,
        image: "ImageSource",
        *,
        labels: bool = True,
        scores: bool = True,
        colors: Mapping[str, tuple[int, int, int]] | None = None,
        line_width: int | None = None,
        font_size: int | None = None,
        limits: "ImageLimits | None" = None,
    ) -> Image.Image:
        """The image with boxes and tags, as a new RGB image; `image` itself stays as it is.

        Each label has a colour of its own, the same in every image; `colors` sets (red, green, blue), 0..255, for
        some of them. Line width and font size, in pixels, follow the size of the image unless given. An image too
        small for tags gets boxes alone. For text outside ASCII a font of this machine is taken where there is one.

        Args:
            image: the image that was searched: anything `vision_agent.images.loading.load_image` takes.
            labels, scores: what the tags say; neither, and there are no tags.
            colors: label to colour.
            line_width, font_size: pixels, at least 1.
            limits: what `load_image` accepts; its own defaults if None.

        Raises:
            InputError: the image is not of `image_size`, a width or size is below 1, or it cannot be read.
            ArgumentTypeError: `image` is no image.
        """
        from vision_agent.images.loading import ImageLimits, load_image

        for name, value in (("line_width", line_width), ("font_size", font_size)):
            if value is not None and value < 1:
                raise InputError(bad_argument(name, "at least 1", value))
        canvas = load_image(image, limits=ImageLimits() if limits is None else limits)
        if canvas.size != self.image_size:
            expected = "the picture of these detections, {} x {} pixels when upright".format(*self.image_size)
            raise InputError(bad_argument("image", expected, canvas.size))
        palette = {**_draw.label_colors(self.class_names), **(colors or {})}
        best_first = sorted(self, key=lambda found: -found.score)
        _draw.draw_boxes(
            canvas,
            np.array([found.box.xyxy for found in best_first]).reshape(-1, 4),
            [(found.label if labels else "", f"{found.score:.2f}" if scores else "") for found in best_first],
            [palette[found.label] for found in best_first],
            line_width=line_width,
            font_size=font_size,
        )
        return canvas

    # --- looking at them

    def __repr__(self) -> str:
        found = [f"{_shown(each.label)} {each.score:.2f}" for each in self.detections[:_SHOWN]]
        if len(self) > _SHOWN:
            found.append(f"{len(self) - _SHOWN} more")
        size = "{}x{}".format(*self.image_size)
        return f"{type(self).__name__}({len(self)} on {size}{': ' if found else ''}{', '.join(found)})"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        """The table that notebooks show."""
        rows = [
            f"<tr><td>{html.escape(_shown(each.label, 80))}</td><td>{each.score:.2f}</td>"
            f"<td>{', '.join(f'{side:.1f}' for side in each.box.xyxy)}</td></tr>"
            for each in self.detections[:_SHOWN_ROWS]
        ]
        more = f"<p>{len(self) - _SHOWN_ROWS} more</p>" if len(self) > _SHOWN_ROWS else ""
        head = "<tr><th>label</th><th>score</th><th>x0, y0, x1, y1</th></tr>"
        title = html.escape(f"{len(self)} on {self.image_size[0]}x{self.image_size[1]}, {self.model}")
        return f"<table><caption>{title}</caption>{head}{''.join(rows)}</table>{more}"


def _shown(text: str, longest: int = 40) -> str:
    """A label on one line, shortened."""
    line = " ".join(text.split())
    return line if len(line) <= longest else line[: longest - 1] + "…"
