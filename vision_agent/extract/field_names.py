"""What a field of a caller's model means, by its name, aliases, title, description and the groups around it.

A name means a concept of the vocabulary where it is one of its names, or has one in it and all other words say nothing
more: `invoice_total_amount` is the total, `room_number` and `old_total` are none of them and look for their own labels.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal

from pydantic import AliasChoices
from pydantic.fields import FieldInfo

from vision_agent.documents.text_match import folded, words_of
from vision_agent.extract.lexicon import CONCEPTS, ITEM_CONCEPTS, Concept, Kind, words_for
from vision_agent.extract.values.currencies import currency_of_name

Form = Literal["number", "integer", "date", "datetime", "time", "bool", "choice", "text"]
"""What a value is once it is read; a field may allow several."""

_KIND_OF_FORM: dict[Form, Kind] = {
    "number": "amount",
    "integer": "number",
    "date": "date",
    "datetime": "date",
    "time": "time",
}
_FORMS_OF_KIND: dict[Kind, frozenset[Form]] = {
    "amount": frozenset({"number", "integer"}),
    "number": frozenset({"number", "integer"}),
    "percent": frozenset({"number", "integer"}),
    "date": frozenset({"date", "datetime"}),
    "time": frozenset({"time", "datetime"}),
}
_BY_NAME = {concept.name: concept for concept in CONCEPTS}
_PARTIES = tuple(_BY_NAME[name] for name in ("seller", "buyer", "ship to"))
_PARTY_CONCEPTS = frozenset({*(each.name for each in _PARTIES), "seller address", "buyer address", "ship to address"})
# What a party has, so that a party's name may stand before it: `vendor_tax_id`, but not `company_number`.
_OF_A_PARTY = frozenset(
    {"tax id", "registration number", "iban", "bic", "phone", "fax", "email", "web", "customer number"}
)
_OWN_NAMES = frozenset({"name", "company", "companyname", "fullname", "legalname", "firma", "nom", "nombre", "nome"})
_NEUTRAL = words_for("neutral names")
_GENERIC = words_for("generic names")
_SAYS_LITTLE = (_NEUTRAL | _GENERIC) - {"total", "currency", "address", "date"}  # alone they mean no concept
_EXCLUDING, _INCLUDING, _TAXES = words_for("excluding"), words_for("including"), words_for("taxes")
# Words that say of a value's kind what the kind says already: `issued_on`, `vat_amount`, `buyer_name`.
_SAYS_KIND: Mapping[str, frozenset[str]] = {
    "amount": frozenset("amount sum value price money due cost in".split()),
    "number": frozenset("count number in".split()),
    "percent": frozenset("percent percentage rate in".split()),
    "date": frozenset("date day on at when".split()),
    "time": frozenset("time at".split()),
    "id": frozenset("number no nr id num code identifier".split()),
    "party": frozenset("name company legal party business that which who issued issuing sent sends".split()),
    "address": frozenset("address line lines".split()),
    "currency": frozenset("currency code iso symbol".split()),
    "phone": frozenset("number no".split()),
    "email": frozenset("address".split()),
    "web": frozenset("address url site".split()),
    "iban": frozenset("number account code bank".split()),
}
_PLAIN_GROUPS = frozenset(
    "invoice document doc bill receipt header head details detail info data summary meta metadata totals amounts sums"
    " payment bank order page paper result fields values general main".split()
)
_NUMBERS = frozenset({"number", "no", "nr", "num"})
# Last words of names that say what a value is, which papers leave out: "Fare: 142.00".
_SAYS_FORM: Mapping[str, frozenset[Form]] = {
    "name": frozenset({"text"}),
    "date": frozenset({"date", "datetime"}),
    "amount": frozenset({"number", "integer"}),
    "price": frozenset({"number", "integer"}),
}
_OF_NAMES = frozenset("first last middle given family user file account bank product item company brand".split())
_SHORTEST_LABEL = 4  # letters of a name without its last word
_LONGEST_LABEL = 60  # letters of a description that may be a label; a longer one explains
_LONGEST_DESCRIPTION = 160  # letters of a description that may say what a field means
_LEADING = re.compile(r"^(?:the|a|an|your|der|die|das|le|la|les|el|los|il|lo|de|het|enter)\s+", re.IGNORECASE)
_OF = re.compile(
    r"^(?P<what>[^\W\d]+(?: [^\W\d]+)?) (?:of|de|du|von|des|der|di|van) (?:the |la |el |le |het )?(?P<whom>[\w ]+)$",
    re.I,
)


def labels_of(name: str, info: FieldInfo) -> tuple[str, ...]:
    """Return the folded texts that may be printed beside a field's value, from the model itself."""
    texts: list[object] = [name.strip("_"), info.alias, info.title]
    alias = info.validation_alias
    texts += alias.choices if isinstance(alias, AliasChoices) else [alias]
    described = (info.description or "").strip().rstrip(".")
    if described and len(folded(described)) <= _LONGEST_LABEL:
        texts += [described, _LEADING.sub("", described)]
        if (match := _OF.match(_LEADING.sub("", described))) is not None:  # "number of the room": room number
            texts.append(f"{match['whom']} {match['what']}")
    return tuple(dict.fromkeys(folded(text) for text in texts if isinstance(text, str) and folded(text)))


