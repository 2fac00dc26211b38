"""How requests are run: the settings of `VisionAgent.run`, as one object."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypedDict, get_args

from vision_agent.errors import InputError, bad_argument
from vision_agent.generation.options import GenerationOptions
from vision_agent.images.store import ImageStore
from vision_agent.routing.policy import RouteChoice

Planner: TypeAlias = Literal["auto", "clauses", "model", "off"]
"""What reads a request of several steps: see `VisionAgent.run`."""


class RunSettings(TypedDict, total=False):
    """The settings of `VisionAgent.run` as keyword arguments; see there."""

    routes: Sequence[str] | None
    first_route: str | None
    max_routes: int | None
    max_steps: int
    planner: Planner
    verify: bool
    store: ImageStore | None
    max_new_tokens: int | None
    options: GenerationOptions | None


@dataclass(frozen=True)
class RunOptions:
    """How a request is run.

    Attributes:
        generation: how answers are written.
        choice: the routes that an answer may take.
        max_steps: most calls of tools, 1-1000.
        planner: what reads requests of several steps.
        store: the session in which steps put their images; None for one of its own.
        verify: boxes that were found are looked at again.

    Raises:
        InputError: another planner, or a number of steps out of range.
    """

    generation: GenerationOptions
    choice: RouteChoice
    max_steps: int = 24
    planner: Planner = "auto"
    store: ImageStore | None = None
    verify: bool = False

    def __post_init__(self) -> None:
        if self.planner not in get_args(Planner):
            raise InputError(bad_argument("planner", 'one of "auto", "clauses", "model" and "off"', self.planner))
        if isinstance(self.max_steps, bool) or not isinstance(self.max_steps, int) or not 1 <= self.max_steps <= 1000:
            raise InputError(bad_argument("max_steps", "a whole number from 1 to 1000", self.max_steps))
