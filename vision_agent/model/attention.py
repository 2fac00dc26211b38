"""What a language model's attention asks for: kernels, masks and caches.

Routed reading and shared prompts lay text out with masks of their own, one value for each pair of tokens. Three kinds
of attention take these as they are only with some help:

* Flash attention knows causal masks and padding only, so such passes run with torch's `sdpa` kernels on the same
  weights; the two differ by rounding alone.
* Layers with a sliding window get a mask of their own, and their cache keeps what the window has passed: routes and
  later prompts continue any earlier place.
* GPT-OSS adds a learned *sink* to the denominator of every softmax, which `sdpa` has no place for.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

_SLIDING = "sliding_attention"
_WITH_SINKS = frozenset({"gpt_oss"})


def has_sinks(config: Any) -> bool:
    """Return whether the language model of a model's configuration has attention sinks."""
    return config.text_config.model_type in _WITH_SINKS


def attention_choice(config: Any, name: str) -> str | dict[str, str]:
    """Return an attention implementation as transformers takes it for a model with this configuration."""
    return {"": name, "text_config": "eager"} if has_sinks(config) and name == "sdpa" else name


def full_cache() -> DynamicCache:
    """Make an empty cache in which every layer keeps all keys and values, those with a sliding window too.

    Their masks still hide what the window has passed.
    """
    return DynamicCache()


def cache_of(pairs: Iterable[tuple[Tensor, Tensor]]) -> DynamicCache:
    """Make a cache of each layer's keys and values (B, H, L, D) as they are, without a copy; nothing writes to them.

    What a forward pass adds stands in copies.
    """
    cache = full_cache()
    for keys, values in pairs:
        layer = DynamicLayer()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        cache.layers.append(layer)
    return cache


def layer_masks(config: Any, mask: Callable[[int | None], Tensor]) -> Tensor | dict[str, Tensor]:
    """Return a full mask for each kind of layer, as the language model's forward pass takes it.

    Args:
        config: of the language model.
        mask: makes the mask for a window of so many tokens, None for all.
    """
    kinds, window = getattr(config, "layer_types", None), getattr(config, "sliding_window", None)
    if kinds is None:
        return mask(window)
    if _SLIDING not in kinds:
        return mask(None)
    return {kind: mask(window if kind == _SLIDING else None) for kind in sorted(set(kinds))}


@contextmanager
def full_masks(language_model: Any) -> Iterator[None]:
    """Let the language model take 4-D masks within the block, whatever attention it was loaded with.

    transformers reads the choice from the configuration in every forward pass. Not for use by several threads on one
    model at a time.
    """
    config = language_model.config
    chosen = config._attn_implementation
    if not str(chosen).startswith("flash"):
        yield
        return
    config._attn_implementation = "sdpa"
    try:
        yield
    finally:
        config._attn_implementation = chosen
