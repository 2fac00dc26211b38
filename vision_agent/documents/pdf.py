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
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from vision_agent.errors import DocumentError, MissingExtraError, PasswordError

LOCK = threading.RLock()
"""Held for every call into PDFium."""

SCALE = 2000 / 842  # pixels a point: an A4 page gets a long side of 2000 pixels (171 dpi)
MAX_PIXELS = 32_000_000  # of a page's image; larger pages (A0) get fewer pixels a point
MAX_IMAGE_PIXELS = 250_000_000  # of an image inside a page, which PDFium decodes as a whole

HYPHEN = 2  # PDFium's code for a hyphen at a line's end

_MOST_CHARACTERS = 200_000  # of a page; more is no page to read
_MOST_FIELDS = 5_000  # of a page's form
_BOLD_NAMES = ("bold", "black", "heavy")  # in a font's name; not all fonts say their weight elsewhere
_FIXED_NAMES = ("courier", "mono", "consolas", "menlo", "typewriter", "cmtt")


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
        baselines: x, y (n, 2) in pixels of the page's image where each stands; zeros for characters without a place.
        sizes: of each one's font (n,), pixels.
        bold, fixed: whether its font is heavy, and whether all its characters are equally wide (n,).
        covered: boxes (m, 4) of the page's images, under or over which text may lie.
    """

    characters: str
    boxes: npt.NDArray[np.float64]
    angles: npt.NDArray[np.float64]
    shown: npt.NDArray[np.bool_]
    colors: npt.NDArray[np.uint8]
    fonts: npt.NDArray[np.int64]
    baselines: npt.NDArray[np.float64]
    sizes: npt.NDArray[np.float64]
    bold: npt.NDArray[np.bool_]
    fixed: npt.NDArray[np.bool_]
    covered: npt.NDArray[np.float64]


@dataclass(frozen=True)
class PdfField:
    """A field of a form that people fill in on screen.

    Attributes:
        kind: what it is.
        name: the file's name for it; `label` is what it shows people, "" where it has none.
        value: what it holds; of a box or button the name of its state.
        checked: of a box or a button.
        box: xyxy in pixels of the page's image.
    """

    kind: Literal["text", "choice", "check box", "radio button"]
    name: str
    label: str
    value: str
    checked: bool
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class PdfPage:
    """A page as an image, with its own text if it has any, and the fields of its form."""

    image: Image.Image
    scale: float
    layer: Layer | None
    fields: tuple[PdfField, ...] = ()


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
                fields = _fields(page, bitmap, self._document, pdfium)
            finally:
                bitmap.close()
        return PdfPage(image, scale, layer, fields)

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
        sides, stands = np.zeros((count, 4)), np.zeros((count, 4))
        angles = np.zeros(count)
        styles = _Styles(raw)
        style = np.zeros(count, dtype=np.int64)
        rect = raw.FS_RECTF()
        x, y = ctypes.c_double(), ctypes.c_double()
        for index in np.flatnonzero((codes > 32) | (codes == HYPHEN)).tolist():
            if raw.FPDFText_GetLooseCharBox(text, index, rect):
                sides[index] = rect.left, rect.top, rect.right, rect.bottom
            angles[index] = raw.FPDFText_GetCharAngle(text, index)
            if raw.FPDFText_GetCharOrigin(text, index, x, y):
                stands[index] = x.value, y.value, x.value, y.value
            style[index] = styles.of(raw.FPDFText_GetTextObject(text, index), text, index)
        table = styles.table()
        return Layer(
            characters="".join(chr(code) if 0 < code < 0x110000 else "\ufffd" for code in codes.tolist()),
            boxes=_on_image(sides, place),
            angles=(np.degrees(angles) + turned) % 360,
            shown=table[style, 0].astype(bool),
            colors=table[style, 1:4].astype(np.uint8),
            fonts=table[style, 4],
            baselines=_on_image(stands, place)[:, :2],
            sizes=table[style, 5] / 100 * _scale(place),
            bold=table[style, 6].astype(bool),
            fixed=table[style, 7].astype(bool),
            covered=_on_image(np.array([(a, d, c, b) for a, b, c, d in images]).reshape(-1, 4), place),
        )
    finally:
        text.close()


class _Styles:
    """How each piece of text is drawn; pieces share characters, so each is asked once."""

    _UNSEEN_MODES = (3, 7)  # of PDF: neither filled nor stroked; a clip alone

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._rows: list[tuple[int, ...]] = [(1, 0, 0, 0, -1, 0, 0, 0)]
        self._known: dict[int, int] = {}
        self._fonts: dict[int, tuple[int, int, int]] = {}

    def of(self, item: Any, text: Any, index: int) -> int:
        """Return the number of a text object's style; `index` is of one of its characters."""
        address = ctypes.cast(item, ctypes.c_void_p).value if item else None
        if address is None:
            return 0
        if address not in self._known:
            self._known[address] = len(self._rows)
            self._rows.append(self._row(item, text, index))
        return self._known[address]

    def _row(self, item: Any, text: Any, index: int) -> tuple[int, ...]:
        raw = self._raw
        parts = [ctypes.c_uint() for _ in range(4)]
        mode = raw.FPDFTextObj_GetTextRenderMode(item)
        stroked = mode in (1, 5)
        read = raw.FPDFPageObj_GetStrokeColor if stroked else raw.FPDFPageObj_GetFillColor
        known = read(item, *parts)
        red, green, blue, alpha = (part.value for part in parts) if known else (0, 0, 0, 255)
        size, matrix = ctypes.c_float(), raw.FS_MATRIX()
        raw.FPDFTextObj_GetFontSize(item, size)
        stretch = 1.0
        if raw.FPDFText_GetMatrix(text, index, matrix):
            stretch = abs(matrix.a * matrix.d - matrix.b * matrix.c) ** 0.5
        number, bold, fixed = self._font(raw.FPDFTextObj_GetFont(item))
        points = min(abs(size.value) * stretch, 10_000.0)
        shown = int(mode not in self._UNSEEN_MODES and alpha > 25)
        # Filled and stroked is how programs make a heavy face of a font that has none.
        return shown, red, green, blue, number, round(100 * points), int(bold or mode == 2), fixed

    def _font(self, font: Any) -> tuple[int, int, int]:
        """Number of a font, and whether it is heavy and of one width."""
        raw = self._raw
        address = ctypes.cast(font, ctypes.c_void_p).value or 0
        if address not in self._fonts:
            name = ctypes.create_string_buffer(256)
            raw.FPDFFont_GetBaseFontName(font, name, 256)
            said = name.value.decode("latin-1").lower()
            bold = raw.FPDFFont_GetWeight(font) >= 600 or any(word in said for word in _BOLD_NAMES)
            fixed = bool(raw.FPDFFont_GetFlags(font) & 1) or any(word in said for word in _FIXED_NAMES)
            self._fonts[address] = len(self._fonts), int(bold), int(fixed)
        return self._fonts[address]

    def table(self) -> npt.NDArray[np.int64]:
        """Return shown, red, green, blue, font, hundredths of a point, bold, fixed of each style."""
        return np.array(self._rows, dtype=np.int64)


