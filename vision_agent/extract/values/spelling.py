"""Well-known words of names and addresses that a scanner misread: "SON 8HD" is "SDN BHD", "LUNPUR" is "LUMPUR".

Only words that nobody would doubt are set right: those of the vocabulary, in a name or an address, where what was read
is no word of it and differs in characters that look alike. The source text of a value stays as it was read.
"""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Literal

from vision_agent.documents.text_match import folded, likeness
from vision_agent.extract.lexicon import words_for

_ALIKE = ("o0dq", "il1jt!|:", "s5", "b83", "g69", "z2", "nmhw", "bh", "uv")  # no vowels: those make other words
_LEAST = 5  # letters of a word that may be set right
_LONG = 8  # letters of a word that no other word is like, but for a vowel
_VOWELS = frozenset("aeiouy")
_PHRASES = (("sdn", "bhd"), ("pte", "ltd"), ("pvt", "ltd"))
_SLASHED = re.compile(
    r"(?<= )(?:S[/7|][B8963](?=$| ?[(\[{]| [A-Z]{0,2}\d{4})|5/[B8](?=$| ?[(\[{]\d{4}))"
)  # "S/B", which is "SDN BHD"
_POSTCODE = re.compile(r"(?<![\w/-])(?=\d\w{4}(?![\w/-]))\d*[OoIlS]\d*(?!\w)")  # 4560O
_ELL = str.maketrans("1I", "ll")
_DIGITS = str.maketrans("OoIlS", "00115")
_NUMBERED = re.compile(r"^(NO|No|LOT|Lot)(?=\d)")  # what an address begins with: "NO290"
_GLUED = re.compile(r"(?<![\w/-])(\d{1,4})([A-Za-z]{5,})")  # "14JALAN"
_SHORT = re.compile(r"(?<![\w-])[A-Za-z](?:[a-z]?[1I][a-z]{1,2}|[A-Z]?1[A-Z]{1,2})(?![\w-])")  # "J1n", "BIk"
_ZERO = re.compile(r"(?<=[A-Z])0(?=[A-Z]{2})|(?<=[A-Z]{2})0(?=[A-Z])")
_WORD = re.compile(r"[^\s,;/()]+")


@lru_cache(maxsize=10_000)
def respelled(text: str, kind: Literal["party", "address"]) -> str:
    """Return a name or an address as it was most likely printed."""
    text = _ZERO.sub("O", text)
    text = _torn_apart(text, kind)
    if kind == "address":
        text = _POSTCODE.sub(lambda match: match[0].translate(_DIGITS), text)
        text = _NUMBERED.sub(r"\1 ", text)
        text = _GLUED.sub(lambda match: f"{match[1]} {match[2]}" if _is_street(match[2]) else match[0], text)
        text = _SHORT.sub(lambda match: _short_word(match[0]), text)
    if kind == "party":
        text = _SLASHED.sub("S/B", text)
    text = _WORD.sub(lambda match: _set_right(match[0], kind), text)
    return _phrases(text) if kind == "party" else text


@lru_cache(maxsize=2)
def _lexicon(kind: str) -> Mapping[int, tuple[str, ...]]:
    """Words by their number of letters."""
    groups = ("legal forms", "trades") if kind == "party" else ("streets", "regions")
    words = sorted({word for group in groups for word in words_for(group) if len(word) >= _LEAST})
    return {size: tuple(word for word in words if len(word) == size) for size in {len(word) for word in words}}


def _set_right(written: str, kind: str) -> str:
    core = written.strip(".:'\"-")
    if len(core) < _LEAST:
        return written
    known = _lexicon(kind)
    plain = folded(core)
    if plain in known.get(len(plain), ()):
        # An accent on capitals is a speck where the word has none.
        return written if core.isascii() or not core.isupper() else written.replace(core, plain.upper())
    if kind == "party" and plain.isalpha() and (halves := _halves(plain, known)):
        return written.replace(core, f"{core[:halves]} {core[halves:]}")
    lowered = core.casefold()
    for word in known.get(len(lowered), ()):
        wrong = [(a, b) for a, b in zip(lowered, word, strict=True) if a != b]
        if len(wrong) <= max(1, len(word) // 5) and (
            all(_alike(a, b) for a, b in wrong)
            or (len(word) >= _LONG and len(wrong) == 1 and not set(wrong[0]) <= _VOWELS)
        ):
            return written.replace(core, _cased(word, core))
    return written


