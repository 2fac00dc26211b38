"""Carries out plans: each step calls typed tools, and the objects that it finds are there for the steps after it.

The plan is fixed before the first call. Arguments come from the request, from boxes and from ids of images; words
that were read from an image appear in the answer, quoted, and nowhere else.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from PIL import Image

from vision_agent.images.store import ImageStore
from vision_agent.inference.second_look import LookAgain
from vision_agent.planning.clauses import bare
from vision_agent.planning.image_metrics import measure
from vision_agent.planning.objects import ObjectRef, objects_of, overlap, phrases_of, picked
from vision_agent.planning.plan import Plan, PlannedStep
from vision_agent.planning.result import AgentResult, AgentStep
from vision_agent.planning.summary import comparison_line, count_lines, found_lines, place, places, quoted
from vision_agent.planning.tool_calls import SessionTools, StoppedError, ToolCalls
from vision_agent.plugins.registry import lacking
from vision_agent.results.answers import Answer

# The tools that a step may call.
_NEEDS: Mapping[str, tuple[str, ...]] = {
    "find": ("detect",),
    "count": ("count",),
    "outline": ("segment",),
    "crop": ("crop",),
    "read": ("ocr",),
    "describe": ("caption",),
    "ask": ("ask",),
    "draw": ("generate",),
    "change": ("edit",),
}
_SAME = 0.3  # least overlap at which a mask is that of a box


class PlanExecutor:
    """Carries out one plan.

    Args:
        toolkit: the tools.
        store: the session's images.
        route: has the model route a clause about images.
        model: its name.
        max_steps: most calls.
        again: looks again at boxes that were found; None for once is enough.
    """

    def __init__(
        self,
        toolkit: SessionTools,
        store: ImageStore,
        route: Callable[[str, Sequence[Image.Image]], Answer],
        model: str,
        max_steps: int,
        again: LookAgain | None = None,
    ) -> None:
        self._toolkit = toolkit
        self._store = store
        self._route = route
        self._model = model
        self._calls = ToolCalls(toolkit, store, max_steps, again)
        self._images: list[str] = []
        self._said: list[str] = []
        self._objects: list[list[ObjectRef]] = []
        self._plan = Plan()

    def run(self, plan: Plan, images: Sequence[str]) -> Iterator[AgentStep | AgentResult]:
        """Yield every call as soon as it is made, and at last the result.

        Args:
            images: ids of the request's images.
        """
        self._images = list(images)
        self._plan = plan
        refused = plan.refused or self._missing(plan)
        shown = 0
        if refused is None:
            try:
                for number, step in enumerate(plan.steps):
                    self._calls.planned = number
                    self._objects.append([])
                    if step.only_if is not None and not self._objects[step.only_if]:
                        self._said.append(f"{step.clause}: not done, as no {bare(self._label(step.only_if))} was found")
                        continue
                    for _ in self._done(step):
                        yield from self._calls.steps[shown:]
                        shown = len(self._calls.steps)
            except StoppedError as error:
                refused = str(error)
        yield from self._calls.steps[shown:]
        yield self._result(refused)

    # --- steps

    def _done(self, step: PlannedStep) -> Iterator[None]:
        """Carry out one step; yields after calls."""
        if step.action in ("find", "count"):
            yield from self._find(step)
        elif step.action == "outline":
            yield from self._outline(step)
        elif step.action == "compare":
            yield from self._compare(step)
        elif step.action in ("draw", "change"):
            yield from self._make(step)
        elif step.action == "route":
            yield from self._routed(step)
        else:
            yield from self._look_at(step)

    def _find(self, step: PlannedStep) -> Iterator[None]:
        objects: list[ObjectRef] = []
        if step.phrase:
            for base in self._bases(step):
                objects += self._seen(step, self._calls.look(base), step.phrase)
                yield
            objects = objects if step.pick == "best" else picked(objects, step.pick)
        elif step.of is not None:
            for obj in picked(self._objects[step.of], step.pick):
                if self._plan.steps[step.of].action != "draw":
                    objects.append(obj)
                    continue
                objects += self._seen(step, obj.image, obj.label)  # what was drawn there
                yield
        self._objects[-1] = objects
        name = step.phrase or self._label(step.of)
        name = name if step.pick == "each" else bare(name) if len(phrases_of(name)) == 1 else name
        if step.action == "count":
            self._said += count_lines(name, objects, self._given)
        else:
            self._said += found_lines(f"{_which(step)}{name}", objects, self._images)

    def _outline(self, step: PlannedStep) -> Iterator[None]:
        targets = picked(self._objects[step.of], step.pick) if step.of is not None and not step.phrase else []
        if step.phrase:
            targets = [ObjectRef(self._calls.look(base), step.phrase) for base in self._bases(step)]
        for target in targets:
            items = self._calls.outline(target.image, target.label)
            yield
            if target.box is not None:
                same = [item for item in items if overlap(item[0], target) >= _SAME]
                items = sorted(same, key=lambda item: -overlap(item[0], target))[:1]
            elif step.pick != "best":
                kept = picked([obj for obj, _ in items], step.pick)
                items = [item for item in items if item[0] in kept]
            self._objects[-1] += [obj for obj, _ in items]
            name = f"{_which(step)}{target.label}"
            if not items:
                self._said.append(f"{name}: nothing to outline was found")
            for obj, mask in items:
                self._said.append(f"{name}: outlined at {place(obj, self._images)}, mask {mask}")
        if not targets:
            self._said.append(f"{step.phrase or 'there is nothing'}: nothing to outline was found")

    def _look_at(self, step: PlannedStep) -> Iterator[None]:
        """Crop, read, describe or ask about objects, each by a closer look at it."""
        looked = 0
        for base in self._bases(step):
            targets = [base]
            if step.phrase:
                targets = self._calls.find(self._calls.look(base), step.phrase)
                yield
                part = step.of is not None
                targets = picked(targets, "best" if part else step.pick)
                if not targets:
                    whole = "; looked at all of it instead" if part and step.action != "crop" else ""
                    within = f"{self._called(base, step)}: " if base.label or len(self._images) > 1 else ""
                    self._said.append(f"{within}no {bare(step.phrase)} was found{whole}")
                    targets = [base] if whole else []
            for target in targets:
                image = self._calls.look(target)
                yield
                looked += 1
                self._objects[-1].append(ObjectRef(image, target.label))
                alone = step.action == "ask" and not target.label and len(self._images) < 2
                name = step.text if alone else self._called(target, step)
                if step.action == "crop":
                    self._said.append(f"{name}: cut out as {image}")
                    continue
                self._said.append(f"{name}: {self._words(step, image)}")
                yield
        if not looked and not step.phrase:
            self._said.append(f"there is nothing to {step.action}")

    def _words(self, step: PlannedStep, image: str) -> str:
        if step.action == "read":
            items = self._calls.call("ocr", {"document": image}).content["items"]
            return f"reads {quoted(' / '.join(str(item['text']) for item in items))}" if items else "no text was found"
        if step.action == "describe":
            said = self._calls.call("caption", {"image": image}).content["text"]
        else:
            said = self._calls.call("ask", {"image": image, "question": step.text}).content["text"]
        return " ".join(str(said).split())  # one line, whatever an image says

    def _compare(self, step: PlannedStep) -> Iterator[None]:
        numbers = step.images if len(step.images) > 1 else range(len(self._images_of(())))
        images = self._images_of(numbers)
        if step.measure is None:
            raise StoppedError(f"{step.clause!r} does not say by what")
        if step.measure == "count":
            values = []
            for image in images:
                values.append(float(len(self._calls.count(image, step.phrase))))
                yield
        else:
            self._calls.check_calls_left()
            began = time.perf_counter()
            values = [measure(step.measure, self._store.get(image).image) for image in images]
            said = ", ".join(f"{value:.4g}" for value in values)
            arguments = {"images": list(images), "what": step.measure}
            text = f"{step.measure} {said}"
            self._calls.note(began, tool="measure", arguments=arguments, text=text, content={"values": values})
            yield
        self._said.append(comparison_line(step, numbers, values))

    def _make(self, step: PlannedStep) -> Iterator[None]:
        if step.action == "draw":
            made = self._calls.call("generate", {"prompt": step.text}).images
            yield
        else:
            bases = (
                self._objects[step.of] if step.of is not None else [ObjectRef(i) for i in self._images_of(step.images)]
            )
            made = ()
            for base in bases:
                made += self._calls.call("edit", {"image": self._calls.look(base), "prompt": step.text}).images
                yield
        label = re.sub(r"^(?:an?|the|some)\s+", "", step.text) if step.action == "draw" else ""
        self._objects[-1] = [ObjectRef(image, label) for image in made]
        self._said.append(
            f"{step.text}: made {', '.join(made)}" if made else f"{step.text}: there is nothing to change"
        )

    def _routed(self, step: PlannedStep) -> Iterator[None]:
        """A clause whose verb leaves open what is wanted: the model routes it."""
        images = self._images_of(step.images)
        self._calls.check_calls_left()
        began = time.perf_counter()
        answer = self._route(step.clause, [self._store.get(image).image for image in images])
        self._calls.note(
            began,
            tool="model",
            arguments={"request": step.clause, "images": list(images)},
            text=answer.text,
            content={"routes": [routed.token for routed in answer.routes]},
            result=answer,
        )
        self._said.append(f"{step.clause}: {answer.text}")
        for routed in answer.routes:
            boxes = routed.detections
            if boxes is not None and routed.image is not None:
                objects = objects_of(boxes, images[routed.image])
                self._objects[-1] += objects
                self._said.append(f"{routed.phrase}: {places(objects, self._images)}")
        yield

    # --- what steps are made of

    def _bases(self, step: PlannedStep) -> list[ObjectRef]:
        """What a step looks at: objects of an earlier step, or images."""
        if step.of is not None:
            return picked(self._objects[step.of], step.pick)
        return [ObjectRef(image) for image in self._images_of(step.images)]

    def _seen(self, step: PlannedStep, image: str, phrase: str) -> list[ObjectRef]:
        return (self._calls.count if step.action == "count" else self._calls.find)(image, phrase)

    def _images_of(self, numbers: Sequence[int]) -> list[str]:
        """The request's images of these numbers, or all; without any, the last one made."""
        given = self._given
        if not given:
            raise StoppedError("it needs an image, and there is none")
        return [given[number] for number in numbers] or given

    @property
    def _given(self) -> list[str]:
        made = [obj.image for objects in self._objects for obj in objects if obj.box is None]
        return self._images or made[-1:]

    def _missing(self, plan: Plan) -> str | None:
        """Why this agent cannot carry out a plan, or None."""
        for step in plan.steps:
            needed = list(_NEEDS.get(step.action, ()))
            needed += ["detect"] if step.phrase and step.action in ("crop", "read", "describe") else []
            needed += ["crop"] if step.of is not None and step.action in ("crop", "read", "describe", "ask") else []
            needed += ["count"] if step.measure == "count" else []
            for tool in needed:
                if tool not in self._toolkit.tools and (lacks := lacking(tool)):
                    return f"{step.clause!r} needs `{tool}`, but {lacks}"
                if tool not in self._toolkit.tools:
                    known = ", ".join(self._toolkit.tools)
                    return f"{step.clause!r} needs `{tool}`, which {self._model!r} cannot do; it can do: {known}"
        return None

    # --- words

    def _called(self, obj: ObjectRef, step: PlannedStep) -> str:
        """The name of an object in the answer, with its number where there are several of it."""
        name = obj.label or "the image"
        of = self._objects[step.of] if step.of is not None and step.pick == "each" else []
        if len(of) > 1 and obj in of:
            return f"{name} {of.index(obj) + 1}"
        if not obj.label and len(self._images) > 1 and obj.image in self._images:
            return f"image {self._images.index(obj.image) + 1}"
        return f"{_which(step)}{name}"

    def _label(self, of: int | None) -> str:
        """What the objects of a step are called."""
        while of is not None:
            step = self._plan.steps[of]
            label = step.phrase or next((obj.label for obj in self._objects[of] if obj.label), "")
            if label:
                return label
            of = step.of
        return "objects"

    def _result(self, refused: str | None) -> AgentResult:
        steps = self._calls.steps
        made = [image for step in steps for image in step.images]
        return AgentResult.of_steps(
            self._said,
            steps,
            answers=[step.result for step in steps if isinstance(step.result, Answer)],
            image_ids=tuple(dict.fromkeys([*self._images, *made])),
            store=self._store,
            model=self._model,
            refused=refused,
            plan=self._plan,
        )


def _which(step: PlannedStep) -> str:
    return "" if step.pick in ("each", "best") else f"{step.pick} "
