"""Boxes from the `[DET]` route: query states against regions of the image, one score a phrase and region.

The image side (`prepare`) proposes regions, whatever they hold: a small feature pyramid gives an objectness and a box
for every cell of strides 8, 16 and 32, of which the best that do not overlap much stay. Each region is then described
by what all feature maps hold at a grid of points inside it (Fast R-CNN's region features,
https://arxiv.org/abs/1504.08083, sampled bilinearly as in https://arxiv.org/abs/1703.06870). The phrase side turns the
query states of a routing token into one vector. A score compares the two, so phrases cost next to nothing, several
boxes may come back, and an absent phrase gets none. What a region is called says little of how well it fits; how much
it looks like an object says more, so that joins the score (as detectors of unknown objects do,
https://arxiv.org/abs/2108.06753), measured against the image's other regions.

A decoder that is `refined` moves each region's edges once more, by what the description saw in it (as Cascade R-CNN
does, https://arxiv.org/abs/1712.00726), and says how well the moved box fits (IoU-Net,
https://arxiv.org/abs/1807.11590), which may join the score as well.

Training assigns cells to boxes by task alignment (TOOD, https://arxiv.org/abs/2108.07755), with soft targets, and
regresses boxes with generalised IoU (https://arxiv.org/abs/1902.09630). Regions are taught the phrases of the true box
they overlap most, as strongly as they overlap it.

Shape suffixes: B images, K phrases, N queries or regions, C hidden size, E embedding, L cells of all levels, G true
boxes, P points of a region, T regions by score, F found boxes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision_agent.plugins.decoder import BoxTargets, Decoder, DecodeRequest, DenseFeatures, finite
from vision_agent.plugins.route import RouteSpec
from vision_agent.results.detections import Detections

from .box_geometry import nested, non_maximum, paired_giou
from .box_regions import REGION_HIDDEN, RegionDescriber
from .box_truth import (
    LossSums,
    assign,
    certain,
    nameable,
    named,
    overlap,
    quality_focal,
    surety,
    trained,
    undoubted,
)

_LEVELS = 3
_LOG_SIZE_LIMIT = 4.0  # exp(4) strides either side: wider than any canvas
_PROPOSAL_NMS_IOU = 0.7
_NESTED = 0.65  # the share of the smaller of two boxes in the other from which they may show one object
_STEPS = 32  # of suppression, at first: photos need 3 to 8
_REFINED_IOU = 0.4  # least overlap with a true box for a region's edges to be taught that box
_NEAR_IOU = 0.1  # least overlap with a true box for a region to be taught how well it fits


@dataclass(frozen=True)
class PreparedBoxes:
    """The image side of the box decoder.

    Attributes:
        regions_BN4: proposed boxes, xyxy in the frame "unit" (0-1 of the image), best first.
        embeddings_BNE: their descriptions.
        proposed_BN: bool, False at the padding of images with fewer proposals.
        prominence_BN: objectness logits of the regions, less their mean over the image's.
        objectness_BL: logits of all cells.
        boxes_BL4: boxes of all cells, frame "unit".
        centres_L2, strides_L2: cell centres and cell sizes in the frame "unit".
        sampled: the maps regions are described from, kept while training for true boxes; None otherwise.
        fit_BN: logits of how well the regions fit an object; None where the decoder is not refined.
        moved_BN4: the regions with gradients, not cut at the edges of the image; None likewise.
        proposals_BN4: the regions before their edges moved; None likewise.
    """

    regions_BN4: Tensor
    embeddings_BNE: Tensor
    proposed_BN: Tensor
    prominence_BN: Tensor
    objectness_BL: Tensor
    boxes_BL4: Tensor
    centres_L2: Tensor
    strides_L2: Tensor
    sampled: tuple[Tensor, ...] | None
    fit_BN: Tensor | None = None
    moved_BN4: Tensor | None = None
    proposals_BN4: Tensor | None = None


class BoxDecoder(Decoder):
    """Open-vocabulary boxes. See the module's docstring.

    Args:
        hidden_size: C of the query states.
        feature_widths: channels of the feature maps, finest first. The last three (strides 8, 16, 32) make the
            pyramid; of a single map a pyramid is built. Regions are described by all of them.
        width: channels of the pyramid and the heads.
        embedding: E.
        proposals: most regions of an image.
        threshold: default least score.
        presence: least best score at which a phrase counts as there when a question is answered; None for `threshold`.
        maybe: least best score at which a question that names an object is answered, with a doubt; None for `presence`.
        counted: least score of the boxes that are counted; None for `threshold`. Higher where second boxes on one
            object are commoner than objects that are missed.
        temperature: scores are sigmoid((logit + prominence weight * prominence) / temperature); fitted on validation
            images after training.
        prominence: weight of how much a region looks like an object, beside what it is called.
        refined: whether regions' edges are moved once more, and how well they fit is said.
        quality: weight of how well a region fits, the logarithm of the IoU expected of it, in the logit of its score.
        detail: how closely images were looked at when the thresholds were fitted (see `VisionAgent.detect`).
        limit: most boxes a phrase.
        nms_iou: of two boxes of one phrase that overlap more, the better one stays.
        nested_weight: a box that mostly lies in a better one of its phrase, or holds it, has its score times this, 0-1:
            it may be another object, but oftener shows a part of the same, or several at once (as scores are lessened
            rather than boxes dropped in Soft-NMS, https://arxiv.org/abs/1704.04503).
    """

    looks_closer = True

    def __init__(
        self,
        hidden_size: int,
        feature_widths: Sequence[int],
        width: int = 128,
        embedding: int = 256,
        proposals: int = 150,
        threshold: float = 0.3,
        temperature: float = 1.0,
        prominence: float = 0.0,
        limit: int = 100,
        nms_iou: float = 0.4,
        presence: float | None = None,
        maybe: float | None = None,
        counted: float | None = None,
        refined: bool = False,
        quality: float = 0.0,
        detail: Literal["low", "auto", "high"] = "low",
        nested_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {
            "hidden_size": hidden_size,
            "feature_widths": list(feature_widths),
            "width": width,
            "embedding": embedding,
            "proposals": proposals,
            "threshold": threshold,
            "temperature": temperature,
            "prominence": prominence,
            "limit": limit,
            "nms_iou": nms_iou,
            "presence": presence,
            "maybe": maybe,
            "counted": counted,
            "refined": refined,
            "quality": quality,
            "detail": detail,
            "nested_weight": nested_weight,
        }
        widths = list(feature_widths)
        pyramid_widths = widths[-_LEVELS:] if len(widths) >= _LEVELS else widths[-1:] * _LEVELS
        self.laterals = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in pyramid_widths)
        self.smooth = nn.ModuleList(_conv_block(width) for _ in range(_LEVELS))
        self.objectness_head = nn.Sequential(_conv_block(width), nn.Conv2d(width, 1, 1))
        self.box_head = nn.Sequential(_conv_block(width), _conv_block(width), nn.Conv2d(width, 4, 1))
        self.level_scale = nn.Parameter(torch.ones(_LEVELS))
        self.describe = RegionDescriber(widths, embedding)
        self.phrase_head = nn.Sequential(
            nn.LayerNorm(hidden_size), nn.Linear(hidden_size, hidden_size), nn.GELU(), nn.Linear(hidden_size, embedding)
        )
        self.phrase_bias = nn.Linear(embedding, 1)
        # What a sum over dimensions cannot say, such as "red and a car".
        self.pair_head = nn.Sequential(nn.Linear(embedding, 64), nn.SiLU(), nn.Linear(64, 1))
        # The product of a unit phrase vector and a unit-variance embedding starts near 1.
        self.logit_scale = nn.Parameter(torch.tensor(0.0))
        nn.init.zeros_(self.phrase_bias.weight)
        # The usual prior of dense detectors: one in a hundred is positive; of regions, one in ten.
        nn.init.constant_(self.phrase_bias.bias, -math.log(9.0))
        for head, prior in ((self.pair_head, 0.0), (self.objectness_head, -math.log(99.0))):
            *_, weight, bias = head.parameters()
            nn.init.normal_(weight, std=1e-3)
            nn.init.constant_(bias, prior)
        if refined:
            self.refine = _refine_head()
        *_, last = self.box_head.parameters()
        nn.init.constant_(last, 1.0)  # boxes start about six cells wide

    @classmethod
    def for_backbone(cls, route: RouteSpec, hidden_size: int, feature_widths: tuple[int, ...]) -> "BoxDecoder":
        return cls(hidden_size=hidden_size, feature_widths=feature_widths, refined=True)

    def prepare(self, features: DenseFeatures) -> PreparedBoxes:
        """Propose and describe regions from feature maps (B, C, H, W), finest first."""
        levels = self._pyramid(features)
        objectness, boxes, centres, strides = [], [], [], []
        for scale, level_BWHW in zip(self.level_scale, levels, strict=True):
            height, width = level_BWHW.shape[-2:]
            cell = level_BWHW.new_tensor([1.0 / width, 1.0 / height], dtype=torch.float32)
            ys, xs = torch.meshgrid(
                torch.arange(height, device=cell.device), torch.arange(width, device=cell.device), indexing="ij"
            )
            centre_L2 = (torch.stack([xs, ys], dim=-1).reshape(-1, 2) + 0.5) * cell
            objectness.append(self.objectness_head(level_BWHW).flatten(1).float())
            log_size_BL4 = self.box_head(level_BWHW).flatten(2).transpose(1, 2).float() * scale
            reach_BL4 = log_size_BL4.clamp(max=_LOG_SIZE_LIMIT).exp() * cell.repeat(2)
            boxes.append(torch.cat([centre_L2 - reach_BL4[..., :2], centre_L2 + reach_BL4[..., 2:]], dim=-1))
            centres.append(centre_L2)
            strides.append(cell.expand_as(centre_L2))
        objectness_BL, boxes_BL4 = torch.cat(objectness, dim=1), torch.cat(boxes, dim=1)
        sampled = self.describe.reduced(features)
        proposals_BN4, proposed_BN, prominence_BN = self._propose(objectness_BL.detach(), boxes_BL4.detach())
        seen = self._look(sampled, proposals_BN4)
        return PreparedBoxes(
            regions_BN4=seen.boxes_BN4,
            embeddings_BNE=seen.embeddings_BNE,
            proposed_BN=proposed_BN,
            prominence_BN=prominence_BN,
            objectness_BL=objectness_BL,
            boxes_BL4=boxes_BL4,
            centres_L2=torch.cat(centres),
            strides_L2=torch.cat(strides),
            sampled=sampled if torch.is_grad_enabled() else None,
            fit_BN=seen.fit_BN,
            moved_BN4=seen.moved_BN4,
            proposals_BN4=None if seen.fit_BN is None else proposals_BN4,
        )

    @property
    def usual_detail(self) -> Literal["low", "auto", "high"]:
        detail: Literal["low", "auto", "high"] = self.settings["detail"]
        return detail

    def join(self, first: PreparedBoxes, closer: PreparedBoxes) -> PreparedBoxes:
        """Put the regions of two looks at an image side by side; of one that both show, `decode` takes the better."""
        regions: dict[str, Any] = {}
        for name in ("regions_BN4", "embeddings_BNE", "proposed_BN", "prominence_BN", "fit_BN"):
            parts = getattr(first, name), getattr(closer, name)
            regions[name] = None if parts[0] is None else torch.cat(parts, dim=1)
        return replace(first, **regions, sampled=None, moved_BN4=None, proposals_BN4=None)

    def phrase_vectors(self, states_KNC: Tensor) -> tuple[Tensor, Tensor]:
        """Map query states to unit vectors (K, E) and biases (K,)."""
        vectors_KE = self.phrase_head(states_KNC).float().mean(dim=1)
        unit_KE = F.normalize(vectors_KE, dim=-1)
        return unit_KE, self.phrase_bias(unit_KE).squeeze(-1)

    def logits(self, unit_KE: Tensor, bias_K: Tensor, embeddings_NE: Tensor) -> Tensor:
        """Return (K, N) logits of phrases against the regions of one image."""
        summed_KN = self.logit_scale.exp() * unit_KE @ embeddings_NE.T + bias_K[:, None]
        paired_KN1: Tensor = self.pair_head(unit_KE[:, None] * embeddings_NE[None] * unit_KE.shape[1] ** 0.5)
        return summed_KN + paired_KN1.squeeze(-1).float()

    @torch.no_grad()
    def decode(self, states_KNC: Tensor, prepared: PreparedBoxes, request: DecodeRequest) -> Detections:
        """Return scored boxes of all phrases of one image, best first within each phrase.

        Returns boxes in pixels of the upright original. No phrase gets a box below the threshold: an absent object
        gives no box at all.
        """
        threshold = self.settings["threshold"] if request.threshold is None else request.threshold
        logits_KN = self.logits(*self.phrase_vectors(states_KNC), prepared.embeddings_BNE[0])
        logits_KN += self.settings["prominence"] * prepared.prominence_BN[0]
        if prepared.fit_BN is not None:
            logits_KN += self.settings["quality"] * F.logsigmoid(prepared.fit_BN[0])
        # An infinite logit would be a sure score, and a broken decoder pass for a sound one.
        logits_KN = torch.where(logits_KN.isfinite(), logits_KN, torch.nan)
        scores_KN = torch.sigmoid(logits_KN / self.settings["temperature"]) * prepared.proposed_BN[0]
        scores_KT, regions_KT = scores_KN.sort(dim=1, descending=True, stable=True)
        boxes_KT4 = prepared.regions_BN4[0][regions_KT]
        keep_KT = (scores_KT >= threshold) & (boxes_KT4[..., 2:] > boxes_KT4[..., :2]).all(-1)
        keep_KT &= prepared.proposed_BN[0][regions_KT]
        found_KT6, settled = self._kept(boxes_KT4, scores_KT, keep_KT, _STEPS)
        if not settled:
            found_KT6, _ = self._kept(boxes_KT4, scores_KT, keep_KT, None)
        finite(found_KT6)
        phrase_indices, ranks = ((found_KT6[..., 5] > 0) & (found_KT6[..., 4] >= threshold)).nonzero()
        found_F6 = found_KT6[phrase_indices, ranks]
        order = np.lexsort((-found_F6[:, 4], phrase_indices))
        phrase_indices, found_F6 = phrase_indices[order], found_F6[order]
        return Detections.from_arrays(
            xyxy=request.grid.convert(found_F6[:, :4].astype(np.float64), "unit", "image"),
            scores=found_F6[:, 4],
            labels=[request.phrases[index] for index in phrase_indices.tolist()],
            image_size=(request.grid.image_width, request.grid.image_height),
            model=request.model,
            phrases=request.phrases,
            decoder="box",
        )

    def _kept(
        self, boxes_KT4: Tensor, scores_KT: Tensor, keep_KT: Tensor, steps: int | None
    ) -> tuple[npt.NDArray[np.float32], bool]:
        """Boxes, scores and whether they are shown, (K, T, 6); and whether suppression came to its end."""
        keep_KT, settled = non_maximum(boxes_KT4, keep_KT, self.settings["nms_iou"], steps=steps)
        keep_KT = keep_KT & (keep_KT.cumsum(dim=1) <= self.settings["limit"])
        nested_KT = nested(boxes_KT4, keep_KT, _NESTED)
        scores_KT = torch.where(nested_KT, self.settings["nested_weight"] * scores_KT, scores_KT)
        # All of it in one copy: on an accelerator the host waits for each.
        columns = [each.to(boxes_KT4).expand_as(scores_KT).unsqueeze(-1) for each in (scores_KT, keep_KT, settled)]
        found_KT7 = torch.cat([boxes_KT4, *columns], dim=-1).cpu().numpy()
        return found_KT7[..., :6], bool(found_KT7[..., 6].all())

    def loss(
        self, states_KNC: Tensor, rows_K: Sequence[int], prepared: PreparedBoxes, targets: Sequence[BoxTargets]
    ) -> Tensor:
        """Return the sum of `losses`."""
        return torch.stack(list(self.losses(states_KNC, rows_K, prepared, targets).values())).sum()

    def losses(
        self, states_KNC: Tensor, rows_K: Sequence[int], prepared: PreparedBoxes, targets: Sequence[BoxTargets]
    ) -> dict[str, Tensor]:
        """Return the losses of objectness and generalised IoU of cells, and of phrases of regions, each by its weights.

        A refined decoder has two more: generalised IoU of the moved regions, and how well they fit.

        Raises:
            RuntimeError: `prepared` was made without gradients.
        """
        if prepared.sampled is None:
            raise RuntimeError("images for training must be prepared with gradients enabled")
        sums = LossSums(states_KNC.device)
        rows = torch.as_tensor(rows_K, device=states_KNC.device)
        unit_KE, bias_K = self.phrase_vectors(states_KNC)
        true_BG4 = self._moved_truth(prepared, targets)
        true = self._look(prepared.sampled, true_BG4)
        # Unbound once: indexing row by row would fill a gradient of the whole batch for each.
        parts = (prepared.objectness_BL, prepared.boxes_BL4, prepared.embeddings_BNE, true.embeddings_BNE)
        for row, (target, objectness_L, boxes_L4, embeddings_NE, true_NE) in enumerate(
            zip(targets, *(part.unbind() for part in parts), strict=True)
        ):
            owner_L, quality_L = assign(objectness_L, boxes_L4, target, prepared.centres_L2, prepared.strides_L2)
            taken = owner_L >= 0
            if bool(taken.any()):
                giou = paired_giou(boxes_L4[taken], target.boxes_G4[owner_L[taken]])
                if target.sure_G is not None:
                    quality_L[taken] *= target.sure_G[owner_L[taken]]
                sums.add("boxes", ((1 - giou) * quality_L[taken]).sum(), quality_L[taken].sum())
            trained_L = (
                trained(target, prepared.centres_L2).amin(dim=0)
                if len(target.belongs_KG)
                else torch.ones_like(quality_L)
            )
            # An object that one phrase must not judge (for "red car", a car of unknown colour) is still an object.
            judged_L = torch.where(taken, 1.0, trained_L * undoubted(target, boxes_L4))
            sums.add("objects", (quality_focal(objectness_L, quality_L) * judged_L).sum(), quality_L[taken].sum())

            mine = (rows == row).nonzero().flatten()
            count = len(target.boxes_G4)
            regions_N4 = torch.cat([prepared.regions_BN4[row], true.boxes_BN4[row, :count]])
            known_N = torch.cat([prepared.proposed_BN[row], prepared.proposed_BN.new_ones(count)])
            logits_KN = self.logits(unit_KE[mine], bias_K[mine], torch.cat([embeddings_NE, true_NE[:count]]))
            truth_KN, certain_N = named(regions_N4, target), known_N * certain(regions_N4, target)
            trained_KN = trained(target, (regions_N4[:, :2] + regions_N4[:, 2:]) / 2)
            named_KN = trained_KN * certain_N * nameable(regions_N4, target)
            sums.add("names", (quality_focal(logits_KN, truth_KN) * named_KN).sum(), (truth_KN * named_KN).sum())
            if prepared.fit_BN is None or prepared.moved_BN4 is None or prepared.proposals_BN4 is None:
                continue
            assert true.moved_BN4 is not None and true.fit_BN is not None
            moved_N4 = torch.cat([prepared.moved_BN4[row], true.moved_BN4[row, :count]])
            fit_N = torch.cat([prepared.fit_BN[row], true.fit_BN[row, :count]])
            overlap_N, owner_N = overlap(torch.cat([prepared.proposals_BN4[row], true_BG4[row, :count]]), target)
            weight_N = known_N * (overlap_N >= _REFINED_IOU) * surety(target, owner_N)
            if bool((weight_N > 0).any()):
                giou_N = paired_giou(moved_N4, target.boxes_G4[owner_N])
                sums.add("moved", ((1 - giou_N) * weight_N).sum(), weight_N.sum())
            fits_N, fits_owner_N = overlap(regions_N4, target)
            # Whether there is an object at all is what objectness says.
            judged_N = known_N * (fits_N >= _NEAR_IOU) * surety(target, fits_owner_N)
            missed_N = F.binary_cross_entropy_with_logits(fit_N, fits_N, reduction="none")
            sums.add("fit", (missed_N * judged_N).sum(), judged_N.sum())
        weights = {"objects": 1.0, "boxes": 2.0, "names": 2.0}
        if prepared.fit_BN is not None:
            weights |= {"moved": 2.0, "fit": 1.0}
        return {name: weight * sums.mean(name) for name, weight in weights.items()}

    @torch.no_grad()
    def _propose(self, objectness_BL: Tensor, boxes_BL4: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best boxes that do not overlap much (B, N, 4), which of them are real (B, N), and their prominence."""
        wanted = min(self.settings["proposals"], objectness_BL.shape[1])
        scores_BT, cells_BT = objectness_BL.topk(min(4 * wanted, objectness_BL.shape[1]), dim=1)
        boxes_BT4 = boxes_BL4.gather(1, cells_BT[..., None].expand(-1, -1, 4)).clamp(0, 1)
        # What a few steps leave too many is suppressed with the phrases' boxes: no device is waited for.
        keep_BT, _ = non_maximum(
            boxes_BT4, torch.ones_like(scores_BT, dtype=torch.bool), _PROPOSAL_NMS_IOU, steps=_STEPS
        )
        _, first_BN = torch.where(keep_BT, scores_BT, -torch.inf).topk(wanted, dim=1)
        proposed_BN, objectness_BN = keep_BT.gather(1, first_BN), scores_BT.gather(1, first_BN)
        # The best box always stays, so no image is without a proposal.
        mean_B1 = (objectness_BN * proposed_BN).sum(dim=1, keepdim=True) / proposed_BN.sum(dim=1, keepdim=True)
        prominence_BN = (objectness_BN - mean_B1) * proposed_BN
        return boxes_BT4.gather(1, first_BN[..., None].expand(-1, -1, 4)), proposed_BN, prominence_BN

    def _look(self, sampled: Sequence[Tensor], boxes_BN4: Tensor) -> "_SeenRegions":
        """Describe boxes, and move their edges where the decoder is refined."""
        hidden_BNH = self.describe.hidden(sampled, boxes_BN4)
        embeddings_BNE = self.describe.described(hidden_BNH)
        if not self.settings["refined"]:
            return _SeenRegions(boxes_BN4, embeddings_BNE)
        said_BN5 = self.refine(hidden_BNH).float()
        sides_BN4 = (boxes_BN4[..., 2:] - boxes_BN4[..., :2]).repeat(1, 1, 2)
        moved_BN4 = boxes_BN4 + said_BN5[..., :4] * sides_BN4
        # An edge at infinity would be cut to the image's own, and a broken decoder pass for a sound one.
        cut_BN4 = torch.where(moved_BN4.isfinite(), moved_BN4, torch.nan).detach().clamp(0, 1)
        return _SeenRegions(cut_BN4, embeddings_BNE, moved_BN4, said_BN5[..., 4])

    def _moved_truth(self, prepared: PreparedBoxes, targets: Sequence[BoxTargets]) -> Tensor:
        """Slightly moved true boxes (B, G, 4), padded.

        They teach names before the proposals are any good, and rare objects in every image that shows them.
        """
        most = max(1, *(len(target.boxes_G4) for target in targets))
        regions_BG4 = prepared.boxes_BL4.new_zeros(len(targets), most, 4)
        for row, target in enumerate(targets):
            sides = (target.boxes_G4[:, 2:] - target.boxes_G4[:, :2]).repeat(1, 2)
            moved = target.boxes_G4 + 0.08 * sides * torch.randn_like(sides).clamp(-2, 2)
            regions_BG4[row, : len(moved)] = moved.clamp(0, 1)
        return regions_BG4

    def _pyramid(self, features: DenseFeatures) -> list[Tensor]:
        maps = features.maps[-_LEVELS:]
        if len(maps) < _LEVELS:
            # One map at the tower's stride: a simple pyramid around it, as ViTDet has (arxiv.org/abs/2203.16527). Means
            # of cells and what is linear in their channels may change places: the few channels are resized.
            finer, same, coarser = (lateral(maps[-1]) for lateral in self.laterals)
            finer = F.interpolate(finer, scale_factor=2.0, mode="bilinear", align_corners=False)
            levels = [finer, same, F.avg_pool2d(coarser, 2, ceil_mode=True)]
        else:
            levels = [lateral(map_BCHW) for lateral, map_BCHW in zip(self.laterals, maps, strict=True)]
        merged: list[Tensor] = []
        for level in reversed(levels):
            if merged:
                level = level + F.interpolate(merged[0], size=level.shape[-2:], mode="nearest")
            merged.insert(0, level)
        return [smooth(level) for smooth, level in zip(self.smooth, merged, strict=True)]


@dataclass(frozen=True)
class _SeenRegions:
    """What the decoder makes of boxes: the fields of `PreparedBoxes`, of boxes from anywhere."""

    boxes_BN4: Tensor
    embeddings_BNE: Tensor
    moved_BN4: Tensor | None = None
    fit_BN: Tensor | None = None


def _refine_head() -> nn.Sequential:
    """Four edges' moves in sides of the box, none at the start, and the logit of its fit."""
    head = nn.Sequential(nn.SiLU(), nn.Linear(REGION_HIDDEN, 256), nn.SiLU(), nn.Linear(256, 5))
    *_, weight, bias = head.parameters()
    nn.init.zeros_(weight)
    nn.init.zeros_(bias)
    return head


def _conv_block(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.GroupNorm(16, width), nn.SiLU())
