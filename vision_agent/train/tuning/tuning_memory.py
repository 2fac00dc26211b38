"""What a fine-tuning needs of memory, told before its first step, with what to change where there is too little."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vision_agent.errors import InputError
from vision_agent.model.machine_memory import free_memory, gib
from vision_agent.train.tuning.dialogue_encoding import Extent
from vision_agent.train.tuning.step_batches import Rows, StepPlan
from vision_agent.train.tuning.tuned_model import TunedModel
from vision_agent.train.tuning.tuning_settings import Tuning

# Numbers that a layer keeps of a token for the way back, in hidden sizes and in inner sizes of its MLP: inputs of the
# norms and projections, queries, keys, values, what attention gives; the gate, what goes through it, their product.
_KEPT_HIDDEN, _KEPT_INNER = 10, 4
_LOGITS = 3  # copies of an answer's scores in fp32
_OPTIMISER = 3  # numbers of fp32 for each that learns: gradient, two of AdamW
_BESIDE = 400 * 2**20  # buffers of the libraries, images that are read
_TOWER = 24  # bytes for each number of a tile's tokens, in the tower that is not learned


@dataclass(frozen=True)
class Load:
    """The heaviest pass: tokens with their padding, tokens that are learned, tiles, and rows times length squared."""

    tokens: int
    learned: int
    tiles: int
    packed_square: int = 0


def heaviest(plan: StepPlan, extents: Sequence[Extent], settings: Tuning) -> Load:
    """Return the heaviest of the passes of a round, each part by itself."""
    loads = []
    for step in range(min(plan.steps, -(-len(extents) // settings.batch))):
        loads += [_load(plan, extents, rows) for rows in plan.passes(step)]
    return Load(*(max(getattr(load, name) for load in loads) for name in Load.__dataclass_fields__))


def _load(plan: StepPlan, extents: Sequence[Extent], rows: Rows) -> Load:
    found = [[extents[plan.round_and_index(number)[1]] for number in row] for row in rows]
    longest = max(sum(each.tokens for each in row) for row in found)
    return Load(
        tokens=len(rows) * longest,
        learned=sum(each.learned for row in found for each in row),
        tiles=sum(each.tiles for row in found for each in row),
        packed_square=len(rows) * longest**2 if any(len(row) > 1 for row in found) else 0,
    )


def needed(tuned: TunedModel, load: Load, *, checkpointing: bool) -> int:
    """Return the bytes that the steps take beside the loaded model."""
    model = tuned.backbone.model
    text, vision = model.config.text_config, model.config.vision_config
    width = 2 if tuned.dtype == torch.bfloat16 else 4
    inner = int(getattr(text, "intermediate_size", 4 * text.hidden_size))
    layer = load.tokens * width * (_KEPT_HIDDEN * text.hidden_size + _KEPT_INNER * inner)
    layers = int(text.num_hidden_layers)
    kept = layers * load.tokens * width * text.hidden_size + layer if checkpointing else layers * layer
    learned = sum(each.numel() for each in tuned.learned.values())
    side = tuned.backbone.tiling.size
    tower = load.tiles * (side * side * 12 + _TOWER * tuned.backbone.tokens_per_tile * 4 * int(vision.hidden_size))
    if tuned.sees:
        tower += load.tiles * width * _tower_numbers(vision, tuned.backbone)
    logits = 4 * _LOGITS * load.learned * int(text.vocab_size)
    return int(kept + logits + tower + load.packed_square * 2 * width + 4 * _OPTIMISER * learned + _BESIDE)


def _tower_numbers(vision: Any, backbone: Any) -> int:
    """Numbers that the tower keeps of a tile for the way back."""
    layers = int(getattr(vision, "num_hidden_layers", 12))
    cells = 4 * backbone.tokens_per_tile + 1
    return int(layers * cells * 14 * vision.hidden_size)


def check_tuning_memory(
    tuned: TunedModel, plan: StepPlan, extents: Sequence[Extent], settings: Tuning, free: int | None = None
) -> str:
    """Return a sentence with the forecast.

    Args:
        free: bytes that are free beside the loaded model; None to ask the device.

    Raises:
        InputError: it is more than there is; says what to use instead.
    """
    load, device = heaviest(plan, extents, settings), tuned.backbone.device
    loaded = sum(each.numel() * each.element_size() for each in tuned.backbone.model.parameters())
    beside = needed(tuned, load, checkpointing=settings.checkpointing)
    if free is None:
        free = free_memory() if device.type == "cpu" else _free_on(device)
    told = f"needs about {gib(loaded + beside)}"
    if free is None:
        return told
    have = f"you have {gib(loaded + free)}"
    if beside <= free:
        return f"{told}; {have}"
    raise InputError(f"{told}; {have}: {_advice(tuned, load, settings, free)}")


def _advice(tuned: TunedModel, load: Load, settings: Tuning, free: int) -> str:
    """The least change by which it fits, or all of them."""
    tried: list[str] = []
    checkpointing, micro = settings.checkpointing, settings.micro
    if not checkpointing:
        tried.append("--checkpointing")
        if needed(tuned, load, checkpointing=True) <= free:
            return f"use {tried[0]}"
    rows = micro if not settings.pack else 1
    for fewer in range(rows - 1, 0, -1):
        part = Load(*(-(-getattr(load, name) * fewer // rows) for name in Load.__dataclass_fields__))
        if needed(tuned, part, checkpointing=True) <= free:
            return f"use {' '.join([*tried, f'--micro {fewer}'])}"
    tried += [f"--micro 1 instead of {micro}"] * (rows > 1)
    tried.append(f"fewer --max-tiles, a --max-length below {settings.max_length}")
    if settings.method != "lora":
        tried.append("--method lora, which keeps no gradient of most weights")
    elif settings.quantization is None:
        tried.append("--quantization 4bit on CUDA")
    tried.append("a smaller checkpoint, or more memory")
    return f"use {', '.join(tried)}"


def _free_on(device: torch.device) -> int | None:
    try:
        return int(torch.accelerator.get_memory_info(device)[0])
    except (RuntimeError, NotImplementedError, ValueError, AssertionError):
        return None  # it does not say
