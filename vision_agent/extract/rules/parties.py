"""Who a document is from and to: names and postal addresses, by what they look like and where they stand.

A seller's name rarely has a label: it heads the page. Each of the first lines gets a score from its place, its size and
its words; an address is the run of lines near the name whose own scores add up to most.
"""

import re
from collections.abc import Sequence

from vision_agent.documents.sheet import MARKS, Excerpt, Piece, Sheet
from vision_agent.documents.text_match import folded, words_of
from vision_agent.extract.lexicon import ITEM_CONCEPTS, words_for
from vision_agent.extract.rules.candidates import Candidate
from vision_agent.extract.rules.labels import Label
from vision_agent.extract.rules.legal_forms import legal_form_in
from vision_agent.extract.rules.view import View
from vision_agent.extract.values.spelling import respelled

_LEGAL_FORMS = words_for("legal forms")
_TRADES = words_for("trades")
_STREETS = words_for("streets")
_REGIONS = words_for("regions")
_NO_NAME = words_for("no names")
_SMALL = words_for("question words")
POSTCODE = re.compile(
    r"(?<![\d.,/-])(?:[A-Z]{1,2}-)?\d{4,6}(?:-\d{3,4})?(?![\d.,/-]\d|\d)|\b[A-Z]{1,2}\d[A-Z\d]? ?\d[A-Z]{2}\b"
    r"|(?<=\d,)\d{5}(?= [^\W\d_]{2})|(?<![\d.,/-])(?:\d{3} \d{2}|\d{2}-\d{3})(?= [^\W\d_]{2})"
    r"|\b[A-Z]\d[A-Z] ?\d[A-Z]\d\b"
)
_HOUSE = re.compile(r"^\W*(?:no\.?\s?|lot\s?)?\d+[a-z]?\b|\b\d{1,4}[a-z]?\s*$", re.I)
_CONTACT = re.compile(
    r"\b(?:te[l1i]|fax|phone|mobile|hp)(?:\b|\d)"
    r"|\b(?:email|e-mail|www|http|reg|roc|gst|vat|ust|siret|tva|iva|nif|cif|id|company no|co\.? no|iban|bic)\b"
    r"|@|\.com\b|hotline|sst",
    re.I,
)
_CONTACT_LINE = re.compile(  # also "T: 03-2093 7358" and "Careline : 1800 88 1231"
    r"\W*(?:[tf]\s*[:.]\s*[+(]?\d{2}|[^\W\d]+\s*:\s*[+(]?\d[\d ()-]{7,}$"
    r"|(?:te[l1i]|telephone|phone|fax|faks|mobile?|hp|hotline|e-?mail|e-?post|www|iban|bic|tlf|puh|telefon\w{0,2}|τηλ\w*)\W)",
    re.IGNORECASE,
)
_POSTCODE_PLACE = re.compile(r"\W*\d{4,5} [^\W\d]{2,}")
_FRONT = re.compile(  # what an address begins with
    r"\W*(?:(?:no|lot|unit|suite|blk|block)\b|\d{1,3}[a-z]?(?:\s?[-/&]\s?\d{1,3}[a-z]?)*(?:,|\s)\s*[^\W\d]{2})", re.I
)
_UNIT = re.compile(r"\W*(?:lot|unit|suite|blk|block|level)\b.*\d", re.I)  # what stands before a house's number
_REGISTRATION = re.compile(
    r"\s*[(<\[{]?\s*(?:(?:co|company|reg|roc|gst|tax|vat)\W*(?:no|reg|id)?\W*){0,3}[A-Z]{0,2}\d{4,}[\s-]*[A-Z0-9]{0,3}\s*[)>\]}]?"
    r"(?:\s*\([A-Z0-9]{1,5}\))?[\s.,;]*$|\s+(?:co|company|reg|roc)\W*(?:no|reg)\W*$", re.IGNORECASE
)  # fmt: skip
_SERIAL = re.compile(r"\s*#\s?\d+\s+(?=[^\W\d]{2})")  # "#000002 NAME"
_TORN = re.compile(r"\s*[(\[{][^)\]}]{0,3}$")  # what is left of a number in brackets
_CAPITAL = re.compile(r"\b(?:au capital|capital(?:e)? socia\w+|share capital|stammkapital|kapitał zakładowy)\b", re.I)
_BEFORE_ADDRESS = re.compile(r"\s*[·•∙|]\s*")
_TITLE = re.compile(
    r"(?<=[\w.]) +(?:tax )?(?:invoice|rechnung|facture|factura|fattura|fatura|factuur|faktura|receipt)\W*$", re.I
)
_OWNER = re.compile(r"\s*[^\W\d]{3,12}(?:\s[^\W\d]{2,8})?\s?:\s*(?=[^\W\d]{2})")  # "Owned by: ..."
_NUMBER_LINE = re.compile(r"\W*(?:[A-Z]{2,4}\W*)?No\b\W*[A-Z]{0,3}\d{5,}(?:-[A-Z0-9]+)?\W*", re.IGNORECASE)
_SITE = re.compile(r"(?:@|www\.|https?://(?:www\.)?)(?P<site>[\w-]{4,})\.[a-z]{2,}")
_SHORTEST_SITE = 4  # letters
_MAILERS = frozenset(
    "gmail googlemail outlook hotmail yahoo icloud gmx webde tonline example mail live orange free".split()
)
_CENTS = 2  # digits of an amount behind its mark
_CODE = 3  # letters of a legal form that a part of an address may look like
_SURE_FORMS = frozenset("ltd inc llc llp plc bhd sdn pty pte".split())
_LEGAL = 3.6  # log-odds that a legal form adds
_ROW = 0.3  # that each row further down takes
_COLUMN_NAMES = frozenset(folded(label) for concept in ITEM_CONCEPTS for label in concept.labels)
_MOST_LINES = 8  # of an address
_HEAD_ROWS = 14  # rows of the first page that may name the seller


