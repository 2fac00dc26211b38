"""HTTP connections as clients need them: idle ones stay open, silent ones do not, and no answer is lost in an upload.

uvicorn closes an idle connection after five seconds, as long as OpenAI's client (httpx) keeps one to use it again: a
request that is sent at that moment is lost. And a connection that is closed while a client still sends its body is
reset: many clients then never see the answer that says why.
"""

import asyncio
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

IDLE_SECONDS = 75
"""That a connection is kept without a request: longer than clients (5-60 s) and proxies (60 s) keep theirs."""
SILENT_SECONDS = 20.0
"""That a connection may take to say what it wants."""
LINGER_SECONDS = 5.0
"""That a client may go on with a body that is not read any more, once the answer is sent."""


class PatientProtocol(H11Protocol):
    """Takes requests of one connection. Whoever opens a thousand of them and says nothing shall not hold a thousand."""

    _silence: asyncio.TimerHandle | None = None
    _begun = False  # it waits for the rest of something
    _lingering: "LingeringTransport"

    def connection_made(self, transport: Any) -> None:
        """Begin, and wait for a request."""
        self._lingering = LingeringTransport(transport, self)
        super().connection_made(cast(asyncio.Transport, self._lingering))
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take bytes; those after the last answer of a connection are only waited for."""
        if self._lingering.discards:
            return
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """End, and wait for nothing any more."""
        self._lingering.stop()
        if self._silence is not None:
            self._silence.cancel()
        super().connection_lost(exc)

    @property
    def body_is_unread(self) -> bool:
        """Whether the client has begun a body whose end has not come."""
        return bool(self.conn.their_state is h11.SEND_BODY)

    def _watch(self) -> None:
        """Bound the time between requests. A head or a rest of a body that comes byte by byte gains none by it."""
        busy = self._busy
        begun = not busy and (self.cycle is None or self.body_is_unread or bool(self.conn.trailing_data[0]))
        if self._silence is not None and not (begun and self._begun):
            self._silence.cancel()
            self._silence = None
        self._begun = begun
        if self._silence is None and not busy and not self.transport.is_closing():
            seconds = SILENT_SECONDS if begun else IDLE_SECONDS
            self._silence = self.loop.call_later(seconds, self._close_if_silent)

    @property
    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _close_if_silent(self) -> None:
        if not self._busy and not self.transport.is_closing():
            self._lingering.abandon()


class LingeringTransport:
    """A transport whose `close` lets the client end its body: what comes is thrown away, for a while."""

    def __init__(self, transport: asyncio.Transport, protocol: PatientProtocol) -> None:
        self._transport, self._protocol = transport, protocol
        self._end: asyncio.TimerHandle | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    @property
    def discards(self) -> bool:
        """Whether what comes is thrown away."""
        return self._end is not None

    def is_closing(self) -> bool:
        """Return whether nothing more is answered."""
        return self.discards or self._transport.is_closing()

    def close(self) -> None:
        """Close the connection; where a body is still coming, say the end first, and wait for the client's."""
        if self.is_closing():
            return
        if not self._protocol.body_is_unread or not self._transport.can_write_eof():
            self._transport.close()
            return
        self._transport.write_eof()
        self._end = self._protocol.loop.call_later(LINGER_SECONDS, self._transport.close)
        self._transport.resume_reading()

    def abandon(self) -> None:
        """Close it at once: there is no answer that could be lost."""
        self._transport.close()

    def stop(self) -> None:
        """Wait for nothing any more."""
        if self._end is not None:
            self._end.cancel()
