"""Taxes in parts: several rates, or several taxes on one amount. What a document owes in all is the sum of its parts.

Parts count only where they add up with a net amount to a gross amount that the document prints.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from vision_agent.documents.sheet import Excerpt
from vision_agent.documents.text_match import words_of
from vision_agent.extract.lexicon import words_for
from vision_agent.extract.rules.candidates import Candidate
from vision_agent.extract.rules.tax_lines import HIGHEST_RATE, NEAR, TAX_NAMES, SumRow, TaxLine, sum_row, tax_lines
from vision_agent.extract.rules.view import Typed, View

_CENT = Decimal("0.011")
_ROUNDED = Decimal("0.006")  # most that an amount was rounded by
_SURE = 4.0  # log-odds of a sum that the document's amounts confirm
_REFUTED = 4.0  # log-odds that a part loses which would be the whole
_FURTHEST = 3  # rows between two parts
_MOST_LINES = 12
_MOSTLY_CENTS = 0.4  # from this share on amounts without cents are none
_OF_NET = frozenset("net netto base taxable imponibile grundlage ht neto".split())
_OF_GROSS = frozenset("gross brutto total ttc incl".split())
_SAYS_TAX = frozenset("amount rate percent value total sum of at in the pct".split())
_SINGLE_TAXES = words_for("part taxes")  # names of taxes that are parts, or the whole under their own name


@dataclass(frozen=True)
class TaxParts:
    """The parts of a document's tax.

    Attributes:
        lines: the parts; those of a sum row have no rate.
        net: where the net amount is written: the sum, or its parts; empty where it is not.
        tax: where the tax is written: the sum, or its parts.
        total: the gross amount that they give.
        shared: whether all are taxes on one amount.
    """

    lines: tuple[TaxLine, ...]
    net: tuple[Typed, ...]
    tax: tuple[Typed, ...]
    total: Typed
    shared: bool

    def is_part(self, value: Decimal) -> bool:
        """Return whether an amount is the net amount, or less than the whole of something."""
        parts = [*self.net, *self.tax, *(line.amount for line in self.lines)]
        parts += [line.base for line in self.lines if line.base is not None]
        return value in {each.value for each in parts} or value == _sum(self.net)


@dataclass(frozen=True)
class Asked:
    """The part of a tax that a field's name asks for: `vat_19`, `net_7`, `cgst_amount`.

    Attributes:
        side: "tax", "net" or "gross".
        rate: in percent, or None.
        name: of the tax, "" for any.
    """

    side: str
    rate: Decimal | None
    name: str


def asked_part(name: str) -> Asked | None:
    """Return the part of a tax that a field's name asks for; None where it asks for none."""
    words = words_of(name)
    digits = [word for word in words if word.isdigit() and len(word) < 3]
    rest = [word for word in words if word not in digits and word not in _SAYS_TAX]
    special = [word for word in rest if word in _SINGLE_TAXES]
    if len(special) == 1 and len(rest) == 1 and not digits:
        return None if "rate" in words else Asked("tax", None, special[0])
    if not 1 <= len(digits) <= 2 or len(rest) > 2 or "rate" in words or words[0].isdigit():
        return None
    side = "net" if set(rest) & _OF_NET else "gross" if set(rest) & _OF_GROSS else "tax"
    named = [word for word in rest if word in TAX_NAMES]
    if any(word not in _OF_NET | _OF_GROSS | TAX_NAMES for word in rest) or not rest:
        return None
    rate = Decimal(".".join(digits))
    return Asked(side, rate, named[0] if named and side == "tax" else "") if rate <= HIGHEST_RATE else None


def find_tax_parts(
    view: View, amounts: Mapping[str, Sequence[Candidate]], totals: Sequence[Candidate]
) -> TaxParts | None:
    """Return the parts of a document's tax, where there are several; None without.

    Args:
        amounts: of all concepts.
        totals: candidates for the document's total, best first.
    """
    money = _money(view)
    if len(money) < 4:  # a net amount, two taxes and a total
        return None
    total = totals[0].value if totals and totals[0].score > 0 else None
    found = []
    for sheet in view.sheets:
        row = sum_row(sheet, money)
        if row is not None:
            found.append((_worth_of_row(row, total), _of_row(row)))
        lines = tax_lines(view, sheet, money)[-_MOST_LINES:]
        for run in _runs(lines):
            for parts, worth in _solved(run, money, amounts, total):
                found.append((worth, parts))
    found = [each for each in found if total is None or each[1].total.value == total or each[1].is_part(total)]
    return max(found, key=lambda each: each[0])[1] if found else None


