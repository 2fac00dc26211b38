"""Boxes from the `[DET]` route: query states against dense features, one score a phrase and place.

The picture side (`prepare`) is a small feature pyramid with two convolutional heads: an embedding and a box for every
cell of strides 8, 16 and 32. The phrase side turns the query states of a routing token into one vector. A score is
their dot product, so phrases cost next to nothing, any number of boxes may come back, and an absent phrase gets none.

Training assigns cells to boxes by task alignment (TOOD, https://arxiv.org/abs/2108.07755), with soft targets, and
regresses boxes with generalised IoU (https://arxiv.org/abs/1902.09630).

Shape suffixes: B pictures, K phrases, N queries, C hidden size, E embedding, L cells of all levels, G true boxes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision_agent.decoder import BoxTargets, Decoder, DecodeRequest, DenseFeatures
from vision_agent.results import Detections
from vision_agent.routing import RouteSpec

_LEVELS = 3
_ASSIGNED_CELLS = 10  # most cells a true box is assigned to
_ALIGNMENT_IOU_POWER = 4.0
_LOG_SIZE_LIMIT = 4.0  # exp(4) strides either side: wider than any canvas


@dataclass(frozen=True)
class PreparedBoxes:
    """The picture side of the box decoder.

    Attributes:
        embeddings_BLE: normalised cell embeddings.
        boxes_BL4: xyxy in the frame "unit" (0-1 of the picture).
        centres_L2, strides_L2: cell centres and cell sizes in the frame "unit".
    """

    embeddings_BLE: Tensor
    boxes_BL4: Tensor
    centres_L2: Tensor
    strides_L2: Tensor


class BoxDecoder(Decoder):
    """Open-vocabulary boxes. See the module's docstring.

    Args:
        hidden_size: C of the query states.
        feature_widths: channels of the three feature maps (strides 8, 16, 32), or of the only one.
        width: channels of the pyramid and the heads.
        threshold: default least score.
        temperature: scores are sigmoid(logit / temperature); fitted on validation pictures after training.
        limit: most boxes a phrase.
        nms_iou: of two boxes of one phrase that overlap more, the better one stays.
    """

    def __init__(
        self,
        hidden_size: int,
        feature_widths: Sequence[int],
        width: int = 128,
        threshold: float = 0.3,
        temperature: float = 1.0,
        limit: int = 100,
        nms_iou: float = 0.6,
    ) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {
            "hidden_size": hidden_size,
            "feature_widths": list(feature_widths),
            "width": width,
            "threshold": threshold,
            "temperature": temperature,
            "limit": limit,
            "nms_iou": nms_iou,
        }
        widths = list(feature_widths) if len(feature_widths) == _LEVELS else list(feature_widths[:1]) * _LEVELS
        self.laterals = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in widths)
        self.smooth = nn.ModuleList(_conv_block(width) for _ in range(_LEVELS))
        self.embedding_head = nn.Sequential(_conv_block(width), _conv_block(width), nn.Conv2d(width, width, 1))
        self.box_head = nn.Sequential(_conv_block(width), _conv_block(width), nn.Conv2d(width, 4, 1))
        self.level_scale = nn.Parameter(torch.ones(_LEVELS))
        self.embedding_norm = nn.LayerNorm(width)
        self.phrase_head = nn.Sequential(
            nn.LayerNorm(hidden_size), nn.Linear(hidden_size, hidden_size), nn.GELU(), nn.Linear(hidden_size, width)
        )
        self.phrase_bias = nn.Linear(width, 1)
        # exp(scale) / sqrt(width) on a unit phrase vector and a unit-variance embedding starts near 1.
        self.logit_scale = nn.Parameter(torch.tensor(0.0))
        nn.init.zeros_(self.phrase_bias.weight)
        # The usual prior of dense detectors: one cell in a hundred is positive.
        nn.init.constant_(self.phrase_bias.bias, -math.log(99.0))
        *_, last = self.box_head.parameters()
        nn.init.constant_(last, 1.0)  # boxes start about six cells wide

    @classmethod
    def for_backbone(cls, route: RouteSpec, hidden_size: int, feature_widths: tuple[int, ...]) -> "BoxDecoder":
        return cls(hidden_size=hidden_size, feature_widths=feature_widths)

    def prepare(self, features: DenseFeatures) -> PreparedBoxes:
        """Feature maps (B, C, H, W), finest first -> embeddings and boxes of all cells."""
        levels = self._pyramid(features)
        embeddings, boxes, centres, strides = [], [], [], []
        for scale, level_BWHW in zip(self.level_scale, levels, strict=True):
            height, width = level_BWHW.shape[-2:]
            cell = level_BWHW.new_tensor([1.0 / width, 1.0 / height], dtype=torch.float32)
            ys, xs = torch.meshgrid(
                torch.arange(height, device=cell.device), torch.arange(width, device=cell.device), indexing="ij"
            )
            centre_L2 = (torch.stack([xs, ys], dim=-1).reshape(-1, 2) + 0.5) * cell
            embeddings.append(self.embedding_head(level_BWHW).flatten(2).transpose(1, 2))
            log_size_BL4 = self.box_head(level_BWHW).flatten(2).transpose(1, 2).float() * scale
            reach_BL4 = log_size_BL4.clamp(max=_LOG_SIZE_LIMIT).exp() * cell.repeat(2)
            boxes.append(torch.cat([centre_L2 - reach_BL4[..., :2], centre_L2 + reach_BL4[..., 2:]], dim=-1))
            centres.append(centre_L2)
            strides.append(cell.expand_as(centre_L2))
        return PreparedBoxes(
            embeddings_BLE=self.embedding_norm(torch.cat(embeddings, dim=1).float()),
            boxes_BL4=torch.cat(boxes, dim=1),
            centres_L2=torch.cat(centres),
            strides_L2=torch.cat(strides),
        )

    def phrase_vectors(self, states_KNC: Tensor) -> tuple[Tensor, Tensor]:
        """Query states -> unit vectors (K, E) and biases (K,)."""
        vectors_KE = self.phrase_head(states_KNC).float().mean(dim=1)
        unit_KE = F.normalize(vectors_KE, dim=-1)
        return unit_KE, self.phrase_bias(unit_KE).squeeze(-1)

    def logits(self, states_KNC: Tensor, embeddings_LE: Tensor) -> Tensor:
        """(K, L) logits of phrases against the cells of one picture."""
        unit_KE, bias_K = self.phrase_vectors(states_KNC)
        return self.logit_scale.exp() * unit_KE @ embeddings_LE.T + bias_K[:, None]

    @torch.no_grad()
    def decode(self, states_KNC: Tensor, prepared: PreparedBoxes, request: DecodeRequest) -> Detections:
        """Scored boxes of all phrases of one picture, best first within each phrase.

        Returns boxes in pixels of the upright original. No phrase gets a box below the threshold: an absent thing
        gives no box at all.
        """
        threshold = self.settings["threshold"] if request.threshold is None else request.threshold
        logits_KL = self.logits(states_KNC, prepared.embeddings_BLE[0])
        scores_KL = torch.sigmoid(logits_KL / self.settings["temperature"])
        # Four times the limit leaves room for what suppression removes.
        kept = min(self.settings["limit"] * 4, int((scores_KL >= threshold).sum(dim=1).max()))
        scores_KT, cells_KT = scores_KL.topk(kept, dim=1)
        boxes_KT4 = prepared.boxes_BL4[0][cells_KT].clamp(0, 1)
        keep_KT = (scores_KT >= threshold) & (boxes_KT4[..., 2:] > boxes_KT4[..., :2]).all(-1)
        keep_KT &= _non_maximum(boxes_KT4, keep_KT, self.settings["nms_iou"])
        keep_KT &= keep_KT.cumsum(dim=1) <= self.settings["limit"]
        phrase_indices, ranks = keep_KT.nonzero(as_tuple=True)
        unit_boxes = boxes_KT4[phrase_indices, ranks].double().cpu().numpy()
        return Detections.from_arrays(
            xyxy=request.grid.convert(unit_boxes, "unit", "image"),
            scores=scores_KT[phrase_indices, ranks].cpu().numpy(),
            labels=[request.phrases[index] for index in phrase_indices.tolist()],
            image_size=(request.grid.image_width, request.grid.image_height),
            model=request.model,
            phrases=request.phrases,
            decoder="box",
        )

    def loss(
        self, states_KNC: Tensor, rows_K: Sequence[int], prepared: PreparedBoxes, targets: Sequence[BoxTargets]
    ) -> Tensor:
        """Task-aligned classification plus generalised-IoU regression, summed over pictures, per assigned weight."""
        class_total = states_KNC.new_zeros((), dtype=torch.float32)
        box_total, weight_total = class_total.clone(), class_total.clone()
        rows = torch.as_tensor(rows_K, device=states_KNC.device)
        unit_KE, bias_K = self.phrase_vectors(states_KNC)
        # Unbound once: indexing row by row would fill a gradient of the whole batch for each.
        for row, (target, embeddings_LE, boxes_L4) in enumerate(
            zip(targets, prepared.embeddings_BLE.unbind(), prepared.boxes_BL4.unbind(), strict=True)
        ):
            mine = (rows == row).nonzero().flatten()
            logits_KL = self.logit_scale.exp() * unit_KE[mine] @ embeddings_LE.T + bias_K[mine, None]
            owner_L, quality_L = _assign(logits_KL, boxes_L4, target, prepared)
            taken = owner_L >= 0
            truth_KL = torch.zeros_like(logits_KL)
            if bool(taken.any()):
                owners = owner_L[taken]
                truth_KL[:, taken] = target.belongs_KG[:, owners].float() * quality_L[taken]
                giou = _paired_giou(boxes_L4[taken], target.boxes_G4[owners])
                box_total = box_total + ((1 - giou) * quality_L[taken]).sum()
                weight_total = weight_total + quality_L[taken].sum()
            class_total = class_total + _quality_focal(logits_KL, truth_KL, _trained(target, prepared)).sum()
        weight = weight_total.clamp(min=1.0)
        return class_total / weight + 2.0 * box_total / weight

    def _pyramid(self, features: DenseFeatures) -> list[Tensor]:
        maps = features.maps
        if len(maps) == 1:
            # One map at the tower's stride: a simple pyramid around it, as ViTDet has (arxiv.org/abs/2203.16527).
            only = maps[0]
            finer = F.interpolate(only, scale_factor=2.0, mode="bilinear", align_corners=False)
            maps = (finer, only, F.avg_pool2d(only, 2, ceil_mode=True))
        merged: list[Tensor] = []
        for lateral, map_BCHW in zip(reversed(self.laterals), reversed(maps), strict=True):
            level = lateral(map_BCHW)
            if merged:
                level = level + F.interpolate(merged[0], size=level.shape[-2:], mode="nearest")
            merged.insert(0, level)
        return [smooth(level) for smooth, level in zip(self.smooth, merged, strict=True)]


def _conv_block(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.GroupNorm(16, width), nn.SiLU())


def _quality_focal(logits_KL: Tensor, truth_KL: Tensor, trained_KL: Tensor) -> Tensor:
    """Quality focal loss (https://arxiv.org/abs/2006.04388), beta 2, with soft targets."""
    error = (truth_KL - torch.sigmoid(logits_KL)).abs().square()
    return F.binary_cross_entropy_with_logits(logits_KL, truth_KL, reduction="none") * error * trained_KL


@torch.no_grad()
def _trained(target: BoxTargets, prepared: PreparedBoxes) -> Tensor:
    """(K, L) float, 0 where a phrase's cells lie in a region to ignore."""
    centres = prepared.centres_L2
    trained_KL = centres.new_ones(target.belongs_KG.shape[0], len(centres))
    if len(target.ignored_M4):
        low, high = target.ignored_M4[:, None, :2], target.ignored_M4[:, None, 2:]
        inside_ML = ((centres > low) & (centres < high)).all(-1).float()
        trained_KL -= torch.zeros_like(trained_KL).index_add_(0, target.ignored_phrase_M, inside_ML).clamp(max=1)
    return trained_KL


@torch.no_grad()
def _assign(logits_KL: Tensor, boxes_L4: Tensor, target: BoxTargets, prepared: PreparedBoxes) -> tuple[Tensor, Tensor]:
    """Task-aligned assignment: for each cell the index of its true box (-1 for none) and its soft target."""
    truth_G4, cells = target.boxes_G4, len(boxes_L4)
    owner_L = torch.full((cells,), -1, dtype=torch.long, device=boxes_L4.device)
    quality_L = boxes_L4.new_zeros(cells)
    if not len(truth_G4):
        return owner_L, quality_L
    # A box smaller than a cell must still own one: its reach is at least the finest cell.
    finest = prepared.strides_L2.amin(dim=0)
    middle = (truth_G4[:, :2] + truth_G4[:, 2:]) / 2
    reach = torch.maximum((truth_G4[:, 2:] - truth_G4[:, :2]) / 2, finest)
    inside_GL = ((prepared.centres_L2 - middle[:, None]).abs() < reach[:, None]).all(-1)
    iou_GL = _pairwise_iou(truth_G4, boxes_L4)
    # A box that no phrase names still teaches the regression: its score counts as 1.
    named_G = target.belongs_KG.any(dim=0)
    probability_KL = torch.sigmoid(logits_KL)
    score_GL = torch.where(target.belongs_KG.T[:, :, None], probability_KL[None], -1.0).amax(dim=1).clamp(min=1e-4)
    score_GL = torch.where(named_G[:, None], score_GL, 1.0)
    aligned_GL = score_GL.sqrt() * iou_GL.clamp(min=1e-3) ** _ALIGNMENT_IOU_POWER * inside_GL
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


def _pairwise_iou(first_G4: Tensor, second_L4: Tensor) -> Tensor:
    """(..., G, 4) and (..., L, 4) boxes -> (..., G, L) IoU."""
    low = torch.maximum(first_G4[..., :, None, :2], second_L4[..., None, :, :2])
    high = torch.minimum(first_G4[..., :, None, 2:], second_L4[..., None, :, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    return shared / (_area(first_G4)[..., :, None] + _area(second_L4)[..., None, :] - shared).clamp(min=1e-9)


def _paired_giou(first_L4: Tensor, second_L4: Tensor) -> Tensor:
    """Generalised IoU of boxes taken in pairs."""
    low = torch.maximum(first_L4[:, :2], second_L4[:, :2])
    high = torch.minimum(first_L4[:, 2:], second_L4[:, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    union = _area(first_L4) + _area(second_L4) - shared
    hull = torch.maximum(first_L4[:, 2:], second_L4[:, 2:]) - torch.minimum(first_L4[:, :2], second_L4[:, :2])
    hull_area = hull.prod(-1).clamp(min=1e-9)
    return shared / union.clamp(min=1e-9) - (hull_area - union) / hull_area


def _area(boxes_4: Tensor) -> Tensor:
    return (boxes_4[..., 2:] - boxes_4[..., :2]).clamp(min=0).prod(-1)


def _non_maximum(boxes_KT4: Tensor, candidate_KT: Tensor, iou: float) -> Tensor:
    """Greedy non-maximum suppression for all phrases at once; boxes are sorted by score within a phrase.

    A box stays if no better box that stays overlaps it. Iterating that rule from "all stay" settles from the front and
    reaches the greedy answer as soon as nothing changes.
    """
    overlaps_KTT = (_pairwise_iou(boxes_KT4, boxes_KT4) > iou).triu(diagonal=1)
    keep_KT = candidate_KT
    while True:
        beaten_KT = (overlaps_KTT & keep_KT[:, :, None]).any(dim=1)
        following_KT = candidate_KT & ~beaten_KT
        if torch.equal(following_KT, keep_KT):
            return keep_KT
        keep_KT = following_KT
