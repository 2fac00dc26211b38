"""What a stream of `VisionAgent.run` yields: the events of an answer, and each step as it is done."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from vision_agent.planning.result import AgentStep
from vision_agent.results.events import AnswerEvent


class StepDone(BaseModel):
    """A step of a plan, or a call of the model's own, was carried out."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["step"] = "step"
    step: AgentStep


AgentEvent = AnswerEvent | StepDone
