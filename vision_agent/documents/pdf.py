"""PDFs by PDFium: pages as images of bounded size, and the text that a page brings along.

PDFium is not safe in several threads, not even with several documents, so every call is made under one lock of the
process. Pages are opened and closed one at a time.
"""

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from vision_agent.errors import DocumentError, MissingExtraError, PasswordError

LOCK = threading.RLock()
"""Held for every call into PDFium."""

SCALE = 2000 / 842  # pixels a point: an A4 page gets a long side of 2000 pixels (171 dpi)
MAX_PIXELS = 32_000_000  # of a page's image; larger pages (A0) get fewer pixels a point
MAX_IMAGE_PIXELS = 250_000_000  # of an image inside a page, which PDFium decodes as a whole

_MOST_CHARACTERS = 200_000  # of a page; more is no page to read


@dataclass(frozen=True)
class Layer:
    """The characters of a page's own text, in the order of the file.

    Attributes:
        characters: n of them; PDFium's own spaces and line ends, which it puts where text stands apart, are among them.
        boxes: xyxy (n, 4) in pixels of the page's image; zeros for characters without a place.
        angles: degrees clockwise (n,) by which each is turned on the page's image.
        shown: whether each is drawn at all, by its own colour and mode (n,): not invisible, not transparent.
        colors: red, green, blue (n, 3) it is drawn in.
        fonts: a number for each font (n,).
        covered: boxes (m, 4) of the page's images, under or over which text may lie.
    """

    characters: str
    boxes: npt.NDArray[np.float64]
    angles: npt.NDArray[np.float64]
    shown: npt.NDArray[np.bool_]
    colors: npt.NDArray[np.uint8]
    fonts: npt.NDArray[np.int64]
    covered: npt.NDArray[np.float64]


@dataclass(frozen=True)
class PdfPage:
    """A page as an image, with its own text if it has any."""

    image: Image.Image
    scale: float
    layer: Layer | None


class PdfFile:
    """An open PDF. Use it as a context manager.

    Raises:
        DocumentError: broken, empty, or no PDF.
        PasswordError: encrypted, and the password is missing or wrong.
        MissingExtraError: pypdfium2 is not installed.
    """

    def __init__(self, source: Any, *, password: str | None = None, name: str = "source") -> None:
        self._name = name
        pdfium = _pdfium()
        if isinstance(source, memoryview | bytearray):
            source = bytes(source)
        with LOCK:
            try:
                self._document = pdfium.PdfDocument(
                    os.fspath(source) if isinstance(source, os.PathLike) else source, password=password
                )
            except (pdfium.PdfiumError, OSError, ValueError) as error:
                raise self._opening_error(error, password) from error
            self._pages = len(self._document)
            if not self._pages:
                self._document.close()
                raise DocumentError(f"`{name}` must be a PDF with pages, but got one that has none")
            with suppress(pdfium.PdfiumError):  # a broken form is not drawn; the page still is
                self._document.init_forms()

    def __len__(self) -> int:
        return self._pages

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with LOCK:
            self._document.close()

    def page(self, number: int, *, with_layer: bool = True) -> PdfPage:
        """Render page `number`, from 1. Raises DocumentError for a page that is broken or too large to draw."""
        pdfium = _pdfium()
        with LOCK, _page(self._document, number, self._name, pdfium) as page:
            width, height = page.get_size()
            if not (width > 0 and height > 0):
                raise DocumentError(
                    f"page {number} of `{self._name}` must have a size, but it is {width} x {height} points"
                )
            scale = min(SCALE, (MAX_PIXELS / (width * height)) ** 0.5)
            images = _images(page, number, self._name, pdfium)
            bitmap = page.render(scale=scale, rev_byteorder=True, maybe_alpha=False)
            try:
                image = bitmap.to_pil().convert("RGB").copy()
                layer = _layer(page, bitmap, images, pdfium) if with_layer else None
            finally:
                bitmap.close()
        return PdfPage(image, scale, layer)

    def _opening_error(self, error: Exception, password: str | None) -> DocumentError:
        code = getattr(error, "err_code", None)
        raw = _pdfium().raw
        if code == raw.FPDF_ERR_PASSWORD:
            if password is None:
                return PasswordError(f"`{self._name}` is an encrypted PDF: give its `password`")
            return PasswordError(f"`{self._name}` is an encrypted PDF, and `password` is not its password")
        if code == raw.FPDF_ERR_SECURITY:
            return DocumentError(f"`{self._name}` is a PDF with an encryption that cannot be read")
        return DocumentError(f"`{self._name}` must be a complete PDF, but got one that is broken ({error})")


def _pdfium() -> ModuleType:
    try:
        import pypdfium2
    except ImportError as error:
        raise MissingExtraError('PDFs need pypdfium2: pip install "internvl-vision-agent[ocr]"') from error
    module: ModuleType = pypdfium2
    return module


