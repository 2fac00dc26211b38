"""The `layout` engine: a document's own labels, places, types and sums say what its values are. No large model reads.

Each value of the caller's model gets candidates from the page: what stands beside its labels, what looks like its type,
what heads the page. Sums that agree settle amounts. The best candidate that the model's own type accepts is the value.
"""

import datetime
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from vision_agent.documents.result import OcrResult
from vision_agent.documents.sheet import MARKS, Excerpt, Piece
from vision_agent.documents.text_match import find_folded, folded
from vision_agent.extract.field_names import short_labels
from vision_agent.extract.filling import Filled, Filling, origin
from vision_agent.extract.lexicon import Concept
from vision_agent.extract.result import FieldValue
from vision_agent.extract.rules.blocks import addresses_under, blocks_of, names
from vision_agent.extract.rules.candidates import Candidate, labelled, stands_alone, without_neighbours
from vision_agent.extract.rules.labels import Label
from vision_agent.extract.rules.line_items import Rows, find_rows
from vision_agent.extract.rules.named_elsewhere import named_elsewhere
from vision_agent.extract.rules.parties import addresses, sellers
from vision_agent.extract.rules.tax_parts import (
    TaxParts,
    asked_part,
    by_parts,
    find_tax_parts,
    part_asked,
    total_by_parts,
)
from vision_agent.extract.rules.totals import agreeing, amounts_of, totals
from vision_agent.extract.rules.unlabelled import PATTERNED, beside, currencies_of, unlabelled
from vision_agent.extract.rules.view import View
from vision_agent.extract.rules.window_address import address_of_addressee, addressee, find_window
from vision_agent.extract.target import Group, Leaf, Many
from vision_agent.extract.values.amounts import DecimalMark
from vision_agent.extract.values.coerce import readings
from vision_agent.extract.values.dates import DateOrder
from vision_agent.extract.values.spelling import respelled

_NEVER = 9.0  # log-odds
_SHORTEST_TAX_ID, _MOST_BETWEEN = 6, 3  # digits; words between a label and its number
_REFERS = re.compile(r"\br[eé]f", re.IGNORECASE)
_SURE = 0.5  # confidence from which a text that a field's type refuses is told of
_LEAST_SCORE = -2.0  # log-odds below which a candidate is no answer


def extract_by_layout(
    document: OcrResult,
    target: Group,
    *,
    date_order: DateOrder | None = None,
    decimal_mark: DecimalMark | None = None,
) -> Filled:
    """Find the values of a model in a document.

    Args:
        document: its words.
        target: the model.
        date_order: of day and month where a date does not tell; None for what the document shows, else day first.
        decimal_mark: where a number does not tell; None for what the document shows.
    """
    view = View(document, date_order=date_order, decimal_mark=decimal_mark)
    own = {leaf.concept.name: _with_labels(leaf) for leaf in _all_leaves(target) if leaf.concept.name.startswith(".")}
    view.find_labels(tuple(own.values()))
    return _Engine(view).fill(target)


def best_candidate(view: View, leaf: Leaf) -> Candidate | None:
    """Return the best candidate for one field; None where nothing is a likely one."""
    view.find_labels((leaf.concept,) if leaf.concept.name.startswith(".") else ())
    return _Engine(view).best(leaf)


def _all_leaves(part: Group | Leaf | Many) -> Iterable[Leaf]:
    if isinstance(part, Leaf):
        yield part
    elif isinstance(part, Many):
        if isinstance(part.item, Leaf):
            yield part.item
    else:
        for inner in part.parts.values():
            yield from _all_leaves(inner)


def _with_labels(leaf: Leaf) -> Concept:
    shorter = short_labels(leaf.name, leaf.forms) if len(leaf.path) < 2 else ()
    return Concept(leaf.concept.name, leaf.concept.kind, tuple(dict.fromkeys((*leaf.labels, *shorter))))


@dataclass(frozen=True)
class _Claim:
    """A candidate as the value of a field."""

    leaf: Leaf
    candidate: Candidate
    value: Any


