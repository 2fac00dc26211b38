"""Labels of forms with what was filled in for them, without a schema.

The fitted reader of forms (`form_model`) says which texts belong together; what it leaves is found by rules.
A label is a short text that ends in a colon. What was filled in stands on its right, up to the next label, or below it,
and goes on in the lines below that begin where it begins. The fields of a PDF's form say themselves what they hold.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from PIL import Image, ImageOps

from vision_agent.documents.cell_pairs import cell_pairs
from vision_agent.documents.form_links import Group
from vision_agent.documents.form_model import FormModel, Link, form_model
from vision_agent.documents.page_ink import PageInk
from vision_agent.documents.pdf import PdfField
from vision_agent.documents.result import KeyValue, Page
from vision_agent.documents.sheet import Excerpt, Piece, Sheet, box_of, script_sheet
from vision_agent.results.box import Box

_MOST_WORDS = 9  # of a label
_MOST_BEHIND, _WIDE_SPACE = 3, 1.5  # words of a label behind another one's text; times the usual space before it
_RIGHT_GAP = 22.0  # text heights to its right, in which a value begins
_BELOW_GAP = 1.6  # text heights below
_COLON = re.compile(r"[:\uff1a](?![/\d\\])(?=\s|$|[^\s])")
_LEADERS = re.compile(r"(_{2,}|\.{4,}|…{2,})")
_TIME = re.compile(r"\d\s*$")
_SURE_RIGHT, _SURE_BELOW, _SURE_INLINE, _SURE_BARE = (
    0.8,
    0.55,
    0.85,
    0.4,
)  # of pairs on clean pages; the fitted reader comes first


class _Label:
    """A label on a sheet, with the text that follows it in its piece."""

    def __init__(self, key: Excerpt, rest: Excerpt | None) -> None:
        self.key = key
        self.rest = rest


def key_values_of(
    page: Page,
    fields: Sequence[PdfField] = (),
    image: Image.Image | None = None,
    model: FormModel | None = None,
) -> list[KeyValue]:
    """Return the pairs of a page in the order of their labels.

    Args:
        page: its words.
        fields: of a PDF's form, in pixels of the page.
        image: of the same page: rules and prints of words tell more than places alone.
        model: the fitted reader of forms; None takes the shipped one.
    """
    sheet = script_sheet(page)
    if image is not None and sheet.to_left:
        image = ImageOps.mirror(image)
    model = model or form_model()
    labels = {id(piece): _labels_in(piece) for piece in sheet.pieces}
    asked = [_of_field(page, sheet, field) for field in fields if field.kind in ("text", "choice") and field.value]
    found = list(asked)
    if page.source != "ocr":  # the fitted reader is of scans; what a clean page says in its own way is surer
        found += [pair for pair in cell_pairs(page, sheet) if not any(_overlap(pair, other) for other in asked)]
    sure = list(found)
    several = [
        box_of([Excerpt.whole(piece)]) for piece in sheet.pieces if page.source != "ocr" and len(labels[id(piece)]) > 1
    ]
    for link in model.links(sheet, PageInk(sheet, image)):
        pair = _linked(page, link)
        if pair is not None and not any(_overlap(pair, other) for other in sure):
            if not any(holds(row, part) for row in several for part in (pair.box, pair.key_box or pair.box)):
                found.append(pair)
    by_rules = _by_rules(page, sheet, labels, asked)
    found += [pair for pair in by_rules if not any(_overlap(pair, other) for other in found)]
    return sorted(found, key=lambda pair: (pair.key_box or pair.box).y0) if len(found) > len(asked) else found


def _linked(page: Page, link: Link) -> KeyValue | None:
    """A link of the fitted reader as a pair; None where its label or its text is nothing but marks."""
    key, value = _stripped(link.label, _BLANKS), _stripped(link.text, _BLANKS)
    if not key or not value or not any(part.text.strip() for part in value):
        return None
    read = min(part.score for part in (*key, *value))
    return KeyValue(
        key=" ".join(part.text for part in key).rstrip(" :\uff1a_"),
        value=" ".join(part.text for part in value),
        key_box=box_of(key),
        box=box_of(value),
        page=page.number,
        confidence=round(read * link.chance, 3),
    )


def _stripped(group: Group, marks: str) -> list[Excerpt]:
    parts = (Excerpt.whole(line).stripped(marks) for line in group.lines)
    return [part for part in parts if part is not None and any(map(str.isalnum, part.text))]


def _overlap(pair: KeyValue, other: KeyValue) -> bool:
    """Whether two pairs share a label, or what one has as its value."""
    mine = [box for box in (pair.key_box, pair.box) if box is not None]
    others = [box for box in (other.key_box, other.box) if box is not None]
    return any(holds(two, one) or holds(one, two) for one in mine for two in others)


def _by_rules(page: Page, sheet: Sheet, labels: dict[int, list[_Label]], asked: Sequence[KeyValue]) -> list[KeyValue]:
    found: list[KeyValue] = []
    used: set[int] = set()
    for piece in sheet.pieces:
        for label in labels[id(piece)]:
            pair = _paired(page, sheet, piece, label, labels, used)
            if pair is not None and not any(holds(other.box, pair.box) for other in asked):
                found.append(pair)
    if page.source == "ocr":  # on scanned forms none of 62 such pairs was right
        return found
    grids = [table.box for table in page.tables if table.columns > 2]
    for row in sheet.rows:
        free = [piece for piece in row if not labels[id(piece)] and id(piece) not in used]
        if not any(holds(grid, box_of([Excerpt.whole(piece)])) for piece in free for grid in grids):
            found += _without_colon(page, free, sheet.height)
    return found


def _may_head(piece: Piece) -> bool:
    text = piece.text.strip()
    digits = sum(map(str.isdigit, text))
    return _may_label(text) and len(text.split()) <= 6 and digits <= 0.3 * len(text) and not text.endswith(".")


def _pair(page: Page, key: Excerpt, value: Excerpt, sure: float) -> KeyValue:
    return KeyValue(
        key=key.text,
        value=value.text,
        key_box=box_of([key]),
        box=box_of([value]),
        page=page.number,
        confidence=round(min(key.score, value.score) * sure, 3),
    )


def _without_colon(page: Page, row: Sequence[Piece], usual: float) -> list[KeyValue]:
    """Pairs of a row in which labels and values take turns; a longer row of numbers is one of a table."""
    if len(row) not in (2, 4):
        return []
    pairs = []
    for key, value in zip(row[::2], row[1::2], strict=True):
        name, held = Excerpt.whole(key).stripped(), Excerpt.whole(value).stripped(_BLANKS)
        if name is None or held is None or not _may_label(name.text) or not any(map(str.isalnum, held.text)):
            return []
        gap = (value.x0 - key.x1) / key.height
        if (
            key.height > 1.3 * usual
            or not _may_head(key)
            or name.text[:1].islower()
            or not 2.0 <= gap <= _RIGHT_GAP
            or held.text[:1].islower()
        ):
            return []
        pairs.append(_pair(page, name, held, _SURE_BARE))
    return pairs


def _labels_in(piece: Piece) -> list[_Label]:
    """The labels in a piece: "Date: 9/3/92  By:" holds two."""
    text = piece.text
    ends = [
        match.start()
        for match in _COLON.finditer(text)
        if not (_TIME.search(text[: match.start()]) and text[match.end() :][:1].isdigit())
    ]
    labels: list[_Label] = []
    start = 0
    for number, end in enumerate(ends):
        coded = len(ends) > 1 and any(map(str.isdigit, text[:end]))  # "NOTE # C-20981 Date:"
        begin = start if number == 0 and not coded else _label_start(piece, start, end)
        key = Excerpt(piece, begin, end).stripped()
        if key is None or not _may_label(key.text):
            continue
        if labels:
            before = labels[-1]
            labels[-1] = _Label(before.key, Excerpt(piece, start, begin).stripped(_BLANKS) if begin > start else None)
        start = end + 1
        labels.append(_Label(key, Excerpt(piece, start, len(text)).stripped(_BLANKS) if start < len(text) else None))
    return labels


_BLANKS = " _|\u2026"


def _label_start(piece: Piece, start: int, end: int) -> int:
    """Where a second label in a piece begins: behind a wider space, or at its last words, one of them capitalised."""
    text = piece.text
    words = list(re.finditer(r"\S+", text[start:end]))
    spaces = [max(0.0, after.x0 - before.x1) for before, after in pairwise(piece.tokens)]
    usual = median(spaces) if spaces else 0.0
    begin = end
    for match in reversed(words[-_MOST_BEHIND:]):
        if match is words[0] and start == 0:
            break
        if any(map(str.isdigit, match[0])) or not match[0][:1].isalpha():
            break
        at = start + match.start()
        if match[0][:1].isupper() and match is not words[0]:
            begin = at
        token = piece.at(at)
        if 0 < token <= len(spaces) and spaces[token - 1] > _WIDE_SPACE * usual:
            return at
    return begin if begin < end else start + (words[-1].start() if words else 0)


def _may_label(text: str) -> bool:
    words = text.split()
    return 1 <= len(words) <= _MOST_WORDS and any(map(str.isalpha, text)) and "http" not in text.lower()


def _paired(
    page: Page, sheet: Sheet, piece: Piece, label: _Label, labels: dict[int, list[_Label]], used: set[int]
) -> KeyValue | None:
    first, sure = label.rest, _SURE_INLINE
    parts: list[Excerpt] = []
    if first is not None and any(map(str.isalnum, first.text)):
        parts = [first]
    elif label is labels[id(piece)][-1]:
        parts, sure = _on_right(sheet, piece, labels, used), _SURE_RIGHT
    if not parts and label is labels[id(piece)][-1]:
        parts, sure = _below(sheet, piece, labels, used), _SURE_BELOW
    if not parts:
        return None
    if label is labels[id(piece)][-1]:
        parts += _continued(sheet, parts, labels, used, label)
    used |= {id(part.piece) for part in parts if part.piece is not piece}
    text = " ".join(part.text for part in parts).strip()
    if not text:
        return None
    read = min(label.key.score, min(part.score for part in parts))
    return KeyValue(
        key=label.key.text,
        value=text,
        key_box=box_of([label.key]),
        box=box_of(parts),
        page=page.number,
        confidence=round(read * sure, 3),
    )


def _is_value(piece: Piece, labels: dict[int, list[_Label]], used: set[int]) -> bool:
    return not labels[id(piece)] and id(piece) not in used and any(map(str.isalnum, piece.text))


def _on_right(sheet: Sheet, piece: Piece, labels: dict[int, list[_Label]], used: set[int]) -> list[Excerpt]:
    """Pieces of the row up to the next label."""
    parts: list[Excerpt] = []
    edge = piece.x1
    for other in sheet.right_of(piece):
        gap = (other.x0 - edge) / piece.height
        if gap > (_RIGHT_GAP if not parts else 3.0) or not _is_value(other, labels, used):
            break
        part = Excerpt.whole(other).stripped(_BLANKS)
        if part is not None:
            parts.append(part)
        edge = other.x1
    return parts


def _below(sheet: Sheet, piece: Piece, labels: dict[int, list[_Label]], used: set[int]) -> list[Excerpt]:
    """The nearest piece under the label that begins at or near its left edge."""
    for other in sheet.below(piece, 2):
        near = other.y0 - piece.y1 < _BELOW_GAP * piece.height
        aligned = other.x0 - piece.x0 < max(4 * piece.height, piece.x1 - piece.x0) and piece.x0 - other.x0 < (
            2.5 * piece.height
        )
        if near and aligned and _is_value(other, labels, used):
            part = Excerpt.whole(other).stripped(_BLANKS)
            return [] if part is None else [part]
    return []


def _continued(
    sheet: Sheet, parts: Sequence[Excerpt], labels: dict[int, list[_Label]], used: set[int], label: _Label
) -> list[Excerpt]:
    """Lines below a value that begin where it begins, as long as no label stands in their row before them."""
    more: list[Excerpt] = []
    last, begin = parts[0].piece, parts[0].x0
    for row in sheet.rows[last.row + 1 :]:
        if not row:
            continue
        same = [
            piece
            for piece in row
            if abs(piece.x0 - begin) < 1.2 * piece.height
            or (
                not more
                and abs(piece.x0 - label.key.x0) < 0.6 * piece.height
                and parts[0].piece is label.key.piece
                and last.x1 - last.x0 > 20 * last.height
            )
        ]
        if not same:
            if row[0].y0 - last.y1 > 0.9 * last.height:
                break
            continue
        piece = same[0]
        blocked = any(labels[id(other)] and other.x0 < piece.x0 for other in row)
        if piece.y0 - last.y1 > 0.9 * last.height or blocked or not _is_value(piece, labels, used):
            break
        part = Excerpt.whole(piece).stripped(_BLANKS)
        if part is None:
            break
        more.append(part)
        last = piece
    return more


# --- forms that are filled in on screen


def _of_field(page: Page, sheet: Sheet, field: PdfField) -> KeyValue:
    """A text field of a PDF's form, named by the text beside it, else by the file."""
    box = placed(page, field)
    piece = beside(sheet, sheet.framed(box))
    key = piece.text if piece is not None else field.label or field.name
    return KeyValue(
        key=field.label or key.rstrip(" :\uff1a_"),
        value=field.value,
        key_box=None if piece is None else box_of([Excerpt.whole(piece)]),
        box=box,
        page=page.number,
        confidence=0.99 if piece is not None or field.label else 0.8,
    )


