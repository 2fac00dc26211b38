"""Overlaps of boxes as tensors, with gradients, and non-maximum suppression of all phrases at once.

Shape suffixes as in `box`; T regions sorted by score.
"""

import torch
from torch import Tensor

_STEPS = 8  # photos need 3 to 8


def pairwise_iou(first_G4: Tensor, second_L4: Tensor) -> Tensor:
    """Map boxes (..., G, 4) and (..., L, 4) to their IoU (..., G, L)."""
    low = torch.maximum(first_G4[..., :, None, :2], second_L4[..., None, :, :2])
    high = torch.minimum(first_G4[..., :, None, 2:], second_L4[..., None, :, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    return shared / (_area(first_G4)[..., :, None] + _area(second_L4)[..., None, :] - shared).clamp(min=1e-9)


def paired_giou(first_L4: Tensor, second_L4: Tensor) -> Tensor:
    """Return generalised IoU of boxes taken in pairs."""
    low = torch.maximum(first_L4[:, :2], second_L4[:, :2])
    high = torch.minimum(first_L4[:, 2:], second_L4[:, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    union = _area(first_L4) + _area(second_L4) - shared
    hull = torch.maximum(first_L4[:, 2:], second_L4[:, 2:]) - torch.minimum(first_L4[:, :2], second_L4[:, :2])
    hull_area = hull.prod(-1).clamp(min=1e-9)
    return shared / union.clamp(min=1e-9) - (hull_area - union) / hull_area


def _area(boxes_4: Tensor) -> Tensor:
    return (boxes_4[..., 2:] - boxes_4[..., :2]).clamp(min=0).prod(-1)


def non_maximum(boxes_KT4: Tensor, candidate_KT: Tensor, iou: float, *, steps: int | None = None) -> Tensor:
    """Suppress greedily what is not best, for all phrases at once; boxes are sorted by score within a phrase.

    A box stays if no better box that stays overlaps it. Iterating that rule from "all stay" settles from the front and
    reaches the greedy answer as soon as nothing changes.

    Args:
        steps: after how many it is looked whether anything changed. None for each on a CPU, and for every eighth
            elsewhere: the host waits for a device's answer, and steps too many change nothing.
    """
    overlaps_KTT = (pairwise_iou(boxes_KT4, boxes_KT4) > iou).triu(diagonal=1)
    steps = steps or (1 if boxes_KT4.device.type == "cpu" else _STEPS)
    keep_KT = candidate_KT
    while True:
        for _ in range(steps):
            before_KT = keep_KT
            keep_KT = candidate_KT & ~(overlaps_KTT & before_KT[:, :, None]).any(dim=1)
        if torch.equal(keep_KT, before_KT):
            return keep_KT
