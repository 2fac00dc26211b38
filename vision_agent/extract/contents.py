"""What a document states where nobody says what to look for: its pairs of labels and values, and its tables."""

from pydantic import BaseModel

from vision_agent.documents.result import KeyValue, OcrResult
from vision_agent.documents.table import Table
from vision_agent.extract.result import Extraction, FieldValue
from vision_agent.results.box import FROZEN


class DocumentContents(BaseModel):
    """The pairs and tables of a document, as they stand there.

    Attributes:
        key_values: labels with what was filled in, and boxes to tick, with boxes in pixels and confidences. What only
            repeats cells of a table is in `tables` alone.
        tables: in reading order.
        warnings: what makes the text doubtful.
    """

    model_config = FROZEN

    key_values: tuple[KeyValue, ...] = ()
    tables: tuple[Table, ...] = ()
    warnings: tuple[str, ...] = ()


def pairs_beside_tables(document: OcrResult) -> list[KeyValue]:
    """Return the pairs of a document without those that only repeat cells of a table that has headers."""
    of_tables = [{plain(cell.text) for cell in table.cells} for table in document.tables if table.header_rows]
    return [
        pair
        for pair in document.key_values
        if not any({plain(pair.key), plain(pair.value)} <= texts for texts in of_tables)
    ]


def plain(text: str) -> str:
    """Return a text with single spaces."""
    return " ".join(text.split())


def contents_of(document: OcrResult, min_confidence: float) -> Extraction[DocumentContents]:
    """Return the contents of a document; pairs that are less sure than `min_confidence` (0-1) are left out."""
    pairs = tuple(pair for pair in pairs_beside_tables(document) if pair.confidence >= min_confidence)
    contents = DocumentContents(key_values=pairs, tables=tuple(document.tables), warnings=tuple(document.warnings))
    fields = {
        f"key_values[{at}].{'value' if pair.checked is None else 'checked'}": FieldValue(
            value=pair.value if pair.checked is None else pair.checked,
            found=True,
            text=pair.value,
            page=pair.page,
            box=pair.box,
            confidence=pair.confidence,
        )
        for at, pair in enumerate(pairs)
    }
    return Extraction[DocumentContents](value=contents, fields=fields, engine="layout", document=document)
