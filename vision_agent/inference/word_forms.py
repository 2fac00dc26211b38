"""Answers of a given form, in the words of a model that answers from evidence: it writes "two", never `{"dogs": 2}`.

A schema of one value is filled from the word that the model was taught to say; choices may also be said in that word:
the choice "2" is met by "two".
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, JsonValue

from vision_agent.inference.colors import COLOURS
from vision_agent.inference.evidence import COUNT_WORDS

# "Yes" and "no" as callers write them in their own languages.
YES_WORDS = frozenset(
    "yes y true yeah yep ja oui sí si da tak ano kyllä igen evet hai jah ya да так "
    "はい 是 是的 有 예 네 نعم כן हाँ हां ใช่ vâng có".split()
)
NO_WORDS = frozenset(
    "no n false nope none nein non não nie ne nee nej nei ei nu nem tidak нет ні "
    "いいえ 否 不 不是 没有 아니요 아니오 لا לא नहीं ไม่ không".split()
)
_NUMBERS = {"zero": 0, **{word: number for number, word in enumerate(COUNT_WORDS)}}
_AROUND = " \t\n.!?,;:\"'\u3002\u00a1"
_SAID_AS: dict[str, tuple[str, ...]] = {
    **{word: ("yes",) for word in YES_WORDS - {"yes"}},
    **{word: ("no",) for word in NO_WORDS - {"no", "none"}},
    "zero": ("none",),
    "gray": ("grey",),
    **{str(number): (word,) for word, number in _NUMBERS.items() if word != "zero"},
}


def spoken(choices: Iterable[str]) -> dict[str, str]:
    """Return the texts that stand for choices, each with its choice: the word that the model knows, or itself."""
    own = list(dict.fromkeys(choices))
    known = {choice.lower() for choice in own}
    texts: dict[str, str] = {}
    for choice in own:
        words = [word for word in _SAID_AS.get(choice.strip(_AROUND).casefold(), ()) if word not in known]
        if not words or words[0] in texts:
            words = [choice]
        texts[words[0]] = choice
    return texts


def says_all(choices: Mapping[str, object]) -> bool:
    """Return whether the model's own words are among the texts of each choice: yes, no, a number, a colour."""
    own = {"yes", "no", *_NUMBERS, *COLOURS}
    said = [value for text, value in choices.items() if text.strip(_AROUND).casefold() in own]
    return all(value in said for value in choices.values())


@dataclass(frozen=True)
class WordForm:
    """A schema of one value.

    Attributes:
        words: what may be said, each with its value; empty for any words.
        key: of the object that the value is the only one of; None where the value is all.
    """

    words: Mapping[str, JsonValue]
    key: str | None = None

    @classmethod
    def of(cls, schema: type[BaseModel] | dict[str, Any]) -> "WordForm | None":
        """Return the form of a schema; None where it has several values, or none that words can say."""
        root = schema if isinstance(schema, dict) else schema.model_json_schema()
        top = _resolved(root, root)
        properties = top.get("properties")
        if top.get("type") != "object" and not properties:
            words = _words(top, root)
            return None if words is None else cls(words)
        if not isinstance(properties, dict) or len(properties) != 1:
            return None
        ((key, content),) = properties.items()
        words = _words(_resolved(content, root), root)
        return None if words is None else cls(words, key)

    def value(self, text: str) -> JsonValue:
        """Return what the words say, in the schema's form."""
        value = self.words[text] if self.words else text
        return value if self.key is None else {self.key: value}


def _resolved(schema: Any, root: Mapping[str, Any]) -> dict[str, Any]:
    """A schema with its local references followed, and without the null that makes it optional."""
    for _ in range(16):  # a reference to itself has no end
        if not isinstance(schema, Mapping):
            return {}
        options = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf") or []
        real = [option for option in options if not (isinstance(option, Mapping) and option.get("type") == "null")]
        if len(real) == 1:
            schema = real[0]
        elif "$ref" in schema:
            *_, name = str(schema["$ref"]).split("/")
            groups = (root.get("$defs", {}), root.get("definitions", {}))
            schema = next((group[name] for group in groups if name in group), {})
        else:
            return dict(schema)
    return {}


def _words(leaf: Mapping[str, Any], root: Mapping[str, Any]) -> dict[str, JsonValue] | None:
    values: Sequence[JsonValue] | None = leaf.get("enum", [leaf["const"]] if "const" in leaf else None)
    if values is not None:
        named: dict[str, JsonValue] = {
            {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value): value
            for value in values
            if value is not None
        }
        return {text: named[choice] for text, choice in spoken(named).items()} or None
    match leaf.get("type"):
        case "boolean":
            return {"yes": True, "no": False}
        case "integer" | "number":
            least, most = leaf.get("minimum", 0), leaf.get("maximum", len(COUNT_WORDS))
            return {word: number for word, number in _NUMBERS.items() if least <= number <= most} or None
        case "string" if not {"pattern", "format", "minLength", "maxLength"} & set(leaf):
            return {}
    return None
