"""How well fields are extracted from receipts of shops that were not seen while the engine was built.

    python -m vision_agent.evaluate.fields FOLDER [--split report] [--limit N] [--lines truth]

`FOLDER` has `receipts_900.json` and `.zip`. A receipt belongs to a split by the SHA-256 of its shop's name, so that all
receipts of a shop are on one side; those of shops that a further test uses are left out. A value is right where it
equals the truth in letters and digits, without case and punctuation; dates and amounts are compared as such.
"""

import argparse
import datetime
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import BaseModel

from vision_agent.documents.reader import DocumentReader
from vision_agent.documents.result import Block, Line, OcrResult, Page, Word, box_around, quad_of
from vision_agent.errors import InputError
from vision_agent.evaluate.data_folders import files_in, listed_documents
from vision_agent.extract.extractor import Extractor
from vision_agent.extract.result import Extraction
from vision_agent.extract.values.dates import find_dates

SPLITS = ("build", "report")
FIELDS = ("company", "date", "address", "total")


class Receipt(BaseModel):
    """What is asked of a receipt."""

    company: str | None
    date: datetime.date | str | None
    address: str | None
    total: Decimal | None


def split_of(shop: str) -> str:
    """Return the split of a shop's receipts: an eighth of the shops is for the report."""
    digest = hashlib.sha256(shop.upper().encode()).digest()
    return "report" if all(each % 2 for each in digest[:3]) else "build"


def receipts(
    folder: Path, split: str, *, lines: str = "ocr", limit: int | None = None
) -> Iterator[tuple[OcrResult, Any]]:
    """Yield documents of a split with their true fields.

    Args:
        lines: "ocr" reads the images; "truth" takes the annotated lines.
        limit: how many at most.

    Raises:
        InputError: the folder has no list of receipts, or no archive of their images.
    """
    listed = listed_documents(folder, "receipts_900.json")
    chosen = [
        each for each in listed if not each["shop_in_heldout"] and split_of(str(each["fields"].get("company"))) == split
    ]
    document_reader = DocumentReader()
    (images,) = files_in(folder, "receipts_900.zip", "`receipts_900.zip`, the images of the receipts")
    with zipfile.ZipFile(images) as archive:
        for each in chosen[:limit]:
            if lines == "truth":
                yield OcrResult(pages=(_true_page(each),), engine="truth"), each["fields"]
                continue
            image = Image.open(io.BytesIO(archive.read(each["file_name"]))).convert("RGB")
            read = document_reader.read(image)
            assert isinstance(read, OcrResult)
            yield read, each["fields"]


def _true_page(document: Any) -> Page:
    """The annotated lines as a page; words share their line's width by their letters."""
    found = []
    for line in document["lines"]:
        text, (x, y, width, height) = line["text"], line["bbox"]
        words = [
            Word(
                text=m[0],
                quad=quad_of((x + width * m.start() / len(text), y, x + width * m.end() / len(text), y + height)),
                score=1,
            )
            for m in re.finditer(r"\S+", text)
        ]
        if words:
            found.append(Line(words=tuple(words), quad=quad_of((x, y, x + width, y + height)), score=1))
    block = Block(kind="text", box=box_around([line.quad for line in found]), lines=tuple(found))
    return Page(number=1, width=document["width"], height=document["height"], blocks=(block,))


def is_right(field: str, found: Extraction[Receipt], truth: str) -> bool:
    """Return whether a field's value is the true one."""
    value = getattr(found.value, field)
    if value is None:
        return False
    if field == "total":
        numbers = re.findall(r"\d[\d,]*\.?\d*", truth)
        return bool(numbers) and value == Decimal(numbers[-1].replace(",", ""))
    dates = find_dates(truth) if field == "date" else []
    if dates and isinstance(value, datetime.date):
        return value == dates[0].value
    return plain(str(value)) == plain(truth)


def plain(text: str) -> str:
    """Return letters and digits of a text in lower case, words apart by one blank."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def measure(folder: Path, split: str, *, lines: str = "ocr", limit: int | None = None) -> dict[str, dict[str, float]]:
    """Return for each field the share of documents where it is right, and where it was not found."""
    extractor = Extractor(DocumentReader().read)
    right, missing, count = dict.fromkeys(FIELDS, 0), dict.fromkeys(FIELDS, 0), 0
    for document, truth in receipts(folder, split, lines=lines, limit=limit):
        found = extractor.extract(document, Receipt, engine="layout")
        count += 1
        for field in FIELDS:
            right[field] += is_right(field, found, truth.get(field) or "")
            missing[field] += not found.fields[field].found
    share = max(1, count)
    return {
        field: {"right": right[field] / share, "not found": missing[field] / share, "documents": count}
        for field in FIELDS
    }


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description="Measure field extraction on receipts.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", choices=SPLITS, default="report")
    parser.add_argument("--lines", choices=("ocr", "truth"), default="ocr")
    parser.add_argument("--limit", type=int)
    options = parser.parse_args()
    try:
        figures = measure(options.folder, options.split, lines=options.lines, limit=options.limit)
    except InputError as error:
        parser.error(str(error))
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
