"""Checks of what callers pass to verbs, made before anything expensive. Needs no torch."""

import re
import unicodedata
from collections.abc import Iterable
from itertools import islice
from numbers import Real
from pathlib import Path

from vision_agent.errors import ArgumentTypeError, InputError, bad_argument, check_characters
from vision_agent.generation.options import GenerationOptions

LONGEST_PHRASE = 300  # characters
LONGEST_REQUEST = 100_000
MOST_PHRASES = 1000
CAPTION_LENGTHS = ("short", "normal", "long")
_MOST_IMAGES = 64  # made by one call


def check_threshold(threshold: object) -> None:
    """Check a score, or None.

    Raises:
        InputError: anything but a number from 0 to 1.
    """
    is_number = isinstance(threshold, Real) and not isinstance(threshold, bool)
    if threshold is not None and not (is_number and 0 <= float(threshold) <= 1):  # type: ignore[arg-type]
        raise InputError(bad_argument("threshold", "a number from 0 to 1", threshold))


def check_request(name: str, text: object, image: object) -> str:
    """Return a request or question that is one. `name` is the argument's; `image` tells swapped arguments apart.

    Raises:
        InputError: no words, or too many.
        ArgumentTypeError: no string.
    """
    return _check_text(name, text, image, LONGEST_REQUEST)


def check_options(options: GenerationOptions | None, max_new_tokens: int | None) -> GenerationOptions:
    """Check the generation options, with the shortcut for their commonest setting.

    Raises:
        ArgumentTypeError: `options` of another type.
        InputError: both given, or a number of tokens out of range.
    """
    if options is not None and not isinstance(options, GenerationOptions):
        raise ArgumentTypeError(bad_argument("options", "GenerationOptions", options))
    if max_new_tokens is None:
        return options or GenerationOptions()
    if options is not None:
        raise InputError(bad_argument("max_new_tokens", "left out where `options` are given", max_new_tokens))
    if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int) or not 1 <= max_new_tokens <= 65536:
        raise InputError(bad_argument("max_new_tokens", "a whole number from 1 to 65536", max_new_tokens))
    return GenerationOptions(max_new_tokens=max_new_tokens)


def check_length(length: object) -> None:
    """Check the length of a caption.

    Raises:
        InputError: none of `CAPTION_LENGTHS`.
    """
    if length not in CAPTION_LENGTHS:
        raise InputError(bad_argument("length", f"one of {list(CAPTION_LENGTHS)}", length))


def check_phrases(phrase: object, image: object) -> tuple[str, ...]:
    """Check the phrases and return each once. Tells swapped arguments from other mistakes.

    A semicolon separates phrases, in a string as in a list's. The same words in other letters, at other distances,
    with another article or another mark at the end are the same phrase: the first spelling counts.

    Raises:
        InputError: no phrase, or one without words or too long.
        ArgumentTypeError: anything but strings.
    """
    items = _strings(phrase)
    if items is None:
        _raise_if_swapped("phrase", phrase, image)
        raise ArgumentTypeError(bad_argument("phrase", "a string or a list of strings", phrase))
    if not 1 <= len(items) <= MOST_PHRASES:
        expected = f"at least one phrase and at most {MOST_PHRASES}"
        raise InputError(bad_argument("phrase", expected, phrase if len(items) < 2 else f"{len(items)} or more"))
    asked: dict[str, str] = {}
    for index, item in enumerate(items):
        name = "phrase" if isinstance(phrase, str) else f"phrase[{index}]"
        # A line break separates no phrases: it is a space like any other.
        parts = [part for part in (re.sub(r"\s*[\r\n\t]\s*", " ", each).strip() for each in item.split(";")) if part]
        for part in parts or [""]:
            _check_text(name, part, image, LONGEST_PHRASE)
        for part in parts:
            asked.setdefault(_same(part), part)
    return tuple(asked.values())


