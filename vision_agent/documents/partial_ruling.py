"""Grids whose lines tell only a part of a table: the white between words tells the rest.

Many tables have lines between their columns alone, or a frame and shaded rows. Where the words of one place stand in
several columns, or in several rows of numbers, the grid is cut there as well.
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import numpy.typing as npt

from vision_agent.documents.sheet import Piece, Sheet

NUMERIC = re.compile(r"\W*(?:[A-Z]{2,3}\s?)?[-+(]?\d[\d.,:/' -]*[)-]?\s?\S{0,3}")
"""A cell of a column of numbers."""

_FEWEST_ROWS = 3  # rows that must show a column without lines
_THIN = 0.6  # text heights: what is lower and empty is a double line

Grid = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class RuledGrid:
    """Lines that cross, in the reading frame.

    Attributes:
        xs, ys: the lines' places, ascending.
        beside: (rows, columns - 1), a line stands right of the place.
        under: (rows - 1, columns), a line lies under the place.
    """

    xs: tuple[float, ...]
    ys: tuple[float, ...]
    beside: Grid
    under: Grid


def completed(grid: RuledGrid, sheet: Sheet) -> RuledGrid:
    """Return the grid with the columns and rows that only its words show, and without the space in double lines."""
    x0, y0, x1, y1 = grid.xs[0], grid.ys[0], grid.xs[-1], grid.ys[-1]
    rows = [
        [piece for piece in row if x0 < (piece.x0 + piece.x1) / 2 < x1 and y0 < piece.middle < y1] for row in sheet.rows
    ]
    rows = [[part for piece in row for part in _cut_at_lines(piece, grid)] for row in rows if row]
    if not rows:
        return grid
    grid = _without_double_lines(grid, rows, sheet.height)
    return _with_rows(_with_columns(grid, rows), rows)


def columns_of(rows: Sequence[Sequence[Piece]]) -> list[tuple[float, float]]:
    """Return the stretches that pieces fill, with white between them. Pieces over several are left out."""
    most = max(len(row) for row in rows)
    spans: list[tuple[float, float]] = []
    for piece in sorted((piece for row in rows if len(row) == most for piece in row), key=lambda piece: piece.x0):
        if spans and piece.x0 < spans[-1][1]:
            spans[-1] = (spans[-1][0], max(spans[-1][1], piece.x1))
        else:
            spans.append((piece.x0, piece.x1))
    for piece in (piece for row in rows for piece in row):
        over = [index for index, (x0, x1) in enumerate(spans) if piece.x0 < x1 and x0 < piece.x1]
        if not over:
            spans = sorted([*spans, (piece.x0, piece.x1)])
        elif len(over) == 1:
            x0, x1 = spans[over[0]]
            spans[over[0]] = (min(x0, piece.x0), max(x1, piece.x1))
    return spans


def _cut_at_lines(piece: Piece, grid: RuledGrid) -> list[Piece]:
    """A piece as one part; cut where a line of its row runs between its words."""
    row = min(max(int(np.searchsorted(grid.ys, piece.middle)) - 1, 0), len(grid.beside) - 1)
    parts = [[piece.tokens[0]]]
    for before, token in itertools.pairwise(piece.tokens):
        low, high = (before.x0 + before.x1) / 2, (token.x0 + token.x1) / 2
        if any(low < x < high and grid.beside[row, at] for at, x in enumerate(grid.xs[1:-1])):
            parts.append([])
        parts[-1].append(token)
    return [Piece(piece.page, piece.row, tuple(part)) for part in parts]


def _without_double_lines(grid: RuledGrid, rows: Sequence[Sequence[Piece]], height: float) -> RuledGrid:
    ys, beside, under = list(grid.ys), grid.beside, grid.under
    for row in range(len(ys) - 2, -1, -1):
        low, high = ys[row], ys[row + 1]
        held = any(low < piece.middle < high for pieces in rows for piece in pieces)
        if held or high - low > _THIN * height or len(ys) <= 3:
            continue
        ys.pop(row + 1 if row + 2 == len(ys) else row)
        beside = np.delete(beside, row, axis=0)
        if 0 < row < len(under):
            under[row] = under[row] | under[row - 1]
        under = np.delete(under, max(0, row - 1), axis=0)
    return RuledGrid(grid.xs, tuple(ys), beside, under)


# --- columns


def _with_columns(grid: RuledGrid, rows: Sequence[Sequence[Piece]]) -> RuledGrid:
    xs: list[float] = [grid.xs[0]]
    new: list[bool] = []
    for x0, x1 in itertools.pairwise(grid.xs):
        own = [[piece for piece in row if x0 < (piece.x0 + piece.x1) / 2 < x1] for row in rows]
        cuts = _cuts([row for row in own if row])
        xs += [*cuts, x1]
        new += [True] * len(cuts) + [False]
    if not any(new):
        return grid
    beside = np.zeros((len(grid.ys) - 1, len(xs) - 2), dtype=bool)
    under = np.zeros((len(grid.ys) - 2, len(xs) - 1), dtype=bool)
    old = 0
    for column, is_new in enumerate(new):
        under[:, column] = grid.under[:, old]
        if column < beside.shape[1]:
            beside[:, column] = _free(grid.ys, rows, xs[column + 1]) if is_new else grid.beside[:, old]
        old += not is_new
    return RuledGrid(tuple(xs), grid.ys, beside, under)


def _cuts(rows: Sequence[Sequence[Piece]]) -> list[float]:
    """Where white parts the pieces of one column of the grid, row for row."""
    several = [row for row in rows if len(row) > 1]
    if len(several) < _FEWEST_ROWS or 2 * len(several) < len(rows):
        return []
    columns = columns_of(several)
    if median(len(piece.tokens) for row in several for piece in row) > 4:
        return []
    columns = [
        (x0, x1)
        for x0, x1 in columns
        if sum(any(p.x0 < x1 and x0 < p.x1 for p in row) for row in several) >= 0.3 * len(several)
    ]
    return [(left[1] + right[0]) / 2 for left, right in itertools.pairwise(columns)]


def _free(ys: Sequence[float], rows: Sequence[Sequence[Piece]], x: float) -> list[bool]:
    """For each row of a grid, whether no piece crosses x."""
    crossing = [piece.middle for row in rows for piece in row if piece.x0 < x < piece.x1]
    return [not any(y0 < y < y1 for y in crossing) for y0, y1 in itertools.pairwise(ys)]


# --- rows


def _with_rows(grid: RuledGrid, rows: Sequence[Sequence[Piece]]) -> RuledGrid:
    ys: list[float] = [grid.ys[0]]
    beside, under = [], []
    for row, (y0, y1) in enumerate(itertools.pairwise(grid.ys)):
        own = [[piece for piece in each if y0 < piece.middle < y1] for each in rows]
        cuts = _row_cuts([each for each in own if each], grid.xs)
        ys += [*cuts, y1]
        beside += [grid.beside[row]] * (len(cuts) + 1)
        under += [np.ones(len(grid.xs) - 1, dtype=bool)] * len(cuts)
        if row < len(grid.under):
            under.append(grid.under[row])
    if len(ys) == len(grid.ys):
        return grid
    return RuledGrid(
        grid.xs, tuple(ys), np.array(beside).reshape(len(ys) - 1, -1), np.array(under).reshape(len(ys) - 2, -1)
    )


def _row_cuts(rows: Sequence[Sequence[Piece]], xs: Sequence[float]) -> list[float]:
    """Where one row of the grid holds several rows of numbers: between them."""
    columns = [{int(np.searchsorted(xs, (piece.x0 + piece.x1) / 2)) for piece in row} for row in rows]
    used = set[int]().union(*columns)
    full = [
        len(own) >= max(2, 0.5 * len(used)) and 2 * sum(bool(NUMERIC.fullmatch(p.text)) for p in row) >= len(row)
        for row, own in zip(rows, columns, strict=True)
    ]
    if sum(full) < 2:
        return []
    cuts: list[float] = []
    first = min(used)
    for index in range(1, len(rows)):
        # A label that goes on in the row with its numbers, or below it, is one with it.
        begun = not full[index - 1] and full[index] and first not in columns[index]
        goes_on = not full[index] and rows[index][0].text[:1].islower() and len(rows[index]) == 1
        if not begun and not goes_on:
            bottom, top = max(p.y1 for p in rows[index - 1]), min(p.y0 for p in rows[index])
            cuts.append((bottom + top) / 2)
    return cuts
