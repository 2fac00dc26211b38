"""Reads the small files of checkpoints with bounds: a stranger's may be endless, nested too deep or lead elsewhere."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from vision_agent.errors import CheckpointError, first_line

# The largest published one, a tokenizer.json, has 20 MB.
_MOST_BYTES = 100_000_000
_LAYER_TYPES = frozenset({"full_attention", "sliding_attention"})
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
    "max_position_embeddings": 1_000_000_000,
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


def check_folder(folder: Path, source: str) -> None:
    """Refuse a folder in which transformers would read files without end, or pass over a damaged one in silence.

    Raises:
        CheckpointError: a small file that is no regular one, or one of those settings that damage what reads them.
    """
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix in (".json", ".jinja", ".txt", ".model"):
            check_readable(path, source)
    file = folder / "tokenizer_config.json"
    longest = read_object(file, source).get("model_max_length") if file.exists() else None
    if longest is not None and not _is_positive(longest):
        raise CheckpointError(f"{file.name} of {source!r} says model_max_length {longest!r:.80}; expected a number")
    file = folder / "generation_config.json"
    content = read_object(file, source) if file.exists() else {}
    for name in ("eos_token_id", "bos_token_id", "pad_token_id"):
        # transformers would take the defaults, with which answers have no end.
        token = content.get(name)
        if token is not None and not (_is_ids(token) and (name == "eos_token_id" or type(token) is int)):
            raise CheckpointError(f"{file.name} of {source!r} says {name} {token!r:.80}; expected a token id")


def processor_template(read: Callable[[str], Mapping[str, Any] | None]) -> str | None:
    """Return the chat template that a processor would use, where it is not the tokenizer's own.

    Args:
        read: gives the content of a JSON file of the checkpoint, None where there is none.
    """
    for name in ("processor_config.json", "chat_template.json"):
        template = (read(name) or {}).get("chat_template")
        if isinstance(template, dict):
            template = template.get("default")
        if template is not None:
            return str(template)
    return None


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


def check_settings(content: Mapping[str, Any]) -> None:
    """Refuse a `config.json` whose settings are of another kind than any model has.

    Of sizes those that would only be noticed after hours, without memory or with an answer; null is never refused here.

    Raises:
        CheckpointError: such a setting; the message names it.
    """
    parts = {"": content} | {f"{name}.": content.get(name) for name in _PARTS}
    for where, part in parts.items():
        if part is None:
            continue
        if not isinstance(part, Mapping):
            raise _refusal(where.removesuffix("."), part, "an object")
        for name, (holds, expected) in _KINDS.items():
            if part.get(name) is not None and not holds(part[name]):
                raise _refusal(f"{where}{name}", part[name], expected)
        for name, most in _MOST.items():
            value = part.get(name)
            least = 0 if "experts" in name or "moe" in name else 1
            for number in value if isinstance(value, list) else [value]:
                if isinstance(number, int | float) and not least <= number <= most:
                    raise _refusal(f"{where}{name}", value, f"at least {least} and at most {most:,}")
        _check_experts(part, where)
        _check_windows(part, where)
        for name in ("rope_scaling", "rope_parameters"):
            for number in ("factor", "rope_theta", "original_max_position_embeddings"):
                value = (part.get(name) or {}).get(number)
                if value is not None and not _is_positive(value):
                    raise _refusal(f"{where}{name}.{number}", value, "a number above 0")


def _check_experts(part: Mapping[str, Any], where: str) -> None:
    """A mixture asks some of its experts, and no more than there are."""
    asked, there = part.get("num_experts_per_tok"), part.get("num_local_experts") or part.get("num_experts")
    if type(asked) is int and type(there) is int and there and not 1 <= asked <= there:
        raise _refusal(f"{where}num_experts_per_tok", asked, f"at least 1 and at most {there}, the number of experts")


def _check_windows(part: Mapping[str, Any], where: str) -> None:
    window, kinds = part.get("sliding_window"), part.get("layer_types")
    if window is not None and not (type(window) is int and window >= 1):
        raise _refusal(f"{where}sliding_window", window, "a whole number above 0")
    if kinds is not None and not (isinstance(kinds, list) and set(map(str, kinds)) <= _LAYER_TYPES):
        raise _refusal(f"{where}layer_types", kinds, f"a list of {' and '.join(sorted(_LAYER_TYPES))}")
    slides = "sliding_attention" in kinds if kinds is not None else part.get("model_type") == "gpt_oss"
    if slides and "sliding_window" in part and window is None:
        raise _refusal(f"{where}sliding_window", window, "a number of tokens, since layers have a window")


def _refusal(name: str, value: object, expected: str) -> CheckpointError:
    return CheckpointError(f"config.json says {name} {value!r:.80}; expected {expected}")


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _is_ids(value: object) -> bool:
    return all(type(each) is int for each in (value if isinstance(value, list) else [value]))


# Settings -> whether a value is of their kind, and the kind in words.
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "architectures": (_is_texts, "a list of names"),
    "model_type": (lambda value: isinstance(value, str), "a name"),
    "vision_agent": (lambda value: isinstance(value, Mapping), "an object"),
    "system_message": (lambda value: isinstance(value, str), "a text"),
    "rope_theta": (_is_positive, "a number above 0"),
    "rope_scaling": (lambda value: isinstance(value, Mapping), "an object"),
    "rope_parameters": (lambda value: isinstance(value, Mapping), "an object"),
    "rms_norm_eps": (_is_positive, "a number above 0"),
    "layer_norm_eps": (_is_positive, "a number above 0"),
    "eos_token_id": (_is_ids, "a token id, or a list of them"),
}
