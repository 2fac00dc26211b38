"""The one place where `mcp` 1.x and 2.x differ: how handlers are registered, progress is reported, errors are raised.

Handlers answer with plain dicts in the protocol's own words, which the models of both versions validate.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mcp.server.lowlevel as lowlevel
import mcp.shared.exceptions as exceptions
import mcp.types as types

# Each version's names are missing in the other: they are looked up by name.
_types: Any = types
_exceptions: Any = exceptions
_Server: Any = lowlevel.Server
_IS_2 = hasattr(_Server, "add_request_handler")

_KINDS = {  # method: (its request in 1.x, its parameters in 2.x, its result)
    "tools/list": ("ListToolsRequest", "PaginatedRequestParams", "ListToolsResult"),
    "tools/call": ("CallToolRequest", "CallToolRequestParams", "CallToolResult"),
    "resources/list": ("ListResourcesRequest", "PaginatedRequestParams", "ListResourcesResult"),
    "resources/templates/list": (
        "ListResourceTemplatesRequest",
        "PaginatedRequestParams",
        "ListResourceTemplatesResult",
    ),
    "resources/read": ("ReadResourceRequest", "ReadResourceRequestParams", "ReadResourceResult"),
}


@dataclass(frozen=True)
class Request:
    """What a handler gets to know about a request.

    Attributes:
        params: the method's parameters: `name` and `arguments` of a call, `uri` of a resource.
        session: the id of its HTTP session; None on stdio, where a process has one session.
        client: the address that it came from and the name that the client gave in its greeting.
        token: what it carries as `Authorization: Bearer ...`; None for none.
        report: tells the client that the work goes on: seconds so far, and a message. Does nothing for clients that did
            not ask for it.
    """

    params: Any
    session: str | None
    client: tuple[str, str]
    token: str | None
    report: Callable[[float, str], Awaitable[None]]


Handler = Callable[[Request], Awaitable[dict[str, Any]]]


def make_server(name: str, version: str, instructions: str, handlers: Mapping[str, Handler]) -> Any:
    """Make a server of the low-level kind; `handlers` by method, out of those in `_KINDS`."""
    server = _Server(name, version=version, instructions=instructions)
    for method, handler in handlers.items():
        if _IS_2:
            _register_2(server, method, handler)
        else:
            _register_1(server, method, handler)
    return server


def handshake_versions() -> tuple[str, ...] | None:
    """Return the versions of the protocol that have sessions; None where the installed `mcp` has no others."""
    if not _IS_2:
        return None
    from mcp.types.version import HANDSHAKE_PROTOCOL_VERSIONS

    return HANDSHAKE_PROTOCOL_VERSIONS


def protocol_error(code: int, message: str) -> Exception:
    """Make an error of the protocol, not of a tool, for a handler to raise."""
    if _IS_2:
        error: Exception = _exceptions.MCPError(code=code, message=message)
    else:
        error = _exceptions.McpError(_types.ErrorData(code=code, message=message))
    return error


def _register_1(server: Any, method: str, handler: Handler) -> None:
    request_name, _, result_name = _KINDS[method]
    result_type = getattr(_types, result_name)

    async def answer(request: Any) -> Any:
        context = server.request_context

        async def report(seconds: float, message: str) -> None:
            token = context.meta.progressToken if context.meta is not None else None
            if token is not None:
                await context.session.send_progress_notification(
                    token, seconds, message=message, related_request_id=str(context.request_id)
                )

        answered = await handler(Request(request.params, *_origin(context), report))
        return _types.ServerResult(result_type.model_validate(answered))

    server.request_handlers[getattr(_types, request_name)] = answer


def _register_2(server: Any, method: str, handler: Handler) -> None:
    _, params_name, result_name = _KINDS[method]
    result_type = getattr(_types, result_name)

    async def answer(context: Any, params: Any) -> Any:
        async def report(seconds: float, message: str) -> None:
            await context.session.report_progress(seconds, message=message)

        return result_type.model_validate(await handler(Request(params, *_origin(context), report)))

    server.add_request_handler(method, getattr(_types, params_name), answer)


def _origin(context: Any) -> tuple[str | None, tuple[str, str], str | None]:
    """Session, client and token of a request. The transport has let it pass, so its session is open."""
    greeting = context.session.client_params
    named = greeting.model_dump(mode="json", by_alias=True).get("clientInfo") or {} if greeting is not None else {}
    name = str(named.get("name", ""))
    http = context.request
    if http is None:
        return None, ("", name), None
    kind, _, token = http.headers.get("authorization", "").partition(" ")
    sent = token.strip() if kind.lower() == "bearer" else ""
    return http.headers.get("mcp-session-id"), (http.client.host if http.client else "", name), sent or None
