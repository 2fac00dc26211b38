"""InternVL's original checkpoint format, written and computed here a second time, in plain torch, for the tests.

Nothing is shared with `vision_agent.model.original` or transformers: the forward pass works on the tensors of the file
under their original names, and the tokenizers follow the official slow ones step by step. What agrees with this is
right, or wrong twice.

Shape suffixes: B tiles, T image tokens, L tokens, E width of the vision tower, H hidden size, N heads, D head size.
"""

import functools
import itertools
import json
import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import regex  # type: ignore[import-untyped]
import sentencepiece
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from tokenizers import Regex as TokenizerRegex
from torch import Tensor
from torch.nn import functional as F

FAMILIES = {
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "internlm2": "InternLM2ForCausalLM",
    "llama": "LlamaForCausalLM",
    "yi": "LlamaForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "gpt_oss": "GptOssForCausalLM",
}
TEMPLATES = {
    "qwen2": "internvl2_5",
    "qwen3": "internvl2_5",
    "qwen3_moe": "internvl2_5",
    "internlm2": "internlm2-chat",
    "llama": "internlm2-chat",
    "yi": "Hermes-2",
    "phi3": "phi3-chat",
    "gpt_oss": "internvl3_5_gpt_oss",
}
IMAGE_TOKENS = ["<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>"]

Config = dict[str, Any]
State = dict[str, Tensor]


# Configurations and weights ------------------------------------------------------------------------------------------


def tiny_config(family: str, vision: str = "300m", vocabulary: int = 600, **changes: Any) -> Config:
    """A small `config.json` as the official code writes it. `vision` is "300m" or "6b"."""
    big = vision == "6b"
    language: Config = {
        "architectures": [FAMILIES[family]],
        "attn_implementation": "flash_attention_2",
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
    }
    if family == "internlm2":
        language |= {"bias": False, "model_type": "internlm2", "auto_map": {"AutoConfig": "configuration_internlm2.X"}}
    if family.startswith("qwen3"):
        language |= {"head_dim": 16}
    if family == "qwen3_moe":
        language |= {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "norm_topk_prob": True}
        language |= {"decoder_sparse_step": 1, "mlp_only_layers": []}
    if family == "gpt_oss":
        language |= {"head_dim": 16, "num_local_experts": 5, "num_experts_per_tok": 2, "intermediate_size": 24}
        language |= {"num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2}
        language |= {"sliding_window": 8, "swiglu_limit": 1.5, "attention_bias": True}
        language["rope_scaling"] = {"rope_type": "yarn", "factor": 8.0, "beta_fast": 32.0, "beta_slow": 1.0}
        language["rope_scaling"] |= {"truncate": False, "original_max_position_embeddings": 64}
    if family == "phi3":
        language |= {
            "max_position_embeddings": 256,
            "original_max_position_embeddings": 24,
            "eos_token_id": 32000,
            "pad_token_id": 32000,
            "rope_scaling": {
                "type": "su",
                "short_factor": [1.0, 1.1, 1.3, 1.4],
                "long_factor": [1.2, 2.0, 4.0, 9.0],
            },
        }
    content: Config = {
        "architectures": ["InternVLChatModel"],
        "auto_map": {"AutoModel": "modeling_internvl_chat.InternVLChatModel"},
        "model_type": "internvl_chat",
        "vision_config": {
            "architectures": ["InternVisionModel"],
            "model_type": "intern_vit_6b",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 7,
            "qkv_bias": not big,
            "qk_normalization": big,
            "norm_type": "rms_norm" if big else "layer_norm",
            # Large enough for a wrong epsilon to show.
            "layer_norm_eps": 1e-2,
            "initializer_factor": 0.1,
            "drop_path_rate": 0.1,
            "use_flash_attn": True,
        },
        "llm_config": language,
        "template": TEMPLATES[family],
        "select_layer": -1,
        "downsample_ratio": 0.5,
        "ps_version": "v2",
        "force_image_size": 28,
        "dynamic_image_size": True,
        "use_thumbnail": True,
        "min_dynamic_patch": 1,
        "max_dynamic_patch": 12,
        "pad2square": False,
        "torch_dtype": "bfloat16",
    }
    for name, value in changes.items():
        part, _, field = name.partition("__")
        if field:
            content[part][field] = value
        else:
            content[part] = value
    return content


def tiny_state(content: Config, seed: int = 0) -> State:
    """Random weights under their original names."""
    random = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random) / math.sqrt(shape[-1])

    def norm(name: str, size: int, bias: bool) -> State:
        weights = {f"{name}.weight": 1 + torch.randn(size, generator=random) * 0.3}
        return weights | ({f"{name}.bias": torch.randn(size, generator=random) * 0.3} if bias else {})

    def linear(name: str, rows: int, columns: int, bias: bool) -> State:
        return {f"{name}.weight": noise(rows, columns)} | ({f"{name}.bias": noise(rows)} if bias else {})

    return (
        _vision_state(content, noise, norm, linear)
        | _language_state(content, noise, norm, linear)
        | norm("mlp1.0", 4 * content["vision_config"]["hidden_size"], True)
        | linear("mlp1.1", content["llm_config"]["hidden_size"], 4 * content["vision_config"]["hidden_size"], True)
        | linear("mlp1.3", content["llm_config"]["hidden_size"], content["llm_config"]["hidden_size"], True)
    )


