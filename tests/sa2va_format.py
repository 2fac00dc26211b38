"""Sa2VA's checkpoint layout, written a second time for the tests: the names and shapes of a folder's tensors.

`sam2_shapes` of the large sizes was compared with Sa2VA's own class: 900 tensors of the same names and shapes.
"""

import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import original_format as official
import torch
from torch import Tensor
from transformers import Sam2VideoConfig

Shapes = dict[str, tuple[int, ...]]
MARKS = ["[SEG]", "<p>", "</p>", "<vp>", "</vp>"]
TEMPLATES = {"qwen2": "qwen_chat", "internlm2": "internlm2_chat", "phi3": "phi3_chat"}


@dataclass(frozen=True)
class Sizes:
    """Of a SAM 2."""

    embed: int
    stages: tuple[int, ...]
    windows: tuple[int, ...]
    background: int
    global_blocks: tuple[int, ...]
    width: int
    mlp: int
    memory_layers: int
    side: int


LARGE = Sizes(144, (2, 6, 36, 4), (8, 4, 16, 8), 7, (23, 33, 43), 256, 2048, 4, 1024)
TINY = Sizes(8, (1, 1, 2, 1), (4, 4, 4, 4), 3, (3,), 128, 32, 2, 64)


def sam2_shapes(sizes: Sizes) -> Shapes:
    """All tensors of SAM 2 under the names that a Sa2VA folder has them by."""
    return {f"grounding_encoder.sam2_model.{name}": shape for name, shape in _sam2(sizes)}


