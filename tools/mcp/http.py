"""MCP over streamable HTTP, at the path /mcp. Nothing is authenticated: by default only this machine is served.

A session has images of its own, so only versions of the protocol that have sessions are spoken. The `Host` and
`Origin` of requests are checked: a web page that makes a browser call this server is refused.
"""

import contextlib
import ipaddress
import socket
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from vision_agent.aio import in_thread
from vision_agent.errors import InputError, bad_argument

from .versions import handshake_versions

PATH = "/mcp"
IMAGES = "/images/"
"""Where images that links are to are fetched: a secret, a slash, and the id with `.jpg` follow."""
_LOCAL = ("127.0.0.1", "localhost", "[::1]")
_MAX_BODY = 16 * 2**20  # an image of 10 MiB in a `data:` address, as base64, and some more
IDLE_SECONDS = 24 * 3600.0
"""A session without requests for so long is over."""
_UNSUPPORTED_VERSION = -32022  # JSON-RPC error of the protocol
_LAST_SECONDS = 3  # that open requests get when the server stops


@dataclass(frozen=True)
class Listening:
    """A socket that clients can connect to; who comes early waits.

    Attributes:
        socket: bound and listening.
        host: the name or address by which clients reach it; IPv6 in brackets.
    """

    socket: socket.socket
    host: str

    @property
    def url(self) -> str:
        """Where MCP is served."""
        return f"http://{self.host}:{self.socket.getsockname()[1]}{PATH}"


def listen(address: str) -> Listening:
    """Start to listen.

    Args:
        address: "HOST:PORT", or a port of this machine alone; port 0 takes a free one.

    Raises:
        InputError: no such address, or one that cannot be listened at.
    """
    expected = "HOST:PORT or a port, such as 127.0.0.1:8000"
    host, colon, port = address.strip().rpartition(":")
    host = host.strip("[]") if colon else _LOCAL[0]
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise InputError(bad_argument("http", expected, address))
    ip = _ip(host)
    if ip is not None and ip.is_unspecified:
        expected = "an address or name that clients use; all addresses at once are refused, as nothing is authenticated"
        raise InputError(bad_argument("http", expected, address))
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, int(port)), family=family)
    except OSError as error:
        raise InputError(f"{bad_argument('http', 'a free address of this machine', address)}: {error}") from error
    return Listening(listening, f"[{host}]" if ":" in host else host)


def public_address(url: object) -> str:
    """Check where others reach a server, and return it without a slash at its end.

    Raises:
        InputError: anything but an http or https address of a host, with a path or without.
    """
    expected = "an address such as https://vision.example.org, without a query"
    try:
        parts = urlsplit(url) if isinstance(url, str) else urlsplit("")
        wrong = parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.port == 0
    except ValueError:  # a port or an address in brackets that is none
        raise InputError(bad_argument("public_url", expected, url)) from None
    if wrong or not isinstance(url, str) or parts.query or parts.fragment or any(c.isspace() for c in url):
        raise InputError(bad_argument("public_url", expected, url))
    return url.rstrip("/")


async def serve(
    server: Any,
    listening: Listening,
    ended: Callable[[str], None],
    image: Callable[[str, str], bytes | None] = lambda key, image_id: None,
    public: str | None = None,
) -> None:
    """Serve until the process is told to stop.

    Args:
        server: of `versions.make_server`.
        listening: from `listen`.
        ended: told the id of a session that its client closes.
        image: gives the JPEG of a secret and an id, or None.
        public: from `public_address`; requests that were sent there are served too.
    """
    host = listening.host
    names = _LOCAL if _is_local(host) else (host,)
    if public is not None:
        names = (*names, str(urlsplit(public).hostname))
    if not _is_local(host):
        print(f"vision-agent: whoever can reach {host} can use this server, without any password", file=sys.stderr)
    manager = _manager(server, names)
    # Logs go where the program's own go, and not to stdout.
    config = uvicorn.Config(
        application(manager, ended, image),
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=_LAST_SECONDS,
    )
    async with manager.run():
        print(f"vision-agent: serving MCP at {listening.url}", file=sys.stderr)
        await uvicorn.Server(config).serve(sockets=[listening.socket])


@contextlib.asynccontextmanager
async def mounted(server: Any, names: tuple[str, ...] | None, ended: Callable[[str], None]) -> AsyncIterator[ASGIApp]:
    """Run MCP as a part of another application, as long as this is open; yields what answers requests to `PATH`.

    Args:
        server, ended: as for `serve`.
        names: hosts by which clients may reach it; None for any, where the other application checks who calls.
    """
    manager = _manager(server, None if names is None else tuple(f"[{n}]" if ":" in n else n for n in names))
    async with manager.run():
        yield application(manager, ended, lambda key, image_id: None)


def _manager(server: Any, names: tuple[str, ...] | None) -> StreamableHTTPSessionManager:
    """The sessions of a server; requests to other hosts than these, or from pages of others, are refused."""
    known = names or ()
    security = TransportSecuritySettings(
        enable_dns_rebinding_protection=names is not None,
        allowed_hosts=[part for name in known for part in (name, f"{name}:*")],
        allowed_origins=[part for name in known for part in (f"http://{name}", f"http://{name}:*")],
    )
    return StreamableHTTPSessionManager(
        server, security_settings=security, max_request_body_size=_MAX_BODY, session_idle_timeout=IDLE_SECONDS
    )


def application(
    manager: StreamableHTTPSessionManager, ended: Callable[[str], None], image: Callable[[str, str], bytes | None]
) -> ASGIApp:
    """Make the ASGI application: MCP, in versions of the protocol with sessions, and images that links are to."""
    with_sessions = handshake_versions()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        version = headers.get("mcp-protocol-version")
        if scope["path"].startswith(IMAGES):
            await (await _image(scope, image))(scope, receive, send)
        elif scope["path"].rstrip("/") != PATH:
            await PlainTextResponse(f"MCP is at {PATH}", 404)(scope, receive, send)
        elif with_sessions is not None and version is not None and version not in with_sessions:
            await _unsupported(version, with_sessions)(scope, receive, send)
        else:
            await manager.handle_request(scope, receive, send)
            session = headers.get("mcp-session-id")
            if scope["method"] == "DELETE" and session is not None:
                ended(session)

    return app


async def _image(scope: Scope, image: Callable[[str, str], bytes | None]) -> Response:
    if scope["method"] not in ("GET", "HEAD"):
        return PlainTextResponse("images can be fetched, and no more", 405)
    key, _, name = scope["path"].removeprefix(IMAGES).partition("/")
    data = await in_thread(lambda: image(key, name.removesuffix(".jpg"))) if name.endswith(".jpg") else None
    if data is None:
        return PlainTextResponse("there is no such image, or no longer", 404)
    safe = {"cache-control": "private", "x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}
    return Response(data, media_type="image/jpeg", headers=safe)


def _unsupported(version: str, supported: tuple[str, ...]) -> JSONResponse:
    """Newer clients take this as the sign to open a session with `initialize`."""
    data = {"supported": list(supported), "requested": version[:40]}
    message = "This server keeps images by session: open one with `initialize`"
    error = {"code": _UNSUPPORTED_VERSION, "message": message, "data": data}
    return JSONResponse({"jsonrpc": "2.0", "id": None, "error": error}, 400)


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def _is_local(host: str) -> bool:
    address = _ip(host)
    return host == "localhost" if address is None else address.is_loopback
