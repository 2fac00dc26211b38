"""TODO docstring."""

from typing import Literal

from pydantic import BaseModel

from vision_agent.planning.result import AgentStep
from vision_agent.results.events import _FROZEN, AnswerEvent


class StepDone(BaseModel):
    """A step of a plan, or a call of the model's own, was carried out."""

    model_config = _FROZEN

    kind: Literal["step"] = "step"
    step: AgentStep


AgentEvent = AnswerEvent | StepDone
