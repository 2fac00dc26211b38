"""Which country a paper is from, by what only papers of that country say: numbers of accounts and taxes, codes, names.

It settles what a sign alone does not: "$" and "kr", and the decimal mark of a paper whose numbers do not tell.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vision_agent.documents.text_match import folded

_COUNTRIES: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "countries.json").read_text(encoding="utf-8")
)["countries"]
_NAMES = {folded(name): code for code, each in _COUNTRIES.items() for name in each["names"] if len(folded(name)) > 2}
_CODES = "|".join(_COUNTRIES)
# How surely each of them tells the country; the country is group 1.
_IBAN = re.compile(rf"(?<![A-Z0-9])({_CODES})\d{{2}}(?: ?[A-Z0-9]{{4}}){{2,7}}")
_VAT = re.compile(rf"(?<![A-Z0-9])({_CODES}|EL|CHE)[- ]?[A-Z0-9]?[\d. -]{{7,14}}\d")
_DIAL = re.compile(r"(?:\+|\b00)\s?(\d{1,3})")
_SITE = re.compile(r"[\w-]\.([a-z]{2})\b(?:/|\s|$)")
_SURE: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("CA", re.compile(r"\b[ABCEGHJ-NPRSTVXY]\d[A-Z] ?\d[A-Z]\d\b|\b(?:GST/HST|HST|TPS/TVH|QST|TVQ)\b")),
    ("AU", re.compile(r"\bABN\b|\b(?:NSW|VIC|QLD|TAS|ACT)\s+\d{4}\b|\bPty\.? Ltd|\bPty Limited")),
    ("NZ", re.compile(r"\bNZBN\b|\b(?:Auckland|Wellington|Christchurch)\b")),
    ("GB", re.compile(r"\b[A-Z]{1,2}\d[A-Z\d]? \d[A-Z]{2}\b|\bUTR\b|\bSort Code\b", re.ASCII)),
    ("US", re.compile(r"\b[A-Z]{2}\.?,? \d{5}(?:-\d{4})?\b|\bEIN\b")),
    ("SG", re.compile(r"\bPte\.? Ltd|\bSingapore \d{6}\b|\bUEN\b", re.IGNORECASE)),
    ("MY", re.compile(r"\bSdn\.? ?Bhd|\bSST\b", re.IGNORECASE)),
    ("IN", re.compile(r"\bGSTIN\b|\b[CSI]GST\b|\bPvt\.? Ltd", re.IGNORECASE)),
    ("HK", re.compile(r"\b(?:Kowloon|Hong Kong)\b", re.IGNORECASE)),
    ("MX", re.compile(r"\bRFC\b|\bS\.?A\.? de C\.?V\b|\bCFDI\b")),
    ("DK", re.compile(r"\b(?:CVR|ApS|Faktureret|moms i alt|beløb|i alt)\b", re.IGNORECASE)),
    ("NO", re.compile(r"\b(?:mva|org\.?\s?nr|beløp|å betale|KID)\b", re.IGNORECASE)),
    ("SE", re.compile(r"\b(?:bankgiro|plusgiro|org\.?\s?nr|belopp|att betala|förfallodatum|momsreg)\b", re.IGNORECASE)),
    ("IS", re.compile(r"\b(?:kennitala|kt\.|VSK)\b")),
    ("CH", re.compile(r"\bCHE-\d|\bMWST\b|\bCHF\b")),
    ("BR", re.compile(r"\bCNPJ\b|R\$")),
)  # fmt: skip


def likely_countries(texts: Iterable[str]) -> list[str]:
    """Return the countries a document may be from by ISO 3166 code, likeliest first; none where nothing tells."""
    votes: defaultdict[str, float] = defaultdict(float)
    for text in texts:
        for pattern, weight in ((_IBAN, 3.0), (_VAT, 2.0)):
            for match in pattern.finditer(text):
                votes[{"EL": "GR", "CHE": "CH"}.get(match[1], match[1])] += weight
        for code, pattern in _SURE:
            if pattern.search(text):
                votes[code] += 1.5
        for match in _DIAL.finditer(text):
            for code, each in _COUNTRIES.items():
                if each["phone"] and match[1].startswith(each["phone"]):
                    votes[code] += 1
        for match in _SITE.finditer(text.lower()):
            code = {"uk": "GB"}.get(match[1], match[1].upper())
            votes[code] += 1 if code in _COUNTRIES else 0
        for part in re.split(r"[,\d]", text):
            if (code := _NAMES.get(folded(part), "")) in _COUNTRIES:
                votes[code] += 1
    return [code for code in sorted(votes, key=lambda code: -votes[code]) if votes[code] > 0 and code in _COUNTRIES]


def currency_in(country: str) -> str:
    """Return the ISO 4217 code of a country's currency."""
    return str(_COUNTRIES[country]["currency"])


def mark_in(country: str) -> str:
    """Return a country's decimal mark."""
    return str(_COUNTRIES[country]["mark"])


def legal_forms() -> frozenset[str]:
    """Return the legal forms of all countries, as they are written."""
    return frozenset(form for each in _COUNTRIES.values() for form in each["legal_forms"])
