"""Blocks of a page as Markdown. Text read from a page must not turn into marks of its own, so those are escaped."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vision_agent.documents.table import Table

# What would start a heading, a quote, a rule or a fence; and what would start a tag, which renderers run as HTML.
_AT_START = re.compile(r"^(\s*)(#{1,6}(?=\s)|>|```|~~~|(?:[-*_]\s*){3,}$|={3,}$)")
_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_CUT, _CUT_REST = re.compile(r"[^\W\d_]{2,}[-\u00ad\u2010]$"), re.compile(r"([a-zß-öø-ÿ]\S*)\s*")
_BULLET = re.compile(r"^\s*[-\u2013\u2014•●▪◦*·○■□]\s*(?=\S)")
_NUMBERED = re.compile(r"^\s*(\d{1,3}|[a-zA-Z])[.)]\s")


def escaped(text: str) -> str:
    """Return a line of text that stays text in Markdown."""
    return _AT_START.sub(r"\1\\\2", _TAG.sub(r"\\<", text))


def joined_hyphens(lines: Sequence[str]) -> list[str]:
    """Return lines in which words that were cut at a line's end are whole: the rest of a word goes up to its line.

    "exam-" and "ple" are one word; "1990-" and "2000" are not, nor is "Anglo-" before a capital.
    """
    whole: list[str] = []
    for line in lines:
        rest = _CUT_REST.match(line)
        if whole and rest and _CUT.search(whole[-1]):
            whole[-1] = whole[-1][:-1] + rest[1]
            line = line[rest.end() :]
            if not line:
                continue
        whole.append(line)
    return whole


def block_markdown(kind: str, lines: Sequence[str], table: "Table | None", level: int | None = None) -> str:
    """Return one block as Markdown; "" where it has no text.

    Args:
        kind: of the block.
        lines: its text.
        table: its cells, for a table that has them.
        level: of a heading.
    """
    if table is not None:
        return table.to_markdown()
    if kind == "code":
        fence = "`" * max(3, 1 + max((len(run) for line in lines for run in re.findall("`+", line)), default=0))
        return "\n".join((fence, *lines, fence)) if lines else ""
    if kind == "figure":
        return "<!-- figure -->"
    lines = joined_hyphens([line for line in lines if line.strip()])
    if not lines:
        return ""
    if kind == "title":
        return "#" * (level or 2) + " " + _TAG.sub(r"\\<", " ".join(lines))
    if kind == "list":
        return "\n".join(_items(lines))
    if kind == "table":  # its cells were not found: keep the lines apart
        return "  \n".join(escaped(line) for line in lines)
    if kind == "caption":
        return "*" + escaped(" ".join(lines)).replace("*", "\\*") + "*"
    return "\n".join(escaped(line) for line in lines)


def _items(lines: Sequence[str]) -> list[str]:
    """List items; a line without a bullet or number continues the item above."""
    items: list[str] = []
    for line in lines:
        if _NUMBERED.match(line):
            items.append(line.strip())
        elif _BULLET.match(line) or not items:
            items.append("- " + escaped(_BULLET.sub("", line)))
        else:
            items[-1] += " " + line.strip()
    return items
