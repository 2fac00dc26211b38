"""Characters as people type them: recognisers for many scripts mix look-alikes of one script into another."""

import unicodedata
from collections.abc import Sequence

_WIDE = range(0xFF01, 0xFF5F)  # full-width forms of ASCII


def plain_characters(characters: Sequence[str]) -> tuple[str, ...]:
    """Return the characters of a line, full-width forms made plain unless the line is of a script that uses them."""
    if any(_is_east_asian(character) for character in characters):
        return tuple(characters)
    return tuple(_plain(character) for character in characters)


def _plain(character: str) -> str:
    if len(character) == 1 and ord(character) in _WIDE:
        return chr(ord(character) - 0xFEE0)
    return character


def _is_east_asian(character: str) -> bool:
    return unicodedata.east_asian_width(character[:1] or " ") == "W" and character.isalpha()
