"""How well words are read: recall and precision of words, and the character error rate of lines.

Words are compared as a multiset for each document: a word read twice where it stands once counts once. Characters are
compared line for line, matched by place, so that the order in which lines are given does not matter.
"""

import hashlib
import io
import json
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rapidfuzz.distance import Levenshtein

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class PlacedText:
    """A line of text and its upright box, pixels."""

    text: str
    box: Box


@dataclass(frozen=True)
class AnnotatedPage:
    """An image whose text is known.

    Attributes:
        name: of its file.
        image: RGB.
        lines: all text.
        group: what must not be on both sides of a split, such as the shop of a receipt.
        fields: other objects known of it.
    """

    name: str
    image: Image.Image
    lines: tuple[PlacedText, ...]
    group: str
    fields: dict[str, str]


@dataclass(frozen=True)
class WordFigures:
    """Of several pages: shares of true words found and of found words true, and characters wrong per true one."""

    recall: float
    precision: float
    character_errors: float
    words: int


def receipts(archive: Path, *, half: int | None = None, with_shared_shops: bool = False) -> Iterator[AnnotatedPage]:
    """Yield receipts of an archive (`NAME.zip` with `NAME.json` beside it).

    Args:
        half: 0 or 1 for the receipts of one half of the shops, None for all.
        with_shared_shops: also those whose shop occurs in the held-out part.
    """
    documents = json.loads(archive.with_suffix(".json").read_text("utf-8"))["documents"]
    with zipfile.ZipFile(archive) as images:
        for document in documents:
            shop = str(document["fields"].get("company")).upper()
            if (document["shop_in_heldout"] and not with_shared_shops) or (half is not None and half_of(shop) != half):
                continue
            with Image.open(io.BytesIO(images.read(document["file_name"]))) as image:
                page = image.convert("RGB")
            lines = []
            for line in document["lines"]:
                x, y, width, height = line["bbox"]
                lines.append(PlacedText(line["text"], (x, y, x + width, y + height)))
            yield AnnotatedPage(document["file_name"], page, tuple(lines), shop, document["fields"])


def half_of(group: str) -> int:
    """Return 0 or 1, always the same for a group."""
    return hashlib.sha256(group.encode()).digest()[0] % 2


def word_figures(
    pages: Sequence[tuple[Sequence[PlacedText], Sequence[PlacedText]]], *, ignore_case: bool = False
) -> WordFigures:
    """Return figures over pages, each (lines as read, lines as they are). Lines are split into words at spaces."""
    shared = read = true = errors = characters = 0
    for found, truth in pages:
        if ignore_case:
            found, truth = _upper(found), _upper(truth)
        have = Counter(word for line in found for word in line.text.split())
        want = Counter(word for line in truth for word in line.text.split())
        shared += (have & want).total()
        read += have.total()
        true += want.total()
        errors += _character_errors(found, truth)
        characters += sum(len(_squeezed(line.text)) for line in truth)
    return WordFigures(shared / max(1, true), shared / max(1, read), errors / max(1, characters), true)


def _upper(lines: Sequence[PlacedText]) -> list[PlacedText]:
    return [PlacedText(line.text.upper(), line.box) for line in lines]


def _squeezed(text: str) -> str:
    return " ".join(text.split())


def _character_errors(found: Sequence[PlacedText], truth: Sequence[PlacedText]) -> int:
    """Edits over a page: each found line goes to the true line it shares most with; one that has none is all errors."""
    parts: list[list[PlacedText]] = [[] for _ in truth]
    errors = 0
    for line in found:
        shares = [_shared(line.box, other.box) for other in truth]
        best = int(np.argmax(shares)) if shares else -1
        if best < 0 or shares[best] <= 0:
            errors += len(_squeezed(line.text))
        else:
            parts[best].append(line)
    for line, pieces in zip(truth, parts, strict=True):
        read = " ".join(piece.text for piece in sorted(pieces, key=lambda piece: piece.box[0]))
        errors += Levenshtein.distance(_squeezed(read), _squeezed(line.text))
    return errors


def _shared(a: Box, b: Box) -> float:
    """Part of the smaller box that two boxes share."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
    return max(0.0, width) * max(0.0, height) / smaller if width > 0 and height > 0 and smaller > 0 else 0.0
