"""95 % intervals of figures: Wilson's for shares, the bootstrap over images for all others.

Wilson's takes questions as independent of each other. The bootstrap draws images with all their questions, 1000 times
with seed 0, and takes the middle 95 % of what comes out.
"""

from collections.abc import Callable, Hashable, Sequence
from math import sqrt

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_Z = 1.959963984540054
_DRAWS = 1000


def wilson(hits: int, count: int) -> tuple[float, float]:
    """Return the bounds of a share of `hits` in `count`; 0 and 1 of nothing."""
    if count == 0:
        return 0.0, 1.0
    share, spread = hits / count, _Z * _Z / count
    middle = (share + spread / 2) / (1 + spread)
    half = _Z / (1 + spread) * sqrt(share * (1 - share) / count + spread / count / 4)
    return 0.0 if hits == 0 else middle - half, 1.0 if hits == count else middle + half


def bootstrap(
    rows: Sequence[Sequence[float]], images: Sequence[Hashable], statistic: Callable[[Floats], Floats]
) -> tuple[float, float] | None:
    """Return the bounds of a figure that follows from sums over questions; None of fewer than two images.

    Args:
        rows: (n, k) numbers of each question.
        images: the image of each question; those of one image are drawn together.
        statistic: makes figures (m,) of sums (m, k).
    """
    if len(set(images)) < 2:
        return None
    numbers = {image: number for number, image in enumerate(dict.fromkeys(images))}
    sums = np.zeros((len(numbers), len(rows[0])), dtype=np.float64)
    np.add.at(sums, [numbers[image] for image in images], np.asarray(rows, dtype=np.float64))
    rng = np.random.default_rng(0)
    drawn = np.stack(
        [np.bincount(rng.integers(len(sums), size=len(sums)), minlength=len(sums)) @ sums for _ in range(_DRAWS)]
    )
    low, high = np.percentile(statistic(drawn), (2.5, 97.5))
    return float(low), float(high)


def ratio(sums: Floats) -> Floats:
    """Return the first of two sums over the second; 0 where the second is 0."""
    over: Floats = np.divide(sums[:, 0], sums[:, 1], out=np.zeros(len(sums)), where=sums[:, 1] != 0)
    return over


def f1_of(sums: Floats) -> Floats:
    """Return F1 of sums of right, found and true ones."""
    below = sums[:, 1] + sums[:, 2]
    over: Floats = np.divide(2 * sums[:, 0], below, out=np.zeros(len(sums)), where=below != 0)
    return over
