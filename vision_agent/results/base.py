"""What results of several items have in common: they are sequences, they draw and they export."""

import html
from collections.abc import Iterator, Mapping, Sequence
from math import ceil, floor
from numbers import Real
from operator import index
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, Self, TypeVar, overload

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import BaseModel, PrivateAttr

from vision_agent.errors import ArgumentTypeError, InputError, MissingExtraError, bad_argument
from vision_agent.results.annotate import Colors, chosen_colors, draw_boxes
from vision_agent.results.box import FROZEN, Box
from vision_agent.results.export import (
    DRAWN,
    SeenImage,
    check_target,
    csv_text,
    data_frame,
    image_bytes,
    image_tag,
    preview,
    write_whole,
)
from vision_agent.results.fonts import check_font

if TYPE_CHECKING:
    import pandas
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

    def model_copy(self, *, update: Mapping[str, Any] | None = None) -> Self:
        """Return it with other values."""

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


class FoundInImage(ResultSequence[Item], Generic[Item]):
    """What was found in one image: its items have a label, a score and a place."""

    def __add__(self, other: object) -> Self:
        """Put two results of one image together: first the items of this one, then those of the other.

        Nothing is merged; `nms` drops boxes that are there twice. `sum(results)` works too.

        Raises InputError where the two are of images of different sizes.
        """
        if not isinstance(other, type(self)):
            return NotImplemented
        mine, theirs = (dict(BaseModel.__iter__(each)) for each in (self, other))
        if mine["image_size"] != theirs["image_size"]:
            expected = f"a result of an image of {mine['image_size']}"
            raise InputError(f"`other` must be {expected}, but got one of an image of {theirs['image_size']}")
        joined: dict[str, Any] = {self._field: self._items + other._items}
        for name, value in mine.items():
            if name == "tiles":
                joined[name] = max(value, theirs[name])
            elif name in ("phrases", "unknown_words"):
                joined[name] = tuple(dict.fromkeys((*value, *theirs[name])))
            elif name in ("model", "decoder"):
                joined[name] = ", ".join(dict.fromkeys(each for each in (value, theirs[name]) if each))
        return self.model_copy(update=joined)

    def __radd__(self, other: object) -> Self:
        return self if other == 0 and isinstance(other, int) else NotImplemented

    # --- tables and files

    def _rows(self) -> tuple[list[str], list[dict[str, Any]]]:
        """Names of the columns, and a row for each item."""
        raise NotImplementedError

    def to_pandas(self) -> "pandas.DataFrame":
        """Return a data frame with a row for each item: label, score, and where it is, in pixels.

        Raises MissingExtraError where pandas (extra "tables") is not installed.
        """
        columns, rows = self._rows()
        return data_frame(rows, columns)


