"""Numbers as people print them: 1,234.56 and 1.234,56 and 1 234,56 and 1'234.56 and 12,34,567.80; -5, 5-, (5) and 5 CR.

One mark before exactly three digits may group thousands or begin the fraction. A document settles it: `decimal_mark_of`
counts what its other numbers show.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Literal

from vision_agent.extract.values.currencies import (
    THREE_DECIMALS,
    begins_with_currency,
    currency_code,
    ends_in_currency,
)

DecimalMark = Literal[".", ","]

_BLANKS = " \u00a0\u2007\u2009\u202f"
_MINUS = "-\u2212\u2013\uff0d"
_VULGAR = "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"
_DIGITS = re.compile(
    rf"[1-9]\d{{0,2}}(?P<group>[{_BLANKS}'\u2019\u02bc])\d{{3}}(?:(?P=group)\d{{3}})*(?:[.,]\d{{1,2}})?(?![\d'\u2019])"
    r"|\d{1,2}(?:,\d{2})+,\d{3}(?:\.\d+)?(?![\d,])"
    rf"|\d*\s?[{_VULGAR}]"
    r"|\d+\s[13579]/(?:2|3|4|5|8|16)(?![\d/.])"
    r"|\d+\u2044\d{1,2}"
    r"|\d+(?:[.,'\u2019]\d+)*(?:[.,] \d{2}(?![\d.,/:-]))?"
    r"|(?<![A-Za-z\d])[.,]\d{2}(?!\d)"
)
_DASH = re.compile(r"[.,][-\u2013\u2014]{1,2}")  # "20,-"
_PERCENT = re.compile(r"\s?(?:%|(?:percent|prozent|pct|per cent)\b)", re.IGNORECASE)
_MINUS_BEHIND = re.compile(rf"[{_MINUS}](?=\s*(?:$|[)\];,|*€$£]|[A-Z]{{3}}\b))| [{_MINUS}]\s*$")
_CREDIT = re.compile(r"\s?(?:CR|Cr|cr)\b\.?")
# What may follow a number whose groups blanks separate, and tells that it is one number: a unit.
_UNIT = re.compile(
    r"\s?(?:k?Wh|MWh|kVA|kW|W|m[²³23]?|km|cm|mm|l|L|ml|kg|g|t|lbs?|pcs|Stk|Stück|szt|ks|db|st|km/h|m/s|h|hrs?|%|°)(?![^\W\d_])"
)
_LONE = re.compile(r"[^\w]*$")


@dataclass(frozen=True)
class Number:
    """A number in a text.

    Attributes:
        value: exact.
        start, end: its characters, sign, brackets and currency sign included.
        decimals: digits after the decimal mark.
        percent: a percent sign follows.
        currency: a currency's ISO 4217 code right beside it, or None.
        sign: what the currency is written as, "" without one.
    """

    value: Decimal
    start: int
    end: int
    decimals: int
    percent: bool = False
    currency: str | None = None
    sign: str = ""


@dataclass(frozen=True)
class _Before:
    """What stands in front of digits."""

    start: int
    minus: bool = False
    bracket: bool = False
    currency: str = ""


def find_numbers(
    text: str, mark: DecimalMark | None = None, start: int = 0, end: int | None = None, *, likely: Sequence[str] = ()
) -> list[Number]:
    """Find all numbers of a text, in order.

    Args:
        mark: the decimal mark where a number itself does not tell; None for "." unless a currency stands beside it,
            whose amounts have two decimals or none.
        start, end: where their digits stand; signs around them may be outside.
        likely: currencies of the countries that the paper may be from, for "$" and "kr".
    """
    found: list[Number] = []
    end = len(text) if end is None else end
    at = start
    while (match := _DIGITS.search(text, at, end)) is not None:
        at = match.end()
        digits = match[0]
        before = _before(text, match.start())
        if match["group"] is not None and match["group"] in _BLANKS and not _is_one(text, match, before):
            digits = re.split(rf"[{_BLANKS}]", digits)[0]
            at = match.start() + len(digits)
        if (number := _number(text, match.start(), at, digits, before, mark, likely)) is not None:
            found.append(number)
    return found


def _number(
    text: str, start: int, end: int, digits: str, before: _Before, mark: DecimalMark | None, likely: Sequence[str]
) -> Number | None:
    after = _after(text, end, before.bracket)
    sign = before.currency or after.currency
    currency = currency_code(sign, likely) if sign else None
    settled = mark
    if settled is None and currency is not None and currency not in THREE_DECIMALS and not _per_unit(text[after.end :]):
        parsed = _parse(digits, ".", grouped=True)
    else:
        parsed = _parse(digits, settled or ".")
    if parsed is None:
        return None
    value, decimals = parsed
    if text[start - 1 : start].isalpha() and currency is None and decimals == 0:
        return None  # a part of a word such as A4 or TD01167104
    credit = after.credit and (decimals == 2 or text[: after.end].rstrip(".").endswith("CR"))
    bracketed = before.bracket and after.bracket and not after.percent
    # "Items (3)" and "8000 (USD 2179)" explain; "(48.00)" is negative.
    ahead = text[: before.start].rstrip()
    bracketed = bracketed and (decimals > 0 or currency is not None or not ahead) and not ahead[-1:].isdigit()
    negative = before.minus or after.minus or credit or bracketed
    shown = before.minus or bracketed or not before.currency.isalpha()
    first = before.start if shown and bracketed == before.bracket else start
    last = after.end if bracketed or not after.bracket else after.end - 1
    return Number(-value if negative else value, first, last, decimals, after.percent, currency, sign)


def parse_number(text: str, mark: DecimalMark | None = None) -> Decimal | None:
    """Return the only number of a text, or None where there is none or there are several."""
    found = find_numbers(text, mark)
    return found[0].value if len(found) == 1 else None


def decimal_mark_of(texts: Iterable[str]) -> DecimalMark:
    """Return the decimal mark a document uses; "." where nothing in it tells."""
    return told_mark(texts) or "."


def told_mark(texts: Iterable[str]) -> DecimalMark | None:
    """Return the decimal mark that a document's numbers show; None where none of them tells."""
    votes = {".": 0, ",": 0}
    for text in texts:
        for match in _DIGITS.finditer(text):
            digits = re.sub(rf"[{_BLANKS}]", "", match[0])
            last = max(digits.rfind("."), digits.rfind(","))
            if last < 0:
                continue
            rest, sign = len(digits) - last - 1, digits[last]
            if rest in (1, 2) and digits.count(sign) == 1:
                votes[sign] += 2 if rest == 2 else 1
            elif rest == 3 and digits.count(sign) > 1:
                votes["," if sign == "." else "."] += 2
    if votes["."] == votes[","]:
        return None
    return "," if votes[","] > votes["."] else "."


