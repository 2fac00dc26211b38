"""Masks from the `[SEG]` route: boxes first, then the shape inside each box.

The route's query states find boxes as `[DET]` does: the decoder holds a box decoder of its own, the `finder`. A small
network then looks at each box, grown a little, through all feature maps sampled on a grid (RoIAlign's bilinear points,
https://arxiv.org/abs/1703.06870), knows the phrase's vector and where the box's edges are, and gives the logits of a
mask of 56 x 56 points with the IoU it expects of it (mask scoring, https://arxiv.org/abs/1903.00241). So every mask
belongs to one box and one phrase; the mask of all there is of a phrase, such as "grass", is `Segmentation.union()`.

Logits are enlarged inside their box alone and kept as run lengths: no image-sized mask of floats ever exists.

Shape suffixes: B images, N boxes of an image, M masks, K phrases, C channels, E phrase vector, G true objects,
S side of a grid of points.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from vision_agent.errors import InputError, bad_argument
from vision_agent.geometry.frames import box_clip, box_iou
from vision_agent.geometry.rle import RunLengths
from vision_agent.plugins.decoder import Decoder, DecodeRequest, DenseFeatures, MaskTargets, finite
from vision_agent.plugins.route import RouteSpec
from vision_agent.results.segmentation import Mask, Segmentation

from ..box import BoxDecoder, PreparedBoxes
from ..sam.prompts import Prompts
from .head import FINE, MaskHead, grid_points

_AT_ONCE = 32  # masks in one pass
_CANDIDATES = 12  # boxes tried for the points of an object
_AROUND_SIDES = (0.12, 0.25, 0.5, 1.0)  # of the image's sides: the boxes tried around points, beside the proposals
_MOST_MOVED = 1.4  # the threshold of a mask's logits may be moved so far: probabilities of 0.2 to 0.8
_SLACK = 1e-3  # by which a logit has to be above the threshold


@dataclass(frozen=True)
class PreparedMasks:
    """The image side of the mask decoder.

    Attributes:
        boxes: the finder's own preparation.
        maps: the feature maps (B, C, H, W) with fewer channels, finest first, to be sampled; fp32.
    """

    boxes: PreparedBoxes
    maps: tuple[Tensor, ...]


class MaskDecoder(Decoder):
    """Open-vocabulary masks. See the module's docstring.

    Args:
        finder: settings of the box decoder inside, as `BoxDecoder` takes them.
        width: channels of the mask network.
        margin: how far a box is grown on each side before its mask is made, as a share of its side.
    """

    looks_closer = True

    def __init__(self, finder: dict[str, Any], width: int = 64, margin: float = 0.15) -> None:
        super().__init__()
        self.finder = BoxDecoder(**finder)
        self.settings: dict[str, Any] = {"finder": self.finder.settings, "width": width, "margin": margin}
        self.head = MaskHead(self.finder.settings["feature_widths"], self.finder.settings["embedding"], width, margin)

    @classmethod
    def for_backbone(cls, route: RouteSpec, hidden_size: int, feature_widths: tuple[int, ...]) -> "MaskDecoder":
        return cls({"hidden_size": hidden_size, "feature_widths": list(feature_widths)})

    @property
    def usual_detail(self) -> Literal["low", "auto", "high"]:
        return self.finder.usual_detail

    def join(self, first: PreparedMasks, closer: PreparedMasks) -> PreparedMasks:
        """Find in both looks at an image; the masks are made from the first one, as in training."""
        return PreparedMasks(self.finder.join(first.boxes, closer.boxes), first.maps)

    def prepare(self, features: DenseFeatures) -> PreparedMasks:
        """Return proposals, and maps to look at, from feature maps (B, C, H, W), finest first."""
        return PreparedMasks(self.finder.prepare(features), self.head.reduced(features))

    @torch.no_grad()
    def decode(self, states_KNC: Tensor, prepared: PreparedMasks, request: DecodeRequest) -> Segmentation:
        """Return a mask for each box that the phrases find in one image, best first within each phrase.

        Returns an empty result where nothing is found. Boxes and masks are in pixels of the upright original.
        """
        found = self.finder.decode(states_KNC, prepared.boxes, request)
        unit_KE, _ = self.finder.phrase_vectors(states_KNC)
        phrase_of = {phrase: number for number, phrase in enumerate(request.phrases)}
        phrases_ME = unit_KE[[phrase_of[label] for label in found.labels]]
        boxes = found.xyxy.astype(np.float64)
        return self._segmented(boxes, boxes, phrases_ME, prepared, request, found.labels, found.scores)

    @torch.no_grad()
    def decode_boxes(
        self,
        boxes: npt.ArrayLike,
        prepared: PreparedMasks,
        request: DecodeRequest,
        labels: Sequence[str] | None = None,
        scores: Sequence[float] | None = None,
    ) -> Segmentation:
        """Return one segment for each box, inside it: who gives a box knows where the object ends.

        Args:
            boxes: (n, 4) xyxy in pixels of the upright original; what reaches over the edge of the image is cut off.
            request: its phrases are for the result alone.
            labels: what the n objects are; "object" if None.
            scores: how sure it is that they are there; None for the IoU expected of each mask.

        Raises:
            InputError: another shape, a box without area in the image, lists of other lengths.
        """
        prompts = Prompts.check(boxes, None, None, _size(request))
        assert prompts.given is not None and prompts.boxes is not None
        return self._segmented(prompts.given, prompts.boxes, None, prepared, request, labels, scores, exact=True)

    @torch.no_grad()
    def decode_points(
        self,
        points: npt.ArrayLike,
        prepared: PreparedMasks,
        request: DecodeRequest,
        point_labels: npt.ArrayLike | None = None,
        labels: Sequence[str] | None = None,
    ) -> Segmentation:
        """Return a segment of each object that points lie on; none for an object without a mask that agrees with them.

        Points choose among the boxes proposed around them, and boxes of several sizes with the points in the middle.
        A mask that does not hold what it should at the usual threshold of its logits may do so at another one, within
        bounds. Of the masks that hold every point on the object and no point beside it, the one with the best score is
        taken: the square of its expected IoU times the probability that it gives the point that fits it least. So a
        mask that hardly agrees has a low score.

        Args:
            points: (n, 2), or (n, k, 2) for k points of each object; pixels of the upright original.
            request: its phrases are for the result alone.
            point_labels: (n, k) or (n,), 1 for points on the object, 0 for points beside it; all 1 if None.
            labels: what the n objects are; "object" if None.

        Returns:
            at most n segments, in the order of the objects; `Segment.prompt` says which object each is of.

        Raises:
            InputError: another shape, a point outside the image, labels that do not fit.
        """
        prompts = Prompts.check(None, points, point_labels, _size(request))
        assert prompts.points is not None and prompts.labels is not None
        called = ["object"] * len(prompts) if labels is None else labels
        if isinstance(called, str) or len(called) != len(prompts):
            raise InputError(bad_argument("labels", f"{len(prompts)} strings, one for each object", labels))
        proposed_N4 = prepared.boxes.regions_BN4[0][prepared.boxes.proposed_BN[0]]
        regions = request.grid.convert(proposed_N4.cpu().double().numpy(), "unit", "image")
        agreeing = [
            self._agreeing(places, on_it, regions, prepared, request)
            for places, on_it in zip(prompts.points, prompts.labels == 1, strict=True)
        ]
        kept = [(number, *found) for number, found in enumerate(agreeing) if found is not None]
        return Segmentation.from_masks(
            [mask for _, mask, _, _ in kept],
            [score for _, _, score, _ in kept],
            [called[number] for number, _, _, _ in kept],
            mask_scores=[rating for _, _, _, rating in kept],
            prompts=[number for number, _, _, _ in kept],
            image_size=_size(request),
            model=request.model,
            phrases=request.phrases,
            decoder="mask",
        )

    def calibrated(self, scores: Mapping[str, float]) -> dict[str, Any]:
        """Return the finder's settings with those of the `[DET]` boxes: it is a copy of their decoder."""
        return {"finder": self.settings["finder"] | dict(scores)}

    def loss(
        self, states_KNC: Tensor, rows_K: Sequence[int], prepared: PreparedMasks, targets: Sequence[MaskTargets]
    ) -> Tensor:
        """Return cross-entropy and dice of the masks, and the error of their expected IoU; see `losses`."""
        return torch.stack(list(self.losses(states_KNC, rows_K, prepared, targets).values())).sum()

    def losses(
        self,
        states_KNC: Tensor,
        rows_K: Sequence[int],
        prepared: PreparedMasks,
        targets: Sequence[MaskTargets],
        count: int = 6,
    ) -> dict[str, Tensor]:
        """Return the losses by name, each averaged over the masks.

        Every image gives `count` boxes: true ones, moved by up to a tenth of their sides, and proposals that overlap
        a true one by at least half.

        Args:
            states_KNC: of all phrases of all images; `rows_K` names the image of each.
            targets: `MaskTargets`, one an image. Images without true objects are left out; 0 if all are.
        """
        unit_KE, _ = self.finder.phrase_vectors(states_KNC)
        boxes_BN4, owner_BN = _training_boxes(prepared.boxes, targets, count)
        rows = torch.as_tensor(rows_K, device=unit_KE.device)
        phrases_BNE = unit_KE.new_zeros(*owner_BN.shape, self.finder.settings["embedding"])
        for row, target in enumerate(targets):
            if len(target.boxes_G4):
                phrase_N = target.phrase_G[owner_BN[row]]
                known_N = phrase_N >= 0
                phrases_BNE[row, known_N] = unit_KE[rows == row][phrase_N[known_N]]
        real_B = torch.tensor([len(target.boxes_G4) > 0 for target in targets], device=boxes_BN4.device)
        real_M = real_B.repeat_interleave(count)
        logits_MSS, rating_M = self.head(prepared.maps, boxes_BN4, phrases_BNE)
        logits_MSS, rating_M = logits_MSS[real_M].float(), rating_M[real_M].float()
        if not len(logits_MSS):
            nothing = logits_MSS.sum()
            return {"mask": nothing, "dice": nothing, "rating": nothing}
        truth_MSS = _sampled_truth(targets, owner_BN, self.head.grown(boxes_BN4))[real_M]
        shown_MSS = torch.sigmoid(logits_MSS)
        shared_M = (shown_MSS * truth_MSS).sum((1, 2))
        dice_M = 1 - (2 * shared_M + 1) / (shown_MSS.sum((1, 2)) + truth_MSS.sum((1, 2)) + 1)
        with torch.no_grad():
            inside, true = logits_MSS > 0, truth_MSS > 0.5
            iou_M = (inside & true).sum((1, 2)) / (inside | true).sum((1, 2)).clamp(min=1)
        return {
            "mask": F.binary_cross_entropy_with_logits(logits_MSS, truth_MSS),
            "dice": dice_M.mean(),
            "rating": F.mse_loss(torch.sigmoid(rating_M), iou_M),
        }

    def _segmented(
        self,
        shown: npt.NDArray[np.floating[Any]] | None,
        xyxy: npt.NDArray[np.float64],
        phrases_ME: Tensor | None,
        prepared: PreparedMasks,
        request: DecodeRequest,
        labels: Sequence[str] | None,
        scores: npt.ArrayLike | None,
        *,
        exact: bool = False,
    ) -> Segmentation:
        """Masks of boxes in pixels of one image; the result has the boxes `shown`, or the tightest if None.

        With `exact`, nothing of a mask lies outside its box.
        """
        size = _size(request)
        logits_MSS, rating_M = self._logits(xyxy, phrases_ME, prepared, request)
        ratings = rating_M.tolist()
        grown_M4 = self._grown(xyxy)
        limits_M4 = xyxy if exact else grown_M4
        masks = [
            Mask.from_runs(RunLengths.from_logits(logits_SS, size[::-1], box=grown, within=limit))
            for logits_SS, grown, limit in zip(logits_MSS, grown_M4.tolist(), limits_M4.tolist(), strict=True)
        ]
        return Segmentation.from_masks(
            masks,
            ratings if scores is None else scores,
            ["object"] * len(masks) if labels is None else labels,
            xyxy=shown,
            mask_scores=ratings,
            image_size=size,
            model=request.model,
            phrases=request.phrases,
            decoder="mask",
        )

    def _agreeing(
        self,
        points: npt.NDArray[np.float64],
        on_it: npt.NDArray[np.bool_],
        regions: npt.NDArray[np.float64],
        prepared: PreparedMasks,
        request: DecodeRequest,
    ) -> tuple[Mask, float, float] | None:
        """The best mask that holds an object's points (k, 2) and nothing beside it, its score and its expected IoU."""
        size = _size(request)
        candidates = _around(points[on_it], regions, size)
        logits_MSS, rating_M = self._logits(candidates, None, prepared, request)
        grown_M4 = self._grown(candidates)
        # A click is on a pixel; the last one has the right and the lower edge of the image too.
        pixels = np.minimum(np.floor(points), np.asarray(size) - 1).astype(np.int64)
        at_MK = _at_points(logits_MSS, grown_M4, pixels + 0.5)
        least_M = at_MK[:, on_it].min(axis=1)
        most_M = at_MK[:, ~on_it].max(axis=1, initial=-np.inf)
        threshold_M = np.maximum(np.minimum(0.0, least_M - _SLACK), most_M)
        fits_M = (threshold_M < least_M) & (np.abs(threshold_M) <= _MOST_MOVED)
        sure_M = np.minimum(_sigmoid(least_M), 1 - _sigmoid(most_M))
        # The rating takes the box for granted, which a point does not say: squared, the score is near the IoU measured.
        score_M = (rating_M * sure_M) ** 2
        for number in np.argsort(-score_M, kind="stable"):
            if not fits_M[number]:
                continue
            runs = RunLengths.from_logits(
                logits_MSS[number], size[::-1], threshold=float(threshold_M[number]), box=grown_M4[number].tolist()
            )
            # Resizing rounds: what counts is the mask itself.
            if np.array_equal(runs.holds(pixels), on_it):
                return Mask.from_runs(runs), float(score_M[number]), float(rating_M[number])
        return None

    def _logits(
        self,
        xyxy: npt.NDArray[np.float64],
        phrases_ME: Tensor | None,
        prepared: PreparedMasks,
        request: DecodeRequest,
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Logits (M, S, S) over the grown boxes, and expected IoUs (M,), of boxes in pixels of one image."""
        like = prepared.maps[0]
        if phrases_ME is None:
            phrases_ME = like.new_zeros(len(xyxy), self.finder.settings["embedding"])
        unit_M4 = torch.from_numpy(request.grid.convert(xyxy, "image", "unit")).to(like)
        told = [like.new_empty(0, FINE * FINE + 1)]
        for first in range(0, len(xyxy), _AT_ONCE):
            some = slice(first, first + _AT_ONCE)
            logits_MSS, rating_M = self.head(prepared.maps, unit_M4[None, some], phrases_ME[None, some])
            told.append(torch.cat([logits_MSS.float().flatten(1), torch.sigmoid(rating_M.float())[:, None]], dim=1))
        # All of it in one copy: on an accelerator the host waits for each.
        numbers_MX: npt.NDArray[np.float32] = finite(torch.cat(told).cpu().numpy())
        return numbers_MX[:, :-1].reshape(-1, FINE, FINE), numbers_MX[:, -1]

    def _grown(self, xyxy: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        grown: npt.NDArray[np.float64] = self.head.grown(torch.from_numpy(xyxy)).numpy()
        return grown


def _size(request: DecodeRequest) -> tuple[int, int]:
    """(width, height) of the image."""
    return request.grid.image_width, request.grid.image_height


@torch.no_grad()
def _training_boxes(prepared: PreparedBoxes, targets: Sequence[MaskTargets], count: int) -> tuple[Tensor, Tensor]:
    """Boxes (B, count, 4) to make masks of in training, and the index of each one's true object (B, count)."""
    like = prepared.regions_BN4
    boxes_BN4 = like.new_tensor([0.0, 0.0, 1.0, 1.0]).repeat(len(targets), count, 1)
    owner_BN = torch.zeros(len(targets), count, dtype=torch.long, device=like.device)
    for row, target in enumerate(targets):
        objects = len(target.boxes_G4)
        if not objects:
            continue
        owner_N = torch.randperm(objects, device=like.device).repeat(-(-count // objects))[:count]
        true_N4 = target.boxes_G4[owner_N]
        sides_N4 = (true_N4[:, 2:] - true_N4[:, :2]).repeat(1, 2)
        moved_N4 = true_N4 + 0.05 * sides_N4 * torch.randn_like(sides_N4).clamp(-2, 2)
        proposed_P4 = like[row][prepared.proposed_BN[row]]
        overlap = torch.from_numpy(box_iou(true_N4.cpu().numpy(), proposed_P4.cpu().numpy())).to(like)
        for place in range(1, count, 2):
            good = (overlap[place] >= 0.5).nonzero().flatten()
            if len(good):
                moved_N4[place] = proposed_P4[good[torch.randint(len(good), ())]]
        boxes_BN4[row], owner_BN[row] = moved_N4.clamp(0, 1), owner_N
    return boxes_BN4, owner_BN


@torch.no_grad()
def _sampled_truth(targets: Sequence[MaskTargets], owner_BN: Tensor, grown_BN4: Tensor) -> Tensor:
    """True masks at the points of the fine grid (B * N, S, S), 0-1; beyond the image as at its edge."""
    grids = grid_points(grown_BN4, FINE).reshape(*grown_BN4.shape[:2], FINE, FINE, 2) * 2 - 1
    truth = []
    for target, owner_N, grid_NSS2 in zip(targets, owner_BN, grids, strict=True):
        if not len(target.masks_GHW):
            truth.append(grid_NSS2.new_zeros(grid_NSS2.shape[:3]))
            continue
        mine = target.masks_GHW[owner_N][:, None].to(grid_NSS2)
        truth.append(F.grid_sample(mine, grid_NSS2, padding_mode="border", align_corners=False)[:, 0])
    return torch.cat(truth)


def _around(
    points: npt.NDArray[np.float64], regions: npt.NDArray[np.float64], size: tuple[int, int]
) -> npt.NDArray[np.float64]:
    """Boxes to look for an object in, by its points (n, 2): the best proposals that hold all, and some around them."""
    holds = ((points[:, None] >= regions[:, :2]) & (points[:, None] <= regions[:, 2:])).all(axis=(0, 2))
    reach = np.asarray(_AROUND_SIDES)[:, None] * np.asarray(size) / 2
    around = box_clip(np.concatenate([points.min(axis=0) - reach, points.max(axis=0) + reach], axis=1), size)
    tried: npt.NDArray[np.float64] = np.concatenate([regions[holds][:_CANDIDATES], around])
    return tried


def _at_points(
    logits_MSS: npt.NDArray[np.float32], boxes_M4: npt.NDArray[np.float64], points: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The logits of each mask (M) at each point (k), bilinear as `RunLengths.from_logits`; -inf outside: (M, k)."""
    low, sides = boxes_M4[:, None, :2], boxes_M4[:, None, 2:] - boxes_M4[:, None, :2]
    unit_MK2 = (points[None] - low) / sides
    places_MK2 = (unit_MK2 * FINE - 0.5).clip(0, FINE - 1)
    first_MK2 = np.floor(places_MK2).astype(np.int64).clip(0, FINE - 2)
    x, y = np.moveaxis(places_MK2 - first_MK2, -1, 0)
    column, row = np.moveaxis(first_MK2, -1, 0)
    mask = np.arange(len(logits_MSS))[:, None]
    upper = logits_MSS[mask, row, column] * (1 - x) + logits_MSS[mask, row, column + 1] * x
    lower = logits_MSS[mask, row + 1, column] * (1 - x) + logits_MSS[mask, row + 1, column + 1] * x
    inside = ((unit_MK2 >= 0) & (unit_MK2 < 1)).all(-1)
    at_MK: npt.NDArray[np.float64] = np.where(inside, upper * (1 - y) + lower * y, -np.inf)
    return at_MK


def _sigmoid(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    with np.errstate(over="ignore"):  # of -inf, which gives 0 as it should
        shares: npt.NDArray[np.float64] = 1 / (1 + np.exp(-logits))
    return shares
