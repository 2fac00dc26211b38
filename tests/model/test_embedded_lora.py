"""Original folders whose LoRA was never merged (`use_llm_lora`): PEFT's names inside the official ones."""

from pathlib import Path
from typing import Any

import original_format as official
import pytest
import torch
from test_original_agent import image

from vision_agent import CheckpointError, VisionAgent
from vision_agent.checkpoint_export import export_checkpoint
from vision_agent.cli.describe import describe

State = dict[str, torch.Tensor]
_RANK = 4


def wrapped(state: State, part: str, targets: tuple[str, ...]) -> tuple[State, State]:
    """The weights as PEFT names them inside the official model, and those that merging gives, scaled by 2."""
    random = torch.Generator().manual_seed(5)
    named, merged = {}, dict(state)
    for key, tensor in state.items():
        if not key.startswith(f"{part}."):
            named[key] = tensor
            continue
        inside = f"{part}.base_model.model.{key.removeprefix(f'{part}.')}"
        module, _, kind = inside.rpartition(".")
        if not module.endswith(targets):
            named[inside] = tensor
            continue
        named[f"{module}.base_layer.{kind}"] = tensor
        if kind == "weight":
            down = torch.randn(_RANK, tensor.shape[1], generator=random) * 0.2
            up = torch.randn(tensor.shape[0], _RANK, generator=random) * 0.2
            named |= {f"{module}.lora_A.default.weight": down, f"{module}.lora_B.default.weight": up}
            merged[key] = tensor + 2 * up @ down
    return named, merged


@pytest.mark.parametrize(
    ("family", "targets"),
    [
        ("qwen2", ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")),
        ("internlm2", ("attention.wqkv", "attention.wo", "feed_forward.w2")),
        ("phi3", ("self_attn.qkv_proj", "mlp.gate_up_proj")),
    ],
)
@pytest.mark.parametrize("part", ["language_model", "vision_model"])
def test_it_is_merged_while_it_is_read(tmp_path: Path, family: str, targets: tuple[str, ...], part: str) -> None:
    content, state = official.write_folder(tmp_path, family)
    if part == "vision_model":
        targets = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    named, merged = wrapped(state, part, targets)
    setting = {"language_model": "use_llm_lora", "vision_model": "use_backbone_lora"}[part]
    (tmp_path / "model.safetensors").unlink()
    official.write_original(tmp_path, content | {setting: _RANK}, named, shards=3)
    backbone = VisionAgent.from_pretrained(tmp_path, dtype="fp32").backbone
    asked = backbone.encode("What is it?", image(1))
    context = backbone.model.config.image_token_id
    logits = backbone.logits(asked.input_ids, asked.pixel_values)
    expected, plain = (
        official.reference_logits(each, content, asked.input_ids.tolist(), asked.pixel_values, context)
        for each in (merged, state)
    )
    torch.testing.assert_close(logits, expected, atol=2e-4, rtol=0)
    assert float((expected - plain).abs().max()) > 0.05
    assert describe(str(tmp_path)).format == "original"
    # Exported it is merged for good.
    export_checkpoint(tmp_path, tmp_path / "out", format="original")
    again = VisionAgent.from_pretrained(tmp_path / "out", dtype="fp32").backbone
    assert torch.equal(again.logits(asked.input_ids, asked.pixel_values), logits)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop(next(key for key in state if "lora_B" in key)), "half there"),
        (
            lambda state: state.pop(next(key for key in state if key.endswith("v_proj.base_layer.weight"))),
            "without what",
        ),
        (
            lambda state: state.update({next(key for key in state if "lora_A" in key): torch.zeros(3, 5)}),
            r"has the shapes \(32, 4\) and \(3, 5\)",
        ),
        (
            lambda state: state.update(
                {key.replace("default", "second"): state[key].clone() for key in list(state) if "lora_" in key}
            ),
            "several LoRA adapters: default, second",
        ),
    ],
)
def test_what_is_no_whole_lora_is_refused(tmp_path: Path, change: Any, said: str) -> None:
    content, state = official.write_folder(tmp_path)
    named, _ = wrapped(state, "language_model", ("self_attn.q_proj", "self_attn.v_proj"))
    change(named)
    official.write_original(tmp_path, content | {"use_llm_lora": _RANK}, named)
    with pytest.raises(CheckpointError, match=said):
        VisionAgent.from_pretrained(tmp_path)


def test_settings_and_weights_must_agree(tmp_path: Path) -> None:
    content, state = official.write_folder(tmp_path)
    named, _ = wrapped(state, "language_model", ("self_attn.q_proj",))
    official.write_original(tmp_path, content, named)
    with pytest.raises(CheckpointError, match="the weights have LoRA in 'language_model'"):
        VisionAgent.from_pretrained(tmp_path)
    official.write_original(tmp_path, content | {"use_llm_lora": -1}, named)
    with pytest.raises(CheckpointError, match="expected a rank"):
        VisionAgent.from_pretrained(tmp_path)
