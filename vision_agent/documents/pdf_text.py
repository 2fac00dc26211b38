"""From the characters of a PDF's own text to words and lines.

Lines follow the file's order, which PDFium mostly keeps in the order of reading; pages with text from right to left go
by the places of the characters alone. Small raised and lowered characters stay in their line, as the characters that
Unicode has for them. A hyphen at a line's end is a hyphen.
"""

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from vision_agent.documents.pdf import HYPHEN, Layer
from vision_agent.documents.result import Line, Quad, Word
from vision_agent.documents.writing_direction import (
    brackets_turned,
    is_right_to_left,
    reading_order,
    right_to_left_share,
)

Boxes = npt.NDArray[np.float64]

_CONTRAST = 24  # of 255
_NEAR_COLOR = 110  # of 255: thin strokes are drawn paler than their colour
_SKEWED = 2.0  # degrees off a right angle; such text gets no exact boxes from PDFium
_WIDE_GAP = 1.2  # line heights between words, from which they are lines of their own
_SMALL = 0.85  # of a line's size, from which downwards a raised character is a superscript
_ON_LINE = 0.06  # sizes between baselines of one line
_BLANKS, _SAID_GAP = 0.12, 0.25  # share of characters beside blanks, from which the file tells the words; sizes
_BESIDE = 3  # characters of a file between neighbours of a line, at most
_BRACKET_GAP = 0.3  # sizes beside a bracket, which has white of its own
_WORD_GAP = 0.12  # sizes between characters of two words, where the file's blanks have no place

