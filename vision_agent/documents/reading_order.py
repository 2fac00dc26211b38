"""From lines in any order to blocks in reading order: columns, paragraphs, titles, lists.

Lines are put upright first, so turned and skewed pages are ordered like straight ones. Columns are found by the white
gutters between them; a gutter between short pieces that stand in rows (a receipt, a table) is none. All of it is
geometry of the lines: no model, and a few milliseconds a page.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vision_agent.documents.result import Block, BlockKind, Line, box_around
from vision_agent.documents.writing_direction import right_to_left_share

Boxes = npt.NDArray[np.float64]

_GUTTER = 0.8  # typical line heights of white between columns
_COLUMN_LINES = 3  # lines of a column at least
_COLUMN_WIDTH = 7.0  # typical line heights: narrower pieces are cells, not lines of running text
_PARAGRAPH = 1.4  # times the usual distance of lines, from which a paragraph ends
_TITLE = 1.3  # times the typical line height
_RESIZED = 1.08  # times a font's size, where a PDF tells it
_HEADING = 1.12  # the same for a short line that stands alone
_MARGIN = 0.07  # of the page, where running heads and feet are
_STRAIGHT = 0.3  # degrees that are no turn

_BULLET = re.compile(r"^([-\u2013\u2014•●▪◦·*○■□►➢✓]\s|[•●▪◦■□►➢✓]|\(?(\d{1,2}|[a-z])[.)]\s)")
_NUMBERED = re.compile(r"^(\d{1,2}(\.\d{1,2})*\.?|[IVX]{1,4}\.)\s+[^\W\d_]")
_CAPTION = re.compile(
    r"^(fig(ure)?|table|abb(ildung)?|tab(elle)?|tableau|figura|tabla|bild|图|表)\.?\s*\d+\s*([.:)\-\u2013\u2014]|$|\s)",
    re.I,
)


@dataclass(frozen=True)
class Layout:
    """Blocks in reading order, and by how many degrees clockwise the page is turned, 0 <= angle < 360."""

    blocks: tuple[Block, ...]
    angle: float


def blocks_of(lines: Sequence[Line], size: tuple[int, int]) -> Layout:
    """Put lines in any order into blocks in reading order.

    Args:
        lines: whose quads start where reading does.
        size: (width, height) of the page, pixels.
    """
    lines = [line for line in lines if line.words]
    if not lines:
        return Layout((), 0.0)
    quads = np.array([line.quad for line in lines], dtype=np.float64)
    angle = _page_angle(quads)
    boxes = _upright(quads, angle)
    typical = _typical_height(lines, boxes)
    page = _upright(np.array([[(0, 0), (size[0], 0), size, (0, size[1])]], dtype=np.float64), angle)[0]
    if right_to_left_share(" ".join(line.text for line in lines)) > 0.5:
        boxes, page = _mirrored(boxes), _mirrored(page)  # columns and rows begin on the right
    groups = [
        group
        for column in _columns(boxes, np.arange(len(lines)), typical)
        for group in _paragraphs(lines, boxes, column, typical)
    ]
    blocks = []
    for group in groups:
        indices = [index for row in group for index in row]
        kind = _kind([lines[index].text for index in indices], boxes[indices], len(group), typical, page)
        if kind in ("header", "footer") and not _stands_apart(boxes, indices, typical):
            kind = "text"
        members = tuple(lines[index] for index in indices)
        blocks.append(Block(kind=kind, box=box_around([line.quad for line in members]), lines=members))
    return Layout(tuple(blocks), angle)


# --- the page put upright


def _page_angle(quads: Boxes) -> float:
    """Degrees clockwise by which most of the writing is turned."""
    along = quads[:, 1] - quads[:, 0] + quads[:, 2] - quads[:, 3]
    length = np.linalg.norm(along, axis=1)
    if not length.sum():
        return 0.0
    degrees = np.degrees(np.arctan2(along[:, 1], along[:, 0]))
    quarter = np.round(degrees / 90) % 4
    most = int(np.argmax([length[quarter == turn].sum() for turn in range(4)]))
    # Short lines have no direction worth counting.
    voting = (quarter == most) & (length >= 0.25 * length[quarter == most].max())
    skew = (degrees[voting] - 90 * most + 180) % 360 - 180
    order = np.argsort(skew)
    weight = np.cumsum(length[voting][order])
    median = float(skew[order][np.searchsorted(weight, weight[-1] / 2)])
    return (90.0 * most + (0.0 if abs(median) < _STRAIGHT else round(median, 2))) % 360


def _upright(quads: Boxes, angle: float) -> Boxes:
    """Boxes (n, 4) around quads (n, 4, 2) of a page that is turned back by `angle`."""
    turn = np.radians(angle)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    corners = quads @ matrix
    # The mean of opposite sides: a box around a skewed line would overlap its neighbours.
    left, right = corners[:, [0, 3], 0].mean(axis=1), corners[:, [1, 2], 0].mean(axis=1)
    top, bottom = corners[:, [0, 1], 1].mean(axis=1), corners[:, [2, 3], 1].mean(axis=1)
    sides = np.stack([left, top, right, bottom], axis=1)
    boxes: Boxes = np.concatenate(
        [np.minimum(sides[:, :2], sides[:, 2:]), np.maximum(sides[:, :2], sides[:, 2:])], axis=1
    )
    return boxes


def _mirrored(boxes: Boxes) -> Boxes:
    return boxes[..., [2, 1, 0, 3]] * [-1, 1, -1, 1]


def _typical_height(lines: Sequence[Line], boxes: Boxes) -> float:
    """The height that most characters have, pixels."""
    heights = boxes[:, 3] - boxes[:, 1]
    order = np.argsort(heights)
    weight = np.cumsum([len(lines[index].text) for index in order])
    return max(1.0, float(heights[order][np.searchsorted(weight, weight[-1] / 2)]))


# --- columns


def _columns(boxes: Boxes, members: npt.NDArray[np.int64], typical: float) -> list[list[list[int]]]:
    """Columns in reading order, each as its rows from the top, each row from the left."""
    rows = _rows(boxes, members)
    found = _widest_zone(boxes, rows, typical)
    if found is None:
        return [rows]
    begin, end, cut = found
    above, below = rows[:begin], rows[end:]
    zone = np.array([index for row in rows[begin:end] for index in row])
    left = (boxes[zone, 0] + boxes[zone, 2]) / 2 < cut
    parts: list[list[list[int]]] = []
    for part in (_flat(above), zone[left], zone[~left], _flat(below)):
        if len(part):
            parts += _columns(boxes, part, typical)
    return parts


def _flat(rows: Sequence[Sequence[int]]) -> npt.NDArray[np.int64]:
    return np.array([index for row in rows for index in row], dtype=np.int64)


def _rows(boxes: Boxes, members: npt.NDArray[np.int64]) -> list[list[int]]:
    """Lines side by side form a row: those that share more than half of the lower one's height with its first line."""
    rows: list[list[int]] = []
    middles = (boxes[:, 1] + boxes[:, 3]) / 2
    for index in members[np.argsort(middles[members], kind="stable")].tolist():
        for row in reversed(rows[-3:]):
            other = row[0]
            shared = min(boxes[index, 3], boxes[other, 3]) - max(boxes[index, 1], boxes[other, 1])
            if shared > 0.5 * min(boxes[index, 3] - boxes[index, 1], boxes[other, 3] - boxes[other, 1]):
                row.append(index)
                break
        else:
            rows.append([index])
    return [sorted(row, key=lambda index: boxes[index, 0]) for row in rows]


