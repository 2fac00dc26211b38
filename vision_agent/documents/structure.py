"""What the blocks of a document are, seen over all of its pages: headings with levels, running heads, footnotes, code.

A page alone cannot tell a heading from a large quotation, or a running head from a title. Over a whole document the
usual size and weight of text is known, what stands at the same edge of page after page is known, and the styles of
headings have an order, which gives their levels. Where a PDF tells no sizes, the heights of lines stand in for them.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from vision_agent.documents.result import Block, BlockKind, Line, Page, box_around
from vision_agent.results.box import Box

_LARGER = 1.12  # times the usual size, from which a short block is a heading
_SMALLER = 0.94  # times the usual size, up to which a note at a page's foot is a footnote
_MOST_WORDS, _MOST_LETTERS, _MOST_ROWS = 20, 180, 3  # of a heading
_EDGE = 0.11  # of a page's height, where running heads and feet are
_LEVELS = 6

_NUMBERED = re.compile(
    r"^(?:(?i:chapter|section|part|appendix|kapitel|abschnitt|anhang|chapitre|annexe|capítulo|capitolo)\s+)?"
    r"(?P<number>\d{1,2}(?:\.\d{1,2})*|[A-Z](?:\.\d{1,2})+|(?:[A-Z]|[IVX]{2,5})(?=[.:)]))[.:)]?\s+(?=\S)"
)
_BRACKETED = re.compile(r"^[(\uff08]\d{1,2}[)\uff09]\s*(?=\S)")
_DEPTH = re.compile(r"^(?:\d{1,2}|[A-Z])(?:\.\d{1,2})+$|^\d{1,2}$|^[A-Z]$|^[IVX]{1,5}$")
_LEADER = re.compile(r"(\.\s?){4,}|(\.\s){3,}|…{2,}")
_FOOT_MARK = re.compile(r"^([⁰¹²³⁴⁵⁶⁷⁸⁹]+|\d{1,2}(?=\s*[A-Z\"(h])|[*†‡§]+|\(\d{1,2}\))\s*\S")
_PAGE_NUMBER = re.compile(
    r"^\W*(page|seite|página|pagina|sida|side|strona|p\.|s\.)?\s*(\d{1,4}|[ivxlc]{1,6})"
    r"(\s*(of|von|de|di|af|av|z|/)\s*\d{1,4})?\W*$",
    re.IGNORECASE,
)
_FORMULA_SIGN = re.compile(r"[=≤≥≈≠∑∏∫√∈∞±\u00d7÷∂∇→←⇒∀∃]|[\u03b1-\u03c9\u0391-\u03a9]")
_LONE_ITEM = re.compile(r"^[•●▪◦■□►➢✓‣·\u2013]\s*\S")
_SENTENCE = re.compile(r"^\S+\s+\S*\d\S*\s+[a-zà-ÿ]")


@dataclass(frozen=True)
class _Style:
    """How most of a block or a document is written: its size in pixels; heavy, of one width, in capitals."""

    size: float
    bold: bool
    italic: bool = False
    fixed: bool = False
    capital: bool = False


@dataclass
class _Seen:
    """A block on its page, what is known of it, and what it turns out to be."""

    page: int
    block: Block
    style: _Style

    @property
    def text(self) -> str:
        return " ".join(line.text for line in self.block.lines)


def structured(pages: Sequence[Page]) -> tuple[Page, ...]:
    """Return a document's pages with the kinds and levels of their blocks settled over all of them.

    A file without pages of its own says itself what its blocks are.
    """
    if any(page.source == "file" for page in pages):
        return tuple(pages)
    seen = [_Seen(number, block, _style(block.lines)) for number, page in enumerate(pages) for block in page.blocks]
    body = _body(seen)
    running = _running(pages, seen)
    for index, each in enumerate(seen):
        kind = _kind(each, pages[each.page], body, index in running)
        each.block = each.block.model_copy(update={"kind": kind, "level": None})
    _settle_levels(seen)
    found = []
    for number, page in enumerate(pages):
        blocks = [each.block for each in seen if each.page == number]
        code = [block.box for block in blocks if block.kind == "code"]
        pairs = tuple(pair for pair in page.key_values if not any(_within(pair.box, box) for box in code))
        found.append(page.model_copy(update={"blocks": tuple(_joined_code(blocks)), "key_values": pairs}))
    return tuple(found)


def _within(inner: Box, outer: Box) -> bool:
    x, y = (inner.x0 + inner.x1) / 2, (inner.y0 + inner.y1) / 2
    return outer.x0 <= x <= outer.x1 and outer.y0 <= y <= outer.y1


def _style(lines: Sequence[Line]) -> _Style:
    if not lines:
        return _Style(0.0, False)
    sizes = [line.size or 0.85 * _height(line) for line in lines]
    weight = sum(len(line.text) for line in lines) or 1
    bold = sum(len(line.text) for line in lines if line.bold)
    italic = sum(len(line.text) for line in lines if line.italic)
    return _Style(median(sizes), 2 * bold > weight, 2 * italic > weight)


def _height(line: Line) -> float:
    (x0, y0), _, _, (x3, y3) = line.quad
    return float(((x3 - x0) ** 2 + (y3 - y0) ** 2) ** 0.5)


def _body(seen: Sequence[_Seen]) -> _Style:
    """The usual style of running text, by its letters."""
    counts: Counter[float] = Counter()
    bold = italic = fixed = capital = total = 0
    for each in seen:
        if each.block.table is None and each.block.kind != "figure":
            letters = len(each.text)
            counts[round(2 * each.style.size) / 2] += letters
            total += letters
            bold += letters * each.style.bold
            italic += letters * each.style.italic
            fixed += sum(len(line.text) for line in each.block.lines if line.fixed)
            capital += letters * each.text.isupper()
    if not counts:
        return _Style(0.0, False)
    # Neighbouring sizes of one style are counted together: heights of read lines vary.
    size = max(counts, key=lambda one: sum(count for other, count in counts.items() if abs(other - one) <= 0.04 * one))
    return _Style(size, 2 * bold > total, 2 * italic > total, 2 * fixed > total, 2 * capital > total)


# --- running heads and feet


def _running(pages: Sequence[Page], seen: Sequence[_Seen]) -> set[int]:
    """Numbers of blocks that stand at the same edge of several pages and say the same, but for their numbers."""
    said: dict[tuple[bool, str], set[int]] = {}
    at_edge: dict[int, tuple[bool, str]] = {}
    for index, each in enumerate(seen):
        page = pages[each.page]
        if page.angle or len(each.block.lines) > 3 or each.block.table is not None:
            continue
        top = each.block.box.y1 <= _EDGE * page.height
        if top or each.block.box.y0 >= (1 - _EDGE) * page.height:
            key = top, re.sub(r"\d+|\b[ivxlc]+\b", "#", each.text.lower())
            at_edge[index] = key
            said.setdefault(key, set()).add(each.page)
    least = 2 if len(pages) < 8 else 3
    return {index for index, key in at_edge.items() if len(said[key]) >= least}


def _kind(each: _Seen, page: Page, body: _Style, running: bool) -> BlockKind:
    """What a block is, by its own look and the document's."""
    block, text = each.block, each.text
    if block.kind in ("table", "figure", "other") or not block.lines:
        return block.kind
    middle = (block.box.y0 + block.box.y1) / 2
    at_edge = min(middle, page.height - middle) <= _EDGE * page.height
    if running or (at_edge and _PAGE_NUMBER.match(text) and not page.angle):
        return "header" if middle < page.height / 2 else "footer"
    if not body.fixed and all(line.fixed for line in block.lines) and any(map(str.isalnum, text)):
        return "code"
    if block.kind == "caption":
        return "caption" if _is_caption(text, len(block.rows)) else "text"
    if _is_footnote(each, page, body):
        return "footnote"
    if _is_formula(block, text):
        return "formula"
    if block.kind == "list" or _LONE_ITEM.match(text):
        return "list"
    if _is_heading(each, body):
        return "title"
    return "text" if block.kind == "title" and any(line.size for line in block.lines) else block.kind