def _short_word(written: str) -> str:
    """A short word of streets in which a scanner saw a digit or a capital: "J1n" is "Jln"."""
    plain = written.translate(_ELL)
    return plain if _is_street(plain) else written


def _is_street(word: str) -> bool:
    return folded(word) in words_for("streets")


def _torn_apart(text: str, kind: str) -> str:
    """Joins neighbours that are a word of the vocabulary only together: "HEAL THCARE"."""
    known = _lexicon(kind)
    words = list(_WORD.finditer(text))
    for one, two in pairwise(words):
        both = folded(one[0] + two[0])
        parts = (folded(one[0]), folded(two[0]))
        apart = any(part in known.get(len(part), ()) for part in parts)
        if text[one.end() : two.start()] == " " and both in known.get(len(both), ()) and not apart:
            return _torn_apart(f"{text[: one.end()]}{text[two.start() :]}", kind)
    return text


def _halves(plain: str, known: Mapping[int, Iterable[str]]) -> int:
    """Where a word is two words of the vocabulary without a space; 0 where it is none."""
    for cut in range(_LEAST, len(plain) - _LEAST + 1):
        if plain[:cut] in known.get(cut, ()) and plain[cut:] in known.get(len(plain) - cut, ()):
            return cut
    return 0


def _phrases(text: str) -> str:
    """Legal forms of two words, of which one alone would be too short to be sure of."""
    words = list(re.finditer(r"[^\s,()]+", text))
    for word in words:
        for phrase in _PHRASES:
            if folded(word[0]) == "".join(phrase):
                apart = " ".join(_cased(part, word[0]) for part in phrase)
                return f"{text[: word.start()]}{apart}{text[word.end() :]}"
    for one, two in pairwise(words):
        read = (one[0].strip("."), two[0].strip("."))
        for phrase in _PHRASES:
            if all(read) and _reads_like(read, phrase):
                right = [
                    each[0].replace(part, _cased(word, part))
                    for each, part, word in zip((one, two), read, phrase, strict=True)
                ]
                between = text[one.end() : two.start()]
                return f"{text[: one.start()]}{right[0]}{between}{right[1]}{text[two.end() :]}"
    return text


def _reads_like(read: tuple[str, str], phrase: tuple[str, str]) -> bool:
    """Whether two words are a phrase with up to two wrong letters, or with one that is missing or too many.

    Before "ltd" stands any word ("ACE LTD"), so there the wrong letters have to look alike.
    """
    letters, right = "".join(read).casefold(), "".join(phrase)
    if tuple(map(len, read)) == tuple(map(len, phrase)):
        wrong = [(a, b) for a, b in zip(letters, right, strict=True) if a != b]
        return 0 < len(wrong) <= 2 and (phrase[1] != "ltd" or all(_alike(a, b) for a, b in wrong))
    one_word_right = any(part.casefold() == word for part, word in zip(read, phrase, strict=True))
    return (
        phrase[1] != "ltd" and one_word_right and abs(len(letters) - len(right)) == 1 and likeness(letters, right) > 0.8
    )


def _alike(first: str, second: str) -> bool:
    return any(first in group and second in group for group in _ALIKE)


def _cased(word: str, like: str) -> str:
    """A word in the capitals of what it stands for."""
    letters = [character for character in like if character.isalpha()]
    if sum(map(str.isupper, letters)) > len(letters) / 2:
        return word.upper()
    return word.capitalize() if like[:1].isupper() or not like[:1].isalpha() else word
