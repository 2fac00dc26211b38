"""Fits trees of `TreeEnsemble` by gradient boosting with histograms."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vision_agent.documents.tree_ensemble import Floats, TreeEnsemble

_BINS = 32
_LEAST_IN_LEAF = 8.0
_RIDGE = 4.0


def fit_trees(
    features: Sequence[str],
    rows: Floats,
    is_so: npt.NDArray[np.bool_],
    *,
    trees: int = 50,
    depth: int = 4,
    rate: float = 0.18,
    sample: float = 0.7,
) -> TreeEnsemble:
    """Fit an ensemble.

    Args:
        features: names of the F columns.
        rows: (R, F).
        is_so: (R,) what is to be told.
        trees: how many.
        depth: questions from a root to a leaf, at most.
        rate: share of a tree's answer that counts.
        sample: share of the rows and of the columns that a tree sees.
    """
    random = np.random.default_rng(0)
    edges = [np.unique(np.quantile(column, np.linspace(0, 1, _BINS + 1)[1:-1])) for column in rows.T]
    codes = np.stack([np.searchsorted(edge, column) for edge, column in zip(edges, rows.T, strict=True)], axis=1)
    share = float(np.clip(is_so.mean(), 1e-3, 1 - 1e-3))
    start = float(np.log(share / (1 - share)))
    total = np.full(len(rows), start)
    nodes: list[tuple[int, float, int, int]] = []
    roots = []
    for _ in range(trees):
        chance = 1 / (1 + np.exp(-total))
        slope, bend = is_so - chance, chance * (1 - chance)
        seen = np.flatnonzero(random.random(len(rows)) < sample)
        columns = np.flatnonzero(random.random(len(edges)) < sample)
        roots.append(len(nodes))
        _grow(nodes, codes, edges, slope, bend, seen, columns, depth, rate)
        tree = TreeEnsemble.of(tuple(features), 0.0, roots[-1:], nodes, depth)
        chances = np.clip(tree.chances(rows), 1e-12, 1 - 1e-12)
        total = total + np.log(chances / (1 - chances))
    return TreeEnsemble.of(tuple(features), start, roots, nodes, depth)


def _grow(
    nodes: list[tuple[int, float, int, int]],
    codes: npt.NDArray[np.int64],
    edges: Sequence[Floats],
    slope: Floats,
    bend: Floats,
    seen: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int64],
    depth: int,
    rate: float,
) -> int:
    index = len(nodes)
    nodes.append((-1, rate * float(slope[seen].sum() / (bend[seen].sum() + _RIDGE)), index, index))
    best = _best_split(codes, slope, bend, seen, columns) if depth else None
    if best is None:
        return index
    column, code = best
    low = codes[seen, column] <= code
    left = _grow(nodes, codes, edges, slope, bend, seen[low], columns, depth - 1, rate)
    right = _grow(nodes, codes, edges, slope, bend, seen[~low], columns, depth - 1, rate)
    nodes[index] = (column, float(edges[column][code]), left, right)
    return index


def _best_split(
    codes: npt.NDArray[np.int64],
    slope: Floats,
    bend: Floats,
    seen: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int64],
) -> tuple[int, int] | None:
    """The column and code that part the rows best; None where no parting pays."""
    all_slope, all_bend = slope[seen].sum(), bend[seen].sum()
    best, found = all_slope**2 / (all_bend + _RIDGE) + 1e-3, None
    for column in columns.tolist():
        code = codes[seen, column]
        count, low, weight = (
            np.bincount(code, each, minlength=_BINS).cumsum()[:-1] for each in (None, slope[seen], bend[seen])
        )
        gain = low**2 / (weight + _RIDGE) + (all_slope - low) ** 2 / (all_bend - weight + _RIDGE)
        gain[(count < _LEAST_IN_LEAF) | (len(seen) - count < _LEAST_IN_LEAF)] = 0
        at = int(gain.argmax())
        if gain[at] > best:
            best, found = float(gain[at]), (column, at)
    return found
