"""Plans: what a request of several steps is read as (parser.py), and what is carried out (executor.py)."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

Action = Literal["find", "count", "outline", "crop", "read", "describe", "ask", "compare", "draw", "change", "route"]
Pick = Literal["each", "best", "largest", "smallest", "leftmost", "rightmost", "topmost", "lowest"]
Measure = Literal["brightness", "sharpness", "size", "count"]


class PlannedStep(BaseModel):
    """One step of a plan.

    Attributes:
        action: what is done; "route" leaves that to the model.
        clause: the words of the request that ask for it.
        phrase: the objects it is done to, within the images or within the objects of step `of`; "" for all of them.
        of: number, from 0, of the earlier step whose objects are meant; None for the images themselves.
        pick: which of several objects.
        text: the question of "ask", the words of "draw" and "change".
        measure: what "compare" compares.
        less: "compare" asks for the smaller value, such as "darker".
        images: numbers, from 0, of the images that the clause names; empty for all of them.
        only_if: number, from 0, of the earlier step that must have found something; None for no condition.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    action: Action
    clause: str
    phrase: str = ""
    of: int | None = None
    pick: Pick = "each"
    text: str = ""
    measure: Measure | None = None
    less: bool = False
    images: tuple[int, ...] = ()
    only_if: int | None = None

    def __str__(self) -> str:
        about = [f"{self.pick} {self.phrase}".strip() if self.pick != "each" or self.phrase else ""]
        about += [repr(self.text)] if self.text else []
        about += [f"by {self.measure}"] if self.measure else []
        about += [f"of step {self.of + 1}"] if self.of is not None else []
        about += [f"in image {', '.join(str(number + 1) for number in self.images)}"] if self.images else []
        about += [f"if step {self.only_if + 1} found any"] if self.only_if is not None else []
        return " ".join([self.action, *filter(None, about)])


class Plan(BaseModel):
    """Steps in their order, or why there are none. `str(plan)` is the numbered list.

    Attributes:
        steps: what is done.
        refused: why the request cannot be planned; None where it can.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: tuple[PlannedStep, ...] = ()
    refused: str | None = None

    def __str__(self) -> str:
        return "\n".join(f"{number}. {step}" for number, step in enumerate(self.steps, start=1)) or f"{self.refused}"
