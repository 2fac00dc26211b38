"""One cache of the caches of several prompts of different lengths, for one forward pass over all of them.

Each row ends in the last column; shorter ones have padding before them, which their mask hides.

Shape suffixes: B rows, P columns, L new tokens.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from vision_agent.model.attention import cache_of, full_cache, layer_masks

_SLACK = 64  # columns of padding that are always worth a forward pass


def joint_cache(caches: Sequence[DynamicCache | None], lengths: Sequence[int]) -> DynamicCache:
    """Copy caches of one row each into one; the caches stay as they are.

    Args:
        caches: None for a row that has nothing yet.
        lengths: tokens of each, from the first column.
    """
    columns = max(lengths)
    some = next((cache for cache, length in zip(caches, lengths, strict=True) if cache is not None and length), None)
    if some is None:
        return full_cache()
    pairs = []
    plain: Any
    for index, plain in enumerate(some.layers):
        made = [
            like.new_zeros(len(caches), like.shape[1], columns, like.shape[3]) for like in (plain.keys, plain.values)
        ]
        for row, (cache, length) in enumerate(zip(caches, lengths, strict=True)):
            if cache is not None and length:
                own: Any = cache.layers[index]
                made[0][row, :, columns - length :] = own.keys[0, :, :length]
                made[1][row, :, columns - length :] = own.values[0, :, :length]
        pairs.append((made[0], made[1]))
    return cache_of(pairs)


def real_columns(lengths: Sequence[int], device: torch.device | str) -> Tensor:
    """Return a mask (B, P), True at the tokens of a joint cache."""
    columns = max(lengths)
    padding_B = columns - torch.tensor(lengths, device=device)
    return torch.arange(columns, device=device) >= padding_B[:, None]


def continuing(config: Any, lengths: Sequence[int], new: int, dtype: torch.dtype, device: torch.device) -> Any:
    """Return the masks for new tokens that continue the rows of a joint cache, as the language model takes them.

    Args:
        config: of the language model.
        lengths: tokens of each row that are cached.
        new: tokens L of each row, padding behind them among these.
    """
    columns = max(lengths)
    padding_B1K = columns - torch.tensor(lengths, device=device)[:, None, None]
    keys_K = torch.arange(columns + new, device=device)
    behind_LK = torch.arange(columns, columns + new, device=device)[:, None] - keys_K

    def mask(window: int | None) -> Tensor:
        hidden_BLK = (behind_LK < 0) | (keys_K < padding_B1K)
        if window is not None:
            hidden_BLK = hidden_BLK | (behind_LK >= window)
        lowest = torch.finfo(dtype).min
        return torch.zeros(hidden_BLK.shape, dtype=dtype, device=device).masked_fill_(hidden_BLK, lowest)[:, None]

    return layer_masks(config, mask)


def alike(lengths: Sequence[int]) -> list[list[int]]:
    """Return the rows in groups that are worth a joint cache: none is padded to more than some twice its length."""
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        if groups and lengths[row] <= 2 * lengths[groups[-1][0]] + _SLACK:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups
