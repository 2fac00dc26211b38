"""What an original `config.json` says (`InternVLChatModel`), and the transformers configuration that computes the same.

An original folder names remote code (`auto_map`). It is never run: the published architectures are all expressible
with transformers' own classes, and anything else is refused.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from transformers import InternVLConfig

from vision_agent.errors import CheckpointError
from vision_agent.model.chat_templates import OFFICIAL_TEMPLATES, ConversationTemplate

# Architecture of the language model -> the transformers model type that computes the same.
LANGUAGE_MODELS = {
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3_moe",
    "InternLM2ForCausalLM": "llama",
    "LlamaForCausalLM": "llama",
    "Phi3ForCausalLM": "phi3",
    "GptOssForCausalLM": "gpt_oss",
}

# Taken over under the same name where present; all else in `llm_config` is bookkeeping of older library versions.
_LANGUAGE_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "original_max_position_embeddings",
    "rms_norm_eps",
    "attention_bias",
    "mlp_bias",
    "attention_dropout",
    "initializer_range",
)
# Of mixtures of experts; the first three have no sensible default.
_EXPERT_FIELDS = (
    "num_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "norm_topk_prob",
    "decoder_sparse_step",
    "mlp_only_layers",
)
# Of GPT-OSS; the first two have no sensible default.
_GPT_OSS_FIELDS = ("num_local_experts", "num_experts_per_tok", "layer_types", "sliding_window", "swiglu_limit")
# What GPT-OSS's configuration assumes where a file says nothing.
_GPT_OSS_DEFAULTS: dict[str, Any] = {
    "rms_norm_eps": 1e-5,
    "rope_theta": 150000.0,
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
        "original_max_position_embeddings": 4096,
    },
}
_CODE = "modeling_internvl_chat"  # the file of the published model's class
_OUTPUT_TABLES = frozenset({"language_model.lm_head.weight", "language_model.output.weight"})
_WINDOW_FIELDS = ("use_sliding_window", "sliding_window", "max_window_layers")
_LANGUAGE_REQUIRED = _LANGUAGE_FIELDS[:5]
_VISION_REQUIRED = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "patch_size")


@dataclass(frozen=True)
class OriginalSettings:
    """What the original configuration says beside the architecture.

    Attributes:
        tile_size: tile side in pixels.
        min_tiles, max_tiles: bounds on columns * rows; both 1 unless `dynamic`.
        thumbnail: append the whole image as a last tile when there is more than one.
        dynamic: whether images are cut into tiles at all.
        template: how dialogues are written, with the checkpoint's own system message.
        ps_version: `"v1"` leaves the token grid of a tile transposed after pixel shuffle, `"v2"` does not.
            transformers computes `"v2"`.
    """

    tile_size: int
    min_tiles: int
    max_tiles: int
    thumbnail: bool
    dynamic: bool
    template: ConversationTemplate
    ps_version: str


def is_original(content: dict[str, Any]) -> bool:
    """Return whether this `config.json` describes a model in the original format."""
    return content.get("model_type") == "internvl_chat" or "InternVLChatModel" in (content.get("architectures") or [])


def language_architecture(content: dict[str, Any]) -> str:
    """Return the class name of the language model, such as `"InternLM2ForCausalLM"`.

    Raises:
        CheckpointError: another architecture than those published.
    """
    name = (_part(content, "llm_config").get("architectures") or [None])[0]
    if name not in LANGUAGE_MODELS:
        raise CheckpointError(
            f"config.json names the language model {name!r}; expected one of {', '.join(LANGUAGE_MODELS)}. "
            "Another one would need the checkpoint's own code, which is never run"
        )
    return str(name)


def read_settings(content: dict[str, Any]) -> OriginalSettings:
    """Return the settings of an original `config.json`; absent ones are as in the official code.

    Raises:
        CheckpointError: an unknown template, or a setting that is not supported.
    """
    name = content.get("template")
    if not isinstance(name, str) or name not in OFFICIAL_TEMPLATES:
        raise CheckpointError(
            f"config.json names the conversation template {name!r}; expected one of {', '.join(OFFICIAL_TEMPLATES)}"
        )
    template = OFFICIAL_TEMPLATES[name]
    # A published config has `"system_message": null`, which means the template's own.
    if content.get("system_message") is not None:
        template = template.with_system_message(str(content["system_message"]))
    ps_version = content.get("ps_version", "v1")
    if ps_version not in ("v1", "v2"):
        raise CheckpointError(f"config.json says ps_version {ps_version!r}; expected 'v1' or 'v2'")
    dynamic = bool(content.get("dynamic_image_size", False))
    fewest, most = _integer(content, "min_dynamic_patch", 1), _integer(content, "max_dynamic_patch", 6)
    if not 1 <= fewest <= most:
        raise CheckpointError(f"config.json says min_dynamic_patch {fewest} and max_dynamic_patch {most}")
    return OriginalSettings(
        tile_size=_tile_size(content),
        min_tiles=fewest if dynamic else 1,
        max_tiles=most if dynamic else 1,
        thumbnail=bool(content.get("use_thumbnail", False)),
        dynamic=dynamic,
        template=template,
        ps_version=ps_version,
    )


def is_tied(content: dict[str, Any], names: Collection[str]) -> bool:
    """Return whether the table of words in is the one of words out, too: it is said so, and no other is written.

    Args:
        names: of the tensors in the weight files.
    """
    said = content.get("tie_word_embeddings") or _part(content, "llm_config").get("tie_word_embeddings")
    return bool(said) and _OUTPUT_TABLES.isdisjoint(names)


def native_config(content: dict[str, Any], *, image_token_id: int | None = None, tied: bool = False) -> InternVLConfig:
    """Return the transformers configuration of an original `config.json`.

    Args:
        content: the parsed `config.json`.
        tied: what `is_tied` says.
        image_token_id: id of `<IMG_CONTEXT>`, which only the tokenizer knows; None leaves the library's default.

    Raises:
        CheckpointError: an architecture or a setting that is not supported, or one that is missing.
    """
    _refuse_unsupported(content)
    vision = _part(content, "vision_config")
    _require(vision, _VISION_REQUIRED, "vision_config")
    size, patch = _tile_size(content), _integer(vision, "patch_size", 14)
    ratio = content.get("downsample_ratio", 0.5)
    if not isinstance(ratio, float | int) or not 0 < ratio <= 1:
        raise CheckpointError(f"config.json says downsample_ratio {ratio!r}; expected a number in (0, 1]")
    if size % patch or not math.isclose(1 / ratio % 1, 0) or size // patch % round(1 / ratio):
        raise CheckpointError(
            f"config.json: tiles of {size} px, patches of {patch} px and downsample_ratio {ratio} do not fit together"
        )
    layer, layers = _integer(content, "select_layer", -1), _integer(vision, "num_hidden_layers", 48)
    if not 1 <= abs(layer) <= layers:
        raise CheckpointError(f"config.json says select_layer {layer}, but the vision tower has {layers} layers")
    fields: dict[str, Any] = {
        "vision_config": _vision_config(vision, size),
        "text_config": _language_config(content) | {"tie_word_embeddings": tied},
        "downsample_ratio": float(ratio),
        "image_seq_length": (size // patch // round(1 / ratio)) ** 2,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": layer,
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": tied,
    }
    if image_token_id is not None:
        fields["image_token_id"] = image_token_id
    try:
        return InternVLConfig(**fields)
    except Exception as error:  # transformers raises many kinds for settings that contradict each other
        raise CheckpointError(f"config.json makes no sense: {error}") from error


def _refuse_unsupported(content: dict[str, Any]) -> None:
    _refuse_other_code(content)
    if content.get("pad2square"):
        raise CheckpointError("config.json says pad2square: padding images to squares is not supported")
    for name in ("use_backbone_lora", "use_llm_lora"):  # merged while weights are read
        rank = content.get(name)
        if rank is not None and not (isinstance(rank, int) and 0 <= rank <= 4096):
            raise CheckpointError(f"config.json says {name} {rank!r:.80}; expected a rank, or 0")
    inside = _part(content, "llm_config").get("quantization_config")
    if isinstance(inside, dict) and inside.get("quant_method") == "mxfp4":
        inside = None  # left over from openai/gpt-oss-20b; the tensors themselves tell
    quantized = content.get("quantization_config") or inside
    if quantized:
        method = quantized.get("quant_method", "unknown") if isinstance(quantized, dict) else quantized
        raise CheckpointError(f"the weights are quantized ({method}); load the checkpoint that was not quantized")


def _refuse_other_code(content: dict[str, Any]) -> None:
    """Refuse models of the same format that compute something else with the same weights, such as InternVideo2.5."""
    if not is_original(content):
        return
    classes = content.get("architectures")
    if isinstance(classes, list) and classes and "InternVLChatModel" not in classes:
        raise CheckpointError(f"config.json names the model {classes[0]!r:.80}; expected 'InternVLChatModel'")
    code = content.get("auto_map")
    # Copies say "owner/name--module.Class".
    name = str(code.get("AutoModel") or _CODE).rsplit("--", 1)[-1] if isinstance(code, dict) else _CODE
    if name.split(".")[0] != _CODE:
        merging = " (InternVideo2.5 merges the image tokens of several frames)" if "hico" in name else ""
        raise CheckpointError(
            f"config.json asks for the code {name!r:.80}{merging}, which is never run; supported is what {_CODE!r} does"
        )


def _vision_config(vision: dict[str, Any], size: int) -> dict[str, Any]:
    return {
        "model_type": "internvl_vision",
        "hidden_size": vision["hidden_size"],
        "intermediate_size": vision["intermediate_size"],
        "num_hidden_layers": vision["num_hidden_layers"],
        "num_attention_heads": vision["num_attention_heads"],
        "patch_size": [vision["patch_size"]] * 2,
        # The position grid is resized while the weights are read, so the model is built for the tiles it gets.
        "image_size": [size] * 2,
        "num_channels": vision.get("num_channels", 3),
        "attention_bias": vision.get("qkv_bias", False),
        "use_qk_norm": vision.get("qk_normalization", True),
        "norm_type": vision.get("norm_type", "rms_norm"),
        "layer_norm_eps": vision.get("layer_norm_eps", 1e-6),
        "hidden_act": vision.get("hidden_act", "gelu"),
        "layer_scale_init_value": vision.get("initializer_factor", 0.1),
        "initializer_range": vision.get("initializer_range", 0.02),
        # The official tower has no layer norm after its last block, which is what this switch leaves out.
        "use_mean_pooling": True,
    }


def _language_config(content: dict[str, Any]) -> dict[str, Any]:
    architecture = language_architecture(content)
    language = _part(content, "llm_config")
    if architecture == "GptOssForCausalLM":
        language = _GPT_OSS_DEFAULTS | language
    _require(language, _LANGUAGE_REQUIRED, "llm_config")
    fields = {name: language[name] for name in _LANGUAGE_FIELDS if name in language}
    fields["model_type"] = LANGUAGE_MODELS[architecture]
    if fields["model_type"] not in ("llama", "gpt_oss"):
        fields |= {name: language[name] for name in _WINDOW_FIELDS if name in language}
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        token = language.get(name)
        fields[name] = token if isinstance(token, int) and 0 <= token < fields["vocab_size"] else None
    fields["num_key_value_heads"] = fields.get("num_key_value_heads") or fields["num_attention_heads"]
    if architecture == "InternLM2ForCausalLM":
        fields["attention_bias"] = language.get("bias", True)
        fields.setdefault("max_position_embeddings", 2048)
    elif architecture.startswith("Qwen3"):
        fields.setdefault("head_dim", 128)
    if architecture == "Qwen3MoeForCausalLM":
        _require(language, _EXPERT_FIELDS[:3], "llm_config")
        fields |= {name: language[name] for name in _EXPERT_FIELDS if language.get(name) is not None}
    elif architecture == "GptOssForCausalLM":
        _require(language, _GPT_OSS_FIELDS[:2], "llm_config")
        fields |= {name: language[name] for name in _GPT_OSS_FIELDS if name in language}
    if architecture != "Phi3ForCausalLM":
        fields.setdefault("rms_norm_eps", 1e-6)
    fields["rope_parameters"] = _rope(language)
    return fields


def _rope(language: dict[str, Any]) -> dict[str, Any]:
    """Rotary settings under the names of transformers 5; older files say `type`, `su` and `yarn` (of Phi-3)."""
    # Transformers 5 saves both as one.
    scaling = dict(language.get("rope_parameters") or language.get("rope_scaling") or {})
    theta = float(scaling.pop("rope_theta", None) or language.get("rope_theta", 10000.0))
    kind = scaling.pop("rope_type", None) or scaling.pop("type", None) or "default"
    scaling.pop("type", None)
    if "short_factor" not in scaling:
        return {**scaling, "rope_type": kind, "rope_theta": theta}
    limit = int(language.get("max_position_embeddings", 4096))
    trained = int(language.get("original_max_position_embeddings", 4096))
    stretch = limit / trained
    # The scale of cosines and sines is applied to short sequences too.
    if stretch <= 1:
        attention = 1.0
    elif kind == "yarn":
        attention = 0.1 * math.log(stretch) + 1
    else:
        attention = math.sqrt(1 + math.log(stretch) / math.log(trained))
    return {
        "rope_type": "longrope",
        "rope_theta": theta,
        "short_factor": scaling["short_factor"],
        "long_factor": scaling["long_factor"],
        "factor": stretch,
        "attention_factor": attention,
        "original_max_position_embeddings": trained,
    }


def _tile_size(content: dict[str, Any]) -> int:
    if content.get("force_image_size"):
        return _integer(content, "force_image_size", 0)
    return _integer(_part(content, "vision_config"), "image_size", 224)


def _integer(part: dict[str, Any], name: str, default: int) -> int:
    value = part.get(name, default)
    if not isinstance(value, int):
        raise CheckpointError(f"config.json says {name} {value!r}; expected a whole number")
    return value


def _part(content: dict[str, Any], name: str) -> dict[str, Any]:
    part = content.get(name)
    if not isinstance(part, dict):
        raise CheckpointError(f"config.json has no {name}, so it is no InternVL model")
    return part


def _require(part: dict[str, Any], names: tuple[str, ...], where: str) -> None:
    missing = [name for name in names if part.get(name) is None]
    if missing:
        raise CheckpointError(f"config.json: {where} lacks {', '.join(missing)}")
