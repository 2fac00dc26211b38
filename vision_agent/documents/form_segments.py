"""Words of a form cut into pieces that belong together, finer than the white between them says.

On forms a label and what was typed after it may stand as near as two words of a name. So each gap between neighbours of
a row is judged by its width, what stands on both sides, and whether other rows have something beginning there, too.
"""

import re
import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from vision_agent.documents.sheet import Piece, Sheet, Token
from vision_agent.documents.text_match import folded
from vision_agent.documents.tree_ensemble import Floats

Features = dict[str, float]

_LEADERS = re.compile(r"_{2,}|\.{3,}|…")
_NEAR_ROWS = 8
_AMOUNT = re.compile(r"[-+(]?[$€£]?\s*\d[\d ,.]*\d?\s*[%)]?")
_DATE = re.compile(r"\d{1,2}\s*[/.-]\s*\d{1,2}\s*[/.-]\s*\d{2,4}|(19|20)\d\d")
_MONTH = re.compile(r"\b(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\b", re.IGNORECASE)
_INITIALS = re.compile(r"\b(?:[A-Z]\s?\.\s*){1,3}[A-Z][A-Za-z]+")
_NUMBERED = re.compile(r"#|\b(no|nr|number)\b", re.IGNORECASE)
_RUNNING = frozenset(
    "the of and to in for is be by with that this are on as at from it will has have was were which or".split()
)


def token_rows(sheet: Sheet) -> list[list[Token]]:
    """Return the words of each row from left to right."""
    rows = ([token for piece in row for token in piece.tokens] for row in sheet.rows)
    return [sorted(row, key=lambda token: token.x0) for row in rows if row]


def text_features(text: str, prefix: str, lexicon: Mapping[str, float]) -> Features:
    """Return what a text looks like, as features whose names begin with `prefix`."""
    letters = [character for character in text if character.isalpha()]
    size = max(1, len(text))
    words = text.split()
    known = [lexicon.get(folded(word), 0.0) for word in words] or [0.0]
    return {
        f"{prefix} letters": float(len(text)),
        f"{prefix} words": float(len(words)),
        f"{prefix} share of digits": sum(map(str.isdigit, text)) / size,
        f"{prefix} share of marks": sum(not each.isalnum() and not each.isspace() for each in text) / size,
        f"{prefix} share of capitals": sum(map(str.isupper, letters)) / max(1, len(letters)),
        f"{prefix} begins large": float(text[:1].isupper()),
        f"{prefix} begins small": float(text[:1].islower()),
        f"{prefix} ends in colon": float(text.rstrip(" _.").endswith((":", "\uff1a"))),
        f"{prefix} has colon": float(":" in text or "\uff1a" in text),
        f"{prefix} ends in stop": float(text.endswith((".", ";", "?", "!"))),
        f"{prefix} ends in comma": float(text.endswith((",", "-", "&"))),
        f"{prefix} has leaders": float(bool(_LEADERS.search(text))),
        f"{prefix} has brackets": float("(" in text or ")" in text),
        f"{prefix} is amount": float(bool(_AMOUNT.fullmatch(text.strip()))),
        f"{prefix} has date": float(bool(_DATE.search(text))) + float(bool(_MONTH.search(text))),
        f"{prefix} has initials": float(bool(_INITIALS.search(text))),
        f"{prefix} has number's sign": float(bool(_NUMBERED.search(text))),
        f"{prefix} running words": sum(word.lower() in _RUNNING for word in words) / max(1, len(words)),
        f"{prefix} large words": sum(word[:1].isupper() for word in words) / max(1, len(words)),
        f"{prefix} label words": sum(known) / len(known),
        f"{prefix} first label word": known[0],
        f"{prefix} last label word": known[-1],
    }


def gap_features(rows: Sequence[Sequence[Token]], height: float, lexicon: Mapping[str, float]) -> list[Features]:
    """Return features of each gap between neighbours, row by row.

    Args:
        rows: words from left to right.
        height: the usual height of text, pixels.
        lexicon: how much a word speaks for a label.
    """
    gaps = [(right.x0 - left.x1) / height for row in rows for left, right in pairwise(row)]
    usual = statistics.median(gap for gap in gaps if gap < 1.5) if any(gap < 1.5 for gap in gaps) else 0.4
    begins = [
        [
            token.x0
            for before, token in zip([None, *row], row, strict=False)
            if before is None or token.x0 - before.x1 > height
        ]
        for row in rows
    ]
    found = []
    for number, row in enumerate(rows):
        near = [
            at
            for other in range(max(0, number - _NEAR_ROWS), min(len(rows), number + _NEAR_ROWS + 1))
            if other != number
            for at in begins[other]
        ]
        row_gaps = [(right.x0 - left.x1) / height for left, right in pairwise(row)]
        colons = [index for index, token in enumerate(row) if token.word.text.endswith((":", "\uff1a"))]
        for index, gap in enumerate(row_gaps):
            left, right = row[index], row[index + 1]
            start = max((at + 1 for at in range(index) if row_gaps[at] > 1.3), default=0)
            rows_apart = sum(not _crossed(rows, number + step, left.x1, right.x0) for step in (-2, -1, 1, 2))
            found.append(
                {
                    "gap": gap,
                    "gap by usual": gap / max(0.1, usual),
                    "gap by widest": gap / max(0.1, *row_gaps),
                    "gap by narrowest": gap / max(0.1, min(row_gaps)),
                    "gap before": row_gaps[index - 1] if index else 9.0,
                    "gap after": row_gaps[index + 1] if index + 1 < len(row_gaps) else 9.0,
                    "heights": right.height / max(1.0, left.height),
                    "shift": abs((right.y0 + right.y1) - (left.y0 + left.y1)) / (2 * height),
                    "begins alike": float(sum(abs(at - right.x0) < 0.5 * height for at in near)),
                    "rows with white here": float(rows_apart),
                    "words since wide gap": float(index + 1 - start),
                    "words since colon": float(min((index - at for at in colons if at <= index), default=20)),
                    "words to colon": float(min((at - index for at in colons if at > index), default=20)),
                    **text_features(left.word.text, "left", lexicon),
                    **text_features(right.word.text, "right", lexicon),
                }
            )
    return found


def _crossed(rows: Sequence[Sequence[Token]], number: int, x0: float, x1: float) -> bool:
    """Whether a row has text at some place across."""
    if not 0 <= number < len(rows):
        return False
    middle = (x0 + x1) / 2
    return any(token.x0 < middle < token.x1 for token in rows[number])


def cut(rows: Sequence[Sequence[Token]], joined: Sequence[bool], page: int) -> list[Piece]:
    """Return pieces of rows that are cut at the gaps which do not join.

    Args:
        rows: words from left to right.
        joined: for each gap, row by row.
        page: number of the page.
    """
    pieces = []
    gaps = iter(joined)
    for number, row in enumerate(rows):
        part = [row[0]]
        for token in row[1:]:
            if not next(gaps):
                pieces.append(Piece(page, number, tuple(part)))
                part = []
            part.append(token)
        pieces.append(Piece(page, number, tuple(part)))
    return pieces


def matrix(found: Sequence[Features], names: Sequence[str]) -> Floats:
    """Return features as rows of numbers in the order of their names."""
    return np.array([[each[name] for name in names] for each in found], dtype=np.float64).reshape(-1, len(names))
