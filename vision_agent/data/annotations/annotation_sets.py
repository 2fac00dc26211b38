"""Reads a set of annotated images of any known kind, checks all of it, and parts it into training and validation."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from vision_agent.data.annotations.annotated import AnnotatedImage, AnnotationSet
from vision_agent.data.annotations.checking import Draft, check_drafts
from vision_agent.data.annotations.coco import coco_drafts
from vision_agent.data.annotations.faults import Faults
from vision_agent.data.annotations.labelme import labelme_drafts
from vision_agent.data.annotations.refcoco import expression_files, is_expression_file, refcoco_drafts
from vision_agent.data.annotations.voc import voc_drafts
from vision_agent.data.annotations.yolo import yolo_drafts
from vision_agent.errors import InputError, bad_argument
from vision_agent.images.loading import ImageLimits

AnnotationKind = Literal["auto", "coco", "yolo", "voc", "labelme", "refcoco"]
_PARTS = {"train": ("train",), "validation": ("valid", "val", "validation")}
_COCO_NAMES = ("_annotations.coco.json", "annotations.json", "instances.json", "result.json")


def read_annotations(
    data: str | Path,
    *,
    images: str | Path | None = None,
    kind: AnnotationKind = "auto",
    validation: float | str | Path = 0.2,
    skip_bad: bool = False,
    limits: ImageLimits | None = None,
) -> AnnotationSet:
    """Read and check a whole set before anything is trained on it.

    Args:
        data: a COCO JSON, a YOLO `data.yaml`, or a folder: YOLO, Pascal VOC, LabelMe, or one with `train` and `valid`
            folders, as Roboflow and supervision write them; or RefCOCO's `refs(unc).p` beside its `instances.json`.
        images: the folder that the images are in; None for where the format has them. A COCO JSON has them beside it,
            or in `images` beside it.
        kind: "auto" recognises it.
        validation: the share of images that is kept back, by a hash of each file's name, so that the same image is
            always on the same side; or another set of the same kind. A set that has its own parts keeps them, unless
            another set is given.
        skip_bad: leave out faulty objects and images, and say so in `left_out`, where False raises.
        limits: sizes and formats of images that are accepted.

    Returns:
        the set, with at least one object in either part.

    Raises:
        AnnotationError: something is wrong; tells all of it at once, with file, place and count.
        InputError: no such file, or none of a known kind.
    """
    data = Path(data)
    folder = None if images is None else Path(images)
    _check_arguments(data, folder, kind, validation)
    faults = Faults()
    found = _kind_of(data) if kind == "auto" else kind
    drafts = _drafts(found, data, folder, faults)
    roots = [_root_of(data), *([] if folder is None else [folder])]
    if isinstance(validation, str | Path):
        other = Path(validation)
        drafts = {
            "train": [draft for part in drafts.values() for draft in part],
            "validation": [draft for part in _drafts(found, other, folder, faults).values() for draft in part],
        }
        roots.append(_root_of(other))
    limits = limits or ImageLimits()
    checked = {part: check_drafts(some, roots, faults, limits) for part, some in drafts.items()}
    _check_apart(checked, data, faults)
    if not checked.get("validation") and isinstance(validation, int | float):
        checked = _parted(checked.get("train", []), validation)
    for part in ("train", "validation"):
        if not any(image.objects for image in checked.get(part, [])):
            said = "no image with an object" if faults.found else "no object is marked on any image"
            faults.add("empty set", data, part, said, fatal=True)
    names = {name for part in checked.values() for image in part for each in image.objects for name in each.names}
    left_out = faults.settle(skip_bad, str(data))
    return AnnotationSet(found, tuple(checked["train"]), tuple(checked["validation"]), tuple(sorted(names)), left_out)


def _root_of(data: Path) -> Path:
    """The folder of a set: its images may lie beside the folder `annotations`."""
    if data.is_dir():
        return data
    return data.parent.parent if data.parent.name == "annotations" else data.parent


def held_back(file: str, share: float) -> bool:
    """Whether an image is one of the share that is kept back: it follows from its name alone."""
    return int(hashlib.sha256(file.encode("utf-8", "surrogatepass")).hexdigest()[:8], 16) < share * 2**32


def _check_arguments(data: Path, images: Path | None, kind: str, validation: float | str | Path) -> None:
    if not data.exists():
        raise InputError(bad_argument("data", "a file or a folder that exists", str(data)))
    if images is not None and not images.is_dir():
        raise InputError(bad_argument("images", "a folder that exists", str(images)))
    if kind not in get_args(AnnotationKind):
        raise InputError(bad_argument("kind", f"one of {', '.join(get_args(AnnotationKind))}", kind))
    if isinstance(validation, str | Path):
        if not Path(validation).exists():
            expected = "a share above 0 and below 1, or a set that exists"
            raise InputError(bad_argument("validation", expected, str(validation)))
    elif isinstance(validation, bool) or not isinstance(validation, int | float) or not 0 < validation < 1:
        raise InputError(bad_argument("validation", "a share above 0 and below 1, or a set that exists", validation))


def _kind_of(data: Path) -> Literal["coco", "yolo", "voc", "labelme", "refcoco"]:
    if is_expression_file(data) or (data.is_dir() and expression_files(data)):
        return "refcoco"
    if data.is_file():
        if data.suffix.lower() in (".yaml", ".yml") or data.name in ("classes.txt", "obj.names"):
            return "yolo"
        if data.suffix.lower() == ".xml":
            return "voc"
        return "labelme" if _has_shapes(data) else "coco"
    if _settings_of(data) is not None:
        return "yolo"
    if _coco_files(data):
        return "coco"
    if next(data.rglob("*.xml"), None) is not None:
        return "voc"
    if any(_has_shapes(path) for path in sorted(data.rglob("*.json"))[:20]):
        return "labelme"
    if any(path.is_file() for path in data.glob("*.json")):
        return "coco"
    expected = "a folder with a COCO JSON, a data.yaml or classes.txt, VOC's XML files or LabelMe's JSON files"
    raise InputError(bad_argument("data", expected, str(data)))


def _has_shapes(path: Path) -> bool:
    try:
        content = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, Mapping) and "shapes" in content


def _settings_of(folder: Path) -> Path | None:
    """The file with a YOLO folder's names."""
    names = ("data.yaml", "data.yml", "dataset.yaml", "classes.txt", "obj.names", "labels/classes.txt")
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _coco_files(folder: Path) -> dict[str, Path]:
    """COCO's files of a folder, by part."""
    found = {}
    for part, names in _PARTS.items():
        places = [folder / name for name in names if (folder / name).is_dir()]
        files = [place / name for place in places for name in _COCO_NAMES if (place / name).is_file()]
        files += _files_of_part(folder, names)
        if files:
            found[part] = files[0]
    if "train" in found:
        return found
    files = [folder / name for name in _COCO_NAMES if (folder / name).is_file()]
    # CVAT calls a set without parts "default".
    files += [*found.values(), *(folder / "annotations").glob("instances_default.json")]
    return {"train": files[0]} if files else {}


