"""Questions that need looking, answered from evidence (see `vision_agent.inference.evidence`).

An answer is the phrase with its routing token, a look, the evidence, and what it means for the question. Evidence is
random in rows of text, and follows the scene's boxes beside images; the answer follows the evidence in both. So what
is trained is to look and to believe what was seen, and no answer can be guessed from how often it is right.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vision_agent.data.scene import Scene
from vision_agent.data.text.dialogue import Exchange, Part, PhraseTarget
from vision_agent.data.text.phrases import Phrases
from vision_agent.data.text.question_templates import QUESTIONS, RELATION_WORDS, WHICH_WORDS
from vision_agent.data.text.sentence_templates import one
from vision_agent.inference.colors import COLOURS
from vision_agent.inference.evidence import (
    COUNT_WORDS,
    EVEN,
    EVIDENCE_REQUEST,
    MIDDLE,
    PLACES,
    UNCLEAR,
    Comparison,
    Evidence,
    Observation,
    Verdict,
    count_word,
    evidence_request,
    place_of,
)
from vision_agent.inference.nouns import plural, with_article
from vision_agent.results.box import Box

CANNOT_TELL = "i can't tell"
UNSURE = ", i think"  # ends an answer about what may not be there
_ABSENT = 0.25  # of the random evidence
_MAYBE = 0.12
_NOTHING = Comparison(side=EVEN, height=EVEN, size=EVEN, number=EVEN)
_UNCLEAR = 0.06


@dataclass(frozen=True)
class Look:
    """What is looked for and what is seen.

    Attributes:
        target: its boxes in the training image, where there is one.
        beside: what was seen before compared with it; None where one of them is missing.
        relation: asked for.
    """

    evidence: Evidence
    target: PhraseTarget | None = None
    beside: Comparison | None = None
    relation: str | None = None

    def asked(self, relation: str) -> "Look":
        """Return the same look, with a relation asked for."""
        verdict = self.beside.verdict(relation) if self.beside else None
        return replace(self, relation=relation, evidence=self.evidence.model_copy(update={"verdict": verdict}))

    @property
    def phrase(self) -> str:
        return self.evidence.phrase

    @property
    def there(self) -> bool:
        return self.evidence.count > 0

    @property
    def missing(self) -> bool:
        """Whether there is nothing to say about it, not even perhaps."""
        return not self.there and not self.evidence.maybe


# Looks for one object, or for several by their plural, after what was seen before.
Looker = Callable[[bool, Look | None], Look]


def random_question(phrases: Phrases, rng: np.random.Generator) -> Exchange:
    """Return a question about nothing in particular: random objects, random evidence."""

    def look(many: bool, before: Look | None) -> Look:
        if rng.random() < 0.5:
            phrase = phrases.phrase(rng)
        else:
            phrase = plural(one(phrases.names, rng)) if many else phrases.name(rng)
        evidence = random_evidence(phrase, rng)
        seen = before is not None and not before.missing and (evidence.count or evidence.maybe)
        return Look(evidence, beside=_random_comparison(rng) if seen else None)

    return question(look, rng)


def scene_question(
    scene: Scene, present: list[PhraseTarget], absent: list[PhraseTarget], rng: np.random.Generator
) -> Exchange:
    """Return a question about what is in a scene and what is not; at least one of the two lists is not empty."""
    seen: dict[str, Observation] = {}

    def look(many: bool, before: Look | None) -> Look:
        pool = present if present and (not absent or rng.random() < 1 - _ABSENT) else absent
        others = [target for target in pool if before is None or not before.phrase.startswith(target.phrase)] or pool
        target = others[rng.integers(len(others))]
        if many and not target.phrase.endswith("s"):
            target = replace(target, phrase=plural(target.phrase))
        # What the decoder may take for an absent object has to be read like one that is there.
        maybe = bool(rng.random() < _MAYBE)
        if not target.owned and not maybe:
            return Look(Evidence(phrase=target.phrase, count=0), target)
        boxes: NDArray[np.float32] = scene.boxes[list(target.owned)] if target.owned else _any_box(scene, rng)
        clearest = int(((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).argmax())
        mine = seen[target.phrase] = Observation(0 if maybe else len(boxes), Box.from_xyxy(boxes[clearest]))
        # Where nobody knows the colour any will do: the answer has to follow what the evidence says.
        colour = (scene.colours[target.owned[clearest]] if target.owned else None) or _random_colour(rng)
        other = seen.get(before.phrase) if before is not None else None
        evidence = Evidence(
            phrase=target.phrase,
            count=mine.count,
            maybe=maybe,
            colour=colour,
            place=place_of(mine.box, scene.image.size),
        )
        return Look(evidence, target, Comparison.of(other, mine, scene.image.size) if other else None)

    return question(look, rng)


def place_answer(phrase: str, evidence: Evidence, request: str, target: PhraseTarget | None = None) -> Exchange:
    """Return what is said of a place where words are wanted.

    The model ends with `[DET]`, and the agent looks all the same.
    """
    words = _seen_or(Look(evidence), _standing)
    given = (Part(EVIDENCE_REQUEST, given=True), Part(evidence.text, given=True), Part(words))
    return Exchange(request, phrase, "det", target, given)


def random_evidence(phrase: str, rng: np.random.Generator) -> Evidence:
    """Return evidence of any content, every answer as likely as any other."""
    if rng.random() < _ABSENT:
        return Evidence(phrase=phrase, count=0)
    maybe = bool(rng.random() < _MAYBE)
    return Evidence(
        phrase=phrase,
        count=0 if maybe else 1 if rng.random() < 0.4 else int(rng.integers(1, len(COUNT_WORDS) + 1)),
        maybe=maybe,
        colour=_random_colour(rng),
        place=one(PLACES, rng),
    )


def _random_comparison(rng: np.random.Generator) -> Comparison:
    words = (("left", "right"), ("above", "below"), ("bigger", "smaller"), ("more", "fewer"))
    drawn = [one((*pair, *pair, EVEN), rng) for pair in words]
    return Comparison.model_validate(dict(zip(("side", "height", "size", "number"), drawn, strict=True)))


def question(look: Looker, rng: np.random.Generator) -> Exchange:
    """Return a question of any kind about what `look` finds."""
    makers = (
        *(_presence, _presence, _presence, _count, _count, _number, _colour, _colour, _of_colour, _of_two_colours),
        *(_side, _on_side, _like, _presence_of_two, *[_relation] * 8, _side_of, _side_of, _which, _which, _more),
    )
    return makers[rng.integers(len(makers))](look, rng)


# One object ----------------------------------------------------------------------------------------------------------


def _presence(look: Looker, rng: np.random.Generator) -> Exchange:
    seen = look(bool(rng.random() < 0.4), None)
    return _told(QUESTIONS["presence"].make(seen.phrase, rng), "yes" if seen.there else f"no, {_unseen(seen)}", seen)


def _count(look: Looker, rng: np.random.Generator) -> Exchange:
    seen = look(True, None)
    answer = f"{count_word(1)}{UNSURE}" if seen.evidence.maybe else count_word(seen.evidence.count)
    return _told(QUESTIONS["count"].make(seen.phrase, rng), answer, seen)


def _number(look: Looker, rng: np.random.Generator) -> Exchange:
    seen = look(True, None)
    count = seen.evidence.count
    asked = count if 1 <= count <= 10 and rng.random() < 0.5 else int(rng.integers(1, 11))
    answer = "yes" if count == asked else f"no, {count_word(count)}"
    return _told(QUESTIONS["number"].make(seen.phrase, rng).replace("#", COUNT_WORDS[asked]), answer, seen)


def _colour(look: Looker, rng: np.random.Generator) -> Exchange:
    seen = look(False, None)
    return _told(QUESTIONS["colour"].make(seen.phrase, rng), _seen_or(seen, _colour_answer), seen)


def _of_colour(look: Looker, rng: np.random.Generator) -> Exchange:
    seen = look(False, None)
    colour = seen.evidence.colour or UNCLEAR
    asked = colour if colour != UNCLEAR and rng.random() < 0.5 else one(COLOURS, rng)

    def answer(evidence: Evidence) -> str:
        if colour == UNCLEAR:
            return CANNOT_TELL
        return "yes" if asked == colour else f"no, it is {colour}"

    return _told(QUESTIONS["of_colour"].make(seen.phrase, rng).replace("#", asked), _seen_or(seen, answer), seen)


def _of_two_colours(look: Looker, rng: np.random.Generator) -> Exchange:
    seen = look(False, None)
    asked = [one(COLOURS, rng), seen.evidence.colour or UNCLEAR]
    if asked[1] == UNCLEAR or rng.random() < 0.1:
        asked[1] = one(COLOURS, rng)
    rng.shuffle(asked)
    request = QUESTIONS["of_two_colours"].make(seen.phrase, rng).replace("#", asked[0], 1).replace("#", asked[1], 1)
    return _told(request, _seen_or(seen, _colour_answer), seen)


def _side(look: Looker, rng: np.random.Generator) -> Exchange:
    seen = look(False, None)
    return _told(QUESTIONS["side"].make(seen.phrase, rng), _seen_or(seen, _side_answer), seen)


def _on_side(look: Looker, rng: np.random.Generator) -> Exchange:
    seen = look(False, None)
    asked = one(("left", "right", "top", "bottom"), rng)

    def answer(evidence: Evidence) -> str:
        place = (evidence.place or MIDDLE).split()
        return "yes" if asked in place else f"no, {_standing(evidence)}"

    return _told(QUESTIONS["on_side"].make(seen.phrase, rng).replace("#", asked), _seen_or(seen, answer), seen)


def _like(look: Looker, rng: np.random.Generator) -> Exchange:
    seen = look(False, None)

    def answer(evidence: Evidence) -> str:
        return f"it is {_standing(evidence)}" if evidence.colour == UNCLEAR else _looking_and_standing(evidence)

    return _told(QUESTIONS["like"].make(seen.phrase, rng), _seen_or(seen, answer), seen)


# Two objects ---------------------------------------------------------------------------------------------------------


def _presence_of_two(look: Looker, rng: np.random.Generator) -> Exchange:
    first = look(False, None)
    second = look(False, first)
    request = _about_two(QUESTIONS["presence_of_two"].make("#", rng), first, second)
    missing = next((each for each in (first, second) if not each.there), None)
    looks = (first,) if missing is first else (first, second)
    return _told(request, f"no, {_unseen(missing)}" if missing else "yes", *looks)


def _relation(look: Looker, rng: np.random.Generator) -> Exchange:
    first = look(False, None)
    second = look(False, first)
    # More often true than not, as a missing object makes for a "no" too.
    true = [word for word in (second.beside or _NOTHING).words if word in RELATION_WORDS]
    wanted = one(true, rng) if true and rng.random() < 0.5 else one(tuple(RELATION_WORDS), rng)
    request = _about_two(
        QUESTIONS["relation"].make("#", rng).replace("@", one(RELATION_WORDS[wanted], rng)), first, second
    )
    return _compared(request, first, second.asked(wanted), {"yes": "yes", "no": "no", EVEN: "no"}, "no, ")


def _side_of(look: Looker, rng: np.random.Generator) -> Exchange:
    first = look(False, None)
    second = look(False, first).asked("left")
    request = _about_two(QUESTIONS["side_of"].make("#", rng), first, second)
    return _compared(request, first, second, {"yes": "on the left", "no": "on the right", EVEN: CANNOT_TELL})


def _which(look: Looker, rng: np.random.Generator) -> Exchange:
    first = look(False, None)
    second = look(False, first)
    wanted = one(tuple(WHICH_WORDS), rng)
    request = _about_two(QUESTIONS["which"].make("#", rng).replace("@", wanted), first, second)
    answers: dict[Verdict, str] = {"yes": f"the {first.phrase}", "no": f"the {second.phrase}", EVEN: CANNOT_TELL}
    return _compared(request, first, second.asked(WHICH_WORDS[wanted]), answers)


def _more(look: Looker, rng: np.random.Generator) -> Exchange:
    first = look(True, None)
    second = look(True, first)
    wanted = one(("more", "fewer"), rng)
    request = _about_two(QUESTIONS["more"].make("#", rng).replace("@", wanted), first, second)
    return _compared(request, first, second.asked(wanted), {"yes": "yes", "no": "no", EVEN: "no"}, "no, ")


# How answers are written --------------------------------------------------------------------------------------------


def _told(request: str, words: str, *looks: Look) -> Exchange:
    """The exchange in which these looks are taken and these words said."""
    parts: list[Part] = []
    for look in looks:
        seen = Part(look.evidence.text, given=True)
        parts += [Part(look.phrase, "det", look.target), Part(evidence_request(look.relation)), seen]
    return Exchange(request, parts[0].text, "det", parts[0].target, (*parts[1:], Part(words)))


def _compared(request: str, first: Look, second: Look, answers: Mapping[Verdict, str], no: str = "") -> Exchange:
    """Two looks and the answer to the verdict, or one look where the first object is not there."""
    if first.missing:
        return _told(request, no + _unseen(first), first)
    verdict = second.evidence.verdict
    if verdict is None:
        return _told(request, no + _unseen(second), first, second)
    return _told(request, _hedged(answers[verdict], first, second), first, second)


def _about_two(request: str, first: Look, second: Look) -> str:
    """The request, with both phrases in the places of the two `#`."""
    before, between, after = request.split("#")
    return f"{before}{first.phrase}{between}{second.phrase}{after}"


def _seen_or(seen: Look, answer: Callable[[Evidence], str]) -> str:
    return _unseen(seen) if seen.missing else _hedged(answer(seen.evidence), seen)


def _hedged(answer: str, *looks: Look) -> str:
    """The answer, with `UNSURE` where it is about what may not be there."""
    sure = answer == CANNOT_TELL or all(look.there for look in looks)
    return answer if sure else answer + UNSURE


def _unseen(seen: Look) -> str:
    phrase = seen.phrase
    return f"i can't see {f'any {phrase}' if phrase.endswith('s') else with_article(phrase)}"


def _colour_answer(evidence: Evidence) -> str:
    return CANNOT_TELL if evidence.colour in (None, UNCLEAR) else str(evidence.colour)


def _side_answer(evidence: Evidence) -> str:
    sides = [word for word in (evidence.place or "").split() if word in ("left", "right")]
    return f"on the {sides[0]}" if sides else f"in the {MIDDLE}"


def _standing(evidence: Evidence) -> str:
    place = evidence.place or MIDDLE
    return f"{'in' if place == MIDDLE else 'at' if place[0] in 'tb' else 'on'} the {place}"


def _looking_and_standing(evidence: Evidence) -> str:
    return f"it is {evidence.colour}, {_standing(evidence)}"


def _any_box(scene: Scene, rng: np.random.Generator) -> NDArray[np.float32]:
    """One box (1, 4) anywhere in the image."""
    width, height = scene.image.size
    (x0, x1), (y0, y1) = np.sort(rng.random((2, 2))) * [[width], [height]]
    return np.array([[x0, y0, x1, y1]], dtype=np.float32)


def _random_colour(rng: np.random.Generator) -> str:
    return UNCLEAR if rng.random() < _UNCLEAR else one(COLOURS, rng)
