"""A PDF's own text, as far as the page shows it.

A text layer is exact where it is what a reader of the page sees, but a file can say anything: invisible text over a
scan, white text for search engines or for language models, characters mapped to other characters. So a word is taken
only where the page's image has ink of its colour in its place. Samples of every font, and all text in doubtful places
(on images, or two texts in one place), are read from the image and must agree. Lines that the image shows and the
layer lacks are read as well.
"""

import difflib
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image

from vision_agent.documents.page_reader import PageReader
from vision_agent.documents.pdf import Layer
from vision_agent.documents.result import Line, Quad, Word

Boxes = npt.NDArray[np.float64]

_SAMPLES = 5  # lines across the page, beside those of each font
_AGREES = 0.6  # similarity of a line with what the image shows, 0..1, from which it counts
_CONTRAST = 24  # of 255
_NEAR_COLOR = 110  # of 255: thin strokes are drawn paler than their colour
_COVERED = 0.3  # part of a found line that the layer's words must cover
_SHRINK = 2  # the search for missing lines looks at a smaller image
_SKEWED = 2.0  # degrees off a right angle; such text gets no exact boxes from PDFium
_READ_SCRIPTS = ("LATIN", "CJK", "HIRAGANA", "KATAKANA")
_WIDE_GAP = 1.2  # line heights between words, from which they are lines of their own


@dataclass
class _Run:
    """Words of one line while they are gathered; `indices` of their characters."""

    turn: int
    words: list[list[int]] = field(default_factory=list)


@dataclass(frozen=True)
class _Piece:
    """A line of the layer, its font and its upright box."""

    line: Line
    font: int
    turn: int


def trusted_lines(layer: Layer, image: Image.Image, reader: PageReader) -> list[Line] | None:
    """Return the layer's lines that the image shows and lines that only the image has; None where all must be read."""
    pixels = np.asarray(image)
    pieces = [piece for run in _runs(layer, image.size) if (piece := _piece(run, layer, pixels)) is not None]
    if not pieces:
        return None
    doubtful = _doubtful(pieces, layer.covered)
    sample = _sample(pieces, doubtful)
    asked = [index for index in sorted({*sample, *doubtful}) if _is_readable(pieces[index].line.text)]
    seen = reader.recognise(image, np.array([pieces[index].line.quad for index in asked]).reshape(-1, 4, 2))
    wrong = {
        index
        for index, line in zip(asked, seen, strict=True)
        if line is None or _similarity(pieces[index].line, line) < _AGREES
    }
    if wrong & set(sample):
        return None
    kept = [piece.line for index, piece in enumerate(pieces) if index not in wrong]
    missing = _missing(kept, image, reader)
    if sum(len(line.text) for line in missing) > sum(len(line.text) for line in kept):
        return None
    return [*kept, *missing]


# --- from characters to lines


