"""A PDF's own text, as far as the page shows it.

A text layer is exact where it is what a reader of the page sees, but a file can say anything: invisible text over a
scan, white text for search engines or for language models, characters mapped to other characters. So a word is taken
only where the page's image has ink of its colour in its place. A few words of every font, and all text in doubtful
places (under images, or two texts in one place), are read from the image and must agree. Where the page shows ink that
the text does not explain, lines are looked for in the image and read as well.
"""

import difflib
import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from vision_agent.documents.page_reader import PageReader
from vision_agent.documents.pdf import Layer, PdfField
from vision_agent.documents.pdf_text import Piece, text_pieces
from vision_agent.documents.result import Line, Quad, Word, quad_of

Boxes = npt.NDArray[np.float64]

_SAMPLES = 3  # lines across the page, beside one of each font
_SAMPLE_LETTERS = 16  # of a line are read: enough to tell a font that lies
_AGREES = 0.6  # similarity of a line with what the image shows, 0..1, from which it counts
_COVERED = 0.3  # part of a found line that the layer's words must cover
_SHRINK = 2  # the search for missing lines looks at a smaller image
_READ_SCRIPTS = ("LATIN", "CJK", "HIRAGANA", "KATAKANA")
_INK = 40  # of 255: how far ink stands out from the ground around it
_LEAST_MARKS = 3  # pieces of unexplained ink beside each other that may be a word


def trusted_lines(
    layer: Layer, image: Image.Image, reader: PageReader, fields: Sequence[PdfField] = ()
) -> list[Line] | None:
    """Return the layer's lines that the image shows and lines that only the image has; None where all must be read."""
    pieces = text_pieces(layer, np.asarray(image))
    if not pieces:
        return None
    doubtful = _doubtful(pieces)
    sample = _sample(pieces, doubtful)
    asked = [index for index in sorted({*sample, *doubtful}) if _is_readable(pieces[index].line.text)]
    shortened = [_beginning(pieces[index].line, index in doubtful) for index in asked]
    seen = reader.recognise(image, np.array([line.quad for line in shortened]).reshape(-1, 4, 2))
    wrong = {
        index
        for index, line, read in zip(asked, shortened, seen, strict=True)
        if read is None or _similarity(line, read) < _AGREES
    }
    if wrong & set(sample):
        return None
    kept = [piece.line for index, piece in enumerate(pieces) if index not in wrong]
    kept += field_lines(fields, [line.quad for line in kept])
    missing = _missing(kept, image, reader)
    if sum(len(line.text) for line in missing) > sum(len(line.text) for line in kept):
        return None
    return [*kept, *missing]


def layer_lines(layer: Layer | None, image: Image.Image, fields: Sequence[PdfField] = ()) -> list[Line]:
    """Return a page's own text without reading its image: what has ink, and what lies under a scanned page's image."""
    pieces = [] if layer is None else text_pieces(layer, np.asarray(image), unseen=True)
    lines = [piece.line for piece in pieces]
    return lines + field_lines(fields, [line.quad for line in lines])


def field_lines(fields: Sequence[PdfField], quads: Sequence[Quad]) -> list[Line]:
    """Return what the text fields of a form hold, as lines, where no other text stands in their place."""
    taken = np.array([[*np.array(quad).min(axis=0), *np.array(quad).max(axis=0)] for quad in quads]).reshape(-1, 4)
    lines = []
    for each in fields:
        rows = [row for row in each.value.splitlines() if row.strip()] if each.kind in ("text", "choice") else []
        if not rows or (len(taken) and (_shared(taken, np.array([each.box]))[:, 0] > 0.5).any()):
            continue
        x0, y0, x1, y1 = each.box
        step = (y1 - y0) / len(rows)
        for number, row in enumerate(rows):
            words, at = [], x0
            wide = min((x1 - x0) / max(1, len(row)), 0.5 * step)
            for word in row.split():
                place = quad_of((at, y0 + number * step, at + wide * len(word), y0 + (number + 1) * step))
                words.append(Word(text=word, quad=place, score=1.0))
                at += wide * (len(word) + 1)
            quad = quad_of((x0, y0 + number * step, max(x0 + 1, at - wide), y0 + (number + 1) * step))
            lines.append(Line(words=tuple(words), quad=quad, score=1.0))
    return lines


# --- does the page show it?


def _doubtful(pieces: Sequence[Piece]) -> list[int]:
    """Lines that lie under an image, or where another line lies as well."""
    boxes = np.array([piece.line.box.xyxy for piece in pieces])
    under = np.array([piece.covered for piece in pieces])
    doubled = _shared(boxes, boxes)
    np.fill_diagonal(doubled, 0)
    return [int(index) for index in np.flatnonzero(under | (doubled > 0.5).any(axis=1))]


def _shared(boxes: Boxes, others: Boxes) -> Boxes:
    """Part of each box (n, 4) that lies in each other (m, 4): (n, m)."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    shared: Boxes = (high - low).clip(0).prod(axis=2) / np.maximum(area, 1e-9)[:, None]
    return shared


def _sample(pieces: Sequence[Piece], doubtful: Sequence[int]) -> list[int]:
    """The line of each font that says most in few letters, and some across the page."""
    plain = [index for index in range(len(pieces)) if index not in set(doubtful) and len(pieces[index].line.text) >= 4]
    best: dict[int, int] = {}
    for index in sorted(plain, key=lambda index: (_told(pieces[index].line.text), -index)):
        best[pieces[index].font] = index
    across = [plain[round(place)] for place in np.linspace(0, len(plain) - 1, min(_SAMPLES, len(plain)))]
    return sorted({*best.values(), *across})


def _told(text: str) -> int:
    """How many letters and digits a line's beginning shows."""
    return sum(each.isalnum() for each in text[:_SAMPLE_LETTERS])


