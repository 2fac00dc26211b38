"""Reads original weight files and puts every tensor where transformers' InternVL has it.

A table of rules maps original names to native ones; a rule may cut a fused tensor into several. Names are checked
before any weight is read, so that a missing or unexpected one is an error that names it and costs no time. Tensors are
converted one at a time: memory holds the model and one tensor.

Shape suffixes: D head size, E width of the vision tower, H hidden size, G query heads per key head, K key heads.
"""

import json
import re
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import InternVLConfig, InternVLForConditionalGeneration
from transformers.initialization import no_init_weights

from vision_agent.errors import CheckpointError

_Split = Callable[[Tensor, Any], Sequence[Tensor]]


@dataclass(frozen=True)
class Rule:
    """How one kind of original tensor becomes native ones.

    Attributes:
        pattern: matches the whole original name.
        names: the native names, which may refer to groups of the pattern; none if the tensor is recomputed.
        split: gives one tensor for each of the names; None keeps the tensor as it is.
    """

    pattern: str
    names: tuple[str, ...]
    split: _Split | None = None

    def native_names(self, key: str) -> tuple[str, ...] | None:
        """Return the native names of this original tensor; None if the rule is not about it."""
        found = re.fullmatch(self.pattern, key)
        return tuple(found.expand(name) for name in self.names) if found else None


def _thirds(fused: Tensor, config: InternVLConfig) -> Sequence[Tensor]:
    """[q; k; v], as InternViT fuses them."""
    return fused.chunk(3)


def _grouped_heads(fused: Tensor, config: InternVLConfig) -> Sequence[Tensor]:
    """InternLM2's rows: for each key head its G query heads, then the key head, then the value head."""
    text: Any = config.text_config
    groups = text.num_attention_heads // text.num_key_value_heads
    heads_KGDH = fused.reshape(text.num_key_value_heads, groups + 2, -1, *fused.shape[1:])
    pieces = heads_KGDH[:, :groups], heads_KGDH[:, groups], heads_KGDH[:, groups + 1]
    return [piece.reshape(-1, *fused.shape[1:]) for piece in pieces]


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

# Frequencies of the rotary embedding, which some old files keep, follow from the configuration.
_FREQUENCIES = Rule(r"language_model\..*\.rotary_emb\.inv_freq", ())

# Qwen2, Qwen3, Llama, Yi and Phi-3 (whose fused tensors are fused natively too) only move.
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
    "LlamaForCausalLM": PLAIN_RULES,
    "Phi3ForCausalLM": PLAIN_RULES,
    "InternLM2ForCausalLM": INTERNLM2_RULES,
}


def empty_model(config: InternVLConfig, *, dtype: torch.dtype, attn_implementation: str) -> Any:
    """Make a native model whose weights are not set, in eval mode, with the official constants that no weight holds.

    Raises:
        CheckpointError: settings that contradict each other.
    """
    try:
        with no_init_weights():
            model = InternVLForConditionalGeneration._from_config(
                config, dtype=dtype, attn_implementation=attn_implementation
            )
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"config.json makes no sense: {error}") from error
    use_official_epsilon(model)
    return model.eval().requires_grad_(False)


def use_official_epsilon(model: Any) -> None:
    """Give the query and key norms of InternViT-6B the epsilon of its other norms; natively it is fixed."""
    vision = model.config.vision_config
    if getattr(vision, "use_qk_norm", False):
        for block in model.model.vision_tower.encoder.layer:
            block.attention.q_norm.variance_epsilon = vision.layer_norm_eps
            block.attention.k_norm.variance_epsilon = vision.layer_norm_eps


def load_weights(model: Any, folder: Path, architecture: str, beside: Sequence[Rule] = ()) -> None:
    """Fill a native model from the weight files of an original folder.

    Args:
        model: from `empty_model`.
        folder: holds `model.safetensors`, `pytorch_model.bin` or the index of several such files.
        architecture: the language model's class name, a key of `LANGUAGE_RULES`.
        beside: rules of tensors that other models read.

    Raises:
        CheckpointError: a file that is missing or damaged; an index that disagrees with its files; a tensor that is
            missing, unexpected or of another shape. The message names the file or lists the tensors.
    """
    rules = (*VISION_RULES, *LANGUAGE_RULES[architecture], *beside)
    load_by_rules(dict(model.state_dict()), open_weights(folder), rules, model.config)


