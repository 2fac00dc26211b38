"""Numbers as people print them: 1,234.56 and 1.234,56 and 1 234,56 and 1'234.56.

One mark before exactly three digits may group thousands or begin the fraction. A document settles it: `decimal_mark_of`
counts what its other numbers show.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Literal

DecimalMark = Literal[".", ","]

# Groups of three behind blanks or apostrophes need a fraction or a second group: "12 345" may be two numbers.
_DIGITS = (
    r"\d{1,3}(?:[ \u00a0\u202f'\u2019]\d{3})+(?:[.,]\d{1,2})(?![\d])"
    r"|\d+(?:[.,'\u2019]\d+)*(?:[.,] \d{2}(?![\d.,/:-]))?"
    r"|(?<![A-Za-z\d])[.,]\d{2}(?!\d)"
)
_NUMBER = re.compile(
    rf"(?P<open>\()?(?P<sign>[-\u2212\u2013+])?\s?(?P<before>[$€£¥₹])?\s?(?P<digits>{_DIGITS})(?P<dash>[.,][-\u2013\u2014]{{1,2}})?"
    r"(?P<after>\s?[-\u2212](?![\w.]))?(?P<close>\))?(?P<percent>\s?%)?"
)

_CURRENCIES = {
    "€": "EUR", "eur": "EUR", "euro": "EUR", "euros": "EUR", "£": "GBP", "gbp": "GBP", "$": "USD", "us$": "USD",
    "usd": "USD", "¥": "JPY", "jpy": "JPY", "cny": "CNY", "rmb": "CNY", "₹": "INR", "inr": "INR", "chf": "CHF",
    "sfr": "CHF", "rm": "MYR", "myr": "MYR", "s$": "SGD", "sgd": "SGD", "a$": "AUD", "aud": "AUD", "c$": "CAD",
    "cad": "CAD", "nz$": "NZD", "nzd": "NZD", "hk$": "HKD", "hkd": "HKD", "rp": "IDR", "idr": "IDR", "₩": "KRW",
    "krw": "KRW", "kr": "SEK", "sek": "SEK", "nok": "NOK", "dkk": "DKK", "zł": "PLN", "pln": "PLN", "kč": "CZK",
    "czk": "CZK", "huf": "HUF", "₺": "TRY", "try": "TRY", "r$": "BRL", "brl": "BRL", "mxn": "MXN", "zar": "ZAR",
    "฿": "THB", "thb": "THB", "₫": "VND", "vnd": "VND", "php": "PHP", "₱": "PHP", "aed": "AED", "sar": "SAR",
    "₽": "RUB", "rub": "RUB", "₪": "ILS", "ils": "ILS", "₦": "NGN", "ngn": "NGN", "ron": "RON", "₴": "UAH",
}  # fmt: skip
_CODE = re.compile(
    r"(?<![A-Za-z])(?:"
    + "|".join(sorted((re.escape(key) for key in _CURRENCIES), key=len, reverse=True))
    + r")(?![a-z])",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Number:
    """A number in a text.

    Attributes:
        value: exact.
        start, end: its characters, sign, brackets and currency sign included.
        decimals: digits after the decimal mark.
        percent: a percent sign follows.
        currency: a currency's ISO 4217 code right beside it, or None.
    """

    value: Decimal
    start: int
    end: int
    decimals: int
    percent: bool = False
    currency: str | None = None


def find_numbers(text: str, mark: DecimalMark = ".") -> list[Number]:
    """Find all numbers of a text, in order.

    Args:
        mark: the decimal mark where a number itself does not tell.
    """
    found = []
    for match in _NUMBER.finditer(text):
        before = text[match.start("digits") - 1 : match.start("digits")] if match.start("digits") else ""
        parsed = _parse(match["digits"], mark)
        if parsed is None:
            continue
        value, decimals = parsed
        bracketed = match["open"] and match["close"]
        # A minus in front of a number stands apart from what is before it; else it joins two parts of a name.
        glued = match["sign"] and match.start() and text[match.start() - 1].isalnum()
        negative = (match["sign"] in ("-", "\u2212", "\u2013") and not glued) or match["after"] or bracketed
        start = (
            match.start() if bracketed or (match["sign"] and not glued) or match["before"] else match.start("digits")
        )
        end = match.end("percent") if match["percent"] else match.end() if bracketed else _end(match)
        currency = _beside(text, match.start(), end)
        if before.isalpha() and currency is None and decimals == 0:
            continue  # a part of a word such as A4 or TD01167104
        number = -value if negative else value
        found.append(Number(number, start, end, decimals, bool(match["percent"]), currency))
    return found


def parse_number(text: str, mark: DecimalMark = ".") -> Decimal | None:
    """Return the only number of a text, or None where there is none or there are several."""
    found = find_numbers(text, mark)
    return found[0].value if len(found) == 1 else None


def decimal_mark_of(texts: Iterable[str]) -> DecimalMark:
    """Return the decimal mark a document uses; "." where nothing in it tells."""
    votes = {".": 0, ",": 0}
    for text in texts:
        for match in _NUMBER.finditer(text):
            digits = match["digits"].replace(" ", "")
            last = max(digits.rfind("."), digits.rfind(","))
            if last < 0:
                continue
            rest, sign = len(digits) - last - 1, digits[last]
            if rest in (1, 2) and digits.count(sign) == 1:
                votes[sign] += 2 if rest == 2 else 1
            elif rest == 3 and digits.count(sign) > 1:
                votes["," if sign == "." else "."] += 2
    return "," if votes[","] > votes["."] else "."


def find_currencies(text: str) -> list[tuple[str, int, int]]:
    """Find signs and codes of currencies: (ISO 4217 code, start, end)."""
    found = []
    for match in _CODE.finditer(text):
        written = match[0]
        # "try", "kr", "rm" in running text are words; a code is in capitals or beside a number.
        beside = re.match(r"[\s.:]*\d", text[match.end() :]) or re.search(r"\d\s*$", text[: match.start()])
        if not written.isalpha() or written.isupper() or beside or written.casefold() in ("euro", "euros"):
            found.append((_CURRENCIES[written.casefold()], match.start(), match.end()))
    return found


def currency_code(written: str) -> str | None:
    """Return the ISO 4217 code of a sign or code, or None."""
    return _CURRENCIES.get(written.strip().strip(".").casefold())


def _end(match: re.Match[str]) -> int:
    ends = [match.end(name) for name in ("digits", "dash", "after") if match[name]]
    return max(ends)


def _beside(text: str, start: int, end: int) -> str | None:
    around = (text[:start].rstrip()[-4:], text[start:end], text[end:].lstrip()[:4])
    for part, pattern in zip(
        around, (r"([A-Za-z]{0,2}[$€£¥₹]|[A-Za-z]{2,4})[.]?$", r"[$€£¥₹]", r"^([€£¥₹]|[A-Za-z]{2,4})"), strict=True
    ):
        if (match := re.search(pattern, part)) and (code := currency_code(match[0])):
            return code
    return None


def _parse(digits: str, mark: DecimalMark) -> tuple[Decimal, int] | None:
    """The value of digits with marks, and the digits of its fraction."""
    plain = re.sub(r"[\s\u00a0\u202f'\u2019]", "", digits)
    points, commas = plain.count("."), plain.count(",")
    decimal: str | None = None
    if points and commas:
        decimal = "." if plain.rfind(".") > plain.rfind(",") else ","
        if plain.count(decimal) > 1:
            return None
    elif points + commas == 1:
        sign = "." if points else ","
        head, tail = plain.split(sign)
        groups = len(tail) == 3 and 1 <= len(head) <= 3 and head != "0"
        decimal = None if groups and mark != sign else sign
    elif points + commas > 1:
        sign = "." if points else ","
        if any(len(group) != 3 for group in plain.split(sign)[1:]):
            return None  # a date, a version or a number of a law
    whole = plain
    decimals = 0
    if decimal is not None:
        decimals = len(plain) - plain.rfind(decimal) - 1
        whole = plain.replace("," if decimal == "." else ".", "").replace(decimal, ".")
    else:
        whole = plain.replace(".", "").replace(",", "")
    try:
        return Decimal(whole), decimals
    except InvalidOperation:
        return None
