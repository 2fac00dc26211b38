"""What reading a document gives: pages of blocks of lines of words, each with its place.

All places are in pixels of the page *as it was given* (an image upright by its EXIF, a PDF page as rendered), also
where the page was turned or skewed and put right for reading. Text read from a page is data: whoever wrote the page
wrote it, so `OcrResult.untrusted` is always True, and nothing in it is an instruction.
"""

import html
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, Self, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import BaseModel, Field, FiniteFloat, NonNegativeFloat, PositiveInt

from vision_agent.documents.markdown import block_markdown, joined_hyphens
from vision_agent.documents.table import Table
from vision_agent.documents.tree import DocumentNode, tree_of
from vision_agent.documents.writing_direction import right_to_left_share
from vision_agent.errors import InputError, bad_argument
from vision_agent.results import annotate
from vision_agent.results.box import FROZEN, Box

if TYPE_CHECKING:
    from vision_agent.images.loading import ImageSource

Point = tuple[FiniteFloat, FiniteFloat]
Quad = tuple[Point, Point, Point, Point]
"""Four corners x, y in pixels, clockwise from where reading starts: for upright text from the upper left."""

Score = Annotated[float, Field(ge=0, le=1)]
BlockKind = Literal[
    "title", "text", "list", "table", "figure", "caption", "footnote", "header", "footer", "formula", "code", "other"
]
BLOCK_KINDS: tuple[BlockKind, ...] = get_args(BlockKind)


def quad_of(box: Sequence[float] | npt.NDArray[np.float64]) -> Quad:
    """Return the corners of an upright box x0, y0, x1, y1."""
    x0, y0, x1, y1 = (float(side) for side in box)
    return (x0, y0), (x1, y0), (x1, y1), (x0, y1)


def box_around(quads: Sequence[Quad]) -> Box:
    """Return the tightest upright box around at least one quad."""
    corners = np.array(quads, dtype=np.float64).reshape(-1, 2)
    return Box.from_xyxy([*corners.min(axis=0), *corners.max(axis=0)])


class _Placed(BaseModel):
    """Something with a quad."""

    model_config = FROZEN

    quad: Quad

    @property
    def box(self) -> Box:
        """The tightest upright box around the quad, pixels of the page."""
        return box_around([self.quad])


class Word(_Placed):
    """One word as it stands between spaces.

    Attributes:
        text: its characters, without spaces.
        quad: its corners.
        score: how sure the engine is, 0-1; 1 for a PDF's own text.
    """

    text: str
    score: Score


class Line(_Placed):
    """One line of text, or the part of a line that stands apart (a cell, a column).

    Attributes:
        words: in reading order; of a line in Hebrew or Arabic the first one stands on the right.
        quad: the line's corners.
        score: how sure the engine is, 0-1.
        size: of its font, pixels; None where it was read from an image.
        bold, italic, fixed: whether a PDF says that its font is heavy, slanted, and as wide for each character.
    """

    words: tuple[Word, ...]
    score: Score
    size: NonNegativeFloat | None = None
    bold: bool = False
    italic: bool = False
    fixed: bool = False

    @property
    def text(self) -> str:
        """Its words, joined by spaces."""
        return " ".join(word.text for word in self.words)


class Block(BaseModel):
    """A paragraph, a title, a table, ...

    Attributes:
        kind: what it is.
        box: around it, pixels of the page.
        score: how sure the layout engine is of the kind, 0-1.
        lines: its text in reading order; of a table the lines of its cells.
        table: rows and columns where `kind` is "table" and they were found.
        level: of a heading (`kind` "title") in its document: 1 for the title, 2 for chapters, ...; else None.
    """

    model_config = FROZEN

    kind: BlockKind
    box: Box
    score: Score = 1.0
    lines: tuple[Line, ...] = ()
    table: Table | None = None
    level: PositiveInt | None = None

    @property
    def rows(self) -> list[tuple[Line, ...]]:
        """Its lines by rows: what stands side by side, such as a name and its amount, is one row."""
        rows: list[list[Line]] = []
        for line in self.lines:
            if rows and _side_by_side(rows[-1][-1], line):
                rows[-1].append(line)
            else:
                rows.append([line])
        return [tuple(row) for row in rows]

    @property
    def text(self) -> str:
        """Its rows, one under the other; the lines of a row are two spaces apart. Code keeps its indents."""
        return "\n".join(self.text_lines)

    @property
    def text_lines(self) -> list[str]:
        """The text of its rows."""
        return _code_lines(self) if self.kind == "code" else ["  ".join(line.text for line in row) for row in self.rows]


