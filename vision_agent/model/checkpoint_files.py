"""Reads the small files of checkpoints with bounds: a stranger's may be endless, nested too deep or lead elsewhere."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from vision_agent.errors import CheckpointError, first_line

# The largest published one, a tokenizer.json, has 20 MB.
_MOST_BYTES = 100_000_000
_PARTS = ("vision_config", "text_config", "llm_config")
# Far above everything published, and small enough to be counted at once.
_MOST = {
    "num_hidden_layers": 1_000,
    "num_attention_heads": 10_000,
    "num_key_value_heads": 10_000,
    "num_experts": 10_000,
    "num_local_experts": 10_000,
    "image_size": 10_000,
    "patch_size": 10_000,
    "force_image_size": 10_000,
    "hidden_size": 200_000,
    "intermediate_size": 2_000_000,
    "moe_intermediate_size": 2_000_000,
    "head_dim": 100_000,
    "vocab_size": 5_000_000,
}


def read_object(path: Path, source: str) -> dict[str, Any]:
    """Return the JSON object in a file.

    Args:
        source: the checkpoint, for errors.

    Raises:
        CheckpointError: no regular file, one over 100 MB, or no JSON object.
    """
    check_readable(path, source)
    try:
        content = json.loads(path.read_text("utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"{path.name} of {source!r} is damaged: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path.name} of {source!r} is damaged: expected an object, got {content!r:.80}")
    return content


def check_readable(path: Path, source: str) -> None:
    """Refuse a file that cannot be read whole: a device or a pipe, which may have no end, or a very large one.

    Raises:
        CheckpointError: not a regular file of at most 100 MB.
    """
    if not path.is_file() or path.stat().st_size > _MOST_BYTES:
        raise CheckpointError(f"{path.name} of {source!r} is damaged: expected a regular file of at most 100 MB")


def tensor_names(single: Path | None, index: Mapping[str, Any] | None, source: str) -> frozenset[str]:
    """Return the names of the tensors in `model.safetensors`, or in the files that its index names; none without both.

    Raises:
        CheckpointError: a damaged file or index.
    """
    if single is not None:
        try:
            with safe_open(single, "pt") as file:
                return frozenset(file.keys())
        except (SafetensorError, OSError) as error:
            where = f"{single.name} of {source!r} could not be loaded"
            raise CheckpointError(f"{where}: it is damaged or cut short: {first_line(error)}") from error
    return frozenset() if index is None else frozenset(weight_map(index, source))


def weight_map(index: Mapping[str, Any], source: str, name: str = "model.safetensors.index.json") -> dict[str, str]:
    """Return which file holds each tensor, by the content of an index; `name` is the index's own, for errors.

    Raises:
        CheckpointError: no such table, or a file that is not beside the index: a path would lead out of the folder.
    """
    places = index.get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{name} of {source!r} is damaged: it names no weights")
    for file in places.values():
        if not isinstance(file, str) or Path(file).name != file:
            raise CheckpointError(f"{name} of {source!r} names the file {file!r}; expected one beside it")
    return places


def check_sizes(content: Mapping[str, Any]) -> None:
    """Refuse a `config.json` with sizes that no model has, which would only be noticed after hours or without memory.

    Raises:
        CheckpointError: such a size.
    """
    parts = {"": content} | {f"{name}.": content.get(name) for name in _PARTS}
    for where, part in parts.items():
        if not isinstance(part, Mapping):
            continue
        for name, most in _MOST.items():
            value = part.get(name)
            for number in value if isinstance(value, list) else [value]:
                if isinstance(number, int | float) and not -most <= number <= most:
                    raise CheckpointError(f"config.json says {where}{name} {value!r:.80}; expected at most {most:,}")
