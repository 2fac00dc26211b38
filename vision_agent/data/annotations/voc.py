"""Reads Pascal VOC's format: one XML file for each image, in `Annotations` or beside the images."""

import re
from pathlib import Path, PureWindowsPath
from xml.etree import ElementTree

from vision_agent.data.annotations.checking import Draft, DraftObject
from vision_agent.data.annotations.faults import Faults
from vision_agent.data.annotations.yolo import IMAGE_ENDINGS

_SPLITS = {"train": "train", "validation": "val"}


def voc_drafts(root: Path, images: Path | None, faults: Faults) -> dict[str, list[Draft]]:
    """Read all XML files of a folder; lists in `ImageSets/Main` tell the parts where there are both.

    Args:
        images: the folder that the images are in; None for `JPEGImages`, `images` or that of the XML files.
    """
    folder = root / "Annotations" if (root / "Annotations").is_dir() else root
    files = sorted(folder.rglob("*.xml"))
    if not files:
        faults.add("empty set", root, "", "no XML file", fatal=True)
    given = [images] if images is not None else [root / "JPEGImages", root / "images"]
    drafts = {path.stem: draft for path in files if (draft := _draft(path, given, faults)) is not None}
    listed = {part: root / "ImageSets" / "Main" / f"{name}.txt" for part, name in _SPLITS.items()}
    if not all(path.is_file() for path in listed.values()):
        return {"train": list(drafts.values())}
    parts: dict[str, list[Draft]] = {}
    for part, path in listed.items():
        # A list of one class has -1, 0 or 1 behind each name.
        stems = [line.split()[0] for line in path.read_text("utf-8-sig").splitlines() if line.split()]
        for stem in stems:
            if stem not in drafts:
                faults.add("missing annotation", path, stem)
        parts[part] = [drafts[stem] for stem in stems if stem in drafts]
    return parts


def _draft(path: Path, folders: list[Path], faults: Faults) -> Draft | None:
    try:
        text = _decoded(path.read_bytes())
    except (OSError, UnicodeDecodeError, LookupError) as error:
        faults.add("file that cannot be read", path, "", error)
        return None
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        faults.add("XML with declarations of its own", path, "", "it is not read: entities could stand for anything")
        return None
    try:
        tree = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        faults.add("no XML", path, "", error)
        return None
    if tree.tag != "annotation":
        faults.add("no VOC annotation", path, "", f"its root is {tree.tag!r}")
        return None
    sides = tuple(_number(tree, f"size/{side}") for side in ("width", "height"))
    name = (tree.findtext("filename") or "").strip()
    source = _image(path, name, folders)
    file = name or path.stem
    if source is None:
        faults.add("missing image", path, file)
    # LabelImg leaves 0 x 0 where it did not know.
    size = None if tree.find("size") is None or sides == (0, 0) else sides
    draft = Draft(file if source is None else source.name, str(path), source, size)
    for place, item in enumerate(tree.iterfind("object"), 1):
        if (item.findtext("deleted") or "").strip() == "1":  # LabelMe's older XML keeps what was taken away
            continue
        where = f"object {place}"
        called = (item.findtext("name") or "").strip()
        if not called:
            faults.add("empty name", path, f"{where} of {file}")
        box = item.find("bndbox")
        corners = None if box is None else [_number(box, side) for side in ("xmin", "ymin", "xmax", "ymax")]
        draft.objects.append(DraftObject(where, called or None, corners, polygons=_outline(item)))
    return draft


def _decoded(data: bytes) -> str:
    """The text of a file, in UTF-8 or else in what its first line declares."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        declared = re.match(rb"""<\?xml[^>]*encoding=["']([\w.-]+)["']""", data)
        if declared is None:
            raise
        return data.decode(declared[1].decode("ascii"))


def _outline(item: ElementTree.Element) -> list[list[object]]:
    """A polygon as Roboflow writes it: x1, y1, x2, y2, ... below `polygon`."""
    polygon = item.find("polygon")
    if polygon is None or not len(polygon):
        return []
    if polygon.find("pt") is not None:  # LabelMe's older XML
        return [[_number(point, axis) for point in polygon.iterfind("pt") for axis in "xy"]]
    return [[_number(polygon, child.tag) for child in polygon]]


def _number(parent: ElementTree.Element, name: str) -> object:
    """A number, also one with a fraction; what is none stays text."""
    text = (parent.findtext(name) or "").strip()
    try:
        return float(text) if not text.lstrip("+-").isdecimal() else int(text)
    except ValueError:
        return text or None


def _image(path: Path, name: str, folders: list[Path]) -> Path | None:
    """The image by its name, or by that of the XML file, which tools keep right where images were renamed."""
    plain = PureWindowsPath(name).name
    for folder in (*folders, path.parent):
        # A suffix is tried as it is written; Roboflow's names have dots in them.
        names = [plain, *(path.stem + ending for ending in sorted(IMAGE_ENDINGS))]
        names += [path.stem + ending.upper() for ending in sorted(IMAGE_ENDINGS)]
        for candidate in names:
            if candidate and (folder / candidate).is_file():
                return folder / candidate
    return None