def sellers(view: View, avoid: Sequence[Piece] = ()) -> list[Candidate]:
    """Return names the first page may be from, best first; also names that take two lines."""
    if not view.sheets:
        return []
    sheet = view.sheets[0]
    found = []
    for piece in _head(sheet):
        place = _name_in(piece)
        if piece in avoid or place is None:
            continue
        score = _name_score(view, sheet, place)
        found.append(Candidate(place.text, (place,), score))
        found += _along_row(view, sheet, place)
        for other in sheet.below(piece, rows=1):
            second = _name_in(other)
            if second is not None and _goes_on(place, second):
                places = (place, second, *_legal_rest(sheet, second))
                text = " ".join(part.text for part in places)
                legal = _LEGAL if any(map(_forms, places[1:])) and not _forms(place) else 0.0
                found.append(Candidate(text, places, max(score, 0.3 - _ROW * piece.row) + legal + 0.6))
    return sorted(found, key=lambda candidate: -candidate.score)


def _along_row(view: View, sheet: Sheet, first: Excerpt) -> list[Candidate]:
    """A name set with wide spaces: the pieces of its row that follow the first one, as one name."""
    places = [first]
    for piece in sheet.right_of(first.piece):
        last, place = places[-1].piece, _name_in(piece)
        like = abs(piece.height - last.height) < 0.3 * last.height and piece.x0 - last.x1 < 2.5 * last.height
        if (
            not like
            or place is None
            or sum(map(str.isalpha, place.text)) < 2
            or any(map(str.isdigit, place.text))
            or set(words_of(place.text)) & _NO_NAME
        ):
            break
        places.append(place)
    if len(places) == 1 or view.labels_in(first.piece):
        return []
    best = max(_name_score(view, sheet, place) for place in places)
    said_whole = any(_forms(place) for place in places if len(words_of(place.text)) > 1)
    legal = _LEGAL if any(map(_forms, places)) and not said_whole else 0.0
    return [Candidate(" ".join(place.text for place in places), tuple(places), best + legal + 0.6)]


def _legal_rest(sheet: Sheet, first: Excerpt) -> list[Excerpt]:
    """What follows on a row and is of a legal form alone: "CO" "(M) SDN BHD"."""
    places: list[Excerpt] = []
    for piece in sheet.right_of(first.piece):
        last, place = (places or [first])[-1].piece, _name_in(piece)
        if place is None or piece.x0 - last.x1 > 2.5 * last.height or not _forms(place):
            break
        if any(word not in _LEGAL_FORMS and len(word) > 1 for word in words_of(place.text)):
            break
        places.append(place)
    return places