def short_labels(name: str, forms: Collection[Form]) -> tuple[str, ...]:
    """Return folded texts that papers print for a field's name where it says more than they do.

    `room_number` is printed as "Room No.", `patient_name` as "Patient", `arrival_date` as "Arrival".
    """
    words = words_of(name)
    found = [
        "".join("of" if word == "of" else other if word in _NUMBERS else word for word in words)
        for other in ("no", "nr", "number")
        if set(words) & _NUMBERS and len(words) > 1
    ]
    rest = "".join(words[:-1])
    if words and words[-1] in _SAYS_FORM and set(forms) & _SAYS_FORM[words[-1]] and len(rest) >= _SHORTEST_LABEL:
        taken = set(words[:-1]) <= _NEUTRAL | _GENERIC | _OF_NAMES or _named((rest,), CONCEPTS) is not None
        found += [] if taken else [rest]
    return tuple(dict.fromkeys(found))


def party_of(path: Sequence[str]) -> str:
    """Return whose value a path names: the nearest of its names that begins with, or is, a party's."""
    for name in reversed(path):
        words = words_of(name)
        for concept in _PARTIES:
            for each in (*concept.names, *concept.labels):
                own = words_of(each)
                if own and words[: len(own)] == own and (len(folded(each)) > 4 or words == own):
                    return concept.name
    return ""


def currency_of(path: Sequence[str]) -> str | None:
    """Return the currency that a field's name ends in, as ISO 4217 has it."""
    return currency_of_name(words_of(path[-1]))


def concept_of(
    path: tuple[str, ...], labels: Sequence[str], forms: set[Form], inside_list: bool, description: str = ""
) -> Concept:
    """Return the concept that a field's names mean; one of its own labels where the vocabulary has none."""
    pool = [concept for concept in (ITEM_CONCEPTS if inside_list else CONCEPTS) if _allowed(concept, forms)]
    of_parents = "" if inside_list else party_of(path[:-1])
    if of_parents:  # `buyer.address`, also where the field is called `client`
        if labels[0] in _OWN_NAMES:
            return _BY_NAME[of_parents]
        pool = [each for each in pool if each.name in _PARTY_CONCEPTS | _OF_A_PARTY]
        labels = (folded(f"{of_parents} {path[-1]}"), *labels)
    elif not inside_list and len(path) > 1:
        labels = (folded("".join(path[-2:])), *labels)
    words = words_of(path[-1])
    said = _described(description, pool)
    if not inside_list and not of_parents and (whole := _named(labels, pool)) is None:
        if (party := party_of(path)) and (found := _of_party(party, words, pool)) is not None:
            return found
    else:
        whole = _named(labels, pool) if inside_list or of_parents else whole
    plain = len(path) < 2 or of_parents or inside_list or set(words_of(path[-2])) & _PLAIN_GROUPS
    if whole is not None and (plain or whole.kind not in ("id", "amount") or not set(words) <= _GENERIC):
        return said if said is not None and set(words) <= _GENERIC else whole
    if (part := _with_neutral_words(words, pool)) is not None and (plain or not set(words) <= _GENERIC):
        return part
    if said is not None:
        return said
    kinds = [_KIND_OF_FORM[form] for form in ("date", "datetime", "time", "integer", "number") if form in forms]
    own = tuple(labels) if plain else (folded("".join(path[-2:])), folded(f"{path[-2]} {path[-1]}"))
    return Concept("." + ".".join(path), kinds[0] if kinds else "text", tuple(dict.fromkeys(own)))


