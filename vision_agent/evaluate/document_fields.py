"""How well fields of business papers are extracted, how honest confidences are, and what is found that is not there.

    python -m vision_agent.evaluate.document_fields FOLDER

`FOLDER` has JSON files: `document` is an `OcrResult` (or `file` a PDF or image beside it), `fields` what is true,
`absent` names of fields that the paper does not state. Amounts and days are compared as such; texts in letters and
digits, without case and punctuation.
"""

import argparse
import datetime
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import BaseModel, create_model

from vision_agent.documents.reader import DocumentReader
from vision_agent.documents.result import OcrResult
from vision_agent.documents.text_match import folded
from vision_agent.errors import InputError, bad_argument
from vision_agent.evaluate.data_folders import files_in
from vision_agent.extract.extractor import Extractor

_AMOUNTS = ("amount", "total", "cost", "price", "discount", "net", "tax")
_DAYS = ("date", "until")
_STEPS = 10  # of the reliability table


@dataclass(frozen=True)
class LabelledDocument:
    """A document and what is true of it.

    Attributes:
        name: of its file.
        document: its words.
        truth: field -> value as text; amounts with a decimal point, days as 2024-12-31.
        absent: names of fields that it does not state.
    """

    name: str
    document: OcrResult
    truth: dict[str, str]
    absent: tuple[str, ...] = ()


@dataclass
class Figures:
    """What was counted.

    Attributes:
        asked, right: by field, over the documents that state it.
        absent, invented: fields that are not there, and those of them that got a value.
        bins: for each tenth of confidence: values found, right ones, their confidences added up.
        wrong: (document, field, truth, found, confidence) of all that is not right.
    """

    asked: dict[str, int] = field(default_factory=dict)
    right: dict[str, int] = field(default_factory=dict)
    absent: int = 0
    invented: int = 0
    bins: list[list[float]] = field(default_factory=lambda: [[0, 0, 0.0] for _ in range(_STEPS)])
    wrong: list[tuple[str, str, str, str, float]] = field(default_factory=list)

    def told(self) -> dict[str, Any]:
        """Return the figures as plain numbers: shares, and the error of the confidences."""
        count, right = sum(self.asked.values()), sum(self.right.values())
        found = sum(row[0] for row in self.bins)
        error = sum(abs(row[1] - row[2]) for row in self.bins) / max(1, found)
        return {
            "all": round(right / max(1, count), 3),
            "fields": {name: round(self.right.get(name, 0) / count, 3) for name, count in self.asked.items()},
            "absent fields that get a value": round(self.invented / max(1, self.absent), 4),
            "calibration error": round(error, 3),
            "reliability": [
                {"confidence": round(sure / many, 2), "right": round(good / many, 2), "values": int(many)}
                for many, good, sure in self.bins
                if many
            ],
            "documents' fields": count,
        }


def read_folder(folder: Path) -> Iterable[LabelledDocument]:
    """Yield the documents of a folder, in the order of their names.

    Raises:
        InputError: there are none, or a file is not as this module says.
    """
    for file in files_in(folder, "*.json", "JSON files of documents and their fields"):
        told = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(told, dict) or not {"document", "file"} & told.keys() or "fields" not in told:
            raise InputError(bad_argument("folder", 'JSON with "document" or "file", and "fields"', str(file)))
        read = (
            OcrResult.model_validate(told["document"])
            if "document" in told
            else DocumentReader().read(file.parent / told["file"])
        )
        assert isinstance(read, OcrResult)
        yield LabelledDocument(file.stem, read, told["fields"], tuple(told.get("absent", ())))


def measure(documents: Iterable[LabelledDocument]) -> Figures:
    """Ask each document for its true fields and for those that it does not state, all at once."""
    extractor, figures = Extractor(DocumentReader().read), Figures()
    for each in documents:
        names = (*each.truth, *each.absent)
        found = extractor.extract(each.document, model_of(names), engine="layout")
        for name in names:
            got = found.fields[name]
            good = name in each.truth and got.found and is_right(got.value, each.truth[name])
            if name in each.truth:
                figures.asked[name] = figures.asked.get(name, 0) + 1
                figures.right[name] = figures.right.get(name, 0) + good
            else:
                figures.absent += 1
                figures.invented += got.found
            if got.found:
                row = figures.bins[min(_STEPS - 1, int(got.confidence * _STEPS))]
                row[0], row[1], row[2] = row[0] + 1, row[1] + good, row[2] + got.confidence
            if not good and (name in each.truth or got.found):
                truth = each.truth.get(name, "(absent)")
                figures.wrong.append((each.name, name, truth, str(got.value), round(got.confidence, 2)))
    return figures


def model_of(names: Sequence[str]) -> type[BaseModel]:
    """Return a model of optional fields, typed by their names."""
    fields: dict[str, Any] = {name: (_type_of(name), None) for name in names}
    return create_model("Paper", **fields)


def _type_of(name: str) -> Any:
    words = name.split("_")
    if any(word in _DAYS for word in words):
        return datetime.date | None
    return Decimal | None if any(word in _AMOUNTS for word in words) else str | None


def is_right(value: object, truth: str) -> bool:
    """Return whether a value is the true one."""
    if isinstance(value, Decimal):
        return value == Decimal(truth)
    if isinstance(value, datetime.date):
        return value.isoformat() == truth
    return folded(str(value)) == folded(truth)


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description="Measure field extraction on labelled business papers.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--wrong", action="store_true", help="list what is not right")
    options = parser.parse_args()
    try:
        figures = measure(read_folder(options.folder))
    except InputError as error:
        parser.error(str(error))
    print(json.dumps(figures.told(), indent=2))
    for line in figures.wrong if options.wrong else ():
        print(*line, sep=" | ")


if __name__ == "__main__":
    main()
