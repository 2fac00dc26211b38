"""Reads YOLO folders: `data.yaml`, images, and for each a text file of the same name with a line for each object.

A line is `class x y width height`, the middle and the sides of a box in 0-1 of the image, or `class x y x y ...`, an
outline. An image without a text file has nothing on it.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from vision_agent.data.annotations.checking import Draft, DraftObject, check_names, inside, number
from vision_agent.data.annotations.faults import Faults

IMAGE_ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
_NO_LABELS = frozenset({"classes.txt", "train.txt", "val.txt", "valid.txt", "test.txt", "requirements.txt"})
_VALIDATION = ("val", "valid", "validation")


def image_files(folder: Path) -> list[Path]:
    """Return the image files in a folder and below it, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_ENDINGS)


def yolo_drafts(settings: Path, faults: Faults) -> dict[str, list[Draft]]:
    """Read a set by its `data.yaml`, or by a list of classes beside its images.

    Returns:
        images of "train" and, where the set has its own, of "validation".
    """
    root = settings.parent
    if settings.suffix == ".txt" or settings.name == "obj.names":
        root = root.parent if root.name == "labels" else root
        lines = [line.strip() for line in _text(settings, faults).splitlines()]
        names = [line for line in lines if line]
        parts: dict[str, Any] = _darknet_parts(root, faults)
        keypoints = False
    else:
        content = _yaml(settings, faults)
        names = _names(content, str(settings), faults)
        if isinstance(content.get("path"), str):
            # Ultralytics' `path` may be that of the machine it was written on.
            given = root / content["path"]
            root = given if given.is_dir() and inside(given, [settings.parent]) else root
        own = next((content[key] for key in _VALIDATION if content.get(key)), None)
        # supervision writes names alone.
        parts = _usual_parts(root) if content.get("train") is None and own is None else {"train": content.get("train")}
        parts |= {} if own is None else {"validation": own}
        keypoints = content.get("kpt_shape") is not None
    places = [(f"names[{place}]", name) for place, name in enumerate(names)]
    names = check_names(places, str(settings), faults)
    if not names:
        faults.add("empty set", settings, "names", "no name", fatal=True)
    drafts = {}
    for part, given in parts.items():
        files = list(_listed(given, root, settings, part, faults))
        drafts[part] = [_draft(path, root, names, faults, keypoints) for path in files]
        if part == "train" or files:
            _lonely_labels(files, faults)
    return drafts


def _darknet_parts(root: Path, faults: Faults) -> dict[str, Any]:
    """Lists of images that Darknet's `obj.data` names, as CVAT writes it; without it all images."""
    if not (root / "obj.data").is_file():
        return {"train": "."}
    lines = [line.partition("=") for line in _text(root / "obj.data", faults).splitlines()]
    told = {name.strip(): value.strip() for name, _, value in lines}
    if not told.get("train"):
        return {"train": "."}
    return {"train": told["train"], **({"validation": told["valid"]} if told.get("valid") else {})}


def _usual_parts(root: Path) -> dict[str, Any]:
    """Folders of images, where `data.yaml` names none."""
    parts: dict[str, Any] = {}
    for part, names in (("train", ("train",)), ("validation", _VALIDATION)):
        places = [place for name in names for place in (f"{name}/images", f"images/{name}", name)]
        found = next((place for place in places if (root / place).is_dir()), None)
        parts |= {} if found is None else {part: found}
    return parts if "train" in parts else {"train": "images" if (root / "images").is_dir() else "."}


