"""Candidates for a value: what stands beside a label, right of it or below it, and how likely it is the value.

Scores are log-odds: above 0 a candidate is more likely right than wrong. The weights were set by hand on receipts of
one half of the shops; the figures in the README are of the other half.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from vision_agent.documents.sheet import Excerpt, Piece
from vision_agent.documents.text_match import folded
from vision_agent.extract.lexicon import Kind, words_for
from vision_agent.extract.rules.labels import Label, explains
from vision_agent.extract.rules.view import Typed, View

Relation = Literal["inline", "right", "below", "none"]

_ROWS_BELOW = 3
# From log-odds to confidence. Made papers alone ask for 0.9 and 1.3, receipts for 0.1 and 2.1; this lies between them
# and errs to the careful side. `python -m vision_agent.evaluate.document_fields` prints the reliability.
_SLOPE, _OFFSET = 0.6, 1.0
_PLACES = words_for("places")
_IN_ADDRESS = re.compile(r"\d{4}\W*$|\d-\d{3}\W*$|,\s*$")  # what stands before a town: a postcode, a street
_SURE_LABEL = 0.75  # from here a label ends the value of the label before it
_SEPARATOR = re.compile(r"\s*[:=|#]|\s*\.{2,}|\s+[-\u2013\u2014]\s")


@dataclass(frozen=True)
class Region:
    """A place where a label's value may stand.

    Attributes:
        label: whose value.
        excerpt: the place.
        relation: where it lies from the label.
        score: how much the place speaks for its content, log-odds.
    """

    label: Label
    excerpt: Excerpt
    relation: Relation
    score: float


@dataclass(frozen=True)
class Candidate:
    """A value that a field may have.

    Attributes:
        value: as the document's text says it, typed.
        excerpts: where it stands, in reading order.
        score: log-odds that it is the one.
        label: the label it was found by, None where its look or place alone speaks for it.
        relation: where it lies from the label.
        typed: what was found there, for numbers.
        confirmed: a sum of the document confirms it.
        shared: its words are those of other values too, which it adds up.
    """

    value: Any
    excerpts: tuple[Excerpt, ...]
    score: float
    label: Label | None = None
    relation: Relation = "none"
    typed: Typed | None = field(default=None, compare=False)
    confirmed: bool = False
    shared: bool = False

    @property
    def text(self) -> str:
        """The source text, lines joined by blanks."""
        return " ".join(excerpt.text for excerpt in self.excerpts)

    @property
    def confidence(self) -> float:
        """0-1: how likely it is the value, times how sure the reader was of its words."""
        sure = sum(excerpt.score for excerpt in self.excerpts) / len(self.excerpts)
        return sure / (1 + math.exp(-(_SLOPE * self.score + _OFFSET)))

    def better(self, by: float) -> "Candidate":
        """Return the candidate with its score raised by this much."""
        return replace(self, score=self.score + by)


def regions_of(view: View, label: Label) -> Iterator[Region]:
    """Yield where a label's value may stand: behind it, right of it, below it."""
    piece = label.piece
    sheet = view.sheet(piece)
    separated = _SEPARATOR.match(piece.text[label.excerpt.end :]) is not None
    stop = _next_label(view, piece, label.excerpt.end)
    inline = Excerpt(piece, label.excerpt.end, stop).stripped()
    if inline is not None:
        quality = label.likeness * (max(label.lead, label.whole) if separated else label.lead)
        yield Region(label, inline, "inline", _odds(quality) + (0.8 if separated else 0.3))
    if stop < len(piece.text):
        return
    # A label with more words after it is less of a label, unless they are its value.
    quality = label.likeness * label.whole
    width = max(1.0, sheet.frame[2] - sheet.frame[0])
    passed = 0
    for other in sheet.right_of(piece):
        begins = _first_label(view, other)
        if begins is not None and begins.excerpt.start <= 1:
            break
        place = Excerpt.whole(other).stripped()
        if place is not None:
            gap = (other.x0 - piece.x1) / width
            yield Region(label, place, "right", _odds(quality) + 0.7 - 0.6 * gap - 0.35 * passed)
            passed += any(character.isalnum() for character in other.text)
    rows = sheet.rows[piece.row + 1 : piece.row + 1 + _ROWS_BELOW]
    for away, row in enumerate(rows):
        if row and row[0].y0 - piece.y1 > 3 * sheet.height:
            return
        under = [other for other in row if _under(piece, other)]
        for other in under:
            if view.is_label(other):
                continue
            place = Excerpt.whole(other).stripped()
            if place is not None:
                aligned = min(
                    abs(other.x0 - piece.x0),
                    abs(other.x1 - piece.x1),
                    abs(other.x0 + other.x1 - piece.x0 - piece.x1) / 2,
                )
                away_x = min(1.5, aligned / (3 * sheet.height))
                beside = -0.8 if inline is not None or passed else 0.0
                yield Region(label, place, "below", _odds(quality) - 0.1 - 0.7 * away - 0.5 * away_x + beside)
        if under:
            return
    return


