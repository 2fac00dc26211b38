"""The original `config.json` of a native model: `configuration.native_config`, backwards."""

import math
from typing import Any

from vision_agent.errors import CheckpointError
from vision_agent.model.chat_templates import ConversationTemplate
from vision_agent.model.original.configuration import LANGUAGE_MODELS, OriginalSettings, native_config

# What a chat model of a language family is published with.
FAMILY_TEMPLATES = {
    "qwen2": "internvl2_5",
    "qwen3": "internvl2_5",
    "qwen3_moe": "internvl2_5",
    "llama": "internlm2-chat",
    "phi3": "phi3-chat",
    "gpt_oss": "internvl3_5_gpt_oss",
}
# Says nothing of what is computed: names, bookkeeping, training, and ids that the tokenizer and the template say.
_SAYS_NOTHING = frozenset(
    (
        "architectures dtype torch_dtype transformers_version id2label label2id problem_type return_dict "
        "output_attentions output_hidden_states chunk_size_feed_forward is_encoder_decoder use_cache _name_or_path "
        "initializer_range attention_dropout hidden_dropout_prob projection_dropout dropout initializer_factor "
        "layer_scale_init_value bos_token_id eos_token_id pad_token_id tie_word_embeddings pretraining_tp "
        "router_aux_loss_coef output_router_logits resid_pdrop embd_pdrop auto_map use_mask_token "
        "use_absolute_position_embeddings original_max_position_embeddings experts_per_token initial_context_length "
        "model_type _attn_implementation _experts_implementation_internal _attn_implementation_autoset "
        "max_window_layers rope_theta type debug ep_size"
    ).split()
)


def original_config(config: Any, settings: OriginalSettings) -> dict[str, Any]:
    """Return the `config.json` in the original format for a native model.

    Args:
        config: the native model's, an `InternVLConfig`.
        settings: what stands beside the architecture.

    Raises:
        CheckpointError: a tower or a setting that no published InternVL has.
    """
    vision, text = config.vision_config, config.text_config
    if vision.model_type != "internvl_vision":
        raise CheckpointError(
            f"the vision tower is a {vision.model_type!r}; the original format has InternViT ('internvl_vision') alone"
        )
    architecture = next(
        (name for name, kind in LANGUAGE_MODELS.items() if kind == text.model_type and "LM2" not in name), ""
    )
    if not architecture:
        expected = ", ".join(sorted(set(LANGUAGE_MODELS.values())))
        raise CheckpointError(f"the language model is a {text.model_type!r}; expected one of {expected}")
    (height, width), (patch, other) = vision.image_size, vision.patch_size
    if height != width or patch != other:
        raise CheckpointError(f"tiles of {height}x{width} and patches of {patch}x{other} px; expected squares")
    tied = bool(config.tie_word_embeddings)
    template: ConversationTemplate = settings.template
    content: dict[str, Any] = {
        "architectures": ["InternVLChatModel"],
        "model_type": "internvl_chat",
        "vision_config": _vision(vision, height, patch),
        "llm_config": _language(text, architecture) | {"tie_word_embeddings": tied},
        "template": template.name,
        "system_message": template.system_message,
        "select_layer": config.vision_feature_layer,
        "downsample_ratio": config.downsample_ratio,
        "ps_version": settings.ps_version,
        "force_image_size": settings.tile_size,
        "dynamic_image_size": settings.dynamic,
        "use_thumbnail": settings.thumbnail,
        "min_dynamic_patch": settings.min_tiles,
        "max_dynamic_patch": settings.max_tiles,
        "pad2square": False,
        "use_backbone_lora": 0,
        "use_llm_lora": 0,
        "hidden_size": text.hidden_size,
        "tie_word_embeddings": tied,
        "torch_dtype": _dtype_name(config),
    }
    _check(config, native_config(content, tied=tied))
    return content


def _vision(vision: Any, size: int, patch: int) -> dict[str, Any]:
    return {
        "architectures": ["InternVisionModel"],
        "model_type": "intern_vit_6b",
        "hidden_size": vision.hidden_size,
        "intermediate_size": vision.intermediate_size,
        "num_hidden_layers": vision.num_hidden_layers,
        "num_attention_heads": vision.num_attention_heads,
        "image_size": size,
        "patch_size": patch,
        "num_channels": vision.num_channels,
        "qkv_bias": vision.attention_bias,
        "qk_normalization": vision.use_qk_norm,
        "norm_type": vision.norm_type,
        "layer_norm_eps": vision.layer_norm_eps,
        "hidden_act": vision.hidden_act,
        "initializer_factor": vision.layer_scale_init_value,
        "initializer_range": vision.initializer_range,
        "attention_dropout": 0.0,
        "dropout": 0.0,
        "drop_path_rate": 0.0,
        "use_flash_attn": True,
    }


def _language(text: Any, architecture: str) -> dict[str, Any]:
    said: dict[str, Any] = text.to_dict()
    said = {name: value for name, value in said.items() if not name.startswith("_") and name not in ("dtype",)}
    rope = dict(said.pop("rope_parameters", None) or {})
    said["rope_theta"] = rope.pop("rope_theta", 10000.0)
    kind = rope.pop("rope_type", None) or rope.pop("type", None) or "default"
    rope.pop("type", None)
    said["rope_scaling"] = None if kind == "default" and not rope else {**rope, "rope_type": kind, "type": kind}
    if "short_factor" in rope:
        said["rope_scaling"] = {"type": _long_kind(rope), "short_factor": rope["short_factor"]}
        said["rope_scaling"]["long_factor"] = rope["long_factor"]
        said["original_max_position_embeddings"] = rope["original_max_position_embeddings"]
    if getattr(text, "num_experts", None):  # transformers writes it under another name
        said["num_experts"] = text.num_experts
    return said | {"architectures": [architecture], "torch_dtype": _dtype_name(text)}


def _long_kind(rope: dict[str, Any]) -> str:
    """Which of Phi-3's two ways to stretch positions, under their first names, scales cosines and sines so."""
    factor, scale = float(rope.get("factor") or 1.0), rope.get("attention_factor")
    yarn = factor > 1 and scale is not None and math.isclose(float(scale), 0.1 * math.log(factor) + 1)
    return "yarn" if yarn else "su"


def _dtype_name(config: Any) -> str:
    return str(getattr(config, "dtype", None) or "float32").removeprefix("torch.")


def _check(config: Any, again: Any) -> None:
    """See that what was written means the same model."""
    for part in ("vision_config", "text_config"):
        wanted, got = getattr(config, part).to_dict(), getattr(again, part).to_dict()
        for name in sorted(wanted.keys() | got.keys() - _SAYS_NOTHING):
            if name in _SAYS_NOTHING or _same(wanted.get(name), got.get(name)):
                continue
            raise CheckpointError(
                f"config.json says {part}.{name} {wanted.get(name)!r:.80}; the original format would mean "
                f"{got.get(name)!r:.80}"
            )
    for name in ("downsample_ratio", "image_seq_length", "projector_hidden_act", "vision_feature_layer"):
        if getattr(config, name) != getattr(again, name):
            raise CheckpointError(
                f"config.json says {name} {getattr(config, name)!r}; the original format would mean "
                f"{getattr(again, name)!r}"
            )


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        names = (one.keys() | other.keys()) - {"type"}
        return all(_same(one.get(name), other.get(name)) for name in names)
    if isinstance(one, float | int) and isinstance(other, float | int):
        return math.isclose(one, other, rel_tol=1e-6)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other) or (one in (None, False) and other in (None, False))
