"""Amounts that must agree: net and tax give the total, cash less the total gives the change, lines add up to it.

Several amounts of a page look like its total. Which one is settled by what the page's other amounts make of it.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal

from vision_agent.documents.sheet import Excerpt, Piece
from vision_agent.extract.lexicon import CONCEPTS
from vision_agent.extract.rules.candidates import Candidate, labelled
from vision_agent.extract.rules.view import Typed, View

AMOUNTS = (*(concept.name for concept in CONCEPTS if concept.kind in ("amount", "percent")), "quantity total")
_EXACT = Decimal("0.011")  # amounts are rounded to cents
_ROUNDING = Decimal("0.5")  # most that a sum is rounded by
_BY_SUM = 1.4  # log-odds of amounts that add up to the total
_KEPT = 12  # candidates of a concept that are compared
_WHOLE = re.compile(r"(?<![\d.,])(\d{1,5})[ -]$")
_CENTS_ALONE = re.compile(r"[1-9]\d{2,5}")
_CENTS = re.compile(r"\d\d")


def amounts_of(view: View) -> dict[str, list[Candidate]]:
    """Return candidates of all concepts that are amounts, best first, marked down where another concept claims them."""
    found = {name: labelled(view, view.labels(name), "percent" if name == "tax rate" else "amount") for name in AMOUNTS}
    claims: dict[tuple[int, int], list[tuple[str, float]]] = {}
    for name, candidates in found.items():
        for candidate in candidates:
            claims.setdefault(_place(candidate), []).append((name, candidate.score))
    for name, candidates in found.items():
        ranked = []
        for candidate in candidates:
            rival = max((score for other, score in claims[_place(candidate)] if other != name), default=-9.0)
            ranked.append(candidate.better(-max(0.0, min(3.0, rival - candidate.score + 0.5))))
        found[name] = sorted(ranked, key=lambda each: -each.score)
    return found


def totals(view: View, amounts: Mapping[str, Sequence[Candidate]], lines: Sequence[Decimal] = ()) -> list[Candidate]:
    """Return candidates for the total, best first.

    Args:
        amounts: of all concepts.
        lines: amounts of the lines of the document's table of items.
    """
    pool = {_place(candidate): candidate for candidate in amounts["total"]}
    read: set[Decimal] = {candidate.value for candidate in pool.values()}
    for typed in (typed for piece in view.pieces for typed in view.numbers(Excerpt.whole(piece))):
        if typed.number is not None and (typed.number.decimals == 2 or typed.number.currency) and typed.value != 0:
            candidate = Candidate(typed.value, (typed.excerpt,), -2.6 + typed.weight, None, "none", typed)
            read.add(candidate.value)
            known = pool.get(_place(candidate))
            claimed = any(
                _place(other) == _place(candidate) and other.score > -1
                for name in amounts
                if name != "total"
                for other in amounts[name]
            )
            if known is None and not claimed:
                pool[_place(candidate)] = candidate
    cents = [
        candidate.typed.number.decimals == 2
        for candidate in pool.values()
        if candidate.typed and candidate.typed.number
    ]
    plain = (
        1.5 if cents and sum(cents) > 0.6 * len(cents) else 0.0
    )  # what a number without cents loses among amounts with
    for place, candidate in pool.items():
        mended = _with_cents(candidate)
        hundredth = candidate.value / 100 if _CENTS_ALONE.fullmatch(candidate.text) else None
        if mended is not candidate and (plain or mended.value in read):
            pool[place] = mended
        elif hundredth in read and candidate.excerpts[0].piece.score < 1:  # "700" where 7.00 stands, too
            pool[place] = replace(candidate, value=hundredth, typed=None)
    sums = [candidate.value for candidate in pool.values() if candidate.score > 0]
    for candidate in amounts["rounding"]:  # "Rounded 37.45" behind a total of 37.44
        if any(0 < abs(candidate.value - each) <= _ROUNDING < candidate.value for each in sums):
            pool[_place(candidate)] = candidate
    if not sums:  # then what would be the subtotal is the total, unless more was added to it
        for candidate in amounts["subtotal"]:
            raised = any(more > 0 and candidate.value + more in read for more in _likely(amounts["tax"], 0.5))
            pool[_place(candidate)] = candidate.better(-4.0 if raised else -1.5)
    times = Counter(candidate.value for candidate in pool.values())
    proper = [candidate.value for candidate in pool.values() if candidate.score > -1.0]
    largest = max(proper, default=Decimal(0))
    pages = {sheet.page.number: sheet for sheet in view.sheets}
    ranked = []
    for candidate in pool.values():
        value, score = candidate.value, candidate.score
        if value == 0:
            score -= 2.0
        score -= 2.5 if value < 0 else 0.0
        number = candidate.typed.number if candidate.typed else None
        score -= plain if number is not None and number.decimals == 0 else 0.0
        score += 0.5 if value == largest else 0.0
        score += 0.3 * min(2, times[value] - 1)
        piece = candidate.excerpts[0].piece
        sheet = pages[piece.page]
        _, top, _, bottom = sheet.frame
        score += 0.9 * ((piece.middle - top) / max(1.0, bottom - top) - 0.5)
        score += 0.8 * min(1.0, max(-0.5, piece.height / sheet.height - 1))
        score -= 1.5 if _summary_over(view, piece) else 0.0
        if candidate.relation == "right" and len(_row_amounts(view, piece)) > 1:  # a row of a table of taxes
            paid = any(_later(candidate, each) for each in (*amounts["cash"], *amounts["change"]) if each.score > 1)
            score -= 1.5 if paid else 0.5
        confirmed = _confirmations(value, amounts, lines)
        ranked.append(replace(candidate, score=score + min(2.4, confirmed), confirmed=confirmed > 0.9))
    return sorted(_rounded(ranked, amounts["rounding"]), key=lambda each: -each.score)


def _summary_over(view: View, piece: Piece) -> bool:
    """Whether a summary of taxes stands above a piece: its totals are not the document's."""
    return any(
        label.likeness * label.whole > 0.7 and label.piece.page == piece.page and 0 < piece.row - label.piece.row <= 6
        for label in view.labels("tax summary")
    )


