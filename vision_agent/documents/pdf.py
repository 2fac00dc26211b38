"""PDFs by PDFium: pages as images of bounded size, and the text that a page brings along.

PDFium is not safe in several threads, cannot be stopped, and breaks its process on some broken files. So all of this
runs in a process of its own, one file at a time: `bounded_pdf.py` is what others use.
"""

import ctypes
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vision_agent.documents.pdf_bounds import check_image_size, page_scale
from vision_agent.errors import DocumentError, MissingExtraError, PasswordError
from vision_agent.images.limits import ImageLimits

HYPHEN = 2  # PDFium's code for a hyphen at a line's end

_MOST_CHARACTERS = 200_000  # of a page; more is no page to read
_DEEPEST = 64  # forms in forms that are looked into; PDFium draws fewer
_MOST_FIELDS = 5_000  # of a page's form
# In a font's name, as not all fonts say it elsewhere; TeX's are CMBX10, SFTI1000, CMTT9, NimbusRomNo9L-Medi.
_BOLD_NAME = re.compile(r"bold|black|heavy|demi|medi(?!um)|[-,]bd\b|bx\d|^(.*\+)?cmb")
_ITALIC_NAME = re.compile(r"italic|oblique|slanted|[a-z]ti\d|[-,]it\b|medit")
_FIXED_NAME = re.compile(r"courier|mono(?!type)|consolas|menlo|typewriter|cmtt|sftt")
_ITALIC_FLAG = 64


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
        bold, italic, fixed: whether its font is heavy, slanted, and has characters that are all equally wide (n,).
        covered: whether an image that is drawn later lies over its place (n,).
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
    italic: npt.NDArray[np.bool_]
    fixed: npt.NDArray[np.bool_]
    covered: npt.NDArray[np.bool_]


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
class DrawnPage:
    """A page that was drawn, without its pixels.

    Attributes:
        width, height: of its image, pixels.
        scale: pixels a point.
        layer: its own text, if it has any.
        fields: of its form.
        figures: boxes (m, 4) of its images, xyxy in pixels.
    """

    width: int
    height: int
    scale: float
    layer: Layer | None
    fields: tuple[PdfField, ...] = ()
    figures: tuple[tuple[float, ...], ...] = ()


class PdfFile:
    """An open PDF, drawn in this very process: for the process that can be killed (see `bounded_pdf`).

    Args:
        source: the file's bytes, as bytes or a ctypes array.
        password: of an encrypted one.
        limits: what its pages and their images may measure.
        name: what the caller calls it, for messages.

    Raises:
        DocumentError: broken, empty, or no PDF.
        PasswordError: encrypted, and the password is missing or wrong.
    """

    def __init__(self, source: Any, *, password: str | None = None, limits: ImageLimits, name: str = "source") -> None:
        self._name = name
        self._limits = limits
        pdfium = _pdfium()
        try:
            self._document = pdfium.PdfDocument(source, password=password)
        except (pdfium.PdfiumError, ValueError) as error:
            raise self._opening_error(error, password) from error
        self._pages = len(self._document)
        if not self._pages:
            self._document.close()
            raise DocumentError(f"`{name}` must be a PDF with pages, but got one that has none")
        with suppress(pdfium.PdfiumError):  # a broken form is not drawn; the page still is
            self._document.init_forms()

    def __len__(self) -> int:
        return self._pages

    def close(self) -> None:
        """Close the file."""
        self._document.close()

    def refuse_hidden(self, large: set[tuple[int, int]]) -> None:
        """Refuse the file for an image (width, height) that is too large and that no page shows as such.

        A page that draws one is refused alone, when it is asked for. Of a mask or a pattern only the file is known.

        Raises:
            DocumentError: there is one.
        """
        pdfium = _pdfium()
        hidden = set(large)
        for number in range(1, self._pages + 1):
            if not hidden:
                return
            with suppress(DocumentError), _page(self._document, number, self._name, pdfium) as page:
                for item in page.get_objects(filter=[pdfium.raw.FPDF_PAGEOBJ_IMAGE], max_depth=_DEEPEST):
                    with suppress(pdfium.PdfiumError):
                        hidden.discard(tuple(item.get_px_size()))
        for width, height in hidden:
            check_image_size(width, height, self._limits, f"`{self._name}`")

    def page(self, number: int, *, with_layer: bool, bitmap_maker: Callable[..., Any]) -> DrawnPage:
        """Draw page `number`, from 1, into a bitmap of `bitmap_maker` (see `pypdfium2.PdfPage.render`).

        Raises:
            DocumentError: a page that is broken, or that `limits` do not allow.
        """
        pdfium = _pdfium()
        with _page(self._document, number, self._name, pdfium) as page:
            scale = page_scale(page.get_size(), number, self._limits, self._name)
            drawn = _drawn(page, f"page {number} of `{self._name}`", self._limits, pdfium)
            bitmap = page.render(scale=scale, rev_byteorder=True, maybe_alpha=False, bitmap_maker=bitmap_maker)
            try:
                layer = _layer(page, bitmap, drawn, pdfium) if with_layer else None
                place = bitmap.get_posconv(page)
                fields = _fields(page, place, self._document, pdfium)
                figures = tuple(tuple(box) for box in _on_image(drawn.images[:, :4], place).tolist())
                return DrawnPage(bitmap.width, bitmap.height, scale, layer, fields, figures)
            finally:
                bitmap.close()

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