def _beginning(line: Line, whole: bool) -> Line:
    """The first words of a line, which are quicker to read; of a doubtful one all."""
    if whole or len(line.text) <= 1.3 * _SAMPLE_LETTERS:
        return line
    count, letters = 0, 0
    while count < len(line.words) and letters < _SAMPLE_LETTERS:
        letters += len(line.words[count].text) + 1
        count += 1
    words = line.words[:count]
    corners = np.array([word.quad for word in words])
    first, last = corners[0], corners[-1]
    if np.linalg.norm(first[0] - np.array(line.quad[0])) > np.linalg.norm(last[0] - np.array(line.quad[0])) + 1:
        first, last = last, first  # read from the right
    quad = tuple((float(x), float(y)) for x, y in (first[0], last[1], last[2], first[3]))
    a, b, c, d = quad
    return Line(words=words, quad=(a, b, c, d), score=line.score)


def _similarity(line: Line, seen: Line) -> float:
    return difflib.SequenceMatcher(None, _letters(line.text), _letters(seen.text), autojunk=False).ratio()


def _letters(text: str) -> str:
    """What two readings of one line must share: letters and digits, without case and look-alikes."""
    kept = (each for each in unicodedata.normalize("NFKC", text).upper() if each.isalnum())
    return "".join(kept).translate(str.maketrans("0ILZSB", "O11258")) or text


def _is_readable(text: str) -> bool:
    """Whether a line is of scripts that the image's reader is expected to know; others are trusted for their ink."""
    letters = [each for each in text if each.isalpha()]
    known = [each for each in letters if unicodedata.name(each, "").startswith(_READ_SCRIPTS)]
    return len(known) >= 0.7 * len(letters)


# --- what does the layer lack?


def _missing(lines: Sequence[Line], image: Image.Image, reader: PageReader) -> list[Line]:
    """Lines that the image shows and the layer lacks."""
    small = image.reduce(_SHRINK) if min(image.size) >= 400 else image
    factor = image.width / small.width
    words = np.array([word.box.xyxy for line in lines for word in line.words]).reshape(-1, 4)
    place = _unexplained(np.asarray(small.convert("L")), words / factor)
    if place is None:
        return []
    found = (reader.find(small.crop(place)) + np.array(place[:2])) * factor
    if not len(found):
        return []
    boxes = np.concatenate([found.min(axis=1), found.max(axis=1)], axis=1)
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


def _unexplained(grey: npt.NDArray[np.uint8], words: Boxes) -> tuple[int, int, int, int] | None:
    """Where marks the size of letters stand that no word explains: x0, y0, x1, y1 around them; None for nowhere."""
    import cv2

    ground = cv2.medianBlur(grey, 31)
    ink = (cv2.absdiff(grey, ground) > _INK).astype(np.uint8)
    height, width = grey.shape
    tall = (words[:, 3] - words[:, 1]).clip(1)
    for (x0, y0, x1, y1), high in zip(words, tall, strict=True):
        edge = 0.2 * high + 1
        ink[max(0, int(y0 - edge)) : int(y1 + edge) + 1, max(0, int(x0 - edge)) : int(x1 + edge) + 1] = 0
    usual = float(np.median(tall)) if len(tall) else 12.0
    _, _, stats, _ = cv2.connectedComponentsWithStats(ink, connectivity=8)
    x, y, wide, high, area = stats[1:].T.astype(np.float64)
    letter = (high >= 0.3 * usual) & (high <= 5 * usual) & (wide <= 8 * usual) & (area > 0.08 * wide * high)
    letter &= (high >= 4) & (wide >= 1)
    marks = np.stack([x, y, x + wide, y + high], axis=1)[letter]
    if len(marks) < _LEAST_MARKS:
        return None
    # Letters stand in company: marks that lie alone are bullets, arrows, specks and the ends of rules.
    sides = np.zeros(grey.shape, dtype=np.uint8)
    for x0, y0, x1, y1 in marks.astype(int):
        sides[y0:y1, max(0, x0 - int(0.8 * usual)) : x1 + int(0.8 * usual)] = 1
    _, labels, groups, _ = cv2.connectedComponentsWithStats(sides, connectivity=8)
    owner = labels[((marks[:, 1] + marks[:, 3]) / 2).astype(int), ((marks[:, 0] + marks[:, 2]) / 2).astype(int)]
    counts = np.bincount(owner, minlength=len(groups))
    words_like = np.flatnonzero(counts >= _LEAST_MARKS)
    words_like = words_like[words_like > 0]
    if not len(words_like):
        return None
    left, top, across, down, _ = groups[words_like].T
    edge = int(3 * usual)
    x0, y0 = max(0, int(left.min()) - edge), max(0, int(top.min()) - edge)
    x1, y1 = min(width, int((left + across).max()) + edge), min(height, int((top + down).max()) + edge)
    if (x1 - x0) * (y1 - y0) > 0.6 * width * height or min(x1 - x0, y1 - y0) < 0.5 * min(width, height):
        return 0, 0, width, height
    return x0, y0, x1, y1


def _is_known(line: Line, words: Sequence[str]) -> bool:
    """Whether a line says what words of the layer in its place say; boxes around single characters are far too wide."""
    return _letters(line.text) in _letters("".join(words)) if words else False
