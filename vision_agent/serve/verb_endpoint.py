"""`/v1/vision/...`: the agent's verbs, with JSON or a form, and with the SDK's own results."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive

from vision_agent.errors import VisionAgentError
from vision_agent.serve.accepted_jobs import JobReceive, Jobs
from vision_agent.serve.bodies import kind_of, read_form, read_json
from vision_agent.serve.counters import Counters
from vision_agent.serve.desk import Desk
from vision_agent.serve.gate import RequestRecord, record_of
from vision_agent.serve.options import ServeOptions
from vision_agent.serve.problems import problem_of, wrong
from vision_agent.serve.request_sources import Given, Sources
from vision_agent.serve.result_json import dumped
from vision_agent.serve.verb_forms import VerbForm, request_model

if TYPE_CHECKING:
    from vision_agent.agent import VisionAgent

_TEXT_BYTES = 2**20  # of a field of a form that is no file
_PDF = b"%PDF-"


class VerbEndpoint:
    """Answers requests for one verb.

    Attributes:
        form: of the verb.
        model: of its requests.
    """

    def __init__(
        self,
        form: VerbForm,
        agent: "VisionAgent",
        options: ServeOptions,
        desk: Desk,
        counters: Counters,
        sources: Sources,
        jobs: Jobs,
    ) -> None:
        self._jobs = jobs
        self.form = form
        self._agent = agent
        self._options = options
        self._desk = desk
        self._counters = counters
        self._sources = sources
        self.model = request_model(form)

    async def answer(self, request: Request) -> Response:
        """Answer a request with the verb's result, or a list of them."""
        if kind_of(request) == "multipart/form-data":
            asked = await read_form(request, self.model, self.form.files, _TEXT_BYTES)
        else:
            asked = await read_json(request, self.model)
        arguments = self.form.arguments(asked)
        images = self._check(arguments)
        record = record_of(request.scope)
        record.numbers["images"] = images
        self._counters.add("images_total", images)
        masks = getattr(asked, "masks", "rle")
        if Jobs.is_wanted(request):
            return self._jobs.accept(self.form.path, lambda client: self._worked_on(client, arguments, masks, record))
        return JSONResponse(await self._worked_on(request.receive, arguments, masks, record))

    async def _worked_on(self, receive: Receive, arguments: dict[str, Any], masks: Any, record: RequestRecord) -> Any:
        """What is sent, made when the request has its turn."""
        async with self._desk.turn(receive, patient=isinstance(receive, JobReceive)) as turn:
            if isinstance(receive, JobReceive):
                receive.begun()
            record.numbers["queue_seconds"] = round(turn.waited, 4)
            results, content = await turn.run(lambda: self._done(arguments, masks))
        for result in results:
            for name in ("prompt_tokens", "completion_tokens"):
                count = getattr(result, name, 0)
                record.numbers[name] = record.numbers.get(name, 0) + count
                self._counters.add(f"{name}_total", count)
        return content

    def _check(self, arguments: dict[str, Any]) -> int:
        """Refuse too much at once; return how many images or documents there are."""
        options, several = self._options, self.form.several
        own = {name: self.form.renamed.get(name, name) for name in arguments}
        count = 0
        for name in self.form.sources:
            given = arguments.get(name)
            count += len(given) if isinstance(given, list) else given is not None
            if isinstance(given, list) and not given:
                raise wrong(own[name], f"`{own[name]}` must have at least one item")
            if count > options.max_images:
                raise wrong(own[name], f"`{own[name]}` must be at most {options.max_images}, but got {count}")
        batch = arguments.get(several) if several is not None and several not in self.form.files else None
        if isinstance(batch, list) and len(batch) > options.max_choices:
            raise wrong(str(several), f"`{several}` must be at most {options.max_choices}, but got {len(batch)}")
        characters = sum(_characters(value) for name, value in arguments.items() if name not in self.form.sources)
        if characters > options.max_characters:
            raise wrong("", f"the request must have at most {options.max_characters} characters of text")
        written = max(arguments.get("max_new_tokens") or 0, _asked_tokens(arguments.get("options")))
        if written > options.max_tokens:
            said = f"`max_new_tokens` must be at most {options.max_tokens} here, but got {written}"
            raise wrong("max_new_tokens", said)
        return count

    def _done(self, arguments: dict[str, Any], masks: Any) -> tuple[Sequence[Any], Any]:
        """The results, and what is sent of them. Runs in a thread."""
        form = self.form
        try:
            opened = {name: self._opened(name, arguments[name]) for name in form.sources if name in arguments}
            made = getattr(self._agent, form.name)(**{**arguments, **opened})
            if isinstance(made, list):
                return made, [dumped(each, masks) for each in made]
            return [made], dumped(made, masks)
        except VisionAgentError as error:
            raise problem_of(error, form.renamed) from error

    def _opened(self, name: str, given: Any) -> Any:
        shown = self.form.renamed.get(name, name)
        if isinstance(given, list):
            return [self._open(each, f"{shown}[{index}]") for index, each in enumerate(given)]
        return None if given is None else self._open(given, shown)

    def _open(self, given: Given, name: str) -> bytes | Image.Image:
        if self.form.documents or (self.form.name == "ask" and _is_pdf(given)):
            return self._sources.document(given, name)
        return self._sources.image(given, name)


def _is_pdf(given: Given) -> bool:
    if isinstance(given, bytes):
        return given.startswith(_PDF)
    return given[:32].lower().startswith("data:application/pdf") or given[-4:].lower() == ".pdf"


def _asked_tokens(options: Any) -> int:
    return options.max_new_tokens if options is not None else 0


def _characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, BaseModel):
        return _characters(value.model_dump())
    parts = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return sum(map(_characters, parts))
