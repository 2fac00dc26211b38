"""The text-only stage: names, what they are near to, and how a request becomes an answer or a route.

CLIP's text vectors teach which names mean similar objects: the query states of "zebra" shall predict the vector of
"zebra". Requests about any words at all teach to route by what surrounds them and to copy them into the answer;
questions with random evidence teach to read evidence (see `evidence_questions`).
"""

from collections.abc import Sequence

import numpy as np

from vision_agent.data.text import request_templates as requests
from vision_agent.data.text.dialogue import Exchange
from vision_agent.data.text.evidence_questions import place_answer, random_evidence, random_question
from vision_agent.data.text.human_templates import human_request
from vision_agent.data.text.phrases import CHANGES, Phrases
from vision_agent.data.text.sentence_templates import one, read_texts
from vision_agent.inference.colors import COLOURS
from vision_agent.inference.evidence import COUNT_WORDS

# How often each kind of exchange is drawn.
_SHARES = {"det": 3.0, "seg": 1.6, "ocr": 1.2, "gen": 1.8, "edit": 1.4, "question": 4.5, "describe": 0.8, "talk": 0.3}
_SAID = 0.2  # of the requests for places: their answer is also put in words
_HUMAN = 0.4  # of the requests for routes: sentences that somebody wrote
# (request, answer): what needs neither an image nor a route. The file has the requests of each answer.
_TALK = tuple((request, answer) for answer, requests in read_texts("small_talk.json").items() for request in requests)


class LanguageMix:
    """Rows of the text-only stage, by number like the images'.

    Args:
        seed: the rows follow from it and their number.
        names: of objects.
        captions: sentences about images.
        phrases: how many names a row tells apart.
        exchanges: how many requests a row has.
    """

    def __init__(
        self,
        seed: tuple[int, ...],
        names: Sequence[str],
        captions: Sequence[str],
        phrases: int = 16,
        exchanges: int = 12,
    ) -> None:
        self._seed = seed
        self._names = list(names)
        self._asked = Phrases(names, captions)
        self._phrases = min(phrases, len(names))
        self._exchanges = exchanges
        shares = np.array(list(_SHARES.values()))
        self._shares = shares / shares.sum()

    def row(self, number: int) -> tuple[list[str], list[Exchange]]:
        """Return names to be told apart, and exchanges."""
        rng = np.random.default_rng((*self._seed, number))
        told_apart = [self._names[index] for index in rng.choice(len(self._names), self._phrases, replace=False)]
        kinds = rng.choice(list(_SHARES), self._exchanges, p=self._shares)
        return told_apart, [self.exchange(str(kind), rng) for kind in kinds]

    def exchange(self, kind: str, rng: np.random.Generator) -> Exchange:
        """Return one exchange of a kind of `_SHARES`: a route's name, or what is answered in words."""
        if kind in requests.ROUTED:
            return routed(kind, self._asked, rng)
        if kind == "question":
            return random_question(self._asked, rng)
        if kind == "describe" and self._asked.captions:
            return Exchange(requests.DESCRIBE.make("", rng), one(self._asked.captions, rng))
        return Exchange(*_TALK[rng.integers(len(_TALK))])


def routed(kind: str, phrases: Phrases, rng: np.random.Generator) -> Exchange:
    """Return a request that ends in a route, about anything at all.

    Args:
        kind: the route's name, of `requests.ROUTED`.
    """
    if rng.random() < _HUMAN:
        return human_request(kind, phrases, rng)
    if kind == "ocr":
        return Exchange(requests.READ.make(phrases.phrase(rng), rng), requests.READ_PHRASE, kind)
    makers = {"gen": phrases.drawing, "edit": phrases.change}
    phrase = makers.get(kind, phrases.phrase)(rng)
    request = requests.ROUTED[kind].make(phrase, rng)
    if kind == "det" and rng.random() < _SAID:
        return place_answer(phrase, random_evidence(phrase, rng), request)
    return Exchange(request, phrase, kind)


def corpus(names: Sequence[str], captions: Sequence[str], rows: int = 20_000) -> list[str]:
    """Return texts to train the tokenizer on: what is said in training, in about the shares in which it is said."""
    mix = LanguageMix((0,), names, captions, phrases=1, exchanges=1)
    said = [exchange for number in range(rows) for exchange in mix.row(number)[1]]
    answers = [part.text for exchange in said for part in exchange.parts]
    asked = [exchange.request for exchange in said]
    return [*captions, *names, *names, *asked, *answers, *CHANGES, *(COLOURS * 20), *(COUNT_WORDS * 20)]
