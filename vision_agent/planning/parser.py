"""Reads a request of several steps as a plan: "find every red car and read its plate".

A small model routes one request well but cannot plan. So a request is cut into clauses (clauses.py), and each clause is
read by a small grammar: a verb, the objects it is about, and what it refers to ("it", "its plate", "each", "the
largest"). The grammar is deterministic and knows nothing of the image: no word that is read from an image can change a
plan. A clause whose verb leaves open what is wanted ("show me the dog") is left to the model's own routing. What cannot
be read is refused with the reason, never guessed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from vision_agent.inference.image_refs import named_images
from vision_agent.planning.clauses import (
    ARTICLE,
    IF_NOT,
    IF_SO,
    IF_THERE,
    NOUN,
    QUANTIFIER,
    SUPERLATIVE,
    SUPERLATIVES,
    WHOLE,
    bare,
    find_verb,
    same_object,
    split_clauses,
    without_leads,
    without_tail,
)
from vision_agent.planning.objects import phrases_of
from vision_agent.planning.plan import Action, Measure, Pick, Plan, PlannedStep

_PRONOUN = (
    r"(?:it|them|they|those|these|that|this|him|her|each(?: one)?(?: of (?:them|those|these))?|"
    r"every one(?: of them)?|all of (?:them|those|these)|both(?: of them)?|one another)"
)
_MANY = re.compile(r"^(?:them|they|those|these|each|every|all|both)\b", re.IGNORECASE)
_REFERENCE = re.compile(rf"^{_PRONOUN}$", re.IGNORECASE)
_PART = re.compile(r"^(?:its|their|his|her)\s+(?P<part>.+)$", re.IGNORECASE)
_PART_OF = re.compile(rf"^(?:the\s+)?(?P<part>.+?)\s+(?:of|on|in|inside|from)\s+(?:{_PRONOUN})$", re.IGNORECASE)
_SIDE = re.compile(
    r"^(?:(?P<phrase>.+?)\s+(?:on|at|to|in)\s+)?the\s+(?:(?:far|very)\s+)?(?P<side>left|right|top|bottom)"
    r"(?:[ -]hand)?(?:\s+(?:side|edge|half|corner))?$",
    re.IGNORECASE,
)
_SIDES: dict[str, Pick] = {"left": "leftmost", "right": "rightmost", "top": "topmost", "bottom": "lowest"}
_UNKNOWN = re.compile(r"^(?:the\s+)?(?:\w+est|most \w+|least \w+)(?:\s+one)?$", re.IGNORECASE)
_WHICH_ONE = re.compile(r"^which(?: one| of them)?\s+(?:is|are)\s+(?P<rest>.+)$", re.IGNORECASE)
_TEXT = re.compile(
    r"^(?:the |all |all the |any |some )?(?:text|words?|writing|letters|numbers?|names?|titles?|prices?|dates?)"
    r"(?: (?:of|on|in|from) (?P<on>.+))?$",
    re.IGNORECASE,
)
_SAYS = re.compile(
    r"^what\s+(?:does|do)\s+(?P<a>.+?)\s+say$|^what\s+(?P<b>.+?)\s+says?$|^what\s+is\s+written\s+on\s+(?P<c>.+)$",
    re.IGNORECASE,
)
_COMPARED: tuple[tuple[str, Measure, bool], ...] = (
    (r"brighter|lighter|brightest|lightest", "brightness", False),
    (r"darker|darkest", "brightness", True),
    (r"sharper|sharpest|crisper", "sharpness", False),
    (r"blurrier|blurriest|more blurred", "sharpness", True),
    (r"larger|bigger|largest|biggest", "size", False),
    (r"smaller|smallest", "size", True),
)
_MORE = re.compile(
    r"\b(?P<how>more|most|fewer|fewest|less)\s+(?P<phrase>[\w -]+?)(?:\s+(?:than|in)\b.*)?$", re.IGNORECASE
)
_OF_IMAGES = re.compile(rf"\b{NOUN}s?\b|\b(?:which|left|right|first|second|third|last) one\b", re.IGNORECASE)
_EACH_IMAGE = re.compile(rf"\b(?:both|each|every|all)\b(?: of)?(?: the| these| those)?(?: \w+)? ?{NOUN}s?\b", re.I)


def read_plan(request: str, images: int) -> Plan | None:
    """Read the plan of a request about so many images; None for a request of one step, which the model routes itself.

    The plan may be empty and say why: a clause that is part of a larger request and cannot be read.
    """
    clauses = split_clauses(request)
    steps: list[PlannedStep] = []
    for clause in clauses:
        step = _Reader(steps, images).read(clause)
        if isinstance(step, _Refusal):
            return Plan(refused=step.reason) if len(clauses) > 1 or step.sure else None
        steps.append(step)
    if not steps or (len(steps) == 1 and not _stands_alone(steps[0], images)):
        return None
    return Plan(steps=tuple(steps))


def _stands_alone(step: PlannedStep, images: int) -> bool:
    """Whether a plan of this one step does what one routed answer would not."""
    if step.action in ("crop", "compare") or step.pick not in ("each", "best"):
        return True
    if step.action == "count" and len(phrases_of(step.phrase)) > 1:  # "how many dogs and cats?": of each
        return True
    one_by_one = step.action in ("count", "describe", "read") and not step.images
    return one_by_one and images > 1 and _EACH_IMAGE.search(step.clause) is not None


@dataclass(frozen=True)
class _Target:
    """What a clause is about: see `PlannedStep`. `refers`: it points back, and `of` says where to."""

    phrase: str = ""
    of: int | None = None
    pick: Pick = "each"
    refers: bool = False


@dataclass(frozen=True)
class _Refusal:
    """Why a clause cannot be read. `sure`: the model, asked for it alone, could only guess."""

    reason: str
    sure: bool = False


class _Reader:
    """Reads one clause after those before it."""

    def __init__(self, before: Sequence[PlannedStep], images: int) -> None:
        self._before = before
        self._images = images

    def read(self, clause: str) -> PlannedStep | _Refusal:
        condition = self._condition(clause)
        if isinstance(condition, _Refusal):
            return condition
        step = self._unconditional(clause)
        return step if isinstance(step, _Refusal) else step.model_copy(update={"only_if": condition})

    def _condition(self, clause: str) -> int | _Refusal | None:
        """The step that must have found something for this clause to be carried out."""
        if IF_NOT.match(clause) is not None:
            return _Refusal(f"{clause!r} is for when something is not there; only what is there can be a condition")
        after_if = bool(self._before) and re.match(IF_THERE, self._before[-1].clause, re.IGNORECASE)
        if IF_SO.match(clause) is None and not after_if:
            return None
        last = next(
            (n for n in reversed(range(len(self._before))) if self._before[n].action in ("find", "count")), None
        )
        if last is None or self._before[-1].action == "ask":
            return _Refusal(f"{clause!r} depends on something that is not looked for before it", sure=True)
        return last

    def _unconditional(self, clause: str) -> PlannedStep | _Refusal:
        words = without_leads(clause)
        named = named_images(words, self._images)
        comparison = self._comparison(words, clause, named)
        if comparison is not None:
            return comparison
        says = _SAYS.match(words)
        if says is not None:
            return self._done("read", clause, next(filter(None, says.groups())), named)
        found = find_verb(words)
        if (
            found is None
            and self._before
            and (SUPERLATIVE.match(words) is not None or (named and ARTICLE.match(words)))
        ):
            # "outline the largest and the smallest", "find the dog in image 1 and the cat in image 2"
            found = self._before[-1].action, words
        if found is None:
            return _Refusal(f"there is no step for {clause!r}")
        action, rest = found
        if action == "compare":
            return _Refusal(
                f"{clause!r} cannot be compared: only whole images can, by brightness, sharpness, size, or the "
                'number of objects, as in "which image has more dogs?"'
            )
        if action == "ask":
            return self._question(clause, rest, named)
        if action in ("draw", "change"):
            of = self._last_image() if action == "change" else None
            text = rest if action == "draw" else words
            return PlannedStep(action=action, clause=clause, text=text, of=of, images=named)
        if action == "read":
            text_of = _TEXT.match(without_tail(rest))
            rest = (text_of["on"] or "") if text_of is not None else rest
            says = _SAYS.match(rest)
            rest = next(filter(None, says.groups())) if says is not None else rest
        return self._done(action, clause, rest, named)

    def _done(self, action: Action, clause: str, rest: str, named: tuple[int, ...]) -> PlannedStep | _Refusal:
        target = self._target(rest)
        if isinstance(target, _Refusal):
            return target
        last = self._last_objects()
        if action in ("crop", "outline", "find", "count") and not rest and last is not None:  # "zoom in"
            target = _Target(of=last, pick=self._picked("it", last))
        if action == "route" and target.refers:
            actions = "find, outline, crop, read, describe or count"
            return _Refusal(f"{clause!r} does not say what to do with {rest!r}: {actions}")
        if action in ("find", "count", "outline") and not target.phrase and target.of is None:
            return _Refusal(f"{clause!r} does not say what to {action}")
        return PlannedStep(
            action=action, clause=clause, phrase=target.phrase, of=target.of, pick=target.pick, images=named
        )

    def _target(self, rest: str) -> _Target | _Refusal:
        text = without_tail(rest)
        if not text or WHOLE.match(text):
            return _Target()
        last = self._last_objects()
        if _REFERENCE.match(text):
            return _Target(of=last, pick=self._picked(text, last), refers=True)
        part = _PART.match(text) or _PART_OF.match(text)
        # "the largest of them" is no part of them
        if part is not None and SUPERLATIVE.sub(r"\g<phrase>", part["part"]):
            return _Target(bare(part["part"], keep_plural=True), last, self._picked(text, last), refers=True)
        superlative = SUPERLATIVE.match(text)
        if superlative is not None:
            return self._superlative(text, SUPERLATIVES[superlative["which"].lower()], superlative["phrase"])
        side = _SIDE.match(text)
        if side is not None:
            phrase = bare(side["phrase"] or "", keep_plural=True)
            if not phrase:
                return _Refusal(f"{text!r} names a side of the image, not an object in it")
            if phrase == bare(phrase):  # "people on the left" are several
                return self._superlative(text, _SIDES[side["side"].lower()], "" if phrase == "one" else phrase)
        if _UNKNOWN.match(text):
            return _Refusal(
                f"{text!r} cannot be told: it may be one of {', '.join(dict.fromkeys(SUPERLATIVES.values()))}",
                sure=True,
            )
        quantified = QUANTIFIER.match(text) is not None
        definite = ARTICLE.match(text) is not None
        phrase = bare(text, keep_plural=True)
        earlier = self._step_of(phrase) if definite or quantified else None
        single: Pick = "best" if definite and not quantified and phrase == bare(text) else "each"
        return _Target("" if earlier is not None else phrase, earlier, single, refers=earlier is not None)

    def _superlative(self, text: str, pick: Pick, words: str) -> _Target | _Refusal:
        """One of several objects, of an earlier step or of the images."""
        phrase = bare(words, keep_plural=True)
        earlier = self._step_of(phrase) if phrase else self._last_many()
        if not phrase and earlier is None:
            return _Refusal(f"{text!r} refers to nothing before it", sure=True)
        return _Target("" if earlier is not None else phrase, earlier, pick, refers=earlier is not None)

    def _question(self, clause: str, question: str, named: tuple[int, ...]) -> PlannedStep | _Refusal:
        """A question; where it speaks of an earlier object it is asked of a closer look at that object."""
        last = self._last_objects()
        label = self._label(last)
        which = _WHICH_ONE.match(question)
        if (
            which is not None
            and last is not None
            and (SUPERLATIVE.match(which["rest"]) or _UNKNOWN.match(which["rest"]))
        ):
            return self._done("find", clause, which["rest"], named)
        if last is not None and re.search(r"\b(?:it|its|they|them|their|each|he|she)\b", question, re.IGNORECASE):
            part = _PART.match(question)
            text = f"what is the {part['part']} of it" if part is not None else question
            text = re.sub(r"\b(?:its|their)\b", "the", text, flags=re.IGNORECASE)
            text = re.sub(r"\b(?:it|they|them|he|she|each of them|each)\b", f"the {label}", text, flags=re.IGNORECASE)
            return PlannedStep(action="ask", clause=clause, text=text, of=last, pick=self._picked(question, last))
        for number in reversed(range(len(self._before))):
            phrase = self._before[number].phrase
            if phrase and re.search(rf"\b(?:the|this|that|each|every)\s+{re.escape(bare(phrase))}\b", question):
                return PlannedStep(
                    action="ask", clause=clause, text=question, of=number, pick=self._picked("it", number)
                )
        return PlannedStep(action="ask", clause=clause, text=question, images=named)

    def _comparison(self, words: str, clause: str, named: tuple[int, ...]) -> PlannedStep | _Refusal | None:
        """A comparison of images: by a measure, or by the number of objects."""
        if not _OF_IMAGES.search(words):
            return None
        more = _MORE.search(words)
        measure: Measure | None = None
        less, phrase = False, ""
        for pattern, which, smaller in _COMPARED:
            if re.search(rf"\b(?:{pattern})\s+{NOUN}\b|\b{NOUN}.*\b(?:{pattern})\b|\bone\b.*\b(?:{pattern})\b", words):
                measure, less = which, smaller
                break
        if measure is None and more is not None and more["phrase"] not in ("light", "blurred", "blur"):
            measure, phrase = "count", bare(more["phrase"], keep_plural=True)
            less = more["how"].lower() in ("fewer", "fewest", "less")
        if measure is None or (
            measure == "size" and not re.search(r"^(?:is|are|which|compare)\b", words, re.IGNORECASE)
        ):
            return None
        if self._images < 2:
            count = f"there is {self._images}" if self._images == 1 else "there are none"
            return _Refusal(f"{clause!r} compares images, but {count}", sure=True)
        return PlannedStep(action="compare", clause=clause, phrase=phrase, measure=measure, less=less, images=named)

    def _last_objects(self) -> int | None:
        """The last step that has objects to refer to."""
        having = ("find", "count", "outline", "crop", "draw", "change")
        for number in reversed(range(len(self._before))):
            step = self._before[number]
            if step.action in having or step.phrase:
                return number
        return None

    def _last_many(self) -> int | None:
        """The last step that may have several objects to pick from."""
        last = self._last_objects()
        while last is not None and self._before[last].pick not in ("each", "best"):
            last = self._before[last].of
        return last

    def _last_image(self) -> int | None:
        """The last step that made an image."""
        made = (n for n in reversed(range(len(self._before))) if self._before[n].action in ("draw", "change", "crop"))
        return next(made, None)

    def _step_of(self, phrase: str) -> int | None:
        """The last step about the objects of this phrase."""
        named = (n for n in reversed(range(len(self._before))) if same_object(self._before[n].phrase, phrase))
        return next(named, None)

    def _picked(self, reference: str, of: int | None) -> Pick:
        """ "them" are each of the objects; "it" is what the clause before was about."""
        if of is None or _MANY.match(reference):
            return "each"
        # What was picked there already is not picked again.
        return self._before[of].pick if self._before[of].action in ("find", "count") else "each"

    def _label(self, of: int | None) -> str:
        """What the objects of a step are called."""
        while of is not None:
            step = self._before[of]
            if step.phrase:
                return bare(step.phrase)
            of = step.of
        return "picture"
