"""Requests for routes as people type them: sentences that were written one by one, where `requests` makes them by rule.

`human_templates.json` has about 140 for each route; `{thing}`, `{things}`, `{a_thing}`, `{the_thing}` and `{colour}` are filled.
"""

import json
import re
from functools import cache
from pathlib import Path

import numpy as np

from vision_agent.data.text.dialogue import Exchange
from vision_agent.data.text.phrases import Phrases, plural, with_article
from vision_agent.data.text.request_templates import READ_PHRASE
from vision_agent.data.text.sentence_templates import one
from vision_agent.inference.colors import COLOURS

_SLOT = re.compile(r"\{(\w+)\}")


@cache
def spoken() -> dict[str, tuple[str, ...]]:
    """The sentences of each route."""
    texts: dict[str, list[str]] = json.loads(Path(__file__).with_name("human_templates.json").read_text("utf-8"))
    return {route: tuple(sentences) for route, sentences in texts.items()}


def spoken_request(route: str, phrases: Phrases, rng: np.random.Generator) -> Exchange:
    """A sentence of the route about any thing. What is written before the token is the thing, or the whole change."""
    sentence = one(spoken()[route], rng)
    things = [phrases.name(rng) if rng.random() < 0.5 else phrases.thing(rng) for _ in range(2)]
    colour = one(COLOURS, rng)
    filled: list[str] = []

    def fill(slot: re.Match[str]) -> str:
        name = slot[1]
        if name == "colour":
            return colour
        thing = things[min(len(filled), 1)]
        filled.append(plural(thing) if name == "things" else thing)
        return {"a_thing": with_article(thing), "the_thing": f"the {thing}"}.get(name, filled[-1])

    request = _SLOT.sub(fill, sentence)
    if route == "ocr":
        return Exchange(request, READ_PHRASE, route)
    if route == "edit":
        return Exchange(request, request, route)
    phrase = filled[0]
    if route == "gen" and "{a_thing}" in sentence:
        phrase = with_article(phrase)
    return Exchange(request, phrase, route)
