"""Tables in a page: where ruling lines show cells, and where only white gaps between aligned pieces of text do.

Ruling lines are runs of dark pixels much longer than letters, found by morphological opening. Their crossings make a
grid; neighbouring places without a line between them are one cell. Skewed pages are turned upright for this, and cells
are reported in the page as given.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from vision_agent.documents.gap_tables import cell_text, gap_tables
from vision_agent.documents.partial_ruling import RuledGrid, completed
from vision_agent.documents.result import Block, Line, Page, box_around
from vision_agent.documents.sheet import Piece, Sheet, Token, sheet_of, text_angle
from vision_agent.documents.table import Cell, Table
from vision_agent.errors import MissingExtraError
from vision_agent.results.box import Box

_LINE_SHARE = 40  # a ruling line is at least this part of the page's longer side
_DRAWN = 0.55  # share of an edge that must be dark for a line to be there
_PALE, _PALE_WIDE = 8, 9  # of 255, by which a pale line is darker; pixels that reach over it
_EVEN = 0.6  # share of a page's pixels of one and the same value, from which its paper is even: not scanned
_OPEN = 0.04  # part of a grid's width that is a column without a line at its outer side

_Grid = npt.NDArray[np.bool_]


def find_tables(page: Page, image: Image.Image) -> list[Table]:
    """Find the tables of a page, those with lines first.

    Args:
        page: its words.
        image: of the same page, RGB, of the page's size.

    Raises:
        MissingExtraError: OpenCV is not installed.
    """
    sheet = sheet_of(page)
    if not sheet.pieces:
        return []
    turned, back = upright(image, text_angle(page.lines))
    tables, taken = [], set[int]()
    for grid in _innermost(_ruled_grids(turned, back.shift)):
        built = _ruled_table(sheet, completed(grid, sheet), back)
        if built is not None:
            tables.append(built[0])
            taken |= built[1]
    return [*tables, *gap_tables(sheet, taken)]


def with_tables(page: Page, image: Image.Image, fields: Sequence[Box] = ()) -> Page:
    """Return the page with its tables as blocks; their lines are taken out of other blocks.

    Args:
        page, image: as for `find_tables`.
        fields: boxes of a form's fields; rows of labels and fields without lines are no table.
    """
    tables = [
        table
        for table in find_tables(page, image)
        if table.source == "lines" or sum(_within(box, table.box) for box in fields) < table.rows
    ]
    if not tables:
        return page
    blocks: list[Block] = list(page.blocks)
    for table in tables:
        inside: list[Line] = []
        kept: list[Block] = []
        first: int | None = None
        for block in blocks:
            own = [line for line in block.lines if block.table is None and _within(line.box, table.box)]
            rest = tuple(line for line in block.lines if line not in own)
            if own and first is None:
                first = len(kept) + bool(rest and rest[0] is block.lines[0])
            inside += own
            if rest or not block.lines:
                box = block.box if not own else box_around([line.quad for line in rest])
                kept.append(block.model_copy(update={"lines": rest, "box": box}))
        whole = Block(kind="table", box=table.box, lines=tuple(inside), table=table)
        kept.insert(len(kept) if first is None else min(first, len(kept)), whole)
        blocks = kept
    return page.model_copy(update={"blocks": tuple(blocks)})


def _within(inner: Box, outer: Box) -> bool:
    x, y = (inner.x0 + inner.x1) / 2, (inner.y0 + inner.y1) / 2
    return outer.x0 <= x <= outer.x1 and outer.y0 <= y <= outer.y1


# Ruled tables ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Back:
    """The way from the reading frame back to the page as given.

    Attributes:
        angle: of the text, radians clockwise.
        shift: from the reading frame to the turned image, pixels.
    """

    angle: float
    shift: tuple[float, float]

    def box(self, x0: float, y0: float, x1: float, y1: float) -> Box:
        """Return the box around a box of the reading frame, in the page as given."""
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        corners = [(x * cosine - y * sine, x * sine + y * cosine) for x in (x0, x1) for y in (y0, y1)]
        xs, ys = zip(*corners, strict=True)
        return Box(x0=min(xs), y0=min(ys), x1=max(xs), y1=max(ys))


def upright(image: Image.Image, angle: float) -> tuple[npt.NDArray[np.uint8], _Back]:
    """The image, grey, turned so that its text is upright."""
    cv2 = opencv()
    grey = np.asarray(image.convert("L"))
    if abs(angle) < 2e-3:
        return grey, _Back(0.0, (0.0, 0.0))
    height, width = grey.shape
    cosine, sine = math.cos(angle), math.sin(angle)
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], dtype=float)
    xs = corners[:, 0] * cosine + corners[:, 1] * sine
    ys = corners[:, 1] * cosine - corners[:, 0] * sine
    shift = (-float(xs.min()), -float(ys.min()))
    matrix = np.array([[cosine, sine, shift[0]], [-sine, cosine, shift[1]]])
    size = (math.ceil(xs.max() - xs.min()), math.ceil(ys.max() - ys.min()))
    return cv2.warpAffine(grey, matrix, size, flags=cv2.INTER_LINEAR, borderValue=255), _Back(angle, shift)


def _ruled_grids(grey: npt.NDArray[np.uint8], shift: tuple[float, float]) -> list[RuledGrid]:
    cv2 = opencv()
    dark = cv2.adaptiveThreshold(255 - grey, 255, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY, 15, -8)
    length = max(12, max(grey.shape) // _LINE_SHARE)
    flat = cv2.morphologyEx(_with_pale(dark, grey, (1, _PALE_WIDE)), cv2.MORPH_OPEN, np.ones((1, length), np.uint8))
    tall = cv2.morphologyEx(_with_pale(dark, grey, (_PALE_WIDE, 1)), cv2.MORPH_OPEN, np.ones((length, 1), np.uint8))
    both = cv2.dilate(cv2.bitwise_or(flat, tall), np.ones((5, 5), np.uint8))
    count, _, stats, _ = cv2.connectedComponentsWithStats(both, connectivity=8)
    grids = []
    for index in range(1, count):
        x, y, width, height = (int(each) for each in stats[index][:4])
        if width < 2 * length or height < length:
            continue
        window = (slice(y, y + height), slice(x, x + width))
        grid = _grid_of(flat[window] > 0, tall[window] > 0, x - shift[0], y - shift[1])
        if grid is not None:
            grids.append(grid)
    return grids


def _with_pale(
    dark: npt.NDArray[np.uint8], grey: npt.NDArray[np.uint8], across: tuple[int, int]
) -> npt.NDArray[np.uint8]:
    """What is dark, and on a page of even paper also thin lines that are hardly darker than what they lie on.

    Args:
        across: width and height of a window that reaches over a line from one side to the other.
    """
    most = np.bincount(grey[::4, ::4].ravel(), minlength=256)
    if most.max() < _EVEN * most.sum():
        return dark
    cv2 = opencv()
    thin = cv2.morphologyEx(grey, cv2.MORPH_BLACKHAT, np.ones(across[::-1], np.uint8)) >= _PALE
    both: npt.NDArray[np.uint8] = cv2.bitwise_or(dark, thin.astype(np.uint8) * 255)
    return both


def _innermost(grids: Sequence[RuledGrid]) -> list[RuledGrid]:
    """Grids without those that hold another: a frame around tables is none."""

    def holds(outer: RuledGrid, inner: RuledGrid) -> bool:
        across = outer.xs[0] <= inner.xs[0] and inner.xs[-1] <= outer.xs[-1]
        return across and outer.ys[0] <= inner.ys[0] and inner.ys[-1] <= outer.ys[-1]

    return [grid for grid in grids if not any(other is not grid and holds(grid, other) for other in grids)]


def _grid_of(flat: _Grid, tall: _Grid, x0: float, y0: float) -> RuledGrid | None:
    ys, xs = _peaks(flat.sum(axis=1), 0.25 * flat.shape[1]), _peaks(tall.sum(axis=0), 0.2 * tall.shape[0])
    if xs and ys:  # rows often reach beyond the outer lines between columns
        wide = flat.shape[1]
        xs = [*([0] if xs[0] > _OPEN * wide else []), *xs, *([wide - 1] if wide - xs[-1] > _OPEN * wide else [])]
    rows, columns = len(ys) - 1, len(xs) - 1
    if rows < 1 or columns < 1 or rows * columns < 4 or rows < 2:
        return None
    beside = np.zeros((rows, columns - 1), dtype=bool)
    under = np.zeros((rows - 1, columns), dtype=bool)
    for row in range(rows):
        for column in range(columns - 1):
            strip = tall[ys[row] + 2 : ys[row + 1] - 1, max(0, xs[column + 1] - 3) : xs[column + 1] + 4]
            beside[row, column] = strip.size > 0 and strip.any(axis=1).mean() > _DRAWN
    for row in range(rows - 1):
        for column in range(columns):
            strip = flat[max(0, ys[row + 1] - 3) : ys[row + 1] + 4, xs[column] + 2 : xs[column + 1] - 1]
            under[row, column] = strip.size > 0 and strip.any(axis=0).mean() > _DRAWN
    return RuledGrid(tuple(x0 + x for x in xs), tuple(y0 + y for y in ys), beside, under)


def _peaks(counts: npt.NDArray[np.int64], least: float) -> list[int]:
    """Middles of the runs in which counts reach a share; runs a few pixels apart are one line."""
    found: list[list[int]] = []
    for index in np.flatnonzero(counts >= least).tolist():
        if found and index - found[-1][-1] <= 4:
            found[-1].append(index)
        else:
            found.append([index])
    return [round(sum(run) / len(run)) for run in found]


def _ruled_table(sheet: Sheet, grid: RuledGrid, back: _Back) -> tuple[Table, set[int]] | None:
    """The table of a grid and the pieces (by id) that are in it; None for a frame around hardly anything."""
    rows, columns = len(grid.ys) - 1, len(grid.xs) - 1
    areas = _areas(grid, rows, columns)
    held: dict[tuple[int, int], list[tuple[Piece, Token]]] = {}
    taken: set[int] = set()
    for piece in sheet.pieces:
        for token in piece.tokens:
            x, y = (token.x0 + token.x1) / 2, (token.y0 + token.y1) / 2
            column, row = int(np.searchsorted(grid.xs, x)) - 1, int(np.searchsorted(grid.ys, y)) - 1
            if 0 <= row < rows and 0 <= column < columns:
                held.setdefault((row, column), []).append((piece, token))
                taken.add(id(piece))
    cells = []
    for row, column, row_span, column_span in areas:
        own = [
            each
            for r in range(row, row + row_span)
            for c in range(column, column + column_span)
            for each in held.get((r, c), [])
        ]
        box = back.box(grid.xs[column], grid.ys[row], grid.xs[column + column_span], grid.ys[row + row_span])
        cells.append(
            Cell(row=row, column=column, row_span=row_span, column_span=column_span, text=cell_text(own), box=box)
        )
    if sum(bool(cell.text) for cell in cells) < 2 or len(cells) < 3:
        return None
    whole = back.box(grid.xs[0], grid.ys[0], grid.xs[-1], grid.ys[-1])
    header = _header_rows(cells, rows)
    return Table(rows=rows, columns=columns, cells=tuple(cells), header_rows=header, box=whole, source="lines"), taken


def _areas(grid: RuledGrid, rows: int, columns: int) -> list[tuple[int, int, int, int]]:
    """Cells as (row, column, row span, column span): places without a line between them, if they form a rectangle."""
    done: set[tuple[int, int]] = set()
    areas = []
    for row in range(rows):
        for column in range(columns):
            if (row, column) in done:
                continue
            group, waiting = {(row, column)}, [(row, column)]
            while waiting:
                r, c = waiting.pop()
                near = []
                if c + 1 < columns and not grid.beside[r, c]:
                    near.append((r, c + 1))
                if c > 0 and not grid.beside[r, c - 1]:
                    near.append((r, c - 1))
                if r + 1 < rows and not grid.under[r, c]:
                    near.append((r + 1, c))
                if r > 0 and not grid.under[r - 1, c]:
                    near.append((r - 1, c))
                for place in near:
                    if place not in group:
                        group.add(place)
                        waiting.append(place)
            last_row, last_column = max(r for r, _ in group), max(c for _, c in group)
            first_column = min(c for _, c in group)
            size = (last_row - row + 1) * (last_column - first_column + 1)
            if size == len(group) and not group & done:
                done |= group
                areas.append((row, first_column, last_row - row + 1, last_column - first_column + 1))
            else:
                done.add((row, column))
                areas.append((row, column, 1, 1))
    return areas


def _header_rows(cells: Sequence[Cell], rows: int) -> int:
    """One; two where a cell of the first row stands over several columns that the second row names."""
    if rows < 2:
        return 0
    first = [cell for cell in cells if cell.row == 0]
    second = [cell for cell in cells if cell.row == 1]
    spread = any(cell.column_span > 1 for cell in first) and len(first) > 1
    named = bool(second) and not any(character.isdigit() for cell in second for character in cell.text)
    return 2 if spread and named and rows > 2 else 1


def opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise MissingExtraError('finding tables needs OpenCV: pip install "internvl-vision-agent[ocr]"') from error
    return cv2
