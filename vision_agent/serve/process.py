"""The server as a process: it listens, answers, and on SIGTERM ends what it has begun before it goes."""

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.types import ASGIApp

from vision_agent.serve.application import Application
from vision_agent.serve.gate import LOG
from vision_agent.serve.http_protocol import IDLE_SECONDS, PatientProtocol
from vision_agent.serve.options import ServeOptions

if TYPE_CHECKING:
    from vision_agent.agent import VisionAgent

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
MountedMCP = Callable[[tuple[str, ...] | None], contextlib.AbstractAsyncContextManager[ASGIApp]]
"""Makes the application that serves MCP to clients who name one of these hosts, and runs it as long as it is open."""


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
        listening: from `listening.listen`.
        mcp: serves MCP at /mcp; None for no MCP.
        started: gets the server, whose `stop` ends it.
    """
    async with _opened(mcp, options) as mounted:
        application = Application(agent, options, mounted)
        config = uvicorn.Config(
            application,
            http=PatientProtocol,
            timeout_keep_alive=IDLE_SECONDS,
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
            await application.finish()
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


@contextlib.asynccontextmanager
async def _opened(mcp: MountedMCP | None, options: ServeOptions) -> AsyncIterator[ASGIApp | None]:
    if mcp is None:
        yield None
        return
    async with mcp(options.hosts) as application:
        yield application