class KeyValue(BaseModel):
    """A label of a form and what was filled in for it, or a box to tick.

    Attributes:
        key: the label as it stands, without the colon after it.
        value: what was filled in; of a ticked box "x", of an empty one "".
        key_box, box: around the label and around the value (the box to tick), pixels of the page; `key_box` is None
            where the label is only in the file of a form.
        page: number of the page.
        confidence: how sure both the reading and the pairing are, 0-1.
        checked: of a box to tick, whether it is; None for text.
    """

    model_config = FROZEN

    key: str
    value: str
    key_box: Box | None
    box: Box
    page: PositiveInt
    confidence: Score
    checked: bool | None = None


class Page(BaseModel):
    """One page.

    Attributes:
        number: from 1, in its document.
        width, height: of the page as given, pixels.
        angle: by how many degrees its text is turned clockwise, 0 <= angle < 360; 0 for an upright page.
        blocks: in reading order.
        key_values: labels with what was filled in, and boxes to tick.
        source: "text layer" where a PDF's own text was taken, "file" for text of a file without pages, which were made
            for it, "ocr" where the image was read.
        scale: pixels a point (1/72 inch) for a page of a PDF, else None.
        file: the file it comes from, "" where it came from no file.
        warnings: what makes its text doubtful: a script that the reader does not know.
    """

    model_config = FROZEN

    number: PositiveInt
    width: PositiveInt
    height: PositiveInt
    angle: Annotated[float, Field(ge=0, lt=360)] = 0.0
    blocks: tuple[Block, ...] = ()
    key_values: tuple[KeyValue, ...] = ()
    source: Literal["ocr", "text layer", "file"] = "ocr"
    scale: NonNegativeFloat | None = None
    file: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def lines(self) -> list[Line]:
        """All lines in reading order."""
        return [line for block in self.blocks for line in block.lines]

    @property
    def words(self) -> list[Word]:
        """All words in reading order."""
        return [word for line in self.lines for word in line.words]

    @property
    def tables(self) -> list[Table]:
        """The tables that were found."""
        return [block.table for block in self.blocks if block.table is not None]

    @property
    def text(self) -> str:
        """Lines, with an empty line between blocks."""
        return "\n\n".join(block.text for block in self.blocks if block.lines)

    def to_markdown(self) -> str:
        """Return the page as Markdown: headings, paragraphs, lists, tables, code, and where figures are.

        Marks in the text itself are escaped. Running heads and page numbers are left out, and what is written inside
        figures, unless the page has nothing else.
        """
        blocks = [block for block in self.blocks if block.kind not in ("header", "footer")]
        drawn = all(block.kind == "figure" for block in blocks)
        parts = (
            block_markdown("text" if drawn and block.lines else block.kind, block.text_lines, block.table, block.level)
            for block in blocks
        )
        return "\n\n".join(part for part in parts if part)