def _sam2(s: Sizes) -> Iterator[tuple[str, tuple[int, ...]]]:
    d = s.width
    yield "maskmem_tpos_enc", (7, 1, 1, 64)
    yield from (("no_mem_embed", (1, 1, d)), ("no_mem_pos_enc", (1, 1, d)), ("no_obj_ptr", (1, d)))
    trunk = "image_encoder.trunk"
    yield f"{trunk}.pos_embed", (1, s.embed, s.background, s.background)
    yield f"{trunk}.pos_embed_window", (1, s.embed, s.windows[0], s.windows[0])
    yield from _layer(f"{trunk}.patch_embed.proj", s.embed, 3, 7, 7)
    block, before = 0, s.embed
    for stage, count in enumerate(s.stages):
        wide = s.embed * 2**stage
        for _ in range(count):
            name = f"{trunk}.blocks.{block}"
            yield from _norm(f"{name}.norm1", before)
            yield from _layer(f"{name}.attn.qkv", 3 * wide, before)
            yield from _layer(f"{name}.attn.proj", wide, wide)
            yield from _norm(f"{name}.norm2", wide)
            yield from _layer(f"{name}.mlp.layers.0", 4 * wide, wide)
            yield from _layer(f"{name}.mlp.layers.1", wide, 4 * wide)
            if before != wide:
                yield from _layer(f"{name}.proj", wide, before)
            block, before = block + 1, wide
    for level in range(4):
        yield from _layer(f"image_encoder.neck.convs.{level}.conv", d, s.embed * 2 ** (3 - level), 1, 1)
    yield from _layer("mask_downsample", 1, 1, 4, 4)
    for number in range(s.memory_layers):
        name = f"memory_attention.layers.{number}"
        for attention, keys in (("self_attn", d), ("cross_attn_image", 64)):
            yield from _attention(f"{name}.{attention}", d, d, keys)
        yield from _layer(f"{name}.linear1", 2048 if s is LARGE else s.mlp, d)
        yield from _layer(f"{name}.linear2", d, 2048 if s is LARGE else s.mlp)
        for part in (1, 2, 3):
            yield from _norm(f"{name}.norm{part}", d)
    yield from _norm("memory_attention.norm", d)
    for number in range(4):
        yield from _layer(f"memory_encoder.mask_downsampler.encoder.{3 * number}", 4 ** (number + 1), 4**number, 3, 3)
        yield from _norm(f"memory_encoder.mask_downsampler.encoder.{3 * number + 1}", 4 ** (number + 1))
    yield from _layer("memory_encoder.mask_downsampler.encoder.12", d, 256, 1, 1)
    yield from _layer("memory_encoder.pix_feat_proj", d, d, 1, 1)
    for number in range(2):
        name = f"memory_encoder.fuser.layers.{number}"
        yield f"{name}.g_weight", (d,)
        yield from _layer(f"{name}.dwconv", d, 1, 7, 7)
        yield from _norm(f"{name}.norm", d)
        yield from _layer(f"{name}.pwconv1", 4 * d, d)
        yield from _layer(f"{name}.pwconv2", d, 4 * d)
    yield from _layer("memory_encoder.out_proj", 64, d, 1, 1)
    prompts = "sam_prompt_encoder"
    yield f"{prompts}.pe_layer.positional_encoding_gaussian_matrix", (2, d // 2)
    for number in range(4):
        yield f"{prompts}.point_embeddings.{number}.weight", (1, d)
    yield f"{prompts}.not_a_point_embed.weight", (1, d)
    yield f"{prompts}.no_mask_embed.weight", (1, d)
    yield from _layer(f"{prompts}.mask_downscaling.0", 4, 1, 2, 2)
    yield from _norm(f"{prompts}.mask_downscaling.1", 4)
    yield from _layer(f"{prompts}.mask_downscaling.3", 16, 4, 2, 2)
    yield from _norm(f"{prompts}.mask_downscaling.4", 16)
    yield from _layer(f"{prompts}.mask_downscaling.6", d, 16, 1, 1)
    yield from _mask_decoder(s)
    yield from _mlp("obj_ptr_proj", d, d, d)


def _mask_decoder(s: Sizes) -> Iterator[tuple[str, tuple[int, ...]]]:
    d, name = s.width, "sam_mask_decoder"
    for number in range(2):
        layer = f"{name}.transformer.layers.{number}"
        yield from _attention(f"{layer}.self_attn", d, d, d)
        yield from _attention(f"{layer}.cross_attn_token_to_image", d, d // 2, d)
        yield from _attention(f"{layer}.cross_attn_image_to_token", d, d // 2, d)
        yield from _layer(f"{layer}.mlp.layers.0", s.mlp, d)
        yield from _layer(f"{layer}.mlp.layers.1", d, s.mlp)
        for part in (1, 2, 3, 4):
            yield from _norm(f"{layer}.norm{part}", d)
    yield from _attention(f"{name}.transformer.final_attn_token_to_image", d, d // 2, d)
    yield from _norm(f"{name}.transformer.norm_final_attn", d)
    yield from ((f"{name}.{token}.weight", (rows, d)) for token, rows in _TOKENS)
    yield f"{name}.output_upscaling.0.weight", (d, d // 4, 2, 2)
    yield f"{name}.output_upscaling.0.bias", (d // 4,)
    yield from _norm(f"{name}.output_upscaling.1", d // 4)
    yield f"{name}.output_upscaling.3.weight", (d // 4, d // 8, 2, 2)
    yield f"{name}.output_upscaling.3.bias", (d // 8,)
    yield from _layer(f"{name}.conv_s0", d // 8, d, 1, 1)
    yield from _layer(f"{name}.conv_s1", d // 4, d, 1, 1)
    for number in range(4):
        yield from _mlp(f"{name}.output_hypernetworks_mlps.{number}", d, d, d // 8)
    yield from _mlp(f"{name}.iou_prediction_head", d, 256, 4)
    yield from _mlp(f"{name}.pred_obj_score_head", d, d, 1)


_TOKENS = (("iou_token", 1), ("mask_tokens", 4), ("obj_score_token", 1))


def _layer(name: str, rows: int, *columns: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (rows, *columns)
    yield f"{name}.bias", (rows,)


def _norm(name: str, size: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _layer(name, size)


def _attention(name: str, width: int, inner: int, keys: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _layer(f"{name}.q_proj", inner, width)
    yield from _layer(f"{name}.k_proj", inner, keys)
    yield from _layer(f"{name}.v_proj", inner, keys)
    yield from _layer(f"{name}.out_proj", width, inner)


def _mlp(name: str, width: int, inner: int, out: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for number, (rows, columns) in enumerate(((inner, width), (inner, inner), (out, inner))):
        yield from _layer(f"{name}.layers.{number}", rows, columns)


def tiny_sam2_config() -> Sam2VideoConfig:
    """What `sa2va_sam2.sam2_config` is for the large sizes, for the tiny ones."""
    cells = [TINY.side // 4, TINY.side // 8, TINY.side // 16]
    return Sam2VideoConfig(
        vision_config={
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": TINY.embed,
                "image_size": [TINY.side, TINY.side],
                "blocks_per_stage": list(TINY.stages),
                "embed_dim_per_stage": [TINY.embed * 2**stage for stage in range(4)],
                "num_attention_heads_per_stage": [1, 2, 4, 8],
                "window_size_per_stage": list(TINY.windows),
                "global_attention_blocks": list(TINY.global_blocks),
                "window_positional_embedding_background_size": [TINY.background] * 2,
            },
            "backbone_channel_list": [TINY.embed * 2 ** (3 - level) for level in range(4)],
            "backbone_feature_sizes": [[side, side] for side in cells],
            "fpn_hidden_size": TINY.width,
        },
        prompt_encoder_config={"hidden_size": TINY.width, "image_size": TINY.side},
        mask_decoder_config={"hidden_size": TINY.width, "mlp_dim": TINY.mlp},
        image_size=TINY.side,
        memory_attention_hidden_size=TINY.width,
        memory_attention_num_layers=TINY.memory_layers,
        memory_attention_feed_forward_hidden_size=TINY.mlp,
        memory_attention_rope_feat_sizes=[cells[-1], cells[-1]],
        memory_encoder_hidden_size=TINY.width,
        mask_downsampler_embed_dim=TINY.width,
        memory_fuser_embed_dim=TINY.width,
        memory_fuser_intermediate_dim=4 * TINY.width,
        enable_temporal_pos_encoding_for_object_pointers=False,
        enable_occlusion_spatial_embedding=False,
    )


def two_layers(hidden: int, width: int) -> Shapes:
    return dict(
        name for layer, rows in ((0, hidden), (2, width)) for name in _layer(f"text_hidden_fcs.{layer}", rows, hidden)
    )


def base_shapes(content: official.Config) -> Shapes:
    """The tensors of the InternVL in a Sa2VA folder."""

    def shaped(*shape: int) -> Tensor:
        return torch.empty(shape, device="meta")

    def norm(name: str, size: int, bias: bool) -> official.State:
        return {f"{name}.weight": shaped(size)} | ({f"{name}.bias": shaped(size)} if bias else {})

    def linear(name: str, rows: int, columns: int, bias: bool) -> official.State:
        return {f"{name}.weight": shaped(rows, columns)} | ({f"{name}.bias": shaped(rows)} if bias else {})

    vision, hidden = content["vision_config"]["hidden_size"], content["llm_config"]["hidden_size"]
    state = (
        official._vision_state(content, shaped, norm, linear)
        | official._language_state(content, shaped, norm, linear)
        | norm("mlp1.0", 4 * vision, True)
        | linear("mlp1.1", hidden, 4 * vision, True)
        | linear("mlp1.3", hidden, hidden, True)
    )
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def sa2va_config(content: official.Config, family: str) -> official.Config:
    """An InternVL's `config.json` as Sa2VA writes it."""
    return content | {
        "architectures": ["Sa2VAChatModel"],
        "auto_map": {"AutoModel": "modeling_sa2va_chat.Sa2VAChatModel"},
        "model_type": "sa2va_chat",
        "template": TEMPLATES[family],
        "use_backbone_lora": 0,
        "use_llm_lora": 0,
        "tie_word_embeddings": False,
    }


def random_sam2() -> official.State:
    """Random weights of the tiny SAM 2."""
    state = {name: torch.empty(shape) for name, shape in sam2_shapes(TINY).items()}
    fill_randomly(state)
    return state


def fill_randomly(state: official.State) -> None:
    """Weights large enough for masks with some shape, under SAM 2's own names or transformers'."""
    random = torch.Generator().manual_seed(0)
    for name, tensor in state.items():
        fan_in = math.prod(tensor.shape[1:]) if tensor.ndim > 1 else 1
        scale = 1.0 if "token" in name or "embed" in name else 1.5 / math.sqrt(fan_in) if tensor.ndim > 1 else 0.2
        noise = torch.randn(tensor.shape, generator=random) * scale
        if "memory_attention" in name and name.endswith(("out_proj.weight", "o_proj.weight", "linear2.weight")):
            noise *= 0.003  # a random memory is chaotic: errors of rounding would grow from frame to frame
        tensor.copy_(1 + noise if tensor.ndim == 1 and name.endswith("weight") else noise)


def write_sa2va(folder: Path, family: str, script: list[str], **changes: Any) -> official.State:
    """Write a tiny Sa2VA folder whose language model answers with `script`. Returns its tensors.

    Each token of the script must occur once, or the answer goes round in circles. The first is the one before the
    answer. Attention and the MLPs have a little say, so that states depend on the whole prompt.
    """
    count = official.write_tokenizer(folder, family)
    settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    settings["added_tokens_decoder"] |= official._appended(count, MARKS)
    settings["additional_special_tokens"] += MARKS
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    count += len(MARKS)
    content = sa2va_config(official.tiny_config(family, vocabulary=count, **changes), family)
    state = official.tiny_state(content)
    names = {str(token["content"]): int(number) for number, token in settings["added_tokens_decoder"].items()}
    ids = [names[word] if word in names else official.official_ids(folder, word)[-1] for word in script]
    inlm = family == "internlm2"
    table = state[f"language_model.model.{'tok_embeddings' if inlm else 'embed_tokens'}.weight"]
    head = state[f"language_model.{'output' if inlm else 'lm_head'}.weight"]
    for name, tensor in state.items():
        if name.startswith("language_model") and name.endswith(
            ("o_proj.weight", "down_proj.weight", "wo.weight", "w2.weight")
        ):
            tensor *= 0.3
    head.zero_()
    state["language_model.model.norm.weight"].fill_(1.0)
    for before, after in itertools.pairwise(ids):
        head[after] += table[before] / table[before].norm()
    hidden = content["llm_config"]["hidden_size"]
    random = torch.Generator().manual_seed(1)
    for name, shape in two_layers(hidden, TINY.width).items():
        state[name] = torch.randn(shape, generator=random) / math.sqrt(hidden)
    state |= random_sam2()
    official.write_original(folder, content, state, shards=2)
    return state
