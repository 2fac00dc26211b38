"""Reads original weight files and puts every tensor where transformers' InternVL has it.

A table of rules maps original names to native ones; a rule may cut a fused tensor into several. Names are checked
before any weight is read, so that a missing or unexpected one is an error that names it and costs no time. Tensors are
converted one at a time and go straight to their device: memory holds the model, if it is on the CPU, and one tensor.

Shape suffixes: D head size, E width of the vision tower, H hidden size, G query heads per key head, K key heads.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import InternVLConfig

from vision_agent.errors import CheckpointError
from vision_agent.model.empty_model import Places, Target, empty_model, fillable
from vision_agent.model.fingerprint import WeightSample
from vision_agent.model.weight_files import WeightFile, listed_names, refuse_integers, refuse_packed

_Split = Callable[[Tensor, Any], Sequence[Tensor]]
_Join = Callable[[Sequence[Tensor], Any], Tensor]


@dataclass(frozen=True)
class Rule:
    """How one kind of original tensor becomes native ones.

    Attributes:
        pattern: matches the whole original name.
        names: the native names, which may refer to groups of the pattern; none if the tensor is recomputed.
        split: gives one tensor for each of the names; None keeps the tensor as it is.
        join: makes of one tensor for each of the names the original one again, where there are several.
    """

    pattern: str
    names: tuple[str, ...]
    split: _Split | None = None
    join: _Join | None = None

    def native_names(self, key: str) -> tuple[str, ...] | None:
        """Return the native names of this original tensor; None if the rule is not about it."""
        found = re.fullmatch(self.pattern, key)
        return tuple(found.expand(name) for name in self.names) if found else None


def _thirds(fused: Tensor, config: InternVLConfig) -> Sequence[Tensor]:
    """[q; k; v], as InternViT fuses them."""
    return fused.chunk(3)


def _from_thirds(pieces: Sequence[Tensor], config: InternVLConfig) -> Tensor:
    return torch.cat(list(pieces))


def _grouped_heads(fused: Tensor, config: InternVLConfig) -> Sequence[Tensor]:
    """InternLM2's rows: for each key head its G query heads, then the key head, then the value head."""
    text: Any = config.text_config
    groups = text.num_attention_heads // text.num_key_value_heads
    heads_KGDH = fused.reshape(text.num_key_value_heads, groups + 2, -1, *fused.shape[1:])
    pieces = heads_KGDH[:, :groups], heads_KGDH[:, groups], heads_KGDH[:, groups + 1]
    return [piece.reshape(-1, *fused.shape[1:]) for piece in pieces]


def _from_grouped_heads(pieces: Sequence[Tensor], config: InternVLConfig) -> Tensor:
    text: Any = config.text_config
    rest = pieces[0].shape[1:]
    rows = pieces[1].shape[0] // text.num_key_value_heads  # of a head
    heads_KGDH = [piece.reshape(text.num_key_value_heads, -1, rows, *rest) for piece in pieces]
    return torch.cat(heads_KGDH, dim=1).reshape(-1, *rest)


