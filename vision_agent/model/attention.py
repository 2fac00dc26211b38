"""Full attention masks under flash attention, which takes none.

Routed reading and shared prompts lay text out with masks of their own, one value for each pair of tokens. Flash
attention knows causal masks and padding only, so such passes run with torch's `sdpa` kernels on the same weights; the
two differ by rounding alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


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