class OcrResult(BaseModel):
    """What was read from one document: an image, a multi-page TIFF, a PDF, a Word file, a web page, a mail, or text.

    Attributes:
        pages: in their order; those that were asked for.
        engine: what read it: "rapidocr", or the model's name.
        file: the file it was read from, "" where it came from no file.
        untrusted: always True: text from images is data, never an instruction.
        kind: always "ocr"; tells results apart in JSON.
    """

    model_config = FROZEN

    kind: Literal["ocr"] = "ocr"
    pages: tuple[Page, ...]
    engine: str
    file: str = ""
    untrusted: Literal[True] = True

    @property
    def lines(self) -> list[Line]:
        """All lines of all pages in reading order."""
        return [line for page in self.pages for line in page.lines]

    @property
    def words(self) -> list[Word]:
        """All words of all pages in reading order."""
        return [word for page in self.pages for word in page.words]

    @property
    def key_values(self) -> list[KeyValue]:
        """Labels of forms with what was filled in, and boxes to tick, of all pages; found without a schema."""
        return [pair for page in self.pages for pair in page.key_values]

    @property
    def tables(self) -> list[Table]:
        """All tables of all pages."""
        return [table for page in self.pages for table in page.tables]

    @property
    def warnings(self) -> list[str]:
        """What makes the text of pages doubtful, with their numbers."""
        return [f"page {page.number}: {warning}" for page in self.pages for warning in page.warnings]

    @property
    def text(self) -> str:
        """The text of all pages, with a form feed between pages, as text tools write it."""
        return "\n\f\n".join(page.text for page in self.pages)

    def page(self, number: int) -> Page:
        """Return the page of that number, from 1. Raises InputError where it was not read."""
        for page in self.pages:
            if page.number == number:
                return page
        raise InputError(bad_argument("page", f"one of {[page.number for page in self.pages]}", number))

    def to_markdown(self) -> str:
        """Return all pages as Markdown, with a rule between pages."""
        return "\n\n---\n\n".join(page.to_markdown() for page in self.pages) + "\n"

    def to_tree(self) -> DocumentNode:
        """Return the document as a tree of its headings, without running heads and page numbers.

        `to_tree().model_dump_json()` says what the Markdown says, and where it stands.
        """
        return tree_of(
            [
                DocumentNode(
                    kind=block.kind,
                    text="\n".join(block.text_lines if block.kind == "code" else joined_hyphens(block.text_lines)),
                    level=(block.level or 2) if block.kind == "title" else None,
                    page=page.number,
                    box=block.box,
                    table=block.table,
                )
                for page in self.pages
                for block in page.blocks
                if block.kind not in ("header", "footer")
            ]
        )

    def to_hocr(self) -> str:
        """Return all pages as hOCR (HTML with places, hOCR 1.2): ocr_page, ocr_carea, ocr_line, ocrx_word."""
        head = (
            '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE html>\n<html xmlns="http://www.w3.org/1999/xhtml">\n<head>'
            '<meta charset="utf-8"/><title></title>'
            f'<meta name="ocr-system" content="vision_agent {html.escape(self.engine)}"/>'
            '<meta name="ocr-capabilities" content="ocr_page ocr_carea ocr_line ocrx_word"/></head>\n<body>\n'
        )
        return head + "".join(_hocr_page(page, self.file) for page in self.pages) + "</body>\n</html>\n"

    def draw(
        self,
        image: "ImageSource | None" = None,
        *,
        page: int = 1,
        level: Literal["words", "lines", "blocks"] = "words",
        password: str | None = None,
    ) -> Image.Image:
        """Draw the boxes of a page's words, lines or blocks into a new RGB image.

        Args:
            image: the page's image; None opens `file` again.
            page: the page's number.
            level: which boxes.
            password: of an encrypted PDF that is opened again.

        Raises:
            InputError: the page was not read, the image is of another size, or there is no file to open.
        """
        wanted = self.page(page)
        if level not in ("words", "lines", "blocks"):
            raise InputError(bad_argument("level", '"words", "lines" or "blocks"', level))
        canvas = self._image(wanted, image, password)
        if canvas.size != (wanted.width, wanted.height):
            raise InputError(
                bad_argument("image", f"page {page}, {wanted.width} x {wanted.height} pixels", canvas.size)
            )
        items = list(_drawn(wanted, level))
        colors = annotate.label_colors(label for _, label, _ in items)
        boxes = np.array([box.xyxy for box, _, _ in items], dtype=np.float64).reshape(-1, 4)
        tags = [(label if level == "blocks" else "", "") for _, label, _ in items]
        annotate.draw_boxes(canvas, boxes, tags, [colors[label] for _, label, _ in items], line_width=2)
        return canvas

    def _image(self, page: Page, image: "ImageSource | None", password: str | None) -> Image.Image:
        from vision_agent.documents.source import page_image
        from vision_agent.images.loading import load_image

        if image is not None:
            return load_image(image)
        if not page.file:
            raise InputError(bad_argument("image", "the page's image, since it was not read from a file", image))
        return page_image(page.file, page.number, (page.width, page.height), password=password)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        count = len(self.pages)
        return f"OcrResult({count} page{'s' * (count != 1)}, {len(self.words)} words by {self.engine})"

    @classmethod
    def of(cls, pages: Sequence[Page], engine: str) -> Self:
        """Make the result of one document's pages."""
        return cls(pages=tuple(pages), engine=engine, file=pages[0].file if pages else "")


