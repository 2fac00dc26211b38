"""Evidence: what the box decoder found, written into an answer for the model to go on with.

A small model reads an image poorly but finds objects well. Asked something that the image decides, it writes a phrase,
its routing token and `EVIDENCE_REQUEST`, which ends its turn. The agent runs the decoder and writes down, in few fixed
words, how many there are, and the colour and place of the clearest (the one of the best score); the model then says
what that means for the question:

    is the dog left of the chair?
    dog[DET] look: one, brown, left.  chair[DET] look left: one, red, right; yes.  yes

The underlying mechanism is the tool call of ReAct (https://arxiv.org/abs/2210.03629) with the routed decoder as the
tool. A request may name a relation: whether the clearest object of the phrase before stands so to this one. The model
has to ask, which is learned from text alone; the answer need not be worked out then but only be read. How often
answers of each kind are right is in the model card.

Where nothing is sure enough to be there, but something might be, `maybe` stands in the place of the number: a question
about its colour, place or number presupposes it, so that is still answered, with "i think"; to "is there" the answer
is no.

Boxes are in pixels of the upright image; places are by the middle of the box.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Self

from pydantic import BaseModel, Field

from vision_agent.inference.colors import COLOURS
from vision_agent.results.box import FROZEN, Box

# What the object of the phrase before may be to this one.
RELATIONS = ("left", "right", "above", "below", "bigger", "smaller", "more", "fewer")


def evidence_request(relation: str | None = None) -> str:
    """Return what ends a turn of the model that waits for evidence: `"look:"`, or `"look left:"`."""
    return f"look {relation}:" if relation else "look:"


EVIDENCE_REQUEST = evidence_request()
EVIDENCE_REQUESTS = (EVIDENCE_REQUEST, *map(evidence_request, RELATIONS))
COUNT_WORDS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
MANY = "many"  # more than the words reach
MAYBE = "maybe"  # in the place of the number, of what is not sure enough to be there
UNCLEAR = "unclear"  # in the place of a colour that is unclear
Verdict = Literal["yes", "no", "even"]
EVEN: Final = "even"  # neither the one nor the other
_COLUMNS, _ROWS = ("left", "", "right"), ("top", "", "bottom")
MIDDLE = "middle"
PLACES = tuple(f"{row} {column}".strip() or MIDDLE for row in _ROWS for column in _COLUMNS)
_LEAST_SHIFT = 0.03  # of the image's side: middles closer than this are level
_LEAST_RATIO = 1.2  # of areas: closer than this is as big


class Comparison(BaseModel):
    """The clearest object of the phrase before, compared with that of this one: the first is left, above, bigger, more.

    Attributes:
        side, height: by the middles of the boxes.
        size: by the areas of the boxes.
        number: by how many there are of each.
    """

    model_config = FROZEN

    side: Literal["left", "right", "even"]
    height: Literal["above", "below", "even"]
    size: Literal["bigger", "smaller", "even"]
    number: Literal["more", "fewer", "even"]

    @classmethod
    def of(cls, first: "Observation", second: "Observation", image_size: tuple[int, int]) -> Self:
        """Compare what was found of two phrases in an image of `image_size` (width, height)."""
        (x, y), (other_x, other_y) = first.box.center, second.box.center
        width, height = image_size
        return cls.model_validate(
            {
                "side": _three_way(other_x - x, _LEAST_SHIFT * width, ("left", "right")),
                "height": _three_way(other_y - y, _LEAST_SHIFT * height, ("above", "below")),
                "size": _by_size(first.box.area, second.box.area),
                "number": _three_way(first.count - second.count, 0, ("more", "fewer")),
            }
        )

    @property
    def words(self) -> tuple[str, str, str, str]:
        """All four."""
        return self.side, self.height, self.size, self.number

    def verdict(self, relation: str) -> "Verdict":
        """Return whether the first object is `relation`, one of `RELATIONS`, to the second; `EVEN` if neither is."""
        said = self.words[RELATIONS.index(relation) // 2]
        return EVEN if said == EVEN else "yes" if said == relation else "no"


@dataclass(frozen=True)
class Observation:
    """How many objects a phrase found, and the box of the clearest one."""

    count: int
    box: Box


class Evidence(BaseModel):
    """What was found of one phrase.

    Attributes:
        phrase: what was searched for.
        count: how many there are.
        maybe: there is none that is sure enough, and one that might be.
        colour: of the clearest one, one of `COLOURS` or `UNCLEAR`; None where nothing was found.
        place: where the clearest one is, one of `PLACES`; None where nothing was found.
        verdict: on the relation that was asked for; None where none was, or where one of the objects is missing.
    """

    model_config = FROZEN

    phrase: str
    count: int = Field(ge=0)
    maybe: bool = False
    colour: str | None = None
    place: str | None = None
    verdict: Verdict | None = None

    @property
    def text(self) -> str:
        """As the model reads it: `"two, red, top left."`, `"two, red, top left; yes."`, or `"none."`."""
        if not self.count and not self.maybe:
            return f"{COUNT_WORDS[0]}."
        text = f"{MAYBE if self.maybe else count_word(self.count)}, {self.colour or UNCLEAR}, {self.place or MIDDLE}"
        return text + (f"; {self.verdict}." if self.verdict else ".")

    @classmethod
    def parse(cls, phrase: str, text: str) -> Self:
        """Return the evidence that `text` tells; the inverse of `text`, but for the exact count of `MANY`.

        Raises:
            ValueError: another format.
        """
        found = _FORM.fullmatch(text)
        if found is None:
            raise ValueError(f"not the text of evidence: {text!r}")
        if found["none"]:
            return cls(phrase=phrase, count=0)
        number = found["count"]
        maybe = number == MAYBE
        count = 0 if maybe else len(COUNT_WORDS) if number == MANY else COUNT_WORDS.index(number)
        return cls.model_validate(
            {
                "phrase": phrase,
                "count": count,
                "maybe": maybe,
                "colour": found["colour"],
                "place": found["place"],
                "verdict": found["verdict"],
            }
        )


def count_word(count: int) -> str:
    """Return `"two"` for 2; `MANY` beyond ten."""
    return COUNT_WORDS[count] if count < len(COUNT_WORDS) else MANY


def place_of(box: Box, image_size: tuple[int, int]) -> str:
    """Return the ninth of the image (width, height) that the middle of the box lies in: one of `PLACES`."""
    (x, y), (width, height) = box.center, image_size
    column, row = (min(2, max(0, int(3 * share))) for share in (x / width, y / height))
    return PLACES[3 * row + column]


def _three_way(difference: float, least: float, names: tuple[str, str]) -> str:
    """The first name where the difference is well above zero, the second where it is well below."""
    return EVEN if abs(difference) <= least else names[0] if difference > 0 else names[1]


def _by_size(first: float, second: float) -> str:
    larger, smaller = max(first, second), min(first, second)
    return EVEN if larger <= _LEAST_RATIO * smaller else "bigger" if first > second else "smaller"


def _any(words: Sequence[str]) -> str:
    return "|".join(map(re.escape, words))


_FORM = re.compile(
    rf"(?P<none>{COUNT_WORDS[0]}\.)"
    rf"|(?P<count>{_any((*COUNT_WORDS[1:], MANY, MAYBE))}), (?P<colour>{_any((*COLOURS, UNCLEAR))}), "
    rf"(?P<place>{_any(sorted(PLACES, key=len, reverse=True))})"
    r"(?:; (?P<verdict>yes|no|even))?\."
)
