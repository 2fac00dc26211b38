"""A page as a reader's eye has it: rows of pieces of text that stand apart.

A *piece* is a run of words on one row without a wide gap. Pieces carry reading-frame geometry (the page turned so that
its text is upright), so that "right of" and "below" mean what they say on turned scans too; results use the words' own
quads, which are in the page as given.
"""

import math
import statistics
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from vision_agent.documents.result import Line, Page, Word, box_around
from vision_agent.documents.text_match import Folded, fold
from vision_agent.documents.writing_direction import right_to_left_share, words_in_order
from vision_agent.results.box import Box

MARKS = " :;,.-_=|#*\u2013\u2014"
LOOSE_MARKS = " :;,-_=|*\u2013\u2014"
"""What stands around values and is no part of them; a full stop may be."""

_WIDE_GAP = 1.1  # of the text's height: what separates pieces
_CLOSE_GAP = 0.55  # what joins lines that a reader cut apart
_UPRIGHT = 0.01  # radians


@dataclass(frozen=True)
class Token:
    """A word in the reading frame.

    Attributes:
        word: as read.
        x0, y0, x1, y1: upright box around it once the page is turned upright, pixels.
    """

    word: Word
    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def height(self) -> float:
        return self.y1 - self.y0


@dataclass(frozen=True)
class Piece:
    """Words on one row that belong together.

    Attributes:
        page: number of the page.
        row: index of its row on the page.
        tokens: its words.
    """

    page: int
    row: int
    tokens: tuple[Token, ...]

    @cached_property
    def text(self) -> str:
        return " ".join(token.word.text for token in self.tokens)

    @cached_property
    def shape(self) -> Folded:
        return fold(self.text)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """For each token the index of its first character in `text`."""
        starts, at = [], 0
        for token in self.tokens:
            starts.append(at)
            at += len(token.word.text) + 1
        return tuple(starts)

    @cached_property
    def x0(self) -> float:
        return min(token.x0 for token in self.tokens)

    @cached_property
    def x1(self) -> float:
        return max(token.x1 for token in self.tokens)

    @cached_property
    def y0(self) -> float:
        return min(token.y0 for token in self.tokens)

    @cached_property
    def y1(self) -> float:
        return max(token.y1 for token in self.tokens)

    @cached_property
    def height(self) -> float:
        """Of its text: the median over its words, pixels."""
        return max(1.0, statistics.median(token.height for token in self.tokens))

    @property
    def middle(self) -> float:
        """Height of its middle on the page."""
        return (self.y0 + self.y1) / 2

    @cached_property
    def score(self) -> float:
        """How sure the reader was of it, 0-1."""
        return sum(token.word.score for token in self.tokens) / len(self.tokens)

    def at(self, character: int) -> int:
        """Return the index of the token that holds a character of `text`."""
        return max(0, bisect_right(self.starts, character) - 1)

    def x_at(self, character: int) -> float:
        """Return where a character of `text` begins, by its share of its word, pixels."""
        index = self.at(character)
        token = self.tokens[index]
        share = (character - self.starts[index]) / max(1, len(token.word.text))
        return token.x0 + min(1.0, share) * (token.x1 - token.x0)


@dataclass(frozen=True)
class Excerpt:
    """A part of a piece's text.

    Attributes:
        piece: where it stands.
        start, end: its characters, end excluded.
    """

    piece: Piece
    start: int
    end: int

    @property
    def text(self) -> str:
        return self.piece.text[self.start : self.end]

    @property
    def words(self) -> tuple[Word, ...]:
        """The words it touches."""
        first, last = self.piece.at(self.start), self.piece.at(max(self.start, self.end - 1))
        return tuple(token.word for token in self.piece.tokens[first : last + 1])

    @property
    def x0(self) -> float:
        return self.piece.x_at(self.start)

    @property
    def x1(self) -> float:
        return self.piece.x_at(self.end)

    @property
    def score(self) -> float:
        """How sure the reader was of its words, 0-1."""
        return sum(word.score for word in self.words) / len(self.words)

    def stripped(self, marks: str = MARKS) -> "Excerpt | None":
        """Return the excerpt without blanks and marks around it; None where nothing is left."""
        text = self.text
        left = len(text) - len(text.lstrip(marks))
        right = len(text.rstrip(LOOSE_MARKS))
        return Excerpt(self.piece, self.start + left, self.start + right) if right > left else None

    @classmethod
    def whole(cls, piece: Piece) -> "Excerpt":
        """Return the whole text of a piece."""
        return cls(piece, 0, len(piece.text))