def placed(page: Page, field: PdfField) -> Box:
    """Return the box of a form's field, as far as it lies on its page."""
    x0, y0, x1, y1 = field.box
    x0, y0 = min(max(0.0, x0), page.width - 1), min(max(0.0, y0), page.height - 1)
    return Box(x0=x0, y0=y0, x1=max(x0 + 1, min(x1, page.width)), y1=max(y0 + 1, min(y1, page.height)))


def beside(sheet: Sheet, box: Box, *, right_first: bool = False) -> Piece | None:
    """Return the text that names a field: on its left, above it, or for a box to tick on its right."""
    high = box.y1 - box.y0
    middle = (box.y0 + box.y1) / 2

    def level(piece: Piece) -> bool:
        return piece.y0 - 0.3 * high <= middle <= piece.y1 + 0.3 * high

    left = [
        piece for piece in sheet.pieces if level(piece) and piece.x1 <= box.x0 + 2 and box.x0 - piece.x1 < 12 * high
    ]
    right = [
        piece
        for piece in sheet.pieces
        if level(piece) and piece.x0 >= box.x0 - 0.5 * high and piece.x0 - box.x1 < 6 * high
    ]
    above = [
        piece
        for piece in sheet.pieces
        if 0 <= box.y0 - piece.y1 + 2 < 2 * piece.height and piece.x0 < box.x1 and piece.x1 > box.x0
    ]
    near_left = max(left, key=lambda piece: piece.x1, default=None)
    near_right = min(right, key=lambda piece: piece.x0, default=None)
    over = max(above, key=lambda piece: piece.y1, default=None)
    return (near_right or near_left) if right_first else (near_left or over)


def holds(outer: Box, inner: Box) -> bool:
    """Return whether the middle of the inner box lies in the outer one."""
    x, y = (inner.x0 + inner.x1) / 2, (inner.y0 + inner.y1) / 2
    return outer.x0 <= x <= outer.x1 and outer.y0 <= y <= outer.y1
