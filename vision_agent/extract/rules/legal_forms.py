"""Legal forms of companies, of many countries, however they are written: GmbH, mbH, ApS, S.r.l., Sp. z o.o., L.L.C."""

import re
from functools import lru_cache

from vision_agent.documents.text_match import folded
from vision_agent.extract.rules.country import legal_forms

_TOKEN = re.compile(r"[^\s,;()]+")
_SHORT = 3  # letters up to which a form is one only as it is usually written
# Words that forms look like unless they are in capitals or have their dots.
_WORDS = frozenset(
    "as da me ad et ks se sa an el in is ba pa na no ou co sp ss ud fa pp sd od kd ab ei ii sc ec ry ik".split()
)
# Those that are codes of states, or other words in capitals, count with their dots alone.
_DOTTED = frozenset("pa na pc lp ks sc ca nl sp ct me in de et sf vat dat cd pp ss fa ud el ei ii fie".split())
_MOST_TOKENS = 5


@lru_cache(maxsize=1)
def _forms() -> tuple[frozenset[tuple[str, ...]], tuple[str, ...]]:
    """Forms as folded tokens, and those of scripts that have no blanks."""
    tokens, unspaced = set(), []
    for form in legal_forms():
        if any(ord(character) > 0x0DFF for character in form):
            unspaced.append(form)
        elif parts := tuple(part for token in _TOKEN.findall(form) if (part := folded(token))):
            tokens.add(parts)
    return frozenset(tokens), tuple(unspaced)


@lru_cache(maxsize=20_000)
def legal_form_in(text: str) -> str | None:
    """Return the legal form that a name has, as it is written; None where it has none, or is nothing else."""
    forms, unspaced = _forms()
    for form in unspaced:
        if form in text and text.strip() != form:
            return form
    tokens = [match for match in _TOKEN.finditer(text) if folded(match[0])]
    plain = [folded(match[0]) for match in tokens]
    for start in range(1, len(tokens)):
        for end in range(min(len(tokens), start + _MOST_TOKENS), start, -1):
            written = text[tokens[start].start() : tokens[end - 1].end()]
            joined = tuple(plain[start:end])
            spaced = end - start > 1 and all(len(part) == 1 for part in joined)
            if joined in forms or (spaced and ("".join(joined),) in forms):
                if _is_written_so(written, "".join(joined)):
                    return written
    return None


def _is_written_so(written: str, plain: str) -> bool:
    """Whether a short form is in capitals, has its dots or stroke, or begins with a capital and is no common word."""
    if plain in _DOTTED:
        return "." in written.rstrip(".")
    if len(plain) > _SHORT or "." in written.rstrip(".") or "/" in written or written.upper() == written:
        return True
    return not written.islower() and plain not in _WORDS
