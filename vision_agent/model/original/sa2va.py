"""Sa2VA (https://arxiv.org/abs/2501.04001): InternVL and SAM 2 in one folder of the original layout.

Sa2VA writes `[SEG]` for what it is to segment. The state at the token's own position (`read="self"`), through a
network of two layers, is a prompt token of its own SAM 2. So a folder is a base model and one route, and both come from
the same weight files: the vision and language model's tensors are those of any InternVL, `text_hidden_fcs` is the two
layers, and `grounding_encoder` is SAM 2 (see `sa2va_sam2`).

Facts from bytedance/Sa2VA, `projects/sa2va/hf/models`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vision_agent.errors import CheckpointError
from vision_agent.model.chat_templates import ConversationTemplate
from vision_agent.model.empty_model import Places
from vision_agent.model.original.configuration import OriginalSettings, read_settings
from vision_agent.model.original.loading import OriginalCheckpoint, load_original
from vision_agent.model.original.weights import Rule
from vision_agent.model.weight_files import open_weights
from vision_agent.plugins.route import RouteSpec

ROUTE = RouteSpec(token="[SEG]", decoder="sam", num_queries=0, read="self")
# The wordings that its published figures were measured with; the space before "Please" is theirs.
REQUEST = " Please segment {phrase} in this image."
VIDEO_REQUEST = "Please segment {phrase}."
DESCRIBE_REQUEST = (
    "Could you please give me a detailed description of the image? Please respond with interleaved segmentation masks "
    "for the corresponding parts of the answer."
)
"""Asks for a description whose phrases come with masks: `agent.run(DESCRIBE_REQUEST, image)`."""

_BESIDE = (Rule(r"grounding_encoder\.sam2_model\..+", ()), Rule(r"text_hidden_fcs\.[02]\.(weight|bias)", ()))
_LAYERS = {
    f"text_hidden_fcs.{layer}.{part}": f"prompt.{layer}.{part}" for layer in (0, 2) for part in ("weight", "bias")
}


def _template(name: str, role: str, end: str) -> ConversationTemplate:
    """Sa2VA writes no system message, whatever the template's name is elsewhere."""
    return ConversationTemplate(
        name=name,
        system_message="",
        system_start="",
        system_end="",
        user=role.format("user"),
        assistant=role.format("assistant"),
        user_end=end,
        assistant_end=end,
        sep=end,
    )


TEMPLATES = {
    "qwen_chat": _template("qwen_chat", "<|im_start|>{}\n", "<|im_end|>\n"),
    "internlm2_chat": _template("internlm2_chat", "<|im_start|>{}\n", "<|im_end|>\n"),
    "phi3_chat": _template("phi3_chat", "<|{}|>\n", "<|end|>\n"),
}
_MORE_ENDS = {"qwen_chat": ("<|endoftext|>",)}


@dataclass(frozen=True)
class OwnRoute:
    """A route that a checkpoint brings along.

    Attributes:
        spec: the route; its token is in the checkpoint's vocabulary.
        settings: keywords of its decoder.
        weights: the decoder's state.
    """

    spec: RouteSpec
    settings: dict[str, Any]
    weights: dict[str, Tensor]


def is_sa2va(content: dict[str, Any]) -> bool:
    """Return whether this `config.json` describes a Sa2VA on InternVL."""
    return "Sa2VAChatModel" in (content.get("architectures") or []) or (
        content.get("model_type") == "sa2va_chat" and "Qwen" not in str(content.get("architectures"))
    )


def load_sa2va(
    folder: Path,
    content: dict[str, Any],
    *,
    dtype: torch.dtype,
    attn_implementation: str,
    int8: bool = False,
    places: Places | None = None,
) -> OriginalCheckpoint:
    """The base model of a Sa2VA folder; the arguments and errors are those of `load_original`."""
    loaded = load_original(
        folder,
        content,
        dtype=dtype,
        attn_implementation=attn_implementation,
        int8=int8,
        places=places,
        settings=sa2va_settings(content),
        beside=_BESIDE,
    )
    vocabulary = loaded.tokenizer.get_vocab()
    if ROUTE.token not in vocabulary:
        raise CheckpointError(f"the tokenizer in {str(folder)!r} has no {ROUTE.token!r}, so it is no Sa2VA checkpoint")
    ends = [vocabulary[end] for end in _MORE_ENDS.get(loaded.template.name, ()) if end in vocabulary]
    ends += [] if loaded.tokenizer.eos_token_id is None else [int(loaded.tokenizer.eos_token_id)]
    return replace(loaded, end_ids=sorted({*loaded.end_ids, *ends}))


def sa2va_settings(content: dict[str, Any]) -> OriginalSettings:
    """Return the settings of a Sa2VA `config.json`. How images are cut is fixed in its code, whatever the file says.

    Raises:
        CheckpointError: an unknown template.
    """
    name = str(content.get("template")).replace("-", "_")
    if name not in TEMPLATES:
        raise CheckpointError(
            f"config.json names the conversation template {content.get('template')!r}; expected one of "
            f"{', '.join(TEMPLATES)}"
        )
    cutting = {"dynamic_image_size": True, "min_dynamic_patch": 1, "max_dynamic_patch": 12, "use_thumbnail": True}
    settings = read_settings({**content, **cutting, "template": "internvl2_5", "system_message": None})
    return replace(settings, template=TEMPLATES[name])


def own_route(folder: Path, content: dict[str, Any]) -> OwnRoute:
    """Return the `[SEG]` route of a Sa2VA folder. Its decoder loads SAM 2 from the same folder.

    Raises:
        CheckpointError: the two layers before SAM 2 are missing.
    """
    weights = _two_layers(folder)
    settings = {
        "hidden_size": int(content["llm_config"]["hidden_size"]),
        "checkpoint": str(folder),
        "request": REQUEST,
        "video_request": VIDEO_REQUEST,
    }
    return OwnRoute(ROUTE, settings, weights)


def _two_layers(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for file in open_weights(folder):
        found |= {_LAYERS[key]: file.tensor(key).float() for key in _wanted(file.keys())}
    missing = sorted(name for name, native in _LAYERS.items() if native not in found)
    if missing:
        raise CheckpointError(f"the weights do not fit a Sa2VA checkpoint; missing: {', '.join(missing)}")
    return found


def _wanted(keys: Sequence[str]) -> list[str]:
    return [key for key in keys if key in _LAYERS]
