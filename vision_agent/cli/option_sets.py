"""Options that go together, written once: a command takes the whole set as one argument.

A set is a frozen dataclass whose fields are options. `expanded` gives a command the options of its sets, for Typer to
read, and calls it with the sets.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any, get_type_hints

from vision_agent.batch import ImageJob
from vision_agent.batch.engine_source import EngineSource
from vision_agent.batch.image_jobs import Verb
from vision_agent.cli.image_answers import AnswerOutput
from vision_agent.cli.options import (
    AdapterOption,
    DetailOption,
    DeviceOption,
    DrawnOption,
    DtypeOption,
    JsonOption,
    ModelOption,
    RecordsOption,
    RemoteOption,
    RetryOption,
    StatesOption,
    ThresholdOption,
    TilesOption,
    TokenizerOption,
    UnknownOption,
    agent,
    read_tiles,
)
from vision_agent.errors import InputError, bad_argument
from vision_agent.remote.http_client import checked_url

if TYPE_CHECKING:
    from vision_agent.agent import VisionAgent


@dataclass(frozen=True)
class ModelOptions:
    """Which model answers, and where it runs."""

    model: ModelOption = None
    adapter: AdapterOption = None
    device: DeviceOption = "auto"
    dtype: DtypeOption = "auto"

    @property
    def given(self) -> bool:
        """Whether any of them says something."""
        return self != type(self)()

    def load(self) -> "VisionAgent":
        """Load the agent."""
        return agent(self.model, self.adapter, self.device, self.dtype)

    def job(self, verb: Verb, request: str, **settings: Any) -> ImageJob:
        """Return what is asked about each image. Raises InputError for settings that are wrong."""
        adapters = tuple(map(str, self.adapter or ()))
        return ImageJob(
            verb,
            request,
            model=self.model,
            adapters=adapters,
            device=self.device,
            dtype=self.dtype,
            engine=self.engine,
            **settings,
        )

    @property
    def engine(self) -> EngineSource | None:
        """Where the model runs, if not here."""
        return None


@dataclass(frozen=True)
class EngineOptions(ModelOptions):
    """Which model answers, and where it runs: here, or in a remote engine."""

    remote: RemoteOption = None
    tokenizer: TokenizerOption = None
    states: StatesOption = None

    def __post_init__(self) -> None:
        """Check them before any image is opened. Raises InputError for options that do not go together."""
        if self.remote is None:
            for name in ("tokenizer", "states"):
                if getattr(self, name) is not None:
                    raise InputError(f"`{name}` goes with --remote: it is about the model that runs there")
            return
        if self.tokenizer is None:
            raise InputError("`tokenizer` must be given with --remote: the checkpoint that runs there, or default")
        if self.states is not None and not self.adapter:
            raise InputError("`states` goes with --adapter: states are read for its route")
        for name in ("device", "dtype"):
            if getattr(self, name) != "auto":
                raise InputError(
                    bad_argument(name, "left out with --remote: the model runs there", getattr(self, name))
                )
        checked_url(self.remote, "remote")
        EngineSource(self.remote, self.tokenizer, self.states)

    @property
    def engine(self) -> EngineSource | None:
        """The engine that --remote names; None where the model runs here."""
        if self.remote is None or self.tokenizer is None:
            return None
        return EngineSource(self.remote, self.tokenizer, self.states)

    def load(self) -> "VisionAgent":
        """Load the agent, or connect to the engine."""
        engine = self.engine
        return super().load() if engine is None else engine.load(self.model, self.adapter or ())


@dataclass(frozen=True)
class FindingOptions:
    """How objects are looked for."""

    threshold: ThresholdOption = None
    unknown: UnknownOption = False
    tiles: TilesOption = "auto"
    detail: DetailOption = None

    def job(self, verb: Verb, phrase: str, by: ModelOptions, *, verify: bool = False) -> ImageJob:
        """Return what is looked for in each image. Raises InputError for settings that are wrong."""
        tiles = read_tiles(self.tiles)
        settings = {"threshold": self.threshold, "only_known": not self.unknown, "tiles": tiles}
        return by.job(verb, phrase, **settings, detail=self.detail, verify=verify)


@dataclass(frozen=True)
class ResultOptions:
    """Where results go: lines, JSON, or records."""

    as_json: JsonOption = False
    out: RecordsOption = None
    retry: RetryOption = False

    def output(self) -> AnswerOutput:
        """Return the same, checked. Raises InputError where options exclude each other."""
        return AnswerOutput(self.as_json, None, self.out, self.retry)


@dataclass(frozen=True)
class DrawnResultOptions:
    """Where results go that can be drawn too."""

    as_json: JsonOption = False
    save: DrawnOption = None
    out: RecordsOption = None
    retry: RetryOption = False

    def output(self) -> AnswerOutput:
        """Return the same, checked. Raises InputError where options exclude each other."""
        return AnswerOutput(self.as_json, self.save, self.out, self.retry)


def expanded(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that takes the options of its sets one by one."""
    sets: dict[str, type[Any]] = {}
    parameters: list[inspect.Parameter] = []
    hints = get_type_hints(command, include_extras=True)
    for parameter in inspect.signature(command).parameters.values():
        kind = hints[parameter.name]
        if not is_dataclass(kind):
            parameters.append(parameter.replace(kind=parameter.KEYWORD_ONLY, annotation=kind))
            continue
        assert isinstance(kind, type)
        sets[parameter.name] = kind
        own = get_type_hints(kind, include_extras=True)
        parameters += [
            inspect.Parameter(each.name, parameter.KEYWORD_ONLY, default=each.default, annotation=own[each.name])
            for each in fields(kind)
        ]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        for name, kind in sets.items():
            given[name] = kind(**{each.name: given.pop(each.name) for each in fields(kind)})
        command(**given)

    shown: Any = run
    del shown.__wrapped__  # its signature is not what Typer has to read
    shown.__annotations__ = {each.name: each.annotation for each in parameters}
    shown.__signature__ = inspect.Signature(parameters)
    return run