def _row_amounts(view: View, piece: Piece) -> list[Typed]:
    row = view.sheet(piece).rows[piece.row]
    return [typed for each in row for typed in view.numbers(Excerpt.whole(each)) if typed.value]


def _rounded(candidates: Sequence[Candidate], roundings: Sequence[Candidate]) -> list[Candidate]:
    """Of two sums a few cents apart, the rounder one is to be paid: the later one, or by as much as "Rounding" says."""
    announced = {abs(value) for value in _likely(roundings)} - {Decimal(0)}
    scores = [candidate.score for candidate in candidates]
    for index, candidate in enumerate(candidates):
        for at, other in enumerate(candidates):
            apart = abs(other.value - candidate.value)
            rounder = 0 < apart <= _ROUNDING and _roundness(other.value) > _roundness(candidate.value)
            if not rounder or candidate.score <= 0:
                continue
            if other.score > 0 and (_later(other, candidate) or apart in announced):
                below = other.score - 0.1 if apart in announced else candidate.score
                scores[index] = min(scores[index], candidate.score - 2.0, below)
            elif apart in announced and _later(other, candidate) and other.score > -2.0:
                scores[at] = max(scores[at], candidate.score + 0.1)
    return [replace(candidate, score=score) for candidate, score in zip(candidates, scores, strict=True)]


def _with_cents(candidate: Candidate) -> Candidate:
    """An amount whose decimal mark was not read: "41 50", "19-80"."""
    place = candidate.excerpts[0]
    whole = _WHOLE.search(place.piece.text[: place.start])
    if whole is None or place.piece.score == 1 or not _CENTS.fullmatch(place.text):
        return candidate
    both = Excerpt(place.piece, whole.start(1), place.end)
    return replace(candidate, value=Decimal(f"{whole[1]}.{place.text}"), excerpts=(both,), typed=None)


def _later(first: Candidate, second: Candidate) -> bool:
    one, other = first.excerpts[0].piece, second.excerpts[0].piece
    return (one.page, one.row) > (other.page, other.row)


def _roundness(value: Decimal) -> int:
    """Whole amounts are rounder than tenths, tenths than half tenths, those than cents."""
    cents = int(value * 100)
    return sum(cents % step == 0 for step in (5, 10, 50, 100))


def _confirmations(total: Decimal, amounts: Mapping[str, Sequence[Candidate]], lines: Sequence[Decimal]) -> float:
    """What the other amounts say for a total."""
    says = 0.0
    values = {name: _likely(candidates) for name, candidates in amounts.items()}
    if any(
        _same(cash - change, total) and change >= 0 and cash > 0
        for cash in values["cash"]
        for change in values["change"]
    ):
        says += 1.6
    elif any(_same(cash, total) for cash in values["cash"]):
        says += 0.5
    additions = [[Decimal(0), *values[name]] for name in ("tax", "service charge", "shipping")]
    roundings = [Decimal(0), *values["rounding"]]
    discounts = [Decimal(0), *(abs(value) for value in values["discount"])]
    before = [value for value in values["total"] if value > total]  # "Total 277.90", less a discount
    if any(
        discount > 0 and _same(other - discount + rounding, total)
        for other in before
        for discount in discounts
        for rounding in roundings
    ):
        says += 1.0
    for net in values["subtotal"]:
        sums = {
            net + tax + service + shipping + rounding - discount
            for tax in additions[0]
            for service in additions[1]
            for shipping in additions[2]
            for rounding in roundings
            for discount in discounts
        }
        sums.discard(net)
        if any(_same(each, total) for each in sums):
            says += 1.0
            break
    if any(
        rounding != 0 and _same(other + rounding, total)
        for rounding in roundings
        for other in values["total"]
        if other != total
    ):
        says += 1.0
    if len(lines) > 1 and _same(sum(lines, Decimal(0)), total):
        says += 1.2
    return says


