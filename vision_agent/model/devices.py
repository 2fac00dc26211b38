"""Which device to run on, and in which number format."""

import time
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
_FASTER = 1.3  # bf16 products are worth having from this many times fp32's speed


def choose_device(device: str | torch.device) -> torch.device:
    """Choose the device: `"auto"` is CUDA, else MPS, else CPU; anything else must be a torch device that exists here.

    Raises:
        ConfigError: no such device.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ConfigError(bad_argument("device", "'auto' or a torch device present here", device)) from error
    return chosen


def choose_dtype(device: torch.device, dtype: str | torch.dtype, *, parameters: int) -> torch.dtype:
    """Choose the number format: `"auto"` is the one that the device computes fast.

    bf16 on a GPU that has it and fp16 on an older one; on a CPU bf16 only if it has matrix units for it (AMX; emulated
    bf16 is two hundred times slower than fp32) and the model is large enough to need them.

    Raises:
        ConfigError: an unknown dtype.
    """
    if isinstance(dtype, torch.dtype) and dtype in _DTYPES.values():
        return dtype
    if dtype != "auto":
        if dtype not in _DTYPES:
            raise ConfigError(bad_argument("dtype", f"'auto' or one of {DTYPE_NAMES}", dtype))
        return _DTYPES[str(dtype)]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "mps":
        return torch.float16
    fast = torch.cpu._is_amx_tile_supported() and parameters >= _SMALL_MODEL_PARAMETERS
    return torch.bfloat16 if fast else torch.float32


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
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and _product_seconds(torch.bfloat16) * _FASTER < _product_seconds(torch.float32)


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
