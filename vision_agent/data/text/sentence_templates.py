"""Grammars of requests: how what people ask is made of parts.

A `SentenceGrammar` is small: frames with slots, each slot a list of alternatives. A few hundred parts make many
thousands of requests, so a model has to learn what each part does and cannot learn requests by heart. `{}` is the
object, the image to draw or the change to make: what the answer has to copy.

The requests in `held_out` are made by none of these grammars (a test proves it by the grammars themselves).
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

Words = tuple[str, ...]
_SLOT = re.compile(r"<(\w+)>")
_SMALL = re.compile(r"[\s.,?!:]+")


def one(options: Sequence[str], rng: np.random.Generator) -> str:
    """Return one of them, each as likely as its share of the list."""
    return options[int(rng.integers(len(options)))]


def read_texts(name: str) -> Any:
    """Return the content of a JSON file beside this module."""
    return json.loads(Path(__file__).with_name(name).read_text("utf-8"))


# What people say before they come to the point.
_CHATTER: Words = tuple(read_texts("chatter.json"))


def after_chatter(request: str, rng: np.random.Generator) -> str:
    """Return the request, now and then after a remark that it has nothing to do with."""
    return f"{one(_CHATTER, rng)}{one((',', '.', ':', ' -'), rng)} {request}" if rng.random() < 0.1 else request


class SentenceGrammar:
    """A grammar of requests.

    Args:
        frames: texts with `<slot>` marks and with `{}` where the phrase goes. One listed twice is drawn twice as often.
        slots: the alternatives of each slot, which may hold slots themselves.
    """

    def __init__(self, frames: Words, slots: Mapping[str, Words]) -> None:
        self._frames, self._slots = frames, slots

    def make(self, phrase: str, rng: np.random.Generator) -> str:
        """Return one request about `phrase`."""
        text = one(self._frames, rng)
        while (slot := _SLOT.search(text)) is not None:
            text = text[: slot.start()] + one(self._slots[slot[1]], rng) + text[slot.end() :]
        return " ".join(after_chatter(text, rng).split()).replace("{}", phrase)

    def makes(self, request: str, phrase: str) -> bool:
        """Return whether `make(phrase)` can give this request; case, spaces and punctuation do not count."""
        marked = request.lower().replace(phrase.lower(), "{}") if phrase else request.lower()
        return self._form.fullmatch(_SMALL.sub("", marked)) is not None

    @property
    def size(self) -> int:
        """How many requests there are for one phrase, chatter left out (a few may be made in two ways)."""
        return sum(self._ways(frame) for frame in set(self._frames))

    def _ways(self, text: str) -> int:
        return prod(sum(map(self._ways, set(self._slots[name]))) for name in _SLOT.findall(text))

    @cached_property
    def _form(self) -> re.Pattern[str]:
        frames = "|".join(map(self._pattern, dict.fromkeys(self._frames)))
        chatter = "|".join(re.escape(_SMALL.sub("", text)) for text in _CHATTER)
        return re.compile(f"(?:(?:{chatter})-?)?(?:{frames})")

    def _pattern(self, text: str) -> str:
        """The text as a regular expression. Every second piece of the split is the name of a slot."""
        pieces = _SLOT.split(text)
        for index, piece in enumerate(pieces):
            if index % 2:
                pieces[index] = f"(?:{'|'.join(map(self._pattern, dict.fromkeys(self._slots[piece])))})"
            else:
                pieces[index] = re.escape(_SMALL.sub("", piece))
        return "".join(pieces)


def read_grammars(name: str) -> dict[str, SentenceGrammar]:
    """Return the grammars of a JSON file beside this module, by name; all have the slots of its entry "common" too.

    In a list of texts, `[3, "a", "b"]` stands for three times these texts, and `"*slot"` for those of another slot.
    """
    texts = read_texts(name)
    common: dict[str, list[Any]] = texts.pop("common")
    grammars = {}
    for kind, parts in texts.items():
        slots = common | parts["slots"]
        frames = tuple(_expanded(parts["frames"], slots))
        grammars[kind] = SentenceGrammar(frames, {slot: tuple(_expanded(slots[slot], slots)) for slot in slots})
    return grammars


def _expanded(entries: Sequence[Any], slots: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    for entry in entries:
        if isinstance(entry, list):
            yield from entry[1:] * entry[0]
        elif entry.startswith("*"):
            yield from _expanded(slots[entry[1:]], slots)
        else:
            yield entry
