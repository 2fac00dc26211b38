"""How far two ways of computing the same numbers may lie apart."""

import math

import numpy as np
import torch
from torch import Tensor

from vision_agent import Detections

_LAYERS = 16  # of the deepest small network, one after another; each adds its own rounding


def tolerance(dtype: torch.dtype, terms: int) -> float:
    """Return the difference, relative to the largest value, that another order of summation may make.

    The rounding errors of a sum walk at random: they grow with the root of its terms (Higham and Mary, 2019,
    https://doi.org/10.1137/18M1226312). Processors sum in different orders (AVX2, AVX512), and so do batches of
    different sizes, so a test that says "the same" must not be tighter.

    Args:
        terms: of the longest sum, such as the width of the widest layer.
    """
    return _LAYERS * torch.finfo(dtype).eps * math.sqrt(terms)


def assert_same(one: Tensor, other: Tensor, terms: int) -> None:
    """Assert that two tensors differ by rounding alone; see `tolerance`.

    Networks normalise to about 1 inside, so a small result is a sum of terms near 1 and has their rounding errors.
    """
    assert one.shape == other.shape and one.dtype == other.dtype
    largest = max(1.0, float(other.abs().max()))
    torch.testing.assert_close(one, other, rtol=0, atol=tolerance(one.dtype, terms) * largest)


def assert_same_boxes(found: Detections, expected: Detections) -> None:
    """Check that two results have the same boxes, but for the rounding of requests that were read together."""
    assert (found.labels, found.phrases, found.image_size) == (expected.labels, expected.phrases, expected.image_size)
    np.testing.assert_allclose(found.xyxy, expected.xyxy, atol=0.05)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-3)