@dataclass(frozen=True)
class _Drawn:
    """What a page draws: images as (left, top, right, bottom) in points and place in the order, texts by address."""

    images: npt.NDArray[np.float64]
    texts: dict[int, int]


def _drawn(page: Any, where: str, limits: ImageLimits, pdfium: Any) -> _Drawn:
    """Return what a page draws, once no image in it is too large to decode."""
    raw = pdfium.raw
    images, texts = [], {}
    wanted = [raw.FPDF_PAGEOBJ_IMAGE, raw.FPDF_PAGEOBJ_TEXT]
    for order, item in enumerate(page.get_objects(filter=wanted, max_depth=_DEEPEST)):
        if item.type == raw.FPDF_PAGEOBJ_TEXT:
            texts[ctypes.cast(item.raw, ctypes.c_void_p).value or 0] = order
            continue
        try:
            width, height = item.get_px_size()
            check_image_size(width, height, limits, where)
            left, bottom, right, top = item.get_bounds()
        except pdfium.PdfiumError:  # an image that PDFium cannot tell of, and does not draw
            continue
        images.append((left, top, right, bottom, order))
    return _Drawn(np.array(images, dtype=np.float64).reshape(-1, 5), texts)


def _layer(page: Any, bitmap: Any, drawn: _Drawn, pdfium: Any) -> Layer | None:
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
        styles = _Styles(raw, drawn.texts)
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
        boxes = _on_image(sides, place)
        return Layer(
            characters="".join(
                chr(code) if 0 < code < 0xD800 or 0xDFFF < code < 0x110000 else "\ufffd" for code in codes.tolist()
            ),
            boxes=boxes,
            angles=(np.degrees(angles) + turned) % 360,
            shown=table[style, 0].astype(bool),
            colors=table[style, 1:4].astype(np.uint8),
            fonts=table[style, 4],
            baselines=_on_image(stands, place)[:, :2],
            sizes=table[style, 5] / 100 * _scale(place),
            bold=table[style, 6].astype(bool),
            italic=table[style, 7].astype(bool),
            fixed=table[style, 8].astype(bool),
            covered=_covered(boxes, table[style, 9], _on_image(drawn.images[:, :4], place), drawn.images[:, 4]),
        )
    finally:
        text.close()


class _Styles:
    """How each piece of text is drawn; pieces share characters, so each is asked once."""

    _UNSEEN_MODES = (3, 7)  # of PDF: neither filled nor stroked; a clip alone

    def __init__(self, raw: Any, orders: dict[int, int]) -> None:
        self._raw = raw
        self._orders = orders
        self._rows: list[tuple[int, ...]] = [(1, 0, 0, 0, -1, 0, 0, 0, 0, -1)]
        self._known: dict[int, int] = {}
        self._fonts: dict[int, tuple[int, ...]] = {}

    def of(self, item: Any, text: Any, index: int) -> int:
        """Return the number of a text object's style; `index` is of one of its characters."""
        address = ctypes.cast(item, ctypes.c_void_p).value if item else None
        if address is None:
            return 0
        if address not in self._known:
            self._known[address] = len(self._rows)
            self._rows.append((*self._row(item, text, index), self._orders.get(address, -1)))
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
        number, bold, italic, fixed = self._font(raw.FPDFTextObj_GetFont(item))
        points = min(abs(size.value) * stretch, 10_000.0)
        shown = int(mode not in self._UNSEEN_MODES and alpha > 25)
        # Filled and stroked is how programs make a heavy face of a font that has none.
        return shown, red, green, blue, number, round(100 * points), int(bold or mode == 2), italic, fixed

    def _font(self, font: Any) -> tuple[int, ...]:
        """Number of a font, and whether it is heavy, slanted, and of one width."""
        raw = self._raw
        address = ctypes.cast(font, ctypes.c_void_p).value or 0
        if address not in self._fonts:
            name = ctypes.create_string_buffer(256)
            raw.FPDFFont_GetBaseFontName(font, name, 256)
            said = name.value.decode("latin-1").lower()
            bold = raw.FPDFFont_GetWeight(font) >= 600 or _BOLD_NAME.search(said) is not None
            flags = max(0, raw.FPDFFont_GetFlags(font))
            italic = bool(flags & _ITALIC_FLAG) or _ITALIC_NAME.search(said) is not None
            fixed = bool(flags & 1) or _FIXED_NAME.search(said) is not None
            self._fonts[address] = len(self._fonts), int(bold), int(italic), int(fixed)
        return self._fonts[address]

    def table(self) -> npt.NDArray[np.int64]:
        """Return shown, red, green, blue, font, hundredths of a point, bold, italic, fixed, order, by style."""
        return np.array(self._rows, dtype=np.int64)


def _fields(page: Any, place: Any, document: Any, pdfium: Any) -> tuple[PdfField, ...]:
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
    form = document.formenv
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


def _covered(boxes: npt.NDArray[np.float64], orders: Any, images: Any, drawn: Any) -> npt.NDArray[np.bool_]:
    """Whether the middle of each box (n, 4) lies under an image (m, 4) that is drawn later."""
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    covered = np.zeros(len(boxes), dtype=bool)
    for image, order in zip(images, drawn, strict=True):
        inside = ((middles >= image[:2]) & (middles <= image[2:])).all(axis=1)
        covered |= inside & (orders < order)
    return covered


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
