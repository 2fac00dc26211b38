"""What the box decoder reads of a region: the feature maps at a grid of points inside it, its place and its size.

Shape suffixes as in `box`.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision_agent.plugins.decoder import DenseFeatures

REGION_HIDDEN = 512
_POINTS = 6  # a region is described at 6 x 6 points


class RegionDescriber(nn.Module):
    """Describes boxes by what all feature maps hold at a grid of points inside them, and by their place and size."""

    def __init__(
        self, widths: Sequence[int], embedding: int, hidden: int = REGION_HIDDEN, point_width: int = 96
    ) -> None:
        super().__init__()
        reduced = [max(16, min(128, channels // 16 * 8)) for channels in widths]
        self.reduce = nn.ModuleList(nn.Conv2d(channels, out, 1) for channels, out in zip(widths, reduced, strict=True))
        self.point = nn.Linear(sum(reduced), point_width)
        self.grid = nn.Linear(_POINTS**2 * point_width, hidden)
        self.mean = nn.Linear(sum(reduced), hidden)
        self.place = nn.Linear(6, hidden)
        self.head = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, embedding))
        self.norm = nn.LayerNorm(embedding)

    def reduced(self, features: DenseFeatures) -> tuple[Tensor, ...]:
        """Return the maps with fewer channels, to be sampled; fp32."""
        return tuple(reduce(map_BCHW).float() for reduce, map_BCHW in zip(self.reduce, features.maps, strict=True))

    def forward(self, maps: Sequence[Tensor], boxes_BN4: Tensor) -> Tensor:
        """Map reduced maps (B, C, H, W) and boxes (B, N, 4) in the frame "unit" to (B, N, E), normalised."""
        return self.described(self.hidden(maps, boxes_BN4))

    def hidden(self, maps: Sequence[Tensor], boxes_BN4: Tensor) -> Tensor:
        """Map the same to what is read of each box, (B, N, hidden)."""
        steps_P = (torch.arange(_POINTS, device=boxes_BN4.device) + 0.5) / _POINTS
        low_BN2, size_BN2 = boxes_BN4[..., :2], boxes_BN4[..., 2:] - boxes_BN4[..., :2]
        across = low_BN2[..., None] + size_BN2[..., None] * steps_P  # (B, N, 2, points a side)
        points = torch.stack(
            torch.broadcast_tensors(across[:, :, 0, None, :], across[:, :, 1, :, None]),  # type: ignore[no-untyped-call]
            dim=-1,
        ).flatten(2, 3)  # (B, N, P, 2), row-major
        sampled = [
            F.grid_sample(map_BCHW, points * 2 - 1, padding_mode="border", align_corners=False) for map_BCHW in maps
        ]
        held_BNPC = torch.cat(sampled, dim=1).permute(0, 2, 3, 1)
        place_BN6 = torch.cat([boxes_BN4, size_BN2.clamp(min=1e-3).log() / 3], dim=-1)
        hidden_BNH: Tensor = (
            self.grid(F.silu(self.point(held_BNPC)).flatten(2))
            + self.mean(held_BNPC.mean(dim=2))
            + self.place(place_BN6)
        )
        return hidden_BNH

    def described(self, hidden_BNH: Tensor) -> Tensor:
        """Map what was read of boxes to descriptions (B, N, E), normalised."""
        embeddings_BNE: Tensor = self.norm(self.head(hidden_BNH).float())
        return embeddings_BNE