def _likely(candidates: Sequence[Candidate], least: float = -0.5) -> list[Decimal]:
    """Different values of the better candidates."""
    return list(dict.fromkeys(candidate.value for candidate in candidates[:_KEPT] if candidate.score > least))[:4]


def agreeing(
    view: View,
    name: str,
    candidates: Sequence[Candidate],
    amounts: Mapping[str, Sequence[Candidate]],
    total: Decimal | None,
) -> list[Candidate]:
    """Return candidates for the net amount or the tax, better where they add up with the other one to the total."""
    if total is None or name not in ("subtotal", "tax"):
        return list(candidates)
    others = _likely(amounts["tax" if name == "subtotal" else "subtotal"])
    more = [
        Decimal(0),
        *_likely(amounts["rounding"]),
        *_likely(amounts["service charge"]),
        *_likely(amounts["shipping"]),
    ]
    rates = _likely(amounts["tax rate"])
    ranked = []
    for candidate in candidates:
        fits = any(_same(candidate.value + other + rest, total) for other in others for rest in more)
        if not fits and name == "tax":
            fits = any(rate > 0 and _same(total - total / (1 + rate / 100), candidate.value) for rate in rates)
        large = abs(candidate.value) > abs(total) or (name == "tax" and abs(candidate.value) >= abs(total) / 2)
        ranked.append(
            replace(candidate, score=candidate.score + (1.5 if fits else 0.0) - (2.0 if large else 0.0), confirmed=fits)
        )
    known = {_place(candidate) for candidate in ranked if candidate.score > _BY_SUM}
    for net, tax in parts_of(view, total, _likely(amounts["tax"], 0.5)):
        other = net if name == "subtotal" else tax
        if _place(other) not in known:
            ranked.append(other)
    if name == "subtotal" and any(each.value == 0 and each.score > 0 for each in amounts["tax"]):
        # Without tax the total is the net amount.
        whole = next((each for each in amounts["total"] if _same(each.value, total)), None)
        ranked += [replace(whole, score=_BY_SUM - 0.6)] if whole is not None else []
    if name == "subtotal":  # what equals the total is no net amount where another one and the tax give it
        sums = any(each.confirmed and not _same(each.value, total) for each in ranked)
        ranked = [each.better(-3.0) if sums and _same(each.value, total) else each for each in ranked]
    return sorted(ranked, key=lambda each: -each.score)


def parts_of(view: View, total: Decimal, found: Sequence[Decimal] = ()) -> list[tuple[Candidate, Candidate]]:
    """Return pairs of amounts on the pages that are the net amount and the tax of a total.

    They add up to it, and the tax is the net amount times a rate that is printed, or is one that a label names.

    Args:
        found: taxes that labels name.
    """
    places: dict[Decimal, Typed] = {}
    rates: set[Decimal] = set()
    for piece in view.pieces:
        whole = Excerpt.whole(piece)
        rates |= {typed.value for typed in view.numbers(whole, percent=True)}
        for typed in view.numbers(whole):
            if typed.number is not None and (typed.number.decimals == 2 or typed.number.currency):
                places.setdefault(typed.value, typed)
    pairs = []
    for net, typed in places.items():
        tax = total - net
        if tax == 0 or tax not in places or (net > 0) != (total > 0) or abs(tax) > abs(net) / 2 or tax * net < 0:
            continue
        if tax in found or any(rate > 0 and abs(net * rate / 100 - tax) <= _EXACT * 2 for rate in rates):
            pairs.append((_unnamed(typed), _unnamed(places[tax])))
    return pairs


def _unnamed(typed: Typed) -> Candidate:
    return Candidate(typed.value, (typed.excerpt,), _BY_SUM, None, "none", typed, confirmed=True)


def _same(first: Decimal, second: Decimal) -> bool:
    return abs(first - second) < _EXACT


def _place(candidate: Candidate) -> tuple[int, int]:
    excerpt = candidate.excerpts[0]
    return id(excerpt.piece), excerpt.start
