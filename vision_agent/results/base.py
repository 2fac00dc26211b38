"""What results of several items have in common: they are sequences, they draw and they export."""

import html
from collections.abc import Iterator, Mapping, Sequence
from operator import index
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, Self, TypeVar, overload

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import BaseModel

from vision_agent.errors import ArgumentTypeError, InputError, MissingExtraError, bad_argument
from vision_agent.results.annotate import draw_boxes, label_colors
from vision_agent.results.box import FROZEN, Box

if TYPE_CHECKING:
    import supervision

    from vision_agent.images.loading import ImageLimits, ImageSource

# How many items a one-line or a notebook view shows before it says how many more there are.
_SHOWN, _SHOWN_ROWS = 5, 50


class FoundObject(Protocol):
    """What `FoundObjects` is a sequence of: `Detection` and `Segment`."""

    @property
    def label(self) -> str:
        """What it is."""

    @property
    def score(self) -> float:
        """How sure the model is, 0..1."""

    @property
    def box(self) -> Box:
        """Where it is."""


Item = TypeVar("Item")
Found = TypeVar("Found", bound=FoundObject)


class ResultSequence(BaseModel, Sequence[Item], Generic[Item]):
    """A frozen result that is a sequence of its items.

    Beside an int, the index may be a slice, a list of ints, or a list or numpy array of bools, which give a result of
    the same class. `dict(...)` of a sequence makes no sense: use `model_dump()`.

    Subclasses declare all fields, so that their order in JSON is their own; `_field` is the name of the one with the
    items.
    """

    model_config = FROZEN

    _field: ClassVar[str]

    @property
    def _items(self) -> tuple[Item, ...]:
        items: tuple[Item, ...] = getattr(self, self._field)
        return items

    def _with(self, items: tuple[Item, ...]) -> Self:
        return self.model_copy(update={self._field: items})

    def __len__(self) -> int:
        return len(self._items)

    # Pydantic iterates over fields; a sequence iterates over its items.
    def __iter__(self) -> Iterator[Item]:  # type: ignore[override]
        return iter(self._items)

    @overload
    def __getitem__(self, key: int) -> Item: ...
    @overload
    def __getitem__(self, key: "slice | Sequence[int] | npt.NDArray[Any]") -> Self: ...
    def __getitem__(self, key: "int | slice | Sequence[int] | npt.NDArray[Any]") -> "Item | Self":
        """Return one item, or those that a slice, ints (k,) or bools (n,) pick, in that order.

        Raises IndexError for an int out of range, InputError for bools of another length than `len(self)`, and
        ArgumentTypeError for anything else.
        """
        items = self._items
        if isinstance(key, slice):
            return self._with(items[key])
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
        return self._with(tuple(items[int(row)] for row in keys))


class FoundObjects(ResultSequence[Found], Generic[Found]):
    """What was found in one image: a sequence of objects with a label, a score and a box, possibly empty."""

    if TYPE_CHECKING:  # fields of every subclass

        @property
        def image_size(self) -> tuple[int, int]: ...
        @property
        def model(self) -> str: ...
        @property
        def phrases(self) -> tuple[str, ...]: ...
        @property
        def tiles(self) -> int: ...

    @classmethod
    def empty(cls, image_size: tuple[int, int], model: str, phrases: Sequence[str] = (), *, decoder: str = "") -> Self:
        """Return a result with nothing in it, for an image of `image_size` (width, height)."""
        fields = {"image_size": image_size, "model": model, "phrases": tuple(phrases), "decoder": decoder}
        return cls.model_validate({cls._field: (), **fields})

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

    def filter(self, min_score: float = 0.0, label: str | Sequence[str] | None = None) -> Self:
        """Return those with a score of at least `min_score` and, if given, with this label or one of these."""
        wanted = None if label is None else {label} if isinstance(label, str) else set(label)
        kept = (found for found in self if found.score >= min_score and (wanted is None or found.label in wanted))
        return self._with(tuple(kept))

    # --- exports

    def to_supervision(self) -> "supervision.Detections":
        """Convert to `supervision.Detections`: pixel xyxy, confidence, class ids as in `class_names`, names in `data`.

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
        """Return a complete COCO dataset of this one image, as plain Python for `json.dump` or pycocotools.

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
            "info": {"description": f"{self._field} of {self.model}"},
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
        """Draw boxes and tags on a copy of the image, RGB.

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
        for name, value in (("line_width", line_width), ("font_size", font_size)):
            if value is not None and value < 1:
                raise InputError(bad_argument(name, "at least 1", value))
        canvas = self._load(image, limits)
        palette = {**label_colors(self.class_names), **(colors or {})}
        best_first = sorted(self, key=lambda found: -found.score)
        draw_boxes(
            canvas,
            np.array([found.box.xyxy for found in best_first]).reshape(-1, 4),
            [(found.label if labels else "", f"{found.score:.2f}" if scores else "") for found in best_first],
            [palette[found.label] for found in best_first],
            line_width=line_width,
            font_size=font_size,
        )
        return canvas

    def _load(self, image: "ImageSource", limits: "ImageLimits | None") -> Image.Image:
        """Load the image that the objects were found in."""
        from vision_agent.images.loading import ImageLimits, load_image

        loaded = load_image(image, limits=ImageLimits() if limits is None else limits)
        if loaded.size != self.image_size:
            width, height = self.image_size
            expected = f"the image of these {self._field}, {width} x {height} pixels when upright"
            raise InputError(bad_argument("image", expected, loaded.size))
        return loaded

    # --- looking at them

    def __repr__(self) -> str:
        found = [f"{_shown(each.label)} {each.score:.2f}" for each in self._items[:_SHOWN]]
        if len(self) > _SHOWN:
            found.append(f"{len(self) - _SHOWN} more")
        size = "{}x{}".format(*self.image_size) + (f" in {self.tiles} tiles" if self.tiles else "")
        return f"{type(self).__name__}({len(self)} on {size}{': ' if found else ''}{', '.join(found)})"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        """The table that notebooks show."""
        rows = [
            f"<tr><td>{html.escape(_shown(each.label, 80))}</td><td>{each.score:.2f}</td>"
            f"<td>{', '.join(f'{side:.1f}' for side in each.box.xyxy)}</td></tr>"
            for each in self._items[:_SHOWN_ROWS]
        ]
        more = f"<p>{len(self) - _SHOWN_ROWS} more</p>" if len(self) > _SHOWN_ROWS else ""
        head = "<tr><th>label</th><th>score</th><th>x0, y0, x1, y1</th></tr>"
        title = html.escape(f"{len(self)} on {self.image_size[0]}x{self.image_size[1]}, {self.model}")
        return f"<table><caption>{title}</caption>{head}{''.join(rows)}</table>{more}"


def _shown(text: str, longest: int = 40) -> str:
    """A label on one line, shortened."""
    line = " ".join(text.split())
    return line if len(line) <= longest else line[: longest - 1] + "…"
