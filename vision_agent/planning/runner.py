"""Requests of `agent.run`: one routed answer (for several objects one each), a plan, or the model's own loop."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

from PIL import Image

from vision_agent.generation.options import GenerationOptions
from vision_agent.images.loading import ImageLimits
from vision_agent.images.store import ImageStore
from vision_agent.inference.answering import AnswerPipeline
from vision_agent.inference.conversation import Conversation
from vision_agent.inference.second_look import LookAgain, SecondLook
from vision_agent.model.prompt import PLACEHOLDER
from vision_agent.planning.coordination import single_requests
from vision_agent.planning.executor import PlanExecutor
from vision_agent.planning.options import RunOptions
from vision_agent.planning.parser import read_plan
from vision_agent.planning.plan import Plan
from vision_agent.planning.result import BETWEEN, AgentResult, AgentStep, moved
from vision_agent.planning.run_events import AgentEvent, StepDone
from vision_agent.planning.tool_calls import SessionTools, verify_step
from vision_agent.planning.tool_loop import ToolLoop
from vision_agent.results.answers import Answer
from vision_agent.results.detections import Detections
from vision_agent.results.events import AnswerDone, ResultReady, RouteOpened, TextDelta
from vision_agent.results.segmentation import Segmentation
from vision_agent.routing.policy import RouteChoice

_PLANS_ITSELF = 10**9  # parameters from which a model is trusted to plan what cannot be read as clauses


class RequestRunner:
    """Runs requests on one agent.

    Args:
        pipeline: answers conversations, with their routes.
        next_call: answers a prompt under a JSON schema, for the model's own loop.
        toolkit: makes the tools of a session.
        limits: of the images of a session that is made for a run.
        again: looks again at boxes that were found, where a run is to verify.
    """

    def __init__(
        self,
        pipeline: AnswerPipeline,
        next_call: Callable[[str, dict[str, Any]], Answer],
        toolkit: Callable[[ImageStore], SessionTools],
        limits: ImageLimits,
        again: LookAgain,
    ) -> None:
        self._again = again
        self._pipeline = pipeline
        self._next_call = next_call
        self._toolkit = toolkit
        self._limits = limits

    def batch(
        self, requests: Sequence[str], conversations: Sequence[Conversation], options: RunOptions
    ) -> list[AgentResult]:
        """Run every request; those that are one routed answer are written together."""
        results: dict[int, AgentResult] = {}
        single: dict[int, list[Conversation]] = {}
        for row, (request, conversation) in enumerate(zip(requests, conversations, strict=True)):
            plan = self._plan(request, len(conversation.images), options)
            if plan is None:
                single[row] = self._object_by_object(request, conversation, options)
            else:
                results[row] = _last(self._carried_out(plan, request, conversation.images, options))
        if single:
            asked = [each for row in single.values() for each in row]
            answers = iter(self._pipeline.answers(asked, options.generation, options.choice))
            for row, parts in single.items():
                result = AgentResult.of_answers([next(answers) for _ in parts])
                results[row] = self._verified(result, conversations[row].images, options)
        return [results[row] for row in range(len(requests))]

    def stream(self, request: str, conversation: Conversation, options: RunOptions) -> Iterator[AgentEvent]:
        """Run one request and yield its events."""
        plan = self._plan(request, len(conversation.images), options)
        if plan is not None:
            yield from self._carried_out(plan, request, conversation.images, options)
            return
        answers, begin = list[Answer](), 0
        for part in self._object_by_object(request, conversation, options):
            if answers:
                yield TextDelta(text=BETWEEN)
                begin += len(answers[-1].text) + len(BETWEEN)
            for event in self._pipeline.stream(part, options.generation, options.choice):
                if isinstance(event, AnswerDone):
                    answers.append(event.answer)
                else:
                    yield _later(event, begin)
        result = self._verified(AgentResult.of_answers(answers), conversation.images, options)
        yield from (StepDone(step=step) for step in result.steps)
        yield AnswerDone(answer=result)

    def _object_by_object(self, request: str, conversation: Conversation, options: RunOptions) -> list[Conversation]:
        """What the model is asked for a request of one step: for several objects, one after the other."""
        if options.planner != "off" and not options.choice.narrows(self._pipeline.routes):
            parts = [request] if PLACEHOLDER in request else single_requests(request)
            if len(parts) > 1:
                return [Conversation.build(part, conversation.images) for part in parts]
        return [conversation]

    def _plan(self, request: str, images: int, options: RunOptions) -> Plan | Literal["model"] | None:
        """How a request is run: by a plan, by the model's own loop, or, for None, as one routed answer."""
        if options.planner == "model":
            return "model"
        # A request that places its images itself is a prompt for the model.
        if options.planner == "off" or options.choice.narrows(self._pipeline.routes) or PLACEHOLDER in request:
            return None
        plan = read_plan(request, images)
        trusted = options.planner == "auto" and self._pipeline.parameters >= _PLANS_ITSELF
        return "model" if plan is not None and plan.refused and trusted else plan

    def _carried_out(
        self, plan: Plan | Literal["model"], request: str, images: Sequence[Image.Image], options: RunOptions
    ) -> Iterator[AgentEvent]:
        """A request of several steps: each step as it is done, then the words, then the result."""
        store = ImageStore(limits=self._limits) if options.store is None else options.store
        ids = [store.add(image, origin="given with the request") for image in images]
        toolkit = self._toolkit(store)
        model = self._pipeline.model
        done: Iterator[AgentStep | AgentResult]
        if isinstance(plan, Plan):
            route = partial(self._route, options.generation)
            done = PlanExecutor(
                toolkit, store, route, model, options.max_steps, self._again if options.verify else None
            ).run(plan, ids)
        else:
            asked = request.replace(PLACEHOLDER, "the picture")  # the loop's prompt has the images already
            done = ToolLoop(toolkit, store, self._next_call, model, options.max_steps).run(asked, ids)
        for item in done:
            if isinstance(item, AgentStep):
                yield StepDone(step=item)
                continue
            if item.text:
                yield TextDelta(text=item.text)
            yield AnswerDone(answer=item)

    def _verified(self, result: AgentResult, images: Sequence[Image.Image], options: RunOptions) -> AgentResult:
        """A routed answer whose boxes were looked at again; each round is a step."""
        if not options.verify:
            return result
        routes, steps = [], list[AgentStep]()
        for routed in result.routes:
            found, looked = routed.result, list[SecondLook]()
            began = time.perf_counter()
            if routed.image is not None and isinstance(found, Detections):
                found, looked = self._again(images[routed.image], found)
            elif routed.image is not None and isinstance(found, Segmentation):
                found, looked = self._again(images[routed.image], found)
            steps += [verify_step(each, routed.image or 0, found, began) for each in looked]
            routes.append(routed.model_copy(update={"result": found}))
        return result.model_copy(update={"routes": tuple(routes), "steps": tuple(steps)})

    def _route(self, generation: GenerationOptions, clause: str, images: Sequence[Image.Image]) -> Answer:
        """A clause of a plan that the model routes."""
        choice = RouteChoice(tuple(self._pipeline.routes))
        (answer,) = self._pipeline.answers([Conversation.build(clause, images)], generation, choice)
        return answer


def _later(event: TextDelta | RouteOpened | ResultReady, by: int) -> TextDelta | RouteOpened | ResultReady:
    """An event of an answer that begins so many characters later in the text."""
    if isinstance(event, RouteOpened):
        return event.model_copy(update={"start": event.start + by, "end": event.end + by})
    if isinstance(event, ResultReady):
        return event.model_copy(update={"routed": moved(event.routed, by)})
    return event


def _last(events: Iterator[AgentEvent]) -> AgentResult:
    """The result of a run that nobody watches."""
    *_, end = events
    if not isinstance(end, AnswerDone) or not isinstance(end.answer, AgentResult):
        raise AssertionError("a run ends with its result")
    return end.answer
