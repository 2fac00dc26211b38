"""InternVL-14B-224px as an embedder, on random checkpoints of its layout, against transformers' own networks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn import functional
from transformers import (
    CLIPImageProcessorPil,
    InternVLVisionConfig,
    InternVLVisionModel,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
)

from vision_agent import CheckpointError, InputError
from vision_agent.decoders.dual_encoder import InternVLRetrieval
from vision_agent.decoders.dual_encoder.internvl_towers import InternVLTowers
from vision_agent.plugins.registry import load_embedder

VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
    "qk_normalization": True,
    "qkv_bias": False,
    "layer_norm_eps": 1e-6,
}
TEXT = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "vocab_size": 60,
    "rms_norm_eps": 1e-6,
    "cross_attention_frequency": 2,
}
CONFIG = {
    "model_type": "internvl",
    "architectures": ["InternVLModel"],
    "clip_embed_dim": 16,
    "attn_pool_num_heads": 4,
    "num_query_token": 6,
    "qllama_config": TEXT,
    "vision_config": VISION,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with what the published one has beside, too."""
    folder = tmp_path_factory.mktemp("internvl")
    torch.manual_seed(0)
    weights = {name: torch.randn_like(each) * 0.3 for name, each in InternVLTowers(CONFIG).state_dict().items()}
    weights |= {"itm_head.weight": torch.zeros(2, 24), "qllama.lm_head.weight": torch.zeros(60, 24)}
    weights["qllama.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(6)
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    letters = ["<pad>", "<s>", "</s>", "<unk>", ":", " ", *"abcdefghijklmnopqrstuvwxyz"]
    tokens = Tokenizer(models.WordLevel({letter: place for place, letter in enumerate(letters)}, unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(
        tokenizer_object=tokens, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    ).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def embedder(folder: Path) -> InternVLRetrieval:
    return InternVLRetrieval.from_pretrained(folder, "cpu")


def photo(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 52, 3), dtype=np.uint8))


def test_texts_are_those_of_a_llama_after_the_prefix_at_the_end_token(
    folder: Path, embedder: InternVLRetrieval
) -> None:
    weights = load_file(folder / "model.safetensors")
    own = {name.removeprefix("qllama.model."): each for name, each in weights.items() if "cross_attn" not in name}
    llama = LlamaModel(LlamaConfig(**TEXT, pad_token_id=0, max_position_embeddings=90)).eval()
    report = llama.load_state_dict({name: own[name] for name in llama.state_dict()})
    assert not report.missing_keys
    ids = [1, *(embedder._tokenizer.convert_tokens_to_ids(list("summarize:a red car"))), 2]
    with torch.inference_mode():
        last = llama(torch.tensor([ids])).last_hidden_state[0, -1]
    expected = functional.normalize(last @ weights["text_projection"], dim=-1).numpy()
    found = embedder.embed_texts(["a red car", "dog"])
    assert found.shape == (2, 16)
    np.testing.assert_allclose(found[0], expected, atol=2e-5)
    np.testing.assert_allclose(found[1], embedder.embed_texts(["dog"])[0], atol=2e-5)  # whatever stands beside it


def test_the_image_tower_is_internvit_and_c_pools_it(folder: Path, embedder: InternVLRetrieval) -> None:
    weights = load_file(folder / "model.safetensors")
    config = InternVLVisionConfig(
        **{name: value for name, value in VISION.items() if name not in ("qk_normalization", "qkv_bias")},
        use_qk_norm=True,
        attention_bias=False,
        norm_type="rms_norm",
        use_mean_pooling=True,
        hidden_act="gelu",
    )
    native = InternVLVisionModel(config).eval()
    taken: dict[str, Any] = {
        "embeddings.cls_token": weights["vision_model.embeddings.class_embedding"],
        "embeddings.position_embeddings": weights["vision_model.embeddings.position_embedding"],
        "embeddings.patch_embeddings.projection.weight": weights["vision_model.embeddings.patch_embedding.weight"],
        "embeddings.patch_embeddings.projection.bias": weights["vision_model.embeddings.patch_embedding.bias"],
    }
    for layer in range(2):
        mine, theirs = f"vision_model.encoder.layers.{layer}.", f"encoder.layer.{layer}."
        for name, part in zip("qkv", weights[f"{mine}attn.qkv.weight"].chunk(3), strict=True):
            taken[f"{theirs}attention.{name}_proj.weight"] = part
        for their, my in {
            "attention.projection_layer": "attn.proj",
            "attention.q_norm": "attn.q_norm",
            "attention.k_norm": "attn.k_norm",
            "mlp.fc1": "mlp.fc1",
            "mlp.fc2": "mlp.fc2",
            "layernorm_before": "norm1",
            "layernorm_after": "norm2",
        }.items():
            for kind in ("weight", "bias"):
                if f"{mine}{my}.{kind}" in weights:
                    taken[f"{theirs}{their}.{kind}"] = weights[f"{mine}{my}.{kind}"]
        taken |= {f"{theirs}lambda_1": weights[f"{mine}ls1"], f"{theirs}lambda_2": weights[f"{mine}ls2"]}
    report = native.load_state_dict(taken, strict=False)
    assert (report.missing_keys, report.unexpected_keys) == ([], [])
    pixels = embedder._processor(images=[photo(1)], return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 28, 28)
    with torch.inference_mode():
        states = native(pixels).last_hidden_state
        np.testing.assert_allclose(embedder._towers.vision_model(pixels), states, atol=2e-5)
        # Pooling, written out with torch's own attention.
        pool = {name.removeprefix("clip_projector."): each for name, each in weights.items()}
        query, key, value = (
            functional.layer_norm(each, (32,), pool[f"norm1_{name}.weight"], pool[f"norm1_{name}.bias"])
            for name, each in (("q", states.mean(1, keepdim=True)), ("k", states), ("v", states))
        )
        pooled, _ = functional.multi_head_attention_forward(
            *(each.transpose(0, 1) for each in (query, key, value)),
            embed_dim_to_check=32,
            num_heads=4,
            in_proj_weight=None,
            in_proj_bias=torch.cat([pool[f"cross_attn.{name}_bias"] for name in "qkv"]),
            bias_k=None,
            bias_v=None,
            add_zero_attn=False,
            dropout_p=0.0,
            out_proj_weight=torch.eye(32),
            out_proj_bias=torch.zeros(32),
            use_separate_proj_weight=True,
            **{f"{name}_proj_weight": pool[f"cross_attn.{name}.weight"] for name in "qkv"},
        )
        expected = pooled[0] @ pool["cross_attn.proj.weight"].T + pool["cross_attn.proj.bias"]
    found = embedder.embed_images([photo(1), photo(2)])
    np.testing.assert_allclose(found[0], functional.normalize(expected, dim=-1)[0], atol=2e-5)


def test_g_adds_what_the_queries_see_and_is_another_embedder(folder: Path, embedder: InternVLRetrieval) -> None:
    generative = InternVLRetrieval.from_pretrained(folder, "cpu", by_queries=True)
    assert generative.name == f"{embedder.name}-G"
    assert generative.fingerprint != embedder.fingerprint
    found, contrastive = generative.embed_images([photo(3)])[0], embedder.embed_images([photo(3)])[0]
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-5)
    pixels = generative._processor(images=[photo(3)], return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        whole = generative._towers.images(pixels, by_queries=True)[0].numpy()
    seen = whole - contrastive  # both had length one before they were added
    assert np.linalg.norm(seen) == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(generative.embed_texts(["cat"]), embedder.embed_texts(["cat"]))


def test_the_folder_is_found_by_its_config_and_refused_where_it_is_damaged(folder: Path, tmp_path: Path) -> None:
    assert load_embedder(folder) is InternVLRetrieval
    with pytest.raises(CheckpointError, match="qllama_config"):
        InternVLRetrieval.from_pretrained(tmp_path)
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, tmp_path / "pytorch_model-00001-of-00001.bin")
    (tmp_path / "model.safetensors").unlink()
    pickled = InternVLRetrieval.from_pretrained(tmp_path, "cpu")
    np.testing.assert_array_equal(
        pickled.embed_texts(["dog"]), InternVLRetrieval.from_pretrained(folder, "cpu").embed_texts(["dog"])
    )
    save_file({name: each for name, each in weights.items() if name != "query_tokens"}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="lack 'query_tokens'"):
        InternVLRetrieval.from_pretrained(tmp_path, "cpu")
    save_file(weights | {"surprise": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="'surprise'"):
        InternVLRetrieval.from_pretrained(tmp_path, "cpu")
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 30)
    with pytest.raises(CheckpointError, match="could not be loaded"):
        InternVLRetrieval.from_pretrained(tmp_path, "cpu")


def test_texts_over_the_bound_are_refused(embedder: InternVLRetrieval) -> None:
    assert embedder.embed_texts(["a" * 68]).shape == (1, 16)
    with pytest.raises(InputError, match="at most 80 tokens"):
        embedder.embed_texts(["dog", "a" * 69])
    assert embedder.embed_texts([]).shape == (0, 16)
