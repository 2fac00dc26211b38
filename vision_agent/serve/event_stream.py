"""Server-sent events: one `data:` line for each."""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # a proxy must pass each event on as it comes
]


class EventStream(Response):
    """Sends events as they come. Whoever makes them watches for a client that leaves.

    Args:
        first: what was made before it was known that there would be a stream.
        others: the events after it.
        named: each is the JSON of an object whose `type` is the event's name, too.
    """

    def __init__(self, first: str, others: AsyncGenerator[str, None], named: bool = False) -> None:
        self._named = named
        self._first = first
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
        async with aclosing(self._others) as others:
            await self._send(send, self._first)
            async for event in others:
                await self._send(send, event)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, event: str) -> None:
        name = f"event: {json.loads(event)['type']}\n" if self._named else ""
        await send({"type": "http.response.body", "body": f"{name}data: {event}\n\n".encode(), "more_body": True})
