"""Blocks of lines under a label: "Bill to", and the name and address that follow it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from vision_agent.documents.sheet import MARKS, Excerpt, Piece, Sheet
from vision_agent.documents.text_match import words_of
from vision_agent.extract.rules.candidates import Candidate, regions_of
from vision_agent.extract.rules.labels import Label
from vision_agent.extract.rules.parties import is_contact, line_score
from vision_agent.extract.rules.view import View

_LINES = 7
_EXPLAINS = re.compile(r"\(.*\)")  # a line in brackets under a label is not the name
_NUMBERS = ("tax id", "registration number", "customer number")
# "Merchant Number" asks for something of the merchant, and names nobody.
_OF_IT = frozenset("number no nr id code name reference ref copy signature phone".split())


@dataclass(frozen=True)
class Block:
    """Lines that belong to one label.

    Attributes:
        label: what they are.
        lines: in order; the first may follow the label on its own row.
        score: log-odds of the place.
    """

    label: Label
    lines: tuple[Excerpt, ...]
    score: float


def blocks_of(view: View, label: Label) -> list[Block]:
    """Return the blocks a label may stand for: one for each place where its value may begin."""
    blocks = []
    for region in regions_of(view, label):
        first = region.excerpt
        sheet = view.sheet(first.piece)
        left = first.x0 if region.relation == "inline" else first.piece.x0
        lines = [first]
        for piece in _following(sheet, first.piece, left):
            if view.is_label(piece) or len(lines) == _LINES:
                break
            lines.append(Excerpt.whole(piece))
        blocks.append(Block(label, tuple(lines), region.score))
    return blocks


def _following(sheet: Sheet, piece: Piece, left: float) -> list[Piece]:
    """Pieces that follow under a place, row by row, at the same left edge and without a wide gap."""
    chain, last = [], piece
    for row in sheet.rows[piece.row + 1 : piece.row + 1 + _LINES]:
        inside = [other for other in row if abs(other.x0 - left) < 2.0 * sheet.height or other.x0 <= left < other.x1]
        if not inside or inside[0].y0 - last.y1 > 1.5 * sheet.height:
            break
        last = inside[0]
        chain.append(last)
    return chain


def names(view: View, labels: Sequence[Label]) -> list[Candidate]:
    """Return the first lines of labelled blocks."""
    found = []
    for label in labels:
        for block in blocks_of(view, label):
            lines = [
                line
                for line in block.lines[:2]
                if not _EXPLAINS.fullmatch(line.text.strip()) and not _states_number(view, line)
            ]
            place = (lines or block.lines)[0].stripped(MARKS)
            wordy = place is not None and sum(character.isalpha() for character in place.text) >= 2
            if place is not None and wordy and not is_contact(place.text) and not _OF_IT >= set(words_of(place.text)):
                score = block.score - (
                    2.0 if view.dates(place) or (view.numbers(place) and len(place.text) < 8) else 0.0
                )
                score -= 1.0 if line_score(view, place.piece) < -1.5 else 0.0
                found.append(Candidate(place.text, (place,), score, label))
    return sorted(found, key=lambda candidate: -candidate.score)


def _states_number(view: View, line: Excerpt) -> bool:
    """Whether a line under a label is a number of the party's, such as "IČO 27074358" in the row of "Odběratel:"."""
    return any(character.isdigit() for character in line.text) and any(
        label.concept in _NUMBERS and label.likeness == 1 and line.start <= label.excerpt.start <= line.start + 1
        for label in view.labels_in(line.piece)
    )


def addresses_under(view: View, labels: Sequence[Label], *, named: bool) -> list[Candidate]:
    """Return addresses in labelled blocks.

    Args:
        named: the block begins with a name ("Bill to"), not with the address itself ("Address").
    """
    found = []
    for label in labels:
        for block in blocks_of(view, label):
            lines = list(block.lines)
            if named and (len(lines) < 2 or line_score(view, lines[0].piece) < 0.9):
                lines = lines[1:]
            kept: list[Excerpt] = []
            total = 0.0
            for line in lines:
                worth = line_score(view, line.piece)
                if (kept and worth < -1.5) or (not kept and worth < -2.5 and line.piece is not label.piece):
                    break
                kept.append(line)
                total += max(-0.3, worth)
            if kept:
                text = " ".join(line.text for line in kept)
                found.append(
                    Candidate(
                        text, tuple(kept), block.score + min(1.5, 0.5 * total) - (0.0 if total > 0 else 0.8), label
                    )
                )
    return sorted(found, key=lambda candidate: -candidate.score)
