"""Values on their way into a caller's object: a tree to validate, and beside it where each of them comes from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vision_agent.documents.sheet import Excerpt, box_of
from vision_agent.extract.result import FieldValue
from vision_agent.extract.rules.line_items import Rows
from vision_agent.extract.target import Group, Leaf, Many


@dataclass(frozen=True)
class Filled:
    """What was found.

    Attributes:
        data: for `model_validate`: keys are those the model reads.
        fields: every value's origin by its path.
        keys: path of a value in `data` by its path in `fields`.
        refused: by path, what the document states and the field's own type does not take, and why not.
    """

    data: dict[str, Any]
    fields: dict[str, FieldValue]
    keys: dict[str, tuple[str | int, ...]]
    refused: dict[str, tuple[FieldValue, str]] = field(default_factory=dict)


@dataclass
class Filling:
    """Values for a target, while they are collected."""

    target: Group
    _data: dict[str, Any] = field(default_factory=dict)
    _fields: dict[str, FieldValue] = field(default_factory=dict)
    _keys: dict[str, tuple[str | int, ...]] = field(default_factory=dict)

    def put(self, leaf: Leaf, value: Any, excerpts: Sequence[Excerpt], confidence: float) -> None:
        """Put a value that is in no list."""
        self._set(".".join(leaf.path), self._key(leaf.path), value, origin(value, excerpts, confidence))

    def rows(self, many: Many, rows: Rows) -> None:
        """Add the lines of a table as the groups of a list."""
        for index, row in enumerate(rows.rows):
            for leaf, candidate, value in row:
                inner = leaf.path[len(many.path) :]
                path = f"{'.'.join(many.path)}[{index}].{'.'.join(inner)}"
                key = (*self._key(many.path), index, *self._key_in(many.item, inner))
                self._set(path, key, value, origin(value, candidate.excerpts, candidate.confidence))

    def append(self, many: Many, value: Any, excerpts: Sequence[Excerpt], confidence: float) -> None:
        """Append one more value to a list of values."""
        key = self._key(many.path)
        index = sum(other[: len(key)] == key for other in self._keys.values())
        self._set(f"{'.'.join(many.path)}[{index}]", (*key, index), value, origin(value, excerpts, confidence))

    def add(
        self, path: str, key: tuple[str | int, ...], value: Any, excerpts: Sequence[Excerpt], confidence: float
    ) -> None:
        """Add a value at a place of the tree that the caller knows."""
        self._set(path, key, value, origin(value, excerpts, confidence))

    def flag(self, path: str, source: FieldValue) -> None:
        """Note something about a value that was not found."""
        self._fields[path] = source

    def done(self) -> Filled:
        """Return the filled tree; values that were not found have their place among the fields."""
        fields: dict[str, FieldValue] = {}
        for path in _paths(self.target):
            own = {each: value for each, value in self._fields.items() if each == path or each.startswith(f"{path}[")}
            fields |= own or {path: FieldValue()}
        for path, value in self._fields.items():
            fields.setdefault(path, value)
        fill_blanks(self.target, self._data)
        return Filled(self._data, fields, dict(self._keys))

    def _set(self, path: str, key: tuple[str | int, ...], value: Any, source: FieldValue) -> None:
        self._fields[path] = source
        self._keys[path] = key
        place(self._data, key, value)

    def _key(self, path: Sequence[str]) -> tuple[str | int, ...]:
        return self._key_in(self.target, path)

    def _key_in(self, part: Group | Leaf | Many, path: Sequence[str]) -> tuple[str | int, ...]:
        keys: list[str | int] = []
        for name in path:
            assert isinstance(part, Group)
            key, part = next((key, inner) for key, inner in part.parts.items() if inner.path[-1] == name)
            keys.append(key)
        return tuple(keys)


def fill_blanks(part: Group, here: dict[str, Any]) -> None:
    """Set None where nothing was found and None must be said; a list without items where a list must be."""
    for key, inner in part.parts.items():
        if inner.blank:
            here.setdefault(key, None)
        elif isinstance(inner, Many) and inner.required:
            here.setdefault(key, [])
        elif isinstance(inner, Group) and inner.required and not any(_must(each) for each in inner.parts.values()):
            here.setdefault(key, {})
        found = here.get(key)
        if isinstance(inner, Group) and isinstance(found, dict):
            fill_blanks(inner, found)
        if isinstance(inner, Many) and isinstance(inner.item, Group) and isinstance(found, list):
            for each in found:
                fill_blanks(inner.item, each)


def _must(part: Group | Leaf | Many) -> bool:
    """Whether something must be found for a part to be."""
    if isinstance(part, Group):
        return part.required and any(_must(each) for each in part.parts.values())
    return isinstance(part, Leaf) and part.required


def place(data: dict[str, Any], key: Sequence[str | int], value: Any) -> None:
    """Set a value in nested dicts and lists, which grow as needed."""
    here: Any = data
    for step, following in zip(key, [*key[1:], None], strict=True):
        if isinstance(step, int):
            while len(here) <= step:
                here.append(None)
            if following is None:
                here[step] = value
            elif here[step] is None:
                here[step] = [] if isinstance(following, int) else {}
            here = here[step]
        elif following is None:
            here[step] = value
        else:
            here = here.setdefault(step, [] if isinstance(following, int) else {})


def drop(data: Any, key: Sequence[str | int]) -> None:
    """Take a value out of nested dicts and lists, and a dict that is empty then; nothing where it is not there."""
    whole = data
    for step in key[:-1]:
        if isinstance(data, Mapping) and step in data:
            data = data[step]
        elif isinstance(data, list) and isinstance(step, int) and step < len(data):
            data = data[step]
        else:
            return
    if isinstance(data, dict):
        data.pop(key[-1], None)
        if not data and len(key) > 1:
            drop(whole, key[:-1])


def origin(value: Any, excerpts: Sequence[Excerpt], confidence: float) -> FieldValue:
    """Return where a value comes from. Words on several pages: the first page's."""
    page = excerpts[0].piece.page
    here = [excerpt for excerpt in excerpts if excerpt.piece.page == page]
    return FieldValue(
        value=value,
        found=True,
        text=" ".join(excerpt.text for excerpt in excerpts),
        page=page,
        box=box_of(here),
        quads=tuple(word.quad for excerpt in here for word in excerpt.words),
        confidence=min(1.0, max(0.0, confidence)),
    )


def _paths(part: Group | Leaf | Many) -> list[str]:
    if isinstance(part, Group):
        return [path for inner in part.parts.values() for path in _paths(inner)]
    return [".".join(part.path)]
