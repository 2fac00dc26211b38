"""Where commands write images: checked before any work, and written whole or not at all."""

import os
from pathlib import Path

from PIL import Image

from vision_agent.batch.records import replacing
from vision_agent.errors import InputError, bad_argument

_FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
_LOSSY = {"JPEG": {"quality": 95}, "WEBP": {"quality": 95}}


class ImageOutput:
    """The place that `--save` names: a file, or for several images a folder, which is made where it is missing.

    Args:
        path: what the user gave.
        several: more than one image may come.
        name: of the option, for errors.

    Raises:
        InputError: an extension that no image format has, a folder that is missing or that cannot be written.
    """

    def __init__(self, path: Path, *, several: bool, name: str = "save") -> None:
        self._path = path
        self._is_folder = path.is_dir() or (several and not path.suffix)
        self._taken: set[str] = set()
        if several and not self._is_folder:
            raise InputError(bad_argument(name, "a folder, for there are several images", str(path)))
        if not self._is_folder and path.suffix.lower() not in _FORMATS:
            raise InputError(bad_argument(name, f"a file that ends in one of {', '.join(_FORMATS)}", str(path)))
        folder = path if path.is_dir() else path.parent
        if not folder.is_dir():
            raise InputError(bad_argument(name, "a file in a folder that exists", str(path)))
        if not os.access(folder, os.W_OK):
            raise InputError(bad_argument(name, "in a folder that may be written to", str(path)))

    def write(self, image: Image.Image, source: str, number: int = 1) -> Path:
        """Write an image, and return where.

        Args:
            source: the file it was made of, which names it in a folder.
            number: of those that go to one file: from the second on its name ends in it.
        """
        path = self._path if number == 1 else self._path.with_stem(f"{self._path.stem}-{number}")
        if self._is_folder:
            self._path.mkdir(exist_ok=True)
            path = self._path / f"{self._free_name(source)}.png"
        kind = _FORMATS[path.suffix.lower()]
        with replacing(path) as part:
            image.convert("RGB").save(part, kind, **_LOSSY.get(kind, {}))
        return path

    def _free_name(self, source: str) -> str:
        """The file's own name, with a number where another file of this run has it."""
        own = {"-": "stdin", "": "image"}.get(source) or Path(source).stem or "image"
        name, number = own, 1
        while name in self._taken:
            number += 1
            name = f"{own}-{number}"
        self._taken.add(name)
        return name
