"""The words that a small route was taught: which words of a phrase it does not know, and whether to look for it at all.

A decoder that compares a phrase with regions gives a box to "asdfgh", too: something is always the most like it. A big
model knows what is no word; a small one has to be told what it was taught. The list is data of the adapter
(`adapter.json`, written by `vision-agent known-words`); adapters without one look for every phrase.

One rule compares words: case does not matter, nor does whether the parts of a name are written apart, with hyphens or
together, nor a possessive ending, nor whether it is singular or plural.
"""

import re
from collections.abc import Iterable, Sequence
from functools import cached_property

from pydantic import BaseModel, ConfigDict

_WORD = re.compile(r"\w+(?:['\u2019]\w+)?")
_GRAY = re.compile(r"\bgray\b", re.IGNORECASE)
_POSSESSIVE = re.compile(r"['\u2019]s?$")
# What follows these tells where or with what the thing is that is looked for: "a cup on the table" is no table.
_BEHIND_THE_HEAD = frozenset(
    "with without of in on at by for from to into onto off beside behind beneath underneath near next close atop "
    "within above below over under between among around across through along against inside outside that who which "
    "whose where wearing holding carrying riding sitting standing lying".split()
)
_IRREGULAR = {
    "people": "person",
    "children": "child",
    "mice": "mouse",
    "geese": "goose",
    "feet": "foot",
    "teeth": "tooth",
    "oxen": "ox",
    "dice": "die",
}


class KnownWords(BaseModel):
    """The words that a route knows.

    Attributes:
        names: of objects, of one or several words.
        modifiers: words around names: articles, colours, numbers, places, what things look like.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: tuple[str, ...]
    modifiers: tuple[str, ...] = ()

    def unknown(self, phrase: str) -> tuple[str, ...]:
        """Return the phrase's words that are not known, lower case, each once, in their order."""
        return self._read(phrase)[0]

    def finds(self, phrase: str) -> bool:
        """Return whether the phrase can be looked for: it names something known, or no word of it is unknown.

        What it names comes first: in "asdfgh next to a dog" only what the asdfgh is near is known.
        """
        unknown, named = self._read(phrase)
        if not unknown or not named:
            return not unknown
        words = split_words(phrase)
        behind = (place for place, word in enumerate(words) if place and word in _BEHIND_THE_HEAD)
        unknown, named = self._read(" ".join(words[: next(behind, len(words))]))
        return named or not unknown

    def names_one(self, phrase: str) -> bool:
        """Return whether the phrase names something known, and no word of it is unknown."""
        unknown, named = self._read(phrase)
        return named and not unknown

    def as_taught(self, phrase: str) -> str:
        """Return the phrase as names and colours were taught: in the singular, and gray as grey."""
        if "grey" in self._modifiers:
            phrase = _GRAY.sub("grey", phrase)
        return self.in_singular(phrase)

    def in_singular(self, phrase: str) -> str:
        """Return the phrase with the thing it names in the singular, "red dogs" as "red dog", where that is known.

        Names that are plurals themselves, such as "scissors", stay.
        """
        words = list(_WORD.finditer(phrase))
        behind = (place for place, word in enumerate(words) if place and word[0].casefold() in _BEHIND_THE_HEAD)
        head = next(behind, len(words)) - 1
        if head < 0:
            return phrase
        before = [split_words(word[0])[0] for word in words[:head]]
        for first in range(max(0, head + 1 - self._longest), head + 1):
            start, last = "".join(before[first:]), words[head][0].casefold()
            if start + last in self._as_written or start + last == "glasses":  # to see through, not to drink from
                return phrase
            single = next((each for each in _singulars(last) if start + each in self._as_written), None)
            if single is not None:
                return phrase[: words[head].start()] + single + phrase[words[head].end() :]
        return phrase

    def _read(self, phrase: str) -> tuple[tuple[str, ...], bool]:
        """The unknown words, and whether there is a known name among the others."""
        words = split_words(phrase)
        unknown: dict[str, None] = {}
        named, place = False, 0
        while place < len(words):
            size = self._name_at(words[place:])
            named |= size > 0
            if not size and not words[place].isdecimal() and words[place] not in self._modifiers:
                unknown[words[place]] = None
            place += max(1, size)
        # A phrase without any word, such as "???", is unknown as it stands; numbers alone count nothing.
        if all(word.isdecimal() for word in words):
            return tuple(dict.fromkeys(words)) or (phrase.strip(),), False
        return tuple(unknown), named

    def _name_at(self, words: Sequence[str]) -> int:
        """How many of the first words are the longest known name; 0 for none."""
        sizes = range(min(self._longest, len(words)), 0, -1)
        return next((size for size in sizes if not self._names.isdisjoint(_keys(words[:size]))), 0)

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(key for name in self.names for key in _keys(split_words(name)))

    @cached_property
    def _as_written(self) -> frozenset[str]:
        return frozenset("".join(split_words(name)) for name in self.names)

    @cached_property
    def _longest(self) -> int:
        """Words of the longest name; a name of one word may be written in two parts."""
        return max(2, *(len(split_words(name)) for name in self.names)) if self.names else 0

    @cached_property
    def _modifiers(self) -> frozenset[str]:
        return frozenset(word for text in self.modifiers for word in split_words(text))


def split_words(text: str) -> list[str]:
    """Return a text's words, lower case, without possessive endings and underscores."""
    words = _WORD.findall(text.casefold().replace("_", " "))
    return [_POSSESSIVE.sub("", word) for word in words]


def _keys(words: Sequence[str]) -> Iterable[str]:
    """What a name is compared by: its words joined, the last one as it stands and in the singular."""
    if not words:
        return ()
    start, last = "".join(words[:-1]), words[-1]
    return [start + form for form in (last, *_singulars(last))]


def _singulars(word: str) -> list[str]:
    """What the singular of a word may be, if it is a plural."""
    found = [_IRREGULAR[word]] if word in _IRREGULAR else []
    if word.endswith("men"):
        found.append(word[:-3] + "man")
    if len(word) < 3 or not word.endswith("s") or word.endswith("ss"):
        return found
    found.append(word[:-1])
    if word.endswith("es"):
        found.append(word[:-2])
    if word.endswith("ies"):
        found.append(word[:-3] + "y")
    if word.endswith("ves"):
        found += [word[:-3] + "f", word[:-3] + "fe"]
    return found
