"""The words of requests: where a clause begins, its verb, and its object without article, plural and politeness."""

import re

from vision_agent.inference.image_refs import named_images
from vision_agent.planning.plan import Action, Pick

NOUN = r"(?:image|picture|photo|photograph|scene|shot|pic)"
SUPERLATIVES: dict[str, Pick] = {
    "largest": "largest",
    "biggest": "largest",
    "smallest": "smallest",
    "tiniest": "smallest",
    "leftmost": "leftmost",
    "rightmost": "rightmost",
    "topmost": "topmost",
    "highest": "topmost",
    "uppermost": "topmost",
    "lowest": "lowest",
    "bottommost": "lowest",
    "clearest": "best",
    "surest": "best",
    "left one": "leftmost",
    "right one": "rightmost",
    "upper one": "topmost",
    "lower one": "lowest",
}
SUPERLATIVE = re.compile(
    rf"^(?:the\s+)?(?P<which>{'|'.join(SUPERLATIVES)})\b(?:\s+(?:one\b)?\s*(?:of\s+(?:them|those|these|the|all)\b)?)?"
    rf"\s*(?P<phrase>.*)$",
    re.IGNORECASE,
)
WHOLE = re.compile(rf"^(?:the|this|that|each|every|all|both)?\s*(?:\w+\s+)?{NOUN}s?(?:[\s-]*\d+)?$", re.IGNORECASE)
"""An image as a whole: "the second picture", "both photos"."""

IF_SO = re.compile(
    r"(?:and\s+|but\s+)?(?:if (?:so|yes|found)|in that case|"
    r"if (?:there (?:is|are)|you (?:see|find)) (?:one|any|some|it)|if it (?:is|does)|if they (?:are|do))\b[\s,]*",
    re.IGNORECASE,
)
IF_NOT = re.compile(
    r"(?:and\s+|or\s+|but\s+)?"
    r"(?:if not|if (?:there (?:is|are) (?:no|none|not)|nothing|none)|otherwise|or else|else|unless)\b[\s,]*",
    re.IGNORECASE,
)
IF_THERE = r"if (?:there (?:is|are)|you (?:see|find|can see))"

