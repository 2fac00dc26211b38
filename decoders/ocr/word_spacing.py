"""Where a line of recognised characters breaks into words.

A recogniser that writes "TotalAmount" has mostly seen the gap: its probability of a space between the two characters is
well above that of a gap inside a word, it only did not win. Together with the width of the blank strip in the image,
measured against the gaps between the line's other characters, it tells words apart better than the most probable
character does: on receipts the gaps wrongly left closed fall by some 40 %. Both are language-independent.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# Weights of a logistic model of "here is a space", fitted by `fit` on receipts (see benchmarks/ocr.py --fit): of 1, of
# the log-odds of a space, and of the blank strip's width over that of the line's usual gap, in line heights.
WEIGHTS = (-0.26, 0.65, 8.91)

_LEAST = 1e-4  # probabilities below this say the same
_INK = 0.35  # darkness, between paper (0) and ink (1), from which a column of pixels is not blank
_MARGIN = 0.08  # line heights at the upper and lower edge that belong to neighbouring lines


@dataclass(frozen=True)
class Glyphs:
    """The characters of a line, blanks left out, and what lies between them.

    Attributes:
        characters: n of them.
        scores: probability of each (n,).
        starts, ends: columns of the line's image in which each was seen (n,), pixels.
        space: highest probability of a space between neighbours (n - 1,).
        ink: darkness 0..1 of each column of the line's image (width,).
        height: of the line's image, pixels.
    """

    characters: tuple[str, ...]
    scores: Floats
    starts: Floats
    ends: Floats
    space: Floats
    ink: Floats
    height: int


@dataclass(frozen=True)
class Span:
    """A word in a line: characters [first, last] and the columns [start, end) of the line's image, pixels."""

    text: str
    score: float
    start: float
    end: float


def ink_columns(line_HW: npt.NDArray[np.uint8]) -> Floats:
    """Return the darkness 0..1 (W,) of the columns of a line's grey image (H, W), dark on light or the reverse."""
    height = line_HW.shape[0]
    trim = round(_MARGIN * height)
    rows = line_HW[trim : height - trim].astype(np.float64)
    paper = float(np.median(rows))
    contrast = np.abs(rows - paper)
    strongest = max(float(np.percentile(contrast, 98)), 24.0)  # a line without contrast has no ink, not only ink
    ink: Floats = np.clip(contrast / strongest, 0, 1).max(axis=0)
    return ink


def blank_strips(glyphs: Glyphs) -> Floats:
    """Return the widest blank strip between the middles of neighbouring characters (n - 1,), in line heights."""
    middles = ((glyphs.starts + glyphs.ends) / 2).round().astype(int)
    blank = glyphs.ink < _INK
    # Blank columns up to and including each one since the last inked one: the largest in a stretch is its widest strip.
    count = np.cumsum(blank)
    run: npt.NDArray[np.int64] = count - np.maximum.accumulate(np.where(blank, 0, count))
    widest = [min(int(run[left : right + 1].max(initial=0)), right - left) for left, right in pairwise(middles)]
    return np.array(widest, dtype=np.float64) / glyphs.height


def features(glyphs: Glyphs) -> Floats:
    """Return what the model sees of each gap: (n - 1, 3), see `WEIGHTS`."""
    space = np.clip(glyphs.space, _LEAST, 1 - _LEAST)
    strips = blank_strips(glyphs)
    wider = np.clip(strips - (np.median(strips) if len(strips) else 0.0), -0.2, 0.6)
    return np.stack([np.ones(len(strips)), np.log(space / (1 - space)), wider], axis=1)


def split(glyphs: Glyphs, weights: Sequence[float] = WEIGHTS) -> list[Span]:
    """Split a line into words. Their columns are trimmed to their ink."""
    count = len(glyphs.characters)
    if not count:
        return []
    breaks = np.flatnonzero(features(glyphs) @ np.asarray(weights) > 0) + 1 if count > 1 else np.zeros(0, dtype=int)
    firsts = [0, *breaks.tolist()]
    lasts = [*(breaks - 1).tolist(), count - 1]
    width = len(glyphs.ink)
    # Words share no column: each gap is cut in the middle of what lies between its characters' middles.
    cuts = [0.0, *(_cut(glyphs, index) for index in breaks.tolist()), float(width)]
    return [
        Span(
            text="".join(glyphs.characters[first : last + 1]),
            score=float(glyphs.scores[first : last + 1].mean()),
            start=start,
            end=end,
        )
        for first, last, (start, end) in zip(
            firsts, lasts, (_trimmed(glyphs, a, b) for a, b in pairwise(cuts)), strict=True
        )
    ]


def fit(gaps: Floats, is_space: npt.NDArray[np.bool_], ridge: float = 0.01) -> tuple[float, ...]:
    """Fit weights to `features` of many gaps (n, 3) and whether each is a space (n,): logistic regression by Newton."""
    weights = np.zeros(gaps.shape[1])
    for _ in range(30):
        sure = 1 / (1 + np.exp(-np.clip(gaps @ weights, -30, 30)))
        slope = gaps.T @ (sure - is_space) + ridge * weights
        bend = (gaps * (sure * (1 - sure))[:, None]).T @ gaps + ridge * np.eye(len(weights))
        weights -= np.linalg.solve(bend, slope)
    return tuple(round(float(weight), 2) for weight in weights)


def _cut(glyphs: Glyphs, index: int) -> float:
    """Column at which the gap before character `index` is cut: the middle of its widest blank strip."""
    left = int((glyphs.starts[index - 1] + glyphs.ends[index - 1]) / 2)
    right = max(left + 1, math.ceil((glyphs.starts[index] + glyphs.ends[index]) / 2))
    blank = np.concatenate([[False], glyphs.ink[left:right] < _INK, [False]])
    edges = np.flatnonzero(blank[1:] != blank[:-1]).reshape(-1, 2)
    if not len(edges):
        return float(left + right) / 2
    start, end = edges[np.argmax(edges[:, 1] - edges[:, 0])].tolist()
    return float(left + (start + end) / 2)


def _trimmed(glyphs: Glyphs, start: float, end: float) -> tuple[float, float]:
    """A word's columns without the blank ones at either side; all of them where there is no ink."""
    first = int(start)
    inked = np.flatnonzero(glyphs.ink[first : math.ceil(end)] >= _INK)
    if not len(inked):
        return start, end
    return float(first + inked[0]), float(first + inked[-1] + 1)