def box_of(excerpts: Sequence[Excerpt]) -> Box:
    """Return the box around the words of excerpts, pixels of the page as given."""
    return box_around([word.quad for excerpt in excerpts for word in excerpt.words])


@dataclass(frozen=True)
class Sheet:
    """One page as rows of pieces.

    Attributes:
        page: as read.
        rows: from top to bottom, each from left to right, in the reading frame.
        to_left: whether the frame is the page's mirror image, so that "right of" means further on in Hebrew and Arabic.
    """

    page: Page
    rows: tuple[tuple[Piece, ...], ...]
    to_left: bool = False

    def framed(self, box: Box) -> Box:
        """Return a box of an upright page as it lies in the reading frame."""
        if not self.to_left:
            return box
        return Box(x0=self.page.width - box.x1, y0=box.y0, x1=self.page.width - box.x0, y1=box.y1)

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        return tuple(piece for row in self.rows for piece in row)

    @cached_property
    def height(self) -> float:
        """The usual height of its text, pixels."""
        return statistics.median(piece.height for piece in self.pieces) if self.pieces else 1.0

    @cached_property
    def frame(self) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1 around all text."""
        if not self.pieces:
            return 0.0, 0.0, 1.0, 1.0
        x0, y0 = min(piece.x0 for piece in self.pieces), min(piece.y0 for piece in self.pieces)
        return x0, y0, max(piece.x1 for piece in self.pieces), max(piece.y1 for piece in self.pieces)

    def right_of(self, piece: Piece) -> tuple[Piece, ...]:
        """Return pieces of its row to its right, nearest first."""
        row = self.rows[piece.row]
        return row[row.index(piece) + 1 :]

    def below(self, piece: Piece, rows: int = 3) -> Iterator[Piece]:
        """Yield pieces under it that share some of its width, nearest first, within so many rows."""
        for row in self.rows[piece.row + 1 : piece.row + 1 + rows]:
            for other in row:
                if min(piece.x1, other.x1) - max(piece.x0, other.x0) > 0 and other.y0 > piece.middle:
                    yield other


def sheet_of(page: Page) -> Sheet:
    """Turn a page's lines into rows of pieces, as they stand."""
    return _sheet(page, None)


def script_sheet(page: Page) -> Sheet:
    """Turn a page's lines into rows of pieces in the direction of its script: Hebrew and Arabic begin on the right."""
    upright = abs(text_angle(page.lines)) < _UPRIGHT
    to_left = upright and right_to_left_share(" ".join(line.text for line in page.lines)) > 0.5
    return _sheet(page, float(page.width) if to_left else None)


def _sheet(page: Page, mirror: float | None) -> Sheet:
    """A page's rows; `mirror` is the page's width where the reading frame is its mirror image."""
    angle = text_angle(page.lines)
    parts = [part for line in page.lines for part in _cut(_tokens(line, angle, mirror))]
    rows = [_joined(row) for row in _rows(parts)]
    return Sheet(
        page,
        tuple(
            tuple(Piece(page.number, index, _as_read(tokens, mirror)) for tokens in row)
            for index, row in enumerate(rows)
            if row
        ),
        mirror is not None,
    )


def _as_read(tokens: Sequence[Token], mirror: float | None) -> tuple[Token, ...]:
    """The words of a piece as they are read: Latin names in a line of Hebrew run against it."""
    if mirror is None:
        return tuple(tokens)
    standing = tokens[::-1]
    order = words_in_order([token.word.text for token in standing])
    return tuple(standing[index] for index in order)