_NUMBER = "two|three|four|five|six|seven|eight|nine|ten"
_VERBS: tuple[tuple[str, Action], ...] = (
    (r"how many|count(?: up)?|number of", "count"),
    (rf"(?:is|are) there|do you see|{IF_THERE}|see(?= an? | any | the )", "find"),
    (r"draw (?:a |the )?box(?:es)? (?:around|on|over)|put (?:a |the )?box(?:es)? (?:around|on|over)", "find"),
    (r"find|locate|detect|spot|search for|look for|identify|point (?:out|at|to)|box|where(?: is| are|'s)", "find"),
    (r"outline|segment|trace|mask|cut out", "outline"),
    (r"crop(?: out| to)?|zoom (?:in )?(?:on|to|into)|zoom in|magnify|enlarge", "crop"),
    (r"read(?: out| off)?|transcribe|ocr", "read"),
    (r"describe|caption", "describe"),
    (r"(?:paint|colou?r)(?= (?:it|them|the|this|that|its) )", "change"),
    (rf"generate|paint|draw(?= (?:an?|some|{_NUMBER}|\d+) )", "draw"),
    (r"(?:make|create) an? (?:new )?(?:image|picture|photo|drawing) of", "draw"),
    (r"edit|change|recolou?r|remove|erase|replace|turn(?= .+ into )", "change"),
    (r"make(?= (?:it|them|the) )", "change"),
    (r"compare", "compare"),
    (r"(?:tell me|say|answer|check|see) (?=what|which|who|whether|if|how|why|where|is|are|does|do)", "ask"),
    (r"(?:tell me|give me|name|say)(?= (?:its|their)\b)", "ask"),
    (r"(?=(?:what|which|who|whose|why|how|is|are|was|does|do|did|has|have)\b)", "ask"),
    (r"show(?: me)?|highlight|mark|get(?: me)?|give me|label|tell me|look at", "route"),
)
_VERB = [(re.compile(rf"(?:{words})(?=\b|\s|$)\s*", re.IGNORECASE), action) for words, action in _VERBS]
_REPEATED = frozenset({"find", "count", "outline", "crop", "read", "describe"})  # "... and the cat in the second photo"
_LEADS = re.compile(
    r"(?:(?:please|kindly|now|also|first|second|next|finally|afterwards|after that|just|hey|ok|okay|and|then|"
    r"(?:can|could|would|will) you|i want you to|i would like you to|try to|for each of them|for each|for every one)"
    r"\b[\s,]*)+",
    re.IGNORECASE,
)
_CUT = re.compile(r"\s*(?:[;.?!]\s+|,?\s*\b(?:and\s+)?then\b,?\s+|,\s*(?:and\s+)?|\s+and\s+)", re.IGNORECASE)
_TAIL = re.compile(
    rf"(?:\s+(?:are (?:there|visible)|is (?:there|visible)|there are|do you see|can you (?:see|count)|you can see|"
    rf"for me|please|here|(?:(?:is|are) )?(?:in|on|of|from) (?:the|this|that|these|both|each|every|all|my)?\s*"
    rf"(?:\w+\s+)?{NOUN}s?(?:[\s-]*\d+)?|in {NOUN}s?[\s-]*\d+|says?|exactly|all|"
    rf"if (?:there (?:is|are)|you see) (?:one|any|it|some)|if any))+$",
    re.IGNORECASE,
)
QUANTIFIER = re.compile(
    rf"^(?:every single|every|each|all of the|all the|all|any|both the|both|(?:the )?(?:{_NUMBER}))\s+", re.IGNORECASE
)
ARTICLE = re.compile(r"^(?:the|a|an|that|this|some|my)\s+", re.IGNORECASE)
_PAIRS = frozenset({"scissors", "skis", "glasses", "sunglasses", "jeans", "trousers", "pants", "shorts"})
_PLURALS = (
    ("people", "person"),
    ("women", "woman"),
    ("children", "child"),
    ("buses", "bus"),
    ("ies", "y"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("xes", "x"),
    ("sses", "ss"),
)


def split_clauses(request: str) -> list[str]:
    """Split a request into clauses: it is cut where a separator is followed by the beginning of another clause."""
    text = " ".join(request.split()).strip()
    clauses, begin = [], 0
    for cut in _CUT.finditer(text):
        rest = text[cut.end() :]
        before = text[begin : cut.start()]
        if without_leads(before) and rest.strip(" .?!") and _begins(rest, before):
            clauses.append(before)
            begin = cut.end()
    clauses.append(text[begin:])
    kept = [clause.strip(" ,;.?!") for clause in clauses]
    return [clause for clause in kept if clause and without_leads(clause)]


def _begins(rest: str, before: str) -> bool:
    """Whether what follows a separator is a clause of its own, after the clause before it."""
    if find_verb(without_leads(rest)) is not None or any(each.match(rest) for each in (SUPERLATIVE, IF_SO, IF_NOT)):
        return True
    # "find the dog in the first image and the cat in the second image"
    verb = find_verb(without_leads(before))
    if verb is None or verb[0] not in _REPEATED or not _names_image(before):
        return False
    nearest = _CUT.split(rest, maxsplit=1)[0]
    return _names_image(nearest) and ARTICLE.match(nearest) is not None and not WHOLE.match(nearest.strip(" .?!"))


def _names_image(words: str) -> bool:
    return bool(named_images(words, 2) or named_images(words, 100))  # of two, "left" and "right" are names too


def find_verb(words: str) -> tuple[Action, str] | None:
    """Return what a clause asks for and its words after the verb; None where no verb is known."""
    for pattern, action in _VERB:
        match = pattern.match(words)
        if match is not None:
            return action, words[match.end() :].strip()
    return None


def without_leads(clause: str) -> str:
    """Return a clause without "please", "and then", "if so" and the like before it."""
    text, before = clause.strip(" ,;.?!"), ""
    while text != before:
        before = text
        for lead in (_LEADS, IF_SO, IF_NOT):
            found = lead.match(text)
            text = text[found.end() :] if found is not None else text
    return text


def without_tail(text: str) -> str:
    """Return words without "in the image", "please" and the like after them."""
    return _TAIL.sub("", text.strip(" ,;.?!")).strip(" ,;.?!")


def bare(phrase: str, *, keep_plural: bool = False) -> str:
    """Return a phrase without article, quantifier and, unless it is kept, plural: "the red cars" is "red car"."""
    text = without_tail(phrase).lower()
    text = ARTICLE.sub("", QUANTIFIER.sub("", ARTICLE.sub("", text))).strip()
    if keep_plural or not text or text.split()[-1] in _PAIRS:
        return text
    for plural, singular in _PLURALS:
        if text.endswith(plural):
            return text.removesuffix(plural) + singular
    if text == "men" or text.endswith(" men"):
        return f"{text[:-3]}man"
    return text.removesuffix("s") if text.endswith("s") and not text.endswith(("ss", "us", "is")) else text


def same_object(first: str, second: str) -> bool:
    """Return whether two phrases name the same kind of object: articles and plurals do not count."""
    # "buses" and "bus", "houses" and "house"
    return bare(first).removesuffix("e") == bare(second).removesuffix("e")
