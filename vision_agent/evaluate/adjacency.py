"""How well tables in PDFs are found: neighbouring cells of the ICDAR 2013 table competition.

    python -m vision_agent.evaluate.adjacency FOLDER [--limit N] [--text-layer only]

`FOLDER` has PDFs with `NAME-str.xml` beside them (cells with start and end rows and columns). A relation is two
neighbouring cells with text, right of or below each other, blank cells between them left out; it is right where both
texts are, without blanks and case. Precision, recall and F1 are over the relations of all documents.
"""

import argparse
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from vision_agent.documents.options import OcrOptions
from vision_agent.documents.reader import DocumentReader
from vision_agent.documents.result import OcrResult
from vision_agent.errors import InputError, bad_argument
from vision_agent.evaluate.data_folders import files_in

Relation = tuple[str, str, str]
Placed = tuple[int, int, int, int, str]
"""First row, first column, last row, last column, text."""


def relations(cells: Sequence[Placed]) -> Counter[Relation]:
    """Return the pairs of neighbouring cells with text of one table, with the direction from one to the other."""
    at: dict[tuple[int, int], Placed] = {}
    for cell in cells:
        if _plain(cell[4]):
            at |= {(row, column): cell for row in range(cell[0], cell[2] + 1) for column in range(cell[1], cell[3] + 1)}
    rows, columns = max((row for row, _ in at), default=-1), max((column for _, column in at), default=-1)
    found: set[tuple[Placed, Placed, str]] = set()
    for (row, column), cell in at.items():
        right = next((at[row, each] for each in range(column + 1, columns + 1) if (row, each) in at), None)
        below = next((at[each, column] for each in range(row + 1, rows + 1) if (each, column) in at), None)
        found |= {(cell, other, way) for other, way in ((right, "right"), (below, "below")) if other and other != cell}
    return Counter((_plain(cell[4]), _plain(other[4]), way) for cell, other, way in found)


def true_tables(file: Path) -> list[list[Placed]]:
    """Read the cells of a `-str.xml` file, table by table; the parts of a table on several pages apart."""
    tables = []
    for region in ET.parse(file).getroot().iter("region"):
        cells = []
        for cell in region.iter("cell"):
            row, column = int(cell.get("start-row", 0)), int(cell.get("start-col", 0))
            last = int(cell.get("end-row", row)), int(cell.get("end-col", column))
            cells.append((row, column, *last, cell.findtext("content") or ""))
        tables.append(cells)
    return tables


def documents(folder: Path) -> list[Path]:
    """Return the `-str.xml` files that have their PDF beside them; the published set has some without.

    Raises:
        InputError: there are none.
    """
    holds = "PDFs and `NAME-str.xml` files of their cells"
    found = [file for file in files_in(folder, "*-str.xml", holds) if _pdf_of(file).exists()]
    if not found:
        raise InputError(bad_argument("folder", f"a folder with {holds}", f"{folder} (no PDF beside its XML)"))
    return found


def _pdf_of(file: Path) -> Path:
    return file.with_name(file.name.replace("-str.xml", ".pdf"))


def read_tables(document: OcrResult) -> list[list[Placed]]:
    """Return the cells of a document's tables in the same form."""
    return [
        [
            (cell.row, cell.column, cell.row + cell.row_span - 1, cell.column + cell.column_span - 1, cell.text)
            for cell in table.cells
        ]
        for table in document.tables
    ]


def counts(true: Iterable[Sequence[Placed]], read: Iterable[Sequence[Placed]]) -> tuple[int, int, int]:
    """Return how many relations are right, how many were read, and how many there are."""
    wanted, found = (sum(map(relations, tables), Counter[Relation]()) for tables in (true, read))
    return (wanted & found).total(), found.total(), wanted.total()


def _plain(text: str) -> str:
    return "".join(text.split()).lower()


def main() -> None:
    """Print the figures of a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--text-layer", choices=("auto", "only"), default="only")
    settings = parser.parse_args()
    try:
        files = documents(settings.folder)[: settings.limit]
    except InputError as error:
        parser.error(str(error))
    reader, right, read, true = DocumentReader(), 0, 0, 0
    for file in files:
        document = reader.read(_pdf_of(file), OcrOptions(text_layer=settings.text_layer))
        assert isinstance(document, OcrResult)
        own = counts(true_tables(file), read_tables(document))
        right, read, true = right + own[0], read + own[1], true + own[2]
        print(f"{file.name.removesuffix('-str.xml'):12} {2 * own[0] / max(1, own[1] + own[2]):.3f}")
    print(
        f"precision {right / max(1, read):.3f}  recall {right / max(1, true):.3f}  "
        f"F1 {2 * right / max(1, read + true):.3f}"
    )


if __name__ == "__main__":
    main()
