"""Numbers of accounts, banks and taxes: what has the right check digits is one, what only looks like one is not.

The formats and check digits are those of python-stdnum (extra `ocr`).
"""

import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from vision_agent.errors import require_extra

_IBAN = re.compile(r"(?<![A-Z0-9])[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]{1,4}){3,9}(?![a-z0-9])")
_BIC = re.compile(r"(?<![A-Z0-9])[A-Z]{4} ?[A-Z]{2} ?[A-Z0-9]{2} ?(?:[A-Z0-9]{3})?(?![A-Za-z0-9])")
_VAT = re.compile(
    r"(?<![A-Z0-9])(?P<country>[A-Z]{2,3})[- ]?(?=[A-Z]{0,2}[\d. -]*\d)(?:[A-Z0-9][ .-]?){6,14}[A-Z0-9+*](?![a-z0-9])"
)
_GSTIN = re.compile(r"(?<![A-Z0-9])\d{2}[A-Z]{5}\d{4}[A-Z][A-Z0-9]Z[A-Z0-9](?![A-Z0-9])")
_TAX_MODULES = {"CHE": "stdnum.ch.vat", "NO": "stdnum.no.mva", "GB": "stdnum.gb.vat"}
_SHORTEST_IBAN = 15


def _stdnum(name: str) -> Any:
    require_extra("stdnum", "ocr", "numbers of accounts and taxes are checked")
    return import_module(name)


def find_ibans(text: str) -> Iterator[tuple[int, int, bool]]:
    """Yield (start, end, whether its check digits are right) of what looks like an account number."""
    for match in _IBAN.finditer(text):
        end = match.end()
        while end > match.start() + _SHORTEST_IBAN:  # "... 0130 00 BIC": without the words behind it
            if _stdnum("stdnum.iban").is_valid(text[match.start() : end], check_country=False):
                yield match.start(), end, True
                break
            end = max(text.rfind(" ", match.start(), end), text.rfind("-", match.start(), end))
        else:
            digits = sum(map(str.isdigit, match[0]))
            if len(match[0].replace(" ", "")) >= _SHORTEST_IBAN and digits >= 10:
                yield match.start(), match.end(), False


def find_bics(text: str) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of codes of banks."""
    for match in _BIC.finditer(text):
        if _stdnum("stdnum.bic").is_valid(match[0].replace(" ", "")):
            yield match.start(), match.end()


def find_tax_ids(text: str) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of numbers for value added tax whose country's prefix and check digits are right."""
    for match in _GSTIN.finditer(text):
        if _stdnum("stdnum.in_.gstin").is_valid(match[0]):
            yield match.start(), match.end()
    for match in _VAT.finditer(text):
        end = match.end()
        while end - match.start() >= 9:
            if _is_tax_id(match["country"], text[match.start() : end]):
                yield match.start(), end
                break
            end = text.rfind(" ", match.start(), end)


def _is_tax_id(country: str, written: str) -> bool:
    if (module := _TAX_MODULES.get(country)) is not None:
        number = written if country == "CHE" else written[len(country) :]
        return bool(_stdnum(module).is_valid(number.strip(" -")))
    return bool(_stdnum("stdnum.eu.vat").is_valid(written))