class FoundObjects(FoundInImage[Found], Generic[Found]):
    """What was found in one image: a sequence of objects with a label, a score and a box, possibly empty."""

    _seen: SeenImage = PrivateAttr(default_factory=SeenImage)

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

    def renamed(self, labels: Mapping[str, str]) -> Self:
        """Return the same objects under other labels, such as those of another language; those not given stay.

        Raises ArgumentTypeError for anything but a mapping of strings.
        """
        if not isinstance(labels, Mapping) or not all(
            isinstance(text, str) for pair in labels.items() for text in pair
        ):
            raise ArgumentTypeError(bad_argument("labels", "a mapping of labels to labels", labels))
        items = tuple(found.model_copy(update={"label": labels.get(found.label, found.label)}) for found in self)
        return self._with(items).model_copy(update={"phrases": tuple(labels.get(each, each) for each in self.phrases)})

    # --- exports

    def _rows(self) -> tuple[list[str], list[dict[str, Any]]]:
        columns = ["label", "score", "x0", "y0", "x1", "y1"]
        values = ((found.label, found.score, *found.box.xyxy) for found in self)
        return columns, [dict(zip(columns, row, strict=True)) for row in values]

    def save(
        self,
        path: str | PathLike[str],
        image: "ImageSource | None" = None,
        *,
        limits: "ImageLimits | None" = None,
    ) -> Path:
        """Write a file: by its extension, the result (.json), a table (.csv) or a drawing (.png, .jpg, .jpeg, .webp).

        Args:
            path: of the file, in a folder that exists. A file that is there is replaced at once, or not at all.
            image: for a drawing, the image that was searched; it may be left out as long as the agent remembers it.
                `draw(...).save(path)` has more settings.
            limits: what `load_image` accepts; its own defaults if None.

        Returns:
            the path.

        Raises:
            InputError: another extension, a folder that is not there, a drawing without its image.
            ArgumentTypeError: `path` is no path.
        """
        target = check_target(path)
        suffix = target.suffix.lower()
        if suffix in DRAWN:
            data = image_bytes(self.draw(self._given(image), limits=limits), suffix)
        elif suffix == ".csv":
            columns, rows = self._rows()
            data = csv_text(rows, columns).encode()
        else:
            data = self.model_dump_json(indent=2).encode()
        write_whole(target, data)
        return target

    def crop(
        self, image: "ImageSource | None" = None, *, margin: float = 0.0, limits: "ImageLimits | None" = None
    ) -> list[Image.Image]:
        """Cut out each object by its box: RGB images, in the order of the objects, of at least one pixel.

        Args:
            image: the image that was searched; it may be left out as long as the agent remembers it.
            margin: how far a box is grown on each side, as a share of its side; what lies outside the image is cut.
            limits: what `load_image` accepts; its own defaults if None.

        Raises:
            InputError: the image is not of `image_size`, or it cannot be read; a margin that is not 0 or more.
            ArgumentTypeError: `image` is no image.
        """
        if isinstance(margin, bool) or not isinstance(margin, Real) or not 0 <= margin <= 100:
            raise InputError(bad_argument("margin", "a number from 0 to 100", margin))
        whole = self._load(self._given(image), limits)
        grown = self._boxes()
        sides = np.tile(grown[:, 2:] - grown[:, :2], (1, 2))
        grown += sides * margin * np.array([-1, -1, 1, 1])
        return [whole.crop(whole_pixels(box, self.image_size)) for box in grown.tolist()]

    def _given(self, image: "ImageSource | None") -> "ImageSource":
        """The image that a caller gave, or the one that was searched."""
        known = self._seen.image if image is None else image
        if known is None:
            raise InputError(bad_argument("image", f"the image of these {self._field}, which is not kept", image))
        return known

    @property
    def seen_image(self) -> Image.Image | None:
        """The image that was searched, upright RGB, where the agent still keeps it; None where it does not."""
        return self._seen.image

    def seen_in(self, image: Image.Image | None) -> Self:
        """Remember the image that was searched, upright RGB, as long as something else keeps it; return the result."""
        self._seen = SeenImage(image)
        return self

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
        without it they count from 1 in the order of `class_names`. Whole numbers of numpy are taken, too.

        Raises InputError where `category_ids` lacks a label, or an id is no whole number.
        """
        number_of = _whole_number("image_id", image_id)
        ids = {name: number for number, name in enumerate(self.class_names, start=1)}
        if category_ids is not None:
            ids = {str(name): _whole_number(f"category_ids[{name!r}]", number) for name, number in category_ids.items()}
        for label in self.labels:
            if label not in ids:
                raise InputError(bad_argument("category_ids", f"a mapping that has the label {label!r}", ids))
        return {
            "info": {"description": f"{self._field} of {self.model}"},
            "images": [
                {"id": number_of, "width": self.image_size[0], "height": self.image_size[1], "file_name": file_name}
            ],
            "annotations": [
                {
                    "id": number,
                    "image_id": number_of,
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
        image: "ImageSource | None" = None,
        *,
        labels: bool = True,
        scores: bool = True,
        colors: Colors | None = None,
        line_width: int | None = None,
        font_size: int | None = None,
        font: str | PathLike[str] | None = None,
        limits: "ImageLimits | None" = None,
    ) -> Image.Image:
        """Draw boxes and tags on a copy of the image, RGB.

        Each label has a colour of its own, the same in every image, unless `colors` says another. Line width and font
        size, in pixels, follow the size of the image unless given. An image too small for tags gets boxes alone. For
        text outside ASCII a font of this machine is taken; where none has a character, a warning says so once.

        Args:
            image: the image that was searched: anything `vision_agent.images.loading.load_image` takes. It may be left
                out as long as the agent remembers it.
            labels, scores: what the tags say; neither, and there are no tags.
            colors: one colour for all, or a mapping of labels to colours. A colour is a name of CSS, `"#rrggbb"`, or
                (red, green, blue), 0..255.
            line_width, font_size: pixels, at least 1.
            font: path of a font for the tags, taken first.
            limits: what `load_image` accepts; its own defaults if None.

        Raises:
            InputError: the image is not of `image_size`, a width or size is below 1, or it cannot be read; no colour,
                or no font.
            ArgumentTypeError: `image` is no image.
        """
        for name, value in (("line_width", line_width), ("font_size", font_size)):
            if value is not None and _whole_number(name, value) < 1:
                raise InputError(bad_argument(name, "at least 1", value))
        palette, face = chosen_colors(self.class_names, colors), check_font(font)
        canvas = self._load(self._given(image), limits)
        best_first = sorted(self, key=lambda found: -found.score)
        draw_boxes(
            canvas,
            np.array([found.box.xyxy for found in best_first]).reshape(-1, 4),
            [(found.label if labels else "", f"{found.score:.2f}" if scores else "") for found in best_first],
            [palette[found.label] for found in best_first],
            line_width=line_width,
            font_size=font_size,
            font=face,
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

    def _repr_png_(self) -> bytes | None:
        """The drawing that notebooks and terminals show; None where the image is not kept any longer."""
        image = self._seen.image
        return None if image is None else preview(self.draw(image), ".png")

    def _repr_html_(self) -> str:
        """The drawing, where the image is still kept, and the table that notebooks show."""
        rows = [
            f"<tr><td>{html.escape(_shown(each.label, 80))}</td><td>{each.score:.2f}</td>"
            f"<td>{', '.join(f'{side:.1f}' for side in each.box.xyxy)}</td></tr>"
            for each in self._items[:_SHOWN_ROWS]
        ]
        more = f"<p>{len(self) - _SHOWN_ROWS} more</p>" if len(self) > _SHOWN_ROWS else ""
        head = "<tr><th>label</th><th>score</th><th>x0, y0, x1, y1</th></tr>"
        title = html.escape(f"{len(self)} on {self.image_size[0]}x{self.image_size[1]}, {self.model}")
        image = self._seen.image
        shown = "" if image is None else image_tag(preview(self.draw(image), ".jpg"), repr(self))
        return f"{shown}<table><caption>{title}</caption>{head}{''.join(rows)}</table>{more}"


def _shown(text: str, longest: int = 40) -> str:
    """A label on one line, shortened."""
    line = " ".join(text.split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


def _whole_number(name: str, value: object) -> int:
    """A whole number, numpy's too. Raises InputError for anything else."""
    if isinstance(value, bool):
        raise InputError(bad_argument(name, "a whole number", value))
    try:
        return index(value)  # type: ignore[arg-type]  # a TypeError is the question asked here
    except TypeError as error:
        raise InputError(bad_argument(name, "a whole number", value)) from error


def whole_pixels(xyxy: Sequence[float], image_size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the pixels that a box touches inside the image, at least one."""
    width, height = image_size
    x0, y0 = (floor(min(max(low, 0), side - 1)) for low, side in zip(xyxy[:2], image_size, strict=True))
    x1, y1 = (ceil(min(max(high, 0), side)) for high, side in zip(xyxy[2:], image_size, strict=True))
    return x0, y0, min(max(x1, x0 + 1), width), min(max(y1, y0 + 1), height)