def _same(phrase: str) -> str:
    """What a phrase is compared by: its words, without an article before them and marks around them."""
    visible = "".join(each for each in phrase.casefold() if unicodedata.category(each) != "Cf")
    words = " ".join(visible.split()).strip(" .,!?:")
    return re.sub(r"^(?:an?|the)\s+(?=\S)", "", words) or words or phrase.casefold()


def _strings(phrase: object) -> list[str] | None:
    """The strings of an argument, of a set in alphabetical order; None where it is no string and no collection of them.

    An iterator may have no end: no more is read than is allowed.
    """
    if isinstance(phrase, str):
        return [phrase]
    if isinstance(phrase, bytes | bytearray | dict) or not isinstance(phrase, Iterable):
        return None
    items = list(islice(phrase, MOST_PHRASES + 1))
    if not all(isinstance(item, str) for item in items):
        return None
    return sorted(items) if isinstance(phrase, set | frozenset) else [str(item) for item in items]


def check_phrase(phrase: object, image: object) -> str:
    """Check one phrase.

    Raises:
        ArgumentTypeError: no string.
        InputError: several phrases, and what `check_phrases` refuses.
    """
    phrases = check_phrases(phrase, image)
    if not isinstance(phrase, str):
        raise ArgumentTypeError(bad_argument("phrase", "one string", phrase))
    if len(phrases) > 1:
        raise InputError(bad_argument("phrase", "one phrase, without a semicolon", phrase))
    return phrases[0]


def check_switch(name: str, value: object) -> None:
    """Check a switch; `name` is the argument's. Raises ArgumentTypeError for anything but True and False."""
    if not isinstance(value, bool):
        raise ArgumentTypeError(bad_argument(name, "True or False", value))


def _check_text(name: str, text: object, image: object, longest: int) -> str:
    if not isinstance(text, str):
        _raise_if_swapped(name, text, image)
        raise ArgumentTypeError(bad_argument(name, "a string", text))
    if not text.strip():
        raise InputError(bad_argument(name, "some words", text))
    if len(text) > longest:
        raise InputError(bad_argument(name, f"at most {longest} characters", text))
    check_characters(name, text)
    if _is_file(text) and isinstance(image, str) and not _is_file(image):
        _raise_swapped(name, text, image)
    return text


def _raise_if_swapped(name: str, text: object, image: object) -> None:
    items = image if isinstance(image, list | tuple) else [image]
    if items and all(isinstance(item, str) and not _is_file(item) for item in items):
        _raise_swapped(name, text, image)


def _raise_swapped(name: str, text: object, image: object) -> None:
    raise ArgumentTypeError(
        f"the arguments look swapped: `{name}` comes first and is text, but got {type(text).__name__}; "
        f"`image` comes second, but got {str(image)[:80]!r}"
    )


def _is_file(text: str) -> bool:
    try:
        return len(text) < 1000 and Path(text).is_file()
    except (OSError, ValueError):
        return False


def check_prompts(name: str, prompt: object) -> tuple[str, ...]:
    """Check one prompt or a list of them; `name` is the argument's name.

    Raises:
        InputError: none at all, an empty one, one that is too long, or too many.
        ArgumentTypeError: no string.
    """
    items = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
        raise ArgumentTypeError(bad_argument(name, "a string or a list of strings", prompt))
    if not 1 <= len(items) <= _MOST_IMAGES:
        raise InputError(bad_argument(name, f"from 1 to {_MOST_IMAGES} prompts", f"{len(items)} of them"))
    for index, item in enumerate(items):
        where = name if isinstance(prompt, str) else f"{name}[{index}]"
        if not item.strip():
            raise InputError(bad_argument(where, "some words", item))
        if len(item) > LONGEST_PHRASE:
            raise InputError(bad_argument(where, f"at most {LONGEST_PHRASE} characters", item))
        check_characters(where, item)
    return tuple(items)


def check_progress(progress: object) -> None:
    """Check a function for progress, or None. Raises ArgumentTypeError for what cannot be called."""
    if progress is not None and not callable(progress):
        raise ArgumentTypeError(bad_argument("progress", "a function of (step, steps, preview)", progress))
