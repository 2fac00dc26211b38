"""What a file without pages of its own holds, in reading order: headings, paragraphs, lists, code and tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vision_agent.documents.table import Cell

PartKind = Literal["title", "text", "list", "table", "caption", "header", "footer", "code"]
"""Those of `BlockKind` that files say of themselves."""


@dataclass(frozen=True)
class FlowPart:
    """A paragraph, a heading, a table, ...

    Attributes:
        text: its lines, joined by line breaks; of a table nothing.
        kind: what it is.
        level: of a heading, from 1.
        cells: of a table, without places on a page.
        header_rows: of a table, how many rows name its columns.
        new_page: whether it begins a page.
        as_is: whether its columns stay under each other.
    """

    text: str
    kind: PartKind = "text"
    level: int | None = None
    cells: tuple[Cell, ...] = ()
    header_rows: int = 1
    new_page: bool = False
    as_is: bool = False


def table_part(rows: Sequence[Sequence[tuple[str, int, int]]], header_rows: int = 1) -> FlowPart | None:
    """Return rows of cells (text, rows and columns that it spans) as a table; None where no cell has text."""
    taken: set[tuple[int, int]] = set()
    cells = []
    for row, texts in enumerate(rows):
        column = 0
        for text, high, wide in texts:
            while (row, column) in taken:
                column += 1
            high = min(max(1, high), len(rows) - row)
            wide = next((n for n in range(1, wide) if (row, column + n) in taken), max(1, wide))
            taken |= {(row + down, column + right) for down in range(high) for right in range(wide)}
            cells.append(Cell(row=row, column=column, row_span=high, column_span=wide, text=text.strip()))
            column += wide
    if not any(cell.text for cell in cells):
        return None
    return FlowPart("", "table", cells=tuple(cells), header_rows=header_rows)