def _is_caption(text: str, rows: int) -> bool:
    """ "Figure 2: ..." is one, and "Figure 2 A view", but no sentence: "Figure 2 shows ..."."""
    return rows <= 8 and _SENTENCE.match(text) is None


def _is_footnote(each: _Seen, page: Page, body: _Style) -> bool:
    low = each.block.box.y0 > 0.55 * page.height
    small = 0 < each.style.size <= _SMALLER * body.size
    return low and small and not page.angle and _FOOT_MARK.match(each.text) is not None


def _is_formula(block: Block, text: str) -> bool:
    """A short block of signs and single letters; a number in brackets may stand at its end."""
    words = re.findall(r"[^\W\d_]{4,}", text)
    signs = len(_FORMULA_SIGN.findall(text))
    few = len(block.rows) <= 3 and len(words) <= 2
    return few and signs >= 1 and len(text) >= 5 and sum(map(len, words)) < 0.4 * len(text) and "=" in text


def _is_heading(each: _Seen, body: _Style) -> bool:
    block, text, rows = each.block, each.text.strip(), len(each.block.rows)
    words = text.split()
    letters = sum(map(str.isalpha, text))
    if not (1 <= rows <= _MOST_ROWS and len(words) <= _MOST_WORDS and len(text) <= _MOST_LETTERS and letters >= 3):
        return False
    if _LEADER.search(text) or letters < 0.5 * len(text.replace(" ", "")) or not body.size:
        return False
    number = _NUMBERED.match(text)
    ratio = each.style.size / body.size
    first = next((each for each in text if each.isalnum()), " ")
    if first.islower() and ratio < 1.5:
        return False
    if text.endswith((",", ";")) or (text.endswith((".", "!", ":")) and ratio < 1.3 and number is None):
        return False
    if any(line.size is None for line in block.lines):
        return block.kind == "title" or ratio >= 1.3
    heavy = each.style.bold and not body.bold and ratio >= 0.93
    capital = rows == 1 and text.isupper() and letters >= 5 and len(words) <= 10 and ratio >= 0.97 and len(words) >= 1
    numbered = number is not None and _DEPTH.match(number["number"]) is not None
    numbered = (numbered or _BRACKETED.match(text) is not None) and ratio >= 1.04
    slanted = each.style.italic and not body.italic and rows == 1 and len(words) <= 8 and 0.97 <= ratio
    slanted = slanted and not text.endswith((".", ":", ")")) and first.isupper()
    return ratio >= _LARGER or heavy or numbered or slanted or (capital and not body.capital)


