"""Articles and plurals of English names of objects."""

from collections.abc import Sequence

_IRREGULAR = {
    "bench": "benches",
    "broccoli": "broccoli",
    "bus": "buses",
    "child": "children",
    "couch": "couches",
    "electronics": "electronics",
    "fish": "fish",
    "food": "food",
    "fruit": "fruit",
    "furniture": "furniture",
    "grapes": "grapes",
    "headphones": "headphones",
    "knife": "knives",
    "man": "men",
    "mouse": "mice",
    "person": "people",
    "sandwich": "sandwiches",
    "scissors": "scissors",
    "sheep": "sheep",
    "skis": "skis",
    "toothbrush": "toothbrushes",
    "wine glass": "wine glasses",
    "woman": "women",
}


def plural(name: str) -> str:
    """Return the English plural of an object's name, good enough for phrases."""
    if name in _IRREGULAR:
        return _IRREGULAR[name]
    if name.endswith(("s", "x", "ch", "sh")):
        return name + "es"
    if name.endswith("y") and name[-2:-1] not in "aeiou":
        return name[:-1] + "ies"
    return name + "s"


def with_article(name: str) -> str:
    """Return the name with its article: `"a dog"`, `"an apple"`."""
    return f"{'an' if name[:1] in set('aeiou') else 'a'} {name}"


def listed(items: Sequence[str]) -> str:
    """Return `"a, b and c"`."""
    return " and ".join(filter(None, (", ".join(items[:-1]), items[-1])))
