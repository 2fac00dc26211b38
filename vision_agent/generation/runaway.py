"""Where JSON that is being written runs on: a number of nines, a text that says the same again, a list without end.

A grammar alone allows all of it, and a model that has lost its way repeats itself as long as it may. What repeats
itself has to close, so that an answer is short even where it is useless, and says that it was cut.
"""

import re
from typing import Literal

Runaway = Literal["number", "text", "list"]

_NUMBER = re.compile(rb"-?\d[\d.eE+-]*$")
_MOST_DIGITS = 15  # what a float holds
_SAME_DIGITS, _ZEROS = 6, 12  # in a row; 1000000000 is a number that people write
_DIGIT_GROUPS = ((2, 12), (3, 12), (4, 16))  # (digits, digits with all repetitions)
_TEXT_REPEATS, _TEXT_LEAST, _TEXT_PERIOD = 6, 12, 40  # times, bytes in all, bytes of what is repeated
_ITEMS, _ITEM_LEAST, _ITEM_PERIOD = 12, 36, 100
_KEPT = _ITEMS * _ITEM_PERIOD


class RunawayWatch:
    """Watches JSON as it grows, byte by byte."""

    def __init__(self) -> None:
        self._text = b""
        self._quoted = self._escaped = False
        self._begun = 0  # bytes of the open text

    def push(self, piece: bytes) -> None:
        """Go on with what a token writes."""
        for byte in piece:
            if self._quoted:
                self._begun += 1
            if self._escaped:
                self._escaped = False
            elif byte == ord("\\"):
                self._escaped = self._quoted
            elif byte == ord('"'):
                self._quoted, self._begun = not self._quoted, 0
        self._text = (self._text + piece)[-_KEPT:]

    @property
    def runaway(self) -> Runaway | None:
        """What has to close now; None for nothing. A text is never closed inside of an escape."""
        if self._quoted:
            said = self._text[-self._begun :] if self._begun else b""
            return "text" if not self._escaped and _repeats(said, _TEXT_REPEATS, _TEXT_LEAST, _TEXT_PERIOD) else None
        number = _NUMBER.search(self._text)
        if number and _runs_on(number[0]):
            return "number"
        return "list" if _repeats(self._text, _ITEMS, _ITEM_LEAST, _ITEM_PERIOD) else None

    @property
    def tail(self) -> str:
        """The end of what was written, for warnings."""
        return self._text[-24:].decode(errors="replace")


def _runs_on(number: bytes) -> bool:
    digits = re.sub(rb"\D", b"", number)
    if len(digits) >= _MOST_DIGITS:
        return True
    most = _ZEROS if digits.endswith(b"0") else _SAME_DIGITS
    return _periodic(digits, 1, most) or any(
        _periodic(digits, period, span) and digits[-period:].strip(b"0") != b"" for period, span in _DIGIT_GROUPS
    )


def _repeats(text: bytes, times: int, least: int, longest: int) -> bool:
    return any(_periodic(text, period, max(times * period, least)) for period in range(1, longest + 1))


def _periodic(text: bytes, period: int, span: int) -> bool:
    """Whether the last `span` bytes are what stands `period` bytes before them, again and again."""
    return span <= len(text) and text[-span:-period] == text[len(text) - span + period :]
