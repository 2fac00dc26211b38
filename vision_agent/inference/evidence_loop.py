"""Answers that look first: the loop between a model that asks to see and the decoder that looks (see `evidence`).

A turn of the model that ends in `phrase[DET] look:` or `phrase[DET] look left:` is no answer yet. What is seen of the
phrase is appended to the answer as if the model had written it, and the model goes on, until a turn ends in words.
A prompt and an answer that were read once are remembered, so each turn costs little more than its own tokens.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from vision_agent.generation.decoding import Reading, Written, write
from vision_agent.generation.options import GenerationOptions
from vision_agent.generation.prefix_cache import PrefixCache
from vision_agent.inference.colors import COLOURS
from vision_agent.inference.evidence import LOOKS, RELATIONS, UNCLEAR, Comparison, Evidence, Seen, look_for, place_of
from vision_agent.model.backbone import Backbone
from vision_agent.results.box import Box
from vision_agent.results.detections import Detections

MOST_LOOKS = 4
_LOOKS = re.compile(rf"look(?: (?P<relation>{'|'.join(RELATIONS)}))?:")

# Finds a phrase, down to a score, in the image that is asked about.
Find = Callable[[str, float], Detections]
# Names the colour of the thing in a box of that image; None where nobody could tell.
NameColour = Callable[[Box], str | None]


class Looker:
    """Looks for phrases in one image; remembers what it saw last, to compare the next with it.

    Args:
        find: the image's detector.
        colour: names the colour of a thing that was found.
        least: a thing with at least this score counts.
        surely_one: there is one thing at least where the best score reaches this; None for `least`. Lower than `least`
            where a detector that counts well would miss too many to say that there are none.
        maybe_one: there may be one thing where the best score reaches this; None for `surely_one`.
    """

    def __init__(
        self,
        find: Find,
        colour: NameColour,
        least: float,
        surely_one: float | None = None,
        maybe_one: float | None = None,
    ) -> None:
        self._find = find
        self._colour = colour
        self._least = least
        self._surely_one = least if surely_one is None else surely_one
        self._maybe_one = self._surely_one if maybe_one is None else maybe_one
        self._before: Seen | None = None

    def __call__(self, phrase: str, relation: str | None = None) -> Evidence:
        """What is to be seen of a phrase, and whether what was seen before stands in that relation to it."""
        found = self._find(phrase, min(self._least, self._surely_one, self._maybe_one))
        best = max(found, key=lambda each: each.score, default=None)
        before, self._before = self._before, None
        if best is None:
            return Evidence(phrase=phrase, count=0)
        sure = best.score >= min(self._least, self._surely_one)
        seen = self._before = Seen(max(1, len(found.filter(min_score=self._least))) if sure else 0, best.box)
        return Evidence(
            phrase=phrase,
            count=seen.count,
            maybe=not sure,
            colour=_spoken(phrase) or self._colour(best.box) or UNCLEAR,
            place=place_of(best.box, found.image_size),
            verdict=Comparison.of(before, seen, found.image_size).verdict(relation) if relation and before else None,
        )


@dataclass(frozen=True)
class Looked:
    """An answer that looked, or did not need to.

    Attributes:
        words: what was said after the last look.
        evidence: what was seen, in order.
        turns: what the model wrote; the evidence is in none of them.
    """

    words: str
    evidence: tuple[Evidence, ...]
    turns: tuple[Written, ...]


def answer_with_evidence(
    write: Callable[[tuple[int, ...]], Written],
    look: Callable[[str, str | None], Evidence],
    backbone: Backbone,
    token_id: int,
    *,
    say: bool = True,
) -> Looked:
    """Let the model look as often as it asks to, at most `MOST_LOOKS` times, and then answer.

    Args:
        write: goes on with an answer of one row that begins with these tokens. It has to stop at the texts `LOOKS`, and
            `[DET]` is the one route that it may take.
        look: sees a phrase, and compares, such as a `Looker`.
        token_id: of `[DET]`.
        say: also look where the model ends with a bare `[DET]`, so that there are words in any case.
    """
    begun: tuple[int, ...] = ()
    evidence: list[Evidence] = []
    turns: list[Written] = []
    while True:
        turn = write(begun)
        turns.append(turn)
        ids = [token for token in turn.answers[0] if token not in backbone.end_ids]
        asked = _asked(backbone, ids, token_id, say)
        if asked is None or len(evidence) == MOST_LOOKS:
            words = ids[len(ids) - ids[::-1].index(token_id) :] if token_id in ids else ids
            return Looked(_LOOKS.sub("", backbone.decode_text(words)).strip(), tuple(evidence), tuple(turns))
        phrase, relation, written = asked
        evidence.append(look(phrase, relation))
        given = [*backbone.text_ids(look_for(relation)), *backbone.text_ids(evidence[-1].text)]
        begun = (*begun, *ids[:written], *given)


def turns_of(
    backbone: Backbone,
    reading: Reading,
    options: GenerationOptions,
    forbidden: Sequence[int],
    prefixes: PrefixCache | None = None,
) -> Callable[[tuple[int, ...]], Written]:
    """What `answer_with_evidence` takes as `write`, for one prompt.

    Args:
        forbidden: token ids that must not be written: those of all routes but `[DET]`.
        prefixes: remembers what was read, so that each turn reads only what is new.
    """
    until_look = options.model_copy(update={"stop": (*options.stop, *LOOKS)})

    def turn(begun: tuple[int, ...]) -> Written:
        longer = replace(reading, ids=(*reading.ids, *begun))
        return write(backbone, [longer], until_look, forbidden=forbidden, prefixes=prefixes)

    return turn


def _asked(backbone: Backbone, ids: Sequence[int], token_id: int, say: bool) -> tuple[str, str | None, int] | None:
    """What to look for, the relation, and how many of the tokens lead up to the routing token; None for plain words."""
    if token_id not in ids:
        return None
    place = ids.index(token_id)
    phrase = backbone.decode_text(ids[:place]).strip()
    after = backbone.decode_text(ids[place + 1 :]).strip()
    look = _LOOKS.match(after)
    if not phrase or (look is None and (after or not say)):
        return None
    return phrase, look["relation"] if look else None, place + 1


def _spoken(phrase: str) -> str | None:
    """The colour that the phrase names itself: the detector was asked for it."""
    first = phrase.split(maxsplit=1)[:1]
    return first[0] if first and first[0] in COLOURS else None
