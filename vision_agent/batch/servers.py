"""Runs a job on several `vision-agent serve` over HTTP. Files are read here and sent; servers need not see the disk.

A server that cannot be reached rests, and is asked again each second whether it is ready: whoever runs servers that
files may bring down lets something start them anew. A file that went to a server that fell is tried again alone, so
that others beside it are not taken for the cause.
"""

import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Literal

from vision_agent.batch.attempts import Attempts, Done, attempted, check_count, check_seconds, failed_in_the_end
from vision_agent.batch.jobs import Job
from vision_agent.batch.records import as_line
from vision_agent.batch.served_requests import ServedRequest
from vision_agent.errors import ArgumentTypeError, BusyError, EngineError, InputError, bad_argument
from vision_agent.remote.http_client import EngineClient

_DEFAULT = "default"  # what servers call the default model
_REST = 1.0  # seconds until a server is asked again
_PROBE_SECONDS = 5.0
_OVERLOADED = (408, 409, 425, 429, 503)
_WRONG_KEY = (401, 403)


class Servers:
    """Servers that all serve the same model.

    Args:
        urls: their addresses.
        key: sent to all as a bearer token; None for none.
        at_once: requests that one server works on at a time.
        seconds: that a file may take.
        patience: seconds without any server after which the run gives up; it can be resumed.

    Raises:
        InputError: no address, one that is none, one twice, or numbers out of range.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        key: str | None = None,
        at_once: int = 1,
        seconds: float = 300.0,
        patience: float = 120.0,
    ) -> None:
        if isinstance(urls, str | bytes) or not isinstance(urls, Sequence):
            raise ArgumentTypeError(bad_argument("servers", "a list of addresses", urls))
        self._at_once = check_count("at_once", at_once)
        self._seconds = check_seconds(seconds) or 300.0
        self._patience = check_seconds(patience) or 120.0
        self._servers = [_Server(url, key, self._seconds) for url in urls]
        if len({server.url for server in self._servers}) != len(self._servers) or not self._servers:
            raise InputError(bad_argument("servers", "at least one address, each once", list(urls)))

    def model(self) -> str | None:
        """Return the name of the model that all serve; None for the default one. Those that are gone are left out.

        Raises:
            EngineError: no server can be reached.
            InputError: they serve different models.
        """
        names: dict[str, str] = {}
        gone: list[EngineError] = []
        for server in self._servers:
            try:
                names[server.url] = server.model()
            except EngineError as error:
                if error.status is not None:
                    raise
                server.rests = True  # another may do its part meanwhile
                gone.append(error)
        if not names:
            raise gone[0]
        if len(set(names.values())) > 1:
            raise InputError(bad_argument("servers", "servers of one model", names))
        (name,) = set(names.values())
        for server in self._servers:
            server.serves = name
        return None if name == _DEFAULT else name

    def work(self, job: Job, files: Sequence[str]) -> Done:
        """Yield each file with its record, as it is done. See `attempts.Executor`."""
        request = ServedRequest(job)
        if (served := self.model()) != request.model:
            wanted = "the default model" if request.model is None else repr(request.model)
            raise InputError(f"`servers` must serve {wanted}, as the job does, but they serve {served or _DEFAULT!r}")
        attempts = Attempts(self._seconds)
        waiting, suspects = deque(files), deque[str]()
        running: dict[Future[_Answer], tuple[_Server, str | None]] = {}
        heard = time.monotonic()
        threads = ThreadPoolExecutor(len(self._servers) * self._at_once, "vision-agent-servers")
        try:
            while waiting or suspects or any(file is not None for _, file in running.values()):
                for server in self._servers:
                    if server.rests and not server.busy:
                        server.busy = 1
                        running[threads.submit(server.rest)] = (server, None)
                    while not server.rests and (file := self._next(server, waiting, suspects)) is not None:
                        server.busy += 1
                        running[threads.submit(server.ask, request, file)] = (server, file)
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    server, file = running.pop(future)
                    server.busy -= 1
                    server.alone = server.alone and server.busy > 0
                    answer = future.result()
                    server.rests = answer.kind in ("busy", "gone", "slow")
                    if not server.rests:
                        heard = time.monotonic()
                    if file is None:
                        continue
                    if answer.kind == "done":
                        yield file, answer.line, answer.well
                    elif answer.kind == "busy":
                        (suspects if file in attempts else waiting).appendleft(file)
                    elif (line := attempts.failed(file, slow=answer.kind == "slow")) is not None:
                        yield file, line, False
                    else:
                        suspects.append(file)
                if all(server.rests for server in self._servers) and time.monotonic() - heard > self._patience:
                    raise EngineError(
                        f"none of {len(self._servers)} servers was ready for {self._patience:g} s; run again to resume"
                    )
        finally:
            threads.shutdown(cancel_futures=True, wait=False)

    def _next(self, server: "_Server", waiting: deque[str], suspects: deque[str]) -> str | None:
        """The next file for a server; one that may bring it down goes there alone, after all others."""
        if server.alone or server.busy >= self._at_once:
            return None
        if waiting:
            return waiting.popleft()
        if not suspects or server.busy:
            return None
        server.alone = True
        return suspects.popleft()


@dataclass(frozen=True)
class _Answer:
    """What came of a request: a record, or why there is none."""

    kind: Literal["done", "busy", "gone", "slow", "ready"]
    line: bytes = b""
    well: bool = False


@dataclass
class _Server:
    """One server. `rests`: it has to be asked whether it is ready; `alone`: it has a file that may bring it down."""

    url: str
    key: str | None = field(repr=False)
    seconds: float
    serves: str = _DEFAULT
    rests: bool = False
    alone: bool = False
    busy: int = 0

    def __post_init__(self) -> None:
        self._client = EngineClient(self.url, self.key, timeout=self.seconds, retries=0)
        self._probe = EngineClient(self.url, self.key, timeout=_PROBE_SECONDS, retries=0)
        self.url = self._client.url

    def model(self) -> str:
        listed = self._probe.get("/v1/models")
        try:
            return str(listed["data"][0]["id"])
        except (KeyError, IndexError, TypeError) as error:
            raise self._probe.error("does not say which model it serves: is it `vision-agent serve`?") from error

    def rest(self) -> _Answer:
        """Wait a moment, and say whether it is ready, with the model of the others."""
        time.sleep(_REST)
        try:
            self._probe.get("/health/ready")
            return _Answer("ready" if self.model() == self.serves else "gone")
        except (EngineError, BusyError):
            return _Answer("gone")

    def ask(self, request: ServedRequest, file: str) -> _Answer:
        """Return the record of a file, or why there is none."""
        try:
            return attempted(lambda name: self._asked(request, name), file)
        except EngineError:  # of the server, not of the file
            raise
        except Exception as error:  # an image may break anything; it becomes a record
            return _Answer("done", as_line(failed_in_the_end(file, error)))

    def _asked(self, request: ServedRequest, file: str) -> _Answer:
        body = request.body(file)
        began = time.monotonic()
        try:
            answer = self._client.post(request.path, body)
        except BusyError:
            return _Answer("busy")
        except EngineError as error:
            if error.status in _WRONG_KEY or error.status == 404:
                raise
            if error.status in _OVERLOADED:
                return _Answer("busy")
            if error.status is not None and error.status < 500:
                raise request.refusal(error) from error
            return _Answer("slow" if time.monotonic() - began >= self.seconds else "gone")
        try:
            record = {"file": file, "error": None, **request.record(answer)}
        except (KeyError, TypeError, ValueError) as error:
            raise self._client.error("answers with something else than results: is it `vision-agent serve`?") from error
        return _Answer("done", as_line(record), True)
