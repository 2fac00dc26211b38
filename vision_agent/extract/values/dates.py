"""Dates as people print them, in the orders and month names of several languages.

"03/04/2024" is the third of April or the fourth of March. A document settles it: a day over twelve somewhere in it, or
an American address; else the day comes first.
"""

import datetime
import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

DateOrder = Literal["dmy", "mdy"]

_MONTHS: list[list[str]] = json.loads((Path(__file__).parents[1] / "months.json").read_text(encoding="utf-8"))["months"]


def _plain(name: str) -> str:
    """A month's name as scanners and capitals leave it: without accents."""
    parts = unicodedata.normalize("NFKD", name.casefold().replace("\u0131", "i"))
    return "".join(part for part in parts if not unicodedata.combining(part))


_MONTH_OF = {_plain(name): number for number, names in enumerate(_MONTHS, start=1) for name in names}
_NAMES = "|".join(
    sorted(
        {re.escape(each) for names in _MONTHS for name in names for each in (name, _plain(name))}, key=len, reverse=True
    )
)
_YEAR = r"(?P<y>(?:19|20)\d{2}|\d{2})"
# A clock may follow a year without a space, as scanned lines are read: 25/12/201820:49.
_NO_MORE = r"(?![-./]\d)(?=\D|$|[012]?\d:[0-5]\d)"
_PATTERNS = tuple(
    (name, re.compile(pattern, re.IGNORECASE))
    for name, pattern in (
        ("ymd", r"(?<![\d.])(?P<y>(?:19|20)\d{2})\s?(?P<s>[-/.])\s?(?P<m>\d{1,2})\s?(?P=s)\s?"
                r"(?P<d>\d{1,2}?)(?=\D|$|[012]\d:[0-5]\d)"),
        ("ymd", r"(?<!\d)(?P<y>(?:19|20)\d{2})\s?[年년]\s?(?P<m>\d{1,2})\s?[月월]\s?(?P<d>\d{1,2})\s?[日일]"),
        ("dmy", r"(?<!\d)(?P<d>\d{1,2})\s+tháng\s+(?P<m>\d{1,2})\s*,?\s+năm\s+(?P<y>(?:19|20)\d{2})(?!\d)"),
        ("num", rf"(?<![\d])(?P<a>\d{{1,2}})\s?(?P<s>[-/.])\s?(?P<b>\d{{1,2}})\s?(?P=s)\s?'?{_YEAR}{_NO_MORE}"),
        ("dmy", rf"(?<![\d])(?P<d>\d{{1,2}})(?:st|nd|rd|th|er|º|ª|°|η|-?a|-?e)?[\s.,/-]*(?:of\s|de\s?|d['\u2019]|ב)?"
                rf"(?P<n>{_NAMES})(?![^\W\d_])[\s.,/'-]*(?:de[l]?\s?)?{_YEAR}{_NO_MORE}"),
        ("mdy", rf"(?<![^\W\d_])(?P<n>{_NAMES})[\s.,/-]*(?P<d>\d{{1,2}})(?:st|nd|rd|th)?"
                rf"(?:\s*,\s*|[\s./'-]+){_YEAR}{_NO_MORE}"),
        ("ymd", rf"(?<!\d)(?P<y>(?:19|20)\d{{2}})[\s.,/-]*(?:m\.\s?)?(?P<n>{_NAMES})(?![^\W\d_])"
                r"[\s.,/-]*(?P<d>\d{1,2})(?!\d)"),
        ("ymd", r"(?<!\d)(?P<y>20[0-4]\d)(?P<m>0[1-9]|1[0-2])(?P<d>0[1-9]|[12]\d|3[01])(?!\d)"),
        ("dmy", r"(?<!\d)(?P<d>0[1-9]|[12]\d|3[01])(?P<m>0[1-9]|1[0-2])(?P<y>20[0-4]\d)(?!\d)"),
    )
)  # fmt: skip
_TIME = re.compile(
    r"(?<![\d:])(?P<h>[01]?\d|2[0-3])\s?[:.]\s?(?P<m>[0-5]\d)(?:\s?[:.]\s?(?P<s>[0-5]\d))?\s?(?P<half>[ap]\.?m\b\.?)?",
    re.IGNORECASE,
)
# Two separators between what are digits or look like them, at least two of them digits.
_MISREAD = re.compile(
    r"(?<![A-Za-z0-9])(?=[^/.\s-]*\d|[^\s]*\d\d)[0-9OoIlSBZ]{1,2}([/-])[0-9OoIlSBZ]{1,2}\1[0-9OoIlSBZ]{2,4}(?![A-Za-z])"
)
_DIGITS = str.maketrans("OoIlSBZ", "0011582")
# Arabic and Persian digits.
_EASTERN = str.maketrans({chr(first + digit): str(digit) for first in (0x660, 0x6F0) for digit in range(10)})
_AMERICAN = re.compile(  # a state with its code, not "CS 24198"
    r"\b(?:A[KLRZ]|C[AOT]|D[CE]|FL|GA|HI|I[ADLN]|K[SY]|LA|M[ADEINOST]|N[CDEHJMVY]|O[HKR]|PA|PR|RI|S[CD]|T[NX]|UT|V[AT]"
    r"|W[AIVY])\.?\s+\d{5}(?:-\d{4})?\b"
)