def _name_in(piece: Piece) -> Excerpt | None:
    """A line without the registration number behind a name."""
    start, end = 0, len(piece.text)
    if (owner := _OWNER.match(piece.text)) is not None:
        start = owner.end()
    elif (serial := _SERIAL.match(piece.text)) is not None:
        start = serial.end()
    if (number := _REGISTRATION.search(piece.text)) is not None and number.start() > 2:
        end = number.start()
    if (mark := _BEFORE_ADDRESS.search(piece.text, start, end)) is not None and POSTCODE.search(
        piece.text[mark.end() :]
    ):
        end = mark.start()
    if (torn := _TORN.search(piece.text, start, end)) is not None:
        end = torn.start()
    if (title := _TITLE.search(piece.text, start, end)) is not None:
        end = title.start()
    return Excerpt(piece, start, end).stripped(MARKS) if start < end else None


def _forms(place: Excerpt) -> set[str]:
    """The legal forms among a line's words."""
    text = respelled(place.text, "party")
    tokens = re.findall(r"[^\s,;:()/&.-]+", text) if text else []
    forms = {folded(token) for token in tokens if token != "kg"} & _LEGAL_FORMS  # a unit, "KG" is a form
    forms |= {form} if (form := legal_form_in(text)) is not None else set()
    if is_street(place.text):  # "LOT P.T. 2811", "Jalan BT 3"
        forms = {form for form in forms if not is_code(form)}
    return forms | ({"s/b"} if re.search(r"\bS/B\b", text) else set())


def is_street(text: str) -> bool:
    """Return whether a line reads like a street with its number, whatever codes it has."""
    words = words_of(text)
    front = _FRONT.match(text) or set(words[:2]) & _STREETS
    placed = _POSTCODE_PLACE.match(text) and "," in text
    return any(map(str.isdigit, text)) and bool((front and set(words) & _STREETS) or placed)


def is_code(form: str) -> bool:
    """Return whether a legal form is so short that a part of an address may look like it."""
    return len(folded(form)) <= _CODE and folded(form) not in _SURE_FORMS


def _head(sheet: Sheet) -> list[Piece]:
    return [piece for row in sheet.rows[:_HEAD_ROWS] for piece in row]


def _goes_on(first: Excerpt, second: Excerpt) -> bool:
    """Whether a name continues in the line below: with its legal form, which the first line lacks in part."""
    one, other = first.piece, second.piece
    words = words_of(second.text)
    rest = [word for word in words if word not in _LEGAL_FORMS and len(word) > 1]
    legal = bool(set(words) & _LEGAL_FORMS)
    if (
        not words
        or set(words_of(first.text)) <= _NO_NAME
        or sum(map(str.isalpha, first.text)) < 3
        or sum(map(str.isalpha, second.text)) < 2
    ):
        return False
    # "... Hardware &" and "& Sons" are halves; so is a trade: "Eastern" "Stationery Ltd"; "Bistro & Cafe" is none.
    half = first.text.endswith("&") or second.text.startswith("&")
    trade = (
        (legal or len(words) == 1)
        and set(words) <= _TRADES | _LEGAL_FORMS
        and abs(one.height - other.height) < 0.4 * one.height
    )
    if not half and not trade and (rest or not legal):
        return False
    if any(character.isdigit() for character in second.text):
        return False
    whole = {"bhd", "ltd", "limited", "gmbh", "inc", "llc", "plc"} & set(words_of(first.text))
    return not whole and other.y0 - one.y1 < 1.2 * one.height


