"""What the cells and regions of the box decoder are taught, and with what weight.

Shape suffixes as in `box`; M regions to ignore, D doubtful boxes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from vision_agent.plugins.decoder import BoxTargets

from .box_geometry import pairwise_iou

_ASSIGNED_CELLS = 10  # most cells a true box is assigned to
_ALIGNMENT_IOU_POWER = 4.0
_REGION_IOU = 0.5  # least overlap with a true box for a region to be called what the box is called


class LossSums:
    """Sums losses of several images, and the weights they are to be divided by."""

    def __init__(self, device: torch.device) -> None:
        self._zero = torch.zeros((), device=device)
        self._totals: dict[str, tuple[Tensor, Tensor]] = {}

    def add(self, name: str, loss: Tensor, weight: Tensor) -> None:
        total, weights = self._totals.get(name, (self._zero, self._zero))
        self._totals[name] = total + loss, weights + weight

    def mean(self, name: str) -> Tensor:
        total, weights = self._totals.get(name, (self._zero, self._zero))
        return total / weights.clamp(min=1.0)


def quality_focal(logits: Tensor, truth: Tensor) -> Tensor:
    """Return quality focal loss (https://arxiv.org/abs/2006.04388), beta 2, with soft targets; elementwise."""
    error = (truth - torch.sigmoid(logits)).abs().square()
    return F.binary_cross_entropy_with_logits(logits, truth, reduction="none") * error


@torch.no_grad()
def trained(target: BoxTargets, centres_N2: Tensor) -> Tensor:
    """Return (K, N) float, 0 where a centre lies in a region to ignore for the phrase."""
    trained_KN = centres_N2.new_ones(target.belongs_KG.shape[0], len(centres_N2))
    if len(target.ignored_M4):
        low, high = target.ignored_M4[:, None, :2], target.ignored_M4[:, None, 2:]
        inside_MN = ((centres_N2 > low) & (centres_N2 < high)).all(-1).float()
        trained_KN -= torch.zeros_like(trained_KN).index_add_(0, target.ignored_phrase_M, inside_MN).clamp(max=1)
    return trained_KN


@torch.no_grad()
def overlap(regions_N4: Tensor, target: BoxTargets) -> tuple[Tensor, Tensor]:
    """Return the IoU of each region with the true box it overlaps most, and that box's index; 0 where there is none."""
    if not len(target.boxes_G4):
        return regions_N4.new_zeros(len(regions_N4)), regions_N4.new_zeros(len(regions_N4), dtype=torch.long)
    overlap_N, owner_N = pairwise_iou(target.boxes_G4, regions_N4).max(dim=0)
    return overlap_N, owner_N


@torch.no_grad()
def surety(target: BoxTargets, owner_N: Tensor) -> Tensor:
    """Return how sure the true boxes with these indices are."""
    if target.sure_G is None or not len(target.sure_G):
        return torch.ones_like(owner_N, dtype=torch.float32)
    return target.sure_G[owner_N]


@torch.no_grad()
def named(regions_N4: Tensor, target: BoxTargets) -> Tensor:
    """Return (K, N) soft targets: a region is called as the true box it overlaps most, as much as it overlaps it."""
    if not len(target.boxes_G4):
        return regions_N4.new_zeros(target.belongs_KG.shape[0], len(regions_N4))
    overlap_N, owner_N = overlap(regions_N4, target)
    meant_N = torch.where(overlap_N >= _REGION_IOU, overlap_N, 0.0) * surety(target, owner_N)
    return target.belongs_KG[:, owner_N].float() * meant_N


@torch.no_grad()
def nameable(regions_N4: Tensor, target: BoxTargets) -> Tensor:
    """Return (N,) float, 0 for regions on an object whose name nobody knows."""
    if target.named_G is None or not len(target.named_G):
        return regions_N4.new_ones(len(regions_N4))
    overlap_N, owner_N = overlap(regions_N4, target)
    return (target.named_G[owner_N] | (overlap_N < _REGION_IOU)).float()


@torch.no_grad()
def undoubted(target: BoxTargets, boxes_N4: Tensor) -> Tensor:
    """Return (N,) float, 0 for boxes that lie on a doubtful one."""
    if target.doubtful_D4 is None or not len(target.doubtful_D4):
        return boxes_N4.new_ones(len(boxes_N4))
    return (pairwise_iou(target.doubtful_D4, boxes_N4).amax(dim=0) < _REGION_IOU).float()


@torch.no_grad()
def certain(regions_N4: Tensor, target: BoxTargets) -> Tensor:
    """Return (N,) float, 0 for regions that lie on a doubtful box and on no true one."""
    on_truth_N = (overlap(regions_N4, target)[0] >= _REGION_IOU).float()
    return torch.maximum(on_truth_N, undoubted(target, regions_N4))


@torch.no_grad()
def assign(
    objectness_L: Tensor, boxes_L4: Tensor, target: BoxTargets, centres_L2: Tensor, strides_L2: Tensor
) -> tuple[Tensor, Tensor]:
    """Assign cells by task alignment: return for each the index of its true box (-1 for none) and its soft target."""
    truth_G4, cells = target.boxes_G4, len(boxes_L4)
    owner_L = torch.full((cells,), -1, dtype=torch.long, device=boxes_L4.device)
    quality_L = boxes_L4.new_zeros(cells)
    if not len(truth_G4):
        return owner_L, quality_L
    # A box smaller than a cell must still own one: its reach is at least the finest cell.
    finest = strides_L2.amin(dim=0)
    middle = (truth_G4[:, :2] + truth_G4[:, 2:]) / 2
    reach = torch.maximum((truth_G4[:, 2:] - truth_G4[:, :2]) / 2, finest)
    inside_GL = ((centres_L2 - middle[:, None]).abs() < reach[:, None]).all(-1)
    iou_GL = pairwise_iou(truth_G4, boxes_L4)
    score_L = torch.sigmoid(objectness_L).clamp(min=1e-4)
    aligned_GL = score_L.sqrt() * iou_GL.clamp(min=1e-3) ** _ALIGNMENT_IOU_POWER * inside_GL
    best, columns = aligned_GL.topk(min(_ASSIGNED_CELLS, cells), dim=1)
    chosen_GL = torch.zeros_like(inside_GL).scatter_(1, columns, best > 0)
    contested = torch.where(chosen_GL, iou_GL + 1e-6, torch.zeros_like(iou_GL))
    top_iou, owner = contested.max(dim=0)
    taken = top_iou > 0
    owner_L[taken] = owner[taken]
    chosen_GL &= owner_L[None] == torch.arange(len(truth_G4), device=owner_L.device)[:, None]
    mine_GL = torch.where(chosen_GL, aligned_GL, torch.zeros_like(aligned_GL))
    best_iou_G = torch.where(chosen_GL, iou_GL, torch.zeros_like(iou_GL)).amax(dim=1, keepdim=True)
    share_GL = mine_GL / mine_GL.amax(dim=1, keepdim=True).clamp(min=1e-12)
    quality_L = (share_GL * best_iou_G).amax(dim=0)
    return owner_L, quality_L