@dataclass(frozen=True)
class FoundDate:
    """A date in a text.

    Attributes:
        value: the day.
        start, end: its characters.
        compact: eight digits in a row, which may also be a number.
    """

    value: datetime.date
    start: int
    end: int
    compact: bool = False


def find_dates(text: str, order: DateOrder = "dmy") -> list[FoundDate]:
    """Find all dates of a text, in order. Letters that scanners take digits for are read as those: 2O/O3/2018.

    Args:
        order: of day and month where the numbers do not tell.
    """
    text = _MISREAD.sub(lambda match: match[0].translate(_DIGITS), text.translate(_EASTERN))
    found: list[FoundDate] = []
    for index, (name, pattern) in enumerate(_PATTERNS):
        for match in pattern.finditer(text):
            day = _day(name, match, order)
            if day is None or any(match.start() < other.end and other.start < match.end() for other in found):
                continue
            found.append(FoundDate(day, match.start(), match.end(), compact=index >= len(_PATTERNS) - 2))
    return sorted(found, key=lambda each: each.start)


def find_time(text: str) -> tuple[datetime.time, int, int] | None:
    """Find the first clock time of a text with its characters, or None."""
    for match in _TIME.finditer(text):
        hour, half = int(match["h"]), (match["half"] or "").casefold()
        if "." in match[0] and ":" not in match[0] and not half:
            continue  # 12.50 is an amount
        if half.startswith("p") and hour < 12:
            hour += 12
        elif half.startswith("a") and hour == 12:
            hour = 0
        return datetime.time(hour, int(match["m"]), int(match["s"] or 0)), match.start(), match.end()
    return None


def date_order_of(texts: Iterable[str]) -> DateOrder:
    """Return the order of day and month that a document uses; "dmy" where nothing in it tells."""
    votes = {"dmy": 0.0, "mdy": 0.0}
    numeric = next(pattern for name, pattern in _PATTERNS if name == "num")
    for text in texts:
        for match in numeric.finditer(text):
            first, second = int(match["a"]), int(match["b"])
            if first > 12 >= second:
                votes["dmy"] += 1
            elif second > 12 >= first:
                votes["mdy"] += 1
        if _AMERICAN.search(text):
            votes["mdy"] += 0.25
    return "mdy" if votes["mdy"] > votes["dmy"] else "dmy"


def _day(name: str, match: re.Match[str], order: DateOrder) -> datetime.date | None:
    groups = match.groupdict()
    year = int(groups["y"])
    if year < 100:
        year += 2000 if year < 70 else 1900
    if name == "num":
        first, second = int(groups["a"]), int(groups["b"])
        month_first = (order == "mdy" and first <= 12) or second > 12
        day, month = (second, first) if month_first else (first, second)
        if groups["s"] == "." and len(groups["y"]) == 2 and "/" not in match[0] and match[0].count(" "):
            return None  # "1.5. 20" and the like
    else:
        day = int(groups["d"])
        month = int(groups["m"]) if groups.get("m") else _MONTH_OF[_plain(groups["n"])]
    try:
        return datetime.date(year, month, day)
    except ValueError:
        return None
