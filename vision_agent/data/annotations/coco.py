"""Reads COCO's format: one JSON with `images`, `annotations` and `categories`."""

import json
import unicodedata
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from vision_agent.data.annotations.checking import Draft, DraftObject, check_names, number
from vision_agent.data.annotations.faults import Faults


def read_json(path: Path, faults: Faults) -> Any:
    """Return a file's JSON; None, and a fault that spoils the set, where it has none."""
    try:
        return json.loads(path.read_text("utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError, ValueError) as error:
        faults.add("no JSON", path, "", error, fatal=True)
    except OSError as error:
        faults.add("file that cannot be read", path, "", error, fatal=True)
    return None


def coco_drafts(path: Path, images: Path, faults: Faults) -> tuple[list[Draft], list[str]]:
    """Read one file.

    Args:
        images: the folder that `file_name`s are in.

    Returns:
        images as they stand there, and the names of its categories.
    """
    content = read_json(path, faults)
    if content is None:
        return [], []
    parts = {name: content.get(name) if isinstance(content, Mapping) else None for name in _PARTS}
    for name, part in parts.items():
        if not isinstance(part, list):
            faults.add("no COCO file", path, "", f"`{name}` must be a list", fatal=True)
    if faults.fatal:
        return [], []
    told = str(path)
    names = _categories(parts["categories"] or [], parts["annotations"] or [], told, faults)
    drafts, by_id = listed_images(parts["images"] or [], images, told, faults)
    _annotations(parts["annotations"] or [], by_id, names, told, faults)
    return drafts, [name for name in names.values() if name]


_PARTS = ("images", "annotations", "categories")


def _key(value: Any) -> int | str | None:
    """An id as it is compared: whole numbers and texts are ids."""
    if isinstance(value, str):
        return value
    held = number(value)
    return None if held is None or held % 1 else int(held)


def _categories(listed: list[Any], annotations: list[Any], file: str, faults: Faults) -> dict[int | str, str]:
    used = {_key(each.get("category_id")) for each in annotations if isinstance(each, Mapping)}
    names: dict[int | str, Any] = {}
    for place, category in enumerate(listed):
        held = category if isinstance(category, Mapping) else {}
        key = _key(held.get("id"))
        if key is None:
            faults.add("category without an id", file, f"categories[{place}]", repr(category), fatal=True)
        elif key in names:
            faults.add("duplicate category id", file, f"category {key}", repr(held.get("name")), fatal=True)
        # Roboflow writes a root of its tree as the first category, which nothing belongs to.
        elif not (held.get("supercategory") == "none" and key not in used):
            names[key] = held.get("name")
    if not listed:
        faults.add("empty set", file, "categories", "no category", fatal=True)
    checked = check_names([(f"category {key}", name) for key, name in names.items()], file, faults)
    return dict(zip(names, checked, strict=True))


def listed_images(
    listed: list[Any], folder: Path, file: str, faults: Faults
) -> tuple[list[Draft], dict[int | str, Draft | None]]:
    """Return the images of a file, and the same by their ids; None for one that was told as listed twice."""
    drafts: list[Draft] = []
    by_id: dict[int | str, Draft | None] = {}
    by_name: dict[str, int | str] = {}
    by_place: dict[Path, int | str] = {}
    for place, image in enumerate(listed):
        held = image if isinstance(image, Mapping) else {}
        key, name = _key(held.get("id")), held.get("file_name") or _name_in(held.get("coco_url"))
        if key is None or not isinstance(name, str) or not name:
            faults.add("image without an id or a file name", file, f"images[{place}]", repr(image))
            continue
        if key in by_id:
            faults.add("duplicate image id", file, f"image {key}", name)
            continue
        if name in by_name:
            faults.add("image listed twice", file, f"image {key}", f"{name}, as image {by_name[name]}")
            by_id[key] = None
            continue
        by_name[name], source = key, located(folder, name)
        if source in by_place:
            faults.add("image listed twice", file, f"image {key}", f"{name} is {source}, as image {by_place[source]}")
            by_id[key] = None
            continue
        by_place[source] = key
        sides = None if "width" not in held and "height" not in held else (held.get("width"), held.get("height"))
        drafts.append(Draft(name, file, source, sides))
        by_id[key] = drafts[-1]
    if not listed:
        faults.add("empty set", file, "images", "no image", fatal=True)
    return drafts, by_id


def _annotations(
    listed: list[Any],
    images: Mapping[int | str, Draft | None],
    names: Mapping[int | str, str],
    file: str,
    faults: Faults,
) -> None:
    seen: set[int | str] = set()
    for place, annotation in enumerate(listed):
        held = annotation if isinstance(annotation, Mapping) else {}
        key = _key(held.get("id"))
        where = f"annotations[{place}]" if key is None else f"annotation {key}"
        if key is None:
            faults.add("annotation without an id", file, where, repr(annotation))
            continue
        if key in seen:
            faults.add("duplicate annotation id", file, where)
            continue
        seen.add(key)
        image_key, category_key = _key(held.get("image_id")), _key(held.get("category_id"))
        if image_key is None or image_key not in images:
            faults.add("unknown image id", file, where, repr(held.get("image_id")))
        if category_key is None or category_key not in names:
            faults.add("unknown category id", file, where, repr(held.get("category_id")))
        draft = None if image_key is None else images.get(image_key)
        if draft is None:
            continue
        draft.objects.append(drawn_object(held, where, None if category_key is None else names.get(category_key)))
    if not listed:
        faults.add("empty set", file, "annotations", "no annotation", fatal=True)


def drawn_object(annotation: Mapping[str, Any], place: str, name: str | None) -> DraftObject:
    """Return an annotation's box and outline."""
    outline = annotation.get("segmentation") or ()
    if isinstance(outline, list):  # a ring without points says as little as no ring
        outline = [ring for ring in outline if ring != []]
    return DraftObject(
        place=place,
        name=name,
        xyxy=_corners(annotation.get("bbox")),
        polygons=() if isinstance(outline, Mapping) else outline,
        runs=outline if isinstance(outline, Mapping) else None,
        crowd=annotation.get("iscrowd") in (1, True),
    )


def _corners(box: Any) -> Any:
    """x, y, width, height as corners; what is no such box stays, for the check to tell."""
    if isinstance(box, list | tuple) and len(box) == 4:
        x, y, width, height = (number(value) for value in box)
        if x is not None and y is not None and width is not None and height is not None:
            return [x, y, x + width, y + height]
    return box


def _name_in(address: Any) -> str | None:
    """The name that LVIS gives by an address alone: folder and file, such as train2017/000000391895.jpg."""
    return "/".join(address.split("/")[-2:]) if isinstance(address, str) and address else None


def located(folder: Path, name: str) -> Path:
    """Return where an image should be.

    Names begin with folders of the machine that a tool ran on, have Windows' separators, or letters with marks, which
    are one character on some systems and two on others: what is found by the end of the name is meant.
    """
    parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("..", "/", ".")]
    for given in (name, *("/".join(parts[start:]) for start in range(len(parts)))):
        for form in (given, unicodedata.normalize("NFC", given), unicodedata.normalize("NFD", given)):
            if (folder / form).is_file():
                return folder / form
    return folder / "/".join(parts) if parts else folder / name
