"""What `agent.run` returns: an answer, and what was done for it."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from PIL import Image
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, NonNegativeFloat

from vision_agent.errors import InputError, bad_argument
from vision_agent.images.store import ImageStore
from vision_agent.planning.plan import Plan
from vision_agent.planning.summary import routed_line
from vision_agent.results.answers import Answer, RoutedText, revived
from vision_agent.results.generated import GeneratedImage, GeneratedImages

BETWEEN = ", "
"""Stands between the words for one object and those for the next."""


class AgentStep(BaseModel):
    """One call of a tool, or of the model.

    Attributes:
        tool: the tool's name; "model" where the model routed a clause, "measure" where pixels were measured.
        arguments: what it was called with; images by their ids.
        text: the result, in one line.
        content: the result, as the tool shows it to a language model. Words in it that were read from an image are
            data.
        result: the whole result: `Detections`, a `Segmentation`, an `Answer`, ...
        images: ids of the images that it made.
        seconds: how long it took.
        error: why it failed; None where it did not.
        planned: number, from 0, of the plan's step that it belongs to; None without a plan.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tool: str
    arguments: dict[str, Any]
    text: str = ""
    content: dict[str, Any] = {}
    result: Annotated[Any, BeforeValidator(revived)] = None
    images: tuple[str, ...] = ()
    seconds: NonNegativeFloat = 0.0
    error: str | None = None
    planned: int | None = None


class AgentResult(Answer):
    """The result of a request.

    A request that the model answers by itself is one routed answer: its words are the text, and `routes` the results
    of its routing tokens. A request of several steps has a `plan`, and `steps` are the calls that were made for it;
    then the tokens are those of all answers in it, and the confidence is that of the least sure one. A request for
    several objects is one routed answer for each of them, put together alike.

    Attributes:
        plan: the steps that the request was read as; None where it was not planned.
        steps: the calls, in their order.
        image_ids: ids of the images of a plan: those of the request, then those that were made.
        images: the same, by id, upright RGB; not part of the JSON.
        done: everything that was asked for was done.
        refused: why it was not; None where it was.
    """

    kind: Literal["agent_result"] = "agent_result"
    plan: Plan | None = None
    steps: tuple[AgentStep, ...] = ()
    image_ids: tuple[str, ...] = ()
    images: dict[str, Any] = Field(default={}, exclude=True, repr=False)
    done: bool = True
    refused: str | None = None

    @classmethod
    def of_steps(
        cls,
        lines: Sequence[str],
        steps: Sequence[AgentStep],
        *,
        answers: Sequence[Answer],
        image_ids: Sequence[str],
        store: ImageStore,
        model: str,
        refused: str | None,
        plan: Plan | None = None,
    ) -> Self:
        """Put the result of a request of several steps together.

        Args:
            lines: the words, line by line; where the request was refused, a line that says so follows.
            answers: all that the model wrote for it.
            image_ids: of its images; those that the store still has become `images`.
        """
        return cls(
            text="\n".join([*lines, *([] if refused is None else [f"Not done: {refused}."])]),
            finish_reason="stop",
            prompt_tokens=sum(answer.prompt_tokens for answer in answers),
            completion_tokens=sum(answer.completion_tokens for answer in answers),
            confidence=min((answer.confidence for answer in answers), default=1.0),
            model=model,
            plan=plan,
            steps=tuple(steps),
            image_ids=tuple(image_ids),
            images={image: store.get(image).image for image in image_ids if image in store},
            done=refused is None,
            refused=refused,
        )

    @classmethod
    def of_answers(cls, answers: Sequence[Answer]) -> Self:
        """Put routed answers to requests for one object each together: their words are joined by `BETWEEN`."""
        routes, begin = list[RoutedText](), 0
        for answer in answers:
            routes += [moved(routed, begin) for routed in answer.routes]
            begin += len(answer.text) + len(BETWEEN)
        ends = [answer.finish_reason for answer in answers]
        refused = next((answer.refused for answer in answers if answer.refused is not None), None)
        blind = next((each.token for each in routes if each.image is None and each.result is None), None)
        refused = f"{blind} needs an image, and there is none" if blind is not None else refused
        tokens = [answer.tokens for answer in answers]
        return cls(
            text=BETWEEN.join(answer.text for answer in answers),
            finish_reason=next((end for end in ends if end != "stop"), "stop"),
            prompt_tokens=sum(answer.prompt_tokens for answer in answers),
            completion_tokens=sum(answer.completion_tokens for answer in answers),
            confidence=min(answer.confidence for answer in answers),
            value=answers[0].value if len(answers) == 1 else None,
            model=answers[0].model,
            routes=tuple(routes),
            evidence=tuple(each for answer in answers for each in answer.evidence),
            warnings=tuple(dict.fromkeys(each for answer in answers for each in answer.warnings)),
            tokens=tuple(each for some in tokens for each in some or ()) if all(tokens) else None,
            done=refused is None,
            refused=refused,
        )

    @property
    def summary(self) -> str:
        """The whole result in plain lines: the words, and a line for the result of each routing token."""
        images = len({each.image for each in self.routes if each.image is not None})
        phrases = {each.phrase for each in self.routes}
        words = [] if self.text in phrases else [self.text]  # "dog[DET]" says no more than its result does
        lines = [routed_line(each, images) for each in self.routes]
        return "\n".join(filter(None, [*words, *dict.fromkeys(lines)]))

    @property
    def created_images(self) -> tuple[Image.Image, ...]:
        """The images that were made, whichever way: by a routing token, or by steps (crops, masks, drawings)."""
        routed = [each.result for each in self.routes]
        drawn = [one for each in routed if isinstance(each, GeneratedImages) for one in each]
        drawn += [each for each in routed if isinstance(each, GeneratedImage)]
        ids = dict.fromkeys(image for step in self.steps for image in step.images)
        return (*(each.image for each in drawn), *(self.images[image] for image in ids if image in self.images))

    def image(self, image_id: str) -> Image.Image:
        """Return an image of the run. Raises InputError for an id that it does not have."""
        if image_id not in self.images:
            raise InputError(bad_argument("image_id", f"one of {list(self.images)}", image_id))
        image: Image.Image = self.images[image_id]
        return image


def moved(routed: RoutedText, by: int) -> RoutedText:
    """Return a route whose phrase stands so many characters later in the text."""
    return routed.model_copy(update={"start": routed.start + by, "end": routed.end + by}) if by else routed
