"""What a page's picture says beside its words: drawn rules, and how thick and dense words are printed.

A form's labels are printed, and what was filled in is typed or written: other strokes. Rules part cells, and carry what
is filled in.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
from PIL import Image

from vision_agent.documents.sheet import Piece, Sheet, Token, text_angle
from vision_agent.documents.table_detection import opencv, upright

Edges = tuple[float, float, float, float]
"""x0, y0, x1, y1 in the reading frame."""

_TEXT = 24.0  # pixels of a text's height, at most: larger pages are made smaller
_RULE, _WALL = 2.2, 1.6  # least length of a drawn line, across and down, text heights
_AROUND = 41  # pixels around one that tell what its paper looks like
_DARKER, _DARK = 25, 170  # than the paper around it; and at all


class PageInk:
    """The rules and strokes of a page, asked for by places of its reading frame.

    Args:
        sheet: the page's words.
        image: of the same page; None: a page without rules, in one print.
    """

    def __init__(self, sheet: Sheet, image: Image.Image | None) -> None:
        self._sheet = sheet
        self.height = sheet.height
        self._flat: npt.NDArray[np.uint8] | None = None
        if image is None or not sheet.pieces:
            return
        cv2 = opencv()
        grey, back = upright(image, text_angle(sheet.page.lines))
        self._scale = min(1.0, _TEXT / sheet.height)
        self._shift = back.shift
        if self._scale < 1:
            grey = cv2.resize(grey, None, fx=self._scale, fy=self._scale, interpolation=cv2.INTER_AREA)
        high = self._scale * sheet.height
        paper = cv2.blur(grey, (_AROUND, _AROUND)).astype(np.int16)
        dark = ((grey < paper - _DARKER) & (grey < _DARK)).astype(np.uint8)
        self._flat = _lines(dark, max(12, round(_RULE * high)), across=True)
        self._tall = _lines(dark, max(10, round(_WALL * high)), across=False)
        body = (dark > 0) & (self._flat == 0)
        inner = cv2.erode(body.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        # How many are set above and on the left of each place.
        self._body, self._edge = (cv2.integral(mask.astype(np.uint8)) for mask in (body, body & ~inner))

    @cached_property
    def _prints(self) -> dict[int, tuple[float, float]]:
        """For each word how thick its strokes are and how dense its ink is, by what is usual on the page."""
        tokens = [token for piece in self._sheet.pieces for token in piece.tokens]
        if self._flat is None:
            return {id(token.word): (1.0, 1.0) for token in tokens}
        found = np.array([self._print((token.x0, token.y0, token.x1, token.y1)) for token in tokens])
        usual = np.maximum(np.median(found, axis=0), (0.1, 0.02))
        rows = (found / usual).tolist()
        return {id(token.word): (thick, dense) for token, (thick, dense) in zip(tokens, rows, strict=True)}

    def print_of(self, tokens: Sequence[Token]) -> tuple[float, float]:
        """Return how thick words' strokes are and how dense their ink is; 1 is usual on the page."""
        thick, dense = zip(*(self._prints[id(token.word)] for token in tokens), strict=True)
        return sum(thick) / len(thick), sum(dense) / len(dense)

    def ruled(self, edges: Edges) -> float:
        """Return the share of a place's width that has a rule across."""
        if self._flat is None:
            return 0.0
        x0, y0, x1, y1 = self._pixels(edges)
        return float(self._flat[y0:y1, x0:x1].any(axis=0).mean())

    def walled(self, edges: Edges) -> float:
        """Return the largest share of a place's height that has a rule down."""
        if self._flat is None:
            return 0.0
        x0, y0, x1, y1 = self._pixels(edges)
        return float(self._tall[y0:y1, x0:x1].mean(axis=0).max())

    def under(self, edges: Edges) -> float:
        """Return the share of a text's width that has a rule under it."""
        x0, _, x1, y1 = edges
        return self.ruled((x0, y1 - 0.25 * self.height, x1, y1 + 0.45 * self.height))

    def _print(self, edges: Edges) -> tuple[float, float]:
        x0, y0, x1, y1 = self._pixels(edges)
        body, edge = (
            float(total[y1, x1] - total[y0, x1] - total[y1, x0] + total[y0, x0]) for total in (self._body, self._edge)
        )
        return body / max(1.0, edge), body / ((x1 - x0) * (y1 - y0))

    def _pixels(self, edges: Edges) -> tuple[int, int, int, int]:
        """A place in the picture; at least one pixel of it."""
        height, width = self._tall.shape
        dx, dy = self._shift
        x0, x1 = (round((x + dx) * self._scale) for x in (edges[0], edges[2]))
        y0, y1 = (round((y + dy) * self._scale) for y in (edges[1], edges[3]))
        x0, y0 = min(max(0, x0), width - 1), min(max(0, y0), height - 1)
        return x0, y0, max(x0 + 1, min(x1, width)), max(y0 + 1, min(y1, height))


def edges_of(part: Piece | Token) -> Edges:
    """Return the edges of a piece or a word."""
    return part.x0, part.y0, part.x1, part.y1


def _lines(dark: npt.NDArray[np.uint8], length: int, *, across: bool) -> npt.NDArray[np.uint8]:
    """The drawn lines of at least some length, small breaks closed and a little widened; 1 where there is one."""
    cv2 = opencv()

    def brush(along: int, over: int) -> npt.NDArray[np.uint8]:
        return np.ones((over, along) if across else (along, over), np.uint8)

    closed = cv2.dilate(dark, brush(3, 2))
    found: npt.NDArray[np.uint8] = cv2.dilate(cv2.morphologyEx(closed, cv2.MORPH_OPEN, brush(length, 1)), brush(1, 3))
    return found
