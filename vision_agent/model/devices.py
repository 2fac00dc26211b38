"""Which device to run on, and in which number format."""

import ctypes
import logging
import os
import platform
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch

from vision_agent.errors import ConfigError, bad_argument

# Below this, fp32 on a CPU is fast enough, and its answers do not depend on the machine.
_SMALL_MODEL_PARAMETERS = 200_000_000
_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
DTYPE_NAMES = tuple(_DTYPES)
_ASSUMED_MEMORY = 8 * 2**30  # where the system does not say
_FASTER = 1.3  # bf16 products are worth having from this many times fp32's speed


def choose_device(device: str | int | torch.device, *, name: str = "device") -> torch.device:
    """Choose the device: `"auto"` is this machine's accelerator, else the CPU; anything else must exist here.

    Args:
        device: a number counts accelerators.
        name: of the argument, for errors.

    Raises:
        ConfigError: no such device, or one that holds no values.
    """
    if device == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise ConfigError(bad_argument(name, "'auto' or a torch device present here", device)) from error
    if chosen.type == "meta":
        raise ConfigError(bad_argument(name, "a device that holds values", device))
    return chosen


def choose_dtype(
    device: torch.device, dtype: str | torch.dtype, *, parameters: int, published: torch.dtype | None = None
) -> torch.dtype:
    """Choose the number format: `"auto"` is the fastest one in which the weights are known to work.

    InternVL's models were trained and published in bf16, whose numbers reach as far as those of fp32. Those of fp16
    end at 65504, which activations of some exceed: it is taken only for weights that were published in it. An
    accelerator without bf16 computes all others in fp32. On a CPU bf16 is taken only if it has matrix units for it
    (AMX; emulated bf16 is two hundred times slower than fp32) and the model is large enough to need them.

    Args:
        published: the format that the checkpoint names, if any.

    Raises:
        ConfigError: an unknown dtype.
    """
    if isinstance(dtype, torch.dtype) and dtype in _DTYPES.values():
        return dtype
    if dtype != "auto":
        if dtype not in _DTYPES:
            raise ConfigError(bad_argument("dtype", f"'auto' or one of {DTYPE_NAMES}", dtype))
        return _DTYPES[str(dtype)]
    if device.type == "cpu" and parameters < _SMALL_MODEL_PARAMETERS:
        return torch.float32
    if has_fast_bf16(device):
        return torch.bfloat16
    return torch.float16 if device.type != "cpu" and published == torch.float16 else torch.float32


def has_fast_bf16(device: torch.device) -> bool:
    """Return whether a device multiplies matrices of bf16 itself; emulation does not count."""
    if device.type == "cpu":
        return bool(torch.cpu._is_amx_tile_supported())
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "mps":
        return bool(torch.backends.mps.is_macos_or_newer(14, 0))
    supported = getattr(getattr(torch, device.type, None), "is_bf16_supported", None)
    return bool(supported is not None and supported())


def has_bitsandbytes(device: torch.device) -> bool:
    """Return whether bitsandbytes rounds weights there: on CUDA, which is what torch calls ROCm too."""
    return device.type == "cuda"


def has_flash_attention(device: torch.device) -> bool:
    """Return whether the package flash-attn runs there: on CUDA, which is what torch calls ROCm too."""
    return device.type == "cuda"


def has_cuda_graphs(device: torch.device) -> bool:
    """Return whether operations can be recorded there and replayed: on CUDA, which is what torch calls ROCm too."""
    return device.type == "cuda"


def has_float64(device: torch.device) -> bool:
    """Return whether numbers of float64 exist there: Apple's GPUs have none, and NPUs hardly any."""
    return device.type in ("cpu", "cuda", "xpu")


def compiles_by_triton(device: torch.device) -> bool:
    """Return whether `torch.compile` writes Triton for a device; for others it writes C++ or Metal."""
    return device.type in ("cuda", "xpu")


def device_name(device: torch.device) -> str:
    """Return what a device is called by its maker, or what torch calls it where its backend does not say."""
    if device.type == "cpu":
        return platform.processor() or platform.machine()
    told = getattr(getattr(torch, device.type, None), "get_device_name", None)
    return str(told(device)) if told is not None else str(device)


def most_memory(device: torch.device) -> int | None:
    """Return the most bytes that tensors took on a device so far; None where it has none of its own or does not say."""
    if device.type == "cpu":
        return None
    try:
        return int(torch.accelerator.max_memory_allocated(device))
    except (RuntimeError, NotImplementedError, ValueError, AssertionError):
        return None


def published_dtype(content: Mapping[str, Any]) -> torch.dtype | None:
    """Return the number format that a `config.json` names for its weights, by its newer or older key."""
    for settings in (content, content.get("text_config"), content.get("llm_config")):
        named = (settings.get("dtype") or settings.get("torch_dtype")) if isinstance(settings, Mapping) else None
        if named is not None:
            return _DTYPES.get(str(named).removeprefix("torch."))
    return None


def computing_in(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Return a context in which networks of fp32 multiply in `dtype`; it does nothing for fp32.

    Not every accelerator has autocasting, so it is asked for only where it is needed.
    """
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def device_memory(device: torch.device) -> int:
    """Return the bytes of a device's memory; of the machine's where the device has none of its own or does not say."""
    if device.type != "cpu":
        try:
            return int(torch.accelerator.get_memory_info(device)[1])
        except (RuntimeError, NotImplementedError, ValueError, AssertionError):
            logging.getLogger(__name__).debug("%s does not say how much memory it has", device)
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return int(os.sysconf("SC_PHYS_PAGES")) * int(os.sysconf("SC_PAGE_SIZE"))
    return _ASSUMED_MEMORY


def input_device(model: Any) -> torch.device:
    """Return where a model takes its inputs. `model.device` says "meta" when the first weights wait on disk."""
    hook = getattr(model, "_hf_hook", None)
    if hook is None:
        device: torch.device = model.device
        return device
    return torch.device(hook.execution_device)


@cache
def bfloat16_pays(device: torch.device) -> bool:
    """Return whether a device multiplies bf16 clearly faster than fp32.

    A CPU is timed once: some of those that have instructions for it have no matrix units, and some without either
    emulate it slowly.
    """
    if device.type != "cpu":
        return has_fast_bf16(device)
    return _product_seconds(torch.bfloat16) * _FASTER < _product_seconds(torch.float32)


def _product_seconds(dtype: torch.dtype, side: int = 384, tries: int = 5) -> float:
    """Return the shortest of several tries at one product of square matrices."""
    matrix = torch.ones(side, side, dtype=dtype)
    matrix @ matrix  # the first one chooses a kernel
    best = float("inf")
    for _ in range(tries):
        start = time.perf_counter()
        matrix @ matrix
        best = min(best, time.perf_counter() - start)
    return best


def release_memory(device: torch.device) -> None:
    """Give the system back what torch and the C library keep of freed memory, as far as they can."""
    if device.type != "cpu":
        try:
            torch.accelerator.empty_cache()
        except (RuntimeError, NotImplementedError, AttributeError):
            logging.getLogger(__name__).debug("%s keeps its freed memory", device)
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's: each thread's arena keeps what it freed
        if trim is not None:
            trim(0)
