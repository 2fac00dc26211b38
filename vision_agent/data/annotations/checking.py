"""Checks what readers found: images, boxes and outlines against each other. Nothing is mended in silence.

Readers give `Draft`s, with values of any type. What passes becomes an `AnnotatedImage`; all else is told as a fault.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from vision_agent.data.annotations.annotated import AnnotatedImage, AnnotatedObject
from vision_agent.data.annotations.faults import Faults
from vision_agent.errors import ImageError, InputError
from vision_agent.geometry.rle import RunLengths
from vision_agent.images.loading import ImageLimits, load_image

_SLACK = 1.0  # pixels that annotation tools round by: what reaches over an edge so far is cut off
_ORIENTATION = 0x0112


@dataclass
class DraftObject:
    """One object as a reader found it.

    Attributes:
        place: for messages, such as "annotation 17".
        name: None where the reader told already that it is unknown.
        xyxy: four numbers in pixels, of any type yet; None to take the bounds of the outline.
        unit: the box and the polygons are in 0-1 of the image, to be scaled.
        polygons: rings of an outline; runs: COCO's run lengths, a mapping of `size` and `counts`.
        also: other names of it.
    """

    place: str
    name: str | None
    xyxy: Any = None
    unit: bool = False
    polygons: Any = ()
    runs: Any = None
    crowd: bool = False
    also: tuple[str, ...] = ()


@dataclass
class Draft:
    """One image as a reader found it.

    Attributes:
        file: its path as the set has it; annotated_in: the file that tells of it.
        source: where its pixels should be; None where the reader told already that they are missing.
        size: width and height as the set states them; None where it states none.
    """

    file: str
    annotated_in: str
    source: Path | bytes | None
    size: Any = None
    objects: list[DraftObject] = field(default_factory=list)


def check_drafts(
    drafts: Iterable[Draft], roots: Sequence[Path], faults: Faults, limits: ImageLimits
) -> list[AnnotatedImage]:
    """Return the images that pass, with the objects that pass; every other one is told.

    Args:
        roots: folders that images may lie in.
    """
    checked = []
    for draft in drafts:
        size = _image_size(draft, roots, faults, limits)
        # Objects are checked against what the set states where there is no image to measure: all is told at once.
        known = size or _stated(draft.size)
        objects = [_object(each, draft, known, faults) for each in draft.objects]
        if size is not None and draft.source is not None:
            kept = tuple(each for each in objects if each is not None)
            checked.append(AnnotatedImage(draft.file, draft.source, size, kept))
    return checked


def check_names(names: Sequence[tuple[str, Any]], file: str, faults: Faults) -> list[str]:
    """Return names stripped of blanks around them; tell those that are empty, no text, or there twice.

    Args:
        names: a place such as "category 3" with each.
    """
    seen: dict[str, str] = {}
    kept = []
    for place, name in names:
        if not isinstance(name, str) or not name.strip():
            faults.add("empty name", file, place, repr(name), fatal=True)
            kept.append("")
            continue
        key = " ".join(name.casefold().replace("_", " ").split())
        if key in seen:
            faults.add("duplicate name", file, place, f"{name!r}, as {seen[key]}", fatal=True)
        seen.setdefault(key, place)
        kept.append(name.strip())
    return kept


def inside(path: Path, roots: Sequence[Path]) -> bool:
    """Whether a path, with all its links followed, lies in one of the folders."""
    resolved = path.resolve()
    return any(resolved.is_relative_to(root.resolve()) for root in roots)


def number(value: Any) -> float | None:
    """Return a finite number; None for anything else. True and False are no numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        taken = float(value)
    except OverflowError:
        return None
    return taken if math.isfinite(taken) else None


def _stated(size: Any) -> tuple[int, int] | None:
    if not isinstance(size, tuple) or len(size) != 2:
        return None
    width, height = (number(side) for side in size)
    if width is None or height is None or width < 1 or height < 1 or width % 1 or height % 1:
        return None
    return int(width), int(height)


def _image_size(draft: Draft, roots: Sequence[Path], faults: Faults, limits: ImageLimits) -> tuple[int, int] | None:
    """The upright image's size; None where it cannot be used."""
    stated = _stated(draft.size)
    if draft.size is not None and stated is None:
        faults.add("impossible size", draft.annotated_in, draft.file, repr(draft.size))
    source = draft.source
    if source is None:
        return None
    if isinstance(source, Path):
        if not source.is_file():
            faults.add("missing image", draft.annotated_in, draft.file)
            return None
        if not inside(source, roots):
            faults.add("link out of the folder", draft.annotated_in, draft.file, source.resolve())
            return None
    try:
        size = load_image(source, name=draft.file, limits=limits).size
        turned = _orientation(source)
    except (ImageError, OSError) as error:
        faults.add("damaged image", draft.annotated_in, draft.file, error)
        return None
    stored = size[::-1] if turned >= 5 else size
    if turned != 1 and not (turned >= 5 and stated == size and size != stored):
        told = (
            f"EXIF orientation {turned}: whether boxes were drawn before or after turning is not said; save it upright"
        )
        faults.add("EXIF-rotated image", draft.annotated_in, draft.file, told)
        return None
    if draft.size is not None and stated is not None and stated != size:
        faults.add("wrong size", draft.annotated_in, draft.file, f"said to be {stated}, is {size}")
        return None
    return size if draft.size is None or stated is not None else None


def _orientation(source: Path | bytes) -> int:
    if isinstance(source, bytes):
        return 1
    with Image.open(source) as image:
        turned = image.getexif().get(_ORIENTATION, 1)
    return turned if isinstance(turned, int) and 1 <= turned <= 8 else 1


