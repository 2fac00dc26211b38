"""A model that a remote engine runs, as runs and commands name it. Its key is never part of a run's settings."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vision_agent.errors import InputError, RouteError, bad_argument
from vision_agent.remote.http_client import checked_url

if TYPE_CHECKING:
    from vision_agent.agent import VisionAgent

KEY_VARIABLE = "VISION_AGENT_KEY"


class EngineWarning(UserWarning):
    """What is to be known of a remote engine, such as that it runs another checkpoint than the tokenizer's."""


@dataclass(frozen=True)
class EngineSource:
    """Where a model runs that is not loaded here; see `VisionAgent.remote`. A key is read from `VISION_AGENT_KEY`.

    Attributes:
        url: the engine's address.
        tokenizer: the folder or hub name of the checkpoint that it runs, or "default".
        states: where hidden states are asked for; None for `url`.

    Raises:
        InputError: an address that is none, or no tokenizer.
    """

    url: str
    tokenizer: str
    states: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", checked_url(self.url))
        if not isinstance(self.tokenizer, str) or not self.tokenizer.strip():
            expected = "the folder or hub name of the checkpoint that the engine runs, or 'default'"
            raise InputError(bad_argument("tokenizer", expected, self.tokenizer))
        if self.states is not None:
            object.__setattr__(self, "states", checked_url(self.states, "states"))

    def load(self, model: str | None = None, adapters: Sequence[str | Path] = ()) -> "VisionAgent":
        """Connect, and return the agent; what is to be known of the engine is an `EngineWarning`.

        Args:
            model: its name there; None for the only one.
            adapters: folders of routes that are read through the engine.

        Raises:
            EngineError, BusyError, CheckpointError: as `VisionAgent.remote`.
            RouteError: an adapter whose route cannot be read through this engine.
        """
        from transformers.utils import logging

        from vision_agent.agent import VisionAgent

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        agent = VisionAgent.remote(
            self.url,
            self.tokenizer,
            model=model,
            key=os.environ.get(KEY_VARIABLE) or None,
            adapters=tuple(adapters),
            states=self.states,
        )
        info = agent.engine
        for told in info.warnings if info is not None else ():
            warnings.warn(told, EngineWarning, stacklevel=2)
        for verdict in info.adapters if info is not None else ():
            if not verdict.usable:
                raise RouteError(f"the adapter {verdict.adapter!r} cannot be used: {verdict.reason}")
        return agent
