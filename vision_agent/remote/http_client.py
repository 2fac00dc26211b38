"""Talks to an engine over HTTP: bounded retries, bounded replies, and one clear error for each way to fail.

A key is sent in the header `Authorization` and stands in no error: engines may repeat what they were sent.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

from vision_agent.errors import BusyError, EngineError, InputError, bad_argument
from vision_agent.plugins.cancellation import raise_if_cancelled

_LARGEST_REPLY = 64 * 2**20
_LARGEST_EVENT = 8 * 2**20
_LONGEST_WAIT = 60.0  # seconds that are waited for an engine that says when to come again
_CONNECT_SECONDS = 10.0
_SHOWN = 300  # characters of what an engine said
# Nothing was computed for these, so asking again costs nothing.
_TRY_AGAIN = (429, 503)


class EngineClient:
    """Sends JSON to one engine. Safe to share between threads.

    Args:
        url: the engine's address, with or without `/v1`.
        key: sent as a bearer token; None sends none.
        timeout: seconds without an answer, or without the next event of a stream, after which a call fails.
        retries: how often a request is sent again that the engine had no room for (429, 503).

    Raises:
        InputError: an address that is none, or with a user or a password in it.
    """

    def __init__(self, url: str, key: str | None = None, timeout: float = 120.0, retries: int = 2) -> None:
        self.url = checked_url(url)
        self._key = key
        self._timeout = timeout
        self._retries = retries
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        patience = httpx.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS))
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=patience, follow_redirects=False)

    def __repr__(self) -> str:
        return f"EngineClient({self.url!r})"

    def get(self, path: str) -> Any:
        """Return the JSON at a path. Raises EngineError; StatusError where the engine refuses."""
        return self._json("GET", path, None)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Send JSON, and return the JSON of the answer. Raises EngineError, BusyError."""
        return self._json("POST", path, body)

    def events(self, path: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Send JSON, and yield the events of the answer as they come; closing the iterator closes the connection.

        Raises:
            EngineError: the stream is cut, silent for `timeout`, or no stream of events.
            BusyError: the engine has no room.
        """
        with self._opened("POST", path, body) as response:
            self._check_kind(response, "text/event-stream")
            yield from self._read_events(response)

    # --- inside

    def _json(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        with self._opened(method, path, body) as response:
            text = self._read_whole(response)
            self._check_kind(response, "json", text)
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self._error(f"answered {path} with what is no JSON: {_short(text)!r}") from error

    @contextmanager
    def _opened(self, method: str, path: str, body: Mapping[str, Any] | None) -> Iterator[httpx.Response]:
        """Give the response of a request that was not refused, unread; what fails is one of this package's errors."""
        for attempt in range(self._retries + 1):
            raise_if_cancelled()
            try:
                with self._http.stream(method, path, json=body) as response:
                    if response.is_success:
                        yield response
                        return
                    wait = self._refused(response, path, attempt)
            except httpx.TimeoutException as error:
                silent = "cannot be reached" if isinstance(error, httpx.ConnectTimeout) else "was silent"
                raise self._error(f"{silent} for {self._timeout:g} s (`timeout`)") from None
            except httpx.RemoteProtocolError as error:
                raise self._error(f"broke off its answer: {_short(str(error))}") from None
            except httpx.TransportError as error:
                raise self._error(f"cannot be reached: {_short(str(error)) or type(error).__name__}") from None
            except httpx.DecodingError as error:
                raise self._error(f"sent an answer that cannot be unpacked: {_short(str(error))}") from None
            _sleep(wait)

    def _refused(self, response: httpx.Response, path: str, attempt: int) -> float:
        """How long to wait before asking again. Raises where that is of no use."""
        status = response.status_code
        if response.is_redirect:
            there = urlsplit(response.headers.get("location", ""))
            raise self._error(
                f"redirects {path} to {there.hostname or 'another place'}, which is not followed: give the address "
                "that answers itself"
            )
        said = _said(self._read_whole(response, 2**16))
        if status in (401, 403):
            raise self._error(f"refuses the key (status {status}): {said or 'it says no more'}", status=status)
        if status not in _TRY_AGAIN:
            raise self._error(
                f"refused {path} (status {status}): {said or 'it says no more'}", status=status, said=said
            )
        wait = _retry_after(response.headers.get("retry-after"), attempt)
        if attempt >= self._retries or wait > _LONGEST_WAIT:
            later = f", and asks to come again in {wait:.0f} s" if wait > _LONGEST_WAIT else ""
            raise BusyError(
                self._hidden(f"the engine at {self.url} has no room (status {status}){later}: {said or 'try later'}")
            )
        return wait

    def _read_whole(self, response: httpx.Response, most: int = _LARGEST_REPLY) -> str:
        deadline = time.monotonic() + self._timeout
        held = bytearray()
        for piece in response.iter_bytes():
            held += piece
            if len(held) > most:
                if not response.is_success:
                    break
                raise self._error(f"sends an answer of more than {most // 2**20} MiB, which is given up")
            if time.monotonic() > deadline:
                raise self._error(f"did not end its answer within {self._timeout:g} s (`timeout`)")
        return held.decode("utf-8", "replace")

    def _read_events(self, response: httpx.Response) -> Iterator[dict[str, Any]]:
        seen = time.monotonic()
        for line in self._lines(response):
            raise_if_cancelled()
            if not line.startswith("data:"):
                # Comments keep a connection open, and are no answer.
                if time.monotonic() - seen > self._timeout:
                    raise self._error(f"sent no event for {self._timeout:g} s (`timeout`)")
                continue
            data = line[5:].strip()
            if data == "[DONE]":
                return
            try:
                event = json.loads(data)
            except (ValueError, RecursionError):
                raise self._error(f"sent an event that is no JSON: {_short(data)!r}") from None
            if not isinstance(event, dict):
                raise self._error(f"sent an event that is no object: {_short(data)!r}")
            if event.get("error") or event.get("object") == "error":
                raise self._error(f"failed while it answered: {_said(data)}")
            seen = time.monotonic()
            yield event
        raise self._error("broke off its answer: the stream ended before its end was told")

    def _lines(self, response: httpx.Response) -> Iterator[str]:
        """Lines of bytes that come in any pieces; half a character or half a line waits for the rest."""
        rest = b""
        for piece in response.iter_bytes():
            rest += piece
            *lines, rest = rest.split(b"\n")
            if len(rest) > _LARGEST_EVENT:
                raise self._error(f"sends an event of more than {_LARGEST_EVENT // 2**20} MiB, which is given up")
            for line in lines:
                yield line.rstrip(b"\r").decode("utf-8", "replace")

    def _check_kind(self, response: httpx.Response, expected: str, text: str = "") -> None:
        kind = response.headers.get("content-type", "")
        if expected in kind or (expected == "json" and not kind):
            return
        if "html" in kind or text.lstrip()[:1] == "<":
            raise self._error("answers with a web page: the address is no engine's, or a proxy stands before it")
        if expected != "json":
            raise self._error(f"answers a stream with {kind[:60]!r} instead of events")

    def error(self, said: str) -> EngineError:
        """Return an error about this engine, without its key."""
        return self._error(said)

    def _error(self, told: str, *, status: int | None = None, said: str = "") -> EngineError:
        return EngineError(self._hidden(f"the engine at {self.url} {told}"), status=status, said=self._hidden(said))

    def _hidden(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def checked_url(url: str, name: str = "url") -> str:
    """Return an engine's address without a slash or `/v1` at its end.

    Raises:
        InputError: no address of http or https, or one with a user, a password, a query or a fragment.
    """
    expected = "an http or https address such as 'http://127.0.0.1:8000'"
    if not isinstance(url, str):
        raise InputError(bad_argument(name, expected, url))
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise InputError(bad_argument(name, expected, url)) from error
    if parts.username or parts.password or parts.query or parts.fragment:  # these may be secrets: not shown
        raise InputError(f"`{name}` must be {expected}, without user, password, query or fragment; give `key` apart")
    if parts.scheme not in ("http", "https") or not host or any(letter.isspace() for letter in url):
        raise InputError(bad_argument(name, expected, url))
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def _retry_after(said: str | None, attempt: int) -> float:
    """Seconds to wait: what the engine says, as a number or a date, else a little longer each time."""
    backoff = float(min(8.0, 0.5 * 2**attempt))
    if said is None:
        return backoff
    try:
        return max(0.0, float(said))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    except (ValueError, TypeError):
        return backoff


_PAUSE: Callable[[float], None] = time.sleep


def _sleep(seconds: float) -> None:
    """Wait, and end at once where nobody waits for the answer any longer."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        raise_if_cancelled()
        _PAUSE(min(left, 0.1))


def _said(text: str) -> str:
    """What an engine's error says: `{"error": {...}}`, the flat form of LMDeploy, FastAPI's `detail`, or any text."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return "" if text.lstrip().startswith("<") else _short(text)
    if not isinstance(content, dict):
        return _short(text)
    inside = content.get("error")
    inside = inside if isinstance(inside, dict) else content
    said = inside.get("message") or content.get("detail") or content.get("error") or text
    return _short(said if isinstance(said, str) else json.dumps(said))


def _short(text: str) -> str:
    said = " ".join(text.split())
    return said if len(said) <= _SHOWN else f"{said[:_SHOWN]}..."
