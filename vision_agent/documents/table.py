"""Tables: cells with spans, and the forms that people take them away in.

A table is a grid of `rows` x `columns`. A cell covers a rectangle of it; a place of the grid that no cell covers is
empty. How tables are found in a page is in `vision_agent.documents.table_detection`.
"""

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Self

from pydantic import BaseModel, NonNegativeInt, PositiveInt, model_validator

from vision_agent.errors import MissingExtraError
from vision_agent.results.box import FROZEN, Box

if TYPE_CHECKING:
    import pandas


class Cell(BaseModel):
    """One cell of a table.

    Attributes:
        row, column: its upper left place in the grid, from 0.
        row_span, column_span: how many rows and columns it covers.
        text: its words; lines are joined by line breaks.
        box: pixels of the upright page; None where a cell holds nothing and has no lines around it.
    """

    model_config = FROZEN

    row: NonNegativeInt
    column: NonNegativeInt
    row_span: PositiveInt = 1
    column_span: PositiveInt = 1
    text: str = ""
    box: Box | None = None


class Table(BaseModel):
    """A table of a page.

    Attributes:
        rows, columns: size of the grid.
        cells: in reading order; no two cover the same place.
        header_rows: how many rows, from the top, name the columns.
        box: pixels of the upright page.
        source: "lines" where ruling lines show the cells, "gaps" where only the white between words does.
    """

    model_config = FROZEN

    rows: PositiveInt
    columns: PositiveInt
    cells: tuple[Cell, ...]
    header_rows: NonNegativeInt = 1
    box: Box
    source: Literal["lines", "gaps"] = "gaps"

    @model_validator(mode="after")
    def _fits_its_grid(self) -> Self:
        taken: set[tuple[int, int]] = set()
        for cell in self.cells:
            places = _places(cell)
            if cell.row + cell.row_span > self.rows or cell.column + cell.column_span > self.columns:
                raise ValueError(f"the cell {cell.text!r} leaves the grid of {self.rows} x {self.columns}")
            if taken & places:
                raise ValueError(f"the cell {cell.text!r} covers a place that another cell covers")
            taken |= places
        if self.header_rows > self.rows:
            raise ValueError(f"`header_rows` is {self.header_rows}, but there are {self.rows} rows")
        return self

    def grid(self, *, repeat: bool = False) -> list[list[str]]:
        """Return the texts, row by row.

        Args:
            repeat: a cell that spans several places stands in all of them; otherwise in its first alone.
        """
        texts = [[""] * self.columns for _ in range(self.rows)]
        for cell in self.cells:
            for row, column in _places(cell) if repeat else {(cell.row, cell.column)}:
                texts[row][column] = cell.text
        return texts

    def to_markdown(self) -> str:
        """Return GitHub's form of a table. It knows no spans: a cell stands in its first place, the others are empty.

        Markdown needs one row of names: several header rows are joined, a cell over several columns in each of them,
        and none gives an empty one.
        """
        texts = self.grid()
        names = self.grid(repeat=self.header_rows > 1)[: self.header_rows]
        header = [_joined(list(dict.fromkeys(each)), " ") for each in zip(*map(_escaped, names), strict=True)]
        rows = [header or [""] * self.columns, ["---"] * self.columns, *map(_escaped, texts[self.header_rows :])]
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)

    def to_html(self) -> str:
        """Return a `<table>` with row and column spans. Texts are escaped."""
        lines = []
        for row in range(self.rows):
            name = "th" if row < self.header_rows else "td"
            cells = []
            here = {cell.column: cell for cell in self.cells if cell.row == row}
            covered = {column for cell in self.cells for at, column in _places(cell) if at == row}
            for column in range(self.columns):
                if (cell := here.get(column)) is not None:
                    spans = (("rowspan", cell.row_span), ("colspan", cell.column_span))
                    marks = "".join(f' {mark}="{span}"' for mark, span in spans if span > 1)
                    text = html.escape(cell.text).replace("\n", "<br>")
                    cells.append(f"<{name}{marks}>{text}</{name}>")
                elif column not in covered:
                    cells.append(f"<{name}></{name}>")
            lines.append(f"<tr>{''.join(cells)}</tr>")
        return "<table>\n" + "\n".join(lines) + "\n</table>"

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return a pandas frame of texts. A cell that spans several places is in all of them, as in `pandas.read_html`.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise MissingExtraError('to_dataframe needs pandas: pip install "internvl-vision-agent[tables]"') from error
        texts = self.grid(repeat=True)
        names = [_joined(list(dict.fromkeys(column)), " ") for column in zip(*texts[: self.header_rows], strict=True)]
        return pandas.DataFrame(
            texts[self.header_rows :], columns=names or [str(index) for index in range(self.columns)]
        )


def _places(cell: Cell) -> set[tuple[int, int]]:
    return {
        (row, column)
        for row in range(cell.row, cell.row + cell.row_span)
        for column in range(cell.column, cell.column + cell.column_span)
    }


def _escaped(row: Sequence[str]) -> list[str]:
    return [text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", "<br>") for text in row]


def _joined(texts: Sequence[str], glue: str) -> str:
    return glue.join(text.replace("\n", " ") for text in texts if text)
