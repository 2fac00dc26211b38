"""Loads the agent of a run or a command, without a word of what loads."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from vision_agent.agent import VisionAgent


def load_agent(
    model: str | None = None,
    adapters: Sequence[str | Path] = (),
    device: str = "auto",
    dtype: str = "auto",
    quantization: Literal["int8", "4bit"] | None = None,
    threads: int | None = None,
    embedder: str | Path | None = None,
) -> "VisionAgent":
    """Load the agent of a checkpoint; None is the default model. See `VisionAgent.from_pretrained`."""
    # torch is imported here alone: `vision-agent --help` and wrong arguments should not wait for it.
    from transformers.utils import logging

    from vision_agent.agent import VisionAgent
    from vision_agent.model.checkpoint import DEFAULT_CHECKPOINT

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return VisionAgent.from_pretrained(
        DEFAULT_CHECKPOINT if model is None else model,
        adapters=adapters,
        device=device,
        dtype=dtype,
        quantization=quantization,
        threads=threads,
        embedder=embedder,
    )
