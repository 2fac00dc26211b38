"""Images that are there twice, and those that look alike, without any model.

Equal bytes are duplicates. Near-duplicates have difference hashes that differ in few bits, and small copies that agree
in colour and in structure: the hash alone would take all blank or nearly white pages for one.

Shape suffixes: N images, B bits, P values of a small copy.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vision_agent.images.perceptual_hash import HASH_BITS

MOST_BITS = 24  # of 256 that near-duplicates' hashes differ in
_MOST_DIFFERENCE = 16.0  # of 255, the mean of two small copies
_LEAST_CORRELATION = 0.9  # of two small copies
_FLAT = 2.0  # standard deviation of a small copy without structure
_BLOCK = 1024  # images that are compared with all others at a time


def groups(
    hashes: npt.NDArray[np.uint8], small: npt.NDArray[np.uint8], digests: Sequence[str], bits: int
) -> list[list[int]]:
    """Return groups of at least two rows that are duplicates or, from one to the next, near-duplicates.

    Args:
        hashes: (N, 32), packed bits.
        small: (N, 768), small copies.
        digests: of the files' bytes.
        bits: most bits that differ; -1 for equal bytes alone.
    """
    leader = list(range(len(digests)))

    def lead(row: int) -> int:
        while leader[row] != row:
            leader[row] = leader[leader[row]]
            row = leader[row]
        return row

    first: dict[str, int] = {}
    for row, digest in enumerate(digests):
        leader[lead(row)] = lead(first.setdefault(digest, row))
    if bits >= 0:
        for one, other in _alike(hashes, small, bits):
            low, high = sorted((lead(one), lead(other)))
            leader[high] = low
    found: dict[int, list[int]] = defaultdict(list)
    for row in range(len(digests)):
        found[lead(row)].append(row)
    return [rows for rows in found.values() if len(rows) > 1]


def _alike(hashes: npt.NDArray[np.uint8], small: npt.NDArray[np.uint8], bits: int) -> list[tuple[int, int]]:
    """Pairs of rows that look alike, the lower first."""
    signs_NB = np.unpackbits(hashes, axis=1).astype(np.float32) * 2 - 1
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(signs_NB), _BLOCK):
        agreed = signs_NB[start : start + _BLOCK] @ signs_NB[start:].T  # the number of equal bits minus that of others
        ones, others = np.nonzero(agreed >= HASH_BITS - 2 * bits)
        ones, others = ones + start, others + start
        kept = ones < others
        ones, others = ones[kept], others[kept]
        same = _agree(small, ones, others)
        pairs += zip(ones[same].tolist(), others[same].tolist(), strict=True)
    return pairs


def _agree(
    small: npt.NDArray[np.uint8], ones: npt.NDArray[np.int64], others: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Whether the small copies of pairs agree in colour and structure."""
    agreed = np.zeros(len(ones), dtype=bool)
    for start in range(0, len(ones), _BLOCK):
        some = slice(start, start + _BLOCK)
        a_NP, b_NP = small[ones[some]].astype(np.float32), small[others[some]].astype(np.float32)
        near = np.abs(a_NP - b_NP).mean(axis=1) <= _MOST_DIFFERENCE
        spread_a, spread_b = a_NP.std(axis=1), b_NP.std(axis=1)
        a_NP -= a_NP.mean(axis=1, keepdims=True)
        b_NP -= b_NP.mean(axis=1, keepdims=True)
        together = (a_NP * b_NP).mean(axis=1)
        alike = together >= _LEAST_CORRELATION * spread_a * spread_b
        flat = (spread_a < _FLAT) & (spread_b < _FLAT)
        agreed[some] = near & (alike | flat)
    return agreed
