"""Folders of labelled images: a folder a class, as ImageNet has, or index maps beside the images, as ADE20K has.

All faults are found before anything is trained, and told together.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from vision_agent.batch.files import IMAGE_SUFFIXES
from vision_agent.errors import AnnotationError, InputError, bad_argument
from vision_agent.images.loading import load_image

UNKNOWN = 255
"""In index maps: pixels that are not trained or measured, whatever the numbers of classes are."""

_TRAIN, _VALIDATION = ("train", "training"), ("val", "valid", "validation", "test")
_IMAGES, _MASKS = ("images", "image", "img"), ("annotations", "masks", "labels", "mask")
_SHOWN = 20  # faults


@dataclass(frozen=True)
class LabelledImage:
    """An image and its label: a class, or for segmentation the file of its index map."""

    file: Path
    label: int = -1
    mask: Path | None = None


@dataclass(frozen=True)
class LabelledSet:
    """Images of named classes, those to learn from and those to measure by.

    Attributes:
        names: of classes; of segmentation too, index 0 of the names is value `first` of the maps.
        first: value of the first class in index maps; smaller ones have no label.
    """

    kind: Literal["classify", "semseg"]
    names: tuple[str, ...]
    training: tuple[LabelledImage, ...]
    validation: tuple[LabelledImage, ...]
    first: int = 0

    def classes_of(self, example: LabelledImage) -> npt.NDArray[np.uint8]:
        """Return the index map of an image as classes from 0, (H, W); `UNKNOWN` where it has none."""
        assert example.mask is not None
        with Image.open(example.mask) as opened:
            values = np.asarray(opened).astype(np.int64)
        known = (values >= self.first) & (values < self.first + len(self.names)) & (values != UNKNOWN)
        return np.where(known, values - self.first, UNKNOWN).astype(np.uint8)


def read_classes(folder: Path, kept_back: float = 0.2) -> LabelledSet:
    """Read a folder of an image folder a class; or of `train` and `val` with such folders.

    Args:
        kept_back: share to measure by where there is no `val`, by a hash of the images' names.

    Raises:
        AnnotationError: no classes, a class with too few images, images that cannot be read; all of them at once.
    """
    train, held = _part(folder, _TRAIN), _part(folder, _VALIDATION)
    root = train or folder
    names = tuple(sorted(each.name for each in root.iterdir() if each.is_dir() and not each.name.startswith(".")))
    faults: list[str] = []
    if len(names) < 2:
        raise AnnotationError(f"`data` must be a folder with at least two folders of images, but got {str(folder)!r}")
    found = [LabelledImage(file, label) for label, name in enumerate(names) for file in _images(root / name)]
    if train is not None and held is not None:
        for extra in sorted({each.name for each in held.iterdir() if each.is_dir()} - set(names)):
            faults.append(f"{held / extra}: a class that {root} has not")
        measured = [
            LabelledImage(file, label)
            for label, name in enumerate(names)
            if (held / name).is_dir()
            for file in _images(held / name)
        ]
        learned = found
    else:
        learned, measured = _split(found, kept_back)
    counts = Counter(each.label for each in learned)
    for label, name in enumerate(names):
        if counts[label] < 2:
            faults.append(f"{root / name}: {counts[label]} images to learn from; at least 2 are needed")
    faults += _unreadable([*learned, *measured], lambda example: None)
    return _checked(LabelledSet("classify", names, tuple(learned), tuple(measured)), faults, folder)


def read_maps(folder: Path, kept_back: float = 0.2, first: int = 1) -> LabelledSet:
    """Read a folder with `images` and `annotations` (or `masks`), and in both `training` and `validation`, or neither.

    An annotation has the name of its image, ends in .png and holds a class a pixel. Names of classes come from
    `objectInfo150.txt` or `classes.txt` (one a line) beside them; without, they are "class 1" and so on.

    Args:
        kept_back: as for `read_classes`.
        first: value of the first class; 1 as in ADE20K, where 0 is unlabelled, or 0.

    Raises:
        AnnotationError: missing or damaged maps, of another size, in colours, or with values that have no name; all
            of them at once.
    """
    if first not in (0, 1):
        raise InputError(bad_argument("first", "0 or 1", first))
    images, masks = _part(folder, _IMAGES), _part(folder, _MASKS)
    if images is None or masks is None:
        raise AnnotationError(f"`data` must be a folder with images/ and annotations/, but got {str(folder)!r}")
    faults: list[str] = []
    train, held = _part(images, _TRAIN), _part(images, _VALIDATION)
    if train is not None and held is not None:
        learned, measured = (
            list(_with_masks(part, _part(masks, words) or masks / part.name, faults))
            for part, words in ((train, _TRAIN), (held, _VALIDATION))
        )
    else:
        learned, measured = _split(list(_with_masks(images, masks, faults)), kept_back)
    names = _class_names(folder)
    highest = 0

    def check(example: LabelledImage) -> str | None:
        nonlocal highest
        assert example.mask is not None
        with Image.open(example.mask) as mask, Image.open(example.file) as image:
            if mask.mode not in ("L", "P", "I", "I;16", "1"):
                return f"{example.mask}: an index map has one number a pixel, but this is of mode {mask.mode!r}"
            if mask.size != image.size:
                return f"{example.mask}: is of {mask.size}, its image of {image.size}"
            values = np.unique(np.asarray(mask))
        top = int(max((value for value in values if value != UNKNOWN), default=0))
        highest = max(highest, top)
        if names and top >= first + len(names):
            return f"{example.mask}: has the value {top}, but names end at {first + len(names) - 1}"
        return None

    faults += _unreadable([*learned, *measured], check)
    names = names or tuple(f"class {value}" for value in range(first, highest + 1))
    if len(names) >= UNKNOWN:
        faults.append(f"{folder}: {len(names)} classes, of which there may be at most {UNKNOWN - 1}")
    return _checked(LabelledSet("semseg", names, tuple(learned), tuple(measured), first), faults, folder)


def _part(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _images(folder: Path) -> list[Path]:
    return sorted(each for each in folder.rglob("*") if each.suffix.lower() in IMAGE_SUFFIXES and each.is_file())


def _split(examples: Sequence[LabelledImage], kept_back: float) -> tuple[list[LabelledImage], list[LabelledImage]]:
    """Those to learn from and to measure by: of each class the share that its files' hashes put first."""
    if isinstance(kept_back, bool) or not isinstance(kept_back, int | float) or not 0 < kept_back < 1:
        raise InputError(bad_argument("kept_back", "a share between 0 and 1", kept_back))
    by_label: dict[int, list[LabelledImage]] = {}
    for example in examples:
        by_label.setdefault(example.label, []).append(example)
    learned: list[LabelledImage] = []
    measured: list[LabelledImage] = []
    for some in by_label.values():
        some = sorted(some, key=lambda each: hashlib.sha256(each.file.name.encode("utf-8", "replace")).digest())
        count = round(len(some) * kept_back)
        measured += some[:count]
        learned += some[count:]
    return sorted(learned, key=lambda each: each.file), sorted(measured, key=lambda each: each.file)