def _name_score(view: View, sheet: Sheet, place: Excerpt) -> float:
    """Log-odds that a line of the head is the seller's name."""
    piece, words, forms = place.piece, words_of(respelled(place.text, "party")), _forms(place)
    letters = sum(character.isalpha() for character in place.text)
    digits = sum(character.isdigit() for character in place.text)
    if letters < 3:
        return -6.0
    score = 0.4 - _ROW * piece.row
    own = [word for word in words if word not in _LEGAL_FORMS and len(word) > 1]
    plain = [word for word in own if word not in _NO_NAME | _SMALL]
    trades = set(words) & _TRADES
    # "Bistro & Cafe" under a name says what it is.
    score += _LEGAL if forms and plain else -0.3 if trades and set(plain) <= _TRADES else 1.5 if trades else 0.0
    score -= 1.5 if ":" in place.text else 0.0
    score += 1.2 * min(1.5, max(-0.5, piece.height / sheet.height - 1))
    score -= 3.0 * min(1.0, 2.0 * digits / (letters + digits))
    score -= 1.0 if place.text.islower() else 0.0
    score -= 4.0 if not plain else 2.5 if len(plain) <= len(own) / 3 else 0.0
    score -= 2.0 if _address_score(piece) > 0.8 and not forms else 0.0
    score -= 2.5 if _CONTACT.search(place.text) else 0.0
    score -= 4.0 if _CAPITAL.search(place.text) else 0.0
    labels = [
        label for label in view.labels_in(piece) if label.likeness * label.whole > 0.8 and label.concept != "seller"
    ]
    score -= 2.0 if labels and not forms else 0.0
    score -= 3.0 if folded(place.text) in _COLUMN_NAMES else 0.0
    score -= 1.0 * min(1.0, max(0.0, len(words) - 7) / 3)
    score -= 1.5 * (1 - piece.score / 0.8) if piece.score < 0.8 else 0.0
    score -= 1.0 if re.fullmatch(r"\(.*\)", piece.text.strip()) else 0.0
    score += 1.5 if plain and any(site in folded(place.text) for site in _sites(view)) else 0.0
    score -= 1.5 if view.numbers(Excerpt.whole(sheet.rows[piece.row][-1])) and len(sheet.rows[piece.row]) > 1 else 0.0
    return score


def _sites(view: View) -> frozenset[str]:
    """The names in a document's addresses of mail and pages: "muster-technik" of info@muster-technik.de, folded."""
    found = {folded(match["site"]) for piece in view.pieces for match in _SITE.finditer(piece.text.lower())}
    return frozenset(site for site in found if len(site) >= _SHORTEST_SITE and site not in _MAILERS)


def addresses(view: View, name: Sequence[Piece], sheet: Sheet) -> list[Candidate]:
    """Return runs of lines that read like an address, best first.

    Args:
        name: the lines of the name; addresses below it are preferred.
    """
    found = []
    for column in columns_of(sheet):
        scores = [-3.0 if piece in name else line_score(view, piece) for piece in column]
        found += _best_runs(column, scores, name[-1] if name else None)
    return sorted(found, key=lambda candidate: -candidate.score)


def columns_of(sheet: Sheet) -> list[list[Piece]]:
    """Return chains of lines that follow each other in one column, from any line of the page to its last."""
    columns: list[list[Piece]] = []
    open_columns: list[list[Piece]] = []
    for row in sheet.rows:
        for piece in row:
            for column in open_columns:
                last = column[-1]
                overlap = min(last.x1, piece.x1) - max(last.x0, piece.x0)
                if last.row < piece.row <= last.row + 2 and overlap > 0 and piece.y0 - last.y1 < 1.6 * sheet.height:
                    column.append(piece)
                    break
            else:
                column = [piece]
                columns.append(column)
                open_columns.append(column)
    return columns


def _best_runs(column: Sequence[Piece], scores: Sequence[float], after: Piece | None) -> list[Candidate]:
    """Each run of lines whose scores add up to more than any longer or shorter one around it."""
    found = []
    index = 0
    while index < len(column):
        if scores[index] <= 0:
            index += 1
            continue
        total, best, end, stop = 0.0, 0.0, index, index
        while end < len(column) and total > -0.5 and end - index < _MOST_LINES:
            if end > index and scores[end] < -1.5:
                break
            total += scores[end]
            end += 1
            if total > best:
                best, stop = total, end
        start = _first_line(column, scores, _front(column[:stop], index), after)
        run = column[start:stop]
        near = 0.0
        if after is not None and run[0].page == after.page:
            away = run[0].row - after.row
            near = 0.8 - 0.25 * max(0, away - 1) if away > 0 else -1.0
        places = [Excerpt.whole(piece) for piece in run]
        places[0] = places[0].stripped() or places[0]
        places[-1] = places[-1].stripped(" ") or places[-1]
        if any(POSTCODE.search(piece.text) for piece in run):
            best += 0.6
        text = " ".join(place.text for place in places)
        found.append(Candidate(text, tuple(places), min(best, 3.5) - 1.6 + near))
        index = max(stop, index + 1)
    return found


