"""What a stream of an answer yields.

In order: text as it is written; where the model writes a routing token, `RouteOpened`; the route's result as soon as
its decoder gives it; at last the whole answer.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, SerializeAsAny

from vision_agent.results.answers import Answer, RoutedText, TokenScore

_FROZEN = ConfigDict(frozen=True)


class TextDelta(BaseModel):
    """New text. All deltas of a stream, joined, are the answer's text.

    Attributes:
        tokens: those that were written since the delta before it, where `GenerationOptions.top_logprobs` asks for them.
            They may end before or after the text does; those after the last text are in the whole answer alone.
    """

    model_config = _FROZEN

    kind: Literal["text"] = "text"
    text: str
    tokens: tuple[TokenScore, ...] | None = None


class RouteOpened(BaseModel):
    """The model wrote a routing token; its result follows.

    Attributes:
        token: such as "[DET]".
        phrase: the words it stands for.
        start, end: the characters of the text so far that are the phrase, end excluded.
    """

    model_config = _FROZEN

    kind: Literal["route"] = "route"
    token: str
    phrase: str
    start: NonNegativeInt
    end: NonNegativeInt


class ResultReady(BaseModel):
    """What the decoder of an opened route gave; one for each image that the route is about."""

    model_config = _FROZEN

    kind: Literal["result"] = "result"
    routed: RoutedText


class AnswerDone(BaseModel):
    """The last event: the whole answer."""

    model_config = _FROZEN

    kind: Literal["done"] = "done"
    answer: SerializeAsAny[Answer]


AnswerEvent = TextDelta | RouteOpened | ResultReady | AnswerDone
