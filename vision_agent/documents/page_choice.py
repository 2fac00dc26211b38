"""Which pages of a document are read: `3`, `[1, 2]`, `"1-3,7"`, `"5-"`."""

import re
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from vision_agent.errors import ArgumentTypeError, DocumentError, InputError, bad_argument

PageChoice: TypeAlias = int | str | Sequence[int] | None
"""Pages from 1: one, several, a text such as "1-3,7" or "5-", or None for all."""

_EXPECTED = 'a page from 1, a list of pages, or a text such as "1-3,7"'


class ChosenPages:
    """The pages that were asked for.

    Raises:
        InputError: a text or a list that names no pages.
        ArgumentTypeError: another type.
    """

    def __init__(self, pages: PageChoice) -> None:
        self._asked = pages
        self._ranges = None if pages is None else _ranges(pages)

    def of(self, count: int, name: str) -> Iterator[int]:
        """Return their numbers, from 1, in a document of `count` pages.

        Raises:
            DocumentError: a page that the document, which the caller calls `name`, does not have.
        """
        ranges = [(1, count)] if self._ranges is None else self._ranges
        for first, last in ranges:
            if first > count or (last is not None and last > count):
                have = f"{count} page{'s' * (count != 1)}"
                raise DocumentError(bad_argument("pages", f"of `{name}`, which has {have}", self._asked))
        return (number for first, last in ranges for number in range(first, (last or count) + 1))


def _ranges(pages: PageChoice) -> list[tuple[int, int | None]]:
    """First and last page of each part of the choice; None as the last page is the document's last."""
    if isinstance(pages, bool):
        raise ArgumentTypeError(bad_argument("pages", _EXPECTED, pages))
    found: list[tuple[int, int | None]] = []
    if isinstance(pages, int):
        found = [(pages, pages)]
    elif isinstance(pages, str):
        for part in pages.split(","):
            match = re.fullmatch(r"\s*(\d{1,7})\s*(-\s*(\d{1,7})?\s*)?", part)
            if match is None:
                raise InputError(bad_argument("pages", _EXPECTED, pages))
            first, dash, last = int(match[1]), match[2], match[3]
            found.append((first, first if dash is None else None if last is None else int(last)))
    elif isinstance(pages, Sequence) and all(type(each) is int for each in pages):
        found = [(int(each), int(each)) for each in pages]
    else:
        raise ArgumentTypeError(bad_argument("pages", _EXPECTED, pages))
    if not found or any(first < 1 or (last is not None and last < first) for first, last in found):
        raise InputError(bad_argument("pages", _EXPECTED, pages))
    return found