_RAISED = dict(zip("0123456789+-\u2212=()ni", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼⁽⁾ⁿⁱ", strict=True))
_LOWERED = dict(zip("0123456789+-\u2212=()aeox", "₀₁₂₃₄₅₆₇₈₉₊₋₋₌₍₎ₐₑₒₓ", strict=True))
_FRACTIONS = {
    unicodedata.normalize("NFKC", chr(code)): chr(code) for code in (*range(0xBC, 0xBF), *range(0x2150, 0x215F), 0x2189)
}


@dataclass
class _Run:
    """Characters of one line while they are gathered, in reading order.

    `begins` are the first ones of words, and `turned` those that the file has the other way around.
    """

    turn: int
    indices: list[int] = field(default_factory=list)
    begins: set[int] = field(default_factory=set)
    turned: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Piece:
    """A line of a PDF's text.

    Attributes:
        line: its words.
        font: a number for the font of most of it.
        covered: whether an image lies over it.
    """

    line: Line
    font: int
    covered: bool


def text_pieces(layer: Layer, pixels: npt.NDArray[np.uint8], *, unseen: bool = False) -> list[Piece]:
    """Return the lines of a page's own text that have ink of their colour in their place.

    Args:
        layer: the characters.
        pixels: RGB of the page's image, of the size that the layer's places mean.
        unseen: also those that are not drawn or have no ink, but lie under an image: the text of a scanned page.
    """
    inside = _inside(layer, (pixels.shape[1], pixels.shape[0]), unseen)
    if inside is None:
        return []
    shown = [layer.characters[index] for index in np.flatnonzero(inside)]
    find = _placed_runs if right_to_left_share("".join(shown)) > 0.02 else _runs
    return [piece for run in find(layer, inside) if (piece := _piece(run, layer, pixels, unseen)) is not None]


def _inside(layer: Layer, size: tuple[int, int], unseen: bool) -> npt.NDArray[np.bool_] | None:
    """The characters to take: those on the page and upright, or turned by quarters. None where most are askew."""
    middles = (layer.boxes[:, :2] + layer.boxes[:, 2:]) / 2
    sized = (layer.boxes[:, 2:] - layer.boxes[:, :2] > 0.2).all(axis=1)
    shown = layer.shown | layer.covered if unseen else layer.shown
    inside = ((middles >= 0) & (middles < size)).all(axis=1) & sized & shown
    straight = np.abs((layer.angles + 45) % 90 - 45) <= _SKEWED
    if inside.any() and (~straight[inside]).mean() > 0.2:
        return None
    marks = np.array([unicodedata.combining(each) > 0 for each in layer.characters])
    kept: npt.NDArray[np.bool_] = (inside | (marks & shown)) & straight
    return kept


def _turns(layer: Layer) -> npt.NDArray[np.int64]:
    turns: npt.NDArray[np.int64] = ((layer.angles + 45) // 90 % 4).astype(np.int64)
    return turns


# --- in the file's order


def _runs(layer: Layer, inside: npt.NDArray[np.bool_]) -> Iterator[_Run]:
    """Lines as the file has them: broken at line ends, turns and wide gaps."""
    turns = _turns(layer)
    run: _Run | None = None
    blank, ended = False, False
    for index, character in enumerate(layer.characters):
        if (ord(character) <= 32 and ord(character) != HYPHEN) or not inside[index]:
            blank = blank or character not in "\r\n"
            ended = ended or character in "\r\n"
            continue
        if run is not None:
            ahead, follows, script = _step(layer, run, index, int(turns[index]))
            if not follows or (ended and ahead > 0.35) or (ended and not script and blank):
                yield run
                run = None
            elif blank or (ended and ahead > _WORD_GAP):
                run.begins.add(index)
        if run is None:
            run = _Run(int(turns[index]), begins={index})
        run.indices.append(index)
        blank = ended = ord(character) == HYPHEN
        if ended:
            yield run
            run = None
    if run is not None:
        yield run


def _step(layer: Layer, run: _Run, index: int, turn: int) -> tuple[float, bool, bool]:
    """From a run to the next character: the gap in sizes, whether it goes on there, and whether it is raised or low."""
    last = run.indices[-1]
    before, after = _turned_box(layer.boxes[last], turn), _turned_box(layer.boxes[index], turn)
    tall = max(after[3] - after[1], before[3] - before[1])
    ahead = (after[0] - before[2]) / tall
    if turn != run.turn or not -1 <= ahead <= _WIDE_GAP:
        return ahead, False, False
    sizes = _size(layer, last), _size(layer, index)
    shared = min(before[3], after[3]) - max(before[1], after[1])
    script = min(sizes) <= _SMALL * max(sizes) and -0.3 <= ahead <= 0.5
    script = script and shared > 0.25 * min(after[3] - after[1], before[3] - before[1])
    shift = abs((after[1] + after[3]) - (before[1] + before[3])) / 2
    level = shift <= 0.6 * tall
    # The line goes on after a superscript where it was before it.
    base = next((each for each in reversed(run.indices) if _size(layer, each) > _SMALL * max(sizes)), last)
    held = _turned_box(layer.boxes[base], turn)
    level = level or abs((after[1] + after[3]) - (held[1] + held[3])) / 2 <= 0.3 * tall
    return ahead, level or script, script or base != last


def _size(layer: Layer, index: int) -> float:
    return float(layer.sizes[index]) or float(layer.boxes[index, 3] - layer.boxes[index, 1])


def _turned_box(box: Boxes, turn: int) -> tuple[float, float, float, float]:
    """A box as it stands once text turned by `turn` quarters clockwise is put upright."""
    x0, y0, x1, y1 = (float(side) for side in box)
    return ((x0, y0, x1, y1), (y0, -x1, y1, -x0), (-x1, -y1, -x0, -y0), (-y1, x0, -y0, x1))[turn]


# --- by place


def _placed_runs(layer: Layer, inside: npt.NDArray[np.bool_]) -> Iterator[_Run]:
    """Lines by the places of characters, read in the direction of their script."""
    turns = _turns(layer)
    whole = right_to_left_share("".join(layer.characters[index] for index in np.flatnonzero(inside))) > 0.5
    after_blank = _after_blank(layer.characters)
    for turn in range(4):
        indices = [int(index) for index in np.flatnonzero(inside & (turns == turn))]
        boxes = {index: _turned_box(layer.boxes[index], turn) for index in indices}
        for row in _rows(layer, indices, boxes, turn):
            for part in _parts(layer, row, boxes):
                yield _ordered(layer, part, boxes, turn, whole, after_blank)


def _after_blank(characters: str) -> set[int]:
    """Indices of characters that the file writes after a blank, and of those before one."""
    near: set[int] = set()
    for index, character in enumerate(characters):
        if ord(character) <= 32:
            near |= {index - 1, index + 1}
    return near


def _parted(characters: str, one: int, other: int, after_blank: set[int]) -> bool:
    """Whether the file has a blank between two characters; of those far from each other in it, beside one."""
    low, high = min(one, other), max(one, other)
    if high - low > _BESIDE:
        return other in after_blank
    return any(ord(character) <= 32 for character in characters[low + 1 : high])


def _rows(layer: Layer, indices: Sequence[int], boxes: Mapping[int, tuple[float, ...]], turn: int) -> list[list[int]]:
    """Characters that stand at one height or on one line; accents are left to their letters."""
    rows: list[list[int]] = []
    middle = {index: (boxes[index][1] + boxes[index][3]) / 2 for index in indices}
    marks = [index for index in indices if unicodedata.combining(layer.characters[index])]
    for index in sorted(set(indices) - set(marks), key=lambda each: middle[each]):
        tall = boxes[index][3] - boxes[index][1]
        stands, size = _across(layer.baselines[index], turn), _size(layer, index)
        for row in reversed(rows[-3:]):
            level = abs(middle[row[0]] - middle[index]) < 0.4 * max(tall, boxes[row[0]][3] - boxes[row[0]][1])
            # Some Arabic letters lie wholly below the line that they stand on.
            stood = _across(layer.baselines[row[0]], turn)
            on_line = bool(layer.baselines[index].any()) and abs(stands - stood) < _ON_LINE * size
            if level or (on_line and abs(middle[row[0]] - middle[index]) < size):
                row.append(index)
                break
        else:
            rows.append([index])
    for index in marks:
        near = [row for row in rows if abs(middle[row[0]] - middle[index]) < boxes[row[0]][3] - boxes[row[0]][1]]
        if near:
            min(near, key=lambda row: abs(middle[row[0]] - middle[index])).append(index)
    return rows


def _parts(layer: Layer, row: list[int], boxes: Mapping[int, tuple[float, ...]]) -> Iterator[list[int]]:
    """A row from left to right, cut at wide gaps. Characters of one box, a ligature, are turned to stand in order."""
    row = sorted(row, key=lambda index: (boxes[index][0] + boxes[index][2], index))
    part: list[int] = []
    edge = 0.0
    for index in row:
        if part and boxes[index][0] - edge > _WIDE_GAP * (boxes[index][3] - boxes[index][1]):
            yield part
            part = []
        edge = max(edge, boxes[index][2]) if part else boxes[index][2]
        part.append(index)
    if part:
        yield part


def _ordered(
    layer: Layer,
    part: list[int],
    boxes: Mapping[int, tuple[float, ...]],
    turn: int,
    whole: bool,
    after_blank: set[int],
) -> _Run:
    """A line's characters in reading order, with its words' beginnings."""
    places: list[int | None] = []  # None: a blank
    edge = boxes[part[0]][0]
    # Arabic letters that do not join stand apart, too: where the file has blanks, they tell the words.
    widest = _SAID_GAP if len(after_blank & set(part)) > _BLANKS * len(part) else _WORD_GAP
    for number, index in enumerate(part):
        gap = (boxes[index][0] - edge) / max(1.0, _size(layer, index))
        mark = unicodedata.combining(layer.characters[index]) > 0
        said = gap > 0.04 and number > 0 and _parted(layer.characters, part[number - 1], index, after_blank)
        bracket = {layer.characters[index], layer.characters[part[number - 1]]} & set("()[]{}")
        if places and not mark and (gap > (_BRACKET_GAP if bracket else widest) or said):
            places.append(None)
        places.append(index)
        edge = edge if mark else max(edge, boxes[index][2])
    text = [" " if each is None else layer.characters[each] for each in places]
    share = right_to_left_share("".join(text))
    letters = any(each.isalpha() for each in text)
    order = reading_order(text, to_left=share > 0.5 or (share > 0.2 and whole) or (whole and not letters))
    run = _Run(turn)
    begins = True
    for place in order:
        at = places[place]
        if at is None:
            begins = True
            continue
        if run.indices and not begins:  # words of two scripts touch where a file has no blank between them
            near = layer.characters[run.indices[-1]], layer.characters[at]
            begins = all(map(str.isalpha, near)) and is_right_to_left(near[0]) != is_right_to_left(near[1])
        if (begins or not run.indices) and not unicodedata.combining(layer.characters[at]):
            run.begins.add(at)
        run.indices.append(at)
        begins = False
    said_so = [layer.characters[index] for index in run.indices]
    put = zip(run.indices, said_so, brackets_turned(said_so), strict=True)
    run.turned = {index: new for index, old, new in put if new != old}
    return run


# --- from characters to words


def _piece(run: _Run, layer: Layer, pixels: npt.NDArray[np.uint8], unseen: bool) -> Piece | None:
    """A line of the words that have ink."""
    words, used = [], list[int]()
    scripts = run.turned | _scripts(run, layer)
    for indices in _words(run):
        boxes = layer.boxes[indices]
        box = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
        text = _text(indices, layer, scripts)
        inked = _has_ink(pixels, box, layer.colors[indices[0]])
        if text and (inked or (unseen and layer.covered[indices].any())):
            words.append(Word(text=text, quad=_turned_quad(box, run.turn), score=1.0))
            used += indices
    if not words:
        return None
    boxes = layer.boxes[used]
    whole = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
    sizes = layer.sizes[used]
    line = Line(
        words=tuple(words),
        quad=_turned_quad(whole, run.turn),
        score=1.0,
        size=float(np.median(sizes[sizes >= _SMALL * sizes.max()])) or None,
        bold=bool(layer.bold[used].mean() > 0.5),
        italic=bool(layer.italic[used].mean() > 0.5),
        fixed=bool(layer.fixed[used].mean() > 0.5),
    )
    fonts, counts = np.unique(layer.fonts[used], return_counts=True)
    return Piece(line, int(fonts[counts.argmax()]), bool(layer.covered[used].any()))


def _words(run: _Run) -> Iterator[list[int]]:
    word: list[int] = []
    for index in run.indices:
        if index in run.begins and word:
            yield word
            word = []
        word.append(index)
    if word:
        yield word


def _scripts(run: _Run, layer: Layer) -> dict[int, str]:
    """Raised and lowered characters of a line, as Unicode has them."""
    indices = run.indices
    sizes = {index: _size(layer, index) for index in indices}
    largest = max(sizes.values())
    main = [index for index in indices if sizes[index] > _SMALL * largest]
    if len(main) == len(indices):
        return {}
    across = {index: _across(layer.baselines[index], run.turn) for index in indices}
    base = float(np.median([across[index] for index in main]))
    found: dict[int, str] = {}
    group: list[int] = []
    for index in [*indices, -1]:
        small = index >= 0 and index not in main and abs(across[index] - base) > 0.06 * largest
        same = not group or index in run.begins or across[index] == across[group[0]] if small else False
        if small and same:
            group.append(index)
            continue
        if group:
            table = _RAISED if across[group[0]] < base else _LOWERED
            if all(layer.characters[each] in table or layer.characters[each] in ",*" for each in group):
                found |= {each: table.get(layer.characters[each], layer.characters[each]) for each in group}
        group = [index] if small else []
    return found


def _across(point: Boxes, turn: int) -> float:
    """How far down a point lies, across text turned by `turn` quarters clockwise."""
    x, y = float(point[0]), float(point[1])
    return (y, -x, -y, x)[turn]


def _text(indices: Sequence[int], layer: Layer, scripts: dict[int, str]) -> str:
    characters = _without_doubles(indices, layer)
    text = "".join("-" if ord(layer.characters[each]) == HYPHEN else layer.characters[each] for each in characters)
    if scripts.keys() & set(characters):
        raw = "".join(scripts.get(each, layer.characters[each]) for each in characters)
        text = _FRACTIONS.get(unicodedata.normalize("NFKC", raw.replace("/", "\u2044")), raw)
    return "".join(each for each in _plain(text) if each.isprintable() and not each.isspace())


def _without_doubles(indices: Sequence[int], layer: Layer) -> list[int]:
    """Characters without those drawn twice a hair apart, which looks bold; a ligature's in the order of its script."""
    kept: list[int] = []
    for index in indices:
        same = [each for each in kept[-2:] if layer.characters[each] == layer.characters[index]]
        wide = float(layer.boxes[index, 2] - layer.boxes[index, 0])
        near = min(0.12 * _size(layer, index), 0.3 * wide)
        # Letters of one ligature share their box: "ffi".
        if not any(0 < np.abs(layer.boxes[each] - layer.boxes[index]).max() < near for each in same):
            kept.append(index)
    # PDFium turns the letters of a right-to-left ligature around with the line.
    at = 0
    while at < len(kept):
        end = at + 1
        while end < len(kept) and (layer.boxes[kept[end]] == layer.boxes[kept[at]]).all():
            end += 1
        if end - at > 1 and is_right_to_left(layer.characters[kept[at]]):
            kept[at:end] = sorted(kept[at:end], reverse=True)
        at = end
    return kept


def _plain(text: str) -> str:
    """Ligatures and wide forms as plain letters; raised characters and fractions as they are: "m²" is not "m2"."""
    return "".join(
        each
        if unicodedata.decomposition(each).startswith(("<super>", "<sub>", "<fraction>"))
        else unicodedata.normalize("NFKC", each)
        for each in unicodedata.normalize("NFC", text)
    )


def _has_ink(pixels: npt.NDArray[np.uint8], box: Boxes, color: npt.NDArray[np.uint8]) -> bool:
    """Whether the page shows something of this colour in a box, on ground of another colour."""
    height, width = pixels.shape[:2]
    x0, y0 = np.clip(np.floor(box[:2]), 0, [width - 1, height - 1]).astype(int)
    x1, y1 = np.clip(np.ceil(box[2:]), [x0 + 1, y0 + 1], [width, height]).astype(int)
    part = pixels[y0:y1, x0:x1].reshape(-1, 3).astype(np.int16)
    ground = np.median(part, axis=0)
    inked = np.abs(part - ground).max(axis=1) >= _CONTRAST
    if not inked.any() or np.abs(ground - color).max() < _CONTRAST:
        return False
    return bool(np.abs(part[inked] - color.astype(np.int16)).max(axis=1).min() <= _NEAR_COLOR)


def _turned_quad(box: Boxes, turn: int) -> Quad:
    """Corners of an upright box, from where text turned by `turn` quarters clockwise starts."""
    x0, y0, x1, y1 = (float(side) for side in box)
    corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    a, b, c, d = corners[turn:] + corners[:turn]
    return a, b, c, d