# --- levels


def _settle_levels(seen: Sequence[_Seen]) -> None:
    """Give headings their levels: 1 for a document's title, then by numbering, and by size and weight."""
    headings = [each for each in seen if each.block.kind == "title"]
    if not headings:
        return
    title = _title_of(headings)
    rest = [each for each in headings if each is not title]
    depths: dict[_Style, list[int]] = {}
    for each in rest:
        depths.setdefault(_rounded(each.style), [])
        if (depth := _depth(each.text)) is not None:
            depths[_rounded(each.style)].append(depth)
    levels: dict[_Style, int] = {}
    following = 2
    for style in sorted(depths, key=lambda one: (-one.size, not one.bold, one.italic)):
        levels[style] = round(median(depths[style])) + 1 if depths[style] else following
        following = max(following, levels[style] + 1)
    for each in headings:
        depth = _depth(each.text)
        level = 1 if each is title else levels[_rounded(each.style)] if depth is None else depth + 1
        each.block = each.block.model_copy(update={"level": min(level, _LEVELS)})


def _title_of(headings: Sequence[_Seen]) -> _Seen | None:
    """The document's title: the largest heading, if it is among the first of the first page."""
    first = [each for each in headings if each.page == headings[0].page][:3]
    largest = max(first, key=lambda each: each.style.size)
    others = [each.style.size for each in headings if each is not largest]
    alone = largest.page == 0 and _depth(largest.text) is None
    return largest if alone and all(largest.style.size >= 1.05 * size for size in others) else None


def _rounded(style: _Style) -> _Style:
    """A style by which headings of one level are one, though their sizes differ by a hair."""
    return _Style(float(round(style.size * 2) / 2), style.bold, style.italic)


def _depth(text: str) -> int | None:
    """Of a heading's number: 1 for "2" and "IV", 2 for "2.1"; None where it has none."""
    match = _NUMBERED.match(text.strip())
    if match is None or _DEPTH.match(match["number"]) is None:
        return None
    return match["number"].count(".") + 1


# --- code


def _joined_code(blocks: Sequence[Block]) -> list[Block]:
    """Blocks with code that follows on code as one block."""
    joined: list[Block] = []
    for block in blocks:
        if block.kind == "code" and joined and joined[-1].kind == "code":
            lines = joined[-1].lines + block.lines
            joined[-1] = block.model_copy(update={"lines": lines, "box": box_around([line.quad for line in lines])})
        else:
            joined.append(block)
    return joined
