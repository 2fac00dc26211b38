"""Which of some choices an answer in words means, for a model that answers in few words of its own.

A small model says "no, i can't see a cat", "two", or "at the bottom right", and nothing else. Under a grammar of other
words, such as "present" and "absent", it would take any of them. So its own words are read first: yes and no, numbers
and ranges of them, and words in common. Choices that name objects are looked for in the image, and the clearest is
taken, or, where the question compares two ("which is bigger?"), the one that is so.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from PIL import Image

from vision_agent.inference.evidence import COUNT_WORDS, EVEN, MANY, RELATIONS, Comparison, Evidence, Observation
from vision_agent.inference.evidence_loop import GroundedAnswer
from vision_agent.inference.predictor import Predictor
from vision_agent.inference.word_forms import NO_WORDS, YES_WORDS, says_all
from vision_agent.model.backbone import Backbone
from vision_agent.results.detections import Detections
from vision_agent.routing.adapter import Route
from vision_agent.routing.known_words import split_words

_ROUTE = "det"
_NEGATIONS = re.compile(
    r"\b(?:not?|none|nothing|never|without|neither|nor|absent|missing|cannot|false|lacks?|\w+n['\u2019]t)\b"
)
_PRESENT = re.compile(r"\b(?:present|there (?:is|are)|visible|contained|included|shown|found|it does|it is)\b")
_ASKS_WHETHER = re.compile(
    r"^\W*(?:is|are|was|were|does|do|did|can|could|has|have|any|true or false|yes or no)\b", re.IGNORECASE
)
_SAYS_YES, _SAYS_NO = re.compile(r"\W*yes\b"), re.compile(r"\W*(?:no|none|not|nothing|i can['\u2019]t)\b")
_SMALL_WORDS = frozenset("a an the is are it in on at of to there this that i yes no not and or side with one".split())
_SYNONYMS = {"larger": "bigger", "higher": "above", "lower": "below", "less": "fewer", "biggest": "bigger"}
_SYNONYMS |= {"largest": "bigger", "smallest": "smaller", "leftmost": "left", "rightmost": "right"}
_SYNONYMS |= {"highest": "above", "lowest": "below", "most": "more", "fewest": "fewer"}
_NUMBERS = {"zero": 0, "no": 0, **{word: number for number, word in enumerate(COUNT_WORDS)}}
_NUMBER = rf"(\d{{1,4}}|{'|'.join(_NUMBERS)})"
# What allows at most, or else at least, so many, with what is added to the number.
_RANGES: tuple[tuple[re.Pattern[str], bool, int], ...] = (
    (re.compile(rf"\b(?:(?:less|fewer) than|under|below) {_NUMBER}\b"), True, -1),
    (re.compile(rf"\b(?:at most|up to) {_NUMBER}\b|\b{_NUMBER} or (?:less|fewer)\b"), True, 0),
    (re.compile(rf"\b(?:more than|over|above) {_NUMBER}\b"), False, 1),
    (re.compile(rf"\bat least {_NUMBER}\b|\b{_NUMBER} or more\b|\b{_NUMBER}\s*\+"), False, 0),
)
_BETWEEN = re.compile(rf"\b{_NUMBER}\s*(?:-|\u2013|to)\s*{_NUMBER}\b")
_EXACT = re.compile(rf"\b{_NUMBER}\b")
_FEW = re.compile(r"\b(?:a couple|couple)\b")
_SEVERAL = re.compile(r"\b(?:several|many|multiple|some|a few|few|lots?)\b")
_ENDLESS = 10**6
_LEAST_SCORE = 0.05  # of the clearest object among those looked for


def meant_by(words: str, choices: Mapping[str, object], question: str) -> str | None:
    """Return the choice that the model's own words mean; None where they mean none, or several.

    Args:
        words: what the model says, such as "no, i can't see a cat".
        choices: their texts, each with its value; texts of one value are one choice.
        question: what was asked.
    """
    words = words.casefold()
    yes, no = _SAYS_YES.match(words) is not None, _SAYS_NO.match(words) is not None
    if _ASKS_WHETHER.match(question) and (yes or no):
        return _the_one(_polar(choices, yes), choices)
    number = _count_in(words)
    if number is not None:
        least = [text for text in choices if _holds(text.casefold(), number)]
        exact = [text for text in least if not _is_open(text.casefold())]
        return _the_one(exact or least, choices)
    said = _content(words)
    shared = {text: len(said & _content(text)) for text in choices}
    most = max(shared.values(), default=0)
    return _the_one([text for text, count in shared.items() if count == most], choices) if most and not no else None


class ChoiceMatcher:
    """Takes one of some choices for an answer from evidence.

    Args:
        routes: the loaded routes by name; routes that are loaded later count too.
        predictor: finds phrases with the same model.
    """

    def __init__(self, backbone: Backbone, routes: Mapping[str, Route], predictor: Predictor) -> None:
        self._backbone = backbone
        self._routes = routes
        self._predictor = predictor

    def answer(
        self, choices: Mapping[str, object], question: str, image: Image.Image, grounded: GroundedAnswer
    ) -> GroundedAnswer:
        """Return the answer with the choice that is meant as its words.

        As it is where the model says all choices in its own words, and where nothing tells which one is meant.

        Args:
            choices: their texts, each with its value; texts of one value are one choice.
            grounded: what was written under the grammar of the choices, and without.
        """
        free = grounded.free_words(self._backbone)
        if free is None or says_all(choices):
            return grounded
        meant = meant_by(free, choices, question)
        if meant is not None:
            return replace(grounded, words=meant, confidence=grounded.free_confidence, chosen=True)
        seen = self._seen(list(choices), question, image)
        if seen is None:
            return grounded
        text, sure, found = seen
        return replace(
            grounded,
            words=text,
            confidence=sure,
            detections=found,
            evidence=(Evidence(phrase=text, count=1),),
            chosen=True,
        )

    def _seen(
        self, choices: Sequence[str], question: str, image: Image.Image
    ) -> tuple[str, float, tuple[Detections, ...]] | None:
        """The choice whose object is there, how sure it is, 0-1, and its box; None where they name no known objects."""
        known = self._routes[_ROUTE].words
        if known is None or not choices or (_ASKS_WHETHER.match(question) and " or " not in question.casefold()):
            return None
        if not all(known.names_one(choice) for choice in choices):
            return None
        found = [self._predictor.detect((choice,), image, _LEAST_SCORE) for choice in choices]
        scores = [max((each.score for each in boxes), default=0.0) for boxes in found]
        best = max(scores)
        if best < _LEAST_SCORE:
            return None
        compared = self._compared(found, scores, question)
        place = scores.index(best) if compared is None else compared
        others = [score for other, score in enumerate(scores) if other != place]
        rival = max(others, default=0.0)
        sure = min(scores[place], rival) if compared is not None else best * best / (best + rival)
        return choices[place], sure, (found[place][:1],)

    @staticmethod
    def _compared(found: Sequence[Detections], scores: Sequence[float], question: str) -> int | None:
        """Which of two objects is bigger, further left, ...; None where the question does not ask, and for neither."""
        asked = [_SYNONYMS.get(word, word) for word in split_words(question)]
        relation = next((word for word in asked if word in RELATIONS), None)
        if relation is None or len(found) != 2 or min(scores) < _LEAST_SCORE:
            return None
        first, second = (Observation(len(boxes), max(boxes, key=lambda each: each.score).box) for boxes in found)
        verdict = Comparison.of(first, second, found[0].image_size).verdict(relation)
        return None if verdict == EVEN else 0 if verdict == "yes" else 1


def _polar(choices: Mapping[str, object], yes: bool) -> list[str]:
    """The choices that say yes, or no: in a word of some language, or by a negation that the others have not."""
    denying = [text for text in choices if _denies(text)]
    if not yes:
        return denying
    affirming = [text for text in choices if text not in denying and _affirms(text)]
    return affirming or [text for text in choices if denying and text not in denying]


def _affirms(text: str) -> bool:
    return _first_word(text) in YES_WORDS or _PRESENT.search(text.casefold()) is not None


def _denies(text: str) -> bool:
    return _first_word(text) in NO_WORDS or _NEGATIONS.search(text.casefold()) is not None


def _first_word(text: str) -> str:
    return next(iter(split_words(text)), "")


def _the_one(texts: Iterable[str], choices: Mapping[str, object]) -> str | None:
    """The first of some texts, if all of them stand for one choice."""
    values: list[object] = []
    found: list[str] = []
    for text in texts:
        found.append(text)
        if choices[text] not in values:
            values.append(choices[text])
    return found[0] if len(values) == 1 else None


def _content(text: str) -> set[str]:
    return set(split_words(text)) - _SMALL_WORDS


def _number(text: str) -> int:
    return _NUMBERS[text] if text in _NUMBERS else int(text)


def _count_in(words: str) -> int | None:
    """The number that an answer consists of; None for another answer."""
    first = words.strip(" .!,")
    if first == MANY:
        return len(COUNT_WORDS)
    return _NUMBERS.get(first)


def _range_of(choice: str) -> tuple[int, int] | None:
    """The least and the greatest number that a choice allows; None for one without numbers."""
    for pattern, at_most, added in _RANGES:
        found = pattern.search(choice)
        if found is not None:
            limit = _number(next(filter(None, found.groups()))) + added
            return (0, limit) if at_most else (limit, _ENDLESS)
    between = _BETWEEN.search(choice)
    if between is not None:
        return _number(between[1]), _number(between[2])
    if _FEW.search(choice):
        return 2, 2
    if _SEVERAL.search(choice):
        return 2, _ENDLESS
    exact = _EXACT.search(choice)
    return None if exact is None else (_number(exact[1]), _number(exact[1]))


def _holds(choice: str, number: int) -> bool:
    span = _range_of(choice)
    return span is not None and span[0] <= number <= span[1]


def _is_open(choice: str) -> bool:
    span = _range_of(choice)
    return span is not None and span[0] < span[1]
