"""Fits trees of `TreeEnsemble` by gradient boosting (LightGBM); reading a model needs nothing but NumPy."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vision_agent.documents.tree_ensemble import Floats, TreeEnsemble
from vision_agent.errors import MissingExtraError

_SETTINGS = {
    "objective": "binary",
    "learning_rate": 0.06,
    "num_leaves": 15,
    "min_child_samples": 20,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "lambda_l2": 4.0,
    "boost_from_average": False,
    "deterministic": True,
    "num_threads": 1,
    "seed": 0,
    "verbose": -1,
}


def fit_trees(features: Sequence[str], rows: Floats, is_so: npt.NDArray[np.bool_], *, trees: int = 150) -> TreeEnsemble:
    """Fit an ensemble.

    Args:
        features: names of the F columns.
        rows: (R, F).
        is_so: (R,) what is to be told.
        trees: how many.

    Raises:
        MissingExtraError: LightGBM is not installed.
    """
    try:
        import lightgbm
    except ImportError as error:
        raise MissingExtraError('fitting trees needs LightGBM: pip install "internvl-vision-agent[train]"') from error
    share = float(np.clip(is_so.mean(), 1e-3, 1 - 1e-3))
    start = float(np.log(share / (1 - share)))
    told = lightgbm.Dataset(rows, label=is_so.astype(float), init_score=np.full(len(rows), start))
    fitted = lightgbm.train(_SETTINGS, told, num_boost_round=trees).dump_model()
    nodes: list[tuple[int, float, int, int]] = []
    deepest = 0

    def add(part: Any, depth: int) -> int:
        nonlocal deepest
        deepest, index = max(deepest, depth), len(nodes)
        if "leaf_value" in part:
            nodes.append((-1, float(part["leaf_value"]), index, index))
            return index
        nodes.append((0, 0.0, 0, 0))
        left, right = add(part["left_child"], depth + 1), add(part["right_child"], depth + 1)
        nodes[index] = (int(part["split_feature"]), float(part["threshold"]), left, right)
        return index

    roots = [add(tree["tree_structure"], 0) for tree in fitted["tree_info"]]
    return TreeEnsemble.of(tuple(features), start, roots, nodes, deepest)
