"""Lines that state a part of a tax: "VAT 7 %  14.00", a row of a table of rates, CGST and SGST side by side."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import combinations

from vision_agent.documents.sheet import Excerpt, Piece, Sheet
from vision_agent.documents.text_match import words_of
from vision_agent.extract.lexicon import words_for
from vision_agent.extract.rules.view import Typed, View

NEAR = Decimal("0.021")  # a tax is rounded by itself, or over the lines of its rate
HIGHEST_RATE = 40  # percent
TAX_NAMES = words_for("taxes") | words_for("part taxes")
_LABEL = 0.6  # likeness of a label of a tax
_MOST_AMOUNTS = 9  # in a row that is looked at
_PLAIN_RATE = re.compile(r"\d{1,2}(?:[.,]\d{1,3})?")


@dataclass(frozen=True)
class TaxLine:
    """One part of a tax.

    Attributes:
        amount: of the tax.
        rate: in percent, None where none is printed.
        base: the amount that is taxed, where the line has it too.
        named: whether the line calls itself a tax.
        words: folded words that name it: of its row, and of what heads its column.
    """

    amount: Typed
    rate: Decimal | None
    base: Typed | None
    named: bool
    words: frozenset[str]

    @property
    def row(self) -> int:
        return self.amount.excerpt.piece.row


@dataclass(frozen=True)
class SumRow:
    """A row whose net amount and taxes give its gross amount, and which adds up the rows above it.

    Attributes:
        net, gross: its first and last amount.
        taxes: between them.
        words: for each tax the folded words that head its column.
    """

    net: Typed
    taxes: tuple[Typed, ...]
    gross: Typed
    words: tuple[frozenset[str], ...]


def tax_lines(view: View, sheet: Sheet, money: Sequence[Typed]) -> list[TaxLine]:
    """Return the lines of a page that state a part of its tax, from top to bottom.

    Args:
        money: all amounts of the document.
    """
    values = {typed.value for typed in money}
    here = {id(piece) for piece in sheet.pieces}
    by_row: dict[int, list[Typed]] = {}
    for typed in money:
        if id(typed.excerpt.piece) in here:
            by_row.setdefault(typed.excerpt.piece.row, []).append(typed)
    found = []
    for number, amounts in sorted(by_row.items()):
        if len(amounts) <= _MOST_AMOUNTS:
            found += list(_of_row(view, sheet, sheet.rows[number], amounts, values))
    return found


def sum_row(sheet: Sheet, money: Sequence[Typed]) -> SumRow | None:
    """Return the row of a page that adds up the net amounts, taxes and gross amounts of rows above it."""
    balanced: list[tuple[Typed, tuple[Typed, ...], Typed]] = []
    here = {id(piece) for piece in sheet.pieces}
    by_row: dict[int, list[Typed]] = {}
    for typed in money:
        if id(typed.excerpt.piece) in here:
            by_row.setdefault(typed.excerpt.piece.row, []).append(typed)
    best: SumRow | None = None
    for _, amounts in sorted(by_row.items()):
        row = _balanced(amounts)
        if row is None:
            continue
        for first in range(len(balanced) - 1):
            above = balanced[first:]
            if all(
                abs(sum(each) - whole) < NEAR
                for each, whole in (
                    ([each[0].value for each in above], row[0].value),
                    ([each[2].value for each in above], row[2].value),
                )
            ):
                best = SumRow(*row, tuple(frozenset(_heading(sheet, tax)) for tax in row[1]))
                break
        balanced.append(row)
    return best


def _balanced(amounts: Sequence[Typed]) -> tuple[Typed, tuple[Typed, ...], Typed] | None:
    """The net amount, taxes and gross amount among the amounts of a row, in this order."""
    cents = [each for each in amounts if each.value != 0]
    if not 3 <= len(cents) <= _MOST_AMOUNTS:
        return None
    for last in range(len(cents) - 1, 1, -1):
        for first in range(last - 1):
            net, gross = cents[first], cents[last]
            between = cents[first + 1 : last]
            for count in range(len(between), 0, -1):
                for taxes in combinations(between, count):
                    added = sum(tax.value for tax in taxes)
                    if abs(net.value + added - gross.value) < NEAR and abs(added) <= abs(net.value) / 2:
                        return net, taxes, gross
    return None


def _of_row(
    view: View, sheet: Sheet, row: Sequence[Piece], amounts: Sequence[Typed], values: set[Decimal]
) -> Iterator[TaxLine]:
    """The lines of one row: a rate with its base and tax, several such, or one amount that is named a tax."""
    rates = [typed for piece in row for typed in view.numbers(Excerpt.whole(piece), percent=True)]
    if not rates:
        rates = [
            typed
            for piece in row
            for typed in view.numbers(Excerpt.whole(piece))
            if _PLAIN_RATE.fullmatch(typed.excerpt.text)
        ]
    rates = [rate for rate in rates if 0 <= rate.value <= HIGHEST_RATE]
    named = any(
        label.likeness * max(label.whole, label.lead) > _LABEL and label.concept == "tax"
        for piece in row
        for label in view.labels_in(piece)
    )
    own = frozenset(word for piece in row for word in words_of(piece.text))
    named = named or bool(own & TAX_NAMES)
    used: list[Typed] = []
    for rate in rates:
        pair = _taxed(rate, [each for each in amounts if each not in used and each != rate])
        if pair is not None:
            base, tax = pair
            used.append(tax)
            yield TaxLine(tax, rate.value, base, named, own | frozenset(_heading(sheet, tax)))
    if used:
        return
    last = next((each for each in reversed(amounts) if each not in rates), None)
    if last is None or last.value == 0:
        return
    percent = [rate.value for rate in rates if rate.number is not None and rate.number.percent and rate.value > 0]
    if len(percent) != 1:
        percent = []
    exact = any(abs(value * percent[0] / 100 - last.value) < NEAR for value in values) if percent else False
    if named or exact:
        yield TaxLine(last, percent[0] if percent else None, None, named, own)


def _taxed(rate: Typed, amounts: Sequence[Typed]) -> tuple[Typed, Typed] | None:
    """Two amounts of a row, one of which is this share of the other: the tax nearest behind the rate."""
    behind = sorted(amounts, key=lambda each: (_place(each) < _place(rate), abs(_place(each) - _place(rate))))
    for tax in behind:
        for base in amounts:
            if base is tax or base.value == 0 or (tax.value == 0) != (rate.value == 0):
                continue
            if abs(base.value * rate.value / 100 - tax.value) < NEAR:
                return base, tax
    return None


def _place(typed: Typed) -> float:
    return typed.excerpt.x0


def _heading(sheet: Sheet, typed: Typed) -> Iterator[str]:
    """The words of what heads a column: the nearest pieces above an amount that are no numbers, two lines of them."""
    piece = typed.excerpt.piece
    headed = None
    for row in reversed(sheet.rows[: piece.row]):
        over = [
            other
            for other in row
            if min(typed.excerpt.x1, other.x1) > max(typed.excerpt.x0, other.x0)
            and sum(map(str.isalpha, other.text)) > sum(map(str.isdigit, other.text))
        ]
        if headed is not None and (not over or headed.y0 - over[0].y1 > sheet.height):
            return
        for other in over:
            yield from words_of(other.text)
            if headed is not None:
                return
            headed = other
