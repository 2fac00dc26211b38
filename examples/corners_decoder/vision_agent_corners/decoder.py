"""The four corners of a sheet of paper: a decoder with its result, its training target and its loss.

Each of the route's four queries looks for one corner: its state, as a vector, is compared with the vector of every
place in the image, and the softmax over the places is that corner's heatmap. The corner is the mean of the places
around the heatmap's peak, weighted by it, which is finer than the grid (integral regression,
https://arxiv.org/abs/1711.08229). Whether there is a sheet at all is a score of its own.

Shape suffixes: B images, K phrases, N = 4 corners, C hidden size, E vector, H and W cells, P = H * W places.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from vision_agent import ConfigError, Decoder, DecodeRequest, DenseFeatures, RouteSpec
from vision_agent_corners.perspective import is_convex, straighten

CORNERS = ("top left", "top right", "bottom right", "bottom left")
ROUTE = RouteSpec(token="[CORNERS]", decoder="corners", num_queries=len(CORNERS))

_SPREAD = 1.0  # of a true corner's heatmap, in cells
_WINDOW = 2  # cells on each side of a peak that its corner is the mean of

Place = tuple[float, float]


class Sheet(BaseModel):
    """A sheet of paper in an image.

    Attributes:
        phrase: what was asked for.
        score: how sure the model is that it is there, 0..1.
        corners: top left, top right, bottom right and bottom left, (x, y) in pixels of the upright image.
        model: name of the model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    phrase: str
    score: Annotated[float, Field(ge=0, le=1)]
    corners: tuple[Place, Place, Place, Place]
    model: str

    def straighten(self, image: Image.Image) -> Image.Image:
        """Return the sheet alone, as a scanner would see it; `image` is the one it was found in."""
        return straighten(image, self.corners)


