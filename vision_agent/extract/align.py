"""Texts that a model wrote, found again in the words of a page. What is not found there was not read there."""

from dataclasses import dataclass

from vision_agent.documents.sheet import Excerpt, Piece
from vision_agent.documents.text_match import fold, folded, likeness
from vision_agent.extract.rules.parties import columns_of
from vision_agent.extract.rules.view import View
from vision_agent.extract.values.amounts import find_numbers

_LEAST = 0.8  # share of letters that must agree
_LONGEST = 400  # letters that are compared


@dataclass(frozen=True)
class Aligned:
    """Where a text stands.

    Attributes:
        excerpts: its parts, one a line.
        likeness: share of letters that agree, 0-1.
    """

    excerpts: tuple[Excerpt, ...]
    likeness: float


def align(view: View, text: str, near: Excerpt | None = None) -> Aligned | None:
    """Find the place that reads most like a text, over line ends too; None where none reads like it.

    Args:
        near: of equally good places the one nearest to this is taken, without it the first.
    """
    wanted = folded(text)[:_LONGEST]
    if not wanted:
        return None
    best: tuple[float, float, Aligned] | None = None
    for run in _runs(view):
        letters = "".join(piece.shape.text for piece in run)
        for start, end, like in _places(wanted, letters):
            excerpts = _excerpts(run, start, end)
            if not _same_numbers(view, text, " ".join(excerpt.text for excerpt in excerpts)):
                continue
            # Whole words are a better place than parts of some.
            edges = _on_edges(run, start) + _on_edges(run, end)
            key = (round(like, 3) + 0.02 * edges, -_away(excerpts[0], near))
            if best is None or key > best[:2]:
                best = (*key, Aligned(excerpts, like))
    return best[2] if best is not None else None


def _runs(view: View) -> list[list[Piece]]:
    """Pieces in the orders in which a text may continue: along the rows, and down the columns."""
    runs = []
    for sheet in view.sheets:
        runs.append(list(sheet.pieces))
        runs += [column for column in columns_of(sheet) if len(column) > 1]
    return runs


def _places(wanted: str, letters: str) -> list[tuple[int, int, float]]:
    """Exact places; without one, the best inexact one around places that share a run of letters."""
    found, start = [], letters.find(wanted)
    while start >= 0:
        found.append((start, start + len(wanted), 1.0))
        start = letters.find(wanted, start + 1)
    if found or len(wanted) < 5:
        return found
    size = max(3, min(6, len(wanted) // 3))
    starts = set()
    for offset in range(0, len(wanted) - size + 1, max(1, size // 2)):
        at = letters.find(wanted[offset : offset + size])
        while at >= 0:
            starts.add(max(0, at - offset))
            at = letters.find(wanted[offset : offset + size], at + 1)
    scored = [
        (likeness(wanted, letters[at : at + len(wanted) + more]), at, min(len(letters), at + len(wanted) + more))
        for at in sorted(starts)[:40]
        for more in (0, -1, 1)
    ]
    like, at, end = max(scored, default=(0.0, 0, 0))
    return [(at, end, like)] if like >= _LEAST else []


def _excerpts(run: list[Piece], start: int, end: int) -> tuple[Excerpt, ...]:
    excerpts, at = [], 0
    for piece in run:
        size = len(piece.shape.text)
        first, last = max(start, at), min(end, at + size)
        if first < last:
            excerpts.append(Excerpt(piece, *piece.shape.span(first - at, last - at)))
        at += size
    return tuple(excerpts)


def _on_edges(run: list[Piece], position: int) -> int:
    """1 where a word begins or ends at a letter of the run."""
    for piece in run:
        if position <= len(piece.shape.text):
            return int(position == 0 or piece.shape.ends_at(position))
        position -= len(piece.shape.text)
    return 1


def _same_numbers(view: View, first: str, second: str) -> bool:
    """Letters and digits may agree where marks do not: 1.00 is not 100."""
    one = [number.value for number in find_numbers(first, view.mark)]
    other = [number.value for number in find_numbers(second, view.mark)]
    return len(one) != 1 or len(other) != 1 or one == other or not _plain(first)


def _plain(text: str) -> bool:
    """A text that is a number and hardly more."""
    return sum(character.isalpha() for character in fold(text).text) <= 3


def _away(excerpt: Excerpt, near: Excerpt | None) -> float:
    if near is None:
        return excerpt.piece.page * 1e6 + excerpt.piece.middle
    pages = abs(excerpt.piece.page - near.piece.page) * 1e6
    return pages + abs(excerpt.piece.middle - near.piece.middle)
