"""Pages made of a file that has none: each text gets its place on sheets of A4, so that all else works as on scans.

Letters are all equally wide. A page is as long as it has to be where a row of a table or a block of lines does not fit.
"""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from PIL import Image, ImageDraw, ImageFont

from vision_agent.documents.table import Cell, Table
from vision_agent.documents.text_flow import FlowPart, PartKind
from vision_agent.results.box import Box

_WIDTH, _HEIGHT, _MARGIN = 1240, 1754, 110  # pixels; A4 at 150 dots an inch
_SIZE, _LETTER, _PITCH = 22.0, 0.55, 1.4  # of running text in pixels; a letter's width and a line's pitch by its size
_HEADINGS = (2.0, 1.6, 1.35, 1.2, 1.1, 1.05)  # sizes by their levels
_BETWEEN = 0.9  # of a line, between blocks
_GUTTER = 2.5  # letters between the columns of a table
_LEAST_COLUMN = 4  # letters
_LONGEST = 200  # letters of a line that is set as it is


Edges = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels."""


@dataclass(frozen=True)
class SetLine:
    """A line with the places of its words, and how it is written."""

    words: tuple[tuple[str, Edges], ...]
    size: float
    bold: bool = False
    fixed: bool = False

    @property
    def edges(self) -> Edges:
        return around([edges for _, edges in self.words])


@dataclass(frozen=True)
class SetBlock:
    """A part of the flow, as far as it stands on one page."""

    kind: PartKind
    edges: Edges
    lines: tuple[SetLine, ...]
    level: int | None = None
    table: Table | None = None


@dataclass
class TypesetPage:
    """A page.

    Attributes:
        blocks: with their places.
        width, height: pixels.
    """

    blocks: list[SetBlock] = field(default_factory=list)
    width: int = _WIDTH
    height: int = _HEIGHT

    def image(self) -> Image.Image:
        """Return its picture, black on white. Letters that Pillow's own font lacks are drawn as boxes."""
        image = Image.new("RGB", (self.width, self.height), "white")
        draw = ImageDraw.Draw(image)
        for line in (line for block in self.blocks for line in block.lines):
            font = ImageFont.load_default(line.size * 0.9)
            for word, edges in line.words:
                draw.text(edges[:2], word, fill="black", font=font)
        return image


def typeset(parts: Sequence[FlowPart]) -> list[TypesetPage]:
    """Return at least one page with all parts on it."""
    setter = _Setter()
    for part in parts:
        setter.add(part)
    return setter.pages