class _Engine:
    """One document being read for one model."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._amounts = amounts_of(view)
        self._window = find_window(view)
        self._parties = {name: view.labels(name) for name in ("buyer", "ship to", "seller")}
        self._rows: Rows | None = None
        self._total: Decimal | None = None
        self._totals: list[Candidate] = []
        self._tax_parts: TaxParts | None = None
        self._refused: dict[str, tuple[FieldValue, str]] = {}

    def best(self, leaf: Leaf) -> Candidate | None:
        """Return the best candidate for a field alone."""
        self._add_up()
        claims = sorted(self._claims(leaf), key=lambda claim: -claim.candidate.score)
        return claims[0].candidate if claims else None

    def fill(self, target: Group) -> Filled:
        filling = Filling(target)
        lists = [part for part in _lists(target) if isinstance(part.item, Group)]
        for many in lists:
            assert isinstance(many.item, Group)
            rows = find_rows(self._view, many.item)
            self._rows = rows if self._rows is None or len(rows.amounts) > len(self._rows.amounts) else self._rows
            filling.rows(many, rows)
        self._add_up()
        for claim in self._assigned(list(target.leaves())):
            filling.put(claim.leaf, claim.value, claim.candidate.excerpts, claim.candidate.confidence)
        for part in _lists(target):
            if isinstance(part.item, Leaf):
                for value, candidate in self._several(part.item):
                    filling.append(part, value, candidate.excerpts, candidate.confidence)
        return replace(filling.done(), refused=self._refused)

    def _add_up(self) -> None:
        """Settle the total, and whether the tax is written in parts."""
        lines = self._rows.amounts if self._rows is not None else ()
        self._totals = totals(self._view, self._amounts, lines)
        self._tax_parts = find_tax_parts(self._view, self._amounts, self._totals)
        if self._tax_parts is not None:
            self._totals = total_by_parts(self._tax_parts, self._totals)
        self._total = next((each.value for each in self._totals if each.score > 0), None)

    # Choosing ----------------------------------------------------------------------------------------------------

    def _assigned(self, leaves: Sequence[Leaf]) -> list[_Claim]:
        """The best candidate for each field. Two fields of different meaning never take the same words."""
        claims = [claim for leaf in leaves for claim in self._claims(leaf)]
        claims.sort(key=lambda claim: -claim.candidate.score)
        done: dict[tuple[str, ...], _Claim] = {}
        taken: dict[tuple[int, int], tuple[str, str]] = {}
        for claim in claims:
            meaning = (claim.leaf.concept.name, claim.leaf.party)
            places = [
                (id(excerpt.piece), at)
                for excerpt in claim.candidate.excerpts
                for at in range(excerpt.start, excerpt.end)
            ]
            # A currency is a part of the amounts it is read from, and a sum is made of the parts it adds up.
            if claim.leaf.concept.kind == "currency" or claim.candidate.shared:
                places = []
            # Without tax one amount is both.
            if claim.leaf.concept.name == "subtotal" and claim.candidate.value == self._total:
                places = []
            if claim.leaf.path in done or any(taken.get(place, meaning) != meaning for place in places):
                continue
            done[claim.leaf.path] = claim
            taken |= dict.fromkeys(places, meaning)
        return list(done.values())

    def _claims(self, leaf: Leaf) -> Iterable[_Claim]:
        """Candidates that the field's own type accepts.

        A number or a day that is the field's and that its constraints refuse is not replaced by the next best one.
        """
        for candidate in self._candidates(leaf):
            if candidate.score < _LEAST_SCORE:
                return
            if leaf.currency is not None and not self._is_in(leaf.currency, candidate):
                continue
            for value in readings(leaf, candidate.value, candidate.text):
                accepted, checked = leaf.check(_spelled(leaf, candidate, value))
                if accepted and checked is not None:
                    yield _Claim(leaf, self._scoped(leaf, candidate), checked)
                    break
                if not isinstance(value, str) and not leaf.choices:
                    stated = origin(value, candidate.excerpts, candidate.confidence)
                    told = stated.model_copy(update={"found": False})
                    self._refused[".".join(leaf.path)] = (told, leaf.why_not(value))
                    return
                if candidate.confidence >= _SURE and candidate.label is not None and not leaf.choices:
                    stated = origin(value, candidate.excerpts, candidate.confidence)
                    told = stated.model_copy(update={"found": False})
                    self._refused.setdefault(".".join(leaf.path), (told, leaf.why_not(value)))

    def _is_in(self, currency: str, candidate: Candidate) -> bool:
        """Whether an amount is in a currency: its own, its label's, its row's, or the only one of the document."""
        number = candidate.typed.number if candidate.typed is not None else None
        if number is not None and number.currency is not None:
            return number.currency == currency
        named = beside(self._view, candidate.excerpts[0].piece)
        if candidate.label is not None:
            named |= beside(self._view, candidate.label.piece)
        named = named or {str(each.value) for each in currencies_of(self._view)}
        return not named or currency in named

    def _scoped(self, leaf: Leaf, candidate: Candidate) -> Candidate:
        """Whose block a value stands in speaks for or against it where the field is one party's."""
        if not leaf.party or leaf.concept.name in ("seller", "buyer", "ship to"):
            return candidate
        owner = self._owner(candidate.excerpts[0].piece)
        if leaf.party == "seller":
            return candidate.better(-1.5 if owner in ("buyer", "ship to") else 0.0)
        return candidate.better(1.0 if owner == leaf.party else -1.5)

    def _owner(self, piece: Piece) -> str:
        """The party whose block a piece stands in, or ""."""
        if self._window is not None and any(line.piece is piece for line in self._window.lines):
            return "buyer"
        for party, labels in self._parties.items():
            for label in labels:
                if label.likeness * label.whole < 0.75 or label.piece.page != piece.page:
                    continue
                if any(line.piece is piece for block in blocks_of(self._view, label) for line in block.lines):
                    return party
        return ""

    # Finding -----------------------------------------------------------------------------------------------------

    def _candidates(self, leaf: Leaf) -> list[Candidate]:
        """Candidates for a field, best first."""
        name, kind = leaf.concept.name, leaf.concept.kind
        if "bool" in leaf.forms or "choice" in leaf.forms:
            return [*self._chosen(leaf), *self._typed(leaf)] if leaf.choices else self._typed(leaf)
        if name == "total":
            return self._totals
        asked = asked_part(leaf.name) if kind == "amount" else None
        if asked is not None:
            part = part_asked(asked, self._tax_parts, self._amounts["tax"])
            if part is not None:
                return part
        if name in ("subtotal", "tax", "tax rate"):
            rates = name == "tax rate"
            found = (
                self._rates() if rates else agreeing(self._view, name, self._amounts[name], self._amounts, self._total)
            )
            return by_parts(name, self._tax_parts, found) if self._tax_parts is not None else found
        if name in self._amounts:
            return self._amounts[name]
        if kind == "party":
            return self._names(name)
        if kind == "address":
            return self._addresses(name)
        if kind == "currency":
            return currencies_of(self._view)
        return self._typed(leaf)

    def _typed(self, leaf: Leaf) -> list[Candidate]:
        """Candidates by labels; and for kinds that show by themselves, without."""
        concept = leaf.concept
        kind = concept.kind
        if kind == "text" and leaf.forms & {"date", "datetime"}:
            kind = "date"
        labels = self._view.labels(concept.name)
        if concept.name.startswith("."):  # what is less than the field's name must stand for itself
            labels = [each for each in labels if folded(each.excerpt.text) in leaf.labels or stands_alone(each)]
        found = labelled(self._view, labels, kind)
        if kind == "id":
            found = without_neighbours(found)
            found = [
                candidate.better(_id_weight(candidate.text) - _doubt(concept.name, candidate)) for candidate in found
            ]
        if "text" in leaf.forms and kind not in ("date", "time", "email", "web", "iban", "bic", "phone", "id"):
            found = (
                [*found, *(each.better(-0.2) for each in labelled(self._view, labels, "text"))]
                if kind != "text"
                else found
            )
        by_look = concept.name in ("date", "time", "tax id") or kind in PATTERNED
        if by_look or (kind == "date" and concept.name.startswith(".") and self._only_date(leaf)):
            found = [*found, *unlabelled(self._view, concept.name if by_look else "date", kind)]
        if "datetime" in leaf.forms:
            found = [self._with_time(candidate) for candidate in found]
        return sorted(found, key=lambda each: -each.score)

    def _only_date(self, leaf: Leaf) -> bool:
        """A field that is a date and is called hardly more than that."""
        return "date" in leaf.labels[0] and len(leaf.labels[0]) <= 8

    def _with_time(self, candidate: Candidate) -> Candidate:
        """A day with the clock time beside it, as one moment."""
        place = candidate.excerpts[0]
        times = self._view.times(Excerpt.whole(place.piece))
        for other in self._view.sheet(place.piece).right_of(place.piece)[:2]:
            times = times or self._view.times(Excerpt.whole(other))
        if not times or not isinstance(candidate.value, datetime.date):
            return candidate
        moment = datetime.datetime.combine(candidate.value, times[0].value)
        return Candidate(
            moment, (*candidate.excerpts, times[0].excerpt), candidate.score, candidate.label, candidate.relation
        )

    def _rates(self) -> list[Candidate]:
        """Rates of a tax: beside their own labels, or in the row of the tax itself: "VAT 19 %"."""
        found = list(self._amounts["tax rate"])
        for label in self._view.labels("tax"):
            if label.likeness < 0.75:
                continue
            for piece in self._view.sheet(label.piece).rows[label.piece.row]:
                for typed in self._view.numbers(Excerpt.whole(piece), percent=True):
                    near = 0.5 if piece is label.piece else 0.0
                    found.append(
                        Candidate(typed.value, (typed.excerpt,), 0.6 + near + 0.6 * label.whole, label, "inline", typed)
                    )
        return sorted(found, key=lambda each: -each.score)

    def _names(self, party: str) -> list[Candidate]:
        found = names(self._view, self._labels_of(party))
        if party == "buyer" and self._window is not None:
            found.append(Candidate(self._window.recipient.text, (self._window.recipient,), 1.2))
        elif party == "buyer" and not found:
            found += addressee(self._view, self._heading())
        if party == "seller":
            avoid = [
                line.piece
                for name in ("buyer", "ship to")
                for label in self._labels_of(name)
                for block in blocks_of(self._view, label)
                for line in block.lines
                if block.score > 0.5
            ]
            if self._window is not None:
                avoid += self._window.pieces
                found.append(Candidate(self._window.sender.text, (self._window.sender,), 2.2))
            head = sellers(self._view, avoid)
            found = [*(each.better(-0.8) for each in found), *head, *named_elsewhere(self._view, avoid, head)]
        return sorted(found, key=lambda each: -each.score)

    def _heading(self) -> list[Piece]:
        """The lines of the seller's name."""
        head = [each for each in self._names("seller") if each.score > 0][:1]
        return [place.piece for each in head for place in each.excerpts]

    def _labels_of(self, party: str) -> list[Label]:
        """Labels of a party that are followed by nothing else than its block."""
        return [label for label in self._view.labels(party) if label.likeness * max(label.whole, label.lead) > 0.7]

    def _addresses(self, name: str) -> list[Candidate]:
        party = name.removesuffix(" address")
        found = addresses_under(self._view, self._view.labels(name), named=False)
        if self._window is not None and party != "ship to":
            lines = (self._window.sender_address,) if party == "seller" else self._window.address
            text = re.sub(r"\s*[·•∙|]\s*", ", ", " ".join(line.text for line in lines))
            found.append(Candidate(text, lines, 1.2))
        if party == "seller":
            head = next(iter(self._names("seller")), None)
            heading = [each.piece for each in head.excerpts] if head is not None and head.score > _LEAST_SCORE else []
            heading = [*(self._window.pieces if self._window is not None else ()), *heading]
            for sheet in self._view.sheets[:1]:
                for candidate in addresses(self._view, heading, sheet):
                    owner = self._owner(candidate.excerpts[0].piece)
                    found.append(candidate.better(-3.0 if owner in ("buyer", "ship to") else 0.0))
        else:
            found += addresses_under(self._view, self._labels_of(party), named=True)
            if name == "buyer address":  # "Address" below "Customer"
                general = addresses_under(self._view, self._view.labels("seller address"), named=False)
                found += [each.better(-0.5) for each in general if self._owner(each.excerpts[0].piece) == "buyer"]
                if not found:
                    found = address_of_addressee(self._view, self._heading())
        return sorted(found, key=lambda each: -each.score)

    def _chosen(self, leaf: Leaf) -> list[Candidate]:
        """Choices of a field where the page names them: beside its label, else anywhere."""
        found = []
        for candidate in labelled(self._view, self._view.labels(leaf.concept.name), "text"):
            for text, value in leaf.choices.items():
                for start, end, like in find_folded(text, candidate.excerpts[0].piece.shape):
                    first, last = candidate.excerpts[0].piece.shape.span(start, end)
                    if candidate.excerpts[0].start <= first and last <= candidate.excerpts[0].end:
                        place = Excerpt(candidate.excerpts[0].piece, first, last)
                        found.append(
                            Candidate(
                                value,
                                (place,),
                                candidate.score + 0.8 - 2 * (1 - like),
                                candidate.label,
                                candidate.relation,
                            )
                        )
        if leaf.concept.kind == "currency":
            found += currencies_of(self._view)
        for index, piece in enumerate(self._view.pieces):
            for text, value in leaf.choices.items():
                if len(text) < 3:
                    continue
                for start, end, like in find_folded(text, piece.shape, fuzzy=len(text) > 5):
                    first, last = piece.shape.span(start, end)
                    share = (end - start) / len(piece.shape.text)
                    early = 0.5 * (1 - index / len(self._view.pieces))
                    found.append(
                        Candidate(value, (Excerpt(piece, first, last),), -2.0 + 1.2 * share + early - 2 * (1 - like))
                    )
        return sorted(found, key=lambda each: -each.score)

    def _several(self, leaf: Leaf) -> list[tuple[Any, Candidate]]:
        """Values of a list: those that stand beside or under one label, cut at commas."""
        best: list[tuple[Any, Candidate]] = []
        for label in self._view.labels(leaf.concept.name):
            for block in blocks_of(self._view, label):
                values = []
                for line in block.lines:
                    for part in _parts(line):
                        candidate = Candidate(part.text, (part,), block.score, label)
                        typed = self._as_kind(leaf, candidate)
                        for value in readings(leaf, typed.value, typed.text):
                            accepted, checked = leaf.check(value)
                            if accepted:
                                values.append((checked, candidate))
                                break
                if values and block.score > -0.5 and (not best or block.score > best[0][1].score):
                    best = values
        return best

    def _as_kind(self, leaf: Leaf, candidate: Candidate) -> Candidate:
        place = candidate.excerpts[0]
        typed = (
            self._view.dates(place)
            if leaf.forms & {"date", "datetime"}
            else self._view.numbers(place)
            if leaf.forms & {"number", "integer"}
            else []
        )
        return Candidate(typed[0].value, (typed[0].excerpt,), candidate.score) if typed else candidate


