"""Records as flat rows: CSV for spreadsheets, Parquet for data frames. JSON Lines stay the whole truth.

A job says which rows a record becomes. Nested objects are columns with dotted names, lists are JSON in one cell. Rows
are read twice, first for the columns and their types: memory stays flat for any number of files.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from vision_agent.batch.records import Record, read_records, replacing
from vision_agent.errors import InputError, MissingExtraError, bad_argument

SUFFIXES = (".jsonl", ".csv", ".parquet")
Kind = Literal["bool", "integer", "number", "text"]
Rows = Callable[[Record], Iterable[Mapping[str, Any]]]

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_BATCH = 1000  # rows of a Parquet row group


def check_suffix(out: Path) -> None:
    """Raise InputError for a suffix not in `SUFFIXES`, MissingExtraError where Parquet cannot be written."""
    if out.suffix.lower() not in SUFFIXES:
        raise InputError(bad_argument("out", f"a file that ends in one of {', '.join(SUFFIXES)}", str(out)))
    if out.suffix.lower() == ".parquet":
        pyarrow()


def write_table(path: Path, out: Path, rows: Rows) -> None:
    """Write `out`, CSV or Parquet by its suffix, from the records at `path`; it is there whole or not at all."""
    columns: dict[str, Kind | None] = {}
    for row in _rows(path, rows):
        for name, cell in row.items():
            columns[name] = _wider(columns.get(name), cell)
    with replacing(out) as part:
        if out.suffix.lower() == ".csv":
            _write_csv(part, columns, _rows(path, rows))
        else:
            _write_parquet(part, columns, _rows(path, rows))


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten an object into one row: `{"seller": {"name": "A"}, "items": [1]}` -> `seller.name: "A", items: "[1]"`."""
    row: dict[str, Any] = {}
    for key, each in value.items():
        if isinstance(each, Mapping):
            row |= flat(each, f"{prefix}{key}.")
        elif isinstance(each, list | tuple):
            row[f"{prefix}{key}"] = json.dumps(each, ensure_ascii=False)
        else:
            row[f"{prefix}{key}"] = each
    return row


def _rows(path: Path, rows: Rows) -> Iterator[dict[str, Any]]:
    for record in read_records(path):
        for row in rows(record):
            yield flat(row)


def _wider(kind: Kind | None, cell: Any) -> Kind | None:
    """The type of a column so far that must also hold `cell`."""
    if cell is None:
        return kind
    own: Kind = "text"
    if isinstance(cell, bool):
        own = "bool"
    elif isinstance(cell, float):
        own = "number"
    elif isinstance(cell, int) and -(2**63) <= cell < 2**63:
        own = "integer"
    if kind in (None, own):
        return own
    return "number" if {kind, own} == {"integer", "number"} else "text"


def _write_csv(part: Path, columns: Mapping[str, Kind | None], rows: Iterable[Mapping[str, Any]]) -> None:
    with open(part, "w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        for row in rows:
            writer.writerow([_csv_cell(row.get(name)) for name in columns])


def _csv_cell(cell: Any) -> Any:
    """A spreadsheet would run text that begins like a formula, and whoever wrote the document wrote it."""
    if not isinstance(cell, str) or not cell.startswith(_FORMULA) or _is_number(cell):
        return cell
    return f"'{cell}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _write_parquet(part: Path, columns: Mapping[str, Kind | None], rows: Iterable[Mapping[str, Any]]) -> None:
    arrow = pyarrow()
    from pyarrow import parquet

    types = {"bool": arrow.bool_(), "integer": arrow.int64(), "number": arrow.float64()}
    schema = arrow.schema([(name, types.get(kind or "text", arrow.string())) for name, kind in columns.items()])
    rows = iter(rows)
    with parquet.ParquetWriter(part, schema) as writer:
        while batch := list(islice(rows, _BATCH)):
            typed = [{name: _typed(row.get(name), kind) for name, kind in columns.items()} for row in batch]
            writer.write_table(arrow.Table.from_pylist(typed, schema))


def _typed(cell: Any, kind: Kind | None) -> Any:
    if cell is None:
        return None
    if kind == "number":
        return float(cell)
    if kind == "text":
        text = cell if isinstance(cell, str) else json.dumps(cell)
        return text.encode("utf-8", "backslashreplace").decode()
    return cell


def pyarrow() -> Any:
    """Return the module `pyarrow`. Raises MissingExtraError where it is not installed."""
    try:
        import pyarrow
    except ImportError as error:
        raise MissingExtraError('Parquet needs pyarrow: pip install "internvl-vision-agent[parquet]"') from error
    return pyarrow