def _runs(layer: Layer, size: tuple[int, int]) -> Iterator[_Run]:
    """Lines as the file has them: broken at line ends, turns and wide gaps."""
    width, height = size
    middles = (layer.boxes[:, :2] + layer.boxes[:, 2:]) / 2
    sized = (layer.boxes[:, 2:] - layer.boxes[:, :2] > 0.2).all(axis=1)
    inside = ((middles >= 0) & (middles < [width, height])).all(axis=1) & sized & layer.shown
    off = np.abs((layer.angles + 45) % 90 - 45)
    turns = ((layer.angles + 45) // 90 % 4).astype(int)
    if inside.any() and (off[inside] > _SKEWED).mean() > 0.2:
        return
    run: _Run | None = None
    word: list[int] = []
    for index, character in enumerate(layer.characters):
        blank = ord(character) <= 32 and character != "\x02"  # PDFium's mark for a hyphen at a line's end
        if blank or not inside[index] or off[index] > _SKEWED:
            word = []
            if run is not None and character in "\r\n":
                yield run
                run = None
            continue
        turn = int(turns[index])
        if run is not None and run.words:
            ahead, aside, tall = _step(layer.boxes[run.words[-1][-1]], layer.boxes[index], turn)
            if turn != run.turn or aside > 0.6 * tall or ahead > _WIDE_GAP * tall or ahead < -tall:
                yield run
                run, word = None, []
        if run is None:
            run = _Run(turn)
        if not word:
            word = []
            run.words.append(word)
        word.append(index)
    if run is not None:
        yield run


def _step(before: Boxes, after: Boxes, turn: int) -> tuple[float, float, float]:
    """From one character to the next: gap along the line, shift across it, and the taller one's height, pixels."""
    along, across = (0, 1) if turn % 2 == 0 else (1, 0)
    if turn in (0, 1):
        ahead = after[along] - before[along + 2]
    else:
        ahead = before[along] - after[along + 2]
    middle = abs((after[across] + after[across + 2]) - (before[across] + before[across + 2])) / 2
    tall = max(after[across + 2] - after[across], before[across + 2] - before[across])
    return float(ahead), float(middle), float(tall)


def _piece(run: _Run, layer: Layer, pixels: npt.NDArray[np.uint8]) -> _Piece | None:
    """A line of the words that have ink."""
    words = []
    used: list[int] = []
    for indices in run.words:
        boxes = layer.boxes[indices]
        box = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
        text = "".join("-" if layer.characters[index] == "\x02" else layer.characters[index] for index in indices)
        text = "".join(each for each in _plain(text) if each.isprintable() and not each.isspace())
        if text and _has_ink(pixels, box, layer.colors[indices[0]]):
            words.append(Word(text=text, quad=_turned_quad(box, run.turn), score=1.0))
            used += indices
    if not words:
        return None
    boxes = layer.boxes[used]
    whole = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
    line = Line(words=tuple(words), quad=_turned_quad(whole, run.turn), score=1.0)
    fonts, counts = np.unique(layer.fonts[used], return_counts=True)
    return _Piece(line, int(fonts[counts.argmax()]), run.turn)


def _plain(text: str) -> str:
    """Ligatures and wide forms as plain letters; raised and lowered characters as they are: "m²" is not "m2"."""
    return "".join(
        each
        if unicodedata.decomposition(each).startswith(("<super>", "<sub>"))
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


# --- does the page show it?


def _doubtful(pieces: Sequence[_Piece], covered: Boxes) -> list[int]:
    """Lines that lie on an image, or where another line lies as well."""
    boxes = np.array([piece.line.box.xyxy for piece in pieces])
    on_image = (_shared(boxes, covered) > 0.3).any(axis=1) if len(covered) else np.zeros(len(boxes), dtype=bool)
    doubled = _shared(boxes, boxes)
    np.fill_diagonal(doubled, 0)
    return [int(index) for index in np.flatnonzero(on_image | (doubled > 0.5).any(axis=1))]


def _shared(boxes: Boxes, others: Boxes) -> Boxes:
    """Part of each box (n, 4) that lies in each other (m, 4): (n, m)."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    shared: Boxes = (high - low).clip(0).prod(axis=2) / np.maximum(area, 1e-9)[:, None]
    return shared


def _sample(pieces: Sequence[_Piece], doubtful: Sequence[int]) -> list[int]:
    """The longest undoubted line of each font, and some across the page."""
    plain = [index for index in range(len(pieces)) if index not in set(doubtful) and len(pieces[index].line.text) >= 4]
    longest: dict[int, int] = {}
    for index in sorted(plain, key=lambda index: len(pieces[index].line.text)):
        longest[pieces[index].font] = index
    across = [plain[round(place)] for place in np.linspace(0, len(plain) - 1, min(_SAMPLES, len(plain)))]
    return sorted({*longest.values(), *across})


def _similarity(line: Line, seen: Line) -> float:
    return difflib.SequenceMatcher(None, _letters(line.text), _letters(seen.text), autojunk=False).ratio()


def _letters(text: str) -> str:
    """What two readings of one line must share: letters and digits, without case and look-alikes."""
    kept = (each for each in text.upper() if each.isalnum())
    return "".join(kept).translate(str.maketrans("0ILZSB", "O11258")) or text


def _is_readable(text: str) -> bool:
    """Whether a line is of scripts that the image's reader is expected to know; others are trusted for their ink."""
    letters = [each for each in text if each.isalpha()]
    known = [each for each in letters if unicodedata.name(each, "").startswith(_READ_SCRIPTS)]
    return len(known) >= 0.7 * len(letters)


def _missing(lines: Sequence[Line], image: Image.Image, reader: PageReader) -> list[Line]:
    """Lines that the image shows and the layer lacks."""
    small = image.reduce(_SHRINK) if min(image.size) >= 400 else image
    factor = image.width / small.width
    found = reader.find(small) * factor
    if not len(found):
        return []
    boxes = np.concatenate([found.min(axis=1), found.max(axis=1)], axis=1)
    words = np.array([word.box.xyxy for line in lines for word in line.words]).reshape(-1, 4)
    uncovered = found[_shared(boxes, words).sum(axis=1) < _COVERED]
    if not len(uncovered):
        return []
    places = np.concatenate([uncovered.min(axis=1), uncovered.max(axis=1)], axis=1)
    inside = _shared(words, places).T > 0.5
    texts = np.array([word.text for line in lines for word in line.words], dtype=object)
    return [
        line
        for line, own in zip(reader.recognise(image, uncovered), inside, strict=True)
        if line is not None and line.score >= 0.7 and not _is_known(line, texts[own].tolist())
    ]


def _is_known(line: Line, words: Sequence[str]) -> bool:
    """Whether a line says what words of the layer in its place say; boxes around single characters are far too wide."""
    return _letters(line.text) in _letters("".join(words)) if words else False