def _vision_state(content: Config, noise: Callable[..., Tensor], norm: Any, linear: Any) -> State:
    vision = content["vision_config"]
    width, inner, patch = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    cells = vision["image_size"] // patch
    layer_norm = vision["norm_type"] == "layer_norm"
    state: State = {
        "vision_model.embeddings.class_embedding": noise(1, 1, width) * 4,
        "vision_model.embeddings.position_embedding": noise(1, cells * cells + 1, width) * 4,
        "vision_model.embeddings.patch_embedding.weight": noise(width, 3, patch, patch) / 4,
        "vision_model.embeddings.patch_embedding.bias": noise(width),
    }
    for index in range(vision["num_hidden_layers"]):
        block = f"vision_model.encoder.layers.{index}"
        state |= norm(f"{block}.norm1", width, layer_norm) | norm(f"{block}.norm2", width, layer_norm)
        state |= linear(f"{block}.attn.qkv", 3 * width, width, vision["qkv_bias"])
        state |= linear(f"{block}.attn.proj", width, width, True)
        if vision["qk_normalization"]:
            state |= norm(f"{block}.attn.q_norm", width, False) | norm(f"{block}.attn.k_norm", width, False)
        state |= linear(f"{block}.mlp.fc1", inner, width, True) | linear(f"{block}.mlp.fc2", width, inner, True)
        state |= {f"{block}.ls{part}": noise(width) * 4 for part in (1, 2)}
    return state


def _language_state(content: Config, noise: Callable[..., Tensor], norm: Any, linear: Any) -> State:
    text = content["llm_config"]
    hidden, inner, size = text["hidden_size"], text["intermediate_size"], text["vocab_size"]
    dim = text.get("head_dim") or hidden // text["num_attention_heads"]
    q_rows, kv_rows = text["num_attention_heads"] * dim, text["num_key_value_heads"] * dim
    kind = text["architectures"][0].removesuffix("ForCausalLM")
    inlm = kind == "InternLM2"
    state: State = {
        f"language_model.model.{'tok_embeddings' if inlm else 'embed_tokens'}.weight": noise(size, hidden) * 4,
        f"language_model.{'output' if inlm else 'lm_head'}.weight": noise(size, hidden) * 4,
    } | norm("language_model.model.norm", hidden, False)
    for index in range(text["num_hidden_layers"]):
        layer = f"language_model.model.layers.{index}"
        if kind == "GptOss":
            state |= norm(f"{layer}.input_layernorm", hidden, False)
            state |= norm(f"{layer}.post_attention_layernorm", hidden, False)
            state |= {f"{layer}.self_attn.sinks": noise(text["num_attention_heads"]) * 2}
            for name, rows, columns in (
                ("self_attn.q_proj", q_rows, hidden),
                ("self_attn.k_proj", kv_rows, hidden),
                ("self_attn.v_proj", kv_rows, hidden),
                ("self_attn.o_proj", hidden, q_rows),
                ("mlp.router", text["num_local_experts"], hidden),
            ):
                state |= linear(f"{layer}.{name}", rows, columns, True)
            for name, columns, rows in (("gate_up_proj", hidden, 2 * inner), ("down_proj", inner, hidden)):
                fused = noise(text["num_local_experts"], rows, columns).mT.contiguous()
                state |= {f"{layer}.mlp.experts.{name}": fused}
                state |= {f"{layer}.mlp.experts.{name}_bias": noise(text["num_local_experts"], rows)}
            continue
        if inlm:
            state |= norm(f"{layer}.attention_norm", hidden, False) | norm(f"{layer}.ffn_norm", hidden, False)
            state |= linear(f"{layer}.attention.wqkv", q_rows + 2 * kv_rows, hidden, text["bias"])
            state |= linear(f"{layer}.attention.wo", hidden, q_rows, text["bias"])
            state |= linear(f"{layer}.feed_forward.w1", inner, hidden, False)
            state |= linear(f"{layer}.feed_forward.w3", inner, hidden, False)
            state |= linear(f"{layer}.feed_forward.w2", hidden, inner, False)
            continue
        state |= norm(f"{layer}.input_layernorm", hidden, False)
        state |= norm(f"{layer}.post_attention_layernorm", hidden, False)
        state |= linear(f"{layer}.self_attn.o_proj", hidden, q_rows, False)
        if not _is_mixture(text, index):
            state |= linear(f"{layer}.mlp.down_proj", hidden, inner, False)
        if kind == "Phi3":
            state |= linear(f"{layer}.self_attn.qkv_proj", q_rows + 2 * kv_rows, hidden, False)
            state |= linear(f"{layer}.mlp.gate_up_proj", 2 * inner, hidden, False)
            continue
        for name, rows in (("q", q_rows), ("k", kv_rows), ("v", kv_rows)):
            state |= linear(f"{layer}.self_attn.{name}_proj", rows, hidden, kind == "Qwen2")
        if kind.startswith("Qwen3"):
            state |= norm(f"{layer}.self_attn.q_norm", dim, False) | norm(f"{layer}.self_attn.k_norm", dim, False)
        if _is_mixture(text, index):
            state |= linear(f"{layer}.mlp.gate", text["num_experts"], hidden, False)
            small = text["moe_intermediate_size"]
            for expert in range(text["num_experts"]):
                for name in ("gate_proj", "up_proj"):
                    state |= linear(f"{layer}.mlp.experts.{expert}.{name}", small, hidden, False)
                state |= linear(f"{layer}.mlp.experts.{expert}.down_proj", hidden, small, False)
            continue
        state |= linear(f"{layer}.mlp.gate_proj", inner, hidden, False)
        state |= linear(f"{layer}.mlp.up_proj", inner, hidden, False)
    return state


