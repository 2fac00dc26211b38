"""Sellers that a page names elsewhere than in its head: who holds the account, who has the seat, a line of senders."""

import re
from collections.abc import Iterator, Sequence

from vision_agent.documents.sheet import MARKS, Excerpt, Piece, Sheet
from vision_agent.documents.text_match import folded
from vision_agent.extract.rules.candidates import Candidate
from vision_agent.extract.rules.legal_forms import legal_form_in
from vision_agent.extract.rules.parties import POSTCODE, is_code, is_contact, is_street
from vision_agent.extract.rules.view import View
from vision_agent.extract.rules.window_address import sender_of

_HOLDER = re.compile(
    r"(?:titulaire du compte|kontoinhaber(?:in)?|account (?:holder|name)|in favou?r of|payable to|beneficiary|"
    r"b[eé]n[eé]ficiaire|intestatario|intestato a|titular(?: de la cuenta)?|tenaamstelling|t\.n\.v\.|kontohaver|"
    r"kontoinnehavare|tilinomistaja|odbiorca przelewu)\W+",
    re.IGNORECASE,
)
_SEAT = re.compile(
    r"\W*(?:registered (?:office|address)|si[eè]ge(?: social)?|(?:firmen)?sitz|sede (?:legale|social)|domicilio social|"
    r"maatschappelijke zetel|s[aä]te|siedziba|s[ií]dlo|sz[eé]khely|forretningsadresse)\b",
    re.IGNORECASE,
)
_REGISTERED = re.compile(
    r"\b(?:iban|bic|swift|hrb|hra|rcs|siret|siren|kvk|cvr|nip|regon|krs|gstin|p\.?\s?iva|ust|vat|tva|btw|company no)\b|"
    r"au capital|capitale sociale|amtsgericht|registergericht|registered in",
    re.IGNORECASE,
)
_NEAR = 4  # rows
_MOST_WORDS = 7  # of a name


def named_elsewhere(view: View, avoid: Sequence[Piece], head: Sequence[Candidate]) -> Iterator[Candidate]:
    """Yield names of the seller from all of the first page.

    Args:
        avoid: lines of the buyer.
        head: names that the head of the page shows; one of them with its legal form, elsewhere, is the whole name.
    """
    shown = {folded(candidate.text): candidate.score for candidate in head if candidate.score > 0.5}
    for sheet in view.sheets[:1]:
        for piece in sheet.pieces:
            if any(piece is other for other in avoid):
                continue
            for place, score in _names(sheet, piece):
                plain = folded(place.text)
                known = [worth for text, worth in shown.items() if plain.startswith(text) and plain != text]
                yield Candidate(place.text, (place,), max([score, *(worth + 0.3 for worth in known)]))


def _names(sheet: Sheet, piece: Piece) -> Iterator[tuple[Excerpt, float]]:
    text = piece.text
    if (match := _HOLDER.search(text)) is not None:
        rest = Excerpt(piece, match.end(), len(text)).stripped(MARKS)
        under = next(iter(sheet.below(piece, rows=1)), None)
        place = rest if rest is not None else Excerpt.whole(under) if under is not None else None
        if place is not None and _is_name(place.text):
            yield place, 1.6 if legal_form_in(place.text) else 0.6
    if (sender := sender_of(piece)) is not None:
        yield sender, 2.0 if legal_form_in(sender.text) else 0.9
    form = legal_form_in(text)
    if form is None or (is_street(text) and is_code(form)) or not any(map(str.isalpha, text)):
        return
    place = Excerpt(piece, 0, text.index(form) + len(form)).stripped(" :;,-_=|*") or Excerpt.whole(piece)
    if not _is_name(place.text):
        return
    alone = len(text) - len(place.text) <= 2
    registered = _REGISTERED.search(text[place.end :]) is not None
    near = [
        other
        for row in sheet.rows[piece.row + 1 : piece.row + 1 + _NEAR]
        for other in row
        if min(piece.x1, other.x1) > max(piece.x0, other.x0)
    ]
    seat = any(_SEAT.match(other.text) for other in near[:1])
    told = any(_REGISTERED.search(other.text) or is_contact(other.text) for other in near)
    placed = any(POSTCODE.search(other.text) for other in near[:3])
    if registered or seat:
        yield place, 1.8
    elif alone and (told or placed):
        yield place, 1.2 if told and placed else 0.4


def _is_name(text: str) -> bool:
    letters = sum(map(str.isalpha, text))
    return letters >= 3 and len(text.split()) <= _MOST_WORDS and sum(map(str.isdigit, text)) <= letters / 4