def _before(text: str, start: int) -> _Before:
    """Signs, a bracket and a currency in front of digits, in any order: `-$ 5`, `$-5`, `($5`, `kr -5`."""
    at = start
    minus = bracket = False
    currency = ""
    for _ in range(4):
        here = at - (text[at - 1 : at] in tuple(_BLANKS) and at > 0)
        last = text[here - 1 : here]
        if last == "(" and not bracket:
            bracket, at = True, here - 1
        elif last and last in _MINUS and not minus and _is_sign(text, here - 1, apart=here < at):
            minus, at = True, here - 1
        elif last == "+" and here == at:
            at = here - 1
        elif (
            not currency
            and last
            and (match := ends_in_currency(text[:here])) is not None
            and (here == at or not bracket)
        ):
            currency, at = match["sign"], here - len(match[0])
        else:
            break
    return _Before(at, minus, bracket, currency)


def _is_sign(text: str, at: int, *, apart: bool) -> bool:
    """Whether a dash is a minus: not where it joins two parts of a name, nor between a label and its value."""
    ahead = text[:at]
    if not ahead.strip():
        return True
    if ahead[-1] in _BLANKS:
        return not apart or ahead.rstrip()[-1] in ":=("
    return (not ahead[-1].isalnum() and ahead[-1] not in ")].-") or ends_in_currency(ahead) is not None


@dataclass(frozen=True)
class _After:
    """What stands behind digits."""

    end: int
    minus: bool = False
    credit: bool = False
    bracket: bool = False
    percent: bool = False
    currency: str = ""