class Sheets(BaseModel):
    """At most one sheet for each phrase, in the order asked; empty where none is seen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    items: tuple[Sheet, ...]
    image_size: tuple[int, int]


@dataclass(frozen=True)
class CornersTarget:
    """The truth for one training image.

    Attributes:
        corners_KN2: for each phrase its sheet's corners, frame "unit" (0-1 of the whole image); any values where
            there is none.
        present_K: bool, whether there is one.
    """

    corners_KN2: Tensor
    present_K: Tensor


class CornersDecoder(Decoder):
    """Corners and a score for each phrase. See the module's docstring.

    Args:
        hidden_size: C of the query states.
        feature_widths: channels of each feature map, finest first.
        width: E.
        threshold: default least score.
    """

    def __init__(
        self, hidden_size: int, feature_widths: Sequence[int], width: int = 64, threshold: float = 0.5
    ) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {
            "hidden_size": hidden_size,
            "feature_widths": list(feature_widths),
            "width": width,
            "threshold": threshold,
        }
        # Where there are several maps, places are the cells of the second: fine enough, and a quarter of the work.
        self.norms = nn.ModuleList(nn.GroupNorm(1, channels) for channels in feature_widths)
        self.inputs = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in feature_widths)
        if len(feature_widths) > 1:
            self.inputs[0] = nn.Conv2d(feature_widths[0], width, 3, stride=2, padding=1)
        self.context = nn.Sequential(*(_Around(width, reach) for reach in (1, 2, 4, 1)))
        self.corner_head = nn.Sequential(nn.LayerNorm(hidden_size), nn.Linear(hidden_size, width))
        self.corner_kind = nn.Parameter(torch.randn(len(CORNERS), width))
        self.image_head = nn.Linear(2 * width, width)
        self.presence_head = nn.Sequential(nn.LayerNorm(hidden_size), nn.Linear(hidden_size, width))
        self.presence_bias = nn.Linear(width, 1)

    @classmethod
    def for_backbone(cls, route: RouteSpec, hidden_size: int, feature_widths: tuple[int, ...]) -> "CornersDecoder":
        """Return a new decoder. Raises ConfigError for a route without a query for each corner."""
        if route.num_queries != len(CORNERS):
            raise ConfigError(f"{route.token!r} must have {len(CORNERS)} queries, but has {route.num_queries}")
        return cls(hidden_size=hidden_size, feature_widths=feature_widths)

    def prepare(self, features: DenseFeatures) -> Tensor:
        """Return the vectors of all places (B, E, H, W) from feature maps, each (B, channels, H, W)."""
        parts: list[Tensor] = [
            layer(norm(map_BCHW)) for layer, norm, map_BCHW in zip(self.inputs, self.norms, features.maps, strict=True)
        ]
        size = parts[min(1, len(parts) - 1)].shape[-2:]
        resized = [F.interpolate(part, size=size, mode="bilinear", align_corners=False) for part in parts]
        places_BEHW: Tensor = self.context(torch.stack(resized).sum(dim=0))
        return places_BEHW

    @torch.no_grad()
    def decode(self, states_KNC: Tensor, prepared: Tensor, request: DecodeRequest) -> Sheets:
        """Return the sheets of one image."""
        least = self.settings["threshold"] if request.threshold is None else request.threshold
        places_KEHW = prepared.expand(len(states_KNC), -1, -1, -1)
        heat_KNP = self.heat(states_KNC, places_KEHW)
        height, width = prepared.shape[-2:]
        peak_KN = heat_KNP.argmax(dim=-1)
        peak_KN2 = torch.stack([peak_KN % width, peak_KN // width], dim=-1)
        corners_KN2 = _around_peaks(heat_KNP, peak_KN2, (height, width))
        scores = torch.sigmoid(self.presence(states_KNC, places_KEHW)).tolist()
        pixels = request.grid.convert(corners_KN2.double().cpu().numpy(), "unit", "image")
        sheets = []
        for phrase, score, corners in zip(request.phrases, scores, pixels, strict=True):
            if score >= least and is_convex(corners):  # four places that are no sheet's corners are no find
                found: Any = tuple((float(x), float(y)) for x, y in corners)
                sheets.append(Sheet(phrase=phrase, score=score, corners=found, model=request.model))
        return Sheets(items=tuple(sheets), image_size=(request.grid.image_width, request.grid.image_height))

    def loss(
        self, states_KNC: Tensor, rows_K: Sequence[int], prepared: Tensor, targets: Sequence[CornersTarget]
    ) -> Tensor:
        """Return cross-entropy of the heatmaps, L1 of the corners in cells, and binary cross-entropy of the score."""
        places_KEHW = prepared[list(rows_K)]
        corners_KN2 = torch.cat([target.corners_KN2 for target in targets]).to(states_KNC)
        present_K = torch.cat([target.present_K for target in targets]).to(states_KNC.device)
        logits_K = self.presence(states_KNC, places_KEHW)
        score_loss = F.binary_cross_entropy_with_logits(logits_K, present_K.to(logits_K))
        if not bool(present_K.any()):
            return score_loss
        height, width = places_KEHW.shape[-2:]
        heat_KNP = self.heat(states_KNC[present_K], places_KEHW[present_K])
        true_KN2 = corners_KN2[present_K] * corners_KN2.new_tensor([width, height])  # in cells
        cells_P2 = _centres((height, width), true_KN2)
        wanted_KNP = torch.softmax(-(true_KN2[:, :, None] - cells_P2).pow(2).sum(-1) / (2 * _SPREAD**2), dim=-1)
        heat_loss = -(wanted_KNP * torch.log_softmax(heat_KNP, dim=-1)).sum(-1).mean()
        cell_KN2 = true_KN2.floor().long().clamp(min=0)
        near_KN2 = torch.minimum(cell_KN2, cell_KN2.new_tensor([width - 1, height - 1]))
        found_KN2 = _around_peaks(heat_KNP, near_KN2, (height, width)) * true_KN2.new_tensor([width, height])
        return score_loss + heat_loss + F.l1_loss(found_KN2, true_KN2)

    def heat(self, states_KNC: Tensor, places_KEHW: Tensor) -> Tensor:
        """Return (K, 4, P) logits of each corner at each place."""
        wanted_KNE = self.corner_head(states_KNC) + self.corner_kind
        return torch.einsum("kne,kep->knp", wanted_KNE, places_KEHW.flatten(2)) / places_KEHW.shape[1] ** 0.5

    def presence(self, states_KNC: Tensor, places_KEHW: Tensor) -> Tensor:
        """Return (K,) logits of there being a sheet."""
        pooled = torch.cat([places_KEHW.mean(dim=(2, 3)), places_KEHW.amax(dim=(2, 3))], dim=1)
        phrase_KE: Tensor = self.presence_head(states_KNC).mean(dim=1)
        match_K = (phrase_KE * self.image_head(pooled)).sum(dim=-1) / phrase_KE.shape[-1] ** 0.5
        logits_K: Tensor = match_K + self.presence_bias(phrase_KE).squeeze(-1)
        return logits_K


class _Around(nn.Module):
    """Lets each place know what lies around it: a wide filter for each channel, then a mix of channels."""

    def __init__(self, width: int, reach: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 5, padding=2 * reach, dilation=reach, groups=width),
            nn.GroupNorm(1, width),
            nn.Conv2d(width, 2 * width, 1),
            nn.GELU(),
            nn.Conv2d(2 * width, width, 1),
        )

    def forward(self, places_BEHW: Tensor) -> Tensor:
        changed_BEHW: Tensor = places_BEHW + self.layers(places_BEHW)
        return changed_BEHW


def _centres(size: tuple[int, int], like: Tensor) -> Tensor:
    """(P, 2) centres (x, y) of all cells, row by row, in cells."""
    height, width = size
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2).to(like) + 0.5


def _around_peaks(heat_KNP: Tensor, peak_KN2: Tensor, size: tuple[int, int]) -> Tensor:
    """(K, N, 2) means of the cells around the peaks (column, row), weighted by the heatmaps; frame "unit"."""
    centres_P2 = _centres(size, heat_KNP)
    far_KNP = ((centres_P2 - 0.5 - peak_KN2[:, :, None]).abs() > _WINDOW).any(dim=-1)
    weights_KNP = torch.softmax(heat_KNP.masked_fill(far_KNP, float("-inf")), dim=-1)
    return weights_KNP @ centres_P2 / heat_KNP.new_tensor([size[1], size[0]])
