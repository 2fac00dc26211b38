"""CUDA graphs: what a GPU did once, replayed in one launch (https://docs.pytorch.org/docs/stable/notes/cuda.html)."""

from collections.abc import Callable
from typing import Any

import torch

from vision_agent.errors import ConfigError

_WARM_UP = 3  # runs before the recording, in which libraries choose their kernels and take their memory
# Rotary positions that are made anew for long prompts; for that the host looks at the positions in each step.
_LOOKED_AT = frozenset({"dynamic", "longrope"})


def record_steps(language_model: Any) -> None:
    """Have the steps that write an answer's tokens recorded, of a language model on a CUDA device."""
    language_model.record_step = record_cuda_graph


def recorder_of(language_model: Any) -> Callable[[Callable[[], None]], Callable[[], None]] | None:
    """Return what records a language model's steps; None where they run as they are."""
    recorder: Callable[[Callable[[], None]], Callable[[], None]] | None
    recorder = getattr(language_model, "record_step", None)
    return recorder


def record_cuda_graph(run: Callable[[], None]) -> Callable[[], None]:
    """Run a function some times on the current CUDA device, record it, and return what replays it.

    Raises:
        RuntimeError: it waits for the device, or does what cannot be recorded.
    """
    current, aside = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(current)
    with torch.cuda.stream(aside):
        for _ in range(_WARM_UP):
            run()
    current.wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    # Other threads may use the device meanwhile, to send it images.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        run()
    replay: Callable[[], None] = graph.replay
    return replay


def check_recordable(config: Any) -> None:
    """See that a step of a model with this configuration does the same operations each time.

    Raises:
        ConfigError: a mixture of experts, whose work depends on its tokens, or rotary positions that are made anew.
    """
    text = config.text_config
    if getattr(text, "num_experts", None) or getattr(text, "num_local_experts", None):
        raise ConfigError("`cuda_graphs`: what a mixture of experts computes depends on its tokens; leave it out")
    scaling = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind in _LOOKED_AT:
        raise ConfigError(f"`cuda_graphs`: rotary positions of the kind {kind!r} are made anew at times; leave it out")
