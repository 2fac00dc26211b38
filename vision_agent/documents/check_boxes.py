"""Boxes to tick: as characters ("[x]", "☑"), as buttons of a PDF's form, and drawn on the page, each with its label."""

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from vision_agent.documents.key_values import beside, placed
from vision_agent.documents.pdf import PdfField
from vision_agent.documents.result import KeyValue, Page
from vision_agent.documents.sheet import Excerpt, Piece, Sheet, box_of, script_sheet
from vision_agent.errors import MissingExtraError
from vision_agent.results.box import Box

_EMPTY, _TICKED = "☐□❏❑⬜▢", "☑☒✓✔✗✘⊠🗹🗷⮽"
_MARK = re.compile(rf"\[\s*[xXvV✓✔✗✘]?\s*\]|\(\s*[xX✓✔]?\s*\)|[{_EMPTY}{_TICKED}]")
_STRAIGHT = 2.0  # degrees; on pages that are turned further no boxes are looked for
_SMALLEST, _LARGEST = 0.55, 2.2  # text heights of a drawn box's side
_DRAWN = 0.85  # share of a side that must be ink
_INKED = 0.06  # share of a box's inside that is ink, from which it is ticked
_STRIP = 0.18  # of the side, in which an edge lies


def check_boxes_of(page: Page, image: Image.Image | None, fields: Sequence[PdfField] = ()) -> list[KeyValue]:
    """Return the boxes to tick of a page, from the top: their labels, and whether they are ticked.

    Args:
        page: its words.
        image: of the same page, RGB; None: nothing is drawn on it.
        fields: of a PDF's form, in pixels of the page.
    """
    sheet = script_sheet(page)
    found = [_of_button(page, sheet, field) for field in fields if field.kind in ("check box", "radio button")]
    for piece in sheet.pieces:
        found += [pair for pair in _written(page, piece) if not _taken(pair.box, found)]
    if image is not None and sheet.pieces and min(page.angle, 360 - page.angle) < _STRAIGHT:
        drawn = [(box, ticked) for box, ticked in _drawn_boxes(image, sheet) if not _taken(box, found)]
        boxes = [sheet.framed(box) for box, _ in drawn]
        found += [_pair(page, box, _label_of(sheet, sheet.framed(box), boxes), ticked, 0.7) for box, ticked in drawn]
    return sorted(found, key=lambda pair: (round(pair.box.y0 / 8), pair.box.x0))


def _label_of(sheet: Sheet, box: Box, boxes: Sequence[Box]) -> Excerpt | None:
    """The label of a drawn box: the words right of it up to the next box; else what stands beside or above it."""
    high = box.y1 - box.y0
    level = [other.x0 for other in boxes if other.x0 > box.x1 and other.y0 < (box.y0 + box.y1) / 2 < other.y1]
    stop = min(level, default=sheet.frame[2] + 1)
    near: list[tuple[float, Excerpt]] = []
    for piece in sheet.pieces:
        if not piece.y0 - 0.3 * high <= (box.y0 + box.y1) / 2 <= piece.y1 + 0.3 * high:
            continue
        behind = [at for at, token in enumerate(piece.tokens) if box.x1 < (token.x0 + token.x1) / 2 < stop]
        if behind and piece.tokens[behind[0]].x0 - box.x1 < 6 * high:
            end = piece.starts[behind[-1]] + len(piece.tokens[behind[-1]].word.text)
            part = Excerpt(piece, piece.starts[behind[0]], end)
            near.append((piece.tokens[behind[0]].x0, part))
    if near:
        _, first = min(near, key=lambda each: each[0])
        mark = _MARK.search(first.text)
        return Excerpt(
            first.piece, first.start, first.start + mark.start() if mark and mark.start() else first.end
        ).stripped()
    piece_beside = beside(sheet, box, right_first=True)
    return None if piece_beside is None else _label_part(piece_beside)


def _pair(page: Page, box: Box, excerpt: Excerpt | None, ticked: bool, sure: float, name: str = "") -> KeyValue:
    return KeyValue(
        key=name or ("" if excerpt is None else excerpt.text),
        value="x" if ticked else "",
        key_box=None if excerpt is None else box_of([excerpt]),
        box=box,
        page=page.number,
        confidence=sure if excerpt is not None or name else sure / 2,
        checked=ticked,
    )


def _label_part(piece: Piece) -> Excerpt | None:
    """The part of a piece that is a box's label: up to the next mark in it."""
    text = piece.text
    mark = _MARK.search(text)
    return Excerpt(piece, 0, mark.start() if mark and mark.start() else len(text)).stripped()


def _of_button(page: Page, sheet: Sheet, field: PdfField) -> KeyValue:
    box = placed(page, field)
    label = beside(sheet, sheet.framed(box), right_first=True)
    name = field.label or ("" if label is not None else field.name)
    if field.kind == "radio button" and label is None and field.value:
        name = f"{field.label or field.name}: {field.value}"
    return _pair(page, box, None if label is None else _label_part(label), field.checked, 0.99, name)


