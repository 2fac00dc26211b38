"""A document as the rules see it: pages, labels, and typed values in its texts, such as dates, numbers and accounts."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from vision_agent.documents.result import OcrResult
from vision_agent.documents.sheet import Excerpt, Piece, Sheet, sheet_of
from vision_agent.extract.lexicon import CONCEPTS, Concept, Kind
from vision_agent.extract.rules.labels import Label, find_labels
from vision_agent.extract.values.amounts import DecimalMark, Number, decimal_mark_of, find_numbers
from vision_agent.extract.values.dates import DateOrder, FoundDate, date_order_of, find_dates, find_time

_PATTERNS: dict[Kind, re.Pattern[str]] = {
    "email": re.compile(r"[\w.+-]+\s?@\s?[\w-]+(?:\.[\w-]+)+"),
    "web": re.compile(
        r"(?:https?://|www\.)[^\s,;]+|(?<![@\w.])[\w-]+\.(?:com|org|net|de|fr|es|it|eu|co\.uk|nl|io)(?:/\S*)?\b", re.I
    ),
    "iban": re.compile(r"\b[A-Z]{2}\d{2}(?:\s?[A-Z0-9]{4}){2,7}(?:\s?[A-Z0-9]{1,4})?\b"),
    "phone": re.compile(r"(?<![\w.,])(?:\+|\()?\d[\d\s()./-]{5,18}\d(?![\w%])"),
    # An identifier has a digit; blanks only between groups of digits or after a prefix of capitals.
    "id": re.compile(r"(?:[A-Z]{1,6}[ -])?[A-Za-z0-9][A-Za-z0-9\-/._#]*(?: (?=[\dA-Z]*\d)[A-Z0-9\-/]+)*"),
}


@dataclass(frozen=True)
class Typed:
    """A typed value at its place.

    Attributes:
        value: a date, a time, a `Decimal` or a text.
        excerpt: where it stands.
        weight: how much it looks like one of its kind, around 0; less is worse.
        number: for numbers what else was found about them.
    """

    value: Any
    excerpt: Excerpt
    weight: float = 0.0
    number: Number | None = None


class View:
    """A document prepared for look-ups.

    Attributes:
        sheets: its pages.
        mark: the decimal mark where a number does not tell.
        order: the order of day and month where a date does not tell.
    """

    def __init__(
        self, document: OcrResult, *, date_order: DateOrder | None = None, decimal_mark: DecimalMark | None = None
    ) -> None:
        self.sheets: tuple[Sheet, ...] = tuple(sheet_of(page) for page in document.pages)
        texts = [piece.text for piece in self.pieces]
        self.mark: DecimalMark = decimal_mark or decimal_mark_of(texts)
        self.order: DateOrder = date_order or date_order_of(texts)
        self._dates: dict[int, list[FoundDate]] = {}
        self._labels: dict[str, list[Label]] = {}
        self._by_piece: dict[int, list[Label]] = {}

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        return tuple(piece for sheet in self.sheets for piece in sheet.pieces)

    def sheet(self, piece: Piece) -> Sheet:
        """Return the page a piece is on."""
        return self._by_number[piece.page]

    @cached_property
    def _by_number(self) -> dict[int, Sheet]:
        return {sheet.page.number: sheet for sheet in self.sheets}

    def find_labels(self, more: Sequence[Concept] = ()) -> None:
        """Find the labels of the vocabulary, and of a caller's own concepts beside it."""
        self._labels = find_labels(self.sheets, (*CONCEPTS, *more))
        self._by_piece = {}
        for labels in self._labels.values():
            for label in labels:
                self._by_piece.setdefault(id(label.piece), []).append(label)

    def labels(self, concept: str) -> list[Label]:
        """Return the labels of a concept."""
        return self._labels.get(concept, [])

    def labels_in(self, piece: Piece) -> list[Label]:
        """Return the labels in a piece."""
        return self._by_piece.get(id(piece), [])

    def is_label(self, piece: Piece) -> bool:
        """Return whether a piece is a label and nothing else."""
        return any(label.likeness * label.whole > 0.75 and _only(label) for label in self.labels_in(piece))

    def dates(self, excerpt: Excerpt) -> list[Typed]:
        """Return dates in a part of a piece. One that begins in it counts."""
        found = self._dates.setdefault(id(excerpt.piece), find_dates(excerpt.piece.text, self.order))
        return [
            Typed(each.value, Excerpt(excerpt.piece, each.start, each.end), -1.0 if each.compact else 0.4)
            for each in found
            if excerpt.start <= each.start < excerpt.end
        ]

    def times(self, excerpt: Excerpt) -> list[Typed]:
        """Return the first clock time in a part of a piece, if any, dates left out."""
        text = excerpt.text
        for found in self.dates(Excerpt.whole(excerpt.piece)):
            start, end = found.excerpt.start - excerpt.start, found.excerpt.end - excerpt.start
            if end > 0:
                start = max(0, start)
                text = text[:start] + "\n" * (min(end, len(text)) - start) + text[end:]
        time = find_time(text)
        if time is None:
            return []
        value, first, last = time
        return [Typed(value, Excerpt(excerpt.piece, excerpt.start + first, excerpt.start + last), 0.3)]

    def numbers(self, excerpt: Excerpt, *, percent: bool = False) -> list[Typed]:
        """Return numbers in a part of a piece, those of dates, times and long codes left out."""
        taken = [found.excerpt for found in (*self.dates(Excerpt.whole(excerpt.piece)), *self.times(excerpt))]
        typed = []
        for number in find_numbers(excerpt.text, self.mark):
            at = Excerpt(excerpt.piece, excerpt.start + number.start, excerpt.start + number.end)
            if number.percent != percent or any(at.start < other.end and other.start < at.end for other in taken):
                continue
            if number.decimals == 0 and number.currency is None and len(at.text.strip("()-+ ")) > 7:
                continue
            weight = 0.5 if number.decimals == 2 else -0.4 if number.decimals == 0 else -0.1
            typed.append(Typed(number.value, at, weight + (0.4 if number.currency else 0.0), number))
        return typed

    def matches(self, excerpt: Excerpt, kind: Kind) -> list[Typed]:
        """Return texts that look like `kind`: email, web, iban, phone, id."""
        typed = []
        for match in _PATTERNS[kind].finditer(excerpt.text):
            text = match[0].rstrip(".-/")
            if kind == "id" and not any(character.isdigit() for character in text):
                continue
            if kind == "phone" and not 6 <= sum(character.isdigit() for character in text) <= 15:
                continue
            at = Excerpt(excerpt.piece, excerpt.start + match.start(), excerpt.start + match.start() + len(text))
            typed.append(Typed(text, at, 0.3))
        return typed


def _only(label: Label) -> bool:
    """Nothing but marks and units stands beside the label."""
    rest = label.piece.text[: label.excerpt.start] + label.piece.text[label.excerpt.end :]
    return sum(character.isalnum() for character in rest) <= 3
