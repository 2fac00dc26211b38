"""How answers are written: one typed object for all generation settings."""

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from vision_agent.errors import InputError, bad_argument, check_characters


class GenerationOptions(BaseModel):
    """How an answer is written. The defaults are greedy: the same question gets the same answer.

    Raises:
        InputError: a setting that is unknown, of another type or out of range, or settings that exclude each other.

    Attributes:
        max_new_tokens: most tokens of an answer; an answer that reaches it has `finish_reason="length"`.
        do_sample: draw tokens at random instead of taking the most probable one.
        temperature: flattens (above 1) or sharpens the distribution that is drawn from.
        top_p: draw from the smallest set of tokens that has this probability together.
        top_k: draw from this many of the most probable tokens; 0 for all.
        repetition_penalty: divides the scores of tokens that the answer has already (https://arxiv.org/abs/1909.05858).
        num_beams: beams of beam search; 1 for none.
        max_repeats: how many times in a row a phrase may stand; an answer that goes on ends there, with
            `finish_reason="repetition"`. Short phrases may stand more often. None for any number of times.
        stop: texts at which the answer ends, or one text; they are not part of it.
        seed: of sampling; None draws differently each time. In a batch each question draws as it would alone.
        top_logprobs: tell how probable each token of the answer was, in `Answer.tokens`, with this many of the
            likeliest tokens in its place; None for nothing of that.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_new_tokens: int = Field(default=256, ge=1, le=65536)
    do_sample: bool = False
    temperature: float = Field(default=1.0, gt=0, le=100)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    repetition_penalty: float = Field(default=1.0, gt=0, le=10)
    num_beams: int = Field(default=1, ge=1, le=32)
    max_repeats: int | None = Field(default=5, ge=1)
    stop: tuple[str, ...] = ()
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    top_logprobs: int | None = Field(default=None, ge=0, le=20)

    if not TYPE_CHECKING:  # type checkers take the fields' own signature

        def __init__(self, **settings: Any) -> None:
            try:
                super().__init__(**settings)
            except ValidationError as error:
                raise _refused(error) from None

    @field_validator("stop", mode="before")
    @classmethod
    def _one_text(cls, stop: object) -> object:
        return (stop,) if isinstance(stop, str) else stop

    @model_validator(mode="after")
    def _settings_agree(self) -> "GenerationOptions":
        if any(not text for text in self.stop):
            raise ValueError(f"`stop` must not contain an empty text, got {self.stop!r}")
        for text in self.stop:
            check_characters("stop", text)
        drawing = (self.temperature, self.top_p, self.top_k) != (1.0, 1.0, 0) or self.seed is not None
        if drawing and not self.do_sample:
            raise ValueError("temperature, top_p, top_k and seed need do_sample=True; greedy answers do not draw")
        if self.num_beams > 1 and self.do_sample:
            raise ValueError(f"beam search and sampling exclude each other, got num_beams={self.num_beams!r}")
        return self


def _refused(error: ValidationError) -> InputError:
    first = error.errors(include_url=False)[0]
    said = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:  # of several settings together; the message names them
        return InputError(said)
    name = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        known = ", ".join(GenerationOptions.model_fields)
        return InputError(bad_argument(name, f"left out: the options are {known}", first["input"]))
    return InputError(f"`{name}`: {said[0].lower()}{said[1:]}, but got {first['input']!r}")