def _position_grid(positions_1LE: Tensor, config: InternVLConfig) -> Sequence[Tensor]:
    """Positions resized from the grid of the file to the grid of the tiles; the class token's stays."""
    side = round((positions_1LE.shape[1] - 1) ** 0.5)
    vision: Any = config.vision_config
    wanted = vision.image_size[0] // vision.patch_size[0]
    if side == wanted:
        return [positions_1LE]
    grid = positions_1LE[:, 1:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    resized = interpolate(grid, size=(wanted, wanted), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    # In fp32, as they were resized: the model rounds them to its own number format.
    return [torch.cat([positions_1LE[:, :1].float(), resized], dim=1)]


_TOWER, _PROJECTOR, _LANGUAGE = "model.vision_tower", "model.multi_modal_projector", "model.language_model"
_IN_BLOCK, _BLOCK = r"vision_model\.encoder\.layers\.(\d+)", _TOWER + r".encoder.layer.\1"
_IN_LAYER, _LAYER = r"language_model\.model\.layers\.(\d+)", _LANGUAGE + r".layers.\1"

VISION_RULES = (
    Rule(r"vision_model\.embeddings\.class_embedding", (_TOWER + ".embeddings.cls_token",)),
    Rule(
        r"vision_model\.embeddings\.position_embedding", (_TOWER + ".embeddings.position_embeddings",), _position_grid
    ),
    Rule(
        r"vision_model\.embeddings\.patch_embedding\.(weight|bias)",
        (_TOWER + r".embeddings.patch_embeddings.projection.\1",),
    ),
    Rule(
        _IN_BLOCK + r"\.attn\.qkv\.(weight|bias)",
        tuple(f"{_BLOCK}.attention.{name}_proj.\\2" for name in "qkv"),
        _thirds,
        _from_thirds,
    ),
    Rule(_IN_BLOCK + r"\.attn\.(q|k)_norm\.weight", (_BLOCK + r".attention.\2_norm.weight",)),
    Rule(_IN_BLOCK + r"\.attn\.proj\.(weight|bias)", (_BLOCK + r".attention.projection_layer.\2",)),
    Rule(_IN_BLOCK + r"\.norm1\.(weight|bias)", (_BLOCK + r".layernorm_before.\2",)),
    Rule(_IN_BLOCK + r"\.norm2\.(weight|bias)", (_BLOCK + r".layernorm_after.\2",)),
    Rule(_IN_BLOCK + r"\.ls(1|2)", (_BLOCK + r".lambda_\2",)),
    Rule(_IN_BLOCK + r"\.mlp\.(fc1|fc2)\.(weight|bias)", (_BLOCK + r".mlp.\2.\3",)),
    Rule(r"mlp1\.0\.(weight|bias)", (_PROJECTOR + r".layer_norm.\1",)),
    Rule(r"mlp1\.1\.(weight|bias)", (_PROJECTOR + r".linear_1.\1",)),
    Rule(r"mlp1\.3\.(weight|bias)", (_PROJECTOR + r".linear_2.\1",)),
)

_FLASH = ("mlp2.", "gating.", "pooling_before_gating.")

# Frequencies of the rotary embedding, which some old files keep, follow from the configuration.
_FREQUENCIES = Rule(r"(?:model\.)?language_model\..*\.rotary_emb\.inv_freq", ())

# A native folder's own names, today's and those of the first ones.
NATIVE_RULES = (
    _FREQUENCIES,
    Rule(r"language_model\.lm_head\.(.+)", (r"lm_head.\1",)),
    Rule(r"language_model\.model\.(.+)", (_LANGUAGE + r".\1",)),
    Rule(r"(vision_tower|multi_modal_projector)\.(.+)", (r"model.\1.\2",)),
    Rule(r"(.+)", (r"\1",)),
)

# Qwen2, Qwen3, Llama, Yi, Phi-3 and GPT-OSS (whose fused tensors are fused natively too) only move.
PLAIN_RULES = (
    _FREQUENCIES,
    Rule(r"language_model\.lm_head\.weight", ("lm_head.weight",)),
    Rule(r"language_model\.model\.(.+)", (_LANGUAGE + r".\1",)),
)

INTERNLM2_RULES = (
    _FREQUENCIES,
    Rule(r"language_model\.output\.weight", ("lm_head.weight",)),
    Rule(r"language_model\.model\.tok_embeddings\.weight", (_LANGUAGE + ".embed_tokens.weight",)),
    Rule(r"language_model\.model\.norm\.weight", (_LANGUAGE + ".norm.weight",)),
    Rule(
        _IN_LAYER + r"\.attention\.wqkv\.(weight|bias)",
        tuple(f"{_LAYER}.self_attn.{name}_proj.\\2" for name in "qkv"),
        _grouped_heads,
        _from_grouped_heads,
    ),
    Rule(_IN_LAYER + r"\.attention\.wo\.(weight|bias)", (_LAYER + r".self_attn.o_proj.\2",)),
    Rule(_IN_LAYER + r"\.attention_norm\.weight", (_LAYER + ".input_layernorm.weight",)),
    Rule(_IN_LAYER + r"\.ffn_norm\.weight", (_LAYER + ".post_attention_layernorm.weight",)),
    Rule(_IN_LAYER + r"\.feed_forward\.w1\.weight", (_LAYER + ".mlp.gate_proj.weight",)),
    Rule(_IN_LAYER + r"\.feed_forward\.w3\.weight", (_LAYER + ".mlp.up_proj.weight",)),
    Rule(_IN_LAYER + r"\.feed_forward\.w2\.weight", (_LAYER + ".mlp.down_proj.weight",)),
)

LANGUAGE_RULES = {
    "Qwen2ForCausalLM": PLAIN_RULES,
    "Qwen3ForCausalLM": PLAIN_RULES,
    "Qwen3MoeForCausalLM": PLAIN_RULES,
    "LlamaForCausalLM": PLAIN_RULES,
    "GptOssForCausalLM": PLAIN_RULES,
    "Phi3ForCausalLM": PLAIN_RULES,
    "InternLM2ForCausalLM": INTERNLM2_RULES,
}


def empty_original(
    config: InternVLConfig,
    *,
    dtype: torch.dtype,
    attn_implementation: str,
    int8: bool = False,
    places: Places | None = None,
) -> Any:
    """Make a native model whose weights are not set, with the official constants that no weight holds.

    Arguments and errors are those of `empty_model`.
    """
    model = empty_model(config, dtype=dtype, attn_implementation=attn_implementation, int8=int8, places=places)
    use_official_epsilon(model)
    return model


def use_official_epsilon(model: Any) -> None:
    """Give the query and key norms of InternViT-6B the epsilon of its other norms; natively it is fixed."""
    vision = model.config.vision_config
    if getattr(vision, "use_qk_norm", False):
        for block in model.model.vision_tower.encoder.layer:
            block.attention.q_norm.variance_epsilon = vision.layer_norm_eps
            block.attention.k_norm.variance_epsilon = vision.layer_norm_eps


def load_weights(model: Any, files: Sequence[WeightFile], architecture: str, beside: Sequence[Rule] = ()) -> str:
    """Fill a native model from the weight files of an original folder.

    Args:
        model: from `empty_original`.
        files: of the folder, from `open_weights`.
        architecture: the language model's class name, a key of `LANGUAGE_RULES`.
        beside: rules of tensors that other models read.

    Returns:
        the fingerprint of the weights.

    Raises:
        CheckpointError: a file that is missing or damaged; an index that disagrees with its files; a tensor that is
            missing, unexpected or of another shape. The message names the file or lists the tensors.
    """
    rules = (*VISION_RULES, *LANGUAGE_RULES[architecture], *beside)
    return load_by_rules(fillable(model), files, rules, model.config).digest()


def load_native(model: Any, files: Sequence[WeightFile]) -> None:
    """Fill a model from `empty_model` with a native folder's tensors. Raises CheckpointError, as `load_weights`."""
    load_by_rules(fillable(model), files, NATIVE_RULES, model.config)


def check_original(model: Any, files: Sequence[WeightFile], architecture: str, beside: Sequence[Rule] = ()) -> None:
    """Compare names and shapes with a model on the device "meta". Raises CheckpointError, as `load_weights`."""
    rules = (*VISION_RULES, *LANGUAGE_RULES[architecture], *beside)
    load_by_rules(fillable(model), files, rules, model.config)


def load_by_rules(
    targets: Mapping[str, Target], files: Sequence[WeightFile], rules: Sequence[Rule], config: Any
) -> WeightSample:
    """Copy the tensors of weight files to where rules put them. All of `targets` are filled, once.

    Args:
        targets: native names, and what is written to: see `fillable`.
        config: what the rules' `split` takes.

    Returns:
        a sample of what was copied.

    Raises:
        CheckpointError: see `load_weights`.
    """
    sample = WeightSample()
    plan = _plan([key for file in files for key in file.keys()], rules, set(targets))
    refuse_integers(files)
    for file in files:
        for key in file.keys():
            rule, names = plan[key]
            if names:
                pieces = _fill(targets, names, file.tensor(key), rule, config, f"{key} in {file.path.name}")
                for name, piece in zip(names, pieces, strict=True):
                    sample.add(name, piece)
                del pieces, piece  # before the next tensor is read
    return sample


def _plan(keys: Sequence[str], rules: Sequence[Rule], wanted: set[str]) -> dict[str, tuple[Rule, tuple[str, ...]]]:
    """For each original tensor its rule and native names; all native tensors are covered, once."""
    if any(key.startswith(_FLASH) for key in keys):
        raise CheckpointError(
            "the weights are of an InternVL-Flash checkpoint, whose router of image tokens (`gating`, `mlp2`) is not "
            "supported; load the checkpoint of the same name without `-Flash`"
        )
    refuse_packed(keys)
    plan: dict[str, tuple[Rule, tuple[str, ...]]] = {}
    unexpected: list[str] = []
    missing = set(wanted)
    for key in keys:
        found = next(((rule, names) for rule in rules if (names := rule.native_names(key)) is not None), None)
        if found is None or not missing.issuperset(found[1]):
            unexpected.append(key)
        else:
            plan[key] = found
            missing -= set(found[1])
    if missing or unexpected:
        said = [f"missing: {listed_names(missing)}"] if missing else []
        said += [f"unexpected: {listed_names(unexpected)}"] if unexpected else []
        raise CheckpointError(f"the weights do not fit config.json; {'; '.join(said)}")
    return plan


def _fill(
    targets: Mapping[str, Target],
    names: tuple[str, ...],
    tensor: Tensor,
    rule: Rule,
    config: Any,
    where: str,
) -> Sequence[Tensor]:
    try:
        pieces = rule.split(tensor, config) if rule.split else [tensor]
    except RuntimeError as error:
        raise CheckpointError(f"{where} has the shape {tuple(tensor.shape)}, which does not fit config.json") from error
    for name, piece in zip(names, pieces, strict=True):
        target = targets[name]
        if target.shape != piece.shape:
            raise CheckpointError(
                f"{where} has the shape {tuple(tensor.shape)}: {tuple(piece.shape)} for {name}, "
                f"but config.json says {tuple(target.shape)}"
            )
        target.copy_(piece)
    return pieces
