"""A document as the rules see it: pages, labels, and typed values in its texts, such as dates, numbers and accounts."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from vision_agent.documents.result import OcrResult
from vision_agent.documents.sheet import Excerpt, Piece, Sheet, box_of, script_sheet
from vision_agent.extract.lexicon import CONCEPTS, Concept, Kind
from vision_agent.extract.rules.country import currency_in, likely_countries, mark_in
from vision_agent.extract.rules.identifiers import find_bics, find_ibans
from vision_agent.extract.rules.labels import Label, find_labels
from vision_agent.extract.values.amounts import DecimalMark, Number, find_numbers, told_mark
from vision_agent.extract.values.currencies import find_currencies
from vision_agent.extract.values.dates import DateOrder, FoundDate, date_order_of, find_dates, find_time

_LARGE = "A-Z\u00c0-\u00d6\u00d8-\u00de\u0391-\u03a9\u0410-\u042f"  # Latin, Greek, Cyrillic
_LETTER = _LARGE + "a-z\u00df-\u00f6\u00f8-\u00ff\u03b1-\u03c9\u0430-\u044f"
# An amount, a number within a year, postcodes of Portugal and of the United States.
_NO_PHONE = re.compile(r"\d{1,3}[ .]\d{3}|(?:19|20)\d\d[/-]\d{1,5}|\d{4}-\d{3}|\d{5}-\d{4}")
_PATTERNS: dict[Kind, re.Pattern[str]] = {
    "email": re.compile(r"[\w.+-]+\s?@\s?[\w-]+(?:\.[\w-]+)+"),
    "web": re.compile(
        r"(?:https?://|www\.)[^\s,;]+|(?<![@\w.])[\w-]+\.(?:com|org|net|de|fr|es|it|eu|co\.uk|nl|io)(?:/\S*)?\b", re.I
    ),
    # No part of an identifier, as "2291/24" is in "R-2291/24".
    "phone": re.compile(r"(?<![\w.,])(?<!\w[/#_])(?<![A-Z\d]-)(?:\+|\()?\d[\d\s()./-]{5,18}\d(?![\w%])"),
    # An identifier has a digit in its first word; blanks only between groups of digits or after a prefix of capitals.
    "id": re.compile(
        rf"(?:[{_LARGE}]{{1,6}}[ -])?(?<![{_LETTER}0-9])(?=[{_LETTER}\-/._#]*\d)[{_LETTER}0-9][{_LETTER}0-9\-/._#]*"
        rf"(?: (?=[\d{_LARGE}]*\d)[{_LARGE}0-9\-/]+)*"
    ),
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
        mark: the decimal mark where a number does not tell; None where nothing does.
        currencies: of the countries that the document may be from, likeliest first.
        order: the order of day and month where a date does not tell.
    """

    def __init__(
        self, document: OcrResult, *, date_order: DateOrder | None = None, decimal_mark: DecimalMark | None = None
    ) -> None:
        self.sheets: tuple[Sheet, ...] = tuple(script_sheet(page) for page in document.pages)
        texts = [piece.text for piece in self.pieces]
        countries = likely_countries(texts)
        self.currencies: tuple[str, ...] = tuple(map(currency_in, countries))
        self.mark: DecimalMark | None = decimal_mark or told_mark(texts) or _mark_of(countries)
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

    def numbers(self, excerpt: Excerpt, *, percent: bool | None = False, long: bool = False) -> list[Typed]:
        """Return numbers in a part of a piece, those of dates, times and long codes left out.

        Args:
            percent: those with a percent sign, those without, or None for all.
            long: whole numbers of more than seven digits too.
        """
        taken = [found.excerpt for found in (*self.dates(Excerpt.whole(excerpt.piece)), *self.times(excerpt))]
        typed = []
        # Signs around a number count though the marks around its place were taken off.
        for number in find_numbers(excerpt.piece.text, self.mark, excerpt.start, excerpt.end, likely=self.currencies):
            at = Excerpt(excerpt.piece, number.start, number.end)
            if percent is not None and number.percent != percent:
                continue
            if any(at.start < other.end and other.start < at.end for other in taken):
                continue
            digits = at.text.strip("()-+ ")
            if number.decimals == 0 and number.currency is None and digits.isdigit() and len(digits) > 7:
                if not long or digits.startswith("0") or len(digits) > 12:
                    continue
            weight = 0.5 if number.decimals == 2 else -0.4 if number.decimals == 0 else -0.1
            typed.append(Typed(number.value, at, weight + (0.4 if number.currency else 0.0), number))
        return typed

    def in_table(self, piece: Piece) -> bool:
        """Return whether a piece stands in a table that was found."""
        box = box_of([Excerpt.whole(piece)])
        x, y = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
        tables = [table.box for table in self.sheet(piece).page.tables]
        return any(each.x0 <= x <= each.x1 and each.y0 <= y <= each.y1 for each in tables)

    def matches(self, excerpt: Excerpt, kind: Kind) -> list[Typed]:
        """Return texts that look like `kind`: email, web, iban, bic, phone, id."""
        if kind == "iban":
            return [
                Typed(excerpt.text[start:end], self._part(excerpt, start, end), 0.3)
                for start, end, right in find_ibans(excerpt.text)
                if right  # one that was cut or read wrongly is no account
            ]
        if kind == "bic":
            return [
                Typed(excerpt.text[start:end], self._part(excerpt, start, end), 0.3)
                for start, end in find_bics(excerpt.text)
            ]
        typed = []
        for match in _PATTERNS[kind].finditer(excerpt.text):
            text = match[0].rstrip(".-/")
            at = self._part(excerpt, match.start(), match.start() + len(text))
            if kind == "id" and not any(character.isdigit() for character in text):
                continue
            if kind == "phone" and not self._is_phone(at):
                continue
            # Ten digits without "+" or marks between them may be any number.
            plain = kind == "phone" and text.isdigit()
            typed.append(Typed(text, at, -0.4 if plain else 0.3))
        return typed

    def currencies_in(self, piece: Piece) -> list[tuple[str, int, int]]:
        """Return signs and codes of currencies in a piece: (ISO 4217 code, start, end)."""
        return find_currencies(piece.text, self.currencies)

    def _is_phone(self, at: Excerpt) -> bool:
        """Whether digits are neither a day nor an amount nor a part of an account's number."""
        text = at.text
        if not 6 <= sum(character.isdigit() for character in text) <= 15 or re.search(r"[.,]\d{2}$", text):
            return False
        if re.fullmatch(_NO_PHONE, text):
            return False
        others = [found.excerpt for found in self.dates(Excerpt.whole(at.piece))]
        others += [self._part(Excerpt.whole(at.piece), start, end) for start, end, _ in find_ibans(at.piece.text)]
        return not any(at.start < other.end and other.start < at.end for other in others)

    @staticmethod
    def _part(excerpt: Excerpt, start: int, end: int) -> Excerpt:
        return Excerpt(excerpt.piece, excerpt.start + start, excerpt.start + end)


def _mark_of(countries: Sequence[str]) -> DecimalMark | None:
    """The decimal mark of the likeliest country."""
    if not countries:
        return None
    return "," if mark_in(countries[0]) == "," else "."


def _only(label: Label) -> bool:
    """Nothing but marks and units stands beside the label."""
    rest = label.piece.text[: label.excerpt.start] + label.piece.text[label.excerpt.end :]
    return sum(character.isalnum() for character in rest) <= 3
