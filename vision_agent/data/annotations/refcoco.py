"""Reads expressions that mean one object: RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO, as their publishers have them.

`refs(unc).p`, a pickle of plain data, or `grefs(unc).json`; the objects are in `instances.json` beside it, in COCO's
format. Pickles are read without being run. An object is called what its expressions say, all of them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vision_agent.data.annotations.checking import Draft
from vision_agent.data.annotations.coco import drawn_object, listed_images, read_json
from vision_agent.data.annotations.faults import Faults
from vision_agent.errors import InputError, bad_argument
from vision_agent.model.restricted_pickle import read_pickle

_LISTS = ("images", "annotations")
_PARTS = {"train": "train", "val": "validation"}
_FOLDERS = ("train2014", "images/train2014", "images/mscoco/images/train2014", "images", "../train2014")


def expression_files(folder: Path) -> list[Path]:
    """Return the files with expressions in a folder."""
    return sorted(path for path in folder.iterdir() if is_expression_file(path))


def is_expression_file(path: Path) -> bool:
    """Whether a file is called as publishers call theirs."""
    return path.is_file() and path.name.startswith(("refs(", "grefs(")) and path.suffix in (".p", ".json")


def refcoco_drafts(data: Path, images: Path | None, faults: Faults) -> dict[str, list[Draft]]:
    """Read expressions, and the objects that they mean.

    Args:
        data: the file, or a folder with one.
        images: the folder of COCO's photos of 2014; None for `train2014` or `images` beside the file.

    Returns:
        images of "train" and "validation", as the set parts them; those of its test parts are left out.

    Raises:
        InputError: several files of expressions, or no `instances.json` beside them.
    """
    files = [data] if data.is_file() else expression_files(data)
    if len(files) != 1:
        names = ", ".join(path.name for path in files) or "refs(unc).p"
        raise InputError(bad_argument("data", f"one file of expressions: name {names}", str(data)))
    (path,) = files
    objects = path.parent / "instances.json"
    if not objects.is_file():
        raise InputError(bad_argument("data", "expressions with instances.json beside them", str(path)))
    content = read_json(objects, faults)
    if not isinstance(content, Mapping) or not all(isinstance(content.get(name), list) for name in _LISTS):
        faults.add("no COCO file", objects, "", f"it must have lists of {' and '.join(_LISTS)}", fatal=True)
        return {}
    references = _references(path, faults)
    wanted = {each.get("image_id") for each in references if each.get("split") in _PARTS}
    held = [each for each in content["images"] if not isinstance(each, Mapping) or each.get("id") in wanted]
    folders = [images] if images is not None else [path.parent / name for name in _FOLDERS]
    folder = next((each for each in folders if each.is_dir()), path.parent)
    _, by_id = listed_images(held, folder, str(objects), faults)
    marked = {each.get("id"): each for each in content["annotations"] if isinstance(each, Mapping)}
    parts: dict[str, dict[Any, Draft]] = {"train": {}, "validation": {}}
    for number, reference in enumerate(references):
        if (part := _PARTS.get(str(reference.get("split")))) is None:
            continue
        told = reference.get("ref_id")
        place = f"references[{number}]" if told is None else f"reference {told}"
        draft = _taken(reference, place, by_id, marked, path, faults)
        if draft is not None:
            parts[part][reference.get("image_id")] = draft
    return {part: list(drafts.values()) for part, drafts in parts.items()}


def _references(path: Path, faults: Faults) -> list[Mapping[str, Any]]:
    if path.suffix == ".json":
        held = read_json(path, faults)
    else:
        try:
            with open(path, "rb") as stream:
                held = read_pickle(stream, arrays=False)
        except (OSError, ValueError) as error:
            faults.add("file that cannot be read", path, "", error, fatal=True)
            return []
    rows = held if isinstance(held, list) else []
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            faults.add("reference that is no record", path, f"references[{number}]", repr(row))
    if not rows:
        faults.add("empty set", path, "", "no reference", fatal=True)
    return [row for row in rows if isinstance(row, Mapping)]


def _taken(
    reference: Mapping[str, Any],
    place: str,
    images: Mapping[Any, Draft | None],
    marked: Mapping[Any, Mapping[str, Any]],
    path: Path,
    faults: Faults,
) -> Draft | None:
    """The image of a reference, with what it means put there."""
    ids = reference.get("ann_id")
    meant = [each for each in (ids if isinstance(ids, list) else [ids]) if each != -1]  # gRefCOCO's: nothing is meant
    sentences = reference.get("sentences")
    said = [each.get("sent") for each in sentences if isinstance(each, Mapping)] if isinstance(sentences, list) else []
    names = [" ".join(each.casefold().split()) for each in said if isinstance(each, str)]
    if not names or not all(names) or len(names) < len(said):
        faults.add("reference without an expression", path, place, repr(sentences))
        return None
    draft = images.get(reference.get("image_id"))
    if draft is None:
        faults.add("unknown image id", path, place, repr(reference.get("image_id")))
        return None
    for each in meant:
        if each not in marked:
            faults.add("unknown annotation id", path, place, repr(each))
            continue
        where = f"annotation {each}"
        known = next((held for held in draft.objects if held.place == where), None)
        if known is None:
            known = drawn_object(marked[each], where, names[0])
            draft.objects.append(known)
        known.also = tuple(dict.fromkeys([*known.also, *(name for name in names if name != known.name)]))
    return draft
