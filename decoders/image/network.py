"""The small generator's networks: words to condition tokens, a denoiser of slots, and a painter of single objects.

The denoiser is a transformer whose sequence holds the condition, the rows of slots and, for an edit, the patches of the
image to change. Time and the mean condition modulate every layer through one shared projection (PixArt,
https://arxiv.org/abs/2310.00426).

Shape suffixes: B images, T condition tokens, D width, R F rows and numbers of slots, S side of a source, L positions.
"""

import math
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .slots import CODE, NUMBERS, ROWS
from .words import LENGTH

SOURCE = 96  # pixels a side of the image to change, as the denoiser sees it
SPRITE = 96  # pixels a side of a painted object
_PATCH = 12
_HEAD = 64  # width of an attention head


class WordEncoder(nn.Module):
    """Word ids (B, LENGTH) -> condition tokens (B, LENGTH, D) of unit variance."""

    def __init__(self, vocabulary: int, width: int, inner: int = 192, layers: int = 2) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary, inner)
        self.places = nn.Parameter(torch.randn(LENGTH, inner) * 0.1)
        self.layers = nn.Sequential(*(_WordBlock(inner) for _ in range(layers)))
        self.out = nn.Linear(inner, width)
        nn.init.normal_(self.table.weight, std=0.3)

    def forward(self, ids_BT: Tensor) -> Tensor:
        out = self.out(self.layers(self.table(ids_BT) + self.places))
        return F.layer_norm(out.float(), out.shape[-1:])


class Denoiser(nn.Module):
    """Noisy rows, time, condition and perhaps an image to change -> clean rows.

    Args:
        width: D, a multiple of 64.
        depth: transformer blocks.
    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.enter = nn.Linear(NUMBERS, width)
        self.patches = nn.Linear(4 * _PATCH * _PATCH, width)
        self.patch_places = nn.Parameter(torch.randn((SOURCE // _PATCH) ** 2, width) * 0.2)
        self.row_places = nn.Parameter(torch.randn(ROWS, width) * 0.2)
        self.word_places = nn.Parameter(torch.randn(LENGTH, width) * 0.2)
        self.nothing = nn.Parameter(torch.randn(LENGTH, width) * 0.5)  # the condition that says nothing
        self.time = nn.Sequential(nn.Linear(128, width), nn.SiLU(), nn.Linear(width, width))
        self.pooled = nn.Linear(width, width)
        self.modulation = nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(depth))
        self.leave = nn.Linear(width, NUMBERS)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(
        self, noisy_BRF: Tensor, time_B: Tensor, condition_BTD: Tensor, source_B4SS: Tensor | None = None
    ) -> Tensor:
        """Return the clean rows.

        Args:
            time_B: share of what is clean, 0 (noise) to 1.
            source_B4SS: the image to change, -1..1, and 1 where it may change, 0 elsewhere; None to make a new one.
        """
        level_BD = F.silu(self.time(_waves(time_B)) + self.pooled(condition_BTD.mean(dim=1)))
        parts = [self.enter(noisy_BRF) + self.row_places, condition_BTD + self.word_places]
        if source_B4SS is not None:
            pixels = F.pixel_unshuffle(source_B4SS, _PATCH).flatten(2).transpose(1, 2)
            parts.append(self.patches(pixels) + self.patch_places)
        h = torch.cat([part.to(parts[0].dtype) for part in parts], dim=1)
        shifts = self.modulation(level_BD).unflatten(-1, (6, -1))
        for block in self.blocks:
            h = block(h, shifts)
        rows: Tensor = self.leave(F.layer_norm(h[:, :ROWS], h.shape[-1:]))
        return rows.float()


class Painter(nn.Module):
    """Codes (B, bits) -> objects as they look: (B, 4, 96, 96), premultiplied colours and cover, 0..1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.enter = nn.Sequential(
            nn.Linear(CODE.stop - CODE.start, 4 * channels), nn.ReLU(), nn.Linear(4 * channels, 2 * channels * 36)
        )
        widths = [2 * channels, 2 * channels, channels, channels // 2]
        self.grow = nn.ModuleList(nn.Conv2d(before, after, 3, padding=1) for before, after in pairwise(widths))
        self.leave = nn.Conv2d(widths[-1], 4 * 4, 3, padding=1)  # four numbers for each of 2 x 2 pixels

    def forward(self, codes_BC: Tensor) -> Tensor:
        x = self.enter(codes_BC).unflatten(1, (-1, 6, 6)).contiguous(memory_format=torch.channels_last)
        for conv in self.grow:  # 6 -> 12 -> 24 -> 48 cells a side
            x = F.relu(conv(F.interpolate(x, scale_factor=2.0, mode="nearest")))
        out = torch.sigmoid(F.pixel_shuffle(self.leave(x).contiguous(), 2).float())
        # No colour without cover.
        return torch.cat([torch.minimum(out[:, :3], out[:, 3:]), out[:, 3:]], dim=1)


class _Attention(nn.Module):
    """Attention of all positions to all, with normed queries and keys."""

    def __init__(self, width: int, head: int = _HEAD) -> None:
        super().__init__()
        self.head = head
        self.qkv = nn.Linear(width, 3 * width)
        self.norm_q, self.norm_k = nn.LayerNorm(head), nn.LayerNorm(head)
        self.mixed = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, -1, self.head)).permute(2, 0, 3, 1, 4)
        # Written out: for so few positions this trains several times faster on a CPU than the fused kernel.
        weights = (self.norm_q(q) @ self.norm_k(k).transpose(-1, -2) * self.head**-0.5).softmax(dim=-1)
        return cast(Tensor, self.mixed((weights.to(v.dtype) @ v).transpose(1, 2).flatten(2)))


class _WordBlock(nn.Module):
    """Transformer block over words."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = _Attention(width, head=32)
        self.mlp = nn.Sequential(nn.Linear(width, 3 * width), nn.ReLU(), nn.Linear(3 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return cast(Tensor, x + self.mlp(self.norm2(x)))


class _Block(nn.Module):
    """Transformer block of the denoiser; time and condition scale, shift and gate it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.own = nn.Parameter(torch.randn(6, width) * 0.02)
        self.attention = _Attention(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))
        with torch.no_grad():
            self.own[2] += 0.5  # the gates: a block does something from the start
            self.own[5] += 0.5

    def forward(self, x: Tensor, shifts_B6D: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = (shifts_B6D + self.own).to(x.dtype).unsqueeze(2).unbind(1)
        x = x + gate1 * self.attention(torch.addcmul(shift1, F.layer_norm(x, x.shape[-1:]), 1 + scale1))
        return cast(Tensor, x + gate2 * self.mlp(torch.addcmul(shift2, F.layer_norm(x, x.shape[-1:]), 1 + scale2)))


def _waves(time_B: Tensor) -> Tensor:
    """Sines and cosines (B, 128) of times 0..1."""
    rates = torch.exp(torch.linspace(0.0, math.log(1000.0), 64, device=time_B.device))
    angles = time_B[:, None].float() * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