def _odds(quality: float) -> float:
    """A label's share of what it says: a whole one speaks for its value, a quarter of one does not."""
    return 4.5 * quality - 2.6


def _under(piece: Piece, other: Piece) -> bool:
    return min(piece.x1, other.x1) - max(piece.x0, other.x0) > 0 and other.middle > piece.y1 - 0.2 * piece.height


def _next_label(view: View, piece: Piece, start: int) -> int:
    """Where the next sure label of a piece begins, at or after `start`; the piece's end without one."""
    begins = [
        label.excerpt.start
        for label in view.labels_in(piece)
        if label.excerpt.start >= start + 1
        and label.likeness > _SURE_LABEL
        and _SEPARATOR.match(piece.text[label.excerpt.end :])
        and not explains(piece.text[start : label.excerpt.start], label.excerpt.text)  # "Total Inclusive GST:" is one
    ]
    return min(begins, default=len(piece.text))


def _first_label(view: View, piece: Piece) -> Label | None:
    """The sure label that a piece begins with."""
    sure = [
        label
        for label in view.labels_in(piece)
        if label.likeness * max(label.whole, 0.9 * label.lead * bool(_SEPARATOR.match(piece.text[label.excerpt.end :])))
        > _SURE_LABEL
    ]
    return min(sure, key=lambda label: label.excerpt.start, default=None)


def labelled(view: View, labels: Sequence[Label], kind: Kind) -> list[Candidate]:
    """Return candidates of a kind beside labels; of those at one place the best."""
    best: dict[tuple[int, int, int], Candidate] = {}
    for label in labels:
        in_place = folded(label.excerpt.text) in _PLACES
        if in_place and _IN_ADDRESS.search(label.piece.text[: label.excerpt.start]):
            continue
        for region in regions_of(view, label):
            if in_place and region.relation == "below":
                continue
            for place, typed in enumerate(typed_in(view, region.excerpt, kind, own=label.concept.startswith("."))):
                # Amounts stand at the end of their row, all else at its beginning.
                later = 0.15 * place if kind in ("amount", "number") else 0.6 * place
                score = region.score + typed.weight - later
                if kind == "amount" and region.relation == "below" and _heads_column(view, typed.excerpt.piece):
                    score -= 2.0
                found = Candidate(typed.value, (typed.excerpt,), score, label, region.relation, typed)
                key = (id(typed.excerpt.piece), typed.excerpt.start, typed.excerpt.end)
                if key not in best or best[key].score < score:
                    best[key] = found
    return sorted(best.values(), key=lambda found: -found.score)


def stands_alone(label: Label) -> bool:
    """Return whether a label is exactly written, and all of its piece, or all before a colon or number: "Patient:"."""
    ahead, behind = label.piece.text[: label.excerpt.start], label.piece.text[label.excerpt.end :]
    if label.likeness < 1 or any(map(str.isalnum, ahead)):
        return False
    first = next(filter(str.isalnum, behind), "")
    return not first or first.isdigit() or _SEPARATOR.match(behind) is not None


def without_neighbours(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return candidates less those beside or below a label that has its value behind it already."""
    behind = {id(each.label) for each in candidates if each.relation == "inline"}
    return [each for each in candidates if each.relation == "inline" or id(each.label) not in behind]


def _heads_column(view: View, piece: Piece) -> bool:
    """Whether more numbers follow under a number: then its label names a column."""
    under = next(iter(view.sheet(piece).below(piece, rows=2)), None)
    return under is not None and bool(view.numbers(Excerpt.whole(under)))


def typed_in(view: View, place: Excerpt, kind: Kind, *, own: bool = False) -> list[Typed]:
    """Return the values of a kind in a place, the likeliest first.

    Args:
        own: for a field that looks for its own label: then a percentage is a number too, and the first one is meant.
    """
    if kind == "date":
        return view.dates(place)
    if kind == "time":
        return view.times(place)
    if kind in ("amount", "number"):
        found = view.numbers(place, percent=None if own else False, long=True)
        return found[::-1] if kind == "amount" and not own else found
    if kind == "percent":
        plain = [replace(typed, weight=typed.weight - 0.8) for typed in view.numbers(place)]
        return [*view.numbers(place, percent=True), *plain]
    if kind in ("email", "web", "iban", "bic", "phone", "id"):
        return view.matches(place, kind)
    return text_in(view, place)


def _with_sign(place: Excerpt) -> Excerpt:
    """A number's minus, which the marks around a place were taken off with."""
    ahead, text = place.piece.text[: place.start], place.text
    if text[:1].isdigit() and ahead[-1:] in ("-", "\u2212", "\u2013") and not ahead[:-1][-1:].isalnum():
        return Excerpt(place.piece, place.start - 1, place.end)
    return place


def text_in(view: View, place: Excerpt) -> list[Typed]:
    """Return the whole text of a place, if it says anything."""
    place = _with_sign(place)
    text = place.text
    if not any(character.isalnum() for character in text):
        return []
    return [Typed(text, place, 0.0 if len(text) > 1 else -0.5)]
