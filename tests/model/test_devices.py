"""The choice of a device and of a number format."""

import pytest
import torch

from vision_agent.errors import ConfigError
from vision_agent.model.devices import choose_device, choose_dtype, computing_in, published_dtype

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
