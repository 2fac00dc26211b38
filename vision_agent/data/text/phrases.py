"""What requests are about: kinds of things, synonyms, plurals, and phrases that can only be copied.

A small model soon knows the usual names by heart, and then writes a name that it knows where it should copy one that it
does not. So most phrases of the text stage are random: captions cut anywhere, words thrown together, invented words.
How the requests around them are worded is in `requests` and `questions`.
"""

import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from vision_agent.data.text.sentence_templates import Words, one
from vision_agent.inference.colors import COLOURS
from vision_agent.inference.evidence import COUNT_WORDS

# Kinds: what all of their members may be called.
KINDS = {
    "vehicle": ("bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    "animal": ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"),
    "fruit": ("banana", "apple", "orange"),
    "food": ("banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake"),
    "furniture": ("chair", "couch", "bed", "dining table"),
    "electronics": ("tv", "laptop", "mouse", "remote", "keyboard", "cell phone"),
}
SYNONYMS = {
    "person": ("human", "somebody"),
    "motorcycle": ("motorbike",),
    "airplane": ("plane", "aeroplane", "aircraft"),
    "bicycle": ("bike",),
    "couch": ("sofa",),
    "tv": ("television", "screen"),
    "cell phone": ("phone", "mobile phone", "smartphone"),
    "dining table": ("table",),
    "potted plant": ("plant",),
    "donut": ("doughnut",),
    "car": ("automobile",),
    "boat": ("ship",),
    "handbag": ("purse", "bag"),
    "sports ball": ("ball",),
    "wine glass": ("glass",),
    "remote": ("remote control",),
    "refrigerator": ("fridge",),
    "teddy bear": ("stuffed animal",),
    "truck": ("lorry",),
}
_IRREGULAR = {
    "person": "people",
    "sheep": "sheep",
    "mouse": "mice",
    "knife": "knives",
    "scissors": "scissors",
    "skis": "skis",
    "broccoli": "broccoli",
    "bus": "buses",
    "toothbrush": "toothbrushes",
    "wine glass": "wine glasses",
    "sandwich": "sandwiches",
    "bench": "benches",
    "couch": "couches",
    "fruit": "fruit",
    "food": "food",
    "furniture": "furniture",
    "electronics": "electronics",
}

# Words that a request may have around a phrase: a phrase that begins or ends with one could be cut in two ways.
_AROUND = frozenset(
    "a an the all each every any that this some my both please here there now it them thanks me us in on at of for and "
    "is are photo picture image scene see can".split()
)
_RELATIONS = ("left of", "right of", "above", "below", "next to", "on", "under", "behind", "in front of", "near")
_LOOKS = (
    *(
        "big",
        "small",
        "large",
        "little",
        "tall",
        "old",
        "new",
        "young",
        "shiny",
        "wooden",
        "metal",
        "plastic",
        "striped",
    ),
    *("spotted", "dark", "bright", "round", "square", "long", "short", "broken", "open", "closed", "empty", "wet"),
    *("fluffy", "sleeping", "running", "sitting", "standing", "flying", "smiling", "tiny", "huge", "glass"),
)
_SCENES = (
    *(
        "on a table",
        "on the grass",
        "at night",
        "in the rain",
        "in the snow",
        "on a beach",
        "under a tree",
        "in a city",
    ),
    *("on a white background", "in a kitchen", "by the sea", "in the sky", "in a forest", "on a road", "at sunset"),
)
_ONSETS = ("b", "bl", "br", "d", "dr", "f", "fl", "g", "gr", "h", "j", "k", "kl", "l", "m", "n", "p", "pl", "r", "s")
_NUCLEI = ("a", "e", "i", "o", "u", "ai", "oo", "ee", "ou")
_CODAS = ("", "", "n", "r", "l", "s", "t", "k", "m", "x", "rp", "nd", "ng", "st")
# Changes to an image: {0}, {1} things, {2} a colour, {3} a thing with its article.
CHANGES: Words = (
    *("make the {0} {2}", "paint the {0} {2}", "turn the {0} {2}", "colour the {0} {2}", "recolour the {0} to {2}"),
    *("change the {0} to {2}", "change the colour of the {0} to {2}", "give the {0} a {2} colour", "dye the {0} {2}"),
    *(
        "remove the {0}",
        "erase the {0}",
        "delete the {0}",
        "take the {0} away",
        "take out the {0}",
        "wipe away the {0}",
    ),
    *("get rid of the {0}", "make the {0} disappear", "remove the {0} next to the {1}", "remove the {2} {0}"),
    *(
        "add {3}",
        "add {3} next to the {1}",
        "put {3} on the {1}",
        "put {3} beside the {1}",
        "insert {3}",
        "place {3} here",
    ),
    *("add {3} left of the {1}", "add {3} above the {1}", "draw {3} into the picture", "add a hat to the {0}"),
    *("replace the {0} with {3}", "replace the {0} by {3}", "swap the {0} for {3}", "turn the {0} into {3}"),
    *("change the {0} into {3}", "make the {0} {3}", "exchange the {0} for {3}", "substitute {3} for the {0}"),
    *("make it {2}", "turn it {2}", "paint it {2}", "make the background {2}", "make everything {2}", "make it darker"),
    *("make it brighter", "make it look like night", "make it black and white", "blur the background", "blur the {0}"),
    *("make the {0} bigger", "make the {0} smaller", "move the {0} to the left", "move the {0} to the right"),
    *(
        "flip the {0}",
        "rotate the {0}",
        "remove the background",
        "remove everything but the {0}",
        "make it a winter scene",
    ),
)


