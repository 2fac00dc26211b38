"""What a checkpoint can answer. It is data of the checkpoint: `answers` in its `generation_config.json`.

A small model answers everything, most of it with nonsense. One that says what it was taught is held to it: what lies
beyond is refused at once, with what to use instead. A checkpoint that says nothing may answer everything.
"""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from vision_agent.errors import CheckpointError


def _checked(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
    return pattern


def _fits(request: str, patterns: Sequence[str]) -> bool:
    return any(re.search(pattern, request, re.IGNORECASE) for pattern in patterns)


# Asks whether, where or how many objects are there, which is answered for unknown ones too: none is found.
WHETHER_THERE = re.compile(
    r"\b(?:(?:is|are|was|were) there|any|see|where|how many|what colou?r|contains?|find|show|visible|count)\b",
    re.IGNORECASE,
)
# Asks for an image, whatever words describe it.
TO_DRAW = re.compile(
    r"\W*(?:please |can you |could you )?"
    r"(?:draw|paint|sketch|generate|create|make|render|design|imagine|edit|add|change|turn|replace|remove)\b",
    re.IGNORECASE,
)
Pattern = Annotated[str, AfterValidator(_checked)]

_LARGER = "load a larger InternVL with `VisionAgent.from_pretrained(...)`"
_FOUND = "`detect`, `count`, `point` and `segment` find objects"


class CaptionAbility(BaseModel):
    """How a checkpoint describes an image by the objects in it (see `object_caption`).

    Attributes:
        asked: regular expressions of the requests for a description. Case is ignored.
        names: of the objects that it knows well: these are looked for.
        least: a name is told of where the surest of its objects has this score, 0-1.
        more: further objects of such a name are counted from this score on, 0-1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    asked: tuple[Pattern, ...] = Field(min_length=1)
    names: tuple[str, ...] = Field(min_length=1)
    least: float = Field(ge=0, le=1)
    more: float = Field(ge=0, le=1)

    def are_asked_for(self, request: str) -> bool:
        """Return whether the request is for a description."""
        return _fits(request, self.asked)


class Abilities(BaseModel):
    """What a checkpoint can answer in words.

    Attributes:
        several_images: questions about more than one image.
        schemas: JSON under any schema. Without it, schemas of one value are still filled from what was found.
        reading: what is written in an image; without it the `[OCR]` route reads.
        without_looking: regular expressions of the requests that it answers though it looks for nothing in the image:
            such as to describe it. Case is ignored. None for every request.
        beyond: regular expressions of requests that it was not taught, whatever it would look for.
        captions: how it describes an image by the objects in it; None for in its own words.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    several_images: bool = True
    schemas: bool = True
    reading: bool = True
    without_looking: tuple[Pattern, ...] | None = None
    beyond: tuple[Pattern, ...] = ()
    captions: CaptionAbility | None = None

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
        looked = looked and re.search(r"\w", request) is not None
        taught = self.without_looking is None or looked or _fits(request, self.without_looking)
        if taught and not _fits(request, self.beyond):
            return None
        return self.not_taught(model, images)

    @staticmethod
    def not_taught(model: str, images: int) -> str:
        """Return what is said instead of an answer that a model was not taught to give."""
        if not images:
            return f"{model!r} answers about an image, and there is none: give one, or {_LARGER}"
        return (
            f"{model!r} was not taught to answer this: it says whether objects are there, how many, where and of what "
            f"colour, and describes images; {_FOUND}, `ocr` reads, or {_LARGER}"
        )


def write_captions(folder: Path, captions: CaptionAbility) -> None:
    """Set how a saved checkpoint describes images."""
    path = folder / "generation_config.json"
    settings = json.loads(path.read_text("utf-8"))
    settings["answers"] = {**settings.get("answers", {}), "captions": captions.model_dump(mode="json")}
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", "utf-8")
    os.replace(partial, path)
