"""The network of the mask decoder: from what the feature maps hold inside a box to the shape of the object in it.

Shape suffixes as in `vision_agent.decoders.mask.decoder`.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision_agent.plugins.decoder import DenseFeatures

COARSE, FINE = 28, 56  # points a side: where the shape is thought out, and where it is drawn


class MaskHead(nn.Module):
    """From maps, boxes and phrase vectors to logits of masks over the grown boxes, and the IoU expected of each."""

    def __init__(self, widths: Sequence[int], embedding: int, width: int, margin: float, fine: int = 32) -> None:
        super().__init__()
        self.margin = margin
        reduced = [min(64, max(32, channels // 16 * 8)) for channels in widths]
        self.reduce = nn.ModuleList(nn.Conv2d(channels, out, 1) for channels, out in zip(widths, reduced, strict=True))
        self.enter = nn.Conv2d(sum(reduced) + 2, width, 1)
        self.blocks = nn.ModuleList(_Block(width, dilation) for dilation in (1, 2, 1, 4))
        self.phrase = nn.Linear(embedding, width)
        self.context = nn.Linear(sum(reduced) + 2, width)
        self.leave = nn.Conv2d(width, fine, 1)
        self.detail = nn.Conv2d(reduced[0], fine, 1)
        self.draw = nn.Sequential(_normed_conv(2 * fine, fine), _normed_conv(fine, fine), nn.Conv2d(fine, 1, 1))
        self.rate = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, 1))
        self._embedding = embedding

    def reduced(self, features: DenseFeatures) -> tuple[Tensor, ...]:
        """Return the maps with fewer channels, fp32: places suffer in half precision."""
        return tuple(reduce(map_BCHW).float() for reduce, map_BCHW in zip(self.reduce, features.maps, strict=True))

    def grown(self, boxes_4: Tensor) -> Tensor:
        """Return boxes (..., 4) with the margin on every side."""
        extra = (boxes_4[..., 2:] - boxes_4[..., :2]) * self.margin
        return torch.cat([boxes_4[..., :2] - extra, boxes_4[..., 2:] + extra], dim=-1)

    def forward(self, maps: Sequence[Tensor], boxes_BN4: Tensor, phrases_BNE: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits of masks (B * N, S, S) over the grown boxes, and of their expected IoU (B * N,).

        Args:
            boxes_BN4: frame "unit", before they are grown.
            phrases_BNE: unit vectors; zeros where no phrase is known.
        """
        grown_BN4 = self.grown(boxes_BN4)
        coarse_MCSS = torch.cat([_look(map_BCHW, grown_BN4, COARSE) for map_BCHW in maps], dim=1)
        masks = len(coarse_MCSS)
        frame_MCSS = self._frame(coarse_MCSS).expand(masks, -1, -1, -1)
        size_M2 = (boxes_BN4[..., 2:] - boxes_BN4[..., :2]).clamp(min=1e-3).log().flatten(0, 1)
        seen_MC = torch.cat([coarse_MCSS.mean((2, 3)), size_M2], dim=1)
        # Unit vectors have small entries; scaled to a variance of 1 they weigh as much as the context.
        told_MC = self.context(seen_MC) + self.phrase(phrases_BNE.flatten(0, 1) * self._embedding**0.5)
        x_MCSS = self.enter(torch.cat([coarse_MCSS, frame_MCSS], dim=1))
        for block in self.blocks:
            x_MCSS = block(x_MCSS, told_MC)
        rough = F.interpolate(self.leave(x_MCSS), size=(FINE, FINE), mode="bilinear", align_corners=False)
        detail = self.detail(_look(maps[0], grown_BN4, FINE))
        logits_MSS = self.draw(torch.cat([rough, detail], dim=1)).squeeze(1)
        with torch.no_grad():
            inside = F.avg_pool2d(torch.sigmoid(logits_MSS[:, None].float()), FINE // COARSE)
        held_MC = (x_MCSS * inside).sum((2, 3)) / inside.sum((2, 3)).clamp(min=1.0)
        rating_M = self.rate(torch.cat([held_MC, x_MCSS.mean((2, 3))], dim=1)).squeeze(1)
        return logits_MSS, rating_M

    def _frame(self, like: Tensor) -> Tensor:
        """(1, 2, S, S): x and y, -1 and 1 at the edges of the box before it was grown."""
        reach = 1 + 2 * self.margin
        steps = ((torch.arange(COARSE, device=like.device) + 0.5) / COARSE * 2 - 1) * reach
        ys, xs = torch.meshgrid(steps, steps, indexing="ij")
        return torch.stack([xs, ys])[None].to(like.dtype)


class _Block(nn.Module):
    """A residual convolution, its channels scaled and shifted by what was told (FiLM, arxiv.org/abs/1709.07871)."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False)
        self.norm = nn.GroupNorm(8, width)
        self.film = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x_MCSS: Tensor, told_MC: Tensor) -> Tensor:
        scale_MC, shift_MC = self.film(told_MC).chunk(2, dim=1)
        y_MCSS = self.norm(self.conv(x_MCSS)) * (1 + scale_MC[..., None, None]) + shift_MC[..., None, None]
        return x_MCSS + F.silu(y_MCSS)


def _normed_conv(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, out, 3, padding=1, bias=False), nn.GroupNorm(8, out), nn.SiLU())


def grid_points(boxes_BN4: Tensor, side: int) -> Tensor:
    """Return (B, N * side, side, 2) x, y of the middles of a grid's cells inside each box, in the boxes' frame."""
    steps_S = (torch.arange(side, device=boxes_BN4.device) + 0.5) / side
    across_BN2S = boxes_BN4[..., :2, None] + (boxes_BN4[..., 2:] - boxes_BN4[..., :2])[..., None] * steps_S
    xs, ys = across_BN2S[:, :, 0, None, :], across_BN2S[:, :, 1, :, None]
    grid = torch.stack(torch.broadcast_tensors(xs, ys), dim=-1)  # type: ignore[no-untyped-call]
    return grid.flatten(1, 2)


def _look(map_BCHW: Tensor, boxes_BN4: Tensor, side: int) -> Tensor:
    """A map at a grid of points in each box, frame "unit" -> (B * N, C, side, side)."""
    grid = grid_points(boxes_BN4, side).to(map_BCHW.dtype) * 2 - 1
    seen = F.grid_sample(map_BCHW, grid, padding_mode="border", align_corners=False)
    batch, boxes = boxes_BN4.shape[:2]
    return seen.reshape(batch, -1, boxes, side, side).transpose(1, 2).flatten(0, 1)
