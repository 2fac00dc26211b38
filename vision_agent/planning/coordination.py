"""Requests for several objects at once: "find the dog, the red ball and every person" asks for three things."""

import re
from itertools import pairwise

from vision_agent.planning.clauses import ARTICLE, QUANTIFIER, find_verb, split_clauses, without_leads, without_tail

_SEPARATOR = re.compile(
    r"\s*(?:,\s*(?:and|or|&|plus|as well as)\s|,|;|\band/or\b|\bas well as\b|\bplus\b|\band\b|\bor\b|\s&\s|\s\+\s)\s*",
    re.IGNORECASE,
)
_LEAD = re.compile(r"^(?:(?:also|then|both|either|at|to|on|around|over|for|its|their|his|her)\s+)+", re.IGNORECASE)
# Words after which "and" may belong to what is told of the one object: "the man between the dog and the car".
_TOLD = re.compile(
    r"\b(?:between|with|without|wearing|holding|carrying|having|that|which|who|whose|where|near|beside|behind|"
    r"under|above|below|next|about|made|called|named|not|but|except|from|against)\b|\bof (?:the|this|that|its)\b",
    re.IGNORECASE,
)
_QUALITIES = frozenset(
    "black white red green blue yellow orange brown pink purple grey gray golden gold silver beige violet cyan magenta "
    "dark light bright big small large little tiny huge tall short long wide narrow young old new left right upper "
    "lower top bottom front back first second third other open closed wet dry clean dirty round square striped".split()
)
_FINDING = frozenset({"find", "outline", "route"})
_YES_NO = re.compile(r"^(?:(?:is|are) there|do you see|if\b|see\b|tell me|look at)", re.IGNORECASE)
_MOST = 20


def split_objects(phrase: str) -> list[str]:
    """Split "the dog, a red ball and every person" into its three parts; one part where "and" joins no objects.

    "black and white dog" and "the man between the dog and the car" are one object each.
    """
    parts = [part.strip(" ,;.?!") for part in _SEPARATOR.split(phrase)]
    parts = [_LEAD.sub("", part) for part in parts if part]
    if not 1 < len(parts) <= _MOST or any(not part or find_verb(part) is not None for part in parts):
        return [phrase]
    for part, following in pairwise(parts):
        if _TOLD.search(part) or _TOLD.match(following) or _only_qualities(part):
            return [phrase]
    return parts


def single_requests(request: str) -> list[str]:
    """Return a request for each of the objects that one asks for: "find the dog", "find the red ball".

    The request alone where it asks for one, for words, or for several steps.
    """
    clauses = split_clauses(request)
    if len(clauses) != 1:
        return [request]
    words = without_leads(clauses[0])
    found = find_verb(words)
    if found is None or found[0] not in _FINDING or _YES_NO.match(words):
        return [request]
    objects = found[1].rstrip(" .?!")
    parts = split_objects(objects)
    if len(parts) == 1:
        return [request]
    verb = words[: len(words) - len(found[1])].strip()
    tail = parts[-1][len(without_tail(parts[-1])) :]  # "in the second photo" is about all of them
    return [*(f"{verb} {part}{tail}" for part in parts[:-1]), f"{verb} {parts[-1]}"]


def _only_qualities(part: str) -> bool:
    words = ARTICLE.sub("", QUANTIFIER.sub("", part)).lower().split()
    return bool(words) and all(word in _QUALITIES for word in words)
