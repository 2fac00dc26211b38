"""Puts what xtuner trained into a native model: its names are the original ones, whose tensors may be fused.

The change of a fused weight (InternLM2's `wqkv`) is cut as the weight itself was, so that LoRA on it is merged too.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vision_agent.errors import CheckpointError, ConfigError
from vision_agent.model.original.weights import INTERNLM2_RULES, PLAIN_RULES, VISION_RULES, Rule
from vision_agent.model.xtuner_files import read_xtuner


def apply_xtuner(model: Any, paths: Sequence[Path]) -> None:
    """Merge xtuner's checkpoints into a native InternVL model, in place, one after the other.

    Raises:
        CheckpointError: a damaged file, or one of another model.
        ConfigError: the model's weights were offloaded.
    """
    held = dict(model.named_parameters())
    if any(parameter.is_meta for parameter in held.values()):
        raise ConfigError("`lora` cannot be added to weights that the device map left off the device; leave one out")
    for path in paths:
        tuned = read_xtuner(path)
        names = [*tuned.whole, *tuned.loras]
        fused = any(".attention.w" in name or ".feed_forward.w" in name for name in names)
        rules = (*VISION_RULES, *(INTERNLM2_RULES if fused else PLAIN_RULES))
        with torch.no_grad():
            for name, tensor in tuned.whole.items():
                for parameter, piece in _pieces(path, name, tensor, rules, held, model.config):
                    parameter.copy_(piece)
            for name, (down, up, scale) in tuned.loras.items():
                change = scale * (up.float() @ down.float())
                for parameter, piece in _pieces(path, name, change, rules, held, model.config):
                    parameter.copy_(parameter.float() + piece.to(parameter.device))
    model.eval().requires_grad_(False)


def _pieces(
    path: Path, name: str, tensor: Tensor, rules: Sequence[Rule], held: dict[str, Any], config: Any
) -> list[tuple[Any, Tensor]]:
    """The parameters that an original tensor is about, each with its part of it."""
    found = next(((rule, names) for rule in rules if (names := rule.native_names(name)) is not None), None)
    if found is None or any(native not in held for native in found[1]):
        raise CheckpointError(f"{path.name} has {name!r}, for which this model has no place")
    rule, names = found
    try:
        pieces = rule.split(tensor, config) if rule.split else [tensor]
    except RuntimeError:
        pieces = []
    if [tuple(piece.shape) for piece in pieces] != [tuple(held[native].shape) for native in names]:
        raise CheckpointError(
            f"{name} in {path.name} has the shape {tuple(tensor.shape)}, which does not fit this model"
        )
    return [(held[native], piece) for native, piece in zip(names, pieces, strict=True)]
