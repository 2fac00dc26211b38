"""LoRA adapters, as PEFT saves them, on a loaded model.

An adapter names the modules it changes by where they lay in the model it was trained on. That may be the native model,
the original one (`language_model.model.layers...`, as ms-swift and others train it) or the language model alone; all
lead to the same native module. Projections that the original InternLM2 fuses (`wqkv`) have no single native
counterpart: such adapters are refused by name.

Only tensors of LoRA itself are taken (https://arxiv.org/abs/2106.09685; rank-stabilised and DoRA variants as PEFT knows
them), from safetensors files only.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vision_agent.errors import CheckpointError, ConfigError, last_line

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
_PEFT_PREFIX = "base_model.model."
# Start of a module's name where the adapter was trained -> its native start; the first that fits counts.
_STARTS = (
    ("model.language_model.", "model.language_model."),  # native
    ("language_model.model.", "model.language_model."),  # original, and native of transformers before 4.52
    ("language_model.lm_head", "lm_head"),
    ("language_model.", "model.language_model."),  # native, without the head
    ("model.layers.", "model.language_model.layers."),  # the language model alone
    ("layers.", "model.language_model.layers."),  # ... without its head
)


def check_lora_folder(folder: Path) -> None:
    """See that a folder holds a LoRA adapter, without reading its weights.

    Raises:
        CheckpointError: files are missing or damaged, or it is another kind of adapter.
    """
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise CheckpointError(f"the LoRA folder {str(folder)!r} has no {name}")
    try:
        content = json.loads((folder / CONFIG_FILE).read_text("utf-8"))
        kind = content["peft_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{CONFIG_FILE} of {str(folder)!r} is damaged: {error!r}") from error
    if kind != "LORA":
        raise CheckpointError(f"the adapter {str(folder)!r} is of PEFT's kind {kind!r}; expected 'LORA'")


def apply_lora(model: Any, folders: Sequence[Path], *, merge: bool = True) -> None:
    """Add LoRA adapters to a native InternVL model, in place. Their changes add up.

    Args:
        merge: fold them into the weights; else they stay beside them and run in every step.

    Raises:
        CheckpointError: damaged files, or an adapter of another model.
        ConfigError: the model's weights were offloaded.
    """
    from peft import PeftModel, set_peft_model_state_dict

    if any(parameter.is_meta for parameter in model.parameters()):
        raise ConfigError("`lora` cannot be added to weights that the device map left off the device; leave one out")
    modules = dict(model.named_modules())
    wrapped: Any = None
    names: list[str] = []
    for index, folder in enumerate(folders):
        config, state = _read(folder, modules)
        names.append(f"lora_{index}")
        try:
            if wrapped is None:
                wrapped = PeftModel(model, config, names[-1])
            else:
                wrapped.add_adapter(names[-1], config)
            report: Any = set_peft_model_state_dict(wrapped, state, names[-1])
        except Exception as error:  # PEFT raises many kinds for weights and settings that do not fit
            raise CheckpointError(f"the LoRA adapter {str(folder)!r} does not fit: {last_line(error)}") from error
        # PEFT itself passes over tensors that found no place, and over places that found no tensor.
        empty = [key for key in report.missing_keys if f".{names[-1]}." in key]
        _refuse_if_any(folder, "has tensors without a place in this model", report.unexpected_keys)
        _refuse_if_any(folder, "lacks tensors", empty)
    wrapped.base_model.set_adapter(names)
    if merge:
        wrapped.merge_and_unload(adapter_names=names)
    model.eval().requires_grad_(False)


def _read(folder: Path, modules: dict[str, Any]) -> tuple[Any, dict[str, Tensor]]:
    """An adapter's configuration and tensors, with native names."""
    from peft import LoraConfig

    check_lora_folder(folder)
    try:
        config: Any = LoraConfig.from_pretrained(str(folder))
        tensors = load_file(folder / WEIGHTS_FILE)
    except (SafetensorError, TypeError, ValueError) as error:
        raise CheckpointError(f"the LoRA folder {str(folder)!r} is damaged: {last_line(error)}") from error
    _refuse_if_any(
        folder, "replaces whole tensors, which is not supported", [key for key in tensors if ".lora_" not in key]
    )
    state = {_PEFT_PREFIX + _native(key.removeprefix(_PEFT_PREFIX)): tensor for key, tensor in tensors.items()}
    targets = {key.removeprefix(_PEFT_PREFIX).partition(".lora_")[0] for key in state}
    _refuse_if_any(folder, "changes modules that this model does not have", targets - modules.keys())
    # The tensors say which modules are changed; the patterns an adapter came with are written for the names it knew.
    config.target_modules = targets
    config.exclude_modules = config.layers_to_transform = config.layers_pattern = config.modules_to_save = None
    config.rank_pattern = {_native(key): rank for key, rank in (config.rank_pattern or {}).items()}
    config.alpha_pattern = {_native(key): alpha for key, alpha in (config.alpha_pattern or {}).items()}
    config.inference_mode = True
    return config, state


def _native(name: str) -> str:
    for start, native in _STARTS:
        if name.startswith(start):
            return native + name.removeprefix(start)
    return name


def _refuse_if_any(folder: Path, complaint: str, names: Iterable[str]) -> None:
    listed = sorted(names)
    if listed:
        more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
        raise CheckpointError(f"the LoRA adapter {str(folder)!r} {complaint}: {', '.join(listed[:3])}{more}")
