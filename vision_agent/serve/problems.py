"""Everything that a request may be refused for, in the one form that OpenAI's clients read."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json
from starlette.responses import JSONResponse

from vision_agent.errors import (
    AnswerError,
    BusyError,
    ExtractionError,
    ImageTooLargeError,
    MissingExtraError,
    PathRefusedError,
    RouteError,
    UrlRefusedError,
    VisionAgentError,
    first_line,
)

INVALID = "invalid_request_error"
_NAMED = re.compile(r"`([A-Za-z_][\w\[\].]*)`(?::| must| is | has )")
_CODES: tuple[tuple[type[VisionAgentError], int, str], ...] = (
    (ImageTooLargeError, 400, "image_too_large"),
    (UrlRefusedError, 400, "address_refused"),
    (PathRefusedError, 400, "path_refused"),
    (RouteError, 400, "route_missing"),
    (MissingExtraError, 400, "extra_missing"),
    (BusyError, 429, "queue_full"),
    # What was asked for is right, and still there is no answer. Clients do not try 422 again.
    (AnswerError, 422, "no_answer"),
    (ExtractionError, 422, "fields_missing"),
)


class Problem(Exception):
    """A request that is not answered.

    Attributes:
        status: of HTTP.
        message: for whoever sent it.
        kind: OpenAI's `type`.
        param: the field of the request that is wrong; None for none in particular.
        code: a word for programs.
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """Return what clients read."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """Return it as a response."""
        return JSONResponse(self.body(), self.status, headers=self.headers)


class ClientGoneError(Exception):
    """Whoever sent the request has closed its connection."""


def wrong(param: str, message: str, code: str | None = None) -> Problem:
    """Return the problem of a field that cannot be taken."""
    return Problem(400, message, param=param, code=code)


def unexpected() -> Problem:
    """Return what a client is told of a fault in the server; the log has more."""
    return Problem(500, "the server failed inside; its log has more", kind="server_error", code="internal_error")


def problem_of(error: VisionAgentError, names: Mapping[str, str] | None = None) -> Problem:
    """Return the problem that an error of the SDK is for a client.

    Args:
        names: what the request calls the arguments that the error names, where that is something else.
    """
    status, code = 400, None
    for kind, its_status, its_code in _CODES:
        if isinstance(error, kind):
            status, code = its_status, its_code
            break
    message = str(error).strip() or type(error).__name__
    named = _NAMED.search(message)
    param = named[1] if named else None
    for own, theirs in (names or {}).items():
        message = message.replace(f"`{own}`", f"`{theirs}`")
        param = theirs if param == own else param
    later = {"retry-after": "1"} if status == 429 else None
    return Problem(status, message, param=param, code=code, headers=later)


def problem_of_fields(error: ValidationError, given: bytes | Any) -> Problem:
    """Return the problem of a request whose fields do not fit; it names the one that is wrong.

    Args:
        given: the request, as JSON or as Python values.
    """
    found = error.errors(include_url=False, include_context=False)
    if found[0]["type"] == "json_invalid":
        return Problem(
            400, f"the body is no JSON: {found[0]['msg'].removeprefix('Invalid JSON: ')}", code="invalid_json"
        )
    value = from_json(given) if isinstance(given, bytes) else given
    placed = [(_place(each["loc"], value, each["type"]), each) for each in found]
    # Of a field that may be one of several things, what got furthest says best what was meant.
    place, first = max(placed, key=lambda pair: len(pair[0]))
    param = _written(place)
    if first["type"] == "extra_forbidden":
        return wrong(param, f"`{param}` is no field of this request", "unknown_parameter")
    if first["type"] == "missing":
        return wrong(param, f"`{param}` is missing", "missing_parameter")
    said = first["msg"].removeprefix("Value error, ")
    got = repr(first["input"])
    shown = got if len(got) <= 80 else f"{got[:60]}... ({len(got)} characters)"
    if not param:
        return Problem(400, f"the request: {said}, but got {shown}")
    return wrong(param, f"`{param}`: {first_line(ValueError(said))}, but got {shown}")


def _place(loc: Sequence[int | str], value: Any, kind: str) -> tuple[int | str, ...]:
    """A place without the names of alternatives, which are Pydantic's and not the request's."""
    kept: list[int | str] = []
    for index, step in enumerate(loc):
        if isinstance(step, str) and isinstance(value, dict) and step in value:
            value = value[step]
            kept.append(step)
        elif isinstance(step, int) and isinstance(value, list) and 0 <= step < len(value):
            value = value[step]
            kept.append(step)
        elif kind == "missing" and index == len(loc) - 1:
            kept.append(step)
    return tuple(kept)


def _written(place: Sequence[int | str]) -> str:
    text = ""
    for step in place:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text if len(text) <= 120 else f"{text[:100]}..."
