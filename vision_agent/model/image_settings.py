"""Reads what a native checkpoint's processor files say about images, as `InternVLProcessor` does, or refuses it."""

import math
from collections.abc import Callable
from typing import Any

from vision_agent.errors import CheckpointError
from vision_agent.model.backbone import TilingSettings

# What transformers' image processor takes for what a file does not say.
_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_PROCESSOR = "GotOcr2ImageProcessor"
_BICUBIC = 3
_MOST_TILES = 1000
# Steps that are always done here, and how their absence reads.
_STEPS = {"do_resize": True, "do_rescale": True, "do_normalize": True, "resample": _BICUBIC}


def image_settings(source: str, read: Callable[[str], dict[str, Any] | None]) -> dict[str, Any]:
    """Return the settings of a checkpoint's image processor.

    transformers 5 saves them inside `processor_config.json`, earlier versions in a file of their own; as in
    transformers the first wins.

    Args:
        source: the checkpoint, for errors.
        read: gives the content of a JSON file of the checkpoint, None where there is none.

    Raises:
        CheckpointError: neither file says anything about images.
    """
    nested = (read("processor_config.json") or {}).get("image_processor")
    settings = read("preprocessor_config.json") if nested is None else nested
    if settings is None:
        raise CheckpointError(f"the checkpoint {source!r} has no preprocessor_config.json")
    if not isinstance(settings, dict):
        raise CheckpointError(f"processor_config.json of {source!r}: `image_processor` is {settings!r:.80}, no object")
    return settings


def tiling_settings(content: dict[str, Any], config: Any) -> TilingSettings:
    """Return how images are cut and scaled.

    `crop_to_patches` is not read: published files say false, and `InternVLProcessor` cuts tiles nevertheless.

    Args:
        content: what `image_settings` gives.
        config: the model's configuration.

    Raises:
        CheckpointError: a setting that is damaged, does not fit the model, or is not followed here.
    """
    kind = content.get("image_processor_type")
    if kind is not None and not str(kind).startswith(_PROCESSOR):
        raise _refusal("image_processor_type", f"{_PROCESSOR!r} or one of its forms", kind)
    for name, expected in _STEPS.items():
        if content.get(name) is not None and content[name] != expected:
            raise _refusal(name, f"{expected!r}, as all published checkpoints do", content[name])
    factor = content.get("rescale_factor")
    if factor is not None and not (_is_number(factor) and math.isclose(factor, 1 / 255, rel_tol=1e-6)):
        raise _refusal("rescale_factor", "1/255, as all published checkpoints do", factor)
    fewest, most = (_count(content, name, default) for name, default in (("min_patches", 1), ("max_patches", 12)))
    if fewest > most:
        raise _refusal("min_patches", f"at most `max_patches`, which is {most}", fewest)
    return TilingSettings(
        size=_side(content.get("size"), config),
        mean=_channels(content, "image_mean", _CLIP_MEAN),
        std=_channels(content, "image_std", _CLIP_STD),
        min_tiles=fewest,
        max_tiles=most,
        thumbnail=bool((getattr(config, "vision_agent", None) or {}).get("thumbnail", True)),
    )


def _side(size: Any, config: Any) -> int:
    side = config.vision_config.image_size[0]
    named = size if not isinstance(size, dict) else size.get("height") if size.get("height") == size.get("width") else 0
    if size is not None and (type(named) is not int or named != side):
        raise _refusal("size", f"height and width of {side}, the `image_size` of config.json", size)
    return int(side)


def _count(content: dict[str, Any], name: str, default: int) -> int:
    value = default if content.get(name) is None else content[name]
    if type(value) is not int or not 1 <= value <= _MOST_TILES:
        raise _refusal(name, f"a whole number from 1 to {_MOST_TILES}", value)
    return value


def _channels(content: dict[str, Any], name: str, default: tuple[float, float, float]) -> tuple[float, float, float]:
    values = default if content.get(name) is None else content[name]
    numbers = list(values) if isinstance(values, list | tuple) else []
    if len(numbers) != 3 or not all(_is_number(value) for value in numbers) or (name == "image_std" and 0 in numbers):
        raise _refusal(name, "three finite numbers" + ", none of them 0" * (name == "image_std"), values)
    red, green, blue = (float(value) for value in numbers)
    return red, green, blue


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _refusal(name: str, expected: str, got: object) -> CheckpointError:
    return CheckpointError(f"the settings of the image processor: `{name}` must be {expected}, but got {got!r:.80}")
