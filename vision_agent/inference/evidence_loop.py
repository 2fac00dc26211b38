"""Answers from evidence: the loop between a model that asks for it and the decoder that finds it (see `evidence`).

A turn of the model that ends in `phrase[DET] look:` or `phrase[DET] look left:` is no answer yet. The evidence on the
phrase is appended to the answer as if the model had written it, and the model goes on, until a turn ends in words.
The keys and values of earlier turns are cached, so each turn costs little more than its own tokens.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from PIL import Image

from vision_agent.generation.decoding import GenerationOutput, PromptInputs, generate
from vision_agent.generation.options import GenerationOptions
from vision_agent.generation.prefix_cache import PrefixCache
from vision_agent.inference.colors import COLOURS
from vision_agent.inference.conversation import Conversation
from vision_agent.inference.decode import counted_from
from vision_agent.inference.engine import InferenceEngine
from vision_agent.inference.evidence import (
    EVIDENCE_REQUESTS,
    RELATIONS,
    UNCLEAR,
    Comparison,
    Evidence,
    Observation,
    evidence_request,
    place_of,
)
from vision_agent.inference.object_colors import object_colours
from vision_agent.inference.predictor import Predictor
from vision_agent.model.backbone import Backbone
from vision_agent.plugins.constraint import Constraint
from vision_agent.results.box import Box
from vision_agent.results.detections import Detections
from vision_agent.routing.adapter import Route

MAX_EVIDENCE_REQUESTS = 4
_REQUESTS = re.compile(rf"look(?: (?P<relation>{'|'.join(RELATIONS)}))?:")
_DENIES = re.compile(r"\W*(?:no|none|not|nothing|zero|0|false|n|i can't)\b", re.IGNORECASE)
_ROUTE = "det"

# Finds a phrase, down to a score, in the image that is asked about.
Find = Callable[[str, float], Detections]
# Generates the answer to a prompt, without some tokens and under a grammar.
Write = Callable[[PromptInputs, GenerationOptions, Sequence[int], Constraint | None], GenerationOutput]
# Names the colour of the object in a box of that image; None where it is unclear.
NameColour = Callable[[Box], str | None]


@dataclass(frozen=True)
class GroundedAnswer:
    """An answer and the evidence that it rests on; none where the model asked for none.

    Attributes:
        words: what was said after the last evidence.
        evidence: on each phrase, in order.
        turns: what the model generated; the evidence is in none of them.
        detections: the boxes behind the evidence, in order.
        confidence: the probability of the words, and of the evidence, 0-1.
        free: what it would have said without a grammar; None where there is none.
        free_confidence: as `confidence`, of those words.
        chosen: the words are a choice that was made of the free ones, or of what was found.
    """

    words: str
    evidence: tuple[Evidence, ...]
    turns: tuple[GenerationOutput, ...]
    detections: tuple[Detections, ...] = ()
    confidence: float = 0.0
    free: GenerationOutput | None = None
    free_confidence: float = 0.0
    chosen: bool = False

    def free_words(self, backbone: Backbone) -> str | None:
        """Return what it would have said without a grammar; None where there is none."""
        if self.free is None:
            return None
        ids = [token for token in self.free.answers[0] if token not in backbone.end_ids]
        return _REQUESTS.sub("", backbone.decode_text(ids)).strip()


class EvidenceLoop:
    """Answers questions about one image from evidence, where the model was taught to ask for it.

    Args:
        routes: the loaded routes by name; routes that are loaded later count too.
        predictor: finds phrases with the same model.
    """

    def __init__(self, engine: InferenceEngine, routes: Mapping[str, Route], predictor: Predictor) -> None:
        self._engine = engine
        self._backbone = engine.backbone
        self._routes = routes
        self._predictor = predictor

    def applies_to(self, conversation: Conversation) -> bool:
        """Return whether the model asks for evidence, about one image."""
        route = self._routes.get(_ROUTE)
        taught = route is not None and route.spec.looks
        return taught and len(conversation.images) == 1

    def is_asked_for(self, ids: list[int]) -> bool:
        """Return whether an answer's tokens ask for evidence: `phrase[DET] look:`."""
        route = self._routes.get(_ROUTE)
        if route is None or not route.spec.looks or route.token_id not in ids:
            return False
        after = ids[ids.index(route.token_id) + 1 :]
        return self._backbone.decode_text(after).strip().startswith(EVIDENCE_REQUESTS)

    def answer(
        self, conversation: Conversation, options: GenerationOptions, constraint: Constraint | None = None
    ) -> GroundedAnswer:
        """Return words, and the boxes that they rest on.

        Args:
            constraint: the grammar of the words. Evidence is asked for without it: a grammar has no room for that.

        Raises:
            InputError: a prompt that does not fit the model's context.
        """
        route = self._routes[_ROUTE]
        (image,) = conversation.images
        least = counted_from(route) or 0.0
        presence, maybe = (route.decoder.settings.get(name) for name in ("presence", "maybe"))
        detections: list[Detections] = []
        best: list[float] = []

        def find(phrase: str, threshold: float) -> Detections:
            found = self._predictor.detect((phrase,), image, threshold)
            # That nothing is called by a word that was never taught tells nothing.
            nothing = 0.5 if found.unknown_words else threshold
            best.append(max((each.score for each in found), default=nothing))
            detections.append(found.filter(min_score=least) or found[:1])
            return found

        inputs, write = self._engine.prompt_inputs(conversation, options), self._engine.write
        others = [each.token_id for name, each in self._routes.items() if name != _ROUTE]
        next_turn = turns_of(self._backbone, inputs, options, others, write=write)
        gather = EvidenceFinder(find, self._colour_namer(image), least, presence, maybe)
        last_turn = None
        if constraint is not None:
            last_turn = turns_of(
                self._backbone, inputs, options, [*others, route.token_id], constraint=constraint, write=write
            )
        answer = answer_with_evidence(next_turn, gather, self._backbone, route.token_id, last_turn=last_turn)
        free = answer.free_words(self._backbone)
        return replace(
            answer,
            detections=tuple(detections),
            confidence=_confidence(answer.turns, answer.evidence, best, answer.words),
            free_confidence=_confidence((*answer.turns[:-1], answer.free), answer.evidence, best, free)
            if answer.free is not None and free is not None
            else 0.0,
        )

    def _colour_namer(self, image: Image.Image) -> NameColour:
        return lambda box: next(iter(object_colours(self._routes, self._predictor, image, box)), None)


