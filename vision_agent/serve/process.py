"""The server as a process: it listens, answers, and on SIGTERM ends what it has begun before it goes."""

import asyncio
import contextlib
import ipaddress
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from vision_agent.errors import InputError, bad_argument
from vision_agent.serve.application import Application
from vision_agent.serve.gate import LOG
from vision_agent.serve.options import LOCAL_HOSTS, ServeOptions

if TYPE_CHECKING:
    from vision_agent.agent import VisionAgent

_BACKLOG = 2048
_SILENT_SECONDS = 20.0  # that a connection may take to say what it wants
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
MountedMCP = Callable[[tuple[str, ...] | None], contextlib.AbstractAsyncContextManager[ASGIApp]]
"""Makes the application that serves MCP to clients who name one of these hosts, and runs it as long as it is open."""


def is_local(host: str) -> bool:
    """Return whether a name or an address is of this machine, for itself."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def guarded(options: ServeOptions, host: str) -> ServeOptions:
    """Return the options for a server at `host`: elsewhere than on this machine it needs keys, and has other names.

    Raises:
        InputError: no keys.
    """
    if is_local(host):
        return options
    if not options.keys:
        raise InputError(
            f"`host` is {host!r}, which others can reach: give `--keys FILE`, or serve this machine alone, at 127.0.0.1"
        )
    return replace(options, hosts=None) if options.hosts == LOCAL_HOSTS else options


def listen(host: str, port: int) -> socket.socket:
    """Start to listen; who comes early waits. Port 0 takes a free one.

    Raises:
        InputError: an address that cannot be listened at.
    """
    bare = host.strip("[]")
    if isinstance(port, bool) or not 0 <= port <= 65535:
        raise InputError(bad_argument("port", "a number from 0 to 65535", port))
    try:
        family = socket.AF_INET6 if ":" in bare else socket.AF_INET
        return socket.create_server((bare, port), family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError) as error:
        expected = "an address of this machine with a free port"
        raise InputError(f"{bad_argument('host', expected, f'{host}:{port}')}: {error}") from error


def url_of(listening: socket.socket) -> str:
    """Return the address of a server that listens."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(agent: "VisionAgent", options: ServeOptions, listening: socket.socket, mcp: MountedMCP | None = None) -> None:
    """Serve until the process is told to stop by SIGTERM or Ctrl-C; then answer what has begun, and return."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    try:
        asyncio.run(serve(agent, options, listening, mcp))
    finally:
        LOG.removeHandler(handler)


async def serve(
    agent: "VisionAgent",
    options: ServeOptions,
    listening: socket.socket,
    mcp: MountedMCP | None = None,
    started: Callable[["DrainingServer"], None] = lambda server: None,
) -> None:
    """Serve in this event loop until the server is told to stop.

    Args:
        listening: from `listen`.
        mcp: serves MCP at /mcp; None for no MCP.
        started: gets the server, whose `stop` ends it.
    """
    async with _opened(mcp, options) as mounted:
        application = Application(agent, options, mounted)
        config = uvicorn.Config(
            application,
            http=_ImpatientProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=max(1, round(options.drain_seconds)),
        )
        server = DrainingServer(config, application.drain)
        started(server)
        try:
            await server.serve(sockets=[listening])
        finally:
            application.close()


class DrainingServer(uvicorn.Server):
    """A server that ends with its work done and without an error when it is told to stop."""

    def __init__(self, config: uvicorn.Config, drain: Callable[[], None]) -> None:
        super().__init__(config)
        self._drain = drain

    def stop(self) -> None:
        """Stop taking requests, and end when those that run have their answers. From any thread."""
        self._drain()
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at a signal. uvicorn's own raises the signal again at the end, so that the process would be killed."""
        try:
            before = {each: signal.signal(each, self._signalled) for each in _SIGNALS}
        except ValueError:  # only the main thread gets signals
            before = {}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def _signalled(self, number: int, frame: Any) -> None:
        self.force_exit = self.should_exit and number == signal.SIGINT  # Ctrl-C twice
        self.stop()


class _ImpatientProtocol(H11Protocol):
    """Closes connections that say nothing: whoever opens a thousand of them shall not hold a thousand."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.loop.call_later(_SILENT_SECONDS, self._close_if_silent)

    def _close_if_silent(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


@contextlib.asynccontextmanager
async def _opened(mcp: MountedMCP | None, options: ServeOptions) -> AsyncIterator[ASGIApp | None]:
    if mcp is None:
        yield None
        return
    async with mcp(options.hosts) as application:
        yield application