def _spelled(leaf: Leaf, candidate: Candidate, value: Any) -> Any:
    """Names and addresses that were read from an image, with their well-known words set right."""
    kind = leaf.concept.kind
    if not isinstance(value, str) or (kind != "party" and kind != "address"):
        return value
    exact = all(word.score == 1 for excerpt in candidate.excerpts for word in excerpt.words)
    return value if exact else respelled(value, kind)


def _lists(part: Group) -> Iterable[Many]:
    for inner in part.parts.values():
        if isinstance(inner, Many):
            yield inner
        elif isinstance(inner, Group):
            yield from _lists(inner)


def _parts(line: Excerpt) -> Iterable[Excerpt]:
    """A line cut at commas and semicolons that separate, bullets taken off."""
    start = line.start
    for match in re.finditer(r"[,;](?!\d)|$", line.text):
        part = Excerpt(line.piece, start, line.start + match.start()).stripped(f"{MARKS}•●▪")
        if part is not None:
            yield part
        start = line.start + match.end()


def _doubt(name: str, candidate: Candidate) -> float:
    """What speaks against an identifier: a tax number is long, and a reference is another paper's number."""
    if name == "tax id":
        place, label = candidate.excerpts[0], candidate.label
        between = label.piece.text[label.excerpt.end : place.start] if label and label.piece is place.piece else ""
        sentence = len(re.findall(r"[^\W\d_]{2,}", between)) > _MOST_BETWEEN  # "VAT is to be paid by ..., Art. 196"
        return _NEVER if sentence or sum(map(str.isdigit, candidate.text)) < _SHORTEST_TAX_ID else 0.0
    referring = candidate.label is not None and _REFERS.search(
        candidate.label.piece.text[: candidate.label.excerpt.end]
    )
    return 1.2 if name == "invoice number" and referring else 0.0


def _id_weight(text: str) -> float:
    """Identifiers have digits, and more than one character."""
    digits = sum(character.isdigit() for character in text)
    return (0.4 if digits >= 3 else -0.6) - (0.8 if len(text) < 3 else 0.0)