class EvidenceFinder:
    """Finds the evidence on phrases in one image; keeps the last, to compare the next with it.

    Args:
        find: the image's detector.
        colour: names the colour of an object that was found.
        least: an object with at least this score counts.
        surely_one: there is at least one object where the best score reaches this; None for `least`. Lower than
            `least` where a detector that counts well would miss too many to say that there are none.
        maybe_one: there may be one object where the best score reaches this; None for `surely_one`.
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
        self._before: Observation | None = None

    def __call__(self, phrase: str, relation: str | None = None) -> Evidence:
        """Return the evidence on a phrase, and whether the phrase before stands in that relation to it."""
        found = self._find(phrase, min(self._least, self._surely_one, self._maybe_one))
        best = max(found, key=lambda each: each.score, default=None)
        before, self._before = self._before, None
        if best is None:
            return Evidence(phrase=phrase, count=0)
        sure = best.score >= min(self._least, self._surely_one)
        count = max(1, len(found.filter(min_score=self._least))) if sure else 0
        here = self._before = Observation(count, best.box)
        return Evidence(
            phrase=phrase,
            count=count,
            maybe=not sure,
            colour=_colour_in(phrase) or self._colour(best.box) or UNCLEAR,
            place=place_of(best.box, found.image_size),
            verdict=Comparison.of(before, here, found.image_size).verdict(relation) if relation and before else None,
        )


def answer_with_evidence(
    next_turn: Callable[[tuple[int, ...]], GenerationOutput],
    gather: Callable[[str, str | None], Evidence],
    backbone: Backbone,
    token_id: int,
    *,
    say: bool = True,
    last_turn: Callable[[tuple[int, ...]], GenerationOutput] | None = None,
) -> GroundedAnswer:
    """Let the model ask for evidence, at most `MAX_EVIDENCE_REQUESTS` times, and then answer.

    Args:
        next_turn: continues an answer of one row that begins with these tokens. It has to stop at the texts
            `EVIDENCE_REQUESTS`, and `[DET]` is the one route that it may take.
        gather: returns the evidence on a phrase and a relation, such as an `EvidenceFinder`.
        token_id: of `[DET]`.
        say: also gather evidence where the model ends with a bare `[DET]`, so that there are words in any case.
        last_turn: writes the words instead of `next_turn`, such as under a grammar.
    """
    start: tuple[int, ...] = ()
    evidence: list[Evidence] = []
    turns: list[GenerationOutput] = []
    while True:
        turn = next_turn(start)
        turns.append(turn)
        ids = [token for token in turn.answers[0] if token not in backbone.end_ids]
        asked = _asked(backbone, ids, token_id, say)
        if (asked is None or len(evidence) == MAX_EVIDENCE_REQUESTS) and last_turn is not None:
            turns[-1] = last_turn(start)
            ids = [token for token in turns[-1].answers[0] if token not in backbone.end_ids]
            return GroundedAnswer(backbone.decode_text(ids).strip(), tuple(evidence), tuple(turns), free=turn)
        if asked is None or len(evidence) == MAX_EVIDENCE_REQUESTS:
            words = ids[len(ids) - ids[::-1].index(token_id) :] if token_id in ids else ids
            text = _REQUESTS.sub("", backbone.decode_text(words)).strip()
            return GroundedAnswer(text, tuple(evidence), tuple(turns))
        phrase, relation, size = asked
        evidence.append(gather(phrase, relation))
        given = [*backbone.text_ids(evidence_request(relation)), *backbone.text_ids(evidence[-1].text)]
        start = (*start, *ids[:size], *given)


def is_about(looks: Sequence[Evidence], request: str) -> bool:
    """Return whether the model looked for what the request names, or found what it looked for.

    Asked what it was not taught, it looks for words of its own making, finds nothing, and says so.
    """
    asked = request.lower()
    for look in looks:
        words = re.findall(r"\w+", look.phrase.lower())
        if look.count or look.maybe or 2 * sum(word[:4] in asked for word in words) > len(words):
            return True
    return False


def turns_of(
    backbone: Backbone,
    inputs: PromptInputs,
    options: GenerationOptions,
    forbidden: Sequence[int],
    prefixes: PrefixCache | None = None,
    *,
    constraint: Constraint | None = None,
    write: Write | None = None,
) -> Callable[[tuple[int, ...]], GenerationOutput]:
    """Return what `answer_with_evidence` takes as `next_turn`, for one prompt.

    Args:
        forbidden: token ids that must not be generated: those of all routes but `[DET]`.
        prefixes: caches keys and values, so that each turn feeds only what is new.
        write: generates a turn, with a cache of its own; None to generate it here and now.
        constraint: the grammar of the turn; under one, evidence is not asked for.
    """
    requests = EVIDENCE_REQUESTS if constraint is None else ()
    until_request = options.model_copy(update={"stop": (*options.stop, *requests)})

    def next_turn(start: tuple[int, ...]) -> GenerationOutput:
        longer = replace(inputs, ids=(*inputs.ids, *start))
        if write is not None:
            return write(longer, until_request, forbidden, constraint)
        return generate(
            backbone, [longer], until_request, forbidden=forbidden, constraints=[constraint], prefixes=prefixes
        )

    return next_turn


def _confidence(
    turns: Sequence[GenerationOutput], looks: Sequence[Evidence], best: Sequence[float], words: str
) -> float:
    """The probability of the least probable turn and of all evidence, each with the score of its clearest object."""
    sure = min(turn.confidence(0) for turn in turns)
    for evidence, score in zip(looks, best, strict=True):
        sure *= _certainty(evidence, score, words)
    return sure


def _certainty(evidence: Evidence, score: float, words: str) -> float:
    """How probable it is, 0-1, that the evidence is right: that the clearest object is there, or that none is."""
    if evidence.count or (evidence.maybe and not _DENIES.match(words)):
        return score
    return 1.0 - score


def _asked(backbone: Backbone, ids: Sequence[int], token_id: int, say: bool) -> tuple[str, str | None, int] | None:
    """The phrase, the relation, and how many tokens lead up to the routing token and include it; None for words."""
    if token_id not in ids:
        return None
    place = ids.index(token_id)
    phrase = backbone.decode_text(ids[:place]).strip()
    after = backbone.decode_text(ids[place + 1 :]).strip()
    request = _REQUESTS.match(after)
    if not phrase or (request is None and (after or not say)):
        return None
    return phrase, request["relation"] if request else None, place + 1


def _colour_in(phrase: str) -> str | None:
    """The colour that the phrase names itself: the detector was asked for it."""
    first = phrase.split(maxsplit=1)[:1]
    return first[0] if first and first[0] in COLOURS else None