def _widest_zone(boxes: Boxes, rows: Sequence[Sequence[int]], typical: float) -> tuple[int, int, float] | None:
    """The longest run of rows [begin, end) with a gutter between two columns of text, and where it is cut."""
    best: tuple[int, int, float] | None = None
    for begin, row in enumerate(rows):
        if best is not None and len(rows) - begin <= best[1] - best[0]:
            break
        # Lines of two columns may be staggered: then they are rows of their own, one just below the other.
        beside = [*row, *(rows[begin + 1] if begin + 1 < len(rows) else ())]
        sides = boxes[[each for each in beside if boxes[each, 1] < boxes[row[0], 3]]]
        sides = sides[np.argsort(sides[:, 0], kind="stable")]
        edge = np.maximum.accumulate(sides[:, 2])
        for left, right in zip(edge[:-1].tolist(), sides[1:, 0].tolist(), strict=True):
            end, low, high = _follow(boxes, rows, begin, left, right, _GUTTER * typical)
            longer = best is None or end - begin > best[1] - best[0]
            if longer and _are_columns(boxes, _flat(rows[begin:end]), (low + high) / 2, typical):
                best = begin, end, (low + high) / 2
    return best


def _follow(
    boxes: Boxes, rows: Sequence[Sequence[int]], begin: int, low: float, high: float, least: float
) -> tuple[int, float, float]:
    """How far down a gutter reaches, and its left and right edge there."""
    end = begin
    for row in rows[begin:]:
        left, right = low, high
        for index in row:
            x0, x1 = boxes[index, 0], boxes[index, 2]
            if x0 <= left and x1 >= right:
                left = right
            elif x0 <= left or (x1 < right and x0 + x1 < left + right):
                left = max(left, x1)
            else:
                right = min(right, x0)
        if right - left < least:
            break
        low, high = left, right
        end += 1
    return end, low, high


def _are_columns(boxes: Boxes, zone: npt.NDArray[np.int64], cut: float, typical: float) -> bool:
    """Whether both sides of a cut are running text."""
    left = (boxes[zone, 0] + boxes[zone, 2]) / 2 < cut
    for side in (zone[left], zone[~left]):
        if len(side) < _COLUMN_LINES:
            return False
        widths = boxes[side, 2] - boxes[side, 0]
        full = boxes[side, 2].max() - boxes[side, 0].min()
        # Running text fills its column, line for line; cells of a table rarely do. A table may stand in the column:
        # most of what is written then still stands in lines that fill it.
        if _median_of_length(widths) < max(_COLUMN_WIDTH * typical, 0.6 * full):
            return False
    return True