def load_by_rules(
    targets: dict[str, Tensor], files: Sequence["WeightFile"], rules: Sequence[Rule], config: Any
) -> None:
    """Copy the tensors of weight files to where rules put them. All of `targets` are filled, once.

    Args:
        targets: native names, and the tensors that are written to.
        config: what the rules' `split` takes.

    Raises:
        CheckpointError: see `load_weights`.
    """
    plan = _plan([key for file in files for key in file.keys()], rules, set(targets))
    for file in files:
        for key in file.keys():
            rule, names = plan[key]
            if names:
                _fill(targets, names, file.tensor(key), rule, config, f"{key} in {file.path.name}")


def _plan(keys: Sequence[str], rules: Sequence[Rule], wanted: set[str]) -> dict[str, tuple[Rule, tuple[str, ...]]]:
    """For each original tensor its rule and native names; all native tensors are covered, once."""
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
        said = [f"missing: {_listed(missing)}"] if missing else []
        said += [f"unexpected: {_listed(unexpected)}"] if unexpected else []
        raise CheckpointError(f"the weights do not fit config.json; {'; '.join(said)}")
    return plan


def _fill(
    targets: dict[str, Tensor], names: tuple[str, ...], tensor: Tensor, rule: Rule, config: Any, where: str
) -> None:
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
        target.data.copy_(piece)


def _listed(names: Sequence[str] | set[str]) -> str:
    """All names, or the first ones of very many."""
    ordered = sorted(names)
    return ", ".join(ordered[:40]) + (f" and {len(ordered) - 40} more" if len(ordered) > 40 else "")


# Files ---------------------------------------------------------------------------------------------------------------


class WeightFile(Protocol):
    """A file of named tensors."""

    path: Path

    def keys(self) -> list[str]: ...

    def tensor(self, key: str) -> Tensor: ...


class _SafetensorsFile:
    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file: Any = safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path.name} is truncated or damaged: {error}") from error

    def keys(self) -> list[str]:
        return list(self._file.keys())

    def tensor(self, key: str) -> Tensor:
        try:
            tensor: Tensor = self._file.get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{key} in {self.path.name} cannot be read: {error}") from error
        return tensor


class _TorchFile:
    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # Files of the old torch format cannot be mapped; they are read whole.
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except Exception as error:  # torch raises many kinds for a damaged file
            raise CheckpointError(f"{path.name} is truncated or damaged: {error}") from error
        if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
            raise CheckpointError(f"{path.name} holds no named tensors")
        self._state: dict[str, Tensor] = state

    def keys(self) -> list[str]:
        return list(self._state)

    def tensor(self, key: str) -> Tensor:
        return self._state[key]


def _open_file(path: Path) -> WeightFile:
    return _SafetensorsFile(path) if path.suffix == ".safetensors" else _TorchFile(path)


def open_weights(folder: Path) -> list[WeightFile]:
    """Open the weight files of a folder, each tensor in exactly one of them.

    Raises:
        CheckpointError: see `load_weights`.
    """
    for single in ("model.safetensors", "pytorch_model.bin"):
        if (folder / single).is_file():
            return [_open_file(folder / single)]
        if (folder / f"{single}.index.json").is_file():
            return _open_shards(folder, f"{single}.index.json")
    raise CheckpointError(f"the folder {str(folder)!r} has no weights: expected model.safetensors or its index")


def _open_shards(folder: Path, index: str) -> list[WeightFile]:
    try:
        places: dict[str, str] = json.loads((folder / index).read_text("utf-8"))["weight_map"]
        names = sorted(set(places.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is damaged: {error!r}") from error
    files: list[WeightFile] = []
    for name in names:
        # An index names files beside it; a path would lead out of the folder.
        if Path(name).name != name or not (folder / name).is_file():
            raise CheckpointError(f"{index} names the file {name!r}, which is missing")
        file = _open_file(folder / name)
        held, listed = set(file.keys()), {key for key, place in places.items() if place == name}
        if listed - held:
            raise CheckpointError(f"{index} says that {name} holds {_listed(listed - held)}, but it does not")
        if held - listed:
            raise CheckpointError(f"{name} holds {_listed(held - listed)}, which {index} does not say")
        files.append(file)
    return files


def stored_dtype(folder: Path) -> torch.dtype:
    """Return the number format of a folder's weights, by its first tensor.

    Raises:
        CheckpointError: see `load_weights`.
    """
    for file in open_weights(folder):
        for key in file.keys():
            return file.tensor(key).dtype
    raise CheckpointError(f"the weight files in {str(folder)!r} are empty")
