"""Currencies as papers write them: signs, codes and short names, and which of several they mean in a country."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

_FILE = json.loads((Path(__file__).parents[1] / "currencies.json").read_text(encoding="utf-8"))
_CODES: dict[str, tuple[str, ...]] = {sign: tuple(codes) for sign, codes in _FILE["signs"].items()}
ISO_CODES = frozenset(code for codes in _CODES.values() for code in codes)
THREE_DECIMALS = frozenset(_FILE["three decimals"])
"""Currencies whose amounts have three digits behind the mark."""

_ANY = "|".join(sorted((re.escape(sign) for sign in _CODES), key=len, reverse=True))
_FIND = re.compile(rf"(?<![^\W\d_])(?:{_ANY})(?![^\W\d_])", re.IGNORECASE)
_ENDS = re.compile(rf"(?<![^\W\d_])(?P<sign>{_ANY})\.?$", re.IGNORECASE)
_BEGINS = re.compile(rf"(?P<sign>{_ANY})(?![^\W\d_])", re.IGNORECASE)
# Signs that are words too, unless they are written so.
_ONLY_AS = {
    **{
        word: word.upper()
        for word in ("try", "pen", "php", "cop", "dem", "pte", "ron", "din", "nis", "sar", "kd", "tl")
    },
    "ft": "Ft",
}
_IN_NAME = frozenset(code.lower() for code in ISO_CODES) - {"try", "all", "cup", "top", "mop"}


def find_currencies(text: str, likely: Sequence[str] = ()) -> list[tuple[str, int, int]]:
    """Find signs and codes of currencies: (ISO 4217 code, start, end); `likely` as for `currency_code`."""
    found = []
    for match in _FIND.finditer(text):
        written = match[0]
        # "try", "kr", "rm" in running text are words; a code is in capitals or beside a number.
        beside = re.match(r"[\s.:]*[-\u2212]?\d", text[match.end() :]) or re.search(r"\d\s*$", text[: match.start()])
        plain = written.strip(".")
        code = plain.upper() in ISO_CODES and plain.isupper()
        sure = not any(map(str.isalpha, plain)) or "$" in plain or code or written.casefold() in ("euro", "euros")
        if sure or (beside and _ONLY_AS.get(plain.casefold(), plain) == plain):
            found.append((currency_code(written, likely) or plain, match.start(), match.end()))
    return found


def currency_code(written: str, likely: Sequence[str] = ()) -> str | None:
    """Return the ISO 4217 code of a sign or code, or None.

    Args:
        likely: currencies of the countries that the paper may be from, likeliest first, for "$" and "kr".
    """
    written = written.strip().casefold()
    codes = _CODES.get(written) or _CODES.get(written.strip("."), ())
    return next((code for code in likely if code in codes), codes[0] if codes else None)


def currency_of_name(words: tuple[str, ...]) -> str | None:
    """Return the currency that a field's name ends in: `total_usd`, `amount_in_eur`."""
    for word in words[1:]:
        if word in _IN_NAME:
            return word.upper()
        if word in ("euro", "euros"):
            return "EUR"
        if word in ("dollar", "dollars"):
            return "USD"
    return None


def ends_in_currency(text: str) -> re.Match[str] | None:
    """Match a currency at the end of a text, as group `sign`."""
    return _written(_ENDS.search(text[-8:]))


def begins_with_currency(text: str) -> re.Match[str] | None:
    """Match a currency at the beginning of a text, as group `sign`."""
    return _written(_BEGINS.match(text))


def _written(match: re.Match[str] | None) -> re.Match[str] | None:
    if match is None:
        return None
    plain = match["sign"].strip(".")
    return match if _ONLY_AS.get(plain.casefold(), plain) == plain else None
