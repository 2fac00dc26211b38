"""The loop of a checkpoint that can plan: it writes tool calls, one at a time, until it answers.

Every turn is JSON under a grammar made of the tools' own schemas, so a call is always well-formed, and names a tool
and an image that there are. The model decides by the request and by boxes and numbers alone: it is not shown the
images, and words that were read from them (by `ocr`, `extract`, `ask` or `caption`) are kept from it; they stand
quoted in the answer. So no text in an image can choose a tool or an argument.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from vision_agent.errors import AnswerError, ToolError
from vision_agent.images.store import ImageStore
from vision_agent.planning.result import AgentResult, AgentStep
from vision_agent.planning.summary import call_line, quoted
from vision_agent.planning.tool_calls import SessionTools
from vision_agent.results.answers import Answer

# Tools whose results hold words of the image.
_READS = frozenset({"ocr", "extract", "ask", "caption"})
_OBSERVED = 1500  # most characters of a result that the model is shown
_IMAGE_ARGUMENTS = ("image", "document", "mask")

Ask = Callable[[str, dict[str, Any]], Answer]


class ToolLoop:
    """One request, carried out by the model's own calls.

    Args:
        toolkit: the tools.
        store: the session's images.
        ask: has the model answer a prompt under a JSON schema; the answer's `value` is a dict.
        model: its name.
        max_steps: most calls.
    """

    def __init__(
        self,
        toolkit: SessionTools,
        store: ImageStore,
        ask: Ask,
        model: str,
        max_steps: int,
    ) -> None:
        self._toolkit = toolkit
        self._tools = {each["function"]["name"]: each["function"] for each in toolkit.definitions("openai")}
        self._store = store
        self._ask = ask
        self._model = model
        self._max_steps = max_steps

    def run(self, request: str, images: Sequence[str]) -> Iterator[AgentStep | AgentResult]:
        """Yield every call as soon as it is made, and at last the result."""
        known, steps, answers, said = list(images), list[AgentStep](), list[Answer](), ""
        refused: str | None = f"it would take more than `max_steps`={self._max_steps} calls"
        while True:
            may_call = len(steps) < self._max_steps
            try:
                answer = self._ask(self._prompt(request, known, steps), self._schema(known, may_call))
            except AnswerError as error:
                refused = str(error)
                break
            answers.append(answer)
            turn: Any = answer.value
            if "answer" in turn:
                said, refused = str(turn["answer"]), None if may_call else refused
                break
            step = self._called(str(turn["tool"]), turn["arguments"])
            steps.append(step)
            known += [image for image in step.images if image not in known]
            yield step
        yield self._result(said, steps, answers, known, refused)

    def _schema(self, known: Sequence[str], may_call: bool) -> dict[str, Any]:
        """One call of a tool, or the answer; once no call is left, the answer."""
        forms = [_object({"answer": {"type": "string", "maxLength": 2000}})]
        for name, tool in self._tools.items() if may_call else ():
            parameters = _with_images(tool["parameters"], known)
            if parameters is not None:
                forms.append(_object({"tool": {"const": name}, "arguments": parameters}))
        return {"anyOf": forms} if len(forms) > 1 else forms[0]

    def _prompt(self, request: str, known: Sequence[str], steps: Sequence[AgentStep]) -> str:
        tools = "\n".join(f"- {name}: {tool['description']}" for name, tool in self._tools.items())
        done = "\n".join(
            f"{number}. {each.tool} {json.dumps(each.arguments)} -> {_observed(each)}"
            for number, each in enumerate(steps, start=1)
        )
        return (
            f"Images: {', '.join(known) or 'none'}.\nTools:\n{tools}\n"
            'Write one JSON object: {"tool": ..., "arguments": {...}} to use a tool, or {"answer": ...} when done or '
            f"when it cannot be done.\nRequest: {request}\nDone so far:\n{done or 'nothing'}\nNext:"
        )

    def _called(self, tool: str, arguments: dict[str, Any]) -> AgentStep:
        try:
            made = self._toolkit.call(tool, arguments)
        except ToolError as error:
            return AgentStep(tool=tool, arguments=arguments, error=str(error))
        return AgentStep(
            tool=tool,
            arguments=arguments,
            text=call_line(made),
            content=made.content,
            result=made.artifact,
            images=made.images,
            seconds=made.seconds,
        )

    def _result(
        self,
        said: str,
        steps: Sequence[AgentStep],
        answers: Sequence[Answer],
        known: Sequence[str],
        refused: str | None,
    ) -> AgentResult:
        read = [f"{step.tool}: {quoted(words)}" for step in steps if step.tool in _READS and (words := _words(step))]
        return AgentResult.of_steps(
            [*([said] if said else []), *read],
            steps,
            answers=answers,
            image_ids=known,
            store=self._store,
            model=self._model,
            refused=refused,
        )


def _observed(step: AgentStep) -> str:
    """What the model is told of a call: never the words that it read."""
    if step.error is not None:
        return f"error: {step.error}"
    if step.tool in _READS:
        return f"{len(_words(step))} characters were read; they are quoted in the answer"
    return json.dumps(step.content)[:_OBSERVED]


def _words(step: AgentStep) -> str:
    """The words that a call read."""
    items = step.content.get("items", [])
    found = [str(item.get("text", item.get("value", ""))) for item in items] or [str(step.content.get("text", ""))]
    return " / ".join(filter(None, found))


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _with_images(parameters: Mapping[str, Any], known: Sequence[str]) -> dict[str, Any] | None:
    """A tool's parameters whose images are those that there are; None where it needs one and there is none."""
    properties = dict(parameters["properties"])
    for name in _IMAGE_ARGUMENTS:
        if name in properties:
            if not known and name in parameters.get("required", ()):
                return None
            properties[name] = {"enum": list(known)} if known else {"const": ""}
    # Optional arguments are left to the tools' own defaults: the fewer keys, the fewer mistakes.
    return _object({name: properties[name] for name in properties if name in parameters.get("required", ())})
