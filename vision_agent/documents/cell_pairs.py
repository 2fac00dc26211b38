"""Forms that are ruled grids: each cell has a label, and below it what was filled in."""

from collections.abc import Sequence

from vision_agent.documents.result import KeyValue, Page
from vision_agent.documents.sheet import Excerpt, Sheet, box_of
from vision_agent.documents.table import Cell, Table
from vision_agent.results.box import Box

_FEWEST, _SHARE = 3, 0.6  # cells with a label and a text, and their share of a form's cells
_MOST_WORDS = 6  # of a label
_SURE = 0.85
_MARKS = " :_|\u2026"


def cell_pairs(page: Page, sheet: Sheet) -> list[KeyValue]:
    """Return the pairs of a page's ruled grids whose cells hold a label over a text."""
    return [pair for table in page.tables for pair in _of_table(page, sheet, table)]


def is_form(table: Table) -> bool:
    """Return whether most cells of a ruled table hold a label over a text, so that it has no columns with names."""
    filled = [cell for cell in table.cells if cell.text.strip()]
    labelled = [cell for cell in filled if _has_label(cell)]
    return table.source == "lines" and len(labelled) >= max(_FEWEST, _SHARE * len(filled))


def _has_label(cell: Cell) -> bool:
    rows = cell.text.split("\n")
    label = rows[0].strip()
    words = label.split()
    return (
        len(rows) > 1
        and 0 < len(words) <= _MOST_WORDS
        and label[:1].isalpha()
        and not label[:1].islower()
        and not any(map(str.isdigit, label))
        and label[-1:] not in ",;&-"
    )


def _of_table(page: Page, sheet: Sheet, table: Table) -> list[KeyValue]:
    if not is_form(table):
        return []
    pairs = []
    for cell in table.cells:
        rows = [] if cell.box is None or not _has_label(cell) else _rows_in(sheet, cell.box)
        key = rows[0][0].stripped(_MARKS) if rows else None
        values = [part for row in rows[1:] for each in row if (part := each.stripped(_MARKS)) is not None]
        if key is None or len(rows[0]) > 1 or not values:
            continue
        pairs.append(
            KeyValue(
                key=key.text,
                value=" ".join(part.text for part in values),
                key_box=box_of([key]),
                box=box_of(values),
                page=page.number,
                confidence=round(_SURE * min(part.score for part in (key, *values)), 3),
            )
        )
    return pairs


def _rows_in(sheet: Sheet, place: Box) -> list[list[Excerpt]]:
    """The words in a cell, row by row."""
    box = sheet.framed(place)
    found: list[list[Excerpt]] = []
    for row in sheet.rows:
        parts: list[Excerpt] = []
        for piece in row:
            inside: Sequence[int] = [
                at
                for at, token in enumerate(piece.tokens)
                if box.x0 <= (token.x0 + token.x1) / 2 <= box.x1 and box.y0 <= (token.y0 + token.y1) / 2 <= box.y1
            ]
            if inside:
                last = inside[-1]
                end = piece.starts[last] + len(piece.tokens[last].word.text)
                parts.append(Excerpt(piece, piece.starts[inside[0]], end))
        if parts:
            found.append(parts)
    return found