def _is_mixture(text: Config, layer: int) -> bool:
    """Whether a layer has experts: every so many, and not those that are named."""
    if "num_experts" not in text or layer in text["mlp_only_layers"]:
        return False
    return bool((layer + 1) % text["decoder_sparse_step"] == 0)


def write_original(folder: Path, content: Config, state: State, shards: int = 1, torch_files: bool = False) -> None:
    """Write config.json and the weights, in one file or in several with an index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(content), "utf-8")
    stem, ending = ("pytorch_model", "bin") if torch_files else ("model", "safetensors")
    save: Callable[[State, Path], None] = torch.save if torch_files else save_file
    if shards == 1:
        save(state, folder / f"{stem}.{ending}")
        return
    places: dict[str, str] = {}
    for shard in range(shards):
        name = f"{stem}-{shard + 1:05}-of-{shards:05}.{ending}"
        part = {key: state[key] for key in sorted(state)[shard::shards]}
        save(part, folder / name)
        places |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (folder / f"{stem}.{ending}.index.json").write_text(json.dumps(index), "utf-8")


# The model -----------------------------------------------------------------------------------------------------------


def reference_logits(
    state: State, content: Config, ids_L: Sequence[int], pixels_B3SS: Tensor | None = None, image_token: int = -1
) -> Tensor:
    """Logits (L, vocabulary) of a prompt whose image places have the id `image_token`."""
    embedding = state.get("language_model.model.embed_tokens.weight")
    embedding = state["language_model.model.tok_embeddings.weight"] if embedding is None else embedding
    ids = torch.tensor(ids_L)
    hidden_LH = embedding[ids]
    if pixels_B3SS is not None:
        hidden_LH[ids == image_token] = reference_image_tokens(state, content, pixels_B3SS)
    return _language(state, content["llm_config"], hidden_LH)


def reference_image_tokens(state: State, content: Config, pixels_B3SS: Tensor) -> Tensor:
    """Image tokens (T, H) of all tiles, in order."""
    states = _vision(state, content["vision_config"], pixels_B3SS)
    cells_BLE = states[content["select_layer"]][:, 1:]
    tiles, length, width = cells_BLE.shape
    side = math.isqrt(length)
    # Every 2x2 cells become one token; its channels run over (row in the block, column in the block, channel).
    blocks = cells_BLE.reshape(tiles, side // 2, 2, side // 2, 2, width).permute(0, 1, 3, 2, 4, 5)
    if content["ps_version"] == "v1":
        blocks = blocks.transpose(1, 2)
    tokens = blocks.reshape(tiles * (side // 2) ** 2, 4 * width)
    tokens = F.layer_norm(tokens, (4 * width,), state["mlp1.0.weight"], state["mlp1.0.bias"], 1e-5)
    tokens = F.gelu(F.linear(tokens, state["mlp1.1.weight"], state["mlp1.1.bias"]))
    return F.linear(tokens, state["mlp1.3.weight"], state["mlp1.3.bias"])


def _rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def _vision(state: State, vision: Config, pixels: Tensor) -> list[Tensor]:
    """States (B, 1 + cells, E) before the first block and after each."""
    get = {key.removeprefix("vision_model."): tensor for key, tensor in state.items()}
    eps, heads, width = vision["layer_norm_eps"], vision["num_attention_heads"], vision["hidden_size"]

    def norm(x: Tensor, name: str) -> Tensor:
        if vision["norm_type"] == "rms_norm":
            return _rms(x, get[f"{name}.weight"], eps)
        return F.layer_norm(x, (width,), get[f"{name}.weight"], get[f"{name}.bias"], eps)

    patches = F.conv2d(
        pixels,
        get["embeddings.patch_embedding.weight"],
        get["embeddings.patch_embedding.bias"],
        stride=vision["patch_size"],
    )
    grid = patches.shape[-2:]
    positions = get["embeddings.position_embedding"]
    side = math.isqrt(positions.shape[1] - 1)
    resized = F.interpolate(positions[:, 1:].mT.reshape(1, width, side, side), size=grid, mode="bicubic")
    x = torch.cat(
        [
            (get["embeddings.class_embedding"] + positions[:, :1]).expand(len(pixels), -1, -1),
            (patches + resized).flatten(2).mT,
        ],
        dim=1,
    )
    states = [x]
    for index in range(vision["num_hidden_layers"]):
        block = f"encoder.layers.{index}"
        qkv = F.linear(norm(x, f"{block}.norm1"), get[f"{block}.attn.qkv.weight"], get.get(f"{block}.attn.qkv.bias"))
        q, k, v = qkv[..., :width], qkv[..., width : 2 * width], qkv[..., 2 * width :]
        if vision["qk_normalization"]:
            q = _rms(q, get[f"{block}.attn.q_norm.weight"], eps)
            k = _rms(k, get[f"{block}.attn.k_norm.weight"], eps)
        q, k, v = (part.reshape(*part.shape[:2], heads, -1).transpose(1, 2) for part in (q, k, v))
        weights = (q @ k.mT / math.sqrt(width // heads)).softmax(-1)
        seen = (weights @ v).transpose(1, 2).flatten(2)
        seen = F.linear(seen, get[f"{block}.attn.proj.weight"], get[f"{block}.attn.proj.bias"])
        x = x + seen * get[f"{block}.ls1"]
        inner = F.linear(norm(x, f"{block}.norm2"), get[f"{block}.mlp.fc1.weight"], get[f"{block}.mlp.fc1.bias"])
        inner = F.linear(F.gelu(inner), get[f"{block}.mlp.fc2.weight"], get[f"{block}.mlp.fc2.bias"])
        x = x + inner * get[f"{block}.ls2"]
        states.append(x)
    return states


def _rope_tables(text: Config, length: int, dim: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines (L, D/2)."""
    exponents = torch.arange(0, dim, 2).float() / dim
    theta, limit = text["rope_theta"], text["max_position_embeddings"]
    scaling = text["rope_scaling"] or {}
    if scaling.get("rope_type") == "yarn":
        return _yarn_tables(text, length, dim)
    kind, scale, positions = scaling.get("type"), 1.0, torch.arange(length).float()
    frequencies = theta**-exponents
    if kind == "linear":
        positions = positions / scaling["factor"]
    elif kind == "dynamic" and length > limit:
        stretched = theta * (scaling["factor"] * length / limit - (scaling["factor"] - 1)) ** (dim / (dim - 2))
        frequencies = stretched**-exponents
    elif kind in ("su", "yarn"):
        trained = text["original_max_position_embeddings"]
        factors = scaling["long_factor" if length > trained else "short_factor"]
        frequencies = frequencies / torch.tensor(factors)
        ratio = limit / trained
        scale = math.sqrt(1 + math.log(ratio) / math.log(trained)) if kind == "su" else 0.1 * math.log(ratio) + 1
    angles = positions[:, None] * frequencies
    return angles.cos() * scale, angles.sin() * scale


