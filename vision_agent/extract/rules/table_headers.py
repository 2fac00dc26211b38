"""Columns of a table without lines: its header names them, and what stands under a name belongs to it."""

from collections.abc import Sequence
from dataclasses import dataclass

from vision_agent.documents.sheet import Excerpt, Sheet
from vision_agent.documents.text_match import find_folded, folded
from vision_agent.extract.lexicon import ITEM_CONCEPTS, Concept
from vision_agent.extract.rules.view import View
from vision_agent.extract.target import Group, Leaf

_NUMERIC = frozenset({"amount", "number", "percent"})
_STAND_IN = {"unit price": "amount", "amount": "unit price"}  # a table with one price has either


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        concept: what it holds, by its header.
        x0, x1: of its header, reading frame.
        numeric: it holds numbers.
    """

    concept: Concept
    x0: float
    x1: float

    @property
    def numeric(self) -> bool:
        return self.concept.kind in _NUMERIC


@dataclass(frozen=True)
class Header:
    """The header of a table.

    Attributes:
        sheet: the page.
        row, end: its rows, end excluded.
        columns: from left to right.
        score: how much it is one.
    """

    sheet: Sheet
    row: int
    end: int
    columns: tuple[Column, ...]
    score: float


def concepts_of(group: Group) -> dict[str, Concept]:
    """Return the concepts of a list's fields by name, a field's own labels beside those of the vocabulary."""
    found: dict[str, Concept] = {}
    for leaf in group.leaves():
        concept = leaf.concept
        found[concept.name] = Concept(concept.name, concept.kind, tuple(dict.fromkeys((*concept.labels, *leaf.labels))))
    return found


def find_headers(view: View, group: Group) -> list[Header]:
    """Find rows that name at least two columns, one of them the caller's; best first."""
    own = concepts_of(group)
    concepts = [*own.values(), *(concept for concept in ITEM_CONCEPTS if concept.name not in own)]
    found = []
    for sheet in view.sheets:
        for index in range(len(sheet.rows)):
            for rows in (1, 2):
                header = _header(sheet, index, rows, concepts, own)
                if header is not None:
                    found.append(header)
    return sorted(found, key=lambda header: (-header.score, header.end - header.row, header.sheet.page.number))


def _header(sheet: Sheet, index: int, rows: int, concepts: Sequence[Concept], own: dict[str, Concept]) -> Header | None:
    pieces = [piece for row in sheet.rows[index : index + rows] for piece in row]
    if rows == 2 and (
        index + 2 > len(sheet.rows) or sheet.rows[index + 1][0].y0 - sheet.rows[index][-1].y1 > sheet.height
    ):
        return None
    hits: list[tuple[float, Concept, Excerpt]] = []
    for piece in pieces:
        for concept in concepts:
            for label in dict.fromkeys(map(folded, concept.labels)):
                for start, end, like in find_folded(label, piece.shape):
                    place = Excerpt(piece, *piece.shape.span(start, end))
                    preferred = 0.5 if concept.name in own else 0.0
                    hits.append(((end - start) * like + preferred, concept, place))
    hits.sort(key=lambda hit: -hit[0])
    columns: list[Column] = []
    covered: list[Excerpt] = []
    letters = 0.0
    for weight, concept, place in hits:
        clash = any(
            place.piece is other.piece and place.start < other.end and other.start < place.end for other in covered
        )
        if clash or any(column.concept.name == concept.name for column in columns):
            continue
        covered.append(place)
        columns.append(Column(concept, place.x0, place.x1))
        letters += weight
    mine = sum(column.concept.name in own or _STAND_IN.get(column.concept.name, "") in own for column in columns)
    if len(columns) < 2 or mine < 1:
        return None
    total = sum(len(piece.shape.text) for piece in pieces)
    share = min(1.0, letters / max(1, total))
    digits = sum(character.isdigit() for piece in pieces for character in piece.text)
    if share < 0.45 or digits > 4:
        return None
    score = mine + 0.4 * (len(columns) - mine) + 2 * share - 0.5 * (rows - 1)
    return Header(sheet, index, index + rows, tuple(sorted(columns, key=lambda column: column.x0)), score)


def column_of(columns: Sequence[Column], x0: float, x1: float, *, numeric: bool) -> Column | None:
    """Return the column that a box stands under: the one it overlaps most, else the nearest by edges and middle."""
    under = [column for column in columns if min(x1, column.x1) > max(x0, column.x0)]
    if numeric and under and not any(column.numeric for column in under):
        for column in under:  # "02 May" and article numbers are no amounts
            if column.concept.kind in ("date", "id"):
                return column
    pool = [column for column in columns if column.numeric == numeric] or list(columns)
    best: tuple[float, Column] | None = None
    for column in pool:
        shared = min(x1, column.x1) - max(x0, column.x0)
        edges = min(abs(x0 - column.x0), abs(x1 - column.x1), abs(x0 + x1 - column.x0 - column.x1) / 2)
        away = edges - 0.5 * max(0.0, shared)
        if best is None or away < best[0]:
            best = (away, column)
    return best[1] if best is not None else None


def leaf_for(group: Group, column: Column, columns: Sequence[Column]) -> Leaf | None:
    """Return the field that a column's values are for."""
    leaves = {leaf.concept.name: leaf for leaf in group.leaves()}
    if column.concept.name in leaves:
        return leaves[column.concept.name]
    other = _STAND_IN.get(column.concept.name)
    if other in leaves and not any(each.concept.name == other for each in columns):
        return leaves[other]
    return None