def _front(column: Sequence[Piece], start: int) -> int:
    """Where an address begins that has a shop's name, such as that of a branch, above its first line."""
    for index in range(start, min(start + 3, len(column))):
        if _FRONT.match(column[index].text):
            return index
        if "," in column[index].text or set(words_of(column[index].text)[:1]) & _STREETS:
            break
    return start


def _first_line(column: Sequence[Piece], scores: Sequence[float], start: int, after: Piece | None) -> int:
    """The first line of an address whose sure lines begin at `start`: what stands up to the name belongs to it."""
    for index in range(max(0, start - 3), start):
        if _UNIT.match(column[index].text) and min(scores[index:start]) > -1.0:
            return index
    first = start
    if _FRONT.match(column[start].text):
        return start
    while first > 0 and start - first < 2 and scores[first - 1] > -1.0:
        first -= 1
    if after is not None and first > 0 and column[first - 1] is after and first < start:
        return first
    # Without the name above, only lines that themselves look a little like an address.
    first = start
    while first > 0 and start - first < 2 and scores[first - 1] > -0.5:
        first -= 1
    return first


def line_score(view: View, piece: Piece) -> float:
    """Return how much a line adds to an address."""
    if _CONTACT_LINE.match(piece.text) or (_CONTACT.search(piece.text) and not POSTCODE.search(piece.text)):
        return -3.0
    whole = Excerpt.whole(piece)
    if view.dates(whole) or view.times(whole):
        return -3.0
    end = len(piece.text)
    if any(
        typed.number
        and typed.number.decimals == _CENTS
        and "/" not in typed.excerpt.text  # "Jalan Batu 12 1/4" is no price
        and end - typed.excerpt.end < 3
        for typed in view.numbers(whole)
    ):
        return -3.0
    if any(_names_other(label) for label in view.labels_in(piece)):
        return -2.0
    if not any(character.isalpha() for character in piece.text) and not POSTCODE.fullmatch(piece.text.strip(" .,")):
        return -3.0
    numbered = _REGISTRATION.fullmatch(piece.text.strip()) and not _POSTCODE_PLACE.match(piece.text)
    if numbered or _NUMBER_LINE.fullmatch(piece.text.strip()):
        return -3.0
    return _address_score(piece)


def is_contact(text: str) -> bool:
    """Return whether a line is a number to call, or an address of mail."""
    return _CONTACT_LINE.match(text) is not None


def _names_other(label: Label) -> bool:
    """A sure label of something that is no address and no name."""
    return label.likeness * label.lead > 0.8 and label.excerpt.start <= 1 and label.concept not in (
        "seller address", "buyer address", "ship to address", "seller", "buyer", "ship to", "table number", "web",
    ) and (label.piece.text[label.excerpt.end :].lstrip()[:1] in (":", "") or label.whole > 0.8)  # fmt: skip


def _address_score(piece: Piece) -> float:
    """How much a line of text alone reads like a part of an address."""
    text = piece.text
    if (number := _REGISTRATION.search(text)) is not None and number.start() > 2 and "(" in number[0]:
        text = text[: number.start()]
    words = words_of(text if piece.score == 1 else respelled(text, "address"))
    if not words:
        return -1.0
    score = -0.6
    streets = [
        word
        for word in words
        if word in _STREETS or word.endswith(("strasse", "str", "weg", "platz", "straat", "gasse"))
    ]
    score += min(1.6, 0.9 * len(streets))
    score += 0.8 if set(words) & _REGIONS else 0.0
    score += 1.2 if POSTCODE.search(text) and any(word.isalpha() for word in words) else 0.0
    score += 0.6 if _HOUSE.search(text) and len(words) > 1 else 0.0
    score += 0.4 if "," in text else 0.0
    score -= 1.5 if set(words) & (_NO_NAME - {"no", "cash"}) else 0.0
    score -= 2.0 if set(words) & _LEGAL_FORMS - {"kg", "co", "as", "sa", "ab", "sd"} else 0.0
    return score
