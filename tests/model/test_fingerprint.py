"""Fingerprints tell weights apart: not their files, number formats, devices or the way they are loaded."""

import json
from pathlib import Path
from typing import Any

import original_format as official
import pytest
import torch
from conftest import tiny_backbone
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import InternVLForConditionalGeneration

from vision_agent import AdapterMismatchError, RouteSpec, VisionAgent
from vision_agent.model.checkpoint import DEFAULT_CHECKPOINT, load_backbone
from vision_agent.model.fingerprint import with_lora
from vision_agent.model.original import convert
from vision_agent.routing.adapter import load_adapter, new_route, save_adapter

INDEX = "model.safetensors.index.json"


def fingerprint(folder: Path, **settings: Any) -> str:
    return load_backbone(folder, device="cpu", **settings).fingerprint


def shards(folder: Path) -> Path:
    """Write the weights of a native folder anew in several files, as transformers cuts them."""
    model = InternVLForConditionalGeneration.from_pretrained(folder)
    model.save_pretrained(folder, max_shard_size="100KB")
    (folder / "model.safetensors").unlink()
    return folder


def change_tensor(file: Path, name: str) -> None:
    state = load_file(file)
    state[name] = state[name] + 0.01
    save_file(state, file, metadata={"format": "pt"})


def test_two_sharded_checkpoints_with_one_index_differ(checkpoint: Path) -> None:
    before = fingerprint(shards(checkpoint))
    index = (checkpoint / INDEX).read_text("utf-8")
    for name, file in json.loads(index)["weight_map"].items():
        saved = (checkpoint / file).read_bytes()
        change_tensor(checkpoint / file, name)
        assert (checkpoint / INDEX).read_text("utf-8") == index
        assert (fingerprint(checkpoint) == before) is name.endswith(".position_embeddings"), name
        (checkpoint / file).write_bytes(saved)
        if "layers.1." in name:
            break
    assert fingerprint(checkpoint) == before


def test_files_formats_and_devices_do_not_matter(checkpoint: Path) -> None:
    expected = fingerprint(checkpoint)
    assert len(expected) == 32
    assert fingerprint(checkpoint, dtype="bf16") == fingerprint(checkpoint, quantization="int8") == expected
    assert load_backbone(checkpoint, device_map={"": "cpu"}).fingerprint == expected
    state = load_file(checkpoint / "model.safetensors")
    assert fingerprint(shards(checkpoint)) == expected
    for path in checkpoint.glob("model*"):
        path.unlink()
    torch.save(state, checkpoint / "pytorch_model.bin")
    assert fingerprint(checkpoint) == expected
    state["model.language_model.norm.weight"][3] += 0.1
    torch.save(state, checkpoint / "pytorch_model.bin")
    assert fingerprint(checkpoint) != expected


@pytest.mark.parametrize("family", ["internlm2", "qwen2"])
def test_original_and_converted_weights_have_one(family: str, tmp_path: Path) -> None:
    folder = tmp_path / "original"
    folder.mkdir()
    official.write_folder(folder, family)
    convert(folder, tmp_path / "native")
    assert fingerprint(folder) == fingerprint(tmp_path / "native") != ""
    key = next(key for key in load_file(folder / "model.safetensors") if key.endswith("norm1.weight"))
    change_tensor(folder / "model.safetensors", key)
    assert fingerprint(folder) != fingerprint(tmp_path / "native")


def test_original_torch_files_have_one(tmp_path: Path) -> None:
    official.write_folder(tmp_path, "phi3")
    expected = fingerprint(tmp_path)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    assert fingerprint(tmp_path) == expected != ""


def test_lora_is_in_it(checkpoint: Path, tmp_path: Path) -> None:
    """LoRA as PEFT writes it. An adapter that was trained with it does not load without it, nor the other way round."""
    for seed in (1, 2):
        adapted = get_peft_model(tiny_backbone().model.model.language_model, LoraConfig(target_modules=["q_proj"]))
        torch.manual_seed(seed)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                nn.init.normal_(parameter, std=0.1)
        adapted.save_pretrained(tmp_path / f"lora{seed}")
    one, two = tmp_path / "lora1", tmp_path / "lora2"
    plain, changed = load_backbone(checkpoint), load_backbone(checkpoint, lora=one)
    found = [with_lora(plain.fingerprint, lora) for lora in ([], [one], [two], [one, two], [one, one])]
    assert len(set(found)) == len(found)
    assert found[:2] == [plain.fingerprint, changed.fingerprint]
    assert with_lora(plain.fingerprint, [two, one]) == found[3]
    settings = json.loads((two / "adapter_config.json").read_text("utf-8"))
    (two / "adapter_config.json").write_text(json.dumps({**settings, "lora_alpha": 99}), "utf-8")
    assert with_lora(plain.fingerprint, [two]) not in found
    for mine, other in ((plain, changed), (changed, plain)):
        save_adapter(tmp_path / "det", new_route(mine, RouteSpec(token="[DET]", decoder="box", num_queries=2)), mine)
        with pytest.raises(AdapterMismatchError, match="lora"):
            load_adapter(tmp_path / "det", other)


def test_the_defaults_adapters_load_by_either_fingerprint(agent: VisionAgent, tmp_path: Path) -> None:
    """Those that are shipped remember the weight file, as version 0.1 did."""
    shipped = json.loads((DEFAULT_CHECKPOINT / "adapters" / "det" / "adapter.json").read_text("utf-8"))
    known = {agent.backbone.fingerprint, agent.backbone.former_fingerprint}
    assert shipped["base_fingerprint"] in known
    save_adapter(tmp_path, agent.routes["det"], agent.backbone)
    content = json.loads((tmp_path / "adapter.json").read_text("utf-8"))
    assert content["base_fingerprint"] == agent.backbone.fingerprint
    for fingerprint in known:
        (tmp_path / "adapter.json").write_text(json.dumps({**content, "base_fingerprint": fingerprint}), "utf-8")
        assert load_adapter(tmp_path, agent.backbone).spec == agent.routes["det"].spec
    for fingerprint in ("", "0" * 32):
        (tmp_path / "adapter.json").write_text(json.dumps({**content, "base_fingerprint": fingerprint}), "utf-8")
        with pytest.raises(AdapterMismatchError):
            load_adapter(tmp_path, agent.backbone)