def _fields(page: Any, bitmap: Any, document: Any, pdfium: Any) -> tuple[PdfField, ...]:
    """The fields of a form on a page that hold text or a state."""
    raw = pdfium.raw
    if document.formenv is None:
        return ()
    kinds: dict[int, Literal["text", "choice", "check box", "radio button"]] = {
        raw.FPDF_FORMFIELD_TEXTFIELD: "text",
        raw.FPDF_FORMFIELD_COMBOBOX: "choice",
        raw.FPDF_FORMFIELD_LISTBOX: "choice",
        raw.FPDF_FORMFIELD_CHECKBOX: "check box",
        raw.FPDF_FORMFIELD_RADIOBUTTON: "radio button",
    }
    form, place = document.formenv, bitmap.get_posconv(page)
    found, rect = [], raw.FS_RECTF()
    for index in range(min(raw.FPDFPage_GetAnnotCount(page), _MOST_FIELDS)):
        item = raw.FPDFPage_GetAnnot(page, index)
        if not item:
            continue
        try:
            if raw.FPDFAnnot_GetSubtype(item) != raw.FPDF_ANNOT_WIDGET:
                continue
            kind = kinds.get(raw.FPDFAnnot_GetFormFieldType(form, item))
            if kind is None or not raw.FPDFAnnot_GetRect(item, rect):
                continue
            name, label, value, state = (
                _wide(read, form, item)
                for read in (
                    raw.FPDFAnnot_GetFormFieldName,
                    raw.FPDFAnnot_GetFormFieldAlternateName,
                    raw.FPDFAnnot_GetFormFieldValue,
                    raw.FPDFAnnot_GetFormFieldExportValue,
                )
            )
            x0, y0, x1, y1 = _on_image(np.array([[rect.left, rect.top, rect.right, rect.bottom]]), place)[0].tolist()
            button = kind in ("check box", "radio button")
            checked = button and bool(raw.FPDFAnnot_IsChecked(form, item))
            found.append(PdfField(kind, name, label, state if button else value, checked, (x0, y0, x1, y1)))
        finally:
            raw.FPDFPage_CloseAnnot(item)
    return tuple(found)


def _wide(read: Any, form: Any, item: Any) -> str:
    """A text that PDFium writes as UTF-16 with a zero at its end."""
    length = min(int(read(form, item, None, 0)), _MOST_CHARACTERS)
    if length <= 2:
        return ""
    buffer = (ctypes.c_ushort * (length // 2 + 1))()
    read(form, item, buffer, length)
    return bytes(buffer)[: length - 2].decode("utf-16-le", "replace")


def _scale(place: Any) -> float:
    """Pixels a point."""
    (x0, y0), (x1, y1) = place.to_bitmap(0, 0), place.to_bitmap(1000, 0)
    return float(np.hypot(x1 - x0, y1 - y0)) / 1000


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
