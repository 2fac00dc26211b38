"""The server as one ASGI application, for uvicorn or any other server of ASGI.

    app = Application(VisionAgent(), ServeOptions(keys=("...",)))

`process.py` runs it behind a port.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from vision_agent.serve.accepted_jobs import JOBS_PATH, Jobs
from vision_agent.serve.api_schema import api_schema
from vision_agent.serve.chat_endpoint import ChatEndpoint
from vision_agent.serve.counters import Counters
from vision_agent.serve.desk import Desk
from vision_agent.serve.document_page import DOCUMENT_PAGE_PATH, DocumentPageEndpoint
from vision_agent.serve.gate import Gate, record_of
from vision_agent.serve.moondream_endpoint import MOONDREAM_PATHS, MoondreamEndpoint
from vision_agent.serve.options import ServeOptions
from vision_agent.serve.problems import Problem
from vision_agent.serve.request_sources import Sources
from vision_agent.serve.responses_endpoint import ResponsesEndpoint
from vision_agent.serve.roboflow_endpoint import BOXES_PATH, MASKS_PATH, RoboflowEndpoint
from vision_agent.serve.verb_endpoint import VerbEndpoint
from vision_agent.serve.verb_forms import VERBS
from vision_agent.serve.web_page import page_files, sent_file

if TYPE_CHECKING:
    from vision_agent.agent import VisionAgent

Endpoint = Callable[[Request], Awaitable[Response]]
MCP_PATH = "/mcp"


class Application:
    """Serves one agent. It is an ASGI application.

    Args:
        agent: does the work.
        options: what is allowed.
        mcp: answers what is sent to /mcp; None where MCP is not served.

    Attributes:
        counters: what was counted so far.
    """

    def __init__(self, agent: "VisionAgent", options: ServeOptions | None = None, mcp: ASGIApp | None = None) -> None:
        options = options or ServeOptions()
        self.counters = Counters()
        self._desk = Desk(options, self.counters)
        self._mcp = mcp
        self._jobs = Jobs(options)
        sources = Sources(options, agent.image_limits)
        chat = ChatEndpoint(agent, options, self._desk, self.counters, sources)
        self._routes: dict[str, Mapping[str, Endpoint]] = {
            "/v1/models": {"GET": chat.models},
            "/v1/models/": {"GET": chat.model},
            "/v1/chat/completions": {"POST": chat.completions},
            "/v1/responses": {"POST": ResponsesEndpoint(chat).answer},
            JOBS_PATH: {"GET": self._jobs.get, "DELETE": self._jobs.delete},
            "/health/live": {"GET": _alive},
            "/health/ready": {"GET": self._ready},
            "/metrics": {"GET": self._metrics},
            "/openapi.json": {"GET": self._schema},
        }
        shared = (agent, options, self._desk, self.counters, sources, self._jobs)
        self._verbs = [VerbEndpoint(form, *shared) for form in VERBS]
        self._routes |= {endpoint.form.path: {"POST": endpoint.answer} for endpoint in self._verbs}
        moondream = MoondreamEndpoint(agent, self._desk, sources, chat.check_model)
        self._routes |= {path: {"POST": moondream.answer} for path in MOONDREAM_PATHS}
        roboflow = RoboflowEndpoint(agent, options, self._desk, sources)
        self._routes |= {BOXES_PATH: {"POST": roboflow.boxes}, MASKS_PATH: {"POST": roboflow.masks}}
        pages = DocumentPageEndpoint(self._desk, sources)
        self._routes[DOCUMENT_PAGE_PATH] = {"POST": pages.answer}
        self._page = page_files() if options.ui else {}
        self._routes |= {path: {"GET": self._page_file} for path in self._page}
        self._described: dict[str, Any] | None = None
        self._gate = Gate(self._answer, options, self.counters, frozenset(self._page))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._gate(scope, receive, send)

    def drain(self) -> None:
        """Take no new work, and say so to probes; what runs goes on."""
        self._desk.draining = True

    async def finish(self) -> None:
        """Wait for the jobs that were accepted, as long as a stop may take."""
        await self._jobs.finish()

    def close(self) -> None:
        """Let go of the threads."""
        self._desk.close()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        record = record_of(scope)
        if self._mcp is not None and path.rstrip("/") == MCP_PATH:
            record.route = MCP_PATH
            await self._mcp(scope, receive, send)
            return
        begins = (each for each in ("/v1/models/", JOBS_PATH) if path.startswith(each))
        route = path if path in self._routes else next(begins, None)
        if route is None:
            raise Problem(404, f"there is nothing at {path[:100]!r}", code="not_found")
        record.route = route
        methods = self._routes[route]
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        if method not in methods:
            allowed = ", ".join(methods)
            said = f"{route} takes {allowed}, and not {scope['method'][:20]}"
            raise Problem(405, said, code="method_not_allowed", headers={"allow": allowed})
        response = await methods[method](Request(scope, receive))
        await response(scope, receive, send)

    async def _ready(self, request: Request) -> Response:
        if self._desk.draining:
            return JSONResponse({"status": "stopping"}, 503)
        return JSONResponse({"status": "ready"})

    async def _page_file(self, request: Request) -> Response:
        return sent_file(self._page[request.scope["path"]])

    async def _schema(self, request: Request) -> Response:
        if self._described is None:
            self._described = api_schema(self._verbs)
        return JSONResponse(self._described)

    async def _metrics(self, request: Request) -> Response:
        return PlainTextResponse(self.counters.text(), media_type="text/plain; version=0.0.4")


async def _alive(request: Request) -> Response:
    return JSONResponse({"status": "alive"})
