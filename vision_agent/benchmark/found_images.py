"""Finds the images that a benchmark's files name, below the folders that publishers put them in."""

import io
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image, UnidentifiedImageError

from vision_agent.data.annotations.faults import Faults

_COCO = ("val2017", "train2017", "test2017", "val2014", "train2014", "test2015")
_FOLDERS = (
    *("", "images", "image", "png", "documents", "spdocvqa_images", "infographicsvqa_images", "OCRBench_Images"),
    *("train_images", "test_images", *_COCO, "train", "valid", "test", "coco"),
    *(f"{parent}/{part}" for parent in ("images", "coco", "images/mscoco/images") for part in _COCO),
)
_SUFFIXES = ("", ".jpg", ".png", ".jpeg")


class FoundImages:
    """Looks for images by the names that rows have.

    Args:
        roots: folders to look in, best first: what the user named, the file's own, and the one above.
        faults: takes images that are missing or damaged.
        check: whether to open each image; a file's head is read, no pixels.
    """

    def __init__(self, roots: list[Path], faults: Faults, check: bool = True) -> None:
        self._roots = list(dict.fromkeys(roots))
        self._faults = faults
        self._check = check
        self._last: tuple[Path, bool, str] | None = None
        self._seen: dict[str, Path | None] = {}

    def of(self, value: Any, file: Path, place: str) -> Path | bytes | None:
        """Return the image that a row's field names or holds; None, and a fault, where there is none."""
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, dict) and isinstance(value.get("bytes"), bytes | bytearray):
            data = bytes(value["bytes"])
            return data if self._opens(io.BytesIO(data), file, place, f"{len(data)} bytes") else None
        if isinstance(value, dict):
            value = value.get("path")
        if not isinstance(value, str | int) or value == "":
            self._faults.add("no image", file, place, repr(value)[:80], fatal=True)
            return None
        name = str(value)
        if name not in self._seen:
            self._seen[name] = self._find(name, file, place)
        return self._seen[name]

    def _find(self, name: str, file: Path, place: str) -> Path | None:
        plain = PurePosixPath(name.replace("\\", "/"))
        if ".." in plain.parts:
            self._faults.add("image outside its folder", file, place, name, fatal=True)
            return None
        folders = [root / folder for root in self._roots for folder in _FOLDERS]
        tries = [(folder, short, suffix) for folder in folders for short, suffix in _ENDS]
        for folder, short, suffix in [*([self._last] if self._last else []), *tries]:
            path = folder / ((plain.name if short else str(plain).lstrip("/")) + suffix)
            if path.is_file():
                self._last = (folder, short, suffix)
                return path if self._opens(path, file, place, name) else None
        # InternVL's lines name images from the folder that its scripts start in: "data/docvqa/val/documents/a.png".
        shorter = (PurePosixPath(*plain.parts[first:]) for first in range(1, len(plain.parts) - 1))
        below = next((root / each for each in shorter for root in self._roots if (root / each).is_file()), None)
        if below is not None:
            return below if self._opens(below, file, place, name) else None
        self._faults.add("missing image", file, place, f"{name} in {self._roots[0]}", fatal=True)
        return None

    def _opens(self, source: Path | io.BytesIO, file: Path, place: str, name: str) -> bool:
        if not self._check:
            return True
        try:
            with Image.open(source):
                return True
        except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError) as error:
            self._faults.add("damaged image", file, place, f"{name}: {error}", fatal=True)
            return False


_ENDS = [(short, suffix) for suffix in _SUFFIXES for short in (False, True)]
