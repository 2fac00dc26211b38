"""What a stream of an answer yields."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from vision_agent.results import Answer


class TextDelta(BaseModel):
    """New text. All deltas of a stream, joined, are the answer's text."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["text"] = "text"
    text: str


class AnswerDone(BaseModel):
    """The last event: the whole answer."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["done"] = "done"
    answer: Answer


AnswerEvent = TextDelta | AnswerDone
