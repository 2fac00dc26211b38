"""Overlaps of boxes as tensors, with gradients, and non-maximum suppression of all phrases at once.

Shape suffixes as in `box`; T regions sorted by score.
"""

import torch
from torch import Tensor


def pairwise_iou(first_G4: Tensor, second_L4: Tensor) -> Tensor:
    """Map boxes (..., G, 4) and (..., L, 4) to their IoU (..., G, L)."""
    shared = _shared_area(first_G4, second_L4)
    return shared / (_area(first_G4)[..., :, None] + _area(second_L4)[..., None, :] - shared).clamp(min=1e-9)


def nested(boxes_T4: Tensor, keep_T: Tensor, share: float) -> Tensor:
    """Say which boxes (..., T) lie in a better kept one, or hold it: by more than `share` of the smaller of both.

    Boxes are sorted by score.
    """
    area_T = _area(boxes_T4)
    smaller_TT = torch.minimum(area_T[..., :, None], area_T[..., None, :]).clamp(min=1e-9)
    holds_TT = (_shared_area(boxes_T4, boxes_T4) > share * smaller_TT).triu(diagonal=1)
    return (holds_TT & keep_T[..., :, None]).any(dim=-2)


def paired_giou(first_L4: Tensor, second_L4: Tensor) -> Tensor:
    """Return generalised IoU of boxes taken in pairs."""
    low = torch.maximum(first_L4[:, :2], second_L4[:, :2])
    high = torch.minimum(first_L4[:, 2:], second_L4[:, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    union = _area(first_L4) + _area(second_L4) - shared
    hull = torch.maximum(first_L4[:, 2:], second_L4[:, 2:]) - torch.minimum(first_L4[:, :2], second_L4[:, :2])
    hull_area = hull.prod(-1).clamp(min=1e-9)
    return shared / union.clamp(min=1e-9) - (hull_area - union) / hull_area


def _shared_area(first_G4: Tensor, second_L4: Tensor) -> Tensor:
    low = torch.maximum(first_G4[..., :, None, :2], second_L4[..., None, :, :2])
    high = torch.minimum(first_G4[..., :, None, 2:], second_L4[..., None, :, 2:])
    return (high - low).clamp(min=0).prod(-1)


def _area(boxes_4: Tensor) -> Tensor:
    return (boxes_4[..., 2:] - boxes_4[..., :2]).clamp(min=0).prod(-1)


def non_maximum(
    boxes_KT4: Tensor, candidate_KT: Tensor, iou: float, *, steps: int | None = None
) -> tuple[Tensor, Tensor]:
    """Suppress greedily what is not best, for all phrases at once; boxes are sorted by score within a phrase.

    A box stays if no better box that stays overlaps it. Iterating that rule from "all stay" settles from the front and
    reaches the greedy answer as soon as nothing changes. The host waits for no device.

    Args:
        steps: the most there are, an even number; None for as many as there may have to be, one a box.

    Returns:
        which boxes stay (K, T), and whether that is the greedy answer, a bool without dimensions. Where it is not yet,
        some boxes too many stay, behind a row of `steps` boxes each of which overlaps the next.
    """
    overlaps_KTT = (pairwise_iou(boxes_KT4, boxes_KT4) > iou).triu(diagonal=1)
    most = boxes_KT4.shape[1] if steps is None else steps
    on_host = boxes_KT4.device.type == "cpu"
    keep_KT = candidate_KT
    changed = torch.zeros((), dtype=torch.bool, device=boxes_KT4.device)
    for _ in range(most):
        before_KT = keep_KT
        keep_KT = candidate_KT & ~(overlaps_KTT & before_KT[:, :, None]).any(dim=1)
        changed = (keep_KT != before_KT).any()
        if on_host and not changed:
            break
    return keep_KT, ~changed
