"""Values that show by their look alone, without a label: days, clock times, mail addresses, accounts, tax numbers."""

from collections.abc import Iterator, Sequence

from vision_agent.documents.sheet import Excerpt, Piece
from vision_agent.extract.lexicon import Kind
from vision_agent.extract.rules.candidates import Candidate, labelled
from vision_agent.extract.rules.identifiers import find_tax_ids
from vision_agent.extract.rules.view import View

PATTERNED: dict[Kind, float] = {"email": 1.2, "iban": 2.0, "web": 0.8, "phone": -1.0}
"""Log-odds of what looks like one of a kind."""
_NEVER = ("fax", "bic")  # what only a label tells


def unlabelled(view: View, name: str, kind: Kind) -> Iterator[Candidate]:
    """Yield values of a kind anywhere on the pages.

    Args:
        name: of the concept.
        kind: of its values.
    """
    if name in _NEVER:
        return
    pieces = view.pieces
    for index, piece in enumerate(pieces):
        place = Excerpt.whole(piece)
        if name == "tax id":
            for start, end in find_tax_ids(piece.text):
                excerpt = Excerpt(piece, start, end)
                yield Candidate(excerpt.text, (excerpt,), 0.8)
        elif kind == "date":
            yield from _days(view, place, index / len(pieces))
        elif kind == "time":
            for typed in view.times(place):
                yield Candidate(typed.value, (typed.excerpt,), -0.3 + typed.weight, typed=typed)
        elif kind in PATTERNED:
            for typed in view.matches(place, kind):
                other = any(label.concept != name and label.likeness > 0.75 for label in view.labels_in(piece))
                late = 0.3 * index / len(pieces) + (1.5 if other and kind != "iban" else 0.0)
                yield Candidate(typed.value, (typed.excerpt,), PATTERNED[kind] + typed.weight - 0.3 - late, typed=typed)


def _days(view: View, place: Excerpt, share: float) -> Iterator[Candidate]:
    """Days of a line; the document's own stands early in it, beside the clock, under no other name."""
    for typed in view.dates(place):
        clock = 0.8 if view.times(place) else 0.0
        year = 0.0 if 1990 <= typed.value.year <= 2050 else -1.5
        score = -0.9 + typed.weight + clock + 0.5 * (1 - share) + year - _claimed(view, typed.excerpt)
        yield Candidate(typed.value, (typed.excerpt,), score, typed=typed)


def _claimed(view: View, excerpt: Excerpt) -> float:
    """How surely a date is another one than the document's own: due, delivery, birth."""
    for name in ("due date", "delivery date", "birth date"):
        for candidate in labelled(view, view.labels(name), "date"):
            if candidate.excerpts[0] == excerpt and candidate.score > 0:
                return 2.0
    return 0.0


def currencies_of(view: View) -> list[Candidate]:
    """Return the currencies of a document's amounts, the commonest first; a dollar sign may be of several countries."""
    found: dict[str, list[Excerpt]] = {}
    for piece in view.pieces:
        for code, start, end in view.currencies_in(piece):
            found.setdefault(code, []).append(Excerpt(piece, start, end))
    most = max((len(places) for places in found.values()), default=0)
    return sorted(
        (
            Candidate(code, (places[0],), (1.5 if _settled(view, places) else 0.2) - 2 * (1 - len(places) / most))
            for code, places in found.items()
        ),
        key=lambda each: -each.score,
    )


def _settled(view: View, places: Sequence[Excerpt]) -> bool:
    """Whether the signs say which currency it is, or the country does."""
    return bool(view.currencies) or any(place.text.strip(".").lower() not in ("$", "kr", "\u00a5") for place in places)


def beside(view: View, piece: Piece) -> set[str]:
    """Return the currencies that a row names."""
    row = view.sheet(piece).rows[piece.row]
    return {code for each in row for code, _, _ in view.currencies_in(each)}