def _with_masks(images: Path, masks: Path, faults: list[str]) -> Iterator[LabelledImage]:
    for file in _images(images):
        mask = masks / file.relative_to(images).with_suffix(".png")
        if mask.is_file():
            yield LabelledImage(file, mask=mask)
        else:
            faults.append(f"{file}: no index map at {mask}")


def _class_names(folder: Path) -> tuple[str, ...]:
    table = folder / "objectInfo150.txt"
    if table.is_file():
        rows = [line.split("\t") for line in table.read_text("utf-8").splitlines()[1:] if line.strip()]
        return tuple(row[-1].split(",")[0].strip() for row in rows)
    listed = folder / "classes.txt"
    if not listed.is_file():
        return ()
    return tuple(line.strip() for line in listed.read_text("utf-8").splitlines() if line.strip())


def _unreadable(examples: Sequence[LabelledImage], check: Callable[[LabelledImage], str | None]) -> list[str]:
    faults = []
    for example in examples:
        try:
            load_image(example.file)
            fault = check(example)
        except (InputError, OSError) as error:
            fault = f"{example.file}: {error}"
        if fault is not None:
            faults.append(fault)
    return faults


def _checked(made: LabelledSet, faults: list[str], folder: Path) -> LabelledSet:
    if not made.training or not made.validation:
        faults.append(f"{folder}: {len(made.training)} images to learn from and {len(made.validation)} to measure by")
    if faults:
        more = f" and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise AnnotationError(f"`data` has {len(faults)} faults: {'; '.join(faults[:_SHOWN])}{more}", tuple(faults))
    return made
