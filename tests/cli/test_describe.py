"""What `vision-agent info` says, against the loaded model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import original_format as official
import pytest
import torch
from conftest import tiny_backbone
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import InternVLForConditionalGeneration

from vision_agent.cli.describe import ModelDescription, describe
from vision_agent.errors import CheckpointError
from vision_agent.model.int8 import quantize_linears


def nbytes(model: nn.Module) -> int:
    """Bytes of all weights, tied ones once; position ids and the like are not weights."""
    tensors = {id(tensor): tensor for tensor in model.state_dict(keep_vars=True).values()}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def test_numbers_are_those_of_the_loaded_model(checkpoint: Path) -> None:
    found = describe(checkpoint)
    model: Any = tiny_backbone().model
    assert found.parameters.vision == sum(p.numel() for p in model.model.vision_tower.parameters())
    assert found.parameters.projector == sum(p.numel() for p in model.model.multi_modal_projector.parameters())
    assert found.parameters.total == sum(p.numel() for p in model.parameters())
    assert found.memory.fp32 * 2**30 == nbytes(model)
    assert found.memory.bf16 * 2**30 == nbytes(model.to(torch.bfloat16))
    quantize_linears(model.model.language_model)
    assert found.memory.int8 * 2**30 == nbytes(model)
    assert found.memory.int4 < found.memory.int8
    assert (found.name, found.format, found.language) == ("tiny", "native", "qwen2")
    assert found.context == model.config.text_config.max_position_embeddings
    # 3 layers, 2 key-value heads of 16 channels, keys and values, 2 bytes each
    assert found.cache_mib == pytest.approx(3 * 2 * 16 * 2 * 2 * 1000 / 2**20)
    assert found.stored == ("F32",)
    assert found.disk_bytes == sum(path.stat().st_size for path in checkpoint.iterdir())


def test_tokens_of_the_largest_image_are_those_of_a_real_one(checkpoint: Path) -> None:
    tiles = describe(checkpoint).tiles
    backbone = tiny_backbone()
    assert tiles.tokens_per_tile == backbone.tokens_per_tile == 4
    assert tiles.most_tokens == backbone.grid_for(3000, 2000).tile_count * 4 == 28


def test_no_weights_are_loaded(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(InternVLForConditionalGeneration, "from_pretrained", refuse)
    described = describe(checkpoint)
    assert described == ModelDescription.model_validate_json(described.model_dump_json())


def test_the_default_comes_with_routes_and_card() -> None:
    found = describe("default")
    assert [route.token for route in found.routes] == ["[DET]", "[EDIT]", "[GEN]", "[OCR]", "[SEG]"]
    text = found.to_text()
    assert "13.4 M (vision 3.1 M" in text
    assert "one tile of 448 px, 196 tokens a tile" in text
    assert "[DET] -> box" in text
    assert text.index("[DET] -> box") < text.index("# The default model")
    assert "AP50" in text


def test_licence_is_a_file_or_a_line_of_the_readme(checkpoint: Path) -> None:
    assert describe(checkpoint).licence is None
    assert "no licence file" in describe(checkpoint).to_text()
    (checkpoint / "README.md").write_text("---\nlicense: mit\nbase_model: x\n---\n# A model\nlicense: none\n")
    assert describe(checkpoint).licence == "mit (README.md)"
    (checkpoint / "README.md").write_text("# A model\n---\nlicense: gpl\n")
    assert describe(checkpoint).licence is None
    (checkpoint / "LICENSE.txt").write_text("words")
    assert describe(checkpoint).licence == "LICENSE.txt"


def test_original_format_is_described_from_its_own_settings(tmp_path: Path) -> None:
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    language = {"vocab_size": 360, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3}
    language |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 8192, "bias": False}
    content = {
        "model_type": "internvl_chat",
        "architectures": ["InternVLChatModel"],
        "template": "internlm2-chat",
        "force_image_size": 56,
        "dynamic_image_size": True,
        "max_dynamic_patch": 12,
        "use_thumbnail": True,
        "ps_version": "v2",
        "vision_config": {
            **vision,
            "patch_size": 14,
            "image_size": 56,
            "qkv_bias": True,
            "qk_normalization": False,
            "norm_type": "layer_norm",
        },
        "llm_config": {**language, "vocab_size": 640, "architectures": ["InternLM2ForCausalLM"], "bias": False},
    }
    state = {name: tensor.bfloat16() for name, tensor in official.tiny_state(content).items()}
    official.write_original(tmp_path, content, state)
    official.write_tokenizer(tmp_path, "internlm2")
    found = describe(tmp_path)
    assert (found.format, found.language, found.context) == ("original", "llama", 8192)
    assert found.tiles.most_tokens == 13 * 4
    assert "up to 12 tiles of 56 px and a thumbnail" in found.to_text()
    # Embedding and head are two tables in this format, whatever the sizes say.
    layer = 64 * (64 + 32 + 32 + 64) + 3 * 64 * 128 + 2 * 64
    assert found.parameters.language == 2 * 640 * 64 + 3 * layer + 64
    assert found.stored == ("BF16",)
    state["mlp1.1.bias"] = state["mlp1.1.bias"][1:].clone()
    official.write_original(tmp_path, content, state)
    with pytest.raises(CheckpointError, match=r"mlp1\.1\.bias"):
        describe(tmp_path)
    del state["mlp1.1.bias"]
    official.write_original(tmp_path, content, state)
    with pytest.raises(CheckpointError, match=r"missing: model\.multi_modal_projector\.linear_1\.bias"):
        describe(tmp_path)


def shard(folder: Path) -> None:
    """Two files and an index, as large checkpoints have."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"model-1.safetensors": names[:40], "model-2.safetensors": names[40:]}
    for file, members in parts.items():
        save_file({name: tensors[name] for name in members}, folder / file)
    index = {"weight_map": {name: file for file, members in parts.items() for name in members}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_sharded_weights(checkpoint: Path) -> None:
    shard(checkpoint)
    assert describe(checkpoint).stored == ("F32",)
    (checkpoint / "model-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"names the file 'model-2\.safetensors', which is missing"):
        describe(checkpoint)
    (checkpoint / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="names no weights"):
        describe(checkpoint)


def change_config(**fields: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


def cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def bad_adapter(folder: Path) -> None:
    (folder / "adapters" / "det").mkdir(parents=True)
    (folder / "adapters" / "det" / "adapter.json").write_text("{}")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (cut_short, r"model\.safetensors .* damaged or cut short"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no weights"),
        (lambda folder: (folder / "config.json").unlink(), r"no config\.json"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config\.json .* damaged"),
        (lambda folder: (folder / "config.json").write_text("[]"), "expected an object"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), r"no preprocessor_config\.json"),
        (change_config(model_type="llava"), "'llava' model; expected 'internvl'"),
        (change_config(text_config={"model_type": "abacus"}), r"config\.json .* makes no sense"),
        (change_config(downsample_ratio="much"), r"config\.json .* makes no sense"),
        (bad_adapter, r"adapters/det' is damaged"),
    ],
)
def test_broken_folders_are_named(spoil: Callable[[Path], object], words: str, checkpoint: Path) -> None:
    spoil(checkpoint)
    with pytest.raises(CheckpointError, match=words) as caught:
        describe(checkpoint)
    assert str(checkpoint) in str(caught.value)


def test_hub_names_without_a_network(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="'someone/something' is neither a folder nor a hub name"):
        describe("someone/something", cache_dir=tmp_path / "cache", local_files_only=True)
    with pytest.raises(CheckpointError, match="'no/such/place' is neither a folder nor a hub name"):
        describe("no/such/place", local_files_only=True)
    with pytest.raises(CheckpointError, match="is a file"):
        describe(checkpoint / "config.json")
    # As the hub cache lays files out; the weights were never downloaded.
    snapshot = tmp_path / "cache" / "models--someone--something" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    for name in ("config.json", "preprocessor_config.json"):
        (snapshot / name).write_bytes((checkpoint / name).read_bytes())
    found = describe("someone/something", cache_dir=tmp_path / "cache", local_files_only=True)
    assert (found.name, found.stored) == ("someone/something", None)
    assert "the weights are not here" in found.to_text()
