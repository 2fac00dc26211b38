"""The terms of business documents in the languages of Europe, Turkey, India and Malaysia.

A *concept* is something that documents state, such as a total, with the words they print beside it. A field of a
caller's model is matched to a concept by its own name; where none fits, the field's name, alias, title and description
are its labels. All concepts compete for the labels of a page, also those that nobody asked for: "Total Qty" is then no
total.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vision_agent.documents.text_match import folded

Kind = Literal[
    "amount", "number", "percent", "date", "time", "id", "text", "party", "address",
    "currency", "phone", "email", "web", "iban", "bic",
]  # fmt: skip


@dataclass(frozen=True)
class Concept:
    """Something that documents state.

    Attributes:
        name: of the concept.
        kind: what its values look like.
        labels: what is printed beside it, most usual first.
        names: what fields of models are called that mean it, beside its labels.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    names: tuple[str, ...] = ()


_FILE = json.loads(Path(__file__).with_name("lexicon.json").read_text(encoding="utf-8"))


def words_for(group: str) -> frozenset[str]:
    """Return a group of words, such as "legal forms" or "streets", folded as `words_of` folds."""
    return frozenset(folded(word) for word in _FILE["words"][group].split())


_SIDES = {"total": "including", "subtotal": "excluding"}


def _read(group: str) -> tuple[Concept, ...]:
    """The concepts of a group of `lexicon.json`, in the order in which names are looked up."""
    return tuple(
        Concept(
            each["name"],
            each["kind"],
            tuple(dict.fromkeys([*each["labels"], *_of_tax(_SIDES.get(each["name"]))])),
            tuple(each.get("names", ())),
        )
        for each in _FILE[group]
    )


def _of_tax(side: str | None) -> list[str]:
    """Labels that say whether tax is in an amount: "amount excl vat". One side alone would be taken for the other."""
    return [
        f"{amount} {word} {tax}"
        for language in (_FILE["with and without tax"] if side else ())
        for amount in language["amounts"]
        for word in language[side]
        for tax in language["taxes"]
    ]


CONCEPTS = _read("document")
"""What a document states once."""

ITEM_CONCEPTS = _read("item")
"""What a table of items has columns for."""