def _files_of_part(folder: Path, names: Sequence[str]) -> list[Path]:
    """COCO's own layout, annotations/instances_train2017.json, CVAT's instances_Train.json, and a plain train.json."""
    meant = re.compile(rf"(instances_)?({'|'.join(names)})\d*")
    listed = [*sorted((folder / "annotations").glob("*.json")), *sorted(folder.glob("*.json"))]
    return [path for path in listed if meant.fullmatch(path.stem.lower()) and not _has_shapes(path)]


def _drafts(kind: str, data: Path, images: Path | None, faults: Faults) -> dict[str, list[Draft]]:
    if kind == "coco":
        return _coco(data, images, faults)
    if kind == "refcoco":
        return refcoco_drafts(data, images, faults)
    if kind == "yolo":
        settings = data if data.is_file() else _settings_of(data)
        if settings is None:
            raise InputError(bad_argument("data", "a folder with data.yaml or classes.txt", str(data)))
        return yolo_drafts(settings, faults)
    if data.is_file():
        return _one_file(kind, data, images, faults)
    parts = {
        part: place
        for part, names in _PARTS.items()
        for name in names
        if (place := data / name).is_dir() and not (data / "Annotations").is_dir()
    }
    if "train" not in parts:
        return _folder(kind, data, images, faults)
    return {
        part: [draft for some in _folder(kind, place, images, faults).values() for draft in some]
        for part, place in parts.items()
    }


def _folder(kind: str, folder: Path, images: Path | None, faults: Faults) -> dict[str, list[Draft]]:
    if kind == "voc":
        return voc_drafts(folder, images, faults)
    files = sorted(folder.rglob("*.json"))
    if not files:
        faults.add("empty set", folder, "", "no JSON file", fatal=True)
    return {"train": labelme_drafts(files, images, faults)}


def _one_file(kind: str, data: Path, images: Path | None, faults: Faults) -> dict[str, list[Draft]]:
    if kind == "labelme":
        return {"train": labelme_drafts([data], images, faults)}
    raise InputError(bad_argument("data", "a folder of VOC's XML files", str(data)))


def _coco(data: Path, images: Path | None, faults: Faults) -> dict[str, list[Draft]]:
    files = {"train": data} if data.is_file() else _coco_files(data)
    if not files:
        listed = sorted(data.glob("*.json"))
        if len(listed) != 1:
            expected = f"a COCO JSON, or a folder with one of {', '.join(_COCO_NAMES)}"
            raise InputError(bad_argument("data", expected, str(data)))
        files = {"train": listed[0]}
    drafts: dict[str, list[Draft]] = {}
    for part, path in files.items():
        drafts[part], _ = coco_drafts(path, images or _images_of(path), faults)
    return drafts


def _images_of(path: Path) -> Path:
    """The folder of a COCO file's images: one that its name tells, `images`, or its own."""
    part = path.stem.removeprefix("instances_")
    beside = path.parent.parent if path.parent.name == "annotations" else path.parent
    choices = (beside / part, beside / "images" / part, path.parent / "images", beside / "images")
    return next((folder for folder in choices if folder.is_dir()), beside)


def _check_apart(parts: Mapping[str, Sequence[AnnotatedImage]], data: Path, faults: Faults) -> None:
    """No file is trained on and measured by."""
    trained = {image.source.resolve() for image in parts.get("train", ()) if isinstance(image.source, Path)}
    for image in parts.get("validation", ()):
        if isinstance(image.source, Path) and image.source.resolve() in trained:
            faults.add("image in both parts", data, image.file, fatal=True)


def _parted(images: Sequence[AnnotatedImage], share: float) -> dict[str, list[AnnotatedImage]]:
    """By the hash of the name. Where one side has nothing marked, the image nearest to the border changes sides."""
    held = [image for image in images if held_back(image.file, share)]
    kept = [image for image in images if not held_back(image.file, share)]
    if not any(image.objects for image in held):
        movable = sorted((image for image in kept if image.objects), key=lambda image: _digest(image.file))[:1]
        kept, held = [image for image in kept if image not in movable], held + movable
    elif not any(image.objects for image in kept):
        movable = sorted((image for image in held if image.objects), key=lambda image: _digest(image.file))[-1:]
        held, kept = [image for image in held if image not in movable], kept + movable
    return {"train": kept, "validation": held}


def _digest(file: str) -> str:
    return hashlib.sha256(file.encode("utf-8", "surrogatepass")).hexdigest()
