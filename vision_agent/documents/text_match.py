"""Text as it is compared: without case, accents, punctuation and spaces, and tolerant of a scanner's slips.

Scanned labels lose their spaces ("TotalAmount") and letters ("T0TAL"). So comparison runs over letters and digits only,
remembers which character each came from, and allows one edit in five.
"""

import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from rapidfuzz.distance import Levenshtein

_SPECIAL = {"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "\u0131": "i", "№": "no"}
LETTERS_PER_EDIT = 5


@dataclass(frozen=True)
class Folded:
    """A text made comparable.

    Attributes:
        text: lower-case letters and digits.
        origin: for each of them the index of its character in the original.
        begins: for each of them, whether a word may begin there.
    """

    text: str
    origin: tuple[int, ...]
    begins: tuple[bool, ...]

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return the original's characters for `text[start:end]`, end excluded."""
        return self.origin[start], self.origin[end - 1] + 1

    def ends_at(self, end: int) -> bool:
        """Return whether a word may end before `text[end]`."""
        return end == len(self.text) or self.begins[end]


@lru_cache(maxsize=20_000)
def fold(text: str) -> Folded:
    """Make a text comparable. A word may begin after anything but a letter of its own kind: "TotalAmount", "RM60"."""
    letters: list[str] = []
    origin: list[int] = []
    begins: list[bool] = []
    before = ""
    for index, character in enumerate(text):
        plain = _SPECIAL.get(character.lower()) or "".join(
            part for part in unicodedata.normalize("NFKD", character.casefold()) if part.isalnum()
        )
        start = (
            not before.isalnum()
            or before.isdigit() != character.isdigit()
            or (before.islower() and character.isupper())
        )
        for part in plain:
            letters.append(part)
            origin.append(index)
            begins.append(start)
            start = False
        if character.isalnum() or not unicodedata.combining(character):
            before = character
    return Folded("".join(letters), tuple(origin), tuple(begins))


def folded(text: str) -> str:
    """Return only the letters and digits, without case and accents."""
    return fold(text).text


def words_of(text: str) -> tuple[str, ...]:
    """Return the folded words of a text or of a name: `invoice_dueDate` -> invoice, due, date."""
    shape = fold(text)
    starts = [index for index, begins in enumerate(shape.begins) if begins]
    return tuple(shape.text[a:b] for a, b in pairwise([*starts, len(shape.text)]))


@lru_cache(maxsize=20_000)
def pairs(text: str) -> frozenset[str]:
    """Return neighbouring letters; two texts that share few are far apart."""
    return frozenset(text[index : index + 2] for index in range(len(text) - 1))


def find_folded(needle: str, shape: Folded, *, fuzzy: bool = True) -> list[tuple[int, int, float]]:
    """Find whole words of a folded text that read like `needle`: (start, end, likeness 0-1] in folded letters."""
    text, found, start = shape.text, [], 0
    if not needle:
        return []
    while (start := text.find(needle, start)) >= 0:
        end = start + len(needle)
        if shape.begins[start] and shape.ends_at(end):
            found.append((start, end, 1.0))
        start += 1
    if found or not fuzzy or (allowed := len(needle) // LETTERS_PER_EDIT) == 0:
        return found
    for start, begins in enumerate(shape.begins):
        if begins and (best := _prefix_edits(needle, text[start : start + len(needle) + allowed], allowed)):
            end, edits = best
            if shape.ends_at(start + end):
                found.append((start, start + end, 1.0 - edits / len(needle)))
    return found


def _prefix_edits(needle: str, text: str, allowed: int) -> tuple[int, int] | None:
    """The prefix of `text` nearest to `needle` by edits: (its length, edits); None where all need too many."""
    best: tuple[int, int] | None = None
    for end in range(max(1, len(needle) - allowed), min(len(text), len(needle) + allowed) + 1):
        edits = Levenshtein.distance(needle, text[:end], score_cutoff=allowed)
        if edits <= allowed and (
            best is None or (edits, abs(end - len(needle))) < (best[1], abs(best[0] - len(needle)))
        ):
            best = end, edits
    return best


def likeness(first: str, second: str) -> float:
    """Return 1 minus edits per letter of the longer of two folded texts."""
    return float(Levenshtein.normalized_similarity(first, second))
