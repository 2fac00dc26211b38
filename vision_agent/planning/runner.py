"""Requests of `agent.run`: one routed answer, a plan, or the model's own loop."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, Protocol, TypedDict

from PIL import Image

from vision_agent.errors import InputError, bad_argument
from vision_agent.generation.options import GenerationOptions
from vision_agent.images.loading import ImageLimits
from vision_agent.images.store import ImageStore
from vision_agent.inference.answering import AnswerPipeline
from vision_agent.inference.conversation import Conversation
from vision_agent.model.prompt import PLACEHOLDER, with_placeholders
from vision_agent.planning.events import AgentEvent, StepDone
from vision_agent.planning.executor import PlanRunner
from vision_agent.planning.parser import read_plan
from vision_agent.planning.plan import Plan
from vision_agent.planning.result import AgentResult, AgentStep
from vision_agent.planning.tool_calls import Caller
from vision_agent.planning.tool_loop import ToolLoop
from vision_agent.results.answers import Answer
from vision_agent.results.events import AnswerDone, TextDelta
from vision_agent.routing.policy import RouteChoice

Planner = Literal["auto", "clauses", "model", "off"]
_PLANS_ITSELF = 10**9  # parameters from which a model is trusted to plan what cannot be read as clauses


class RunSettings(TypedDict, total=False):
    """The settings of `VisionAgent.run`; see there."""

    routes: Sequence[str] | None
    first_route: str | None
    max_routes: int | None
    max_steps: int
    planner: Planner
    store: ImageStore | None
    max_new_tokens: int | None
    options: GenerationOptions | None


def check_planning(planner: object, max_steps: object) -> None:
    """Raise InputError for another planner, or a number of steps that is not from 1 to 1000."""
    if planner not in ("auto", "clauses", "model", "off"):
        raise InputError(bad_argument("planner", 'one of "auto", "clauses", "model" and "off"', planner))
    if isinstance(max_steps, bool) or not isinstance(max_steps, int) or not 1 <= max_steps <= 1000:
        raise InputError(bad_argument("max_steps", "a whole number from 1 to 1000", max_steps))


class RequestRunner:
    """Runs requests on one agent.

    Args:
        answer_pipeline: answers conversations, routes and all.
        decide: answers a prompt under a JSON schema.
        toolkit: the tools of a session.
        limits: of the images of a session that is made for a run.
    """

    def __init__(
        self,
        answer_pipeline: AnswerPipeline,
        decide: Callable[[str, dict[str, Any]], Answer],
        toolkit: "Callable[[ImageStore], SessionTools]",
        limits: ImageLimits,
    ) -> None:
        self._pipeline = answer_pipeline
        self._decide = decide
        self._toolkit = toolkit
        self._limits = limits

    def batch(
        self,
        requests: Sequence[str],
        conversations: Sequence[Conversation],
        options: GenerationOptions,
        choice: RouteChoice,
        max_steps: int,
        planner: Planner,
        store: ImageStore | None,
    ) -> list[AgentResult]:
        """Every request; those that are one routed answer are written together."""
        results: dict[int, AgentResult] = {}
        single: list[int] = []
        for row, (request, conversation) in enumerate(zip(requests, conversations, strict=True)):
            plan = self._plan(request, len(conversation.images), planner, choice)
            if plan is None:
                single.append(row)
            else:
                events = self._carried_out(plan, request, conversation.images, options, max_steps, store)
                results[row] = _last(events)
        if single:
            answers = self._pipeline.answers([conversations[row] for row in single], options, choice)
            results |= {row: _as_result(answer) for row, answer in zip(single, answers, strict=True)}
        return [results[row] for row in range(len(requests))]

    def stream(
        self,
        request: str,
        conversation: Conversation,
        options: GenerationOptions,
        choice: RouteChoice,
        max_steps: int,
        planner: Planner,
        store: ImageStore | None,
    ) -> Iterator[AgentEvent]:
        """One request, in events."""
        plan = self._plan(request, len(conversation.images), planner, choice)
        if plan is not None:
            yield from self._carried_out(plan, request, conversation.images, options, max_steps, store)
            return
        for event in self._pipeline.stream(conversation, options, choice):
            yield AnswerDone(answer=_as_result(event.answer)) if isinstance(event, AnswerDone) else event

    def _plan(
        self, request: str, images: int, planner: Planner, choice: RouteChoice
    ) -> "Plan | Literal['model'] | None":
        """How a request is run: by a plan, by the model's own loop, or, for None, as one routed answer."""
        if planner == "model":
            return "model"
        # A request that places its images itself is a prompt for the model.
        if planner == "off" or choice.narrows(self._pipeline.routes) or PLACEHOLDER in request:
            return None
        plan = read_plan(request, images)
        if plan is not None and plan.refused and planner == "auto" and self._pipeline.parameters >= _PLANS_ITSELF:
            return "model"
        return plan

    def _carried_out(
        self,
        plan: "Plan | Literal['model']",
        request: str,
        pictures: Sequence[Image.Image],
        options: GenerationOptions,
        max_steps: int,
        store: ImageStore | None,
    ) -> Iterator[AgentEvent]:
        """A request of several steps: each step as it is done, then the words, then the result."""
        session = ImageStore(limits=self._limits) if store is None else store
        images = [session.add(image, origin="given with the request") for image in pictures]
        toolkit = self._toolkit(session)
        model = self._pipeline.model
        done: Iterator[AgentStep | AgentResult]
        if isinstance(plan, Plan):
            routed = partial(self._routed, options)
            done = PlanRunner(toolkit, session, routed, model, max_steps).run(plan, images)
        else:
            definitions = toolkit.definitions("openai")
            asked = request.replace(PLACEHOLDER, "the picture")  # the loop's prompt holds the images already
            done = ToolLoop(toolkit, definitions, session, self._decide, model, max_steps).run(asked, images)
        for item in done:
            if isinstance(item, AgentStep):
                yield StepDone(step=item)
                continue
            if item.text:
                yield TextDelta(text=item.text)
            yield AnswerDone(answer=item)

    def _routed(self, options: GenerationOptions, clause: str, images: Sequence[Image.Image]) -> Answer:
        """A clause of a plan that the model routes."""
        conversation = Conversation(
            turns=((with_placeholders(clause, len(images)), None),),
            images=tuple(images),
            max_tiles=(None,) * len(images),
        )
        (answer,) = self._pipeline.answers([conversation], options, RouteChoice(tuple(self._pipeline.routes)))
        return answer


class SessionTools(Caller, Protocol):
    """The tools of a session with their definitions, as the toolkit "plain" offers them."""

    def definitions(self, style: str) -> list[dict[str, Any]]: ...


def _as_result(answer: Answer) -> AgentResult:
    """A routed answer as the result of a run."""
    fields: Mapping[str, Any] = {name: getattr(answer, name) for name in Answer.model_fields if name != "kind"}
    blind = [routed.token for routed in answer.routes if routed.image is None and routed.result is None]
    refused = f"{blind[0]} needs a picture, and there is none" if blind else None
    return AgentResult(**fields, done=refused is None, refused=refused)


def _last(events: Iterator[AgentEvent]) -> AgentResult:
    """The result of a run that nobody watches."""
    *_, end = events
    if not isinstance(end, AnswerDone) or not isinstance(end.answer, AgentResult):
        raise AssertionError("a run ends with its result")
    return end.answer