def _after(text: str, end: int, open_bracket: bool) -> _After:
    if (dash := _DASH.match(text, end)) is not None:
        end = dash.end()
    minus = credit = bracket = percent = False
    currency, far = "", end
    if (match := _MINUS_BEHIND.match(text, end)) is not None and dash is None:
        minus, end = True, match.end()
    if (match := _PERCENT.match(text, end)) is not None:
        percent, end = True, match.end()
    blank = text[end : end + 1] in tuple(_BLANKS) and end < len(text)
    if (match := begins_with_currency(text[end + blank :])) is not None:
        currency = match["sign"]
        far = end + blank + match.end()
    if (match := _CREDIT.match(text, max(end, far))) is not None:
        credit, end = True, match.end()
    elif currency and (match := re.match(rf"[{_MINUS}](?=\s*$)", text[far:])) is not None:
        minus, end = True, far + match.end()
    closing = re.match(r"\s?\)", text[max(end, far) :]) if open_bracket else None
    if closing is not None:
        bracket, end = True, max(end, far) + closing.end()
    return _After(end, minus, credit, bracket, percent, currency)


def _is_one(text: str, match: re.Match[str], before: _Before) -> bool:
    """Whether groups of three digits with blanks between them are one number."""
    if re.search(r"[.,]", match[0]):
        return True
    if match["group"] != " " or match[0].count(match["group"]) > 1:
        dialled = text[: match.start()].rstrip()
        return before.minus or (not dialled.endswith(("+", "-", "/")) and re.search(r"\+\d+$", dialled) is None)
    if before.currency or before.minus or (before.bracket and text[match.end() :].lstrip()[:1] == ")"):
        return True
    rest = text[match.end() :]
    if begins_with_currency(rest.lstrip(_BLANKS)) is not None or _UNIT.match(rest) is not None:
        return True
    # A number of three digits behind one of three may be a second one: "100 250". Alone in its cell it is one.
    return _LONE.match(rest) is not None and (
        not text[: before.start].strip() or text[: before.start].rstrip()[-1] in ":=x\u00d7*@"
    )


def _per_unit(rest: str) -> bool:
    """A price per unit has more decimals: "1.459 €/l"."""
    return re.match(r"\W{0,2}\w{0,3}\s?/\s?\w", rest) is not None


def _parse(digits: str, mark: DecimalMark, *, grouped: bool = False) -> tuple[Decimal, int] | None:
    """The value of digits with marks, and the digits of its fraction.

    Args:
        grouped: one mark before three digits groups them, whichever it is.
    """
    if (fraction := _fraction(digits)) is not None:
        return fraction, 2
    plain = re.sub(rf"[{_BLANKS}'\u2019\u02bc]", "", digits)
    points, commas = plain.count("."), plain.count(",")
    decimal: str | None = None
    if points and commas:
        decimal = "." if plain.rfind(".") > plain.rfind(",") else ","
        if plain.count(decimal) > 1:
            return None
    elif points + commas == 1:
        sign = "." if points else ","
        head, tail = plain.split(sign)
        groups = len(tail) == 3 and 1 <= len(head) <= 3 and not head.startswith("0") and plain == digits
        decimal = None if groups and (grouped or mark != sign) else sign
    elif points + commas > 1:
        sign = "." if points else ","
        sizes = [len(group) for group in plain.split(sign)[1:]]
        lakhs = sign == "," and sizes[-1] == 3 and all(size == 2 for size in sizes[:-1])
        if not lakhs and any(size != 3 for size in sizes):
            return None  # a date, a version or a number of a law
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


def _fraction(digits: str) -> Decimal | None:
    """The value of "2½" and "2 1/2", and of "21\u20442", which is how "2½" comes out of some readers."""
    if digits[-1] in _VULGAR:
        share = Decimal(str(round(unicodedata.numeric(digits[-1]), 4)))
        return Decimal(digits[:-1].strip() or 0) + share
    for slash in ("\u2044", "/"):
        if slash in digits:
            head, _, below = digits.partition(slash)
            above = head[-1] if slash == "\u2044" else head.split()[-1]
            whole = head[: -len(above)].strip() or "0"
            return Decimal(whole) + (Decimal(above) / Decimal(below)).quantize(Decimal("0.0001")).normalize()
    return None