class _Setter:
    """Fills pages from the top."""

    def __init__(self) -> None:
        self.pages = [TypesetPage()]
        self._y = float(_MARGIN)

    def add(self, part: FlowPart) -> None:
        if part.new_page and self.pages[-1].blocks:
            self._turn()
        if part.kind == "table":
            self._add_table(part.cells, part.header_rows)
        else:
            self._add_text(part)
        self._y += _BETWEEN * _SIZE * _PITCH

    def _turn(self) -> None:
        self.pages.append(TypesetPage())
        self._y = float(_MARGIN)

    def _fit(self, height: float) -> None:
        """Go to a new page where so much does not fit; a page that is still empty grows."""
        if self._y + height > _HEIGHT - _MARGIN and self.pages[-1].blocks:
            self._turn()
        if self._y + height > self.pages[-1].height - _MARGIN:
            self.pages[-1].height = int(self._y + height + _MARGIN) + 1

    def _add_text(self, part: FlowPart) -> None:
        size = _SIZE
        if part.kind == "title":
            size *= _HEADINGS[min(part.level or 1, len(_HEADINGS)) - 1]
        letters = int((_WIDTH - 2 * _MARGIN) / (_LETTER * size))
        as_is = part.as_is and max(map(len, part.text.split("\n"))) <= _LONGEST
        rows = part.text.expandtabs().split("\n") if as_is else list(_wrapped(part.text, letters))
        lines: list[SetLine] = []
        for row in rows:
            if lines and self._y + size * _PITCH > _HEIGHT - _MARGIN:
                self._block(part, lines)
                lines = []
                self._turn()
            if row.strip():
                lines.append(_line(row, _MARGIN, self._y, size, bold=part.kind == "title", fixed=as_is))
            self._y += size * _PITCH
        if lines:
            self._block(part, lines)

    def _block(self, part: FlowPart, lines: Sequence[SetLine]) -> None:
        edges, page = around([line.edges for line in lines]), self.pages[-1]
        page.width = max(page.width, int(edges[2]) + _MARGIN)
        page.blocks.append(SetBlock(part.kind, edges, tuple(lines), part.level))

    def _add_table(self, cells: Sequence[Cell], heads: int) -> None:
        """Set rows under each other; what does not fit goes on as a table of its own on the next page."""
        letter = _LETTER * _SIZE
        widths = _column_widths(cells, int((_WIDTH - 2 * _MARGIN) / letter))
        edges = [float(_MARGIN)]
        for width in widths:
            edges.append(edges[-1] + (width + _GUTTER) * letter)
        self.pages[-1].width = max(self.pages[-1].width, int(edges[-1]) + _MARGIN)
        count = max(cell.row + cell.row_span for cell in cells)
        texts = {id(cell): _wrapped_cell(cell, widths) for cell in cells}
        heights = [
            max((len(texts[id(cell)]) for cell in cells if cell.row == row), default=1) * _SIZE * _PITCH
            for row in range(count)
        ]
        first, placed, lines = 0, list[Cell](), list[SetLine]()
        start = self._y
        for row in range(count):
            bound = any(cell.row < row < cell.row + cell.row_span for cell in cells)
            if row > first and not bound and self._y + heights[row] > _HEIGHT - _MARGIN:
                self._table(
                    placed, lines, heads if first == 0 else 0, row - first, (edges[0], start, edges[-1], self._y)
                )
                self._turn()
                self.pages[-1].width = max(self.pages[-1].width, int(edges[-1]) + _MARGIN)
                first, placed, lines, start = row, [], [], self._y
            self._fit(heights[row])
            start = min(start, self._y) if row > first else self._y
            for cell in (cell for cell in cells if cell.row == row):
                x0, x1 = edges[cell.column], edges[cell.column + cell.column_span]
                y1 = self._y + sum(heights[row : row + cell.row_span])
                box = Box(x0=x0, y0=self._y, x1=x1, y1=y1)
                placed.append(cell.model_copy(update={"box": box, "row": row - first}))
                lines += [
                    _line(text, x0, self._y + number * _SIZE * _PITCH, _SIZE)
                    for number, text in enumerate(texts[id(cell)])
                    if text
                ]
            self._y += heights[row]
        self._table(placed, lines, heads if first == 0 else 0, count - first, (edges[0], start, edges[-1], self._y))

    def _table(
        self, cells: Sequence[Cell], lines: Sequence[SetLine], heads: int, rows: int, edges: tuple[float, ...]
    ) -> None:
        box = Box.from_xyxy(edges)
        columns = max(cell.column + cell.column_span for cell in cells)
        table = Table(
            rows=rows,
            columns=columns,
            cells=tuple(cells),
            header_rows=min(heads, rows - 1),
            box=box,
            source="lines",
        )
        self.pages[-1].height = max(self.pages[-1].height, int(box.y1) + _MARGIN)
        self.pages[-1].blocks.append(SetBlock("table", box.xyxy, tuple(lines), table=table))


def _wrapped(text: str, letters: int) -> Iterator[str]:
    for line in text.split("\n"):
        yield from textwrap.wrap(line, max(1, letters), break_on_hyphens=False) or [""]


def _wrapped_cell(cell: Cell, widths: Sequence[int]) -> list[str]:
    room = sum(widths[cell.column : cell.column + cell.column_span]) + int(_GUTTER * (cell.column_span - 1))
    return list(_wrapped(cell.text, room))


def _column_widths(cells: Sequence[Cell], letters: int) -> list[int]:
    """Letters of each column: as many as its longest line has, less where the page is too narrow for all."""
    columns = max(cell.column + cell.column_span for cell in cells)
    wanted = [_LEAST_COLUMN] * columns
    for cell in cells:
        longest = max(map(len, cell.text.split("\n")))
        share = -(-longest // cell.column_span)
        for column in range(cell.column, cell.column + cell.column_span):
            wanted[column] = max(wanted[column], share)
    room = letters - int(_GUTTER * columns)
    if sum(wanted) <= room:
        return wanted
    # The widest columns give way first.
    widest = next((width for width in range(max(wanted), _LEAST_COLUMN, -1) if _sum_within(wanted, width) <= room), 4)
    return [min(width, max(widest, _LEAST_COLUMN)) for width in wanted]


def _sum_within(widths: Sequence[int], most: int) -> int:
    return sum(min(width, most) for width in widths)


def _line(text: str, x: float, y: float, size: float, *, bold: bool = False, fixed: bool = False) -> SetLine:
    """Words at the places of their first letters."""
    words, at = [], 0
    for word in text.split():
        at = text.index(word, at)
        x0 = x + at * _LETTER * size
        words.append((word, (x0, y, x0 + len(word) * _LETTER * size, y + size)))
        at += len(word)
    return SetLine(tuple(words), size, bold, fixed)


def around(boxes: Sequence[Edges]) -> Edges:
    """Return the edges around at least one box."""
    x0, y0, x1, y1 = zip(*boxes, strict=True)
    return min(x0), min(y0), max(x1), max(y1)