def _object(draft: DraftObject, image: Draft, size: tuple[int, int] | None, faults: Faults) -> AnnotatedObject | None:
    """The object, or None where something about it was told."""
    before = len(faults.found)

    def told(kind: str, detail: object = "") -> None:
        faults.add(kind, image.annotated_in, f"{draft.place} of {image.file}", detail)

    polygons = _polygons(draft, size, told)
    runs = _runs(draft.runs, size, told)
    xyxy = draft.xyxy
    if xyxy is None and len(faults.found) == before:
        xyxy = _bounds(polygons, runs)
    unit = draft.unit and draft.xyxy is not None  # the bounds of an outline are in pixels already
    box = None if xyxy is None else _box(xyxy, unit, size, told)
    if xyxy is None and len(faults.found) == before:
        told("no box")
    if draft.name is None or box is None or len(faults.found) > before:
        return None
    return AnnotatedObject(draft.name, box, polygons, runs, draft.crowd, draft.also)


def _bounds(polygons: Sequence[Sequence[float]], runs: RunLengths | None) -> list[float] | None:
    if runs is not None:
        held = runs.box
        return None if held is None else [float(value) for value in held]
    if not polygons:
        return None
    xs = [value for ring in polygons for value in ring[0::2]]
    ys = [value for ring in polygons for value in ring[1::2]]
    return [min(xs), min(ys), max(xs), max(ys)]


def _box(values: Any, unit: bool, size: tuple[int, int] | None, told: Any) -> tuple[float, float, float, float] | None:
    """A box in pixels, cut at the edges; None where something about it was told."""
    if not isinstance(values, list | tuple) or len(values) != 4:
        told("box not of four numbers", repr(values))
        return None
    numbers = [number(value) for value in values]
    if None in numbers:
        told("box with something that is no finite number", repr(list(values)))
        return None
    x0, y0, x1, y1 = (value for value in numbers if value is not None)
    if x1 < x0 or y1 < y0:
        told("negative width or height", f"{x0:g}, {y0:g} to {x1:g}, {y1:g}")
        return None
    if x1 == x0 or y1 == y0:
        told("box of zero area", f"{x0:g}, {y0:g} to {x1:g}, {y1:g}")
        return None
    if size is None:
        return None
    width, height = size
    if not unit and 0 <= min(x0, y0) and max(x1, y1) <= 1 and max(size) > 2:
        told("box in 0-1, not in pixels", f"{x0:g}, {y0:g} to {x1:g}, {y1:g}")
        return None
    if unit:
        x0, y0, x1, y1 = x0 * width, y0 * height, x1 * width, y1 * height
    if min(x0, y0) < -_SLACK or x1 > width + _SLACK or y1 > height + _SLACK:
        told("box outside the image", f"{x0:g}, {y0:g} to {x1:g}, {y1:g} of {width} x {height}")
        return None
    cut = max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))
    if cut[2] <= cut[0] or cut[3] <= cut[1]:
        told("box outside the image", f"{x0:g}, {y0:g} to {x1:g}, {y1:g} of {width} x {height}")
        return None
    return cut


def _polygons(draft: DraftObject, size: tuple[int, int] | None, told: Any) -> tuple[tuple[float, ...], ...]:
    rings = []
    if not isinstance(draft.polygons, list | tuple):
        told("outline that is no list of polygons", repr(draft.polygons))
        return ()
    for ring in draft.polygons:
        if not isinstance(ring, list | tuple):
            told("outline that is no list of polygons", repr(draft.polygons))
            return ()
        numbers = [number(value) for value in ring]
        if None in numbers:
            told("polygon with something that is no finite number", repr(list(ring)))
        elif len(ring) % 2:
            told("polygon of an odd count of numbers", f"{len(ring)} numbers")
        elif len(ring) < 6:
            told("polygon of fewer than three points", repr(list(ring)))
        else:
            rings.append([value for value in numbers if value is not None])
    if size is None:
        return ()
    if draft.unit:
        rings = [[value * size[place % 2] for place, value in enumerate(ring)] for ring in rings]
    for ring in rings:
        if min(ring) < -2 * _SLACK or max(ring[0::2]) > size[0] + 2 * _SLACK or max(ring[1::2]) > size[1] + 2 * _SLACK:
            told("polygon outside the image", f"of {size[0]} x {size[1]}")
    return tuple(tuple(min(max(v, 0.0), float(size[place % 2])) for place, v in enumerate(ring)) for ring in rings)


def _runs(value: Any, size: tuple[int, int] | None, told: Any) -> RunLengths | None:
    if value is None:
        return None
    held = value.get("size") if isinstance(value, Mapping) else None
    sides = [number(side) for side in held] if isinstance(held, list | tuple) else []
    if not isinstance(value, Mapping) or len(sides) != 2 or None in sides or "counts" not in value:
        told("run lengths without a size and counts", repr(value))
        return None
    height, width = (int(side or 0) for side in sides)
    if size is not None and (width, height) != size:
        told("run lengths of another size", f"{width} x {height}, the image has {size[0]} x {size[1]}")
        return None
    if width < 1 or height < 1 or width * height > 2**31:
        told("run lengths of another size", f"{width} x {height}")
        return None
    counts = value["counts"]
    try:
        if isinstance(counts, str):
            return RunLengths.from_text(counts, (height, width))
        return RunLengths.from_counts(counts, (height, width))
    except (InputError, OverflowError, ValueError) as error:
        told("damaged run lengths", error)
        return None
