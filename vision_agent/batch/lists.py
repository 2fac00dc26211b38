"""Lists of files, and tables with images in them: what else than files and folders a run may be about.

A row of a Parquet file that holds the image itself, as data sets of Hugging Face do, is named
`FILE.parquet#COLUMN#ROW`, from 0; a row that names a file is that file.
"""

import codecs
import csv
import json
import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TextIO

from vision_agent.batch.files import find_inputs
from vision_agent.batch.tables import pyarrow
from vision_agent.errors import InputError, bad_argument

LIST_SUFFIXES = (".txt", ".csv", ".jsonl", ".parquet")
"""Files that name others: a path a line; a column of paths; for Parquet also of images."""
STDIN = "-"

_COLUMNS = ("image", "file", "path", "image_path", "file_path", "file_name", "filename", "document", "img", "url")
_ROW = re.compile(r"(?s)(.+\.parquet)#(.+)#(\d+)\Z", re.IGNORECASE)
_ADDRESS = re.compile(r"(?i)https?://")


def find_items(
    paths: Iterable[str | os.PathLike[str]], suffixes: Collection[str], what: str, column: str | None = None
) -> list[str]:
    """Return what a run is about: files, those below folders, and those that lists name, each once.

    What lists name need not be there: it becomes a record of an error, as a damaged file does. A relative path in a
    list counts from the working folder, or from the list's own where only there is such a file.

    Args:
        paths: files, folders, patterns, addresses, lists (`LIST_SUFFIXES`), and `-` for a list on stdin.
        suffixes: of files in folders.
        what: these are, for errors.
        column: of tables; None for one whose name says it (`image`, `file`, `path` ...), or the only one.

    Raises:
        InputError: nothing at a path, nothing at all, no such column, or a list that cannot be read.
    """
    found: dict[str, None] = {}
    tables = False
    all_given = [os.fspath(path) for path in paths]
    for given in all_given:
        if given == STDIN:
            found |= dict.fromkeys(_named(_lines(sys.stdin.buffer.read(), "standard input"), Path()))
        elif _ADDRESS.match(given):
            found[given] = None
        else:
            for file in find_inputs([given], suffixes, what):
                tables = tables or file.lower().endswith(LIST_SUFFIXES[1:])
                found |= dict.fromkeys(_listed(file, column) if file.lower().endswith(LIST_SUFFIXES) else [file])
    if column is not None and not tables:
        raise InputError(f"`column` goes with lists that have columns, {', '.join(LIST_SUFFIXES[1:])}; there is none")
    if not found:
        raise InputError(bad_argument("paths", f"files, folders or lists with {what}", all_given))
    return list(found)


def read_item(name: str) -> str | Path | bytes:
    """Return what an item of a run stands for: a path, an address, or the bytes of a row.

    Raises:
        InputError: a row that is not there or that holds no image.
    """
    if _ADDRESS.match(name):
        return name
    row = _ROW.match(name)
    if row is None or os.path.exists(name):
        return Path(name)
    return _row(row[1], row[2], int(row[3]))


def _listed(file: str, column: str | None) -> Iterator[str]:
    """What a list names."""
    beside = Path(file).parent
    try:
        if file.lower().endswith(".parquet"):
            yield from _of_parquet(file, column)
        elif file.lower().endswith(".txt"):
            yield from _named(_lines(Path(file).read_bytes(), file), beside)
        else:
            for cell in _cells(file, column):
                yield from _named([cell.encode("utf-8", "surrogateescape")], beside)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"`paths` has a list that cannot be read: {file!r}: {error}") from error


