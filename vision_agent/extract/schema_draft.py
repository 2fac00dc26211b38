"""A draft of a JSON schema for documents like one that was read: its labels become fields, its tables lists."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from vision_agent.documents.cell_pairs import is_form
from vision_agent.documents.result import OcrResult
from vision_agent.documents.table import Table
from vision_agent.errors import ArgumentTypeError, bad_argument
from vision_agent.extract.contents import pairs_beside_tables, plain
from vision_agent.extract.values.amounts import find_numbers
from vision_agent.extract.values.currencies import find_currencies
from vision_agent.extract.values.dates import find_dates

_LONGEST_NAME = 40
_LONGEST_LABEL = 60
_LONGEST_DATE = 18  # letters and digits: a longer text has more in it than a date
# What is counted by nobody: digits under such a label are a text.
_CODE_LABEL = re.compile(r"\b(?:no|nr|num|number|nummer|numéro|número|id|code|zip|phone|tel|fax|iban|account)\b", re.I)


def draft_schema(document: OcrResult) -> dict[str, Any]:
    """Draft a JSON schema from a document that was read: a property for each label, and a list for each table.

    Types are those of the values that stand there: dates, numbers, boxes to tick, else texts. Nothing is required. The
    draft of a document without labels and tables has no properties, and `agent.extract` refuses it.

    Raises:
        ArgumentTypeError: `document` is no `OcrResult`.
    """
    if not isinstance(document, OcrResult):
        raise ArgumentTypeError(bad_argument("document", "an OcrResult, as `agent.ocr` returns it", document))
    properties: dict[str, Any] = {}
    tables = [(table, columns) for table in document.tables if not is_form(table) and (columns := _columns(table))]
    labels: set[str] = set()
    for pair in pairs_beside_tables(document):
        name, label = _name(pair.key), plain(pair.key)
        # A label that comes again is the same field: `extract` finds one value by a label.
        if name and label not in labels and len(label) <= _LONGEST_LABEL:
            labels.add(label)
            kind = {"type": "boolean"} if pair.checked is not None else _kind(label, [pair.value])
            properties[_free(name, properties)] = {**kind, "description": label}
    for _, columns in tables:
        items = {"type": "object", "properties": columns}
        properties[_free("rows", properties)] = {"type": "array", "items": items}
    return {"title": "Document", "type": "object", "properties": properties}


def _columns(table: Table) -> dict[str, Any]:
    """The columns of a table by the names in its header; none where nothing names them."""
    grid = table.grid(repeat=True)
    if not 0 < table.header_rows < table.rows:
        return {}
    columns: dict[str, Any] = {}
    for at in range(table.columns):
        label = " ".join(dict.fromkeys(plain(row[at]) for row in grid[: table.header_rows])).strip()
        if name := _name(label):
            values = [row[at] for row in grid[table.header_rows :] if row[at].strip()]
            columns[_free(name, columns)] = {**_kind(label, values), "description": label}
    return columns


def _kind(label: str, values: Sequence[str]) -> dict[str, Any]:
    if values and all(_is_date(value) for value in values):
        return {"type": "string", "format": "date"}
    if values and not _CODE_LABEL.search(label) and all(_is_number(value) for value in values):
        return {"type": "number"}
    return {"type": "string"}


def _is_date(value: str) -> bool:
    return len(find_dates(value)) == 1 and sum(map(str.isalnum, value)) <= _LONGEST_DATE


def _is_number(value: str) -> bool:
    """Whether a value is one number, with its currency or not; what begins with 0 and goes on in digits is a code."""
    bare = value
    for _, start, end in reversed(find_currencies(value)):
        bare = bare[:start] + bare[end:]
    return not any(map(str.isalpha, bare)) and len(find_numbers(value)) == 1 and not re.match(r"\s*\+?0\d", value)


def _name(label: str) -> str:
    """A label as a field's name: `Invoice no.` becomes `invoice_no`; "" for one without letters."""
    plain = "".join(each for each in unicodedata.normalize("NFKD", label) if not unicodedata.combining(each))
    name = re.sub(r"[\W_]+", "_", plain.casefold()).strip("_")[:_LONGEST_NAME].rstrip("_")
    if not any(map(str.isalpha, name)):
        return ""
    return name if name.isidentifier() else f"field_{name}"


def _free(name: str, taken: dict[str, Any]) -> str:
    """The name, with a number behind it where another field has it."""
    free, number = name, 1
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free