def total_by_parts(parts: TaxParts, totals: Sequence[Candidate]) -> list[Candidate]:
    """Return candidates for the total with the parts' gross amount first, where the best one is but a part of it."""
    if totals and totals[0].value == parts.total.value:
        return list(totals)
    whole = Candidate(parts.total.value, (parts.total.excerpt,), _SURE, None, "none", parts.total, confirmed=True)
    return [whole, *(each.better(-_REFUTED) for each in totals)]


def by_parts(name: str, parts: TaxParts, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return candidates for the net amount, the tax or its rate: the document's own before those of a part."""
    if name == "tax rate":
        return _rates(parts, candidates)
    places = parts.net if name == "subtotal" else parts.tax
    value = _sum(places)
    if not places:  # the net amount is not written: what is taxed at one rate is not all
        known = {line.base.value for line in parts.lines if line.base is not None}
        return [each.better(-_REFUTED) if each.value in known else each for each in candidates]
    same = [each for each in candidates if each.value == value]
    whole = _joint(places)
    if len(places) == 1 and same:
        whole = replace(same[0], score=max(same[0].score, _SURE), confirmed=True)
    return [whole, *(each.better(-_REFUTED) for each in candidates if each.value != value)]


def part_asked(asked: Asked, parts: TaxParts | None, candidates: Sequence[Candidate]) -> list[Candidate] | None:
    """Return candidates for one part of a tax; None where the field may mean the whole tax.

    Args:
        candidates: for the tax.
    """
    lines = [line for line in parts.lines if _fits(asked, line)] if parts is not None else []
    if lines:
        if asked.side == "tax":
            return [_joint([line.amount for line in lines])]
        bases = [line.base for line in lines if line.base is not None]
        if asked.side == "net" and len(bases) == len(lines):
            return [_joint(bases)]
        return []
    if asked.rate is not None:
        return None if parts is None else []
    if asked.name in words_for("taxes"):  # "gst" may be the whole tax
        return None
    named = [each for each in candidates if each.label is not None and asked.name in words_of(each.label.excerpt.text)]
    return [replace(each, score=max(each.score, 0.0) if each.score > -1 else each.score) for each in named]


def _fits(asked: Asked, line: TaxLine) -> bool:
    if asked.rate is not None:
        return line.rate == asked.rate
    return asked.name in line.words


def _rates(parts: TaxParts, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Taxes on one amount have one rate together; several rates of several amounts are no single one."""
    if len({line.rate for line in parts.lines}) == 1 and not parts.shared:
        return list(candidates)
    return [each.better(-_REFUTED - 2) for each in candidates]


def _money(view: View) -> list[Typed]:
    """All amounts of a document, in reading order."""
    found = [typed for piece in view.pieces for typed in view.numbers(Excerpt.whole(piece)) if typed.number is not None]
    cents = [typed for typed in found if typed.number and (typed.number.decimals == 2 or typed.number.currency)]
    return cents if len(cents) >= _MOSTLY_CENTS * len(found) or len(cents) >= 6 else found


def _runs(lines: Sequence[TaxLine]) -> Iterator[tuple[TaxLine, ...]]:
    """Neighbouring lines, at least two."""
    for first in range(len(lines)):
        for last in range(first + 1, len(lines)):
            if lines[last].row - lines[last - 1].row > _FURTHEST:
                break
            yield tuple(lines[first : last + 1])


def _solved(
    run: tuple[TaxLine, ...],
    money: Sequence[Typed],
    amounts: Mapping[str, Sequence[Candidate]],
    total: Decimal | None,
) -> Iterator[tuple[TaxParts, tuple[float, ...]]]:
    """What the lines are parts of, and how much speaks for it."""
    tax = sum((line.amount.value for line in run), Decimal(0))
    if tax == 0 or any(line.amount.value * tax < 0 for line in run) or sum(line.amount.value != 0 for line in run) < 2:
        return
    own = {id(line.amount) for line in run}
    others = [each for each in money if id(each) not in own and each.value * tax > 0]
    written = _written(tax, others, run)
    for gross, more in _grosses(others, amounts, total):
        net = gross.value - more - tax
        if abs(net) < abs(tax) or net * tax < 0:
            continue
        places = [each for each in others if abs(each.value - net) < _CENT and each is not gross]
        rated = [line.rate for line in run if line.rate is not None]
        shared = len(rated) == len(run) and all(
            line.rate is not None and abs(net * line.rate / 100 - line.amount.value) < NEAR for line in run
        )
        bases, exact = _bases(run, others, net)
        named = all(line.named for line in run)
        known = any(
            each.value in {place.value for place in places} for each in amounts["subtotal"] if each.score > -0.5
        )
        if not (shared and places) and not exact and not (named and places and (known or gross.value == total)):
            continue
        if more and not named:
            continue
        net_places = places[-1:] if places and not bases else _nearest(places, run) or bases
        own_bases: Sequence[Typed | None] = bases or [line.base for line in run]
        yield (
            TaxParts(
                tuple(replace(line, base=base) for line, base in zip(run, own_bases, strict=True)),
                tuple(net_places),
                (written,) if written is not None else tuple(line.amount for line in run if line.amount.value),
                gross,
                shared and bool(places),
            ),
            (gross.value == total, not more, shared or exact, bool(places), written is not None, named, len(run)),
        )


def _grosses(
    others: Sequence[Typed], amounts: Mapping[str, Sequence[Candidate]], total: Decimal | None
) -> Iterator[tuple[Typed, Decimal]]:
    """Amounts that may be the gross one, and what was added to net amount and taxes in it."""
    for each in others:
        yield each, Decimal(0)
    added: set[Decimal] = set()
    for name in ("rounding", "shipping", "service charge"):
        added |= {candidate.value for candidate in amounts[name][:4] if candidate.score > -0.5}
    for name in ("discount", "withholding"):
        added |= {-abs(candidate.value) for candidate in amounts.get(name, ())[:4] if candidate.score > -0.5}
    for each in others:
        if each.value == total:
            for more in added - {Decimal(0)}:
                yield each, more


def _bases(run: Sequence[TaxLine], others: Sequence[Typed], net: Decimal) -> tuple[list[Typed], bool]:
    """What each line taxes, where that is written, and whether these amounts are the net amount."""
    if all(line.base is not None for line in run):
        bases = [line.base for line in run if line.base is not None]
        return bases, abs(_sum(bases) - net) < NEAR
    implied, slack = Decimal(0), Decimal(0)
    found: list[Typed] = []
    for line in run:
        if line.rate is None or line.rate == 0:
            return [], False
        base, off = line.amount.value * 100 / line.rate, _ROUNDED * 100 / line.rate
        implied, slack = implied + base, slack + off
        near = [each for each in others if abs(each.value - base) <= off and each not in found]
        found += [line.base] if line.base is not None else near[:1]
    if len({line.rate for line in run}) < 2 or abs(implied - net) > slack:
        return [], False
    bases = found if len(found) == len(run) and abs(_sum(found) - net) < NEAR else []
    return bases, True


def _nearest(places: Sequence[Typed], run: Sequence[TaxLine]) -> list[Typed]:
    """The place of a written sum that is nearest to the parts."""
    row = run[-1].row
    return sorted(places, key=lambda each: abs(each.excerpt.piece.row - row))[:1]


def _written(tax: Decimal, others: Sequence[Typed], run: Sequence[TaxLine]) -> Typed | None:
    """Where the sum of the parts is written."""
    bases = {id(line.base) for line in run}
    same = [each for each in others if each.value == tax and id(each) not in bases]
    return next(iter(_nearest(same, run)), None)


def _of_row(row: SumRow) -> TaxParts:
    lines = tuple(TaxLine(tax, None, row.net, True, words) for tax, words in zip(row.taxes, row.words, strict=True))
    return TaxParts(lines, (row.net,), row.taxes, row.gross, False)


def _worth_of_row(row: SumRow, total: Decimal | None) -> tuple[float, ...]:
    return (row.gross.value == total, True, True, True, True, False, len(row.taxes))


def _joint(places: Sequence[Typed]) -> Candidate:
    """The sum of amounts, with the places of all."""
    return Candidate(
        _sum(places), tuple(each.excerpt for each in places), _SURE, None, "none",
        places[0] if len(places) == 1 else None, confirmed=True, shared=True,
    )  # fmt: skip


def _sum(places: Iterable[Typed]) -> Decimal:
    return sum((each.value for each in places), Decimal(0))
