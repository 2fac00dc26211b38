"""The choice of a device and of a number format."""

import ast
import re
from pathlib import Path

import pytest
import torch

from vision_agent.errors import ConfigError
from vision_agent.model.devices import (
    choose_device,
    choose_dtype,
    compiles_by_triton,
    computing_in,
    device_name,
    has_bitsandbytes,
    has_flash_attention,
    most_memory,
    published_dtype,
)

CPU, CUDA, MPS = map(torch.device, ("cpu", "cuda", "mps"))


def test_auto_takes_whatever_accelerator_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("xpu"))
    assert choose_device("auto") == torch.device("xpu")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)
    assert choose_device("auto") == CPU


@pytest.mark.parametrize("device", ["meta", "cdua", "cpu:x", "", 77])
def test_what_is_no_device_is_refused(device: str | int) -> None:
    with pytest.raises(ConfigError, match="`place`") as caught:
        choose_device(device, name="place")
    assert repr(device) in str(caught.value)


@pytest.mark.parametrize(
    ("device", "has_bf16", "published", "expected"),
    [
        # InternVL is published in bf16; its activations exceed what fp16 holds.
        (CUDA, True, torch.bfloat16, torch.bfloat16),
        (CUDA, False, torch.bfloat16, torch.float32),
        (CUDA, False, None, torch.float32),
        (CUDA, False, torch.float16, torch.float16),
        (MPS, True, torch.bfloat16, torch.bfloat16),
        (MPS, False, torch.bfloat16, torch.float32),
        (MPS, False, torch.float16, torch.float16),
        (CPU, True, torch.float16, torch.bfloat16),
        (CPU, False, torch.float16, torch.float32),
    ],
)
def test_auto_is_a_format_in_which_the_weights_work(
    device: torch.device,
    has_bf16: bool,
    published: torch.dtype | None,
    expected: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda major, minor: has_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_bf16)
    assert choose_dtype(device, "auto", parameters=10**9, published=published) == expected
    # What is asked for is done.
    assert choose_dtype(device, "fp16", parameters=10**9, published=published) == torch.float16


def test_small_models_stay_in_fp32_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert choose_dtype(CPU, "auto", parameters=10**7) == torch.float32


def test_checkpoints_name_their_format_in_several_ways() -> None:
    assert published_dtype({"torch_dtype": "bfloat16"}) == torch.bfloat16  # InternVL2.5, original
    assert published_dtype({"dtype": "float16", "torch_dtype": "bfloat16"}) == torch.float16  # transformers 5
    assert published_dtype({"text_config": {"torch_dtype": "bfloat16"}}) == torch.bfloat16
    assert published_dtype({"llm_config": {"torch_dtype": "float16"}}) == torch.float16
    assert published_dtype({"torch_dtype": "float8_e4m3fn"}) is None
    assert published_dtype({"llm_config": None}) is None


def test_fp32_needs_no_autocasting() -> None:
    with computing_in(torch.device("fpga"), torch.float32):  # which knows none
        assert torch.ones(2) @ torch.ones(2) == 2
    with computing_in(CPU, torch.bfloat16):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", ["cuda", "mps", "xpu", "privateuseone"])
def test_auto_knows_every_accelerator_of_torch(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA and ROCm, Apple's, Intel's, and those that register themselves, such as NPU by torch_npu."""
    there = torch.device(kind)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: there)
    assert choose_device("auto") == there
    # What only CUDA has is asked for by name of what it does.
    assert has_bitsandbytes(there) == has_flash_attention(there) == (kind == "cuda")
    assert compiles_by_triton(there) == (kind in ("cuda", "xpu"))


def test_devices_say_their_names_and_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device_name(CPU) and most_memory(CPU) is None
    assert device_name(torch.device("meta")) == "meta", "a backend that does not say"
    monkeypatch.setattr(torch.xpu, "get_device_name", lambda device: f"Arc {device.index}")
    monkeypatch.setattr(torch.accelerator, "max_memory_allocated", lambda device: 7 * device.index)
    assert device_name(torch.device("xpu:1")) == "Arc 1" and most_memory(torch.device("xpu:1")) == 7

    def silent(device: torch.device) -> int:
        raise RuntimeError("no allocator")

    monkeypatch.setattr(torch.accelerator, "max_memory_allocated", silent)
    assert most_memory(torch.device("xpu:1")) is None


def test_nothing_but_one_module_names_cuda() -> None:
    """Everything else asks what a device can do. Texts for people, such as a help or an extra's name, may name it, and
    so may the module of what only CUDA has: its graphs."""
    root = Path(__file__).parents[2]
    own = {Path("vision_agent/model/devices.py"), Path("vision_agent/model/cuda_graphs.py")}
    named: list[str] = []
    for folder in ("vision_agent", "decoders", "tools"):
        for path in sorted((root / folder).rglob("*.py")):
            if path.relative_to(root) in own:
                continue
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                attribute = isinstance(node, ast.Attribute) and node.attr in ("cuda", "is_cuda", "hip")
                compared = isinstance(node, ast.Compare) and any(
                    isinstance(part, ast.Constant) and part.value in ("cuda", "mps", "xpu", "npu")
                    for part in [node.left, *node.comparators]
                )
                given = node.args if isinstance(node, ast.Call) else []
                texts = [str(part.value) for part in given if isinstance(part, ast.Constant)]
                made = any(re.fullmatch(r"cuda(:\d+)?", text) for text in texts)
                if attribute or compared or made:
                    named.append(f"{path.relative_to(root)}:{node.lineno}")
    assert named == []
