"""Grammars of requests: how what people ask is made of parts.

A `Wordings` is a small grammar: frames with slots, each slot a list of alternatives. A few hundred parts make many
thousands of requests, so a model has to learn what each part does and cannot learn requests by heart. `{}` is the
thing, the image to draw or the change to make: what the answer has to copy.

The wordings in `held_out` are made by none of these grammars (a test proves it by the grammars themselves).
"""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from math import prod

import numpy as np

Words = tuple[str, ...]
_SLOT = re.compile(r"<(\w+)>")
_SMALL = re.compile(r"[\s.,?!:]+")


def one(options: Sequence[str], rng: np.random.Generator) -> str:
    """One of them, each as likely as its share of the list."""
    return options[int(rng.integers(len(options)))]


# What people say before they come to the point.
_CHATTER = (
    *(
        "i took this photo yesterday",
        "my sister sent me this",
        "my eyes are tired",
        "this is my garden",
        "we are in a hurry",
    ),
    *(
        "i am writing a report",
        "this is for school",
        "sorry to bother you",
        "it is late",
        "it is a bit dark",
        "good day",
    ),
    *(
        "i have a question",
        "one more thing",
        "i hope you can help",
        "you did well",
        "that was wrong",
        "thanks for that",
    ),
    *("i am not sure about this", "my friend and i are curious", "it is my first time here", "there is a lot to see"),
    *("the light is bad", "this was in my street", "nobody believes me", "listen", "well", "look", "a test", "again"),
)


def after_chatter(request: str, rng: np.random.Generator) -> str:
    """The request, now and then after a remark that it has nothing to do with."""
    return f"{one(_CHATTER, rng)}{one((',', '.', ':', ' -'), rng)} {request}" if rng.random() < 0.1 else request


class Wordings:
    """A grammar of requests.

    Args:
        frames: texts with `<slot>` marks and with `{}` where the phrase goes. One listed twice is drawn twice as often.
        slots: the alternatives of each slot, which may hold slots themselves.
    """

    def __init__(self, frames: Words, slots: Mapping[str, Words]) -> None:
        self._frames, self._slots = frames, slots

    def make(self, phrase: str, rng: np.random.Generator) -> str:
        """One request about `phrase`."""
        text = one(self._frames, rng)
        while (slot := _SLOT.search(text)) is not None:
            text = text[: slot.start()] + one(self._slots[slot[1]], rng) + text[slot.end() :]
        return " ".join(after_chatter(text, rng).split()).replace("{}", phrase)

    def makes(self, request: str, phrase: str) -> bool:
        """Whether `make(phrase)` can give this request; case, spaces and punctuation do not count."""
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


# Slots that all kinds of requests share.
COMMON = {
    "lead": (
        *[""] * 8,
        "please",
        "can you",
        "could you",
        "would you",
        "will you",
        "can you please",
        "could you please",
        "now",
        "next,",
        "then",
        "hey,",
        "hi,",
        "ok,",
        "just",
        "try to",
        "i want you to",
        "i would like you to",
        "i'd like you to",
        "i need you to",
        "you should",
        "go ahead and",
        "help me",
        "kindly",
        "let's",
        "your task is to",
        "your job is to",
        "it would be great to",
        "quickly",
        "carefully",
        "my friend wants you to",
        "we want you to",
        "somebody should",
        "take your time and",
        "be so good and",
        "use your eyes and",
        "i was told to",
        "start and",
        "all you have to do is",
        "what about this:",
        "new task:",
        "can somebody",
        "would you mind to",
    ),
    "place": (
        " in the picture",
        " in this picture",
        " in this image",
        " in the image",
        " in the photo",
        " in this photo",
        " in the photograph",
        " in the scene",
        " in it",
        " here",
        " there",
        " on this photo",
        " that you see",
        " you can see",
    ),
    "thanks": (
        " for me",
        " please",
        ", please",
        ", thanks",
        ", thank you",
        " now",
        " if you can",
        " right now",
        " for us",
    ),
    "tail": (*["<place>"] * 3, *["<thanks>"] * 2, *[""] * 5, "<place><thanks>"),
    "end": ("", "", ".", "?", "!"),
    "the": ("", "", *["the"] * 4, "a", "all", "all the", "every", "each", "any", "that", "this", "some", "my", "both"),
    "within": (
        "in the picture",
        "in this image",
        "in the photo",
        "in this scene",
        "on this picture",
        "here",
        "in the photo above",
        "looking at the picture",
    ),
}
