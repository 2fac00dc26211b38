"""Tables, files and previews of results: what notebooks and spreadsheets take."""

import base64
import csv
import html
import io
import os
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from PIL import Image

from vision_agent.errors import ArgumentTypeError, InputError, MissingExtraError, bad_argument

if TYPE_CHECKING:
    import pandas

Rows = Sequence[Mapping[str, Any]]

DRAWN: Mapping[str, str] = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""Suffixes of files that hold a drawing, and the format of each."""

SUFFIXES = (".json", ".csv", *DRAWN)
_PREVIEW_SIDE = 1024  # pixels, of the drawings that notebooks show


class SeenImage:
    """The image that a result is of, as long as something else keeps it: results shall not fill the memory with images.

    It takes no part in comparisons and copies of results.
    """

    def __init__(self, image: Image.Image | None = None) -> None:
        self._image = None if image is None else weakref.ref(image)

    @property
    def image(self) -> Image.Image | None:
        """The image, upright RGB; None where nothing keeps it any longer."""
        return None if self._image is None else self._image()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SeenImage)

    def __hash__(self) -> int:
        return 0

    def __reduce__(self) -> tuple[type["SeenImage"], tuple[()]]:
        return SeenImage, ()

    def __deepcopy__(self, memo: dict[int, Any]) -> "SeenImage":
        return self


def data_frame(rows: Rows, columns: Sequence[str]) -> "pandas.DataFrame":
    """Return a data frame. Raises MissingExtraError where pandas is not installed."""
    try:
        import pandas
    except ImportError as error:
        raise MissingExtraError('`to_pandas` needs pandas: pip install "internvl-vision-agent[tables]"') from error
    return pandas.DataFrame([list(row.values()) for row in rows], columns=list(columns))


def csv_text(rows: Rows, columns: Sequence[str]) -> str:
    """Return rows as CSV with a header."""
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def check_target(path: object, suffixes: Sequence[str] = SUFFIXES) -> Path:
    """Return the path of a file that a result may be saved as, before anything is made for it.

    Raises:
        ArgumentTypeError: no path.
        InputError: another extension, a folder that is not there, a place that cannot be written.
    """
    if not isinstance(path, str | os.PathLike):
        raise ArgumentTypeError(bad_argument("path", "a path", path))
    target = Path(os.fsdecode(path))
    if target.suffix.lower() not in suffixes:
        raise InputError(bad_argument("path", f"a file name that ends in {', '.join(suffixes)}", str(target)))
    if not target.parent.is_dir():
        raise InputError(bad_argument("path", "in a folder that exists", str(target)))
    if target.is_dir():
        raise InputError(bad_argument("path", "a file, not a folder", str(target)))
    if not os.access(target.parent, os.W_OK):
        raise InputError(bad_argument("path", "in a folder that may be written", str(target)))
    return target


def write_whole(target: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all. Raises InputError where it cannot be written."""
    part = target.with_name(f".{uuid4().hex}.part")
    try:
        try:
            part.write_bytes(data)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{bad_argument('path', 'a file that can be written', str(target))}: {error}") from error


def image_bytes(image: Image.Image, suffix: str) -> bytes:
    """Return an image as a file of the format that goes with a suffix."""
    file = io.BytesIO()
    image.save(file, DRAWN[suffix.lower()])
    return file.getvalue()


def preview(drawing: Image.Image, suffix: str) -> bytes:
    """Return a drawing as a file, no larger than notebooks show it."""
    drawing.thumbnail((_PREVIEW_SIDE, _PREVIEW_SIDE))
    return image_bytes(drawing, suffix)


def image_tag(jpeg: bytes, text: str) -> str:
    """Return HTML that shows a JPEG."""
    data = base64.b64encode(jpeg).decode("ascii")
    return f'<img alt="{html.escape(text)}" src="data:image/jpeg;base64,{data}"/>'
