"""Requests that are never trained: twenty of each kind, written by hand, in `held_out.json`.

Most of their words occur in training, their combinations do not: `tests/data/test_wordings.py` shows that no grammar of
`request_templates` or `question_templates` makes any of them.
"""

from typing import NamedTuple

from vision_agent.data.text.sentence_templates import read_texts


class HeldOut(NamedTuple):
    """A request about `{}` and what has to stand before the routing token; None where the answer is words."""

    request: str
    phrase: str | None


# By the name of the route; "text" for what is answered in words.
HELD_OUT: dict[str, tuple[HeldOut, ...]] = {
    route: tuple(HeldOut(*pair) for pair in pairs) for route, pairs in read_texts("held_out.json").items()
}
# (route, request): requests that look alike and mean different things.
CONTRASTS: tuple[tuple[str, str], ...] = tuple((route, request) for route, request in read_texts("contrasts.json"))
