"""What a checkpoint can answer. It is data of the checkpoint: `answers` in its `generation_config.json`.

A small model answers everything, most of it with nonsense. One that says what it was taught is held to it: what lies
beyond is refused at once, with what to use instead. A checkpoint that says nothing may answer everything.
"""

import re
from collections.abc import Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from vision_agent.errors import CheckpointError

_LARGER = "load a larger InternVL with `VisionAgent.from_pretrained(...)`"
_FOUND = "`detect`, `count`, `point` and `segment` find objects"


class Abilities(BaseModel):
    """What a checkpoint can answer in words.

    Attributes:
        several_images: questions about more than one image.
        schemas: JSON under any schema. Without it, schemas of one value are still filled from what was found.
        reading: what is written in an image; without it the `[OCR]` route reads.
        without_looking: regular expressions of the requests that it answers though it looks for nothing in the image:
            such as to describe it. Case is ignored. None for every request.
        beyond: regular expressions of requests that it was not taught, whatever it would look for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    several_images: bool = True
    schemas: bool = True
    reading: bool = True
    without_looking: tuple[str, ...] | None = None
    beyond: tuple[str, ...] = ()

    @field_validator("without_looking", "beyond")
    @classmethod
    def _compile(cls, patterns: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for pattern in patterns or ():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
        return patterns

    @classmethod
    def of(cls, model: Any, name: str) -> Self:
        """Read the abilities of a transformers model.

        Raises:
            CheckpointError: `answers` is there, and is not as described.
        """
        said = getattr(getattr(model, "generation_config", None), "answers", None)
        try:
            return cls() if said is None else cls.model_validate(said)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(("answers", *map(str, first["loc"])))
            raise CheckpointError(f"{name!r}: `{where}` in generation_config.json: {first['msg']}") from error

    def refuses(self, model: str, images: int, *, schema: bool = False) -> str | None:
        """Return why a request is refused whatever it says; None where it is not."""
        if images > 1 and not self.several_images:
            return f"{model!r} cannot answer about several images at once: ask about each alone, or {_LARGER}"
        if schema and not self.schemas:
            return f"{model!r} fills schemas of one value only: use `extract` for documents, or {_LARGER}"
        return None

    def refuses_to_say(self, model: str, request: str, images: int, *, looked: bool = False) -> str | None:
        """Return why a request is refused; None where it is not.

        Args:
            looked: the model looked for something, or may still do so.
        """
        taught = self.without_looking is None or looked or self._fits(request, self.without_looking)
        if taught and not self._fits(request, self.beyond):
            return None
        if not images:
            return f"{model!r} answers about an image, and there is none: give one, or {_LARGER}"
        return (
            f"{model!r} was not taught to answer this: it says whether objects are there, how many, where and of what "
            f"colour, and describes images; {_FOUND}, `ocr` reads, or {_LARGER}"
        )

    @staticmethod
    def _fits(request: str, patterns: Sequence[str]) -> bool:
        return any(re.search(pattern, request, re.IGNORECASE) for pattern in patterns)
