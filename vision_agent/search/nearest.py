"""The rows of a matrix that are most like a vector: exactly, by numpy; or by faiss, which is quicker for many.

Shape suffixes: N rows, D embedding.
"""

from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from vision_agent.errors import InputError, bad_argument, require_extra

Engine: TypeAlias = Literal["numpy", "faiss"]
Vectors: TypeAlias = npt.NDArray[np.float32]
Found: TypeAlias = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
Searcher: TypeAlias = Callable[[Vectors, int], Found]
"""Returns the scores and rows of the nearest, best first, for a vector (D,) and how many are wanted."""

_BLOCK = 16_384  # rows that are compared at a time


def searcher(vectors_ND: Vectors, engine: Engine = "numpy") -> Searcher:
    """Return what searches a matrix of unit rows. Both engines compare with every row, so they find the same.

    Raises:
        InputError: another engine.
        MissingExtraError: `"faiss"` without the extra "faiss".
    """
    if engine == "numpy":
        return lambda vector_D, limit: nearest(vectors_ND, vector_D, limit)
    if engine != "faiss":
        raise InputError(bad_argument("engine", "'numpy' or 'faiss'", engine))
    require_extra("faiss", "faiss", "Search by faiss is")
    import faiss

    table = faiss.IndexFlatIP(vectors_ND.shape[1])
    table.add(np.ascontiguousarray(vectors_ND))

    def search(vector_D: Vectors, limit: int) -> Found:
        scores, rows = table.search(vector_D[None], min(limit, len(vectors_ND)))
        return scores[0], rows[0]

    return search


def nearest(vectors_ND: Vectors, vector_D: Vectors, limit: int) -> Found:
    """Return the scores (cosines) and rows of at most `limit` rows, best first; of equal ones the first row first."""
    scores: list[npt.NDArray[np.float32]] = [np.empty(0, dtype=np.float32)]
    rows: list[npt.NDArray[np.int64]] = [np.empty(0, dtype=np.int64)]
    for start in range(0, len(vectors_ND), _BLOCK):
        block = vectors_ND[start : start + _BLOCK] @ vector_D
        best = _best(block, limit)
        scores.append(block[best])
        rows.append(best + start)
    together, places = np.concatenate(scores), np.concatenate(rows)
    order = np.lexsort((places, -together))[:limit]
    return together[order], places[order]


def _best(scores: npt.NDArray[np.float32], limit: int) -> npt.NDArray[np.int64]:
    """Places of the highest scores, in no order; of equal ones the first count."""
    if limit >= len(scores):
        return np.arange(len(scores))
    least = np.partition(scores, len(scores) - limit)[len(scores) - limit]
    above = np.flatnonzero(scores > least)
    return np.concatenate([above, np.flatnonzero(scores == least)[: limit - len(above)]])
