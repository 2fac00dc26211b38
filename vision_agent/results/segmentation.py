"""Segments: objects with their exact shape. Frozen and exact through JSON, like all results.

A `Mask` is kept as COCO's run lengths: what `model_dump()` gives of it is a COCO segmentation as it stands, and its
JSON is a few kB.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter
from pydantic import BaseModel, BeforeValidator, Field, NonNegativeInt, PositiveInt, model_validator

from vision_agent.errors import InputError, bad_argument
from vision_agent.geometry.rle import (
    Bools,
    Ring,
    RunLengths,
    counts_text,
    mask_iou,
    mask_polygons,
    mask_union,
    polygons_to_mask,
)
from vision_agent.results.annotate import Colors, chosen_colors
from vision_agent.results.base import FoundObjects, whole_pixels
from vision_agent.results.box import FROZEN, Box
from vision_agent.results.detections import Detection, Detections
from vision_agent.results.fonts import check_font

if TYPE_CHECKING:
    import supervision

    from vision_agent.images.loading import ImageLimits, ImageSource

_OPACITY = 0.45  # of a mask that is drawn


class Mask(BaseModel):
    """The pixels of an image that belong to an object.

    Attributes:
        size: (height, width) in pixels, the order of numpy and COCO.
        counts: COCO's compressed run lengths, as text. A list of run lengths or the bytes that pycocotools makes are
            taken too.

    Raises:
        pydantic.ValidationError: (a ValueError) run lengths that are damaged or do not fill `size`.
    """

    model_config = FROZEN

    size: tuple[PositiveInt, PositiveInt]
    counts: Annotated[str, BeforeValidator(counts_text)]

    @model_validator(mode="after")
    def _fills_its_size(self) -> Self:
        RunLengths.from_text(self.counts, self.size)
        return self

    @classmethod
    def from_array(cls, mask: npt.ArrayLike) -> Self:
        """Make a mask of bools (H, W). Raises InputError for another dtype or shape."""
        return cls.from_runs(RunLengths.from_mask(mask))

    @classmethod
    def from_runs(cls, runs: RunLengths) -> Self:
        """Make a mask of run lengths."""
        return cls(size=runs.size, counts=runs.text)

    @classmethod
    def from_polygons(cls, polygons: Sequence[Sequence[npt.ArrayLike]], image_size: tuple[int, int]) -> Self:
        """Make a mask of what polygons cover of an image of (width, height); see `rle.polygons_to_mask`.

        Raises InputError where they are no polygons.
        """
        return cls.from_array(polygons_to_mask(polygons, (image_size[1], image_size[0])))

    @property
    def runs(self) -> RunLengths:
        """The run lengths, read."""
        return RunLengths.from_text(self.counts, self.size)

    @property
    def area(self) -> int:
        """Number of pixels inside."""
        return self.runs.area

    @property
    def box(self) -> Box | None:
        """The tightest box around the mask; None where it is empty."""
        box = self.runs.box
        return None if box is None else Box.from_xyxy(box)

    def to_array(self) -> Bools:
        """Return the mask as bools (H, W)."""
        return self.runs.to_mask()

    def polygons(self) -> list[list[Ring]]:
        """Return exact outlines: of each connected part its outer ring and its holes, float64 (n, 2) x, y in pixels."""
        runs = self.runs
        if runs.box is None:
            return []
        return mask_polygons(runs.cropped(runs.box), origin=runs.box[:2])

    def resized(self, image_size: tuple[int, int]) -> "Mask":
        """Return the mask for the same image at another (width, height). Raises InputError for a size that is empty."""
        return Mask.from_runs(self.runs.resized((image_size[1], image_size[0])))

    def iou(self, other: "Mask") -> float:
        """Return the intersection over union with a mask of the same size, 0..1. Raises InputError for another size."""
        return float(mask_iou([self.runs], [other.runs])[0, 0])

    def __repr__(self) -> str:
        return f"Mask({self.area} px of {self.size[1]}x{self.size[0]})"

    __str__ = __repr__


class Segment(BaseModel):
    """One object found in an image, with its shape.

    Attributes:
        label: what it is, in the words of the request where there were any.
        score: how sure the model is, 0..1.
        box: where it is: the box it was segmented by, otherwise the tightest one around the mask.
        mask: which pixels are its own, in the upright original image.
        mask_score: what the decoder expects the mask's IoU with the truth to be, 0..1; None where it does not say.
        prompt: the number, from 0, of the object whose points it was segmented by, since an object may have no mask
            that agrees with its points; None for others.
    """

    model_config = FROZEN

    label: str
    score: Annotated[float, Field(ge=0, le=1)]
    box: Box
    mask: Mask
    mask_score: Annotated[float, Field(ge=0, le=1)] | None = None
    prompt: Annotated[int, Field(ge=0)] | None = None


class Segmentation(FoundObjects[Segment]):
    """What was segmented in one image: a sequence of `Segment`, possibly empty.

    It is used as `Detections` are. Masks may overlap.

    Attributes:
        segments: the objects found.
        image_size: (width, height) of the upright original image, pixels.
        model: the model that found them.
        phrases: what was asked for; their order gives the class ids of the exports.
        decoder: name of the decoder that made the masks, such as "sam".
        unknown_words, tiles: as of `Detections`.
        kind: always "segmentation"; tells results apart in JSON.

    Raises:
        pydantic.ValidationError: (a ValueError) a mask of another size than the image.
    """

    _field: ClassVar[str] = "segments"

    kind: Literal["segmentation"] = "segmentation"
    segments: tuple[Segment, ...]
    image_size: tuple[PositiveInt, PositiveInt]
    model: str
    phrases: tuple[str, ...] = ()
    decoder: str = ""
    unknown_words: tuple[str, ...] = ()
    tiles: NonNegativeInt = 0

    @model_validator(mode="after")
    def _masks_fit_the_image(self) -> Self:
        for number, segment in enumerate(self.segments):
            if segment.mask.size != (self.image_size[1], self.image_size[0]):
                raise ValueError(
                    f"`segments[{number}].mask` must be of the image's (height, width), "
                    f"{self.image_size[::-1]}, but got {segment.mask.size}"
                )
        return self

    @classmethod
    def from_masks(
        cls,
        masks: Sequence[Mask] | npt.NDArray[np.bool_],
        scores: npt.ArrayLike,
        labels: Sequence[str],
        *,
        image_size: tuple[int, int],
        model: str,
        xyxy: npt.ArrayLike | None = None,
        mask_scores: Sequence[float] | None = None,
        prompts: Sequence[int] | None = None,
        phrases: Sequence[str] = (),
        decoder: str = "",
    ) -> Self:
        """Make a segmentation of n masks, or bools (n, H, W), with scores (n,) in 0..1 and n labels.

        Args:
            image_size: (width, height) of the image.
            xyxy: boxes (n, 4); None for the tightest around each mask (0, 0, 0, 0 for an empty one).
            mask_scores: n expected IoUs, 0..1.
            prompts: n numbers, see `Segment.prompt`.

        Raises:
            InputError: lengths or shapes that do not match, or values as `Detections.from_arrays` refuses them.
        """
        kept = [mask if isinstance(mask, Mask) else Mask.from_array(mask) for mask in masks]
        if xyxy is None:
            xyxy = np.array([mask.runs.box or (0, 0, 0, 0) for mask in kept], dtype=np.float64).reshape(-1, 4)
        found = Detections.from_arrays(
            xyxy, scores, labels, image_size=image_size, model=model, phrases=phrases, decoder=decoder
        )
        if len(kept) != len(found):
            raise InputError(bad_argument("masks", f"{len(found)} masks, one for each box", f"{len(kept)} masks"))
        if mask_scores is not None and len(mask_scores) != len(found):
            raise InputError(bad_argument("mask_scores", f"{len(found)} numbers, one for each mask", mask_scores))
        if prompts is not None and len(prompts) != len(found):
            raise InputError(bad_argument("prompts", f"{len(found)} numbers, one for each mask", prompts))
        for number, mask in enumerate(kept):
            if mask.size != image_size[::-1]:
                expected = f"of the image's (height, width), {image_size[::-1]}"
                raise InputError(bad_argument(f"masks[{number}]", expected, mask.size))
        expected_iou = mask_scores if mask_scores is not None else [None] * len(found)
        numbers = prompts if prompts is not None else [None] * len(found)
        segments = tuple(
            Segment(label=each.label, score=each.score, box=each.box, mask=mask, mask_score=iou, prompt=number)
            for each, mask, iou, number in zip(found, kept, expected_iou, numbers, strict=True)
        )
        return cls(segments=segments, image_size=image_size, model=model, phrases=tuple(phrases), decoder=decoder)

    # --- views: every array is a fresh copy

    @property
    def detections(self) -> Detections:
        """The same objects as boxes alone."""
        return Detections(
            detections=tuple(Detection(label=each.label, score=each.score, box=each.box) for each in self),
            image_size=self.image_size,
            model=self.model,
            phrases=self.phrases,
            decoder=self.decoder,
            unknown_words=self.unknown_words,
            tiles=self.tiles,
        )

    @property
    def masks(self) -> Bools:
        """Masks as bools (n, H, W). They take n * H * W bytes: for many in a large image, take them one by one."""
        masks = np.zeros((len(self), self.image_size[1], self.image_size[0]), dtype=np.bool_)
        for number, segment in enumerate(self):
            masks[number] = segment.mask.to_array()
        return masks

    def union(self) -> Mask:
        """Return the mask of what any of the segments covers; an empty one where there are none."""
        empty = RunLengths.from_counts([self.image_size[0] * self.image_size[1]], self.image_size[::-1])
        return Mask.from_runs(mask_union([empty, *(segment.mask.runs for segment in self)]))

    # --- exports

    def _rows(self) -> tuple[list[str], list[dict[str, Any]]]:
        columns, rows = super()._rows()
        added = ({"area": each.mask.area, "mask_score": each.mask_score} for each in self)
        return [*columns, "area", "mask_score"], [row | more for row, more in zip(rows, added, strict=True)]

    def to_supervision(self) -> "supervision.Detections":
        """Convert to `supervision.Detections` with masks; for the rest see `Detections.to_supervision`."""
        exported = super().to_supervision()
        exported.mask = self.masks
        return exported

    def to_coco(
        self, image_id: int = 0, category_ids: Mapping[str, int] | None = None, *, file_name: str = ""
    ) -> dict[str, Any]:
        """Return a complete COCO dataset of this one image: as `Detections.to_coco`, with masks and their areas.

        Raises InputError where `category_ids` lacks a label.
        """
        dataset = super().to_coco(image_id, category_ids, file_name=file_name)
        for annotation, segment in zip(dataset["annotations"], self, strict=True):
            annotation["segmentation"] = {"size": list(segment.mask.size), "counts": segment.mask.counts}
            annotation["area"] = segment.mask.area
        return dataset

    def cutout(
        self, image: "ImageSource | None" = None, index: int = 0, *, limits: "ImageLimits | None" = None
    ) -> Image.Image:
        """Cut out one segment: an RGBA image as large as its mask, transparent around it.

        An empty mask gives a transparent image as large as the segment's box.

        Args:
            image: the image that was segmented; it may be left out as long as the agent remembers it.
            index: which segment.
            limits: what `load_image` accepts; its own defaults if None.

        Raises:
            IndexError: no such segment.
            InputError: the image is not of `image_size`, or it cannot be read.
            ArgumentTypeError: `image` is no image.
        """
        segment = self.segments[index]
        whole = self._load(self._given(image), limits)
        runs = segment.mask.runs
        box = runs.box or whole_pixels(segment.box.xyxy, self.image_size)
        cut = whole.crop(box).convert("RGBA")
        cut.putalpha(_stencil(runs.cropped(box)))
        return cut

    def draw(
        self,
        image: "ImageSource | None" = None,
        *,
        labels: bool = True,
        scores: bool = True,
        colors: Colors | None = None,
        opacity: float = _OPACITY,
        line_width: int | None = None,
        font_size: int | None = None,
        font: str | PathLike[str] | None = None,
        limits: "ImageLimits | None" = None,
    ) -> Image.Image:
        """Draw translucent masks, their outlines, boxes and tags on a copy of the image, RGB.

        Args:
            opacity: of the masks, 0..1.
            image, labels, scores, colors, line_width, font_size, font, limits: as for `Detections.draw`.

        Raises:
            InputError: an opacity outside 0..1, and what `Detections.draw` refuses.
            ArgumentTypeError: `image` is no image.
        """
        if not 0 <= opacity <= 1:
            raise InputError(bad_argument("opacity", "from 0 to 1", opacity))
        palette = chosen_colors(self.class_names, colors)
        check_font(font)
        canvas = self._load(self._given(image), limits)
        width = line_width or max(1, round((canvas.width * canvas.height) ** 0.5 / 320))
        for segment in sorted(self, key=lambda each: each.score):  # the best one is on top
            _paint(canvas, segment.mask.runs, palette[segment.label], opacity, width)
        return super().draw(
            canvas,
            labels=labels,
            scores=scores,
            colors=palette,
            line_width=line_width,
            font_size=font_size,
            font=font,
            limits=limits,
        )


def _paint(canvas: Image.Image, runs: RunLengths, color: tuple[int, int, int], opacity: float, width: int) -> None:
    """Tint the pixels of a mask and draw its rim, `width` pixels wide, inside it; in place."""
    if runs.box is None:
        return
    x0, y0, x1, y1 = runs.box
    stencil = _stencil(np.pad(runs.cropped(runs.box), width))  # what the image's edge cuts off has a rim there too
    core = stencil.filter(ImageFilter.MinFilter(2 * width + 1))
    alpha = core.point([round(value * opacity) for value in range(256)])
    rim = Image.composite(Image.new("L", stencil.size, 0), stencil, core)
    alpha.paste(rim, mask=rim)
    canvas.paste(color, (x0, y0), alpha.crop((width, width, width + x1 - x0, width + y1 - y0)))


def _stencil(mask: Bools) -> Image.Image:
    return Image.fromarray(mask.astype(np.uint8) * 255)
