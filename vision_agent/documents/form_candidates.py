"""Pairs of a form by several ways of cutting it, and what speaks for each.

Whether two words or two lines are one text is often close; so a page is cut in several ways, each gives its pairs, and
what all of them say together tells which pairs are right.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from vision_agent.documents.form_links import Group
from vision_agent.documents.form_segments import Features
from vision_agent.documents.sheet import Piece, Token

Words = frozenset[int]
"""Which words a text is made of: their ids."""


@dataclass(frozen=True)
class Way:
    """A page cut in one way.

    Attributes:
        groups: its texts.
        pairs: indexes of labels and texts that were looked at.
        looks: features of each pair.
        chances: of each pair.
    """

    groups: Sequence[Group]
    pairs: Sequence[tuple[int, int]]
    looks: Sequence[Features]
    chances: Sequence[float]


@dataclass
class Candidate:
    """A pair that at least one way has.

    Attributes:
        label, text: as the surest way has them.
        looks: features of the pair in that way.
        chances: in each way that has it.
        label_words, text_words: what they are made of.
    """

    label: Group
    text: Group
    looks: Features
    label_words: Words
    text_words: Words
    chances: list[float] = field(default_factory=list)

    @property
    def best(self) -> float:
        return max(self.chances)


@dataclass(frozen=True)
class Joins:
    """How likely neighbours are one text.

    Attributes:
        after, before: chance that a word goes on in the next one of its row, that it goes on from the one before.
        below, above: chance that a line goes on below, that it goes on from the one above, by its first word.
    """

    after: Mapping[int, float]
    before: Mapping[int, float]
    below: Mapping[int, float]
    above: Mapping[int, float]


def word_joins(rows: Sequence[Sequence[Token]], chances: Sequence[float]) -> tuple[dict[int, float], dict[int, float]]:
    """Return the chances of gaps by the word before and the word after them."""
    after: dict[int, float] = {}
    before: dict[int, float] = {}
    said = iter(chances)
    for row in rows:
        for left, right in pairwise(row):
            chance = next(said)
            after[id(left.word)] = before[id(right.word)] = chance
    return after, before


def line_joins(
    pieces: Sequence[Piece], pairs: Sequence[tuple[int, int]], chances: Sequence[float]
) -> tuple[dict[int, float], dict[int, float]]:
    """Return the likeliest chances of lines by the first word of the upper one and of the lower one."""
    below: dict[int, float] = {}
    above: dict[int, float] = {}
    for (upper, lower), chance in zip(pairs, chances, strict=True):
        one, other = id(pieces[upper].tokens[0].word), id(pieces[lower].tokens[0].word)
        below[one] = max(below.get(one, 0.0), chance)
        above[other] = max(above.get(other, 0.0), chance)
    return below, above


def words_of(group: Group) -> Words:
    """Return the ids of a text's words."""
    return frozenset(id(token.word) for line in group.lines for token in line.tokens)


def candidates_of(ways: Sequence[Way], least: float) -> list[Candidate]:
    """Return the pairs of all ways, each once, as far as one of them gives it a chance of at least `least`."""
    found: dict[tuple[Words, Words], Candidate] = {}
    for way in ways:
        words = [words_of(group) for group in way.groups]
        for (label, text), looks, chance in zip(way.pairs, way.looks, way.chances, strict=True):
            key = words[label], words[text]
            known = found.get(key)
            if known is None:
                known = found[key] = Candidate(way.groups[label], way.groups[text], looks, *key)
            elif chance > known.best:
                known.label, known.text, known.looks = way.groups[label], way.groups[text], looks
            known.chances.append(chance)
    return [each for each in found.values() if each.best >= least]


def candidate_features(candidates: Sequence[Candidate], ways: Sequence[Way], joins: Joins) -> list[Features]:
    """Return features of each pair: of the pair itself, of how whole its texts are, and of its rivals."""
    groups: dict[Words, int] = {}
    for way in ways:
        for group in way.groups:
            key = words_of(group)
            groups[key] = groups.get(key, 0) + 1
    of_word: dict[int, list[Candidate]] = {}
    for each in candidates:
        for word in each.text_words:
            of_word.setdefault(word, []).append(each)
    of_label: dict[Words, list[Candidate]] = {}
    for each in candidates:
        of_label.setdefault(each.label_words, []).append(each)
    count = len(ways)
    found = []
    for each in candidates:
        rivals = {id(other): other for word in each.text_words for other in of_word[word] if other is not each}
        same_text = [other.best for other in rivals.values() if other.text_words == each.text_words]
        other_text = [other.best for other in rivals.values() if other.text_words != each.text_words]
        same_pair_cut = [
            other.best
            for other in rivals.values()
            if other.text_words != each.text_words and other.label_words & each.label_words
        ]
        siblings = [other.best for other in of_label[each.label_words] if other is not each]
        found.append(
            {
                **each.looks,
                "chance": each.best,
                "mean chance": sum(each.chances) / count,
                "least chance": min(each.chances),
                "ways": len(each.chances) / count,
                "ways of label": groups[each.label_words] / count,
                "ways of text": groups[each.text_words] / count,
                **_wholeness(each.label, "label", joins),
                **_wholeness(each.text, "text", joins),
                "rival labels": max(same_text, default=0.0),
                "rival labels in all": sum(same_text),
                "rival cuts": max(other_text, default=0.0),
                "rival cuts of the pair": max(same_pair_cut, default=0.0),
                "texts of label": sum(siblings),
                "surest text of label": max(siblings, default=0.0),
            }
        )
    return found


def _wholeness(group: Group, name: str, joins: Joins) -> Features:
    """How surely a text's words and lines are one, and how surely it ends where it ends."""
    inner, outer = [1.0], [0.0]
    for line in group.lines:
        words = [id(token.word) for token in line.tokens]
        inner += [joins.after.get(word, 0.0) for word in words[:-1]]
        outer += [joins.after.get(words[-1], 0.0), joins.before.get(words[0], 0.0)]
    first, last = (id(line.tokens[0].word) for line in (group.lines[0], group.lines[-1]))
    lines = [joins.below.get(id(line.tokens[0].word), 0.0) for line in group.lines[:-1]]
    return {
        f"{name}'s weakest gap": min(inner),
        f"{name}'s open gap": max(outer),
        f"{name}'s weakest line": min(lines, default=1.0),
        f"{name} goes on below": joins.below.get(last, 0.0),
        f"{name} goes on above": joins.above.get(first, 0.0),
    }


def settled(candidates: Sequence[Candidate], chances: Sequence[float], least: float) -> list[tuple[Candidate, float]]:
    """Return the pairs that hold, likeliest first: no word is in two labels or two texts that differ, or in both."""
    cut: dict[int, tuple[str, Words]] = {}
    kept = []
    for chance, each in sorted(zip(chances, candidates, strict=True), key=lambda pair: -pair[0]):
        if chance < least:
            break
        mine = [(word, ("label", each.label_words)) for word in each.label_words]
        mine += [(word, ("text", each.text_words)) for word in each.text_words]
        if all(cut.get(word, what)[1] == what[1] for word, what in mine):
            cut.update(mine)
            kept.append((each, chance))
    return kept
