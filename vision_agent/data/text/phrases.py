"""What requests are about: kinds of objects, synonyms, and phrases that can only be copied.

A small model soon knows the usual names by heart, and then writes a name that it knows where it should copy one that it
does not. So most phrases of the text stage are random: captions cut anywhere, words thrown together, invented words.
How the requests around them are worded is in `request_templates` and `question_templates`.
"""

import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from vision_agent.data.text.sentence_templates import Words, one, read_texts
from vision_agent.inference.colors import COLOURS
from vision_agent.inference.evidence import COUNT_WORDS
from vision_agent.inference.nouns import plural, with_article

_TEXTS = read_texts("phrases.json")
# Kinds: what all of their members may be called.
KINDS: dict[str, Words] = {kind: tuple(members) for kind, members in _TEXTS["kinds"].items()}
SYNONYMS: dict[str, Words] = {name: tuple(others) for name, others in _TEXTS["synonyms"].items()}
NUMBERS = ("one", "two", "three", "four")
# Words that a request may have around a phrase: a phrase that begins or ends with one could be cut in two ways.
_AROUND = frozenset(
    "a an the all each every any that this some my both please here there now it them thanks me us in on at of for and "
    "is are photo picture image scene see can".split()
)
# What stands between two objects, and what they look like.
# Changes to an image: {0}, {1} objects, {2} a colour, {3} an object with its article.
RELATIONS, LOOKS, _SCENES, _ONSETS, _NUCLEI, _CODAS, CHANGES = (
    tuple[str, ...](_TEXTS[name]) for name in ("relations", "looks", "scenes", "onsets", "nuclei", "codas", "changes")
)


class Phrases:
    """Draws what is asked for.

    Args:
        names: of objects.
        captions: sentences about images; their words are what word salads are made of.
    """

    def __init__(self, names: Sequence[str], captions: Sequence[str]) -> None:
        # "bat (animal)": what tells two meanings apart is not said.
        self.names = [re.sub(r"\s*\(.*?\)", "", name) for name in names]
        self.captions = [cleaned for caption in captions if (cleaned := _plain(caption))]
        words = {word for text in (*self.captions, *self.names) for word in text.split()}
        self._words = sorted(words)

    def name(self, rng: np.random.Generator) -> str:
        """Return a known name, sometimes with a colour or in the plural."""
        name, kind = one(self.names, rng), rng.random()
        return f"{one(COLOURS, rng)} {name}" if kind < 0.25 else plural(name) if kind < 0.45 else name

    def phrase(self, rng: np.random.Generator) -> str:
        """Return a phrase for objects, mostly one that can only be copied: up to eight words, without an article."""
        makers = (self.name, self._looking, self._related, self._told, self._told, self._salad, self._salad, _invented)
        return _trimmed(makers[rng.integers(len(makers))](rng)) or self.name(rng)

    def drawing(self, rng: np.random.Generator) -> str:
        """Return what an image is to show, with its articles: `"a red car left of a dog"`."""
        kind = rng.random()
        if kind < 0.15:
            return self.phrase(rng)
        if kind < 0.3 and self.captions:
            return one(self.captions, rng)
        drawn = self._counted(rng)
        if kind < 0.55:
            return f"{drawn} {one(RELATIONS, rng)} {self._counted(rng)}"
        if kind < 0.65:
            return f"{drawn} and {self._counted(rng)}"
        return f"{drawn} {one(_SCENES, rng)}" if kind < 0.75 else drawn

    def change(self, rng: np.random.Generator) -> str:
        """Return a change to an image: `"make the car blue"`."""
        phrases = [self.name(rng) if rng.random() < 0.5 else self.phrase(rng) for _ in range(2)]
        new = one(self.names, rng)
        new = f"{one(COLOURS, rng)} {new}" if rng.random() < 0.4 else new
        return one(CHANGES, rng).format(*phrases, one(COLOURS, rng), with_article(new))

    def _counted(self, rng: np.random.Generator) -> str:
        name = one(self.names, rng) if rng.random() < 0.8 else _invented(rng)
        kind = rng.random()
        looks = f"{one(COLOURS, rng)} " if kind < 0.45 else f"{one(LOOKS, rng)} " if kind < 0.6 else ""
        if rng.random() < 0.3:
            return f"{COUNT_WORDS[rng.integers(2, 6)]} {looks}{plural(name)}"
        return f"the {looks}{name}" if rng.random() < 0.1 else with_article(looks + name)

    def _looking(self, rng: np.random.Generator) -> str:
        looks = [one((*LOOKS, *COLOURS), rng) for _ in range(rng.integers(1, 3))]
        return " ".join([*looks, one(self.names, rng)])

    def _related(self, rng: np.random.Generator) -> str:
        return f"{self.name(rng)} {one(RELATIONS, rng)} the {one(self.names, rng)}"

    def _told(self, rng: np.random.Generator) -> str:
        """A piece of a caption."""
        if not self.captions:
            return self.name(rng)
        told = one(self.captions, rng).split()
        start = int(rng.integers(0, len(told)))
        return " ".join(told[start : start + int(rng.integers(1, 7))])

    def _salad(self, rng: np.random.Generator) -> str:
        """Words thrown together: no word tells the next."""
        words = [one(self._words, rng) for _ in range(rng.integers(1, 9))]
        return " ".join(_invented(rng) if rng.random() < 0.1 else word for word in words)


def _invented(rng: np.random.Generator) -> str:
    """A word that nobody knows, sometimes with a number or a second one."""
    words = [
        "".join(one(part, rng) for _ in range(rng.integers(1, 4)) for part in (_ONSETS, _NUCLEI, _CODAS))
        for _ in range(rng.integers(1, 3))
    ]
    if rng.random() < 0.15:
        words.append(str(rng.integers(100)))
    return " ".join(words)


def _plain(text: str) -> str:
    """Lower case, letters and digits only."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def _trimmed(phrase: str) -> str:
    """Without words at its ends that could belong to the request, and without a word said twice in a row."""
    words = phrase.split()
    while words and words[0] in _AROUND:
        words = words[1:]
    while words and words[-1] in _AROUND:
        words = words[:-1]
    return " ".join([*words[:1], *(after for before, after in pairwise(words) if after != before)])


def callable_as(name: str) -> tuple[str, ...]:
    """Return other words for one object: synonyms."""
    return SYNONYMS.get(name, ())
