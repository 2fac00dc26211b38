"""Makes a model without values, and says under which names its tensors are filled."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import InternVLConfig, InternVLForConditionalGeneration
from transformers.initialization import no_init_weights
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

from vision_agent.errors import CheckpointError, last_line
from vision_agent.model.attention import attention_choice
from vision_agent.model.device_map import place_of
from vision_agent.model.fingerprint import todays_name
from vision_agent.model.int8 import (
    Int8Experts,
    Int8GptOssExperts,
    Int8Linear,
    RoundedExperts,
    RoundedRows,
    quantize_linears,
)
from vision_agent.model.weight_files import WeightFile, refuse_integers

# Kept by some old files; follows from the configuration.
_COMPUTED = ".rotary_emb.inv_freq"
# What a tensor of a checkpoint is copied to.
Target = Tensor | RoundedRows | RoundedExperts
# Where a model lies: on one device, or by the names of its modules on several.
Places = torch.device | Mapping[str, int | str]


def empty_model(
    config: InternVLConfig,
    *,
    dtype: torch.dtype,
    attn_implementation: str,
    int8: bool = False,
    places: Places | None = None,
) -> InternVLForConditionalGeneration:
    """Make a native model whose weights are not set, in eval mode.

    Args:
        int8: the language model's linear layers and experts are int8, and never were anything else: memory is that of
            the rounded model.
        places: the devices that its tensors are made on, and nothing of them elsewhere; None for torch's default.

    Raises:
        CheckpointError: settings that contradict each other.
    """
    try:
        with no_init_weights(), torch.device("meta"):
            model: Any = InternVLForConditionalGeneration._from_config(
                config, dtype=dtype, attn_implementation=attention_choice(config, attn_implementation)
            )
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"config.json makes no sense: {last_line(error)}") from error
    model.tie_weights()  # left out with the setting of weights
    if int8:
        quantize_linears(model.model.language_model)
    _give_storage(model, torch.get_default_device() if places is None else places)
    empty: InternVLForConditionalGeneration = model.eval().requires_grad_(False)
    return empty


def misfits(model: Any, files: Sequence[WeightFile]) -> list[str]:
    """Return the native names of tensors that are missing, unexpected or of another shape than in the model."""
    refuse_integers(files)
    found = {todays_name(key): tuple(file.tensor(key).shape) for file in files for key in file.keys()}
    found = {name: shape for name, shape in found.items() if not name.endswith(_COMPUTED)}
    # Experts are stored one by one, or joined as they are in memory.
    joined = any(name.endswith(".mlp.experts.gate_up_proj") for name in found)
    wanted = {name: tuple(to.shape) for name, to in (model.state_dict() if joined else fillable(model)).items()}
    if model.config.tie_word_embeddings:
        wanted.pop("lm_head.weight", None)
        found.pop("lm_head.weight", None)
    return sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))


def fillable(model: Any) -> dict[str, Target]:
    """Return what is filled with a checkpoint's tensors, by native name; experts one by one, as they are stored.

    All have a `shape` and a `copy_`. One table for words in and out is named once.
    """
    targets: dict[str, Target] = dict(model.state_dict())
    if model.get_input_embeddings().weight is model.get_output_embeddings().weight:
        del targets["lm_head.weight"]
    for name, module in model.named_modules():
        if isinstance(module, Int8Linear):
            targets[f"{name}.weight"] = module.rows
            del targets[f"{name}.scale"]
        elif isinstance(module, Int8GptOssExperts):  # joined in the files, as they are in memory
            for part in ("gate_up", "down"):
                targets[f"{name}.{part}_proj"] = module.joined(part)
                del targets[f"{name}.{part}_scale"]
        elif isinstance(module, Int8Experts | Qwen3MoeExperts):
            for own, _ in [*module.named_parameters(), *module.named_buffers()]:
                del targets[f"{name}.{own}"]
            for expert in range(len(module.down_proj)):
                targets |= {f"{name}.{expert}.{part}.weight": to for part, to in _parts(module, expert).items()}
    return targets


def _parts(experts: Int8Experts | Qwen3MoeExperts, expert: int) -> dict[str, Tensor | RoundedRows]:
    if isinstance(experts, Int8Experts):
        both = experts.rows("gate_up", expert)
        half = len(both.weight_OI) // 2
        gate, up = (RoundedRows(both.weight_OI[part], both.scale_O[part]) for part in (slice(half), slice(half, None)))
        return {"gate_proj": gate, "up_proj": up, "down_proj": experts.rows("down", expert)}
    gate_OI, up_OI = experts.gate_up_proj.data[expert].chunk(2)
    return {"gate_proj": gate_OI, "up_proj": up_OI, "down_proj": experts.down_proj.data[expert]}


def _give_storage(model: nn.Module, places: Places) -> None:
    """Put a model without storage on its devices: tensors that a checkpoint fills are left as they come."""
    given: dict[nn.Parameter, nn.Parameter] = {}  # tables that are one stay one
    for path, module in model.named_modules():
        start = f"{path}." if path else ""
        for name, parameter in module.named_parameters(recurse=False):
            if parameter not in given:
                made = torch.empty_like(parameter, device=_device(places, start + name))
                given[parameter] = nn.Parameter(made, False)
            setattr(module, name, given[parameter])
        computed = module._non_persistent_buffers_set & set(dict(module.named_buffers(recurse=False)))
        if computed:
            # Those of rotary embeddings follow from the settings that the module was made of.
            kind: Any = type(module)
            fresh = kind(module.config)
            for name in computed:
                setattr(module, name, getattr(fresh, name).to(_device(places, start + name)))
        for name, buffer in module.named_buffers(recurse=False):
            if name not in computed:
                setattr(module, name, torch.empty_like(buffer, device=_device(places, start + name)))


def _device(places: Places, name: str) -> torch.device | int | str:
    return places if isinstance(places, torch.device) else _named(places, name)


def _named(places: Mapping[str, int | str], name: str) -> int | str:
    place = place_of(places, name)
    return "cpu" if place is None else place  # 0 is a device