def _named(labels: Iterable[str], pool: Sequence[Concept]) -> Concept | None:
    """The concept that has one of these texts as a name, or as a label."""
    for text in labels:
        for exact in ("names", "labels"):
            for concept in pool:
                if text in {folded(each) for each in getattr(concept, exact)}:
                    return concept
    return None


def _of_party(party: str, words: tuple[str, ...], pool: Sequence[Concept]) -> Concept | None:
    """What a name that begins with a party's means: `vendor_name`, `partner_vat`, `customer_street`."""
    rest = words[1:]
    if not rest:
        return None
    if "".join(rest) in _OWN_NAMES:
        return _BY_NAME[party]
    owned = [concept for concept in pool if concept.name in _OF_A_PARTY - {"customer number"}]
    if set(rest) <= {"no", "nr", "number", "id", "code", "ref", "reference"}:
        return None
    found = _named([folded(" ".join((party, *rest))), "".join(rest)], [*owned, *(_BY_NAME[f"{party} address"],)])
    return found or _with_neutral_words(rest, owned)


def _with_neutral_words(words: tuple[str, ...], pool: Sequence[Concept]) -> Concept | None:
    """The concept of which a name has all words, and beside them only words that say nothing more."""
    best: tuple[int, Concept] | None = None
    own = [word for word in words if currency_of_name(("", word)) is None]
    for concept in pool:
        says_nothing = _NEUTRAL | _SAYS_KIND.get(concept.kind, frozenset())
        if concept.kind in ("iban", "id"):
            says_nothing -= {"name"}  # whose account it is
        for each in (*concept.names, *concept.labels):
            named = words_of(each)
            if not set(named) <= set(own) or set(named) <= _SAYS_LITTLE:
                continue
            if all(word in named or word in says_nothing for word in own):
                letters = sum(map(len, named))
                if best is None or letters > best[0]:
                    best = (letters, concept)
    return best[1] if best is not None else None


def _described(description: str, pool: Sequence[Concept]) -> Concept | None:
    """The concept that a description names: all its words belong to one name, or say nothing more."""
    first = re.split(r"[.;:(]\s", description.strip().rstrip("."))[0]
    if not first or len(first) > _LONGEST_DESCRIPTION:
        return None
    plain = _LEADING.sub("", first)
    if (found := _named([folded(first), folded(plain)], pool)) is not None:
        return found
    words = tuple(word for word in words_of(plain) if word not in ("s",))
    by_name = {concept.name: concept for concept in pool}
    if set(words) & _TAXES and "subtotal" in by_name and set(words) & {"total", "amount", "sum", "price", "betrag"}:
        if set(words) & _EXCLUDING and not set(words) & {"free", "exempt"}:
            return by_name["subtotal"]
        if set(words) & _INCLUDING:
            return by_name.get("total")
    if (match := _OF.match(plain)) is not None:
        turned = (*words_of(match["whom"]), *words_of(match["what"]))
        return _with_neutral_words(turned, pool) or _with_neutral_words(words, pool)
    return _with_neutral_words(words, pool)


def _allowed(concept: Concept, forms: set[Form]) -> bool:
    """Whether a field of these forms can hold what the concept states. A text can hold anything."""
    return "text" in forms or "choice" in forms or bool(_FORMS_OF_KIND.get(concept.kind, frozenset()) & forms)
