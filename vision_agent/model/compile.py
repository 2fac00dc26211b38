"""`torch.compile` for the steps that write an answer's tokens."""

import os
import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vision_agent.errors import ConfigError, require_package
from vision_agent.model.devices import compiles_by_triton


def compile_steps(language_model: Any, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile the forward pass of single tokens over a cache, in place.

    A step of writing does little arithmetic, so its time is that of launching operations, which compiling removes. A
    prompt is bound by arithmetic; compiling it would take minutes for each combination of mask, cache and batch and
    save next to nothing, so prompts and routed reading run as before.
    """
    language_model.forward = _CompiledSteps(language_model.forward, backend)


def has_compiled_steps(language_model: Any) -> bool:
    """Return whether `compile_steps` was called on a language model."""
    return isinstance(language_model.forward, _CompiledSteps)


class _CompiledSteps:
    """A language model's forward pass, compiled for steps and as it was for everything else."""

    def __init__(self, forward: Callable[..., Any], backend: str | Callable[..., Any]) -> None:
        self._forward = forward
        self._step = torch.compile(forward, dynamic=True, backend=backend)

    def __call__(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        **more: Any,
    ) -> Any:
        tokens = inputs_embeds if inputs_embeds is not None else input_ids
        is_step = (
            tokens is not None
            and tokens.shape[1] == 1
            and past_key_values is not None
            and past_key_values.get_seq_length() > 0
            and (attention_mask is None or attention_mask.ndim == 2)
        )
        # The arguments always come in the same shape: another set of keywords would be compiled anew.
        return (self._step if is_step else self._forward)(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            **more,
        )


def check_compiler(device: torch.device) -> None:
    """See that `torch.compile` can work here: it writes C++ (and Triton on CUDA), which has to be built.

    Raises:
        ConfigError: there is no C++ compiler.
        MissingExtraError: Triton is not installed.
    """
    if compiles_by_triton(device):
        where = device.type.upper()
        require_package("triton", f"`compile`=True on {where} needs Triton: pip install triton; or leave `compile` out")
    named = os.environ.get("CXX")
    candidates = (named,) if named else ("g++", "clang++", "c++", "cl")
    if not any(shutil.which(name) for name in candidates):
        raise ConfigError(
            f"`compile`=True needs a C++ compiler, and none of {', '.join(candidates)} is there; install one (Debian, "
            "Ubuntu: apt install g++; macOS: xcode-select --install), or leave `compile` out"
        )
