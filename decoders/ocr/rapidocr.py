"""A page reader by RapidOCR: PP-OCR's models for finding and recognising lines, which come inside its wheel.

RapidOCR finds the lines. They are recognised here rather than by it, with the same model, for what it does not give:
the probability of a space between characters (words are split by it, see `word_spacing`), the place of each
character, and a page's turn, seen from its own lines. A narrow "1" is not turned on its side, as RapidOCR does it.

Nothing is downloaded: the models are opened from the wheel, and one that is missing is an error.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from vision_agent.documents.result import Line, Quad, Word
from vision_agent.errors import InputError, MissingExtraError, bad_argument
from vision_agent.plugins.cancellation import raise_if_cancelled

from .lookalikes import plain_characters
from .word_spacing import Glyphs, ink_columns, split

try:
    import cv2
    import onnxruntime
    import rapidocr
except ImportError as error:
    raise MissingExtraError(
        'reading needs RapidOCR, onnxruntime and OpenCV: pip install "internvl-vision-agent[ocr]"'
    ) from error

Pixels = npt.NDArray[np.uint8]
Corners = npt.NDArray[np.float64]

_DETECTOR, _RECOGNISER = "PP-OCRv6_det_small.onnx", "PP-OCRv6_rec_small.onnx"
_HEIGHT = 48  # pixels of a line's image; what the recogniser was made for
_LEAST_WIDTH = 320
_BATCH = 6
_LEAST_SCORE = 0.5  # of a line, as in RapidOCR
_TURNED_SCORE = 0.85  # pages read worse than this are tried upside down; upright ones rarely are, those always
_TRIED = 6  # lines that decide whether a page stands on its head
_TALL = 1.5  # times as high as wide
_TILE, _OVERLAP = 2000, 240  # pixels; RapidOCR shrinks larger images, which loses small print ...
_SMALL_PRINT = 14  # ... of lines lower than this, in pixels of the shrunk image


class RapidReader:
    """A reader that finds and recognises lines. It may be shared by threads.

    Args:
        threads: for each model; None for all cores. Pages read side by side want one each.
        recogniser: the path of another recogniser of RapidOCR's, an ONNX file that holds its characters.

    Raises:
        MissingExtraError: a model is not in the installed wheel.
        InputError: `recogniser` is no such file.
    """

    name = "rapidocr"

    def __init__(self, threads: int | None = None, *, recogniser: str | Path | None = None) -> None:
        models = Path(rapidocr.__file__).parent / "models"
        for file in (_DETECTOR, _RECOGNISER):
            if not (models / file).is_file():
                raise MissingExtraError(
                    f'the installed RapidOCR has no {file}: pip install --upgrade "internvl-vision-agent[ocr]"'
                )
        count = -1 if threads is None else threads
        self._detector = rapidocr.RapidOCR(
            params={
                "Global.log_level": "critical",  # its logger writes to stderr on its own
                "Det.model_path": str(models / _DETECTOR),
                "EngineConfig.onnxruntime.intra_op_num_threads": count,
                "EngineConfig.onnxruntime.inter_op_num_threads": count,
            }
        )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.enable_cpu_mem_arena = False  # it would grow with the longest line and never shrink
        if threads is not None:
            options.intra_op_num_threads = options.inter_op_num_threads = threads
        self._session = _opened(models / _RECOGNISER if recogniser is None else Path(recogniser), options)
        self._input = self._session.get_inputs()[0].name
        characters = self._session.get_modelmeta().custom_metadata_map["character"].splitlines()
        self._characters = np.array(["", *characters, " "])  # the first is CTC's blank

    def read(self, image: Image.Image) -> list[Line]:
        """Read the lines of an RGB page, upright, turned or skewed, in no order; those read badly are left out."""
        pixels = np.ascontiguousarray(np.asarray(image)[:, :, ::-1])
        lines = self._read(pixels, self._find(pixels))
        return [line for line in lines if line is not None and line.score >= _LEAST_SCORE]

    def find(self, image: Image.Image) -> Corners:
        """Return quads (n, 4, 2) of the lines of a page, clockwise from the upper left corner, pixels."""
        return self._find(np.asarray(image)[:, :, ::-1])

    def recognise(self, image: Image.Image, quads: Corners) -> list[Line | None]:
        """Return the line in each quad (n, 4, 2), whose first side is its upper edge; None where there is none."""
        return self._lines(np.ascontiguousarray(np.asarray(image)[:, :, ::-1]), quads)

    def glyphs(self, image: Image.Image) -> list[tuple[Corners, Glyphs]]:
        """Return the quad (4, 2) and characters of each line of an upright page, for fitting `word_spacing`."""
        pixels = np.ascontiguousarray(np.asarray(image)[:, :, ::-1])
        quads = _along_writing(self._find(pixels))
        found = zip(quads, self._characters_in(pixels, quads), strict=True)
        return [(quad, glyphs) for quad, glyphs in found if glyphs is not None]

    # --- finding lines

    def _find(self, pixels: Pixels) -> Corners:
        """Lines of the whole page; of a large page with small print once more in overlapping tiles."""
        quads = self._find_in(np.ascontiguousarray(pixels))
        height, width = pixels.shape[:2]
        shrunk = max(height, width) / _TILE
        if shrunk <= 1.25 or (len(quads) and np.median(_lengths(quads).min(axis=1)) >= _SMALL_PRINT * shrunk):
            return quads
        found = []
        for top, bottom in _tiles(height):
            for left, right in _tiles(width):
                quads = self._find_in(np.ascontiguousarray(pixels[top:bottom, left:right]))
                found.append(quads + np.array([left, top], dtype=np.float64))
        return _joined_over_seams(np.concatenate(found))

    def _find_in(self, pixels: Pixels) -> Corners:
        found: Any = self._detector(pixels, use_det=True, use_cls=False, use_rec=False)
        boxes = found.boxes
        return np.zeros((0, 4, 2)) if boxes is None else np.asarray(boxes, dtype=np.float64).reshape(-1, 4, 2)

    # --- recognising characters

    def _read(self, pixels: Pixels, quads: Corners) -> list[Line | None]:
        """The line in each quad, whichever way its page is turned."""
        if not len(quads):
            return []
        quads = _along_writing(quads)
        shape = _lengths(quads)
        longest = np.argsort(-shape[:, 0] / np.maximum(shape[:, 1], 1), kind="stable")[:_TRIED]
        tried = self._lines(pixels, quads[longest])
        if _mean_score(tried) < _TURNED_SCORE:  # upside down?
            other = self._lines(pixels, np.roll(quads[longest], 2, axis=1))
            if _mean_score(other) > _mean_score(tried) + 0.1:
                quads, tried = np.roll(quads, 2, axis=1), other
        rest = np.setdiff1d(np.arange(len(quads)), longest)
        lines: list[Line | None] = [None] * len(quads)
        for indices, read in ((longest, tried), (rest, self._lines(pixels, quads[rest]))):
            for index, line in zip(indices.tolist(), read, strict=True):
                lines[index] = line
        return lines

    def _lines(self, pixels: Pixels, quads: Corners) -> list[Line | None]:
        found = self._characters_in(pixels, quads)
        return [None if glyphs is None else _line(glyphs, quad) for glyphs, quad in zip(found, quads, strict=True)]

    def _characters_in(self, pixels: Pixels, quads: Corners) -> list[Glyphs | None]:
        crops = [_straightened(pixels, quad) for quad in quads]
        order = np.argsort([crop.shape[1] for crop in crops], kind="stable")
        found: list[Glyphs | None] = [None] * len(crops)
        for begin in range(0, len(order), _BATCH):
            raise_if_cancelled()
            rows = order[begin : begin + _BATCH].tolist()
            width = max(_LEAST_WIDTH, 8 * math.ceil(max(crops[row].shape[1] for row in rows) / 8))
            batch = np.zeros((len(rows), 3, _HEIGHT, width), dtype=np.float32)
            for place, row in enumerate(rows):
                scaled = crops[row].transpose(2, 0, 1).astype(np.float32)
                batch[place, :, :, : crops[row].shape[1]] = scaled / 127.5 - 1
            probabilities = self._session.run(None, {self._input: batch})[0]
            for place, row in enumerate(rows):
                found[row] = self._glyphs(probabilities[place], crops[row], width)
        return found

    def _glyphs(self, probabilities_TV: npt.NDArray[np.float32], crop: Pixels, width: int) -> Glyphs | None:
        """What the recogniser's columns say: CTC's best path, its spaces left out."""
        best = probabilities_TV.argmax(axis=1)
        new = np.concatenate([[True], best[1:] != best[:-1]])
        starts = np.flatnonzero(new)
        ends = np.append(starts[1:], len(best))
        spoken = self._characters[best[starts]]
        seen = (best[starts] != 0) & (spoken != " ")
        starts, ends = starts[seen], ends[seen]
        if not len(starts):
            return None
        spaces = probabilities_TV[:, -1]
        step = width / len(best)
        return Glyphs(
            characters=plain_characters(spoken[seen].tolist()),
            scores=probabilities_TV[starts, best[starts]].astype(np.float64),
            starts=starts * step,
            ends=np.minimum(ends * step, crop.shape[1]),
            space=np.array([spaces[a:b].max() for a, b in zip(ends[:-1] - 1, starts[1:] + 1, strict=True)]),
            ink=ink_columns(np.asarray(cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY), dtype=np.uint8)),
            height=_HEIGHT,
        )


def _opened(file: Path, options: Any) -> Any:
    """A recogniser that reads lines of 48 pixels and says which characters it knows."""
    expected = "an ONNX file of a RapidOCR recogniser with its characters inside"
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no common class of its errors
        raise InputError(bad_argument("recogniser", expected, str(file))) from error
    shape = session.get_inputs()[0].shape
    known = session.get_modelmeta().custom_metadata_map
    if "character" not in known or len(shape) != 4 or (isinstance(shape[2], int) and shape[2] != _HEIGHT):
        raise InputError(bad_argument("recogniser", expected, str(file)))
    return session


def _line(glyphs: Glyphs, quad: Corners) -> Line:
    wide = len(glyphs.ink)
    words = tuple(
        Word(text=span.text, score=min(1.0, span.score), quad=_part(quad, span.start / wide, span.end / wide))
        for span in split(glyphs)
    )
    return Line(words=words, quad=_as_quad(quad), score=min(1.0, float(glyphs.scores.mean())))


# --- geometry of quads


def _lengths(quads: Corners) -> Corners:
    """Along and across the writing (n, 2): the longer ones of opposite sides."""
    sides = np.linalg.norm(np.roll(quads, -1, axis=1) - quads, axis=2)
    return np.stack([sides[:, [0, 2]].max(axis=1), sides[:, [1, 3]].max(axis=1)], axis=1)


def _along_writing(quads: Corners) -> Corners:
    """The quads, turned where needed so that each one's first side is along its writing.

    A page lies the way most of its writing does. On it, a box across is a line across only if it is long: else it is
    a narrow character, such as a "1" of an upright page.
    """
    along, across = _lengths(quads).T
    tall, wide = across >= _TALL * along, along >= _TALL * across
    sideways = across[tall].sum() > along[wide].sum()
    with_page = tall if sideways else wide
    size = np.median(np.minimum(along, across)[with_page]) if with_page.any() else np.inf
    long = np.maximum(along, across) > 2.5 * size
    turned = ~(wide & long) if sideways else tall & long
    return np.where(turned[:, None, None], np.roll(quads, -1, axis=1), quads)


def _straightened(pixels: Pixels, quad: Corners) -> Pixels:
    """A line's image (_HEIGHT, width, 3): the quad's first side becomes its upper edge."""
    along, across = _lengths(quad[None])[0]
    width = max(8, math.ceil(_HEIGHT * along / max(across, 1.0)))
    target = np.array([[0, 0], [width, 0], [width, _HEIGHT], [0, _HEIGHT]], dtype=np.float32)
    matrix = cv2.getPerspectiveTransform(quad.astype(np.float32), target)
    warped = cv2.warpPerspective(
        pixels, matrix, (width, _HEIGHT), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(warped, dtype=np.uint8)


def _part(quad: Corners, start: float, end: float) -> Quad:
    """The part of a line between two fractions of its length."""
    upper, lower = quad[1] - quad[0], quad[2] - quad[3]
    return _as_quad(
        np.stack([quad[0] + start * upper, quad[0] + end * upper, quad[3] + end * lower, quad[3] + start * lower])
    )


def _as_quad(corners: Corners) -> Quad:
    a, b, c, d = ((float(x), float(y)) for x, y in corners)
    return a, b, c, d


def _mean_score(lines: Sequence[Line | None]) -> float:
    return float(np.mean([0.0 if line is None else line.score for line in lines]))


# --- large pages


def _tiles(size: int) -> list[tuple[int, int]]:
    """Begin and end of the tiles along a side, which overlap by at least `_OVERLAP`."""
    count = max(1, math.ceil((size - _OVERLAP) / (_TILE - _OVERLAP)))
    starts = np.linspace(0, max(0, size - _TILE), count).round().astype(int).tolist()
    return [(start, min(size, start + _TILE)) for start in starts]


def _joined_over_seams(quads: Corners) -> Corners:
    """Lines found in overlapping tiles: parts of one line become one, doubles go."""
    groups: list[list[Corners]] = []
    bounds: list[list[float]] = []
    for quad in quads[np.argsort(quads[:, :, 0].min(axis=1), kind="stable")]:
        low, high = quad.min(axis=0), quad.max(axis=0)
        for group, bound in zip(groups, bounds, strict=True):
            apart = bound[0] > high[0] or bound[2] < low[0] or bound[1] > high[1] or bound[3] < low[1]
            if not apart and any(_overlap(quad, other) for other in group):
                group.append(quad)
                bound[:] = [*np.minimum(bound[:2], low), *np.maximum(bound[2:], high)]
                break
        else:
            groups.append([quad])
            bounds.append([*low, *high])
    return np.array([group[0] if len(group) == 1 else _around(group) for group in groups]).reshape(-1, 4, 2)


def _overlap(a: Corners, b: Corners) -> bool:
    """Whether two quads share more than a tenth of the smaller one."""
    shared, _ = cv2.intersectConvexConvex(a.astype(np.float32), b.astype(np.float32))
    smaller = min(cv2.contourArea(a.astype(np.float32)), cv2.contourArea(b.astype(np.float32)))
    return bool(shared > 0.1 * smaller)


def _around(group: Sequence[Corners]) -> Corners:
    """The smallest rectangle around quads, its corners clockwise from the upper left one."""
    corners = cv2.boxPoints(cv2.minAreaRect(np.concatenate(group).astype(np.float32))).astype(np.float64)
    left, right = np.split(corners[np.argsort(corners[:, 0], kind="stable")], 2)
    (a, d), (b, c) = left[np.argsort(left[:, 1])], right[np.argsort(right[:, 1])]
    return np.stack([a, b, c, d])