def _written(page: Page, piece: Piece) -> list[KeyValue]:
    """Boxes that are written as characters: the label follows up to the next one, or stands before the first."""
    text = piece.text
    marks = list(_MARK.finditer(text))
    pairs = []
    for number, mark in enumerate(marks):
        end = marks[number + 1].start() if number + 1 < len(marks) else len(text)
        label = Excerpt(piece, mark.end(), end).stripped() if end > mark.end() else None
        if mark[0][0] == "(" and (label is None or (mark.start() and text[mark.start() - 1].isalnum())):
            continue  # a call in code, or brackets around nothing
        if label is None and number == 0 and mark.start():
            label = Excerpt(piece, 0, mark.start()).stripped()
        inner = mark[0].strip("[]() ")
        ticked = inner in _TICKED if len(mark[0]) == 1 else bool(inner)
        own = Excerpt(piece, mark.start(), mark.end())
        pairs.append(
            KeyValue(
                key="" if label is None else label.text,
                value="x" if ticked else "",
                key_box=None if label is None else box_of([label]),
                box=box_of([own]),
                page=page.number,
                confidence=round(0.95 * own.score * (1.0 if label is not None else 0.5), 3),
                checked=ticked,
            )
        )
    return pairs


def _taken(box: Box, found: Sequence[KeyValue]) -> bool:
    x, y = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
    return any(each.box.x0 <= x <= each.box.x1 and each.box.y0 <= y <= each.box.y1 for each in found)


# --- drawn boxes


def _drawn_boxes(image: Image.Image, sheet: Sheet) -> list[tuple[Box, bool]]:
    """Small squares with four drawn sides, and whether there is ink inside. Letters are none: they lie in words."""
    try:
        import cv2
    except ImportError as error:
        raise MissingExtraError('finding boxes needs OpenCV: pip install "internvl-vision-agent[ocr]"') from error
    grey = np.asarray(image.convert("L"))
    dark = cv2.adaptiveThreshold(grey, 255, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY_INV, 31, 12)
    _, _, stats, _ = cv2.connectedComponentsWithStats(dark, connectivity=8)
    least, most = max(8.0, _SMALLEST * sheet.height), _LARGEST * sheet.height
    x, y, wide, high, area = stats[1:].T.astype(np.float64)
    square = (np.minimum(wide, high) >= least) & (np.maximum(wide, high) <= most)
    square &= (np.maximum(wide, high) <= 1.5 * np.minimum(wide, high)) & (area < 0.85 * wide * high)
    # What a PDF says itself is no box, nor is a number; a reader takes an empty box for a single letter.
    said = [
        (*word.box.xyxy, line.size is not None)
        for line in sheet.page.lines
        for word in line.words
        if line.size is not None or len(word.text) > 2 or word.text.isdigit()
    ]
    words = np.array(said, dtype=np.float64).reshape(-1, 5)
    found = []
    for index in np.flatnonzero(square)[:2000].tolist():
        x0, y0, x1, y1 = (int(each) for each in (x[index], y[index], x[index] + wide[index], y[index] + high[index]))
        middle = (x0 + x1) / 2, (y0 + y1) / 2
        inside = (words[:, :2] <= middle).all(axis=1) & (words[:, 2:4] >= middle).all(axis=1)
        # A reader may take a box for the first character of its label; a PDF says which characters it has.
        first = (words[:, 0] >= x0 - 0.3 * (x1 - x0)) & (words[:, 2] >= x1 + 1.5 * (x1 - x0))
        inside &= ~first | (words[:, 4] > 0)
        if inside.any() or (frame := _frame(dark[y0:y1, x0:x1] > 0)) is None:
            continue
        left, top, right, bottom, inked = frame
        found.append((Box(x0=x0 + left, y0=y0 + top, x1=x0 + right, y1=y0 + bottom), inked >= _INKED))
    return found


def _frame(ink: npt.NDArray[np.bool_]) -> tuple[int, int, int, int, float] | None:
    """The sides of a drawn box in a piece of the page, and the share of ink inside; None where a side is missing.

    A tick may reach out of its box, so the sides are the outermost lines that are ink almost all along.
    """
    high, wide = ink.shape
    rows = [index for index in range(high) if _longest(ink[index]) >= 0.5 * wide]
    columns = [index for index in range(wide) if _longest(ink[:, index]) >= 0.5 * high]
    if len(rows) < 2 or len(columns) < 2:
        return None
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    side = min(bottom - top, right - left)
    if side < 0.55 * max(high, wide) or max(bottom - top, right - left) > 1.35 * side:
        return None
    edge = max(2, round(_STRIP * side))
    part = ink[top:bottom, left:right]
    edges = (part[:edge].any(axis=0), part[-edge:].any(axis=0), part[:, :edge].any(axis=1), part[:, -edge:].any(axis=1))
    if min(each.mean() for each in edges) < _DRAWN:
        return None
    # A line must be thin: a round letter has ink in the corners' strips, but no straight line at the edge.
    straight = (part[:edge].mean(axis=1).max(), part[-edge:].mean(axis=1).max())
    upright = (part[:, :edge].mean(axis=0).max(), part[:, -edge:].mean(axis=0).max())
    if min(*straight, *upright) < _DRAWN:
        return None
    inner = part[edge:-edge, edge:-edge]
    return left, top, right, bottom, float(inner.mean()) if inner.size else 0.0


def _longest(line: npt.NDArray[np.bool_]) -> int:
    """The longest run of ink in a row or column of pixels."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], line.astype(np.int8), [0]])))
    return int((edges[1::2] - edges[::2]).max(initial=0))
