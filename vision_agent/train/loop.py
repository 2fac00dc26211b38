"""TODO docstring."""

import math

import torch


def schedule(step: int, steps: int) -> float:
    """Share of the highest rate of learning: linear warm-up, then cosine."""
    return min(1.0, (step + 1) / min(60, steps)) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def fast_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 matrices faster than others."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_amx_tile_supported())