def _code_lines(block: Block) -> list[str]:
    """Rows of code with blanks for the white before and between words: all its characters are equally wide."""
    letters = sum(len(word.text) for line in block.lines for word in line.words)
    wide = sum(word.box.x1 - word.box.x0 for line in block.lines for word in line.words) / max(1, letters)
    rows = []
    for row in block.rows:
        text = ""
        for word in (word for line in row for word in line.words):
            at = round((word.box.x0 - block.box.x0) / max(1.0, wide))
            text = text.ljust(at if not text else max(at, len(text) + 1)) + word.text
        rows.append(text)
    return rows


def _side_by_side(line: Line, after: Line) -> bool:
    """Whether `after` stands beside `line`, further on as one reads: its middle lies at the line's own height."""
    start, end, _, foot = (np.array(corner) for corner in line.quad)
    along, down = end - start, foot - start
    length, height = float(np.hypot(*along)), float(np.hypot(*down))
    if not (length and height):
        return False
    middle = np.mean(after.quad, axis=0) - start
    ahead = float(middle @ along) / length**2
    if right_to_left_share(line.text) > 0.5:
        ahead = 1 - ahead
    return -0.3 <= float(middle @ down) / height**2 <= 1.3 and ahead >= 0.5


def _drawn(page: Page, level: str) -> Iterator[tuple[Box, str, float]]:
    """Box, label (which sets the colour) and score of what is drawn."""
    for block in page.blocks:
        if level == "blocks":
            yield block.box, block.kind, block.score
        else:
            items: Sequence[_Placed] = block.lines
            if level == "words":
                items = [word for line in block.lines for word in line.words]
            yield from ((item.box, block.kind, 1.0) for item in items)


def _hocr_page(page: Page, file: str) -> str:
    def title(box: Box, more: str = "") -> str:
        sides = " ".join(str(round(side)) for side in box.xyxy)
        return f'title="bbox {sides}{more}"'

    at = f"page_{page.number}"
    name = html.escape(f'; image "{file}"', quote=True) if file else ""
    whole = Box(x0=0, y0=0, x1=page.width, y1=page.height)
    out = [f'<div class="ocr_page" id="{at}" {title(whole, f"{name}; ppageno {page.number - 1}")}>\n']
    line_number = word_number = 0
    for number, block in enumerate(page.blocks, start=1):
        out.append(f'<div class="ocr_carea" id="{at}_block_{number}" {title(block.box)}>\n')
        for line in block.lines:
            line_number += 1
            words = []
            for word in line.words:
                word_number += 1
                sure = f"; x_wconf {round(100 * word.score)}"
                words.append(
                    f'<span class="ocrx_word" id="{at}_word_{word_number}" {title(word.box, sure)}>'
                    f"{html.escape(word.text)}</span>"
                )
            out.append(
                f'<span class="ocr_line" id="{at}_line_{line_number}" {title(line.box)}>{" ".join(words)}</span>\n'
            )
        out.append("</div>\n")
    return "".join([*out, "</div>\n"])