def _yarn_tables(text: Config, length: int, dim: int) -> tuple[Tensor, Tensor]:
    """YaRN (https://arxiv.org/abs/2309.00071), its ramp not rounded to whole frequencies."""
    scaling, theta = text["rope_scaling"], text["rope_theta"]

    def place(rotations: float) -> float:
        """The frequency that turns so often over the trained length."""
        trained = scaling["original_max_position_embeddings"]
        return dim / 2 * math.log(trained / (rotations * 2 * math.pi)) / math.log(theta)

    low, high = max(0.0, place(scaling["beta_fast"])), min(dim - 1.0, place(scaling["beta_slow"]))
    stretched = ((torch.arange(dim // 2).float() - low) / (high - low)).clamp(0, 1)
    plain = theta ** -(torch.arange(0, dim, 2).float() / dim)
    frequencies = plain / scaling["factor"] * stretched + plain * (1 - stretched)
    angles = torch.arange(length).float()[:, None] * frequencies
    scale = 0.1 * math.log(scaling["factor"]) + 1
    return angles.cos() * scale, angles.sin() * scale


def _rotate(x_NLD: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    first, second = x_NLD.chunk(2, dim=-1)
    return torch.cat([first * cosines - second * sines, second * cosines + first * sines], dim=-1)


def _language(state: State, text: Config, x: Tensor) -> Tensor:
    get = {key.removeprefix("language_model."): tensor for key, tensor in state.items()}
    heads, kv_heads, eps = text["num_attention_heads"], text["num_key_value_heads"], text["rms_norm_eps"]
    dim = text.get("head_dim") or text["hidden_size"] // heads
    kind = text["architectures"][0].removesuffix("ForCausalLM")
    inlm = kind == "InternLM2"
    cosines, sines = _rope_tables(text, len(x), dim)
    future = torch.ones(len(x), len(x)).triu(1).bool()

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, get[f"{name}.weight"], get.get(f"{name}.bias"))

    for index in range(text["num_hidden_layers"]):
        layer = f"model.layers.{index}"
        normed = _rms(x, get[f"{layer}.{'attention_norm' if inlm else 'input_layernorm'}.weight"], eps)
        if inlm:
            # Row by row: each key head with its query heads before it and its value head behind it.
            rows = linear(normed, f"{layer}.attention.wqkv").chunk(heads + 2 * kv_heads, dim=-1)
            per = heads // kv_heads + 2
            q = torch.stack([row for place, row in enumerate(rows) if place % per < per - 2])
            k = torch.stack([row for place, row in enumerate(rows) if place % per == per - 2])
            v = torch.stack([row for place, row in enumerate(rows) if place % per == per - 1])
        elif kind == "Phi3":
            rows = linear(normed, f"{layer}.self_attn.qkv_proj").chunk(heads + 2 * kv_heads, dim=-1)
            q, k = torch.stack(rows[:heads]), torch.stack(rows[heads : heads + kv_heads])
            v = torch.stack(rows[heads + kv_heads :])
        else:
            q, k, v = (
                torch.stack(linear(normed, f"{layer}.self_attn.{name}_proj").chunk(count, dim=-1))
                for name, count in (("q", heads), ("k", kv_heads), ("v", kv_heads))
            )
        if kind.startswith("Qwen3"):
            q = _rms(q, get[f"{layer}.self_attn.q_norm.weight"], eps)
            k = _rms(k, get[f"{layer}.self_attn.k_norm.weight"], eps)
        q, k = _rotate(q, cosines, sines), _rotate(k, cosines, sines)
        k, v = (part.repeat_interleave(heads // kv_heads, dim=0) for part in (k, v))
        hidden = future
        if kind == "GptOss" and text["layer_types"][index] == "sliding_attention":
            hidden = future | torch.ones(len(x), len(x)).tril(-text["sliding_window"]).bool()
        scores = (q @ k.mT / math.sqrt(dim)).masked_fill(hidden, -math.inf)
        if kind == "GptOss":  # a place that everything may look at, with nothing there
            sinks = get[f"{layer}.self_attn.sinks"][:, None, None].expand(-1, len(x), 1)
            scores, v = torch.cat([scores, sinks], dim=-1), F.pad(v, (0, 0, 0, 1))
        seen = (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)
        x = x + linear(seen, f"{layer}.attention.wo" if inlm else f"{layer}.self_attn.o_proj")
        normed = _rms(x, get[f"{layer}.{'ffn_norm' if inlm else 'post_attention_layernorm'}.weight"], eps)
        if kind == "GptOss":
            x = x + _gpt_oss_experts(get, text, normed, f"{layer}.mlp")
            continue
        if _is_mixture(text, index):
            x = x + _experts(get, text, normed, f"{layer}.mlp")
            continue
        if inlm:
            gate, up = linear(normed, f"{layer}.feed_forward.w1"), linear(normed, f"{layer}.feed_forward.w3")
        elif kind == "Phi3":
            gate, up = linear(normed, f"{layer}.mlp.gate_up_proj").chunk(2, dim=-1)
        else:
            gate, up = linear(normed, f"{layer}.mlp.gate_proj"), linear(normed, f"{layer}.mlp.up_proj")
        x = x + linear(F.silu(gate) * up, f"{layer}.feed_forward.w2" if inlm else f"{layer}.mlp.down_proj")
    return linear(_rms(x, get["model.norm.weight"], eps), "output" if inlm else "lm_head")


def _experts(get: State, text: Config, x_LH: Tensor, name: str) -> Tensor:
    """Token by token: the best experts by the gate's softmax, added up by their share among the chosen."""
    output = torch.zeros_like(x_LH)
    for place, x in enumerate(x_LH):
        shares = (get[f"{name}.gate.weight"] @ x).softmax(-1)
        chosen = sorted(range(len(shares)), key=lambda expert: -float(shares[expert]))[: text["num_experts_per_tok"]]
        total = sum(float(shares[expert]) for expert in chosen) if text["norm_topk_prob"] else 1.0
        for expert in chosen:
            gate, up, down = (get[f"{name}.experts.{expert}.{part}_proj.weight"] for part in ("gate", "up", "down"))
            output[place] += down @ (F.silu(gate @ x) * (up @ x)) * float(shares[expert]) / total
    return output


def _gpt_oss_experts(get: State, text: Config, x_LH: Tensor, name: str) -> Tensor:
    """Token by token: the experts of the highest scores, by the softmax of these."""
    output, limit = torch.zeros_like(x_LH), text["swiglu_limit"]
    for place, x in enumerate(x_LH):
        scores = get[f"{name}.router.weight"] @ x + get[f"{name}.router.bias"]
        best = sorted(range(len(scores)), key=lambda expert: -float(scores[expert]))[: text["num_experts_per_tok"]]
        for expert, share in zip(best, scores[best].softmax(0), strict=True):
            both = x @ get[f"{name}.experts.gate_up_proj"][expert] + get[f"{name}.experts.gate_up_proj_bias"][expert]
            gate, up = both[0::2].clamp(max=limit), both[1::2].clamp(-limit, limit)
            inner = gate / (1 + (-1.702 * gate).exp()) * (1 + up)
            said = inner @ get[f"{name}.experts.down_proj"][expert] + get[f"{name}.experts.down_proj_bias"][expert]
            output[place] += share * said
    return output


# Tokenizers ----------------------------------------------------------------------------------------------------------

TEXTS = [
    "Where is the red car? The red car is on the left of the street.",
    "Describe the picture in detail. A dog and a cat sit on the grass, and two people walk by.",
    "system\nuser\nassistant\nFrame1: Frame2: Image-1: Image-2: What is written on the sign? 12345 67890",
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。",  # noqa: RUF001
    "你是书生·万象，英文名是InternVL，是由清华大学及多家合作单位联合开发的多模态大语言模型。",  # noqa: RUF001
    "def f(x):\n    return x  # two  spaces   three",
]


@functools.cache
def _sentencepiece(size: int, dummy_prefix: bool, trims: bool, spare: int) -> bytes:
    written = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 4),
        model_writer=written,
        model_type="bpe",
        vocab_size=size,
        character_coverage=0.99,
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=dummy_prefix,
        remove_extra_whitespaces=trims,
        user_defined_symbols=[f"[UNUSED_TOKEN_{index}]" for index in range(spare)],
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return written.getvalue()


def _token(content: str, special: bool = True, rstrip: bool = False) -> Config:
    flags = {"lstrip": False, "normalized": False, "rstrip": rstrip, "single_word": False, "special": special}
    return {"content": content, **flags}


def write_tokenizer(folder: Path, family: str, **changes: Any) -> int:
    """Write the tokenizer files of a family, tiny but of the real layout. Returns the number of ids."""
    folder.mkdir(parents=True, exist_ok=True)
    if family == "gpt_oss":
        settings = _write_harmony(folder)
    elif family.startswith("qwen"):
        settings = _write_qwen2(folder)
    else:
        size, spare = 560, 6 if family == "internlm2" else 0
        prefix = family in ("llama", "phi3")
        (folder / "tokenizer.model").write_bytes(_sentencepiece(size, prefix, changes.pop("trims", False), spare))
        settings = {"internlm2": _internlm2, "llama": _llama, "yi": _yi, "phi3": _phi3}[family](size)
    settings |= {"model_max_length": 8192, "clean_up_tokenization_spaces": False} | changes
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    return max(int(index) for index in settings["added_tokens_decoder"]) + 1


def _appended(first: int, tokens: Sequence[str] = IMAGE_TOKENS) -> Config:
    return {str(first + place): _token(token) for place, token in enumerate(tokens)}


_SP_BASE = {"0": _token("<unk>"), "1": _token("<s>"), "2": _token("</s>")}


def _internlm2(size: int) -> Config:
    # The chat marks are spare pieces of the model file under new names.
    marks = ["<|plugin|>", "<|interpreter|>", "<|action_end|>", "<|action_start|>", "<|im_end|>", "<|im_start|>"]
    return {
        "tokenizer_class": "InternLM2Tokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]},
        "added_tokens_decoder": _SP_BASE | _appended(3, marks) | _appended(size),
        "additional_special_tokens": [*marks[::-1], *IMAGE_TOKENS],
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "</s>",
        "unk_token": "<unk>",
    }


def _llama(size: int) -> Config:
    marks = ["<|im_start|>", "<|im_end|>"]
    return {
        "tokenizer_class": "LlamaTokenizer",
        "legacy": True,
        "add_bos_token": True,
        "added_tokens_decoder": _SP_BASE | _appended(size, marks) | _appended(size + 2),
        "additional_special_tokens": [*marks, *IMAGE_TOKENS],
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }


def _yi(size: int) -> Config:
    marks = ["<|im_start|>", "<|im_end|>"]
    return _llama(size) | {
        "legacy": None,
        "add_bos_token": False,
        "added_tokens_decoder": _SP_BASE | _appended(size, marks) | _appended(size + 2),
        "additional_special_tokens": IMAGE_TOKENS,
        "eos_token": "<|im_end|>",
        "pad_token": "<unk>",
    }


def _phi3(size: int) -> Config:
    marks = ["<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"]
    added = {str(size + place): _token(mark, rstrip=mark != "<|endoftext|>") for place, mark in enumerate(marks)}
    return {
        "tokenizer_class": "LlamaTokenizer",
        "legacy": False,
        "add_bos_token": True,
        "added_tokens_decoder": _SP_BASE | added | _appended(size + len(marks)),
        "additional_special_tokens": IMAGE_TOKENS,
        "bos_token": "<s>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<unk>",
    }


def _byte_characters() -> dict[int, str]:
    """The printable stand-ins for bytes of byte-level BPE: printable ones for themselves, others from 256 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + place) for place, byte in enumerate(others)}


_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@functools.cache
def _byte_pairs() -> tuple[list[str], list[tuple[str, str]]]:
    """A byte-level vocabulary and its merges, trained on the texts."""
    characters = _byte_characters()
    words = [
        [characters[byte] for byte in word.encode()]
        for text in TEXTS
        for word in regex.findall(_WORDS, unicodedata.normalize("NFC", text))
    ]
    vocabulary: list[str] = list(characters.values())
    merges: list[tuple[str, str]] = []
    for _ in range(150):
        counts: dict[tuple[str, str], int] = {}
        for word in words:
            for pair in itertools.pairwise(word):
                counts[pair] = counts.get(pair, 0) + 1
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        vocabulary.append("".join(best))
        words = [_merged(word, best) for word in words]
    return list(dict.fromkeys(vocabulary)), merges


def _write_qwen2(folder: Path) -> Config:
    vocabulary, merges = _byte_pairs()
    numbered = {token: index for index, token in enumerate(vocabulary)}
    (folder / "vocab.json").write_text(json.dumps(numbered, ensure_ascii=False), "utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return {
        "tokenizer_class": "Qwen2Tokenizer",
        "add_prefix_space": False,
        "added_tokens_decoder": _appended(len(vocabulary), marks) | _appended(len(vocabulary) + 3),
        "additional_special_tokens": [*marks[1:], *IMAGE_TOKENS],
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "errors": "replace",
    }


HARMONY = [
    "<|startoftext|>", "<|endoftext|>", "<|reserved_200000|>", "<|reserved_200001|>", "<|return|>", "<|constrain|>",
    "<|reserved_200004|>", "<|channel|>", "<|start|>", "<|end|>", "<|message|>", "<|reserved_200009|>",
    "<|reserved_200010|>", "<|reserved_200011|>", "<|call|>", *(f"<|reserved_{200013 + k}|>" for k in range(5)),
    "<|endofprompt|>",
]  # fmt: skip
# How GPT-OSS cuts text into words ("o200k").
HARMONY_WORDS = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def harmony_pipeline(added: dict[str, Config]) -> Tokenizer:
    """The layout of GPT-OSS's tokenizer.json with a tiny vocabulary; added tokens by their ids."""
    vocabulary, merges = _byte_pairs()
    numbered = {token: index for index, token in enumerate(vocabulary)}
    pipeline = Tokenizer(models.BPE(vocab=numbered, merges=merges, ignore_merges=True))
    pipeline.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(TokenizerRegex(HARMONY_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    pipeline.decoder = decoders.ByteLevel()
    ordered = sorted(added.items(), key=lambda item: int(item[0]))
    pipeline.add_tokens([AddedToken(token["content"], normalized=False, special=True) for _, token in ordered])
    return pipeline


def _write_harmony(folder: Path) -> Config:
    first = len(_byte_pairs()[0])
    added = _appended(first, HARMONY) | _appended(first + len(HARMONY))
    harmony_pipeline(added).save(str(folder / "tokenizer.json"))
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "added_tokens_decoder": added,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|return|>",
        "pad_token": "<|endoftext|>",
        "model_input_names": ["input_ids", "attention_mask"],
    }


def _merged(word: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for part in word:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return merged


def official_ids(folder: Path, text: str) -> list[int]:
    """Ids of a prompt by the steps of the official slow tokenizers."""
    settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    added = {token["content"]: (int(index), token) for index, token in settings["added_tokens_decoder"].items()}
    if settings["tokenizer_class"] == "Qwen2Tokenizer":
        return _with_added(unicodedata.normalize("NFC", text), added, _qwen2_encoder(folder))
    if (folder / "tokenizer.json").is_file():
        return _with_added(text, added, _harmony_encoder())
    model = (folder / "tokenizer.model").read_bytes()
    if settings.get("legacy") is False:
        # The space before the text is put by hand below. A message appended to this format overrides: field 3 of
        # field 3, "add dummy prefix", is 0.
        model += b"\x1a\x02\x18\x00"
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    ids = [processor.bos_id()] if settings.get("add_bos_token", True) else []
    if settings.get("legacy") is not False or not text:
        return ids + _with_added(text, added, processor.encode)
    unknown = len(processor.encode("<unk>"))

    def encode(piece: str) -> list[int]:
        if piece.startswith((" ", "▁")):
            return list(processor.encode("<unk>" + piece))[unknown:]
        return list(processor.encode(piece))

    tokens = _with_added("▁" + text.replace("▁", " "), added, encode)
    named = [settings.get(f"{role}_token") for role in ("bos", "eos", "unk", "pad")]
    specials = {added[token][0] for token in [*named, *settings["additional_special_tokens"]]}
    if len(tokens) > 1 and tokens[0] == processor.piece_to_id("▁") and tokens[1] in specials:
        tokens = tokens[1:]
    return ids + tokens


def _with_added(text: str, added: dict[str, tuple[int, Config]], encode: Callable[[str], list[int]]) -> list[int]:
    ids: list[int] = []
    strip = False
    for piece in re.split(f"({'|'.join(map(re.escape, sorted(added, key=len, reverse=True)))})", text):
        if piece in added:
            ids.append(added[piece][0])
        elif piece := piece.lstrip() if strip else piece:
            ids += encode(piece)
        strip = piece in added and added[piece][1]["rstrip"]
    return ids


def _harmony_encoder() -> Callable[[str], list[int]]:
    """tiktoken's way: words by the pattern; one that is in the vocabulary is one token, others are merged."""
    vocabulary, merges = _byte_pairs()
    numbered = {token: index for index, token in enumerate(vocabulary)}
    characters = _byte_characters()

    def encode(text: str) -> list[int]:
        ids: list[int] = []
        for word in regex.findall(HARMONY_WORDS, text):
            parts = [characters[byte] for byte in word.encode()]
            if "".join(parts) in numbered:
                ids.append(numbered["".join(parts)])
                continue
            for pair in merges:
                parts = _merged(parts, pair)
            ids += [numbered[part] for part in parts]
        return ids

    return encode


def _qwen2_encoder(folder: Path) -> Callable[[str], list[int]]:
    vocabulary = json.loads((folder / "vocab.json").read_text("utf-8"))
    lines = (folder / "merges.txt").read_text("utf-8").splitlines()[1:]
    merges = [(left, right) for left, right in (line.split(" ") for line in lines)]
    characters = _byte_characters()

    def encode(text: str) -> list[int]:
        ids: list[int] = []
        for word in regex.findall(_WORDS, text):
            parts = [characters[byte] for byte in word.encode()]
            for pair in merges:
                parts = _merged(parts, pair)
            ids += [vocabulary[part] for part in parts]
        return ids

    return encode


def write_folder(folder: Path, family: str = "qwen2", vision: str = "300m", **changes: Any) -> tuple[Any, Any]:
    """Write a whole original folder. Returns its config.json and its weights."""
    shards, torch_files = changes.pop("shards", 1), changes.pop("torch_files", False)
    rows = write_tokenizer(folder, family) + 3
    content = tiny_config(family, vision, rows, **changes)
    state = tiny_state(content)
    write_original(folder, content, state, shards, torch_files)
    return content, state


def random_tiles(tiles: int, size: int = 28) -> Tensor:
    """Return tiles (tiles, 3, size, size) as a model takes them."""
    return torch.randn(tiles, 3, size, size, generator=torch.Generator().manual_seed(1))