def text_angle(lines: Sequence[Line]) -> float:
    """Return the direction of reading: radians clockwise, the median over the words' upper edges."""
    angles = []
    for line in lines:
        (x0, y0), (x1, y1) = line.quad[0], line.quad[1]
        if math.hypot(x1 - x0, y1 - y0) > 0:
            angles.append(math.atan2(y1 - y0, x1 - x0))
    if not angles:
        return 0.0
    # The median is taken around the commonest quarter, since angles wrap around.
    quarter = statistics.mode(round(angle / (math.pi / 2)) % 4 for angle in angles) * math.pi / 2
    away = [(angle - quarter + math.pi) % (2 * math.pi) - math.pi for angle in angles]
    return quarter + statistics.median(value for value in away if abs(value) < math.pi / 4)


def _tokens(line: Line, angle: float, mirror: float | None) -> list[Token]:
    cosine, sine = math.cos(angle), math.sin(angle)
    tokens = []
    for word in line.words:
        if not word.text.strip():
            continue
        xs = [x * cosine + y * sine for x, y in word.quad]
        ys = [y * cosine - x * sine for x, y in word.quad]
        xs = xs if mirror is None else [mirror - x for x in xs]
        tokens.append(Token(word, min(xs), min(ys), max(xs), max(ys)))
    return sorted(tokens, key=lambda token: token.x0)


def _cut(tokens: Sequence[Token]) -> Iterator[list[Token]]:
    """Cut a line at its wide gaps."""
    part: list[Token] = []
    for token in tokens:
        if part and token.x0 - part[-1].x1 > _WIDE_GAP * max(token.height, part[-1].height):
            yield part
            part = []
        part.append(token)
    if part:
        yield part


def _rows(parts: Sequence[list[Token]]) -> list[list[list[Token]]]:
    """Group parts of lines into rows. A part joins the row whose nearest part lies at its own height."""
    rows: list[list[list[Token]]] = []
    for part in sorted(parts, key=lambda tokens: _middle(tokens)):
        for row in reversed(rows[-6:]):
            nearest = min(row, key=lambda other: _apart(other, part))
            if _apart(nearest, part) > -_span(part, nearest) and _level(nearest, part):
                row.append(part)
                break
        else:
            rows.append([part])
    for row in rows:
        row.sort(key=lambda tokens: tokens[0].x0)
    return sorted(rows, key=lambda row: statistics.fmean(_middle(tokens) for tokens in row))


def _middle(tokens: Sequence[Token]) -> float:
    return statistics.fmean((token.y0 + token.y1) / 2 for token in tokens)


def _apart(first: Sequence[Token], second: Sequence[Token]) -> float:
    """The gap between two parts along the row; negative where they overlap."""
    return max(second[0].x0 - first[-1].x1, first[0].x0 - second[-1].x1)


def _span(first: Sequence[Token], second: Sequence[Token]) -> float:
    """The overlap along the row that boxes drawn too wide may have."""
    return 0.3 * min(first[-1].x1 - first[0].x0, second[-1].x1 - second[0].x0)


def _level(first: Sequence[Token], second: Sequence[Token]) -> bool:
    """Whether two parts stand at one height: they share half of the lower one's height at the ends that face."""
    one, other = (first[-1], second[0]) if first[0].x0 < second[0].x0 else (first[0], second[-1])
    shared = min(one.y1, other.y1) - max(one.y0, other.y0)
    return shared > 0.5 * min(one.height, other.height)


def _joined(row: Sequence[list[Token]]) -> list[list[Token]]:
    """Join neighbours that hardly stand apart."""
    joined: list[list[Token]] = []
    for part in row:
        if joined and part[0].x0 - joined[-1][-1].x1 < _CLOSE_GAP * min(part[0].height, joined[-1][-1].height):
            joined[-1].extend(part)
        else:
            joined.append(list(part))
    return joined
