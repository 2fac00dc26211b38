"""Connects to an engine, and gives an agent the parts that ask it."""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Self, TypedDict, Unpack, cast

from vision_agent.errors import InputError, bad_argument
from vision_agent.images.loading import ImageLimits
from vision_agent.inference.assembly import AgentParts
from vision_agent.inference.engine import InferenceEngine
from vision_agent.model.checkpoint import DEFAULT_CHECKPOINT
from vision_agent.model.without_weights import load_without_weights
from vision_agent.remote.engine_info import EngineInfo
from vision_agent.remote.http_client import EngineClient
from vision_agent.remote.probe import probe
from vision_agent.remote.remote_answers import RemoteEngine, RemotePipeline
from vision_agent.remote.remote_boxes import RemotePredictor
from vision_agent.remote.remote_states import RemoteStates, load_sight
from vision_agent.routing.adapter import Route

_MOST_RETRIES = 10
_KEY = re.compile("[!-~]+")


class RemoteSettings(TypedDict, total=False):
    """The keywords of `connect` and of `VisionAgent.remote`, besides the address and the tokenizer."""

    model: str | None
    key: str | None
    timeout: float
    retries: int
    adapters: Sequence[str | Path]
    states: str | None
    local_files_only: bool


class Connectable(ABC):
    """An agent that can use a model in a remote engine instead of one that it loads."""

    _remote: EngineInfo | None = None

    @classmethod
    def remote(
        cls,
        url: str,
        tokenizer: str | Path,
        *,
        image_limits: ImageLimits | None = None,
        **settings: Unpack[RemoteSettings],
    ) -> Self:
        """Use a model that vLLM, SGLang, LMDeploy or `vision-agent serve` runs; `.engine` says what that can do.

        Verbs that need the model's hidden states (routes, masks, making images) raise `RouteError`, but for routes of
        `adapters` that the engine can give the states of: image tower and decoders then run here.

        Args:
            url: the engine's address, such as `"http://127.0.0.1:8000"`.
            tokenizer: the folder or hub name of the checkpoint that it runs; its weights are not read. For
                `vision-agent serve` without a model it is "default".
            image_limits: what images are accepted.
            settings: `model`, its name there (None for the only one); `key`; `timeout`, the most seconds of silence
                (120); `retries` where the engine has no room (2); `adapters`, folders of routes, of which `.engine`
                tells whether the engine can give their states; `states`, where vLLM's states are asked for (None for
                `url`); `local_files_only`.

        Raises:
            EngineError: no engine or no such model there, another tokenizer, an answer that is none.
            BusyError: the engine has no room.
            InputError, CheckpointError: an argument that is none, a checkpoint that cannot be loaded.
        """
        parts, info = connect(url, tokenizer, **settings)
        agent = cls.__new__(cls)
        agent._join(parts, dict(cast(RemotePredictor, parts.predictor).routes), image_limits)
        agent._remote = info
        return agent

    @property
    def engine(self) -> EngineInfo | None:
        """What runs the model of `VisionAgent.remote`; None where the model runs here."""
        return self._remote

    @abstractmethod
    def _join(self, parts: AgentParts, routes: dict[str, Route], limits: ImageLimits | None) -> None:
        """Take the parts that verbs hand over to."""


def connect(url: str, tokenizer: str | Path, **settings: Unpack[RemoteSettings]) -> tuple[AgentParts, EngineInfo]:
    """Connect to an engine, and find out what it is. See `VisionAgent.remote` for arguments and errors."""
    model, key = settings.get("model"), settings.get("key")
    timeout, retries = settings.get("timeout", 120.0), settings.get("retries", 2)
    if model is not None and not (isinstance(model, str) and model.strip()):
        raise InputError(bad_argument("model", "a text, or None", model))
    if key is not None and not (isinstance(key, str) and _KEY.fullmatch(key)):
        # What it was is never shown.
        raise InputError("`key` must be a text of visible ASCII letters, or None, but got something else")
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < math.inf:
        raise InputError(bad_argument("timeout", "seconds, above 0", timeout))
    if type(retries) is not int or not 0 <= retries <= _MOST_RETRIES:
        raise InputError(bad_argument("retries", f"a whole number from 0 to {_MOST_RETRIES}", retries))
    client = EngineClient(url, key, float(timeout), retries)
    there = settings.get("states")
    asked = client if there is None else EngineClient(there, key, float(timeout), retries)
    source = DEFAULT_CHECKPOINT if tokenizer == "default" else tokenizer
    backbone, system = load_without_weights(source, local_files_only=settings.get("local_files_only", False))
    info = probe(client, backbone, str(tokenizer), model, system, settings.get("adapters", ()), asked)
    backbone.name = info.model
    if info.context is not None and info.context < backbone.context:
        backbone.model.config.text_config.max_position_embeddings = info.context
    engine = RemoteEngine(backbone, client, info, None if info.kind == "vision-agent" else system)
    usable = [each.adapter for each in info.adapters if each.usable]
    states = None
    if usable:
        sight, routes = load_sight(source, usable, local_files_only=settings.get("local_files_only", False))
        sight.backbone.name = info.model
        states, engine.sight = RemoteStates(asked, info, sight, routes, engine.system), sight
    parts = AgentParts(cast(InferenceEngine, engine), RemotePredictor(engine, states), RemotePipeline(engine))
    return parts, info
