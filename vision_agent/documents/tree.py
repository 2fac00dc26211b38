"""A document as a tree of its headings: each holds what stands below it, up to the next heading of its level."""

from collections.abc import Sequence
from typing import Self

from pydantic import BaseModel, PositiveInt

from vision_agent.documents.table import Table
from vision_agent.results.box import FROZEN, Box

_BODY = 99  # the level of what is no heading


class DocumentNode(BaseModel):
    """A part of a document: the document itself, a heading with all that is below it, a paragraph, a table, ...

    Attributes:
        kind: "document", "title" for a heading, or the kind of its block.
        text: of a heading, a paragraph, ...; words cut at a line's end are whole.
        level: of a heading, from 1.
        page: number of the page; None for the document.
        box: pixels of the page; None for the document.
        table: rows and columns of a table.
        children: what stands below, in reading order.
    """

    model_config = FROZEN

    kind: str
    text: str = ""
    level: PositiveInt | None = None
    page: PositiveInt | None = None
    box: Box | None = None
    table: Table | None = None
    children: tuple[Self, ...] = ()


def tree_of(blocks: Sequence[DocumentNode]) -> DocumentNode:
    """Return the blocks of a document in reading order as a tree."""
    return DocumentNode(kind="document", children=_children(blocks))


def _children(nodes: Sequence[DocumentNode]) -> tuple[DocumentNode, ...]:
    """Nodes in reading order, those below a heading put into it."""
    found: list[DocumentNode] = []
    at = 0
    while at < len(nodes):
        node = nodes[at]
        end = at + 1
        if node.level is not None:
            while end < len(nodes) and (nodes[end].level or _BODY) > node.level:
                end += 1
            node = node.model_copy(update={"children": _children(nodes[at + 1 : end])})
        found.append(node)
        at = end
    return tuple(found)
