"""Reads LabelMe's format: one JSON file for each image, with `shapes`."""

import base64
import binascii
import math
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from vision_agent.data.annotations.checking import Draft, DraftObject, number
from vision_agent.data.annotations.coco import read_json
from vision_agent.data.annotations.faults import Faults
from vision_agent.geometry.rle import RunLengths
from vision_agent.images.loading import ImageLimits, load_image

_CIRCLE = 32  # corners of the polygon that stands for a circle


def labelme_drafts(files: list[Path], images: Path | None, faults: Faults) -> list[Draft]:
    """Read files; where an image is missing, the copy that its file may hold stands for it.

    Args:
        images: the folder that the images are in; None for that of each file.
    """
    drafts = []
    for path in files:
        content = read_json(path, faults)
        shapes = content.get("shapes") if isinstance(content, Mapping) else None
        if content is None:
            continue
        if not isinstance(shapes, list):
            faults.add("no LabelMe file", path, "", "`shapes` must be a list")
            continue
        name = content.get("imagePath")
        file = name.replace("\\", "/") if isinstance(name, str) and name else path.stem
        sides = (content.get("imageWidth"), content.get("imageHeight"))
        draft = Draft(file, str(path), _source(path, file, content.get("imageData"), images, faults), sides)
        if sides == (None, None):
            draft.size = None
        draft.objects += [_object(shape, place, draft, faults) for place, shape in enumerate(shapes, 1)]
        drafts.append(draft)
    return drafts


def _source(path: Path, file: str, data: Any, images: Path | None, faults: Faults) -> Path | bytes | None:
    folder = path.parent if images is None else images
    places = [folder / file, folder / PurePosixPath(file).name, path.parent / file]
    found = next((place for place in places if place.is_file()), None)
    if found is not None or not isinstance(data, str) or not data:
        return places[0] if found is None else found
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        faults.add("damaged image", path, file, f"imageData: {error}")
        return None


def _object(shape: Any, place: int, image: Draft, faults: Faults) -> DraftObject:
    where = f"shape {place}"
    held = shape if isinstance(shape, Mapping) else {}
    label, kind, points = held.get("label"), held.get("shape_type") or "polygon", held.get("points")
    name = label.strip() if isinstance(label, str) and label.strip() else None
    if name is None:
        faults.add("empty name", image.annotated_in, f"{where} of {image.file}", repr(label))
    pairs = _pairs(points)
    if pairs is None:
        faults.add("points that are no pairs of numbers", image.annotated_in, f"{where} of {image.file}", repr(points))
        return DraftObject(where, None, [0, 0, 2, 2])
    flat = [value for pair in pairs for value in pair]
    if kind == "rectangle" and len(pairs) == 2:
        (x0, y0), (x1, y1) = pairs
        return DraftObject(where, name, [min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)])
    if kind == "mask" and len(pairs) == 2:
        return _painted(held.get("mask"), name, pairs, where, image, faults)
    if kind == "circle" and len(pairs) == 2:
        (x, y), (edge_x, edge_y) = pairs
        radius = math.hypot(edge_x - x, edge_y - y)
        turns = [2 * math.pi * step / _CIRCLE for step in range(_CIRCLE)]
        ring = [value for turn in turns for value in (x + radius * math.cos(turn), y + radius * math.sin(turn))]
        return DraftObject(where, name, polygons=[ring])
    if kind in ("polygon", "rectangle", "oriented_rectangle"):
        return DraftObject(where, name, polygons=[flat])
    faults.add("shape that bounds nothing", image.annotated_in, f"{where} of {image.file}", repr(kind))
    return DraftObject(where, None, [0, 0, 2, 2])


def _painted(
    data: Any,
    name: str | None,
    corners: list[tuple[float, float]],
    where: str,
    image: Draft,
    faults: Faults,
) -> DraftObject:
    """A mask: a PNG of the part of the image that its two corners bound."""
    (x0, y0), (x1, y1) = corners
    left, top = int(min(x0, x1)), int(min(y0, y1))
    try:
        png = base64.b64decode(data if isinstance(data, str) else "", validate=True)
        part = load_image(png, name=where, limits=ImageLimits(min_side=1))
    except (binascii.Error, ValueError, OSError) as error:
        faults.add("damaged mask", image.annotated_in, f"{where} of {image.file}", error)
        return DraftObject(where, None, [0, 0, 2, 2])
    pixels = np.asarray(part.convert("L")) > 0
    width, height = (number(side) or 0 for side in image.size or (0, 0))
    inside = 0 <= left <= width - part.width and 0 <= top <= height - part.height and width * height < 2**31
    if not inside or not pixels.any():
        fault = "mask without a pixel" if inside else "mask outside the image"
        told = f"{part.width} x {part.height} at {left}, {top} of {width:g} x {height:g}"
        faults.add(fault, image.annotated_in, f"{where} of {image.file}", told)
        return DraftObject(where, None, [0, 0, 2, 2])
    whole = np.zeros((int(height), int(width)), dtype=bool)
    whole[top : top + part.height, left : left + part.width] = pixels
    runs = RunLengths.from_mask(whole)
    return DraftObject(where, name, runs={"size": list(whole.shape), "counts": runs.text})


def _pairs(points: Any) -> list[tuple[float, float]] | None:
    if not isinstance(points, list):
        return None
    pairs = []
    for point in points:
        values = [number(value) for value in point] if isinstance(point, list | tuple) else []
        if len(values) != 2 or values[0] is None or values[1] is None:
            return None
        pairs.append((values[0], values[1]))
    return pairs
