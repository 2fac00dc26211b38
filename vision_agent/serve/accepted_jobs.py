"""Requests that are answered later: accepted at once, worked on in their turn, and their results kept for a while."""

import asyncio
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message

from vision_agent.serve.gate import LOG
from vision_agent.serve.options import ServeOptions
from vision_agent.serve.problems import ClientGoneError, Problem, unexpected

JOBS_PATH = "/v1/jobs/"
_LAST_SECONDS = 5.0
_ASYNC = "respond-async"  # of the header `Prefer`, RFC 7240

_ID = re.compile(r"job_([0-9a-f]{6})_")


@dataclass
class _Job:
    """One accepted request.

    Attributes:
        ended: when, by `time.monotonic`; None before.
        given_up: set when its client wants it no more.
    """

    id: str
    route: str
    created: int
    status: Literal["queued", "running", "done", "failed", "cancelled"] = "queued"
    result: Any = None
    error: Any = None
    ended: float | None = None
    given_up: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[None] | None" = None


class JobReceive:
    """Stands for the client of a job, who is there until the job is given up; tells when its turn comes."""

    def __init__(self, job: _Job) -> None:
        self._job = job

    async def __call__(self) -> Message:
        await self._job.given_up.wait()
        return {"type": "http.disconnect"}

    def begun(self) -> None:
        """Say that the job is worked on."""
        self._job.status = "running"


class Jobs:
    """The jobs of one server. They live as long as its process."""

    def __init__(self, options: ServeOptions) -> None:
        self._options = options
        self._start = secrets.token_hex(3)  # in each id, so that those of a server before this one are known
        self._jobs: OrderedDict[str, _Job] = OrderedDict()

    @staticmethod
    def is_wanted(request: Request) -> bool:
        """Return whether a request asks to be answered later."""
        return any(part.strip().lower() == _ASYNC for part in request.headers.get("prefer", "").split(","))

    def accept(self, route: str, work: Callable[[JobReceive], Awaitable[Any]]) -> Response:
        """Accept a request, and return what tells its client where to ask.

        Raises:
            Problem: 429 where as many as are kept are not done yet.
        """
        self._forget_old()
        if len(self._jobs) >= self._options.max_jobs:
            oldest = next((each for each in self._jobs.values() if each.ended is not None), None)
            if oldest is None:
                said = f"the server is busy: {len(self._jobs)} jobs are not done yet; come again later"
                later = {"retry-after": "30"}
                raise Problem(429, said, kind="rate_limit_error", code="queue_full", headers=later)
            del self._jobs[oldest.id]
        job = _Job(f"job_{self._start}_{secrets.token_urlsafe(18)}", route, int(time.time()))
        self._jobs[job.id] = job
        job.task = asyncio.create_task(self._run(job, work))
        headers = {"location": f"{JOBS_PATH}{job.id}", "preference-applied": _ASYNC}
        return JSONResponse(self._told(job), 202, headers=headers)

    async def get(self, request: Request) -> Response:
        """Answer how a job is, and with its result once it is done."""
        return JSONResponse(self._told(self._found(request)))

    async def delete(self, request: Request) -> Response:
        """Give a job up, and forget it."""
        job = self._found(request)
        job.given_up.set()
        if job.task is not None and job.ended is None:
            await asyncio.wait({job.task}, timeout=self._options.drain_seconds)
        self._jobs.pop(job.id, None)
        return JSONResponse(self._told(job))

    async def finish(self) -> None:
        """Wait for those that run; what does not end in time is lost, and the log says so."""
        tasks = {job.task for job in self._jobs.values() if job.task is not None and job.ended is None}
        if tasks:
            await asyncio.wait(tasks, timeout=self._options.drain_seconds)
        lost = [job for job in self._jobs.values() if job.ended is None]
        for job in lost:
            LOG.warning('{"job": "%s", "route": "%s", "status": "lost"}', job.id, job.route)
            job.given_up.set()
        if lost:  # what they do in threads ends after its step
            await asyncio.wait({job.task for job in lost if job.task is not None}, timeout=_LAST_SECONDS)

    async def _run(self, job: _Job, work: Callable[[JobReceive], Awaitable[Any]]) -> None:
        try:
            job.result = await work(JobReceive(job))
            job.status = "done"
        except ClientGoneError:
            job.status = "cancelled"
        except Problem as problem:
            job.status, job.error = "failed", problem.body()["error"]
        except Exception:
            LOG.exception("job %s failed", job.id)
            job.status, job.error = "failed", unexpected().body()["error"]
        job.ended = time.monotonic()

    def _found(self, request: Request) -> _Job:
        self._forget_old()
        name = request.scope["path"].removeprefix(JOBS_PATH)
        job = self._jobs.get(name)
        if job is None:
            if (start := _ID.match(name)) is not None and start[1] != self._start:
                said = f"the job {name[:60]!r} is lost: the server, or another one, was started since; send it again"
                raise Problem(410, said, code="job_lost")
            kept = f"results are kept for {self._options.kept_seconds:g} seconds, and not beyond the server's end"
            said = f"there is no job {name[:60]!r}: it was never accepted, or it is over; {kept}"
            raise Problem(404, said, code="job_not_found")
        return job

    def _forget_old(self) -> None:
        now = time.monotonic()
        for job in list(self._jobs.values()):
            if job.ended is not None and now - job.ended > self._options.kept_seconds:
                del self._jobs[job.id]

    def _told(self, job: _Job) -> dict[str, Any]:
        told: dict[str, Any] = {"id": job.id, "route": job.route, "status": job.status, "created": job.created}
        if job.status == "done":
            told["result"] = job.result
        if job.status == "failed":
            told["error"] = job.error
        told["kept_seconds"] = self._options.kept_seconds
        return told
