"""Reads the files that benchmarks are published in: JSON, JSON Lines, VLMEvalKit's TSV, the hub's Parquet."""

import ast
import base64
import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vision_agent.data.annotations.faults import Faults
from vision_agent.errors import MissingExtraError

Row = dict[str, Any]
SUFFIXES = (".json", ".jsonl", ".tsv", ".parquet")
_LISTS = ("data", "annotations", "questions")
_LONGEST_REFERENCE = 64  # characters: a shorter image of a TSV is the number of the row that has it


def read_rows(path: Path, faults: Faults) -> list[Row]:
    """Return the rows of a file. What cannot be read is a fault; what is no row is one, too."""
    try:
        rows = list(_READERS[path.suffix.lower()](path))
    except (OSError, ValueError, RecursionError, csv.Error, SyntaxError) as error:
        faults.add("file that cannot be read", path, "", f"{type(error).__name__}: {error}", fatal=True)
        return []
    whole = [row for row in rows if isinstance(row, dict)]
    for _ in range(len(rows) - len(whole)):
        faults.add("row that is no record", path, fatal=True)
    if not rows:
        faults.add("empty file", path, fatal=True)
    return whole


def _json(path: Path) -> Iterator[Any]:
    """A list, a dict of one ({"data": [...]}), records by id as GQA has them, or one record a line as POPE has them."""
    text = path.read_text("utf-8-sig")
    try:
        content = json.loads(text)
    except json.JSONDecodeError:
        yield from _lines(text)
        return
    if isinstance(content, Mapping):
        listed = next((content[name] for name in _LISTS if isinstance(content.get(name), list)), None)
        if listed is not None:
            yield from listed
        elif content and all(isinstance(each, Mapping) for each in content.values()):
            yield from ({"id": key, **each} for key, each in content.items())
        else:
            yield dict(content)  # a file of one line
    elif isinstance(content, list):
        yield from content
    else:
        raise ValueError(f"expected records, but got {type(content).__name__}")


def _json_lines(path: Path) -> Iterator[Any]:
    yield from _lines(path.read_text("utf-8-sig"))


def _lines(text: str) -> Iterator[Any]:
    for number, line in enumerate(text.split("\n"), 1):  # `splitlines` would cut at U+2028, which JSON may hold
        if line.strip():
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number} is no JSON: {error}") from error


def _tsv(path: Path) -> Iterator[Row]:
    """A row's image may be the index of another row, which has the same one."""
    limit = csv.field_size_limit(2**31 - 1)
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            rows = [
                {name: value for name, value in row.items() if name and value}
                for row in csv.DictReader(stream, delimiter="\t")
            ]
    finally:
        csv.field_size_limit(limit)
    images = {row.get("index"): row.get("image", "") for row in rows}
    for row in rows:
        image = row.get("image", "")
        if image and len(image) <= _LONGEST_REFERENCE:
            row["image"] = image = images.get(image, "")
        read: Row = dict(row)
        if image:
            read["image"] = {"bytes": base64.b64decode(image)}
        if str(row.get("answer", "")).startswith("["):
            read["answers"] = _listed(str(row["answer"]))
        yield read


def _listed(text: str) -> Any:
    """A list as Python writes it; a text that only begins like one stays what it is."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return [text]


def _parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError('Parquet files need pyarrow: pip install "internvl-vision-agent[benchmark]"') from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(64):
                yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        raise ValueError(str(error)) from error


_READERS = {".json": _json, ".jsonl": _json_lines, ".tsv": _tsv, ".parquet": _parquet}
