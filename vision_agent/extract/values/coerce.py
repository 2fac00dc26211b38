"""What a found value may be as the value of a caller's field."""

import datetime
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from vision_agent.documents.text_match import folded
from vision_agent.extract.target import Leaf

_YES = frozenset("yes y true x ja oui si sim waar on checked ✓ ✔ ☑ ☒".split())
_NO = frozenset("no n false nein non nao nee off unchecked ☐".split())


def readings(leaf: Leaf, value: Any, text: str) -> Iterable[Any]:
    """Yield what a value that was found, and its source text, may be as the field's value, likeliest first."""
    if leaf.choices:
        if value in leaf.choices.values():
            yield value
        elif (choice := leaf.choices.get(folded(str(value)))) is not None:
            yield choice
    if "bool" in leaf.forms:
        word = text.strip(" .[]()").casefold()
        if folded(word) in _YES or word in _YES:
            yield True
        elif folded(word) in _NO or word in _NO:
            yield False
    if isinstance(value, datetime.datetime) and "datetime" in leaf.forms:
        yield value
    elif isinstance(value, datetime.date):
        if "datetime" in leaf.forms and "date" not in leaf.forms:
            yield datetime.datetime.combine(value, datetime.time())
        if "date" in leaf.forms:
            yield value
    elif isinstance(value, datetime.time):
        if "time" in leaf.forms:
            yield value
    elif isinstance(value, Decimal):
        if "integer" in leaf.forms and value == value.to_integral_value():
            yield int(value)
        if "number" in leaf.forms:
            yield value
            yield float(value)
    elif isinstance(value, str) and "text" in leaf.forms:
        yield value
    if "text" in leaf.forms and not isinstance(value, str):
        yield text