def _median_of_length(widths: Boxes) -> float:
    """The width above which half of all that is written stands, by its length."""
    order = np.sort(widths)
    summed = np.cumsum(order)
    return float(order[np.searchsorted(summed, summed[-1] / 2)])


# --- blocks


def _paragraphs(
    lines: Sequence[Line], boxes: Boxes, rows: Sequence[Sequence[int]], typical: float
) -> list[list[list[int]]]:
    """A column's rows, cut where a paragraph ends, the size of the writing changes, or a list begins or ends."""
    if not rows:
        return []
    tops = np.array([min(boxes[list(row), 1]) for row in rows])
    heights = np.array([float(np.median(boxes[list(row), 3] - boxes[list(row), 1])) for row in rows])
    steps = np.diff(tops)
    close = steps[steps < 2.5 * typical]
    usual = float(np.median(close)) if len(close) else 1.5 * typical
    groups: list[list[list[int]]] = [[list(rows[0])]]
    in_list = bool(_BULLET.match(lines[rows[0][0]].text))
    for above, row in enumerate(rows[1:]):
        tall, small = max(heights[above : above + 2]), min(heights[above : above + 2])
        bullet = bool(_BULLET.match(lines[row[0]].text))
        apart = steps[above] > _PARAGRAPH * max(usual, small)
        heading = any(
            len(each) == 1 and _is_heading(lines[each[0]].text, tall / typical) for each in (rows[above], row)
        )
        resized = tall > _TITLE * small and tall > _TITLE * typical
        resized = resized or (heading and tall > _HEADING * small and tall > _HEADING * typical)
        resized = resized or _restyled([lines[index] for index in rows[above]], [lines[index] for index in row])
        if resized or (apart and not (bullet and in_list)) or (bullet and not in_list):
            groups.append([])
            in_list = bullet
        groups[-1].append(list(row))
    return groups


def _restyled(above: Sequence[Line], row: Sequence[Line]) -> bool:
    """Whether a PDF's fonts say that another paragraph begins: of another size, another face, or a heavy one."""
    if any(line.size is None for line in (*above, *row)):
        return False
    sizes = [max(line.size or 0.0 for line in part) for part in (above, row)]
    if max(sizes) > _RESIZED * min(sizes) or all(line.fixed for line in above) != all(line.fixed for line in row):
        return True
    if len(above) > 1 or len(row) > 1:  # a sum in bold below others is no heading
        return False
    heavy = [all(line.bold or line.italic for line in part) for part in (above, row)]
    begins = row[0].text[:1].isupper() or row[0].text[:1].isdigit() or not row[0].text[:1].isascii()
    if heavy[1] and (not heavy[0] or _NUMBERED.match(row[0].text)):
        return begins
    return heavy[0] and not heavy[1]


def _kind(texts: Sequence[str], boxes: Boxes, rows: int, typical: float, page: Boxes) -> BlockKind:
    """What a block is, by its size, place and first characters."""
    first = texts[0]
    height = float(np.median(boxes[:, 3] - boxes[:, 1]))
    if _CAPTION.match(first):
        return "caption"
    if rows == 1 and len(texts) == 1 and _is_heading(first, height / typical):
        return "title"
    bullets = sum(bool(_BULLET.match(text)) for text in texts)
    if bullets >= 2 and bullets >= 0.3 * len(texts):
        return "list"
    letters = sum(character.isalpha() for text in texts for character in text)
    if height >= _TITLE * typical and rows <= 3 and letters >= 3 and sum(map(len, texts)) <= 200:
        return "title"
    depth = (page[3] - page[1]) * _MARGIN
    if rows <= 2 and height <= 1.1 * typical and page[3] - page[1] < 2.2 * (page[2] - page[0]):
        if boxes[:, 3].max() <= page[1] + depth:
            return "header"
        if boxes[:, 1].min() >= page[3] - depth:
            return "footer"
    return "text"


def _is_heading(text: str, size: float) -> bool:
    """A line on its own that is a little larger than the text and no sentence; a numbered one need not be short."""
    words = len(text.split())
    plain = text[:1].isupper() and words <= 8 and not text.rstrip().endswith((".", ",", ";", ":", "!"))
    numbered = _NUMBERED.match(text) is not None and words <= 14 and not text.rstrip().endswith((",", ";", ":"))
    return size >= _HEADING and (plain or numbered) and sum(map(str.isalpha, text)) >= 4


def _stands_apart(boxes: Boxes, indices: Sequence[int], typical: float) -> bool:
    """Whether white separates a block from all that is above and below it."""
    top, bottom = boxes[list(indices), 1].min(), boxes[list(indices), 3].max()
    others = np.delete(boxes, list(indices), axis=0)
    near = (others[:, 3] > top - 1.5 * typical) & (others[:, 1] < bottom + 1.5 * typical)
    return len(others) >= 4 and not near.any()