def _lines(content: bytes, file: str) -> list[bytes]:
    """The lines of a text; UTF-16 is what `>` of PowerShell writes."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            content = content.decode("utf-16").encode()
        except UnicodeError as error:
            raise InputError(f"`paths` has a list that cannot be read: {file!r}: {error}") from error
    return content.splitlines()


def _named(lines: Iterable[bytes], beside: Path) -> Iterator[str]:
    for line in lines:
        name = line.decode("utf-8", "surrogateescape").strip("\ufeff\r\n\0 ")
        if not name:
            continue
        known = _ADDRESS.match(name) or os.path.exists(name) or not os.path.exists(beside / name)
        yield name if known else str(beside / name)


def _cells(file: str, column: str | None) -> Iterator[str]:
    """The cells of the column that names files, of CSV or JSON Lines."""
    with open(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        rows: Iterable[Mapping[str, Any]] = (
            csv.DictReader(stream, delimiter=_delimiter(stream))
            if file.lower().endswith(".csv")
            else _objects(stream, file)
        )
        chosen = None
        for row in rows:
            chosen = chosen or _column([name for name in row if name], column, file)
            cell = row.get(chosen)
            if isinstance(cell, str):
                yield cell
            elif cell is not None:
                raise InputError(bad_argument("column", f"one of paths in {file!r}", cell))


def _delimiter(stream: TextIO) -> str:
    """What stands between the names of columns: spreadsheets write semicolons where a comma is part of numbers."""
    names = stream.readline()
    stream.seek(0)
    return next((mark for mark in (",", ";", "\t") if mark in names), ",")


def _objects(lines: Iterable[str], file: str) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"`paths` has a list that is no JSON at {file!r}, line {number}: {error}") from error
        if not isinstance(row, dict):
            raise InputError(bad_argument("paths", f"a list of objects at {file!r}, line {number}", row))
        yield row


def _column(names: list[str], wanted: str | None, file: str) -> str:
    if wanted is not None:
        if wanted not in names:
            raise InputError(bad_argument("column", f"one of {', '.join(names)} in {file!r}", wanted))
        return wanted
    for name in _COLUMNS:
        if name in names:
            return name
    if len(names) == 1:
        return names[0]
    raise InputError(bad_argument("column", f"given for {file!r}, one of {', '.join(names)}", None))


def _of_parquet(file: str, column: str | None) -> Iterator[str]:
    arrow = pyarrow()
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as table:
            chosen = _column(table.schema_arrow.names, column, file)
            kind = table.schema_arrow.field(chosen).type
            kind = kind.value_type if arrow.types.is_dictionary(kind) else kind
            if arrow.types.is_string(kind) or arrow.types.is_large_string(kind):
                for batch in table.iter_batches(columns=[chosen]):
                    names = (name.encode("utf-8") for name in batch.column(0).to_pylist() if name is not None)
                    yield from _named(names, Path(file).parent)
                return
            if not _holds_bytes(arrow, kind):
                raise InputError(bad_argument("column", f"one of paths or of images in {file!r}", f"{chosen}: {kind}"))
            yield from (f"{file}#{chosen}#{number}" for number in range(table.metadata.num_rows))
    except arrow.ArrowException as error:
        raise InputError(f"`paths` has a list that cannot be read: {file!r}: {error}") from error


def _holds_bytes(arrow: Any, kind: Any) -> bool:
    if arrow.types.is_struct(kind):
        return any(kind.field(place).name == "bytes" for place in range(kind.num_fields))
    return bool(arrow.types.is_binary(kind) or arrow.types.is_large_binary(kind))


def _row(file: str, column: str, number: int) -> bytes | Path:
    """The image of a row, or the path that stands in its place."""
    arrow = pyarrow()
    try:
        first, cells = _group(file, column, number)
    except (OSError, KeyError, arrow.ArrowException) as error:
        raise InputError(f"the table {file!r} cannot be read: {error}") from error
    cell = cells[number - first].as_py()
    if isinstance(cell, Mapping):
        cell = cell["bytes"] if cell["bytes"] is not None else cell.get("path")
    if isinstance(cell, bytes):
        return cell
    if isinstance(cell, str):
        return Path(cell)
    raise InputError(bad_argument("image", f"an image in row {number} of {file!r}", cell))


def _group(file: str, column: str, number: int) -> tuple[int, Any]:
    """The group of rows that a row is in: its first row's number, and the cells of the column with images."""
    from pyarrow import parquet

    with parquet.ParquetFile(file) as table:
        first = 0
        for group in range(table.metadata.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            if number < first + rows:
                return first, _cells_of(file, column, group)
            first += rows
    raise InputError(bad_argument("image", f"a row below {first} of {file!r}", number))


@lru_cache(maxsize=2)  # rows of a file come one after the other
def _cells_of(file: str, column: str, group: int) -> Any:
    from pyarrow import parquet

    with parquet.ParquetFile(file) as table:
        return table.read_row_group(group, columns=[column]).column(column)
