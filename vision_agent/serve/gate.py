"""What every request passes: who may call, from where, with how many bytes; counted, and logged in one line.

The log has no words of a request, no image, and no key: route, status, sizes and seconds.
"""

import asyncio
import hashlib
import hmac
import json
import logging
import time
import uuid
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vision_agent.serve.counters import Counters
from vision_agent.serve.options import ServeOptions
from vision_agent.serve.problems import ClientGoneError, Problem, unexpected

LOG = logging.getLogger("vision_agent.serve")
OPEN_PATHS = ("/health/live", "/health/ready")
"""What needs no key: probes send none."""
_RECORD = "vision_agent.record"
_CLIENT_GONE = 499  # in the log alone: nobody reads such a response
_LONGEST_HOST = 300


@dataclass
class RequestRecord:
    """What is noted of a request while it is answered.

    Attributes:
        route: which of the server's own routes it is for.
        numbers: tokens, images and seconds, by name.
    """

    route: str = "none"
    numbers: dict[str, float] = field(default_factory=dict)


def record_of(scope: Scope) -> RequestRecord:
    """Return what is noted of a request."""
    record: RequestRecord = scope.setdefault(_RECORD, RequestRecord())
    return record


class Gate:
    """Guards an application. All that goes wrong behind it becomes a response in one form.

    Args:
        open_paths: what needs no key, beside the probes.
    """

    def __init__(
        self, app: ASGIApp, options: ServeOptions, counters: Counters, open_paths: frozenset[str] = frozenset()
    ) -> None:
        self._app = app
        self._open_paths = open_paths.union(OPEN_PATHS)
        self._options = options
        self._counters = counters
        self._keys = [hashlib.sha256(key.encode()).digest() for key in options.keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        began = time.perf_counter()
        record = record_of(scope)
        sent = _Sending(send, f"req_{uuid.uuid4().hex[:20]}")
        try:
            await self._checked(scope, receive, sent)
        except (ClientGoneError, ClientDisconnect):
            self._counters.add("requests_abandoned_total")
            sent.status = sent.status or _CLIENT_GONE
        except Problem as problem:
            await sent.refuse(problem, scope, receive)
        except asyncio.CancelledError:  # the server stops, and did not wait any longer
            sent.status = sent.status or _CLIENT_GONE
            raise
        except Exception:
            LOG.exception("request %s failed", sent.id)
            await sent.refuse(unexpected(), scope, receive)
        finally:
            seconds = time.perf_counter() - began
            self._counters.add("requests_total", route=record.route, status=sent.status)
            self._counters.see("request_seconds", seconds, route=record.route)
            line = {"request": sent.id, "route": record.route, "status": sent.status, "seconds": round(seconds, 4)}
            LOG.info("%s", json.dumps({**line, **record.numbers}))

    async def _checked(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        self._check_host(headers)
        if scope["path"] not in self._open_paths:
            self._check_key(headers)
        await self._app(scope, self._bounded(headers, receive), send)

    def _check_host(self, headers: Headers) -> None:
        """Refuse names that are not the server's: a web page can make them point here, and have a browser call it."""
        if self._options.hosts is None:
            return
        sent = [("host", f"//{headers.get('host', '')}")]
        sent += [("origin", origin) for origin in headers.getlist("origin")]
        for name, address in sent:
            if _host_of(address) not in self._options.hosts:
                known = ", ".join(self._options.hosts)
                said = f"the header `{name}` must name this server, one of {known}"
                raise Problem(403, said, kind="permission_error", param=name, code="host_refused")

    def _check_key(self, headers: Headers) -> None:
        if not self._keys:
            return
        kind, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if kind.lower() == "bearer" else headers.get("x-moondream-auth", "")
        digest = hashlib.sha256(given.encode("utf-8", "replace")).digest()
        # Each is compared, in a time that does not depend on where they differ.
        if not any([hmac.compare_digest(digest, key) for key in self._keys]):
            said = "no valid key was given; send it as `Authorization: Bearer KEY`"
            bearer = {"www-authenticate": "Bearer"}
            raise Problem(401, said, kind="authentication_error", code="invalid_api_key", headers=bearer)

    def _bounded(self, headers: Headers, receive: Receive) -> Receive:
        """Refuse too many bytes, by what the client says of them and by what comes, and those that come too slowly."""
        most, said = self._options.max_body_bytes, headers.get("content-length", "0")
        if not (said.isascii() and said.isdigit()):
            raise Problem(400, "the header `content-length` must be a number", param="content-length")
        if len(said) > 18 or int(said) > most:
            raise self._too_large()
        until = time.monotonic() + self._options.body_seconds
        read, whole = 0, False

        async def bounded() -> Message:
            nonlocal read, whole
            if whole:
                return await receive()
            try:
                async with asyncio.timeout(max(0.0, until - time.monotonic())):
                    message = await receive()
            except TimeoutError:
                said = f"the body did not arrive within {self._options.body_seconds:g} seconds"
                raise Problem(408, said, kind="timeout_error", code="body_timeout") from None
            if message["type"] == "http.request":
                read += len(message.get("body", b""))
                whole = not message.get("more_body", False)
                if read > most:
                    raise self._too_large()
            return message

        return bounded

    def _too_large(self) -> Problem:
        most = self._options.max_body_bytes
        close = {"connection": "close"}  # what is still to come of the body is not read
        return Problem(413, f"the body must have at most {most} bytes", code="body_too_large", headers=close)


class _Sending:
    """Sends a response once.

    Attributes:
        id: of the request, in the response's headers and in the log.
        status: that was sent; 0 for none.
    """

    def __init__(self, send: Send, request_id: str) -> None:
        self.id = request_id
        self.status = 0
        self._send = send

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.id
            headers["x-content-type-options"] = "nosniff"
        await self._send(message)

    async def refuse(self, problem: Problem, scope: Scope, receive: Receive) -> None:
        """Send a problem, where nothing was sent yet."""
        if self.status == 0:
            await problem.response()(scope, receive, self)


def _host_of(address: str) -> str | None:
    if len(address) > _LONGEST_HOST:
        return None
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        kind: str = (await receive())["type"].removeprefix("lifespan.")
        await send({"type": f"lifespan.{kind}.complete"})
        if kind == "shutdown":
            return