class Phrases:
    """Draws what is asked for.

    Args:
        names: of things.
        captions: sentences about images; their words are what word salads are made of.
    """

    def __init__(self, names: Sequence[str], captions: Sequence[str]) -> None:
        # "bat (animal)": what tells two meanings apart is not said.
        self.names = [re.sub(r"\s*\(.*?\)", "", name) for name in names]
        self.captions = [cleaned for caption in captions if (cleaned := _plain(caption))]
        words = {word for text in (*self.captions, *self.names) for word in text.split()}
        self._words = sorted(words)

    def name(self, rng: np.random.Generator) -> str:
        """A known name, sometimes with a colour or in the plural."""
        name, kind = one(self.names, rng), rng.random()
        return f"{one(COLOURS, rng)} {name}" if kind < 0.25 else plural(name) if kind < 0.45 else name

    def thing(self, rng: np.random.Generator) -> str:
        """A phrase for things, mostly one that can only be copied: up to eight words, without an article."""
        makers = (self.name, self._looking, self._related, self._told, self._told, self._salad, self._salad, _invented)
        return _trimmed(makers[rng.integers(len(makers))](rng)) or self.name(rng)

    def drawing(self, rng: np.random.Generator) -> str:
        """What an image is to show, with its articles: `"a red car left of a dog"`."""
        kind = rng.random()
        if kind < 0.15:
            return self.thing(rng)
        if kind < 0.3 and self.captions:
            return one(self.captions, rng)
        drawn = self._counted(rng)
        if kind < 0.55:
            return f"{drawn} {one(_RELATIONS, rng)} {self._counted(rng)}"
        if kind < 0.65:
            return f"{drawn} and {self._counted(rng)}"
        return f"{drawn} {one(_SCENES, rng)}" if kind < 0.75 else drawn

    def change(self, rng: np.random.Generator) -> str:
        """A change to an image: `"make the car blue"`."""
        things = [self.name(rng) if rng.random() < 0.5 else self.thing(rng) for _ in range(2)]
        new = one(self.names, rng)
        new = f"{one(COLOURS, rng)} {new}" if rng.random() < 0.4 else new
        return one(CHANGES, rng).format(*things, one(COLOURS, rng), with_article(new))

    def _counted(self, rng: np.random.Generator) -> str:
        name = one(self.names, rng) if rng.random() < 0.8 else _invented(rng)
        kind = rng.random()
        looks = f"{one(COLOURS, rng)} " if kind < 0.45 else f"{one(_LOOKS, rng)} " if kind < 0.6 else ""
        if rng.random() < 0.3:
            return f"{COUNT_WORDS[rng.integers(2, 6)]} {looks}{plural(name)}"
        return f"the {looks}{name}" if rng.random() < 0.1 else with_article(looks + name)

    def _looking(self, rng: np.random.Generator) -> str:
        looks = [one((*_LOOKS, *COLOURS), rng) for _ in range(rng.integers(1, 3))]
        return " ".join([*looks, one(self.names, rng)])

    def _related(self, rng: np.random.Generator) -> str:
        return f"{self.name(rng)} {one(_RELATIONS, rng)} the {one(self.names, rng)}"

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


def with_article(name: str) -> str:
    """`"a dog"`, `"an apple"`."""
    return f"{'an' if name[:1] in set('aeiou') else 'a'} {name}"


def plural(name: str) -> str:
    """English plural of a thing's name, good enough for phrases."""
    if name in _IRREGULAR:
        return _IRREGULAR[name]
    if name.endswith(("s", "x", "ch", "sh")):
        return name + "es"
    if name.endswith("y") and name[-2:-1] not in "aeiou":
        return name[:-1] + "ies"
    return name + "s"


def callable_as(name: str) -> tuple[str, ...]:
    """Other words for one thing: synonyms."""
    return SYNONYMS.get(name, ())


NUMBERS = ("one", "two", "three", "four")