def _text(path: Path, faults: Faults) -> str:
    try:
        return path.read_text("utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        faults.add("file that cannot be read", path, "", error, fatal=path.suffix != ".txt")
        return ""


def _yaml(path: Path, faults: Faults) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(_text(path, faults))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        faults.add("no YAML", path, "", " ".join(str(error).split()), fatal=True)
        return {}
    if not isinstance(content, Mapping):
        faults.add("no YAML", path, "", "names and folders were expected", fatal=True)
        return {}
    return content


def _names(content: Mapping[str, Any], file: str, faults: Faults) -> list[Any]:
    listed = content.get("names")
    if isinstance(listed, Mapping):
        if sorted(map(str, listed)) != sorted(map(str, range(len(listed)))):
            faults.add("names not numbered from 0", file, "names", list(listed), fatal=True)
            return []
        by_number = {int(key): name for key, name in listed.items()}
        listed = [by_number[place] for place in range(len(by_number))]
    if not isinstance(listed, list):
        faults.add("empty set", file, "names", "no list of names", fatal=True)
        return []
    count = content.get("nc")
    if count is not None and count != len(listed):
        faults.add("wrong count of names", file, "nc", f"{count!r}, but {len(listed)} names", fatal=True)
    # YAML reads a bare `yes` or `1` as no text.
    return [str(name) if isinstance(name, int | float) and not isinstance(name, bool) else name for name in listed]


def _listed(given: Any, root: Path, settings: Path, part: str, faults: Faults) -> Iterator[Path]:
    """The images of one part: of a folder, of a text file that lists them, or of several such."""
    for item in given if isinstance(given, list) else [given]:
        if not isinstance(item, str):
            faults.add("no folder of images", settings, part, repr(item), fatal=True)
            continue
        place = _placed(item, root)
        if place is None or not inside(place, [root, settings.parent]):
            faults.add(
                "no folder of images" if place is None else "link out of the folder", settings, part, item, fatal=True
            )
        elif place.is_dir():
            yield from image_files(place)
        else:
            lines = [line.strip() for line in _text(place, faults).splitlines()]
            yield from (_placed(line, place.parent) or root / line for line in lines if line)


def _placed(name: str, root: Path) -> Path | None:
    """A folder or file by a name that may begin with `../`, as Roboflow writes it beside the folder it means."""
    parts = Path(name.replace("\\", "/")).parts
    below = [part for part in parts if part not in ("..", "/", ".")]
    choices = [root / name, root.joinpath(*below)]
    if Path(name).is_absolute() or ".." in parts:
        choices = choices[::-1]
    if below[:1] == ["data"]:  # CVAT's lists begin with the folder that Darknet has its data in
        choices.append(root.joinpath(*below[1:]))
    return next((path for path in choices if path.exists()), None)


def _label_file(image: Path) -> Path:
    """The text file of an image: beside it, or in `labels` where the image is in `images`."""
    parts = list(image.parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            return Path(*parts[:place], "labels", *parts[place + 1 :]).with_suffix(".txt")
    return image.with_suffix(".txt")


def _lonely_labels(images: Sequence[Path], faults: Faults) -> None:
    """Tell of text files whose image is missing."""
    wanted = {_label_file(image) for image in images}
    for folder in sorted({path.parent for path in wanted}):
        for path in sorted(folder.glob("*.txt")):
            if path in wanted or path.name in _NO_LABELS or path.name.startswith("README"):
                continue
            beside = folder.parent / "images" if folder.name == "labels" else folder
            # It may be of another part, whose images lie in the same folder.
            if not any((beside / (path.stem + ending)).is_file() for ending in IMAGE_ENDINGS):
                faults.add("missing image", path, "", "no image of this name")


def _draft(image: Path, root: Path, names: Sequence[str], faults: Faults, keypoints: bool) -> Draft:
    labels = _label_file(image)
    file = image.relative_to(root).as_posix() if image.is_relative_to(root) else str(image)
    draft = Draft(file, str(labels), image)
    if labels.is_file():
        for place, line in enumerate(_text(labels, faults).splitlines(), 1):
            if line.strip():
                words = line.split()[:5] if keypoints else line.split()  # points of a body follow the box
                draft.objects.append(_object(words, f"line {place}", draft, names, faults))
    return draft


def _object(words: Sequence[str], place: str, image: Draft, names: Sequence[str], faults: Faults) -> DraftObject:
    where = f"{place} of {image.file}"
    values = [_value(word) for word in words]
    held = number(values[0])
    name = None
    if held is None or held % 1:
        faults.add("class that is no whole number", image.annotated_in, where, repr(words[0]))
    elif not 0 <= held < len(names):
        faults.add("class beyond the names", image.annotated_in, where, f"{words[0]} of {len(names)} names")
    else:
        name = names[int(held)]
    given = values[1:]
    if len(given) > 5 or (len(given) == 5 and None in given):
        return DraftObject(place, name, unit=True, polygons=[given])
    if len(given) != 4:
        return DraftObject(place, name, xyxy=given)
    x, y, width, height = (number(value) for value in given)
    if x is None or y is None or width is None or height is None:
        return DraftObject(place, name, xyxy=list(words[1:]))
    if min(x, y, width, height) >= 0 and max(x, y, width, height) > 1.5:
        faults.add("box in pixels, not in 0-1", image.annotated_in, where, " ".join(words[1:]))
        return DraftObject(place, None, xyxy=[0, 0, 0.5, 0.5], unit=True)
    return DraftObject(place, name, [x - width / 2, y - height / 2, x + width / 2, y + height / 2], unit=True)


def _value(word: str) -> Any:
    """A number, or the word itself."""
    try:
        return float(word)
    except ValueError:
        return word
