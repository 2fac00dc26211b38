"""How far small mask logits are from true masks.

Shape suffixes: G objects, H and W true masks, h and w small masks.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

_CROSS_ENTROPY, _DICE = 2.0, 0.5  # Sa2VA's weights (https://arxiv.org/abs/2501.04001)


def mask_loss(logits_Ghw: Tensor, truth_GHW: Tensor, shown: tuple[int, int], side: int) -> Tensor:
    """Return the loss (G,) of each mask: weighted binary cross-entropy and dice (https://arxiv.org/abs/1606.04797).

    Sa2VA compares at 12544 sampled points. SAM's masks have few enough cells (65536) to compare all of them.

    Args:
        logits_Ghw: of the square canvas.
        truth_GHW: bools that cover the image edge to edge.
        shown: (width, height) of the image on the canvas, from its top left corner, pixels.
        side: of the canvas, pixels.
    """
    width, height = (
        max(1, round(length * cells / side)) for length, cells in zip(shown, _cells(logits_Ghw), strict=True)
    )
    logits_Ghw = logits_Ghw[:, :height, :width].float()
    truth_G1HW = truth_GHW.to(logits_Ghw.device, torch.float32).unsqueeze(1)
    # A cell is as true as the share of it that is covered.
    truth_Ghw = F.interpolate(truth_G1HW, (height, width), mode="area")[:, 0]
    entropy_G = F.binary_cross_entropy_with_logits(logits_Ghw, truth_Ghw, reduction="none").mean((1, 2))
    inside_Ghw = logits_Ghw.sigmoid()
    shared_G = (inside_Ghw * truth_Ghw).sum((1, 2))
    dice_G = 1 - (2 * shared_G + 1) / (inside_Ghw.sum((1, 2)) + truth_Ghw.sum((1, 2)) + 1)
    return _CROSS_ENTROPY * entropy_G + _DICE * dice_G


def _cells(logits_Ghw: Tensor) -> tuple[int, int]:
    """(columns, rows) of small masks."""
    size: torch.Size = logits_Ghw.shape
    return size[2], size[1]
