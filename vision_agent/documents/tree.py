"""A document as a tree of its headings: each holds what stands below it, up to the next heading of its level."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, PositiveInt

from vision_agent.documents.markdown import joined_hyphens
from vision_agent.documents.table import Table
from vision_agent.results.box import FROZEN, Box

if TYPE_CHECKING:
    from vision_agent.documents.result import Page


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


def tree_of(pages: "Sequence[Page]") -> DocumentNode:
    """Return a document's pages as a tree, without running heads and page numbers."""
    flat = [
        DocumentNode(
            kind=block.kind,
            text="\n".join(block.text_lines if block.kind == "code" else joined_hyphens(block.text_lines)),
            level=(block.level or 2) if block.kind == "title" else None,
            page=page.number,
            box=block.box,
            table=block.table,
        )
        for page in pages
        for block in page.blocks
        if block.kind not in ("header", "footer")
    ]
    return DocumentNode(kind="document", children=_children(flat))


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
