"""Letters for window envelopes: a small line with the sender, and below it the recipient, neither with a label.

"Müller GmbH · Industriestraße 12 · 70565 Stuttgart", and under it the customer; or the sender's line at the foot of the
page, and the customer at its head. German, Austrian, Swiss and French
business letters are laid out so (DIN 5008, NF Z 11-001).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vision_agent.documents.sheet import MARKS, Excerpt, Piece, Sheet
from vision_agent.documents.text_match import folded
from vision_agent.extract.rules.candidates import Candidate
from vision_agent.extract.rules.parties import POSTCODE, columns_of, is_contact
from vision_agent.extract.rules.view import View

_ROWS = 16  # of the first page that a sender's line is looked for in
_LINES = 7  # of a recipient
_FOOT_ROWS = 8  # of a page that may name the sender
_STRONG = re.compile(r"[·•∙|]")
_PARTS = re.compile(r"\s*[·•∙|*]\s*|\s+[-\u2013\u2014]\s+|,\s+")
_TITLE_ALONE = re.compile(r"(?:herrn?|frau|firma|familie|mr|mrs|ms|mme|monsieur|madame|sig|sr|sra|hr|fru)\.?", re.I)
_UPPER, _BLOCK_GAP = 0.5, 0.9  # share of a page's text that is its upper part; text heights between two blocks
_PERSON = re.compile(r"(?:herrn?|frau|mr|mrs|ms|mme|m\.|z\.\s?hd|zu h\u00e4nden|c/o|attn|att)\b", re.I)


@dataclass(frozen=True)
class Window:
    """What a window envelope shows.

    Attributes:
        sender: the name in the sender's line.
        sender_address: the rest of that line.
        recipient: the recipient's first line, the name.
        address: the lines of the recipient's address, without a person's name.
        lines: all of the recipient's lines.
    """

    sender: Excerpt
    sender_address: Excerpt
    recipient: Excerpt
    address: tuple[Excerpt, ...]
    lines: tuple[Excerpt, ...]

    @property
    def pieces(self) -> list[Piece]:
        """All lines that are no heading of the page."""
        return [self.sender.piece, *(line.piece for line in self.lines)]


def find_window(view: View) -> Window | None:
    """Find the address window of the first page, or None."""
    for sheet in view.sheets[:1]:
        for row in sheet.rows[:_ROWS]:
            for piece in row:
                sender = _sender(piece)
                if sender is None:
                    continue
                lines = tuple(_recipient(view, sheet, piece))
                if len(lines) >= 3 and any(POSTCODE.search(line.text) for line in lines[1:]):
                    return _window(sender, lines)
        if (sender := _at_foot(sheet)) is not None and (lines := _at_head(view, sheet, sender[0])):
            return _window(sender, lines)
    return None


def _window(sender: tuple[Excerpt, Excerpt], lines: tuple[Excerpt, ...]) -> Window:
    address = tuple(line for line in lines[1:] if not _PERSON.match(line.text))
    return Window(*sender, lines[0], address or lines[1:], lines)


def _at_foot(sheet: Sheet) -> tuple[Excerpt, Excerpt] | None:
    """Name and address of a sender in the last lines of a page, with marks between them."""
    _, top, _, bottom = sheet.frame
    for row in sheet.rows[-_FOOT_ROWS:]:
        for piece in row:
            if piece.middle > top + 0.7 * (bottom - top) and _STRONG.search(piece.text):
                if (found := _sender(piece, parts=1)) is not None:
                    return found
    return None


def _at_head(view: View, sheet: Sheet, sender: Excerpt) -> tuple[Excerpt, ...]:
    """The first lines of a page that are a name and its address, where the sender stands at the foot."""
    _, top, _, bottom = sheet.frame
    for row in sheet.rows[:_ROWS]:
        for piece in row:
            if view.is_label(piece) or is_contact(piece.text) or piece.middle > top + 0.45 * (bottom - top):
                continue
            if POSTCODE.search(piece.text) or folded(piece.text) in folded(sender.text):
                continue
            lines = (Excerpt.whole(piece), *_recipient(view, sheet, piece))
            numbered = sum(any(map(str.isdigit, line.text)) for line in lines)
            if 3 <= len(lines) <= _LINES and numbered >= 2 and any(POSTCODE.search(line.text) for line in lines[1:]):
                return lines
    return ()


def sender_of(piece: Piece) -> Excerpt | None:
    """Return the name in a line that has name and address with marks between them."""
    found = _sender(piece)
    return found[0] if found is not None else None


def _sender(piece: Piece, parts: int = 2) -> tuple[Excerpt, Excerpt] | None:
    """Name and address of a line that has both, with marks between its parts, so many of them with numbers."""
    cuts = list(_PARTS.finditer(piece.text))
    if len(cuts) < 2 or any(character.isdigit() for character in piece.text[: cuts[0].start()]):
        return None
    rest = piece.text[cuts[0].end() :]
    name = Excerpt(piece, 0, cuts[0].start()).stripped(MARKS)
    address = Excerpt(piece, cuts[0].end(), len(piece.text)).stripped(MARKS)
    if name is None or address is None or sum(map(str.isalpha, name.text)) < 3:
        return None
    numbered = sum(any(map(str.isdigit, part)) for part in _PARTS.split(rest)) >= parts
    return (name, address) if numbered and POSTCODE.search(rest) else None


def addressee(view: View, seller: Sequence[Piece]) -> list[Candidate]:
    """Return whom a paper is for where no label says so: the one address in its upper half beside the seller's own.

    Args:
        seller: the lines of the seller's name.
    """
    return [Candidate(lines[0].text, lines[:1], 0.4) for lines in _addressed(view, seller)]


def address_of_addressee(view: View, seller: Sequence[Piece]) -> list[Candidate]:
    """Return where a paper is sent to, where no label says so: what follows the name that `addressee` gives."""
    return [Candidate(" ".join(line.text for line in lines[1:]), lines[1:], 0.4) for lines in _addressed(view, seller)]


def _addressed(view: View, seller: Sequence[Piece]) -> list[tuple[Excerpt, ...]]:
    """The lines of the one address, from the name on; at most one."""
    if not seller or not view.sheets:
        return []
    sheet = view.sheets[0]
    _, top, _, bottom = sheet.frame
    blocks = [
        block
        for column in columns_of(sheet)
        for block in _blocks(column, sheet.height)
        if 3 <= len(block) <= _LINES and block[0].middle < top + _UPPER * (bottom - top)
    ]
    placed = [
        block
        for block in blocks
        if any(POSTCODE.search(piece.text) and any(map(str.isalpha, piece.text)) for piece in block[1:])
        and not any(piece in seller or is_contact(piece.text) or view.dates(Excerpt.whole(piece)) for piece in block)
    ]
    if len(placed) != 1:
        return []
    named = [piece for piece in placed[0] if not _TITLE_ALONE.fullmatch(piece.text.strip())]
    name = Excerpt.whole(named[0])
    if any(len(word) > 3 and word[:1].islower() for word in name.text.split()) or view.in_table(named[0]):
        return []
    if any(map(str.isdigit, name.text)) or ":" in name.text or len(name.text.split()) < 2 or view.is_label(named[0]):
        return []
    return [tuple(map(Excerpt.whole, named))]


def _blocks(column: Sequence[Piece], height: float) -> Iterable[list[Piece]]:
    """Lines of a column that follow each other without a gap."""
    block: list[Piece] = []
    for piece in column:
        if block and piece.y0 - block[-1].y1 > _BLOCK_GAP * height:
            yield block
            block = []
        block.append(piece)
    if block:
        yield block


def _recipient(view: View, sheet: Sheet, sender: Piece) -> Iterable[Excerpt]:
    """Lines under the sender's, at its left edge, up to a gap."""
    last = sender
    for row in sheet.rows[sender.row + 1 :]:
        inside = [piece for piece in row if abs(piece.x0 - sender.x0) < 1.5 * sheet.height]
        if not inside:
            continue
        if is_contact(inside[0].text):
            return
        gap = (inside[0].y0 - last.y1) / sheet.height
        if gap > (4.0 if last is sender else 1.2) or view.is_label(inside[0]) or view.dates(Excerpt.whole(inside[0])):
            return
        last = inside[0]
        yield Excerpt.whole(last)
        if last.row - sender.row >= 2 * _LINES:
            return
