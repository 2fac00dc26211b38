"""Labels on a page: where it prints the names of values, and how surely each is the name of which."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from vision_agent.documents.sheet import Excerpt, Piece, Sheet
from vision_agent.documents.text_match import LETTERS_PER_EDIT, find_folded, folded, pairs, words_of
from vision_agent.extract.lexicon import Concept
from vision_agent.extract.values.currencies import find_currencies

# What ends a label: a colon or the like, or a number.
_END = re.compile(r"[:;|=#]|\d")
_SMALL = frozenset(
    "the of in inc incl inclusive and to for a an der die das de du la le les el los del di da al rm no".split()
)
_EXPLAINS = re.compile(
    r"\b(?:including|inclusive(?: of)?|incl|inc\b|inkl(?:usive)?|ttc|enth|iva incl|after|with\b|round)", re.IGNORECASE
)
_EXCLUDES = re.compile(
    r"\b(?:excluding|exclusive(?: of)?|excl|before|without|exkl|ohne|zzgl|hors|sin|escl|ht)\b", re.IGNORECASE
)
_OPPOSITE = (("excl", "incl"), ("exc", "inc"), ("exkl", "inkl"), ("without", "with"))  # a slip turns one into the other
_RIVAL = 0.25  # what is left of a label that is a part of another one


@dataclass(frozen=True)
class Label:
    """A name printed on a page.

    Attributes:
        concept: name of the concept it is a label of.
        excerpt: the label's characters.
        likeness: how exactly it is written, 0-1.
        lead: the share of its own letters in all letters from the label's beginning to its own end.
        whole: the same to the next colon, number or end of the piece.
    """

    concept: str
    excerpt: Excerpt
    likeness: float
    lead: float
    whole: float

    @property
    def piece(self) -> Piece:
        return self.excerpt.piece


def find_labels(sheets: Sequence[Sheet], concepts: Sequence[Concept]) -> dict[str, list[Label]]:
    """Find all labels by concept. Labels inside a longer label of another concept count for little."""
    index = _index(tuple(concepts))
    found: dict[str, list[Label]] = {concept.name: [] for concept in concepts}
    for sheet in sheets:
        for piece in sheet.pieces:
            for label in _ranked(_in_piece(piece, index)):
                found[label.concept].append(label)
    return found


def explains(between: str, label: str) -> bool:
    """Return whether a label behind another one explains it: "Total incl." "VAT", "Gesamt" "inkl. MwSt"."""
    word = between.strip(" (.-")
    if not word:
        return any(each.match(label) for each in (_EXPLAINS, _EXCLUDES))
    return any((match := each.match(word)) and match.end() == len(word) for each in (_EXPLAINS, _EXCLUDES))


class _Index:
    """Finds the labels that share enough pairs of letters with a text to be in it, also with a slip or two."""

    def __init__(self, concepts: Sequence[Concept]) -> None:
        texts = {(c.name, text) for c in concepts for text in map(folded, c.labels) if len(text) > 1}
        self._texts = sorted(texts)
        # An edit breaks two pairs at most.
        self._needed = [len(pairs(text)) - 2 * (len(text) // LETTERS_PER_EDIT) for _, text in self._texts]
        self._by_pair: dict[str, list[int]] = {}
        self.words = _words(concepts)
        # Names of a caller's fields are here without the spaces between their words.
        self._most_words: dict[str, int] = {}
        for concept in concepts:
            for label in concept.labels if not concept.name.startswith(".") else ():
                own = len(label.split())
                self._most_words[folded(label)] = max(own, self._most_words.get(folded(label), 0))
        for number, (_, text) in enumerate(self._texts):
            for pair in pairs(text):
                self._by_pair.setdefault(pair, []).append(number)

    def torn(self, piece: Piece, start: int, end: int, text: str) -> bool:
        """Whether a slip would have to join words that a clean page has apart: "98 F Weight" is no "freight"."""
        first, last = piece.shape.span(start, end)
        return piece.score == 1 and len(piece.text[first:last].split()) > self._most_words.get(text, len(text))

    def near(self, piece: Piece) -> list[tuple[str, str]]:
        """Return (concept, label) of all that may be in the piece."""
        shared = Counter(number for pair in pairs(piece.shape.text) for number in self._by_pair.get(pair, ()))
        return [self._texts[number] for number, count in shared.items() if count >= self._needed[number]]


@lru_cache(maxsize=8)
def _index(concepts: tuple[Concept, ...]) -> _Index:
    return _Index(concepts)


def _words(concepts: Sequence[Concept]) -> dict[str, frozenset[str]]:
    """For each concept the words of its labels that no other concept has as a label: "payable" in "Total Payable"."""
    own = {concept.name: {folded(label) for label in concept.labels} for concept in concepts}
    return {
        concept.name: frozenset(
            word
            for label in concept.labels
            for word in words_of(label)
            if not any(word in labels for name, labels in own.items() if name != concept.name)
        )
        for concept in concepts
    }


def _in_piece(piece: Piece, index: _Index) -> list[Label]:
    best: dict[tuple[str, int], Label] = {}
    if not any(character.isalpha() for character in piece.text):
        return []
    for concept, text in index.near(piece):
        for start, end, likeness in find_folded(text, piece.shape):
            if likeness < 1 and (_opposite(text, piece.shape.text[start:end]) or index.torn(piece, start, end, text)):
                continue
            label = _label(concept, piece, start, end, likeness, index.words[concept])
            key = (concept, start)
            if key not in best or _worth(label) > _worth(best[key]):
                best[key] = label
    return list(best.values())


def _opposite(first: str, second: str) -> bool:
    """Whether two texts that are much alike say the contrary of each other."""
    return any(
        (out in first) != (out in second) and (within in first) != (within in second) for out, within in _OPPOSITE
    )


def _worth(label: Label) -> tuple[float, int]:
    return label.likeness * (label.lead + label.whole), label.excerpt.end


def _label(concept: str, piece: Piece, first: int, last: int, likeness: float, words: frozenset[str]) -> Label:
    start, end = piece.shape.span(first, last)
    weight = 1.0
    before = re.split(_END, piece.text[:start])[-1]
    after = re.split(_END, piece.text[end:])[0]
    # What stands in brackets explains: "Total (incl. GST)".
    if before.rstrip().endswith("(") and _letters(before, words):
        weight = 0.6
    after = _EXPLAINS.split(re.sub(r"\([^)]*\)?", "", after))[0]
    rest = piece.text[end:]
    if _EXCLUDES.search(rest) and not _EXCLUDES.search(piece.text[start:end]):
        weight *= 0.5
    if re.match(r"[-/_][^\W_]", rest) or (end - start < 5 and rest[:1].isdigit()):
        weight *= 0.3  # the beginning of a code: INV-10045
    own, led = last - first, _letters(before, words)
    whole = own / (own + led + _letters(after, words))
    return Label(concept, Excerpt(piece, start, end), likeness * weight, own / (own + led), whole)


def _letters(text: str, own: frozenset[str]) -> int:
    """Letters of the words that matter and are none of the concept's own."""
    for _, start, end in reversed(find_currencies(text)):
        text = text[:start] + " " + text[end:]
    words = (folded(word) for word in re.findall(r"[^\W\d_]+", text))
    return sum(len(word) for word in words if word not in _SMALL and word not in own)


def _ranked(labels: Sequence[Label]) -> list[Label]:
    """Mark down labels that lie inside of another concept's longer label."""
    ranked = []
    for label in labels:
        own = label.excerpt
        rivals = [
            other
            for other in labels
            if other.concept != label.concept
            and other.excerpt.start <= own.start
            and own.end <= other.excerpt.end
            and len(other.excerpt.text) * other.likeness > len(own.text) * label.likeness
        ]
        if rivals:
            label = replace(label, likeness=label.likeness * _RIVAL)
        ranked.append(label)
    return ranked
