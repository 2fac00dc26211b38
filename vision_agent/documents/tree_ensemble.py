"""A boosted ensemble of decision trees over named features, kept as JSON: the chance that something is so."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TreeEnsemble:
    """Trees of N nodes in all. Each answers with the log-odds of its leaf; they add up.

    Attributes:
        features: names of the features, in the order of the columns of what is asked.
        start: log-odds before any tree.
        roots: (T,) node at which a tree begins.
        feature: (N,) column that a node asks, -1 for a leaf.
        threshold: (N,) at most this goes left; a leaf's log-odds.
        left, right: (N,) next nodes; a leaf's are itself.
        depth: of the deepest tree.
    """

    features: tuple[str, ...]
    start: float
    roots: Ints
    feature: Ints
    threshold: Floats
    left: Ints
    right: Ints
    depth: int

    def chances(self, rows: Floats) -> Floats:
        """Return the chance of each of R rows of features, shapes (R, F) and (R,)."""
        at = np.repeat(self.roots[None, :], len(rows), axis=0)
        which = np.arange(len(rows))[:, None]
        for _ in range(self.depth):
            column = np.maximum(self.feature[at], 0)
            at = np.where(rows[which, column] <= self.threshold[at], self.left[at], self.right[at])
        total: Floats = self.start + self.threshold[at].sum(axis=1)
        return 1.0 / (1.0 + np.exp(-np.clip(total, -40, 40)))

    def to_json(self) -> dict[str, Any]:
        """Return the trees as lists: leaves are numbers, other nodes [feature's name, threshold, left, right]."""
        return {
            "features": list(self.features),
            "start": round(self.start, 4),
            "trees": [self._nested(int(root)) for root in self.roots],
        }

    def _nested(self, node: int) -> Any:
        if self.feature[node] < 0:
            return round(float(self.threshold[node]), 4)
        name = self.features[int(self.feature[node])]
        parts = [self._nested(int(self.left[node])), self._nested(int(self.right[node]))]
        return [name, round(float(self.threshold[node]), 4), *parts]

    @classmethod
    def from_json(cls, told: Any) -> "TreeEnsemble":
        """Read what `to_json` wrote."""
        columns = {name: index for index, name in enumerate(told["features"])}
        nodes: list[tuple[int, float, int, int]] = []
        deepest = 0

        def add(part: Any, depth: int) -> int:
            nonlocal deepest
            deepest = max(deepest, depth)
            index = len(nodes)
            if not isinstance(part, list):
                nodes.append((-1, float(part), index, index))
                return index
            nodes.append((0, 0.0, 0, 0))
            name, threshold, left, right = part
            nodes[index] = (columns[name], float(threshold), add(left, depth + 1), add(right, depth + 1))
            return index

        roots = [add(tree, 0) for tree in told["trees"]]
        return cls.of(tuple(told["features"]), float(told["start"]), roots, nodes, deepest)

    @classmethod
    def of(
        cls,
        features: tuple[str, ...],
        start: float,
        roots: Sequence[int],
        nodes: Sequence[tuple[int, float, int, int]],
        depth: int,
    ) -> "TreeEnsemble":
        """Make one of nodes: (feature or -1, threshold or log-odds, left, right)."""
        feature, threshold, left, right = zip(*nodes, strict=True) if nodes else ((), (), (), ())
        return cls(
            features,
            start,
            np.asarray(roots, dtype=np.int64),
            np.asarray(feature, dtype=np.int64),
            np.asarray(threshold, dtype=np.float64),
            np.asarray(left, dtype=np.int64),
            np.asarray(right, dtype=np.int64),
            depth,
        )