@contextmanager
def _page(document: Any, number: int, name: str, pdfium: Any) -> Iterator[Any]:
    try:
        page = document[number - 1]
    except (pdfium.PdfiumError, IndexError) as error:
        raise DocumentError(f"page {number} of `{name}` is broken ({error})") from error
    try:
        yield page
    finally:
        page.close()


def _images(page: Any, number: int, name: str, pdfium: Any) -> list[tuple[float, float, float, float]]:
    """Bounds (left, bottom, right, top), points, of the images in a page, once none is too large to decode."""
    bounds = []
    for item in page.get_objects(filter=[pdfium.raw.FPDF_PAGEOBJ_IMAGE], max_depth=4):
        width, height = item.get_px_size()
        if width * height > MAX_IMAGE_PIXELS:
            raise DocumentError(
                f"page {number} of `{name}` must hold images of at most {MAX_IMAGE_PIXELS} pixels, "
                f"but one is {width} x {height}"
            )
        bounds.append(item.get_bounds())
    return bounds


def _layer(page: Any, bitmap: Any, images: list[tuple[float, float, float, float]], pdfium: Any) -> Layer | None:
    """The page's characters, or None where it has none."""
    raw = pdfium.raw
    text = page.get_textpage()
    try:
        count = text.count_chars()
        if not 0 < count <= _MOST_CHARACTERS:
            return None
        codes = np.array([raw.FPDFText_GetUnicode(text, index) for index in range(count)], dtype=np.uint32)
        if not (codes > 32).any():
            return None
        place = bitmap.get_posconv(page)
        turned = page.get_rotation()
        sides = np.zeros((count, 4))
        angles = np.zeros(count)
        styles = _Styles(raw)
        style = np.zeros(count, dtype=np.int64)
        rect = raw.FS_RECTF()
        for index in np.flatnonzero(codes > 32).tolist():
            if raw.FPDFText_GetLooseCharBox(text, index, rect):
                sides[index] = rect.left, rect.top, rect.right, rect.bottom
            angles[index] = raw.FPDFText_GetCharAngle(text, index)
            style[index] = styles.of(raw.FPDFText_GetTextObject(text, index))
        table = styles.table()
        return Layer(
            characters="".join(chr(code) if 0 < code < 0x110000 else "\ufffd" for code in codes.tolist()),
            boxes=_on_image(sides, place),
            angles=(np.degrees(angles) + turned) % 360,
            shown=table[style, 0].astype(bool),
            colors=table[style, 1:4].astype(np.uint8),
            fonts=table[style, 4],
            covered=_on_image(np.array([(a, d, c, b) for a, b, c, d in images]).reshape(-1, 4), place),
        )
    finally:
        text.close()


class _Styles:
    """How each piece of text is drawn; pieces share characters, so each is asked once."""

    _UNSEEN_MODES = (3, 7)  # of PDF: neither filled nor stroked; a clip alone

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._rows: list[tuple[int, int, int, int, int]] = [(1, 0, 0, 0, -1)]
        self._known: dict[int, int] = {}
        self._fonts: dict[int, int] = {}

    def of(self, item: Any) -> int:
        """Return the number of a text object's style."""
        address = ctypes.cast(item, ctypes.c_void_p).value if item else None
        if address is None:
            return 0
        if address not in self._known:
            self._known[address] = len(self._rows)
            self._rows.append(self._row(item))
        return self._known[address]

    def _row(self, item: Any) -> tuple[int, int, int, int, int]:
        raw = self._raw
        parts = [ctypes.c_uint() for _ in range(4)]
        mode = raw.FPDFTextObj_GetTextRenderMode(item)
        stroked = mode in (1, 5)
        read = raw.FPDFPageObj_GetStrokeColor if stroked else raw.FPDFPageObj_GetFillColor
        known = read(item, *parts)
        red, green, blue, alpha = (part.value for part in parts) if known else (0, 0, 0, 255)
        font = ctypes.cast(raw.FPDFTextObj_GetFont(item), ctypes.c_void_p).value or 0
        number = self._fonts.setdefault(font, len(self._fonts))
        return int(mode not in self._UNSEEN_MODES and alpha > 25), red, green, blue, number

    def table(self) -> npt.NDArray[np.int64]:
        """Return shown, red, green, blue, font of each style."""
        return np.array(self._rows, dtype=np.int64)


def _on_image(sides: npt.NDArray[np.float64], place: Any) -> npt.NDArray[np.float64]:
    """Boxes (n, 4) left, top, right, bottom in points, y upwards, to xyxy in pixels of the page's image."""
    if not len(sides):
        return sides
    # The conversion is affine: three points give it, and numpy does the rest.
    unit = 1000.0
    origin, x_axis, y_axis = (
        np.array(place.to_bitmap(x, y), dtype=np.float64) for x, y in ((0, 0), (unit, 0), (0, unit))
    )
    matrix = np.stack([(x_axis - origin) / unit, (y_axis - origin) / unit])
    corners = sides.reshape(-1, 2, 2) @ matrix + origin
    boxes: npt.NDArray[np.float64] = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    return boxes
