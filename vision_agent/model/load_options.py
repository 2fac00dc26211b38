"""Size and speed: how a checkpoint's weights are loaded.

`LoadOptions` holds the choices, `check_load_options` compares them with the machine before any weight is read,
`load_arguments` says them to transformers, and `finish` does the rest in place on the loaded model. Quantisation and
compiling concern the language model, which has most of the weights and all of the steps of an answer; the vision tower,
the projector and the token tables are never quantised.

Quantisation by device:

* CUDA: bitsandbytes, int8 (LLM.int8, https://arxiv.org/abs/2208.07339) or 4-bit (NF4, https://arxiv.org/abs/2305.14314).
* CPU and MPS, and mixtures of experts everywhere: int8 weights by `vision_agent.model.int8`; there is no 4-bit. They
  are rounded while they are read, so the memory is never that of the whole model.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict, Unpack

import torch
from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError, field_validator

from vision_agent.errors import ConfigError, bad_argument, require_extra, require_package
from vision_agent.model.attention import has_sinks
from vision_agent.model.compile import check_compiler, compile_steps
from vision_agent.model.cuda_graphs import record_steps
from vision_agent.model.device_map import DeviceMap, check_memory, main_device
from vision_agent.model.devices import (
    DTYPE_NAMES,
    choose_device,
    has_bitsandbytes,
    has_cuda_graphs,
    has_flash_attention,
)
from vision_agent.model.int8 import quantize_linears
from vision_agent.model.int8_packed import PackedHead, pack_linears, packs_here
from vision_agent.model.lora import apply_lora, check_lora_folder
from vision_agent.model.original.xtuner import apply_xtuner
from vision_agent.model.xtuner_files import is_xtuner

# What bitsandbytes must leave alone, by module names of `InternVLForConditionalGeneration`.
UNQUANTIZED = ("model.vision_tower", "model.multi_modal_projector", "lm_head")

_EXPECTED = {
    "device": "'auto' or a torch device such as 'cpu', 'cuda:1', 'mps', 'xpu' or 'npu'",
    "dtype": f"'auto' or one of {DTYPE_NAMES}",
    "attn_implementation": "'sdpa', 'eager' or 'flash_attention_2'",
    "quantization": "None, 'int8' or '4bit'",
    "compile": "True or False",
    "cuda_graphs": "True or False",
    "device_map": "None, 'auto', 'balanced', 'balanced_low_0', 'sequential' or a dict of module names to devices",
    "offload_folder": "None or a folder",
    "max_memory": "None or a dict of devices to sizes such as {0: '20GiB', 'cpu': '60GiB'}",
    "lora": "a folder or a list of folders",
    "threads": "None or a whole number from 1 to 1024",
}


class LoadSettings(TypedDict, total=False):
    """The keywords of `LoadOptions.of`, for signatures that pass them on."""

    device: str | torch.device
    dtype: str | torch.dtype
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"]
    quantization: Literal["int8", "4bit"] | None
    compile: bool
    cuda_graphs: bool
    device_map: DeviceMap | None
    offload_folder: str | Path | None
    max_memory: Mapping[int | str, int | str] | None
    lora: str | Path | list[str | Path] | tuple[str | Path, ...]
    threads: int | None


class LoadOptions(BaseModel):
    """How weights are loaded.

    Attributes:
        device: `"auto"` (the machine's accelerator, else the CPU) or any torch device.
        dtype: `"auto"` takes the fastest format in which the weights are known to work (see `devices.choose_dtype`).
            fp16 works on a CPU, where it saves memory and no time.
        attn_implementation: `"sdpa"`, `"eager"`, or `"flash_attention_2"` on CUDA.
        quantization: weights of the language model's linear layers as `"int8"` or, on CUDA, `"4bit"`.
        compile: `torch.compile` the steps that write an answer's tokens. The first answers take a minute or more
            longer, one time for each kind of batch.
        cuda_graphs: on CUDA, record the step that writes a token once and replay it, so that the device waits for no
            Python. Buffers for a thousand tokens stay allocated. Not for mixtures of experts, and not beside `compile`,
            `device_map` and `quantization`.
        device_map: spread the model over devices: a plan's name, or a dict of module names to devices. Token tables
            that are one tensor lie together, where the input table is. Loading an adapter takes the tables off the
            disk for good, for it changes them.
        offload_folder: with `device_map`, where weights that fit on no device wait on disk.
        max_memory: with `device_map`, the most to use of each device: by the number of an accelerator, "cpu", "disk".
        lora: PEFT LoRA folders, added to the language model together; checkpoints of xtuner (`.pth`), merged.
        threads: of torch on the CPU, in the whole process; None for as many as torch takes, and no more than the
            processors that this process has (see `threads.available_cpus`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str = "auto"
    dtype: str = "auto"
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    quantization: Literal["int8", "4bit"] | None = None
    compile: StrictBool = False
    cuda_graphs: StrictBool = False
    device_map: DeviceMap | None = None
    offload_folder: Path | None = None
    max_memory: dict[int | str, int | str] | None = None
    lora: tuple[Path, ...] = ()
    threads: Annotated[int, Field(strict=True, ge=1, le=1024)] | None = None

    @classmethod
    def of(cls, **settings: Unpack[LoadSettings]) -> "LoadOptions":
        """Make options of keywords, with this package's own errors.

        Raises:
            ConfigError: an unknown option, or a value that is none of those it takes.
        """
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            name = str(error.errors()[0]["loc"][0])
            if name not in _EXPECTED:
                raise ConfigError(f"unknown option {name!r}; expected some of {sorted(_EXPECTED)}") from error
            raise ConfigError(bad_argument(name, _EXPECTED[name], dict(settings)[name])) from error

    @field_validator("device", mode="before")
    @classmethod
    def _device_name(cls, value: object) -> object:
        return str(value) if isinstance(value, torch.device) else value

    @field_validator("dtype", mode="before")
    @classmethod
    def _dtype_name(cls, value: object) -> object:
        value = str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else value
        if value != "auto" and value not in DTYPE_NAMES:
            raise ValueError(_EXPECTED["dtype"])
        return value

    @field_validator("device_map", "max_memory", mode="before")
    @classmethod
    def _numbers(cls, value: object) -> object:
        pairs = value.items() if isinstance(value, Mapping) else ()
        if any(isinstance(each, bool) for pair in pairs for each in pair):
            raise ValueError("True and False are no devices and no sizes")
        return value

    @field_validator("lora", mode="before")
    @classmethod
    def _folders(cls, value: object) -> object:
        return (value,) if isinstance(value, str | Path) else value


def check_load_options(options: LoadOptions) -> torch.device:
    """Find out whether this machine can do what the options ask, before any weight is read.

    Returns:
        the device that prompts and images go to.

    Raises:
        ConfigError: a device that is not there, or options that this hardware or each other rule out.
        MissingExtraError: a package that is not installed.
        CheckpointError: a LoRA folder that cannot be read.
    """
    if options.device_map is not None and options.device != "auto":
        raise ConfigError(
            f"`device_map` chooses the devices itself, but got `device`={options.device!r} as well; leave one out"
        )
    _check_device_map(options)
    device = choose_device(options.device) if options.device_map is None else main_device(options.device_map)
    _check_attention(options, device)
    _check_quantization(options, device)
    own, tuned = _sorted_loras(options)
    for folder in own:
        check_lora_folder(folder)
    if own:
        require_extra("peft", "lora", "LoRA adapters are")
    if tuned and options.quantization is not None and _by_bitsandbytes(options, device):
        raise ConfigError("xtuner's checkpoints are merged, which rounded weights cannot be; leave `quantization` out")
    if options.compile:
        check_compiler(device)
    _check_graphs(options, device)
    return device


def check_mixture(options: LoadOptions, device: torch.device) -> None:
    """See that a mixture of experts can be loaded as the options ask.

    Raises:
        ConfigError: bitsandbytes rounds no experts, which are nearly all of such a model.
    """
    if options.quantization == "4bit":
        raise ConfigError("'4bit' reaches no experts, and this is a mixture of experts; use `quantization`='int8'")
    if options.quantization is not None and options.device_map is not None:
        raise ConfigError("`quantization` and `device_map` do not go together for mixtures of experts; leave one out")
    if options.quantization is not None and options.lora:
        raise ConfigError("`quantization` and `lora` do not go together for mixtures of experts; leave one out")


def check_sinks(options: LoadOptions, config: Any) -> None:
    """See that the attention asked for has the sinks that the language model needs.

    Raises:
        ConfigError: flash attention, which would leave them out.
    """
    if has_sinks(config) and options.attn_implementation == "flash_attention_2":
        raise ConfigError(
            "'flash_attention_2' has no attention sinks, which this language model needs; leave `attn_implementation` "
            "out"
        )


def rounds_while_reading(options: LoadOptions, device: torch.device, *, mixture: bool = False) -> bool:
    """Return whether int8 weights are made here, of one tensor of the files after another.

    bitsandbytes does it on CUDA, but for mixtures of experts. LoRA is merged first, which takes the whole model.
    """
    return options.quantization == "int8" and not _by_bitsandbytes(options, device, mixture) and not options.lora


def load_arguments(options: LoadOptions, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Return keyword arguments of `InternVLForConditionalGeneration.from_pretrained`."""
    arguments: dict[str, Any] = {"dtype": dtype, "attn_implementation": options.attn_implementation}
    if options.device_map is not None:
        arguments["device_map"] = options.device_map
        if options.offload_folder is not None:
            arguments["offload_folder"] = str(options.offload_folder)
        if options.max_memory is not None:
            arguments["max_memory"] = options.max_memory
    if _by_bitsandbytes(options, device):
        from transformers import BitsAndBytesConfig

        arguments.setdefault("device_map", {"": device})
        arguments["quantization_config"] = BitsAndBytesConfig(
            load_in_8bit=options.quantization == "int8",
            load_in_4bit=options.quantization == "4bit",
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=list(UNQUANTIZED),
            # What a device map puts on the CPU stays unquantised there.
            llm_int8_enable_fp32_cpu_offload=options.device_map is not None,
        )
    return arguments


def finish(model: Any, options: LoadOptions, device: torch.device) -> None:
    """Make a model that `from_pretrained` just loaded ready for use, in place.

    LoRA is merged before int8 rounding, which then sees the final weights. Weights that bitsandbytes rounded while
    loading keep their LoRA beside them, as in training: merging would round them again.

    Args:
        device: what `check_load_options` returned.

    Raises:
        CheckpointError: a LoRA adapter of another model.
    """
    model.eval().requires_grad_(False)
    rounded = _by_bitsandbytes(options, device, is_mixture(model.config))
    own, tuned = _sorted_loras(options)
    if tuned:
        apply_xtuner(model, tuned)
    if own:
        apply_lora(model, own, merge=not rounded)
    if options.quantization == "int8" and not rounded:
        quantize_linears(model.model.language_model)
        if device.type == "cpu" and options.device_map is None and not options.compile and packs_here():
            pack_linears(model.model.language_model)
            model.set_output_embeddings(PackedHead(model.get_output_embeddings()))
    if not rounded and options.device_map is None:
        model.to(device)
    elif isinstance(options.device_map, dict) and hasattr(model, "_hf_hook"):
        # accelerate takes any of the map's devices, by the order of a set.
        model._hf_hook.execution_device = device
    if options.compile:
        compile_steps(model.model.language_model)
    if options.cuda_graphs:
        record_steps(model.model.language_model)


def is_mixture(config: Any) -> bool:
    """Return whether a model's configuration is of a mixture of experts."""
    return bool(getattr(config.text_config, "num_experts", None))


def _sorted_loras(options: LoadOptions) -> tuple[list[Path], list[Path]]:
    """PEFT's folders, and xtuner's checkpoints."""
    tuned = [path for path in options.lora if is_xtuner(path)]
    return [path for path in options.lora if path not in tuned], tuned


def _by_bitsandbytes(options: LoadOptions, device: torch.device, mixture: bool = False) -> bool:
    return options.quantization is not None and has_bitsandbytes(device) and not mixture


def _check_attention(options: LoadOptions, device: torch.device) -> None:
    if options.attn_implementation != "flash_attention_2":
        return
    if not has_flash_attention(device):
        raise ConfigError(f"'flash_attention_2' runs on CUDA only, but the device is {str(device)!r}; use 'sdpa'")
    if options.dtype in ("float32", "fp32"):
        raise ConfigError("'flash_attention_2' computes in bf16 or fp16, but `dtype` is 'float32'; leave `dtype` out")
    # Built against the installed torch, so it cannot be an ordinary extra of this package.
    require_package(
        "flash_attn", "'flash_attention_2' needs flash-attn: pip install flash-attn --no-build-isolation; or use 'sdpa'"
    )


def _check_quantization(options: LoadOptions, device: torch.device) -> None:
    if options.quantization is None:
        return
    if has_bitsandbytes(device):
        require_extra("bitsandbytes", "cuda-quantization", f"`quantization`={options.quantization!r} on CUDA is")
        require_extra("accelerate", "cuda-quantization", f"`quantization`={options.quantization!r} on CUDA is")
        return
    if options.quantization == "4bit":
        raise ConfigError(f"'4bit' runs on CUDA only, but the device is {str(device)!r}; use `quantization`='int8'")
    if options.device_map is not None:
        raise ConfigError(
            "`quantization` and `device_map` go together on CUDA only: weights that wait on disk cannot be rounded in "
            "memory; leave one out"
        )


def _check_graphs(options: LoadOptions, device: torch.device) -> None:
    if not options.cuda_graphs:
        return
    for name in ("compile", "device_map", "quantization"):
        if getattr(options, name):
            raise ConfigError(f"`cuda_graphs` and `{name}` exclude each other; leave one out")
    if not has_cuda_graphs(device):
        raise ConfigError(f"`cuda_graphs` need a CUDA device, but the device is {str(device)!r}; leave it out")


def _check_device_map(options: LoadOptions) -> None:
    if options.device_map is None:
        for name, value in (("offload_folder", options.offload_folder), ("max_memory", options.max_memory)):
            if value is not None:
                raise ConfigError(f"`{name}` has a meaning with `device_map` only; add `device_map`='auto'")
        return
    if options.compile:
        raise ConfigError("`compile` and `device_map` exclude each other: weights that move break the graph")
    require_extra("accelerate", "offload", "`device_map` is")
    if options.offload_folder is not None:
        try:
            options.offload_folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(bad_argument("offload_folder", "a folder", str(options.offload_folder))) from error
    if options.lora and options.offload_folder is not None:
        raise ConfigError("`lora` cannot be merged into weights on disk; leave `lora` or `offload_folder` out")
    if options.max_memory is not None:
        check_memory(options.max_memory)
    on_disk = isinstance(options.device_map, dict) and "disk" in options.device_map.values()
    if on_disk and options.offload_folder is None:
        raise ConfigError("`device_map` puts weights on disk; say where with `offload_folder`")
