"""Which of several images some words name: "Image-2", "the left image", "in the third photo"."""

import re

_NOUN = r"(?:image|picture|photo|photograph|pic)"
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_SHORT = ("1st", "2nd", "3rd", "4th", "5th", "6th", "7th", "8th", "9th", "10th")
_NUMBERED = re.compile(rf"\b{_NOUN}[\s-]*(?:no\.?\s*|number\s+|#\s*)?(\d{{1,3}})\b", re.IGNORECASE)
_PLACED = re.compile(rf"\b({'|'.join((*_ORDINALS, *_SHORT))}|left|right|last|other)\s+(?:{_NOUN}|one)\b", re.IGNORECASE)


def named_images(text: str, images: int) -> tuple[int, ...]:
    """Return the numbers, from 0, of the images that a text names, in the order of their names.

    Images are numbered from 1 in words. Of two, "left" is the first and "right" the second. What is beyond
    `images` is not named.
    """
    found: list[tuple[int, int]] = [(match.start(), int(match[1]) - 1) for match in _NUMBERED.finditer(text)]
    for match in _PLACED.finditer(text):
        word = match[1].lower()
        if word in _ORDINALS or word in _SHORT:
            number = (_ORDINALS if word in _ORDINALS else _SHORT).index(word)
        elif word == "last":
            number = images - 1
        elif images != 2:
            continue
        else:
            number = 0 if word == "left" else 1
        found.append((match.start(), number))
    numbers = (number for _, number in sorted(found))
    return tuple(dict.fromkeys(number for number in numbers if 0 <= number < images))
