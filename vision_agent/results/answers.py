"""Answers in words, and the results of the routing tokens in them."""

from importlib import import_module
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, NonNegativeInt, model_validator

from vision_agent.results.box import FROZEN
from vision_agent.results.detections import Detections

# Where each kind of result lives, so that JSON becomes the same object again. Imported when it is needed.
_KINDS = {
    "detections": "vision_agent.results.detections:Detections",
    "segmentation": "vision_agent.results.segmentation:Segmentation",
    "video_segmentation": "vision_agent.results.video_segmentation:VideoSegmentation",
    "points": "vision_agent.results.points:Points",
    "count": "vision_agent.results.points:Count",
    "answer": "vision_agent.results.answers:Answer",
    "ocr": "vision_agent.documents.result:OcrResult",
    "generated_image": "vision_agent.results.generated:GeneratedImage",
    "generated_images": "vision_agent.results.generated:GeneratedImages",
}


def revived(value: Any) -> Any:
    """Return the result that the dict of its JSON describes; anything else, and unknown kinds, as they are."""
    if not isinstance(value, dict) or value.get("kind") not in _KINDS:
        return value
    module, _, name = _KINDS[value["kind"]].partition(":")
    return getattr(import_module(module), name).model_validate(value)


class RoutedText(BaseModel):
    """A routing token in an answer, and what its decoder made of it.

    Attributes:
        token: the routing token, such as "[DET]".
        phrase: the words it stands for.
        start, end: the characters of `Answer.text` that are the phrase, end excluded.
        result: what the decoder gave: `Detections`, a `Segmentation`, images, words, or a plug-in's own model. None
            where the route needs an image and there was none.
        image: which of the request's images it is about, from 0; None for none. A token that names no image stands
            once for each of them.
    """

    model_config = FROZEN

    token: str
    phrase: str
    start: NonNegativeInt
    end: NonNegativeInt
    result: Annotated[Any, BeforeValidator(revived)] = None
    image: NonNegativeInt | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.end < self.start:
            raise ValueError(f"`end` must be at least `start`, but got {self.start} and {self.end}")
        return self

    @property
    def detections(self) -> Detections | None:
        """The result as boxes; None where it has none."""
        if isinstance(self.result, Detections):
            return self.result
        boxes = getattr(self.result, "detections", None)
        return boxes if isinstance(boxes, Detections) else None


class TokenLogprob(BaseModel):
    """A token that a model might have written.

    Attributes:
        text: what it writes; half a character is U+FFFD.
        bytes: the same, exactly: UTF-8, of which a token may hold half a character.
        logprob: natural logarithm of its probability, at most 0, before any grammar, temperature and sampling filters.
    """

    model_config = FROZEN

    text: str
    bytes: tuple[Annotated[int, Field(ge=0, lt=256)], ...]
    logprob: float = Field(le=0)


class TokenScore(TokenLogprob):
    """A token of an answer.

    Attributes:
        top: the likeliest tokens in its place, the most probable one first; as many as were asked for.
    """

    top: tuple[TokenLogprob, ...] = ()


class Answer(BaseModel):
    """What the model wrote. `str(answer)` is its text.

    Attributes:
        text: the answer.
        finish_reason: "stop" where the model ended it, "length" where a token limit did, "repetition" where it said the
            same again and again, "refused" where it was not asked because it cannot answer.
        prompt_tokens, completion_tokens: tokens read and written.
        confidence: geometric mean of the probabilities of the tokens written, 0-1: the model's own, before any grammar;
            tokens that a grammar forces do not count. An answer from evidence is no surer than the evidence: the score
            of the clearest box, or what is left to one where nothing was found. 0 for repetitions and refusals.
        value: for a `schema` its validated instance, for `choices` the choice, otherwise None.
        model: the model that answered.
        routes: the routing tokens in the answer, in their order.
        evidence: what was looked for in the image before the answer in words was given, in order: the phrase is in each
            one's `phrases`. A model that was not taught to look first looks at nothing.
        warnings: what is to be known of it, in sentences: a number that was cut, a choice that rests on nothing seen.
        refused: why the model was not asked, and what to use instead, which is the text too; None where it was. Under
            `schema` and `choices`, where there is no value to give, it is an `AnswerError`.
        tokens: what the model wrote, with the probabilities of its tokens, where `GenerationOptions.top_logprobs` asks
            for them. None also where the words were not written by the model, token by token: captions of what was
            found, answers that were read or chosen, refusals.
        kind: "answer", or the kind of a subclass; tells results apart in JSON.
    """

    model_config = FROZEN

    kind: Literal["answer", "agent_result", "document_answer"] = "answer"
    text: str
    finish_reason: Literal["stop", "length", "repetition", "refused"]
    prompt_tokens: NonNegativeInt
    completion_tokens: NonNegativeInt
    confidence: float = Field(ge=0, le=1)
    model: str
    value: Any = None
    routes: tuple[RoutedText, ...] = ()
    evidence: tuple[Detections, ...] = ()
    warnings: tuple[str, ...] = ()
    refused: str | None = None
    tokens: tuple[TokenScore, ...] | None = None

    def __str__(self) -> str:
        return self.text
