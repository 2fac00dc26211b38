"""Requests for routes as people type them, written one by one; `request_templates` makes others by rule.

`human_templates.json` has about 140 for each route, with the slots `{object}`, `{objects}`, `{an_object}`,
`{the_object}` and `{colour}`.
"""

import re
from functools import cache

import numpy as np

from vision_agent.data.text.dialogue import Exchange
from vision_agent.data.text.phrases import Phrases
from vision_agent.data.text.request_templates import READ_PHRASE
from vision_agent.data.text.sentence_templates import one, read_texts
from vision_agent.inference.colors import COLOURS
from vision_agent.inference.nouns import plural, with_article

_SLOT = re.compile(r"\{(\w+)\}")


@cache
def human_templates() -> dict[str, tuple[str, ...]]:
    """Return the sentences of each route."""
    return {route: tuple(sentences) for route, sentences in read_texts("human_templates.json").items()}


def human_request(route: str, phrases: Phrases, rng: np.random.Generator) -> Exchange:
    """Return a request of the route about any object; its answer is the object, or the whole change, and the route."""
    sentence = one(human_templates()[route], rng)
    drawn = [phrases.name(rng) if rng.random() < 0.5 else phrases.phrase(rng) for _ in range(2)]
    colour = one(COLOURS, rng)
    filled: list[str] = []

    def fill(slot: re.Match[str]) -> str:
        name = slot[1]
        if name == "colour":
            return colour
        phrase = drawn[min(len(filled), 1)]
        filled.append(plural(phrase) if name == "objects" else phrase)
        return {"an_object": with_article(phrase), "the_object": f"the {phrase}"}.get(name, filled[-1])

    request = _SLOT.sub(fill, sentence)
    if route == "ocr":
        return Exchange(request, READ_PHRASE, route)
    if route == "edit":
        return Exchange(request, request, route)
    phrase = filled[0]
    if route == "gen" and "{an_object}" in sentence:
        phrase = with_article(phrase)
    return Exchange(request, phrase, route)
